"""Moments as text: UTC, ISO 8601, always the same width, so that the order of the texts is the order in time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime


def to_text(moment: datetime) -> str:
    """Return an aware moment as text in UTC.

    >>> to_text(datetime(2026, 11, 23, 18, 4, 5, tzinfo=UTC))
    '2026-11-23T18:04:05.000000Z'
    """
    # Not strftime: on Linux it gives the year 33 two digits, and the order of the texts would be another.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def from_text(text: str, localize: Callable[[datetime], datetime] | None = None) -> datetime:
    """Return the aware moment that an ISO 8601 text means.

    localize  what gives a moment without a zone its zone; None: it is taken as UTC

    Raises ValueError for what is no moment, also for one that has no place in UTC.
    """
    moment = datetime.fromisoformat(text)
    try:
        if moment.tzinfo is None:
            moment = localize(moment) if localize else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"no such moment: {text}") from error


def normal(text: object, localize: Callable[[datetime], datetime] | None = None) -> str | None:
    """Return a moment in our one form, None for what cannot be read as one."""
    if not isinstance(text, str):
        return None
    try:
        return to_text(from_text(text, localize))
    except ValueError:
        return None

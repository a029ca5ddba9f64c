"""Usage: counts, rates and times of a model, kept as sums so that adding a record costs the same after a million.

Figures stand under the installation that made them and the digest of the model that earned them:

    {installation id: {digest, or "" where it was not known: Usage}}

so that two histories meet without counting anything twice, and re-pointing a name does not mix two models.
The seed's fields of a model (usage_count, success_rate, avg_inference_time, last_used) are the sum over all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from model_core.errors import InvalidRequest
from model_core.records import LONGEST_INFERENCE_S, History, Record, StoredModel, Usage

NS_PER_S = 1_000_000_000


class Event(Record):
    """One inference, checked: ``duration_ns`` is None for a use without a time, ``at`` is in the form of times.py."""

    success: bool
    at: str
    duration_ns: int | None = None


class Statistics(Record):
    """What is on record of one model, ready to be shown; times in seconds, None where nothing is known."""

    name: str
    installed: bool
    usage_count: int
    success_count: int
    failure_count: int
    success_rate: float | None
    avg_inference_time: float | None
    min_inference_time: float | None
    max_inference_time: float | None
    first_used: str | None
    last_used: str | None


def check_event(inference_time: Any, success: Any, at: str) -> Event:
    """Return the event if its values are acceptable.

    inference_time  seconds, 0 ≤ t ≤ 86,400; 0 and None mean that no time was taken

    Raises InvalidRequest naming the field. A boolean is no time, and a number is no success.
    """
    if not isinstance(success, bool):
        raise InvalidRequest("success", "must be true or false")
    return Event(success=success, at=at, duration_ns=_nanoseconds(inference_time))


def _nanoseconds(seconds: Any) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidRequest("inference_time", "must be a number of seconds")
    # NaN compares false with everything, so the test is for what is allowed.
    if not 0 <= seconds <= LONGEST_INFERENCE_S:
        raise InvalidRequest("inference_time", f"must be between 0 and {LONGEST_INFERENCE_S} seconds")
    return round(seconds * NS_PER_S) or None


def add_event(usage: Usage, event: Event) -> Usage:
    """Return the usage with one event more. The time of a failure is not counted: it would spoil the mean."""
    duration_ns = event.duration_ns if event.success else None
    return add(
        usage,
        Usage(
            count=1,
            success_count=int(event.success),
            timed_count=int(duration_ns is not None),
            total_ns=duration_ns or 0,
            min_ns=duration_ns,
            max_ns=duration_ns,
            first_used=event.at,
            last_used=event.at,
        ),
    )


def add(one: Usage, other: Usage) -> Usage:
    """Return both together. Exact and the same in any order: the sums are integers."""
    return one.model_copy(
        update={
            "count": one.count + other.count,
            "success_count": one.success_count + other.success_count,
            "timed_count": one.timed_count + other.timed_count,
            "total_ns": one.total_ns + other.total_ns,
            "min_ns": _of_known(min, one.min_ns, other.min_ns),
            "max_ns": _of_known(max, one.max_ns, other.max_ns),
            "first_used": _of_known(min, one.first_used, other.first_used),
            "last_used": _of_known(max, one.last_used, other.last_used),
        }
    )


def _of_known(choose: Any, one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)


def total(parts: Iterable[Usage]) -> Usage:
    """Return the sum of all parts."""
    result = Usage()
    for part in parts:
        result = add(result, part)
    return result


def whole(history: History) -> Usage:
    """Return the sum over every installation and digest."""
    return total(usage for by_digest in history.values() for usage in by_digest.values())


def record(model: StoredModel, installation: str, digest: str | None, event: Event) -> StoredModel:
    """Return the model with one event more under this installation and digest, its seed fields brought up to date."""
    by_digest = model.history.get(installation, {})
    usage = add_event(by_digest.get(digest or "", Usage()), event)
    return with_history(model, {**model.history, installation: {**by_digest, digest or "": usage}})


def with_history(model: StoredModel, history: History) -> StoredModel:
    """Return the model with this history, and the seed's fields that follow from it."""
    sums = whole(history)
    return model.model_copy(
        update={
            "history": history,
            "usage_count": sums.count,
            "success_rate": success_rate(sums),
            "avg_inference_time": mean_s(sums),
            "last_used": sums.last_used,
        }
    )


def success_rate(usage: Usage) -> float | None:
    """Return successes ÷ uses, None before the first use."""
    return usage.success_count / usage.count if usage.count else None


def mean_s(usage: Usage) -> float | None:
    """Return the mean time of the successes that carried one, in seconds; None where none did."""
    return usage.total_ns / (usage.timed_count * NS_PER_S) if usage.timed_count else None


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NS_PER_S


def merge(mine: History, theirs: History) -> History:
    """Return both histories as one, nothing twice; the same whichever is named first, and however often.

    What stands under the same installation and digest is the same record at two moments, since only that installation
    writes there: the one that has seen more is the later one, and stands for both.
    """
    merged = {installation: dict(by_digest) for installation, by_digest in mine.items()}
    for installation, by_digest in theirs.items():
        known = merged.setdefault(installation, {})
        for digest, usage in by_digest.items():
            known[digest] = _later(known[digest], usage) if digest in known else usage
    return merged


def _later(one: Usage, other: Usage) -> Usage:
    if one.count != other.count:
        return one if one.count > other.count else other
    # Two that differ at the same count cannot both be true. Which one is kept must not depend on who asks.
    return max(one, other, key=Usage.model_dump_json)


def joined(one: History, other: History) -> History:
    """Return the sum of two histories that have no event in common, such as those of two names of one model."""
    sums = {installation: dict(by_digest) for installation, by_digest in one.items()}
    for installation, by_digest in other.items():
        known = sums.setdefault(installation, {})
        for digest, usage in by_digest.items():
            known[digest] = add(known[digest], usage) if digest in known else usage
    return sums


def from_seed(
    usage_count: int, success_rate: float | None, avg_inference_time: float | None, last_used: str | None
) -> Usage:
    """Return what the seed's own figures mean as sums: successes = round(rate × count), total = mean × successes.

    A rate that is not there counts every use as a success; the seed wrote none only before the first use.
    """
    successes = usage_count if success_rate is None else round(success_rate * usage_count)
    mean_ns = None if avg_inference_time is None else round(avg_inference_time * NS_PER_S)
    # The seed averaged over successes; where its rate says that there were none, the mean came from somewhere.
    timed = (successes or usage_count) if mean_ns is not None else 0
    return Usage(
        count=usage_count,
        success_count=successes,
        timed_count=timed,
        total_ns=timed * (mean_ns or 0),
        min_ns=None,
        max_ns=None,
        first_used=None,
        last_used=last_used,
    )


def statistics(model: StoredModel, *, installed: bool) -> Statistics:
    """Return the figures of one model as they are shown."""
    sums = whole(model.history)
    return Statistics(
        name=model.name,
        installed=installed,
        usage_count=sums.count,
        success_count=sums.success_count,
        failure_count=sums.count - sums.success_count,
        success_rate=success_rate(sums),
        avg_inference_time=mean_s(sums),
        min_inference_time=_seconds(sums.min_ns),
        max_inference_time=_seconds(sums.max_ns),
        first_used=sums.first_used,
        last_used=sums.last_used,
    )

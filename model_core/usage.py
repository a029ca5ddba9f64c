"""Usage: counts, rates and times of a model, kept as sums so that adding a record costs the same after a million.

Figures stand under the installation that made them and the digest of the model that earned them:

    {installation id: {digest, or "" where it was not known: Usage}}

so that two histories meet without counting anything twice, and re-pointing a name does not mix two models.
The seed's fields of a model (usage_count, success_rate, avg_inference_time, last_used) are the sum over all of it.

How times, speeds and ratings lie is counted by bucket; what was done on a day, and for a task, in the same sums as the
whole. Of days the newest 90 on which there was any use are kept, whatever today is: so the result is the same in which
order ever histories meet, and a clock that was once wrong takes one place and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from functools import reduce
from typing import Any

from model_core.counts import Counts
from model_core.errors import InvalidRequest
from model_core.histogram import bucket_of, percentile
from model_core.records import (
    BEST_QUALITY,
    LONGEST_INFERENCE_S,
    MOST_TOKENS,
    History,
    Record,
    StoredModel,
    Usage,
)

NS_PER_S = 1_000_000_000
SPEED_UNIT = 1_000_000  # speeds are counted in millionths of a token a second: the slowest there can be is 11 of them
MOST_TOKENS_PER_S = 1_000_000  # a guess, some thousand times what one card does
MOST_TASKS, OTHER = 50, "other"
LONGEST_TASK = 64
DAYS = 90


class Event(Record):
    """One inference, checked: ``duration_ns`` is None for a use without a time, ``at`` is in the form of times.py."""

    success: bool
    at: str
    duration_ns: int | None = None
    tokens: int | None = None
    quality_thousandths: int | None = None
    task: str | None = None

    @property
    def counted_ns(self) -> int | None:
        """The time that is counted: that of a success."""
        return self.duration_ns if self.success else None


class Figures(Record):
    """What is shown of a part, such as one task; None where nothing is known."""

    usage_count: int
    success_count: int
    success_rate: float | None
    avg_inference_time: float | None
    tokens_per_second: float | None
    avg_quality_score: float | None
    quality_count: int


class Day(Figures):
    """What is shown of one day in UTC."""

    date: str


class Statistics(Record):
    """What is on record of one model, ready to be shown; times in seconds, None where nothing is known.

    p50, p95, p99      the times within which 50, 95 and 99 of 100 successes were done, within 1 %
    quantile_count     how many times these rest on; what was recorded before times were kept so is not among them
    tokens_per_second  tokens ÷ time of the speed_count successes that told both
    by_task            at most 50, those with the most uses; the rest is under "other"
    by_day             the last 90 days in UTC, the newest last; only those on which it was used
    """

    name: str
    installed: bool
    usage_count: int
    success_count: int
    failure_count: int
    success_rate: float | None
    avg_inference_time: float | None
    min_inference_time: float | None
    max_inference_time: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    quantile_count: int
    tokens_per_second: float | None
    speed_count: int
    avg_quality_score: float | None
    quality_count: int
    first_used: str | None
    last_used: str | None
    by_task: dict[str, Figures]
    by_day: tuple[Day, ...]


# --- one event -------------------------------------------------------------------------------------------------------


def check_event(
    inference_time: Any, success: Any, at: str, *, tokens: Any = None, quality_score: Any = None, task: Any = None
) -> Event:
    """Return the event if its values are acceptable.

    inference_time  seconds, 0 ≤ t ≤ 86,400; 0 and None mean that no time was taken
    tokens          of the answer, 0 to 10,000,000; 0 and None mean that nobody counted
    quality_score   0 to 5, kept to the thousandth; 0 is a rating like any other
    task            what it was for, 1 to 64 characters; blanks around it, and more than one between words, do not count

    Raises InvalidRequest naming the field. A boolean is no number, and a number is no success.
    """
    if not isinstance(success, bool):
        raise InvalidRequest("success", "must be true or false")
    duration_ns = _nanoseconds(inference_time)
    return Event(
        success=success,
        at=at,
        duration_ns=duration_ns,
        tokens=_tokens(tokens, duration_ns),
        quality_thousandths=_thousandths(quality_score),
        task=_task(task),
    )


def _nanoseconds(seconds: Any) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidRequest("inference_time", "must be a number of seconds")
    # NaN compares false with everything, so the test is for what is allowed.
    if not 0 <= seconds <= LONGEST_INFERENCE_S:
        raise InvalidRequest("inference_time", f"must be between 0 and {LONGEST_INFERENCE_S} seconds")
    return round(seconds * NS_PER_S) or None


def _tokens(tokens: Any, duration_ns: int | None) -> int | None:
    if tokens is None:
        return None
    if isinstance(tokens, bool) or not isinstance(tokens, int):
        raise InvalidRequest("tokens", "must be a whole number")
    if not 0 <= tokens <= MOST_TOKENS:
        raise InvalidRequest("tokens", f"must be between 0 and {MOST_TOKENS:,}")
    if duration_ns and tokens * NS_PER_S > MOST_TOKENS_PER_S * duration_ns:
        raise InvalidRequest(
            "tokens",
            f"would be more than {MOST_TOKENS_PER_S:,} a second",
            "Give the time of the answer in seconds, and the tokens of that answer.",
        )
    return tokens or None


def _thousandths(quality_score: Any) -> int | None:
    if quality_score is None:
        return None
    if isinstance(quality_score, bool) or not isinstance(quality_score, int | float):
        raise InvalidRequest("quality_score", "must be a number")
    if not 0 <= quality_score <= BEST_QUALITY:
        raise InvalidRequest("quality_score", f"must be between 0 and {BEST_QUALITY}")
    return round(quality_score * 1000)


def _task(task: Any) -> str | None:
    if task is None:
        return None
    if not isinstance(task, str):
        raise InvalidRequest("task", "must be a text")
    # Not strip() alone: a tab, or the wide blank of a Japanese keyboard, would not pass for printable.
    words = " ".join(task.split())
    if not 1 <= len(words) <= LONGEST_TASK:
        raise InvalidRequest("task", f"must have 1 to {LONGEST_TASK} characters")
    if not words.isprintable():
        raise InvalidRequest("task", "must have only characters that can be printed")
    return words


# --- adding up -------------------------------------------------------------------------------------------------------

# What only ever adds up: of a Usage, and of each task and day in it.
_SUMMED = (
    *("count", "success_count", "timed_count", "total_ns"),
    *("token_count", "token_ns", "quality_count", "quality_thousandths"),
)
_NONE = Usage()


def record(model: StoredModel, installation: str, digest: str | None, event: Event) -> StoredModel:
    """Return the model with one event more under this installation and digest, its seed fields brought up to date."""
    own = model.history.get(installation, {})
    usage = _with_event(own.get(digest or "", _NONE), event, _counted_as(event.task, own))
    return with_history(model, {**model.history, installation: {**own, digest or "": usage}})


def _counted_as(task: str | None, own: Mapping[str, Usage]) -> str | None:
    """Return the name under which a task is counted: its own, as long as this installation has not too many."""
    if task is None or any(task in usage.by_task for usage in own.values()):
        return task
    known = {name for usage in own.values() for name in usage.by_task if name != OTHER}
    return task if len(known) < MOST_TASKS else OTHER


def _with_event(usage: Usage, event: Event, task: str | None) -> Usage:
    sums = _sums_of(event)
    tally = Counts(sums)
    return usage.with_fields(
        {
            **{name: getattr(usage, name) + number for name, number in sums.items()},
            **_spread(usage, event),
            "first_used": _of_known(min, usage.first_used, event.at),
            "last_used": _of_known(max, usage.last_used, event.at),
            "by_task": usage.by_task if task is None else _together(usage.by_task, {task: tally}),
            "by_day": _newest(_together(usage.by_day, {event.at[:10]: tally})),
        }
    )


def _sums_of(event: Event) -> dict[str, int]:
    """Return what one event adds to the sums.

    The time of a failure is not counted, nor are its tokens: they would spoil the mean. Its rating is, since who rates
    a failure means it.
    """
    sums = {"count": 1}
    if event.success:
        sums["success_count"] = 1
    if duration_ns := event.counted_ns:
        sums |= {"timed_count": 1, "total_ns": duration_ns}
        if event.tokens:
            sums |= {"token_count": event.tokens, "token_ns": duration_ns}
    if event.quality_thousandths is not None:
        sums |= {"quality_count": 1, "quality_thousandths": event.quality_thousandths}
    return sums


def _spread(usage: Usage, event: Event) -> dict[str, Any]:
    """Return the fields that say how single values lie, with those of the event."""
    fields: dict[str, Any] = {}
    if duration_ns := event.counted_ns:
        fields["min_ns"] = _of_known(min, usage.min_ns, duration_ns)
        fields["max_ns"] = _of_known(max, usage.max_ns, duration_ns)
        fields["durations"] = usage.durations.plus_one(bucket_of(duration_ns))
        if event.tokens:
            speed = event.tokens * SPEED_UNIT * NS_PER_S // duration_ns
            fields["speeds"] = usage.speeds.plus_one(bucket_of(speed))
    if event.quality_thousandths is not None:
        fields["qualities"] = usage.qualities.plus_one((event.quality_thousandths + 50) // 100)
    return fields


def add(one: Usage, other: Usage) -> Usage:
    """Return both together. Exact and the same in any order: everything in it is a sum, a least or a greatest."""
    return one.with_fields(
        {
            **{name: getattr(one, name) + getattr(other, name) for name in _SUMMED},
            "min_ns": _of_known(min, one.min_ns, other.min_ns),
            "max_ns": _of_known(max, one.max_ns, other.max_ns),
            "first_used": _of_known(min, one.first_used, other.first_used),
            "last_used": _of_known(max, one.last_used, other.last_used),
            "durations": one.durations + other.durations,
            "speeds": one.speeds + other.speeds,
            "qualities": one.qualities + other.qualities,
            "by_task": _together(one.by_task, other.by_task),
            "by_day": _newest(_together(one.by_day, other.by_day)),
        }
    )


def _of_known(choose: Any, one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)


def _together(one: Mapping[str, Counts[str]], other: Mapping[str, Counts[str]]) -> dict[str, Counts[str]]:
    both = dict(one)
    for name, tally in other.items():
        known = both.get(name)
        both[name] = known + tally if known else tally
    return both


def _newest(by_day: dict[str, Counts[str]]) -> dict[str, Counts[str]]:
    return by_day if len(by_day) <= DAYS else dict(sorted(by_day.items())[-DAYS:])


def total(parts: Iterable[Usage]) -> Usage:
    """Return the plain sums of all parts, and nothing else; how times lie, tasks and days are left to whole()."""
    known = list(parts)
    return _NONE.with_fields({name: sum(getattr(part, name) for part in known) for name in _SUMMED})


def whole(history: History) -> Usage:
    """Return the sum over every installation and digest."""
    parts = _parts(history)
    return reduce(add, parts) if parts else _NONE


def _parts(history: History) -> list[Usage]:
    return [usage for by_digest in history.values() for usage in by_digest.values()]


def with_history(model: StoredModel, history: History) -> StoredModel:
    """Return the model with this history, and the seed's fields that follow from it."""
    count = success_count = timed_count = total_ns = 0
    last_used: str | None = None
    # Not by total(), which sums up more: every record pays for this.
    for usage in _parts(history):
        count += usage.count
        success_count += usage.success_count
        timed_count += usage.timed_count
        total_ns += usage.total_ns
        last_used = _of_known(max, last_used, usage.last_used)
    return model.with_fields(
        {
            "history": history,
            "usage_count": count,
            "success_rate": _quotient(success_count, count),
            "avg_inference_time": _quotient(total_ns, timed_count * NS_PER_S),
            "last_used": last_used,
        }
    )


def _quotient(amount: int, count: int) -> float | None:
    return amount / count if count else None


def success_rate(usage: Usage) -> float | None:
    """Return successes ÷ uses, None before the first use."""
    return _quotient(usage.success_count, usage.count)


def mean_s(usage: Usage) -> float | None:
    """Return the mean time of the successes that carried one, in seconds; None where none did."""
    return _quotient(usage.total_ns, usage.timed_count * NS_PER_S)


def tokens_per_second(usage: Usage) -> float | None:
    """Return tokens ÷ time of the successes that told both, None where none did."""
    return _quotient(usage.token_count * NS_PER_S, usage.token_ns)


def mean_quality(usage: Usage) -> float | None:
    """Return the mean rating, None where nothing was rated."""
    return _quotient(usage.quality_thousandths, usage.quality_count * 1000)


# --- putting histories together --------------------------------------------------------------------------------------


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


# --- what is shown ---------------------------------------------------------------------------------------------------


def statistics(model: StoredModel, *, installed: bool, today: str) -> Statistics:
    """Return the figures of one model as they are shown; today, in UTC, as 2026-11-27."""
    usage = whole(model.history)
    return Statistics(
        name=model.name,
        installed=installed,
        **_figures(usage),
        failure_count=usage.count - usage.success_count,
        min_inference_time=_seconds(usage.min_ns),
        max_inference_time=_seconds(usage.max_ns),
        **{f"p{percent}": quantile_s(usage, percent) for percent in (50, 95, 99)},
        quantile_count=usage.durations.total(),
        speed_count=usage.speeds.total(),
        first_used=usage.first_used,
        last_used=usage.last_used,
        by_task=_tasks(usage),
        by_day=_days(usage, today),
    )


def quantile_s(usage: Usage, percent: int) -> float | None:
    """Return the time within which so many of 100 timed successes were done, in seconds; None where none was timed."""
    value = percentile(usage.durations, percent)
    if value is not None and usage.min_ns is not None and usage.max_ns is not None:
        value = min(max(value, usage.min_ns), usage.max_ns)
    return _seconds(value)


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NS_PER_S


def _figures(usage: Usage) -> dict[str, Any]:
    return {
        "usage_count": usage.count,
        "success_count": usage.success_count,
        "success_rate": success_rate(usage),
        "avg_inference_time": mean_s(usage),
        "tokens_per_second": tokens_per_second(usage),
        "avg_quality_score": mean_quality(usage),
        "quality_count": usage.quality_count,
    }


def _tasks(usage: Usage) -> dict[str, Figures]:
    """Return the tasks with the most uses, and the rest as one: each installation keeps 50, together they are more."""
    ranked = sorted(usage.by_task.items(), key=lambda task: (task[0] == OTHER, -task[1]["count"], task[0]))
    shown = dict(ranked[:MOST_TASKS])
    for _, counts in ranked[MOST_TASKS:]:
        shown = _together(shown, {OTHER: counts})
    return {name: Figures(**_figures(_NONE.with_fields(counts.numbers))) for name, counts in shown.items()}


def _days(usage: Usage, today: str) -> tuple[Day, ...]:
    first = (date.fromisoformat(today) - timedelta(days=DAYS - 1)).isoformat()
    days = sorted(day for day in usage.by_day if first <= day <= today)
    return tuple(Day(date=day, **_figures(_NONE.with_fields(usage.by_day[day].numbers))) for day in days)

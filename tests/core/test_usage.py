"""What is counted is counted exactly and once, however it is split up, carried about and put together again."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model_core import usage
from model_core.counts import Counts
from model_core.document import DocumentCodec
from model_core.errors import InvalidRequest
from model_core.histogram import MOST_BUCKETS, bucket_of
from model_core.records import MOST_TOKENS, MOST_USES, Document, StoredModel, Usage
from model_core.usage import (
    DAYS,
    LONGEST_TASK,
    MOST_TASKS,
    MOST_TOKENS_PER_S,
    OTHER,
    SPEED_UNIT,
    Event,
    check_event,
    from_seed,
    merge,
    record,
    whole,
)

TODAY = "2026-11-23"
HOUR = [f"{TODAY}T{hour:02}:00:00.000000Z" for hour in range(24)]
NS = 10**9


def days_ago(number):
    return (date.fromisoformat(TODAY) - timedelta(days=number)).isoformat()


def on(number_of_days_ago):
    return f"{days_ago(number_of_days_ago)}T12:00:00.000000Z"


events = st.builds(
    Event,
    success=st.booleans(),
    at=st.sampled_from(HOUR) | st.integers(-1, 100).map(on),
    duration_ns=st.none() | st.integers(NS, 5 * NS) | st.integers(1000 * NS, 86_400 * NS),
    tokens=st.none() | st.integers(1, 500),
    quality_thousandths=st.none() | st.integers(0, 5000),
    task=st.none() | st.sampled_from(["tags", "rating", "critique", OTHER]),
)


def statistics(model, *, installed=True, today=TODAY):
    return usage.statistics(model, installed=installed, today=today)


def recorded(*happened, installation="here", digest=None, model=None):
    model = model or StoredModel(name="m")
    for event in happened:
        model = record(model, installation, digest, event)
    return model


def event(seconds=None, success=True, at=HOUR[0], **told):
    return check_event(seconds, success, at, **told)


# --- one event -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1, 0.25, 1e-9, 86_400, 86_400.0])
def test_a_time_is_kept_to_the_nanosecond(seconds):
    assert check_event(seconds, True, HOUR[0]).duration_ns == round(Fraction(seconds) * NS)


@pytest.mark.parametrize("seconds", [0, 0.0, -0.0, None])
def test_time_zero_is_a_use_without_a_time(seconds):
    model = recorded(event(seconds), event(2.0))

    shown = statistics(model, installed=True)
    assert (shown.usage_count, shown.success_count) == (2, 2)
    assert (shown.avg_inference_time, shown.min_inference_time) == (2.0, 2.0)


@pytest.mark.parametrize(
    "seconds",
    [-1, -1e-9, 86_400.001, 10**400, math.nan, math.inf, -math.inf, True, False, "1", "", b"1", [1], {}, 1j, object()],
    ids=lambda value: repr(value)[:20],
)
def test_an_impossible_time_is_refused_and_named(seconds):
    with pytest.raises(InvalidRequest) as refusal:
        check_event(seconds, True, HOUR[0])

    assert refusal.value.field == "inference_time"


@pytest.mark.parametrize("success", [1, 0, None, "true", [], 1.0])
def test_only_true_and_false_say_whether_it_worked(success):
    with pytest.raises(InvalidRequest) as refusal:
        check_event(1.0, success, HOUR[0])

    assert refusal.value.field == "success"


NO_NUMBERS = [True, False, "1", "", b"1", [1], {}, 1j, object()]
NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("tokens", value) for value in (*NO_NUMBERS, *NOT_FINITE, -1, 1.0, 1.5, MOST_TOKENS + 1, 10**400)),
        *(("quality_score", value) for value in (*NO_NUMBERS, *NOT_FINITE, -0.001, 5.001, 10**400)),
        *(
            ("task", value)
            for value in (7, True, b"tags", ["tags"], "", " ", "\u3000", "x" * 65, "a\x00b", "a\ud800", "\u200b")
        ),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_an_impossible_figure_is_refused_and_named(field, value):
    with pytest.raises(InvalidRequest) as refusal:
        event(1.0, **{field: value})

    assert refusal.value.field == field
    assert len(str(refusal.value)) < 200


def test_more_tokens_than_any_model_writes_in_the_time_are_refused():
    assert event(1.0, tokens=MOST_TOKENS_PER_S).tokens == MOST_TOKENS_PER_S
    assert event(None, tokens=MOST_TOKENS).tokens == MOST_TOKENS
    with pytest.raises(InvalidRequest) as refusal:
        event(1.0, tokens=MOST_TOKENS_PER_S + 1)

    assert refusal.value.field == "tokens"


def test_no_tokens_were_not_counted_and_no_points_are_a_rating():
    shown = statistics(recorded(event(1.0, tokens=0, quality_score=0)))

    assert (shown.tokens_per_second, shown.speed_count) == (None, 0)
    assert (shown.avg_quality_score, shown.quality_count) == (0.0, 1)


@pytest.mark.parametrize("said", ["tags and title", " tags and\ttitle\n", "tags\u3000and  title"])
def test_blanks_make_no_other_task(said):
    assert event(task=said).task == "tags and title"


@pytest.mark.parametrize("name", ["x" * LONGEST_TASK, "選別", "Bewertung: ¾", "5"])
def test_a_task_has_a_name_in_any_script(name):
    assert list(statistics(recorded(event(task=name))).by_task) == [name]


# --- the figures of one model ----------------------------------------------------------------------------------------


def test_a_model_that_was_never_used_has_no_rate_and_no_times():
    shown = statistics(StoredModel(name="m"), installed=False)

    assert (shown.usage_count, shown.success_count, shown.failure_count) == (0, 0, 0)
    assert (shown.success_rate, shown.avg_inference_time, shown.first_used, shown.last_used) == (None,) * 4


def test_the_time_of_a_failure_does_not_spoil_the_mean():
    shown = statistics(recorded(event(1.0), event(120.0, success=False), event(3.0)), installed=True)

    assert shown.avg_inference_time == 2.0
    assert (shown.min_inference_time, shown.max_inference_time) == (1.0, 3.0)
    assert (shown.success_count, shown.failure_count) == (2, 1)


def test_failures_alone_have_a_rate_of_zero_and_no_mean():
    shown = statistics(recorded(event(5.0, success=False)), installed=True)

    assert (shown.success_rate, shown.avg_inference_time, shown.max_inference_time) == (0.0, None, None)


def test_the_rate_is_the_very_quotient_of_successes_and_uses():
    model = recorded(*[event(1.0, success=number % 3 != 0) for number in range(3_000)])

    assert model.success_rate == 2 / 3


def test_first_and_last_use_do_not_depend_on_the_order_of_the_records():
    shown = statistics(
        recorded(event(at=HOUR[5]), event(at=HOUR[2]), event(at=HOUR[9]), event(at=HOUR[3])), installed=True
    )

    assert (shown.first_used, shown.last_used) == (HOUR[2], HOUR[9])


@given(st.lists(events, max_size=30))
def test_every_figure_is_what_counting_the_events_gives(happened):
    model = recorded(*happened)
    shown = statistics(model, installed=True)

    times = [e.duration_ns for e in happened if e.success and e.duration_ns]
    worked = sum(e.success for e in happened)
    assert (shown.usage_count, shown.success_count, shown.failure_count) == (
        len(happened),
        worked,
        len(happened) - worked,
    )
    assert shown.success_rate == (worked / len(happened) if happened else None)
    assert shown.quantile_count == len(times)
    for percent, value in ((50, shown.p50), (95, shown.p95), (99, shown.p99)):
        true = sorted(times)[math.ceil(Fraction(percent * len(times), 100)) - 1] / NS if times else None
        assert value == pytest.approx(true, rel=0.010001) if times else value is None
    assert shown.avg_inference_time == (float(Fraction(sum(times), len(times)) / NS) if times else None)
    assert shown.min_inference_time == (min(times) / NS if times else None)
    assert shown.max_inference_time == (max(times) / NS if times else None)
    assert shown.first_used == min((e.at for e in happened), default=None)
    assert shown.last_used == max((e.at for e in happened), default=None)
    assert_figures(shown, happened)


def assert_figures(shown, happened):
    """The figures that a model, a task and a day have in common."""
    written = [(e.tokens, e.duration_ns) for e in happened if e.success and e.duration_ns and e.tokens]
    rated = [e.quality_thousandths for e in happened if e.quality_thousandths is not None]
    times = [e.duration_ns for e in happened if e.success and e.duration_ns]
    assert (shown.usage_count, shown.success_count) == (len(happened), sum(e.success for e in happened))
    assert shown.avg_inference_time == (float(Fraction(sum(times), len(times)) / NS) if times else None)
    speed = Fraction(sum(tokens for tokens, _ in written), sum(ns for _, ns in written)) * NS if written else None
    assert shown.tokens_per_second == (pytest.approx(float(speed), rel=1e-12) if written else None)
    assert shown.quality_count == len(rated)
    assert shown.avg_quality_score == (float(Fraction(sum(rated), len(rated) * 1000)) if rated else None)


@given(st.lists(events, max_size=30))
def test_a_task_and_a_day_have_the_figures_of_their_events(happened):
    shown = statistics(recorded(*happened))

    by_task, by_day = defaultdict(list), defaultdict(list)
    for one in happened:
        by_day[one.at[:10]].append(one)
        if one.task:
            by_task[one.task].append(one)
    assert shown.by_task.keys() == by_task.keys()
    for task, figures in shown.by_task.items():
        assert_figures(figures, by_task[task])
    assert [day.date for day in shown.by_day] == sorted(day for day in by_day if days_ago(DAYS - 1) <= day <= TODAY)
    for day in shown.by_day:
        assert_figures(day, by_day[day.date])


def test_a_quantile_of_few_times_is_one_of_them():
    shown = statistics(recorded(event(1.4)))
    assert (shown.p50, shown.p95, shown.p99) == (1.4, 1.4, 1.4)

    shown = statistics(recorded(event(1.4), event(1.4), event(9.0)))
    assert (shown.p50, shown.p99) == (pytest.approx(1.4, rel=0.01), 9.0)


def test_tokens_count_only_with_the_time_of_a_success():
    shown = statistics(
        recorded(event(2.0, tokens=100), event(None, tokens=500), event(2.0), event(2.0, success=False, tokens=900))
    )

    assert (shown.tokens_per_second, shown.speed_count) == (50.0, 1)


def test_who_rates_a_failure_means_it():
    shown = statistics(recorded(event(1.0, quality_score=5), event(1.0, success=False, quality_score=1)))

    assert (shown.avg_quality_score, shown.quality_count) == (3.0, 2)


@pytest.mark.parametrize(("tokens", "seconds"), [(1, 86_400), (50, 1.0), (MOST_TOKENS, 10), (1, 1e-6)])
def test_the_slowest_and_the_fastest_speed_have_their_bucket(tokens, seconds):
    (bucket,) = whole(recorded(event(seconds, tokens=tokens)).history).speeds.numbers

    assert bucket == pytest.approx(tokens / seconds * SPEED_UNIT, rel=0.1)


@pytest.mark.parametrize(
    ("score", "tenth"), [(0, 0), (0.049, 0), (0.05, 1), (3.25, 33), (4.94, 49), (4.95, 50), (5, 50)]
)
def test_a_rating_is_counted_by_the_nearest_tenth_of_a_point(score, tenth):
    assert whole(recorded(event(quality_score=score)).history).qualities == Counts({tenth: 1})


# --- tasks and days --------------------------------------------------------------------------------------------------


def with_tasks(number, first=0, **how):
    return recorded(*[event(1.0, task=f"task {first + place:02}") for place in range(number)], **how)


def test_the_fifty_first_task_of_a_model_is_counted_under_other():
    model = recorded(event(2.0, task="one too many"), event(1.0, task="task 07"), model=with_tasks(MOST_TASKS))

    shown = statistics(model)
    assert "one too many" not in shown.by_task
    assert (shown.by_task[OTHER].usage_count, shown.by_task[OTHER].avg_inference_time) == (1, 2.0)
    assert shown.by_task["task 07"].usage_count == 2
    assert len(shown.by_task) == MOST_TASKS + 1


def test_the_tasks_of_a_model_are_the_same_for_all_its_forms():
    model = with_tasks(MOST_TASKS, digest="4bit")

    model = recorded(event(task="task 07"), event(task="one too many"), digest="8bit", model=model)

    assert set(model.history["here"]["8bit"].by_task) == {"task 07", OTHER}


def test_other_is_no_task_of_its_own():
    model = with_tasks(MOST_TASKS, model=recorded(event(task=OTHER)))

    assert len(statistics(model).by_task) == MOST_TASKS + 1


def test_the_tasks_of_other_installations_take_none_of_our_places():
    model = with_tasks(MOST_TASKS, installation="there")

    model = recorded(event(task="mine"), model=model)

    assert set(model.history["here"][""].by_task) == {"mine"}


def test_of_the_tasks_of_two_installations_those_with_the_most_uses_are_shown():
    here, there = with_tasks(MOST_TASKS), with_tasks(MOST_TASKS, first=40, installation="there")
    model = usage.with_history(here, merge(here.history, there.history))

    shown = statistics(model).by_task
    # Ten have two uses; of those with one, the first by name.
    expected = [*(f"task {place}" for place in range(40, 50)), *(f"task {place:02}" for place in range(40)), OTHER]
    assert list(shown) == expected
    assert shown[OTHER].usage_count == 40
    assert sum(figures.usage_count for figures in shown.values()) == 2 * MOST_TASKS
    assert len(whole(model.history).by_task) == 90


def test_the_newest_days_of_use_are_kept_however_long_ago_they_are():
    model = recorded(*[event(1.0, at=on(3 * number)) for number in range(DAYS + 10)])

    kept = whole(model.history).by_day
    assert set(kept) == {days_ago(3 * number) for number in range(DAYS)}
    assert statistics(model).usage_count == DAYS + 10


def test_shown_are_the_last_ninety_days_as_of_today():
    model = recorded(*[event(at=on(number)) for number in (-1, 0, 1, DAYS - 1, DAYS)])

    assert [day.date for day in statistics(model).by_day] == [days_ago(DAYS - 1), days_ago(1), TODAY]
    assert [day.date for day in statistics(model, today=days_ago(-1)).by_day] == [days_ago(1), TODAY, days_ago(-1)]


def test_a_clock_that_was_wrong_once_takes_one_place():
    wrong = event(at="2091-01-01T12:00:00.000000Z")

    model = recorded(wrong, *[event(at=on(number)) for number in reversed(range(DAYS))])

    assert len(statistics(model).by_day) == DAYS - 1
    assert len(whole(model.history).by_day) == DAYS


@st.composite
def used_days(draw):
    """The days of one history: as many as are kept, or fewer, every day or every other, now or long ago."""
    first, step, number = draw(st.tuples(st.integers(0, 200), st.integers(1, 3), st.integers(0, DAYS)))
    return {days_ago(first + step * place): 1 + place % 7 for place in range(number)}


@given(st.lists(used_days(), min_size=1, max_size=5), st.randoms())
def test_in_which_order_histories_meet_does_not_change_which_days_are_kept(parts, chance):
    everything = defaultdict(int)
    for part in parts:
        for day, count in part.items():
            everything[day] += count
    heaps = [Usage(by_day={day: Counts({"count": count}) for day, count in part.items()}) for part in parts]
    while len(heaps) > 1:
        one, other = (heaps.pop(chance.randrange(len(heaps))) for _ in range(2))
        heaps.append(usage.add(one, other))

    kept = {day: tally["count"] for day, tally in heaps[0].by_day.items()}
    assert kept == dict(sorted(everything.items())[-DAYS:])


# --- the rest of a model's record ------------------------------------------------------------------------------------


def test_statistics_have_every_key_that_callers_of_the_seed_read():
    shown = statistics(recorded(event(1.0)), installed=True).model_dump()

    assert {"name", "usage_count", "last_used", "avg_inference_time", "success_rate", "installed"} <= set(shown)
    assert (shown["name"], shown["installed"]) == ("m", True)


@given(st.lists(st.tuples(events, st.sampled_from(["", "4bit"])), min_size=1, max_size=10))
def test_the_fields_of_the_seed_say_the_same_as_the_statistics(happened):
    model = StoredModel(name="m")
    for one, digest in happened:
        model = record(model, "here", digest, one)
    shown = statistics(model, installed=True)

    assert model.usage_count == shown.usage_count
    assert model.success_rate == shown.success_rate
    assert model.avg_inference_time == shown.avg_inference_time
    assert model.last_used == shown.last_used


def test_two_forms_of_a_model_keep_their_histories_apart():
    model = recorded(event(1.0), digest="4bit")
    model = recorded(event(9.0), event(9.0), digest="8bit", model=model)

    assert {digest: sums.count for digest, sums in model.history["here"].items()} == {"4bit": 1, "8bit": 2}
    assert model.usage_count == 3


def test_a_record_keeps_what_it_does_not_know():
    known = StoredModel(name="m", note="mine", history={"here": {"": Usage(count=1, quality={"sum": 4})}})

    model = recorded(event(1.0), model=known)

    assert model.note == "mine"
    assert model.history["here"][""].quality == {"sum": 4}


def test_a_record_changes_nothing_that_somebody_else_holds():
    before = recorded(event(1.0))
    kept = before.model_copy(deep=True)

    recorded(event(2.0), model=before)

    assert before == kept


def test_what_is_kept_does_not_grow_with_the_number_of_events():
    one = event(1.5, tokens=90, quality_score=4.0, task="tags")
    few, many = (recorded(*[one] * number).model_dump_json() for number in (10, 10_000))

    # The numbers have more digits; there are no more of them.
    assert len(many) - len(few) <= 30 * len("000")


def the_largest_usage():
    """One that holds all that it can, each number with all its digits."""
    longest = 86_400 * NS
    sums = Counts(
        {
            **dict.fromkeys(("count", "success_count", "timed_count", "quality_count"), MOST_USES),
            **dict.fromkeys(("total_ns", "token_ns"), MOST_USES * longest),
            "token_count": MOST_USES * MOST_TOKENS,
            "quality_thousandths": MOST_USES * 5000,
        }
    )
    times = {bucket_of(value): MOST_USES for value in every_size(longest)}
    speeds = {bucket_of(value): MOST_USES for value in every_size(MOST_TOKENS_PER_S * SPEED_UNIT)}
    return Usage(
        **sums.numbers,
        min_ns=longest,
        max_ns=longest,
        first_used=HOUR[0],
        last_used=HOUR[0],
        durations=Counts(times),
        speeds=Counts(speeds),
        qualities=Counts(dict.fromkeys(range(51), MOST_USES)),
        by_task={**{f"{'😀' * (LONGEST_TASK - 2)}{number:02}": sums for number in range(MOST_TASKS)}, OTHER: sums},
        by_day={days_ago(number): sums for number in range(DAYS)},
    )


def every_size(largest):
    value = 1
    while value < largest:
        yield value
        value += max(1, value // 100)
    yield largest


def test_what_is_kept_is_bounded_however_many_events_there_were():
    largest = the_largest_usage()
    assert len(largest.durations.numbers) == MOST_BUCKETS

    codec = DocumentCodec({}, "")
    model = usage.with_history(StoredModel(name="m"), {"0" * 16: {"0" * 64: largest}})
    size, empty = (len(codec.encode(Document(models={"m": one}))) for one in (model, StoredModel(name="m")))

    assert size - empty < 128 * 1024


@given(st.lists(events, max_size=10))
def test_a_document_keeps_every_figure(happened):
    codec, model = DocumentCodec({}, ""), recorded(*happened, digest="4bit")

    read = codec.decode(codec.encode(Document(models={"m": model}))).models["m"]

    assert read.history == model.history
    assert statistics(recorded(event(1.5), model=read)) == statistics(recorded(event(1.5), model=model))


def test_a_document_is_a_line_for_a_day_and_for_all_times():
    model = recorded(event(1.5, tokens=30, quality_score=4, task="tags"))

    kept = json.loads(model.model_dump_json())["history"]["here"][""]
    sums = "count:1 quality_count:1 quality_thousandths:4000 success_count:1 timed_count:1"
    assert kept["by_day"] == {TODAY: f"{sums} token_count:30 token_ns:1500000000 total_ns:1500000000"}
    assert kept["by_task"] == {"tags": kept["by_day"][TODAY]}
    assert (kept["durations"], kept["qualities"]) == (f"{bucket_of(1_500_000_000)}:1", "40:1")


def test_what_a_later_version_counts_of_a_day_is_kept_and_added_up():
    later = Usage.model_validate({"count": 1, "by_day": {TODAY: "count:1 photos:12"}})

    assert str(usage.add(later, later).by_day[TODAY]) == "count:2 photos:24"


def test_times_from_before_they_were_kept_by_bucket_are_in_no_quantile():
    before = Usage(count=3, success_count=3, timed_count=3, total_ns=30 * NS, min_ns=NS, max_ns=20 * NS)
    model = StoredModel(name="m", history={"here": {"": before}})

    shown = statistics(model)
    assert (shown.avg_inference_time, shown.p50, shown.p99, shown.quantile_count) == (10.0, None, None, 0)
    assert (shown.by_task, shown.by_day, shown.tokens_per_second) == ({}, (), None)

    shown = statistics(recorded(event(2.0), model=model))
    assert (shown.avg_inference_time, shown.p50, shown.quantile_count) == (8.0, pytest.approx(2.0, rel=0.01), 1)


# --- putting histories together --------------------------------------------------------------------------------------

sums = st.builds(
    lambda worked, failed, timed, total, hour: Usage(
        count=worked + failed,
        success_count=worked,
        timed_count=min(timed, worked),
        total_ns=total,
        last_used=HOUR[hour],
    ),
    *[st.integers(0, 3)] * 3,
    st.integers(0, 5),
    st.integers(0, 2),
)
histories = st.dictionaries(st.sampled_from("ABC"), st.dictionaries(st.sampled_from(["", "4bit"]), sums, max_size=2))


@given(histories, histories)
def test_it_does_not_matter_whose_history_comes_first(one, other):
    assert merge(one, other) == merge(other, one)


@given(histories, histories, histories)
def test_it_does_not_matter_which_two_of_three_meet_first(one, other, third):
    assert merge(merge(one, other), third) == merge(one, merge(other, third))


@given(histories, histories)
def test_what_has_been_taken_over_is_not_taken_over_again(one, other):
    once = merge(one, other)

    assert merge(once, other) == once
    assert merge(once, one) == once
    assert merge(once, once) == once


@given(histories, histories)
def test_putting_together_changes_neither_history(one, other):
    before = [{i: dict(d) for i, d in h.items()} for h in (one, other)]

    merge(one, other)

    assert [one, other] == before


@given(st.lists(st.tuples(events, st.integers(0, 2), st.sampled_from(["", "4bit", "8bit"])), max_size=25), st.randoms())
def test_any_split_over_installations_and_digests_in_any_order_gives_the_same_whole(happened, chance):
    parts = []
    for number in range(3):
        model = StoredModel(name="m")
        for one, place, digest in happened:
            if place == number:
                model = record(model, f"installation-{number}", digest, one)
        parts.append(model.history)
    chance.shuffle(parts)

    together = {}
    for part in [*parts, *parts]:
        together = merge(together, part)

    assert whole(together) == whole(recorded(*[one for one, _, _ in happened]).history)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2) | events), max_size=30))
def test_installations_that_meet_now_and_then_lose_nothing_and_count_nothing_twice(story):
    installations = [StoredModel(name="m") for _ in range(3)]
    everything = []
    for where, what in story:
        if isinstance(what, Event):
            installations[where] = record(installations[where], str(where), "d", what)
            everything.append(what)
        else:
            history = merge(installations[where].history, installations[what].history)
            installations[where] = usage.with_history(installations[where], history)

    for _ in range(2):
        for where in range(3):
            for what in range(3):
                history = merge(installations[where].history, installations[what].history)
                installations[where] = usage.with_history(installations[where], history)

    assert (
        all(whole(model.history) == whole(recorded(*everything).history) for model in installations) or not everything
    )
    assert {model.usage_count for model in installations} == {len(everything)}


@pytest.mark.parametrize("before", [1, 9, 99])
def test_an_older_state_of_the_same_installation_adds_nothing(before):
    older = recorded(*[event(1.0)] * before)
    newer = recorded(event(3.0), model=older)

    assert merge(newer.history, older.history) == newer.history
    assert merge(older.history, newer.history) == newer.history


@given(st.lists(st.tuples(events, st.sampled_from("AB"), st.sampled_from(["", "4bit"]), st.booleans()), max_size=15))
def test_two_names_of_one_model_have_the_sum_of_both(happened):
    names, together = [StoredModel(name="m"), StoredModel(name="alias")], StoredModel(name="m")
    for one, where, digest, other_name in happened:
        names[other_name] = record(names[other_name], where, digest, one)
        together = record(together, where, digest, one)
    before = [model.model_copy(deep=True) for model in names]

    assert usage.joined(names[0].history, names[1].history) == together.history
    assert names == before


# --- what the seed's version counted ---------------------------------------------------------------------------------


@given(st.integers(1, 10**6), st.data())
def test_a_count_and_a_rate_give_the_successes_back(count, data):
    worked = data.draw(st.integers(0, count))

    assert from_seed(count, worked / count, None, None).success_count == worked


def test_figures_of_the_seed_keep_their_meaning():
    model = usage.with_history(StoredModel(name="m"), {"old": {"": from_seed(10, 0.9, 2.5, HOUR[1])}})

    shown = statistics(model, installed=True)
    assert (shown.usage_count, shown.success_count, shown.failure_count) == (10, 9, 1)
    assert (shown.success_rate, shown.avg_inference_time, shown.last_used) == (0.9, 2.5, HOUR[1])


def test_what_the_seed_never_kept_stays_unknown():
    shown = statistics(StoredModel(name="m", history={"old": {"": from_seed(10, 0.9, 2.5, HOUR[1])}}), installed=True)

    assert (shown.min_inference_time, shown.max_inference_time, shown.first_used) == (None, None, None)


def test_uses_of_the_seed_without_a_mean_have_no_time():
    old = StoredModel(name="m", history={"old": {"": from_seed(10, 0.9, None, None)}})

    assert statistics(old, installed=True).avg_inference_time is None
    assert recorded(event(6.0), model=old).avg_inference_time == 6.0


def test_a_mean_of_the_seed_weighs_as_much_as_its_successes():
    old = StoredModel(name="m", history={"old": {"": from_seed(4, 0.75, 2.0, None)}})

    assert recorded(event(6.0), model=old).avg_inference_time == 3.0


def test_a_mean_stays_though_the_rate_says_that_nothing_worked():
    # The seed rounded its rate down at every use, so that a rate of 0 need not mean that.
    assert usage.mean_s(from_seed(3, 0.0, 2.0, None)) == 2.0


def test_uses_without_a_rate_count_as_successes():
    assert from_seed(3, None, None, None).success_count == 3


# --- what no history can say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1},
        {"count": 1, "success_count": 2},
        {"count": 1, "timed_count": 2},
        {"total_ns": -1},
        {"min_ns": -1},
        {"max_ns": 86_401 * NS},
        {"count": 10**400},
        {"total_ns": 10**400},
        {"count": 1, "quality_count": 2},
        {"token_count": -1},
        {"token_ns": 10**400},
        {"durations": {"1000": 1}},
        {"speeds": "1000"},
        {"qualities": "forty:1"},
        {"by_day": {TODAY: "1"}},
        {"by_task": {"tags": "count:-1"}},
    ],
    ids=str,
)
def test_impossible_sums_are_no_usage(wrong):
    with pytest.raises(ValidationError):
        Usage.model_validate(wrong)


def test_the_largest_sums_can_still_be_shown():
    most = Usage(count=10**15, success_count=10**15, timed_count=10**15, total_ns=10**15 * 86_400 * NS)

    assert statistics(StoredModel(name="m", history={"a": {"": most}}), installed=True).avg_inference_time == 86_400.0

    shown = statistics(StoredModel(name="m", history={"a": {"": the_largest_usage()}, "b": {"": the_largest_usage()}}))
    assert (shown.by_day[0].avg_inference_time, shown.by_task[OTHER].avg_quality_score) == (86_400.0, 5.0)

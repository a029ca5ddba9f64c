"""What is counted is counted exactly and once, however it is split up, carried about and put together again."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model_core import usage
from model_core.errors import InvalidRequest
from model_core.records import StoredModel, Usage
from model_core.usage import Event, check_event, from_seed, merge, record, statistics, whole

HOUR = [f"2026-11-23T{hour:02}:00:00.000000Z" for hour in range(24)]
NS = 10**9

events = st.builds(
    Event,
    success=st.booleans(),
    at=st.sampled_from(HOUR),
    duration_ns=st.none() | st.integers(1, 86_400 * NS),
)


def recorded(*happened, installation="here", digest=None, model=None):
    model = model or StoredModel(name="m")
    for event in happened:
        model = record(model, installation, digest, event)
    return model


def event(seconds=None, success=True, at=HOUR[0]):
    return check_event(seconds, success, at)


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
    assert shown.avg_inference_time == (float(Fraction(sum(times), len(times)) / NS) if times else None)
    assert shown.min_inference_time == (min(times) / NS if times else None)
    assert shown.max_inference_time == (max(times) / NS if times else None)
    assert shown.first_used == min((e.at for e in happened), default=None)
    assert shown.last_used == max((e.at for e in happened), default=None)


def test_statistics_have_every_key_that_callers_of_the_seed_read():
    shown = statistics(recorded(event(1.0)), installed=True).model_dump()

    assert {"name", "usage_count", "last_used", "avg_inference_time", "success_rate", "installed"} <= set(shown)
    assert (shown["name"], shown["installed"]) == ("m", True)


@given(st.lists(events, min_size=1, max_size=10))
def test_the_fields_of_the_seed_say_the_same_as_the_statistics(happened):
    model = recorded(*happened)
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
    few, many = recorded(*[event(1.5)] * 10), recorded(*[event(1.5)] * 10_000)

    # The numbers have more digits; there are no more of them.
    assert len(many.model_dump_json()) - len(few.model_dump_json()) <= 5 * len("000")


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

    assert {whole(model.history) for model in installations} == {whole(recorded(*everything).history)} or not everything
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
    ],
    ids=str,
)
def test_impossible_sums_are_no_usage(wrong):
    with pytest.raises(ValidationError):
        Usage.model_validate(wrong)


def test_the_largest_sums_can_still_be_shown():
    most = Usage(count=10**15, success_count=10**15, timed_count=10**15, total_ns=10**15 * 86_400 * NS)

    assert statistics(StoredModel(name="m", history={"a": {"": most}}), installed=True).avg_inference_time == 86_400.0

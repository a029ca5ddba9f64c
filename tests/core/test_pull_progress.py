"""One number for a whole model: it never falls, it is never done too early, and it says what it does not know."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.pull_progress import (
    ASKING,
    CEILING_PERCENT,
    CHECKING,
    DONE,
    DOWNLOADING,
    NAMING,
    WAITING,
    WRITING,
    Progress,
    advance,
    begin,
    bytes_per_second,
    enter,
    eta_seconds,
    finish,
    is_stalled,
)
from model_core.records import LayerProgress

TRANSCRIPTS = sorted((Path(__file__).parents[1] / "transcripts").glob("pull_*.json"))
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
MB = 10**6


def line(digest, completed=None, total=None):
    """A line on a layer, without the keys that Ollama leaves out."""
    known = {"total": total, "completed": completed}
    return {"status": f"pulling {digest[7:19]}", "digest": digest, **{k: v for k, v in known.items() if v}}


def said(status):
    return {"status": status}


MANIFEST, CHECK, WRITE, SUCCESS = (
    said(status) for status in ("pulling manifest", "verifying sha256 digest", "writing manifest", "success")
)


def heard(*events, progress=None, start_s=0.0, every_s=0.06):
    """Every state from the start of an attempt on, one line of Ollama's after the other."""
    states = [begin(progress or Progress(expected_bytes=100 * MB, is_estimate=True), start_s)]
    for number, event in enumerate(events, 1):
        states.append(advance(states[-1], event, start_s + number * every_s))
    return states


def after(*events, **known):
    return heard(*events, **known)[-1]


# --- one number for all layers ---------------------------------------------------------------------------------------


def test_the_layers_are_added_up():
    progress = after(MANIFEST, line(A, 60 * MB, 60 * MB), line(B, 10 * MB, 40 * MB))

    assert (progress.reached_bytes, progress.total_bytes, progress.percent) == (70 * MB, 100 * MB, 70.0)


def test_a_layer_is_whole_when_the_next_begins_though_its_last_line_said_less():
    progress = after(line(A, 59 * MB, 60 * MB), line(B, 0, 40 * MB))

    assert progress.reached_bytes == 60 * MB
    assert [layer.downloaded_bytes for layer in progress.layers] == [60 * MB, 0]


@pytest.mark.parametrize(("event", "phase"), [(CHECK, CHECKING), (WRITE, WRITING)])
def test_every_layer_is_whole_when_the_checking_begins_or_the_writing_where_nothing_is_checked(event, phase):
    progress = after(line(A, 59 * MB, 60 * MB), event)

    assert (progress.phase, progress.reached_bytes) == (phase, 60 * MB)


def test_an_exact_total_is_reached_when_the_checking_begins_though_small_layers_were_left_out():
    exact = Progress(expected_bytes=60 * MB + 507)

    assert after(line(A, 59 * MB, 60 * MB), CHECK, progress=exact).reached_bytes == 60 * MB + 507
    assert after(CHECK, progress=exact).reached_bytes == 60 * MB + 507


def test_an_estimate_is_not_reached_by_checking():
    assert after(CHECK).reached_bytes == 0


def test_a_total_that_turns_out_larger_grows_and_the_percentage_does_not_fall():
    states = heard(line(A, 90 * MB, 100 * MB), line(B, 0, 300 * MB), line(B, 100 * MB, 300 * MB))

    assert [state.total_bytes for state in states[1:]] == [100 * MB, 400 * MB, 400 * MB]
    assert [state.percent for state in states[1:]] == [90.0, 90.0, 90.0]
    assert after(line(B, 290 * MB, 300 * MB), progress=states[-1]).percent > 90.0


def test_without_a_total_there_is_no_percentage():
    states = heard(MANIFEST, line(A, 50, 100), CHECK, WRITE, SUCCESS, progress=Progress())

    assert {(state.percent, state.total_bytes) for state in states} == {(None, None)}
    assert {eta_seconds(state) for state in states} == {None}
    assert states[-1].reached_bytes == 100


def test_a_little_is_shown_as_a_little():
    assert after(line(A, MB // 10, 60 * MB)).percent == pytest.approx(0.1)


def test_a_line_without_figures_names_a_layer_and_nothing_else():
    progress = after(line(A), line(A), line(A, 10 * MB, 60 * MB))

    assert progress.layers == (LayerProgress(digest=A, total_bytes=60 * MB, downloaded_bytes=10 * MB),)


def test_a_total_that_was_told_once_is_remembered():
    assert after(line(A, 5 * MB, 60 * MB), line(A, 6 * MB)).layers[0].total_bytes == 60 * MB


@pytest.mark.parametrize("digest", ["sha256:model", "0000000000000000000", "sha256:", ""])
def test_a_digest_that_is_none_is_a_layer_like_others(digest):
    assert after(line(digest, 40 * MB, 80 * MB)).reached_bytes == 40 * MB


def test_more_than_a_layers_total_is_its_total():
    assert after(line(A, 61 * MB, 60 * MB)).reached_bytes == 60 * MB


# --- what falls back -------------------------------------------------------------------------------------------------


def test_what_falls_back_is_told_as_fetched_again_and_the_number_stands():
    states = heard(
        line(A, 50 * MB, 90 * MB), line(A, 10 * MB, 90 * MB), line(A, 30 * MB, 90 * MB), line(A, 60 * MB, 90 * MB)
    )

    assert [state.fetching_again_bytes for state in states[1:]] == [0, 40 * MB, 20 * MB, 0]
    assert [state.reached_bytes for state in states[1:]] == [50 * MB, 50 * MB, 50 * MB, 60 * MB]
    assert [state.percent for state in states[1:]] == [50.0, 50.0, 50.0, 60.0]


def test_a_second_attempt_shows_what_the_first_had_reached():
    first = after(line(A, 50 * MB, 90 * MB))
    states = heard(MANIFEST, line(A, 52 * MB, 90 * MB), progress=first)

    assert [state.reached_bytes for state in states] == [50 * MB, 50 * MB, 52 * MB]
    assert {state.fetching_again_bytes for state in states} == {0}


def test_a_second_attempt_that_finds_less_says_so():
    first = after(line(A, 50 * MB, 90 * MB))

    assert after(MANIFEST, line(A, 20 * MB, 90 * MB), progress=first).fetching_again_bytes == 30 * MB


def test_layers_that_a_second_attempt_has_not_come_to_yet_are_not_fetched_again():
    first = after(line(A, 60 * MB, 60 * MB), line(B, 20 * MB, 40 * MB))
    states = heard(MANIFEST, line(A, 60 * MB, 60 * MB), line(B), line(B, 21 * MB, 40 * MB), progress=first)

    assert [state.fetching_again_bytes for state in (states[2], states[4])] == [0, 0]
    assert states[4].reached_bytes == 81 * MB


def test_what_one_attempt_did_not_come_to_is_not_forgotten_by_the_next():
    first = after(line(A, 60 * MB, 60 * MB), line(B, 20 * MB, 40 * MB))
    second = after(MANIFEST, line(A, 60 * MB, 60 * MB), progress=first)
    third = heard(MANIFEST, line(A, 60 * MB, 60 * MB), line(C, 1 * MB, 1 * MB), progress=second)

    assert [state.present_bytes for state in third] == [80 * MB, 80 * MB, 80 * MB, 81 * MB]


def test_what_is_fetched_again_is_told_only_while_it_is_fetched():
    exact = Progress(expected_bytes=90 * MB)

    assert after(line(A, 60 * MB, 60 * MB), CHECK, progress=exact).fetching_again_bytes == 0
    assert enter(after(line(A, 60 * MB, 90 * MB), line(A, 5, 90 * MB)), WAITING, 9.0).fetching_again_bytes == 0


def test_a_damaged_layer_is_fetched_again_from_the_start():
    first = after(line(A, 60 * MB, 60 * MB), line(B, 40 * MB, 40 * MB), CHECK)

    assert after(MANIFEST, line(A, 1 * MB, 60 * MB), progress=first).fetching_again_bytes == 59 * MB


def test_layers_of_a_tag_that_has_moved_meanwhile_do_not_count():
    first = after(line(A, 60 * MB, 60 * MB), line(B, 20 * MB, 40 * MB))

    moved = after(MANIFEST, line(C, 10 * MB, 100 * MB), progress=first)

    assert (moved.reached_bytes, moved.present_bytes, moved.fetching_again_bytes) == (80 * MB, 10 * MB, 70 * MB)


def test_a_program_that_starts_anew_goes_on_from_what_was_written_down():
    written = Progress(
        expected_bytes=100 * MB,
        is_estimate=True,
        layers=(LayerProgress(digest=A, total_bytes=60 * MB, downloaded_bytes=60 * MB),
                LayerProgress(digest=B, total_bytes=40 * MB, downloaded_bytes=20 * MB)),
        reached_bytes=80 * MB,
        percent=80.0,
    )  # fmt: skip
    states = heard(MANIFEST, line(A, 60 * MB, 60 * MB), line(B, 30 * MB, 40 * MB), progress=written)

    assert [state.percent for state in states] == [80.0, 80.0, 80.0, 90.0]
    assert {state.fetching_again_bytes for state in states} == {0}


# --- phases ----------------------------------------------------------------------------------------------------------


def test_each_phase_begins_with_its_line_and_remembers_when():
    states = heard(MANIFEST, line(A, 1, 2), CHECK, CHECK, WRITE, said("removing unused layers"), SUCCESS, every_s=1.0)

    assert [state.phase for state in states] == [
        ASKING, ASKING, DOWNLOADING, CHECKING, CHECKING, WRITING, WRITING, WRITING,
    ]  # fmt: skip
    assert [state.phase_since_s for state in states] == [0, 0, 2, 3, 3, 5, 5, 5]


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("pulling manifest", ASKING),
        ("verifying sha256 digest", CHECKING),
        ("writing manifest", WRITING),
        ("removing unused layers", WRITING),
    ],
)
def test_a_phase_is_told_by_its_line_whatever_was_before(status, phase):
    assert advance(Progress(phase=WAITING), said(status), 5.0).phase == phase


def test_what_no_line_announces_is_entered_by_hand():
    assert enter(enter(Progress(), WAITING, 5.0), NAMING, 9.0).phase_since_s == 9.0


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"error": "pull model manifest: file does not exist"},
        {"status": None},
        {"status": 5},
        {"status": ["pulling manifest"]},
        {"status": "couldn't remove unused layers: x"},
        {"status": "pulling abc"},
        {"status": "pulling abc", "digest": 5},
        {"status": "verifying conversion", "digest": A, "total": 5, "completed": 5},
        SUCCESS,
    ],
    ids=str,
)
def test_a_line_that_says_nothing_we_know_changes_nothing(event):
    before = after(line(A, 50 * MB, 90 * MB))

    assert advance(before, event, 99.0) == before


@pytest.mark.parametrize("figure", [-1, 1.5, "5", True, None, [], 10**400, 2**63], ids=lambda value: repr(value)[:10])
def test_a_figure_that_is_none_is_not_known(figure):
    event = {"status": "pulling a", "digest": A, "total": figure, "completed": figure}

    assert after(event).layers == (LayerProgress(digest=A),)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_no_line_of_ollamas_makes_it_whole():
    states = heard(line(A, 100 * MB, 100 * MB), CHECK, WRITE, SUCCESS)

    assert {state.percent for state in states[1:]} == {CEILING_PERCENT}


@pytest.mark.parametrize(
    ("progress", "events", "size", "total"),
    [
        (Progress(expected_bytes=100, is_estimate=True), [line(A, 50, 60)], 61, 61),
        (Progress(expected_bytes=100, is_estimate=True), [line(A, 50, 60)], None, 60),
        (Progress(expected_bytes=100, is_estimate=True), [], 61, 61),
        (Progress(expected_bytes=100), [line(A, 50, 60)], None, 100),
        (Progress(expected_bytes=100), [], None, 100),
        (Progress(), [line(A, 50, 60)], 61, 61),
        (Progress(), [], 61, 61),
    ],
    ids=[
        "an estimate, and the size in the list",
        "an estimate, and the layers",
        "an estimate, and no layer that was told of",
        "a manifest's figure",
        "a manifest's figure, and no layer that was told of",
        "nothing expected",
        "nothing expected and nothing told",
    ],
)
def test_at_the_end_the_figures_are_those_of_the_model(progress, events, size, total):
    done = finish(after(*events, CHECK, progress=progress), 9.0, size)

    assert (done.percent, done.phase, done.reached_bytes, done.total_bytes) == (100.0, DONE, total, total)
    assert not done.is_estimate


def test_what_stays_an_estimate_to_the_end_says_so():
    done = finish(after(CHECK), 9.0)

    assert (done.total_bytes, done.is_estimate, done.percent) == (100 * MB, True, 100.0)


def test_what_nobody_told_is_not_made_up_at_the_end():
    done = finish(after(CHECK, progress=Progress()), 9.0)

    assert (done.total_bytes, done.reached_bytes, done.percent, done.is_estimate) == (None, 0, 100.0, False)


# --- how fast, and how long still ------------------------------------------------------------------------------------


def steady(seconds, rate_bytes=10 * MB, total=1000 * MB, first_s=0.0, first_bytes=0, wobble=0):
    """Lines every 60 ms at a steady rate, or one that wobbles by so many bytes a line; with their moments."""
    lines = []
    for number in range(int(seconds / 0.06)):
        completed = first_bytes + int(number * 0.06 * rate_bytes) + (wobble if number % 2 else 0)
        lines.append((first_s + number * 0.06, line(A, completed or 1, total)))
    return lines


def play(timed, progress=None):
    states = [begin(progress or Progress(expected_bytes=1000 * MB, is_estimate=True), timed[0][0])]
    for now_s, event in timed:
        states.append(advance(states[-1], event, now_s))
    return states[1:]


def test_the_rate_and_the_time_left_are_true():
    state = play(steady(20))[-1]

    assert bytes_per_second(state) == pytest.approx(10 * MB, rel=0.01)
    assert eta_seconds(state) == pytest.approx((1000 * MB - state.reached_bytes) / (10 * MB), rel=0.01)


def test_in_the_first_second_there_is_no_rate():
    assert {bytes_per_second(state) for state in play(steady(0.9))} == {None}


@pytest.mark.parametrize("wobble", [0, 600_000])
def test_the_time_left_does_not_jump(wobble):
    lefts = [eta_seconds(state) for state in play(steady(60, wobble=wobble))]

    known = [left for left in lefts if left is not None]
    assert len(known) > 900
    assert all(abs(one - other) < 5 for one, other in pairwise(known))


def test_what_lay_there_already_is_no_speed():
    cached = [(0.0, line(B, 500 * MB, 500 * MB))]
    resumed = steady(5, first_s=0.06, first_bytes=400 * MB, total=500 * MB)

    rates = [bytes_per_second(state) for state in play(cached + resumed)]

    assert max(rate for rate in rates if rate is not None) < 11 * MB


def test_what_is_fetched_again_is_speed_and_takes_time():
    before = steady(12)
    again = steady(12, first_s=12.0, first_bytes=20 * MB)

    state = play(before + again)[-1]

    assert bytes_per_second(state) == pytest.approx(10 * MB, rel=0.02)
    assert eta_seconds(state) == pytest.approx((1000 * MB - state.present_bytes) / (10 * MB), rel=0.02)


def test_a_dead_connection_that_repeats_its_line_has_no_rate_after_a_while():
    dead = [(10 + number * 0.06, line(A, 99 * MB, 1000 * MB)) for number in range(200)]

    state = play(steady(10) + dead)[-1]

    assert bytes_per_second(state) == 0
    assert eta_seconds(state) is None


def test_only_a_download_that_runs_has_a_rate():
    running = play(steady(5))[-1]

    for state in (
        Progress(phase=DOWNLOADING),
        advance(running, CHECK, 6.0),
        enter(running, WAITING, 6.0),
        begin(running, 6.0),
        finish(running, 6.0),
    ):
        assert (bytes_per_second(state), eta_seconds(state)) == (None, None)


def test_what_the_rate_is_made_of_does_not_grow():
    assert len(play(steady(120))[-1].samples) <= 22


# --- standing still --------------------------------------------------------------------------------------------------


def test_the_same_line_for_half_a_minute_is_a_stall():
    moving = advance(after(line(A, 5 * MB, 60 * MB)), line(A, 6 * MB, 60 * MB), 10.0)
    dead = advance(moving, line(A, 6 * MB, 60 * MB), 39.0)

    assert not is_stalled(dead, 39.9)
    assert is_stalled(dead, 40.0)


def test_a_fall_is_a_movement():
    fallen = advance(after(line(A, 50 * MB, 60 * MB)), line(A, 6 * MB, 60 * MB), 29.0)

    assert not is_stalled(fallen, 58.0)


def test_a_layer_without_figures_for_ever_is_a_stall():
    # What the second of two that pull one model hears when the first has gone.
    assert is_stalled(advance(after(line(A)), line(A), 31.0), 31.0)


def test_asking_checking_and_writing_do_not_stall():
    for event in (MANIFEST, CHECK, WRITE):
        assert not is_stalled(after(event), 1e6)


def test_a_new_attempt_begins_without_a_stall():
    assert not is_stalled(advance(begin(after(line(A, 5)), 100.0), line(A, 5), 101.0), 102.0)


# --- any stream ------------------------------------------------------------------------------------------------------


def check_promises(states):
    for before, now in pairwise(states):
        assert (now.percent or 0) >= (before.percent or 0)
        assert now.reached_bytes >= before.reached_bytes
        assert now.percent is not None or before.percent is None
    for state in states:
        assert state.percent is None or 0 <= state.percent <= CEILING_PERCENT
        assert state.present_bytes >= 0
        assert 0 <= state.fetching_again_bytes <= state.reached_bytes
        assert state.total_bytes is None or state.reached_bytes <= state.total_bytes
        assert (bytes_per_second(state) or 0) >= 0
        assert (eta_seconds(state) or 0) >= 0
        for layer in state.layers:
            assert layer.downloaded_bytes >= 0
            assert layer.total_bytes is None or layer.downloaded_bytes <= layer.total_bytes
    done = finish(states[-1], 1e6)
    assert done.percent == 100.0
    assert done.total_bytes in (None, done.reached_bytes)


@st.composite
def pulls(draw):
    """What a real Ollama says: layer after layer, some there already, some resumed, some too quick to be told of."""
    sizes = draw(st.lists(st.integers(1, 10**10), min_size=1, max_size=4))
    events = [MANIFEST]
    for number, size in enumerate(sizes):
        digest = f"sha256:{number:064x}"
        steps = draw(st.lists(st.integers(0, size), max_size=8))
        if draw(st.booleans()):
            steps.sort()
        kind = draw(st.sampled_from(["fresh", "there already", "too quick"]))
        if kind == "there already":
            steps = [size]
        elif kind == "too quick":
            steps = []
        elif draw(st.booleans()):
            events.append(line(digest))
        events += [line(digest, step, size) for step in steps]
    cut = draw(st.integers(1, len(events)))
    return events[:cut] if draw(st.booleans()) else [*events, CHECK, WRITE, SUCCESS]


expected = st.builds(Progress, expected_bytes=st.none() | st.integers(0, 10**10), is_estimate=st.booleans())


@given(expected, st.lists(pulls(), min_size=1, max_size=3), st.floats(0.001, 5))
def test_any_pull_in_any_number_of_attempts_keeps_the_promises(progress, attempts, every_s):
    states = [progress]
    for attempt in attempts:
        states += heard(*attempt, progress=states[-1], start_s=len(states) * every_s, every_s=every_s)
        states.append(enter(states[-1], WAITING, len(states) * every_s))

    check_promises(states)


junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([])
nonsense = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["pulling a", "pulling manifest", "verifying sha256 digest", "writing manifest"])
        | junk,
        "digest": st.sampled_from([A, B, "sha256:model"]) | junk,
        "total": st.integers(0, 2**64) | junk,
        "completed": st.integers(0, 2**64) | junk,
        "error": junk,
        "more": junk,
    },
)


@given(expected, st.lists(st.tuples(nonsense, st.floats(0, 100)), max_size=30), st.integers(0, 10))
def test_any_nonsense_keeps_the_promises(progress, timed, again_every):
    states, now_s = [progress], 0.0
    for number, (event, passed_s) in enumerate(timed):
        now_s += passed_s
        if again_every and number % again_every == 0:
            states.append(begin(states[-1], now_s))
        states.append(advance(states[-1], event, now_s))

    check_promises(states)


# --- what a real Ollama said -----------------------------------------------------------------------------------------


def streams(path):
    """The streams of one recorded scene, as (seconds, event); what was left out of a recording is left out here."""
    for exchange in json.loads(path.read_text(encoding="utf-8"))["exchanges"]:
        lines = exchange["response"].get("lines") or []
        events = [(moment / 1000, json.loads(text)) for moment, text in lines if moment is not None]
        if events and exchange["request"]["path"] == "/api/pull":
            yield events


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_recorded_pulls_keep_the_promises(path):
    size = 248_349_742
    for progress in (
        Progress(),
        Progress(expected_bytes=size),
        Progress(expected_bytes=4_920_753_328, is_estimate=True),
    ):
        states = [progress]
        for events in streams(path):
            states.append(begin(states[-1], 0.0))
            for now_s, event in events:
                states.append(advance(states[-1], event, now_s))
        check_promises(states)


def recorded(name):
    path = next(path for path in TRANSCRIPTS if path.stem == name)
    progress = Progress(expected_bytes=248_349_742)
    for events in streams(path):
        progress = begin(progress, 0.0)
        for now_s, event in events:
            progress = advance(progress, event, now_s)
    return progress


@pytest.mark.parametrize("name", ["pull_fresh", "pull_cached", "pull_cancelled_resumed", "pull_goes_back"])
def test_a_recorded_pull_that_went_well_has_every_byte(name):
    progress = recorded(name)

    assert (progress.phase, progress.reached_bytes, progress.percent) == (WRITING, 248_349_742, CEILING_PERCENT)


def test_the_recorded_layers_add_up_to_what_ollamas_list_then_says():
    assert sum(layer.total_bytes for layer in recorded("pull_cached").layers) == 248_349_742


def test_a_recorded_stall_is_noticed():
    stalled = recorded("pull_stalled")

    # The recording ends at 20.046 s, six equal lines after the last that it kept of the hundreds before.
    assert (stalled.phase, stalled.changed_at_s) == (DOWNLOADING, 19.748)
    assert is_stalled(stalled, 29.8, after_s=10.0)
    assert not is_stalled(stalled, 29.7, after_s=10.0)

"""A download goes only where something leads, says where it may go, and is never worked on twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from model_core import downloads, pull_progress
from model_core.downloads import (
    ENDED,
    ENDED_KEPT,
    NEXT,
    OPEN,
    OWNED,
    WISHES,
    ahead_of,
    check_wish,
    failure_of,
    in_the_way,
    left_behind,
    moved,
    pruned,
    reordered,
    same_download,
    shown,
    without,
)
from model_core.errors import DownloadFailed, InvalidTransition, OllamaUnavailable, PullFailed, as_facts
from model_core.pull_progress import Progress
from model_core.records import DownloadJob, DownloadState, LayerProgress

NOW, MB = "2026-11-23T12:00:00.000000Z", 10**6
S = DownloadState


def job(state="queued", id="a1", model="llama3.2:1b-instruct", tag="llama3.2:1b-instruct-q4_K_M", **known):
    return DownloadJob(id=id, model=model, tag=tag, state=state, **known)


# --- the states ------------------------------------------------------------------------------------------------------

PROMISED = """
    queued       downloading cancelled interrupted
    downloading  verifying paused cancelled failed interrupted
    verifying    completed failed interrupted
    paused       downloading cancelled
    interrupted  downloading queued
    failed       queued
    cancelled    queued
    completed
"""
# What a frontend needs not know, each for the reason that the module's head names.
BESIDES = {("verifying", "downloading"), ("paused", "queued"), ("queued", "failed"), ("interrupted", "cancelled")}


def test_what_leads_where_is_what_was_promised():
    table = {start: set(ends) for start, *ends in (row.split() for row in PROMISED.strip().splitlines())}
    promised = {(start, end) for start, ends in table.items() for end in ends}

    assert set(table) == set(S)
    assert {(start, end) for start, ends in NEXT.items() for end in ends} == promised | BESIDES
    assert promised.isdisjoint(BESIDES)


def test_the_head_of_the_module_names_every_way_that_the_drawing_leaves_out():
    for start, end in BESIDES:
        assert f"{start} → {end}" in downloads.__doc__


@pytest.mark.parametrize(("start", "end"), list(product(S, S)))
def test_a_download_goes_only_where_something_leads(start, end):
    before = job(start)
    if end in NEXT[start]:
        assert moved(before, end, NOW).state is end
        return

    with pytest.raises(InvalidTransition) as refusal:
        moved(before, end, NOW)

    assert (refusal.value.download, refusal.value.state) == ("a1", start)
    assert set(refusal.value.allowed) == NEXT[start]


def test_every_state_but_completed_can_be_left():
    assert [state for state in S if not NEXT[state]] == [S.COMPLETED]


def test_every_state_can_be_reached():
    assert {end for ends in NEXT.values() for end in ends} == set(S)


def test_what_has_an_owner_can_lose_it():
    assert {state for state in S if S.INTERRUPTED in NEXT[state]} == OWNED


def test_a_download_is_open_or_ended_and_only_what_is_open_has_an_owner():
    assert set(S) == OPEN | ENDED
    assert not OPEN & ENDED
    assert OWNED <= OPEN


def test_a_move_is_dated_and_counted():
    after = moved(job("downloading", version=7), S.PAUSED, NOW)

    assert (after.updated_at, after.version, after.finished_at) == (NOW, 8, None)


@pytest.mark.parametrize(
    ("start", "end"), [("verifying", "completed"), ("downloading", "failed"), ("queued", "cancelled")]
)
def test_an_end_has_its_moment_and_a_resumed_download_has_none(start, end):
    ended = moved(job(start), S(end), NOW)

    assert ended.finished_at == NOW
    if NEXT[ended.state]:
        assert moved(ended, S.QUEUED, NOW).finished_at is None


@pytest.mark.parametrize(("start", "end"), [(start, end) for start in S for end in sorted(NEXT[start])])
def test_what_has_just_changed_its_state_has_no_speed(start, end):
    fast = job(start, bytes_per_second=5.0, eta_seconds=9.0)

    after = moved(fast, end, NOW)

    assert (after.bytes_per_second, after.eta_seconds) == (None, None)


def test_what_a_move_brings_with_it_is_kept():
    assert moved(job("failed", error={"code": "x"}), S.QUEUED, NOW, error=None, attempt=3).attempt == 3


# --- what may be wished ----------------------------------------------------------------------------------------------

# Where each wish leads; None: the download stays what it is, or goes for good.
LEADS = {"pause": {S.PAUSED}, "cancel": {S.CANCELLED}, "resume": {S.QUEUED, S.DOWNLOADING}}


@pytest.mark.parametrize(("state", "wish"), list(product(S, LEADS)))
def test_what_may_be_wished_is_what_leads_somewhere(state, wish):
    leads = bool(NEXT[state] & LEADS[wish])

    # What runs goes on by itself; only who has stopped can be told to.
    assert (wish in WISHES[state]) == (leads and not (wish == "resume" and state in OWNED))


@pytest.mark.parametrize("state", S)
def test_what_has_ended_can_be_forgotten_and_what_waits_can_be_moved(state):
    assert ("forget" in WISHES[state]) == (state in ENDED)
    assert ("move" in WISHES[state]) == (state is S.QUEUED)


@pytest.mark.parametrize(("state", "wish"), list(product(S, ["pause", "resume", "cancel", "move", "forget", "fly"])))
def test_a_wish_that_cannot_be_is_refused_with_those_that_can(state, wish):
    if wish in WISHES[state]:
        check_wish(job(state), wish)
        return

    with pytest.raises(InvalidTransition) as refusal:
        check_wish(job(state), wish)

    assert (refusal.value.wish, refusal.value.state) == (wish, state)
    assert refusal.value.allowed == list(WISHES[state])


def in_order(*states):
    return {str(number): job(state, id=str(number)) for number, state in enumerate(states)}


@pytest.mark.parametrize(
    ("who", "position", "order"),
    [("3", 0, "314"), ("1", 1, "314"), ("1", 9, "341"), ("1", 0, "134"), ("4", 0, "413"), ("3", 2, "143")],
)
def test_what_waits_can_be_moved_among_what_waits(who, position, order):
    jobs = in_order("downloading", "queued", "paused", "queued", "queued")

    after = reordered(jobs, who, position)

    assert "".join(key for key, one in after.items() if one.state is S.QUEUED) == order
    assert [list(after).index(key) for key in "02"] == [0, 2]
    assert after == jobs


def test_what_does_not_wait_cannot_be_moved():
    with pytest.raises(InvalidTransition):
        reordered(in_order("downloading", "queued"), "0", 1)


def test_what_has_ended_can_be_taken_from_the_book_and_nothing_else():
    jobs = in_order("completed", "queued")

    assert list(without(jobs, "0")) == ["1"]
    assert without(jobs, "gone already") == jobs
    with pytest.raises(InvalidTransition):
        without(jobs, "1")


def test_who_stops_a_download_is_told_what_stays_and_how_to_go_on():
    told = left_behind(job(downloaded_bytes=1_234_567_890), S.CANCELLED)

    assert "1,235 MB" in told and "resume" in told
    assert "None" not in left_behind(job(), S.CANCELLED)
    assert "esume" in left_behind(job(), S.PAUSED)
    assert left_behind(job(), S.INTERRUPTED) is None


# --- how far it is ---------------------------------------------------------------------------------------------------

HALF = Progress(
    expected_bytes=100 * MB,
    is_estimate=True,
    phase=pull_progress.DOWNLOADING,
    layers=(LayerProgress(digest="a", total_bytes=90 * MB, downloaded_bytes=50 * MB),),
    reached_bytes=50 * MB,
    percent=50.0499,
    samples=((0.0, 0), (10.0, 30 * MB)),
)


def test_a_download_shows_the_figures_of_its_progress():
    after = shown(job("downloading", version=7, message="Trying again."), HALF, NOW)

    assert (after.phase, after.total_bytes, after.total_is_estimate) == ("downloading", 100 * MB, True)
    assert (after.downloaded_bytes, after.percent) == (50 * MB, 50.0)
    assert (after.bytes_per_second, after.eta_seconds) == (3 * MB, 16.7)
    assert (after.layers, after.message, after.updated_at, after.version) == (HALF.layers, None, NOW, 8)


def test_what_is_not_known_is_not_shown():
    after = shown(job("downloading"), Progress(), NOW)

    assert (after.total_bytes, after.percent, after.bytes_per_second, after.eta_seconds) == (None,) * 4


def test_what_is_fetched_again_is_told():
    assert shown(job(), replace(HALF, reached_bytes=1_284 * MB), NOW).message == "fetching again 1,234 MB"
    assert shown(job(), replace(HALF, reached_bytes=50 * MB + 9000), NOW).message is None


def test_layers_that_were_heard_of_in_an_earlier_attempt_are_still_shown():
    asking = pull_progress.begin(HALF, 1.0)

    assert shown(job(), asking, NOW).layers == HALF.layers


def test_a_bar_is_full_only_when_the_progress_is():
    assert shown(job(), replace(HALF, percent=pull_progress.CEILING_PERCENT), NOW).percent < 100
    assert shown(job(), pull_progress.finish(HALF, 1.0), NOW).percent == 100


# --- which download --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", S)
def test_a_second_request_joins_what_is_open(state):
    there = job(state)

    found = same_download([there], "LLAMA3.2:1B-Instruct", "library/llama3.2:1b-instruct-q4_k_m")

    assert found is (there if state in OPEN else None)


def test_another_form_of_the_same_model_is_another_download():
    assert same_download([job()], "llama3.2:1b-instruct", "llama3.2:1b-instruct-q8_0") is None
    assert same_download([job()], "llama3.2:1b-instruct-q4_K_M", "llama3.2:1b-instruct-q4_K_M") is None


@pytest.mark.parametrize("state", S)
def test_what_is_worked_on_is_in_the_way_whatever_its_form(state):
    there = job(state)

    assert in_the_way([job("failed", id="old"), there], "LLAMA3.2:1b-instruct") is (there if state in OWNED else None)
    assert in_the_way([there], "llama3.1:8b-instruct") is None


def test_a_download_waits_for_what_was_asked_for_earlier_and_still_waits():
    earlier, mine, later = job(id="1", tag="x:1"), job(id="2"), job(id="3", tag="y:1")

    assert ahead_of([earlier, mine, later], mine) == [earlier]


def test_a_download_does_not_wait_for_what_runs_or_has_ended():
    others = [job(state, id=state, tag=f"{state}:1") for state in S if state is not S.QUEUED]
    same_tag = [job(state, id=state) for state in S if state not in OWNED]

    assert ahead_of([*others, *same_tag, job()], job()) == []


@pytest.mark.parametrize("state", sorted(OWNED - {S.QUEUED}))
def test_two_never_fetch_the_same_tag_whoever_came_first(state):
    running, mine = job(state, id="r", model="another:1"), job(id="m")

    assert ahead_of([running, mine], mine) == ahead_of([mine, running], mine) == [running]


def test_of_two_that_wait_for_the_same_tag_one_goes_first():
    one, other = job(id="1"), job(id="2", model="another:1")

    assert (ahead_of([one, other], one), ahead_of([one, other], other)) == ([], [one])


# --- how it ended ----------------------------------------------------------------------------------------------------


def test_a_download_that_brought_its_model_has_no_error():
    assert failure_of(job("completed")) is None


@pytest.mark.parametrize(
    "error",
    [
        OllamaUnavailable("http://127.0.0.1:11434"),
        PullFailed(
            "m", "The registry has no model m.", "Check the name.", reason="unknown_model", heals_by_retrying=False
        ),
    ],
    ids=lambda error: error.code,
)
def test_a_download_that_failed_has_the_error_that_it_failed_with(error):
    told = failure_of(job("failed", error=as_facts(error)))

    assert (told.code, str(told)) == (error.code, str(error))
    assert told.facts == error.facts


@pytest.mark.parametrize("state", sorted(OPEN | {S.CANCELLED}))
def test_a_download_that_ended_otherwise_says_how_to_go_on(state):
    told = failure_of(job(state))

    assert isinstance(told, DownloadFailed)
    assert told.reason == state
    assert state in told.happened and "again" in told.remedy


# --- what is kept ----------------------------------------------------------------------------------------------------


def book(*states):
    """Downloads that ended one minute after the other, in the order in which they were asked for."""
    return {
        f"{number:02}": job(
            state, id=f"{number:02}", finished_at=f"2026-11-23T12:{number:02}:00Z" if state in ENDED else None
        )
        for number, state in enumerate(map(S, states))
    }


def test_few_downloads_are_all_kept():
    jobs = book(*["completed", "failed", "cancelled"] * 6, "queued", "paused")

    assert pruned(jobs) == jobs


def test_the_oldest_ends_go_and_the_order_stays():
    jobs = book(*["completed", "queued", "failed", "interrupted"] * 12)

    kept = pruned(jobs)

    assert list(kept) == [key for key in jobs if key in kept]
    assert [one.state for one in kept.values()].count(S.QUEUED) == 12
    assert [one.state for one in kept.values()].count(S.INTERRUPTED) == 12
    ended = [key for key in jobs if jobs[key].state in ENDED]
    assert [key for key in kept if kept[key].state in ENDED] == ended[-ENDED_KEPT:]


def test_what_ended_first_goes_first_whenever_it_was_asked_for():
    jobs = book(*["completed"] * (ENDED_KEPT + 1))
    backwards = dict(reversed(jobs.items()))

    assert set(backwards) - set(pruned(backwards)) == {"00"}


def test_what_ended_without_a_moment_goes_first():
    jobs = {"x": job("failed", id="x"), **book(*["completed"] * ENDED_KEPT)}

    assert set(jobs) - set(pruned(jobs)) == {"x"}


def test_keeping_house_changes_nothing_that_somebody_else_holds():
    jobs = book(*["completed"] * 30)
    before = dict(jobs)

    pruned(jobs)

    assert jobs == before

"""A pull is waited for as long as makes sense, and tried again as often."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core import patience
from model_core.errors import (
    AnswerCutShort,
    DownloadFailed,
    NameTaken,
    OllamaBusy,
    OllamaError,
    OllamaModelMissing,
    OllamaTimeout,
    OllamaUnavailable,
    PullFailed,
    StoreBusy,
)
from model_core.patience import Patience
from model_core.pull_errors import PullReason
from model_core.pull_progress import ASKING, CHECKING, DONE, DOWNLOADING, NAMING, WAITING, WRITING

DEFAULT = Patience()


def pause(fruitless=1, *, heals=True, mismatches=0, jitter=0.0, limits=DEFAULT):
    return limits.pause_s(heals=heals, fruitless=fruitless, mismatches=mismatches, jitter=jitter)


@pytest.mark.parametrize(
    ("phase", "seconds"),
    [(ASKING, 60), (DOWNLOADING, 30), (CHECKING, 1800), (WRITING, 1800), (NAMING, 60), (WAITING, 60), (DONE, 60)],
)
def test_each_phase_may_be_silent_for_its_own_time(phase, seconds):
    assert DEFAULT.silence_allowed_s(phase) == seconds


def test_the_table_at_the_head_says_what_is_done():
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in patience.__doc__.splitlines() if "|" in row]
    told = {row[0]: row[1] for row in rows[2:]}

    assert told["`completed` does not move while lines repeat"] == f"{DEFAULT.stalled_s:.0f} s"
    assert told["no line at all, downloading"] == f"{DEFAULT.silence_allowed_s(DOWNLOADING):.0f} s"
    assert told["no line at all, asking the registry"] == f"{DEFAULT.silence_allowed_s(ASKING):.0f} s"
    assert told["no line at all, checking or writing"] == f"{DEFAULT.silence_allowed_s(CHECKING) / 60:.0f} min"
    assert [float(n) for n in re.findall(r"\d+", told["an attempt failed, and it can heal"])] == [
        pause(1), pause(2), pause(3), DEFAULT.longest_pause_s,
    ]  # fmt: skip
    assert f"until {DEFAULT.fruitless_attempts} in a row" in patience.__doc__


@pytest.mark.parametrize(
    ("fruitless", "seconds"),
    [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60), (9, 60), (10, None), (11, None)],
)
def test_the_pauses_grow_and_come_to_an_end(fruitless, seconds):
    assert pause(fruitless) == seconds


def test_a_registry_that_is_away_for_a_minute_is_waited_for():
    assert sum(pause(fruitless) for fruitless in range(1, 10)) > 60


@pytest.mark.parametrize(("mismatches", "goes_on"), [(0, True), (1, True), (2, False), (3, False)])
def test_data_that_were_damaged_twice_are_not_asked_for_again(mismatches, goes_on):
    assert (pause(mismatches=mismatches) is not None) is goes_on


def test_what_cannot_heal_is_not_tried_again():
    assert pause(heals=False) is None


@given(st.integers(1, 9), st.floats(0, 1, exclude_max=True))
def test_chance_makes_a_pause_longer_by_a_quarter_at_most(fruitless, jitter):
    assert pause(fruitless, jitter=jitter) == pytest.approx(pause(fruitless) * (1 + jitter / 4))


@given(st.integers(1, 1000), st.integers(1, 2000), st.floats(0.001, 10))
def test_any_patience_comes_to_an_end_and_never_waits_longer_than_it_says(attempts, fruitless, first_s):
    limits = Patience(first_pause_s=first_s, longest_pause_s=20.0, fruitless_attempts=attempts)

    waited = pause(fruitless, limits=limits)

    assert (waited is None) == (fruitless >= attempts)
    assert waited is None or 0 < waited <= 20.0


@pytest.mark.parametrize("reason", PullReason)
def test_a_pull_that_failed_says_itself_whether_it_heals(reason):
    for heals in (True, False):
        error = PullFailed("m", "It failed.", "", reason=reason, heals_by_retrying=heals)
        assert patience.heals(error) is heals


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (OllamaUnavailable("http://127.0.0.1:11434"), True),
        (OllamaTimeout("the list", 5.0), True),
        (OllamaBusy(), True),
        (OllamaError("The connection broke."), True),
        (OllamaError("A page of a proxy.", upstream_status=502), True),
        (OllamaError("A page of a proxy.", upstream_status=503), True),
        (OllamaError("A page of a proxy.", upstream_status=504), True),
        (OllamaError("It broke inside.", upstream_status=500), False),
        (OllamaError("Not from here.", upstream_status=403), False),
        (OllamaModelMissing("m"), False),
        (AnswerCutShort("m", 5), True),
        (DownloadFailed("m", "It is not listed.", "", reason="not_listed"), False),
        (NameTaken("m", "d"), False),
        (StoreBusy("Locked.", "", path="p"), False),
    ],
    ids=lambda value: (
        f"{type(value).__name__} {value.facts.get('upstream_status') or ''}" if isinstance(value, Exception) else ""
    ),
)
def test_another_error_heals_where_somebody_may_come_back(error, heals):
    assert patience.heals(error) is heals

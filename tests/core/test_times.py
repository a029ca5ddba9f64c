"""Moments become one text each, whose order is their order in time; what is no moment is never guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.times import from_text, normal, to_text

TOKYO = timezone(timedelta(hours=9))
MOMENTS = st.datetimes(timezones=st.just(UTC))


def in_tokyo(moment):
    return moment.replace(tzinfo=TOKYO).astimezone(UTC)


@given(MOMENTS, MOMENTS)
def test_the_order_of_the_texts_is_the_order_in_time(one, other):
    assert (to_text(one) < to_text(other)) == (one < other)


@given(MOMENTS)
def test_a_text_means_the_moment_that_it_was_made_of(moment):
    assert from_text(to_text(moment)) == moment


@given(MOMENTS)
def test_what_has_our_form_already_stays_as_it_is(moment):
    assert normal(to_text(moment)) == to_text(moment)


def test_a_moment_of_another_zone_is_written_in_utc():
    assert to_text(datetime(2026, 1, 1, 8, tzinfo=TOKYO)) == "2025-12-31T23:00:00.000000Z"


def test_a_moment_without_a_zone_is_in_the_zone_of_whoever_reads_it():
    assert normal("2026-01-01T08:00:00.25", in_tokyo) == "2025-12-31T23:00:00.250000Z"


def test_a_zone_that_is_stated_counts_more_than_that_of_the_reader():
    assert normal("2026-01-01T08:00:00+01:00", in_tokyo) == "2026-01-01T07:00:00.000000Z"


def test_a_moment_without_a_zone_and_without_a_reader_is_utc():
    assert normal("2026-01-01T08:00:00") == "2026-01-01T08:00:00.000000Z"


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("2026-08-20T17:37:44.706015396Z", "2026-08-20T17:37:44.706015Z"),
        ("2026-08-20T17:37:44.7Z", "2026-08-20T17:37:44.700000Z"),
        ("2026-08-20T17:37:44-07:00", "2026-08-21T00:37:44.000000Z"),
        ("2026-08-20 17:37:44", "2026-08-20T17:37:44.000000Z"),
        ("2026-08-20", "2026-08-20T00:00:00.000000Z"),
    ],
)
def test_what_go_python_and_people_write_can_be_read(text, ours):
    assert normal(text) == ours


@pytest.mark.parametrize(
    "value",
    [None, True, 0, 1.5, [], {}, "", "yesterday", "2026-13-01", "2026-02-30T00:00:00", "nan", "\ud800", "9" * 10_000,
     "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_what_is_no_moment_is_none(value):
    assert normal(value) is None


@pytest.mark.parametrize("failure", [OverflowError, OSError, ValueError])
def test_a_reader_that_cannot_place_a_moment_makes_it_none(failure):
    def reader(moment):
        raise failure

    assert normal("2026-01-01T08:00:00", reader) is None


def test_a_text_that_is_no_moment_is_told_as_a_value_error():
    with pytest.raises(ValueError, match="no such moment"):
        from_text("0001-01-01T00:00:00+14:00")

"""Counts add up exactly in any order, and a line of the document holds them until somebody asks."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.counts import Counts

by_value = st.dictionaries(st.integers(1, 10**14), st.integers(1, 10**15), max_size=8).map(Counts)
by_word = st.dictionaries(st.sampled_from(["count", "total_ns", "q_2"]), st.integers(1, 10**29)).map(Counts)


@given(st.lists(by_value, max_size=5), st.randoms())
def test_in_which_order_counts_are_added_does_not_matter(parts, chance):
    shuffled = list(parts)
    chance.shuffle(shuffled)

    assert sum(parts, Counts()) == sum(shuffled, Counts())


@given(by_value, by_value)
def test_every_number_of_a_sum_is_the_sum_of_both(one, other):
    both = one + other

    assert both.numbers.keys() == one.numbers.keys() | other.numbers.keys()
    assert all(both[key] == one[key] + other[key] for key in both.numbers)
    assert both.total() == one.total() + other.total()


@given(by_value)
def test_adding_changes_nothing_that_somebody_else_holds(counts):
    before = copy.deepcopy(counts)

    counts.plus_one(7)
    counts + Counts({7: 2})  # the sum is not of interest

    assert counts == before


def test_one_more_of_a_key_is_one_more():
    assert Counts({5: 2}).plus_one(5).plus_one(6).numbers == {5: 3, 6: 1}
    assert Counts({5: 2})[7] == 0


@given(by_value, by_value)
def test_a_line_holds_counts_by_value(counts, more):
    read = Counts.read(str(counts), int)

    assert read == counts
    assert read + more == counts + more
    assert str(read + more) == str(more + counts)


@given(by_word)
def test_a_line_holds_counts_by_word(counts):
    assert Counts.read(str(counts), str) == counts


def test_a_line_that_somebody_edited_stays_as_it_is_until_it_changes():
    edited = Counts.read("30:1 5:2", int)

    assert str(edited) == "30:1 5:2"
    assert str(edited.plus_one(5)) == "5:3 30:1"


def test_no_counts_are_an_empty_line():
    assert str(Counts()) == ""
    assert not Counts.read("", int)
    assert Counts({1: 1})


@pytest.mark.parametrize(
    "line",
    [None, 7, {}, ["5:1"], "5", "5:", ":5", "5:-1", "5:1.5", "5:1,6:1", "-5:1", "5:1\n", "٣:1", "5:" + "9" * 31, "a:1"],
)
def test_what_is_no_line_of_counts_by_value_is_refused(line):
    with pytest.raises(ValueError, match="no line of counts"):
        Counts.read(line, int)


@pytest.mark.parametrize("line", ["5:1", "Count:1", "a b:1", "a:x", "a" * 41 + ":1", "a:1 5:1", "é:1"])
def test_what_is_no_line_of_counts_by_word_is_refused(line):
    with pytest.raises(ValueError, match="no line of counts"):
        Counts.read(line, str)

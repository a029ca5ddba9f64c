"""A histogram knows every value to 1 %, also at the bounds of its buckets, and there are only so many of them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.counts import Counts
from model_core.histogram import LARGEST, MOST_BUCKETS, bucket_of, percentile
from model_core.records import LONGEST_INFERENCE_S
from model_core.usage import MOST_TOKENS_PER_S, NS_PER_S, SPEED_UNIT

# Small ones, and such as lie close to one another at every size.
values = (
    st.integers(1, 200)
    | st.integers(1, LARGEST)
    | st.builds(lambda e, d: 2**e + d, st.integers(8, 46), st.integers(0, 90))
)


def histogram(numbers):
    counts = Counts()
    for number in numbers:
        counts = counts.plus_one(bucket_of(number))
    return counts


def close(value, true):
    """Within 1 %, in whole numbers."""
    return abs(value - true) * 100 <= true


def bounds():
    """The smallest and the largest value of every bucket, found by looking for where the name changes."""
    value = 1
    while value <= LARGEST:
        name, last, beyond = bucket_of(value), value, min(LARGEST, value * 2) + 1
        while beyond - last > 1:
            middle = (last + beyond) // 2
            last, beyond = (middle, beyond) if bucket_of(middle) == name else (last, middle)
        yield value, last
        value = last + 1


def test_at_its_bounds_a_bucket_is_as_true_as_anywhere():
    found = list(bounds())

    assert len(found) == MOST_BUCKETS
    for first, last in found:
        assert close(bucket_of(first), first), first
        assert close(bucket_of(last), last), last


@given(values)
def test_the_name_of_a_bucket_lies_in_it(value):
    assert bucket_of(bucket_of(value)) == bucket_of(value)


@given(values, values)
def test_the_order_of_buckets_is_that_of_their_values(one, other):
    low, high = sorted([one, other])

    assert bucket_of(low) <= bucket_of(high)


def test_there_are_no_more_buckets_than_log_buckets_of_this_width_need():
    # Below 100 each number is its own.
    assert MOST_BUCKETS <= 100 + math.log(LARGEST / 100, 1.01 / 0.99) <= 1_500


def test_the_longest_time_and_the_highest_speed_have_a_bucket():
    assert LARGEST == LONGEST_INFERENCE_S * NS_PER_S
    assert LARGEST >= MOST_TOKENS_PER_S * SPEED_UNIT
    assert close(bucket_of(LARGEST), LARGEST)


@given(st.lists(values, min_size=1, max_size=60), st.integers(1, 100))
def test_a_percentile_is_within_one_percent_of_the_value_that_has_its_rank(numbers, percent):
    rank = math.ceil(Fraction(percent * len(numbers), 100))

    assert close(percentile(histogram(numbers), percent), sorted(numbers)[rank - 1])


@given(st.lists(values, max_size=20), st.lists(values, max_size=20))
def test_two_histograms_together_are_that_of_all_values(some, others):
    assert histogram(some) + histogram(others) == histogram([*some, *others])


def test_of_nothing_there_is_no_percentile():
    assert percentile(Counts(), 50) is None


@pytest.mark.parametrize(("percent", "value"), [(1, 10), (50, 10), (51, 20), (99, 20), (100, 30)])
def test_a_percentile_is_a_value_that_was_there(percent, value):
    assert percentile(Counts({10: 50, 20: 49, 30: 1}), percent) == value


def test_the_buckets_of_another_program_keep_their_values():
    coarse = Counts.read("1000:3 2000:1", int)

    assert percentile(coarse.plus_one(bucket_of(4000)), 60) == 1000

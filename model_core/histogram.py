"""How values lie, known to 1 %: a count for each of the buckets into which whole numbers from 1 to a day of ns fall.

A bucket is named by the value that stands for all in it and is at most 1 % away from each. So a histogram says itself
what it means, whoever wrote it and however wide his buckets were, and putting two together is adding counts.

The buckets are those of DDSketch (Masson, Rim and Lee, VLDB 2019, section 2.1), each 1.01 / 0.99 times as wide as the
one before. Their bounds are whole numbers, found by whole-number arithmetic instead of logarithms: a value just at a
bound falls into the same bucket on every machine, and the 1 % holds there, too.
"""

from __future__ import annotations

from bisect import bisect_right

from model_core.counts import Counts

ACCURACY_PERCENT = 1
LARGEST = 86_400 * 10**9  # a day in nanoseconds, the longest time that is kept


def _buckets() -> tuple[list[int], list[int]]:
    """Return the smallest value of each bucket, and the value that stands for the bucket."""
    smallest, named = [], []
    value = 1
    while value <= LARGEST:
        name = value * (100 + ACCURACY_PERCENT) // 100
        smallest.append(value)
        named.append(name)
        value = name * 100 // (100 - ACCURACY_PERCENT) + 1
    return smallest, named


_SMALLEST, _NAMED = _buckets()
MOST_BUCKETS = len(_NAMED)


def bucket_of(value: int) -> int:
    """Return the name of the bucket that a whole number from 1 to LARGEST falls into.

    >>> bucket_of(7), bucket_of(1_000), bucket_of(2_000_000_000)
    (7, 1000, 1986233385)
    """
    return _NAMED[bisect_right(_SMALLEST, value) - 1]


def percentile(histogram: Counts[int], percent: int) -> int | None:
    """Return the value that stands for the one of rank ceil(percent ÷ 100 × number of values), None without values.

    It is within 1 % of the value that has this rank.

    >>> percentile(Counts({10: 50, 20: 45, 90: 5}), 95)
    20
    """
    rank = -(-percent * histogram.total() // 100)
    for value, count in sorted(histogram.numbers.items()):
        rank -= count
        if rank <= 0:
            return value
    return None

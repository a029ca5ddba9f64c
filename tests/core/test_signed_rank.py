"""Differences of pairs lean to a side by more than chance only where the textbooks say so."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.signed_rank import EXACT, lean_of

# What scipy.stats.wilcoxon (1.17.1) says: exact; of more than EXACT the normal approximation with correction.
OF_SCIPY = {
    "all one way": ([1, 2, 3, 4, 5, 6], 0.03125),
    "mixed": ([1.5, -0.3, 2.2, 0.7, -1.1, 3.0, 2.4, 0.9], 0.078125),
    "with an equal pair": ([0, 1.5, -0.3, 2.2, 0.7, -1.1, 3.0, 2.4, 0.9], 0.078125),
    "many": ([number for number in range(-20, 41) if number], 0.00020386339085503644),
    "many, with ties": ([1] * 20 + [2] * 15 + [-1] * 12, 5.3065612812602835e-05),
}


@pytest.mark.parametrize(("differences", "known"), OF_SCIPY.values(), ids=OF_SCIPY)
def test_the_test_gives_what_others_get(differences, known):
    assert lean_of(differences).p_value == pytest.approx(known, rel=1e-12)
    assert lean_of([-one for one in differences]).p_value == pytest.approx(known, rel=1e-12)


def ranks_above(differences):
    """Return the sum of the ranks above 0 by their definition: of equal sizes the middle one."""
    sizes = sorted(map(abs, differences))
    return sum(
        (sizes.index(one) + 1 + sizes.index(one) + sizes.count(one)) / 2 for one in differences if one > 0
    )  # fmt: skip


whole = st.lists(st.integers(-4, 4).filter(bool), min_size=1, max_size=8)


@given(whole)
def test_of_few_differences_every_way_of_leaning_is_counted(differences):
    middle = len(differences) * (len(differences) + 1) / 4
    far = abs(ranks_above(differences) - middle)
    ways = [
        abs(ranks_above([sign * one for sign, one in zip(signs, differences, strict=True)]) - middle) >= far
        for signs in product((1, -1), repeat=len(differences))
    ]

    found = lean_of(differences)

    assert found.p_value == pytest.approx(sum(ways) / len(ways))
    assert found.share == pytest.approx(ranks_above(differences) / (2 * middle))


def test_what_never_differs_leans_to_neither_side():
    assert lean_of([]) == lean_of([0.0] * 50) == (0.5, 1.0)


@pytest.mark.parametrize(("size", "is_counted"), [(EXACT, True), (EXACT + 1, False)])
def test_so_many_are_counted_out_and_no_more(size, is_counted):
    drawn = random.Random(7)
    found = lean_of([drawn.gauss(0.4, 1) for _ in range(size)])

    ways = found.p_value * 2**size
    assert (ways == int(ways)) is is_counted

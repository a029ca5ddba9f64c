"""The test of Wilcoxon (Biometrics Bulletin 1, 1945, p. 80): whether the differences of pairs lean to one side.

It is the one for what was measured side by side, such as two models in the same round: what differs between the pairs
themselves, such as a card that grows warm, does not enter. Up to EXACT differences chance is counted
out, equal sizes included; beyond, it is the normal approximation with the corrections for equal sizes and for
continuity (Lehmann, Nonparametrics, 1975, chapter 3). A difference of 0 speaks for neither side and is left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import erfc, sqrt
from typing import NamedTuple

EXACT = 25  # counting out so many takes less than 1 ms (measured), and the time grows with their third power


class Lean(NamedTuple):
    """To which side differences lean.

    share    what part of the ranks belongs to differences above 0: 0.5 where they lean to neither side
    p_value  how often chance alone would make them lean as far, to either side, 0 to 1
    """

    share: float
    p_value: float


def lean_of(differences: Iterable[float]) -> Lean:
    """Return to which side differences lean, and how often chance alone would make them.

    >>> lean_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    Lean(share=1.0, p_value=0.03125)
    """
    ranks, above = _ranked(differences)
    if not ranks:
        return Lean(0.5, 1.0)
    chance = _exact_p if len(ranks) <= EXACT else _approximate_p
    return Lean(above / sum(ranks), chance(ranks, above))


def share_above(differences: Iterable[float]) -> float:
    """Return what lean_of calls share, without counting out what chance would do."""
    ranks, above = _ranked(differences)
    return above / sum(ranks) if ranks else 0.5


def _ranked(differences: Iterable[float]) -> tuple[list[int], int]:
    """Return twice the rank of each size, and their sum over the differences above 0.

    Equal sizes share the middle of their ranks, which can be half a rank: therefore twice.
    """
    known = [difference for difference in differences if difference]
    ranks, of_size = list[int](), dict[float, int]()
    for size, ties in sorted(Counter(map(abs, known)).items()):
        of_size[size] = 2 * len(ranks) + ties + 1
        ranks += [of_size[size]] * ties
    return ranks, sum(of_size[one] for one in known if one > 0)


def _exact_p(ranks: list[int], above: int) -> float:
    """Count the ways of giving each rank to one side or the other that lean as far, or farther."""
    ways: dict[int, int] = {0: 1}
    for rank in ranks:
        more: dict[int, int] = defaultdict(int)
        for total, number in ways.items():
            more[total] += number
            more[total + rank] += number
        ways = more
    together = sum(ranks)
    far = abs(2 * above - together)
    far_ways = sum(number for total, number in ways.items() if abs(2 * total - together) >= far)
    return far_ways / float(2 ** len(ranks))


def _approximate_p(ranks: list[int], above: int) -> float:
    size = len(ranks)
    equal = sum(ties**3 - ties for ties in Counter(ranks).values())
    variance = size * (size + 1) * (2 * size + 1) / 24 - equal / 48
    from_middle = abs(2 * above - sum(ranks)) / 4  # the ranks are twice what they are
    return erfc(max(0.0, from_middle - 0.5) / sqrt(2 * variance))

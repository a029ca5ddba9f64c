"""Whether what was measured of several models differs by more than chance would show, and which of them is ahead.

Values (times, speeds, ratings) are compared by the test of Mann and Whitney (1947): of all pairs of one value of each,
in how many is the one ahead? It asks nothing of how the values lie, so one outlier decides nothing. Up to EXACT values
of both together chance is counted out, equal values included; beyond, it is the normal approximation with the
corrections for equal values and for continuity (Lehmann, Nonparametrics, 1975, chapter 1). Values that were measured
side by side are compared in their pairs, by the test of Wilcoxon (signed_rank.py).

Rates are compared by the interval of their difference that Newcombe (Statistics in Medicine 17, 1998, p. 873) calls
method 10, made of two intervals of Wilson (1927): it holds also where all succeeded, or none.

Of more than two, the one that is ahead must be ahead of each other one of which there is anything to compare. The more
others, the sooner chance shows one such difference, which Holm's procedure (1979) makes up for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import comb, erfc, sqrt
from typing import Any, Literal, TypeVar

from model_core.records import Record
from model_core.signed_rank import lean_of

T = TypeVar("T")

ALPHA = 0.05  # a difference is real where chance alone would show as much in 5 of 100 cases or fewer
LEAST = 5  # values of each; of 4, chance puts all those of one before those of the other in 3 of 100 cases
EXACT = 20  # counting out so many takes some 5 ms, and four more take twice as long (measured)

# How often each value was seen. A value that stands for others like it, such as a bucket's, is good enough.
Values = Mapping[float, int] | Mapping[int, int]

MANN_WHITNEY = "Mann-Whitney U test"
WILCOXON = "Wilcoxon signed-rank test"
NEWCOMBE = "Newcombe's interval of the difference of two rates"


class Judgement(Record):
    """What can be said of a difference.

    winner   the model that is ahead of every other by more than chance would show; None where there is none
    word     real: there is a winner; noise: chance would show as much; too_few: there are too few values to tell
    p_value  how often chance alone would show as much, 0 to 1; None where there are too few values
    test     what decided
    text     the same as a sentence
    sizes    how many values each model has
    """

    winner: str | None
    word: Literal["real", "noise", "too_few"]
    p_value: float | None
    test: str
    text: str
    sizes: dict[str, int]


@dataclass(frozen=True)
class _Duel:
    """How the best stands to one rival, in words, and how often chance alone would show as much."""

    text: str
    p_value: float


def judge(samples: Mapping[str, Values], *, higher_is_better: bool) -> Judgement:
    """Return whether one of several models is better than every other.

    samples  the values of each model, such as collections.Counter makes them of a list

    Raises ValueError for fewer than two models.

    >>> fast, slow = dict.fromkeys((1.0, 1.1, 1.2, 1.3, 1.4), 1), dict.fromkeys((2.0, 2.1, 2.2, 2.3, 1.35), 1)
    >>> found = judge({"1b": fast, "8b": slow}, higher_is_better=False)
    >>> found.winner, round(found.p_value, 4)
    ('1b', 0.0159)
    """
    sizes = {model: sum(values.values()) for model, values in samples.items()}
    samples = _comparable(samples, sizes)
    if few := _too_few(sizes, "values", MANN_WHITNEY, samples):
        return few
    share = {
        (one, other): _share_ahead(samples[one], samples[other], higher_is_better)
        for one in samples
        for other in samples
        if one != other
    }
    best = _best(samples, lambda one, other: share[one, other])
    duels = [
        _Duel(
            f"{best} beats {rival} in {100 * share[best, rival]:.0f} of 100 pairs",
            p_of_values(samples[best], samples[rival]) if share[best, rival] > 0.5 else 1.0,
        )
        for rival in samples
        if rival != best
    ]
    return _judged(best, duels, MANN_WHITNEY, sizes)


def judge_pairs(samples: Mapping[str, Mapping[Hashable, float]], *, higher_is_better: bool) -> Judgement:
    """Return whether one of several models is better than every other, by what was measured side by side.

    samples  of each model its values, by what it shares with those of the others, such as round and prompt

    Raises ValueError for fewer than two models.

    >>> fast, slow = dict.fromkeys(range(6), 40.0), dict.fromkeys(range(6), 9.0)
    >>> found = judge_pairs({"1b": fast, "8b": slow}, higher_is_better=True)
    >>> found.winner, found.p_value
    ('1b', 0.03125)
    """
    sizes = {model: len(values) for model, values in samples.items()}
    samples = _comparable(samples, sizes)
    gains = {
        (one, other): _gains(samples[one], samples[other], higher_is_better)
        for one in samples
        for other in samples
        if one != other
    }
    if few := _too_few_pairs(sizes, min(map(len, gains.values())), len(samples) - 1):
        return few
    lean = {pair: lean_of(values) for pair, values in gains.items()}
    best = _best(samples, lambda one, other: lean[one, other].share)
    duels = [
        _Duel(
            f"{best} is ahead of {rival} in {sum(gain > 0 for gain in gains[best, rival])} "
            f"of {len(gains[best, rival])} pairs",
            lean[best, rival].p_value if lean[best, rival].share > 0.5 else 1.0,
        )
        for rival in samples
        if rival != best
    ]
    return _judged(best, duels, WILCOXON, sizes)


def judge_rates(rates: Mapping[str, tuple[int, int]], what: str = "uses") -> Judgement:
    """Return whether one of several models succeeds more often than every other.

    rates  of each model its successes, and out of how many
    what   of what they are counted, in the sentence

    Raises ValueError for fewer than two models.
    """
    sizes = {model: tries for model, (_, tries) in rates.items()}
    rates = _comparable(rates, sizes)
    if few := _too_few(sizes, what, NEWCOMBE, rates):
        return few
    best = max(rates, key=lambda model: rates[model][0] / rates[model][1])
    won, tries = rates[best]
    duels = [
        _Duel(
            f"{best} succeeded in {won:,} of {tries:,} {what}, {rival} in {rival_won:,} of {rival_tries:,}",
            p_of_rates(rates[best], (rival_won, rival_tries)),
        )
        for rival, (rival_won, rival_tries) in rates.items()
        if rival != best
    ]
    return _judged(best, duels, NEWCOMBE, sizes)


# --- one against every other -----------------------------------------------------------------------------------------


def _comparable(of_models: Mapping[str, T], sizes: Mapping[str, int]) -> Mapping[str, T]:
    """Return what is known of the models of which anything is; of all where that leaves nothing to compare."""
    if len(sizes) < 2:
        raise ValueError("two models or more are compared")
    known = {model: of_models[model] for model, size in sizes.items() if size}
    return known if len(known) > 1 else of_models


def _best(models: Iterable[str], share_ahead: Callable[[str, str], float]) -> str:
    """Return the one that stands best to the rival that it stands worst to: only that one can be ahead of all."""
    models = list(models)
    return max(models, key=lambda one: min(share_ahead(one, other) for other in models if other != one))


def _judged(best: str, duels: Sequence[_Duel], test: str, sizes: dict[str, int]) -> Judgement:
    p_value = _of_all(duel.p_value for duel in duels)
    is_real = p_value <= ALPHA
    nearest = max(duels, key=lambda duel: duel.p_value)
    said = f"{nearest.text}, and chance alone would show as much in {_cases(p_value)}.{_left_out(sizes)}"
    return Judgement(
        winner=best if is_real else None,
        word="real" if is_real else "noise",
        p_value=p_value,
        test=test,
        text=said if is_real else f"No difference that can be told from chance: {said}",
        sizes=sizes,
    )


def _of_all(p_values: Iterable[float]) -> float:
    """Return how often chance would show all of these differences where it shows each so often (Holm)."""
    ordered = sorted(p_values)
    return min(1.0, max((len(ordered) - place) * p_value for place, p_value in enumerate(ordered)))


def _left_out(sizes: Mapping[str, int]) -> str:
    empty = [model for model, size in sizes.items() if not size]
    return f" Of {', '.join(empty)} there is nothing to compare." if empty else ""


def _too_few(sizes: dict[str, int], what: str, test: str, compared: Iterable[str]) -> Judgement | None:
    compared = list(compared)
    needed = least_of_each(len(compared) - 1)
    if min(sizes[model] for model in compared) >= needed:
        return None
    had = ", ".join(f"{model} has {size or 'none'}" for model, size in sizes.items())
    text = f"Too few {what} to tell: {had}; {needed} of each are needed."
    return Judgement(winner=None, word="too_few", p_value=None, test=test, text=text, sizes=sizes)


def _too_few_pairs(sizes: dict[str, int], fewest: int, rivals: int) -> Judgement | None:
    needed = least_of_pairs(rivals)
    if fewest >= needed:
        return None
    text = f"Too few values to tell: {fewest or 'none'} were measured side by side; {needed} are needed."
    return Judgement(winner=None, word="too_few", p_value=None, test=WILCOXON, text=text, sizes=sizes)


def least_of_each(rivals: int) -> int:
    """Return how many values of each model are needed: with fewer, not even the clearest order would be proof.

    >>> least_of_each(1), least_of_each(6), least_of_each(9)
    (5, 5, 6)
    """
    return next(size for size in count(LEAST) if rivals * 2 / comb(2 * size, size) <= ALPHA)


def least_of_pairs(rivals: int) -> int:
    """Return how many pairs are needed: with fewer, not even the clearest order would be proof.

    >>> least_of_pairs(1), least_of_pairs(2), least_of_pairs(7)
    (6, 7, 9)
    """
    return next(size for size in count(LEAST) if rivals * 2 / 2**size <= ALPHA)


def _cases(p_value: float) -> str:
    if p_value < 0.001:
        return "fewer than 1 of 1,000 cases"
    return f"{1000 * p_value:.0f} of 1,000 cases" if p_value < 0.01 else f"{100 * p_value:.0f} of 100 cases"


# --- values ----------------------------------------------------------------------------------------------------------


def _share_ahead(one: Values, other: Values, higher_is_better: bool) -> float:
    """Return in what share of all pairs the value of one is the better; a pair of equal values counts half."""
    above = _ranked(one, other).pairs_above / (2 * sum(one.values()) * sum(other.values()))
    return above if higher_is_better else 1 - above


def p_of_values(one: Values, other: Values) -> float:
    """Return how often chance alone would put two samples as far apart as they are, 0 to 1 (two-sided)."""
    ranked = _ranked(one, other)
    return ranked.exact_p() if ranked.size + ranked.other_size <= EXACT else ranked.approximate_p()


@dataclass(frozen=True)
class _Ranked:
    """Two samples in one order.

    ties         how often each value was seen in both together, in the order of the values
    pairs_above  twice the pairs in which the value of the one is above, plus those in which both are equal: twice U
    """

    size: int
    other_size: int
    ties: tuple[int, ...]
    pairs_above: int

    @property
    def _from_middle(self) -> int:
        return abs(self.pairs_above - self.size * self.other_size)

    def approximate_p(self) -> float:
        together = self.size + self.other_size
        equal = sum(tie**3 - tie for tie in self.ties)
        variance = self.size * self.other_size / 12 * (together + 1 - equal / (together * (together - 1)))
        if variance <= 0:  # every value is the same
            return 1.0
        return erfc(max(0.0, self._from_middle / 2 - 0.5) / sqrt(2 * variance))

    def exact_p(self) -> float:
        """Count the ways of dealing out the values to the two in which U is as far from its middle, or farther."""
        ways: dict[tuple[int, int], int] = {(0, 0): 1}  # by how many went to the one, and twice U so far
        below = 0
        for tie in self.ties:
            more: dict[tuple[int, int], int] = defaultdict(int)
            for (dealt, pairs), number in ways.items():
                for here in range(min(tie, self.size - dealt) + 1):
                    above = here * (2 * (below - dealt) + tie - here)
                    more[dealt + here, pairs + above] += number * comb(tie, here)
            ways, below = more, below + tie
        middle, far = self.size * self.other_size, self._from_middle
        far_ways = sum(n for (dealt, pairs), n in ways.items() if dealt == self.size and abs(pairs - middle) >= far)
        return far_ways / comb(below, self.size)


def _ranked(one: Mapping[Any, int], other: Mapping[Any, int]) -> _Ranked:
    pairs_above = others_below = 0
    ties = []
    for value in sorted(one.keys() | other.keys()):
        here, there = one.get(value, 0), other.get(value, 0)
        pairs_above += here * (2 * others_below + there)
        others_below += there
        ties.append(here + there)
    return _Ranked(sum(one.values()), others_below, tuple(ties), pairs_above)


# --- pairs of values -------------------------------------------------------------------------------------------------


def _gains(one: Mapping[Hashable, float], other: Mapping[Hashable, float], higher_is_better: bool) -> list[float]:
    """Return by how much the one is better, in each pair that is whole."""
    sign = 1 if higher_is_better else -1
    return [sign * (value - other[pair]) for pair, value in one.items() if pair in other]


# --- rates -----------------------------------------------------------------------------------------------------------


def p_of_rates(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Return at which level Newcombe's interval of the difference just reaches 0: how often chance shows as much."""
    low, high = sorted((one, other), key=lambda rate: rate[0] / rate[1])
    difference = high[0] / high[1] - low[0] / low[1]
    if difference == 0:
        return 1.0
    narrow, wide = 0.0, 40.0  # in standard deviations; 40 of them leave 0 to chance
    for _ in range(60):
        middle = (narrow + wide) / 2
        narrow, wide = (middle, wide) if newcombe_interval(high, low, middle)[0] > 0 else (narrow, middle)
    return erfc(narrow / sqrt(2))


def newcombe_interval(one: tuple[int, int], other: tuple[int, int], deviations: float) -> tuple[float, float]:
    """Return between which bounds the difference of two rates lies, for a confidence of so many standard deviations.

    >>> [round(bound, 4) for bound in newcombe_interval((56, 70), (48, 80), 1.959964)]
    [0.0524, 0.3339]
    """
    rate, other_rate = one[0] / one[1], other[0] / other[1]
    (low, high), (other_low, other_high) = wilson_interval(*one, deviations), wilson_interval(*other, deviations)
    difference = rate - other_rate
    return (
        difference - sqrt((rate - low) ** 2 + (other_high - other_rate) ** 2),
        difference + sqrt((high - rate) ** 2 + (other_rate - other_low) ** 2),
    )


def wilson_interval(won: int, tries: int, deviations: float) -> tuple[float, float]:
    """Return between which bounds a rate lies, for a confidence of so many standard deviations.

    >>> [round(bound, 3) for bound in wilson_interval(10, 10, 1.959964)]
    [0.722, 1.0]
    """
    rate, square = won / tries, deviations**2
    centre = (rate + square / (2 * tries)) / (1 + square / tries)
    reach = deviations / (1 + square / tries) * sqrt(rate * (1 - rate) / tries + square / (4 * tries**2))
    return centre - reach, centre + reach

"""Whether what was measured of several models differs by more than chance would show, and which of them is ahead.

Values (times, speeds, ratings) are compared by the test of Mann and Whitney (1947): of all pairs of one value of each,
in how many is the one ahead? It asks nothing of how the values lie, so one outlier decides nothing. Up to EXACT values
of both together chance is counted out, equal values included; beyond, it is the normal approximation with the
corrections for equal values and for continuity (Lehmann, Nonparametrics, 1975, chapter 1).

Values that were measured side by side, round after round, are compared in their pairs by the test of Wilcoxon
(signed_rank.py). A round counts once: what disturbs one answer of it disturbs its neighbours, and to count each would
be to count the disturbance several times.

Rates are compared by Fisher's exact test (1935): of all ways of dealing out as many successes to as many uses, in how
many are the two as unequal, or more? Where those are too many to count, it is the normal approximation, corrected for
continuity (Yates 1934).

Of more than two, the one that is ahead must be ahead of each other one of which there is anything to compare. The more
others, the sooner chance shows one such difference, which Holm's procedure (1979) makes up for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import comb, erfc, sqrt
from statistics import median
from typing import Any, Literal, TypeVar

from model_core.records import Record
from model_core.signed_rank import lean_of, share_above

T = TypeVar("T")

ALPHA = 0.05  # a difference is real where chance alone would show as much in 5 of 100 cases or fewer
LEAST = 5  # values of each; of 4, chance puts all those of one before those of the other in 3 of 100 cases
EXACT = 20  # counting out so many takes some 5 ms, and four more take twice as long (measured)

# How often each value was seen. A value that stands for others like it, such as a bucket's, is good enough.
Values = Mapping[float, int] | Mapping[int, int]

MANN_WHITNEY = "Mann-Whitney U test"
WILCOXON = "Wilcoxon signed-rank test"
FISHER = "Fisher's exact test"

# Of one model, by the round in which they were measured: the values, by what was asked.
Rounds = Mapping[Hashable, Mapping[Hashable, float]]


class Judgement(Record):
    """What can be said of a difference.

    winner   the model that is ahead of every other by more than chance would show; None where there is none
    word     real: there is a winner; noise: chance would show as much; too_few: there are too few values to tell
    p_value  how often chance alone would show as much, 0 to 1; None where there are too few values
    test     what decided
    text     the same as a sentence
    sizes    how many values each model has, or rounds
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


def judge_rounds(samples: Mapping[str, Rounds], *, higher_is_better: bool) -> Judgement:
    """Return whether one of several models is better than every other, by what was measured side by side.

    Raises ValueError for fewer than two models.

    >>> fast, slow = ({number: {"prompt": rate} for number in range(6)} for rate in (40.0, 9.0))
    >>> found = judge_rounds({"1b": fast, "8b": slow}, higher_is_better=True)
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
    if few := _too_few_rounds(sizes, min(map(len, gains.values())), len(samples) - 1):
        return few
    best = _best(samples, lambda one, other: share_above(gains[one, other]))
    duels = [_duel_of_rounds(best, rival, gains[best, rival]) for rival in samples if rival != best]
    return _judged(best, duels, WILCOXON, sizes)


def _duel_of_rounds(best: str, rival: str, gains: Sequence[float]) -> _Duel:
    lean = lean_of(gains)
    return _Duel(
        f"{best} is ahead of {rival} in {sum(gain > 0 for gain in gains)} of {len(gains)} rounds",
        lean.p_value if lean.share > 0.5 else 1.0,
    )


def judge_rates(rates: Mapping[str, tuple[int, int]], what: str = "uses") -> Judgement:
    """Return whether one of several models succeeds more often than every other.

    rates  of each model its successes, and out of how many
    what   of what they are counted, in the sentence

    Raises ValueError for fewer than two models.
    """
    sizes = {model: tries for model, (_, tries) in rates.items()}
    rates = _comparable(rates, sizes)
    if few := _too_few(sizes, what, FISHER, rates):
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
    return _judged(best, duels, FISHER, sizes)


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


def _too_few_rounds(sizes: dict[str, int], fewest: int, rivals: int) -> Judgement | None:
    needed = least_of_rounds(rivals)
    if fewest >= needed:
        return None
    had = "no round was" if not fewest else "1 round was" if fewest == 1 else f"{fewest} rounds were"
    text = f"Too few rounds to tell: {had} measured side by side; {needed} are needed."
    return Judgement(winner=None, word="too_few", p_value=None, test=WILCOXON, text=text, sizes=sizes)


def least_of_each(rivals: int) -> int:
    """Return how many values of each model are needed: with fewer, not even the clearest order would be proof.

    >>> least_of_each(1), least_of_each(6), least_of_each(9)
    (5, 5, 6)
    """
    return next(size for size in count(LEAST) if rivals * 2 / comb(2 * size, size) <= ALPHA)


def least_of_rounds(rivals: int) -> int:
    """Return how many rounds are needed: with fewer, not even the clearest order would be proof.

    >>> least_of_rounds(1), least_of_rounds(2), least_of_rounds(7)
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


# --- rounds ----------------------------------------------------------------------------------------------------------


def _gains(one: Rounds, other: Rounds, higher_is_better: bool) -> list[float]:
    """Return by how much the one is better in each round, in the middle of what both were asked."""
    sign = 1 if higher_is_better else -1
    shared = [(values, other[number]) for number, values in one.items() if number in other]
    gains = [[sign * (here[asked] - there[asked]) for asked in here if asked in there] for here, there in shared]
    return [median(of_round) for of_round in gains if of_round]


# --- rates -----------------------------------------------------------------------------------------------------------

# Up to so wide a spread of the ways, in successes, they are counted: ten times as far lies nothing that counts.
_COUNTED_SPREAD = 100
# Ways that are as likely differ in the last digits only, by how they were reckoned.
_AS_LIKELY = 1 + 1e-9


def p_of_rates(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Return how often chance alone would make two rates as unequal as they are, 0 to 1 (two-sided).

    A rate is its successes, and out of how many.

    >>> round(p_of_rates((5, 5), (2, 5)), 4)
    0.1667
    """
    ways = _Ways(one[0] + other[0], one[1], other[1])
    return ways.exact_p(one[0]) if ways.spread <= _COUNTED_SPREAD else ways.approximate_p(one[0])


@dataclass(frozen=True)
class _Ways:
    """How many of so many successes fall to the one, if chance deals them out (the hypergeometric distribution)."""

    successes: int
    tries: int
    other_tries: int

    @property
    def middle(self) -> float:
        return self.successes * self.tries / (self.tries + self.other_tries)

    @property
    def spread(self) -> float:
        """The standard deviation."""
        together = self.tries + self.other_tries
        failures = together - self.successes
        return sqrt(self.middle * (failures / together) * (self.other_tries / max(1, together - 1)))

    def exact_p(self, won: int) -> float:
        """Add up all outcomes that are as unlikely as this one, or more."""
        least, most = max(0, self.successes - self.other_tries), min(self.successes, self.tries)
        start = min(max(round(self.middle), least), most)
        likely = dict([*self._likelihoods(start, most, 1), *self._likelihoods(start, least, -1)])
        limit = likely.get(won, 0.0) * _AS_LIKELY
        return min(1.0, sum(one for one in likely.values() if one <= limit) / sum(likely.values()))

    def _likelihoods(self, start: int, end: int, step: int) -> Iterable[tuple[int, float]]:
        """Yield outcomes with how likely each is beside the first, until that is next to nothing."""
        likely = 1.0
        for won in range(start, end + step, step):
            yield won, likely
            likely *= self._next_to(won, step)
            if likely < 1e-300:
                return

    def _next_to(self, won: int, step: int) -> float:
        """Return how much more likely the next outcome is."""
        of_other = self.successes - won
        if step > 0:
            return of_other * (self.tries - won) / ((won + 1) * (self.other_tries - of_other + 1))
        return won * (self.other_tries - of_other) / ((of_other + 1) * (self.tries - won + 1))

    def approximate_p(self, won: int) -> float:
        return erfc(max(0.0, abs(won - self.middle) - 0.5) / (self.spread * sqrt(2)))

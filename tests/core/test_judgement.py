"""A winner is named only where chance alone would hardly show as much, and the reckoning is that of the textbooks."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.judgement import (
    ALPHA,
    LEAST,
    judge,
    judge_rates,
    judge_rounds,
    least_of_each,
    least_of_rounds,
    p_of_rates,
    p_of_values,
)


def p(one, other):
    return p_of_values(Counter(one), Counter(other))


def judged(higher_is_better=False, **samples):
    return judge({model: Counter(values) for model, values in samples.items()}, higher_is_better=higher_is_better)


# --- the test of Mann and Whitney ------------------------------------------------------------------------------------

# What scipy.stats.mannwhitneyu (1.17.1) says.
OF_SCIPY = {
    "all apart": ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 0.007936507936507936),
    "mixed": ([1.1, 2.3, 3.7, 4.2, 9.5], [2.2, 3.9, 5.1, 6.6, 7.3, 8.8], 0.42857142857142855),
    "8 and 9": (
        [3.1, 0.2, 4.4, 1.7, 2.8, 6.0, 5.5, 7.1],
        [6.3, 2.9, 8.8, 9.1, 4.9, 7.7, 5.2, 3.3, 8.1],
        0.059234882764294526,
    ),
    "many, with ties": ([1] * 10 + [2] * 20 + [3] * 5, [1] * 4 + [2] * 15 + [3] * 20, 0.0007456278366854182),
    "many, shifted": (list(range(30)), [number + 4.5 for number in range(25)], 0.4027596942538769),
    "many, the same": ([1, 2, 3] * 10, [1, 2, 3] * 8, 1.0),
    "all but one the same": ([1.0] * 12, [1.0] * 11 + [2.0], 0.3593173383295707),
}


@pytest.mark.parametrize(("one", "other", "known"), OF_SCIPY.values(), ids=OF_SCIPY)
def test_the_test_gives_what_others_get(one, other, known):
    assert p(one, other) == pytest.approx(known, rel=1e-12)
    assert p(other, one) == pytest.approx(known, rel=1e-12)


def pairs_won(one, other):
    return sum((a > b) + (a == b) / 2 for a in one for b in other)


small = st.lists(st.integers(0, 4), min_size=1, max_size=5)


@given(small, small)
def test_of_few_values_every_way_of_dealing_them_out_is_counted(one, other):
    together, middle = [*one, *other], len(one) * len(other) / 2
    far, ways = abs(pairs_won(one, other) - middle), 0
    for dealt in combinations(range(len(together)), len(one)):
        here = [together[place] for place in dealt]
        there = [value for place, value in enumerate(together) if place not in dealt]
        ways += abs(pairs_won(here, there) - middle) >= far

    assert p(one, other) == pytest.approx(ways / comb(len(together), len(one)))


def test_values_that_are_all_the_same_differ_in_nothing():
    assert p([1] * 5, [1] * 5) == 1.0
    assert p([1] * 500, [1] * 500) == 1.0


def test_a_million_values_are_no_more_work_than_their_buckets():
    assert p_of_values({1.0: 10**6, 2.0: 10**6}, {1.0: 10**6, 2.0: 10**6 + 10**4}) < 0.001
    assert p_of_values({1.0: 10**15}, {2.0: 10**15}) == 0.0


# --- who is ahead ----------------------------------------------------------------------------------------------------


def test_the_one_that_is_clearly_better_wins():
    found = judged(fast=[1.0, 1.1, 1.2, 1.3, 1.4], slow=[2.0, 2.1, 2.2, 2.3, 1.35])

    assert (found.winner, found.word, found.sizes) == ("fast", "real", {"fast": 5, "slow": 5})
    assert found.text == "fast beats slow in 96 of 100 pairs, and chance alone would show as much in 2 of 100 cases."


def test_where_more_is_better_the_other_one_wins():
    assert judged(fast=range(5), slow=range(9, 14), higher_is_better=True).winner == "slow"
    assert judged(fast=range(5), slow=range(9, 14), higher_is_better=False).winner == "fast"


def test_what_chance_would_show_as_well_is_no_win():
    found = judged(one=[1.0, 1.4, 1.2, 1.9, 1.1], other=[1.3, 1.5, 1.05, 2.0, 1.6])

    assert (found.winner, found.word) == (None, "noise")
    assert found.p_value > ALPHA
    assert found.text.startswith("No difference that can be told from chance: one beats other in 68 of 100 pairs")


def test_one_outlier_decides_nothing():
    usual = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]

    assert judged(one=usual, other=[*usual[:-1], 10**9]).winner is None


@pytest.mark.parametrize("few", [[], [1.0], [1.0] * (LEAST - 1)])
def test_too_few_values_tell_nothing_however_far_apart_they_are(few):
    found = judged(one=few, other=[9.0] * 100)

    assert (found.winner, found.word, found.p_value) == (None, "too_few", None)
    assert f"one has {len(few) or 'none'}, other has 100; {LEAST} of each are needed." in found.text


def test_a_model_of_which_nothing_is_known_hides_no_difference_of_the_others():
    fast, slow = [1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4]

    found = judged(fast=fast, new=[], slow=slow)
    rates = judge_rates({"often": (98, 100), "new": (0, 0), "seldom": (80, 100)})
    pairs = side_by_side(higher_is_better=False, new=[], slow=[*slow, 2.5], fast=[*fast, 1.5])

    assert (found.winner, rates.winner, pairs.winner) == ("fast", "often", "fast")
    for judgement in (found, rates, pairs):
        assert judgement.text.endswith("Of new there is nothing to compare.")
        assert judgement.sizes["new"] == 0


@pytest.mark.parametrize("rivals", range(1, 10))
def test_as_few_as_are_asked_for_can_be_proof(rivals):
    size = least_of_each(rivals)
    samples = {f"m{number}": Counter(range(100 * number, 100 * number + size)) for number in range(rivals + 1)}

    assert judge(samples, higher_is_better=False).winner == "m0"


def test_of_several_the_best_must_beat_each_of_the_others():
    slow, best, near = range(50, 60), range(10), [number + 0.5 for number in range(10)]

    assert judged(slow=slow, best=best).winner == "best"
    found = judged(slow=slow, best=best, near=near)
    assert (found.winner, found.word) == (None, "noise")
    assert "best beats near" in found.text


def test_who_is_beaten_by_one_is_no_winner_though_ahead_of_all_together():
    steady, changing, low = {10: 1000}, {11: 550, 0: 450}, {1: 1000}

    found = judge({"steady": steady, "changing": changing, "low": low}, higher_is_better=True)

    assert found.winner == "changing"  # by little, but ahead of each


def test_where_each_is_beaten_by_another_nobody_wins():
    found = judge({"a": {2: 1, 4: 1, 9: 1}, "b": {1: 1, 6: 1, 8: 1}, "c": {3: 1, 5: 1, 7: 1}}, higher_is_better=True)
    assert found.word == "too_few"

    found = judge(
        {"a": {2: 99, 4: 99, 9: 99}, "b": {1: 99, 6: 99, 8: 99}, "c": {3: 99, 5: 99, 7: 99}}, higher_is_better=True
    )
    assert (found.winner, found.word, found.p_value) == (None, "noise", 1.0)


def test_the_more_others_there_are_the_clearer_the_difference_must_be():
    best, others = range(10), [number + 4.6 for number in range(10)]
    assert judged(best=best, other=others).winner == "best"

    rivals = {f"rival{number}": [value + number / 100 for value in others] for number in range(9)}

    assert judged(best=best, **rivals).winner is None


many = st.lists(st.integers(0, 30), min_size=LEAST, max_size=15)


@given(many, many, st.booleans())
def test_it_does_not_matter_who_is_named_first(one, other, higher_is_better):
    first = judged(one=one, other=other, higher_is_better=higher_is_better)
    second = judged(other=other, one=one, higher_is_better=higher_is_better)

    assert (first.winner, first.p_value) == (second.winner, second.p_value)


@given(many, many)
def test_a_winner_beats_the_other_in_most_pairs_and_by_more_than_chance(one, other):
    found = judged(one=one, other=other, higher_is_better=True)

    winner = {"one": (one, other), "other": (other, one)}.get(found.winner)
    assert (found.winner is None) == (found.p_value > ALPHA)
    if winner:
        assert pairs_won(*winner) > len(one) * len(other) / 2


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 9), max_size=12), min_size=2), st.booleans())
def test_whatever_is_compared_the_judgement_is_whole(samples, higher_is_better):
    found = judged(**samples, higher_is_better=higher_is_better)

    assert (found.winner is not None) == (found.word == "real")
    assert (found.p_value is None) == (found.word == "too_few")
    assert found.p_value is None or 0 <= found.p_value <= 1
    assert found.text.endswith(".")
    assert found.sizes == {model: len(values) for model, values in samples.items()}


def test_one_model_alone_is_not_compared():
    with pytest.raises(ValueError, match="two models"):
        judged(one=range(9))
    with pytest.raises(ValueError, match="two models"):
        judge_rates({"one": (9, 9)})


@pytest.mark.parametrize(
    ("apart", "cases"), [(40, "fewer than 1 of 1,000 cases"), (8, "4 of 1,000 cases"), (6, "3 of 100 cases")]
)
def test_how_often_chance_would_show_as_much_is_said_in_whole_cases(apart, cases):
    found = judged(one=range(30), other=[number + apart - 0.5 for number in range(30)])

    assert found.text.endswith(f"{cases}.")


# --- rounds ----------------------------------------------------------------------------------------------------------


def side_by_side(higher_is_better=True, **samples):
    """Each value is that of a round, in which one thing was asked."""
    rounds = {model: {number: {"it": value} for number, value in enumerate(found)} for model, found in samples.items()}
    return judge_rounds(rounds, higher_is_better=higher_is_better)


def test_who_is_ahead_in_every_round_wins_however_much_the_rounds_differ():
    rounds = [1.0, 50.0, 900.0, 2.0, 60.0, 800.0]
    found = side_by_side(fast=[value * 1.1 for value in rounds], slow=rounds)

    assert (found.winner, found.word) == ("fast", "real")
    assert (
        found.text == "fast is ahead of slow in 6 of 6 rounds, and chance alone would show as much in 3 of 100 cases."
    )
    assert judged(fast=[value * 1.1 for value in rounds], slow=rounds).winner is None  # not side by side


def test_where_less_is_better_the_other_one_of_a_round_is_ahead():
    samples = {"one": range(1, 9), "other": range(2, 10)}

    assert side_by_side(**samples).winner == "other"
    assert side_by_side(**samples, higher_is_better=False).winner == "one"


def test_a_round_counts_once_however_much_was_asked_in_it():
    """Whatever struck one of them in its turn struck all it was asked."""
    asked = dict.fromkeys(range(50), 9.0)
    found = judge_rounds({"one": {1: asked}, "other": {1: dict.fromkeys(asked, 1.0)}}, higher_is_better=True)

    assert (found.winner, found.word, found.sizes) == (None, "too_few", {"one": 1, "other": 1})


def test_a_round_is_told_by_the_middle_of_what_both_were_asked():
    def rounds(**values):
        return dict.fromkeys(range(6), values)

    one = rounds(disturbed=0.0, short=9.0, long=2.0, only_here=0.0)
    other = rounds(short=8.0, long=1.0, disturbed=50.0, only_there=99.0)

    assert judge_rounds({"one": one, "other": other}, higher_is_better=True).winner == "one"


def test_a_round_that_is_not_whole_counts_for_nothing():
    one, other = ({number: {"it": value} for number in range(*at)} for value, at in ((9.0, (0, 4)), (1.0, (2, 30))))
    found = judge_rounds({"one": {**one, 7: {"else": 9.0}}, "other": other}, higher_is_better=True)

    assert (found.winner, found.word) == (None, "too_few")
    assert found.text == "Too few rounds to tell: 2 rounds were measured side by side; 6 are needed."
    assert found.sizes == {"one": 5, "other": 28}


@pytest.mark.parametrize(("shared", "words"), [(0, "no round was measured"), (1, "1 round was measured")])
def test_how_many_rounds_there_are_is_said(shared, words):
    found = side_by_side(one=[1.0] * shared, other=[2.0] * 9)

    assert words in found.text


def test_what_disturbs_a_whole_turn_is_seldom_called_real():
    """Two like models; each turn is 2 % faster or slower than the one before, and its answers are like each other."""
    drawn = random.Random(5)

    def rounds():
        turns = [drawn.gauss(40, 0.8) for _ in range(6)]
        return {number: {asked: drawn.gauss(turn, 0.2) for asked in range(3)} for number, turn in enumerate(turns)}

    found = [judge_rounds({"one": rounds(), "other": rounds()}, higher_is_better=True) for _ in range(500)]

    assert sum(one.word == "real" for one in found) / len(found) <= ALPHA


@pytest.mark.parametrize("rivals", range(1, 8))
def test_as_few_rounds_as_are_asked_for_can_be_proof(rivals):
    size = least_of_rounds(rivals)
    samples = {f"m{number}": [float(number)] * size for number in range(rivals + 1)}

    assert side_by_side(**samples, higher_is_better=False).winner == "m0"
    assert side_by_side(**{name: values[1:] for name, values in samples.items()}).word == "too_few"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=6, max_size=15), st.booleans())
def test_of_two_it_does_not_matter_who_is_named_first(rounds, higher_is_better):
    one, other = zip(*rounds, strict=True)
    first = side_by_side(one=one, other=other, higher_is_better=higher_is_better)
    second = side_by_side(other=other, one=one, higher_is_better=higher_is_better)

    assert (first.winner, first.p_value) == (second.winner, second.p_value)
    assert (first.winner is None) == (first.p_value > ALPHA)


def test_a_single_model_stands_beside_none():
    with pytest.raises(ValueError, match="two models"):
        side_by_side(one=range(9))


# --- rates -----------------------------------------------------------------------------------------------------------

# What scipy.stats.fisher_exact (1.17.1) says; the last is too much to count, and 0.4 in a million apart.
FISHER_OF_SCIPY = [
    ((500, 500), (4, 5), 0.009900990099009901),
    ((5, 5), (2, 5), 0.16666666666666666),
    ((15, 15), (11, 15), 0.09961685823754789),
    ((98, 100), (80, 100), 5.091232877726509e-05),
    ((9, 10), (3, 10), 0.019766611097880443),
    ((1, 6), (9, 11), 0.034502262443438916),  # two outcomes as likely to the last digit
    ((56, 70), (48, 80), 0.012521129749209154),
    ((0, 10), (0, 20), 1.0),
    ((50_300, 100_000), (50_000, 100_000), 0.18116548544759448),
]


@pytest.mark.parametrize(("one", "other", "known"), FISHER_OF_SCIPY)
def test_the_test_of_rates_gives_what_others_get(one, other, known):
    assert p_of_rates(one, other) == pytest.approx(known, rel=1e-5)
    assert p_of_rates(other, one) == pytest.approx(known, rel=1e-5)


rates = st.integers(1, 40).flatmap(lambda tries: st.tuples(st.integers(0, tries), st.just(tries)))


@given(rates, rates)
def test_every_way_of_dealing_out_the_successes_is_counted(one, other):
    successes, together = one[0] + other[0], one[1] + other[1]
    ways = [comb(one[1], won) * comb(other[1], successes - won) for won in range(successes + 1)]

    as_rare = sum(number for number in ways if number <= ways[one[0]])
    assert p_of_rates(one, other) == pytest.approx(as_rare / comb(together, successes))


@pytest.mark.parametrize(("tries", "other_tries"), [(5, 500), (6, 100), (8, 8), (6, 6)])
def test_like_models_are_called_different_no_more_often_than_is_said(tries, other_tries):
    """Of all outcomes of two models that succeed equally often, those that are called real."""

    def chance(won, out_of, rate):
        return comb(out_of, won) * rate**won * (1 - rate) ** (out_of - won)

    real = [
        (won, other_won)
        for won in range(tries + 1)
        for other_won in range(other_tries + 1)
        if p_of_rates((won, tries), (other_won, other_tries)) <= ALPHA
    ]
    for rate in (0.5, 0.8, 0.9, 0.95, 0.99):
        assert sum(chance(won, tries, rate) * chance(lost, other_tries, rate) for won, lost in real) <= ALPHA


def test_who_succeeds_more_often_wins():
    found = judge_rates({"seldom": (80, 100), "often": (98, 100)})

    assert (found.winner, found.sizes) == ("often", {"often": 100, "seldom": 100})
    assert found.text.startswith("often succeeded in 98 of 100 uses, seldom in 80 of 100, and chance alone")


def test_who_was_used_less_and_never_failed_is_ahead_of_who_often_does():
    assert judge_rates({"much": (100, 200), "seldom": (20, 20)}).winner == "seldom"


def test_a_failure_more_or_less_is_no_difference():
    assert judge_rates({"one": (19, 20), "other": (20, 20)}).word == "noise"
    assert judge_rates({"one": (20, 20), "other": (20, 20)}).p_value == 1.0


def test_a_rate_of_too_few_uses_tells_nothing():
    found = judge_rates({"one": (4, 4), "other": (0, 100)})

    assert (found.winner, found.word) == (None, "too_few")
    assert judge_rates({"one": (5, 5), "other": (0, 100)}).winner == "one"
    assert judge_rates({"one": (0, 0), "other": (5, 5)}).word == "too_few"


def test_the_rates_of_millions_are_told_apart():
    assert judge_rates({"one": (10**15, 10**15), "other": (10**15 // 2, 10**15)}).p_value == 0.0

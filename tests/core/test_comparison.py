"""Models stand side by side with what is on record of each, never with a figure that nobody took."""

from __future__ import annotations

import pytest

from model_core import usage
from model_core.comparison import METRICS, MOST_MODELS, check_different, check_metrics, check_models, compare
from model_core.errors import InvalidRequest
from model_core.judgement import FISHER, MANN_WHITNEY
from model_core.records import StoredModel, Usage
from model_core.usage import check_event

NOON = "2026-11-23T12:00:00.000000Z"
NOTHING = Usage()


def used(*events):
    model = StoredModel(name="m")
    for seconds, told in events:
        success = told.pop("success", True)
        model = usage.record(model, "here", "d", check_event(seconds, success, NOON, **told))
    return usage.whole(model.history)


def uses(number, seconds=1.0, **told):
    """So many uses, each a little slower than the one before."""
    return used(*[(seconds * (1 + place / 50), dict(told)) for place in range(number)])


def figure(of, metric):
    found = compare({"m": of, "other": NOTHING}, [metric])
    assert found.rows[1].figures.keys() == {metric}
    return found.rows[0].figures[metric]


# --- the figures -----------------------------------------------------------------------------------------------------


def test_every_metric_has_its_figure_and_how_many_it_rests_on():
    one = used(
        (1.0, {"tokens": 50, "quality_score": 4}),
        (2.0, {"tokens": 50}),
        (3.0, {}),
        (None, {}),
        (9.0, {"success": False}),
    )

    figures = {metric: figure(one, metric) for metric in METRICS}
    assert (figures["success_rate"].value, figures["success_rate"].size) == (0.8, 5)
    times = figures["inference_time"]
    assert (times.value, times.size, times.mean, times.mean_size) == (pytest.approx(2.0, rel=0.01), 3, 2.0, 3)
    assert (figures["tokens_per_second"].value, figures["tokens_per_second"].size) == (pytest.approx(100 / 3), 2)
    assert (figures["quality_score"].value, figures["quality_score"].size) == (4.0, 1)
    assert (figures["usage_count"].value, figures["usage_count"].size) == (5, 5)
    assert [found.text for found in figures.values()] == [
        "80 % of 5 uses",
        f"median {times.value:.2f} s of 3 times, mean 2.00 s of 3 times",
        "33.3 a second in 2 uses",
        "4.0 of 5 in 1 rating",
        "5 uses",
    ]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("success_rate", "never used"),
        ("inference_time", "no time on record"),
        ("tokens_per_second", "no tokens on record"),
        ("quality_score", "never rated"),
    ],
)
def test_where_nothing_is_on_record_there_is_no_figure_and_a_word_on_it(metric, words):
    found = figure(NOTHING, metric)

    assert (found.value, found.size, found.mean, found.text) == (None, 0, None, words)


def test_a_model_that_was_never_used_was_used_no_times():
    assert (figure(NOTHING, "usage_count").value, figure(NOTHING, "usage_count").text) == (0, "0 uses")


def test_times_of_older_documents_have_a_mean_and_no_median():
    found = figure(Usage(count=9, success_count=9, timed_count=9, total_ns=18 * 10**9), "inference_time")

    assert (found.value, found.size, found.mean, found.mean_size) == (None, 0, 2.0, 9)
    assert found.text == "mean 2.00 s of 9 times"


def test_the_models_and_the_metrics_stand_in_the_order_in_which_they_were_named():
    found = compare({"b": NOTHING, "a": NOTHING}, ["usage_count", "success_rate"])

    assert found.models == ("b", "a") == tuple(row.model for row in found.rows)
    assert found.metrics == ("usage_count", "success_rate") == tuple(found.rows[0].figures)


# --- who is ahead ----------------------------------------------------------------------------------------------------


def test_the_quicker_the_more_reliable_and_the_better_rated_wins():
    good = uses(30, seconds=1.0, tokens=80, quality_score=4.5)
    bad = usage.add(uses(15, seconds=4.0, tokens=80, quality_score=2.5), uses(15, success=False))

    winners = compare({"good": good, "bad": bad}, list(METRICS)).winners
    assert {metric: judgement.winner for metric, judgement in winners.items()} == {
        "success_rate": "good",
        "inference_time": "good",
        "tokens_per_second": "good",
        "quality_score": "good",
    }
    assert winners["success_rate"].test == FISHER
    assert {winners[metric].test for metric in winners if metric != "success_rate"} == {MANN_WHITNEY}
    assert winners["success_rate"].sizes == {"good": 30, "bad": 30}
    assert winners["inference_time"].sizes == {"good": 30, "bad": 15}


def test_more_tokens_a_second_win_and_not_fewer():
    quick, slow = uses(10, tokens=100), uses(10, tokens=50)

    assert compare({"slow": slow, "quick": quick}, ["tokens_per_second"]).winners["tokens_per_second"].winner == "quick"


def test_of_being_used_nobody_is_the_winner():
    assert compare({"often": uses(50), "seldom": uses(1)}, ["usage_count"]).winners == {}


def test_nothing_on_record_of_one_is_too_few_to_tell():
    winners = compare({"used": uses(50, tokens=9), "fresh": NOTHING}, list(METRICS)).winners

    assert {judgement.word for judgement in winners.values()} == {"too_few"}
    assert "fresh has none" in winners["inference_time"].text


# --- what may be asked -----------------------------------------------------------------------------------------------


def test_who_names_no_metric_gets_them_all():
    assert check_metrics(None) == check_metrics([]) == tuple(METRICS)
    assert check_metrics(["quality_score", "usage_count", "quality_score"]) == ("quality_score", "usage_count")


@pytest.mark.parametrize(
    ("metrics", "field"),
    [("speed", "metrics"), (7, "metrics"), (["usage_count", "beauty"], "metrics.1"), ([7], "metrics.0")],
)
def test_an_unknown_metric_is_refused_with_what_there_is(metrics, field):
    with pytest.raises(InvalidRequest) as refusal:
        check_metrics(metrics)

    assert refusal.value.field == field
    assert field == "metrics" or all(metric in str(refusal.value) for metric in METRICS)


@pytest.mark.parametrize("models", ["abc", None, 7, {"a": 1, "b": 2}, [], ["a"], ["a"] * (MOST_MODELS + 1)])
def test_two_models_or_more_are_compared_and_not_too_many(models):
    with pytest.raises(InvalidRequest) as refusal:
        check_models(models)

    assert refusal.value.field == "models"
    assert check_models(["a", "b"]) == ["a", "b"]


def test_two_names_of_one_model_are_named():
    check_different(["a", "b"], ["one", "other"])
    with pytest.raises(InvalidRequest) as refusal:
        check_different(["a", "b", "c"], ["one", "other", "one"])

    assert refusal.value.field == "models.2"
    assert "a and c are the same model" in str(refusal.value)

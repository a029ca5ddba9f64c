"""What is on record of several models, side by side, and in what one is ahead by more than chance would show.

How a winner is found stands in judgement.py. What is on record was not measured side by side: the models may have had
different work. A benchmark puts the same before each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model_core import usage
from model_core.errors import InvalidRequest
from model_core.judgement import Judgement, judge, judge_rates
from model_core.records import Record, Usage

MOST_MODELS = 10  # a guess; more do not stand side by side on any screen


class Figure(Record):
    """One figure of one model.

    value  None where nothing is on record; of inference_time the median, in seconds
    size   how many uses it rests on
    mean   of inference_time, over mean_size uses: times of older documents are in the mean, but in no median
    text   the same in words
    """

    value: float | None
    size: int
    text: str
    mean: float | None = None
    mean_size: int | None = None


class Row(Record):
    """One model, and what is on record of it by metric."""

    model: str
    figures: dict[str, Figure]


class Comparison(Record):
    """Several models side by side; winners by metric, of those metrics in which there is something to win."""

    models: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    winners: dict[str, Judgement]


# --- what may be asked -----------------------------------------------------------------------------------------------


def check_metrics(metrics: Any) -> tuple[str, ...]:
    """Return the metrics that are asked for, each once; all of them where none is named. Raises InvalidRequest."""
    if metrics is None:
        return tuple(METRICS)
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise InvalidRequest("metrics", "must be a list of words")
    for place, metric in enumerate(metrics):
        if not isinstance(metric, str) or metric not in METRICS:
            raise InvalidRequest(f"metrics.{place}", f"must be one of {', '.join(METRICS)}")
    return tuple(dict.fromkeys(metrics)) or tuple(METRICS)


def check_models(models: Any) -> Sequence[Any]:
    """Return the names that are to be compared, if they are two to ten. Raises InvalidRequest."""
    if isinstance(models, str) or not isinstance(models, Sequence):
        raise InvalidRequest("models", "must be a list of names")
    if not 2 <= len(models) <= MOST_MODELS:
        raise InvalidRequest("models", f"must be 2 to {MOST_MODELS} models, and not {len(models)}")
    return models


def check_different(said: Sequence[str], meant: Sequence[str]) -> None:
    """Raise InvalidRequest where two names mean the same model."""
    for place, model in enumerate(meant):
        first = meant.index(model)
        if first != place:
            same = f"{said[first]} and {said[place]} are the same model"
            raise InvalidRequest(f"models.{place}", same, "Name different ones.")


# --- side by side ----------------------------------------------------------------------------------------------------


def compare(recorded: Mapping[str, Usage], metrics: Sequence[str]) -> Comparison:
    """Return the models side by side.

    recorded  of two models or more, all that is on record of each
    metrics   as check_metrics returns them
    """
    return Comparison(
        models=tuple(recorded),
        metrics=tuple(metrics),
        rows=tuple(
            Row(model=model, figures={metric: METRICS[metric](one) for metric in metrics})
            for model, one in recorded.items()
        ),
        winners={metric: _JUDGES[metric](recorded) for metric in metrics if metric in _JUDGES},
    )


def _success_rate(one: Usage) -> Figure:
    rate = usage.success_rate(one)
    text = "never used" if rate is None else f"{100 * rate:.0f} % of {_counted(one.count, 'use', 'uses')}"
    return Figure(value=rate, size=one.count, text=text)


def _inference_time(one: Usage) -> Figure:
    median, mean, size = usage.quantile_s(one, 50), usage.mean_s(one), one.durations.total()
    text = "no time on record"
    if mean is not None:
        text = f"mean {mean:.2f} s of {_counted(one.timed_count, 'time', 'times')}"
    if median is not None:
        text = f"median {median:.2f} s of {_counted(size, 'time', 'times')}, {text}"
    return Figure(value=median, size=size, text=text, mean=mean, mean_size=one.timed_count)


def _tokens_per_second(one: Usage) -> Figure:
    speed, size = usage.tokens_per_second(one), one.speeds.total()
    text = "no tokens on record" if speed is None else f"{speed:.1f} a second in {_counted(size, 'use', 'uses')}"
    return Figure(value=speed, size=size, text=text)


def _quality_score(one: Usage) -> Figure:
    quality, size = usage.mean_quality(one), one.quality_count
    text = "never rated" if quality is None else f"{quality:.1f} of 5 in {_counted(size, 'rating', 'ratings')}"
    return Figure(value=quality, size=size, text=text)


def _usage_count(one: Usage) -> Figure:
    return Figure(value=one.count, size=one.count, text=_counted(one.count, "use", "uses"))


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


METRICS: Mapping[str, Callable[[Usage], Figure]] = {
    "success_rate": _success_rate,
    "inference_time": _inference_time,
    "tokens_per_second": _tokens_per_second,
    "quality_score": _quality_score,
    "usage_count": _usage_count,
}


# --- who is ahead ----------------------------------------------------------------------------------------------------

Recorded = Mapping[str, Usage]


def _more_successes(recorded: Recorded) -> Judgement:
    return judge_rates({model: (one.success_count, one.count) for model, one in recorded.items()})


def _shorter_times(recorded: Recorded) -> Judgement:
    return judge({model: one.durations.numbers for model, one in recorded.items()}, higher_is_better=False)


def _higher_speeds(recorded: Recorded) -> Judgement:
    return judge({model: one.speeds.numbers for model, one in recorded.items()}, higher_is_better=True)


def _better_ratings(recorded: Recorded) -> Judgement:
    return judge({model: one.qualities.numbers for model, one in recorded.items()}, higher_is_better=True)


# Of being used nobody is the winner.
_JUDGES: Mapping[str, Callable[[Recorded], Judgement]] = {
    "success_rate": _more_successes,
    "inference_time": _shorter_times,
    "tokens_per_second": _higher_speeds,
    "quality_score": _better_ratings,
}

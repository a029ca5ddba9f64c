"""What the answers of a benchmark add up to: figures of each model, single values to compare, a table to take away.

Failures count as such and have no times; a load stands apart from the answers, also where it came within one.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from model_core import loading
from model_core.benchmark_records import Benchmark, BenchmarkModel, Figures, Load, ModelSummary, Result
from model_core.judgement import Judgement, Rounds, judge, judge_rates, judge_rounds
from model_core.memory import format_memory
from model_core.records import Answer, RunningModel
from model_core.speed import Speed, measured

# What is measured of each answer, and whether more of it is better.
OF_ANSWERS = {"tokens_per_second": True, "first_token_seconds": False, "answer_seconds": False}

# llama.cpp's server counts all tokens, and the time from the first one on (t_token_generation), so that a rate over n
# is too high by n/(n-1): of a shorter answer than this it would say nothing.
FEWEST_TOKENS_FOR_A_RATE = 8

# A warm model is there after 1 to 2 ms (measured, tests/transcripts/generate.json); to load one starts a process.
RELOADED_FROM_S = 0.1


def figures(values: Iterable[float | None]) -> Figures | None:
    """Return what the values that are known say, None where there is none.

    >>> figures([1.0, 2.0, None, 6.0])
    Figures(mean=3.0, median=2.0, p95=5.6, min=1.0, max=6.0, count=3)
    """
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return Figures(
        mean=statistics.fmean(known),
        median=statistics.median(known),
        p95=quantile(known, 0.95),
        min=known[0],
        max=known[-1],
        count=len(known),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies, on the line between its two neighbours.

    >>> quantile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def differences(
    job: Benchmark, names: Sequence[str] | None = None, *, side_by_side: bool = True
) -> dict[str, Judgement]:
    """Return by metric whether one model is ahead of all others; empty for one model alone.

    names         of these models only; None: of all
    side_by_side  the rounds are those of one benchmark, in which the models took turns

    success_rate is among them where an answer has failed.
    """
    names = [model.name for model in job.models] if names is None else names
    if len(names) < 2:
        return {}
    found = {metric: _judged(job, names, metric, side_by_side=side_by_side) for metric in OF_ANSWERS}
    # Loads do not stand side by side: who spoke last in a round is still there in the next.
    found["load_seconds"] = judge({name: Counter(_load_seconds(job, name)) for name in names}, higher_is_better=False)
    if any(result.error for name in names for result in _results(job, name)):
        found["success_rate"] = judge_rates({name: _successes(_results(job, name)) for name in names}, "answers")
    return found


def _judged(job: Benchmark, names: Sequence[str], metric: str, *, side_by_side: bool) -> Judgement:
    rounds = {name: _rounds(job, name, metric) for name in names}
    if side_by_side:
        return judge_rounds(rounds, higher_is_better=OF_ANSWERS[metric])
    middles = {name: Counter(statistics.median(one.values()) for one in rounds[name].values()) for name in names}
    return judge(middles, higher_is_better=OF_ANSWERS[metric])


def _results(job: Benchmark, model: str) -> list[Result]:
    return [result for result in job.results if result.model == model]


def _load_seconds(job: Benchmark, model: str) -> list[float]:
    return [load.seconds for load in job.loads if load.model == model and load.seconds is not None]


def _rounds(job: Benchmark, model: str, metric: str) -> Rounds:
    rounds: dict[Hashable, dict[Hashable, float]] = defaultdict(dict)
    for result in _results(job, model):
        if (value := getattr(result, metric)) is not None:
            rounds[result.round][result.prompt, result.photo] = value
    return rounds


def _successes(results: Sequence[Result]) -> tuple[int, int]:
    return sum(result.error is None for result in results), len(results)


def summaries(job: Benchmark) -> tuple[ModelSummary, ...]:
    """Return what was found of each model so far, in the order in which they were named."""
    return tuple(_summary(job, model) for model in job.models)


def _summary(job: Benchmark, model: BenchmarkModel) -> ModelSummary:
    name, results = model.name, _results(job, model.name)
    held = next((load for load in reversed(job.loads) if load.model == name and load.size_bytes is not None), None)
    summary = ModelSummary(
        model=name,
        runs=len(results),
        failures=sum(result.error is not None for result in results),
        given_up=model.given_up,
        **{metric: figures(getattr(result, metric) for result in results) for metric in OF_ANSWERS},
        load_seconds=figures(_load_seconds(job, name)),
        size_bytes=held.size_bytes if held else None,
        size_vram_bytes=held.size_vram_bytes if held else None,
        gpu_share=held.gpu_share if held else None,
    )
    loads, errors = [one for one in job.loads if one.model == name], [one.error for one in results if one.error]
    return summary.model_copy(update={"words": _words(summary, loads, errors)})


def _words(summary: ModelSummary, loads: Sequence[Load], errors: Sequence[str]) -> str:
    said = []
    if rate := summary.tokens_per_second:
        between = f" ({rate.min:.1f} to {rate.max:.1f})" if rate.count > 1 else ""
        said.append(f"{rate.median:.1f} tokens a second{between}")
    if first := summary.first_token_seconds:
        said.append(f"the first after {first.median:.2f} s")
    if load := summary.load_seconds:
        said.append(f"loads in {load.median:.1f} s")
    elif any(one.already_loaded for one in loads):
        said.append("was in memory already, so nothing is known of its load")
    if summary.size_bytes is not None:
        said.append(_memory(summary.size_bytes, summary.gpu_share))
    sentences = ["; ".join(said) + "."] if said else []
    if summary.failures:
        sentences.append(f"{summary.failures} of {summary.runs} answers failed.")
    if errors and not summary.given_up:
        sentences.append(f"The last one: {errors[-1]}")
    if summary.given_up:
        sentences.append(f"Given up: {summary.given_up.rstrip('.')}.")
    return " ".join(sentences) or "Nothing was measured yet."


def _memory(size_bytes: int, gpu_share: float | None) -> str:
    size = f"takes {format_memory(size_bytes)}"
    if gpu_share is None:
        return size
    if gpu_share >= 1:
        return f"{size}, all on the card"
    if gpu_share <= 0:
        return f"{size}, nothing of it on a card"
    return f"{size}, {100 * gpu_share:.0f} % of it on the card: the rest is what slows it down"


def speeds(jobs: Iterable[Benchmark], *, gpu: str | None, simulated: bool) -> dict[str, Speed]:
    """Return by digest how fast each model answered when it was last measured here.

    jobs       in the order in which they were asked for
    gpu        the card that the machine has now: what was measured on another one tells nothing of this one
    simulated  whether Ollama is the stand-in, whose figures count for itself only
    """
    found = {}
    for job in jobs:
        if job.gpu != gpu or job.simulated is not simulated:
            continue
        digests = {model.name: model.digest for model in job.models}
        for one in job.summary:
            is_spilled = one.gpu_share is not None and 0 < one.gpu_share < 1  # told of what lies on the card as a whole
            if (rate := one.tokens_per_second) and not is_spilled:
                found[digests[one.model]] = measured(rate.median, "benchmark", rate.count)
    return found


# --- one answer ------------------------------------------------------------------------------------------------------


def result_of(ask: Result, answer: Answer, first_piece_s: float | None, most_tokens: int) -> Result:
    """Return what was measured of an answer.

    ask            of which model, prompt and photo, in which round
    first_piece_s  from the request to its first piece, a load included
    most_tokens    so long it was allowed to become
    """
    if error := _what_is_missing(answer, most_tokens):
        return ask.model_copy(update={"error": error, "done_reason": answer.done_reason})
    load_s = answer.load_seconds or 0.0
    reloaded = load_s >= RELOADED_FROM_S
    is_long = (answer.answer_tokens or 0) >= FEWEST_TOKENS_FOR_A_RATE
    return ask.model_copy(
        update={
            "tokens_per_second": answer.tokens_per_second if is_long else None,
            "first_token_seconds": _without(first_piece_s, load_s if reloaded else 0.0),
            "answer_seconds": _without(answer.total_seconds, load_s),
            "answer_tokens": answer.answer_tokens,
            "prompt_tokens": answer.prompt_tokens,
            "done_reason": answer.done_reason,
            "reloaded": reloaded,
            "load_seconds": load_s if reloaded else None,
            "answer": answer.text,
        }
    )


def _what_is_missing(answer: Answer, most_tokens: int) -> str | None:
    """Return why an answer that has ended is none, None where it is whole: saying nothing would be the fastest."""
    if not answer.text.strip() and not (answer.thinking or "").strip():
        return "The answer was empty."
    if answer.done_reason == "length" and answer.answer_tokens is not None and answer.answer_tokens < most_tokens:
        return (
            f"The answer was cut short after {answer.answer_tokens:,} of {most_tokens:,} tokens: the context was full. "
            "Take a longer context, or a shorter prompt."
        )
    return None


def _without(whole_s: float | None, part_s: float) -> float | None:
    # The two are taken by two clocks, ours and Ollama's.
    return None if whole_s is None else max(0.0, whole_s - part_s)


def load_of(model: str, round: int, seconds: float, before: RunningModel | None, after: RunningModel | None) -> Load:
    """Return what is kept of a load that has succeeded.

    seconds  from the request to Ollama's word that the model is there
    before   how the model ran before that, after: and since then; None where Ollama did not show it
    """
    already_loaded = loading.is_as_before(before, after) or seconds < RELOADED_FROM_S
    return Load(
        model=model,
        round=round,
        already_loaded=already_loaded,
        seconds=None if already_loaded else seconds,
        size_bytes=after.size_bytes if after else None,
        size_vram_bytes=after.size_vram_bytes if after else None,
        gpu_share=after.gpu_share if after else None,
    )


# --- a table to take away --------------------------------------------------------------------------------------------


def as_csv(job: Benchmark) -> str:
    """Return a row for each answer, with a head (RFC 4180). Prompts and photos are counted from 1 on.

    load_seconds  of the load before this model's turn in that round; of the answer itself where it was loaded again
    """
    models = {model.name: model for model in job.models}
    rows = [_row(job, models[result.model], _load_before(job, result), result) for result in job.results]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(row[column]) for column in _COLUMNS] for row in rows)
    return table.getvalue()


_COLUMNS = (
    "benchmark", "simulated", "ollama_version", "gpu", "model", "digest", "quantization", "round", "prompt", "photo",
    "tokens_per_second", "first_token_seconds", "answer_seconds", "answer_tokens", "prompt_tokens", "done_reason",
    "reloaded", "load_seconds", "size_bytes", "gpu_share", "error",
)  # fmt: skip
_NO_LOAD = Load(model="", round=0)


def _load_before(job: Benchmark, result: Result) -> Load:
    if result.load is not None:
        return job.loads[result.load]
    # A benchmark of before results knew theirs, or one that was not loaded.
    of_round = [load for load in job.loads if (load.model, load.round) == (result.model, result.round)]
    return of_round[0] if of_round else _NO_LOAD


def _row(job: Benchmark, model: BenchmarkModel, load: Load, result: Result) -> dict[str, Any]:
    return {
        **result.model_dump(),
        "benchmark": job.id,
        "simulated": job.simulated,
        "ollama_version": job.ollama_version,
        "gpu": job.gpu,
        "digest": model.digest,
        "quantization": model.quantization,
        "prompt": result.prompt + 1,
        "photo": None if result.photo is None else result.photo + 1,
        "load_seconds": result.load_seconds if result.reloaded else load.seconds,
        "size_bytes": load.size_bytes,
        "gpu_share": load.gpu_share,
    }


def _cell(value: Any) -> str:
    """Return a value as it stands in the table.

    >>> [_cell(value) for value in (1.5, None, True, "a,b", "=1+1")]
    ['1.5', '', 'true', 'a,b', "'=1+1"]
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r"):
        text = f"'{text}"  # a spreadsheet would take it for a formula
    return text

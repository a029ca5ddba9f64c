"""Benchmarks that were made one after the other, side by side, as if they had been one: where both asked the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from model_core import benchmark_results
from model_core.benchmark_records import Benchmark, ModelSummary
from model_core.errors import InvalidRequest
from model_core.judgement import Judgement
from model_core.records import Record

MOST_BENCHMARKS = 8

# What must be the same, or other things than the models would decide.
_SAME = {
    "prompts": "prompts",
    "photos": "photos",
    "answer_tokens": "lengths of the answers",
    "context_tokens": "contexts",
    "seed": "seeds",
}
# What differs between two evenings, and may be what is to be compared.
_MAY_DIFFER = {
    "gpu": "cards",
    "ollama_version": "versions of Ollama",
    "simulated": "kinds of Ollama, real and simulated",
}


class BenchmarkComparison(Record):
    """What several benchmarks found; a model that two of them measured carries the benchmark's id beside its name.

    differences  by metric, between all models; empty where two benchmarks measured the same one
    by_model     by metric, between the benchmarks, of each model that several of them measured
    """

    benchmarks: tuple[str, ...]
    summary: tuple[ModelSummary, ...]
    differences: dict[str, Judgement]
    by_model: dict[str, dict[str, Judgement]] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def check_ids(ids: Any) -> Sequence[str]:
    """Return the ids of benchmarks that are to be compared. Raises InvalidRequest."""
    if isinstance(ids, str) or not isinstance(ids, Sequence) or not all(isinstance(one, str) for one in ids):
        raise InvalidRequest("benchmarks", "must be a list of ids")
    again = len(ids) - len(set(ids))
    if again or not 2 <= len(ids) <= MOST_BENCHMARKS:
        came = f"{len(ids)}, {again} of them named again" if again else f"{len(ids)}"
        raise InvalidRequest("benchmarks", f"must be 2 to {MOST_BENCHMARKS} different ones, and not {came}")
    return ids


def compare(jobs: Sequence[Benchmark]) -> BenchmarkComparison:
    """Return two or more benchmarks side by side. Raises InvalidRequest where they did not ask the same."""
    for field, what in _SAME.items():
        if others := [job.id for job in jobs if _asked(job, field) != _asked(jobs[0], field)]:
            raise InvalidRequest(
                "benchmarks",
                f"{' and '.join(others)} had other {what} than {jobs[0].id}",
                "Ask the same again, of the models that are to be compared.",
            )
    measured = Counter(model.name for job in jobs for model in job.models)
    again = {name: {_name_in(job, name) for job in jobs} for name, times in measured.items() if times > 1}
    together = jobs[0].model_copy(update=_together([_renamed(job, measured) for job in jobs]))
    return BenchmarkComparison(
        benchmarks=tuple(job.id for job in jobs),
        summary=benchmark_results.summaries(together),
        differences={} if again else benchmark_results.differences(together, side_by_side=False),
        by_model={
            name: benchmark_results.differences(
                together, [model.name for model in together.models if model.name in of_it], side_by_side=False
            )
            for name, of_it in again.items()
        },
        warnings=tuple(_warnings(jobs)),
    )


def _asked(job: Benchmark, field: str) -> Any:
    return tuple(photo.sha256 for photo in job.photos) if field == "photos" else getattr(job, field)


def _together(jobs: Sequence[Benchmark]) -> dict[str, Any]:
    return {
        field: tuple(one for job in jobs for one in getattr(job, field)) for field in ("models", "loads", "results")
    }


def _name_in(job: Benchmark, model: str) -> str:
    return f"{model} ({job.id})"


def _renamed(job: Benchmark, measured: Mapping[str, int]) -> Benchmark:
    """Return a benchmark whose models have names of their own among all that are compared."""
    names = {model.name: _name_in(job, model.name) for model in job.models if measured[model.name] > 1}
    return job.model_copy(
        update={
            "models": tuple(
                model.model_copy(update={"name": names.get(model.name, model.name)}) for model in job.models
            ),
            "loads": tuple(one.model_copy(update={"model": names.get(one.model, one.model)}) for one in job.loads),
            "results": tuple(one.model_copy(update={"model": names.get(one.model, one.model)}) for one in job.results),
        }
    )


def _warnings(jobs: Sequence[Benchmark]) -> list[str]:
    said = ["They were measured one after the other: what else the machine did then may be the difference."]
    for field, what in _MAY_DIFFER.items():
        found = dict.fromkeys(str(getattr(job, field) or "unknown") for job in jobs)
        if len(found) > 1:
            said.append(f"They had different {what}" + ("." if field == "simulated" else f": {', '.join(found)}."))
    return said

"""Benchmarks of different evenings are compared where they asked the same, and nowhere else."""

from __future__ import annotations

import pytest

from model_core.benchmark_comparison import check_ids, compare
from model_core.benchmark_records import Benchmark, BenchmarkModel, Load, Photo, Result
from model_core.benchmarks import check
from model_core.errors import InvalidRequest


def a_benchmark(job_id, rates, rounds=8, **known):
    """A benchmark of some models with a rate each, on two prompts."""
    asked = [(round, prompt) for round in range(1, rounds + 1) for prompt in (0, 1)]
    return Benchmark(
        id=job_id,
        models=tuple(BenchmarkModel(name=name, ollama_name=name, digest=name * 4) for name in rates),
        results=tuple(
            Result(
                model=name, round=round, prompt=prompt, tokens_per_second=rate + round + prompt, first_token_seconds=1.0
            )
            for name, rate in rates.items()
            for round, prompt in asked
        ),
        loads=tuple(Load(model=name, round=1, seconds=2.0) for name in rates),
        **{"prompts": ("one", "two"), "gpu": "RTX 4060", "ollama_version": "0.30.1", **known},
    )


def test_what_two_benchmarks_found_stands_in_one_table_with_who_is_ahead():
    found = compare([a_benchmark("b1", {"a": 40.0, "b": 20.0}), a_benchmark("b2", {"c": 90.0})])

    assert found.benchmarks == ("b1", "b2")
    assert [row.model for row in found.summary] == ["a", "b", "c"]
    assert [row.runs for row in found.summary] == [16, 16, 16]
    assert found.differences["tokens_per_second"].winner == "c"
    assert "one after the other" in found.warnings[0]
    assert len(found.warnings) == 1


def test_a_model_that_both_measured_is_told_by_the_benchmark():
    found = compare([a_benchmark("b1", {"a": 40.0}), a_benchmark("b2", {"a": 20.0, "b": 20.0})])

    assert [row.model for row in found.summary] == ["a (b1)", "a (b2)", "b"]
    assert found.differences == {}
    assert list(found.by_model) == ["a"]
    assert found.by_model["a"]["tokens_per_second"].winner == "a (b1)"
    assert found.by_model["a"]["tokens_per_second"].sizes == {"a (b1)": 8, "a (b2)": 8}
    assert [row.load_seconds.count for row in found.summary] == [1, 1, 1]


@pytest.mark.parametrize("models", [["a"], ["a", "b"]])
def test_two_benchmarks_as_they_are_asked_for_by_default_can_be_told_apart(models):
    runs = check(models, None, (), None, 128, 4096, 42).runs
    fast, slow = (
        a_benchmark(job_id, {name: rate + number for number, name in enumerate(models)}, rounds=runs)
        for job_id, rate in (("b1", 90.0), ("b2", 20.0))
    )

    found = compare([fast, slow])

    for name in models:
        assert found.by_model[name]["tokens_per_second"].winner == f"{name} (b1)"


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"prompts": ("one", "three")}, "prompts"),
        ({"photos": (Photo(sha256="1", size_bytes=9, media_type="image/png"),)}, "photos"),
        ({"answer_tokens": 64}, "lengths of the answers"),
        ({"context_tokens": 8192}, "contexts"),
        ({"seed": 7}, "seeds"),
    ],
)
def test_what_was_not_asked_the_same_is_not_compared(other, what):
    same, different = a_benchmark("b1", {"a": 40.0}), a_benchmark("b2", {"b": 20.0}, **other)

    with pytest.raises(InvalidRequest, match=rf"^benchmarks: b2 had other {what} than b1\."):
        compare([same, different])
    with pytest.raises(InvalidRequest, match=rf"b2 and b2 had other {what} than b1\."):
        compare([same, different, same, different])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"gpu": None}, "different cards: RTX 4060, unknown."),
        ({"ollama_version": "0.31.0"}, "different versions of Ollama: 0.30.1, 0.31.0."),
        ({"simulated": True}, "different kinds of Ollama, real and simulated."),
    ],
)
def test_what_else_was_different_is_said(other, words):
    found = compare([a_benchmark("b1", {"a": 40.0}), a_benchmark("b2", {"b": 20.0}, **other)])

    assert found.warnings[-1].endswith(words)


@pytest.mark.parametrize(
    ("ids", "came"),
    [(["b1"], "not 1."), (["b1", "b2", "b1"], "not 3, 1 of them named again."), ([*"abcdefghi"], "not 9.")],
)
def test_how_many_came_is_said_where_it_is_not_two_to_eight(ids, came):
    with pytest.raises(InvalidRequest, match=f"must be 2 to 8 different ones, and {came}"):
        check_ids(ids)


@pytest.mark.parametrize("ids", ["b1", ["b1"], ["b1", "b1"], [1, 2], None, [str(number) for number in range(9)]])
def test_two_to_eight_different_ones_are_compared(ids):
    with pytest.raises(InvalidRequest) as refusal:
        check_ids(ids)

    assert refusal.value.field == "benchmarks"

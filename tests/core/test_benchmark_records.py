"""The document of the benchmarks: what is written comes back, and what is none is not taken for one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.benchmark_records import FORMAT, Benchmark, BenchmarkModel, BenchmarksCodec, Result
from model_core.errors import StoreUnreadable

CODEC = BenchmarksCodec()


def a_benchmark(job_id="b1", **known):
    model = BenchmarkModel(name="a", ollama_name="a:latest", digest="d")
    return Benchmark(id=job_id, models=(model,), prompts=("Rate it.",), **known)


@given(st.text(), st.floats(0, 1e9))
def test_what_is_written_comes_back(text, rate):
    result = Result(model="a", round=1, prompt=0, answer=text, tokens_per_second=rate)
    jobs = {"b2": a_benchmark("b2", results=(result,)), "b1": a_benchmark(state="failed", message=text)}
    try:
        raw = CODEC.encode(jobs)
    except ValueError:
        assert any("\ud800" <= letter <= "\udfff" for letter in text)
        return

    assert CODEC.decode(raw) == jobs
    assert list(CODEC.decode(raw)) == ["b2", "b1"]  # their order is that in which they were asked for


def test_what_a_later_program_has_added_is_kept():
    data = json.loads(CODEC.encode({"b1": a_benchmark()}))
    data["benchmarks"]["b1"]["taste"] = "salty"

    again = json.loads(CODEC.encode(CODEC.decode(json.dumps(data).encode())))

    assert again["benchmarks"]["b1"]["taste"] == "salty"


def test_a_form_that_is_not_known_yet_is_left_alone():
    with pytest.raises(StoreUnreadable, match="Update this program"):
        CODEC.decode(json.dumps({"format": FORMAT + 1, "benchmarks": {}}).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"format": "1"}',
        b'{"format": 1, "benchmarks": []}',
        b'{"format": 1, "benchmarks": {"b1": {}}}',
        b'{"format": 1, "benchmarks": {"b1": NaN}}',
    ],
)
def test_what_is_no_document_is_damage(raw):
    with pytest.raises(ValueError):
        CODEC.decode(raw)


def test_before_the_first_there_are_none():
    assert CODEC.empty() == {}
    assert not CODEC.is_old(b"{}")

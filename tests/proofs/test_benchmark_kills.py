"""Proof: whoever measures may be killed at any moment. What was measured is kept, what is missing is asked once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from benchmark_scenes import JPEG, SEEING, SEEING_TAG

from model_core.benchmark_records import Benchmark, BenchmarkState
from model_manager import ModelManager
from ollama_simulator import OllamaSimulator
from tests.benchmark_scenes import counted
from tests.download_owners import Owner
from tests.download_scenes import CALM, until

S = BenchmarkState
OTHER, OTHER_TAG = "qwen2.5vl:7b", "qwen2.5vl:7b-q4_K_M"


def places(job: Benchmark) -> list[tuple[str, int, int, int | None]]:
    return [(result.model, result.round, result.prompt, result.photo) for result in job.results]


def prove_kills(path: Path, kills: int, prompts: int) -> None:
    """Kill owner after owner while two models are shown a photo, then let the last one finish."""
    chance, hit = random.Random(kills), 0
    with OllamaSimulator(
        installed=[SEEING_TAG, OTHER_TAG], tick_s=0.002, load_seconds=0.02, unload_seconds=0, tokens_per_second=5000
    ) as simulator:
        onlooker = ModelManager(simulator.url, path)
        owner = Owner(simulator.url, path, CALM)
        asked = [f"prompt {number}" for number in range(prompts)]
        job = seen = owner.ask("start_benchmark", [SEEING, OTHER], asked, [JPEG], 20)
        for _ in range(kills):
            # Not to wait for something: to choose the moment of the kill.
            time.sleep(chance.random() * chance.choice((0.005, 0.05, 0.2)))
            owner.kill()
            now = until(lambda: (now := onlooker.benchmark(job.id)).state is not S.RUNNING and now)
            # Nothing that somebody has seen is lost or changed.
            assert now.results[: len(seen.results)] == seen.results
            seen, hit = now, hit + (now.state is S.INTERRUPTED)
            owner = Owner(simulator.url, path, CALM)
            taken = owner.ask("resume_benchmarks")
            assert [one.id for one in taken] == ([job.id] if now.state is S.INTERRUPTED else [])
        done = until(lambda: (now := onlooker.benchmark(job.id)).state is S.COMPLETED and now, "its end", 120)
        owner.leave()

        assert hit > kills / 2
        assert len(places(done)) == len(set(places(done))) == done.total == 2 * prompts * 20
        assert not any(result.error for result in done.results)
        assert done.results[: len(seen.results)] == seen.results
        # At most one answer was under way at each kill.
        assert len(counted(simulator, done)) <= done.total + kills
        until(lambda: not list(path.with_name(f"{path.name}.benchmarks").glob("*.photo-*")), "the photo to go")
        assert onlooker.health()["parts"]["benchmarks"]["problem"] is None
        onlooker.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_killed_owners_lose_nothing_and_measure_nothing_twice(tmp_path):
    prove_kills(tmp_path / "document.json", kills=100, prompts=10)

"""What a recommendation costs whoever asks for it: one HTTP call to a warm service, and what happens inside.

    python bench/recommend_over_http.py [--models 50] [--rounds 20] [--llmfit PATH]

Claims: with 50 models and a full history each <= 5 ms inside; and >= 50 x faster than `llmfit recommend` on the same
machine, its whole process against one call, in turn (`pip install llmfit`, into an environment of its own, and give the
path of its program). The service runs on a simulated Ollama that holds the models.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from service_process import Service

from model_core.records import GIB
from model_core.simulated_library import make_model
from model_manager import ModelManager
from ollama_simulator import OllamaSimulator


def with_history(ollama: OllamaSimulator, document: Path, count: int) -> ModelManager:
    """A manager with so many models of the user's own, each with 200 uses of different lengths, tasks and scores."""
    for number in range(count):
        ollama.install(f"own-{number}", make_model(f"own-{number}", size_bytes=(1 + number % 12) * GIB))
    manager = ModelManager(ollama.url, document)
    manager.sync()
    for number in range(count):
        manager.record_events(
            [
                {
                    "model": f"own-{number}:latest",
                    "inference_time": 1 + use * 0.037 + number * 0.01,
                    "success": use % 9 != 0,
                    "tokens": 150 + use,
                    "quality_score": use % 6 * 0.9,
                    "task": f"task {use % 40}",
                }
                for use in range(200)
            ]
        )
    return manager


def median_s(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """The median time of each call; they take turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for times, call in zip(taken, calls, strict=True):
            began_s = time.perf_counter()
            call()
            times.append(time.perf_counter() - began_s)
    return [statistics.median(times) for times in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--llmfit", default=shutil.which("llmfit"))
    given = parser.parse_args()
    with OllamaSimulator() as ollama, tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "document.json"
        manager = with_history(ollama, document, given.models)
        manager.recommend()
        (inside,) = median_s(given.rounds, manager.recommend)
        print(f"inside, {given.models} models with history: {inside * 1000:.2f} ms  claimed <= 5 ms for 50")
        manager.close()
        with Service(ollama, document) as service:
            ask = lambda: service.ask("POST", "/recommend", {})  # noqa: E731 - it is timed as it stands
            assert ask().status_code == 200
            if not given.llmfit:
                print(f"one call: {median_s(given.rounds, ask)[0] * 1000:.1f} ms; llmfit is not here to compare with")
                return
            other = lambda: subprocess.run([given.llmfit, "recommend", "--json"], capture_output=True, check=True)  # noqa: E731
            other()
            ours, theirs = median_s(given.rounds, ask, other)
    print(f"one call {ours * 1000:.1f} ms, llmfit {theirs * 1000:.0f} ms: {theirs / ours:.0f} x  claimed >= 50 x")


if __name__ == "__main__":
    main()

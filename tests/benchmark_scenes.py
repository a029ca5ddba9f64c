"""What tests of benchmarks share: models that are there, a photo, and waiting for the end."""

from __future__ import annotations

from typing import Any

from download_scenes import until

from model_core.benchmark_records import Benchmark
from model_core.benchmarks import OWNED
from model_core.simulated_library import make_model
from model_manager import ModelManager
from ollama_simulator import OllamaSimulator

ONE, ONE_TAG = "llama3.2:1b-instruct", "llama3.2:1b-instruct-q4_K_M"
THREE, THREE_TAG = "llama3.2:3b-instruct", "llama3.2:3b-instruct-q4_K_M"
SEEING, SEEING_TAG = "gemma3:4b", "gemma3:4b-it-q4_K_M"
EMBEDDING, THINKING = "all-minilm:latest", "thinker:8b"
JPEG, PNG = b"\xff\xd8\xff\xe0 a photo", b"\x89PNG\r\n\x1a\n another photo"
SHORT = ["Rate it."]


def install(simulator: OllamaSimulator) -> None:
    """Have Ollama hold two models that talk, one that sees, one that thinks, and one that only embeds."""
    for tag in (ONE_TAG, THREE_TAG, SEEING_TAG):
        simulator.install(tag)
    simulator.install(EMBEDDING, make_model(EMBEDDING, size_bytes=46_000_000, capabilities=("embedding",)))
    thinks = ("completion", "thinking")
    simulator.install(THINKING, make_model(THINKING, size_bytes=5_000_000_000, capabilities=thinks))


def ended(manager: ModelManager, job: Benchmark) -> Benchmark:
    """The benchmark at its end, whatever that is."""
    return until(lambda: (now := manager.benchmark(job.id)).state not in OWNED and now, "the end of the benchmark")


def generations(simulator: OllamaSimulator, model: str | None = None) -> list[Any]:
    """The bodies of what was asked, without loads, in their order."""
    return [
        request.body
        for request in list(simulator.requests)
        if request.path == "/api/generate"
        and request.body.get("prompt")
        and (model is None or request.body["model"] == model)
    ]


def loads(simulator: OllamaSimulator) -> list[str]:
    """The models that were to be loaded, in their order."""
    return [
        request.body["model"]
        for request in list(simulator.requests)
        if request.path == "/api/generate" and not request.body.get("prompt")
    ]


def counted(simulator: OllamaSimulator, job: Benchmark) -> list[Any]:
    """What was asked and counts: a warm-up is shorter."""
    return [body for body in generations(simulator) if body["options"]["num_predict"] == job.answer_tokens]

"""ollama_descriptions: each model is described once, the lists are asked for only where they are needed."""

from __future__ import annotations

import pytest

from model_core.simulated_library import make_model
from ollama_client import OllamaClient
from ollama_descriptions import RETRY_S, WITHIN_S, OllamaDescriptions
from tests.download_scenes import asked


class Clock:
    """Moves on by ``step_s`` whenever it is read."""

    now_s, step_s = 1000.0, 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


HYBRID = {
    "general.architecture": "llama",
    "llama.block_count": 4,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": [0, 2, 0, 2],
    "llama.vocab_size": 512,
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def descriptions(simulator, clock) -> OllamaDescriptions:
    simulator.install("plain", make_model("plain", size_bytes=1_000_000))
    simulator.install("hybrid", make_model("hybrid", size_bytes=1_000_000, model_info=HYBRID))
    return OllamaDescriptions(OllamaClient(simulator.url), clock)


def installed(simulator, *names):
    of_name = {model.name: model for model in OllamaClient(simulator.url).tags()}
    return [of_name[f"{name}:latest"] for name in names]


def test_what_ollama_tells_is_known_by_the_digest(descriptions, simulator):
    (plain,) = installed(simulator, "plain")

    found = descriptions.of([plain])

    assert found[plain.digest].architecture.layers == 2
    assert not found[plain.digest].sees
    assert asked(simulator, "/api/show") == 1


def test_lists_are_asked_for_only_where_a_number_is_one(descriptions, simulator):
    (hybrid,) = installed(simulator, "hybrid")

    found = descriptions.of([hybrid])

    assert found[hybrid.digest].architecture.kv_heads_by_layer == (0, 2, 0, 2)
    assert [r.body["verbose"] for r in simulator.requests if r.path == "/api/show"] == [False, True]


def test_what_could_not_be_described_is_left_in_peace_for_a_while(descriptions, simulator, clock):
    models = installed(simulator, "plain")
    simulator.set_fault("proxy_error", endpoint="/api/show", times=1)

    assert descriptions.of(models) == {}
    assert descriptions.of(models) == {}
    assert asked(simulator, "/api/show") == 1

    clock.now_s += RETRY_S
    assert descriptions.of(models)


def test_who_has_hundreds_does_not_wait_for_all_of_them(descriptions, simulator, clock):
    models = installed(simulator, "plain", "hybrid")
    clock.step_s = WITHIN_S / 2 + 0.1

    assert list(descriptions.of(models)) == [models[0].digest]

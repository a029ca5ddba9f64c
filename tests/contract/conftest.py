"""The server under test: the simulator always, a real Ollama where OLLAMA_LIVE_URL names one (``pytest -m live``).

The tests delete what is installed there. So the real one must be for them alone: one that holds a model which they
cannot have brought is left alone, and the tests fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from contract_library import MODELS, recorded_library
from contract_server import Ollama

from ollama_simulator import OllamaSimulator

# What the tests install and make; all of it is far smaller than any model that somebody uses under such a name.
MADE = {"critic", "from-file", "m", "mine", "noise", "photo-critic", "v", "w", "x", "y", "z"}
BROUGHT = {*MODELS, "llama3.2:1b-instruct", *(f"{name}:latest" for name in MADE)}
LARGEST_BYTES = 300_000_000


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.live)])
def ollama(request: pytest.FixtureRequest) -> Iterator[Ollama]:
    """An Ollama with nothing installed and nothing loaded. On the real one, whatever was there is deleted."""
    if request.param == "real":
        url = os.environ.get("OLLAMA_LIVE_URL")
        if not url:
            pytest.skip("OLLAMA_LIVE_URL names no Ollama")
        real = Ollama(url, None)
        foreign = {name for name, model in real.tags().items() if name not in BROUGHT or model["size"] > LARGEST_BYTES}
        if foreign:
            pytest.fail(f"{url} holds models of somebody ({', '.join(sorted(foreign))}); these tests would delete them")
        real.reset()
        yield real
        real.reset()
        real.close()
        return
    with OllamaSimulator(
        library=recorded_library(),
        rate_bytes_per_s=2.5e9,
        tick_s=0.005,
        load_seconds=0.0,
        unload_seconds=0.0,
        tokens_per_second=100_000.0,
    ) as simulator:
        simulated = Ollama(simulator.url, simulator)
        yield simulated
        simulated.close()

"""The server under test: the simulator always, a real Ollama where OLLAMA_LIVE_URL names one (``pytest -m live``)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from contract_library import recorded_library
from contract_server import Ollama

from ollama_simulator import OllamaSimulator


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.live)])
def ollama(request: pytest.FixtureRequest) -> Iterator[Ollama]:
    """An Ollama with nothing installed and nothing loaded. On the real one, whatever was there is deleted."""
    if request.param == "real":
        url = os.environ.get("OLLAMA_LIVE_URL")
        if not url:
            pytest.skip("OLLAMA_LIVE_URL names no Ollama")
        real = Ollama(url, None)
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

"""What every test gets: an environment without surprises, and a simulated Ollama for who asks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from rest_api import NOBODY, ONE_B, ONE_B_TAG, RestApi, manager_on

from ollama_simulator import OllamaSimulator

# A busy machine is no fault of the code: what is slow shows in bench/, not here.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# OLLAMA_LIVE_URL is for the tests themselves; nothing of ours reads it.
KEPT = {"OLLAMA_LIVE_URL"}
OURS = ("OLLAMA_", "MODEL_MANAGER_")
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that the machine is set to changes a test, and no test reaches the real document."""
    for variable in os.environ:
        if (variable.startswith(OURS) and variable not in KEPT) or variable.lower() in PROXIES:
            monkeypatch.delenv(variable)
    monkeypatch.setenv("MODEL_MANAGER_METADATA_FILE", str(tmp_path / "model_metadata.json"))


@pytest.fixture
def simulator() -> Iterator[OllamaSimulator]:
    """A simulated Ollama with the catalogue's models in its library and nothing installed, some thousand times as fast.

    A layer of 2 GB takes ten ticks of 2 ms; faults with ``at_bytes`` stop it at an exact place.
    """
    fast = OllamaSimulator(
        rate_bytes_per_s=100e9, tick_s=0.002, load_seconds=0.0, unload_seconds=0.005, tokens_per_second=100_000.0
    )
    with fast:
        yield fast


@pytest.fixture
def api(simulator: OllamaSimulator, tmp_path: Path) -> Iterator[RestApi]:
    """The REST face on a fresh document; Ollama holds nothing yet."""
    manager = manager_on(simulator, tmp_path)
    yield RestApi(manager)
    manager.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestApi]:
    """One REST face for every test that leaves it as it was. The 1B model is there, and selected."""
    with OllamaSimulator(installed=[ONE_B_TAG]) as ollama:
        manager = manager_on(ollama, tmp_path_factory.mktemp("shared"))
        manager.select_model(ONE_B)
        yield RestApi(manager)
        manager.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[..., RestApi]]:
    """Makes REST faces that no Ollama stands behind: for what is refused before anybody asks it."""
    manager = manager_on(NOBODY, tmp_path)
    yield lambda **options: RestApi(manager, **options)
    manager.close()

"""The daily loop on a real Ollama: `OLLAMA_LIVE_URL=http://127.0.0.1:11434 python -m pytest -m live tests/live`.

It fetches the catalogue's two smallest models (2.8 GB from Ollama's own library) and deletes them again. Where one of
them is there already, it touches nothing and is skipped: what somebody has on his machine is not for a test.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from model_manager import CannotDeleteCurrent, ModelManager, ModelNotInstalled, NoCurrentModel
from tests.download_scenes import Answer

LIVE_URL = os.environ.get("OLLAMA_LIVE_URL", "")
MODEL, TAG = "llama3.2:1b-instruct", "llama3.2:1b-instruct-q4_K_M"
OTHER, OTHER_TAG = "llama3.2:3b-instruct", "llama3.2:3b-instruct-q4_K_M"
Q8_TAG = "llama3.2:1b-instruct-q8_0"
OURS = {MODEL, TAG, OTHER, OTHER_TAG, Q8_TAG}
LONG_S = 3600.0  # a slow line

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(2 * LONG_S),
    pytest.mark.skipif(not LIVE_URL, reason="OLLAMA_LIVE_URL names no Ollama"),
]


def there(manager: ModelManager) -> set[str]:
    return {model.name for model in manager.client.tags()}


@pytest.fixture
def managers(tmp_path: Path):
    made = []

    def make() -> ModelManager:
        made.append(ModelManager(LIVE_URL, tmp_path / "document.json"))
        return made[-1]

    first = make()
    assert not first.is_simulated()
    if there(first) & OURS:
        pytest.skip(f"{', '.join(sorted(there(first) & OURS))} is installed there")
    yield make
    for name in sorted(there(first) & OURS):
        first.client.unload(name)
        first.client.delete(name)
    for manager in made:
        manager.close()


def test_the_daily_loop(managers):
    manager, elsewhere = managers(), managers()
    events = []

    assert {MODEL, OTHER} <= {model.name for model in manager.list_available_models()}
    with pytest.raises(NoCurrentModel):
        manager.current()
    with pytest.raises(ModelNotInstalled):
        manager.select_model(MODEL)

    assert manager.download_model(MODEL, progress_callback=events.append) == (True, f"{MODEL} is installed.")
    assert events[0] == {"status": "pulling manifest"}
    assert events[-1] == {"status": "success"}
    assert {MODEL, TAG} <= there(manager)
    assert manager.download_model(MODEL) == (True, f"{MODEL} was there already.")

    assert manager.switch_model(MODEL)
    assert elsewhere.get_current_model() == MODEL
    assert isinstance(manager.client.generate(MODEL, "Say one word.", max_tokens=4), str)
    manager.record_usage(MODEL, inference_time=1.5)
    assert elsewhere.get_model_statistics(MODEL)["usage_count"] == 1
    assert manager.check_model_compatibility(MODEL, 8)[0]
    assert manager.recommend_model(2, "speed") == MODEL

    with pytest.raises(CannotDeleteCurrent):
        manager.remove_model(MODEL)
    assert manager.download_model(OTHER)[0]
    assert manager.switch_model(OTHER)
    assert manager.store.read().previous_model == MODEL
    removal = manager.remove_model(MODEL)

    assert set(removal.names) == {MODEL, TAG}
    assert not there(manager) & {MODEL, TAG}
    assert MODEL not in {running.name for running in manager.client.running()}
    assert {job.state for job in manager.downloads()} == {"completed"}
    assert manager.health()["ready"]


def test_another_quantization_points_the_id_elsewhere_and_back(managers):
    manager = managers()
    manager.pull_model(MODEL)
    manager.pull_model(MODEL, quantization="q8")
    after_download = {model.name: model.digest for model in manager.client.tags()}
    manager.select_model(MODEL, "q4")
    after_switch = {model.name: model.digest for model in manager.client.tags()}

    assert after_download[MODEL] == after_download[Q8_TAG]
    assert after_switch[MODEL] == after_switch[TAG]


def test_many_who_ask_at_once_get_one_download(managers):
    one, two = managers(), managers()
    together = threading.Barrier(4)

    def ask(manager: ModelManager):
        together.wait()
        return manager.pull_model(MODEL)

    answers = [Answer(lambda manager=manager: ask(manager)) for manager in (one, one, two, two)]

    assert {answer.get(LONG_S).state for answer in answers} == {"completed"}
    assert len(one.downloads()) == 1


def test_a_model_that_does_not_exist_ends_in_words(managers):
    happened, message = managers().download_model("llama3.2:no-such-tag")

    assert happened is False
    assert "no-such-tag" in message
    assert "ollama.com/library" in message

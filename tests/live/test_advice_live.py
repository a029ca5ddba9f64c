"""Advice and loading on a real Ollama: `OLLAMA_LIVE_URL=http://127.0.0.1:11434 python -m pytest -m live tests/live`.

It loads the smallest installed model that answers, and unloads it again; nothing is fetched, nothing is deleted.
Without such a model, or while it is loaded by somebody else, it is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_core.loading import Phase
from model_manager import BenchmarkUnsuitable, InvalidRequest, ModelLacksCapability, ModelManager, OllamaError

LIVE_URL = os.environ.get("OLLAMA_LIVE_URL", "")

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not LIVE_URL, reason="OLLAMA_LIVE_URL names no Ollama"),
]


@pytest.fixture
def manager(tmp_path: Path):
    manager = ModelManager(LIVE_URL, tmp_path / "document.json")
    yield manager
    manager.close()


@pytest.fixture(params=[0])
def model(manager, request) -> str:
    """The name of the smallest installed model that answers and has so many bytes."""
    answering = [
        one
        for one in manager.client.tags()
        if "completion" in (one.capabilities or ()) and one.size_bytes >= request.param
    ]
    if not answering:
        pytest.skip(f"no model that answers and has {request.param:,} bytes is installed there")
    smallest = min(answering, key=lambda one: one.size_bytes)
    if smallest.digest in {runner.digest for runner in manager.client.running()}:
        pytest.skip(f"{smallest.name} is in use there")
    yield smallest.name
    manager.unload_model(smallest.name)


def test_a_model_is_loaded_counted_and_unloaded(manager, model):
    phases = []

    done = manager.load_model(model, keep_alive="1m", context_tokens=1024, on_phase=phases.append)
    again = manager.load_model(model)
    running = next(one for one in manager.running() if one.name == done.model)
    gone = manager.unload_model(model)

    assert phases == [Phase.LOOKING, Phase.LOADING, Phase.COUNTING]
    assert (done.was_loaded, again.was_loaded) == (False, True)
    assert running.context_tokens == done.context_tokens <= 1024
    assert running.size_bytes is None or running.size_bytes > 0
    assert (gone.was_loaded, gone.is_gone) == (True, True)
    assert done.model not in [one.name for one in manager.running()]


def test_a_question_finds_the_model_as_it_was_loaded(manager, model):
    manager.load_model(model, context_tokens=1024)

    answer = manager.client.generate_answer(model, "Name one kind of light.", options={"num_predict": 4})

    # Another context would have loaded it anew: that takes much longer than finding it.
    assert answer.load_seconds < 1
    assert [one.context_tokens for one in manager.running()] == [min(1024, manager.running()[0].context_tokens)]


@pytest.mark.parametrize("keep_alive", ["5", True, "soon"])
def test_what_we_refuse_as_a_time_ollama_refuses_too(manager, model, keep_alive):
    with pytest.raises(InvalidRequest):
        manager.load_model(model, keep_alive=keep_alive)

    with pytest.raises(OllamaError) as refused:
        manager.client.load(model, keep_alive=keep_alive)
    assert refused.value.upstream_status == 400


def test_every_installed_model_can_be_checked_and_is_described(manager, model):
    manager.sync()
    checks = {name: manager.check_fit(name).check for name in manager.list_installed_models()}

    assert manager.info(model).name in checks
    assert all(check.need.total > 0 for check in checks.values())


def test_the_machine_is_known_and_the_doctor_has_looked_at_it(manager, model):
    machine = manager.hardware()

    assert machine.gpus is None or all(gpu.source for gpu in machine.gpus)
    assert next(found for found in manager.diagnose().findings if found.subject == "Ollama").ok is not False


def test_a_benchmark_measures_or_says_why_not(manager, model):
    begun = manager.start_benchmark([model], ["Rate it.", "Name three keywords."], runs=2, answer_tokens=16)
    job = list(manager.follow_benchmark(begun))[-1]

    assert (job.state, job.done, len(job.results)) == ("completed", 4, 4)
    assert job.loads[0].seconds > 0
    assert not any(load.seconds for load in job.loads[1:])  # the same options: nothing is loaded anew
    for result in job.results:
        assert result.error or (0 < result.answer_tokens <= 16 and 0 < result.first_token_seconds < 60)
        assert not result.reloaded
    assert manager.store.read().measured or job.loads[0].size_bytes is None


def test_a_prompt_longer_than_the_context_is_refused_and_said_in_words(manager, model):
    long = " ".join(f"word{number}" for number in range(700))
    begun = manager.start_benchmark([model], ["Rate it.", long], runs=1, answer_tokens=16, context_tokens=256)
    job = list(manager.follow_benchmark(begun))[-1]

    assert "exceeds the available context size" in job.results[1].error
    assert "{" not in job.results[1].error


@pytest.mark.parametrize("model", [100_000_000], indirect=True)  # a smaller one is done before anybody can cancel
def test_a_benchmark_that_is_cancelled_hangs_up_and_keeps_what_it_has(manager, model):
    begun = manager.start_benchmark([model], runs=20, answer_tokens=2048)
    for job in manager.follow_benchmark(begun):
        if job.done:
            manager.cancel_benchmark(job.id)
            break

    ended = list(manager.follow_benchmark(begun))[-1]

    assert ended.state == "cancelled"
    assert 0 < ended.done == len(ended.results) < ended.total


def test_what_only_makes_embeddings_is_refused_as_ollama_refuses_it(manager):
    embedding = next((one.name for one in manager.client.tags() if one.capabilities == ("embedding",)), None)
    if embedding is None:
        pytest.skip("no model that only makes embeddings is installed there")

    with pytest.raises(BenchmarkUnsuitable):
        manager.start_benchmark([embedding])
    with pytest.raises(ModelLacksCapability):
        manager.load_model(embedding)
    with pytest.raises(OllamaError) as refused:
        manager.client.load(embedding)
    assert refused.value.upstream_status == 400

"""ollama_runners: what is loaded is known by its weights; a load is waited for and counted, an unload is seen."""

from __future__ import annotations

import pytest

from model_core.errors import OllamaError, OllamaModelMissing
from model_core.loading import Phase
from model_core.records import GIB
from ollama_client import OllamaClient
from ollama_inventory import RETRY_S
from ollama_runners import FRESH_S, OllamaRunners
from tests.download_scenes import MODEL, OTHER_TAG, TAG, Answer, asked, until


class Clock:
    """Stands still but for what a test lets pass."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(simulator) -> OllamaClient:
    simulator.install(TAG)
    simulator.install(OTHER_TAG)
    return OllamaClient(simulator.url)


@pytest.fixture
def runners(client, clock) -> OllamaRunners:
    return OllamaRunners(client, clock)


def digest_of(client, name) -> str:
    return next(model.digest for model in client.tags() if model.name == name)


def looks(simulator) -> int:
    return asked(simulator, "/api/ps")


def test_a_look_is_good_for_two_seconds(runners, client, clock, simulator):
    assert runners.look() == ()
    client.load(TAG)
    clock.now_s += FRESH_S - 0.1
    assert (runners.look(), looks(simulator)) == ((), 1)

    clock.now_s += 0.1

    assert [model.name for model in runners.look()] == [TAG]
    assert runners.look() is runners.look()


def test_what_ollama_does_not_tell_is_as_it_was_and_it_is_not_asked_again_at_once(runners, client, clock, simulator):
    """What it has loaded would otherwise count as the memory of other programs."""
    client.load(TAG)
    told = runners.look()
    simulator.set_fault("dropped", endpoint="/api/ps")
    clock.now_s += FRESH_S
    silent = runners.look()
    clock.now_s += RETRY_S - 0.1
    runners.look()
    looked = looks(simulator)
    simulator.clear_faults()
    client.unload(TAG)
    until(lambda: not client.running())
    clock.now_s += 0.1

    assert (silent, looked) == (told, 2)
    assert runners.look() == ()


def test_who_looks_while_another_asks_takes_the_last_answer(runners, client, clock, simulator):
    before = runners.look()
    client.load(TAG)
    clock.now_s += FRESH_S
    simulator.set_fault("slow_answer", endpoint="/api/ps", seconds=0.3)
    asking = Answer(runners.look)
    until(lambda: looks(simulator) == 2)

    assert runners.look() is before
    assert [model.name for model in asking.get()] == [TAG]


def test_a_load_is_waited_for_with_its_phases_and_counted(client, simulator):
    phases = []
    simulator.set_fault("slow_load", seconds=0.2, times=1)

    done = OllamaRunners(client).load(TAG, digest_of(client, TAG), 2048, "10m", phases.append)

    assert phases == [Phase.LOOKING, Phase.LOADING, Phase.COUNTING]
    assert done.seconds >= 0.2
    assert not done.was_loaded
    assert (done.runner.name, done.runner.context_tokens, done.runner.gpu_share) == (TAG, 2048, 1.0)


def test_what_is_loaded_with_the_same_context_was_there_already(runners, client):
    digest = digest_of(client, TAG)
    client.copy(TAG, MODEL)
    runners.load(TAG, digest, 2048)

    again = runners.load(MODEL, digest, 2048)
    longer = runners.load(MODEL, digest, 4096)

    assert again.was_loaded
    assert again.runner.name == TAG  # Ollama names a runner by the one who loaded it
    assert not longer.was_loaded
    assert longer.runner.context_tokens == 4096


def test_a_load_that_fails_says_why(runners, client, simulator):
    simulator.set_fault("load_failed", times=1)
    with pytest.raises(OllamaError, match="unable to allocate"):
        runners.load(TAG, digest_of(client, TAG), 4096)

    with pytest.raises(OllamaModelMissing):
        runners.load("nope", "ab" * 32, 4096)


def test_an_unload_is_over_when_the_memory_is_free(client, simulator):
    digests = {digest_of(client, TAG)}
    client.load(TAG)
    client.load(OTHER_TAG)
    runners = OllamaRunners(client)

    done = runners.unload([TAG], digests)
    assert (done.was_loaded, done.is_gone) == (True, True)
    assert [model.name for model in runners.ask()] == [OTHER_TAG]


def test_what_still_answers_stays_and_that_is_said(client, simulator):
    digests = {digest_of(client, TAG)}
    simulator.pace.tokens_per_second = 5
    answer = client.stream_generate(TAG, "hello")
    next(answer)

    done = OllamaRunners(client, unload_wait_s=0.2).unload([TAG], digests)
    assert (done.was_loaded, done.is_gone) == (True, False)
    answer.close()


def test_what_is_not_loaded_has_left_the_memory(runners, client):
    client.load(TAG)

    for names in ([], [OTHER_TAG]):
        done = runners.unload(names, {digest_of(client, OTHER_TAG)})
        assert (done.was_loaded, done.is_gone) == (False, True)
    assert [model.name for model in runners.ask()] == [TAG]


@pytest.fixture
def sibling(client) -> str:
    """A model made from another: a digest of its own, and the same weights."""
    for _ in client.create("critic:latest", from_model=TAG, system="You judge photos."):
        pass
    assert digest_of(client, "critic:latest") != digest_of(client, TAG)
    return "critic:latest"


def test_a_model_made_from_another_is_found_in_the_runner_that_both_share(runners, client, sibling):
    client.load(sibling)

    done = runners.load(TAG, digest_of(client, TAG), 4096)

    assert (done.was_loaded, done.runner.name, done.runner.context_tokens) == (True, sibling, 4096)


def test_a_model_made_from_another_is_unloaded_by_either(runners, client, sibling):
    client.load(OTHER_TAG)
    client.load(sibling)

    done = runners.unload([TAG], {digest_of(client, TAG)})

    assert (done.was_loaded, done.is_gone) == (True, True)
    assert [model.name for model in runners.ask()] == [OTHER_TAG]


def test_a_shared_runner_that_still_answers_is_still_there_when_asked_again(client, sibling, simulator):
    simulator.pace.tokens_per_second = 5
    answer = client.stream_generate(sibling, "hello")
    next(answer)
    runners = OllamaRunners(client, unload_wait_s=0.2)

    for _ in range(2):
        done = runners.unload([TAG], {digest_of(client, TAG)})
        assert (done.was_loaded, done.is_gone) == (True, False)
    answer.close()


def test_what_another_program_does_with_another_model_is_taken_for_nothing(client, simulator):
    """Between our request and our look it has pushed ours out, or unloaded its own."""
    runners = OllamaRunners(Meanwhile(client, lambda: client.load(OTHER_TAG)))
    simulator.pace.vram_bytes = 3 * GIB  # for one of them

    loaded = runners.load(TAG, digest_of(client, TAG), 4096)
    unloading = OllamaRunners(Meanwhile(client, lambda: client.unload(OTHER_TAG)))
    gone = unloading.unload([TAG], {digest_of(client, TAG)})

    assert loaded.runner is None
    assert (gone.was_loaded, gone.is_gone) == (False, True)


class Meanwhile:
    """A client during whose loads and unloads something else happens."""

    def __init__(self, client, happens) -> None:
        self._client, self._happens = client, happens

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def and_meanwhile(*arguments, **options):
            done = call(*arguments, **options)
            self._happens()
            return done

        return and_meanwhile if name in ("load", "unload") else call

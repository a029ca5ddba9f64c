"""ollama_inventory: one answer for many, fresh for two seconds, and the last one known while Ollama is down."""

from __future__ import annotations

import threading
import time

import pytest

from model_core.errors import OllamaUnavailable
from model_core.records import InstalledModel, OllamaSeen
from ollama_client import OllamaClient
from ollama_inventory import FRESH_S, PATIENCE_S, RETRY_S, VERSION_S, OllamaInventory
from tests.download_scenes import MODEL, TAG, Answer, asked, until

REMEMBERED = OllamaSeen(
    checked_at="2026-11-20T10:00:00.000000Z",
    version="0.33.0",
    models=(InstalledModel(name=MODEL, digest="ab" * 32, size_bytes=5),),
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inventory(simulator, clock) -> OllamaInventory:
    simulator.install(TAG)
    return OllamaInventory(OllamaClient(simulator.url), lambda: "now", lambda: REMEMBERED, clock)


def lists(simulator) -> int:
    return asked(simulator, "/api/tags")


def names(seen) -> list[str]:
    return [model.name for model in seen.inventory.models]


# --- how often Ollama is asked ---------------------------------------------------------------------------------------


def test_making_one_asks_nobody(inventory, simulator):
    assert simulator.requests == []


def test_an_answer_is_good_for_two_seconds(inventory, simulator, clock):
    first = inventory.look()
    clock.passes(FRESH_S - 0.01)
    second = inventory.look()

    assert names(first) == [TAG]
    assert second is first
    assert lists(simulator) == 1


def test_after_two_seconds_a_pull_by_hand_shows_up(inventory, simulator, clock):
    inventory.look()
    simulator.install("llama3.2:3b-instruct-q4_K_M")
    clock.passes(FRESH_S)

    assert set(names(inventory.look())) == {TAG, "llama3.2:3b-instruct-q4_K_M"}


def test_while_ollama_is_down_it_is_asked_again_after_five_seconds_only(inventory, simulator, clock):
    simulator.set_fault("dropped")
    inventory.look()
    clock.passes(RETRY_S - 0.01)
    inventory.look()
    before = lists(simulator)
    clock.passes(0.01)
    inventory.look()

    assert before == 1
    assert lists(simulator) == 2


def test_of_many_threads_one_asks_and_all_get_its_answer(inventory, simulator):
    simulator.set_fault("slow_answer", endpoint="/api/tags", seconds=0.1)
    together = threading.Barrier(16)

    def look():
        together.wait()
        return inventory.look()

    answers = [Answer(look) for _ in range(16)]

    assert len({id(answer.get()) for answer in answers}) == 1
    assert lists(simulator) == 1


def test_who_has_an_older_answer_does_not_wait_for_an_ollama_that_hangs(inventory, simulator, clock):
    old = inventory.look()
    clock.passes(FRESH_S)
    simulator.set_fault("slow_answer", endpoint="/api/tags", seconds=30)
    asking = Answer(inventory.look)
    until(lambda: lists(simulator) == 2)

    began = time.monotonic()
    seen = inventory.look()
    took_s = time.monotonic() - began
    simulator.stop()

    assert seen is old
    assert took_s < PATIENCE_S + 1
    assert asking.get().reachable is False


def test_a_decision_rests_on_what_ollama_holds_this_moment(inventory, simulator):
    inventory.look()
    simulator.install("llama3.2:3b-instruct-q4_K_M")

    assert len(inventory.ask().inventory.models) == 2


def test_the_version_is_asked_seldom(inventory, simulator, clock):
    for _ in range(10):
        clock.passes(FRESH_S)
        inventory.look()
    before = asked(simulator, "/api/version")
    clock.passes(VERSION_S)
    inventory.look()

    assert before == 1
    assert asked(simulator, "/api/version") == 2


def test_an_ollama_that_comes_back_may_be_another_so_its_version_is_asked_anew(inventory, simulator, clock):
    inventory.look()
    simulator.set_fault("dropped", times=1)
    clock.passes(FRESH_S)
    inventory.look()
    clock.passes(RETRY_S)
    inventory.look()

    assert asked(simulator, "/api/version") == 2


# --- what is answered ------------------------------------------------------------------------------------------------


def test_the_same_answer_stays_the_same_object(inventory, clock):
    first = inventory.look().inventory
    clock.passes(FRESH_S)

    assert inventory.look().inventory is first


def test_the_last_answer_stays_with_its_time_and_the_reason_while_ollama_is_down(simulator, clock):
    moments = iter(["first", "second"])
    inventory = OllamaInventory(OllamaClient(simulator.url), lambda: next(moments), lambda: REMEMBERED, clock)
    simulator.install(TAG)
    inventory.look()
    simulator.stop()
    clock.passes(FRESH_S)

    seen = inventory.look()

    assert (names(seen), seen.checked_at, seen.reachable, seen.simulated) == ([TAG], "first", False, True)
    assert isinstance(seen.error, OllamaUnavailable)
    assert "Start Ollama" in str(seen.error)


def test_an_ollama_that_is_back_is_shown_as_such(inventory, simulator, clock):
    inventory.look()
    simulator.stop()
    clock.passes(FRESH_S)
    inventory.look()
    simulator.start()
    clock.passes(RETRY_S)

    seen = inventory.look()

    assert (seen.reachable, seen.error) == (True, None)


def test_after_a_restart_with_ollama_down_the_remembered_state_is_shown(simulator, clock):
    simulator.stop()
    inventory = OllamaInventory(OllamaClient(simulator.url), lambda: "now", lambda: REMEMBERED, clock)

    seen = inventory.look()

    assert names(seen) == [MODEL]
    assert (seen.checked_at, seen.version, seen.reachable, seen.simulated) == (
        REMEMBERED.checked_at,
        "0.33.0",
        False,
        False,
    )


def test_what_is_remembered_is_not_asked_for_while_ollama_answers(simulator, clock):
    def refuse() -> OllamaSeen:
        raise AssertionError("nobody needs it")

    inventory = OllamaInventory(OllamaClient(simulator.url), lambda: "now", refuse, clock)

    assert inventory.look().reachable


def test_the_simulator_never_passes_for_a_real_ollama(inventory):
    assert inventory.look().simulated


def test_a_version_that_is_not_told_hides_no_model(inventory, simulator):
    simulator.set_fault("proxy_error", endpoint="/api/version")

    seen = inventory.look()

    assert (names(seen), seen.reachable, seen.version) == ([TAG], True, None)


def test_to_decide_without_ollama_is_an_error_of_ones_own(inventory, simulator):
    simulator.stop()

    with pytest.raises(OllamaUnavailable) as first:
        inventory.ask()
    with pytest.raises(OllamaUnavailable) as second:
        inventory.ask()

    assert first.value is not second.value
    assert inventory.look().error not in (first.value, second.value)


def test_going_down_is_logged_once(inventory, simulator, clock, caplog):
    simulator.stop()
    for _ in range(3):
        inventory.look()
        clock.passes(RETRY_S)

    assert len([record for record in caplog.records if "not reachable" in record.message]) == 1

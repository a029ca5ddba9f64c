"""What tests of downloads share: an impatient patience, waiting with a deadline, and what the simulator has seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from model_core.patience import Patience
from ollama_simulator import OllamaSimulator

MODEL, TAG = "llama3.2:1b-instruct", "llama3.2:1b-instruct-q4_K_M"
OTHER, OTHER_TAG = "llama3.2:3b-instruct", "llama3.2:3b-instruct-q4_K_M"
THIRD = "llama3.1:8b-instruct"

# A quarter of a second is a stall: for tests of stalls.
IMPATIENT = Patience(
    stalled_s=0.25, asking_s=0.4, checking_s=0.4, first_pause_s=0.01, longest_pause_s=0.05, fruitless_attempts=3
)
# For what a test itself holds up, and so that a busy machine is not taken for a stall.
CALM = replace(IMPATIENT, stalled_s=30.0, asking_s=30.0, checking_s=30.0)
HELD_AT = 300_000_000
SOON_S = 20.0  # nothing takes this long; a test that waits so long has failed


def until(condition: Callable[[], Any], what: str = "what was waited for", within_s: float = SOON_S) -> Any:
    """Return what the condition returns as soon as that is true. Fails when it does not become so in time."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:g} s"
        time.sleep(0.002)
    return found


def asked(simulator: OllamaSimulator, path: str, model: str | None = None) -> int:
    """How many requests of this path the simulated Ollama got, of one model where it is said."""
    return sum(
        request.path == path and (model is None or request.body.get("model") == model)
        for request in list(simulator.requests)
    )


def pulls(simulator: OllamaSimulator, tag: str | None = None) -> int:
    return asked(simulator, "/api/pull", tag)


class Answer:
    """What a call in another thread came to."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call, self._value, self._error = call, None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error

    @property
    def is_there(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def get(self, within_s: float = SOON_S) -> Any:
        """The value, or the error. Fails when neither comes in time."""
        self._thread.join(within_s)
        assert self.is_there, f"no answer within {within_s:g} s"
        if self._error is not None:
            raise self._error
        return self._value


@contextmanager
def held_up(simulator: OllamaSimulator, tag: str = TAG, *, kind: str = "silence") -> Iterator[None]:
    """Within the block, a pull of this tag stands still at HELD_AT bytes; after it, it goes on."""
    simulator.set_fault(kind, model=tag, at_bytes=HELD_AT)
    try:
        yield
    finally:
        simulator.clear_faults()


def standing(simulator: OllamaSimulator) -> Callable[[], bool]:
    return lambda: HELD_AT in simulator.state()["partial"].values()

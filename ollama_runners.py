"""What Ollama has in memory: look at it, bring a model there and out again, time that, and read what Ollama counted.

Loading takes seconds to minutes, and ends when nobody waits for it; so whoever calls `load` waits to the end.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from weakref import WeakSet

from model_core import loading, measurements
from model_core.errors import OllamaError
from model_core.loading import Phase
from model_core.records import RunningModel
from ollama_client import KeepAlive, OllamaClient
from ollama_inventory import RETRY_S

logger = logging.getLogger(__name__)

FRESH_S = 2.0  # as old may an answer be that is only shown, or goes into advice
# The answer to an unload comes before the memory is free; Ollama itself looks for it for up to 5 s (sched.go).
UNLOAD_WAIT_S, UNLOAD_LOOK_S = 5.0, 0.05


@dataclass(frozen=True)
class Load:
    """A load that has happened. runner is what /api/ps says of it then; None where it says nothing.

    seconds  waited for Ollama; was_loaded: with this very context, so there was nothing to wait for
    """

    seconds: float
    was_loaded: bool
    runner: RunningModel | None


@dataclass(frozen=True)
class Unload:
    """An unload that was asked for; is_gone is False while an answer that is under way keeps the model in memory."""

    was_loaded: bool
    is_gone: bool


class OllamaRunners:
    """The loaded models of one Ollama. May be used from many threads, and on both sides of a fork."""

    def __init__(
        self,
        client: OllamaClient,
        clock: Callable[[], float] = time.perf_counter,
        unload_wait_s: float = UNLOAD_WAIT_S,
    ) -> None:
        self._client, self._clock, self._unload_wait_s = client, clock, unload_wait_s
        self._seen: tuple[RunningModel, ...] = ()
        self._told = True
        self._card: tuple[int, int] | None = None
        self._asked_at = float("-inf")
        self._start_anew()
        _all.add(self)

    def _start_anew(self) -> None:
        """After a fork: whoever was asking is in the other process."""
        self._asking = threading.Lock()

    def look(self) -> tuple[RunningModel, ...]:
        """Return what is loaded, as of at most two seconds ago; where Ollama does not tell, what it told last.

        Of many threads one asks; the others take the last answer.
        """
        if self._is_due() and self._asking.acquire(blocking=self._asked_at < 0):
            try:
                if self._is_due():
                    self._take(self._asked())
            finally:
                self._asking.release()
        return self._seen

    def _is_due(self) -> bool:
        return self._clock() - self._asked_at >= (FRESH_S if self._told else RETRY_S)

    def ask(self) -> tuple[RunningModel, ...]:
        """Return what is loaded this moment. Raises OllamaError."""
        return self._take(tuple(self._client.running()))

    def _asked(self) -> tuple[RunningModel, ...]:
        try:
            running = tuple(self._client.running())
        except OllamaError as error:
            logger.debug("ollama does not tell what is loaded reason=%s", error.happened)
            self._told = False
            return self._seen
        self._told = True
        return running

    def _take(self, running: tuple[RunningModel, ...]) -> tuple[RunningModel, ...]:
        # The same answer stays the same object, so that what was made of it can be kept.
        if running != self._seen:
            self._seen = running
        self._card = None
        self._asked_at = self._clock()
        return self._seen

    def simulated_card(self) -> tuple[int, int]:
        """Return the size of a simulated Ollama's card and what is free of it, as fresh as what is loaded.

        Raises OllamaError.
        """
        self.look()
        if self._card is None:
            self._card = self._client.simulated_card()
        return self._card

    def load(
        self,
        name: str,
        digest: str,
        context_tokens: int,
        keep_alive: KeepAlive = None,
        on_phase: Callable[[Phase], object] = lambda phase: None,
    ) -> Load:
        """Bring a model into memory with this context, and return when it is there and counted. Raises OllamaError.

        on_phase  is told what is waited for
        """
        on_phase(Phase.LOOKING)
        before = self.ask()
        on_phase(Phase.LOADING)
        began_s = self._clock()
        self._client.load(name, keep_alive=keep_alive, options={"num_ctx": context_tokens})
        seconds = self._clock() - began_s
        on_phase(Phase.COUNTING)
        after = self.ask()
        runner = measurements.runner_of(after, digest) or self._shared(name, after)
        logger.info("model loaded name=%s context_tokens=%d seconds=%.1f", name, context_tokens, seconds)
        was_there = measurements.runner_of(before, runner.digest) if runner else None
        return Load(seconds, loading.is_as_before(was_there, runner), runner)

    def unload(self, names: Sequence[str], digests: Collection[str]) -> Unload:
        """Have Ollama let go of these weights. Raises OllamaError.

        names  one that is installed for each of them: Ollama unloads nothing by a name that was deleted
        """
        if not names:
            return Unload(was_loaded=False, is_gone=True)
        before = self.ask()
        going = {runner.digest for runner in before} & set(digests)
        if not going:
            going = {shared.digest for name in names if (shared := self._shared(name, before))}
        for name in names:
            self._client.unload(name)
        until_s = self._clock() + self._unload_wait_s
        while self._is_loaded(going) and self._clock() < until_s:
            time.sleep(UNLOAD_LOOK_S)
        return Unload(bool(going), not self._is_loaded(going))

    def _shared(self, name: str, running: Sequence[RunningModel]) -> RunningModel | None:
        """Return the runner of a model that was made from the same weights (`FROM`), None where there is none.

        Such a model has a digest of its own; Ollama lists their one runner under whichever was asked for first.
        """
        own = self._weights_of(name) if running else None
        return next((runner for runner in running if own and self._weights_of(runner.name) == own), None)

    def _weights_of(self, name: str) -> str | None:
        try:
            return self._client.show(name).weights_digest
        except OllamaError as error:  # it may have been deleted while it is loaded
            logger.debug("ollama does not tell the weights name=%s reason=%s", name, error.happened)
            return None

    def _is_loaded(self, digests: Collection[str]) -> bool:
        return any(runner.digest in digests for runner in self.ask())


_all: WeakSet[OllamaRunners] = WeakSet()


def _after_fork() -> None:
    for runners in list(_all):
        runners._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""What Ollama holds, as last seen, and when: asked again when the answer is old, kept when Ollama is down."""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakSet

from model_core.errors import OllamaError
from model_core.installed import Inventory
from model_core.records import InstalledModel, OllamaSeen
from ollama_client import OllamaClient

logger = logging.getLogger(__name__)

FRESH_S = 2.0  # a pull by hand shows up in the list within this
RETRY_S = 5.0  # while Ollama is down: on Windows every attempt costs its whole connect time-out
VERSION_S = 300.0
# So long a look waits for another that is asking; an Ollama that takes longer keeps only one of them.
PATIENCE_S = 0.5


@dataclass(frozen=True)
class Seen:
    """The last answer. reachable is None before anybody asked; error says why Ollama is not reachable."""

    inventory: Inventory
    checked_at: str | None
    reachable: bool | None = None
    version: str | None = None
    error: OllamaError | None = None

    @property
    def simulated(self) -> bool:
        """Is it the stand-in and not a real Ollama? Its version says so."""
        return _is_stand_in(self.version)


def _is_stand_in(version: str | None) -> bool:
    return "simulator" in (version or "")


class OllamaInventory:
    """Holds the last answer of one Ollama's list. Of many threads one asks, and the others take its answer."""

    def __init__(
        self,
        client: OllamaClient,
        now_text: Callable[[], str],
        remembered: Callable[[], OllamaSeen],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember nothing yet; `remembered` is asked, once, when Ollama does not answer the first time."""
        self._client, self._now_text, self._monotonic = client, now_text, monotonic
        self._remembered = remembered
        self._seen: Seen | None = None
        self._asked_at = self._version_at = float("-inf")
        self._start_anew()
        _inventories.add(self)

    def _start_anew(self) -> None:
        """After a fork: whoever was asking is in the other process."""
        self._asking = threading.Lock()

    def look(self) -> Seen:
        """Return an answer that is fit to be shown: a fresh one, or the last with the reason why there is no newer."""
        seen = self._seen
        if seen is not None and not self._is_due(seen):
            return seen
        # Without any answer there is nothing else to do than wait.
        if not self._asking.acquire(timeout=-1 if seen is None else PATIENCE_S):
            return self._seen or self.look()
        try:
            seen = self._seen
            return self._ask() if seen is None or self._is_due(seen) else seen
        finally:
            self._asking.release()

    def is_simulated(self) -> bool:
        """Say whether it is the stand-in, by the last answer, however old; asks only where there never was one."""
        if self._seen is None and (known := self._remembered()).checked_at:
            return _is_stand_in(known.version)
        return (self._seen or self.look()).simulated

    def last(self) -> Seen | None:
        """Return the last answer that this process had; asks nobody."""
        return self._seen

    def ask(self) -> Seen:
        """Return what Ollama holds this moment, to decide on. Raises OllamaUnavailable and other OllamaErrors."""
        with self._asking:
            seen = self._ask()
        if seen.error:
            # One each: an exception that several threads raise collects all their tracebacks.
            raise copy.copy(seen.error) from seen.error.__cause__
        return seen

    def _is_due(self, seen: Seen) -> bool:
        return self._monotonic() - self._asked_at >= (FRESH_S if seen.reachable else RETRY_S)

    def _ask(self) -> Seen:
        try:
            models = self._client.tags()
        except OllamaError as error:
            self._seen = self._unreachable(error.with_traceback(None))
        else:
            self._seen = self._answered(models)
        self._asked_at = self._monotonic()
        return self._seen

    def _answered(self, models: list[InstalledModel]) -> Seen:
        before = self._seen or Seen(Inventory(()), None)
        inventory = Inventory(models)
        # The same answer stays the same object, so that what was made of it can be kept.
        if inventory.models == before.inventory.models:
            inventory = before.inventory
        return Seen(inventory, self._now_text(), reachable=True, version=self._version(before))

    def _version(self, before: Seen) -> str | None:
        """Return the version; asked anew where it may be another Ollama than before, and now and then."""
        if before.version and before.reachable and self._monotonic() - self._version_at < VERSION_S:
            return before.version
        try:
            version = self._client.version()
        except OllamaError as error:
            logger.debug("ollama does not tell its version reason=%s", error.happened)
            return before.version
        self._version_at = self._monotonic()
        return version

    def _unreachable(self, error: OllamaError) -> Seen:
        before = self._seen
        if before is None:
            known = self._remembered()
            before = Seen(Inventory(known.models), known.checked_at, version=known.version)
        if before.reachable is not False:
            logger.warning("ollama not reachable reason=%s", error.happened)
        return replace(before, reachable=False, error=error)


_inventories: WeakSet[OllamaInventory] = WeakSet()


def _after_fork() -> None:
    for inventory in list(_inventories):
        inventory._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

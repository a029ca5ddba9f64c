"""What Ollama holds, as last seen, and when: asked again when the answer is old, kept and marked stale when Ollama is down."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from model_core.errors import OllamaError
from model_core.installed import Inventory
from model_core.records import OllamaSeen
from ollama_client import OllamaClient

logger = logging.getLogger(__name__)

FRESH_S = 2.0  # a pull by hand shows up in the list within this
RETRY_S = 5.0  # while Ollama is down: on Windows every attempt costs its whole connect time-out
VERSION_S = 300.0


@dataclass(frozen=True)
class Seen:
    """The last answer. reachable is None before anybody asked; error says why it is not reachable."""

    inventory: Inventory
    checked_at: str | None
    reachable: bool | None = None
    version: str | None = None
    error: OllamaError | None = None

    @property
    def simulated(self) -> bool:
        """Is it the stand-in and not a real Ollama? Its version says so."""
        return "simulator" in (self.version or "")


class OllamaInventory:
    """Holds the last answer of one Ollama's list. May be used from many threads: one asks, the others take its answer."""

    def __init__(
        self,
        client: OllamaClient,
        now_text: Callable[[], str],
        known: OllamaSeen,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._now_text, self._monotonic = client, now_text, monotonic
        self._asking = threading.Lock()
        self._seen = Seen(Inventory(known.models), known.checked_at, version=known.version)
        self._asked_at = self._version_at = float("-inf")

    def last(self) -> Seen:
        """Return the last answer, however old, without asking."""
        return self._seen

    def look(self) -> Seen:
        """Return an answer that is fit to be shown: a fresh one, or the last one with the reason why there is no newer."""
        if self._is_due():
            with self._asking:
                if self._is_due():
                    self._ask()
        return self._seen

    def ask(self) -> Seen:
        """Return what Ollama holds this moment, to decide on. Raises OllamaUnavailable and other OllamaErrors."""
        with self._asking:
            seen = self._ask()
        if seen.error:
            raise seen.error
        return seen

    def _is_due(self) -> bool:
        patience = RETRY_S if self._seen.reachable is False else FRESH_S
        return self._monotonic() - self._asked_at >= patience

    def _ask(self) -> Seen:
        before = self._seen
        try:
            models = self._client.tags()
            version = before.version
            if version is None or not before.reachable or self._monotonic() - self._version_at >= VERSION_S:
                version, self._version_at = self._client.version(), self._monotonic()
        except OllamaError as error:
            if before.reachable is not False:
                logger.warning("ollama not reachable reason=%s", error.happened)
            self._seen = replace(before, reachable=False, error=error)
        else:
            inventory = Inventory(models)
            # The same answer stays the same object, so that what was made of it can be kept.
            if inventory.models == before.inventory.models:
                inventory = before.inventory
            self._seen = Seen(inventory, self._now_text(), reachable=True, version=version)
        self._asked_at = self._monotonic()
        return self._seen

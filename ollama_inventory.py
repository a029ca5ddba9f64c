"""What Ollama holds, as last seen, and when: asked again when the answer is old, kept when Ollama is down."""

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
    """The last answer. reachable is None before anybody asked; error says why Ollama is not reachable."""

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
        self._asking = threading.Lock()
        self._seen: Seen | None = None
        self._asked_at = self._version_at = float("-inf")

    def look(self) -> Seen:
        """Return an answer that is fit to be shown: a fresh one, or the last with the reason why there is no newer."""
        if (seen := self._seen) is None or self._is_due(seen):
            with self._asking:
                seen = self._seen
                if seen is None or self._is_due(seen):
                    seen = self._ask()
        return seen

    def ask(self) -> Seen:
        """Return what Ollama holds this moment, to decide on. Raises OllamaUnavailable and other OllamaErrors."""
        with self._asking:
            seen = self._ask()
        if seen.error:
            raise seen.error
        return seen

    def _is_due(self, seen: Seen) -> bool:
        return self._monotonic() - self._asked_at >= (FRESH_S if seen.reachable else RETRY_S)

    def _ask(self) -> Seen:
        before = self._seen or Seen(Inventory(()), None)
        try:
            models = self._client.tags()
            version = before.version
            if version is None or not before.reachable or self._monotonic() - self._version_at >= VERSION_S:
                version, self._version_at = self._client.version(), self._monotonic()
        except OllamaError as error:
            if self._seen is None:
                known = self._remembered()
                before = Seen(Inventory(known.models), known.checked_at, version=known.version)
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

    def forget(self) -> None:
        """Let the next look ask again: something has just been changed there."""
        self._asked_at = float("-inf")

"""Ask Ollama for the numbers of installed models that nobody has catalogued: once for each, and not for long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from model_core.architectures import described, wants_lists
from model_core.errors import OllamaError
from model_core.records import Described, InstalledModel
from ollama_client import OllamaClient

logger = logging.getLogger(__name__)

# Each takes some milliseconds; who has hundreds gets the rest with the next question.
WITHIN_S = 2.0
RETRY_S = 300.0  # what Ollama could not describe just now


class OllamaDescriptions:
    """Describes weights. May be used from many threads."""

    def __init__(self, client: OllamaClient, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client, self._monotonic = client, monotonic
        self._failed_at: dict[str, float] = {}

    def of(self, models: Iterable[InstalledModel]) -> dict[str, Described]:
        """Return what Ollama tells of these, by digest; what it does not tell now is left out, and asked again."""
        began_s, found = self._monotonic(), dict[str, Described]()
        for model in models:
            now_s = self._monotonic()
            if now_s - began_s > WITHIN_S:
                break
            if now_s - self._failed_at.get(model.digest, float("-inf")) < RETRY_S:
                continue
            try:
                found[model.digest] = self._told(model.name)
            except OllamaError as error:
                logger.info("model not described name=%s reason=%s", model.name, error.happened)
                self._failed_at[model.digest] = now_s
        return found

    def _told(self, name: str) -> Described:
        details = self._client.show(name)
        if wants_lists(details):  # megabytes, so only where there is no other way
            details = self._client.show(name, verbose=True)
        return described(details)

"""What can go wrong with the simulated Ollama, and when: which faults are armed, and which of them a moment meets."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_core import names

# What each does. Besides `times` (how often; None: until cleared), `model` and `endpoint`, a fault takes what is named
# here, with its default.
MANIFEST_FAULTS: Mapping[str, str] = {
    "unknown_model": "pull: the registry has no such model",
    "registry_refused": "pull: nobody listens at the registry",
    "registry_no_such_host": "pull: the registry's name does not resolve",
    "registry_status": "pull: the registry answers status=500 with text='boom'",
    "registry_html": "pull: the registry answers with a page",
    "too_new": "pull: the model wants a newer Ollama",
}
BYTE_FAULTS: Mapping[str, str] = {
    "goes_back": "pull: at at_bytes=0 of the weights, completed falls to to_bytes=0; once unless times says more",
    "stall": "pull: from at_bytes=0 on the same line at every tick, until cleared",
    "silence": "pull: from at_bytes=0 on no line at all, until cleared",
    "cut_stream": "pull: at at_bytes=0 the stream ends without success or error; abrupt=False: without its last chunk",
    "disk_full": "pull: at at_bytes=0 the disk is full",
    "context_canceled": "pull: at at_bytes=0 a cancelled download ends this one, too",
    "retries_exhausted": "pull: at at_bytes=0 Ollama gives up",
}
FAULTS: Mapping[str, str] = {
    **MANIFEST_FAULTS,
    **BYTE_FAULTS,
    "slow_manifest": "pull: silence for seconds=1 before the manifest",
    "digest_mismatch": "pull: the weights are not what their digest says",
    "bare_list": "tags: says nothing of capabilities, as an Ollama before 0.30",
    "busy": "generate, chat, embed: the queue is full (503)",
    "forbidden": "any: 403 with an empty body",
    "proxy_error": "any: a proxy's page with status=502",
    "dropped": "any: the connection closes without an answer",
    "slow_answer": "any: silence for seconds=1 first",
    "slow_load": "load: takes seconds=5",
    "load_failed": "load: 500 with text, of llama.cpp's",
    "cut_generation": "generate, chat: ends after after_tokens=1 without done; abrupt=False: without its last chunk",
    "runner_crash": "generate, chat: an error after after_tokens=1; after 0 the status is 500",
}


@dataclass
class Fault:
    """One armed fault; ``cleared`` ends it for those who are in it."""

    kind: str
    times: int | None
    model: str | None
    endpoint: str | None
    details: Mapping[str, Any]
    cleared: bool = False

    @property
    def armed(self) -> bool:
        """Whether it will strike again."""
        return not self.cleared and (self.times is None or self.times > 0)

    @property
    def at_bytes(self) -> int:
        """Where in the weights it strikes."""
        return int(self.details.get("at_bytes", 0))

    def concerns(self, model: str | None, endpoint: str | None) -> bool:
        """Say whether it is aimed at this model and this path, or at all of them."""
        at_model = self.model is None or (model is not None and names.same(self.model, model))
        return at_model and (self.endpoint is None or self.endpoint == endpoint)

    def strike(self) -> None:
        """Count one hit."""
        if self.times is not None:
            self.times -= 1


class Faults:
    """The armed faults of one simulator."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._all: list[Fault] = []

    def arm(
        self, kind: str, times: int | None, model: str | None, endpoint: str | None, details: Mapping[str, Any]
    ) -> None:
        """Arm one. Raises ValueError for a kind that does not exist."""
        if kind not in FAULTS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(FAULTS)}")
        if kind == "goes_back" and times is None:
            times = 1
        with self._lock:
            self._all.append(Fault(kind, times, model, endpoint, details))

    def clear(self) -> None:
        """End all, also for the pulls and the loads that hang in one."""
        with self._lock:
            for fault in self._all:
                fault.cleared = True
            self._all.clear()

    def armed(self) -> list[Fault]:
        """Return those that will strike again, the oldest first."""
        with self._lock:
            return [fault for fault in self._all if fault.armed]

    def hit(self, *kinds: str, model: str | None = None, endpoint: str | None = None) -> Fault | None:
        """Return the oldest armed fault of these kinds that is met here, and count the hit."""
        with self._lock:
            if fault := self.ahead(*kinds, model=model, endpoint=endpoint):
                fault.strike()
            return fault

    def ahead(self, *kinds: str, model: str | None = None, endpoint: str | None = None) -> Fault | None:
        """Return the oldest armed fault of these kinds that would be met here; nothing is counted."""
        with self._lock:
            return next((f for f in self.armed() if f.kind in kinds and f.concerns(model, endpoint)), None)

    def on_the_way(self, model: str, completed: int, total: int) -> Fault | None:
        """Return the next fault that a download of the weights will run into; nothing is counted."""
        with self._lock:
            ahead = [
                fault
                for fault in self.armed()
                if fault.kind in BYTE_FAULTS and fault.concerns(model, None) and completed <= fault.at_bytes < total
            ]
        return min(ahead, key=lambda fault: fault.at_bytes, default=None)

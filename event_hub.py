"""One writer, many watchers: the newest state of each thing that changes, at each watcher's own pace.

Nothing is queued for a watcher. Each asks for what is newer than what it saw last, and gets the newest state of every
thing that changed since; what came in between is skipped. So a slow watcher costs nothing and never slows the writer,
and the memory is that of one state for each thing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic_core import to_json


@dataclass(frozen=True)
class Event:
    """The state of one thing: `id` grows with every change of anything, `data` is what is told."""

    id: int
    type: str
    data: Mapping[str, Any]

    @cached_property
    def text(self) -> bytes:
        """The envelope {"id", "type", "data"} as JSON: made once, for all watchers."""
        return to_json({"id": self.id, "type": self.type, "data": self.data})


class EventHub:
    """Holds the newest state of each thing. May be used from many threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._news = threading.Condition()
        self._newest: dict[str, Event] = {}
        self._last_id = 0
        self._closed = False

    @property
    def last_id(self) -> int:
        """The id of the newest event, 0 before the first."""
        return self._last_id

    @property
    def closed(self) -> bool:
        """Has it come to its end, so that every watcher should go?"""
        return self._closed

    def publish(self, key: str, kind: str, data: Mapping[str, Any]) -> Event:
        """Make this the newest state of the thing called `key`, and wake whoever watches."""
        with self._news:
            self._last_id += 1
            # Newest last, so that what a watcher has not seen yet stands together at the end.
            self._newest.pop(key, None)
            event = self._newest[key] = Event(self._last_id, kind, data)
            self._news.notify_all()
        return event

    def forget(self, key: str) -> None:
        """Drop a thing that is gone for good."""
        with self._news:
            self._newest.pop(key, None)

    def since(self, seen_id: int, timeout_s: float = 0.0, until: Callable[[], bool] = lambda: False) -> list[Event]:
        """Return the newest state of everything that changed after `seen_id`, the oldest first.

        Waits at most timeout_s for something; returns an empty list if nothing came, and at once when it is closed or
        `until` holds (whoever makes it hold nudges).
        """
        deadline = self._monotonic() + timeout_s
        with self._news:
            while not (newer := self._newer(seen_id)) and not (self._closed or until()):
                left = deadline - self._monotonic()
                if left <= 0:
                    break
                self._news.wait(left)
            return newer

    def _newer(self, seen_id: int) -> list[Event]:
        return [event for event in self._newest.values() if event.id > seen_id] if self._last_id > seen_id else []

    def nudge(self) -> None:
        """Have every watcher look whether it still wants to wait."""
        with self._news:
            self._news.notify_all()

    def close(self) -> None:
        """Send every watcher home."""
        with self._news:
            self._closed = True
            self._news.notify_all()

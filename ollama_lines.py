"""Take in an answer that comes line by line with a thread of its own, so that a reader can wait with a limit.

After a time-out Python's buffered sockets cannot be read again, and a thread that reads from one cannot be told to
stop. So the thread reads for ever, the reader waits for the thread, and who hangs up shuts the connection down.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, NamedTuple

# Lines that wait for a slow reader. Beyond them the network's own buffers hold what comes.
_MOST_WAITING = 1000


class Arrived(NamedTuple):
    """An object of the answer, and when it came, on the clock of perf_counter: on Windows others count in 16 ms."""

    event: dict[str, Any]
    at_s: float


class Ended(Exception):
    """Nothing more comes. ``why`` is what ended it: EOFError where the answer merely ended."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


class HungUp(Exception):
    """It was closed on this side."""


class LineStream:
    """An answer as it comes.

    lines    yields the objects, and lets go of the connection at its end; it is run by the thread alone
    hang_up  wakes the thread where it waits for the network; called from any thread, and more than once

    Raises RuntimeError where the system has no more threads to give.
    """

    def __init__(self, name: str, lines: Generator[dict[str, Any]], hang_up: Callable[[], None]) -> None:
        self._lines, self._hang_up = lines, hang_up
        self._changed = threading.Condition()
        self._waiting: deque[Arrived] = deque()
        self._closed = False
        self._ended: Exception | None = None
        self._thread = threading.Thread(target=self._take, name=name, daemon=True)
        self._thread.start()

    def read(self, timeout_s: float) -> Arrived | None:
        """Return the next object, or None if none came within the time. Raises Ended, HungUp."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._closed, timeout_s)
            if self._closed:
                raise HungUp
            if self._waiting:
                arrived = self._waiting.popleft()
                self._changed.notify_all()
                return arrived
            if self._ended is not None:
                raise Ended(self._ended)
            return None

    def close(self) -> None:
        """Hang up unless it has ended. From any thread, and again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._hang_up()
        if threading.current_thread() is not self._thread:
            # It wakes at once; where it does not (Windows), it does when Ollama closes its side, and harms nobody.
            self._thread.join(timeout=1.0)

    def _take(self) -> None:
        ended: Exception = EOFError("the stream ended")
        try:
            with closing(self._lines):
                for event in self._lines:
                    arrived = Arrived(event, time.perf_counter())
                    with self._changed:
                        self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING or self._closed)
                        if self._closed:
                            return
                        self._waiting.append(arrived)
                        self._changed.notify_all()
        except Exception as error:  # whatever it is, the reader must hear of it, or it would wait for ever
            ended = error
        finally:
            with self._changed:
                self._ended = ended
                self._changed.notify_all()

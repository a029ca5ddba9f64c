"""A bell that wakes whoever waits for news, and counts its rings, so that who looks away for a moment misses none."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet


class Bell(threading.Condition):
    """A condition that counts how often it was rung. May be used from many threads, and on both sides of a fork."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = 0
        _bells.add(self)

    def notify_all(self) -> None:
        """Ring; the bell must be held."""
        self.rung += 1
        super().notify_all()

    def ring(self) -> None:
        """Wake everybody."""
        with self:
            self.notify_all()

    def heard(self, rung: int, timeout_s: float) -> int:
        """Return how often it has been rung, as soon as that is not `rung`, or when the time is over."""
        with self:
            if self.rung == rung:
                self.wait(timeout_s)
            return self.rung


_bells: WeakSet[Bell] = WeakSet()


def _after_fork() -> None:
    # Whoever held it or waited for it is a thread of another process.
    for bell in list(_bells):
        rung = bell.rung
        threading.Condition.__init__(bell)
        bell.rung = rung


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""The bell: who waits is woken, and who looks away for a moment misses nothing."""

from __future__ import annotations

import threading
import time

from bell import Bell

SOON_S = 10.0


def test_who_waits_is_woken_by_the_next_ring():
    bell, heard = Bell(), []
    waiting = threading.Thread(target=lambda: heard.append(bell.heard(0, SOON_S)))
    waiting.start()

    bell.ring()
    waiting.join(SOON_S)

    assert heard == [1]


def test_a_ring_that_nobody_waited_for_is_heard_at_once():
    bell = Bell()
    bell.ring()
    bell.ring()

    began = time.monotonic()
    rung = bell.heard(1, SOON_S)

    assert rung == 2
    assert time.monotonic() - began < SOON_S / 2


def test_without_a_ring_the_waiting_ends_in_time():
    assert Bell().heard(0, 0.01) == 0

"""Who may replace the document, and in which order."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from json_store_lock import WriterLock
from json_store_system import RealFileSystem
from model_core.errors import StoreBusy
from tests.simulated_disk import DOCUMENT, SimulatedDisk

LOCK, NEXT = DOCUMENT.with_name("document.json.lock"), DOCUMENT.with_name("document.json.lock.next")


def test_two_processes_do_not_hold_it_at_once():
    disk = SimulatedDisk()
    one, other = WriterLock(DOCUMENT, disk), WriterLock(DOCUMENT, disk)

    with one.held(0), pytest.raises(StoreBusy), other.held(0):
        pass
    with other.held(0):
        assert disk.locked == {LOCK}
    assert disk.locked == set()


def test_nobody_comes_before_who_waits_already():
    disk = SimulatedDisk()
    lock = WriterLock(DOCUMENT, disk)
    with lock.held(0):
        pass
    disk.locked.add(NEXT)

    with pytest.raises(StoreBusy), lock.held(0):
        pass


def test_who_gives_up_leaves_the_line():
    disk = SimulatedDisk()
    lock = WriterLock(DOCUMENT, disk)
    with lock.held(0):
        pass
    disk.locked.add(LOCK)

    with pytest.raises(StoreBusy), lock.held(0):
        pass
    assert disk.locked == {LOCK}


def test_who_never_stops_writing_and_who_waits_take_turns(tmp_path):
    turns: list[str] = []
    both_ready = threading.Barrier(2)

    def write(name: str) -> None:
        lock = WriterLock(tmp_path / "document.json", RealFileSystem())
        both_ready.wait(10)
        for _ in range(50):
            with lock.held(10):
                turns.append(name)
                # As long as a write takes; the other one queues up meanwhile.
                time.sleep(0.002)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    changes = sum(before != after for before, after in pairwise(turns))
    assert changes > 60

"""Processes that count in a document, and tell through a pipe what they were told is kept."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from json_store import JsonStore
from tests.store_records import Tally, TallyCodec

# Never plain fork: pytest's own process has threads. The fork server starts a process in a few milliseconds.
_METHODS = multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
if "forkserver" in _METHODS:
    PROCESSES.set_forkserver_preload([__name__])

Acknowledged = dict[str, int]
FOR_EVER = 2**60


def counting(name: str) -> Callable[[Tally], Tally]:
    """Return the change that adds one to the count of this name."""
    return lambda tally: replace(tally, others={**tally.others, name: tally.others.get(name, 0) + 1})


def open_tally(path: Path) -> JsonStore[Tally]:
    return JsonStore.open(path, TallyCodec())


def count(path: Path, names: list[str], times: int, told: Connection) -> None:
    """Add one to each name so many times, a thread for each name; send "name count" after each."""
    store, sending = open_tally(path), threading.Lock()

    def work(name: str) -> None:
        for _ in range(times):
            kept = store.change(counting(name)).others[name]
            with sending:
                told.send_bytes(f"{name} {kept}".encode())

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Writer:
    """One such process, and what it was told so far."""

    def __init__(self, path: Path, names: list[str], times: int = FOR_EVER) -> None:
        self.told, sending = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=count, args=(path, names, times, sending), daemon=True)
        self.process.start()
        # Ours must go, or the pipe would never end.
        sending.close()
        self.acknowledged: Acknowledged = {}

    def listen(self, messages: int, timeout_s: float = 30.0) -> None:
        """Wait for so many more acknowledgements; AssertionError when none comes for timeout_s seconds."""
        for _ in range(messages):
            assert self.told.poll(timeout_s), f"no acknowledgement for {timeout_s} s"
            self._hear()

    def catch_up(self) -> None:
        """Hear what it was told already."""
        while self.told.poll(0):
            self._hear()

    def kill(self) -> None:
        """End it as kill -9 does, and hear what it had still been told."""
        self.process.kill()
        self.finish()

    def finish(self) -> None:
        """Hear all that is still to come."""
        try:
            while True:
                self._hear()
        except (EOFError, OSError):
            # OSError: it was killed in the midst of a message.
            self.process.join(30)
        assert self.process.exitcode is not None
        self.told.close()

    def _hear(self) -> None:
        name, _, kept = self.told.recv_bytes().decode().partition(" ")
        self.acknowledged[name] = int(kept)

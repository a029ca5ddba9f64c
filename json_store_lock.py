"""Who may replace the document: one process at a time, and whoever waits comes before whoever has just written.

The lock stands on a file of its own, which is never replaced. A second one is the place of the next in line: it is
taken before the first, and given up when the first is had. With the first alone, a busy process would starve the
others, which can only look now and then whether it is free. The folder is made when it is missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from json_store_system import FileSystem, LockFile
from model_core.errors import StoreBusy

# How long to sleep between two looks. Only the next in line looks often; the longer it has waited, the less often.
_LINE_PAUSE_S = 0.001
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_SHARE = 0.0002, 0.005, 0.05


class WriterLock:
    """The document's lock between processes; for one thread at a time."""

    def __init__(self, document: Path, system: FileSystem) -> None:
        self._document, self._system = document, system
        self._path = document.with_name(document.name + ".lock")
        self._next_path = document.with_name(document.name + ".lock.next")
        self._lock, self._next = system.lock(self._path), system.lock(self._next_path)
        self._made_folders_in: set[Path] = set()
        self._folders_settled = False

    def renew(self) -> None:
        """Make the locks anew after a fork: the handles of the old ones belong to the other process."""
        self._lock.close()
        self._next.close()
        self._lock, self._next = self._system.lock(self._path), self._system.lock(self._next_path)

    @contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Keep other processes from replacing the document while the block runs. Raises StoreBusy, OSError."""
        lock = self._lock  # after a fork within the block, the child has another one
        self._acquire(lock, wait_s)
        try:
            if not self._folders_settled:
                self._settle_folders()
            yield
        finally:
            lock.release()

    def _acquire(self, lock: LockFile, wait_s: float) -> None:
        started_s = time.monotonic()
        while not self._taken(self._next):
            self._wait(started_s, wait_s, _LINE_PAUSE_S)
        try:
            next_since_s = time.monotonic()
            while not self._taken(lock):
                pause_s = (time.monotonic() - next_since_s) * _PAUSE_SHARE
                self._wait(started_s, wait_s, min(max(pause_s, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))
        finally:
            self._next.release()

    def _wait(self, started_s: float, wait_s: float, pause_s: float) -> None:
        waited_s = time.monotonic() - started_s
        if waited_s >= wait_s:
            raise self._busy(waited_s)
        time.sleep(pause_s)

    def _taken(self, lock: LockFile) -> bool:
        try:
            return lock.taken()
        except FileNotFoundError:
            self._make_folders(self._document.parent)
            return lock.taken()

    def _busy(self, waited_s: float) -> StoreBusy:
        return StoreBusy(
            f"{self._document} has been locked by other processes for {waited_s:.1f} s.",
            "Try again. If it stays like this, find the process that holds the lock file and end it.",
            path=str(self._document),
            lock=str(self._path),
            waited_s=round(waited_s, 3),
        )

    def _make_folders(self, folder: Path) -> None:
        try:
            self._system.signature(folder)
        except FileNotFoundError:
            self._make_folders(folder.parent)
            # Another process may make it at this moment. If a file stands there, the next call says so.
            with suppress(FileExistsError):
                self._system.make_folder(folder)
                self._made_folders_in.add(folder.parent)

    def _settle_folders(self) -> None:
        """Make sure that the folders survive a power cut: this process, or one that died, may just have made them."""
        for folder in self._document.parent.parents:
            try:
                self._system.sync_folder(folder)
            except PermissionError:
                if folder in self._made_folders_in:
                    raise
                break  # not ours, and so is what stands above it
        self._folders_settled = True

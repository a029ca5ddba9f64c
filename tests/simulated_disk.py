"""A disk in memory that forgets what was not synced: the store's second file system, for the proofs.

It keeps two states: what a running program sees, and what a power cut leaves. Content becomes lasting when its file is
synced, a name when its folder is. What was not synced may survive, be torn, or be gone, in every combination, and
survivors() returns them all. At a chosen call it loses power, answers with an error, or writes less than it was given.

It is as unkind as file systems may be: an inode number is used again at once, the time of a file never moves by itself,
and a sync after one that failed answers that all is well while nothing was kept.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from json_store_system import Signature

FOLDER = 0
DOCUMENT = Path("/home/data/document.json")

# before, after: the power goes. torn: the power goes when half of the content was written or synced. short: a write
# takes only half of what it was given. kill: the process ends and the disk goes on. error: the call fails.
Kind = Literal["before", "after", "torn", "short", "kill", "error"]


class PowerCut(BaseException):
    """The machine is off. A BaseException, so that no handler of errors takes it for one."""


@dataclass(frozen=True)
class Fault:
    """What happens at the call with this number, the first being 1.

    lasting  the error comes again at each later call of the same name
    """

    at: int
    kind: Kind
    errno: int = errno.EIO
    lasting: bool = False


@dataclass
class _File:
    inode: int
    content: bytes = b""
    lasting: bytes = b""  # what the last sync left on the platters
    modified_ns: int = 0  # the clock of this disk is so coarse that it never moves
    sync_failed: bool = False

    def after_power_cut(self) -> set[bytes]:
        half = len(self.content) // 2
        return {self.content, self.lasting} | ({self.content[:half]} if self.content != self.lasting else set())


Names = dict[Path, int]


@dataclass
class SimulatedDisk:
    """Implements json_store_system.FileSystem.

    links     False for a file system that has none
    watch     called with the name of each call before it is carried out
    """

    fault: Fault | None = None
    links: bool = True
    watch: Callable[[str], None] | None = None
    calls: list[str] = field(default_factory=list)
    files: dict[int, _File] = field(default_factory=dict)
    names_seen: Names = field(default_factory=lambda: {Path("/"): FOLDER, Path("/home"): FOLDER})
    names_lasting: Names = field(default_factory=lambda: {Path("/"): FOLDER, Path("/home"): FOLDER})
    unsynced: list[dict[Path, int | None]] = field(default_factory=list)
    opened: dict[int, int] = field(default_factory=dict)
    locked: set[Path] = field(default_factory=set)
    off: bool = False
    broken: tuple[str, int] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # --- setting the scene -------------------------------------------------------------------------------------------

    def put(self, path: Path, content: bytes) -> None:
        """Let a file stand there, as if it had been there for long."""
        for folder in reversed(path.parents):
            self.names_seen[folder] = self.names_lasting[folder] = FOLDER
        number = self._new_file(content)
        self.names_seen[path] = self.names_lasting[path] = number

    def edit(self, path: Path, content: bytes) -> None:
        """Let a person save the file with an editor that writes in place; a person is slow enough for any clock."""
        file = self.files[self.names_seen[path]]
        file.content = file.lasting = content
        file.modified_ns = max(file.modified_ns, time.time_ns()) + 1_000

    def content(self, path: Path) -> bytes | None:
        """Return what a running program sees there; None when there is no such file."""
        number = self.names_seen.get(path, FOLDER)
        return self.files[number].content if number != FOLDER else None

    def survivors(self) -> list[SimulatedDisk]:
        """Return every disk that somebody may find after the power came back."""
        unlasting = {number for number in self.files if self.files[number].content != self.files[number].lasting}
        disks: dict[object, SimulatedDisk] = {}
        for names in self._surviving_names():
            open_questions = sorted(unlasting & set(names.values()))
            for contents in itertools.product(*(self.files[n].after_power_cut() for n in open_questions)):
                disk = self._survivor(names, dict(zip(open_questions, contents, strict=True)))
                disks.setdefault(disk.fingerprint(), disk)
        return list(disks.values())

    def fingerprint(self) -> object:
        """Return what two disks that hold the same have in common."""
        return frozenset((path, number and self.files[number].content) for path, number in self.names_seen.items())

    def _surviving_names(self) -> Iterator[Names]:
        for kept in _choices(len(self.unsynced)):
            names = dict(self.names_lasting)
            for change in itertools.compress(self.unsynced, kept):
                _apply(names, change)
            yield {path: number for path, number in names.items() if set(path.parents) <= names.keys()}

    def _survivor(self, names: Names, contents: dict[int, bytes]) -> SimulatedDisk:
        disk = SimulatedDisk(links=self.links, names_seen=dict(names), names_lasting=dict(names))
        disk._numbers = itertools.count(max([*self.files, 0]) + 1)
        for number in set(names.values()) - {FOLDER}:
            content = contents.get(number, self.files[number].content)
            disk.files[number] = _File(self.files[number].inode, content, content, self.files[number].modified_ns)
        return disk

    # --- the calls ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, name: str) -> Iterator[Kind | None]:
        """Count the call and let happen what is to happen; yields the fault that the call itself must carry out."""
        if self.off:
            raise PowerCut
        if self.watch:
            self.watch(name)
        self.calls.append(name)
        if self.broken and self.broken[0] == name:
            raise OSError(self.broken[1], os.strerror(self.broken[1]))
        kind = self.fault.kind if self.fault and self.fault.at == len(self.calls) else None
        if kind == "before":
            self._lose_power()
        if kind == "error" and self.fault:
            if self.fault.lasting:
                self.broken = (name, self.fault.errno)
            raise OSError(self.fault.errno, os.strerror(self.fault.errno))
        try:
            yield kind
        finally:
            if kind == "kill":
                # The locks of a process end with it.
                self.locked.clear()
                raise PowerCut
            if kind in ("after", "torn"):
                self._lose_power()

    def _lose_power(self) -> None:
        self.off = True
        raise PowerCut

    def signature(self, path: Path) -> Signature:
        with self._call("signature"):
            number = self._number(path)
            if number == FOLDER:
                return Signature(1, FOLDER, 0, 0, regular=False)
            return self._signature(number)

    def read(self, path: Path, limit_bytes: int) -> tuple[bytes, Signature]:
        with self._call("read"):
            number = self._number(path)
            return self.files[number].content[:limit_bytes], self._signature(number)

    def create(self, path: Path) -> int:
        with self._call("create"):
            self._must_be_free(path)
            number = self._new_file()
            self._rename({path: number})
            self.opened[number] = number
            return number

    def write(self, descriptor: int, data: memoryview) -> int:
        with self._call("write") as kind:
            written = bytes(data[: (len(data) + 1) // 2] if kind in ("torn", "short") else data)
            self.files[self.opened[descriptor]].content += written
            return len(written)

    def stamp(self, path: Path, modified_ns: int) -> None:
        with self._call("stamp"):
            self.files[self._number(path)].modified_ns = modified_ns

    def sync(self, descriptor: int) -> None:
        file = self.files[self.opened[descriptor]]
        try:
            with self._call("sync") as kind:
                if not file.sync_failed:
                    file.lasting = file.content[: len(file.content) // 2] if kind == "torn" else file.content
        except OSError:
            file.sync_failed = True
            raise

    def close(self, descriptor: int) -> None:
        with self._call("close"):
            del self.opened[descriptor]

    def link(self, source: Path, target: Path) -> None:
        with self._call("link"):
            if not self.links:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            self._must_be_free(target)
            self._rename({target: self._number(source)})

    def replace(self, source: Path, target: Path) -> None:
        with self._call("replace"):
            number = self._number(source)
            # Two names of one file: POSIX says that the call then does nothing, and that it worked.
            if self.names_seen.get(target) != number:
                self._rename({source: None, target: number})

    def remove(self, path: Path) -> None:
        with self._call("remove"):
            self._number(path)
            self._rename({path: None})

    def names(self, folder: Path) -> list[str]:
        with self._call("names"):
            return [path.name for path in self.names_seen if path.parent == folder]

    def make_folder(self, folder: Path) -> None:
        with self._call("make_folder"):
            self._must_be_free(folder)
            self._rename({folder: FOLDER})

    def sync_folder(self, folder: Path) -> None:
        with self._call("sync_folder"):
            self._number(folder)
            of_folder = [change for change in self.unsynced if any(path.parent == folder for path in change)]
            for change in of_folder:
                _apply(self.names_lasting, change)
            self.unsynced = [change for change in self.unsynced if change not in of_folder]

    def may_write(self, folder: Path) -> bool:
        with self._call("may_write"):
            return True

    def lock(self, path: Path) -> _SimulatedLock:
        return _SimulatedLock(self, path)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _new_file(self, content: bytes = b"") -> int:
        in_use = {self.files[number].inode for number in {*self.names_seen.values(), *self.opened} - {FOLDER}}
        inode = next(inode for inode in itertools.count(1) if inode not in in_use)
        number = next(self._numbers)
        self.files[number] = _File(inode, content, content)
        return number

    def _signature(self, number: int) -> Signature:
        file = self.files[number]
        return Signature(1, file.inode, len(file.content), file.modified_ns, regular=True)

    def _number(self, path: Path) -> int:
        if path not in self.names_seen:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self.names_seen[path]

    def _must_be_free(self, path: Path) -> None:
        self._number(path.parent)
        if path in self.names_seen:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

    def _rename(self, change: dict[Path, int | None]) -> None:
        _apply(self.names_seen, change)
        self.unsynced.append(change)


@dataclass
class _SimulatedLock:
    disk: SimulatedDisk
    path: Path

    def taken(self) -> bool:
        with self.disk._call("lock"):
            if self.path not in self.disk.names_seen:
                self.disk._must_be_free(self.path)
                self.disk.names_seen[self.path] = self.disk.names_lasting[self.path] = self.disk._new_file()
            free = self.path not in self.disk.locked
            self.disk.locked.add(self.path)
            return free

    def release(self) -> None:
        self.disk.locked.discard(self.path)

    def close(self) -> None:
        pass


def _choices(count: int) -> Iterator[tuple[bool, ...]]:
    """Return which of so many changes survive: each combination, or a fair part of them where they are too many."""
    if count <= 8:
        yield from itertools.product((True, False), repeat=count)
        return
    for position in range(count + 1):
        yield tuple(place < position for place in range(count))
        yield tuple(place != position for place in range(count))
    chance = random.Random(count)  # the same part each time, so that a proof that failed fails again
    for _ in range(200):
        yield tuple(chance.random() < 0.5 for _ in range(count))


def _apply(names: Names, change: dict[Path, int | None]) -> None:
    for path, number in change.items():
        if number is None:
            names.pop(path, None)
        else:
            names[path] = number

"""What the store asks of the operating system: each call it makes stands here, and nowhere else.

The store is handed one object with these methods. Production passes RealFileSystem; the proofs pass a simulated disk
that crashes, fills up and forgets what was not synced.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar
from weakref import finalize

from filelock import lock_descriptor, unlock_descriptor

R = TypeVar("R")

_NEW_FILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# O_NONBLOCK: opening a named pipe that stands in the document's place must not wait for its other end.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_LOCK_FLAGS = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_OWNER_ONLY = 0o600
_SYNC_NOT_OFFERED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS}


# What Windows answers while a virus scanner or a reader has the file open: access denied, sharing, lock violation.
_HELD_OPEN_ON_WINDOWS = {5, 32, 33}
RETRY_PAUSE_S = 0.02


def while_held_open(call: Callable[[], R], patience_s: float) -> R:
    """Return what a call on a file returns, once nobody holds the file open any more. Raises OSError."""
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except OSError as error:
            held_open = getattr(error, "winerror", None) in _HELD_OPEN_ON_WINDOWS
            if not held_open or time.monotonic() >= deadline_s:
                raise
            time.sleep(RETRY_PAUSE_S)


class Signature(NamedTuple):
    """What tells one state of a file from another without reading it.

    The store gives each version a modification time later than the one before, so that a version never looks like an
    older one, even when the file system uses an inode number again (ext4 does so at once).
    """

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    regular: bool


class FileSystem(Protocol):
    """The contract. Each method raises OSError as the operating system does."""

    def signature(self, path: Path) -> Signature:
        """Return what tells this state of the file from others; links are followed."""

    def read(self, path: Path, limit_bytes: int) -> tuple[bytes, Signature]:
        """Return the first limit_bytes of the file, and the signature of what was read."""

    def create(self, path: Path) -> int:
        """Open a new file for writing that only its owner may read; FileExistsError when the name is taken."""

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the data and return how many bytes that was."""

    def stamp(self, path: Path, modified_ns: int) -> None:
        """Set the file's modification time, in nanoseconds since 1970."""

    def sync(self, descriptor: int) -> None:
        """Return when the file's content survives a power cut."""

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""

    def link(self, source: Path, target: Path) -> None:
        """Give the file a second name; FileExistsError when it is taken."""

    def replace(self, source: Path, target: Path) -> None:
        """Rename; what stood under the target's name goes, and at no moment is the target missing."""

    def remove(self, path: Path) -> None:
        """Remove the name."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in the folder."""

    def make_folder(self, folder: Path) -> None:
        """Make one folder; the one above it must be there."""

    def sync_folder(self, folder: Path) -> None:
        """Return when the folder's names survive a power cut."""

    def may_write(self, folder: Path) -> bool:
        """Say whether files can be made in the folder, without trying."""

    def lock(self, path: Path) -> LockFile:
        """Return a lock on this file that excludes other processes. It must not be used after a fork."""


class LockFile(Protocol):
    """One process's handle of the lock file."""

    def taken(self) -> bool:
        """Try to take the lock, and say whether it is ours now."""

    def release(self) -> None:
        """Let others have it."""

    def close(self) -> None:
        """Give the handle back; it is opened anew when it is needed."""


class RealFileSystem:
    """The machine's own file system."""

    def signature(self, path: Path) -> Signature:
        """Return what tells this state of the file from others; links are followed."""
        return _signature_of(path.stat())

    def read(self, path: Path, limit_bytes: int) -> tuple[bytes, Signature]:
        """Return the first limit_bytes of the file, and the signature of what was read."""
        descriptor = os.open(path, _READ_FLAGS)
        with os.fdopen(descriptor, "rb") as file:
            signature = _signature_of(os.fstat(descriptor))
            return file.read(limit_bytes), signature

    def create(self, path: Path) -> int:
        """Open a new file for writing that only its owner may read."""
        return os.open(path, _NEW_FILE_FLAGS, _OWNER_ONLY)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the data and return how many bytes that was."""
        return os.write(descriptor, data)

    def stamp(self, path: Path, modified_ns: int) -> None:
        """Set the file's modification time."""
        os.utime(path, ns=(modified_ns, modified_ns))

    def sync(self, descriptor: int) -> None:
        """Return when the file's content survives a power cut."""
        if sys.platform == "darwin":
            import fcntl

            # fsync on macOS leaves the data in the drive's own cache; this does not, where the file system offers it.
            try:
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            except OSError as error:
                if error.errno not in _SYNC_NOT_OFFERED:
                    raise
            else:
                return
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""
        os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give the file a second name."""
        target.hardlink_to(source)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over whatever stands there."""
        os.replace(source, target)  # noqa: PTH105 - Path.replace makes a Path besides, a tenth of the store's own time

    def remove(self, path: Path) -> None:
        """Remove the name."""
        path.unlink()

    def names(self, folder: Path) -> list[str]:
        """Return the names in the folder."""
        return [entry.name for entry in folder.iterdir()]

    def make_folder(self, folder: Path) -> None:
        """Make one folder."""
        folder.mkdir()

    def sync_folder(self, folder: Path) -> None:
        """Return when the folder's names survive a power cut. Windows has no such call: its journal sees to it."""
        if sys.platform == "win32":
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sync(descriptor)
        except OSError as error:
            # Some network file systems refuse to sync a folder at all. That is not a write that failed.
            if error.errno not in _SYNC_NOT_OFFERED:
                raise
        finally:
            os.close(descriptor)

    def may_write(self, folder: Path) -> bool:
        """Say whether files can be made in the folder, without trying."""
        return os.access(folder, os.W_OK | os.X_OK)

    def lock(self, path: Path) -> LockFile:
        """Return a lock on this file that excludes other processes."""
        return _ProcessLock(path)


class _ProcessLock:
    """One process's handle of the lock file, kept open: to open it anew for each write costs more than all the rest.

    The handle must not outlive a fork. Parent and child would share it, and hold the lock both at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._close: Callable[[], object] = _nothing

    def taken(self) -> bool:
        """Try to take the lock, and say whether it is ours now."""
        descriptor = self._opened()
        if not lock_descriptor(descriptor, blocking=False):
            return False
        if self._still_there(descriptor):
            return True
        self.close()
        return self.taken()

    def release(self) -> None:
        """Let others have it."""
        # A child that was forked meanwhile has closed its handle: the lock is still its parent's.
        if self._descriptor is not None:
            unlock_descriptor(self._descriptor)

    def close(self) -> None:
        """Give the handle back; it is opened anew when it is needed."""
        self._close()
        self._descriptor, self._close = None, _nothing

    def _opened(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, _LOCK_FLAGS, _OWNER_ONLY)
            self._close = finalize(self, os.close, self._descriptor)
        return self._descriptor

    def _still_there(self, descriptor: int) -> bool:
        # A person may have removed the lock file: whoever comes now locks another one of the same name.
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False


def _nothing() -> None:
    pass


def _signature_of(status: os.stat_result) -> Signature:
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))

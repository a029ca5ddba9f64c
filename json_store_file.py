"""One document on disk, in the hands of one thread at a time: read it, replace it, set it aside, restore it.

Knows the names beside the document and the order of the calls that makes each step safe; knows no threads.

    <document>                          the document
    <document>.lock                     locked by whoever replaces the document; never replaced or removed itself
    <document>.lock.next                locked by whoever waits for it and comes next
    <document>.new                      the next version while it is written; a leftover is harmless
    <document>.previous                 the version before this one: the last good one, should this one be damaged
    <document>.previous.new             the same while it is made; a leftover is harmless
    <document>.before-upgrade           the file of an older form, kept when it was first replaced
    <document>.unreadable-<UTC time>    what stood in the document's place and was no document
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from json_store_lock import WriterLock
from json_store_system import RETRY_PAUSE_S, FileSystem, Signature, while_held_open
from model_core.errors import StoreUnreadable, StoreUnwritable

T = TypeVar("T")

MIB = 2**20

# Shorter than for a replace: a reader cannot tell a file that is being replaced from one that it may not open.
_READ_RETRY_S = 0.25


class Codec(Protocol[T]):
    """How a value becomes bytes and back."""

    def empty(self) -> T:
        """Return what stands there when there is no file."""

    def decode(self, raw: bytes) -> T:
        """Return the value. Raises ValueError when the bytes are no document."""

    def encode(self, value: T) -> bytes:
        """Return the bytes. Raises ValueError for what the form cannot hold, such as NaN or a lone surrogate."""

    def is_old(self, raw: bytes) -> bool:
        """Say whether the bytes are of an older form, whose file is worth keeping."""


@dataclass(frozen=True)
class Limits:
    """How long and how much; seconds and bytes."""

    lock_wait_s: float = 10.0  # a guess: a hundred writes of a slow disk
    damage_grace_s: float = 1.0  # an editor may be saving
    replace_retry_s: float = 2.5  # Windows: somebody has the file open
    document_bytes: int = 64 * MIB


@dataclass(frozen=True)
class Version(Generic[T]):
    """A value, and the state of the file that held it.

    signature  None when there was no file
    raw        the bytes it was read from; None when we wrote it ourselves
    settled    known to survive a power cut
    stands     False for what is only shown because the file is unreadable and cannot be restored
    """

    value: T
    signature: Signature | None
    raw: bytes | None = None
    settled: bool = False
    stands: bool = True


@dataclass(frozen=True)
class Incident:
    """What was done about an unreadable document.

    at             UTC time, ISO 8601
    reason         what was wrong with it, in words
    set_aside      where the unreadable file now stands; None when there was none
    restored_from  "memory" (what this process last saw), "previous" (the copy beside it) or "nothing" (started empty)
    restored_at    when the restored version had been written; None when nothing was restored
    """

    at: str
    reason: str
    set_aside: str | None
    restored_from: str
    restored_at: str | None

    @property
    def words(self) -> str:
        """Say what happened and what may be missing."""
        aside = f" What stood there was set aside as {self.set_aside}." if self.set_aside else ""
        if self.restored_at is None:
            return f"The document {self.reason}.{aside} There was no good version to restore: it starts empty."
        return (
            f"The document {self.reason}.{aside} The version of {self.restored_at} was restored;"
            " changes made after it may be missing."
        )


class Damage(Exception):
    """What stands in the document's place is no document; ``reason`` goes on from "The document …"."""

    def __init__(self, reason: str, signature: Signature | None) -> None:
        super().__init__(reason)
        self.reason, self.signature = reason, signature


class ChangedMeanwhile(Exception):
    """Somebody without the lock, such as an editor, has put another document there."""


class DocumentFile(Generic[T]):
    """The document's file and the files beside it."""

    def __init__(self, path: Path, codec: Codec[T], system: FileSystem, limits: Limits) -> None:
        self.path, self.codec, self.limits = path, codec, limits
        self._system = system
        self._new = _beside(path, ".new")
        self._previous = _beside(path, ".previous")
        self._previous_new = _beside(path, ".previous.new")
        self._folder = path.parent
        self._lock = WriterLock(path, system)

    # --- without the lock --------------------------------------------------------------------------------------------

    def forget_lock(self) -> None:
        """Make the lock anew: the handle of the old one belongs to the process that forked."""
        self._lock.renew()

    def signature(self) -> Signature | None:
        """Return the state of the file; None when there is none. Raises StoreUnreadable."""
        return self._signature(self.path)

    def load(self, *, stood: bool = False) -> Version[T]:
        """Return what the file holds; the empty value when there is none and there never was.

        stood  a document has been seen here, so that a missing one is damage

        Raises Damage, or StoreUnreadable when the file cannot be opened.
        """
        signature = self.signature()
        if signature is None:
            if stood or self._signature(self._previous):
                raise Damage("is missing", None)
            return Version(self.codec.empty(), None, settled=True)
        return self._load(self.path, signature)

    def substitute(self, damage: Damage) -> Version[T]:
        """Return what to show while the damaged file cannot be replaced: the last good version, else the empty one."""
        good = self._load_previous()
        return Version(good.value if good else self.codec.empty(), damage.signature, stands=False)

    def set_aside(self) -> list[str]:
        """Return the paths of the unreadable documents that were set aside, the oldest first."""
        prefixes = f"{self.path.name}.unreadable-", f"{self._previous.name}.unreadable-"
        try:
            names = self._system.names(self._folder)
        except OSError:
            return []  # no folder that can be read: then nothing in it can be shown either
        return [str(self._folder / name) for name in sorted(names) if name.startswith(prefixes)]

    def may_be_written(self) -> bool:
        """Say whether the folder takes new files, without trying."""
        folder = self._folder
        try:
            while not self._stands(folder):
                folder = folder.parent
        except OSError:
            return False
        return self._system.may_write(folder)

    # --- the lock ----------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, wait_s: float) -> Iterator[None]:
        """Keep other processes from replacing the document while the block runs. Raises StoreBusy, StoreUnwritable."""
        try:
            with self._lock.held(wait_s):
                yield
        except OSError as error:
            raise self._unwritable(error) from error

    # --- under the lock ----------------------------------------------------------------------------------------------

    def load_patiently(self, known: Version[T] | None, grace_s: float) -> Version[T]:
        """Return ``known`` if the file still holds it, else what the file holds now.

        Reads a damaged file again until it is whole or grace_s seconds are over. Raises Damage, StoreUnreadable, and
        OSError when something that is no file stands there.
        """
        deadline_s = time.monotonic() + grace_s
        while True:
            signature = self.signature()
            if known and known.stands and known.signature == signature:
                return known
            if signature and not signature.regular:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
            try:
                return self.load(stood=bool(known and known.signature))
            except Damage:
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(RETRY_PAUSE_S)

    def encoded(self, value: T) -> bytes:
        """Return the value's bytes. Raises ValueError when there are none, or so many that they would not be read."""
        raw = self.codec.encode(value)
        if len(raw) > self.limits.document_bytes:
            raise ValueError(f"the document would have {len(raw)} bytes; {self.limits.document_bytes} are the most")
        return raw

    def replace(self, base: Version[T], value: T, raw: bytes) -> Version[T]:
        """Put the value, encoded as ``raw``, in the place of ``base``; return the version, which survives a power cut.

        Raises ChangedMeanwhile when the file no longer holds ``base``, OSError when it cannot be written. Whatever is
        raised, ``base`` still stands.
        """
        signature = self._write_next(raw, _next_time_ns(base.signature))
        if self.signature() != base.signature:
            raise ChangedMeanwhile
        self._keep_old_form(base)
        self._keep_previous(base)
        self._replace(self._new, self.path)
        try:
            self._system.sync_folder(self._folder)
        except OSError:
            self._put_back(base)
            raise
        return Version(value, signature, settled=True)

    def settle(self, version: Version[T]) -> Version[T]:
        """Make sure that a version survives a power cut: another process may have died before it saw to that."""
        if version.signature is not None and not version.settled:
            self._system.sync_folder(self._folder)
        return Version(version.value, version.signature, version.raw, settled=True)

    def recover(self, damage: Damage, memory: Version[T] | None) -> tuple[Version[T], Incident]:
        """Set the damaged document aside, put the last good version in its place, and return both.

        memory  the last version that this process saw; it is taken when it is newer than the copy beside the document
        """
        if self.signature() != damage.signature:
            raise ChangedMeanwhile
        previous = self._load_previous()
        good = _newest(memory, previous)
        now = datetime.now(UTC)
        aside = self._set_aside(self.path, now) if damage.signature else None
        if previous is None and self._signature(self._previous):
            self._set_aside(self._previous, now)
        # Now, and not with the replace: else a power cut might keep the replace and lose the names just given.
        self._system.sync_folder(self._folder)
        value = good.value if good else self.codec.empty()
        signature = self._write_next(
            self.codec.encode(value), _next_time_ns(damage.signature, good.signature if good else None)
        )
        self._replace(self._new, self.path)
        self._system.sync_folder(self._folder)
        incident = Incident(
            at=now.isoformat(timespec="seconds"),
            reason=damage.reason,
            set_aside=str(aside) if aside else None,
            restored_from="nothing" if good is None else "memory" if good is memory else "previous",
            restored_at=_time_of(good.signature) if good else None,
        )
        return Version(value, signature, settled=True), incident

    # --- steps -------------------------------------------------------------------------------------------------------

    def _load(self, path: Path, signature: Signature) -> Version[T]:
        if not signature.regular:
            error = OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            raise self._unreadable(error, path) from error
        limit_bytes = self.limits.document_bytes
        if signature.size_bytes > limit_bytes:
            raise Damage(f"has {signature.size_bytes} bytes, more than the {limit_bytes} that are read", signature)
        try:
            raw, signature = while_held_open(lambda: self._system.read(path, limit_bytes), _READ_RETRY_S)
        except FileNotFoundError:
            raise Damage("is missing", None) from None
        except OSError as error:
            raise self._unreadable(error, path) from error
        try:
            return Version(self.codec.decode(raw), signature, raw)
        except StoreUnreadable as error:
            raise StoreUnreadable(error.happened, error.remedy, **{**error.facts, "path": str(path)}) from error
        except (ValueError, RecursionError) as error:
            reason = f"cannot be read ({_in_short(error)})" if raw else "is empty"
            raise Damage(reason, signature) from error

    def _load_previous(self) -> Version[T] | None:
        signature = self._signature(self._previous)
        try:
            return self._load(self._previous, signature) if signature else None
        except Damage:
            return None

    def _signature(self, path: Path) -> Signature | None:
        try:
            return self._system.signature(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error, path) from error

    def _stands(self, path: Path) -> bool:
        try:
            self._system.signature(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _write_next(self, raw: bytes, modified_ns: int) -> Signature:
        try:
            return self._write_new(self._new, raw, modified_ns)
        except FileExistsError:
            # The leftover of a process that died. Not written over: once its sync failed, no later one can be trusted.
            self._system.remove(self._new)
            return self._write_new(self._new, raw, modified_ns)

    def _write_new(self, path: Path, raw: bytes, modified_ns: int) -> Signature:
        """Write a file whose content survives a power cut; nothing is left of it when that fails."""
        descriptor = self._system.create(path)
        try:
            try:
                rest = memoryview(raw)
                while rest:
                    rest = rest[self._system.write(descriptor, rest) :]
                self._system.stamp(path, modified_ns)
                self._system.sync(descriptor)
            finally:
                self._system.close(descriptor)
            return self._system.signature(path)
        except OSError:
            # Whether it can be removed does not matter: the next write begins by removing it.
            with suppress(OSError):
                self._system.remove(path)
            raise

    def _keep_previous(self, base: Version[T]) -> None:
        if base.signature is None:
            return
        try:
            self._link_or_copy(self.path, self._previous_new)
        except FileExistsError:
            self._system.remove(self._previous_new)
            self._link_or_copy(self.path, self._previous_new)
        self._replace(self._previous_new, self._previous)

    def _keep_old_form(self, base: Version[T]) -> None:
        if base.raw is None or not self.codec.is_old(base.raw):
            return
        kept = _beside(self.path, ".before-upgrade")
        try:
            self._link_or_copy(self.path, kept)
        except FileExistsError:
            if self._system.read(kept, self.limits.document_bytes)[0] != base.raw:
                self._link_or_copy(self.path, _beside(kept, f"-{_compact(datetime.now(UTC))}"))
        # Now, for the same reason as in recover().
        self._system.sync_folder(self._folder)

    def _set_aside(self, path: Path, now: datetime) -> Path:
        """Give the file a name under which it stays, and return that name."""
        signature = self._signature(path)
        earlier = [aside for aside in map(Path, self.set_aside()) if self._signature(aside) == signature]
        # One is there when an attempt to recover failed further on.
        return earlier[0] if earlier else self._link_aside(path, now)

    def _link_aside(self, path: Path, now: datetime) -> Path:
        stem = f".unreadable-{_compact(now)}"
        for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
            aside = _beside(path, stem + suffix)
            try:
                self._system.link(path, aside)
            except FileExistsError:
                continue
            except OSError:
                # No links here. Readers find nothing for a moment, and take it for damage that they wait out.
                self._replace(path, aside)
            return aside
        raise FileExistsError(errno.EEXIST, "a thousand documents were set aside within one second", str(path))

    def _link_or_copy(self, source: Path, target: Path) -> None:
        try:
            self._system.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            # Not every file system has links. If the disk itself is at fault, the copy fails with the better reason.
            raw, signature = self._system.read(source, self.limits.document_bytes)
            self._write_new(target, raw, signature.modified_ns)

    def _put_back(self, base: Version[T]) -> None:
        # The new version stands, but it may not survive a power cut, and nobody will be told that it is kept.
        try:
            if base.signature is None:
                self._system.remove(self.path)
            else:
                self._link_or_copy(self._previous, self._new)
                self._replace(self._new, self.path)
        except OSError as error:
            raise StoreUnwritable(
                f"{self.path} was written, but the disk does not say that it lasts, and what stood there before could"
                f" not be put back ({error.strerror}). It may or may not hold the change.",
                "Look at the disk, then read the document again to see.",
                path=str(self.path),
                reason=errno.errorcode.get(error.errno or 0),
            ) from error
        # On a descriptor of its own. If it fails as well, the disk is at fault and the first error says so.
        with suppress(OSError):
            self._system.sync_folder(self._folder)

    def _replace(self, source: Path, target: Path) -> None:
        while_held_open(lambda: self._system.replace(source, target), self.limits.replace_retry_s)

    # --- words -------------------------------------------------------------------------------------------------------

    def _unwritable(self, error: OSError) -> StoreUnwritable:
        happened, remedy = _WHY_NOT_WRITTEN.get(error.errno or 0, (f"{error.strerror or error}.", _TRY_ELSEWHERE))
        return StoreUnwritable(
            f"{self.path} cannot be written: {happened} What stood in it still stands.",
            remedy,
            path=str(self.path),
            reason=errno.errorcode.get(error.errno or 0),
        )

    def _unreadable(self, error: OSError, path: Path) -> StoreUnreadable:
        happened, remedy = _WHY_NOT_READ.get(error.errno or 0, (f"{error.strerror or error}.", _LOOK_AT_IT))
        return StoreUnreadable(
            f"{path} cannot be read: {happened}",
            remedy,
            path=str(path),
            reason=errno.errorcode.get(error.errno or 0),
        )


_TRY_ELSEWHERE = "Look at the folder and the disk, or choose another place for the document."
_LOOK_AT_IT = "Look at the file and the disk; the file is left as it is."
_DISK_FULL = ("the disk is full.", "Free some space and try again.")
_NO_PERMISSION = (
    "this user may not write in its folder.",
    "Give the user that runs this program the right to write there, or choose another place for the document.",
)
_A_FOLDER = (
    "a folder, or something else that is no file, stands in its place.",
    "Move it away, or choose another place for the document.",
)
_NO_FOLDER = (
    "a file stands where a folder of its path should be.",
    "Move that file away, or choose another place for the document.",
)
_DISK_FAULT = ("the disk reports an error.", "Save what is on the disk and replace it.")

_WHY_NOT_WRITTEN = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: ("this user's share of the disk is used up.", "Free some space and try again."),
    errno.EROFS: ("its disk or folder is read-only.", "Make it writable, or choose another place for the document."),
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EISDIR: _A_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EIO: _DISK_FAULT,
    errno.EMFILE: ("this process has too many files open.", "Close some, or raise the limit (ulimit -n)."),
}
_WHY_NOT_READ = {
    errno.EACCES: ("this user has no permission.", "Give the user that runs this program the right to read it."),
    errno.EPERM: ("this user has no permission.", "Give the user that runs this program the right to read it."),
    errno.EISDIR: _A_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EIO: _DISK_FAULT,
    errno.EMFILE: _WHY_NOT_WRITTEN[errno.EMFILE],
}


def _newest(*versions: Version[T] | None) -> Version[T] | None:
    dated = [
        (version.signature.modified_ns, version)
        for version in versions
        if version and version.stands and version.signature
    ]
    return max(dated, key=lambda pair: pair[0])[1] if dated else None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _in_short(error: BaseException) -> str:
    # Some errors go on for pages, and repeat the document.
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _compact(moment: datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%SZ")


def _next_time_ns(*before: Signature | None) -> int:
    # Always later than the versions before, also when the clock was set back: no two ever look alike.
    return max(time.time_ns(), *(signature.modified_ns + 1 for signature in before if signature), 0)


def _time_of(signature: Signature | None) -> str | None:
    if signature is None:
        return None
    return datetime.fromtimestamp(signature.modified_ns / 1e9, UTC).isoformat(timespec="seconds")

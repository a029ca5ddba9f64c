"""Keep one value in one JSON file, for any number of threads and processes. Knows nothing of what the value means.

What it promises:

1. When change() returns, the file itself holds the change, and it survives a power cut.
2. A reader never sees half a document, and never waits for a writer.
3. Nothing acknowledged is lost and nothing invented, whatever threads and processes share the file; after a fork too.
4. If writing fails, every caller of that batch gets the error, and the old document stands.
5. An unreadable document is set aside, the last good version is restored, and health() says so.
6. A person may edit the file while the program runs.

Callers queue their functions. One of them becomes the leader: it takes the lock between processes, then the queue,
applies the functions one after the other, writes once, and wakes the others.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakSet, WeakValueDictionary

from json_store_file import ChangedMeanwhile, Codec, Damage, DocumentFile, Incident, Limits, Version
from json_store_system import FileSystem, RealFileSystem
from model_core.errors import StoreBusy, StoreError, StoreUnwritable

__all__ = ["Codec", "Incident", "JsonStore", "Limits", "StoreHealth"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_EDITS_DURING_ONE_WRITE = 20
# A waiting thread looks up this often whether the interpreter is going down: its leader may have gone with it.
_LOOK_UP_S = 5.0


@dataclass(frozen=True)
class StoreHealth:
    """How the document fares.

    path       where it stands
    writable   False when its folder takes no files or the last write failed
    problem    what is wrong and what to do, in words; None when all is well
    set_aside  paths of unreadable documents that were set aside and still lie there, the oldest first
    incidents  what this process did about unreadable documents, the oldest first
    """

    path: str
    writable: bool
    problem: str | None
    set_aside: tuple[str, ...]
    incidents: tuple[Incident, ...]


class _Caller(Generic[T]):
    """One call of change() that waits: its function in, its value or its error out."""

    __slots__ = ("_turn", "error", "function", "promoted", "thread", "value")

    def __init__(self, function: Callable[[T], T]) -> None:
        self.function, self.thread = function, threading.get_ident()
        self.value: T | None = None
        self.error: BaseException | None = None
        self.promoted = False
        # A bare lock, born locked: it costs half of an Event, and each caller is woken once for each wait.
        self._turn = threading.Lock()
        self._turn.acquire()

    def woken(self, timeout_s: float) -> bool:
        return self._turn.acquire(timeout=timeout_s)

    def wake(self) -> None:
        self._turn.release()

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # who was woken without an error has its value


class JsonStore(Generic[T]):
    """The value in one file. Made by open(), so that whoever opens the same file in one process shares one store."""

    _mutex: threading.Lock  # guards the queue and who leads; never held while something slow runs
    _queue: list[_Caller[T]]
    _leader: int | None  # the thread that writes, or is about to
    _refreshing: threading.Lock  # held while the file is read, so that a hundred readers decode it once
    _published: Version[T] | None
    _damage: Damage | None  # what stands there now, while it could not be restored yet
    _damaged_since_s: float
    _write_error: StoreUnwritable | None  # why the last write failed; None when it did not

    def __init__(
        self,
        path: str | os.PathLike[str],
        codec: Codec[T],
        system: FileSystem | None = None,
        limits: Limits | None = None,
    ) -> None:
        # Resolved once: where the path is a link, its target is the document, and the link stays.
        real = Path(os.path.realpath(path))
        self._file = DocumentFile(real, codec, system or RealFileSystem(), limits or Limits())
        self._published = None
        self._incidents: tuple[Incident, ...] = ()
        self._start_anew()
        _stores.add(self)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        codec: Codec[T],
        system: FileSystem | None = None,
        limits: Limits | None = None,
    ) -> JsonStore[T]:
        """Return this process's store of the file; the one that is open already, if there is one, with its limits.

        Nothing is read or written yet. Raises TypeError when the file is open with another kind of codec.
        """
        key = os.path.normcase(os.path.realpath(path))
        with _registry.lock:
            store = _registry.stores.get(key)
            if store is None:
                store = _registry.stores[key] = cls(path, codec, system, limits)
        if type(store.codec) is not type(codec):
            raise TypeError(f"{key} is open with {type(store.codec).__name__}, not with {type(codec).__name__}")
        return store

    @property
    def path(self) -> Path:
        """Where the document stands; links are resolved."""
        return self._file.path

    @property
    def codec(self) -> Codec[T]:
        """How the value becomes bytes."""
        return self._file.codec

    def read(self) -> T:
        """Return the value that the file holds now. Never waits for a writer.

        While the file is damaged, what it held before is returned. Raises StoreUnreadable when it cannot be opened.
        """
        published = self._published
        if published is not None and published.signature == self._file.signature():
            return published.value
        return self._refresh()

    def change(self, function: Callable[[T], T]) -> T:
        """Replace the value by function(value); return the value just after, when it is in the file for good.

        The function must be pure and quick: it may be called more than once, in another caller's thread, and while it
        runs no one else can write. Returning the value that it was given changes nothing.

        Raises what the function raises; ValueError when its result cannot be encoded or is too big; StoreBusy,
        StoreUnwritable, StoreUnreadable. After any of these the change is not made, unless the error says otherwise.
        """
        caller = _Caller(function)
        with self._mutex:
            if self._leader == caller.thread:
                raise RuntimeError("change() was called by a function that change() runs: it would wait for itself")
            self._queue.append(caller)
            leads = self._leader is None
            if leads:
                self._leader = caller.thread
        if not leads:
            self._wait(caller)
        if leads or caller.promoted:
            self._lead()
        return caller.outcome()

    def health(self) -> StoreHealth:
        """Return how the document fares. Does not raise."""
        problems = []
        try:
            self.read()
            problems += self._damage_words()
        except StoreError as error:
            problems.append(str(error))
        refusal = self._write_error
        if refusal is not None:
            problems.append(f"The last write failed: {refusal}")
        set_aside = tuple(self._file.set_aside())
        problems += self._incident_words(set_aside)
        return StoreHealth(
            path=str(self.path),
            writable=refusal is None and self._file.may_be_written(),
            problem=" ".join(problems) or None,
            set_aside=set_aside,
            incidents=self._incidents,
        )

    def _incident_words(self, set_aside: tuple[str, ...]) -> list[str]:
        # Whoever removed what was set aside has seen to it, and need not hear of it any more.
        ours = [one for one in self._incidents if one.set_aside is None or one.set_aside in set_aside]
        others = set(set_aside) - {one.set_aside for one in ours}
        return [one.words for one in ours] + [
            f"An unreadable document was set aside as {path}; what was changed last before that may be missing."
            for path in sorted(others)
        ]

    def _damage_words(self) -> list[str]:
        damage, published = self._damage, self._published
        whole = published is not None and published.stands and published.signature == self._file.signature()
        if damage is None or whole:
            return []
        return [
            f"The document {damage.reason}. It is not set aside yet; until then the last good version is shown,"
            " or the empty one where there is none."
        ]

    def close(self) -> None:
        """Return when nothing is being written any more. Whoever shares the store may go on with it."""
        with self._mutex:
            idle = self._leader is None
        if not idle:
            # Whatever fails has been told to those whose changes failed.
            with suppress(StoreError):
                self.change(_same)

    # --- readers -----------------------------------------------------------------------------------------------------

    def _refresh(self) -> T:
        with self._refreshing:
            published, signature = self._published, self._file.signature()
            if published is not None and published.signature == signature:
                return published.value
            damage = self._damage
            if damage is None or damage.signature != signature or published is None:
                try:
                    self._published = self._file.load(stood=bool(published and published.signature))
                except Damage as found:
                    self._damage, self._damaged_since_s = found, time.monotonic()
                    damage = found
                else:
                    self._damage = None
                    return self._published.value
        return self._read_despite(damage)

    def _read_despite(self, damage: Damage) -> T:
        published = self._published
        if published is None:
            return self._recover_first(damage)
        if time.monotonic() - self._damaged_since_s >= self._file.limits.damage_grace_s:
            self._damaged_since_s = time.monotonic()
            self._recover_if_nobody_writes()
        return (self._published or published).value

    def _recover_first(self, damage: Damage) -> T:
        try:
            return self.change(_same)
        except (StoreBusy, StoreUnwritable) as error:
            logger.error("document unreadable path=%s reason=%s not_set_aside=%s", self.path, damage.reason, error)
            self._published = self._file.substitute(damage)
            return self._published.value

    def _recover_if_nobody_writes(self) -> None:
        with self._mutex:
            if self._leader is not None:
                return
            self._leader = threading.get_ident()
        self._lead(recovering=True)

    # --- the leader --------------------------------------------------------------------------------------------------

    def _lead(self, *, recovering: bool = False) -> None:
        """Commit what is queued and let the next caller lead. For a reader, ``recovering``: but wait for nothing."""
        batch: list[_Caller[T]] = []
        limits = self._file.limits
        lock_wait_s, grace_s = (0.0, 0.0) if recovering else (limits.lock_wait_s, limits.damage_grace_s)
        try:
            with self._file.locked(lock_wait_s):
                batch = self._take_queue()
                self._published = self._commit(batch, grace_s)
            self._damage = self._write_error = None
        except BaseException as error:
            if not recovering:
                batch = batch or self._take_queue()
            self._fail(batch, error)
            if not isinstance(error, Exception):
                raise
        finally:
            for caller in batch:
                caller.wake()
            self._hand_over()

    def _take_queue(self) -> list[_Caller[T]]:
        with self._mutex:
            batch, self._queue = self._queue, []
        return batch

    def _commit(self, batch: list[_Caller[T]], grace_s: float) -> Version[T]:
        process = os.getpid()
        for _ in range(_MOST_EDITS_DURING_ONE_WRITE):
            try:
                base = self._base(grace_s)
                value, raw = self._apply(batch, base.value)
                if os.getpid() != process:
                    raise RuntimeError("a function handed to change() forked; the child does not hold the lock")
                return self._file.settle(base) if raw is None else self._file.replace(base, value, raw)
            except ChangedMeanwhile:
                continue
        raise StoreBusy(
            f"{self.path} is rewritten again and again by a program that does not take its lock.",
            "Find that program and stop it.",
            path=str(self.path),
        )

    def _base(self, grace_s: float) -> Version[T]:
        try:
            return self._file.load_patiently(self._published, grace_s)
        except Damage as damage:
            version, incident = self._file.recover(damage, self._published)
        self._incidents += (incident,)
        logger.error(
            "document restored path=%s reason=%s set_aside=%s restored_from=%s restored_at=%s",
            self.path,
            incident.reason,
            incident.set_aside,
            incident.restored_from,
            incident.restored_at,
        )
        return version

    def _apply(self, batch: list[_Caller[T]], base: T) -> tuple[T, bytes | None]:
        """Return the value after the whole batch and its bytes; None for these when nothing changed."""
        value = _run(batch, base)
        if value is base:
            return base, None
        try:
            return value, self._file.encoded(value)
        except Exception:
            # Somebody's value cannot be written. Encoding after each function finds out whose.
            value = _run(batch, base, self._file.encoded)
        return value, None if value is base else self._file.encoded(value)

    def _fail(self, batch: list[_Caller[T]], error: BaseException) -> None:
        told = error if isinstance(error, Exception) else self._interrupted(error)
        if isinstance(told, StoreUnwritable):
            if str(told) != str(self._write_error):
                logger.error("document not written path=%s error=%s", self.path, told)
            self._write_error = told
        for caller in batch:
            # Whose own function raised is told so, and not what became of the others.
            if caller.error is None:
                caller.error = _copied(told)

    def _interrupted(self, error: BaseException) -> StoreUnwritable:
        return StoreUnwritable(
            f"Writing {self.path} was interrupted by {type(error).__name__}; it may or may not hold the change.",
            "Read it again to see.",
            path=str(self.path),
        )

    def _hand_over(self) -> None:
        with self._mutex:
            following = self._queue[0] if self._queue else None
            self._leader = following.thread if following else None
            if following:
                following.promoted = True
        if following:
            following.wake()

    def _wait(self, caller: _Caller[T]) -> None:
        try:
            while not caller.woken(_LOOK_UP_S):
                if sys.is_finalizing():
                    raise StoreUnwritable(
                        "The interpreter is going down, and whoever was writing the document with it.",
                        "Change the document before the program ends.",
                        path=str(self.path),
                    )
        except BaseException:
            self._withdraw(caller)
            raise

    def _withdraw(self, caller: _Caller[T]) -> None:
        # Ctrl-C while waiting. What is in a batch already is written; who was to lead must let another lead.
        with self._mutex:
            if caller in self._queue:
                self._queue.remove(caller)
            promoted = caller.promoted
        if promoted:
            self._hand_over()

    # --- after a fork ------------------------------------------------------------------------------------------------

    def _start_anew(self) -> None:
        """Forget locks, queue and leader: after a fork they belong to threads of another process."""
        self._mutex, self._refreshing = threading.Lock(), threading.Lock()
        self._queue = []
        self._leader = None
        self._damage, self._damaged_since_s = None, 0.0
        self._write_error = None
        self._file.forget_lock()


class _Registry:
    """The stores of this process, by real path; they live as long as somebody uses them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stores: WeakValueDictionary[str, JsonStore[Any]] = WeakValueDictionary()


_registry = _Registry()
_stores: WeakSet[JsonStore[Any]] = WeakSet()


def _after_fork() -> None:
    _registry.lock = threading.Lock()
    for store in list(_stores):
        store._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _same(value: T) -> T:
    return value


def _copied(error: Exception) -> Exception:
    """Return one more of the same error: an exception that several threads raise collects all their tracebacks."""
    try:
        copied = copy.copy(error)
    except Exception:
        return error  # one of those that can only be made by their own constructor
    copied.__cause__ = error.__cause__
    return copied


def _run(batch: list[_Caller[T]], value: T, check: Callable[[T], object] | None = None) -> T:
    """Return the value after each caller's function; one that raises fails alone."""
    for caller in batch:
        caller.error = None
        try:
            changed = caller.function(value)
            if check is not None and changed is not value:
                check(changed)
        except KeyboardInterrupt:
            raise  # meant for the thread that runs the functions, not for whose function it is
        except BaseException as error:
            caller.error = error
        else:
            value = caller.value = changed
    return value

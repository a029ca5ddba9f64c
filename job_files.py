"""Who works on which job, and what others wish of it, in files that all processes on one document see.

    <folder>/<id>.lock        held by the process that works on a job, gone when it lets go
    <folder>/<id>.wish        what somebody in another process wants of the owner, a word
    <folder>/<id>.*           what else a kind of job keeps while somebody works on it
    <folder>/slot-<n>.lock    held by a job that runs: as many run at once as there are slots

A lock dies with its process, so no clock decides whether an owner is still alive. What a process that died leaves
behind is the file without the lock. None of this is worth keeping: what was asked for stands in a document.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from json_store_system import while_held_open
from model_core.errors import StoreUnwritable

logger = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9a-f]{12}")
# Somebody who only looks whether there is an owner holds the lock for a moment (measured: 0.1 ms).
_LOOKERS_S = 0.1
_POLL_S = 0.002
# The owner has a wish open for a moment, and on Windows nothing replaces it meanwhile.
_READERS_S = 0.2
# What is not a job's own to remove: its lock goes when it is released, and a wish may just be on its way.
_NOT_TO_REMOVE = (".lock", ".wish-tmp")


class JobFiles:
    """The files of one kind of job. May be used from many threads, and on both sides of a fork.

    Nothing is written before somebody owns a job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- locks -------------------------------------------------------------------------------------------------------

    def owner_lock(self, job_id: str) -> LockFile:
        """Return the lock that makes its holder the owner of a job. Its file goes when it is released."""
        return LockFile(self.folder / f"{job_id}.lock", keep=False)

    def slots(self, count: int) -> list[LockFile]:
        """Return the locks of which a job holds one while it runs."""
        return [LockFile(self.folder / f"slot-{number}.lock") for number in range(count)]

    def own(self, job_id: str) -> LockFile | None:
        """Return the owner's lock, held; None where somebody else has it. Raises StoreUnwritable."""
        lock = self.owner_lock(job_id)
        return lock if lock.acquire(_LOOKERS_S) else None

    def is_owned(self, job_id: str, *, surely: bool = False) -> bool:
        """Say whether somebody works on a job, in whichever process.

        surely  to decide on it: be not misled by another who looks at this moment
        """
        lock = self.owner_lock(job_id)
        if not lock.path.exists():
            return False
        try:
            if not lock.acquire(_LOOKERS_S if surely else 0.0):
                return True
        except StoreUnwritable as error:
            logger.debug("no lock to be had job=%s error=%s", job_id, error)
            return True  # not ours to open: it is somebody else's, who may well be alive
        lock.release()
        return False

    # --- wishes ------------------------------------------------------------------------------------------------------

    def wish(self, job_id: str, word: str) -> None:
        """Leave a wish for the owner, who looks for one several times a second. Raises StoreUnwritable."""
        path = self._wish(job_id)
        temporary = path.with_suffix(".wish-tmp")
        try:
            temporary.write_text(word, "ascii")
            while_held_open(lambda: temporary.replace(path), _READERS_S)
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def wished(self, job_id: str) -> str | None:
        """Take the wish that somebody left for a job of ours, None if there is none."""
        path = self._wish(job_id)
        if not path.exists():
            return None
        try:
            word = path.read_text("ascii")
            path.unlink()
        except (OSError, ValueError) as error:
            # On Windows while it is being written; it will be there at the next look.
            logger.debug("wish not read id=%s error=%s", job_id, error)
            return None
        return word

    def _wish(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.wish"

    # --- tidying up --------------------------------------------------------------------------------------------------

    def forget(self, job_id: str) -> None:
        """Remove what lies there for a job whose owner is done: what is left to say stands in the document."""
        with suppress(OSError):
            for path in self.folder.glob(f"{job_id}.*"):
                if path.suffix not in _NOT_TO_REMOVE:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)

    def sweep(self, known: Callable[[], Collection[str]]) -> None:
        """Remove what processes that died have left of jobs that the document does not know."""
        with suppress(OSError, StoreUnwritable):  # what cannot be removed does no harm
            left = {path.stem for path in self.folder.iterdir() if _JOB_ID.fullmatch(path.stem)}
            for job_id in left.difference(known()):
                lock = self.owner_lock(job_id)
                # Whoever begins a job takes its lock first and enters it into the document then.
                if lock.acquire():
                    if job_id not in known():
                        self.forget(job_id)
                    lock.release()


class LockFile:
    """A lock between threads and processes; held until it is released or its process ends.

    keep  its file stays when it is released; else it goes, so that files do not pile up
    """

    def __init__(self, path: Path, *, keep: bool = True) -> None:
        self.path, self._keep = path, keep
        # Not bound to a thread: one takes the lock, another works under it. No weaker kind of lock may take its place.
        self._lock = FileLock(path, thread_local=False, mode=0o600, fallback_to_soft=False)

    def acquire(self, wait_s: float = 0.0) -> bool:
        """Return whether the lock is ours within the time. Raises StoreUnwritable."""
        try:
            self._lock.acquire(timeout=wait_s, poll_interval=_POLL_S)
        except Timeout:
            return False
        except OSError as error:
            raise unwritable(self.path.parent, error) from error
        return True

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        if not self._lock.is_locked:
            return
        # The name goes first: who has opened the file meanwhile sees that it has none any more, and opens it anew.
        if not self._keep and os.name != "nt":
            self._remove()
        self._lock.release()
        # Windows removes nothing that is open, so there whoever has opened it meanwhile keeps it.
        if not self._keep and os.name == "nt":
            self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def unwritable(folder: Path, error: OSError) -> StoreUnwritable:
    """Return the error that says that a folder of jobs takes no files."""
    return StoreUnwritable(
        f"{folder} cannot be written ({error.strerror or error}), so nothing can be done with what works there.",
        "Free space there, or allow this user to write there.",
        path=str(folder),
    )

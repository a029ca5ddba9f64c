"""Who works on which download, and how far it is, in files that all processes on one document see.

    <document>.downloads/<id>.lock        held by the process that works on a download, gone when it lets go
    <document>.downloads/<id>.json        the download as it stands, written a few times a second by its owner
    <document>.downloads/<id>.wish        what somebody in another process wants of the owner: pause or cancel
    <document>.downloads/slot-<n>.lock    held by a download that runs: as many run at once as there are slots
    <document>.downloads/pull-start.lock  held while Ollama is asked to begin
    <document>.downloads/models.lock      held while somebody decides on what is installed, and acts on it

A lock dies with its process, so no clock decides whether an owner is still alive. What a process that died leaves
behind is the file without the lock. None of this is worth keeping: the document says what was asked for.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from model_core.errors import StoreUnwritable
from model_core.records import DownloadJob

logger = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9a-f]{12}")
# Somebody who only looks whether there is an owner holds the lock for a moment (measured: 0.1 ms).
_LOOKERS_S = 0.1
_POLL_S = 0.002
# Windows refuses to open a file that is just being replaced.
_READ_TRIES, _READ_AGAIN_S = 3, 0.005


class News(NamedTuple):
    """The owner's last word: the download, and the newest line of Ollama's. Both None where there is none."""

    job: DownloadJob | None = None
    event: dict[str, Any] | None = None


class DownloadFiles:
    """The files of one document's downloads. May be used from many threads, and on both sides of a fork.

    Nothing is written before somebody owns a download.
    """

    def __init__(self, document: Path) -> None:
        self.folder = document.with_name(f"{document.name}.downloads")

    # --- locks -------------------------------------------------------------------------------------------------------

    def owner_lock(self, job_id: str) -> LockFile:
        """Return the lock that makes its holder the owner of a download. Its file goes when it is released."""
        return LockFile(self.folder / f"{job_id}.lock", keep=False)

    def slots(self, count: int) -> list[LockFile]:
        """Return the locks of which a download holds one while it runs."""
        return [LockFile(self.folder / f"slot-{number}.lock") for number in range(count)]

    def pull_start(self) -> LockFile:
        """Return the lock that lets one download at a time ask Ollama to begin."""
        return LockFile(self.folder / "pull-start.lock")

    def models(self) -> LockFile:
        """Return the lock that keeps a model from being deleted while somebody selects it."""
        return LockFile(self.folder / "models.lock")

    def own(self, job_id: str) -> LockFile | None:
        """Return the owner's lock, held; None where somebody else has it. Raises StoreUnwritable."""
        lock = self.owner_lock(job_id)
        return lock if lock.acquire(_LOOKERS_S) else None

    def is_owned(self, job_id: str, *, surely: bool = False) -> bool:
        """Say whether somebody works on a download, in whichever process.

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

    # --- news --------------------------------------------------------------------------------------------------------

    def tell(self, job: DownloadJob, event: dict[str, Any] | None) -> None:
        """Let other processes see how far a download of ours is. What cannot be written is left out."""
        path = self._news(job.id)
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps({"job": job.model_dump(mode="json"), "event": event}), "utf-8")
            temporary.replace(path)
        except OSError as error:  # on Windows while somebody reads it; the next one comes in a moment
            logger.debug("progress not written id=%s error=%s", job.id, error)

    def news(self, job_id: str) -> News:
        """Return the last word on a download, nothing where there is none that can be read."""
        try:
            data = json.loads(_read(self._news(job_id)))
            return News(DownloadJob.model_validate(data["job"]), data.get("event"))
        except (OSError, ValueError, LookupError, TypeError):
            # Not there yet, gone already, or half of it lost with the power: there is no newer word, that is all.
            return News()

    # --- wishes ------------------------------------------------------------------------------------------------------

    def wish(self, job_id: str, word: str) -> None:
        """Leave a wish for the owner, who looks for one several times a second. Raises StoreUnwritable."""
        path = self._wish(job_id)
        temporary = path.with_suffix(".wish-tmp")
        try:
            temporary.write_text(word, "ascii")
            temporary.replace(path)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def wished(self, job_id: str) -> str | None:
        """Take the wish that somebody left for a download of ours, None if there is none."""
        path = self._wish(job_id)
        if not path.exists():
            return None
        try:
            word = path.read_text("ascii")
            path.unlink()
        except (
            OSError,
            ValueError,
        ) as error:  # on Windows while it is being written; it will be there at the next look
            logger.debug("wish not read id=%s error=%s", job_id, error)
            return None
        return word

    def _wish(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.wish"

    def forget(self, job_id: str) -> None:
        """Remove the news of a download whose owner is done: what is left to say stands in the document."""
        for path in (self._news(job_id), self._news(job_id).with_suffix(".tmp"), self._wish(job_id)):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def sweep(self, known: Callable[[], Collection[str]]) -> None:
        """Remove what processes that died have left of downloads that the document does not know."""
        with suppress(OSError, StoreUnwritable):  # what cannot be removed does no harm
            left = {path.stem for path in self.folder.iterdir() if _JOB_ID.fullmatch(path.stem)}
            for job_id in left.difference(known()):
                lock = self.owner_lock(job_id)
                # Whoever begins a download takes its lock first and enters it into the document then.
                if lock.acquire():
                    if job_id not in known():
                        self.forget(job_id)
                    lock.release()

    def _news(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"


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
            raise _unwritable(self.path.parent, error) from error
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


def _unwritable(folder: Path, error: OSError) -> StoreUnwritable:
    return StoreUnwritable(
        f"{folder} cannot be written ({error.strerror or error}), so nothing can be done with downloads.",
        "Free space there, or allow this user to write there.",
        path=str(folder),
    )


def _read(path: Path) -> str:
    for _ in range(_READ_TRIES - 1):
        try:
            return path.read_text("utf-8")
        except PermissionError:
            time.sleep(_READ_AGAIN_S)
    return path.read_text("utf-8")

"""Every download: starts the ones that are asked for, owns them while they run, shows and takes over those of others.

One download of a model at a time, whoever asks for it, in whichever process. A download stands in the document as soon
as it is acknowledged, and the document is written again for changes of state only. Who works on a download and how far
it is, other processes learn from small files beside the document (download_files.py). A download that ought to have an
owner and has none was interrupted, and whoever looks next may take it over.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from download_files import DownloadFiles, LockFile
from download_run import TICK_S, Bell, Listener, Outside, Run, Wanted, with_job
from json_store import JsonStore
from model_core import downloads
from model_core.errors import DownloadNotFound, InvalidTransition
from model_core.installed import Inventory
from model_core.patience import Patience
from model_core.records import Document, DownloadJob, DownloadState
from ollama_client import OllamaClient
from ollama_inventory import OllamaInventory, Seen

__all__ = ["DownloadWorker", "Listener", "Wanted"]

# How long a pause or a cancel waits for the owner; it looks several times a second, and Ollama lets go at once.
OBEDIENCE_S = 5.0
# A wait without an end would keep Ctrl-C out on Windows.
LONGEST_WAIT_S = 1.0


class DownloadWorker:
    """Starts, owns and shows downloads. May be used from many threads, and on both sides of a fork.

    change     a function from document to document in; when it returns, what came out is on disk
    completed  (document, job, what Ollama now holds) → document: what else is remembered when a model is there
    is_taken   (inventory, id) → whether a model of the user's own stands under the id
    at_once    how many run at a time, in all processes together
    """

    def __init__(
        self,
        client: OllamaClient,
        store: JsonStore[Document],
        inventory: OllamaInventory,
        *,
        change: Callable[[Callable[[Document], Document]], Document],
        completed: Callable[[Document, DownloadJob, Seen], Document],
        is_taken: Callable[[Inventory, str], bool],
        now_text: Callable[[], str],
        at_once: int = 1,
        patience: Patience | None = None,
    ) -> None:
        self._store, self._change, self._now_text = store, change, now_text
        self.files = DownloadFiles(store.path)
        self._outside = Outside(
            client=client,
            inventory=inventory,
            files=self.files,
            read=store.read,
            change=change,
            completed=completed,
            is_taken=is_taken,
            now_text=now_text,
            at_once=at_once,
            patience=patience or Patience(),
            news=Bell(),
        )
        self.closed = False
        self._start_anew()
        _workers.add(self)

    def _start_anew(self) -> None:
        """Own nothing: after a fork the threads, and whatever locks they held, are another process's."""
        self._runs: dict[str, Run] = {}
        self._news = Bell()
        self._outside = replace(self._outside, news=self._news)
        self._beginning = threading.Lock()  # so that who asks for what has just been begun here finds it here

    # --- asking for a download ---------------------------------------------------------------------------------------

    def start(self, wanted: Wanted, listener: Listener | None = None, *, looked_at: str | None = None) -> DownloadJob:
        """Return the job that brings the model: the one that is open already, or a new one, queued.

        listener   hears every line of Ollama's from now on, where this process has the job
        looked_at  when the model was not there; a job that has brought it since is the one, and is done

        Raises StoreError.
        """
        with self._beginning:
            jobs = self._store.read().downloads.values()
            job = downloads.same_download(jobs, wanted.model, wanted.tag, looked_at)
            if job is None:
                self.files.sweep(self._known)
                fresh, lock = self._fresh(wanted)
                with _released_on_failure(lock):
                    job = self._entered(fresh, looked_at)
                    if job.id == fresh.id:
                        return self._run(job, wanted, lock, listener)
                lock.release()
            return self._joined(job, listener)

    def joined(self, wanted: Wanted, listener: Listener | None = None) -> DownloadJob | None:
        """Return the job that is open for this already, taken over if nobody works on it; None if there is none."""
        with self._beginning:
            job = downloads.same_download(self._store.read().downloads.values(), wanted.model, wanted.tag)
            return self._joined(job, listener) if job else None

    def resume(self, job_id: str, listener: Listener | None = None) -> DownloadJob:
        """Return the job, queued again unless somebody works on it; where the same has been asked for anew since, that.

        Raises InvalidTransition for one that is done, DownloadNotFound, StoreError.
        """
        with self._beginning:
            job = self._stored(job_id)
            if job.state in downloads.ENDED:
                job = downloads.same_download(self._store.read().downloads.values(), job.model, job.tag) or job
            if job.id != job_id or job.state in downloads.OWNED:
                return self._joined(job, listener)
            return self._taken_over(job_id, listener)

    def resume_interrupted(self) -> list[DownloadJob]:
        """Take over every download whose owner is gone, and return them."""
        taken = []
        for job in self._store.read().downloads.values():
            if self._is_interrupted(job):
                # Somebody else may have seen it through, or forgotten it, between the look and the take-over.
                with suppress(DownloadNotFound, InvalidTransition):
                    taken.append(self.resume(job.id))
        return taken

    def stop(self, job_id: str, wish: str) -> DownloadJob:
        """Pause or cancel a download, whoever has it, and return it as it is then.

        wish  "pause" or "cancel"

        Raises InvalidTransition, with what is allowed; DownloadNotFound, StoreError.
        """
        job = self.get(job_id)
        downloads.check_wish(job, wish)
        if run := self._runs.get(job_id):
            run.order(downloads.GOALS[wish])
        elif job.state in downloads.OWNED:
            self.files.wish(job_id, wish)
        elif (stopped := self._stopped(job_id, wish)) is not None:
            return stopped
        return self._obeyed(job_id, downloads.GOALS[wish])

    def _obeyed(self, job_id: str, goal: DownloadState) -> DownloadJob:
        """Return a job once its owner has done what was wished, or has done otherwise, or takes too long."""
        deadline_s = time.monotonic() + OBEDIENCE_S
        job = self.get(job_id)
        while job.state in downloads.OWNED and (left_s := deadline_s - time.monotonic()) > 0:
            job = self.wait(job_id, job.version, left_s)
        if job.state not in (goal, *downloads.OWNED):
            # It was faster: it has ended by itself.
            raise InvalidTransition(job_id, f"become {goal}", job.state, downloads.WISHES[job.state])
        return job

    def _stopped(self, job_id: str, wish: str) -> DownloadJob | None:
        """Return a job that nobody works on, stopped; None where somebody has just begun to."""
        lock = self.files.own(job_id)
        if lock is None:
            return None
        try:
            job, at = self._stored(job_id), self._now_text()
            if job.state in downloads.OWNED:
                job = downloads.moved(self._newest(job), DownloadState.INTERRUPTED, at)
            downloads.check_wish(job, wish)
            goal = downloads.GOALS[wish]
            job = downloads.moved(job, goal, at, message=downloads.left_behind(job, goal))
            self._change(lambda document: with_job(document, job))
            self.files.forget(job_id)
        finally:
            lock.release()
        self._tell()
        return job

    def move(self, job_id: str, position: int) -> DownloadJob:
        """Put a queued download at another place among those that wait; 0 is next. Raises InvalidTransition."""
        downloads.check_wish(self.get(job_id), "move")

        def change(document: Document) -> Document:
            if job_id not in document.downloads:
                raise DownloadNotFound(job_id)
            return document.model_copy(update={"downloads": downloads.reordered(document.downloads, job_id, position)})

        self._change(change)
        self._tell()
        return self.get(job_id)

    def forget(self, job_id: str) -> DownloadJob:
        """Take a download that has ended off the record, and return it. Raises InvalidTransition, DownloadNotFound."""
        job = self._stored(job_id)
        self._change(
            lambda document: document.model_copy(update={"downloads": downloads.without(document.downloads, job_id)})
        )
        self.files.forget(job_id)
        self._tell()
        return job

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()

    def _is_interrupted(self, job: DownloadJob) -> bool:
        if job.state not in downloads.OWNED:
            return job.state is DownloadState.INTERRUPTED
        return job.id not in self._runs and not self.files.is_owned(job.id, surely=True)

    def _fresh(self, wanted: Wanted) -> tuple[DownloadJob, LockFile]:
        """Return a new job and its owner's lock, held: seen without an owner, it would be taken for interrupted."""
        at = self._now_text()
        job = DownloadJob(
            id=secrets.token_hex(6),
            model=wanted.model,
            tag=wanted.tag,
            quantization=wanted.quantization,
            total_bytes=wanted.expected_bytes,
            total_is_estimate=wanted.is_estimate,
            layers=wanted.layers,
            started_at=at,
            updated_at=at,
        )
        lock = self.files.own(job.id)
        return (job, lock) if lock else self._fresh(wanted)

    def _entered(self, fresh: DownloadJob, looked_at: str | None) -> DownloadJob:
        """Enter a job into the document and return it, or the one for the same that another process was first with."""
        document = self._change(lambda document: _with_new(document, fresh, looked_at))
        return downloads.same_download(document.downloads.values(), fresh.model, fresh.tag, looked_at) or fresh

    def _joined(self, job: DownloadJob, listener: Listener | None) -> DownloadJob:
        """Return an open job, taken over if nobody works on it."""
        run = self._runs.get(job.id)
        if run is not None and not run.is_leaving:
            if listener:
                run.add(listener)
            return run.job
        if run is not None:
            # It has been stopped, and what it holds is free in a moment: who asks now wants it to go on.
            run.join(OBEDIENCE_S)
            job = self._stored(job.id)
        if job.state in downloads.OWNED and self.files.is_owned(job.id, surely=True):
            return self._of_another(job, listener)
        return self._taken_over(job.id, listener, only=downloads.OPEN)

    def _of_another(self, job: DownloadJob, listener: Listener | None) -> DownloadJob:
        if listener:
            listener.run = None
        return self._seen_from_here(job)

    def _taken_over(
        self, job_id: str, listener: Listener | None, only: Collection[DownloadState] = frozenset(DownloadState)
    ) -> DownloadJob:
        """Return a job, queued again and ours; as it is where another was faster, or its state is not of `only`."""
        lock = self.files.own(job_id)
        if lock is None:
            return self._of_another(self._stored(job_id), listener)
        with _released_on_failure(lock):
            job = self._stored(job_id)
            if job.state in only:
                self.files.wished(job_id)  # what somebody wished of the owner before was not wished of this one
                job = self._requeued(job)
                return self._run(job, _wanted_again(job), lock, listener)
        lock.release()
        return self._of_another(job, listener)

    def _requeued(self, job: DownloadJob) -> DownloadJob:
        at = self._now_text()
        if job.state in downloads.OWNED:
            job = downloads.moved(self._newest(job), DownloadState.INTERRUPTED, at)
        job = downloads.moved(job, DownloadState.QUEUED, at, error=None, message=None)
        self._change(lambda document: with_job(document, job))
        return job

    def _run(self, job: DownloadJob, wanted: Wanted, lock: LockFile, listener: Listener | None) -> DownloadJob:
        run = Run(self._outside, job, wanted, lock)
        if listener:
            run.add(listener)
        if self.closed:
            run.order(DownloadState.INTERRUPTED)
        self._runs[job.id] = run
        try:
            run.start(self._done)
        except BaseException:
            del self._runs[job.id]
            raise
        return job

    def _done(self, run: Run) -> None:
        self._runs.pop(run.job.id, None)
        for other in list(self._runs.values()):
            other.wake()

    # --- looking -----------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> DownloadJob:
        """Return a job as it stands now, whoever owns it. Raises DownloadNotFound."""
        if run := self._runs.get(job_id):
            return run.job
        return self._seen_from_here(self._stored(job_id))

    def owns(self, job_id: str) -> bool:
        """Return whether a job is at work in this process."""
        return job_id in self._runs

    def all(self) -> list[DownloadJob]:
        """Return every job, in the order in which they were asked for."""
        jobs = self._store.read().downloads.values()
        return [run.job if (run := self._runs.get(job.id)) else self._seen_from_here(job) for job in jobs]

    def wait(self, job_id: str, since: int, timeout_s: float) -> DownloadJob:
        """Return the job as soon as its version is past `since` or it has ended; after `timeout_s` as it is then."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            run = self._runs.get(job_id)
            job = run.job if run else self.get(job_id)
            left_s = deadline_s - time.monotonic()
            if job.version > since or job.state not in downloads.OWNED or left_s <= 0:
                return job
            with self._news:
                if run is None:
                    self._news.wait(min(left_s, TICK_S))  # nobody tells us of another process's news
                elif run.job is job and not run.ended:
                    self._news.wait(min(left_s, LONGEST_WAIT_S))

    def wait_for_news(self, heard: int, timeout_s: float) -> int:
        """Return how often something has changed in downloads of this process: once it is not `heard`, or in time."""
        with self._news:
            if self._news.rung == heard:
                self._news.wait(timeout_s)
            return self._news.rung

    def follow(self, job_id: str) -> Iterator[DownloadJob]:
        """Yield the job now and after each change, the last time when nobody works on it any more."""
        job = self.get(job_id)
        yield job
        while job.state in downloads.OWNED:
            newer = self.wait(job_id, job.version, LONGEST_WAIT_S)
            if newer.version != job.version or newer.state != job.state:
                job = newer
                yield job

    def events(self, job_id: str, listener: Listener) -> Iterator[dict[str, Any]]:
        """Yield Ollama's raw lines until the job ends: every one where this process has it, else the newest, in order.

        listener  the one that start or resume was given
        """
        return self._events_from_afar(job_id) if listener.run is None else self._events_here(listener.run, listener)

    def _events_here(self, run: Run, listener: Listener) -> Iterator[dict[str, Any]]:
        try:
            while True:
                with self._news:
                    if not (listener.lines or run.ended):
                        self._news.wait(LONGEST_WAIT_S)
                ended = run.ended
                while listener.lines:
                    yield listener.lines.popleft()
                if ended:
                    return
        finally:
            run.remove(listener)

    def _events_from_afar(self, job_id: str) -> Iterator[dict[str, Any]]:
        last: dict[str, Any] | None = None
        while True:
            is_open = self.get(job_id).state in downloads.OWNED
            event = self.files.news(job_id).event
            if event is not None and event != last:
                last = event
                yield event
            if not is_open:
                return
            with self._news:
                self._news.wait(TICK_S)

    def _stored(self, job_id: str) -> DownloadJob:
        job = self._store.read().downloads.get(job_id)
        if job is None:
            raise DownloadNotFound(job_id)
        return job

    def _known(self) -> Collection[str]:
        return self._store.read().downloads.keys()

    def _newest(self, stored: DownloadJob) -> DownloadJob:
        """Return a job that has an owner, or had one that died, with the last figures that the owner told."""
        told = self.files.news(stored.id).job
        return told if told and told.version > stored.version and told.state in downloads.OWNED else stored

    def _seen_from_here(self, stored: DownloadJob) -> DownloadJob:
        """Return a job that this process does not own as it stands now."""
        if stored.state not in downloads.OWNED:
            return stored
        job = self._newest(stored)
        if self.files.is_owned(job.id):
            return job
        # It may have ended, or found another owner, between the looks: then the document says so by now.
        if (newer := self._store.read().downloads.get(job.id)) is not None and newer != stored:
            return self._seen_from_here(newer)
        return job.model_copy(
            update={
                "state": DownloadState.INTERRUPTED,
                "bytes_per_second": None,
                "eta_seconds": None,
                "message": "the program that was downloading has ended; resume goes on from there",
            }
        )

    # --- ending ------------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float = 3.0) -> None:
        """Let go of every job, also of such as are asked for later: each is left interrupted, to go on another time."""
        with self._beginning:
            self.closed = True
            runs = list(self._runs.values())
        for run in runs:
            run.order(DownloadState.INTERRUPTED)
        deadline_s = time.monotonic() + timeout_s
        for run in runs:
            run.join(deadline_s - time.monotonic())


_workers: WeakSet[DownloadWorker] = WeakSet()


def _after_fork() -> None:
    for worker in list(_workers):
        worker._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _with_new(document: Document, fresh: DownloadJob, looked_at: str | None) -> Document:
    if downloads.same_download(document.downloads.values(), fresh.model, fresh.tag, looked_at):
        return document
    return document.model_copy(update={"downloads": downloads.pruned({**document.downloads, fresh.id: fresh})})


def _wanted_again(job: DownloadJob) -> Wanted:
    copy_to = job.model if job.model != job.tag else None
    return Wanted(job.model, job.tag, job.quantization, copy_to, job.total_bytes, job.total_is_estimate)


@contextmanager
def _released_on_failure(lock: LockFile) -> Iterator[None]:
    try:
        yield
    except BaseException:
        lock.release()
        raise

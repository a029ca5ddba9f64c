"""Every job of one kind: owns those of this process while they run, shows and takes over those of others.

A job stands on record as soon as it is acknowledged. A job that ought to have an owner and has none was interrupted,
and whoever looks next may take it over. What the kinds differ in stands in download_worker.py and benchmark_worker.py.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from job_files import LockFile
from job_run import TICK_S, Desk, JobRun
from model_core.errors import InvalidTransition, ModelManagerError
from model_core.records import Job

J = TypeVar("J", bound=Job)
R = TypeVar("R", bound=JobRun[Any])

# How long a wish waits for the owner; it looks several times a second, and Ollama lets go at once.
OBEDIENCE_S = 5.0
# A wait without an end would keep Ctrl-C out on Windows.
LONGEST_WAIT_S = 1.0

# Called with the run that has a job, before it begins where it is begun here; with None where another process has it.
Meet = Callable[[R | None], object]


def nobody_waits(run: Any) -> None:
    """Meet nobody: the caller does not care who has the job."""


class JobWorker(Generic[J, R]):
    """Owns and shows jobs. May be used from many threads, and on both sides of a fork.

    closed  nothing is begun here any more
    """

    def __init__(self, desk: Desk[J]) -> None:
        self._desk = desk
        self.closed = False
        self._start_anew()
        _workers.add(self)

    def _start_anew(self) -> None:
        """Own nothing: after a fork the threads, and whatever locks they held, are another process's."""
        self._runs: dict[str, R] = {}
        self._unrecorded: dict[str, str] = {}
        self._beginning = threading.Lock()  # so that who asks for what has just been begun here finds it here

    # --- what a kind of job says -------------------------------------------------------------------------------------

    def _new_run(self, job: J, lock: LockFile) -> R:
        """Return what works on a job, not begun yet."""
        raise NotImplementedError

    def _unknown(self, job_id: str) -> ModelManagerError:
        """Return the error that says that there is no such job."""
        raise NotImplementedError

    def _newest(self, stored: J) -> J:
        """Return a job that has an owner, or had one that died, with the last figures that the owner told."""
        return stored

    # --- beginning, and going on -------------------------------------------------------------------------------------

    def resume(self, job_id: str, meet: Meet[R] = nobody_waits) -> J:
        """Return the job, queued again unless somebody works on it.

        Raises InvalidTransition for one that cannot go on, the kind's own error for one that is not on record,
        StoreError.
        """
        with self._beginning:
            return self._resumed(job_id, meet)

    def _resumed(self, job_id: str, meet: Meet[R]) -> J:
        job = self._stored(job_id)
        if job.state in self._desk.kind.owned:
            return self._joined(job, meet)
        return self._taken_over(job_id, meet)

    def resume_interrupted(self) -> list[J]:
        """Take over every job whose owner is gone, and return them."""
        taken = []
        for job in self._desk.read().values():
            if self._is_interrupted(job):
                # Somebody else may have seen it through, or forgotten it, between the look and the take-over.
                with suppress(InvalidTransition, type(self._unknown(job.id))):
                    taken.append(self.resume(job.id))
        return taken

    def _is_interrupted(self, job: J) -> bool:
        if job.state not in self._desk.kind.owned:
            return bool(job.state == self._desk.kind.interrupted)
        return job.id not in self._runs and not self._desk.files.is_owned(job.id, surely=True)

    def _new_id(self) -> tuple[str, LockFile]:
        """Return an id and its owner's lock, held: a job seen without an owner would be taken for interrupted."""
        job_id = secrets.token_hex(6)
        lock = self._desk.files.own(job_id)
        return (job_id, lock) if lock else self._new_id()

    def _joined(self, job: J, meet: Meet[R], only: Collection[Any] | None = None) -> J:
        """Return an open job, taken over if nobody works on it and its state is one of `only`."""
        run = self._runs.get(job.id)
        if run is not None and not run.is_leaving:
            meet(run)
            return run.job  # type: ignore[no-any-return]  # a run of this kind has a job of this kind
        if run is not None:
            # It has been stopped, and what it holds is free in a moment: who asks now wants it to go on.
            run.join(OBEDIENCE_S)
            job = self._stored(job.id)
        if job.state in self._desk.kind.owned and self._desk.files.is_owned(job.id, surely=True):
            meet(None)
            return self._seen_from_here(job)
        return self._taken_over(job.id, meet, only)

    def _taken_over(self, job_id: str, meet: Meet[R], only: Collection[Any] | None = None) -> J:
        """Return a job, queued again and ours; as it is where another was faster, or its state is not of `only`."""
        lock = self._desk.files.own(job_id)
        if lock is not None:
            with released_on_failure(lock):
                job = self._stored(job_id)
                if only is None or job.state in only:
                    self._desk.files.wished(job_id)  # what was wished of the owner before was not wished of this one
                    return self._run(self._requeued(job), lock, meet)
            lock.release()
        meet(None)
        return self._seen_from_here(self._stored(job_id))

    def _requeued(self, job: J) -> J:
        at, kind = self._desk.now_text(), self._desk.kind
        if job.state in kind.owned:
            job = kind.moved(self._newest(job), kind.interrupted, at)
        job = kind.moved(job, kind.queued, at, error=None, message=None)
        self._desk.write(job)
        return job

    def _run(self, job: J, lock: LockFile, meet: Meet[R]) -> J:
        run = self._new_run(job, lock)
        meet(run)
        if self.closed:
            run.order(self._desk.kind.interrupted)
        self._runs[job.id] = run
        self._unrecorded.pop(job.id, None)
        try:
            run.start(self._done)
        except BaseException:
            del self._runs[job.id]
            raise
        return job

    def _done(self, run: R) -> None:
        if run.unrecorded:
            self._unrecorded[run.job.id] = f"It could not be recorded any more. {run.unrecorded} Then resume it."
        self._runs.pop(run.job.id, None)
        for other in list(self._runs.values()):
            other.wake()

    # --- wishes ------------------------------------------------------------------------------------------------------

    def stop(self, job_id: str, wish: str) -> J:
        """Have a job stop, whoever has it, and return it as it is then.

        wish  one that has a goal: "pause", "cancel"

        Raises InvalidTransition, with what is allowed; the kind's own error for one that is not on record, StoreError.
        """
        job, kind = self.get(job_id), self._desk.kind
        kind.check_wish(job, wish)
        if run := self._runs.get(job_id):
            run.order(kind.goals[wish])
        elif job.state in kind.owned:
            self._desk.files.wish(job_id, wish)
        elif (stopped := self._stopped(job_id, wish)) is not None:
            return stopped
        return self._obeyed(job_id, kind.goals[wish])

    def _obeyed(self, job_id: str, goal: Any) -> J:
        """Return a job once its owner has done what was wished, or has done otherwise, or takes too long."""
        deadline_s = time.monotonic() + OBEDIENCE_S
        job, kind = self.get(job_id), self._desk.kind
        while job.state in kind.owned and (left_s := deadline_s - time.monotonic()) > 0:
            job = self.wait(job_id, job.version, left_s)
        if job.state not in (goal, *kind.owned):
            # It was faster: it has ended by itself.
            raise kind.refusal(job, f"become {goal}", kind.allowed(job))
        return job

    def _stopped(self, job_id: str, wish: str) -> J | None:
        """Return a job that nobody works on, stopped; None where somebody has just begun to."""
        lock = self._desk.files.own(job_id)
        if lock is None:
            return None
        try:
            job, at, kind = self._stored(job_id), self._desk.now_text(), self._desk.kind
            if job.state in kind.owned:
                job = kind.moved(self._newest(job), kind.interrupted, at)
            kind.check_wish(job, wish)
            goal = kind.goals[wish]
            job = kind.moved(job, goal, at, message=kind.left_behind(job, goal))
            self._desk.write(job)
            self._desk.files.forget(job_id)
        finally:
            lock.release()
        self._desk.news.ring()
        return job

    def forget(self, job_id: str) -> J:
        """Take a job that has ended off the record, and return it. Raises InvalidTransition, or that there is none."""
        job = self._stored(job_id)
        self._desk.change(lambda jobs: self._desk.kind.without(jobs, job_id))
        self._desk.files.forget(job_id)
        self._desk.news.ring()
        return job

    # --- looking -----------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> J:
        """Return a job as it stands now, whoever owns it. Raises the kind's own error for one that is not on record."""
        if run := self._runs.get(job_id):
            return run.job  # type: ignore[no-any-return]
        return self._seen_from_here(self._stored(job_id))

    def owns(self, job_id: str) -> bool:
        """Return whether a job is at work in this process."""
        return job_id in self._runs

    def all(self) -> list[J]:
        """Return every job, in the order in which they were asked for."""
        jobs = self._desk.read().values()
        return [run.job if (run := self._runs.get(job.id)) else self._seen_from_here(job) for job in jobs]

    def wait(self, job_id: str, since: int, timeout_s: float) -> J:
        """Return the job as soon as its version is past `since` or it has ended; after `timeout_s` as it is then."""
        deadline_s = time.monotonic() + timeout_s
        news = self._desk.news
        while True:
            run = self._runs.get(job_id)
            job = run.job if run else self.get(job_id)
            left_s = deadline_s - time.monotonic()
            if job.version > since or job.state not in self._desk.kind.owned or left_s <= 0:
                return job
            with news:
                if run is None:
                    news.wait(min(left_s, TICK_S))  # nobody tells us of another process's news
                elif run.job is job and not run.ended:
                    news.wait(min(left_s, LONGEST_WAIT_S))

    def follow(self, job_id: str) -> Iterator[J]:
        """Yield the job now and after each change, the last time when nobody works on it any more."""
        job = self.get(job_id)
        yield job
        while job.state in self._desk.kind.owned:
            newer = self.wait(job_id, job.version, LONGEST_WAIT_S)
            if newer.version != job.version or newer.state != job.state:
                job = newer
                yield job

    def _stored(self, job_id: str) -> J:
        job = self._desk.read().get(job_id)
        if job is None:
            raise self._unknown(job_id)
        return job

    def _known(self) -> Collection[str]:
        return self._desk.read().keys()

    def _seen_from_here(self, stored: J) -> J:
        """Return a job that this process does not own as it stands now."""
        if stored.state not in self._desk.kind.owned:
            return stored
        job = self._newest(stored)
        if self._desk.files.is_owned(job.id):
            return job
        # It may have ended, or found another owner, between the looks: then the document says so by now.
        if (newer := self._desk.read().get(job.id)) is not None and newer != stored:
            return self._seen_from_here(newer)
        return self._desk.kind.orphan(job, self._unrecorded.get(job.id))

    # --- ending ------------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float = 3.0) -> None:
        """Let go of every job, also of such as are asked for later: each is left interrupted, to go on another time."""
        with self._beginning:
            self.closed = True
            runs = list(self._runs.values())
        for run in runs:
            run.order(self._desk.kind.interrupted)
        deadline_s = time.monotonic() + timeout_s
        for run in runs:
            run.join(deadline_s - time.monotonic())


_workers: WeakSet[JobWorker[Any, Any]] = WeakSet()


def _after_fork() -> None:
    for worker in list(_workers):
        worker._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def released_on_failure(lock: LockFile) -> Iterator[None]:
    """Let go of a lock where the block fails."""
    try:
        yield
    except BaseException:
        lock.release()
        raise

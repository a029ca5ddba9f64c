"""One job in the hands of its thread: wait for the turn, do it, obey, write down the end.

The thread owns the job: it alone moves it from state to state, on disk before anybody is told. Others read `job`, and
send a wish with `order`. What there is to do in its turn, a kind of job says in a class on top: download_run.py,
benchmark_run.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bell import Bell
from job_files import JobFiles, LockFile
from model_core.errors import ModelManagerError, StoreError, as_facts
from model_core.jobs import JobKind
from model_core.records import Job

logger = logging.getLogger(__name__)

J = TypeVar("J", bound=Job)

TICK_S = 0.1  # how soon an order, or a slot that another process has freed, is noticed


@dataclass(frozen=True)
class Desk(Generic[J]):
    """Where the jobs of one kind are kept; a worker and all its runs share it.

    read     every job on record by its id, in the order in which they were asked for
    change   a function from such a mapping to another in; when it returns what came out, that is on disk
    at_once  how many run at a time, in all processes together
    news     rung whenever something has changed in a job of this process
    """

    kind: JobKind[J, Any]
    files: JobFiles
    read: Callable[[], Mapping[str, J]]
    change: Callable[[Callable[[Mapping[str, J]], Mapping[str, J]]], Mapping[str, J]]
    now_text: Callable[[], str]
    at_once: int
    news: Bell

    def write(self, job: J) -> None:
        """Put a job on record as it now stands. Raises StoreError."""
        self.change(lambda jobs: {**jobs, job.id: job})


class Ordered(Exception):
    """The work was ended by an order, not by a fault."""


class JobRun(Generic[J]):
    """One job that this process owns, from its turn to its end.

    lock        the owner's lock, held; released when the thread ends
    ended       the thread has done all it will do
    unrecorded  why it let go of a job that has not ended: it could not be written down
    """

    def __init__(self, desk: Desk[J], job: J, lock: LockFile) -> None:
        self.job, self.ended = job, False
        self.unrecorded: StoreError | None = None
        self._desk, self._lock = desk, lock
        self._order: Any = None
        self._woken = threading.Event()
        self._looked_s = float("-inf")
        self._thread: threading.Thread | None = None

    # --- what a kind of job says -------------------------------------------------------------------------------------

    def _perform(self) -> None:
        """Do the job up to its end, which is written with `_end`; it is its turn. What is raised is how it failed."""
        raise NotImplementedError

    def _ahead(self) -> list[J]:
        """Return the jobs on record that come first, if somebody works on them."""
        return self._desk.kind.queued_before(self._desk.read().values(), self.job)

    def _broken(self, error: Exception) -> ModelManagerError:
        """Return what to tell of a fault of this program's own."""
        raise NotImplementedError

    # --- from other threads ------------------------------------------------------------------------------------------

    def start(self, done: Callable[[Any], None]) -> None:
        """Begin to work; ``done`` is called when nothing is left to do. RuntimeError: there are no threads left."""
        name = f"{self._desk.kind.noun}-{self.job.id}"
        self._thread = threading.Thread(target=self._work, args=(done,), name=name, daemon=True)
        self._thread.start()

    def order(self, state: Any) -> None:
        """Have the work end in this state, as soon as it can be left for it."""
        # Who closes the program takes back nothing that was wished before.
        if self._order is None or state != self._desk.kind.interrupted:
            self._order = state
        self.wake()

    @property
    def is_leaving(self) -> bool:
        """Has it been stopped, or ended, though its thread may still be tidying up?"""
        return self._order is not None or self.job.state not in self._desk.kind.owned

    def wake(self) -> None:
        """Look around at once instead of at the next tick."""
        self._woken.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended, but no longer than this."""
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, timeout_s))

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self, done: Callable[[Any], None]) -> None:
        try:
            self._see_through()
        except StoreError as error:
            # What could not be written did not happen. The document still says that somebody works on it; nobody
            # does, so it is shown as interrupted, and goes on when somebody asks for it.
            logger.error("%s not recorded id=%s error=%s", self._desk.kind.noun, self.job.id, error)
            self.unrecorded = error
        finally:
            if self.job.state not in self._desk.kind.owned:
                self._leave_nothing()
            self._lock.release()
            self.ended = True
            done(self)
            self._desk.news.ring()

    def _leave_nothing(self) -> None:
        """Remove what lay there for the owner; the document says what is left to say."""
        self._desk.files.forget(self.job.id)

    def _see_through(self) -> None:
        kind = self._desk.kind
        try:
            with self._turn():
                self._perform()
        except Ordered:
            self._end(self._order or kind.interrupted)
        except StoreError:
            raise
        except ModelManagerError as error:
            self._fail(error)
        except Exception as error:
            logger.exception("%s broke id=%s", kind.noun, self.job.id)
            self._fail(self._broken(error))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until nothing is ahead and one of the slots is free; they are shared by all processes."""
        slots = self._desk.files.slots(self._desk.at_once)
        while True:
            self._obey()
            if self._is_next() and (slot := next((slot for slot in slots if slot.acquire()), None)):
                break
            self._doze(TICK_S)
        try:
            yield
        finally:
            slot.release()

    def _is_next(self) -> bool:
        return not any(self._desk.files.is_owned(job.id) for job in self._ahead())

    # --- the record --------------------------------------------------------------------------------------------------

    def _move(self, state: Any, **changes: Any) -> None:
        moved = self._desk.kind.moved(self.job, state, self._desk.now_text(), **changes)
        self._desk.write(moved)
        self.job = moved
        self._tell()

    def _fail(self, error: ModelManagerError) -> None:
        failed = self.job.model_copy(update={"error": as_facts(error), "message": str(error)})
        self._end(self._desk.kind.failed, failed)

    def _end(self, state: Any, job: J | None = None, write: Callable[[J], object] | None = None) -> None:
        """Write the end down, and only then show it: nobody sees as done what is not on record as done.

        job    as it is at its end, but for its state; left out: as it is
        write  puts it on record, with what belongs to it; left out: it alone
        """
        job = job or self.job
        told = self._desk.kind.left_behind(job, state)
        ended = self._desk.kind.moved(job, state, self._desk.now_text(), **({"message": told} if told else {}))
        (write or self._desk.write)(ended)
        self.job = ended
        self._desk.news.ring()
        logger.info("%s %s id=%s", self._desk.kind.noun, state, ended.id)

    def _tell(self) -> None:
        """Let others know how the job stands."""
        self._desk.news.ring()

    # --- orders ------------------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Raise Ordered where somebody wishes the work to end, and it can be left now."""
        if self._order is None and time.monotonic() - self._looked_s >= TICK_S:
            self._looked_s = time.monotonic()
            wished = self._desk.kind.goals.get(self._desk.files.wished(self.job.id) or "")
            # An order from here may have come while the file was looked at; it must not be lost.
            self._order = self._order or wished
        if self._order is not None and self._desk.kind.leads_to(self.job, self._order):
            raise Ordered

    def _doze(self, seconds: float) -> None:
        self._woken.wait(seconds)
        self._woken.clear()

    def _rest(self, seconds: float) -> None:
        """Wait so long, and obey meanwhile."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._obey()
            self._doze(min(left_s, TICK_S))

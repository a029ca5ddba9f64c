"""The threads that own pulls. One download of a model at a time, whoever asks for it, in whichever process.

A job stands in the document as soon as it is acknowledged. Whoever works on it holds its lock file, and a lock dies
with its process: a job that ought to have an owner and has none was interrupted, and whoever looks next may take it
over.
How far it is stands in a small file of its own, `<document>.downloads/<id>.json`, so that the document is written for
changes of state only; other processes read that file.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from json_store import JsonStore
from model_core import downloads, patience, pull_progress
from model_core.errors import (
    DownloadFailed,
    DownloadNotFound,
    InsufficientDisk,
    ModelManagerError,
    NameTaken,
    OllamaError,
    PullFailed,
    as_facts,
)
from model_core.installed import Inventory
from model_core.pull_progress import Progress
from model_core.records import Document, DownloadJob, DownloadState
from ollama_client import OllamaClient
from ollama_inventory import OllamaInventory, Seen

logger = logging.getLogger(__name__)

TICK_S = 0.1  # how soon an order, a free slot or another process's news is noticed
PUBLISH_EVERY_S = 0.2  # what an eye sees


@dataclass(frozen=True)
class Wanted:
    """What a download is to bring.

    copy_to         the catalogue's id that the tag is copied to; None: the tag is the name
    expected_bytes  what the whole model weighs, None: unknown; is_estimate: it is not from a manifest
    is_taken        says whether the id holds a model of the user's own
    """

    model: str
    tag: str
    quantization: str | None
    copy_to: str | None
    expected_bytes: int | None
    is_estimate: bool


class _Ordered(Exception):
    """The attempt was ended by an order, not by a fault."""


@dataclass
class _Run:
    """One job that this process owns, while its thread lives."""

    job: DownloadJob
    wanted: Wanted
    lock: FileLock
    thread: threading.Thread | None = None
    order: DownloadState | None = None
    ordered: threading.Event = field(default_factory=threading.Event)
    event: dict[str, Any] | None = None
    listeners: list[deque[dict[str, Any]]] = field(default_factory=list)
    published_s: float = float("-inf")


class DownloadWorker:
    """Starts, owns and shows downloads. May be used from many threads.

    completed  (document, job, what Ollama now holds) → document: what else is remembered when a model is there
    is_taken   (inventory, id) → whether a model of the user's own stands under the id
    """

    def __init__(
        self,
        client: OllamaClient,
        store: JsonStore[Document],
        inventory: OllamaInventory,
        *,
        completed: Callable[[Document, DownloadJob, Seen], Document],
        is_taken: Callable[[Inventory, str], bool],
        now_text: Callable[[], str],
        at_once: int = 1,
        stalled_s: float = patience.STALLED_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._store, self._inventory = client, store, inventory
        self._completed, self._is_taken = completed, is_taken
        self._now_text, self._monotonic, self._at_once, self._stalled_s = now_text, monotonic, at_once, stalled_s
        self._folder = Path(f"{store.path.with_suffix('')}.downloads")
        self._news = threading.Condition()
        self._runs: dict[str, _Run] = {}
        self._closed = False

    # --- asking for a download ---------------------------------------------------------------------------------------

    def start(self, wanted: Wanted) -> DownloadJob:
        """Return the job that brings the model: the one that is open already, or a new one, queued."""
        fresh = DownloadJob(
            id=secrets.token_hex(6),
            model=wanted.model,
            tag=wanted.tag,
            quantization=wanted.quantization,
            total_bytes=wanted.expected_bytes,
            total_is_estimate=wanted.is_estimate,
            started_at=self._now_text(),
            updated_at=self._now_text(),
        )
        # The lock comes first: nobody may see the new job without an owner and take it for interrupted.
        lock = self._own(fresh.id)
        document = self._store.change(lambda document: _with_new(document, fresh))
        job = downloads.same_download(document.downloads.values(), wanted.model, wanted.tag)
        if job is not None and job.id == fresh.id and lock is not None:
            return self._run(job, wanted, lock)
        _let_go(lock)
        if job is None:
            raise DownloadNotFound(fresh.id)
        return self.resume(job.id) if job.state not in downloads.OWNED or self._is_orphan(job) else self.get(job.id)

    def resume(self, job_id: str) -> DownloadJob:
        """Return the job, queued again. Raises InvalidTransition for one that is done, DownloadNotFound."""
        job = self.get(job_id)
        if job.state in downloads.OWNED:
            return job
        lock = self._own(job_id)
        if lock is None:
            return self.get(job_id)
        try:
            job = self._move(self._settle_orphan(job), DownloadState.QUEUED, error=None, message=None)
        except BaseException:
            _let_go(lock)
            raise
        return self._run(job, _wanted_again(job), lock)

    def resume_interrupted(self) -> list[DownloadJob]:
        """Take over every download whose owner is gone, and return them."""
        interrupted = [job for job in self.all() if job.state is DownloadState.INTERRUPTED]
        return [self.resume(job.id) for job in interrupted]

    # --- looking -----------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> DownloadJob:
        """Return a job as it stands now, whoever owns it. Raises DownloadNotFound."""
        if run := self._runs.get(job_id):
            return run.job
        job = self._store.read().downloads.get(job_id)
        if job is None:
            raise DownloadNotFound(job_id)
        return self._seen_from_here(job)

    def all(self) -> list[DownloadJob]:
        """Return every job, in the order in which they were asked for."""
        return [self.get(job_id) for job_id in list(self._store.read().downloads)]

    def wait(self, job_id: str, since: int, timeout_s: float) -> DownloadJob:
        """Return the job as soon as its version is past `since` or it has ended; after `timeout_s` as it is then."""
        deadline = self._monotonic() + timeout_s
        while True:
            job = self.get(job_id)
            left = deadline - self._monotonic()
            if job.version > since or job.state not in downloads.OWNED or left <= 0:
                return job
            with self._news:
                self._news.wait(min(left, TICK_S))

    def follow(self, job_id: str) -> Iterator[DownloadJob]:
        """Yield the job now and after each change, the last time when nobody works on it any more."""
        job = self.get(job_id)
        yield job
        while job.state in downloads.OWNED:
            newer = self.wait(job_id, job.version, 15.0)
            if newer.version != job.version or newer.state != job.state:
                job = newer
                yield job

    def events(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Yield the raw lines of Ollama until the job ends: every one where this process owns it, else the newest."""
        run, heard = self._runs.get(job_id), deque[dict[str, Any]](maxlen=10_000)
        if run:
            run.listeners.append(heard)
        last: dict[str, Any] | None = None
        while True:
            ended = self.get(job_id).state not in downloads.OWNED
            if run:
                while heard:
                    yield heard.popleft()
            else:
                event = self._read_live(job_id).get("event")
                if event and event != last:
                    last = event
                    yield event
            if ended:
                return
            with self._news:
                self._news.wait(TICK_S)

    # --- ending ------------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float = 3.0) -> None:
        """Let go of every job: each is left interrupted, to go on another time."""
        self._closed = True
        runs = list(self._runs.values())
        for run in runs:
            self._order(run, DownloadState.INTERRUPTED)
        deadline = self._monotonic() + timeout_s
        for run in runs:
            if run.thread and run.thread is not threading.current_thread():
                run.thread.join(max(0.0, deadline - self._monotonic()))

    def _order(self, run: _Run, state: DownloadState) -> None:
        run.order = state
        run.ordered.set()
        with self._news:
            self._news.notify_all()

    # --- owning ------------------------------------------------------------------------------------------------------

    def _lock(self, name: str) -> FileLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._folder / f"{name}.lock", thread_local=False, mode=0o600)

    def _own(self, job_id: str) -> FileLock | None:
        lock = self._lock(job_id)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _is_orphan(self, job: DownloadJob) -> bool:
        """Ought it to have an owner, and has none?"""
        if job.state not in downloads.OWNED or job.id in self._runs:
            return False
        try:
            lock = self._own(job.id)
        except OSError as error:  # a folder that cannot be written: nobody owns anything there
            logger.debug("no lock to be had job=%s error=%s", job.id, error)
            return True
        _let_go(lock)
        return lock is not None

    def _settle_orphan(self, job: DownloadJob) -> DownloadJob:
        """Return a job whose lock we hold, as interrupted if the document still says that somebody works on it."""
        stored = self._store.read().downloads.get(job.id, job)
        if stored.state not in downloads.OWNED:
            return stored
        return self._move(job.model_copy(update={"state": stored.state}), DownloadState.INTERRUPTED)

    def _seen_from_here(self, job: DownloadJob) -> DownloadJob:
        if job.state not in downloads.OWNED:
            return job
        live = self._read_live(job.id).get("job")
        if live:
            newer = DownloadJob.model_validate(live)
            job = newer if newer.version >= job.version else job
        if job.state in downloads.OWNED and self._is_orphan(job):
            # It may have ended between the two looks: then the document says so by now.
            stored = self._store.read().downloads.get(job.id, job)
            if stored.state not in downloads.OWNED:
                return stored
            return job.model_copy(
                update={
                    "state": DownloadState.INTERRUPTED,
                    "bytes_per_second": None,
                    "eta_seconds": None,
                    "message": "the program that was downloading has ended; resume goes on from there",
                }
            )
        return job

    # --- the thread of one job ---------------------------------------------------------------------------------------

    def _run(self, job: DownloadJob, wanted: Wanted, lock: FileLock) -> DownloadJob:
        run = _Run(job, wanted, lock)
        run.thread = threading.Thread(target=self._work, args=(run,), name=f"download-{job.id}", daemon=True)
        self._runs[job.id] = run
        run.thread.start()
        return run.job

    def _work(self, run: _Run) -> None:
        try:
            with self._turn(run):
                self._move_run(run, DownloadState.DOWNLOADING)
                logger.info("download started model=%s tag=%s id=%s", run.job.model, run.job.tag, run.job.id)
                progress = self._pull(run)
                self._name(run, progress)
        except _Ordered:
            self._end(run, run.order or DownloadState.INTERRUPTED)
        except ModelManagerError as error:
            self._fail(run, error)
        except Exception as error:
            logger.exception("download broke id=%s", run.job.id)
            self._fail(run, _internal(run, error))
        finally:
            _let_go(run.lock)
            self._runs.pop(run.job.id, None)
            with self._news:
                self._news.notify_all()

    @contextmanager
    def _turn(self, run: _Run) -> Iterator[None]:
        """Wait until every earlier job is done and one of the slots is free; they are shared by all processes."""
        slots = [self._lock(f"slot-{number}") for number in range(self._at_once)]
        while True:
            self._obey(run)
            if self._is_first(run) and (slot := _first_free(slots)):
                break
            run.ordered.wait(TICK_S)
        try:
            yield
        finally:
            slot.release()

    def _is_first(self, run: _Run) -> bool:
        for job in self._store.read().downloads.values():
            if job.id == run.job.id:
                return True
            if job.state is DownloadState.QUEUED and not self._is_orphan(job):
                return False
        return True

    def _pull(self, run: _Run) -> Progress:
        """Pull until it succeeds, and return the progress then. Raises why it cannot."""
        progress = Progress(
            expected_bytes=run.wanted.expected_bytes,
            is_estimate=run.wanted.is_estimate,
            reached_bytes=run.job.downloaded_bytes,
            percent=run.job.percent,
        )
        fruitless = mismatches = 0
        while True:
            reporting = _Reporting(progress)
            try:
                self._attempt(run, reporting)
            except (PullFailed, OllamaError) as error:
                # Ollama itself may be starting again; a pull that it refused says so in its own error.
                heals = error.heals_by_retrying if isinstance(error, PullFailed) else True
                fruitless = 1 if reporting.progress.reached_bytes > progress.reached_bytes else fruitless + 1
                mismatches += error.facts.get("reason") == "digest_mismatch"
                jitter = random.random()  # noqa: S311 - nobody gains by guessing it
                pause = patience.pause_s(heals=heals, fruitless=fruitless, mismatches=mismatches, jitter=jitter)
                logger.warning("pull failed id=%s error=%s next_in_s=%s", run.job.id, error.happened, pause)
                if pause is None:
                    raise self._final(run, error) from error
                progress = self._rest(run, reporting.progress, error, pause)
            else:
                return reporting.progress

    def _attempt(self, run: _Run, reporting: _Reporting) -> None:
        """Read one pull of Ollama's to its success. Raises PullFailed, or _Ordered."""
        reporting.progress = pull_progress.begin(reporting.progress, self._monotonic())
        self._publish(run, reporting.progress, force=True)
        start = self._lock("pull-start")
        try:
            # Two pulls that start together can bring Ollama down (a blob still being looked up is shared, and the first
            # to leave takes the other's with it): the start ends with the first word on a layer.
            self._acquire(run, start)
            with self._client.pull(run.wanted.tag) as stream:
                heard_s = self._monotonic()
                while True:
                    self._obey(run)
                    event = stream.read(TICK_S)
                    now_s = self._monotonic()
                    if event is None:
                        if now_s - heard_s > patience.silence_allowed_s(reporting.progress.phase):
                            raise _quiet(run, "silent", f"no word from Ollama for {now_s - heard_s:.0f} s")
                    else:
                        heard_s = now_s
                        self._hear(run, event)
                        reporting.progress = pull_progress.advance(reporting.progress, event, now_s)
                        if event.get("total") or reporting.progress.phase in (
                            pull_progress.CHECKING,
                            pull_progress.WRITING,
                        ):
                            start.release()
                        if event.get("status") == "success":
                            return
                    if pull_progress.is_stalled(reporting.progress, now_s, self._stalled_s):
                        raise _quiet(run, "stalled", f"no data for {self._stalled_s:.0f} s")
                    self._follow_phase(run, reporting.progress)
                    self._publish(run, reporting.progress)
        finally:
            if start.is_locked:
                start.release()

    def _follow_phase(self, run: _Run, progress: Progress) -> None:
        checking = progress.phase in (pull_progress.CHECKING, pull_progress.WRITING)
        if checking and run.job.state is DownloadState.DOWNLOADING:
            self._move_run(run, DownloadState.VERIFYING)
        elif not checking and run.job.state is DownloadState.VERIFYING:
            self._move_run(run, DownloadState.DOWNLOADING)

    def _rest(self, run: _Run, progress: Progress, error: ModelManagerError, pause_s: float) -> Progress:
        """Show why nothing moves, wait, and return the progress for the next attempt."""
        if run.job.state is DownloadState.VERIFYING:
            self._move_run(run, DownloadState.DOWNLOADING)
        progress = pull_progress.enter(progress, pull_progress.WAITING, self._monotonic())
        run.job = run.job.model_copy(update={"attempt": run.job.attempt + 1})
        self._publish(run, progress, force=True, message=f"{error.happened} Trying again in {pause_s:.0f} s.")
        run.ordered.wait(pause_s)
        self._obey(run)
        return progress

    def _name(self, run: _Run, progress: Progress) -> None:
        """Copy the tag to the catalogue's id, and say done only when Ollama's list shows it."""
        if run.job.state is DownloadState.DOWNLOADING:
            self._move_run(run, DownloadState.VERIFYING)
        progress = pull_progress.enter(progress, pull_progress.NAMING, self._monotonic())
        self._publish(run, progress, force=True)
        wanted = run.wanted
        seen = self._inventory.ask()
        if wanted.copy_to:
            if (taken := seen.inventory.get(wanted.copy_to)) and self._is_taken(seen.inventory, wanted.copy_to):
                raise NameTaken(wanted.copy_to, taken.digest)
            self._client.copy(wanted.tag, wanted.copy_to)
            seen = self._inventory.ask()
        name, pulled = wanted.copy_to or wanted.tag, seen.inventory.get(wanted.tag)
        there = seen.inventory.get(name)
        if there is None or pulled is None or there.digest != pulled.digest:
            raise DownloadFailed(
                wanted.model,
                f"Ollama said that {wanted.tag} was fetched, but its list does not show {name}.",
                "Look whether somebody deleted it meanwhile, then download again.",
                reason="not_listed",
            )
        done = downloads.shown(run.job, pull_progress.finish(progress, self._monotonic()), self._now_text())
        run.job = done.model_copy(update={"total_is_estimate": False})
        self._end(run, DownloadState.COMPLETED, seen)

    # --- what becomes of it ------------------------------------------------------------------------------------------

    def _hear(self, run: _Run, event: dict[str, Any]) -> None:
        run.event = event
        for listener in run.listeners:
            listener.append(event)

    def _obey(self, run: _Run) -> None:
        if run.order is not None:
            raise _Ordered

    def _acquire(self, run: _Run, lock: FileLock) -> None:
        while True:
            self._obey(run)
            try:
                lock.acquire(timeout=TICK_S)
            except Timeout:
                continue
            return

    def _publish(self, run: _Run, progress: Progress, *, force: bool = False, **changes: Any) -> None:
        now_s = self._monotonic()
        if not force and now_s - run.published_s < PUBLISH_EVERY_S:
            return
        run.published_s = now_s
        run.job = downloads.shown(run.job, progress, self._now_text(), **changes)
        self._tell(run)

    def _tell(self, run: _Run) -> None:
        self._write_live(run)
        with self._news:
            self._news.notify_all()

    def _move_run(self, run: _Run, state: DownloadState, **changes: Any) -> None:
        run.job = self._move(run.job, state, **changes)
        self._tell(run)

    def _move(self, job: DownloadJob, state: DownloadState, **changes: Any) -> DownloadJob:
        """Return the job in another state, on disk before anybody is told."""
        newer = downloads.moved(job, state, self._now_text(), **changes)
        self._store.change(lambda document: _with_job(document, newer))
        return newer

    def _end(self, run: _Run, state: DownloadState, seen: Seen | None = None) -> None:
        calm = {"bytes_per_second": None, "eta_seconds": None}
        ended = downloads.moved(run.job, state, self._now_text(), **calm)

        def change(document: Document) -> Document:
            document = _with_job(document, ended)
            return self._completed(document, ended, seen) if seen else document

        try:
            self._store.change(change)
        except ModelManagerError:
            # The model itself is where it is; the document catches up when somebody looks at the job again.
            logger.exception("the end of a download could not be written id=%s state=%s", ended.id, state)
        run.job = ended
        self._tell(run)
        logger.info("download %s model=%s id=%s bytes=%s", state, ended.model, ended.id, ended.downloaded_bytes)

    def _fail(self, run: _Run, error: ModelManagerError) -> None:
        run.job = run.job.model_copy(update={"error": as_facts(error), "message": str(error)})
        self._end(run, DownloadState.FAILED)

    def _final(self, run: _Run, error: PullFailed | OllamaError) -> ModelManagerError:
        if isinstance(error, OllamaError):
            return error
        if error.reason == "disk_full":
            return InsufficientDisk(run.job.model, run.wanted.expected_bytes, None)
        return error

    # --- the small file of one job -----------------------------------------------------------------------------------

    def _live_path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"

    def _write_live(self, run: _Run) -> None:
        path = self._live_path(run.job.id)
        text = json.dumps({"job": run.job.model_dump(mode="json"), "event": run.event})
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(text, "utf-8")
            temporary.replace(path)
        except OSError as error:  # on Windows while somebody reads it; the next one comes in a moment
            logger.debug("progress not written id=%s error=%s", run.job.id, error)

    def _read_live(self, job_id: str) -> dict[str, Any]:
        try:
            live = json.loads(self._live_path(job_id).read_text("utf-8"))
        except (OSError, ValueError):  # not there yet, or just being replaced: there is no newer word, that is all
            return {}
        return live if isinstance(live, dict) else {}


@dataclass
class _Reporting:
    """The progress of one attempt, kept where it survives the attempt's failure."""

    progress: Progress


def _quiet(run: _Run, reason: str, what: str) -> PullFailed:
    return PullFailed(
        run.job.model,
        f"The download of {run.job.model} stood still: {what}.",
        "Check the network of the machine that Ollama runs on, then download again; what has arrived is kept.",
        reason=reason,
        heals_by_retrying=True,
    )


def failure_of(job: DownloadJob) -> ModelManagerError | None:
    """Return the error that an ended job stands for, None if it brought the model."""
    if job.state is DownloadState.COMPLETED:
        return None
    facts = dict(job.error or {})
    happened = facts.get("error") or f"The download of {job.model} is {job.state}."
    remedy = facts.get("remedy") or "Download it again: it goes on from where it was."
    return DownloadFailed(
        job.model, happened, remedy, reason=facts.get("reason") or job.state, upstream=facts.get("upstream") or ""
    )


def _with_new(document: Document, fresh: DownloadJob) -> Document:
    if downloads.same_download(document.downloads.values(), fresh.model, fresh.tag):
        return document
    return document.model_copy(update={"downloads": downloads.pruned({**document.downloads, fresh.id: fresh})})


def _with_job(document: Document, job: DownloadJob) -> Document:
    return document.model_copy(update={"downloads": {**document.downloads, job.id: job}})


def _wanted_again(job: DownloadJob) -> Wanted:
    copy_to = job.model if job.model != job.tag else None
    return Wanted(job.model, job.tag, job.quantization, copy_to, job.total_bytes, job.total_is_estimate)


def _first_free(slots: list[FileLock]) -> FileLock | None:
    for slot in slots:
        try:
            slot.acquire(timeout=0)
        except Timeout:
            continue
        return slot
    return None


def _let_go(lock: FileLock | None) -> None:
    if lock is not None:
        lock.release()


def _internal(run: _Run, error: Exception) -> DownloadFailed:
    return DownloadFailed(
        run.job.model,
        f"The download of {run.job.model} broke off by a fault of this program ({type(error).__name__}).",
        "Download it again: it goes on from where it was. The log has the details.",
        reason="internal",
    )

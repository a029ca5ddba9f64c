"""One download in the hands of its thread: pull, try again, name what came. The rest is in job_run.py."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from download_files import DownloadFiles
from job_files import LockFile
from job_run import TICK_S, Desk, JobRun, Ordered
from model_core import downloads, patience, pull_progress
from model_core.errors import (
    DownloadFailed,
    InsufficientDisk,
    ModelManagerError,
    NameTaken,
    OllamaError,
    OllamaModelMissing,
    PullFailed,
)
from model_core.installed import Inventory
from model_core.patience import Patience
from model_core.pull_progress import Progress
from model_core.records import Document, DownloadJob, DownloadState, LayerProgress
from ollama_client import OllamaClient, PullStream
from ollama_inventory import OllamaInventory, Seen

logger = logging.getLogger(__name__)

PUBLISH_EVERY_S = 0.2  # what an eye sees
LONGEST_BACKLOG = 10_000  # lines that wait for a slow callback: ten minutes of Ollama's; then the oldest go


@dataclass(frozen=True)
class Wanted:
    """What a download is to bring.

    copy_to         the catalogue's id that the tag is copied to; None: the tag is the name
    expected_bytes  what the whole model weighs, None: unknown; is_estimate: it is not from a manifest
    layers          what it is made of, and what of that Ollama holds already; empty: not known
    """

    model: str
    tag: str
    quantization: str | None
    copy_to: str | None
    expected_bytes: int | None
    is_estimate: bool
    layers: tuple[LayerProgress, ...] = ()


@dataclass(frozen=True)
class Outside:
    """What downloads work with besides their desk; all of one worker share it.

    change     a function from document to document in; when it returns, what came out is on disk
    completed  (document, job, what Ollama now holds) → document: what else is remembered when a model is there
    is_taken   (inventory, id) → whether a model of the user's own stands under the id
    """

    client: OllamaClient
    inventory: OllamaInventory
    files: DownloadFiles
    change: Callable[[Callable[[Document], Document]], Document]
    completed: Callable[[Document, DownloadJob, Seen], Document]
    is_taken: Callable[[Inventory, str], bool]
    patience: Patience


class Listener:
    """Takes down Ollama's lines for one caller that waits. ``run`` is None while another process has the download."""

    def __init__(self) -> None:
        self.lines: deque[dict[str, Any]] = deque(maxlen=LONGEST_BACKLOG)
        self.run: Run | None = None

    def meet(self, run: Run | None) -> None:
        """Listen to who has the download now."""
        self.run = run
        if run:
            run.add(self)


class Run(JobRun[DownloadJob]):
    """One download that this process owns, from its turn to its end. ``event`` is the newest line of Ollama's."""

    def __init__(
        self, desk: Desk[DownloadJob], outside: Outside, job: DownloadJob, wanted: Wanted, lock: LockFile
    ) -> None:
        super().__init__(desk, job, lock)
        self._outside, self._wanted = outside, wanted
        self._event: dict[str, Any] | None = None
        self._listeners: list[Listener] = []
        self._published_s = float("-inf")

    def add(self, listener: Listener) -> None:
        """Let somebody hear every line from now on."""
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Stop taking lines down for somebody who has gone."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _ahead(self) -> list[DownloadJob]:
        return downloads.ahead_of(self._desk.read().values(), self.job)

    def _broken(self, error: Exception) -> ModelManagerError:
        return _internal(self.job, error)

    def _perform(self) -> None:
        self._move(DownloadState.DOWNLOADING)
        logger.info("download started model=%s tag=%s id=%s", self.job.model, self.job.tag, self.job.id)
        self._complete(*self._bring())

    def _bring(self) -> tuple[Progress, Seen]:
        """Pull and name until the model is there. Raises why it cannot be had."""
        progress = Progress(
            expected_bytes=self._wanted.expected_bytes,
            is_estimate=self._wanted.is_estimate,
            layers=self.job.layers,
            reached_bytes=self.job.downloaded_bytes,
            percent=self.job.percent,
        )
        fruitless = mismatches = 0
        pulled = False
        while True:
            reporting = _Reporting(progress)
            try:
                if not pulled:
                    self._attempt(reporting)
                    pulled = True
                return reporting.progress, self._named(reporting)
            except (PullFailed, OllamaError) as error:
                fruitless = 1 if reporting.progress.reached_bytes > progress.reached_bytes else fruitless + 1
                mismatches += error.facts.get("reason") == "digest_mismatch"
                pause_s = self._pause_s(error, fruitless, mismatches)
                logger.warning("pull failed id=%s error=%s next_in_s=%s", self.job.id, error.happened, pause_s)
                if pause_s is None:
                    raise self._told(error) from error
                progress = self._paused(reporting.progress, error, pause_s)

    def _pause_s(self, error: ModelManagerError, fruitless: int, mismatches: int) -> float | None:
        return self._outside.patience.pause_s(
            heals=patience.heals(error),
            fruitless=fruitless,
            mismatches=mismatches,
            jitter=random.random(),  # noqa: S311 - nobody gains by guessing it
        )

    # --- one attempt -------------------------------------------------------------------------------------------------

    def _attempt(self, reporting: _Reporting) -> None:
        """Pull once. Raises PullFailed, OllamaError."""
        reporting.progress = pull_progress.begin(reporting.progress, time.monotonic())
        self._publish(reporting.progress, force=True)
        start = self._outside.files.pull_start()
        try:
            # Two pulls that start together can bring Ollama down (a blob still being looked up is shared, and the first
            # to leave takes the other's with it): the start ends with the first word on a layer.
            while not start.acquire(TICK_S):
                self._obey()
            with self._pulling() as stream:
                self._read(stream, start, reporting)
        finally:
            start.release()
            self._publish(reporting.progress, force=True)

    @contextmanager
    def _pulling(self) -> Iterator[PullStream]:
        """Ask for the pull, and obey while Ollama does not answer. Raises OllamaError."""
        opening = _Opening(self._outside.client, self._wanted.tag)
        try:
            while (stream := opening.opened(TICK_S)) is None:
                self._obey()
        except Ordered:
            opening.leave()
            raise
        with stream:
            yield stream

    def _read(self, stream: PullStream, start: LockFile, reporting: _Reporting) -> None:
        heard_s = time.monotonic()
        while True:
            self._obey()
            event = stream.read(TICK_S)
            now_s = time.monotonic()
            if event is not None:
                heard_s = now_s
                reporting.progress = pull_progress.advance(reporting.progress, event, now_s)
                self._hear(event)
                if event.get("total") or reporting.progress.phase in _PAST_DOWNLOADING:
                    start.release()
                if event.get("status") == "success":
                    return
            self._check_that_it_moves(reporting.progress, now_s, heard_s)
            self._follow_phase(reporting.progress)
            self._publish(reporting.progress)

    def _check_that_it_moves(self, progress: Progress, now_s: float, heard_s: float) -> None:
        limits, silent_s = self._outside.patience, now_s - heard_s
        if silent_s > limits.silence_allowed_s(progress.phase):
            raise _quiet(self.job, "silent", f"no word from Ollama for {silent_s:.0f} s while {progress.phase}")
        if pull_progress.is_stalled(progress, now_s, limits.stalled_s):
            raise _quiet(self.job, "stalled", f"no data for {limits.stalled_s:.0f} s")

    def _follow_phase(self, progress: Progress) -> None:
        checking = progress.phase in _PAST_DOWNLOADING
        if checking and self.job.state is DownloadState.DOWNLOADING:
            self._move(DownloadState.VERIFYING)
        elif not checking and self.job.state is DownloadState.VERIFYING:
            self._move(DownloadState.DOWNLOADING)

    def _paused(self, progress: Progress, error: ModelManagerError, pause_s: float) -> Progress:
        """Show why nothing moves, wait, and return the progress for the next attempt."""
        if self.job.state is DownloadState.VERIFYING:
            self._move(DownloadState.DOWNLOADING)
        progress = pull_progress.enter(progress, pull_progress.WAITING, time.monotonic())
        self.job = self.job.model_copy(update={"attempt": self.job.attempt + 1})
        self._publish(progress, force=True, message=f"{error.happened} Trying again in {pause_s:.0f} s.")
        self._rest(pause_s)
        return progress

    def _named(self, reporting: _Reporting) -> Seen:
        """Copy the tag to the catalogue's id; return what Ollama's list says once it shows it. Raises OllamaError."""
        self._obey()
        if self.job.state is DownloadState.DOWNLOADING:
            self._move(DownloadState.VERIFYING)
        reporting.progress = pull_progress.enter(reporting.progress, pull_progress.NAMING, time.monotonic())
        self._publish(reporting.progress, force=True)
        wanted, seen = self._wanted, self._outside.inventory.ask()
        if wanted.copy_to:
            if (taken := seen.inventory.get(wanted.copy_to)) and self._outside.is_taken(seen.inventory, taken.name):
                raise NameTaken(wanted.copy_to, taken.digest)
            try:
                self._outside.client.copy(wanted.tag, wanted.copy_to)
            except OllamaModelMissing as error:
                raise _not_listed(self.job, wanted.tag) from error
            seen = self._outside.inventory.ask()
        name = wanted.copy_to or wanted.tag
        there, pulled = seen.inventory.get(name), seen.inventory.get(wanted.tag)
        if there is None or pulled is None or there.digest != pulled.digest:
            raise _not_listed(self.job, name)
        return seen

    # --- what becomes of it ------------------------------------------------------------------------------------------

    def _complete(self, progress: Progress, seen: Seen) -> None:
        there = seen.inventory.get(self._wanted.tag)
        progress = pull_progress.finish(progress, time.monotonic(), there.size_bytes if there else None)
        done = downloads.shown(self.job, progress, self._desk.now_text())
        done = done.model_copy(update={"total_is_estimate": False, "message": None})

        def write(ended: DownloadJob) -> None:
            self._outside.change(lambda before: self._outside.completed(_with_job(before, ended), ended, seen))

        self._end(DownloadState.COMPLETED, done, write)
        logger.info("download brought model=%s bytes=%s", done.model, done.downloaded_bytes)

    def _told(self, error: PullFailed | OllamaError) -> ModelManagerError:
        """Return the error that tells a caller most."""
        if error.facts.get("reason") == "disk_full":
            return InsufficientDisk(self.job.model, self._wanted.expected_bytes, None)
        return error

    # --- news --------------------------------------------------------------------------------------------------------

    def _hear(self, event: dict[str, Any]) -> None:
        self._event = event
        for listener in list(self._listeners):
            listener.lines.append(event)
        if self._listeners:
            self._desk.news.ring()

    def _publish(self, progress: Progress, *, force: bool = False, **changes: Any) -> None:
        now_s = time.monotonic()
        # A new phase is news at once: the first progress must not wait for the next round.
        force = force or progress.phase != self.job.phase
        if not force and now_s - self._published_s < PUBLISH_EVERY_S:
            return
        self._published_s = now_s
        self.job = downloads.shown(self.job, progress, self._desk.now_text(), **changes)
        self._tell()

    def _tell(self) -> None:
        self._outside.files.tell(self.job, self._event)
        super()._tell()


@dataclass
class _Reporting:
    """The progress of one attempt, kept where it survives the attempt's failure."""

    progress: Progress


class _Opening:
    """A pull that is being asked for, in a thread of its own: no order waits for an Ollama that does not answer."""

    def __init__(self, client: OllamaClient, tag: str) -> None:
        self._client, self._tag = client, tag
        self._lock = threading.Lock()
        self._stream: PullStream | None = None
        self._error: Exception | None = None
        self._left = False
        self._thread = threading.Thread(target=self._open, name=f"pull-opening {tag}", daemon=True)
        self._thread.start()

    def opened(self, timeout_s: float) -> PullStream | None:
        """Return the stream, None if there is none within the time. Raises OllamaError."""
        self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        return None if self._thread.is_alive() else self._stream

    def leave(self) -> None:
        """Want it no more: what Ollama still answers is hung up on."""
        with self._lock:
            self._left = True
            if self._stream is not None:
                self._stream.close()

    def _open(self) -> None:
        try:
            stream = self._client.pull(self._tag)
        except Exception as error:  # whatever it is, the one who waits must hear of it
            self._error = error
            return
        with self._lock:
            self._stream = stream
            if self._left:
                stream.close()


_PAST_DOWNLOADING = (pull_progress.CHECKING, pull_progress.WRITING)


def with_downloads(document: Document, jobs: Mapping[str, DownloadJob]) -> Document:
    """Return the document with these downloads; itself, where they are its own."""
    return document if jobs is document.downloads else document.model_copy(update={"downloads": jobs})


def _with_job(document: Document, job: DownloadJob) -> Document:
    return with_downloads(document, {**document.downloads, job.id: job})


def _quiet(job: DownloadJob, reason: str, what: str) -> PullFailed:
    return PullFailed(
        job.model,
        f"The download of {job.model} stood still: {what}.",
        "Check the network of the machine that Ollama runs on, then download again; what has arrived is kept.",
        reason=reason,
        heals_by_retrying=True,
    )


def _not_listed(job: DownloadJob, name: str) -> DownloadFailed:
    return DownloadFailed(
        job.model,
        f"Ollama said that {job.tag} was fetched, but its list does not show {name}.",
        "Look whether somebody deleted it meanwhile, then download again.",
        reason="not_listed",
    )


def _internal(job: DownloadJob, error: Exception) -> DownloadFailed:
    return DownloadFailed(
        job.model,
        f"The download of {job.model} broke off by a fault of this program ({type(error).__name__}).",
        "Download it again: it goes on from where it was. The log has the details.",
        reason="internal",
    )

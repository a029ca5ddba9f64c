"""Every download: starts the ones that are asked for, owns them while they run, shows and takes over those of others.

One download of a model at a time, whoever asks for it, in whichever process. A download stands in the document as soon
as it is acknowledged, and the document is written again for changes of state only. Who works on a download and how far
it is, other processes learn from small files beside the document (download_files.py). What every kind of job does
alike stands in job_worker.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bell import Bell
from download_files import DownloadFiles
from download_run import Listener, Outside, Run, Wanted, with_downloads
from job_files import LockFile
from job_run import TICK_S, Desk
from job_worker import LONGEST_WAIT_S, JobWorker, Meet, nobody_waits, released_on_failure
from json_store import JsonStore
from model_core import downloads
from model_core.errors import DownloadNotFound, ModelManagerError
from model_core.installed import Inventory
from model_core.patience import Patience
from model_core.records import Document, DownloadJob
from ollama_client import OllamaClient
from ollama_inventory import OllamaInventory, Seen

__all__ = ["DownloadWorker", "Listener", "Wanted"]


class DownloadWorker(JobWorker[DownloadJob, Run]):
    """Starts, owns and shows downloads. May be used from many threads, and on both sides of a fork.

    change     a function from document to document in; when it returns, what came out is on disk
    completed  (document, job, what Ollama now holds) → document: what else is remembered when a model is there
    is_taken   (inventory, id) → whether a model of the user's own stands under the id
    at_once    how many run at a time, in all processes together
    news       rung whenever something has changed in a download of this process
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
        news: Bell | None = None,
    ) -> None:
        self.files = DownloadFiles(store.path)
        self._outside = Outside(
            client=client,
            inventory=inventory,
            files=self.files,
            change=change,
            completed=completed,
            is_taken=is_taken,
            patience=patience or Patience(),
        )

        def change_downloads(
            function: Callable[[Mapping[str, DownloadJob]], Mapping[str, DownloadJob]],
        ) -> Mapping[str, DownloadJob]:
            return change(lambda document: with_downloads(document, function(document.downloads))).downloads

        desk = Desk(
            kind=downloads.KIND,
            files=self.files,
            read=lambda: store.read().downloads,
            change=change_downloads,
            now_text=now_text,
            at_once=at_once,
            news=news or Bell(),
        )
        super().__init__(desk)

    def _new_run(self, job: DownloadJob, lock: LockFile) -> Run:
        return Run(self._desk, self._outside, job, _wanted_again(job), lock)

    def _unknown(self, job_id: str) -> ModelManagerError:
        return DownloadNotFound(job_id)

    def _newest(self, stored: DownloadJob) -> DownloadJob:
        told = self.files.news(stored.id).job
        return told if told and told.version > stored.version and told.state in downloads.OWNED else stored

    # --- asking for a download ---------------------------------------------------------------------------------------

    def start(self, wanted: Wanted, listener: Listener | None = None, *, looked_at: str | None = None) -> DownloadJob:
        """Return the job that brings the model: the one that is open already, or a new one, queued.

        listener   hears every line of Ollama's from now on, where this process has the job
        looked_at  when the model was not there; a job that has brought it since is the one, and is done

        Raises StoreError.
        """
        meet = _meets(listener)
        with self._beginning:
            job = self._same(wanted.model, wanted.tag, looked_at)
            if job is None:
                self.files.sweep(self._known)
                job_id, lock = self._new_id()
                with released_on_failure(lock):
                    job = self._entered(self._fresh(job_id, wanted), looked_at)
                    if job.id == job_id:
                        return self._run(job, lock, meet)
                lock.release()
            return self._joined(job, meet, downloads.OPEN)

    def joined(self, wanted: Wanted, listener: Listener | None = None) -> DownloadJob | None:
        """Return the job that is open for this already, taken over if nobody works on it; None if there is none."""
        with self._beginning:
            job = self._same(wanted.model, wanted.tag)
            return self._joined(job, _meets(listener), downloads.OPEN) if job else None

    def _resumed(self, job_id: str, meet: Meet[Run]) -> DownloadJob:
        """Go on with a job; where the same has been asked for anew since, with that."""
        job = self._stored(job_id)
        if job.state in downloads.ENDED and (newer := self._same(job.model, job.tag)):
            return self._joined(newer, meet, downloads.OPEN)
        return super()._resumed(job_id, meet)

    def move(self, job_id: str, position: int) -> DownloadJob:
        """Put a queued download at another place among those that wait; 0 is next. Raises InvalidTransition."""
        downloads.check_wish(self.get(job_id), "move")

        def change(jobs: Mapping[str, DownloadJob]) -> Mapping[str, DownloadJob]:
            if job_id not in jobs:
                raise DownloadNotFound(job_id)
            return downloads.reordered(jobs, job_id, position)

        self._desk.change(change)
        self._desk.news.ring()
        return self.get(job_id)

    def _same(self, model: str, tag: str, done_since: str | None = None) -> DownloadJob | None:
        return downloads.same_download(self._desk.read().values(), model, tag, done_since)

    def _fresh(self, job_id: str, wanted: Wanted) -> DownloadJob:
        at = self._desk.now_text()
        return DownloadJob(
            id=job_id,
            model=wanted.model,
            tag=wanted.tag,
            quantization=wanted.quantization,
            total_bytes=wanted.expected_bytes,
            total_is_estimate=wanted.is_estimate,
            layers=wanted.layers,
            started_at=at,
            updated_at=at,
        )

    def _entered(self, fresh: DownloadJob, looked_at: str | None) -> DownloadJob:
        """Enter a job into the document and return it, or the one for the same that another process was first with."""

        def change(jobs: Mapping[str, DownloadJob]) -> Mapping[str, DownloadJob]:
            if downloads.same_download(jobs.values(), fresh.model, fresh.tag, looked_at):
                return jobs
            return downloads.pruned({**jobs, fresh.id: fresh})

        jobs = self._desk.change(change)
        return downloads.same_download(jobs.values(), fresh.model, fresh.tag, looked_at) or fresh

    # --- Ollama's lines ----------------------------------------------------------------------------------------------

    def events(self, job_id: str, listener: Listener) -> Iterator[dict[str, Any]]:
        """Yield Ollama's raw lines until the job ends: every one where this process has it, else the newest, in order.

        listener  the one that start or resume was given
        """
        return self._events_from_afar(job_id) if listener.run is None else self._events_here(listener.run, listener)

    def _events_here(self, run: Run, listener: Listener) -> Iterator[dict[str, Any]]:
        news = self._desk.news
        try:
            while True:
                with news:
                    if not (listener.lines or run.ended):
                        news.wait(LONGEST_WAIT_S)
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
            with self._desk.news:
                self._desk.news.wait(TICK_S)


def _meets(listener: Listener | None) -> Meet[Run]:
    return listener.meet if listener else nobody_waits


def _wanted_again(job: DownloadJob) -> Wanted:
    copy_to = job.model if job.model != job.tag else None
    return Wanted(job.model, job.tag, job.quantization, copy_to, job.total_bytes, job.total_is_estimate)

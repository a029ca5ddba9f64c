"""Watching downloads: one thread looks at all of them while somebody watches, and tells the hub what has changed.

Downloads of this process wake it; those of others it finds by looking, a few times a second. However many watch, each
change is found once and written down once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from download_worker import DownloadWorker
from event_hub import EventHub
from model_core.errors import ModelManagerError
from model_core.records import DownloadJob

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25  # at the downloads of other processes
FAREWELL_S = 60.0  # so long a download that was taken off the record is told to be gone


class DownloadWatch:
    """Feeds `hub` with {"download": …} under the type "download" as long as somebody watches."""

    def __init__(self, worker: DownloadWorker) -> None:
        self.hub = EventHub()
        self._worker = worker
        self._watchers = 0
        self._lock = threading.Lock()
        self._told: dict[str, DownloadJob] = {}
        self._gone: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self) -> Iterator[EventHub]:
        """Keep the hub up to date for as long as this lasts; it is so from the first moment."""
        with self._lock:
            self._tell()
            self._watchers += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="download-watch", daemon=True)
                self._thread.start()
        try:
            yield self.hub
        finally:
            with self._lock:
                self._watchers -= 1

    def close(self) -> None:
        """Send every watcher home."""
        self.hub.close()

    def _look(self) -> None:
        heard = 0
        while True:
            heard = self._worker.wait_for_news(heard, LOOK_EVERY_S)
            with self._lock:
                if not self._watchers or self.hub.closed:
                    self._thread = None
                    return
                try:
                    self._tell()
                except ModelManagerError as error:  # a document that cannot be read just now: look again
                    logger.warning("downloads not seen reason=%s", error)

    def _tell(self) -> None:
        jobs = {job.id: job for job in self._worker.all()}
        for job in jobs.values():
            told = self._told.get(job.id)
            if told is None or (told.version, told.state) != (job.version, job.state):
                self.hub.publish(job.id, "download", {"download": job.model_dump(mode="json")})
        for gone in set(self._told) - set(jobs):
            self.hub.publish(gone, "download_forgotten", {"download": {"id": gone}})
            self._gone[gone] = time.monotonic()
        for gone in [job_id for job_id, at_s in self._gone.items() if time.monotonic() - at_s > FAREWELL_S]:
            self.hub.forget(gone)
            del self._gone[gone]
        self._told = jobs

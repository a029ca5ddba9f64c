"""Watching jobs: one thread looks at all of them while somebody watches, and tells the hub what has changed.

Jobs of this process wake it; those of others it finds by looking, a few times a second. However many watch, each change
is found once and written down once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bell import Bell
from event_hub import EventHub
from model_core.errors import ModelManagerError
from model_core.records import Job

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25  # at the jobs of other processes
FAREWELL_S = 60.0  # so long a job that was taken off the record is told to be gone


@dataclass(frozen=True)
class Watched:
    """One kind of job to watch.

    noun   what is told of: the type of its events, and the key under which a job stands in them
    all    every job on record
    shown  what is told of a job, as JSON values
    """

    noun: str
    all: Callable[[], Iterable[Job]]
    shown: Callable[[Any], dict[str, Any]]


class JobWatch:
    """Feeds `hub` with {noun: job} under the type of that noun as long as somebody watches.

    news  rung whenever something has changed in a job of this process
    """

    def __init__(self, kinds: Iterable[Watched], news: Bell) -> None:
        self.hub = EventHub()
        self._kinds, self._news = tuple(kinds), news
        self._watchers = 0
        self._lock = threading.Lock()
        self._told: dict[str, dict[str, Job]] = {kind.noun: {} for kind in self._kinds}
        self._gone: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self) -> Iterator[EventHub]:
        """Keep the hub up to date for as long as this lasts; it is so from the first moment."""
        with self._lock:
            self._tell()
            self._watchers += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="job-watch", daemon=True)
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
        rung = 0
        while True:
            rung = self._news.heard(rung, LOOK_EVERY_S)
            with self._lock:
                if not self._watchers or self.hub.closed:
                    self._thread = None
                    return
                try:
                    self._tell()
                except ModelManagerError as error:  # a document that cannot be read just now: look again
                    logger.warning("jobs not seen reason=%s", error)
                except Exception:  # a fault of ours: whoever watches must hear of what comes after it
                    logger.exception("jobs not seen")

    def _tell(self) -> None:
        for kind in self._kinds:
            self._tell_of(kind)
        for gone in [job_id for job_id, at_s in self._gone.items() if time.monotonic() - at_s > FAREWELL_S]:
            self.hub.forget(gone)
            del self._gone[gone]

    def _tell_of(self, kind: Watched) -> None:
        jobs, before = {job.id: job for job in kind.all()}, self._told[kind.noun]
        for job in jobs.values():
            told = before.get(job.id)
            if told is None or (told.version, told.state) != (job.version, job.state):
                self.hub.publish(job.id, kind.noun, {kind.noun: kind.shown(job)})
        for gone in set(before) - set(jobs):
            self.hub.publish(gone, f"{kind.noun}_forgotten", {kind.noun: {"id": gone}})
            self._gone[gone] = time.monotonic()
        self._told[kind.noun] = jobs

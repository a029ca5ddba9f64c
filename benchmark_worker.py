"""Every benchmark: starts the ones that are asked for, one at a time in all processes together.

They stand in a document of their own beside the metadata (benchmark_files.py), with every answer that was measured.
What every kind of job does alike stands in job_worker.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from bell import Bell
from benchmark_files import BenchmarkFiles
from benchmark_run import BenchmarkRun, Instruments
from job_files import LockFile
from job_run import Desk
from job_worker import JobWorker, nobody_waits, released_on_failure
from json_store import JsonStore, StoreHealth
from model_core import benchmarks
from model_core.benchmark_records import Benchmark, Benchmarks, BenchmarksCodec
from model_core.errors import BenchmarkNotFound, ModelManagerError
from model_core.patience import Patience
from model_core.records import RunningModel
from ollama_client import OllamaClient

# Two at a time would measure each other.
AT_ONCE = 1


class BenchmarkWorker(JobWorker[Benchmark, BenchmarkRun]):
    """Starts, owns and shows benchmarks. May be used from many threads, and on both sides of a fork.

    document  the metadata document; the benchmarks stand in a folder beside it
    counted   told how a model lies in memory once it is loaded, and how many seconds that took, None: it was there
    news      rung whenever something has changed in a benchmark of this process
    """

    def __init__(
        self,
        client: OllamaClient,
        document: Path,
        *,
        counted: Callable[[RunningModel, float | None], object],
        now_text: Callable[[], str],
        patience: Patience | None = None,
        news: Bell | None = None,
    ) -> None:
        self.files = BenchmarkFiles(document)
        self._store: JsonStore[Benchmarks] = JsonStore.open(self.files.record, BenchmarksCodec())
        self._instruments = Instruments(client, self.files, counted, patience or Patience())
        desk = Desk(
            kind=benchmarks.KIND,
            files=self.files,
            read=self._store.read,
            change=self._store.change,
            now_text=now_text,
            at_once=AT_ONCE,
            news=news or Bell(),
        )
        super().__init__(desk)

    def _new_run(self, job: Benchmark, lock: LockFile) -> BenchmarkRun:
        return BenchmarkRun(self._desk, self._instruments, job, lock)

    def _unknown(self, job_id: str) -> ModelManagerError:
        return BenchmarkNotFound(job_id)

    def start(self, wanted: Benchmark, photos: Sequence[bytes]) -> Benchmark:
        """Return the benchmark, queued: it and its photos are on disk. Raises StoreError.

        wanted  what is to be measured; its id is given here
        photos  the bytes of those that it names
        """
        with self._beginning:
            self.files.sweep(self._known)
            job_id, lock = self._new_id()
            with released_on_failure(lock):
                at = self._desk.now_text()
                job = benchmarks.fresh(wanted.model_copy(update={"id": job_id, "created_at": at}))
                self.files.keep_photos(job_id, photos)
                try:
                    self._desk.change(lambda jobs: benchmarks.pruned({**jobs, job_id: job}))
                except BaseException:
                    self.files.forget(job_id)
                    raise
                return self._run(job, lock, nobody_waits)

    def kept(self) -> Collection[Benchmark]:
        """Return every benchmark as it is on disk, in the order in which they were asked for. Raises StoreError."""
        return self._store.read().values()

    def health(self) -> StoreHealth:
        """Return how the document of the benchmarks fares. Does not raise."""
        return self._store.health()

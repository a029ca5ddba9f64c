"""One benchmark in the hands of its thread: load, warm up, ask, note what it took, go on with the next.

The order of the steps and what the figures mean stands in model_core; who owns the thread, in job_run.py. Each answer
is on disk before the next is asked for, so that a process that is killed loses the one under way and no other.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from benchmark_files import BenchmarkFiles
from job_files import LockFile
from job_run import TICK_S, Desk, JobRun, Ordered
from model_core import benchmark_results, benchmarks, measurements
from model_core.benchmark_records import Benchmark, BenchmarkModel, BenchmarkState, Load, Result
from model_core.benchmarks import Turn
from model_core.errors import ModelManagerError, OllamaBrokeOff, OllamaBusy, OllamaError, OllamaUnavailable
from model_core.installed import Inventory
from model_core.patience import Patience
from model_core.records import Answer, RunningModel
from ollama_client import GenerateStream, OllamaClient

logger = logging.getLogger(__name__)

T = TypeVar("T")

WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Instruments:
    """What benchmarks work with besides their desk; all of one worker share it.

    counted   told how a model lies in memory once it is loaded, and how many seconds that took, None: it was there
    patience  how often Ollama is waited for where it is away
    """

    client: OllamaClient
    files: BenchmarkFiles
    counted: Callable[[RunningModel, float | None], object]
    patience: Patience


class BenchmarkRun(JobRun[Benchmark]):
    """One benchmark that this process owns, from its turn to its end."""

    def __init__(self, desk: Desk[Benchmark], instruments: Instruments, job: Benchmark, lock: LockFile) -> None:
        super().__init__(desk, job, lock)
        self._client, self._files = instruments.client, instruments.files
        self._counted, self._patience = instruments.counted, instruments.patience
        self._models = {model.name: model for model in job.models}
        self._own_systems: dict[str, str | None] = {}
        self._warm: set[str] = set()

    def _broken(self, error: Exception) -> ModelManagerError:
        return ModelManagerError(
            f"The benchmark broke off by a fault of this program ({type(error).__name__}).",
            "Start another one; the log has the details.",
        )

    def _leave_nothing(self) -> None:
        # Whoever goes on with an interrupted one needs its photos.
        if self.job.state in benchmarks.ENDED:
            super()._leave_nothing()

    def _perform(self) -> None:
        at = self._desk.now_text()
        self._move(BenchmarkState.RUNNING, started_at=self.job.started_at or at, message=None)
        logger.info("benchmark started id=%s models=%s", self.job.id, ",".join(self._models))
        while (turn := self._next_turn()) is not None:
            self._take(turn)
        if failure := benchmarks.failure_of(self.job):
            raise failure
        self._end(BenchmarkState.COMPLETED, self.job.model_copy(update={"phase": "done", "message": None}))

    def _next_turn(self) -> Turn | None:
        self._obey()
        self._leave_out_what_has_changed()
        return benchmarks.next_turn(self.job)

    def _leave_out_what_has_changed(self) -> None:
        listed = self._told(self._client.tags)
        if listed is None:
            return
        there = Inventory(listed)
        held = {model.ollama_name: there.get(model.ollama_name) for model in self.job.models}
        digests = {name: found.digest for name, found in held.items() if found}
        checked = benchmarks.checked_against(self.job, digests, self._desk.now_text())
        if checked is not self.job:
            self._note(checked)

    # --- one turn ----------------------------------------------------------------------------------------------------

    def _take(self, turn: Turn) -> None:
        """Ask one model what it is to be asked before the next has its turn."""
        model = self._models[turn.model]
        if not self._load(model, turn):
            return
        self._show(f"round {turn.round} of {self.job.runs}: {model.name}")
        for prompt, photo in turn.asks:
            self._obey()
            result = self._ask(model, Result(model=model.name, round=turn.round, prompt=prompt, photo=photo))
            self._note(benchmarks.with_result(self.job, result, self._desk.now_text()))
            if self._is_given_up(model.name):
                return

    def _is_given_up(self, name: str) -> bool:
        return any(model.name == name and model.given_up for model in self.job.models)

    def _load(self, model: BenchmarkModel, turn: Turn) -> bool:
        """Bring a model into memory and warm it up, and say whether it is there; if not, the next answer has failed."""
        self._show(f"loading {model.name}")
        before = self._told(lambda: self._running(model))
        try:
            seconds = self._patiently(lambda: self._loaded(model))
        except OllamaError as error:
            self._note_failed_load(model, turn, error)
            return False
        after = self._told(lambda: self._running(model))
        load = benchmark_results.load_of(model.name, turn.round, seconds, before, after)
        self._note(benchmarks.with_load(self.job, load, self._desk.now_text()))
        if after:
            self._counted(after, load.seconds)
        if not load.already_loaded or model.name not in self._warm:
            self._warm_up(model)
        return True

    def _loaded(self, model: BenchmarkModel) -> float:
        began_s = time.perf_counter()
        self._finished(self._client.loading(model.ollama_name, options=benchmarks.options(self.job)))
        return time.perf_counter() - began_s

    def _running(self, model: BenchmarkModel) -> RunningModel | None:
        """Return how Ollama shows the model in memory, None where it does not."""
        return measurements.runner_of(self._client.running(), model.digest)

    def _note_failed_load(self, model: BenchmarkModel, turn: Turn, error: OllamaError) -> None:
        (prompt, photo), at = turn.asks[0], self._desk.now_text()
        load = Load(model=model.name, round=turn.round, error=error.happened)
        result = Result(model=model.name, round=turn.round, prompt=prompt, photo=photo, error=error.happened)
        self._note(benchmarks.with_result(benchmarks.with_load(self.job, load, at), result, at))

    def _warm_up(self, model: BenchmarkModel) -> None:
        """Have the model say a few words that nobody counts: the first ones after a load are slower than all others."""
        self._warm.add(model.name)
        try:
            self._patiently(lambda: self._answered(model, 0, 0 if self.job.photos else None, WARM_UP_TOKENS))
        except (OllamaError, OSError) as error:
            logger.info("benchmark warm-up failed id=%s model=%s reason=%s", self.job.id, model.name, error)

    # --- one answer --------------------------------------------------------------------------------------------------

    def _ask(self, model: BenchmarkModel, ask: Result) -> Result:
        """Return what was measured of one answer, or why there is none."""
        try:
            answer, first_piece_s = self._patiently(
                lambda: self._answered(model, ask.prompt, ask.photo, self.job.answer_tokens)
            )
        except OllamaError as error:
            return ask.model_copy(update={"error": error.happened})
        except OSError as error:
            return ask.model_copy(update={"error": f"The photo could not be read ({error.strerror or error})."})
        return benchmark_results.result_of(ask, answer, first_piece_s, self.job.answer_tokens)

    def _answered(
        self, model: BenchmarkModel, prompt: int, photo: int | None, most_tokens: int
    ) -> tuple[Answer, float | None]:
        """Return an answer, and the seconds to its first piece. Raises OllamaError, OSError for the photo."""
        images = [] if photo is None else [self._files.photo(self.job.id, photo)]
        text, system = benchmarks.sent(
            self.job.prompts[prompt], secrets.token_hex(4), self._own_system(model), with_photo=bool(images)
        )
        stream = self._client.generating(
            model.ollama_name,
            text,
            system=system,
            images=images,
            options={**benchmarks.options(self.job), "num_predict": most_tokens},
            # A model that cannot think refuses to be told not to.
            think=False if model.thinks else None,
            truncate=False,
        )
        answer = self._finished(stream)
        return answer, stream.first_piece_s

    def _own_system(self, model: BenchmarkModel) -> str | None:
        if model.name not in self._own_systems:
            self._own_systems[model.name] = self._client.show(model.ollama_name).system
        return self._own_systems[model.name]

    def _finished(self, stream: GenerateStream) -> Answer:
        """Return the answer once it is whole; hang up where somebody wishes the work to end. Raises OllamaError."""
        with stream:
            while (answer := stream.finished(TICK_S)) is None:
                self._obey()
            return answer

    def _told(self, call: Callable[[], T]) -> T | None:
        """Return what Ollama tells beside what is measured, None where it does not: that is no reason to stop."""
        try:
            return self._patiently(call)
        except OllamaError as error:
            logger.warning("benchmark goes on without an answer id=%s reason=%s", self.job.id, error.happened)
            return None

    def _patiently(self, call: Callable[[], T]) -> T:
        """Return what a call returns; where Ollama is away, or has too much to do, once it is not.

        Raises OllamaError for what is the model's own failure. Where Ollama stays away the work ends interrupted.
        """
        fruitless, has_broken_off = 0, False
        while True:
            try:
                return call()
            except (OllamaUnavailable, OllamaBusy, OllamaBrokeOff) as error:
                # Once it was Ollama that ended; where it happens again, the model breaks it.
                if isinstance(error, OllamaBrokeOff) and has_broken_off:
                    raise
                has_broken_off |= isinstance(error, OllamaBrokeOff)
                fruitless += 1
                pause_s = self._patience.pause_s(heals=True, fruitless=fruitless, mismatches=0, jitter=_jitter())
                if pause_s is None:
                    self.job = self.job.model_copy(update={"message": f"{error.happened} Resume goes on from here."})
                    raise Ordered from error
                self._show(self.job.phase, f"{error.happened} Trying again in {pause_s:.0f} s.")
                self._rest(pause_s)
                self._show(self.job.phase)

    # --- the record --------------------------------------------------------------------------------------------------

    def _show(self, phase: str, message: str | None = None) -> None:
        self._note(benchmarks.in_phase(self.job, phase, self._desk.now_text(), message))

    def _note(self, job: Benchmark) -> None:
        """Write the benchmark down as it now stands, then show it."""
        self._desk.write(job)
        self.job = job
        self._tell()


def _jitter() -> float:
    return random.random()  # noqa: S311 - nobody gains by guessing it

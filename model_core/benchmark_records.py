"""The records of a benchmark: what was asked for, what each load and each answer took, and what they add up to.

They are kept apart from the metadata document, in one of their own:

    {"format": 1, "benchmarks": {id: Benchmark}}        in the order in which they were asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field
from pydantic_core import PydanticSerializationError, from_json, to_json

from model_core.errors import StoreUnreadable
from model_core.judgement import Judgement
from model_core.memory import DEFAULT_CONTEXT_TOKENS
from model_core.records import Job, Record

FORMAT = 1

# Enough for a steady rate, and about what a rating with a reason or a short critique takes.
DEFAULT_ANSWER_TOKENS = 128
DEFAULT_SEED = 42


class BenchmarkState(StrEnum):
    """The states of a benchmark; benchmarks.py draws what leads where."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class BenchmarkModel(Record):
    """One of the models that are measured, as it was when the benchmark was asked for."""

    name: str = Field(description="in the words of callers; what loads and results are told of")
    ollama_name: str = Field(description="as Ollama is asked for it")
    digest: str
    quantization: str | None = None
    size_bytes: int | None = None
    thinks: bool = Field(default=False, description="it can think aloud, and is told not to")
    given_up: str | None = Field(default=None, description="why it is not asked any more")


class Photo(Record):
    """One of the photos that are shown; its bytes are kept only as long as the benchmark is not over."""

    sha256: str
    size_bytes: int
    media_type: str


class Load(Record):
    """One time that a model was to be brought into memory.

    seconds     None where there was nothing to load, or it failed
    gpu_share   from 0 to 1: how much of it lies on the card; None where Ollama does not know
    """

    model: str
    round: int
    already_loaded: bool = False
    seconds: float | None = None
    size_bytes: int | None = None
    size_vram_bytes: int | None = None
    gpu_share: float | None = None
    error: str | None = None


class Result(Record):
    """One answer. A figure is None where the answer failed, or Ollama did not tell it.

    round                from 1 on; prompt and photo are places in the benchmark's lists, from 0 on
    tokens_per_second    of the answer alone; None also where it is too short to have a speed
    first_token_seconds  from the request to the first piece of the answer, without a load
    answer_seconds       from the request to the end of the answer, without a load
    load                 the load that came before it, as a place in the benchmark's list
    load_seconds         where the model had been pushed out of memory and was loaded again
    answer               its beginning, of the first that succeeded with this model, prompt and photo
    """

    model: str
    round: int
    prompt: int
    photo: int | None = None
    tokens_per_second: float | None = None
    first_token_seconds: float | None = None
    answer_seconds: float | None = None
    answer_tokens: int | None = None
    prompt_tokens: int | None = None
    done_reason: str | None = None
    load: int | None = None
    reloaded: bool = False
    load_seconds: float | None = None
    error: str | None = None
    answer: str | None = None


class Figures(Record):
    """What several measurements of the same thing say; p95 lies between two of them where need be."""

    mean: float
    median: float
    p95: float
    min: float
    max: float
    count: int


class ModelSummary(Record):
    """What a benchmark found of one model. Figures are None where nothing was measured."""

    model: str
    runs: int = 0
    failures: int = 0
    given_up: str | None = None
    tokens_per_second: Figures | None = None
    first_token_seconds: Figures | None = None
    answer_seconds: Figures | None = None
    load_seconds: Figures | None = None
    size_bytes: int | None = Field(default=None, description="in memory, after the last load that Ollama told it of")
    size_vram_bytes: int | None = None
    gpu_share: float | None = None
    words: str = ""


class Benchmark(Job):
    """A benchmark: what was asked for, how far it is, and what was found so far."""

    state: BenchmarkState = BenchmarkState.QUEUED
    phase: str = "waiting"
    models: tuple[BenchmarkModel, ...]
    prompts: tuple[str, ...]
    photos: tuple[Photo, ...] = ()
    runs: int = 1
    answer_tokens: int = Field(default=DEFAULT_ANSWER_TOKENS, description="so long an answer may become")
    context_tokens: int = DEFAULT_CONTEXT_TOKENS
    seed: int = DEFAULT_SEED
    warnings: tuple[str, ...] = ()
    done: int = Field(default=0, description="answers that have come or failed")
    total: int = 0
    created_at: str | None = None
    loads: tuple[Load, ...] = ()
    results: tuple[Result, ...] = ()
    summary: tuple[ModelSummary, ...] = ()
    differences: dict[str, Judgement] = Field(
        default_factory=dict, description="by metric, whether one model is ahead of all others by more than chance"
    )
    gpu: str | None = Field(default=None, description="the card of this machine; null where none is known")
    ollama_version: str | None = None
    simulated: bool = Field(default=False, description="measured on the demonstration's Ollama: no figure is real")


Benchmarks = Mapping[str, Benchmark]


class _Document(Record):
    format: int = FORMAT
    benchmarks: dict[str, Benchmark] = Field(default_factory=dict)


class BenchmarksCodec:
    """Reads and writes every benchmark that is kept; the value is {id: Benchmark}."""

    def empty(self) -> Benchmarks:
        """Return what stands there before the first one."""
        return {}

    def decode(self, raw: bytes) -> Benchmarks:
        """Return what the bytes hold. Raises ValueError, StoreUnreadable where a newer program wrote them."""
        data = from_json(raw, allow_inf_nan=False)
        version = data.get("format") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise ValueError("not a document of benchmarks: it has no format")
        if version > FORMAT:
            raise StoreUnreadable(
                f"The benchmarks have format {version}; this program knows formats up to {FORMAT}.",
                "Update this program; they are left as they are.",
                path="",
            )
        return _Document.model_validate(data).benchmarks

    def encode(self, benchmarks: Benchmarks) -> bytes:
        """Return the bytes. Raises ValueError for what JSON or UTF-8 cannot hold."""
        document: dict[str, Any] = {"format": FORMAT, "benchmarks": benchmarks}
        try:
            return to_json(document, indent=1)
        except PydanticSerializationError as error:
            raise ValueError(f"the benchmarks cannot be written as JSON: {error}") from error

    def is_old(self, raw: bytes) -> bool:
        """Say whether the bytes are of an older form: there is none yet."""
        return False

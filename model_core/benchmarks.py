"""A benchmark's states, its limits, the order of its steps, and how far it is. Values in, values out.

    queued ──► running ──► completed, failed
      │ ▲         │
      │ └─ resume ┴─ interrupted ◄── whatever had an owner that died
      ▼                 │
    cancelled ◄─────────┘            (queued, running and interrupted can be cancelled)

It is completed when every answer has come or failed, and failed when not one has come. An interrupted one goes on with
the answers that are missing; what has ended does not go on, since its photos are gone.

The order: in each round the models take turns, another one begins, and each is asked every prompt once (with each
photo, where there are any). So what drifts in the course of an hour, heat above all, strikes all of them alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from model_core import advice, benchmark_results, judgement, names
from model_core.benchmark_prompts import default_prompts
from model_core.benchmark_records import Benchmark, BenchmarkModel, BenchmarkState, Load, Photo, Result
from model_core.errors import BenchmarkFailed, InvalidRequest, ModelManagerError, from_facts
from model_core.jobs import JobKind

_S = BenchmarkState

NEXT: Mapping[BenchmarkState, frozenset[BenchmarkState]] = {
    _S.QUEUED: frozenset({_S.RUNNING, _S.CANCELLED, _S.INTERRUPTED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED, _S.INTERRUPTED}),
    _S.INTERRUPTED: frozenset({_S.QUEUED, _S.CANCELLED}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
OWNED = frozenset({_S.QUEUED, _S.RUNNING})
ENDED = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})
WISHES: Mapping[BenchmarkState, tuple[str, ...]] = {
    _S.QUEUED: ("cancel",),
    _S.RUNNING: ("cancel",),
    _S.INTERRUPTED: ("resume", "cancel"),
    _S.COMPLETED: ("forget",),
    _S.FAILED: ("forget",),
    _S.CANCELLED: ("forget",),
}
GOALS: Mapping[str, BenchmarkState] = {"cancel": _S.CANCELLED}

# --- limits: an evening's work at most, and a document that stays small ----------------------------------------------

MOST_MODELS = 8
MOST_PROMPTS, LONGEST_PROMPT = 20, 8000
MOST_PHOTOS, LARGEST_PHOTO_BYTES = 10, 10 * 2**20
MOST_RUNS = 20
MOST_ANSWERS = 600
ANSWER_TOKENS = (16, 2048)
LONGEST_KEPT_ANSWER = 1000
# Ended ones that are kept: so many, and so much text of theirs together.
ENDED_KEPT, ENDED_KEPT_CHARACTERS = 50, 8 * 10**6

# So often a model may fail at its very start before it is given up.
FAILURES_AT_THE_START = 3


def _left_behind(job: Benchmark, state: BenchmarkState) -> str | None:
    if state is not _S.CANCELLED:
        return None
    return f"Cancelled after {job.done} of {job.total} answers; what was measured until then is kept."


KIND: JobKind[Benchmark, BenchmarkState] = JobKind(
    noun="benchmark",
    next=NEXT,
    owned=OWNED,
    ended=ENDED,
    wishes=WISHES,
    goals=GOALS,
    queued=_S.QUEUED,
    interrupted=_S.INTERRUPTED,
    failed=_S.FAILED,
    orphaned="the program that was measuring has ended; resume goes on with the answers that are missing",
    left_behind=_left_behind,
)


# --- what is asked for -----------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What a benchmark is to measure, checked; the models are looked up elsewhere."""

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    runs: int
    answer_tokens: int
    context_tokens: int
    seed: int


def check(
    models: Any,
    prompts: Any,
    photos: Sequence[bytes],
    runs: Any,
    answer_tokens: Any,
    context_tokens: Any,
    seed: Any,
) -> Asked:
    """Return what is asked for. Raises InvalidRequest naming the field.

    prompts  None: the default ones
    runs     None: as many as it takes to tell a difference from chance, or as there may be
    """
    asked_of = _texts("models", models, MOST_MODELS)
    asked = default_prompts(with_photos=bool(photos)) if prompts is None else _checked_prompts(prompts)
    check_photos(photos)
    of_a_run = len(asked_of) * len(asked) * max(1, len(photos))
    if runs is None:
        runs = max(1, min(_runs_that_tell(len(asked_of)), MOST_ANSWERS // of_a_run))
    _whole("runs", runs, 1, MOST_RUNS)
    _whole("answer_tokens", answer_tokens, *ANSWER_TOKENS)
    _whole("seed", seed, 0, 2**31 - 1)
    advice.check_context(context_tokens)
    if context_tokens <= answer_tokens:
        raise InvalidRequest(
            "context_tokens",
            f"must be more than the {answer_tokens:,} that an answer may have",
            "A prompt needs room, too.",
        )
    answers = of_a_run * runs
    if answers > MOST_ANSWERS:
        raise InvalidRequest(
            "runs",
            f"{len(asked_of)} models, {len(asked)} prompts, {len(photos)} photos and {runs} runs make {answers:,} "
            f"answers, more than {MOST_ANSWERS}",
            "Take fewer of something.",
        )
    return Asked(asked_of, asked, runs, answer_tokens, context_tokens, seed)


def _runs_that_tell(models: int) -> int:
    # Of one model, as many as it takes to compare it with another benchmark of it.
    return judgement.LEAST if models == 1 else judgement.least_of_rounds(models - 1)


def _checked_prompts(prompts: Any) -> tuple[str, ...]:
    asked = _texts("prompts", prompts, MOST_PROMPTS)
    for number, prompt in enumerate(asked):
        if not prompt.strip():
            raise InvalidRequest(f"prompts.{number}", "is empty")
        if len(prompt) > LONGEST_PROMPT:
            raise InvalidRequest(f"prompts.{number}", f"is longer than {LONGEST_PROMPT:,} characters")
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise InvalidRequest(f"prompts.{number}", "holds half a character, which no text can")
    return asked


def _texts(field: str, values: Any, most: int) -> tuple[str, ...]:
    is_list = isinstance(values, Iterable) and not isinstance(values, str | bytes)
    texts = tuple(values) if is_list else ()
    if not is_list or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(field, "must be a list of texts")
    if not 1 <= len(texts) <= most:
        raise InvalidRequest(field, f"must be from 1 to {most}, not {len(texts)}")
    return texts


def _whole(field: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidRequest(field, f"must be a whole number from {least:,} to {most:,}")


def check_photos(photos: Sequence[bytes], field: str = "photos") -> None:
    """Raise InvalidRequest, naming the photo in the words of the field, for what cannot be shown to a model."""
    if len(photos) > MOST_PHOTOS:
        raise InvalidRequest(field, f"must be {MOST_PHOTOS} at most, not {len(photos)}")
    for number, photo in enumerate(photos):
        if len(photo) > LARGEST_PHOTO_BYTES:
            raise InvalidRequest(f"{field}.{number}", f"has more than {LARGEST_PHOTO_BYTES // 2**20} MiB")
        if media_type(photo) is None:
            raise InvalidRequest(f"{field}.{number}", "is no JPEG, PNG or WebP file", "Export it as JPEG.")


def media_type(photo: bytes) -> str | None:
    r"""Return what a photo is by its first bytes, None where it is nothing that a model could be shown.

    >>> media_type(b"\xff\xd8\xff\xe0 and so on"), media_type(b"GIF89a")
    ('image/jpeg', None)
    """
    if photo.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if photo.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "image/webp" if photo[:4] == b"RIFF" and photo[8:12] == b"WEBP" else None


def photo_of(content: bytes) -> Photo:
    """Return what is kept on record of a photo that was checked."""
    kind = media_type(content) or "application/octet-stream"
    return Photo(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), media_type=kind)


def check_distinct(models: Sequence[BenchmarkModel]) -> None:
    """Raise InvalidRequest where two names are one model: nothing could be told apart."""
    by_digest: dict[str, str] = {}
    for model in models:
        if other := by_digest.get(model.digest):
            what = f"{model.name} is named twice" if model.name == other else f"{other} and {model.name} are one model"
            raise InvalidRequest("models", what)
        by_digest[model.digest] = model.name


# --- the order of the steps ------------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """What one model is asked before the next has its turn: prompt and photo, as places in the benchmark's lists."""

    round: int
    model: str
    asks: tuple[tuple[int, int | None], ...]


def plan(models: Sequence[str], prompts: int, photos: int, runs: int) -> list[Turn]:
    """Return the turns in their order.

    >>> [(turn.round, turn.model) for turn in plan(["a", "b"], prompts=1, photos=0, runs=2)]
    [(1, 'a'), (1, 'b'), (2, 'b'), (2, 'a')]
    """
    # The photos change fastest: what Ollama keeps of the photo before is then of no use for the next.
    asks = tuple((prompt, photo) for prompt in range(prompts) for photo in (range(photos) if photos else (None,)))
    return [
        Turn(round, models[(place + round - 1) % len(models)], asks)
        for round in range(1, runs + 1)
        for place in range(len(models))
    ]


def next_turn(job: Benchmark) -> Turn | None:
    """Return what is to be asked next and was not asked yet, None where nothing is missing."""
    asked = {(result.round, result.model, result.prompt, result.photo) for result in job.results}
    given_up = {model.name for model in job.models if model.given_up}
    for turn in _plan_of(job):
        missing = tuple(ask for ask in turn.asks if (turn.round, turn.model, *ask) not in asked)
        if missing and turn.model not in given_up:
            return turn._replace(asks=missing)
    return None


def _plan_of(job: Benchmark) -> list[Turn]:
    return plan([model.name for model in job.models], len(job.prompts), len(job.photos), job.runs)


def sent(prompt: str, mark: str, own_system: str | None, *, with_photo: bool) -> tuple[str, str | None]:
    """Return the prompt and the system text as they are sent, so that Ollama has read no beginning of them before.

    mark        never the same twice
    own_system  what the model itself puts before every prompt

    What Ollama has just read it does not read again, and the time to the first word would be that of the rest. A photo
    stands before the prompt, and the model's own words before both, so the mark goes before these.

    >>> sent("Rate this.", "4f2a", None, with_photo=False)
    ('4f2a: a request.\\nRate this.', None)
    """
    head = f"{mark}: a request."
    system = f"{head}\n{own_system}" if own_system else head if with_photo else None
    return f"{head}\n{prompt}", system


def options(job: Benchmark) -> dict[str, Any]:
    """Return Ollama's options, the same for every load and every answer: other ones would load the model again."""
    return {
        "temperature": 0,
        "seed": job.seed,
        "num_predict": job.answer_tokens,
        "num_ctx": job.context_tokens,
    }


# --- how far it is ---------------------------------------------------------------------------------------------------


def with_load(job: Benchmark, load: Load, at: str) -> Benchmark:
    """Return the benchmark with one load more."""
    return _counted(job, at, loads=(*job.loads, load))


def with_result(job: Benchmark, result: Result, at: str) -> Benchmark:
    """Return the benchmark with one answer more; the model is given up where it has only failed at its start."""
    before = [one for one in job.results if one.model == result.model]
    again = any((one.prompt, one.photo) == (result.prompt, result.photo) and one.answer is not None for one in before)
    loads = [place for place, load in enumerate(job.loads) if load.model == result.model]
    result = result.model_copy(update={"load": loads[-1] if loads else None})
    if result.answer is not None:
        result = result.model_copy(update={"answer": None if again else result.answer[:LONGEST_KEPT_ANSWER]})
    job = job.model_copy(update={"results": (*job.results, result)})
    so_far = [*before, result]
    if len(so_far) == FAILURES_AT_THE_START and all(one.error for one in so_far):
        job = given_up(job, result.model, f"it failed {FAILURES_AT_THE_START} times at its start: {result.error}")
    return _counted(job, at)


def given_up(job: Benchmark, name: str, why: str) -> Benchmark:
    """Return the benchmark with a model that is not asked any more."""
    models = [model.model_copy(update={"given_up": why}) if model.name == name else model for model in job.models]
    return job.model_copy(update={"models": tuple(models)})


def checked_against(job: Benchmark, digests: Mapping[str, str], at: str) -> Benchmark:
    """Return the benchmark without the models that are not what they were when it was asked for; itself if all are.

    digests  of what Ollama holds now, by the names under which it would be asked
    """
    before = job
    for model in job.models:
        now = digests.get(model.ollama_name)
        if now != model.digest and not model.given_up:
            why = "it is not installed any more" if now is None else "another model stands under its name now"
            job = given_up(job, model.name, why)
    return job if job is before else _counted(job, at)


def fresh(job: Benchmark) -> Benchmark:
    """Return a benchmark as it is before its first step: with what there is to do, and a row for each model."""
    return _counted(job, job.created_at or "")


def _counted(job: Benchmark, at: str, **changes: Any) -> Benchmark:
    job = job.model_copy(update=changes)
    given_up_names = {model.name for model in job.models if model.given_up}
    planned = [turn for turn in _plan_of(job) if turn.model not in given_up_names]
    total = sum(len(turn.asks) for turn in planned) + sum(one.model in given_up_names for one in job.results)
    done = len(job.results)
    return job.model_copy(
        update={
            "done": done,
            "total": total,
            # Cut, not rounded: 100 is for the end.
            "percent": (1000 * done // total) / 10 if total else 100.0,
            "summary": benchmark_results.summaries(job),
            "differences": benchmark_results.differences(job),
            "updated_at": at,
            "version": job.version + 1,
        }
    )


def in_phase(job: Benchmark, phase: str, at: str, message: str | None = None) -> Benchmark:
    """Return the benchmark with what is going on now; message: why nothing moves."""
    return job.model_copy(update={"phase": phase, "message": message, "updated_at": at, "version": job.version + 1})


def failure_of(job: Benchmark) -> ModelManagerError | None:
    """Return why a benchmark that is over found nothing at all, None where it found something."""
    if job.error:
        return from_facts(job.error)
    if any(result.error is None for result in job.results):
        return None
    reasons = [model.given_up for model in job.models] + [result.error for result in job.results]
    return BenchmarkFailed(job.id, next((reason for reason in reasons if reason), "nothing was asked"))


# --- what is kept, and what is shown ---------------------------------------------------------------------------------


def pruned(jobs: Mapping[str, Benchmark]) -> dict[str, Benchmark]:
    """Return the benchmarks without the ended ones that are too many, or too much together; the oldest go first."""
    kept = KIND.pruned(jobs, ENDED_KEPT)
    ended = sorted((job.finished_at or "", key) for key, job in kept.items() if job.state in ENDED)
    weight = {key: _characters(kept[key]) for _, key in ended}
    together = sum(weight.values())
    for _, key in ended:
        if together <= ENDED_KEPT_CHARACTERS:
            break
        together -= weight[key]
        del kept[key]
    return kept


def _characters(job: Benchmark) -> int:
    """Return about how long a benchmark is in the document."""
    texts = sum(map(len, job.prompts)) + sum(len(one.answer or one.error or "") for one in job.results)
    return texts + 400 * (len(job.results) + len(job.loads))


def brief(job: Benchmark) -> dict[str, Any]:
    """Return a benchmark as it stands in lists and events: without its prompts, its loads and its single answers."""
    return job.model_dump(mode="json", exclude={"prompts", "loads", "results"})


def in_the_way(jobs: Iterable[Benchmark], going: Sequence[str]) -> Benchmark | None:
    """Return a benchmark under way that needs one of these names of Ollama's, None where none does."""
    return next((job for job in jobs if job.state in OWNED and _needs(job, going)), None)


def _needs(job: Benchmark, going: Sequence[str]) -> bool:
    return any(names.same(model.ollama_name, name) for model in job.models for name in going)

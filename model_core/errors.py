"""Every error that this project raises on purpose. The faces translate them; nothing here knows HTTP or exit codes.

    ModelManagerError
    ├── InvalidRequest              a value of the caller's is not acceptable
    │   ├── InvalidModelName        not a name that Ollama would accept
    │   ├── RegistryNotAllowed      the name carries a host that is not on the list
    │   └── UnknownQuantization     the model has no such quantization
    ├── ModelNotFound               neither in the catalogue, nor custom, nor installed
    │   └── ModelNotPublished       in the catalogue, but nobody ever published it
    ├── NoCurrentModel              nothing is selected
    ├── NoSuitableModel             nothing fits what was asked for
    ├── DownloadNotFound            no download of that id
    ├── BenchmarkNotFound           no benchmark of that id
    ├── ModelNotInstalled           Ollama lacks it
    ├── ModelLacksCapability        it cannot do what is asked of it
    │   └── BenchmarkUnsuitable     in a benchmark
    ├── CannotDeleteCurrent         the model in use is not deleted
    ├── ModelInUse                  a download or a benchmark of it runs
    ├── NameTaken                   Ollama holds another model of the user's under this id
    ├── InsufficientVram            does not fit the card, and the caller insisted that it must
    ├── InsufficientDisk            does not fit the disk
    ├── InvalidTransition           a job cannot do this in the state it is in
    ├── CannotStart                 a setting or the address to listen on cannot be used
    ├── DownloadFailed              a download ended without the model being there
    │   └── PullFailed              Ollama gave up a pull; says whether trying again can heal it
    ├── BenchmarkFailed             a benchmark ended without one good answer
    ├── RegistryUnavailable         a model registry does not answer
    ├── RegistryModelMissing        a model registry has no such model
    ├── OllamaError                 Ollama answered something unexpected
    │   ├── OllamaUnavailable       nobody answers at Ollama's address
    │   ├── OllamaTimeout           Ollama took longer than the call may take
    │   ├── OllamaBusy              Ollama has more to do than it takes on
    │   ├── OllamaBrokeOff          the connection broke in the middle of an answer
    │   ├── OllamaModelMissing      Ollama says that it has no such model
    │   ├── AnswerCutShort          a generation ended before it was done
    │   └── PullEnded               read of a pull that is over or was closed
    └── StoreError                  the metadata document
        ├── StoreBusy               another process holds its lock
        ├── StoreUnwritable         it cannot be written: full, read-only, no permission
        └── StoreUnreadable         it cannot be opened, and must not be set aside

Each has a stable ``code``, says what happened with the values (``happened``) and what to do next (``remedy``), and
carries the same facts as attributes, listed in ``facts``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class ModelManagerError(Exception):
    """Something that the caller asked for did not happen.

    happened  one sentence: what happened, with the values
    remedy    what to do next; may be empty
    facts     the same values by name, JSON-serialisable, also readable as attributes
    """

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, happened: str, remedy: str = "", **facts: Any) -> None:
        super().__init__(happened, remedy)
        self.happened, self.remedy, self.facts = happened, remedy, facts

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not an ordinary attribute. `facts` itself is missing while unpickling.
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __str__(self) -> str:
        return f"{self.happened} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.happened, self.remedy, self.facts)


def as_facts(error: ModelManagerError) -> dict[str, Any]:
    """Return an error as plain values: its code, what happened, what to do next, and its facts."""
    known = {
        "code": error.code,
        "title": error.title,
        "error": error.happened,
        "remedy": error.remedy,
        "detail": str(error),
    }
    return known | error.facts | known


def from_facts(facts: Mapping[str, Any]) -> ModelManagerError:
    """Return the error that as_facts wrote down, as the first kind in the tree above that has its code.

    >>> from_facts(as_facts(NoCurrentModel()))
    NoCurrentModel('No model is selected yet.', 'Switch to an installed one; recommend names a good first choice.')
    """
    rest = {key: value for key, value in facts.items() if key not in ("code", "title", "error", "remedy", "detail")}
    code = facts.get("code")
    kind = _kind_of(code, [ModelManagerError]) if isinstance(code, str) else ModelManagerError
    return _revive(kind, str(facts.get("error", "")), str(facts.get("remedy", "")), rest)


def _kind_of(code: str, kinds: Sequence[type[ModelManagerError]]) -> type[ModelManagerError]:
    found = next((kind for kind in kinds if kind.__dict__.get("code") == code), None)
    below = [child for kind in kinds for child in kind.__subclasses__()]
    return found or (_kind_of(code, below) if below else ModelManagerError)


def _revive(kind: type[ModelManagerError], happened: str, remedy: str, facts: dict[str, Any]) -> ModelManagerError:
    # Not by the kind's own __init__, which takes the values and not the sentences.
    error = kind.__new__(kind, happened, remedy)
    error.happened, error.remedy, error.facts = happened, remedy, dict(facts)
    return error


class InvalidRequest(ModelManagerError, ValueError):
    """A value of the caller's is not acceptable; ``field`` names it, the value itself is not repeated."""

    code, title = "invalid_request", "Invalid request"

    def __init__(self, field: str, problem: str, remedy: str = "", **facts: Any) -> None:
        super().__init__(f"{field}: {problem}.", remedy, field=field, **facts)

    def within(self, place: str) -> ModelManagerError:
        """Return the same of a value that is part of a larger one.

        >>> InvalidRequest("tokens", "must be a whole number").within("3").happened
        '3.tokens: must be a whole number.'
        """
        return self.at(f"{place}.{self.field}")

    def at(self, field: str) -> ModelManagerError:
        """Return the same of a value that was given under another name.

        >>> InvalidModelName("has blanks around it").at("models.1").happened
        'models.1: has blanks around it.'
        """
        problem = self.happened.removeprefix(f"{self.field}: ")
        return _revive(type(self), f"{field}: {problem}", self.remedy, {**self.facts, "field": field})


class InvalidModelName(InvalidRequest):
    """Not a name that Ollama would accept."""

    code, title = "invalid_model_name", "Invalid model name"

    def __init__(self, problem: str) -> None:
        super().__init__("model", problem, "A name looks like llama3.2:3b or hf.co/user/repository:Q4_K_M.")


class RegistryNotAllowed(InvalidRequest):
    """The name carries a host that is not on the list."""

    code, title = "registry_not_allowed", "Registry not allowed"

    def __init__(self, registry: str, allowed: Sequence[str]) -> None:
        super().__init__(
            "model",
            f"models from {registry} are not allowed here",
            f"Allowed are {', '.join(allowed) or 'none'}; MODEL_MANAGER_ALLOWED_REGISTRIES sets the list.",
            registry=registry,
            allowed=list(allowed),
        )


class UnknownQuantization(InvalidRequest):
    """The model has no such quantization; ``available`` are those it has."""

    code, title = "unknown_quantization", "Unknown quantization"

    def __init__(self, model: str, available: Sequence[str]) -> None:
        choice = f"Choose one of {', '.join(available)}." if available else "Leave the quantization out."
        super().__init__("quantization", f"{model} does not have it", choice, model=model, available=list(available))


class ModelNotFound(ModelManagerError):
    """Neither in the catalogue, nor custom, nor installed."""

    code, title = "model_not_found", "Model not found"

    def __init__(self, model: str, alike: Sequence[str] = ()) -> None:
        meant = f"Did you mean {' or '.join(alike)}? " if alike else ""
        super().__init__(
            f"There is no model {model} in the catalogue, and Ollama has none of that name.",
            f"{meant}The list shows every name; a model of Ollama's library can be downloaded by its full name.",
            model=model,
            alike=list(alike),
        )

    def at(self, field: str) -> ModelManagerError:
        """Return the same of a name that stands in a list, with the field that it was given in."""
        return _revive(type(self), f"{field}: {self.happened}", self.remedy, {**self.facts, "field": field})


class ModelNotPublished(ModelNotFound):
    """In the catalogue, but nobody ever published it; ``alternatives`` are the nearest real ones."""

    code, title = "model_not_published", "Model not published"

    def __init__(self, model: str, alternatives: Sequence[str]) -> None:
        nearest = f"The nearest real models are {', '.join(alternatives)}." if alternatives else "Choose another one."
        ModelManagerError.__init__(
            self,
            f"{model} was never published, so it cannot be downloaded.",
            nearest,
            model=model,
            alternatives=list(alternatives),
        )


class NoCurrentModel(ModelManagerError):
    """Nothing is selected yet."""

    code, title = "no_current_model", "No current model"

    def __init__(self) -> None:
        super().__init__(
            "No model is selected yet.", "Switch to an installed one; recommend names a good first choice."
        )


class NoSuitableModel(ModelManagerError):
    """Nothing fits what was asked for.

    smallest_need_bytes  what the smallest candidate needs, None if there is no candidate
    would_fit            what would fit with less context
    """

    code, title = "no_suitable_model", "No suitable model"

    def __init__(
        self,
        happened: str,
        remedy: str,
        *,
        criteria: dict[str, Any],
        smallest_need_bytes: int | None,
        smallest_model: str | None,
        would_fit: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__(
            happened,
            remedy,
            criteria=criteria,
            smallest_need_bytes=smallest_need_bytes,
            smallest_model=smallest_model,
            would_fit=list(would_fit),
        )


class DownloadNotFound(ModelManagerError):
    """No download of that id."""

    code, title = "download_not_found", "Download not found"

    def __init__(self, download: str) -> None:
        super().__init__(
            f"There is no download {download}.", "The list of downloads shows every id.", download=download
        )


class BenchmarkNotFound(ModelManagerError):
    """No benchmark of that id."""

    code, title = "benchmark_not_found", "Benchmark not found"

    def __init__(self, benchmark: str) -> None:
        super().__init__(
            f"There is no benchmark {benchmark}.", "The list of benchmarks shows every id.", benchmark=benchmark
        )


class ModelNotInstalled(ModelManagerError):
    """Ollama lacks it."""

    code, title = "model_not_installed", "Model not installed"

    def __init__(self, model: str, quantization: str | None = None) -> None:
        what = f"{model} ({quantization})" if quantization else model
        super().__init__(
            f"{what} is not installed in Ollama.", "Download it first.", model=model, quantization=quantization
        )


class ModelLacksCapability(ModelManagerError):
    """The model cannot do what is asked of it; ``capabilities`` are what it can do."""

    code, title = "capability_missing", "The model cannot do this"

    def __init__(self, model: str, capability: str, capabilities: Sequence[str]) -> None:
        what = {"completion": "does not answer in words", "vision": "cannot see photos"}
        can = f"can do {', '.join(capabilities)}" if capabilities else "names nothing that it can do"
        super().__init__(
            f"{model} {what.get(capability, f'has no {capability}')}: it {can}.",
            f"Choose a model with {capability}" + (", or leave the photos out." if capability == "vision" else "."),
            model=model,
            capability=capability,
            capabilities=list(capabilities),
        )


class BenchmarkUnsuitable(ModelLacksCapability):
    """The model cannot do what it would be measured at."""

    code, title = "benchmark_unsuitable", "The model cannot be measured at this"


class CannotDeleteCurrent(ModelManagerError):
    """The model in use is not deleted."""

    code, title = "cannot_delete_current", "Cannot delete the current model"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model} is the current model.", "Switch to another model first, then delete it.", model=model
        )


class ModelInUse(ModelManagerError):
    """A job needs it.

    kind  what the job is, "download" or "benchmark"; its id is the fact of that name
    """

    code, title = "model_in_use", "Model in use"

    def __init__(self, model: str, job: str, kind: str = "download") -> None:
        what = {"download": "is being downloaded", "benchmark": "is being measured"}
        super().__init__(
            f"{model} {what[kind]}.",
            f"Wait until {kind} {job} has ended, or cancel it; then delete the model.",
            model=model,
            **{kind: job},
        )


class NameTaken(ModelManagerError):
    """Ollama holds another model of the user's under this id; it is never overwritten."""

    code, title = "name_taken", "Name taken"

    def __init__(self, model: str, digest: str) -> None:
        super().__init__(
            f"Ollama already holds a model of your own under the name {model} (digest {digest[:12]}).",
            f"Keep it under another name (ollama cp {model} my-{model.rpartition('/')[2]}, then ollama rm {model}) "
            "and download again.",
            model=model,
            digest=digest,
        )


class InsufficientVram(ModelManagerError):
    """Does not fit the card, and the caller insisted that it must."""

    code, title = "insufficient_vram", "Not enough graphics memory"

    def __init__(
        self,
        model: str,
        need_bytes: int,
        available_bytes: int,
        context_tokens: int | None = None,
        ways: Sequence[str] = (),
    ) -> None:
        need, available = f"{need_bytes / 2**30:.1f}", f"{available_bytes / 2**30:.1f}"
        if need == available:
            need, available = f"{need_bytes / 2**30:.3f}", f"{available_bytes / 2**30:.3f}"
        context = "" if context_tokens is None else f" with a context of {context_tokens:,} tokens"
        super().__init__(
            f"{model} needs {need} GiB of graphics memory{context}, {available} GiB are available.",
            " ".join((*(ways or ["Choose a smaller model or quantization."]), "Or do not require that it fits.")),
            model=model,
            need_bytes=need_bytes,
            available_bytes=available_bytes,
            context_tokens=context_tokens,
        )


class InsufficientDisk(ModelManagerError):
    """Does not fit the disk."""

    code, title = "insufficient_disk", "Not enough disk space"

    def __init__(self, model: str, need_bytes: int | None, free_bytes: int | None) -> None:
        need = (
            "does not fit Ollama's disk" if need_bytes is None else f"needs {need_bytes / 1e9:.1f} GB on Ollama's disk"
        )
        free = f"{free_bytes / 1e9:.1f} GB are free" if free_bytes is not None else "the disk is full"
        super().__init__(
            f"{model} {need}, {free}.",
            "Free space there (delete a model that is not needed) and download again.",
            model=model,
            need_bytes=need_bytes,
            free_bytes=free_bytes,
        )


_PASSIVE = {
    "pause": "be paused",
    "resume": "be resumed",
    "cancel": "be cancelled",
    "move": "be moved",
    "forget": "be forgotten",
}


class InvalidTransition(ModelManagerError):
    """A job cannot do this in the state it is in; ``allowed`` is what it can do.

    kind  what the job is, "download" or "benchmark"; its id is the fact of that name
    """

    code, title = "invalid_transition", "Not possible in this state"

    def __init__(self, job: str, wish: str, state: str, allowed: Sequence[str], kind: str = "download") -> None:
        can = f"It allows {', '.join(allowed)}." if allowed else f"It has ended; start a new {kind}."
        super().__init__(
            f"{kind.capitalize()} {job} is {state} and cannot {_PASSIVE.get(wish, wish)}.",
            can,
            **{kind: job},
            wish=wish,
            state=state,
            allowed=list(allowed),
        )


class CannotStart(ModelManagerError):
    """A setting or the address to listen on cannot be used; raised before anything is served."""

    code, title = "cannot_start", "Cannot start"


class DownloadFailed(ModelManagerError):
    """A download ended without the model being there; ``reason`` is a word, ``upstream`` Ollama's text, cleaned."""

    code, title = "download_failed", "Download failed"

    def __init__(self, model: str, happened: str, remedy: str, *, reason: str, upstream: str = "") -> None:
        super().__init__(happened, remedy, model=model, reason=reason, upstream=upstream)


class PullFailed(DownloadFailed):
    """Ollama gave up a pull; ``reason`` is a word of pull_errors.PullReason, ``heals_by_retrying`` what it promises."""

    def __init__(
        self, model: str, happened: str, remedy: str, *, reason: str, heals_by_retrying: bool, upstream: str = ""
    ) -> None:
        super().__init__(model, happened, remedy, reason=reason, upstream=upstream)
        self.facts["heals_by_retrying"] = heals_by_retrying


class BenchmarkFailed(ModelManagerError):
    """A benchmark ended without one good answer; ``reason`` is why the first of its models failed."""

    code, title = "benchmark_failed", "Benchmark failed"

    def __init__(self, benchmark: str, reason: str) -> None:
        super().__init__(
            f"Benchmark {benchmark} ended without one good answer: {reason.rstrip('.')}.",
            "Look at what each answer failed of, and at Ollama's log; then start a new one.",
            benchmark=benchmark,
            reason=reason,
        )


class RegistryUnavailable(ModelManagerError):
    """A model registry does not answer, or not with a manifest; what it would have said stays unknown."""

    code, title = "registry_unavailable", "Registry not reachable"

    def __init__(self, registry: str, why: str) -> None:
        super().__init__(
            f"The registry {registry} could not be asked ({why}).",
            "Check the network of this machine, then try again.",
            registry=registry,
        )


class RegistryModelMissing(ModelManagerError):
    """A registry says that it has no such model."""

    code, title = "model_not_found", "Model not found"

    def __init__(self, model: str, registry: str) -> None:
        super().__init__(
            f"The registry {registry} has no model {model}.",
            "Check the name and the tag; ollama.com/library shows what there is.",
            model=model,
            registry=registry,
        )


class OllamaError(ModelManagerError):
    """Ollama answered something unexpected; ``upstream_status`` is its HTTP status, ``upstream`` its text, cleaned."""

    code, title = "ollama_error", "Ollama error"

    def __init__(
        self, happened: str, remedy: str = "", *, upstream_status: int | None = None, upstream: str = ""
    ) -> None:
        super().__init__(happened, remedy, upstream_status=upstream_status, upstream=upstream)


class OllamaUnavailable(OllamaError):
    """Nobody answers at Ollama's address."""

    code, title = "ollama_unavailable", "Ollama not available"

    def __init__(self, address: str, why: str = "") -> None:
        super().__init__(
            f"Ollama does not answer at {address}{f' ({why})' if why else ''}.",
            "Start Ollama (https://ollama.com/download), or set OLLAMA_HOST to where it runs.",
        )
        self.facts["address"] = address


class OllamaTimeout(OllamaError):
    """Ollama took longer than the call may take."""

    code, title = "ollama_timeout", "Ollama took too long"

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"Ollama did not finish {what} within {seconds:g} s.",
            "Try again; if it stays like this, restart Ollama and look at its log.",
        )
        self.facts["seconds"] = seconds


class OllamaModelMissing(OllamaError):
    """Ollama says that it has no such model."""

    code, title = "model_not_installed", "Model not installed"

    def __init__(self, model: str, upstream: str = "") -> None:
        super().__init__(f"Ollama has no model {model}.", "Download it first.", upstream_status=404, upstream=upstream)
        self.facts["model"] = model


class OllamaBusy(OllamaError):
    """Ollama has more to do than it takes on; the request was not even queued."""

    code, title = "ollama_unavailable", "Ollama not available"

    def __init__(self, upstream: str = "") -> None:
        super().__init__(
            "Ollama has more requests waiting than it takes on.",
            "Try again in a moment; OLLAMA_MAX_QUEUE of the Ollama server says how many may wait.",
            upstream_status=503,
            upstream=upstream,
        )


class OllamaBrokeOff(OllamaError):
    """The connection broke in the middle of an answer, as when Ollama is ended or started anew."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The connection to Ollama broke while it was {what}.", "Try again; look whether Ollama still runs."
        )


class AnswerCutShort(OllamaError):
    """A generation ended before it was done: no figures, and the text stops anywhere."""

    def __init__(self, model: str, characters: int) -> None:
        super().__init__(
            f"{model} stopped in the middle of its answer, after {characters} characters.",
            "Try again; if it stays like this, try another model or look at Ollama's log.",
        )
        self.facts |= {"model": model, "characters": characters}


class PullEnded(OllamaError):
    """There is nothing more to read: the pull has succeeded or failed before, or it was closed here."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The pull of {model} is over.", "Begin another one to go on.")


class StoreError(ModelManagerError):
    """The metadata document could not be read or written; ``path`` is where it stands."""

    code, title = "store_unwritable", "Cannot keep the data"

    def __init__(self, happened: str, remedy: str, *, path: str, **facts: Any) -> None:
        super().__init__(happened, remedy, path=path, **facts)


class StoreBusy(StoreError):
    """Another process has held the document's lock for too long."""

    code, title = "store_busy", "The data are locked"


class StoreUnwritable(StoreError):
    """The document cannot be written; what stood in it before still stands."""

    code, title = "store_unwritable", "Cannot keep the data"


class StoreUnreadable(StoreError):
    """The document cannot be opened, and setting it aside would lose it."""

    code, title = "store_unreadable", "Cannot read the data"

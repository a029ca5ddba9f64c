"""The records: what the catalogue says, what is stored, what Ollama holds, what is answered. Values only, all frozen.

The document on disk, which is the seed's form with more keys beside:

    {"current_model": name or null, "previous_model": name or null, "last_updated": ISO time,
     "format": 2, "installation_id": hex, "revision": int,
     "models": {name: {the 13 seed fields,
                       "digest": hex or null, "size_bytes": int or null,     what Ollama held when last asked
                       "copied_digest": hex or null,                         what we last copied to this id
                       "history": {installation: {digest or "": Usage}}}},
     "downloads": {id: DownloadJob}, "custom": {name: CatalogEntry},
     "ollama": {"checked_at": ISO time, "models": [what its list said]},
     "described": {digest: Described}, "measured": {digest: {context in tokens: Measured}}}

Unknown keys are kept wherever they stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, model_validator

from model_core.counts import Counts

MIB, GIB = 2**20, 2**30


class Record(BaseModel):
    """A frozen value that keeps the keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=(), allow_inf_nan=False)

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        """Return the record with other values in some of its fields.

        As model_copy(update=…), in half the time, since it neither looks up each field nor notes that it was set.
        """
        copy = self.__copy__()
        copy.__dict__.update(fields)
        return copy


class ModelPurpose(StrEnum):
    """What a model is for, in the seed's words."""

    SPEED = "speed"
    BALANCED = "balanced"
    QUALITY = "quality"
    SPECIALIZED = "specialized"


# --- the catalogue ---------------------------------------------------------------------------------------------------


class Architecture(Record):
    """The numbers of a transformer that the memory formula needs."""

    parameters: int
    layers: int
    embedding_length: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    feed_forward_length: int
    vocabulary: int
    tied_embeddings: bool = False
    experts: int = 0
    experts_used: int = 0
    active_parameters: int | None = None
    kv_heads_by_layer: tuple[int, ...] = Field(
        default=(), description="where they differ from layer to layer; 0 for a layer that caches nothing"
    )
    embedding_bytes: int | None = Field(default=None, description="of the token embedding, where the file tells it")


class Variant(Record):
    """One quantization of a catalogue entry: the tag of Ollama's library and what it weighs."""

    quantization: str
    tag: str
    size_bytes: int = Field(description="all layers of the tag's manifest")
    approximate: bool = Field(default=False, description="the size is known rounded only")
    weights_bytes: int | None = Field(default=None, description="the GGUF file alone, where it is known apart")
    digest_prefix: str | None = Field(default=None, description="first hex digits of the manifest's digest")
    file_type: str | None = Field(default=None, description="the GGUF's own word for it, such as Q4_K_M")
    aliases: tuple[str, ...] = Field(default=(), description="plain names of the library that are the same manifest")


class CatalogEntry(Record):
    """A model that we know before anybody has it."""

    name: str
    display_name: str
    size: str
    purpose: ModelPurpose
    description: str
    recommended_use: str
    min_vram_gb: float
    quantization_support: tuple[str, ...]
    download_size_mb: int | None
    published: bool = True
    variants: tuple[Variant, ...] = ()
    parameters: int | None = Field(default=None, description="as many digits as are known, then zeros")
    architecture: Architecture | None = None
    context_tokens: int | None = None
    license: str | None = None
    license_url: str | None = None
    languages: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ("completion",)
    alternatives: tuple[str, ...] = Field(default=(), description="for what nobody published: the nearest real ones")
    notes: tuple[str, ...] = ()


# --- what Ollama holds -----------------------------------------------------------------------------------------------


class InstalledModel(Record):
    """One line of Ollama's list: a name, and the digest of what it points to."""

    name: str
    digest: str
    size_bytes: int
    modified_at: str | None = None
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_tokens: int | None = None
    capabilities: tuple[str, ...] | None = Field(default=None, description="None where this Ollama does not tell")
    remote: bool = Field(default=False, description="a cloud model: nothing of it lies here")


class RunningModel(Record):
    """One loaded model; sizes are None where Ollama says 0, which means that it does not know."""

    name: str
    digest: str
    size_bytes: int | None
    size_vram_bytes: int | None
    context_tokens: int | None
    expires_at: str | None

    @property
    def gpu_share(self) -> float | None:
        """How much of it lies on the card, from 0 to 1; None where Ollama does not know."""
        if not self.size_bytes or self.size_vram_bytes is None:
            return None
        return min(1.0, self.size_vram_bytes / self.size_bytes)


class Tensor(Record):
    """One tensor of the weights' file: GGUF's word for how it is stored, and how many values it has."""

    storage: str
    values: int


class ModelDetails(Record):
    """What Ollama tells of one installed model; never a path of its machine, never the list of tensors."""

    name: str
    capabilities: tuple[str, ...] | None = Field(default=None, description="None where this Ollama does not tell")
    model_info: dict[str, Any] = Field(
        default_factory=dict, description="the keys of the weights' file; a list is null unless asked for"
    )
    token_embedding: Tensor | None = Field(default=None, description="None where this Ollama lists no tensors")
    tied_embeddings: bool | None = Field(
        default=None, description="the output uses the token embedding; None where this Ollama lists no tensors"
    )
    projector_info: dict[str, Any] | None = Field(default=None, description="the same of the part that sees")
    weights_digest: str | None = Field(
        default=None, description="of the file of the weights: models made from one another share it, and a runner"
    )
    parent_model: str | None = None
    format: str | None = None
    family: str | None = None
    families: tuple[str, ...] = ()
    parameter_size: str | None = None
    quantization_level: str | None = None
    parameters: str | None = Field(default=None, description="Ollama's own text, one parameter a line")
    template: str | None = None
    system: str | None = None
    license: str | None = None
    modified_at: str | None = None
    remote: bool = Field(default=False, description="a cloud model: nothing of it lies here")


class Answer(Record):
    """What a model answered. Figures are None where Ollama did not tell; what is asked a second time is in its cache,
    so prompt_tokens over prompt_seconds is no speed.
    """

    model: str
    text: str
    thinking: str | None = None
    done_reason: str | None = Field(default=None, description="stop: it had finished; length: it was not let on")
    total_seconds: float | None = None
    load_seconds: float | None = Field(default=None, description="within total_seconds")
    prompt_seconds: float | None = None
    answer_seconds: float | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    tokens_per_second: float | None = Field(default=None, description="of the answer alone")


# --- what is stored --------------------------------------------------------------------------------------------------


# More uses than anybody has; what is beyond is damage, and would not become a float.
MOST_USES = 10**15
LONGEST_INFERENCE_S = 86_400  # a day: anything longer is a clock that jumped, not an inference
MOST_TOKENS = 10**7  # a guess; the longest contexts that models have are a tenth of it
BEST_QUALITY = 5  # AutoDev's scale is 0 to 5

_Count = Annotated[int, Field(ge=0, le=MOST_USES)]
_Duration = Annotated[int, Field(ge=0, le=LONGEST_INFERENCE_S * 10**9)]
_Durations = Annotated[int, Field(ge=0, le=MOST_USES * LONGEST_INFERENCE_S * 10**9)]


# Each is one line of the document. By value: the buckets of histogram.py, or what is counted as it is; by word: sums.
_LINE = PlainSerializer(str, return_type=str)
Histogram = Annotated[Counts[int], PlainValidator(partial(Counts.read, key=int)), _LINE]
Tally = Annotated[Counts[str], PlainValidator(partial(Counts.read, key=str)), _LINE]


class Usage(Record):
    """What is on record of one model, one digest, one installation: merging is adding, exact in any order.

    Each sum has its own count, since a use may come without the figure. Times in nanoseconds:

    timed_count    successes that carried a time; total_ns, min_ns and max_ns are over those
    token_count    tokens of the successes that told both them and a time; token_ns is over those
    quality_count  uses that were rated, with quality_thousandths together
    durations      the times by bucket; those of older documents are in no bucket
    speeds         the successes that told tokens and time, by bucket of millionths of a token a second
    qualities      the ratings by tenths of a point
    by_task        the sums of each task, 50 at most; the rest is under "other"
    by_day         the sums of each of the newest 90 days on which it was used, in UTC

    However many events: less than 128 KiB in the document, and usually less than 20.
    """

    count: _Count = 0
    success_count: _Count = 0
    timed_count: _Count = 0
    total_ns: _Durations = 0
    min_ns: _Duration | None = None
    max_ns: _Duration | None = None
    first_used: str | None = None
    last_used: str | None = None
    token_count: int = Field(default=0, ge=0, le=MOST_USES * MOST_TOKENS)
    token_ns: _Durations = 0
    quality_count: _Count = 0
    quality_thousandths: int = Field(default=0, ge=0, le=MOST_USES * BEST_QUALITY * 1000)
    durations: Histogram = Field(default_factory=Counts)
    speeds: Histogram = Field(default_factory=Counts)
    qualities: Histogram = Field(default_factory=Counts)
    by_task: dict[str, Tally] = Field(default_factory=dict)
    by_day: dict[str, Tally] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_are_within_the_whole(self) -> Self:
        if max(self.success_count, self.timed_count, self.quality_count) > self.count:
            raise ValueError("more successes, times or ratings than uses")
        return self


History = dict[str, dict[str, Usage]]


class StoredModel(Record):
    """One model of the document: the seed's fields, then ours."""

    name: str
    size: str = ""
    purpose: ModelPurpose = ModelPurpose.SPECIALIZED
    description: str = ""
    recommended_use: str = ""
    min_vram_gb: float | None = None
    quantization_support: tuple[str, ...] = ()
    download_size_mb: int | None = None
    installed: bool = False
    last_used: str | None = None
    usage_count: int = 0
    avg_inference_time: float | None = None
    success_rate: float | None = None
    digest: str | None = None
    size_bytes: int | None = None
    copied_digest: str | None = None
    load_context_tokens: int | None = Field(default=None, description="the context it is loaded with; None: as usual")
    history: History = Field(default_factory=dict)


class Job(Record):
    """What every job in the background has. ``version`` grows with every change that is published."""

    id: str
    state: str
    percent: float | None = None
    version: int = 0
    started_at: str | None = None
    updated_at: str | None = None
    finished_at: str | None = None
    error: dict[str, Any] | None = None
    message: str | None = None


class DownloadState(StrEnum):
    """The states of a download; downloads.py draws what leads where."""

    QUEUED = "queued"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class LayerProgress(Record):
    """One blob of a download, as Ollama last spoke of it."""

    digest: str
    total_bytes: int | None = None
    downloaded_bytes: int = 0


class DownloadJob(Job):
    """A download: what was asked for, and how far it is."""

    model: str
    tag: str
    quantization: str | None = None
    state: DownloadState = DownloadState.QUEUED
    phase: str = "waiting"
    total_bytes: int | None = None
    total_is_estimate: bool = False
    downloaded_bytes: int = 0
    bytes_per_second: float | None = None
    eta_seconds: float | None = None
    attempt: int = 1
    layers: tuple[LayerProgress, ...] = ()
    already_installed: bool = False


class Described(Record):
    """What Ollama told of installed weights that no catalogue knows; architecture is None where it told too little.

    capabilities  an Ollama before 0.30 does not tell them in its list
    """

    architecture: Architecture | None = None
    sees: bool = False
    capabilities: tuple[str, ...] | None = None


class Measured(Record):
    """What Ollama counted of weights that were loaded with one context, and how long it took to load them.

    size_vram_bytes is what of size_bytes lay on the card; load_seconds is None where nobody waited for the load.
    """

    size_bytes: int = Field(gt=0)
    size_vram_bytes: int = Field(ge=0)
    at: str
    load_seconds: float | None = Field(default=None, ge=0)


class OllamaSeen(Record):
    """What we last heard of Ollama; what is answered while it is down."""

    checked_at: str | None = None
    version: str | None = None
    models: tuple[InstalledModel, ...] = ()


class Document(Record):
    """The metadata document."""

    current_model: str | None = None
    previous_model: str | None = None
    models: dict[str, StoredModel] = Field(default_factory=dict)
    last_updated: str | None = None
    format: int = 2
    installation_id: str = ""
    revision: int = 0
    downloads: dict[str, DownloadJob] = Field(default_factory=dict)
    custom: dict[str, CatalogEntry] = Field(default_factory=dict)
    ollama: OllamaSeen = OllamaSeen()
    described: dict[str, Described] = Field(default_factory=dict)
    measured: dict[str, dict[int, Measured]] = Field(default_factory=dict)


# --- what is answered ------------------------------------------------------------------------------------------------


class Reason(Record):
    """Why an answer is what it is: one sentence, and the figures in it."""

    code: str
    text: str
    values: dict[str, Any] = Field(default_factory=dict)


class ModelMetadata(Record):
    """A model as every face shows it: the seed's fields, then what is true of it besides."""

    name: str
    size: str
    purpose: ModelPurpose
    description: str
    recommended_use: str
    min_vram_gb: float | None
    quantization_support: tuple[str, ...]
    download_size_mb: int | None
    installed: bool = False
    last_used: str | None = None
    usage_count: int = 0
    avg_inference_time: float | None = None
    success_rate: float | None = None
    display_name: str = ""
    source: Literal["catalog", "custom", "installed"] = "catalog"
    tags: dict[str, str] = Field(default_factory=dict)
    download_bytes: dict[str, int] = Field(default_factory=dict, description="by quantization")
    published: bool = True
    capabilities: tuple[str, ...] = ()
    parameters: int | None = None
    context_tokens: int | None = None
    license: str | None = None
    memory: dict[str, Any] = Field(default_factory=dict)
    digest: str | None = None
    update_available: bool | None = None
    own_model: bool = Field(default=False, description="the user's own model stands under the catalogue's id")
    installed_quantization: str | None = None
    installed_as: tuple[str, ...] = Field(default=(), description="the names that Ollama itself shows for it")
    size_bytes: int | None = None
    alternatives: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelMetadata:
        """Read what to_dict or the seed's own version wrote. Raises pydantic.ValidationError, a ValueError."""
        return cls.model_validate(data)

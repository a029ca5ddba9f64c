"""What may be asked of the REST face: each body and each query is a record; what is no field of it is refused by name.

Numbers are numbers and finite; a flag is true, false, 1, 0, yes or no. Whether a value makes sense, the manager says.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, cast

from flask import request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from api_model_problems import PayloadTooLarge
from model_core.advice import MOST_VRAM_GB
from model_core.benchmark_records import DEFAULT_ANSWER_TOKENS, DEFAULT_SEED
from model_core.benchmarks import check_photos
from model_core.candidates import Source
from model_core.errors import InvalidRequest
from model_core.memory import DEFAULT_CONTEXT_TOKENS
from model_core.records import GIB

LONGEST_WAIT_S = 60.0
MOST_EVENTS = 1000


class Asked(BaseModel):
    """A body or a query."""

    # The longest name that Ollama would accept has 593 characters.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), str_max_length=1024
    )


class Nothing(Asked):
    """No field at all."""


class OneModel(Asked):
    """A model by its name."""

    model: str


class PerhapsModel(Asked):
    """A model by its name, or all of them."""

    model: str | None = None


class ListQuery(Asked):
    """The filters of the list; max_vram in GiB."""

    purpose: str | None = None
    max_vram: float | None = None
    installed_only: bool = False


class Switch(OneModel):
    """Which model is to be the current one."""

    quantization: str | None = None
    require_fit: bool = Field(default=False, strict=True)
    load: bool = Field(default=False, strict=True)


class Download(OneModel):
    """What is to be fetched; wait: answer when it is there."""

    quantization: str | None = None
    wait: bool = Field(default=False, strict=True)
    force: bool = Field(default=False, strict=True)


class Plan(OneModel):
    """What would be fetched."""

    quantization: str | None = None


class Move(Asked):
    """Where among the waiting downloads; 0 is next."""

    position: int = Field(strict=True, ge=0)


class Wish(Asked):
    """What a WebSocket may say: what is to happen to the download of that id."""

    type: Literal["pause", "resume", "cancel"]
    id: str


class Ticket(Asked):
    """What may be shown in place of the token."""

    ticket: str | None = None


class DownloadQuery(Asked):
    """How long, in seconds, to wait for a version past `since`."""

    wait: float = Field(default=0.0, ge=0, le=LONGEST_WAIT_S)
    since: int | None = Field(default=None, ge=0)


class Measure(Asked):
    """What is to be measured; images in base64. How many of each there may be, and how long, the manager says."""

    # Photos and prompts are longer than names are.
    model_config = ConfigDict(str_max_length=None)

    models: list[str]
    prompts: list[str] | None = None
    images: list[str] = []
    runs: int | None = Field(default=None, strict=True)
    answer_tokens: int = Field(default=DEFAULT_ANSWER_TOKENS, strict=True)
    context_tokens: int = Field(default=DEFAULT_CONTEXT_TOKENS, strict=True)
    seed: int = Field(default=DEFAULT_SEED, strict=True)

    def photos(self) -> list[bytes]:
        """Return the images as bytes. Raises InvalidRequest naming the one that is none."""
        photos = [_decoded(image, number) for number, image in enumerate(self.images)]
        check_photos(photos, "images")
        return photos


def _decoded(image: str, number: int) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except ValueError:
        raise InvalidRequest(f"images.{number}", "is not base64", "Send the file's bytes in base64, alone.") from None


class CompareBenchmarks(Asked):
    """Which benchmarks, by their ids."""

    benchmarks: list[str]


class BenchmarkQuery(DownloadQuery):
    """How a benchmark is told: as JSON, or its answers as a table."""

    format: Literal["json", "csv"] = "json"


class Server(Asked):
    """On which card, and how Ollama is set up there."""

    available_vram_gb: float | None = Field(default=None, strict=True)
    kv_type: str = "f16"
    parallel: int = Field(default=1, strict=True)


class Purpose(Server):
    """What a model is wanted for."""

    context_tokens: int = Field(default=DEFAULT_CONTEXT_TOKENS, strict=True)
    priority: str = "balanced"
    needs: list[str] = Field(default=[], max_length=16)
    installed_only: bool | None = Field(default=None, strict=True)

    @property
    def vram_gb(self) -> float | None:
        """How much there is, in GiB."""
        return self.available_vram_gb

    @property
    def on_processor(self) -> bool:
        """Whether it is about a machine without a card."""
        return False


class WhatIf(Purpose):
    """The criteria of an answer, as they are or changed: what would be recommended then.

    available_bytes  the same figure in bytes, as a problem tells it
    source           processor: the figure is of RAM, on a machine without a card; whose else it was makes no difference
    machine          what the figure was made of; only told
    """

    available_bytes: int | None = Field(default=None, strict=True)
    source: Source | None = None
    machine: Any = None

    @property
    def vram_gb(self) -> float | None:
        """How much there is, in GiB. Raises InvalidRequest where it is said twice."""
        if self.available_bytes is None:
            return self.available_vram_gb
        if self.available_vram_gb is not None:
            raise InvalidRequest(
                "criteria.available_bytes", "stands beside available_vram_gb", "Say how much there is in one of them."
            )
        if not 0 <= self.available_bytes <= MOST_VRAM_GB * GIB:
            raise InvalidRequest("criteria.available_bytes", f"must be from 0 to {MOST_VRAM_GB:,} GiB, in bytes")
        return self.available_bytes / GIB

    @property
    def on_processor(self) -> bool:
        """Whether they are of a machine without a card."""
        return self.source == "processor"


class Recommend(Purpose):
    """A wish: its fields side by side, or as the criteria of an earlier answer."""

    criteria: WhatIf | None = None

    @property
    def wish(self) -> Purpose:
        """What is wished, wherever it stands. Raises InvalidRequest where it stands in both places."""
        if self.criteria is None:
            return self
        if self.model_fields_set != {"criteria"}:
            raise InvalidRequest("criteria", "stands beside fields that belong into it", "Put all of them into one.")
        return self.criteria


class Check(OneModel, Server):
    """Which model, in which form, on which card, with which context; None: that which it is used with."""

    quantization: str | None = None
    context_tokens: int | None = Field(default=None, strict=True)


class Load(OneModel):
    """What is brought into memory, for how long after its last use, and with how much context."""

    keep_alive: Any = None  # the manager says what Ollama takes
    context_tokens: int | None = Field(default=None, strict=True)


class Event(OneModel):
    """One inference; inference_time in seconds, tokens of the answer, quality_score 0 to 5."""

    inference_time: float | None = Field(default=None, strict=True)
    success: bool = Field(default=True, strict=True)
    tokens: int | None = Field(default=None, strict=True)
    quality_score: float | None = Field(default=None, strict=True)
    task: str | None = None


class Compare(Asked):
    """Which models, in what."""

    models: list[str]
    metrics: list[str] | None = None


class ImportQuery(Asked):
    """How a document is taken over."""

    mode: Literal["merge", "replace"] = "merge"
    dry_run: bool = False


A = TypeVar("A", bound=Asked)
R = TypeVar("R")

_EVENTS = TypeAdapter(list[Event])


def read_raw() -> bytes:
    """Return the body, without the mark that Windows' own editor puts before it. Raises PayloadTooLarge."""
    raw = request.get_data(cache=False)
    # Of a body whose length was not announced, werkzeug returns what is within the limit, and does not say so.
    if request.content_length is None and len(raw) == request.max_content_length:
        raise PayloadTooLarge(len(raw))
    return raw.removeprefix(codecs.BOM_UTF8)


def read_body(kind: type[A]) -> A:
    """Return the body as a record; a body that is not there is an empty object. Raises InvalidRequest."""
    raw = read_raw()
    return _validated(lambda: kind.model_validate_json(raw or b"{}"))


def read_query(kind: type[A]) -> A:
    """Return the query as a record. Raises InvalidRequest."""
    if not request.environ.get("QUERY_STRING"):
        return cast(A, _without_fields(kind))
    for field, values in request.args.lists():
        if len(values) > 1:
            raise InvalidRequest(_plain(field), "is given more than once")
    return _validated(lambda: kind.model_validate(request.args.to_dict()))


@cache
def _without_fields(kind: type[Asked]) -> Asked:
    return kind()  # every field of a query may be left out


def read_events() -> Event | list[Event]:
    """Return what the body holds: one event, or a list of them. Raises InvalidRequest."""
    raw = read_raw()
    if not raw.lstrip().startswith(b"["):
        return _validated(lambda: Event.model_validate_json(raw or b"{}"))
    events = _validated(lambda: _EVENTS.validate_json(raw))
    if len(events) > MOST_EVENTS:
        raise InvalidRequest("body", f"holds {len(events):,} events, more than {MOST_EVENTS:,}", "Send several bodies.")
    return events


def read_wish(message: str | bytes) -> Wish:
    """Return what came by WebSocket. Raises InvalidRequest."""
    return _validated(lambda: Wish.model_validate_json(message), whole="message")


# What pydantic found, in words for the one who wrote the request.
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of this request",
    "model_type": "must be a JSON object",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "list_type": "must be a list",
}


def _validated(call: Callable[[], R], whole: str = "body") -> R:
    try:
        return call()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or whole
        words = _WORDS.get(first["type"]) or first["msg"][:1].lower() + first["msg"][1:].rstrip(".")
        raise InvalidRequest(_plain(field), words) from None


def _plain(field: str) -> str:
    """A field's name comes from outside: what is no plain word is shown as such, and not at length."""
    return field.encode("ascii", "backslashreplace").decode()[:80]

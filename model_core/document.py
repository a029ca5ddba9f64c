"""The metadata document as bytes: reading it, also as the seed's own version wrote it, and writing it.

A document without "format", or with a lower one than ours, is an old one: it keeps its meaning and is brought to the
present form while it is read. Unknown keys stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json

from model_core import times, usage
from model_core.errors import InvalidRequest, StoreUnreadable
from model_core.installed import Shown
from model_core.records import (
    LONGEST_INFERENCE_S,
    MOST_USES,
    CatalogEntry,
    Document,
    OllamaSeen,
    Record,
    StoredModel,
    Usage,
)

FORMAT = 2

R = TypeVar("R", bound=Record)


class DocumentCodec:
    """Reads and writes Document values.

    catalog       the entries that every document holds
    installation  the id that a document without one gets
    localize      gives a moment without a zone the zone of this machine (old documents wrote local time)
    """

    def __init__(
        self,
        catalog: Mapping[str, CatalogEntry],
        installation: str,
        localize: Callable[[datetime], datetime] | None = None,
    ) -> None:
        self._catalog, self._installation, self._localize = catalog, installation, localize

    def empty(self) -> Document:
        """Return the document of a fresh installation: every catalogue entry, nothing used, nothing selected."""
        return self._completed(Document(format=FORMAT, installation_id=self._installation))

    def decode(self, raw: bytes) -> Document:
        """Return the document that the bytes hold.

        Raises ValueError when they hold none, StoreUnreadable when a newer version of this program wrote them.
        """
        data = _read(raw)
        if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
            raise ValueError("not a metadata document: it has no object of models")
        version = _format(data)
        if version < FORMAT:
            return self._completed(self._upgraded(data))
        if version > FORMAT:
            raise StoreUnreadable(
                f"The metadata document has format {version}; this program knows formats up to {FORMAT}.",
                "Update this program; the document is left as it is.",
                path="",
            )
        return self._completed(Document.model_validate(data))

    def encode(self, document: Document) -> bytes:
        """Return the bytes of a document. Raises ValueError for what JSON or UTF-8 cannot hold."""
        try:
            return document.model_dump_json(indent=2).encode()
        except PydanticSerializationError as error:
            raise ValueError(f"the document cannot be written as JSON: {error}") from error

    def is_old(self, raw: bytes) -> bool:
        """Say whether the bytes are of an older form, whose file is worth keeping when it is first replaced."""
        return _format(_read(raw)) < FORMAT

    def _completed(self, document: Document) -> Document:
        missing = {name: new_model(name, entry) for name, entry in self._catalog.items() if name not in document.models}
        update: dict[str, Any] = {}
        if missing:
            update["models"] = {**document.models, **missing}
        if not document.installation_id:
            update["installation_id"] = self._installation
        return document.model_copy(update=update) if update else document

    def _upgraded(self, old: dict[str, Any]) -> Document:
        installation = old.get("installation_id")
        if not isinstance(installation, str) or not installation:
            installation = self._installation
        models = {
            name: self._upgraded_model(name, model, installation)
            for name, model in old["models"].items()
            if isinstance(model, dict)
        }
        return _believed(
            Document,
            {
                **old,
                "format": FORMAT,
                "installation_id": installation,
                "current_model": old.get("current_model") or None,
                "last_updated": times.normal(old.get("last_updated"), self._localize),
                "models": models,
            },
        )

    def _upgraded_model(self, name: str, old: dict[str, Any], installation: str) -> StoredModel:
        known = new_model(name, self._catalog.get(name)).model_dump()
        said = {
            key: value
            for key, value in old.items()
            if key not in _ASKED_OF_OLLAMA and not (value is None and key in StoredModel.model_fields)
        }
        model = _believed(StoredModel, {**said, "name": name}, known)
        figures = self._figures(old)
        return usage.with_history(model, {installation: {"": figures}} if figures != Usage() else {})

    def _figures(self, old: dict[str, Any]) -> Usage:
        count, rate, mean = (_number(old.get(key)) for key in ("usage_count", "success_rate", "avg_inference_time"))
        return usage.from_seed(
            int(count) if count is not None and count == int(count) and 0 <= count <= MOST_USES else 0,
            min(1.0, max(0.0, rate)) if rate is not None else None,
            mean if mean is not None and 0 <= mean <= LONGEST_INFERENCE_S else None,
            times.normal(old.get("last_used"), self._localize),
        )


# What an old document says of these was true when it was written, if ever.
_ASKED_OF_OLLAMA = {"digest", "size_bytes", "copied_digest"}

# How files begin that editors and PowerShell's ">" write on Windows.
_UTF_8_MARK, _UTF_16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def _read(raw: bytes) -> Any:
    """Return the JSON in the bytes. Python's own json writes NaN and Infinity, which are none: they become null."""
    if raw.startswith(_UTF_16_MARKS):
        raw = raw.decode("utf-16").encode()
    data = from_json(raw.removeprefix(_UTF_8_MARK))
    # That is a walk through the whole document, so only where there may be something to find.
    suspicious = b"NaN" in raw or b"Infinity" in raw or (isinstance(data, dict) and _format(data) < FORMAT)
    return _without_nan(data) if suspicious else data


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _format(data: Mapping[str, Any]) -> int:
    version = data.get("format", 1)
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError("not a metadata document: its format is not a number")
    return version


def _believed(record: type[R], data: Mapping[str, Any], otherwise: Mapping[str, Any] = MappingProxyType({})) -> R:
    """Return the record of what can be believed: where a value has not the type of its field, what is otherwise known.

    An old document was written by another program, or by hand; one bad value must not cost the rest.
    """
    try:
        return record.model_validate({**otherwise, **data})
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors(include_url=False, include_input=False)}
        return record.model_validate({**otherwise, **{key: data[key] for key in data if key not in wrong}})


def _number(value: Any) -> float | None:
    """Return a figure of the seed's, None for what is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def new_model(name: str, entry: CatalogEntry | None = None) -> StoredModel:
    """Return what is stored of a model before anything is known of its use."""
    if entry is None:
        return StoredModel(name=name, description="Not in the catalogue.")
    seed_fields = {
        field: getattr(entry, field) for field in StoredModel.model_fields if field in CatalogEntry.model_fields
    }
    return StoredModel(**seed_fields)


def remember(document: Document, seen: OllamaSeen, shown: Shown, copied: Mapping[str, str] | None = None) -> Document:
    """Return the document with what Ollama said it holds.

    copied  digests that we have just copied, by the catalogue's id that they were copied to

    A model that is gone stays on record if it was ever used, is or was selected, or carries keys of somebody's own;
    else only the catalogue's entries stay.
    """
    others = {model.name: model for model in shown.others}
    selected = {document.current_model, document.previous_model}
    models: dict[str, StoredModel] = {}
    for name, model in document.models.items():
        if name in shown.entries:
            held = shown.entries[name]
            answering = held.answering
            change: dict[str, Any] = {
                "installed": held.installed,
                "digest": held.digest,
                "size_bytes": answering.size_bytes if answering else None,
            }
            if copied and name in copied:
                change["copied_digest"] = copied[name]
        elif name in others:
            change = {"installed": True, "digest": others[name].digest, "size_bytes": others[name].size_bytes}
        elif model.history or model.model_extra or name in selected:
            change = {"installed": False, "digest": None, "size_bytes": None}
        else:
            continue
        same = all(getattr(model, field) == value for field, value in change.items())
        models[name] = model if same else model.model_copy(update=change)
    for name, other in others.items():
        if name not in models:
            fresh = new_model(name)
            models[name] = fresh.model_copy(
                update={
                    "size": (other.parameter_size or "").lower(),
                    "installed": True,
                    "digest": other.digest,
                    "size_bytes": other.size_bytes,
                    "download_size_mb": round(other.size_bytes / 1e6),
                }
            )
    before = document.ollama
    if models == document.models and seen.models == before.models and seen.version == before.version:
        return document
    heard = before.model_copy(update={field: getattr(seen, field) for field in OllamaSeen.model_fields})
    digests = {model.digest for model in seen.models}
    described = {digest: told for digest, told in document.described.items() if digest in digests}
    return document.model_copy(update={"models": models, "ollama": heard, "described": described})


def read_import(raw: bytes, codec: DocumentCodec) -> Document:
    """Return the document that somebody hands in for import.

    Raises ValueError with a sentence on what is wrong, InvalidRequest where a newer version of this program wrote it.
    """
    try:
        return codec.decode(raw)
    except StoreUnreadable as error:
        raise InvalidRequest("document", error.happened.rstrip("."), "Update this program, then import it.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}") from error

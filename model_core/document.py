"""The metadata document as bytes: reading it, also as the seed's own version wrote it, and writing it.

A document without "format", or with a lower one than ours, is an old one: it keeps its meaning and is brought to the
present form while it is read. Unknown keys stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeGuard

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json

from model_core import times, usage
from model_core.errors import StoreUnreadable
from model_core.installed import Shown
from model_core.records import CatalogEntry, Document, ModelPurpose, OllamaSeen, StoredModel, Usage

FORMAT = 2


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
        data = from_json(raw)
        if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
            raise ValueError("not a metadata document: it has no object of models")
        version = data.get("format", 1)
        if not isinstance(version, int) or version < FORMAT:
            data = self._upgraded(data)
        elif version > FORMAT:
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
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise ValueError(f"the document cannot be written as JSON: {error}") from error

    def is_old(self, raw: bytes) -> bool:
        """Say whether the bytes are of an older form, whose file is worth keeping when it is first replaced."""
        data = from_json(raw)
        return isinstance(data, dict) and data.get("format", 1) != FORMAT

    def _completed(self, document: Document) -> Document:
        missing = {name: new_model(name, entry) for name, entry in self._catalog.items() if name not in document.models}
        update: dict[str, Any] = {}
        if missing:
            update["models"] = {**document.models, **missing}
        if not document.installation_id:
            update["installation_id"] = self._installation
        return document.model_copy(update=update) if update else document

    def _upgraded(self, old: dict[str, Any]) -> dict[str, Any]:
        installation = str(old.get("installation_id") or self._installation)
        models = {
            str(name): self._upgraded_model(str(name), model, installation)
            for name, model in old["models"].items()
            if isinstance(model, dict)
        }
        current = old.get("current_model")
        cleaned: dict[str, Any] = _without_nan(old)
        return cleaned | {
            "format": FORMAT,
            "installation_id": installation,
            "current_model": current if isinstance(current, str) and current else None,
            "last_updated": times.normal(old.get("last_updated"), self._localize),
            "models": models,
        }

    def _upgraded_model(self, name: str, old: dict[str, Any], installation: str) -> StoredModel:
        entry = self._catalog.get(name)
        known = new_model(name, entry).model_dump(exclude={"history"})
        kept = {key: value for key, value in _without_nan(old).items() if _keeps(key, value)}
        model = StoredModel.model_validate({**known, **kept, "name": name, "history": {}})
        figures = self._figures(old)
        return usage.with_history(model, {installation: {"": figures}} if figures.count else {})

    def _figures(self, old: dict[str, Any]) -> Usage:
        count, rate, mean = old.get("usage_count"), old.get("success_rate"), old.get("avg_inference_time")
        return usage.from_seed(
            count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0,
            rate if _is_number(rate) and 0 <= rate <= 1 else None,
            mean if _is_number(mean) and 0 <= mean <= usage.LONGEST_INFERENCE_S else None,
            times.normal(old.get("last_used"), self._localize),
        )


def new_model(name: str, entry: CatalogEntry | None = None) -> StoredModel:
    """Return what is stored of a model before anything is known of its use."""
    if entry is None:
        return StoredModel(name=name, size="", description="Installed in Ollama; not in the catalogue.")
    seed_fields = {
        field: getattr(entry, field) for field in StoredModel.model_fields if field in CatalogEntry.model_fields
    }
    return StoredModel(**seed_fields)


def remember(document: Document, seen: OllamaSeen, shown: Shown, copied: Mapping[str, str] | None = None) -> Document:
    """Return the document with what Ollama said it holds.

    copied  digests that we have just copied, by the catalogue's id that they were copied to

    A model that is gone stays on record if it was ever used; else only the catalogue's entries stay.
    """
    others = {model.name: model for model in shown.others}
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
        elif model.history:
            change = {"installed": False}
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
    if models == document.models and seen.models == document.ollama.models and seen.version == document.ollama.version:
        return document
    return document.model_copy(update={"models": models, "ollama": seen})


# What an old document may say of a model, and the types in which we believe it; the figures of use are read apart.
_SEED_TEXTS = {"size", "description", "recommended_use"}
_DERIVED = {
    "usage_count",
    "avg_inference_time",
    "success_rate",
    "last_used",
    "history",
    "digest",
    "size_bytes",
    "copied_digest",
}


def _keeps(key: str, value: Any) -> bool:
    if key in _DERIVED:
        return False
    if key in _SEED_TEXTS:
        return isinstance(value, str)
    if key == "purpose":
        return value in set(ModelPurpose)
    if key == "installed":
        return isinstance(value, bool)
    if key == "min_vram_gb":
        return _is_number(value) and value >= 0
    if key == "download_size_mb":
        return isinstance(value, int) and not isinstance(value, bool)
    if key == "quantization_support":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return True


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _without_nan(value: Any) -> Any:
    """Python's own json writes NaN and Infinity, which are no JSON: they become null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_import(raw: bytes, codec: DocumentCodec) -> Document:
    """Return the document that somebody hands in for import. Raises ValueError with a sentence on what is wrong."""
    try:
        return codec.decode(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}") from error

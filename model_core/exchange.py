"""Taking the document to another machine and back: what an export holds, and what an import changes.

An export is the document with three keys more: `exported_at`, `installation_id` (the document's own) and `checksum`.
Importing the same export twice changes nothing: histories stand under the installation that made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from model_core import usage
from model_core.errors import InvalidRequest
from model_core.records import Document, Record, StoredModel

Mode = Literal["merge", "replace"]

# An export is for another machine: what is going on here, and what this Ollama holds, is not of interest there.
_STAYS_HERE = {"downloads", "ollama", "revision"}


class ImportResult(Record):
    """What an import changed, or would change."""

    mode: Mode
    dry_run: bool
    changed: bool
    added: tuple[str, ...]
    updated: tuple[str, ...]
    removed: tuple[str, ...]
    usage_before: int
    usage_after: int


def export(document: Document, exported_at: str) -> dict[str, Any]:
    """Return the document as plain values, ready to be taken elsewhere."""
    data = document.model_dump(mode="json", exclude=_STAYS_HERE)
    data["exported_at"] = exported_at
    return {**data, "checksum": checksum(data)}


def checksum(data: Mapping[str, Any]) -> str:
    """Return the checksum of an export: SHA-256 of its JSON with sorted keys and no blanks, `checksum` left out."""
    canonical = json.dumps(
        {key: value for key, value in data.items() if key != "checksum"},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    )
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def check(data: Mapping[str, Any]) -> None:
    """Raise InvalidRequest where an export carries a checksum that is not its own. A document without one is taken."""
    stated = data.get("checksum")
    if stated is not None and stated != checksum(data):
        raise InvalidRequest(
            "checksum",
            "does not go with the rest: the document was damaged or edited",
            "Export it again; if you edited it on purpose, remove the checksum.",
        )


def installation_of(data: Mapping[str, Any]) -> str:
    """Return the id under which a document's own figures stand: its own, else one made of its content.

    The seed's version wrote no id. One made of the content makes sure that the same document counts once.
    """
    stated = data.get("installation_id")
    return stated if isinstance(stated, str) and stated else f"document-{checksum(data)[7:23]}"


def merged(mine: Document, theirs: Document, mode: Mode) -> Document:
    """Return the document after an import.

    merge    histories are united, models and custom entries that are not known here are added, nothing is removed
    replace  models, histories, custom entries and the selection are theirs; who we are, what Ollama holds and the
             downloads of this machine stay
    """
    return _replaced(mine, theirs) if mode == "replace" else _united(mine, theirs)


def _united(mine: Document, theirs: Document) -> Document:
    models = dict(mine.models)
    for name, other in theirs.models.items():
        own = models.get(name)
        if own is None:
            models[name] = _elsewhere(other)
            continue
        history = usage.merge(own.history, other.history)
        if history != own.history:
            models[name] = usage.with_history(own, history)
    unknown = {key: value for key, value in (theirs.model_extra or {}).items() if key not in _ENVELOPE}
    return mine.model_copy(
        update={
            "models": models,
            "custom": {**theirs.custom, **mine.custom},
            **{key: value for key, value in unknown.items() if key not in (mine.model_extra or {})},
        }
    )


_ENVELOPE = {"exported_at", "checksum"}


def _replaced(mine: Document, theirs: Document) -> Document:
    models = {name: _here(other, mine.models.get(name)) for name, other in theirs.models.items()}
    # What Ollama holds is not the document's to say: what is installed here stays on the list.
    models |= {
        name: usage.with_history(model, {})
        for name, model in mine.models.items()
        if name not in models and model.installed
    }
    unknown = {key: value for key, value in (theirs.model_extra or {}).items() if key not in _ENVELOPE}
    return mine.model_copy(
        update={
            "models": models,
            "custom": theirs.custom,
            "current_model": theirs.current_model,
            "previous_model": theirs.previous_model,
            **unknown,
        }
    )


def _elsewhere(model: StoredModel) -> StoredModel:
    return model.model_copy(update={"installed": False, "digest": None, "size_bytes": None, "copied_digest": None})


def _here(theirs: StoredModel, mine: StoredModel | None) -> StoredModel:
    if mine is None:
        return _elsewhere(theirs)
    held = {field: getattr(mine, field) for field in ("installed", "digest", "size_bytes", "copied_digest")}
    return theirs.model_copy(update=held)


def compare(before: Document, after: Document, mode: Mode, *, dry_run: bool) -> ImportResult:
    """Return what lies between two documents, in terms of an import."""
    old, new = before.models, after.models
    return ImportResult(
        mode=mode,
        dry_run=dry_run,
        changed=after != before,
        added=tuple(sorted(set(new) - set(old))),
        updated=tuple(sorted(name for name in set(new) & set(old) if new[name] != old[name])),
        removed=tuple(sorted(set(old) - set(new))),
        usage_before=sum(model.usage_count for model in old.values()),
        usage_after=sum(model.usage_count for model in new.values()),
    )

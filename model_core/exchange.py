"""Taking the document to another machine and back: what an export holds, and what an import changes.

An export is the document with three keys more: `exported_at`, `installation_id` (the document's own) and `checksum`.
Importing the same export twice changes nothing: histories stand under the installation that made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import count
from typing import Any, Literal

from model_core import names, usage
from model_core.errors import InvalidModelName, InvalidRequest
from model_core.records import CatalogEntry, Document, History, Record, StoredModel

Mode = Literal["merge", "replace"]

# An export is for another machine: what is going on here, and what this Ollama holds, is not of interest there.
_STAYS_HERE = {"downloads", "ollama", "revision", "described", "measured"}
_OF_THIS_MACHINE = ("installed", "digest", "size_bytes", "copied_digest", "load_context_tokens")
# What an export has besides, and a document has not.
_ENVELOPE = {"exported_at", "checksum"}


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


def export(document: Document, exported_at: str, *, simulated: bool = False) -> dict[str, Any]:
    """Return the document as plain values, ready to be taken elsewhere.

    simulated  its figures are of the demonstration; the export says so, wherever it goes
    """
    data = document.model_dump(mode="json", exclude=_STAYS_HERE)
    data["exported_at"] = exported_at
    if simulated:
        data["ollama"] = {"simulated": True}
    return {**data, "checksum": checksum(data)}


def checksum(data: Mapping[str, Any]) -> str:
    """Return the checksum of an export: SHA-256 of its JSON with sorted keys, no blanks, whole numbers without a point,
    and `checksum` left out. So it survives other programs that read the JSON and write it again.
    """
    canonical = json.dumps(
        _canonical({key: value for key, value in data.items() if key != "checksum"}),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    )
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    # A browser writes 6.0 as 6.
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
    replace  models, histories, custom entries and the selection are theirs; what Ollama holds and the downloads of this
             machine stay

    Raises InvalidRequest for a custom entry with a name that Ollama would not accept.
    """
    theirs = theirs.model_copy(update={"custom": _checked(theirs.custom)})
    return _replaced(mine, theirs) if mode == "replace" else _united(mine, theirs)


def _checked(custom: Mapping[str, CatalogEntry]) -> dict[str, CatalogEntry]:
    """Return the custom entries, each with the name under which it stands. Their names are asked of Ollama one day."""
    for name, entry in custom.items():
        for said in (name, *(variant.tag for variant in entry.variants)):
            try:
                names.parse(said)
            except InvalidModelName as error:
                raise InvalidRequest("document", "a custom model in it has a name that Ollama would refuse") from error
    return {name: entry.model_copy(update={"name": name}) for name, entry in custom.items()}


def _united(mine: Document, theirs: Document) -> Document:
    models = dict(mine.models)
    for name, other in theirs.models.items():
        if own := models.get(name):
            models[name] = _with_theirs(own, other)
        elif other.history or other.model_extra:
            models[name] = _elsewhere(other)
    return mine.model_copy(
        update={"models": models, "custom": {**theirs.custom, **mine.custom}, **_unknown(theirs), **_unknown(mine)}
    )


def _with_theirs(own: StoredModel, other: StoredModel) -> StoredModel:
    history, unknown = usage.merge(own.history, other.history), {**_unknown(other), **_unknown(own)}
    if history == own.history and unknown == _unknown(own):
        return own
    return usage.with_history(own, history).model_copy(update=unknown)


def _unknown(record: Document | StoredModel) -> dict[str, Any]:
    """Return the keys that this program does not know, and that are kept; those that make an export are none."""
    return {key: value for key, value in (record.model_extra or {}).items() if key not in _ENVELOPE}


def _replaced(mine: Document, theirs: Document) -> Document:
    models = {name: _here(other, mine.models.get(name)) for name, other in theirs.models.items()}
    # What Ollama holds is not the document's to say: what is installed here stays on the list.
    models |= {
        name: usage.with_history(model, {})
        for name, model in mine.models.items()
        if name not in models and model.installed
    }
    return mine.model_copy(
        update={
            "models": models,
            "custom": theirs.custom,
            "current_model": theirs.current_model,
            "previous_model": theirs.previous_model,
            "installation_id": _id_after(mine, models),
            **_unknown(theirs),
        }
    )


def is_same_installation(one: str, other: str) -> bool:
    """Say whether two ids are of one installation, which may have gone on to count under a new one."""
    return one.partition(".")[0] == other.partition(".")[0]


def _id_after(mine: Document, models: Mapping[str, StoredModel]) -> str:
    """Return under which id this installation goes on to count.

    Where figures of our own are taken back, under a new one. Another machine may know the old figures, and when they
    come back from there, the same id with a lower count would pass for something that they hold already.
    """
    own = mine.installation_id
    before, after = _recorded_by(own, mine.models), _recorded_by(own, models)
    if usage.merge(after, before) == after:
        return own
    stem, _, number = own.partition(".")
    taken, next_number = _installations(models), int(number) + 1 if number.isdecimal() else 2
    return next(name for number in count(next_number) if (name := f"{stem}.{number}") not in taken)


def _installations(models: Mapping[str, StoredModel]) -> set[str]:
    return {installation for model in models.values() for installation in model.history}


def _recorded_by(installation: str, models: Mapping[str, StoredModel]) -> History:
    return {name: model.history[installation] for name, model in models.items() if installation in model.history}


def _elsewhere(model: StoredModel) -> StoredModel:
    return model.model_copy(update={**dict.fromkeys(_OF_THIS_MACHINE), "installed": False})


def _here(theirs: StoredModel, mine: StoredModel | None) -> StoredModel:
    if mine is None:
        return _elsewhere(theirs)
    held = {field: getattr(mine, field) for field in _OF_THIS_MACHINE}
    return theirs.model_copy(update=held)


def compare(before: Document, after: Document, mode: Mode, *, dry_run: bool) -> ImportResult:
    """Return what lies between two documents, in terms of an import."""
    old, new = _by_name(before), _by_name(after)
    return ImportResult(
        mode=mode,
        dry_run=dry_run,
        changed=after != before,
        added=tuple(sorted(set(new) - set(old))),
        updated=tuple(sorted(name for name in set(new) & set(old) if new[name] != old[name])),
        removed=tuple(sorted(set(old) - set(new))),
        usage_before=sum(model.usage_count for model in before.models.values()),
        usage_after=sum(model.usage_count for model in after.models.values()),
    )


def _by_name(document: Document) -> dict[str, tuple[StoredModel | None, CatalogEntry | None]]:
    """Return what the document holds of each model: its record, and what it says of one of the user's own making."""
    held = {**document.models, **document.custom}
    return {name: (document.models.get(name), document.custom.get(name)) for name in held}

"""What the use cases change in the document: functions from the old value to the new one, handed to the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model_core import usage
from model_core.document import new_model
from model_core.records import CatalogEntry, Document, StoredModel
from model_core.usage import Event

Catalog = Mapping[str, CatalogEntry]


def with_selected(document: Document, name: str) -> Document:
    """Return the document with another current model."""
    if document.current_model == name:
        return document
    return document.model_copy(update={"current_model": name, "previous_model": document.current_model})


def with_context(document: Document, name: str, context_tokens: int, catalog: Catalog) -> Document:
    """Return the document with the context that a model is loaded with from now on."""
    model = _on_record(document, name, catalog)
    if model.load_context_tokens == context_tokens:
        return document
    return _with_models(document, {name: model.model_copy(update={"load_context_tokens": context_tokens})})


def with_events(document: Document, events: Sequence[tuple[str, Event]], catalog: Catalog) -> Document:
    """Return the document with uses that were recorded here, each with the name of its model."""
    models: dict[str, StoredModel] = {}
    for name, event in events:
        model = models.get(name) or _on_record(document, name, catalog)
        models[name] = usage.record(model, document.installation_id, model.digest, event)
    return _with_models(document, models)


def _on_record(document: Document, name: str, catalog: Catalog) -> StoredModel:
    return document.models.get(name) or new_model(name, catalog.get(name) or document.custom.get(name))


def _with_models(document: Document, models: Mapping[str, StoredModel]) -> Document:
    return document.model_copy(update={"models": {**document.models, **models}})

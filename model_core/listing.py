"""The models as every face shows them: catalogue, document and Ollama's list put together, each thing once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from model_core import installed, memory
from model_core.errors import InvalidRequest
from model_core.installed import Holding, Shown
from model_core.profiles import CATALOGUE_ONLY, Profiles
from model_core.records import GIB, CatalogEntry, InstalledModel, ModelMetadata, ModelPurpose, StoredModel

Source = Literal["catalog", "custom", "installed"]

_NO_RECORD = StoredModel(name="")


def all_models(
    entries: Mapping[str, CatalogEntry],
    custom: Iterable[str],
    records: Mapping[str, StoredModel],
    shown: Shown,
    profiles: Profiles = CATALOGUE_ONLY,
) -> list[ModelMetadata]:
    """Return every model that there is something to say of, the smallest first.

    records  what is stored of each, by name
    """
    own = set(custom)
    models = [
        of_entry(
            entry, records.get(name, _NO_RECORD), shown.entries[name], "custom" if name in own else "catalog", profiles
        )
        for name, entry in entries.items()
    ]
    models += [of_installed(model, records.get(model.name, _NO_RECORD), profiles) for model in shown.others]
    return sorted(models, key=_weight)


def of_entry(
    entry: CatalogEntry,
    stored: StoredModel,
    held: Holding,
    source: Source = "catalog",
    profiles: Profiles = CATALOGUE_ONLY,
) -> ModelMetadata:
    """Return a model of the catalogue as it is shown; where a model of the user's own stands under its id, that one."""
    answering = held.answering
    shown = ModelMetadata.model_construct(
        name=entry.name,
        size=entry.size,
        purpose=entry.purpose,
        description=entry.description,
        recommended_use=entry.recommended_use,
        min_vram_gb=entry.min_vram_gb,
        quantization_support=entry.quantization_support,
        download_size_mb=entry.download_size_mb,
        installed=held.installed,
        **_usage(stored),
        display_name=entry.display_name,
        source=source,
        tags={variant.quantization: variant.tag for variant in entry.variants},
        download_bytes={variant.quantization: variant.size_bytes for variant in entry.variants},
        published=entry.published,
        capabilities=entry.capabilities,
        parameters=entry.parameters,
        context_tokens=entry.context_tokens,
        license=entry.license,
        memory=_memory_of_entry(entry, held, profiles),
        digest=held.digest,
        own_model=held.own_model,
        installed_quantization=held.quantization,
        installed_as=tuple(model.name for model in held.names),
        size_bytes=answering.size_bytes if answering else None,
        alternatives=entry.alternatives,
        languages=entry.languages,
        notes=entry.notes,
    )
    alone = installed.alone(entry, held)
    if alone is None:
        return shown
    told = _said_by_ollama(alone, profiles)
    if held.own_model:
        return shown.model_copy(update={**told, "license": None, "languages": ()})
    return shown.model_copy(update={field: told[field] for field in ("memory", "installed_quantization")})


def _said_by_ollama(model: InstalledModel, profiles: Profiles) -> dict[str, Any]:
    """Return what is true of a model that the catalogue has no figures of."""
    need = memory.memory_need(profiles.of_installed(model))
    return {
        "capabilities": model.capabilities or (),
        "parameters": installed.parameter_count(model.parameter_size),
        "context_tokens": model.context_tokens,
        "memory": {"need_bytes": {model.quantization_level or "unknown": need.total}, **_basis(need)},
        "digest": model.digest,
        "installed_quantization": model.quantization_level,
        "size_bytes": model.size_bytes,
    }


def of_installed(model: InstalledModel, stored: StoredModel, profiles: Profiles = CATALOGUE_ONLY) -> ModelMetadata:
    """Return a model that Ollama holds and the catalogue does not know."""
    need = memory.memory_need(profiles.of_installed(model))
    return ModelMetadata.model_construct(
        name=model.name,
        size=(model.parameter_size or stored.size).lower(),
        purpose=stored.purpose,
        description=stored.description or "Installed in Ollama; not in the catalogue.",
        recommended_use=stored.recommended_use,
        # The seed's field, filled with our guess, so that a filter by it has something to go by.
        min_vram_gb=round(need.total / GIB, 1),
        quantization_support=(),
        download_size_mb=round(model.size_bytes / 1e6),
        installed=True,
        **_usage(stored),
        display_name=model.name,
        source="installed",
        installed_as=(model.name,),
        **_said_by_ollama(model, profiles),
    )


def chosen(
    models: Iterable[ModelMetadata],
    purpose: ModelPurpose | None = None,
    max_vram_gb: float | None = None,
    installed_only: bool = False,
) -> list[ModelMetadata]:
    """Return those of a purpose, of at most so much promised memory (0 is a limit like any other), and installed."""
    return [
        model
        for model in models
        if (purpose is None or model.purpose == purpose)
        and (max_vram_gb is None or (model.min_vram_gb is not None and model.min_vram_gb <= max_vram_gb))
        and (not installed_only or model.installed)
    ]


def check_purpose(text: Any) -> ModelPurpose | None:
    """Return the purpose that a word means, None for None. Raises InvalidRequest with the words there are."""
    if text is None:
        return None
    try:
        return ModelPurpose(text)
    except ValueError:
        words = ", ".join(ModelPurpose)
        raise InvalidRequest(
            "purpose", "is none of the known ones", f"Use one of {words}.", allowed=list(ModelPurpose)
        ) from None


def _usage(stored: StoredModel) -> dict[str, Any]:
    return {
        "last_used": stored.last_used,
        "usage_count": stored.usage_count,
        "avg_inference_time": stored.avg_inference_time,
        "success_rate": stored.success_rate,
    }


def _memory_of_entry(entry: CatalogEntry, held: Holding, profiles: Profiles) -> dict[str, Any]:
    needs = {
        v.quantization: memory.memory_need(profiles.of_variant(entry, v, held.by_quantization.get(v.quantization)))
        for v in entry.variants
    }
    if not needs:
        return {"need_bytes": {}}
    return {"need_bytes": {name: need.total for name, need in needs.items()}, **_basis(next(iter(needs.values())))}


def _basis(need: memory.MemoryNeed) -> dict[str, Any]:
    return {"basis": need.basis, "context_tokens": need.context_tokens}


def _weight(model: ModelMetadata) -> tuple[float, str]:
    """What "smallest first" goes by: the memory of its lightest form, else its download."""
    needs = model.memory.get("need_bytes") or {}
    return (min(needs.values()) if needs else (model.download_size_mb or 0) * 1e6, model.name)

"""What the recommender and the check weigh, from catalogue, document and Ollama's list; and what they are asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from model_core import installed, usage
from model_core.budget import Budget
from model_core.candidates import Candidate, Criteria, candidate_of
from model_core.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelNotInstalled,
    ModelNotPublished,
    NameTaken,
    UnknownQuantization,
)
from model_core.exchange import is_same_installation
from model_core.fit import FitCheck
from model_core.installed import Holding, Inventory, Meant, Shown
from model_core.memory import KvType, MemoryProfile, profile_of
from model_core.profiles import CATALOGUE_ONLY, Profiles
from model_core.records import (
    GIB,
    CatalogEntry,
    InstalledModel,
    ModelPurpose,
    StoredModel,
    Usage,
    Variant,
)
from model_core.speed import Speed, measured

# What a download takes when nothing is said, and so what earlier figures without a digest are taken to be about.
DEFAULT_QUANTIZATION = "q4"

_NO_RECORD = StoredModel(name="")

# So often must a model that no catalogue knows have worked here before it is recommended.
SUCCESSES_THAT_PROVE = 5
LARGEST_FOR_SPEED, LARGEST_FOR_BALANCED = 4_500_000_000, 20_000_000_000

# The longest of the catalogues is 10 million (llama4 scout).
MOST_CONTEXT_TOKENS = 16_777_216
# No card has more; a figure beyond is bytes or megabytes by mistake.
MOST_VRAM_GB = 10_000
# Ollama itself knows no limit; more than this at once is no photographer's machine.
MOST_PARALLEL = 64
PRIORITIES = (ModelPurpose.SPEED, ModelPurpose.BALANCED, ModelPurpose.QUALITY)


def gib_as_bytes(value: Any, field: str) -> int:
    """Return GiB as bytes; 0 means none, and is a figure like any other. Raises InvalidRequest naming the field."""
    # NaN compares false with everything, so the test is for what is allowed.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_VRAM_GB:
        raise InvalidRequest(field, f"must be a number from 0 to {MOST_VRAM_GB:,}", "It is counted in GiB.")
    return round(value * GIB)


class Observed(NamedTuple):
    """What was seen of models on this machine besides their uses, by digest.

    gpu_shares    of what is loaded; None where Ollama does not know
    speeds        of what was measured in a benchmark
    installation  whose records are of this machine; None: all are
    """

    gpu_shares: Mapping[str, float | None] = MappingProxyType({})
    speeds: Mapping[str, Speed] = MappingProxyType({})
    installation: str | None = None


NOTHING_OBSERVED = Observed()


@dataclass(frozen=True)
class Fit:
    """Whether a model lies on the card as a whole, and what that was asked for."""

    check: FitCheck
    criteria: Criteria
    speed: Speed | None

    @property
    def source(self) -> str:
        """Who says what is available."""
        return self.criteria.source


def criteria(
    found: Budget,
    priority: str,
    context_tokens: int,
    needs: Iterable[str],
    installed_only: bool | None,
    *,
    kv_type: str = KvType.F16,
    parallel: int = 1,
) -> Criteria:
    """Return a wish, checked. Raises InvalidRequest naming the field."""
    if priority not in PRIORITIES:
        raise InvalidRequest("priority", "is none of the known ones", f"Use one of {', '.join(PRIORITIES)}.")
    check_context(context_tokens)
    is_list = isinstance(needs, Iterable) and not isinstance(needs, str)
    if not is_list or not all(isinstance(need, str) for need in needs):
        raise InvalidRequest("needs", "must be a list of capabilities", "One of them is vision.")
    if not isinstance(installed_only, bool | None):
        raise InvalidRequest("installed_only", "must be true, false, or left out")
    if kv_type not in tuple(KvType):
        raise InvalidRequest("kv_type", "is no type of cache that Ollama has", f"Use one of {', '.join(KvType)}.")
    if isinstance(parallel, bool) or not isinstance(parallel, int) or not 1 <= parallel <= MOST_PARALLEL:
        raise InvalidRequest("parallel", f"must be a whole number from 1 to {MOST_PARALLEL}")
    return Criteria.model_validate(
        {
            "available_bytes": found.available_bytes,
            "source": found.source,
            "machine": found.machine,
            "priority": ModelPurpose(priority),
            "context_tokens": context_tokens,
            "needs": tuple(needs),
            "installed_only": installed_only,
            "kv_type": KvType(kv_type),
            "parallel": parallel,
        }
    )


def check_context(context_tokens: Any) -> int:
    """Return a context that some model could have. Raises InvalidRequest."""
    is_whole = isinstance(context_tokens, int) and not isinstance(context_tokens, bool)
    if not is_whole or not 1 <= context_tokens <= MOST_CONTEXT_TOKENS:
        raise InvalidRequest("context_tokens", f"must be a whole number from 1 to {MOST_CONTEXT_TOKENS:,}")
    return int(context_tokens)


def candidates(
    entries: Mapping[str, CatalogEntry],
    records: Mapping[str, StoredModel],
    shown: Shown,
    profiles: Profiles = CATALOGUE_ONLY,
    observed: Observed = NOTHING_OBSERVED,
) -> list[Candidate]:
    """Return every model in every quantization that could be recommended; records are what is stored, by name."""
    found = []
    for name, entry in entries.items():
        held, stored = shown.entries[name], records.get(name, _NO_RECORD)
        if own := installed.alone(entry, held):
            found.append(_of_installed(own, stored, profiles, observed, entry))
            continue
        for variant in entry.variants:
            there, answers = held.by_quantization.get(variant.quantization), _answers(entry, held, variant)
            # What is asked under the id is what earned its history, also where the tag has moved on since.
            digest = held.digest if there and answers else there.digest if there else variant.digest_prefix
            candidate = candidate_of(
                entry,
                variant,
                installed=there is not None,
                memory=profiles.of_variant(entry, variant, there),
                gpu_share=observed.gpu_shares.get(there.digest) if there else None,
                context_tokens=stored.load_context_tokens,
                **_experience(stored, digest, observed, takes_unknown=answers),
            )
            found.append(_proved(candidate))
    found += [_of_installed(model, records.get(model.name, _NO_RECORD), profiles, observed) for model in shown.others]
    return found


def _answers(entry: CatalogEntry, held: Holding, variant: Variant) -> bool:
    """Is it the form that callers get under the id, or would get?"""
    return variant.quantization == (held.quantization or _default(entry).quantization)


def _experience(stored: StoredModel, digest: str | None, observed: Observed, takes_unknown: bool) -> dict[str, Any]:
    """Return what is on record of these weights, as a candidate has it.

    What was recorded without a digest goes to one form only. Times and speeds are those of this machine.
    """
    here, elsewhere = list[Usage](), list[Usage]()
    for installation, by_digest in stored.history.items():
        is_own = observed.installation is None or is_same_installation(installation, observed.installation)
        parts = here if is_own else elsewhere
        parts += [
            found
            for recorded, found in by_digest.items()
            if (recorded and digest and recorded.startswith(digest)) or (not recorded and takes_unknown)
        ]
    experience: dict[str, Any] = {"benchmark_speed": observed.speeds.get(digest or "")}
    if here or elsewhere:
        sums = usage.total([*here, *elsewhere])
        experience |= {
            "success_count": sums.success_count,
            "failure_count": sums.count - sums.success_count,
            "score": usage.mean_quality(sums),
            "score_count": sums.quality_count,
            "elsewhere": any(part.count for part in elsewhere),
        }
    if here:
        sums = usage.total(here)
        rate, sample = usage.tokens_per_second(sums), sum(part.speeds.total() for part in here)
        experience["mean_seconds"] = usage.mean_s(sums)
        experience["seen_speed"] = measured(rate, "history", sample) if rate else None
    return experience


def _purpose_by_size(parameters: int | None) -> ModelPurpose:
    """Return what a model of this size is good for, as the catalogue sorts its own: 3B, 8B, and what is larger."""
    if parameters is None or parameters <= LARGEST_FOR_SPEED:
        return ModelPurpose.SPEED
    return ModelPurpose.BALANCED if parameters <= LARGEST_FOR_BALANCED else ModelPurpose.QUALITY


def _of_installed(
    model: InstalledModel,
    stored: StoredModel,
    profiles: Profiles,
    observed: Observed,
    entry: CatalogEntry | None = None,
) -> Candidate:
    candidate = Candidate(
        name=entry.name if entry else model.name,
        memory=profiles.of_installed(model),
        purpose=entry.purpose if entry else stored.purpose,
        quantization=model.quantization_level,
        parameters=installed.parameter_count(model.parameter_size),
        capabilities=profiles.capabilities(model),
        installed=True,
        gpu_share=observed.gpu_shares.get(model.digest),
        context_tokens=stored.load_context_tokens,
        **_experience(stored, model.digest, observed, takes_unknown=True),
    )
    return _proved(candidate)


def _proved(candidate: Candidate) -> Candidate:
    """Return a candidate with a purpose of its size, where nobody has said what it is for and it does our work.

    It may write code, or poems; that it does our work, it has shown by doing it.
    """
    is_unknown = candidate.purpose is ModelPurpose.SPECIALIZED and not candidate.sees
    if not is_unknown or candidate.success_count < SUCCESSES_THAT_PROVE:
        return candidate
    return replace(candidate, purpose=_purpose_by_size(candidate.parameters))


def profile(
    meant: Meant,
    quantization: str | None,
    held: Holding,
    inventory: Inventory,
    profiles: Profiles = CATALOGUE_ONLY,
) -> tuple[str | None, MemoryProfile]:
    """Return which form of a model is meant, and what its need follows from.

    Without a quantization it is the form that is installed, else the 4-bit one. Raises UnknownQuantization,
    ModelNotPublished, ModelNotFound.
    """
    entry, asked = meant.entry, quantization or meant.quantization
    own = installed.alone(entry, held) if entry else inventory.get(meant.name)
    if own is not None:
        if asked and asked != own.quantization_level:
            raise UnknownQuantization(meant.name, [own.quantization_level] if own.quantization_level else ())
        return own.quantization_level, profiles.of_installed(own)
    if entry is None:
        raise ModelNotFound(meant.name)
    variant = variant_of(entry, asked or held.quantization)
    there = held.by_quantization.get(variant.quantization)
    return variant.quantization, profiles.of_variant(entry, variant, there)


def profile_before(
    entry: CatalogEntry | None, quantization: str | None, size_bytes: int | None
) -> MemoryProfile | None:
    """Return what the need of a model that is not there yet follows from; None where not even its size is known."""
    if entry is not None and entry.variants:
        return profile_of(entry, variant_of(entry, quantization))
    return None if size_bytes is None else MemoryProfile(file_bytes=size_bytes)


def answering(meant: Meant, held: Holding, quantization: str | None) -> InstalledModel:
    """Return what an entry's id is to point to.

    Raises ModelNotInstalled, ModelNotPublished, NameTaken, UnknownQuantization.
    """
    entry = meant.entry
    if entry is None:
        raise ModelNotFound(meant.name)
    if quantization and held.own_model and held.under_id:
        raise NameTaken(entry.name, held.under_id.digest)
    if quantization:
        variant_of(entry, quantization)
    found = held.by_quantization.get(quantization) if quantization else held.answering
    if found:
        return found
    if not entry.published:
        raise ModelNotPublished(entry.name, entry.alternatives)
    raise ModelNotInstalled(entry.name, quantization)


def variant_of(entry: CatalogEntry, quantization: str | None) -> Variant:
    """Return one form of an entry, 4-bit when nothing is said. Raises UnknownQuantization, ModelNotPublished."""
    if not entry.published:
        raise ModelNotPublished(entry.name, entry.alternatives)
    if quantization is None and entry.variants:
        return _default(entry)
    for variant in entry.variants:
        if variant.quantization == quantization:
            return variant
    raise UnknownQuantization(entry.name, [variant.quantization for variant in entry.variants])


def _default(entry: CatalogEntry) -> Variant:
    return next((v for v in entry.variants if v.quantization == DEFAULT_QUANTIZATION), entry.variants[0])

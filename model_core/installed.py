"""What Ollama holds, in terms of the catalogue: which names belong to which entry, and whose model stands under an id.

An id of the catalogue is not a name of Ollama's library: a download pulls the real tag and copies it, inside Ollama,
to the id. So an entry is there when its id is, when one of its tags is, or when any name shares a digest with them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from model_core import names
from model_core.errors import InvalidModelName
from model_core.records import CatalogEntry, InstalledModel, Variant

_PREFIX = 12  # digests in the catalogue are known by their first 12 hex digits, as Ollama's own lists show them


class Inventory:
    """One answer of Ollama's list, looked up by name and by digest. Cloud models are left out: they are not here."""

    def __init__(self, installed: Iterable[InstalledModel]) -> None:
        self.models = tuple(model for model in installed if not model.remote)
        self._by_key = {key(model.name): model for model in self.models}
        self._by_prefix: dict[str, list[InstalledModel]] = defaultdict(list)
        for model in self.models:
            self._by_prefix[model.digest[:_PREFIX]].append(model)

    def get(self, name: str) -> InstalledModel | None:
        """Return what stands under a name, compared as Ollama compares names."""
        return self._by_key.get(key(name))

    def of_digest(self, digest: str) -> list[InstalledModel]:
        """Return what has this digest; a short one is a prefix of at least 12 digits."""
        return [model for model in self._by_prefix.get(digest[:_PREFIX], ()) if model.digest.startswith(digest)]


@dataclass(frozen=True)
class Holding:
    """What Ollama holds of one catalogue entry.

    names         every name that belongs to it, the id first if it is there
    own_model     what stands under the id is a model of the user's own, not one of the entry's tags
    quantization  which variant callers get under the id (or would, once the id is made); None: cannot be told
    digest        the digest that goes with it
    """

    names: tuple[InstalledModel, ...] = ()
    own_model: bool = False
    under_id: InstalledModel | None = None
    by_quantization: Mapping[str, InstalledModel] = field(default_factory=dict)
    quantization: str | None = None

    @property
    def installed(self) -> bool:
        """Is anything of the entry there?"""
        return bool(self.names)

    @property
    def answering(self) -> InstalledModel | None:
        """What a caller gets under the entry's id: the id itself, or what it will be made of."""
        if self.under_id:
            return self.under_id
        if self.quantization:
            return self.by_quantization[self.quantization]
        return self.names[0] if self.names else None

    def quantization_of(self, digest: str) -> str | None:
        """Return which form has this digest, None if none has."""
        return next((q for q, model in self.by_quantization.items() if model.digest == digest), None)

    @property
    def digest(self) -> str | None:
        """The digest of what a caller gets under the entry's id."""
        return self.answering.digest if self.answering else None


NOTHING = Holding()


def hold(entry: CatalogEntry, inventory: Inventory, copied_digest: str | None = None) -> Holding:
    """Return what of an entry is there.

    copied_digest  the digest recorded when we last copied something to the id; it makes the id ours
    """
    variants = {v.quantization: held for v in entry.variants if (held := _variant(v, inventory))}
    under_id = inventory.get(entry.name)
    own_model, form = False, next((v.quantization for v in entry.variants if v.quantization in variants), None)
    if under_id:
        own_model = not _is_ours(entry, under_id, variants, copied_digest)
        form = None if own_model else _form(entry, under_id, variants)
        if form:
            variants.setdefault(form, under_id)
    digests = {held.digest for held in variants.values()} | _known_digests(entry, inventory)
    if copied_digest:
        digests.add(copied_digest)
    found: dict[tuple[str, ...], InstalledModel] = {}
    if under_id:
        found[key(under_id.name)] = under_id
    for digest in sorted(digests):
        for model in inventory.of_digest(digest):
            found.setdefault(key(model.name), model)
    if not found:
        return NOTHING
    return Holding(tuple(found.values()), own_model, under_id, variants, form)


def _variant(variant: Variant, inventory: Inventory) -> InstalledModel | None:
    # A tag can move: what stands under its name counts, whatever its digest; else whatever has its known digest.
    if held := inventory.get(variant.tag):
        return held
    same = inventory.of_digest(variant.digest_prefix) if variant.digest_prefix else []
    return same[0] if same else None


def _known_digests(entry: CatalogEntry, inventory: Inventory) -> set[str]:
    prefixes = [variant.digest_prefix for variant in entry.variants if variant.digest_prefix]
    return {model.digest for prefix in prefixes for model in inventory.of_digest(prefix)}


def _is_ours(
    entry: CatalogEntry, under_id: InstalledModel, variants: Mapping[str, InstalledModel], copied_digest: str | None
) -> bool:
    """Say whether what stands under the id came from the entry's tags, or was made from a custom entry without any."""
    if not entry.variants:
        return entry.published
    return (
        under_id.digest == copied_digest
        or any(under_id.digest == held.digest for held in variants.values())
        or any(_is_known_as(variant, under_id) for variant in entry.variants)
        # Some ids are themselves names of Ollama's library (gemma3:4b), and what a name there points to can move.
        or any(_has_id_for_alias(entry, variant, under_id, variants) for variant in entry.variants)
    )


def _form(entry: CatalogEntry, under_id: InstalledModel, variants: Mapping[str, InstalledModel]) -> str | None:
    """Return which form of the entry stands under its id; the surest sign first."""
    signs = (
        lambda v: v.quantization in variants and variants[v.quantization].digest == under_id.digest,
        lambda v: _is_known_as(v, under_id),
        lambda v: v.file_type is not None and v.file_type == under_id.quantization_level,
        lambda v: _has_id_for_alias(entry, v, under_id, variants),
    )
    return next((v.quantization for shows in signs for v in entry.variants if shows(v)), None)


def _is_known_as(variant: Variant, model: InstalledModel) -> bool:
    return variant.digest_prefix is not None and model.digest.startswith(variant.digest_prefix)


def _has_id_for_alias(
    entry: CatalogEntry, variant: Variant, under_id: InstalledModel, variants: Mapping[str, InstalledModel]
) -> bool:
    return (
        variant.quantization not in variants
        and any(key(alias) == key(entry.name) for alias in variant.aliases)
        and (not variant.file_type or under_id.quantization_level in (None, variant.file_type))
    )


def alone(entry: CatalogEntry, holding: Holding) -> InstalledModel | None:
    """Return what stands under the id where Ollama alone can tell what it is, None elsewhere.

    That is the user's own model, and what was made for a custom entry that names no tag.
    """
    return holding.under_id if holding.own_model or not entry.variants else None


@dataclass(frozen=True)
class Shown:
    """Everything that is there, each thing once: under the catalogue's id where it has one, else as Ollama names it."""

    entries: Mapping[str, Holding]
    others: tuple[InstalledModel, ...]

    @property
    def names(self) -> list[str]:
        """The name of each installed thing that callers use."""
        return [name for name, held in self.entries.items() if held.installed] + [m.name for m in self.others]


def entries_by_name(entries: Mapping[str, CatalogEntry], shown: Shown) -> dict[tuple[str, ...], str]:
    """Return the id of the entry that each name belongs to, by the name's key: id, tags, and what stands there now."""
    held = {key(model.name): name for name, holding in shown.entries.items() for model in holding.names}
    tags = {key(variant.tag): name for name, entry in entries.items() for variant in entry.variants}
    return held | tags | {key(name): name for name in entries}


def show(entries: Mapping[str, CatalogEntry], inventory: Inventory, copied_digests: Mapping[str, str | None]) -> Shown:
    """Return what is there for every entry, and what belongs to none."""
    held = {name: hold(entry, inventory, copied_digests.get(name)) for name, entry in entries.items()}
    taken = {key(model.name) for holding in held.values() for model in holding.names}
    return Shown(held, tuple(model for model in inventory.models if key(model.name) not in taken))


@dataclass(frozen=True)
class Meant:
    """What a caller's name means: an entry, with the quantization if it was one of its tags; or a name of Ollama's."""

    name: str
    entry: CatalogEntry | None = None
    quantization: str | None = None


def resolve(text: str, entries: Mapping[str, CatalogEntry]) -> Meant:
    """Return what a name means, whatever its case, and whether it is an entry's id or one of an entry's own tags.

    Raises InvalidModelName, and InvalidRequest for what is no text.
    """
    text = names.as_text(text)
    if text in entries:
        return Meant(text, entries[text])
    wanted = names.parse(text.strip()).key
    for name, entry in entries.items():
        if key(name) == wanted:
            return Meant(name, entry)
    for name, entry in entries.items():
        for variant in entry.variants:
            if key(variant.tag) == wanted:
                return Meant(name, entry, variant.quantization)
    return Meant(names.parse(text.strip()).display)


def own_names(entry: CatalogEntry, holding: Holding, quantization: str | None = None) -> list[str]:
    """Return the names that go when the entry is deleted: its id and its tags, never another's that shares weights.

    quantization  only this form of it: its tag, and the id where it points there

    The user's own model under the id is what the user sees there, so it is what goes; the entry's tags stay then.
    """
    if holding.own_model and holding.under_id and quantization is None:
        return [holding.under_id.name]
    variants = [v for v in entry.variants if quantization in (None, v.quantization)]
    own = {key(name) for variant in variants for name in (variant.tag, *variant.aliases)}
    if quantization in (None, holding.quantization):
        own.add(key(entry.name))
    else:
        own.discard(key(entry.name))
    return [model.name for model in holding.names if key(model.name) in own]


def freed_bytes(gone: Iterable[str], before: Inventory, after: Inventory) -> int | None:
    """Return what a deletion gave back to the disk, None where it cannot be known.

    Copies share everything with what they were copied from. A model made from another shares its weights, which
    Ollama's list does not tell: where one of the same family and size stays, nothing can be said.
    """
    freed = 0
    for model in {found.digest: found for name in gone if (found := before.get(name))}.values():
        if after.of_digest(model.digest):
            continue
        if any(_may_share(model, other) for other in after.models):
            return None
        freed += model.size_bytes
    return freed


def _may_share(one: InstalledModel, other: InstalledModel) -> bool:
    traits = (one.family, one.parameter_size, one.quantization_level)
    return traits == (other.family, other.parameter_size, other.quantization_level)


_PARAMETERS = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([KMBT]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parameter_count(text: str | None) -> int | None:
    """Return how many parameters Ollama's word for it means, None where it is none.

    >>> [parameter_count(word) for word in ("3.2B", "140.35K", "8x7B", "big", None)]
    [3200000000, 140350, 56000000000, None, None]
    """
    found = _PARAMETERS.fullmatch((text or "").strip())
    if not found:
        return None
    experts, number, unit = int(found[1] or 1), float(found[2]), _UNITS[found[3].upper()]
    return round(experts * number * unit)


def key(name: str) -> tuple[str, ...]:
    """Return what two names must share to be one for Ollama; a text that is no name equals only itself."""
    try:
        return names.parse(name).key
    except InvalidModelName:
        return (name,)

"""What Ollama holds, in terms of the catalogue: which names belong to which entry, and whose model stands under an id.

An id of the catalogue is not a name of Ollama's library: a download pulls the real tag and copies it, inside Ollama,
to the id. So an entry is there when its id is, when one of its tags is, or when any name shares a digest with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from model_core import names
from model_core.errors import InvalidModelName
from model_core.records import CatalogEntry, InstalledModel, Variant

_PREFIX = 12  # digests in the catalogue are known by their first 12 hex digits, as Ollama's own lists show them


class Inventory:
    """One answer of Ollama's list, looked up by name and by digest. Cloud models are left out: they are not here."""

    def __init__(self, installed: Iterable[InstalledModel]) -> None:
        self.models = tuple(model for model in installed if not model.remote)
        self._by_key = {_key(model.name): model for model in self.models}
        self._by_prefix: dict[str, list[InstalledModel]] = defaultdict(list)
        for model in self.models:
            self._by_prefix[model.digest[:_PREFIX]].append(model)

    def get(self, name: str) -> InstalledModel | None:
        """Return what stands under a name, compared as Ollama compares names."""
        return self._by_key.get(_key(name))

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
    by_quantization: Mapping[str, InstalledModel] | None = None
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
        variants = self.by_quantization or {}
        return variants[self.quantization] if self.quantization else (self.names[0] if self.names else None)

    def quantization_of(self, digest: str) -> str | None:
        """Return which form has this digest, None if none has."""
        return next((q for q, model in (self.by_quantization or {}).items() if model.digest == digest), None)

    @property
    def digest(self) -> str | None:
        """The digest of what a caller gets under the entry's id."""
        return self.answering.digest if self.answering else None


NOTHING = Holding()


def hold(entry: CatalogEntry, inventory: Inventory, copied_digest: str | None = None) -> Holding:
    """Return what of an entry is there.

    copied_digest  the digest recorded when we last copied something to the id; it makes the id ours
    """
    variants = {v.quantization: held for v in entry.variants if (held := _variant(entry, v, inventory))}
    digests = {held.digest for held in variants.values()} | ({copied_digest} if copied_digest else set())
    under_id = inventory.get(entry.name)
    own_model = under_id is not None and bool(entry.variants or not entry.published) and under_id.digest not in digests
    found: dict[tuple[str, ...], InstalledModel] = {}
    if under_id:
        found[_key(under_id.name)] = under_id
    for digest in sorted(digests):
        for model in inventory.of_digest(digest):
            found.setdefault(_key(model.name), model)
    if not found:
        return NOTHING
    return Holding(
        names=tuple(found.values()),
        own_model=own_model,
        under_id=under_id,
        by_quantization=variants,
        quantization=None if own_model else _answering_quantization(entry, under_id, variants),
    )


def _variant(entry: CatalogEntry, variant: Variant, inventory: Inventory) -> InstalledModel | None:
    # A tag can move: what stands under its name counts, whatever its digest; else whatever has its known digest.
    if held := inventory.get(variant.tag):
        return held
    # Some ids are themselves names of Ollama's library (gemma3:4b); there the id is as good as the tag.
    if any(_key(alias) == _key(entry.name) for alias in variant.aliases) and (held := inventory.get(entry.name)):
        return held
    same = inventory.of_digest(variant.digest_prefix) if variant.digest_prefix else []
    return same[0] if same else None


def _answering_quantization(
    entry: CatalogEntry, under_id: InstalledModel | None, variants: Mapping[str, InstalledModel]
) -> str | None:
    if under_id is None:
        return next((v.quantization for v in entry.variants if v.quantization in variants), None)
    return next((quantization for quantization, model in variants.items() if model.digest == under_id.digest), None)


@dataclass(frozen=True)
class Shown:
    """Everything that is there, each thing once: under the catalogue's id where it has one, else as Ollama names it."""

    entries: Mapping[str, Holding]
    others: tuple[InstalledModel, ...]

    @property
    def names(self) -> list[str]:
        """The name of each installed thing that callers use."""
        return [name for name, held in self.entries.items() if held.installed] + [m.name for m in self.others]


def show(entries: Mapping[str, CatalogEntry], inventory: Inventory, copied_digests: Mapping[str, str | None]) -> Shown:
    """Return what is there for every entry, and what belongs to none."""
    held = {name: hold(entry, inventory, copied_digests.get(name)) for name, entry in entries.items()}
    taken = {_key(model.name) for holding in held.values() for model in holding.names}
    return Shown(held, tuple(model for model in inventory.models if _key(model.name) not in taken))


@dataclass(frozen=True)
class Meant:
    """What a caller's name means: an entry, with the quantization if it was one of its tags; or a name of Ollama's."""

    name: str
    entry: CatalogEntry | None = None
    quantization: str | None = None


def resolve(text: str, entries: Mapping[str, CatalogEntry]) -> Meant:
    """Return what a name means, whatever its case, and whether it is an entry's id or one of an entry's own tags.

    Raises InvalidModelName.
    """
    if text in entries:
        return Meant(text, entries[text])
    wanted = names.parse(text.strip()).key
    for name, entry in entries.items():
        if _key(name) == wanted:
            return Meant(name, entry)
    for name, entry in entries.items():
        for variant in entry.variants:
            if _key(variant.tag) == wanted:
                return Meant(name, entry, variant.quantization)
    return Meant(names.parse(text.strip()).display)


def own_names(entry: CatalogEntry, holding: Holding, quantization: str | None = None) -> list[str]:
    """Return the names that go when the entry is deleted: its id and its tags, never another's that shares weights.

    quantization  only this form of it: its tag, and the id where it points there

    The user's own model under the id is what the user sees there, so it is what goes; the entry's tags stay then.
    """
    if holding.own_model and holding.under_id:
        return [holding.under_id.name]
    variants = [v for v in entry.variants if quantization in (None, v.quantization)]
    own = {_key(name) for variant in variants for name in (variant.tag, *variant.aliases)}
    if quantization in (None, holding.quantization):
        own.add(_key(entry.name))
    return [model.name for model in holding.names if _key(model.name) in own]


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


def _key(name: str) -> tuple[str, ...]:
    try:
        return names.parse(name).key
    except InvalidModelName:
        return (name,)

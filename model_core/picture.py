"""Catalogue, document and one answer of Ollama's put together: what every question about models is answered from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from model_core import advice, installed, listing, loading, names, ranking, usage
from model_core.advice import Fit, Observed
from model_core.candidates import ANSWERING, SEEING, Candidate, Criteria
from model_core.document import new_model
from model_core.errors import (
    CannotDeleteCurrent,
    InvalidModelName,
    ModelNotFound,
    ModelNotInstalled,
    ModelNotPublished,
)
from model_core.fit import Verdict, check_fit, largest_context
from model_core.installed import NOTHING, Holding, Inventory, Meant, Shown
from model_core.loading import Running
from model_core.memory import DEFAULT_CONTEXT_TOKENS, OVERHEAD_BYTES, MemoryProfile, memory_need
from model_core.profiles import Profiles
from model_core.records import (
    CatalogEntry,
    Document,
    InstalledModel,
    ModelMetadata,
    RunningModel,
    StoredModel,
    Usage,
)
from model_core.speed import Speed, estimate
from model_core.usage import Statistics

# Of what has gone: neither what Ollama held, nor how its figures are kept.
_SHOWN_OF_A_RECORD = (StoredModel.model_fields.keys() & ModelMetadata.model_fields) - {
    "installed",
    "digest",
    "size_bytes",
}


class Picture:
    """A value: it never changes, and what has been worked out of it once is kept.

    catalog    the entries that come with the program; the document adds custom ones
    inventory  what Ollama held when last asked
    copied     digests that were just copied, by id, and that the document does not know yet
    running    what is loaded, and
    benchmarked  how fast models were in a benchmark, by digest, where that matters
    """

    def __init__(
        self,
        catalog: Mapping[str, CatalogEntry],
        document: Document,
        inventory: Inventory,
        copied: Mapping[str, str] | None = None,
        running: Sequence[RunningModel] = (),
        benchmarked: Mapping[str, Speed] | None = None,
    ) -> None:
        self.document, self.inventory = document, inventory
        # A document that somebody edits or hands in must not change what the program's own ids mean.
        self._custom = {
            name: entry.model_copy(update={"name": name})
            for name, entry in document.custom.items()
            if not any(names.same(name, own) for own in catalog)
        }
        self.entries = {**catalog, **self._custom}
        self._copied, self._running, self._benchmarked = copied or {}, running, benchmarked or {}

    @cached_property
    def shown(self) -> Shown:
        """What is there, each thing once."""
        digests = {name: model.copied_digest for name, model in self.document.models.items()}
        return installed.show(self.entries, self.inventory, {**digests, **self._copied})

    @cached_property
    def records(self) -> Mapping[str, StoredModel]:
        """What is on record, each thing once: figures under another name of an entry count for the entry.

        The document keeps them apart, since a name can come to point to something else.
        """
        ids = installed.entries_by_name(self.entries, self.shown)
        models = self.document.models
        others = {
            name: ids[installed.key(name)]
            for name, model in models.items()
            if model.history and name not in self.entries and installed.key(name) in ids
        }
        records = {name: model for name, model in models.items() if name not in others}
        for name, entry in others.items():
            of_entry = records.get(entry) or new_model(entry, self.entries[entry])
            records[entry] = usage.with_history(of_entry, usage.joined(of_entry.history, models[name].history))
        return records

    @cached_property
    def profiles(self) -> Profiles:
        """What the needs follow from."""
        return Profiles(self.document.described, self.document.measured)

    @cached_property
    def models(self) -> tuple[ModelMetadata, ...]:
        """Every model that there is something to say of, the smallest first."""
        return tuple(listing.all_models(self.entries, self._custom, self.records, self.shown, self.profiles))

    @cached_property
    def _model_of(self) -> Mapping[str, ModelMetadata]:
        return {model.name: model for model in self.models}

    # --- names -------------------------------------------------------------------------------------------------------

    def literal(self, name: str) -> Meant:
        """Return what a name says: an entry's id, one of its tags, or a name of Ollama's. Raises InvalidModelName."""
        try:
            return installed.resolve(name, self.entries)
        except InvalidModelName:
            # Old documents can hold names that Ollama would refuse; what is on record can be asked for.
            if name in self._on_record:
                return Meant(name)
            raise

    @cached_property
    def _on_record(self) -> frozenset[str | None]:
        document = self.document
        return frozenset((*document.models, document.current_model, document.previous_model))

    def meant(self, name: str) -> Meant:
        """Return what a name means: also for a name of Ollama's that shares an entry's weights, the entry."""
        said = self.literal(name)
        if said.entry:
            return said
        held = self.inventory.get(said.name)
        if held is None:
            # An old document can have it under a name without a tag.
            return Meant(name) if name in self._on_record else said
        for entry_name, holding in self.shown.entries.items():
            if held in holding.names:
                return Meant(entry_name, self.entries[entry_name], holding.quantization_of(held.digest))
        return Meant(held.name)

    def is_known(self, meant: Meant) -> bool:
        """Is it in the catalogue, on record, or installed?"""
        return bool(meant.entry or meant.name in self._on_record or self.inventory.get(meant.name))

    def known(self, name: str) -> Meant:
        """Return what a name means. Raises ModelNotFound where nobody has heard of it, InvalidModelName."""
        meant = self.meant(name)
        if not self.is_known(meant):
            raise ModelNotFound(meant.name, self._alike(meant.name))
        return meant

    def _alike(self, name: str) -> list[str]:
        """Return the names that may be meant: those that begin like it, then those that are nearly it."""
        known = [model.name for model in self.models]
        begin = [other for other in known if other.startswith(name)]
        return [*dict.fromkeys((*begin, *difflib.get_close_matches(name, known)))][:2]

    # --- one model ---------------------------------------------------------------------------------------------------

    def held(self, meant: Meant) -> Holding:
        """Return what Ollama holds of an entry; nothing for a name that is none."""
        return self.shown.entries[meant.name] if meant.entry else NOTHING

    def stored(self, name: str) -> StoredModel:
        """Return what is on record of a name, an empty record where there is none yet."""
        return self.records.get(name) or new_model(name, self.entries.get(name))

    def info(self, name: str) -> ModelMetadata:
        """Return one model as it is shown; of what was used and has gone since, what is on record."""
        meant = self.known(name)
        if found := self._model_of.get(meant.name):
            return found
        record = self.stored(meant.name).model_dump(include=_SHOWN_OF_A_RECORD)
        return ModelMetadata(**record, display_name=meant.name, source="installed")

    def statistics(self, name: str, today: str) -> Statistics:
        """Return what is on record of one model; today, in UTC, as 2026-11-27."""
        return usage.statistics(self.stored(name), installed=name in self._names, today=today)

    def usage_of(self, name: str) -> Usage:
        """Return all that is on record of one model as one sum."""
        return usage.whole(self.stored(name).history)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.shown.names)

    def is_installed(self, name: str) -> bool:
        """Does Ollama hold what stands under this name in our list?"""
        return name in self._names

    def answering(self, name: str) -> tuple[str, InstalledModel]:
        """Return a model that is there, in the name that tells it from others, and what of Ollama's answers to it.

        A form of an entry that does not stand under its id is told by its own tag. Raises ModelNotInstalled,
        ModelNotPublished, ModelNotFound, InvalidModelName.
        """
        meant = self.known(name)
        held = self.held(meant)
        if meant.entry is None:
            found = self.inventory.get(meant.name)
        else:
            found = held.by_quantization.get(meant.quantization) if meant.quantization else held.answering
        if found is None:
            if meant.entry and not meant.entry.published:
                raise ModelNotPublished(meant.name, meant.entry.alternatives)
            raise ModelNotInstalled(meant.name, meant.quantization)
        return meant.name if held.digest == found.digest else found.name, found

    def steady_name(self, name: str, found: InstalledModel) -> str:
        """Return under which name of Ollama these weights stay: a form's own tag, as the id can change its form."""
        held = self.held(self.known(name))
        form = held.quantization_of(found.digest)
        return held.by_quantization[form].name if form else found.name

    # --- decisions ---------------------------------------------------------------------------------------------------

    def going(self, name: str) -> tuple[str, list[str]]:
        """Return what is deleted, in the name that callers use, and the names of Ollama's that go with it.

        Raises CannotDeleteCurrent, ModelNotInstalled, ModelNotFound. A name goes by what it says, not by its weights.
        """
        said, current = self.literal(name), self.document.current_model
        holding = self.held(said)
        is_current = current is not None and names.same(current, said.name)
        if is_current and said.quantization in (None, holding.quantization):
            raise CannotDeleteCurrent(said.name)
        if said.entry:
            names_of_it = installed.own_names(said.entry, holding, said.quantization)
        else:
            under_name = self.inventory.get(said.name)
            names_of_it = [under_name.name] if under_name else []
        if not names_of_it:
            raise ModelNotInstalled(said.name, said.quantization) if self.is_known(said) else ModelNotFound(said.name)
        return said.name, names_of_it

    def candidates(self) -> list[Candidate]:
        """Return what the recommender chooses from."""
        return self._candidates

    @cached_property
    def _candidates(self) -> list[Candidate]:
        shares = {runner.digest: runner.gpu_share for runner in self._running}
        observed = Observed(shares, self._benchmarked, self.document.installation_id)
        return advice.candidates(self.entries, self.records, self.shown, self.profiles, observed)

    def fit(self, name: str, quantization: str | None, wish: Criteria) -> Fit:
        """Say whether a model lies on the card as a whole. Raises ModelNotFound, UnknownQuantization, …"""
        model, form, profile = self.profile(name, quantization)
        check = check_fit(wish, model, form, profile, self._forms(model))
        candidate = next((one for one in self._candidates if (one.name, one.quantization) == (model, form)), None)
        if check.verdict is Verdict.TOO_LARGE or (candidate and ANSWERING not in candidate.capabilities):
            return Fit(check, wish, None)
        if candidate is None:
            return Fit(check, wish, estimate(profile, check.need, wish.available_bytes, wish.machine.card))
        of_uses, of_writing = ranking.speeds(candidate, check.need, check.verdict, wish)
        return Fit(check, wish, of_uses or of_writing)

    def _forms(self, name: str) -> dict[str, MemoryProfile]:
        entry = self.entries.get(name)
        if entry is None:
            return {}
        there = self.shown.entries[name].by_quantization
        forms = [variant.quantization for variant in entry.variants]
        return {
            form: self.profiles.of_variant(entry, variant, there.get(form))
            for form, variant in zip(forms, entry.variants, strict=True)
        }

    def profile(self, name: str, quantization: str | None) -> tuple[str, str | None, MemoryProfile]:
        """Return which model in which form is meant, and what its need follows from."""
        meant = self.known(name)
        return meant.name, *advice.profile(meant, quantization, self.held(meant), self.inventory, self.profiles)

    def running(self, runner: RunningModel, has_card: bool | None = None) -> Running:
        """Return a loaded model as it is shown, under the name that callers use for what shares its weights."""
        alike = [model.name for model in self.inventory.models if model.digest == runner.digest]
        if not alike:  # it was deleted while it was loaded
            return loading.running(runner, runner.name, [runner.name], None, has_card=has_card)
        name, form, profile = self.profile(alike[0], None)
        need = memory_need(profile, runner.context_tokens) if runner.context_tokens else None
        return loading.running(
            runner,
            name,
            dict.fromkeys((name, *alike)),
            need,
            form=form,
            has_card=has_card,
            fitting_context=_fitting_context(runner, profile),
        )

    def digests(self, meant: Meant) -> set[str]:
        """Return the digests of everything installed that is meant: of an entry without a form, of all its names."""
        if meant.entry is None:
            held = self.inventory.get(meant.name)
            return {held.digest} if held else set()
        holding = self.held(meant)
        one = holding.by_quantization.get(meant.quantization) if meant.quantization else None
        return {one.digest} if one else {model.digest for model in holding.names}

    def context_of(self, name: str) -> int:
        """Return how many tokens of context a model is used with; the usual number for what nobody has heard of."""
        try:
            stored = self.document.models.get(self.literal(name).name)
        except InvalidModelName:
            return DEFAULT_CONTEXT_TOKENS
        return (stored and stored.load_context_tokens) or DEFAULT_CONTEXT_TOKENS

    def undescribed(self) -> list[InstalledModel]:
        """Return what is installed, each digest once, whose numbers neither the catalogue nor Ollama has told yet."""
        unknown = {model.digest: model for model in self.shown.others}
        for name, held in self.shown.entries.items():
            entry = self.entries[name]
            if held.own_model or entry.architecture is None or SEEING in entry.capabilities:
                unknown |= {model.digest: model for model in held.names}
        return [model for digest, model in unknown.items() if digest not in self.document.described]

    def ids_to_make(self) -> Iterable[CatalogEntry]:
        """Return the entries that are there while nothing stands under their id: somebody pulled a tag by hand."""
        return [self.entries[name] for name, held in self.shown.entries.items() if held.installed and not held.under_id]


def _fitting_context(runner: RunningModel, profile: MemoryProfile) -> int | None:
    """Return the longest context, shorter than now, with which a model would lie in what it has of the card."""
    if not runner.size_vram_bytes or not runner.context_tokens:
        return None
    room = runner.size_vram_bytes + OVERHEAD_BYTES
    return largest_context(profile, room, at_most=runner.context_tokens - 1, at_least_verdict=Verdict.TIGHT)

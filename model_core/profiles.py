"""What the need of a model follows from, wherever it is asked: the catalogue, what Ollama tells, what it counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from model_core import measurements
from model_core.candidates import ANSWERING, SEEING
from model_core.memory import MemoryProfile, profile_of
from model_core.records import CatalogEntry, Described, InstalledModel, Measured, Variant


class Profiles:
    """Knows what was told and counted of weights, by their digest; without either it knows what the catalogue says."""

    def __init__(
        self,
        described: Mapping[str, Described] | None = None,
        measured: Mapping[str, Mapping[int, Measured]] | None = None,
    ) -> None:
        self._described, self._measured = described or {}, measured or {}

    def of_variant(self, entry: CatalogEntry, variant: Variant, there: InstalledModel | None = None) -> MemoryProfile:
        """Return the profile of one form of an entry; ``there`` is what Ollama holds of it."""
        profile = profile_of(entry, variant)
        digest = there.digest if there else variant.digest_prefix
        told = self._described.get(there.digest) if there else None
        if there and profile.architecture is None and told and told.architecture:
            profile = self._as_told(there, told, variant.file_type, entry.context_tokens)
        file_sizes = (variant.weights_bytes, variant.size_bytes, there.size_bytes if there else None)
        return self._with_measured(profile, digest, *file_sizes)

    def of_installed(self, model: InstalledModel) -> MemoryProfile:
        """Return the profile of what Ollama holds and no catalogue knows."""
        told = self._described.get(model.digest) or Described()
        return self._with_measured(self._as_told(model, told), model.digest, model.size_bytes)

    def capabilities(self, model: InstalledModel) -> tuple[str, ...]:
        """Return what an installed model can do; that it answers, where nobody tells."""
        told = self._described.get(model.digest) or Described()
        return model.capabilities or told.capabilities or ((ANSWERING, SEEING) if told.sees else (ANSWERING,))

    @staticmethod
    def _as_told(
        model: InstalledModel, told: Described, file_type: str | None = None, context_limit: int | None = None
    ) -> MemoryProfile:
        return MemoryProfile(
            file_bytes=model.size_bytes,
            architecture=told.architecture,
            file_type=model.quantization_level or file_type,
            context_limit=model.context_tokens or context_limit,
            basis="show",
            sees=told.sees or SEEING in (model.capabilities or ()),
        )

    def _with_measured(self, profile: MemoryProfile, digest: str | None, *file_sizes: int | None) -> MemoryProfile:
        counted = measurements.of_digest(self._measured, digest)
        if not counted:
            return profile
        sizes = [size for size in file_sizes if size is not None]
        return replace(profile, measured=measurements.bytes_on_card(counted, sizes, sees=profile.sees))


CATALOGUE_ONLY = Profiles()

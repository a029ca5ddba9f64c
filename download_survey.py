"""Look around before a download: what the registry says, what Ollama holds of it, how much room its disk has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from model_core.errors import OllamaError, RegistryModelMissing, RegistryUnavailable
from model_core.manifests import Manifest
from model_core.names import ModelName
from model_core.plans import Room
from ollama_client import OllamaClient
from registry_client import RegistryClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """What was found. manifest is None where the registry could not be asked, or has no such model."""

    manifest: Manifest | None
    is_missing: bool
    present: frozenset[str]
    room: Room


class Surveyor:
    """Asks the registry, Ollama and the disk; what does not answer is left unknown.

    disk  the room on Ollama's disk, where that is a disk of this machine
    """

    def __init__(self, client: OllamaClient, registry: RegistryClient, disk: Callable[[], Room]) -> None:
        self._client, self._registry, self._disk = client, registry, disk

    def survey(self, name: ModelName) -> Survey:
        """Return what can be known before the first byte. Downloads nothing."""
        manifest, is_missing = None, False
        try:
            manifest = self._registry.manifest(name)
        except RegistryModelMissing:
            is_missing = True
        except RegistryUnavailable as error:
            logger.info("registry not asked name=%s reason=%s", name.display, error)
        return Survey(manifest, is_missing, self._present(manifest), self._disk())

    def _present(self, manifest: Manifest | None) -> frozenset[str]:
        if manifest is None:
            return frozenset()
        try:
            return frozenset(layer.digest for layer in manifest.layers if self._client.has_blob(layer.digest))
        except OllamaError as error:
            logger.info("blobs not asked reason=%s", error)
            return frozenset()

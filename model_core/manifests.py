"""A model's manifest, as its registry keeps it: what the model is made of, how much it weighs, and which one it is.

The form is Docker's schema 2: {"config": {"digest", "size"}, "layers": [{"mediaType", "digest", "size"}]}.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

from pydantic import ValidationError

from model_core.records import Record

_HEX = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ManifestLayer(Record):
    """One blob of a model; ``kind`` is the last word of its media type (model, template, license, config …)."""

    digest: str
    size_bytes: int
    kind: str


class Manifest(Record):
    """What a model is made of. digest is what Ollama's list shows for it once it is pulled: no "sha256:" before it."""

    digest: str
    layers: tuple[ManifestLayer, ...]

    @property
    def total_bytes(self) -> int:
        """What the whole model weighs: each blob once."""
        return sum({layer.digest: layer.size_bytes for layer in self.layers}.values())

    def missing(self, present: Collection[str]) -> tuple[ManifestLayer, ...]:
        """Return the blobs that are not among those that are there already, each once."""
        return tuple({layer.digest: layer for layer in self.layers if layer.digest not in present}.values())


class _Blob(Record):
    digest: str
    size: int
    mediaType: str = ""  # the registry's own spelling


class _Schema2(Record):
    config: _Blob
    layers: tuple[_Blob, ...]


def read_manifest(raw: bytes, said_digest: str = "") -> Manifest:
    """Return the manifest that a registry's body holds. Raises ValueError for anything else.

    said_digest  what the registry says in its header Ollama-Content-Digest; Ollama's own app goes by it

    Without it the digest is that of the very bytes: Ollama keeps them as they came (since v0.19), so its list shows
    the same.
    """
    try:
        schema = _Schema2.model_validate_json(raw)
    except ValidationError as error:
        raise ValueError(f"not a manifest: {error.errors()[0]['msg']}") from error
    blobs = (*schema.layers, schema.config)
    for blob in blobs:
        if not _DIGEST.fullmatch(blob.digest) or blob.size < 0:
            raise ValueError("not a manifest: a layer without a digest or a size")
    return Manifest(
        digest=said_digest if _HEX.fullmatch(said_digest) else hashlib.sha256(raw).hexdigest(),
        layers=tuple(
            ManifestLayer(
                digest=blob.digest, size_bytes=blob.size, kind="config" if blob is schema.config else _kind(blob)
            )
            for blob in blobs
        ),
    )


def _kind(blob: _Blob) -> str:
    return blob.mediaType.rpartition(".")[2]

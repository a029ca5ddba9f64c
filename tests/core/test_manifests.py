"""What a registry's manifest says, and what is refused as one."""

from __future__ import annotations

import hashlib
import json

import pytest

from model_core.manifests import read_manifest


def blob(number: int, size: int, kind: str = "model") -> dict[str, object]:
    return {
        "mediaType": f"application/vnd.ollama.image.{kind}",
        "digest": f"sha256:{number:064x}",
        "size": size,
    }


def manifest(*layers: dict[str, object], config: dict[str, object] | None = None) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": config or blob(99, 500), "layers": layers}).encode()


def test_the_digest_is_that_of_the_very_bytes():
    raw = manifest(blob(1, 1000))

    assert read_manifest(raw).digest == hashlib.sha256(raw).hexdigest()
    assert read_manifest(raw + b"\n").digest != read_manifest(raw).digest


def test_the_total_counts_every_blob_once_the_config_too():
    found = read_manifest(manifest(blob(1, 1000), blob(2, 30, "license"), blob(2, 30, "template")))

    assert found.total_bytes == 1000 + 30 + 500
    assert [layer.kind for layer in found.layers] == ["model", "license", "template", "config"]


def test_what_is_there_already_is_not_missing():
    found = read_manifest(manifest(blob(1, 1000), blob(2, 30)))

    assert [layer.size_bytes for layer in found.missing({f"sha256:{1:064x}"})] == [30, 500]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>log in</html>",
        b"[]",
        b"{}",
        json.dumps({"config": blob(1, 1), "layers": {}}).encode(),
        json.dumps({"config": blob(1, -1), "layers": []}).encode(),
        json.dumps({"config": blob(1, 1), "layers": [{"digest": "sha256:../../etc", "size": 1}]}).encode(),
        json.dumps({"config": blob(1, 1), "layers": [{"digest": f"sha256:{1:064x}", "size": "big"}]}).encode(),
    ],
    ids=["empty", "a page", "a list", "no fields", "layers no list", "negative", "no digest", "size no number"],
)
def test_anything_else_is_refused(raw):
    with pytest.raises(ValueError, match="not a manifest"):
        read_manifest(raw)

"""Manifests over HTTP: from the simulated registry, and from servers that misbehave."""

from __future__ import annotations

import hashlib
import json

import pytest
import responses

from model_core import names
from model_core.errors import RegistryModelMissing, RegistryUnavailable
from registry_client import ACCEPT, RegistryClient

NAME = names.parse("llama3.2:1b-instruct-q4_K_M")
ADDRESS = "https://registry.ollama.ai/v2/library/llama3.2/manifests/1b-instruct-q4_K_M"
BLOB = {"digest": f"sha256:{1:064x}", "size": 1000, "mediaType": "application/vnd.ollama.image.model"}
MANIFEST = json.dumps({"config": {"digest": f"sha256:{2:064x}", "size": 5}, "layers": [BLOB]}).encode()


@pytest.fixture
def canned():
    with responses.RequestsMock() as server:
        yield server


def test_the_registry_is_asked_under_the_names_own_parts_for_a_docker_manifest(canned):
    canned.get(ADDRESS, body=MANIFEST, content_type="text/plain")

    found = RegistryClient().manifest(NAME)

    assert canned.calls[0].request.headers["Accept"] == ACCEPT
    assert (found.total_bytes, found.digest) == (1005, hashlib.sha256(MANIFEST).hexdigest())


def test_a_digest_that_the_registry_says_goes_before_our_own_sum(canned):
    canned.get(ADDRESS, body=MANIFEST, headers={"Ollama-Content-Digest": "ab" * 32})

    assert RegistryClient().manifest(NAME).digest == "ab" * 32


@pytest.mark.parametrize("status", [401, 404])
def test_what_the_registry_does_not_have_is_told_apart_from_a_registry_that_is_ill(canned, status):
    canned.get(ADDRESS, status=status)

    with pytest.raises(RegistryModelMissing):
        RegistryClient().manifest(NAME)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 500},
        {"body": b"<html>log in to the hotel's network</html>"},
        {"body": b"[" * 100_000},
        {"body": ConnectionError("no such host")},
    ],
    ids=["500", "a page", "nonsense", "nobody there"],
)
def test_a_registry_that_is_ill_is_unavailable_and_says_what_to_do(canned, answer):
    canned.get(ADDRESS, **answer)

    with pytest.raises(RegistryUnavailable, match="Check the network"):
        RegistryClient().manifest(NAME)


def test_the_simulated_registry_has_what_the_simulated_ollama_pulls(simulator):
    found = RegistryClient(lambda host: simulator.url).manifest(NAME)
    simulator.install("llama3.2:1b-instruct-q4_K_M")

    state = simulator.state()
    assert found.total_bytes > 800_000_000
    assert any("1b-instruct-q4_K_M" in name for name in map(str, state["installed"]))


@pytest.mark.parametrize("kind", ["registry_refused", "registry_status", "registry_html"])
def test_a_fault_of_the_simulated_registry_is_not_used_up_by_asking(simulator, kind):
    simulator.set_fault(kind, times=1)
    client = RegistryClient(lambda host: simulator.url)

    for _ in range(2):
        with pytest.raises(RegistryUnavailable):
            client.manifest(NAME)


def test_the_simulated_registry_does_not_have_what_nobody_published(simulator):
    with pytest.raises(RegistryModelMissing):
        RegistryClient(lambda host: simulator.url).manifest(names.parse("llama3.1:8b-instruct"))

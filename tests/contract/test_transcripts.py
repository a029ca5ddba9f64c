"""Every recorded scene, replayed: the server under test answers what a real Ollama answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract_library import recorded_model
from contract_replay import differences
from contract_server import Ollama

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts"
SCENES = sorted(path.stem for path in TRANSCRIPTS.glob("*.json"))

BIG, LATEST = "llama3.1:8b-instruct-q4_K_M", "llama3.2:latest"
ONE, THREE, ALIAS = "llama3.2:1b-instruct-q4_K_M", "llama3.2:3b-instruct-q4_K_M", "llama3.2:1b-instruct"

# What a scene's texts stand for on this server, such as the digest of a model that weighs something else here.
Stand = dict[str, str]


def nothing(_ollama: Ollama) -> Stand:
    return {}


def installed(*names: str) -> Callable[[Ollama], Stand]:
    def arrange(ollama: Ollama) -> Stand:
        ollama.install(*names)
        return {}

    return arrange


def one_with_its_blob(ollama: Ollama) -> Stand:
    ollama.install(ONE)
    return {"a5516b97d391fa2f322490074acb4b1d4f8b0ac1201ea7cf82deaff94f298913": ollama.weights_of(ONE)[7:]}


def one_and_its_alias(ollama: Ollama) -> Stand:
    ollama.install(ONE)
    ollama.alias(ONE, ALIAS)
    return {}


def three_loaded_models(ollama: Ollama) -> Stand:
    ollama.install(ONE, THREE, LATEST)
    ollama.alias(ONE, ALIAS)
    ollama.make("noise", ONE)
    ollama.load("noise")
    ollama.load(LATEST, options={"num_gpu": 0, "num_ctx": 1024})
    return {}


def one_latest_and_noise(ollama: Ollama) -> Stand:
    ollama.install(ONE, LATEST)
    ollama.alias(ONE, "noise")
    return {}


def custom_models(ollama: Ollama) -> Stand:
    one_latest_and_noise(ollama)
    ollama.make("photo-critic", ONE, system="You judge photographs.")
    ollama.make("w", ONE, parameters={"temperature": "hot"})
    ollama.make("v", ONE, parameters={"no_such": 1})
    return {}


def custom_models_and_uploads(ollama: Ollama) -> Stand:
    custom_models(ollama)
    hello = f"sha256:{hashlib.sha256(b'hello').hexdigest()}"
    ollama.session.post(f"{ollama.url}/api/blobs/{hello}", data=b"hello", timeout=10)
    wrong = hashlib.sha256(bytes(16)).hexdigest()
    return {
        "1fe2a1bd94107174e71ba285d95a201e577eb84027f0d41e8f51ca3b326a8b04": ollama.weights_of(ONE)[7:],
        "6b376d889fee6f0084d859551757679f73276de4767a43e1d37f8a1c992e83ca": wrong,
    }


def a_moved_tag(ollama: Ollama) -> Stand:
    simulator = ollama.simulator("moving a tag of the library")
    custom_models(ollama)
    simulator.publish(ONE, recorded_model(ONE, edition=2, license_text="ANOTHER COMMUNITY LICENSE"))
    return {}


def fault(kind: str, **details: Any) -> Callable[[Ollama], Stand]:
    def arrange(ollama: Ollama) -> Stand:
        simulator = ollama.simulator(f"a registry with a fault ({kind})")
        ollama.install(ONE)  # brings the small layers that the recorded server had, too
        simulator.set_fault(kind, **details)
        return {}

    return arrange


def a_registry_to_hang_up_on(ollama: Ollama) -> Stand:
    ollama.simulator("a registry so slow that one can hang up in the middle and still see the rest")
    ollama.install(ONE)
    return {}


def a_generation_that_breaks_off(ollama: Ollama) -> Stand:
    simulator = ollama.simulator("a model that breaks off")
    simulator.publish("noise", recorded_model(ONE))
    ollama.install("noise:latest")
    simulator.set_fault("cut_generation", after_tokens=1)
    return {}


# What each scene finds; a scene that is not named here fails.
BEFORE: dict[str, Callable[[Ollama], Stand]] = {
    "blobs": one_with_its_blob,
    "chat": installed(LATEST),
    "copy": installed(ONE, THREE),
    "create_errors": installed(ONE),
    "create_from": one_latest_and_noise,
    "create_from_file": custom_models_and_uploads,
    "delete": three_loaded_models,
    "foreign_pages": custom_models,
    "generate": installed(LATEST),
    "generate_cut_short": a_generation_that_breaks_off,
    "generate_errors": installed(ONE),
    "load_keep_alive": installed(ONE),
    "load_ps_unload": one_and_its_alias,
    "names": installed(ONE),
    "ps_sizes": installed(LATEST),
    "pull_bad_name": nothing,
    "pull_cached": installed(BIG),
    "pull_cancelled_resumed": a_registry_to_hang_up_on,
    "pull_corrupt": fault("digest_mismatch"),
    "pull_fresh": nothing,
    "pull_goes_back": fault("goes_back", at_bytes=100_000_000, to_bytes=60_000_000),
    "pull_not_streamed": nothing,
    "pull_registry_500": fault("registry_status"),
    "pull_small": installed(THREE),
    "pull_stalled": fault("stall", at_bytes=20_000_000),
    "pull_too_new": fault("too_new"),
    "pull_unknown": nothing,
    "pull_unreachable": nothing,
    "pull_update": a_moved_tag,
    "root": nothing,
    "show": installed(ONE),
    "show_errors": nothing,
    "tags": installed(ONE, THREE, BIG),
    "tags_empty": nothing,
}

# The recorded server needed more than a tick for the last small layer of this pull; that is the moment's doing.
SMALL_LAYERS_BY_CHANCE = {"pull_fresh"}


@pytest.mark.parametrize("scene", SCENES)
def test_a_recorded_scene_plays_again(ollama: Ollama, scene: str):
    text = (TRANSCRIPTS / f"{scene}.json").read_text(encoding="utf-8")
    for recorded, here in BEFORE[scene](ollama).items():
        text = text.replace(recorded, here)
    exact_layers = scene not in SMALL_LAYERS_BY_CHANCE and not ollama.is_real

    for number, exchange in enumerate(json.loads(text)["exchanges"], 1):
        found = differences(ollama.url, exchange, small_layers_count=exact_layers)

        request = exchange["request"]
        assert not found, f"{scene}, call {number}, {request['method']} {request['path']}:\n" + "\n".join(found)


def test_every_scene_has_its_beginning():
    assert set(BEFORE) == set(SCENES)

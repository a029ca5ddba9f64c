"""What Ollama promises beyond single answers: how models, downloads and runners live together."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import requests
from contract_library import recorded_model
from contract_server import Ollama, wait_until

BIG, LATEST = "llama3.1:8b-instruct-q4_K_M", "llama3.2:latest"
ONE, THREE, ALIAS = "llama3.2:1b-instruct-q4_K_M", "llama3.2:3b-instruct-q4_K_M", "llama3.2:1b-instruct"
BIG_BYTES = 248_349_742

# On the processor, so that a card of the machine's own changes nothing.
ON_CPU = {"num_gpu": 0}


def completed(lines: list[dict[str, Any]]) -> list[int]:
    """The counter of the large layer, line by line."""
    return [line["completed"] for line in lines if line.get("total", 0) > 2**20 and "completed" in line]


def next_counter(lines) -> int:
    """Read on until a line that counts bytes of the large layer."""
    return next(line["completed"] for line in lines if line.get("total", 0) > 2**20 and line.get("completed"))


# --- names ---


@pytest.mark.parametrize("name", [ONE.upper(), f"library/{ONE}", f"registry.ollama.ai/library/{ONE}", f"  {ONE} "])
def test_a_model_is_found_by_any_form_of_its_name(ollama: Ollama, name: str):
    ollama.install(ONE)

    assert ollama.post("/api/show", model=name).status_code == 200
    assert ollama.post("/api/generate", model=name, options=ON_CPU).status_code == 200
    assert ollama.delete(name).status_code == 200
    assert ollama.tags() == {}


def test_a_pull_in_another_case_is_a_pull_of_the_installed_model(ollama: Ollama):
    ollama.install(ONE)

    assert ollama.pull(ONE.upper())[-1] == {"status": "success"}
    assert list(ollama.tags()) == [ONE]


def test_an_error_names_the_model_as_sent_but_show_names_it_in_full(ollama: Ollama):
    for path, name in (("/api/generate", "NoPe"), ("/api/chat", "NoPe"), ("/api/show", "NoPe:latest")):
        answer = ollama.post(path, model="NoPe")

        assert (answer.status_code, answer.json()) == (404, {"error": f"model '{name}' not found"})


# --- copies, deletions, lists ---


def test_a_copy_has_the_same_digest_and_outlives_the_original(ollama: Ollama):
    ollama.install(ONE)
    ollama.alias(ONE, ALIAS)
    tags = ollama.tags()
    ollama.delete(ONE)

    assert tags[ONE]["digest"] == tags[ALIAS]["digest"]
    assert list(ollama.tags()) == [ALIAS]
    assert ollama.post("/api/generate", model=ALIAS, options=ON_CPU).status_code == 200


def test_a_blob_goes_with_the_last_name_that_needs_it(ollama: Ollama):
    ollama.install(ONE)
    ollama.alias(ONE, ALIAS)
    blob = f"{ollama.url}/api/blobs/{ollama.weights_of(ONE)}"

    there = []
    for name in (ONE, ALIAS):
        there.append(ollama.session.head(blob, timeout=10).status_code)
        ollama.delete(name)
    there.append(ollama.session.head(blob, timeout=10).status_code)

    assert there == [200, 200, 404]


@pytest.mark.parametrize("destination", [THREE, THREE.upper()])
def test_a_copy_onto_another_model_replaces_it_without_asking(ollama: Ollama, destination: str):
    ollama.install(ONE, THREE)
    digest = ollama.tags()[ONE]["digest"]
    ollama.alias(ONE, destination)

    assert {name: model["digest"] for name, model in ollama.tags().items()} == {ONE: digest, THREE: digest}


def test_every_successful_pull_makes_the_model_look_new(ollama: Ollama):
    ollama.install(ONE)
    before = ollama.tags()[ONE]["modified_at"]
    ollama.pull(ONE)

    assert ollama.tags()[ONE]["modified_at"] > before


def test_the_model_that_was_changed_last_is_listed_first(ollama: Ollama):
    ollama.install(ONE)
    second = int(time.time())
    wait_until(lambda: int(time.time()) > second, "the next second has begun")  # it orders by whole seconds
    ollama.install(THREE)

    assert list(ollama.tags()) == [THREE, ONE]


def test_a_pull_that_fails_leaves_the_installed_model_as_it_was(ollama: Ollama):
    simulator = ollama.simulator("a registry with a fault")
    ollama.install(ONE)
    before = ollama.tags()
    simulator.publish(ONE, recorded_model(ONE, edition=2))
    simulator.set_fault("digest_mismatch")

    assert "digest mismatch" in ollama.pull(ONE)[-1]["error"]
    assert ollama.tags() == before


# --- pulls ---


def test_an_interrupted_pull_goes_on_where_it_was(ollama: Ollama):
    ollama.install(ONE)
    with ollama.pulling(BIG) as lines:
        last_seen = next_counter(lines)
    lines = ollama.pull(BIG)
    while lines[-1] == {"error": "context canceled"}:
        lines = ollama.pull(BIG)  # so a real one answers who comes back at once

    assert lines[-1] == {"status": "success"}
    assert min(completed(lines), default=last_seen) >= last_seen


def test_no_byte_of_an_interrupted_pull_is_fetched_twice(ollama: Ollama):
    simulator = ollama.simulator("counting the bytes of a registry")
    for _ in range(3):
        with ollama.pulling(BIG) as lines:
            next_counter(lines)
    ollama.pull(BIG)

    assert simulator.bytes_sent_total == BIG_BYTES


def test_closing_the_connection_stops_the_download(ollama: Ollama):
    simulator = ollama.simulator("looking at what it does in the background")
    with ollama.pulling(BIG) as lines:
        next_counter(lines)
    wait_until(lambda: not simulator.state()["pulling"], "the pull has ended")
    sent = simulator.bytes_sent_total
    ollama.get("/api/version")

    assert simulator.bytes_sent_total == sent < BIG_BYTES
    assert list(simulator.state()["partial"].values()) == [sent]
    assert ollama.tags() == {}


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_silent_pull_stops_with_its_connection_too(ollama: Ollama, streamed: bool):
    simulator = ollama.simulator("a silent registry")
    simulator.set_fault("slow_manifest", seconds=60)
    with pytest.raises((requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError)):
        requests.post(ollama.url + "/api/pull", json={"model": BIG, "stream": streamed}, timeout=0.05)

    wait_until(lambda: not simulator.state()["pulling"], "the pull has ended")
    assert simulator.bytes_sent_total == 0


def test_two_pulls_of_one_model_share_one_download(ollama: Ollama):
    simulator = ollama.simulator("two pulls at once can kill a real Ollama")
    simulator.set_fault("stall", at_bytes=100_000_000, times=1)
    with ThreadPoolExecutor(2) as pool:
        pulls = [pool.submit(ollama.pull, BIG) for _ in range(2)]
        try:
            wait_until(lambda: list(simulator.state()["partial"].values()) == [100_000_000], "the download stands", 10)
            wait_until(lambda: simulator.state()["pulling"][BIG] == 2, "both wait for it", 10)
        finally:
            simulator.clear_faults()
        ends = [pull.result()[-1] for pull in pulls]

    assert ends == [{"status": "success"}] * 2
    assert simulator.bytes_sent_total == BIG_BYTES


def test_a_pull_goes_on_when_another_one_of_the_same_model_is_closed(ollama: Ollama):
    simulator = ollama.simulator("two pulls at once can kill a real Ollama")
    with ollama.pulling(BIG) as mine:
        next_counter(mine)
        with ollama.pulling(BIG) as other:
            next(other)
        last = list(mine)[-1]

    assert last == {"status": "success"}
    assert simulator.bytes_sent_total == BIG_BYTES


def test_a_repeated_pull_says_one_full_line_per_layer(ollama: Ollama):
    ollama.install(BIG)
    lines = [line for line in ollama.pull(BIG) if "digest" in line]

    assert len(lines) == 5
    assert all(line["completed"] == line["total"] for line in lines)


def test_a_moved_tag_brings_new_weights_and_drops_the_old_ones(ollama: Ollama):
    simulator = ollama.simulator("moving a tag of the library")
    ollama.install(ONE)
    old_digest, old_weights = ollama.tags()[ONE]["digest"], ollama.weights_of(ONE)
    simulator.publish(ONE, recorded_model(ONE, edition=2))
    statuses = [line["status"] for line in ollama.pull(ONE)]

    assert statuses[-2:] == ["removing unused layers", "success"]
    assert ollama.tags()[ONE]["digest"] != old_digest
    assert ollama.session.head(f"{ollama.url}/api/blobs/{old_weights}", timeout=10).status_code == 404


def test_weights_that_another_name_needs_stay_when_the_tag_moves(ollama: Ollama):
    simulator = ollama.simulator("moving a tag of the library")
    ollama.install(ONE)
    ollama.alias(ONE, ALIAS)
    old_weights = ollama.weights_of(ONE)
    simulator.publish(ONE, recorded_model(ONE, edition=2))
    ollama.pull(ONE)

    assert ollama.weights_of(ALIAS) == old_weights
    assert ollama.session.head(f"{ollama.url}/api/blobs/{old_weights}", timeout=10).status_code == 200


# --- pulls that go wrong ---


@pytest.mark.parametrize(
    ("kind", "details", "error"),
    [
        ("unknown_model", {}, "pull model manifest: file does not exist"),
        (
            "registry_refused",
            {},
            'pull model manifest: Get "https://registry.ollama.ai/v2/library/llama3.1/manifests/8b-instruct-q4_K_M": '
            "dial tcp registry.ollama.ai:443: connect: connection refused",
        ),
        (
            "registry_no_such_host",
            {},
            'pull model manifest: Get "https://registry.ollama.ai/v2/library/llama3.1/manifests/8b-instruct-q4_K_M": '
            "dial tcp: lookup registry.ollama.ai on 127.0.0.53:53: no such host",
        ),
        ("registry_status", {}, "pull model manifest: 500: boom"),
        ("registry_status", {"status": 503, "text": "later"}, "pull model manifest: 503: later"),
        ("registry_html", {}, "pull model manifest: invalid character '<' looking for beginning of value"),
        (
            "too_new",
            {},
            "pull model manifest: 412: \n\nThe model you are attempting to pull requires a newer version of Ollama.",
        ),
        ("context_canceled", {"at_bytes": 1000}, "context canceled"),
        ("retries_exhausted", {"at_bytes": 1000}, "max retries exceeded: EOF"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_failed_pull_ends_with_the_literal_error(
    ollama: Ollama, kind: str, details: dict, error: str, streamed: bool
):
    simulator = ollama.simulator(f"the fault {kind}")
    simulator.set_fault(kind, **details)
    answer = ollama.post("/api/pull", model=BIG, stream=streamed)

    assert json.loads(answer.text.splitlines()[-1]) == {"error": error}
    assert answer.status_code == (200 if streamed else 500)
    assert ollama.tags() == {}


def test_a_full_disk_says_so_and_what_came_stays(ollama: Ollama):
    simulator = ollama.simulator("a full disk")
    simulator.set_fault("disk_full", at_bytes=200_000_000, times=1)
    error = ollama.pull(BIG)[-1]["error"]
    again = ollama.pull(BIG)

    assert error.startswith("write /")
    assert error.endswith("-partial: no space left on device")
    assert again[-1] == {"status": "success"}
    assert simulator.bytes_sent_total == BIG_BYTES


def test_damaged_weights_are_fetched_again_and_nothing_else(ollama: Ollama):
    simulator = ollama.simulator("a registry with a fault")
    simulator.set_fault("digest_mismatch", times=1)
    error = ollama.pull(BIG)[-1]["error"]
    again = ollama.pull(BIG)
    weights = ollama.weights_of(BIG)

    assert error.startswith(f"digest mismatch, file must be downloaded again: want {weights}, got sha256:")
    assert again[-1] == {"status": "success"}
    assert [line["completed"] == line["total"] for line in again if line.get("total", 0) < 2**20 and "total" in line]
    assert simulator.bytes_sent_total > BIG_BYTES


def test_a_download_that_stands_still_repeats_its_line_for_ever(ollama: Ollama):
    simulator = ollama.simulator("a stalled registry")
    simulator.set_fault("stall", at_bytes=60_030_976)
    with ollama.pulling(BIG) as lines:
        while next_counter(lines) < 60_030_976:
            pass
        repeated = [next(lines) for _ in range(20)]
        simulator.clear_faults()
        last = list(lines)[-1]

    assert all(line == repeated[0] for line in repeated)
    assert repeated[0]["completed"] == 60_030_976
    assert last == {"status": "success"}
    assert simulator.bytes_sent_total == BIG_BYTES


def test_before_the_first_byte_a_line_has_no_counter(ollama: Ollama):
    simulator = ollama.simulator("a stalled registry")
    simulator.set_fault("stall", at_bytes=0)
    with ollama.pulling(BIG) as lines:
        next(lines)
        first = next(lines)

    assert sorted(first) == ["digest", "status", "total"]


def test_a_download_can_go_back_and_still_succeed(ollama: Ollama):
    simulator = ollama.simulator("a connection that is reset")
    simulator.set_fault("goes_back", at_bytes=150_000_000, to_bytes=90_000_000)
    lines = ollama.pull(BIG)
    falls = [(before, after) for before, after in pairwise(completed(lines)) if after < before]

    assert len(falls) == 1
    assert falls[0][1] == 90_000_000
    assert lines[-1] == {"status": "success"}


def test_a_silent_download_sends_nothing_until_it_goes_on(ollama: Ollama):
    simulator = ollama.simulator("a silent registry")
    simulator.set_fault("silence", at_bytes=100_000_000)
    with ollama.pulling(BIG) as lines:
        next_counter(lines)
        wait_until(lambda: list(simulator.state()["partial"].values()) == [100_000_000], "the download stands", 10)
        simulator.clear_faults()
        rest = list(lines)

    assert completed(rest).count(100_000_000) <= 1
    assert rest[-1] == {"status": "success"}


def test_a_cut_stream_ends_without_success_and_without_error(ollama: Ollama):
    simulator = ollama.simulator("a server that goes")
    simulator.set_fault("cut_stream", at_bytes=100_000_000, times=1)
    lines = ollama.pull(BIG)

    assert "digest" in lines[-1]
    assert ollama.pull(BIG)[-1] == {"status": "success"}
    assert simulator.bytes_sent_total == BIG_BYTES


def test_a_stream_can_be_cut_in_the_middle_of_its_encoding(ollama: Ollama):
    simulator = ollama.simulator("a server that goes")
    simulator.set_fault("cut_stream", at_bytes=100_000_000, abrupt=True)

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ollama.pull(BIG)


def test_a_fault_heals_after_so_many_hits_and_meets_only_its_model(ollama: Ollama):
    simulator = ollama.simulator("a registry with a fault")
    simulator.set_fault("registry_status", times=2, model=ONE.upper())
    ends = [ollama.pull(name)[-1] for name in (THREE, ONE, ONE, ONE)]

    assert ends == [{"status": "success"}, {"error": ends[1].get("error")}, ends[1], {"status": "success"}]
    assert ends[1]["error"] == "pull model manifest: 500: boom"


# --- custom models ---


def test_a_custom_model_keeps_the_weights_and_changes_what_was_said(ollama: Ollama):
    ollama.install(ONE)
    ollama.make("critic", ONE, system="You judge photographs.", parameters={"temperature": 0.2})
    shown = ollama.post("/api/show", model="critic").json()

    assert ollama.weights_of("critic") == ollama.weights_of(ONE)
    assert ollama.tags()["critic:latest"]["digest"] != ollama.tags()[ONE]["digest"]
    assert shown["system"] == "You judge photographs."
    assert shown["details"]["parent_model"] == ONE


def test_parameters_of_a_custom_model_are_added_to_its_parents(ollama: Ollama):
    ollama.install(ONE)
    ollama.make("critic", ONE, parameters={"temperature": 0.2, "num_ctx": 1024})
    parameters = ollama.post("/api/show", model="critic").json()["parameters"].splitlines()

    assert sorted(parameters) == [
        "num_ctx                        1024",
        'stop                           "<|eot_id|>"',
        "temperature                    0.2",
    ]


def test_a_custom_model_from_what_is_not_there_is_a_pull(ollama: Ollama):
    statuses = [json.loads(line).get("status") for line in ollama.post(
        "/api/create", **{"model": "critic", "from": ONE, "system": "x"}
    ).text.splitlines()]  # fmt: skip

    assert statuses[0] == "pulling manifest"
    assert statuses[-1] == "success"
    assert set(ollama.tags()) == {ONE, "critic:latest"}


def test_only_the_base_of_a_custom_model_must_be_spelled_as_it_is(ollama: Ollama):
    ollama.install(ONE)
    answer = ollama.post("/api/create", **{"model": "critic", "from": ONE.upper(), "system": "x"})

    assert json.loads(answer.text.splitlines()[-1]) == {"error": "pull model manifest: file does not exist"}


# --- runners ---


def test_names_of_the_same_weights_share_one_runner(ollama: Ollama):
    ollama.install(ONE)
    ollama.alias(ONE, ALIAS)
    ollama.load(ONE)
    ollama.load(ALIAS)

    assert list(ollama.running()) == [ONE]


def test_unloading_one_name_unloads_the_runner_that_it_shares(ollama: Ollama):
    ollama.install(ONE)
    ollama.alias(ONE, ALIAS)
    ollama.load(ONE)
    answer = ollama.post("/api/generate", model=ALIAS, keep_alive=0).json()

    assert (answer["done"], answer["done_reason"]) == (True, "unload")
    wait_until(lambda: ollama.running() == {}, "the runner is gone")


def test_a_deleted_model_stays_loaded_and_can_no_longer_be_unloaded_by_name(ollama: Ollama):
    ollama.install(ONE)
    ollama.load(ONE)
    ollama.delete(ONE)

    assert list(ollama.running()) == [ONE]
    assert ollama.post("/api/generate", model=ONE, keep_alive=0).status_code == 404

    ollama.pull(ONE)
    assert ollama.post("/api/generate", model=ONE, keep_alive=0).status_code == 200
    wait_until(lambda: ollama.running() == {}, "the runner is gone")


def test_another_context_loads_the_model_again(ollama: Ollama):
    ollama.install(ONE)
    contexts = []
    for tokens in (1024, 512):
        ollama.load(ONE, options={"num_gpu": 0, "num_ctx": tokens})
        contexts.append(ollama.running()[ONE]["context_length"])

    assert contexts == [1024, 512]


def test_the_context_is_not_longer_than_the_model_was_made_for(ollama: Ollama):
    ollama.install(ONE)
    ollama.load(ONE, options={"num_gpu": 0, "num_ctx": 100_000})

    assert ollama.running()[ONE]["context_length"] == 2048


def test_a_model_is_kept_as_long_as_was_last_said(ollama: Ollama):
    ollama.install(ONE)
    for said, for_ever in (({}, False), ({"keep_alive": -1}, True), ({}, True), ({"keep_alive": "5m"}, False)):
        ollama.load(ONE, **said)

        # Ollama writes the moment down a little after it has answered.
        wait_until(lambda: (ollama.running()[ONE]["expires_at"] > "2300") is for_ever, f"{said} counts")  # noqa: B023


def test_a_generation_that_keeps_nothing_unloads_behind_itself(ollama: Ollama):
    ollama.install(LATEST)
    answer = ollama.post(
        "/api/generate", model=LATEST, prompt="hello", keep_alive=0, stream=False, options={**ON_CPU, "num_predict": 2}
    )

    assert answer.json()["done"] is True
    wait_until(lambda: ollama.running() == {}, "the model is unloaded")


def test_unloading_what_is_not_loaded_is_no_error(ollama: Ollama):
    ollama.install(ONE)

    assert ollama.post("/api/generate", model=ONE, keep_alive=0).json()["done_reason"] == "unload"


# --- answers ---


def test_a_streamed_answer_and_a_whole_one_have_the_same_words(ollama: Ollama):
    ollama.install(LATEST)
    options = {**ON_CPU, "num_predict": 6, "seed": 1, "temperature": 0, "num_ctx": 1024}
    whole = ollama.post("/api/generate", model=LATEST, prompt="hello", stream=False, options=options).json()
    pieces = [
        json.loads(line)
        for line in ollama.post("/api/generate", model=LATEST, prompt="hello", options=options).text.splitlines()
    ]

    assert "".join(piece["response"] for piece in pieces) == whole["response"]
    assert [piece["done"] for piece in pieces] == [False] * 6 + [True]
    assert whole["done_reason"] == pieces[-1]["done_reason"] == "length"
    assert whole["eval_count"] == pieces[-1]["eval_count"] == 6


def test_an_image_for_a_model_that_cannot_see_is_refused(ollama: Ollama):
    ollama.install(ONE)
    answer = ollama.post("/api/generate", model=ONE, prompt="x", images=["aGVsbG8="], options=ON_CPU)

    assert answer.status_code == 400
    assert "does not support multimodal requests" in answer.json()["error"]


def test_an_answer_can_be_asked_for_as_json(ollama: Ollama):
    ollama.simulator("a model that makes sense")
    ollama.install(LATEST)
    free = ollama.post("/api/generate", model=LATEST, prompt="rate it", format="json", stream=False).json()
    schema = {"type": "object", "properties": {"score": {"type": "integer"}, "tags": {"type": "array"}}}
    bound = ollama.post("/api/generate", model=LATEST, prompt="rate it", format=schema, stream=False).json()

    assert isinstance(json.loads(free["response"]), dict)
    answer = json.loads(bound["response"])
    assert isinstance(answer["score"], int)
    assert isinstance(answer["tags"], list)


def test_metrics_are_those_of_the_time_that_passed(ollama: Ollama):
    ollama.install(LATEST)
    started = time.monotonic()
    answer = ollama.post(
        "/api/generate", model=LATEST, prompt="hello", stream=False, options={**ON_CPU, "num_predict": 4}
    ).json()
    passed_ns = (time.monotonic() - started) * 1e9

    assert 0 < answer["eval_duration"] <= answer["total_duration"] <= passed_ns
    assert 0 < answer["load_duration"] <= answer["total_duration"]

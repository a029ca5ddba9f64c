"""Our client against a server that speaks as Ollama does: what it says it does has really happened there."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from contract_server import Ollama, wait_until

from model_core.errors import (
    AnswerCutShort,
    InvalidModelName,
    OllamaBusy,
    OllamaError,
    OllamaModelMissing,
    OllamaTimeout,
    OllamaUnavailable,
    PullEnded,
    PullFailed,
)
from model_core.records import Answer
from ollama_client import OllamaClient, PullStream

BIG = "llama3.1:8b-instruct-q4_K_M"
SMALL = "llama3.2:1b-instruct-q4_K_M"
SPEAKER = "llama3.2:latest"
# What the recorded generation was made with: on the processor, so that it is the same everywhere.
OPTIONS = {"num_predict": 6, "temperature": 1, "num_ctx": 1024, "num_gpu": 0, "seed": 1}


@pytest.fixture
def client(ollama: Ollama) -> Iterator[OllamaClient]:
    made = OllamaClient(ollama.url)
    yield made
    made.close()


def next_progress(pull: PullStream) -> dict:
    """The next event that counts bytes."""
    return next(event for event in pull if "completed" in event)


# --- what there is ---


def test_the_version_is_a_text(client):
    assert client.version()


def test_an_empty_ollama_has_nothing_installed_and_nothing_running(client):
    assert client.tags() == []
    assert client.running() == []


def test_an_installed_model_is_listed_with_its_digest_and_size(ollama, client):
    ollama.install(SMALL)

    (model,) = client.tags()

    assert (model.name, model.quantization_level, model.capabilities) == (SMALL, "Q4_K_M", ("completion",))
    assert len(model.digest) == 64
    assert model.size_bytes > 0


def test_details_tell_what_the_weights_are_and_nothing_of_the_machine(ollama, client):
    ollama.install(SMALL)

    details = client.show("LLAMA3.2:1B-instruct-q4_k_m")

    assert details.model_info["general.architecture"] == "llama"
    assert details.model_info["tokenizer.ggml.tokens"] is None
    assert details.capabilities == ("completion",)
    assert "/blobs/" not in details.model_dump_json()
    assert client.show(SMALL, verbose=True).model_info["tokenizer.ggml.tokens"]


# --- what changes it ---


def test_a_pull_ends_with_success_and_the_model_is_there(client):
    with client.pull(SMALL) as pull:
        statuses = [event["status"] for event in pull]

    assert (statuses[0], statuses[-1]) == ("pulling manifest", "success")
    assert [model.name for model in client.tags()] == [SMALL]


def test_what_is_there_already_is_pulled_with_one_full_line_a_layer(ollama, client):
    ollama.install(SMALL)

    with client.pull(SMALL) as pull:
        layers = [event for event in pull if "digest" in event]

    assert layers
    assert all(event["completed"] == event["total"] for event in layers)


def test_a_model_that_the_registry_lacks_is_unknown(client):
    with client.pull("llama3.1:8b-instruct") as pull, pytest.raises(PullFailed) as failed:
        list(pull)

    assert failed.value.reason == "unknown_model"
    assert not failed.value.heals_by_retrying


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.pull("bad name"),
        lambda client: client.show("bad name"),
        lambda client: client.delete("bad name"),
        lambda client: client.copy(SMALL, "bad name"),
        lambda client: client.copy("bad name", "x"),
        lambda client: client.generate("bad name", "hello"),
        lambda client: client.show(""),
    ],
    ids=["pull", "show", "delete", "copy to", "copy from", "generate", "empty"],
)
def test_a_name_that_is_none_is_called_so(client, call):
    with pytest.raises(InvalidModelName):
        call(client)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.show("nope"),
        lambda client: client.delete("nope"),
        lambda client: client.copy("nope", "x"),
        lambda client: client.load("nope"),
        lambda client: client.unload("nope"),
        lambda client: client.generate("nope", "hello"),
        lambda client: list(client.stream_generate("nope", "hello")),
        lambda client: client.chat_answer("nope", [{"role": "user", "content": "hello"}]),
        lambda client: client.create("x", from_model="nope"),
    ],
    ids=["show", "delete", "copy", "load", "unload", "generate", "stream", "chat", "create"],
)
def test_a_model_that_is_not_installed_is_called_missing(client, call):
    with pytest.raises(OllamaModelMissing) as missing:
        call(client)

    assert missing.value.model == "nope"


def test_a_copy_is_a_second_name_and_deleting_it_leaves_the_first(ollama, client):
    ollama.install(SMALL)

    client.copy(SMALL, "llama3.2:1b-instruct")
    digests = {model.name: model.digest for model in client.tags()}
    client.delete("llama3.2:1b-instruct")

    assert digests[SMALL] == digests["llama3.2:1b-instruct"]
    assert [model.name for model in client.tags()] == [SMALL]
    assert client.check_model_exists(SMALL)
    assert not client.check_model_exists("llama3.2:1b-instruct")


def test_a_model_is_made_from_another(ollama, client):
    ollama.install(SMALL)

    events = list(
        client.create("critic", from_model=SMALL, system="You judge photographs.", parameters={"temperature": 0.2})
    )

    assert events[-1] == {"status": "success"}
    details = client.show("critic")
    assert details.system == "You judge photographs."
    assert "temperature" in details.parameters


def test_a_base_that_is_not_installed_is_not_fetched(client):
    with pytest.raises(OllamaModelMissing):
        client.create("critic", from_model=SMALL)

    assert client.tags() == []


def test_a_file_is_sent_once_and_what_is_no_model_makes_none(ollama, client, tmp_path):
    content = b"no GGUF: " + ollama.url.encode() + str(time.time_ns()).encode()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    (tmp_path / "m.gguf").write_bytes(content)

    assert not client.has_blob(digest)
    client.push_blob(digest, tmp_path / "m.gguf")
    client.push_blob(digest, tmp_path / "m.gguf")
    assert client.has_blob(digest)
    with pytest.raises(OllamaError, match="not in GGUF format"):
        list(client.create("m", files={"m.gguf": digest}))
    assert client.tags() == []


def test_a_file_with_another_digest_is_not_taken(client, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    digest = "sha256:" + "1" * 64

    with pytest.raises(OllamaError, match="digest mismatch"):
        client.push_blob(digest, tmp_path / "m.gguf")

    assert not client.has_blob(digest)


def test_a_model_is_loaded_and_unloaded(ollama, client):
    ollama.install(SPEAKER)

    client.load(SPEAKER, keep_alive="5m", options={"num_ctx": 1024, "num_gpu": 0})
    (running,) = client.running()

    assert running.name == SPEAKER
    assert running.context_tokens == 1024
    assert running.size_bytes is None or running.size_bytes > 0
    client.unload(SPEAKER)
    wait_until(lambda: client.running() == [], "the model is unloaded")


def test_a_time_that_ollama_does_not_understand_is_refused(ollama, client):
    ollama.install(SMALL)

    with pytest.raises(OllamaError, match="missing unit in duration") as error:
        client.load(SMALL, keep_alive="5")

    assert error.value.upstream_status == 400


# --- what it answers ---


def test_an_answer_comes_with_its_figures(ollama, client):
    ollama.install(SPEAKER)

    answer = client.generate_answer(SPEAKER, "hello", options=OPTIONS)

    assert answer.text
    assert answer.done_reason == "length"
    assert answer.answer_tokens == 6
    assert answer.tokens_per_second > 0
    assert answer.total_seconds >= answer.answer_seconds > 0
    assert client.get_performance_stats(SPEAKER)["successful_calls"] == 1


def test_the_pieces_of_a_streamed_answer_are_the_whole(ollama, client):
    ollama.install(SPEAKER)

    *pieces, answer = client.stream_generate(SPEAKER, "hello", options=OPTIONS)

    assert len(pieces) > 1
    assert isinstance(answer, Answer)
    assert "".join(pieces) == answer.text


def test_a_conversation_is_answered(ollama, client):
    ollama.install(SPEAKER)

    answer = client.chat_answer(SPEAKER, [{"role": "user", "content": "hello"}], options=OPTIONS)

    assert answer.text
    assert answer.answer_tokens == 6


def test_the_alias_of_a_download_answers_for_autodev(ollama, client):
    ollama.install(SPEAKER)
    ollama.alias(SPEAKER, "llama3.2:1b-instruct")

    assert isinstance(client.generate("llama3.2:1b-instruct", "hello", max_tokens=6), str)


def test_leaving_a_streamed_answer_leaves_ollama_ready_for_the_next(ollama, client):
    ollama.install(SPEAKER)
    stream = client.stream_generate(SPEAKER, "hello", options=OPTIONS)
    next(stream)
    stream.close()

    assert client.generate_answer(SPEAKER, "hello", options=OPTIONS).text


@pytest.mark.parametrize(
    ("wishes", "words"),
    [({"options": {"temperature": "hot"}}, "must be of type float32"), ({"think": True}, "does not support thinking")],
    ids=["option", "thinking"],
)
def test_what_a_model_cannot_do_is_said_in_ollamas_words(ollama, client, wishes, words):
    ollama.install(SMALL)

    with pytest.raises(OllamaError, match=words):
        client.generate_answer(SMALL, "hello", **wishes)


def test_many_threads_share_a_client(ollama, client):
    ollama.install(SMALL)

    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(lambda _: [model.name for model in client.tags()], range(64)))

    assert seen == [[SMALL]] * 64


# --- ending a pull ---


def test_closing_a_pull_stops_it_and_the_next_goes_on_from_there(ollama, client):
    pull = client.pull(BIG)
    arrived = next_progress(pull)["completed"]
    begun = time.monotonic()
    pull.close()
    assert time.monotonic() - begun < 1.0

    # A pull that comes while the old one is still ending may hear of its end: that one heals by trying again.
    for _ in range(10):
        try:
            with client.pull(BIG) as again:
                assert BIG not in [model.name for model in client.tags()]
                first = next_progress(again)
                list(again)
            break
        except PullFailed as failed:
            assert failed.heals_by_retrying
    assert first["completed"] >= arrived
    assert BIG in [model.name for model in client.tags()]


def test_a_reader_who_waits_is_woken_by_closing(ollama, client):
    pull = client.pull(BIG)
    ended = threading.Event()

    def read() -> None:
        with pytest.raises(PullEnded):
            while True:
                pull.read(60.0)
        ended.set()

    next_progress(pull)
    reader = threading.Thread(target=read)
    reader.start()
    pull.close()

    assert ended.wait(1.0)


def test_the_simulator_sees_a_pull_closed_within_a_second(ollama, client):
    simulator = ollama.simulator("looking at its running pulls")
    simulator.set_fault("stall", at_bytes=10_000_000)
    pull = client.pull(BIG)
    next_progress(pull)
    before = simulator.state()
    begun = time.monotonic()
    pull.close()

    wait_until(lambda: simulator.state() != before, "the pull is gone", deadline_s=1.0)
    assert time.monotonic() - begun < 1.0


# --- trouble, to order ---


@pytest.mark.parametrize(
    ("kind", "details", "reason", "heals"),
    [
        ("unknown_model", {}, "unknown_model", False),
        ("registry_refused", {}, "registry_unreachable", True),
        ("registry_no_such_host", {}, "registry_unreachable", True),
        ("registry_status", {"status": 500}, "registry_error", True),
        ("registry_status", {"status": 403}, "registry_error", False),
        ("registry_html", {}, "registry_error", True),
        ("too_new", {}, "too_new", False),
        ("cut_stream", {"at_bytes": 1_000_000}, "cut_short", True),
        ("cut_stream", {"at_bytes": 1_000_000, "abrupt": True}, "cut_short", True),
        ("disk_full", {"at_bytes": 1_000_000}, "disk_full", False),
        ("context_canceled", {"at_bytes": 1_000_000}, "upstream_cancelled", True),
        ("retries_exhausted", {"at_bytes": 1_000_000}, "retries_exhausted", True),
        ("digest_mismatch", {}, "digest_mismatch", True),
    ],
)
def test_every_end_of_a_pull_has_its_reason(ollama, client, kind, details, reason, heals):
    ollama.simulator(f"the fault {kind}").set_fault(kind, **details)

    with client.pull(BIG) as pull, pytest.raises(PullFailed) as failed:
        list(pull)

    assert (failed.value.reason, failed.value.heals_by_retrying) == (reason, heals)
    assert client.tags() == []


def test_a_pull_whose_counter_falls_succeeds_all_the_same(ollama, client):
    ollama.simulator("a connection that is reset").set_fault("goes_back", at_bytes=100_000_000, to_bytes=10_000_000)

    with client.pull(BIG) as pull:
        counts = [event["completed"] for event in pull if "completed" in event]

    assert any(later < earlier for earlier, later in pairwise(counts))
    assert [model.name for model in client.tags()] == [BIG]


def test_a_dead_download_repeats_itself_and_a_silent_one_says_nothing(ollama, client):
    simulator = ollama.simulator("a registry that falls asleep")
    simulator.set_fault("stall", at_bytes=10_000_000, model=BIG)
    with client.pull(BIG) as pull:
        wait_until(lambda: next_progress(pull)["completed"] >= 10_000_000, "it stands still")
        assert next_progress(pull) == next_progress(pull)
    simulator.clear_faults()
    simulator.set_fault("silence", at_bytes=0, model=SPEAKER)
    with client.pull(SPEAKER) as pull:
        pull.read(1.0)
        wait_until(lambda: pull.read(0.1) is None, "it is silent")


@pytest.mark.parametrize(
    ("kind", "details", "error", "words"),
    [
        ("busy", {}, OllamaBusy, "more requests waiting"),
        ("forbidden", {}, OllamaError, "refuses to be called by the name"),
        ("proxy_error", {}, OllamaError, "a web page"),
        ("dropped", {}, OllamaUnavailable, "the connection was cut"),
        ("slow_answer", {"seconds": 30}, OllamaTimeout, "within 0.3 s"),
        ("load_failed", {"text": "llama-server reported out-of-memory during startup: x"}, OllamaError, "smaller"),
        ("slow_load", {"seconds": 30}, OllamaTimeout, "within 0.3 s"),
        ("cut_generation", {"after_tokens": 1}, AnswerCutShort, "in the middle of its answer"),
        ("cut_generation", {"after_tokens": 0}, AnswerCutShort, "after 0 characters"),
        ("runner_crash", {"after_tokens": 0}, OllamaError, "unexpectedly stopped"),
        ("runner_crash", {"after_tokens": 2}, OllamaError, "while running the model"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_every_trouble_of_a_generation_is_a_typed_error(ollama, client, kind, details, error, words, streamed):
    simulator = ollama.simulator(f"the fault {kind}")
    ollama.install(SPEAKER)
    simulator.set_fault(kind, **details)
    call = client.stream_generate if streamed else client.generate_answer

    with pytest.raises(error, match=words):
        list(call(SPEAKER, "hello", timeout_s=0.3 if "slow" in kind else 10.0))

    assert client.get_performance_stats(SPEAKER)["failed_calls"] == 1

"""What the simulator adds to what every Ollama promises: its life, its memory, its faults, and its name."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

import ollama_simulator
from model_core.names import parse
from model_core.records import GIB, MIB
from model_core.simulated_library import make_model
from ollama_simulator import FAULTS, OllamaSimulator

SMALL, LARGE = "llama3.2:1b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M"
ROOT = Path(ollama_simulator.__file__).parent


def post(simulator: OllamaSimulator, path: str, **body) -> requests.Response:
    return requests.post(simulator.url + path, json=body, timeout=20)


def get(simulator: OllamaSimulator, path: str) -> dict:
    return requests.get(simulator.url + path, timeout=20).json()


def wait_until(true, deadline_s: float = 20.0) -> None:
    until = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


# --- what it is ---


def test_it_says_that_it_is_simulated(simulator):
    assert "simulator" in get(simulator, "/api/version")["version"]


def test_it_offers_the_models_of_the_catalogue(simulator):
    post(simulator, "/api/pull", model=LARGE)

    (model,) = get(simulator, "/api/tags")["models"]
    assert model["size"] == 4_920_753_328
    assert model["digest"].startswith("46e0c10c039e")
    assert model["details"]["parameter_size"] == "8.0B"


def test_it_keeps_what_it_was_asked(simulator):
    post(simulator, "/api/show", model="x")
    requests.post(simulator.url + "/api/pull", data=b"{", timeout=20)
    get(simulator, "/api/tags")

    assert simulator.requests == [
        ("POST", "/api/show", {"model": "x"}),
        ("POST", "/api/pull", None),
        ("GET", "/api/tags", None),
    ]


def test_it_tells_how_many_pulls_of_a_model_ran_at_once(simulator):
    simulator.set_fault("stall", at_bytes=1000)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(post, simulator, "/api/pull", model=SMALL)
        try:
            wait_until(lambda: simulator.state()["pulling"].get(SMALL) == 2)
        finally:
            simulator.clear_faults()

    assert simulator.concurrent_pulls_peak[SMALL] == 2
    assert simulator.state()["pulling"] == {}


# --- its life ---


def test_stopping_ends_every_thread_at_once_whatever_hangs():
    simulator = OllamaSimulator(load_seconds=60, installed=[LARGE])
    before = set(threading.enumerate())
    simulator.start()
    simulator.set_fault("stall", at_bytes=1000, model=SMALL)
    simulator.set_fault("slow_answer", seconds=60, endpoint="/api/tags")
    idle = requests.Session()
    idle.get(simulator.url + "/api/version", timeout=20)
    with ThreadPoolExecutor(3) as pool:
        pool.submit(post, simulator, "/api/pull", model=SMALL)
        pool.submit(post, simulator, "/api/generate", model=LARGE)
        pool.submit(get, simulator, "/api/tags")
        try:
            wait_until(lambda: len(simulator.requests) == 4 and simulator.state()["pulling"])
        finally:
            started = time.monotonic()
            simulator.stop()
            took_s = time.monotonic() - started
    idle.close()

    assert took_s < 2
    assert {thread for thread in threading.enumerate() if "simulator" in thread.name} <= before


def test_nobody_answers_after_a_stop():
    with OllamaSimulator() as simulator:
        assert requests.get(simulator.url, timeout=20).text == "Ollama is running"

    with pytest.raises(requests.ConnectionError):
        requests.get(simulator.url, timeout=20)


def test_it_comes_back_on_the_same_port_with_its_models_and_its_halves(simulator):
    simulator.set_fault("cut_stream", at_bytes=500_000_000)
    post(simulator, "/api/pull", model=LARGE)
    simulator.install(SMALL)
    post(simulator, "/api/generate", model=SMALL)
    url = simulator.url
    simulator.stop()
    simulator.clear_faults()
    simulator.start()

    assert simulator.url == url
    assert list(simulator.state()["partial"].values()) == [500_000_000]
    assert [model["name"] for model in get(simulator, "/api/tags")["models"]] == [SMALL]
    assert get(simulator, "/api/ps") == {"models": []}
    assert post(simulator, "/api/pull", model=LARGE, stream=False).json() == {"status": "success"}
    assert simulator.bytes_sent_total <= 4_920_753_328


def test_a_taken_port_is_an_error(simulator):
    with pytest.raises(OSError, match="ddress"):
        OllamaSimulator(port=simulator.port).start()


def test_two_simulators_know_nothing_of_each_other(simulator):
    with OllamaSimulator() as other:
        simulator.install(SMALL)

        assert get(other, "/api/tags") == {"models": []}


def test_installing_what_the_library_lacks_says_what_it_has(simulator):
    with pytest.raises(KeyError, match=SMALL):
        simulator.install("nope")


# --- memory ---


def loaded(vram_bytes: int, *names: str, **options) -> list[dict]:
    with OllamaSimulator(load_seconds=0, vram_bytes=vram_bytes, installed=names) as simulator:
        for name in names:
            post(simulator, "/api/generate", model=name, options=options)
        return get(simulator, "/api/ps")["models"]


def test_a_model_that_fits_lies_wholly_on_the_card():
    (model,) = loaded(8 * GIB, LARGE)

    assert model["size_vram"] == model["size"] > 4_920_753_328
    assert model["context_length"] == 4096


def test_a_model_that_does_not_fit_spills():
    (model,) = loaded(4 * GIB, LARGE)

    assert 2 * GIB < model["size_vram"] < 4 * GIB < model["size"]


def test_a_part_of_the_card_is_never_filled():
    (model,) = loaded(8 * GIB, LARGE)
    (pressed,) = loaded(model["size"] + 456 * MIB, LARGE)
    (fitting,) = loaded(model["size"] + 457 * MIB, LARGE)

    assert pressed["size_vram"] < pressed["size"]
    assert fitting["size_vram"] == fitting["size"]


@pytest.mark.parametrize(("vram_bytes", "options"), [(0, {}), (8 * GIB, {"num_gpu": 0})])
def test_without_a_card_or_told_so_nothing_lies_on_it(vram_bytes, options):
    (model,) = loaded(vram_bytes, SMALL, **options)

    assert model["size_vram"] == 0
    assert model["size"] > 0


def test_more_context_takes_more_memory_by_what_the_cache_needs():
    ((short,), (long,)) = (loaded(24 * GIB, LARGE, num_ctx=tokens) for tokens in (4096, 8192))

    assert long["size"] - short["size"] == 4096 * 128 * 1024  # 128 KiB a token for the 8B model


def test_a_large_card_gives_a_longer_context_by_itself():
    assert loaded(24 * GIB, SMALL)[0]["context_length"] == 32_768


def test_an_idle_model_makes_room_for_one_that_needs_it():
    names = [model["name"] for model in loaded(6 * GIB, SMALL, LARGE)]

    assert names == [LARGE]


def test_a_model_that_is_speaking_finishes_before_it_makes_room():
    with OllamaSimulator(
        load_seconds=0, unload_seconds=0, tokens_per_second=200, vram_bytes=6 * GIB, installed=[SMALL, LARGE]
    ) as simulator:
        with ThreadPoolExecutor(1) as pool:
            speaking = pool.submit(post, simulator, "/api/generate", model=SMALL, prompt="x", stream=False)
            wait_until(lambda: get(simulator, "/api/ps")["models"])
            post(simulator, "/api/generate", model=LARGE)

        assert [model["name"] for model in get(simulator, "/api/ps")["models"]] == [LARGE]
        assert speaking.result().json()["done_reason"] == "stop"


def test_at_most_three_models_are_loaded_at_once():
    names = [
        f"llama3.2:{tag}"
        for tag in ("1b-instruct-q4_K_M", "1b-instruct-q8_0", "3b-instruct-q4_K_M", "3b-instruct-q8_0")
    ]

    assert len(loaded(24 * GIB, *names)) == 3


def test_the_memory_is_free_a_little_after_the_answer():
    with OllamaSimulator(load_seconds=0, unload_seconds=0.4, installed=[SMALL]) as simulator:
        post(simulator, "/api/generate", model=SMALL)
        post(simulator, "/api/generate", model=SMALL, keep_alive=0)
        (model,) = get(simulator, "/api/ps")["models"]

        assert model["name"] == SMALL
        wait_until(lambda: get(simulator, "/api/ps") == {"models": []})


def test_a_model_goes_by_itself_when_its_time_is_over(simulator):
    simulator.install(SMALL)
    post(simulator, "/api/generate", model=SMALL, keep_alive="20ms")

    wait_until(lambda: get(simulator, "/api/ps") == {"models": []})


def test_an_answer_that_has_begun_is_finished_before_its_model_goes():
    with OllamaSimulator(load_seconds=0, unload_seconds=0, tokens_per_second=200, installed=[SMALL]) as simulator:
        with ThreadPoolExecutor(1) as pool:
            speaking = pool.submit(post, simulator, "/api/generate", model=SMALL, prompt="x", stream=False)
            wait_until(lambda: get(simulator, "/api/ps")["models"])
            post(simulator, "/api/generate", model=SMALL, keep_alive=0)
            still_there = get(simulator, "/api/ps")["models"]

        assert speaking.result().json()["done_reason"] == "stop"
        assert [model["name"] for model in still_there] == [SMALL]
        assert get(simulator, "/api/ps") == {"models": []}


def test_the_time_to_stay_begins_when_the_answer_ends():
    with OllamaSimulator(load_seconds=0, unload_seconds=0, tokens_per_second=100, installed=[SMALL]) as simulator:
        answer = post(simulator, "/api/generate", model=SMALL, prompt="x", stream=False, keep_alive="300ms")

        assert answer.json()["eval_duration"] > 300e6
        assert len(get(simulator, "/api/ps")["models"]) == 1


def test_loads_stand_in_a_row_and_are_not_seen_before_they_are_done():
    with OllamaSimulator(load_seconds=0.25, installed=[SMALL, LARGE]) as simulator, ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        loads = [pool.submit(post, simulator, "/api/generate", model=name) for name in (SMALL, LARGE)]
        seen_early = get(simulator, "/api/ps")["models"]
        for load in loads:
            load.result()

        assert seen_early == []
        assert time.monotonic() - started >= 0.5


def test_who_hangs_up_while_a_model_loads_ends_the_load():
    with OllamaSimulator(load_seconds=60, installed=[SMALL]) as simulator:
        with pytest.raises(requests.ReadTimeout):
            requests.post(simulator.url + "/api/generate", json={"model": SMALL}, timeout=0.1)
        simulator.pace.load_seconds = 0.0

        assert post(simulator, "/api/generate", model=SMALL).json()["done_reason"] == "load"


# --- faults ---


def test_a_fault_that_does_not_exist_is_refused_with_the_list(simulator):
    with pytest.raises(ValueError, match="stall"):
        simulator.set_fault("no_such")


def test_faults_can_be_set_and_ended_over_http(simulator):
    armed = post(simulator, "/_simulator/fault", kind="registry_status", times=3, status=503)
    failed = post(simulator, "/api/pull", model=SMALL, stream=False)
    ended = requests.delete(simulator.url + "/_simulator/fault", timeout=20)
    pulled = post(simulator, "/api/pull", model=SMALL, stream=False)

    assert armed.json()["faults"] == [{"kind": "registry_status", "times": 3, "status": 503}]
    assert failed.json() == {"error": "pull model manifest: 503: boom"}
    assert (ended.status_code, pulled.json()) == (204, {"status": "success"})
    assert get(simulator, "/_simulator/state")["installed"] == [SMALL]


@pytest.mark.parametrize("body", [{"kind": "nope"}, {}, {"kind": "stall", "times": 1, "self": 1}])
def test_a_wrong_fault_over_http_is_refused(simulator, body):
    assert post(simulator, "/_simulator/fault", **body).status_code == 400


@pytest.mark.parametrize(
    ("kind", "details", "status", "text"),
    [
        ("forbidden", {}, 403, ""),
        ("proxy_error", {}, 502, "502 Bad Gateway"),
        ("proxy_error", {"status": 504}, 504, "502 Bad Gateway"),
        ("busy", {}, 503, "server busy, please try again.  maximum pending requests exceeded"),
        ("load_failed", {}, 500, "llama-server process has terminated"),
        ("runner_crash", {"after_tokens": 0}, 500, "model runner has unexpectedly stopped"),
    ],
)
def test_a_generation_meets_the_fault_and_then_works_again(simulator, kind, details, status, text):
    simulator.install(SMALL)
    simulator.set_fault(
        kind, endpoint=None if kind in ("load_failed", "runner_crash") else "/api/generate", times=1, **details
    )
    elsewhere = requests.get(simulator.url + "/api/tags", timeout=20)
    answers = [post(simulator, "/api/generate", model=SMALL, prompt="x", stream=False) for _ in range(2)]

    assert elsewhere.status_code == 200
    assert [answer.status_code for answer in answers] == [status, 200]
    assert text in answers[0].text


def test_a_prompt_longer_than_the_context_is_cut_without_a_word_or_refused_where_that_is_asked_for(simulator):
    simulator.install(SMALL)
    asked = {"model": SMALL, "prompt": "word " * 600, "stream": False, "options": {"num_ctx": 256, "num_predict": 2}}

    cut = post(simulator, "/api/generate", **asked)
    refused = post(simulator, "/api/generate", **asked, truncate=False)

    assert (cut.status_code, cut.json()["prompt_eval_count"]) == (200, 130)
    assert refused.status_code == 400
    assert json.loads(refused.json()["error"])["error"]["n_ctx"] == 256


def test_a_generation_can_break_off_without_a_word(simulator):
    simulator.install(SMALL)
    simulator.set_fault("cut_generation", after_tokens=3)
    pieces = [json.loads(line) for line in post(simulator, "/api/generate", model=SMALL, prompt="x").text.splitlines()]
    whole = post(simulator, "/api/generate", model=SMALL, prompt="x", stream=False).json()

    assert [piece["done"] for piece in pieces] == [False] * 3
    assert whole["done"] is False
    assert "eval_count" not in whole
    assert whole["response"] == "".join(piece["response"] for piece in pieces)


def test_a_generation_can_break_off_within_the_encoding(simulator):
    simulator.install(SMALL)
    simulator.set_fault("cut_generation", after_tokens=3, abrupt=True)

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        post(simulator, "/api/generate", model=SMALL, prompt="x")


def test_nothing_at_all_has_not_even_a_name(simulator):
    simulator.install(SMALL)
    simulator.set_fault("cut_generation", after_tokens=0)

    assert post(simulator, "/api/generate", model=SMALL, prompt="x", stream=False).json() == {
        "model": "", "created_at": "0001-01-01T00:00:00Z", "response": "", "done": False,
    }  # fmt: skip


def test_a_runner_can_crash_in_the_middle_of_a_stream(simulator):
    simulator.install(SMALL)
    simulator.set_fault("runner_crash", after_tokens=2)
    answer = post(simulator, "/api/chat", model=SMALL, messages=[{"role": "user", "content": "x"}])
    lines = [json.loads(line) for line in answer.text.splitlines()]

    assert answer.status_code == 200
    assert [sorted(line) for line in lines] == [["created_at", "done", "message", "model"]] * 2 + [["error"]]
    assert lines[-1]["error"].startswith("an error was encountered while running the model: ")


def test_a_dropped_connection_gives_no_answer(simulator):
    simulator.set_fault("dropped", times=1)

    with pytest.raises(requests.ConnectionError):
        get(simulator, "/api/tags")
    assert get(simulator, "/api/tags") == {"models": []}


def test_every_fault_is_met_somewhere(simulator):
    simulator.install(SMALL)
    for kind in FAULTS:
        simulator.set_fault(kind, times=1, seconds=0)
        if kind in ("stall", "silence"):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(post, simulator, "/api/pull", model=LARGE)
                try:
                    wait_until(lambda: not simulator.faults.armed())
                finally:
                    simulator.clear_faults()
        else:
            for path, body in (("/api/pull", {"model": LARGE}), ("/api/generate", {"model": SMALL, "prompt": "x"})):
                try:
                    post(simulator, path, stream=False, **body)
                except requests.ConnectionError:
                    assert kind in ("dropped", "cut_stream")
        requests.delete(simulator.url + "/api/delete", json={"model": LARGE}, timeout=20)
        get(simulator, "/api/tags")
        simulator.stop()  # a load is to happen again, and the weights are to be pulled again
        simulator.start()

        assert simulator.faults.armed() == [], kind


# --- the wire ---


def raw(simulator: OllamaSimulator, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


def test_lines_arrive_one_by_one_in_chunks(simulator):
    answer = raw(
        simulator,
        b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: 35\r\nConnection: close\r\n\r\n"
        b'{"model": "nope", "insecure": true}',
    )

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body.startswith(b'1e\r\n{"status":"pulling manifest"}\n\r\n')
    assert body.endswith(b"\r\n0\r\n\r\n")


def test_a_request_in_chunks_is_understood(simulator):
    parts = iter([b'{"mod', b'el": "NoPe"}'])
    answer = requests.post(simulator.url + "/api/show", data=parts, timeout=20)

    assert answer.json() == {"error": "model 'NoPe:latest' not found"}


def test_one_connection_serves_many_requests(simulator):
    one = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answers = raw(simulator, one + one + last)

    assert answers.count(b"0.33.0-simulator") == 2
    assert answers.endswith(b"Ollama is running")


def test_a_body_that_nobody_read_does_not_spoil_the_next_request(simulator):
    simulator.install(SMALL)
    digest = simulator.models.find(parse(SMALL)).model.weights.digest
    with requests.Session() as session:
        there = session.post(f"{simulator.url}/api/blobs/{digest}", data=b"x" * 1000, timeout=20)
        after = session.get(simulator.url + "/api/version", timeout=20)

    assert (there.status_code, after.status_code) == (200, 200)


def test_an_uploaded_file_becomes_a_model(simulator):
    data = b"GGUF" + bytes(range(256)) * 40
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    created = requests.post(f"{simulator.url}/api/blobs/{digest}", data=data, timeout=20)
    lines = post(simulator, "/api/create", model="mine", files={"m.gguf": digest}).text.splitlines()

    assert created.status_code == 201
    assert json.loads(lines[-1]) == {"status": "success"}
    assert get(simulator, "/api/tags")["models"][0]["size"] > len(data)


def test_many_clients_at_once_are_all_answered(simulator):
    simulator.install(SMALL)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: get(simulator, "/api/tags"), range(200)))

    assert all(len(answer["models"]) == 1 for answer in answers)


# --- time ---


def test_progress_comes_at_the_given_rate():
    model = make_model("m", size_bytes=100 * MIB)
    with OllamaSimulator(library={"m": model}, rate_bytes_per_s=400 * MIB, tick_s=0.02) as simulator:
        started = time.monotonic()
        lines = post(simulator, "/api/pull", model="m").text.splitlines()
        took_s = time.monotonic() - started

    assert took_s >= 0.25
    assert 8 <= sum("pulling " in line and "digest" in line for line in lines) <= 13


def test_a_generation_takes_as_long_as_its_tokens_need():
    with OllamaSimulator(load_seconds=0, tokens_per_second=100, installed=[SMALL]) as simulator:
        answer = post(
            simulator, "/api/generate", model=SMALL, prompt="x", stream=False, options={"num_predict": 10}
        ).json()

    assert answer["eval_count"] == 10
    assert 0.1e9 <= answer["eval_duration"] < 1e9


def read_in_ns(simulator, prompt, **more) -> tuple[int, int]:
    """How many tokens of a prompt were counted, and how long it took to read them."""
    body = {"model": SMALL, "prompt": prompt, "stream": False, "options": {"num_predict": 1}, **more}
    answer = post(simulator, "/api/generate", **body).json()
    return answer["prompt_eval_count"], answer["prompt_eval_duration"]


def test_what_was_just_read_is_counted_again_but_not_read_again():
    prompt = "one two three four five six seven eight nine ten"
    with OllamaSimulator(load_seconds=0, tokens_per_second=1000, installed=[SMALL]) as simulator:
        first, again = read_in_ns(simulator, prompt), read_in_ns(simulator, prompt)
        another, marked = read_in_ns(simulator, "something else"), read_in_ns(simulator, f"Request 1. {prompt}")

    assert first[0] == again[0]
    assert again[1] < first[1] / 5
    assert another[1] > again[1]
    assert marked[1] > first[1]


def test_a_model_that_was_loaded_again_has_read_nothing():
    with OllamaSimulator(load_seconds=0, unload_seconds=0, tokens_per_second=1000, installed=[SMALL]) as simulator:
        first = read_in_ns(simulator, "one two three four five", keep_alive=0)
        wait_until(lambda: get(simulator, "/api/ps") == {"models": []})

        assert read_in_ns(simulator, "one two three four five") == first


def test_an_image_is_read_before_the_prompt_and_after_what_the_system_says():
    seeing = "gemma3:4b-it-q4_K_M"
    shown = {"model": seeing, "images": ["aGVsbG8="]}
    with OllamaSimulator(load_seconds=0, tokens_per_second=100_000, installed=[seeing]) as simulator:
        first = read_in_ns(simulator, "What is it?", **shown)
        other_words = read_in_ns(simulator, "Which light?", **shown)
        other_system = read_in_ns(simulator, "Which light?", **shown, system="Request 1.")

    assert other_words[1] < first[1] / 5
    assert other_system[1] > first[1] / 5


# --- alone ---


def test_it_runs_alone_and_says_where_it_listens():
    command = [sys.executable, "ollama_simulator.py", "--port", "0", "--rate", "1e9", "--installed", SMALL]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            url = line.split(" listens at ")[1].split(";")[0]

            assert line.startswith("A simulated Ollama")
            assert requests.get(url + "/api/tags", timeout=20).json()["models"][0]["name"] == SMALL
        finally:
            process.terminate()

"""The service as a process of its own: how it starts, what goes over the line, what it logs, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from download_scenes import held_up, standing, until
from rest_api import NOBODY, ONE_B, ONE_B_TAG, PROBLEM, THREE_B, THREE_B_TAG, problem
from service_process import Service, parsed, raw_request

from app import create_app, main
from model_settings import load_settings
from ollama_simulator import OllamaSimulator

HOST = "Host: localhost"
ENDS_WITHIN_S = 5.0
windows = pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for every test that leaves it as it was."""
    with (
        OllamaSimulator(installed=[ONE_B_TAG]) as ollama,
        Service(ollama, tmp_path_factory.mktemp("running") / "model_metadata.json") as service,
    ):
        yield service


@pytest.fixture
def document(tmp_path: Path) -> Path:
    return tmp_path / "model_metadata.json"


# --- over the line ---------------------------------------------------------------------------------------------------


def test_the_three_things_to_try_can_be_tried(running):
    commands = [line.split() for line in running.said if line.startswith("  curl")]

    assert len(commands) == 3
    for *options, url in commands:
        method = options[options.index("-X") + 1] if "-X" in options else "GET"
        assert running.session.request(method, url, timeout=10).json()["success"] is True


IN_EVERY_FORM = [
    *("library/{}", "library%2F{}", "library%2f{}", "registry.ollama.ai/library/{}"),
    "registry.ollama.ai%2Flibrary%252F{}",
]


@pytest.mark.parametrize("name", IN_EVERY_FORM)
def test_a_name_with_slashes_arrives_in_every_form(running, name):
    request = raw_request(f"GET /api/model/info/{name.format(ONE_B)} HTTP/1.1", HOST)

    status, _, body = parsed(running.send_raw(request))

    assert (status, body["model"]["name"]) == (200, ONE_B)


WRONG = {
    "no such address": ("GET /nowhere HTTP/1.1", 404),
    "the root": ("GET / HTTP/1.1", 404),
    "twice a slash": ("GET /api/model//list HTTP/1.1", 404),
    "up and out": ("GET /api/model/../../etc/passwd HTTP/1.1", 404),
    "everything": ("OPTIONS * HTTP/1.1", 404),
    "another method": ("TRACE /api/model/list HTTP/1.1", 405),
    "no method": ("NONSENSE /api/model/list HTTP/1.1", 405),
    "a long name": (f"GET /api/model/info/{'a' * 10_000} HTTP/1.1", 400),
    "NUL": ("GET /api/model/info/%00 HTTP/1.1", 400),
    "a longer one": (f"GET /api/model/info/{'a' * 100_000} HTTP/1.1", 414),
    "bytes": ("GET /api/model/info/\xe9 HTTP/1.1", 400),
    "a proxy's": ("GET http://evil.example/api/model/list HTTP/1.1", 400),
    "small": ("get /api/model/list HTTP/1.1", 400),
    "no request": ("what?", 400),
    "another protocol": ("GET /api/model/list HTTP/9.9", 505),
}


@pytest.mark.parametrize(("line", "status"), WRONG.values(), ids=WRONG)
def test_whatever_goes_wrong_is_answered_as_a_problem(running, line, status):
    answered, headers, body = parsed(running.send_raw(raw_request(line, HOST)))

    assert (answered, headers["content-type"]) == (status, PROBLEM)
    assert (body["success"], body["status"]) == (False, status)
    assert "Traceback" not in str(body)


@pytest.mark.parametrize(
    "headers",
    [(), ("Host:",), ("Host: evil.example",), ("Host: localhost", "Host: evil.example"), ("Host: x@localhost",)],
)
def test_a_request_under_another_name_is_not_answered(running, headers):
    status, _, body = parsed(running.send_raw(raw_request("GET /api/model/list HTTP/1.1", *headers)))

    assert (status, body["code"]) == (403, "host_not_allowed")


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def test_a_body_may_come_in_pieces(running):
    body = chunked(b'{"model": "llama3.2:', b'1b-instruct"}')
    heads = (HOST, "Content-Type: application/json", "Transfer-Encoding: chunked")

    status, _, answer = parsed(
        running.send_raw(raw_request("POST /api/model/check_compatibility HTTP/1.1", *heads, body=body))
    )

    assert (status, answer["model"]) == (200, ONE_B)


def test_what_is_cut_off_at_the_limit_is_not_acted_upon(running):
    whole = b'{"model": "llama3.2:1b-instruct"}'
    body = chunked(whole, *[b" " * 0x4000] * 5)
    heads = (HOST, "Content-Type: application/json", "Transfer-Encoding: chunked")

    status, _, answer = parsed(
        running.send_raw(raw_request("POST /api/model/check_compatibility HTTP/1.1", *heads, body=body))
    )

    assert (status, answer["code"]) == (413, "payload_too_large")


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(running):
    heads = (HOST, "Content-Type: application/json", "Content-Length: 1000000000")

    status, _, answer = parsed(running.send_raw(raw_request("POST /api/model/switch HTTP/1.1", *heads)))

    assert (status, answer["limit_bytes"]) == (413, 65536)


def test_a_client_that_waits_for_a_word_before_it_sends_gets_one(running):
    heads = (HOST, "Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue")

    answer = running.send_raw(raw_request("POST /api/model/recommend HTTP/1.1", *heads, body=b"{}"))

    assert answer.startswith(b"HTTP/1.1 100 ")
    assert parsed(answer.split(b"\r\n\r\n", 1)[1])[0] == 200


def test_head_sends_no_body(running):
    status, headers, body = parsed(running.send_raw(raw_request("HEAD /api/model/list HTTP/1.1", HOST)))

    assert (status, headers["content-type"], body) == (200, "application/json", None)


def test_a_connection_goes_on_after_a_refusal(running):
    for path, status in (("/list", 200), ("/nowhere", 404), ("/list?max_vram=x", 400), ("/list", 200)):
        assert running.ask("GET", path).status_code == status


# --- the log ---------------------------------------------------------------------------------------------------------


def test_each_request_is_one_line_without_its_query_and_without_secrets(simulator, document):
    wrong, right = ({"Authorization": f"Bearer a-very-secret-{end}"} for end in ("tokem", "token"))
    paths = {
        "/list?purpose=speed&ticket=a-very-secret-ticket": 401,
        "/nowhere?x=a-very-secret-one": 401,
        "/info/a%0D%0A2026-11-23 00:00:00 INFO all is well": 404,
        "/info/" + "a" * 5_000: 401,
    }
    with Service(simulator, document, token="a-very-secret-token") as service:
        for path, status in paths.items():
            assert service.ask("GET", path, headers=wrong).status_code == status
        assert service.ask("GET", "/list", headers=right).status_code == 200
        service.end()
        told = "\n".join(service.said)
        lines = [line for line in service.log.splitlines() if " status=" in line]

    assert [re.search(r"status=(\d+) ms=\d+\.\d$", line)[1] for line in lines] == ["401", "401", "404", "401", "200"]
    assert " GET /api/model/list " in lines[0]
    assert "Authorization: Bearer" in told
    assert "secret" not in told + service.log
    assert "\n2026-11-23 00:00:00 INFO all is well" not in service.log
    assert max(map(len, lines)) < 400


# --- the start -------------------------------------------------------------------------------------------------------


def test_without_ollama_it_starts_and_says_in_one_line_how_to_get_it(document):
    with Service(NOBODY, document) as service:
        told = until(lambda: [line for line in service.said if "ollama.com/download" in line], "the word on Ollama")

        assert len(told) == 1
        assert "127.0.0.1:1" in told[0]
        assert service.get("/list")["ollama"]["reachable"] is False
        code, took_s = service.end()
    assert (code, took_s < ENDS_WITHIN_S) == (0, True)


@pytest.mark.slow
def test_an_ollama_that_comes_later_is_noticed_and_remembered(document):
    ollama = OllamaSimulator(installed=[ONE_B_TAG])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ollama.port = listener.getsockname()[1]
    with Service(f"http://127.0.0.1:{ollama.port}", document) as service:
        until(lambda: "ollama.com/download" in "\n".join(service.said), "the word on Ollama")
        with ollama:
            until(lambda: "caught up" in service.log, "the sync")
            assert service.get("/installed")["models"] == [ONE_B]
            assert json.loads(document.read_text("utf-8"))["models"][ONE_B]["installed"] is True


def test_the_demonstration_says_so_and_touches_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine" / "model_metadata.json"
    with Service(NOBODY, mine, "--demo") as service:
        assert service.said[0].startswith("DEMONSTRATION")
        assert service.get("/list")["ollama"]["simulated"] is True
        assert problem(service.ask("GET", "/nowhere"), "not_found", 404)["ollama"] == {"simulated": True}
        assert service.post("/download", {"model": ONE_B})["download"]["state"] == "queued"
        path = Path(service.get("/health")["parts"]["store"]["path"])
        assert path.exists()
        code, took_s = service.end()

    assert (code, took_s < ENDS_WITHIN_S) == (0, True)
    assert not mine.exists()
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"MODEL_MANAGER_PORT": "many"}, [], ["MODEL_MANAGER_PORT", "'many'", "1 to 65535"]),
        ({}, ["--port", "70000"], ["MODEL_MANAGER_PORT", "70000"]),
        ({"MODEL_MANAGER_AUTO_RESUME": "perhaps"}, [], ["MODEL_MANAGER_AUTO_RESUME", "true or false"]),
        ({"OLLAMA_HOST": "ftp://photos.lan"}, [], ["OLLAMA_HOST", "ftp://photos.lan"]),
        ({"MODEL_MANAGER_HOST": "0.0.0.0"}, [], ["MODEL_MANAGER_TOKEN"]),
        ({}, ["--host", "nobody.invalid"], ["MODEL_MANAGER_HOST", "nobody.invalid"]),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start_with_a_sentence(monkeypatch, capsys, settings, options, words):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    assert main(options) == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert all(word in told.err for word in words), told.err
    assert "Traceback" not in told.err


def test_a_taken_port_stops_the_start_with_a_sentence(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        assert main(["--port", str(port)]) == 1

    told = capsys.readouterr().err
    assert f"Port {port} of 127.0.0.1 is taken" in told
    assert "--port" in told


def test_a_wrong_option_is_a_wrong_use(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--prot", "1"])

    assert caught.value.code == 2


def test_an_app_is_wired_once_and_asks_nobody(simulator, document):
    threads = threading.active_count()
    app = create_app(load_settings(None, ollama_host=simulator.url, metadata_file=document))

    assert simulator.requests == []
    assert threading.active_count() == threads
    assert app.extensions["model_manager"].store.path == document.resolve()


def test_settings_reach_the_manager_and_the_face(simulator, document):
    settings = load_settings(
        None,
        ollama_host=simulator.url,
        metadata_file=document,
        vram_gb=4,
        allowed_registries="registry.ollama.ai",
        allowed_hosts="photos.lan",
        allowed_origins="http://localhost:3000",
        token="ours",
    )
    client = create_app(settings).test_client()
    mine = {"Authorization": "Bearer ours", "Host": "photos.lan", "Origin": "http://localhost:3000"}

    asked = client.post("/api/model/recommend", headers=mine)
    refused = client.post("/api/model/download", json={"model": "hf.co/a/b:c"}, headers=mine)

    assert (asked.json["criteria"]["source"], asked.json["criteria"]["available_vram_gb"]) == ("setting", 4)
    problem(refused, "registry_not_allowed", 400)
    problem(client.get("/api/model/list", headers={**mine, "Authorization": ""}), "unauthorized", 401)
    problem(client.get("/elsewhere"), "not_found", 404)


# --- the end, and what comes after -----------------------------------------------------------------------------------


class Watcher:
    """Reads a download line by line, as a page or a script would, in a thread of its own."""

    def __init__(self, service: Service, model: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._answer = service.ask(
            "POST", "/download", {"model": model}, headers={"Accept": "application/x-ndjson"}, stream=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._answer.iter_lines(chunk_size=1):
            self.lines.append(json.loads(line))

    def end(self) -> dict[str, Any]:
        """Return the last line, once the answer has ended as an answer should."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.lines[-1]


def state_of(service: Service, job_id: str) -> str:
    return str(service.get(f"/downloads/{job_id}")["download"]["state"])


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, id="SIGTERM"), pytest.param(signal.SIGINT, id="Ctrl-C")]
)
@windows
def test_the_end_in_the_middle_of_a_download_is_quick_and_told_to_who_watches(simulator, document, number):
    with held_up(simulator), Service(simulator, document) as service:
        watcher = Watcher(service, ONE_B)
        until(standing(simulator), "the download to stand still")
        job = until(lambda: watcher.lines, "the first line")[0]["id"]

        def wait() -> None:
            # The end may come before the answer: that is no matter of this test.
            with suppress(OSError):
                service.ask("GET", f"/downloads/{job}?since=1000000&wait=60")

        waiting = threading.Thread(target=wait)
        waiting.start()

        code, took_s = service.end(number)

        waiting.join(5)
        assert (code, took_s < ENDS_WITHIN_S) == (0, True)
        assert watcher.end()["state"] == "interrupted"
        assert "Traceback" not in service.log
    kept = json.loads(document.read_text("utf-8"))["downloads"][job]
    assert kept["state"] == "interrupted"


@windows
def test_what_was_under_way_goes_on_by_itself_after_the_next_start(simulator, document):
    with held_up(simulator), Service(simulator, document) as service:
        job = service.post("/download", {"model": ONE_B})["download"]["id"]
        until(standing(simulator), "the download to stand still")
        service.end()

    with Service(simulator, document) as service:
        until(lambda: state_of(service, job) == "completed", "the end of the download")
        assert service.get("/installed")["models"] == [ONE_B]
    # What had come before the end was not fetched again: the weights are 0.8 GB.
    assert simulator.bytes_sent_total < 1_000_000_000


@windows
def test_what_was_under_way_waits_for_a_word_where_it_is_set_so(simulator, document):
    with held_up(simulator), Service(simulator, document) as service:
        job = service.post("/download", {"model": ONE_B})["download"]["id"]
        until(standing(simulator), "the download to stand still")
        service.end()
    pulls = [request.path for request in simulator.requests].count("/api/pull")

    with Service(simulator, document, auto_resume="false") as service:
        until(lambda: "caught up" in service.log, "the look at what was left behind")
        assert state_of(service, job) == "interrupted"
        assert ONE_B in service.get("/health")["parts"]["downloads"]["problem"]
        assert [request.path for request in simulator.requests].count("/api/pull") == pulls

        again = service.post("/download", {"model": ONE_B})["download"]

        assert again["id"] == job
        until(lambda: state_of(service, job) == "completed", "the end of the download")


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_a_benchmark_goes_on_by_itself_after_the_next_start(simulator, document, how):
    simulator.install(ONE_B_TAG)
    simulator.install(THREE_B_TAG)
    simulator.set_fault("slow_load", model=THREE_B_TAG, seconds=60)
    wish = {"models": [ONE_B, THREE_B], "prompts": ["Rate it."], "runs": 1}
    with Service(simulator, document) as service:
        job = service.post("/benchmarks", wish)["benchmark"]["id"]
        until(lambda: service.get(f"/benchmarks/{job}")["benchmark"]["done"] == 1, "the first answer")
        first = service.get(f"/benchmarks/{job}")["benchmark"]["results"][0]
        if how == "killed":
            service.kill()
        else:
            assert service.end()[0] == 0
    simulator.clear_faults()

    with Service(simulator, document) as service:
        done = until(
            lambda: (now := service.get(f"/benchmarks/{job}")["benchmark"])["state"] == "completed" and now,
            "the end of the benchmark",
        )

    assert [result["model"] for result in done["results"]] == [ONE_B, THREE_B]
    assert done["results"][0] == first


def test_after_a_kill_the_download_goes_on_and_every_acknowledged_record_is_there(simulator, document):
    with held_up(simulator), Service(simulator, document) as service:
        job = service.post("/download", {"model": ONE_B})["download"]["id"]
        until(standing(simulator), "the download to stand still")
        acknowledged, stop = [0], threading.Event()

        def record() -> None:
            while not stop.is_set():
                try:
                    acknowledged[0] += service.ask("POST", "/usage", {"model": THREE_B}).json()["recorded"]
                except OSError:  # it was killed while it answered
                    return

        recorder = threading.Thread(target=record)
        recorder.start()
        until(lambda: acknowledged[0] >= 20, "some records")
        service.kill()
        stop.set()
        recorder.join(10)

    with Service(simulator, document) as service:
        statistics = service.get(f"/statistics?model={THREE_B}")["statistics"]
        # One more may have been written whose acknowledgement was cut off.
        assert acknowledged[0] <= statistics["usage_count"] <= acknowledged[0] + 1
        until(lambda: state_of(service, job) == "completed", "the end of the download")
        assert service.get("/installed")["models"] == [ONE_B]


def test_two_services_on_one_document_see_the_same(simulator, document):
    simulator.install(ONE_B_TAG)
    with Service(simulator, document) as one, Service(simulator, document) as other:
        one.post("/switch", {"model": ONE_B})
        assert other.get("/current")["model"] == ONE_B

        with held_up(simulator):
            job = one.post("/download", {"model": THREE_B})["download"]["id"]
            assert other.post("/download", {"model": THREE_B})["download"]["id"] == job
            assert [shown["id"] for shown in other.get("/downloads")["downloads"]] == [job]
        until(lambda: state_of(other, job) == "completed", "the end of the download")

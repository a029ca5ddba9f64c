"""The server on real sockets, with apps of three lines."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from model_core.errors import CannotStart
from web_server import MAX_HEADER_BYTES, _PatientSocket, serve

ROOT = Path(__file__).resolve().parent.parent


class Running:
    """A server in a thread; ``events`` lists what it called, in order."""

    def __init__(self, app, threads=4, on_stopping=lambda: None, on_stop=lambda: None):
        self.events, self.ready, self.stop, self.failure = [], threading.Event(), threading.Event(), None
        self.on_stopping, self.on_stop = on_stopping, on_stop
        self.thread = threading.Thread(target=self._run, args=(app, threads), daemon=True)

    def _run(self, app, threads):
        try:
            serve(
                app,
                "127.0.0.1",
                0,
                threads,
                on_ready=self._ready,
                on_stopping=lambda: (self.events.append("stopping"), self.on_stopping()),
                on_stop=lambda: (self.events.append("stop"), self.on_stop()),
                stop=self.stop,
            )
        except Exception as error:
            self.failure = error

    def _ready(self, url):
        self.url, self.port = url, int(url.rpartition(":")[2])
        self.ready.set()

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(5)
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.stop.set()
        self.thread.join(6)
        assert not self.thread.is_alive()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def get(self, path="/", **headers):
        connection = self.connect()
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def send_raw(self, data):
        """Send bytes, return all that comes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(65536), b""))


def hello(environ, start_response):
    body = environ["PATH_INFO"].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def refuse_the_body(environ, start_response):
    start_response("413 Request Entity Too Large", [("Content-Length", "3")])
    return [b"no\n"]


@pytest.fixture(scope="module")
def greeter():
    """One server for every test that leaves it as it was: ending one takes half a second."""
    with Running(hello) as server:
        yield server


def test_port_0_takes_a_free_port_and_tells_which(greeter):
    assert greeter.url == f"http://127.0.0.1:{greeter.port}"
    assert greeter.port > 0
    assert greeter.get("/a")[::2] == (200, b"/a")


def test_an_escaped_slash_reaches_the_app_as_it_was_sent(greeter):
    assert greeter.get("/info/hf.co%2Fuser%2Fname%3Aq4")[2] == b"/info/hf.co%2Fuser%2Fname:q4"


def test_one_connection_serves_many_requests(greeter):
    with contextlib.closing(greeter.connect()) as connection:
        connection.request("GET", "/1")
        connection.getresponse().read()
        first = connection.sock.getsockname()
        connection.request("GET", "/2")

        assert connection.getresponse().read() == b"/2"
        assert connection.sock.getsockname() == first


def test_the_server_header_tells_no_version(greeter):
    assert greeter.get()[1]["Server"] == "junmai-model-manager"


def test_a_stream_flows_piece_by_piece():
    seen = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/x-ndjson")])
        yield b"first\n"
        assert seen.wait(5)
        yield b"second\n"

    with Running(app) as server, contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.readline() == b"first\n"
        seen.set()

        assert answer.read() == b"second\n"


def test_a_taken_port_is_refused_with_what_to_do():
    stopped = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=f"Port {port} of 127.0.0.1 is taken.*--port") as refusal:
            serve(hello, "127.0.0.1", port, 2, on_stop=lambda: stopped.append(True))

    assert refusal.value.variable == "MODEL_MANAGER_PORT"
    assert stopped == [True]


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"], ids=["not ours", "unknown"])
def test_a_host_that_is_not_this_machine_is_refused(host):
    with pytest.raises(CannotStart) as refusal:
        serve(hello, host, 0, 2)

    assert host in str(refusal.value)
    assert refusal.value.variable == "MODEL_MANAGER_HOST"


def test_connections_that_send_nothing_do_not_keep_others_waiting(greeter):
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # five times the threads
            stack.enter_context(socket.create_connection(("127.0.0.1", greeter.port)))
        began = time.monotonic()

        assert greeter.get()[0] == 200
        assert time.monotonic() - began < 2


def test_reading_ends_at_its_deadline_even_if_something_keeps_coming():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = _PatientSocket(ours)
        reader.deadline = time.monotonic() + 0.05
        with pytest.raises(TimeoutError):
            while True:
                theirs.send(b"x")
                reader.readinto(bytearray(1))


@pytest.mark.slow
def test_a_client_that_drips_its_headers_is_told_408():
    with Running(hello, threads=1) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n")
        stop = threading.Event()

        def drip():
            with contextlib.suppress(OSError):
                while not stop.wait(0.5):
                    sock.sendall(b"X-Drip: drop\r\n")

        dripping = threading.Thread(target=drip)
        dripping.start()
        sock.settimeout(15)

        assert sock.recv(1000).startswith(b"HTTP/1.1 408 ")
        stop.set()
        dripping.join()
        assert server.get()[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n", 413),
        (b"GET /" + b"x" * (MAX_HEADER_BYTES + 1) + b" HTTP/1.1\r\n\r\n", 414),
    ],
    ids=["no HTTP", "HTTP 9", "negative length", "length with underscore", "giant header", "giant address"],
)
def test_what_is_no_request_gets_a_problem_and_an_end(greeter, request_bytes, status):
    head, _, body = greeter.send_raw(request_bytes).partition(b"\r\n\r\n")

    problem = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in head
    assert problem["success"] is False
    assert problem["status"] == status
    assert problem["code"] == ("payload_too_large" if status == 413 else "invalid_request")


def test_a_client_that_sends_too_much_hears_why():
    # The body is larger than what fits in the buffers between us: a server that just closes resets the connection.
    with Running(refuse_the_body) as server, contextlib.closing(server.connect()) as connection:
        connection.request("POST", "/", body=b"x" * 32_000_000)

        assert connection.getresponse().status == 413


def test_a_chunked_body_that_nobody_read_is_not_taken_for_the_next_request(greeter):
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    answer = greeter.send_raw(b"POST /outer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)

    assert answer.count(b"HTTP/1.1") == 1
    assert b"/smuggled" not in answer


def test_an_app_that_raises_takes_no_thread_with_it():
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/exit":
            raise SystemExit(3)
        return hello(environ, start_response)

    with Running(app, threads=1) as server:
        for _ in range(3):
            with contextlib.suppress(http.client.HTTPException, OSError):
                server.get("/exit")

        assert server.get("/after")[0] == 200


def test_an_answer_under_way_is_finished_before_the_end():
    began, go_on = threading.Event(), threading.Event()
    answers = []

    def app(environ, start_response):
        began.set()
        assert go_on.wait(5)
        return hello(environ, start_response)

    with Running(app, on_stopping=go_on.set) as server:
        client = threading.Thread(target=lambda: answers.append(server.get("/late")))
        client.start()
        assert began.wait(5)
        server.end()
        client.join(5)

    assert answers[0][::2] == (200, b"/late")
    assert server.events == ["stopping", "stop"]
    assert server.failure is None


def test_answers_that_do_not_end_are_cut_off_within_five_seconds():
    began, for_ever = threading.Event(), threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"begun"
        began.set()
        for_ever.wait(30)

    with Running(app, on_stop=lambda: for_ever.wait(30)) as server, contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/")
        assert began.wait(5)
        asked = time.monotonic()
        server.end()

        assert time.monotonic() - asked < 5
        assert server.events == ["stopping", "stop"]
    for_ever.set()


def test_an_idle_connection_does_not_delay_the_end():
    with Running(hello) as server, contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()
        asked = time.monotonic()
        server.end()

        assert time.monotonic() - asked < 1.5


def test_what_fails_at_the_end_is_not_hidden():
    def fail():
        raise RuntimeError("the last write failed")

    with Running(hello, on_stop=fail) as server:
        server.end()

    assert str(server.failure) == "the last write failed"


_PROGRAM = """
from web_server import serve
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []
serve(app, "127.0.0.1", 0, 2, on_ready=lambda url: print(url, flush=True), on_stop=lambda: print("stopped", flush=True))
print("returned", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process at once when it is sent SIGTERM")
@pytest.mark.parametrize(
    "signals", [["SIGTERM"], ["SIGINT"], ["SIGINT", "SIGINT", "SIGTERM"], ["SIGHUP"]], ids="-".join
)
def test_a_signal_ends_it_cleanly(signals):
    # Whoever runs the tests may have been started under nohup, which is handed down.
    program = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n" + _PROGRAM
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        asked = time.monotonic()
        for name in signals:
            process.send_signal(getattr(signal, name))
        rest = process.stdout.read()

        assert process.wait(5) == 0
    assert time.monotonic() - asked < 5
    assert rest.split() == ["stopped", "returned"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_under_nohup_it_outlives_its_terminal():
    ignored = "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, flush=True)"
    program = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + _PROGRAM.replace(
        "print(url, flush=True)", ignored
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while_serving = process.stdout.readline()
        process.terminate()

        assert process.wait(5) == 0
    assert while_serving == "True\n"

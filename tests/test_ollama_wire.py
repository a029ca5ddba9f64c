"""The client on a real socket, with a server that misbehaves to order: time-outs, broken streams, closing, leaks."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import warnings

import pytest
from scripted_server import PATIENCE_S, Connection, ScriptedServer, answering, sending

from model_core.errors import (
    AnswerCutShort,
    OllamaBusy,
    OllamaError,
    OllamaModelMissing,
    OllamaTimeout,
    OllamaUnavailable,
    PullEnded,
    PullFailed,
)
from ollama_client import OllamaClient
from ollama_wire import LONGEST_BODY, LONGEST_LINE, Call, Line

VERSION = {"version": "0.33.0"}


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def pull_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pull ")]


# --- connections ---


def test_nobody_there_is_told_at_once_and_with_the_address():
    address = f"http://127.0.0.1:{free_port()}"
    begun = time.monotonic()

    with pytest.raises(OllamaUnavailable) as error:
        OllamaClient(address).version()

    assert error.value.address == address
    assert "connection refused" in str(error.value).lower() or os.name == "nt"
    assert time.monotonic() - begun < 3.0


def test_calls_after_one_another_share_a_connection():
    with ScriptedServer(answering(VERSION)) as server:
        client = OllamaClient(server.url)
        for _ in range(5):
            client.version()
        client.close()

        assert server.connections == 1


def test_an_error_leaves_the_connection_usable():
    with ScriptedServer(answering({"error": "model 'm' not found"}, "404 Not Found")) as server:
        client = OllamaClient(server.url)
        for _ in range(3):
            with pytest.raises(OllamaError):
                client.show("m")
        client.close()

        assert server.connections == 1


def test_each_thread_has_a_connection_of_its_own():
    together = threading.Barrier(4)

    def script(connection: Connection) -> None:
        connection.receive()
        together.wait(PATIENCE_S)  # passes only if all four are here at once
        connection.answer(VERSION)

    with ScriptedServer(script) as server:
        client = OllamaClient(server.url)
        threads = [threading.Thread(target=client.version) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)

        assert server.connections == 4


def test_a_closed_client_connects_anew():
    with ScriptedServer(answering(VERSION)) as server:
        client = OllamaClient(server.url)
        client.version()
        client.close()

        assert client.version() == "0.33.0"
        client.close()
        assert server.connections == 2


def test_a_connection_that_the_server_has_closed_is_not_used_again():
    closed = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.receive()
        connection.answer(VERSION)
        connection.sock.shutdown(socket.SHUT_RDWR)
        closed.release()

    with ScriptedServer(script) as server:
        client = OllamaClient(server.url)
        for _ in range(3):
            assert client.version() == "0.33.0"
            assert closed.acquire(timeout=PATIENCE_S)
        client.close()


def test_a_proxy_of_the_environment_is_not_used(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")

    with ScriptedServer(answering(VERSION)) as server:
        client = OllamaClient(server.url)

        assert client.version() == "0.33.0"
        client.close()


def test_localhost_is_called_by_its_number():
    seen = []

    def script(connection: Connection) -> None:
        request = connection.receive()
        seen.append(request.headers["host"])
        connection.answer(VERSION)

    with ScriptedServer(script) as server:
        OllamaClient(f"localhost:{server.port}").version()

        assert seen == [f"127.0.0.1:{server.port}"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking with threads is what is tried here
def test_a_child_process_does_not_speak_on_its_parents_connection():
    with ScriptedServer(answering(VERSION)) as server:
        client = OllamaClient(server.url)
        client.version()
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if client.version() == "0.33.0" else 1)
            except BaseException:
                os._exit(2)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert client.version() == "0.33.0"
        client.close()
        assert server.connections == 2


# --- answers that do not come as they should ---


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the connection was cut"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n", "does not speak HTTP"),
    ],
    ids=["nothing", "another protocol", "headers without end"],
)
def test_what_does_not_speak_http_is_not_ollama(data, words):
    with ScriptedServer(sending(data)) as server, pytest.raises(OllamaUnavailable, match=words):
        OllamaClient(server.url).version()


@pytest.mark.parametrize(
    "data",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"version": "0.33.0"}',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"ver\r\n',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"version": "0.3',
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nABCD",
    ],
    ids=["content-length", "chunked", "no chunk", "until closed", "not gzip"],
)
def test_a_truncated_answer_is_a_typed_error(data):
    with ScriptedServer(sending(data)) as server, pytest.raises(OllamaError):
        OllamaClient(server.url).version()


def test_an_answer_without_end_is_not_taken_in():
    def script(connection: Connection) -> None:
        connection.receive()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.send(b" " * 2**20)

    with ScriptedServer(script) as server, pytest.raises(OllamaError, match=f"longer than {LONGEST_BODY // 2**20} MiB"):
        OllamaClient(server.url).version()


def test_an_error_page_without_end_is_read_no_further_than_needed():
    def script(connection: Connection) -> None:
        connection.receive()
        connection.send(b"HTTP/1.1 500 No\r\n\r\n")
        while True:
            connection.send(b"x" * 2**16)

    with ScriptedServer(script) as server, pytest.raises(OllamaError, match="status 500"):
        OllamaClient(server.url).version()


def test_a_line_without_end_is_not_taken_in():
    def script(connection: Connection) -> None:
        connection.receive()
        connection.begin_stream()
        while True:
            connection.line(b"x" * 2**18)

    with ScriptedServer(script) as server:
        client = OllamaClient(server.url)

        with pytest.raises(OllamaError, match="not Ollama's JSON"):
            list(client.stream_generate("m", "x"))
        with client.pull("m") as pull, pytest.raises(PullFailed):
            list(pull)


def test_a_long_line_in_many_pieces_is_put_together():
    context = list(range(300_000))
    assert len(str(context)) < LONGEST_LINE

    def script(connection: Connection) -> None:
        connection.receive()
        connection.begin_stream()
        connection.line({"response": "x", "done": True, "context": context})
        connection.end_stream()

    with ScriptedServer(script) as server:
        *_, answer = OllamaClient(server.url).stream_generate("m", "x")

    assert answer.text == "x"


def test_silence_ends_in_a_timeout():
    with ScriptedServer(Connection.wait_until_closed) as server:
        client = OllamaClient(server.url, list_timeout_s=0.1, generate_timeout_s=0.1)
        for call in (client.version, client.tags, lambda: client.generate("m", "x")):
            with pytest.raises(OllamaTimeout) as error:
                call()

            assert error.value.seconds == 0.1


def test_an_answer_that_trickles_ends_in_a_timeout():
    def script(connection: Connection) -> None:
        connection.receive()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.send(b" ")
            time.sleep(0.01)

    with ScriptedServer(script) as server, pytest.raises(OllamaTimeout):
        OllamaClient(server.url, list_timeout_s=0.2).version()


def test_a_stream_that_falls_silent_ends_in_a_timeout():
    def script(connection: Connection) -> None:
        connection.receive()
        connection.begin_stream()
        connection.line({"response": "Soft", "done": False})
        connection.wait_until_closed()

    with ScriptedServer(script) as server:
        stream = OllamaClient(server.url).stream_generate("m", "x", timeout_s=0.1)

        assert next(stream) == "Soft"
        with pytest.raises(OllamaTimeout):
            next(stream)


def test_a_stream_that_is_cut_in_the_middle_is_a_typed_error():
    def script(connection: Connection) -> None:
        connection.receive()
        connection.begin_stream()
        connection.line({"response": "Soft", "done": False})

    with ScriptedServer(script) as server, pytest.raises((OllamaError, AnswerCutShort)):
        list(OllamaClient(server.url).stream_generate("m", "x"))


def test_leaving_a_streamed_answer_closes_the_connection():
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.receive()
        connection.begin_stream()
        connection.line({"response": "Soft", "done": False})
        connection.wait_until_closed()
        closed.set()

    with ScriptedServer(script) as server:
        stream = OllamaClient(server.url).stream_generate("m", "x")
        next(stream)
        stream.close()

        assert closed.wait(1.0)


def test_other_calls_can_be_made_while_an_answer_streams(caplog):
    def script(connection: Connection) -> None:
        while request := connection.receive():
            if request.path == "/api/version":
                connection.answer(VERSION)
                continue
            connection.begin_stream()
            connection.line({"response": "Soft", "done": False})
            connection.line({"response": "", "done": True})
            connection.end_stream()

    with ScriptedServer(script) as server:
        client = OllamaClient(server.url)
        stream = client.stream_generate("m", "x")

        assert next(stream) == "Soft"
        assert client.version() == "0.33.0"
        assert next(stream).text == "Soft"
        client.close()

    # urllib3 warns of every connection that finds no place in its pool.
    assert caplog.records == []


# --- a pull ---


def pulling(then) -> object:
    def script(connection: Connection) -> None:
        connection.receive()
        connection.begin_stream()
        connection.line({"status": "pulling manifest"})
        then(connection)

    return script


def test_a_line_reaches_the_reader_as_soon_as_it_is_sent():
    def trickle(connection: Connection) -> None:
        for _ in range(20):
            time.sleep(0.01)
            connection.line({"status": "pulling", "sent_at": time.monotonic()})

    with ScriptedServer(pulling(trickle)) as server, OllamaClient(server.url).pull("m") as pull:
        pull.read(PATIENCE_S)
        late = [time.monotonic() - pull.read(PATIENCE_S)["sent_at"] for _ in range(20)]

    # The median: a machine that is busy with other things delays one line or another.
    assert sorted(late)[10] < 0.05


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"])
def test_a_proxy_that_does_not_chunk_delays_nothing_and_can_be_closed(head):
    closed_at = []

    def script(connection: Connection) -> None:
        connection.receive()
        connection.send(head + b'{"status": "pulling manifest"}\n')
        closed_at.append(connection.wait_until_closed())

    with ScriptedServer(script) as server:
        pull = OllamaClient(server.url).pull("m")

        assert pull.read(PATIENCE_S) == {"status": "pulling manifest"}
        begun = time.monotonic()
        pull.close()
        until(lambda: closed_at, "the closing")
        assert closed_at[0] - begun < 1.0


def test_read_returns_none_when_nothing_came_in_time():
    with ScriptedServer(pulling(Connection.wait_until_closed)) as server, OllamaClient(server.url).pull("m") as pull:
        pull.read(PATIENCE_S)

        assert pull.read(0.05) is None
        assert pull.read(0) is None


def test_a_pull_may_be_silent_for_longer_than_a_call():
    gone_on = threading.Event()

    def verify(connection: Connection) -> None:
        gone_on.wait(PATIENCE_S)
        connection.line({"status": "success"})
        connection.end_stream()

    with ScriptedServer(pulling(verify)) as server, OllamaClient(server.url).pull("m") as pull:
        # The limit for the beginning is 30 s; nobody wants to wait that long to see that it is gone.
        assert pull._opened.line.sock.gettimeout() is None
        gone_on.set()
        assert [event["status"] for event in pull] == ["pulling manifest", "success"]


def test_closing_is_seen_by_ollama_within_a_second_and_wakes_a_blocked_reader():
    closed_at, woken = [], []

    def stay(connection: Connection) -> None:
        closed_at.append(connection.wait_until_closed())

    def read(pull) -> None:
        with pytest.raises(PullEnded):
            while True:
                pull.read(60.0)
        woken.append(time.monotonic())

    with ScriptedServer(pulling(stay)) as server:
        pull = OllamaClient(server.url).pull("m")
        pull.read(PATIENCE_S)
        reader = threading.Thread(target=read, args=(pull,))
        reader.start()
        begun = time.monotonic()
        pull.close()
        reader.join(PATIENCE_S)
        until(lambda: closed_at, "the closing")

        assert closed_at[0] - begun < 1.0
        assert woken[0] - begun < 1.0
        assert pull_threads() == []


def test_a_pull_is_closed_by_the_server_that_floods_it_too():
    closed_at = []

    def flood(connection: Connection) -> None:
        try:
            while True:
                connection.line({"status": "pulling model", "digest": "sha256:model", "total": 1, "completed": 1})
        except ConnectionError:
            closed_at.append(time.monotonic())

    with ScriptedServer(pulling(flood)) as server:
        pull = OllamaClient(server.url).pull("m")
        until(lambda: len(pull._lines._waiting) >= 1000, "a full queue")
        begun = time.monotonic()
        pull.close()
        until(lambda: closed_at, "the closing")

        assert closed_at[0] - begun < 1.0
        assert len(pull._lines._waiting) == 1000


def test_a_slow_reader_loses_nothing():
    def many(connection: Connection) -> None:
        for number in range(5000):
            connection.line({"number": number})
        connection.line({"status": "success"})
        connection.end_stream()

    with ScriptedServer(pulling(many)) as server, OllamaClient(server.url).pull("m") as pull:
        until(lambda: len(pull._lines._waiting) >= 1000, "a full queue")
        events = list(pull)

    assert [event["number"] for event in events[1:-1]] == list(range(5000))


@pytest.mark.parametrize("how", ["end", "half a chunk", "reset"])
def test_a_pull_whose_connection_breaks_has_been_cut_short(how):
    def die(connection: Connection) -> None:
        if how == "end":
            connection.end_stream()
        if how == "half a chunk":
            connection.send(b'40\r\n{"status": "pull')
        if how == "reset":
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with (
        ScriptedServer(pulling(die)) as server,
        OllamaClient(server.url).pull("m") as pull,
        pytest.raises(PullFailed) as failed,
    ):
        list(pull)

    assert failed.value.reason == "cut_short"
    assert failed.value.__cause__ is not None


def test_closing_twice_from_many_threads_and_after_the_end_is_harmless():
    def succeed(connection: Connection) -> None:
        connection.line({"status": "success"})
        connection.end_stream()

    with ScriptedServer(pulling(succeed)) as server:
        pull = OllamaClient(server.url).pull("m")
        list(pull)
        closers = [threading.Thread(target=pull.close) for _ in range(4)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(PATIENCE_S)

        assert not any(closer.is_alive() for closer in closers)


def test_neither_threads_nor_sockets_are_left_behind():
    script = pulling(Connection.wait_until_closed)

    with warnings.catch_warnings(record=True) as seen, ScriptedServer(script) as server:
        warnings.simplefilter("always", ResourceWarning)
        client = OllamaClient(server.url)
        sockets = []
        for _ in range(20):
            with client.pull("m") as pull:
                pull.read(PATIENCE_S)
                sockets.append(pull._opened.line.sock)
        client.close()
        gc.collect()

        assert [sock.fileno() for sock in sockets] == [-1] * 20
        assert pull_threads() == []
        assert [str(warning.message) for warning in seen] == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_over_tls_too_closing_is_seen_within_a_second(tmp_path, monkeypatch):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    closed_at = []

    def stay(connection: Connection) -> None:
        closed_at.append(connection.wait_until_closed())

    with ScriptedServer(pulling(stay), tls=tls) as server:
        with pytest.raises(OllamaUnavailable, match="certificate"):
            OllamaClient(server.url).version()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        pull = OllamaClient(server.url).pull("m")

        assert pull.read(PATIENCE_S) == {"status": "pulling manifest"}
        assert pull.read(0.05) is None
        begun = time.monotonic()
        pull.close()
        until(lambda: closed_at, "the closing")
        assert closed_at[0] - begun < 1.0
        assert pull_threads() == []


# --- a generation that can be left at any moment ---


def answer_of(stream):
    """The whole answer, or what was raised in its place."""
    return until_there(lambda: stream.finished(0.1), "the answer")


def until_there(call, what: str):
    deadline = time.monotonic() + PATIENCE_S
    while (found := call()) is None:
        assert time.monotonic() < deadline, f"in vain: {what}"
    return found


def test_a_generation_is_told_whole_with_the_time_to_its_first_piece():
    gone_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.receive()
        gone_on.wait(PATIENCE_S)
        connection.begin_stream()
        connection.line({"response": "", "done": False})
        connection.line({"response": "Soft ", "done": False})
        connection.line({"response": "light.", "done": False})
        connection.line({"response": "", "done": True, "done_reason": "stop", "eval_count": 2, "eval_duration": 10**9})
        connection.end_stream()

    with ScriptedServer(script) as server, OllamaClient(server.url).generating("m", "x") as stream:
        begun = time.monotonic()
        nothing_yet = stream.finished(0.05), stream.first_piece_s
        held_s = time.monotonic() - begun
        gone_on.set()
        answer = answer_of(stream)

        assert nothing_yet == (None, None)
        assert (answer.text, answer.done_reason, answer.tokens_per_second) == ("Soft light.", "stop", 2.0)
        assert held_s / 2 < stream.first_piece_s < PATIENCE_S


def test_a_load_says_nothing_and_is_done():
    with (
        ScriptedServer(answering({"response": "", "done": True, "done_reason": "load"})) as server,
        OllamaClient(server.url).loading("m", options={"num_ctx": 4096}) as stream,
    ):
        answer = answer_of(stream)

        assert (answer.text, answer.done_reason, stream.first_piece_s) == ("", "load", None)


@pytest.mark.parametrize("begin", ["loading", "generating"])
def test_hanging_up_before_the_first_word_is_seen_by_ollama_within_a_second(begin):
    asked, closed_at = threading.Event(), []

    def script(connection: Connection) -> None:
        connection.receive()
        asked.set()
        closed_at.append(connection.wait_until_closed())

    with ScriptedServer(script) as server:
        client = OllamaClient(server.url)
        stream = client.loading("m") if begin == "loading" else client.generating("m", "x")
        assert asked.wait(PATIENCE_S)
        begun = time.monotonic()
        stream.close()
        until(lambda: closed_at, "the closing")

        assert closed_at[0] - begun < 1.0
        with pytest.raises(AnswerCutShort):
            stream.finished(0.1)
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("generate ")]


def test_what_is_hung_up_on_before_it_is_connected_is_never_asked():
    requests = []

    def script(connection: Connection) -> None:
        requests.append(connection.receive())

    with ScriptedServer(script) as server:
        line = Line()
        line.hang_up()
        call = Call("POST", "/api/generate", "generating", 1.0, {"model": "m"}, "m")

        with pytest.raises(OllamaUnavailable):
            list(OllamaClient(server.url)._wire.lines_on(line, call))

    assert requests in ([], [None])


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (answering({"error": "model 'm' not found"}, "404 Not Found"), OllamaModelMissing),
        (answering({"error": "server busy, please try again."}, "503 Service Unavailable"), OllamaBusy),
        (answering({"response": "So", "done": False}), AnswerCutShort),
        (answering({"error": "the runner has gone"}), OllamaError),
        (sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{"), OllamaError),
        (answering(b"<html>"), OllamaError),
        (answering({"response": 3}), OllamaError),
    ],
    ids=["missing", "busy", "cut short", "error line", "broken off", "a page", "nonsense"],
)
def test_a_generation_that_goes_wrong_is_a_typed_error(script, kind):
    with (
        ScriptedServer(script) as server,
        OllamaClient(server.url).generating("m", "x") as stream,
        pytest.raises(kind),
    ):
        answer_of(stream)


def test_nobody_there_is_told_by_a_generation_too():
    with (
        OllamaClient(f"http://127.0.0.1:{free_port()}").generating("m", "x") as stream,
        pytest.raises(OllamaUnavailable),
    ):
        answer_of(stream)


@pytest.mark.parametrize("said", [[], [{"response": "So", "done": False}]], ids=["after its head", "in the middle"])
def test_a_generation_that_falls_silent_ends_in_a_timeout(said):
    def script(connection: Connection) -> None:
        connection.receive()
        connection.begin_stream()
        for event in said:
            connection.line(event)
        connection.wait_until_closed()

    with (
        ScriptedServer(script) as server,
        OllamaClient(server.url, generate_timeout_s=0.1).generating("m", "x") as stream,
        pytest.raises(OllamaTimeout),
    ):
        answer_of(stream)

"""Answers that stay open, on a real server and real sockets: who watches, who wishes, who hangs up."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import pairwise

import psutil
import pytest
import requests
from download_scenes import CALM, MODEL, OTHER, SOON_S, Answer, held_up, standing, until
from flask import Flask
from simple_websocket import Client, ConnectionClosed
from werkzeug.serving import make_server

from api_model_events import LONGEST_MESSAGE_CHARACTERS, LONGEST_WISH_CHARACTERS, RETRY_MS
from api_model_management import NDJSON, init_model_api
from app import create_app
from model_core.records import DownloadState
from model_manager import ModelManager
from model_settings import load_settings
from ollama_simulator import OllamaSimulator
from web_server import serve

TOKEN = {"Authorization": "Bearer secret"}
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Service:
    """An app behind the server that we ship, on a port of its own."""

    def __init__(self, manager, app=None, threads=32, **options):
        self.manager, self._threads, self._stop = manager, threads, threading.Event()
        self.app = app or Flask("host of the tests")
        if app is None:
            self.app.register_blueprint(init_model_api(manager, **options))

    def __enter__(self):
        ready = threading.Event()

        def on_ready(url):
            self.url, self.port = f"{url}/api/model", int(url.rpartition(":")[2])
            ready.set()

        def on_stopping():  # as the service does it
            threading.Thread(target=self.manager.close, daemon=True).start()

        options = {"on_ready": on_ready, "on_stopping": on_stopping, "stop": self._stop}
        self._thread = threading.Thread(
            target=serve, args=(self.app, "127.0.0.1", 0, self._threads), kwargs=options, daemon=True
        )
        self._thread.start()
        assert ready.wait(SOON_S)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Return how many seconds the end took."""
        began_s = time.monotonic()
        self._stop.set()
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()
        return time.monotonic() - began_s

    def post(self, path, **body):
        return requests.post(self.url + path, json=body, timeout=SOON_S)

    def start(self, model=MODEL):
        return self.post("/download", model=model).json()["download"]["id"]

    def takes_another(self):
        with watching(self) as watcher:
            return watcher.status == 200


class Watcher:
    """One SSE stream, read frame by frame."""

    def __init__(self, port, path="/events", method="GET", body=None, **headers):
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON_S)
        self._line.request(method, f"/api/model{path}", body, headers)
        self.answer = self._line.getresponse()
        self.status = self.answer.status

    def problem(self):
        return json.loads(self.answer.read())

    def frame(self):
        """The next frame as its lines; nothing once the stream has ended."""
        lines = []
        while line := self.answer.readline().decode().rstrip("\n"):
            lines.append(line)
        return lines

    def events(self):
        """Each event as its envelope, once the fields around it agree with it."""
        while frame := self.frame():
            if frame[0].startswith("id: "):
                fields = dict(line.split(": ", 1) for line in frame)
                envelope = json.loads(fields["data"])
                assert (fields["id"], fields["event"]) == (str(envelope["id"]), envelope["type"])
                yield envelope

    def downloads(self):
        """Each download that is told of, until one has ended."""
        for event in self.events():
            yield event["data"]["download"]
            if event["data"]["download"]["state"] in ("completed", "failed", "cancelled"):
                return

    def close(self):
        self.answer.close()
        self._line.close()


@contextmanager
def watching(service, path="/events", **headers):
    watcher = Watcher(service.port, path, **headers)
    try:
        yield watcher
    finally:
        watcher.close()


def by_line(service, model=MODEL):
    headers = {"Accept": NDJSON, "Content-Type": "application/json"}
    return Watcher(service.port, "/download", "POST", json.dumps({"model": model}), **headers)


@contextmanager
def talking(service, query="", **headers):
    """A WebSocket, closed in the end on both sides."""
    client = Client(service.url.replace("http", "ws") + "/ws" + query, headers=headers)
    try:
        yield client
    finally:
        with suppress(ConnectionClosed, OSError):
            client.close()
        client.thread.join(SOON_S)


def heard(client):
    """The next envelope that comes by WebSocket."""
    message = client.receive(timeout=SOON_S)
    assert message is not None, "nothing came"
    return json.loads(message)


def heard_downloads(client):
    for envelope in iter(lambda: heard(client), None):
        yield envelope["data"]["download"]
        if envelope["data"]["download"]["state"] in ("completed", "failed", "cancelled"):
            return


def status_of(service, path, **headers):
    with watching(service, path, **headers) as watcher:
        return watcher.status


def handshake_of(service, query="", **headers):
    """The status with which a handshake is answered."""
    return status_of(service, f"/ws{query}", **HANDSHAKE, **headers)


@pytest.fixture
def manager(simulator, tmp_path):
    made = ModelManager(simulator.url, tmp_path / "document.json", patience=CALM)
    yield made
    made.close()


@pytest.fixture
def service(manager):
    with Service(manager, heartbeat_s=0.1) as running:
        yield running


# --- what watchers see -----------------------------------------------------------------------------------------------


def test_all_watchers_see_the_same_figures_and_none_falls(tmp_path):
    with (
        OllamaSimulator(rate_bytes_per_s=800e6, tick_s=0.01) as slow,
        Service(ModelManager(slow.url, tmp_path / "d.json")) as service,
        ExitStack() as stack,
    ):
        stack.callback(service.manager.close)
        watchers = [stack.enter_context(watching(service)) for _ in range(3)]
        client = stack.enter_context(talking(service))

        def lines():
            own = by_line(service)
            stack.callback(own.close)
            return [json.loads(line) for line in own.answer]

        seen = [Answer(lines), Answer(lambda: list(heard_downloads(client)))]
        seen += [Answer(lambda watcher=watcher: list(watcher.downloads())) for watcher in watchers]
        told = [answer.get() for answer in seen]

    figures = {}
    for downloads in told:
        assert len(downloads) > 3
        assert downloads[-1]["state"] == "completed"
        percents = [download["percent"] or 0 for download in downloads]
        assert percents == sorted(percents)
        assert percents[-1] == 100
        for download in downloads:
            of_version = (download["state"], download["percent"], download["downloaded_bytes"])
            assert figures.setdefault(download["version"], of_version) == of_version


def test_first_comes_how_every_download_stands(service):
    first, second = service.start(), service.start(OTHER)
    until(lambda: service.manager.download(second).state is DownloadState.COMPLETED)

    with watching(service) as watcher, talking(service) as client:
        events = watcher.events()
        by_sse = {event["data"]["download"]["id"] for event in (next(events), next(events))}
        by_websocket = {heard(client)["data"]["download"]["id"] for _ in range(2)}

    assert by_sse == by_websocket == {first, second}


@pytest.mark.parametrize("last_seen", ["1", "999999", "nonsense"])
def test_who_comes_again_gets_all_that_stands(service, last_seen):
    download = service.start()
    until(lambda: service.manager.download(download).state is DownloadState.COMPLETED)

    with watching(service, **{"Last-Event-ID": last_seen}) as watcher:
        told = next(watcher.downloads())

    assert (told["id"], told["state"]) == (download, "completed")


def test_a_browser_is_told_how_to_take_the_stream(service):
    with watching(service) as watcher:
        assert watcher.answer.headers["Content-Type"].startswith("text/event-stream")
        assert watcher.answer.headers["Cache-Control"] == "no-store"
        assert watcher.frame() == [f"retry: {RETRY_MS}"]


def test_while_nothing_happens_there_are_signs_of_life(service):
    with watching(service) as watcher:
        watcher.frame()

        assert watcher.frame()[0].startswith(":")
        assert watcher.frame()[0].startswith(":")


def test_a_download_that_stands_still_is_told_again_as_a_sign_of_life(service, simulator):
    with held_up(simulator), closing(by_line(service)) as watcher:
        versions = (json.loads(line)["version"] for line in watcher.answer)

        assert any(one == next_one for one, next_one in pairwise(versions))


def test_a_slow_watcher_skips_what_came_in_between_and_holds_nobody_up(service):
    pad, most = "x" * 20_000, 2000  # 40 MB: more than any socket holds
    with watching(service) as slow, service.manager.watching_jobs() as hub:
        slow.frame()
        for number in range(most):
            hub.publish("one", "download", {"download": {"state": "downloading", "number": number, "pad": pad}})
        hub.publish("one", "download", {"download": {"state": "completed", "number": most}})

        numbers = [download["number"] for download in slow.downloads()]

    assert numbers[-1] == most
    assert numbers == sorted(numbers)
    assert len(numbers) < most


def test_a_watcher_of_one_process_sees_the_downloads_of_another_within_a_second(service, simulator, tmp_path):
    other = ModelManager(simulator.url, tmp_path / "document.json", patience=CALM)
    with watching(service) as watcher, held_up(simulator):
        watcher.frame()
        job = other.start_download(MODEL)
        began_s = time.monotonic()

        told = next(watcher.downloads())

        assert told["id"] == job.id
        assert time.monotonic() - began_s < 1.0
    other.close()


# --- who goes, and who is too many -----------------------------------------------------------------------------------


def test_a_download_goes_on_when_everybody_has_gone(manager, simulator):
    with Service(manager, heartbeat_s=0.05, max_streams=3) as service:
        with held_up(simulator):
            watcher = by_line(service)
            download = json.loads(watcher.answer.readline())["id"]
            with watching(service), talking(service):
                until(standing(simulator))
            watcher.close()
            until(service.takes_another, "a place for another watcher")

        until(lambda: manager.download(download).state is DownloadState.COMPLETED)


def test_as_many_may_watch_as_there_is_room_for(manager, simulator):
    with Service(manager, heartbeat_s=0.05, max_streams=3) as service, held_up(simulator), ExitStack() as stack:
        line = by_line(service)
        stack.callback(line.close)
        first = stack.enter_context(watching(service))
        stack.enter_context(talking(service))

        with watching(service) as one_more:
            assert one_more.status == 503
            assert one_more.answer.headers["Retry-After"]
            assert one_more.problem()["code"] == "too_many_streams"
        assert handshake_of(service) == 503
        with closing(by_line(service, OTHER)) as line:
            assert line.status == 503
        assert [job.model for job in manager.downloads()] == [MODEL]
        assert requests.get(f"{service.url}/health", timeout=SOON_S).ok

        first.close()
        until(service.takes_another, "the place of the one who has gone")


def test_a_long_poll_takes_a_place_too(manager, simulator):
    with Service(manager, max_streams=1) as service, held_up(simulator):
        download = service.start()
        until(standing(simulator))
        path = f"{service.url}/downloads/{download}"
        with watching(service):
            assert requests.get(f"{path}?wait=1", timeout=SOON_S).json()["code"] == "too_many_streams"
            assert requests.get(path, timeout=SOON_S).ok


def test_a_place_is_free_again_after_a_request_that_failed(manager):
    with Service(manager, max_streams=1) as service:
        for _ in range(3):
            with watching(service, "/events?colour=red") as watcher:
                assert watcher.status == 400
            with closing(by_line(service, "no/such name")) as line:
                assert line.status == 400
            assert (
                requests.get(f"{service.url}/events", params={"ticket": ["a", "b"]}, timeout=SOON_S).status_code == 400
            )

        assert service.takes_another()


def test_the_service_ends_soon_whoever_watches(manager, simulator):
    service = Service(manager)
    with service, held_up(simulator), ExitStack() as stack:
        line = by_line(service)
        stack.callback(line.close)
        watchers = [stack.enter_context(watching(service)) for _ in range(10)]
        clients = [stack.enter_context(talking(service)) for _ in range(9)]

        assert service.stop() < 5

        for watcher in watchers:
            assert [event["type"] for event in watcher.events()][:1] == ["download"]
        until(lambda: not any(client.connected for client in clients))


@pytest.mark.skipif(os.name == "nt", reason="counts file descriptors")
def test_after_many_websockets_nothing_is_left_and_the_server_works(service):
    with talking(service):
        pass
    until(lambda: reading_threads() == 0)
    before = psutil.Process().num_fds()

    for number in range(20):
        with talking(service) as client:
            if number % 2:
                client.sock.shutdown(socket.SHUT_RDWR)  # gone without a word

    until(lambda: reading_threads() == 0, "the end of every reading thread")
    until(lambda: psutil.Process().num_fds() <= before, "the end of every socket")
    assert requests.get(f"{service.url}/health", timeout=SOON_S).ok


def test_who_does_not_answer_the_farewell_holds_nothing(manager):
    with Service(manager) as service, watching(service, "/ws", **HANDSHAKE):  # and never says a word
        until(lambda: reading_threads() == 1)

        manager.end_watching()

        until(lambda: reading_threads() == 0, "the end of the reading thread", within_s=5)


def reading_threads():
    return sum("simple_websocket" in thread.name for thread in threading.enumerate())


def test_it_works_on_the_server_of_werkzeug_too(manager, caplog):
    app = Flask("host of the tests")
    app.register_blueprint(init_model_api(manager))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    other = Service(manager, app)
    other.url, other.port = f"http://127.0.0.1:{server.port}/api/model", server.port

    with talking(other) as client:
        client.send("{}")
        assert heard(client)["type"] == "error"
    assert requests.get(f"{other.url}/health", timeout=SOON_S).ok

    server.shutdown()
    thread.join(SOON_S)
    server.server_close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- wishes ----------------------------------------------------------------------------------------------------------


def told_state(client, state):
    """Wait until a download is told to be in a state."""
    return next(download for download in heard_downloads(client) if download["state"] == state)


def test_a_download_is_paused_resumed_and_cancelled_by_websocket(service, simulator):
    with talking(service) as client, held_up(simulator):
        download = service.start()
        until(standing(simulator))

        for wish, state in (("pause", "paused"), ("resume", "downloading"), ("cancel", "cancelled")):
            client.send(json.dumps({"type": wish, "id": download}))
            assert told_state(client, state)["id"] == download


BAD_MESSAGES = {
    "no json": "pause it",
    "nothing": "",
    "no object": "[]",
    "no id": '{"type": "pause"}',
    "unknown": '{"type": "delete", "id": "x"}',
    "more than that": '{"type": "pause", "id": "x", "colour": "red"}',
    "too long": json.dumps({"type": "pause", "id": "x" * LONGEST_WISH_CHARACTERS}),
    "bytes that are no text": b"\xff\xfe\x00",
    "deep": "[" * 4000,
}


@pytest.mark.parametrize("message", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_message_that_is_no_wish_is_answered_and_the_websocket_stays(service, message):
    with talking(service) as client:
        client.send(message)
        error = heard(client)
        client.send(json.dumps({"type": "pause", "id": "none"}))
        after = heard(client)

    assert (error["type"], error["data"]["code"], error["data"]["status"]) == ("error", "invalid_request", 400)
    assert "xxxx" not in json.dumps(error)
    assert (after["type"], after["data"]["code"]) == ("error", "download_not_found")


def test_a_wish_does_not_wait_for_the_next_sign_of_life(manager):
    with Service(manager) as service, talking(service) as client:
        client.send("nonsense")

        assert client.receive(timeout=5) is not None


def test_a_wish_that_is_not_possible_is_answered_with_what_is(service):
    download = service.start()
    until(lambda: service.manager.download(download).state is DownloadState.COMPLETED)
    with talking(service) as client:
        heard(client)

        client.send(json.dumps({"type": "pause", "id": download}))

        problem = heard(client)["data"]
    assert (problem["code"], problem["state"], problem["status"]) == ("invalid_transition", "completed", 409)


def test_who_sends_without_end_is_sent_home(service):
    with talking(service) as client:
        client.send("x" * (LONGEST_MESSAGE_CHARACTERS + 1))

        with pytest.raises(ConnectionClosed) as caught:
            client.receive(timeout=SOON_S)
    assert caught.value.reason == 1009


def test_what_is_no_handshake_is_told_what_is_wanted(service):
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket"}
    for headers in ({}, handshake, {**handshake, "Sec-WebSocket-Version": "13"}):
        answer = requests.get(f"{service.url}/ws", headers=headers, timeout=SOON_S)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert requests.get(f"{service.url}/events", headers=handshake, timeout=SOON_S).status_code == 400


# --- who may watch ---------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(manager):
    with Service(manager, token="secret", max_streams=4) as running:
        yield running


def a_ticket(service):
    answer = requests.post(f"{service.url}/ticket", headers=TOKEN, timeout=SOON_S).json()
    assert answer["expires_in"] == 60
    return f"?ticket={answer['ticket']}"


def test_a_page_of_another_origin_watches_nothing(service):
    evil = {"Origin": "https://evil.example"}

    assert status_of(service, "/events", **evil) == 403
    assert handshake_of(service, **evil) == 403
    assert status_of(service, "/events", Host="evil.example") == 403


def test_a_page_of_ours_may_watch(service):
    origin = {"Origin": f"http://127.0.0.1:{service.port}"}

    assert (status_of(service, "/events", **origin), handshake_of(service, **origin)) == (200, 101)


def test_where_a_token_is_asked_for_it_or_a_ticket_is_shown(guarded):
    assert status_of(guarded, "/events") == 401
    assert status_of(guarded, "/events?ticket=guess") == 401
    assert handshake_of(guarded) == 401
    assert handshake_of(guarded, "?ticket=") == 401
    assert requests.post(f"{guarded.url}/ticket", timeout=SOON_S).status_code == 401

    assert status_of(guarded, "/events", **TOKEN) == 200
    assert status_of(guarded, "/events" + a_ticket(guarded)) == 200
    with talking(guarded, a_ticket(guarded)) as client:
        assert client.connected
    with talking(guarded, **TOKEN) as client:
        assert client.connected


def test_a_ticket_opens_one_stream_once(guarded):
    ticket = a_ticket(guarded)

    assert [status_of(guarded, "/events" + ticket), status_of(guarded, "/events" + ticket)] == [200, 401]
    assert handshake_of(guarded, ticket) == 401


def test_a_ticket_is_good_for_watching_only(guarded):
    ticket = a_ticket(guarded)

    assert status_of(guarded, "/downloads" + ticket) == 401
    assert status_of(guarded, "/list" + ticket) == 401


def test_the_log_never_shows_a_ticket(manager, caplog):
    caplog.set_level(logging.DEBUG)
    app = create_app(load_settings(None, token="secret", threads=16), manager)
    with Service(manager, app) as service:
        ticket = a_ticket(service)
        with watching(service, "/events" + ticket), talking(service, "?ticket=" + (own := a_ticket(service)[8:])):
            pass
        status_of(service, "/events" + ticket)

        until(lambda: "GET /api/model/events status=401" in caplog.text)
    assert ticket[8:] not in caplog.text
    assert own not in caplog.text

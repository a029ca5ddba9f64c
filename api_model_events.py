"""Answers that stay open: what happens to downloads as SSE, by WebSocket and by line, and how many there may be.

Each watcher holds a thread of the server for as long as it watches. So they are counted, and whoever comes when the
last one is given is told to come again. One that has gone is noticed at the next thing that is written to it.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request
from pydantic_core import to_json
from simple_websocket import ConnectionClosed, Server
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from api_model_problems import Problems, TooManyStreams
from api_model_requests import Ticket, read_query, read_wish
from event_hub import Event, EventHub
from model_core.downloads import OWNED
from model_core.errors import InvalidRequest, ModelManagerError
from model_core.records import DownloadJob
from model_manager import ModelManager

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
# For a host's own app, whose server we do not know. A guess; our own service says what its threads allow.
USUAL_STREAMS = 64
# How often a wait that has nothing new to tell says how long it has lasted.
PHASE_S = 1.0
# A browser that has lost the line asks again after this.
RETRY_MS = 2000

LONGEST_WISH_CHARACTERS = 4096
# What is longer than this is not even read to its end: the WebSocket closes with 1009.
LONGEST_MESSAGE_CHARACTERS = 64 * 1024
# For a watcher that takes nothing of what is sent to it.
SEND_S = 30.0
FAREWELL_S = 1.0  # for the other side to answer that the WebSocket ends


class Streams:
    """Counts the answers that stay open, `most` at a time."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise InvalidRequest("max_streams", "must be at least 1")
        self._most, self._free = most, threading.BoundedSemaphore(most)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place for as long as this lasts. Raises TooManyStreams."""
        if not self._free.acquire(blocking=False):
            raise TooManyStreams(self._most)
        try:
            yield
        finally:
            self._free.release()


class EventApi:
    """The views that stay open, on one manager; heartbeat_s is the time between two signs of life."""

    def __init__(
        self, manager: ModelManager, problems: Problems, streams: Streams, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._manager, self._problems, self.streams, self._heartbeat_s = manager, problems, streams, heartbeat_s
        self._wishes: dict[str, Callable[[str], object]] = {
            "pause": manager.pause_download,
            "resume": manager.resume_download,
            "cancel": manager.cancel_download,
        }

    def add_to(self, blueprint: Blueprint) -> None:
        """Hang every view on its route."""
        for rule, view in (("/events", self.events), ("/ws", self.no_websocket)):
            blueprint.add_url_rule(rule, view.__name__, view, methods=["GET"], provide_automatic_options=False)
        # Without the word that it is a handshake werkzeug answers 400.
        blueprint.add_url_rule("/ws", "websocket", self.websocket, websocket=True, provide_automatic_options=False)

    # --- one way: SSE, and one download by line ----------------------------------------------------------------------

    def events(self) -> Response:
        """Tell what happens to every download: first how each stands, then each change, until one side hangs up."""
        read_query(Ticket)
        hub, held = self._watching()
        return _stays_open(self._as_sse(hub), "text/event-stream", held)

    def _watching(self) -> tuple[EventHub, ExitStack]:
        with ExitStack() as stack:
            stack.enter_context(self.streams.one())
            hub = stack.enter_context(self._manager.watching_jobs())
            return hub, stack.pop_all()

    def _as_sse(self, hub: EventHub) -> Iterator[bytes]:
        yield b"retry: %d\n\n" % RETRY_MS
        # Whoever comes again (Last-Event-ID) gets all that stands, too: an id means nothing to another process.
        seen = 0
        while not hub.closed:
            news = hub.since(seen, self._heartbeat_s)
            yield b"".join(map(_frame, news)) or b": still here\n\n"
            seen = news[-1].id if news else seen

    def lines(self, begin: Callable[[], DownloadJob], as_line: Callable[[DownloadJob], bytes]) -> Response:
        """Begin a download and tell of it line by line until nobody works on it; the last line is repeated as a sign
        of life. Raises TooManyStreams before it has begun."""
        with ExitStack() as stack:
            stack.enter_context(self.streams.one())
            lines = self._as_lines(begin(), as_line)
            return _stays_open(lines, "application/x-ndjson", stack.pop_all())

    def _as_lines(self, job: DownloadJob, as_line: Callable[[DownloadJob], bytes]) -> Iterator[bytes]:
        try:
            yield as_line(job)
            while job.state in OWNED:
                job = self._manager.download(job.id, since=job.version, wait_s=self._heartbeat_s)
                yield as_line(job)
        except ModelManagerError as error:  # the status is out already; the last line says what happened
            yield to_json(self._problems.body(error)) + b"\n"

    def phases(self, work: Callable[[Callable[[str], object]], dict[str, Any]]) -> Response:
        """Do some work and tell of it line by line: {"phase", "seconds"} at each phase and every second, at last what
        the work returns, or its problem. The work goes on when nobody listens any more. Raises TooManyStreams.
        """
        with ExitStack() as stack:
            stack.enter_context(self.streams.one())
            return _stays_open(self._as_phases(_Working(work)), "application/x-ndjson", stack.pop_all())

    def _as_phases(self, working: _Working) -> Iterator[bytes]:
        while (news := working.news(PHASE_S)) is not None:
            yield to_json(news) + b"\n"
        try:
            yield to_json(working.outcome()) + b"\n"
        except ModelManagerError as error:  # the status is out already; the last line says what happened
            yield to_json(self._problems.body(error)) + b"\n"

    # --- both ways: WebSocket ----------------------------------------------------------------------------------------

    def no_websocket(self) -> Response:
        """Say to whoever asks in the ordinary way what is to be asked for here."""
        raise InvalidRequest("Upgrade", "this address speaks WebSocket only", "Open it as ws://, or take /events.")

    def websocket(self) -> Response:
        """Tell what /events tells, and do what is wished for: {"type": pause, resume or cancel, "id": download}."""
        read_query(Ticket)
        hub, held = self._watching()
        with held:
            line = _accepted(request.environ, hub, self._heartbeat_s)
            try:
                self._converse(line, hub)
            except (ConnectionClosed, LocalProtocolError, OSError):
                logger.debug("watcher gone reason=%s", line.close_reason)
            except Exception:  # there is no answer any more in which to tell of it
                logger.exception("watcher sent home path=%s", request.path)
            finally:
                _hang_up(line)
        return _Over()

    def _converse(self, line: Server, hub: EventHub) -> None:
        seen = 0
        while line.connected and not hub.closed:
            news = hub.since(seen, self._heartbeat_s, lambda: bool(line.input_buffer) or not line.connected)
            for event in news:
                line.send(event.text.decode())
                seen = event.id
            if line.input_buffer and (problem := self._refusal_of(line.receive(timeout=0) or "")):
                line.send(to_json({"id": None, "type": "error", "data": problem}).decode())

    def _refusal_of(self, message: str | bytes) -> dict[str, Any] | None:
        """Do what a message wishes; return what is wrong with it, or None."""
        try:
            if len(message) > LONGEST_WISH_CHARACTERS:
                raise InvalidRequest("message", f"is longer than {LONGEST_WISH_CHARACTERS:,} characters")
            wish = read_wish(message)
            self._wishes[wish.type](wish.id)
        except ModelManagerError as error:
            return self._problems.body(error)
        return None


class _Working:
    """Work in a thread of its own, which goes through phases and comes to something."""

    def __init__(self, work: Callable[[Callable[[str], object]], dict[str, Any]]) -> None:
        self._work, self._began_s = work, time.monotonic()
        self._changed = threading.Condition()
        self._phase: str | None = None
        self._told: str | None = None
        self._outcome: dict[str, Any] | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="work", daemon=True).start()

    def _run(self) -> None:
        try:
            outcome = self._work(self._enter)
        except Exception as error:  # whatever it is, the one who waits must hear of it
            self._end(None, error)
        else:
            self._end(outcome, None)

    def _enter(self, phase: str) -> None:
        with self._changed:
            self._phase = phase
            self._changed.notify_all()

    def _end(self, outcome: dict[str, Any] | None, error: Exception | None) -> None:
        with self._changed:
            self._outcome, self._error = outcome, error
            self._changed.notify_all()

    @property
    def _is_over(self) -> bool:
        return self._outcome is not None or self._error is not None

    def news(self, within_s: float) -> dict[str, Any] | None:
        """Return the phase it is in, at the latest after a while; None once it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._phase != self._told, within_s)
            self._told = self._phase
            if self._is_over:
                return None
            return {"phase": self._phase, "seconds": round(time.monotonic() - self._began_s, 1)}

    def outcome(self) -> dict[str, Any]:
        """Return what it came to, or raise what went wrong."""
        if self._error is not None:
            raise self._error
        return self._outcome or {}


def _frame(event: Event) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.type.encode(), event.text)


def _stays_open(parts: Iterator[bytes], content_type: str, held: ExitStack) -> Response:
    # nginx would gather what is sent and pass it on in lumps.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    answer = Response(parts, headers=headers, content_type=content_type)
    # Not at the end of the parts: those of a client that has gone before the first one are never begun.
    answer.call_on_close(held.close)
    return answer


class _Over(Response):
    """No answer at all: what there was to say has been said by WebSocket, and the line is closed."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        # Every server knows clients that hang up in the middle, and only then writes nothing to the line.
        raise ConnectionResetError(errno.ECONNRESET, "the WebSocket has ended")


class _Line:
    """The socket as simple-websocket uses it. It sends from two threads, and takes what `send` left over as sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._sending = sock, threading.Lock()
        sock.settimeout(SEND_S)  # it reads only what select has announced, so this is for sending alone
        self.fileno, self.recv, self.shutdown = sock.fileno, sock.recv, sock.shutdown

    def send(self, data: bytes) -> None:
        with self._sending:
            self._socket.sendall(data)

    def close(self) -> None:
        with self._sending:
            self._socket.close()


def _accepted(environ: WSGIEnvironment, hub: EventHub, ping_s: float) -> Server:
    """Shake hands. The hub is nudged whenever something has come. Raises InvalidRequest."""

    class Bell(threading.Event):
        def set(self) -> None:
            super().set()
            hub.nudge()

    class Reader(threading.Thread):
        def run(self) -> None:
            super().run()
            hub.nudge()

    if "werkzeug.socket" not in environ:
        raise InvalidRequest("Upgrade", "the server of this app does not lend the line", "Take /events.")
    lent = {**environ, "werkzeug.socket": _Line(environ["werkzeug.socket"])}
    # Compression takes 300 KB of each watcher, for texts of 1 KB.
    lent.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
    try:
        return Server.accept(
            lent,
            ping_interval=ping_s,
            max_message_size=LONGEST_MESSAGE_CHARACTERS,
            event_class=Bell,
            thread_class=Reader,
        )
    except RemoteProtocolError as error:
        raise InvalidRequest("Upgrade", f"is no WebSocket handshake ({error})") from error


def _hang_up(line: Any) -> None:
    """End a WebSocket as it should be, and without the other side's help if need be."""
    with suppress(ConnectionClosed, LocalProtocolError, OSError):  # it has ended already
        line.close()
    line.thread.join(FAREWELL_S)
    with suppress(OSError):
        line.sock.shutdown(socket.SHUT_RDWR)  # wakes the reading thread
    line.thread.join()

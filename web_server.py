"""Serve a WSGI app on one port until it is told to stop: cheroot, with limits, patience and an end within five seconds.

Cheroot alone keeps a thread for every open connection from its first moment, waits for ever for an answer that does
not end, and speaks plain text. What stands here is about those three.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import logging
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any

from cheroot import wsgi
from cheroot.makefile import MakeFile, StreamReader
from cheroot.server import HTTPConnection, HTTPRequest

from model_core.errors import CannotStart

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

logger = logging.getLogger(__name__)

SERVER_NAME = "junmai-model-manager"  # and no version: whoever looks for a weakness need not be told

MAX_HEADER_BYTES = 64 * 1024
# What an app leaves unread of a body is read to keep the connection only up to here.
MAX_LEFTOVER_BYTES = 64 * 1024
MAX_IDLE_CONNECTIONS = 400  # with Python's select, Windows can watch 512
MAX_WAITING_REQUESTS = 512

IDLE_SECONDS = 30  # between two requests, and for a client that takes nothing of an answer
READ_SECONDS = 10  # between two pieces of a request
HEADER_SECONDS = 10  # from the first byte of a request to the end of its headers
BODY_SECONDS = 120  # for a body; 144 MiB in that time is 10 Mbit/s
LINGER_SECONDS = 2  # for a client that still sends while we have answered already

# All together less than the five seconds in which a stop is promised.
NOTICE_SECONDS = 0.2  # how often cheroot's loop looks whether it is to end
ANSWERS_SECONDS = 2.0
ON_STOP_SECONDS = 2.0


def serve(
    app: WSGIApplication,
    host: str,
    port: int,
    threads: int,
    *,
    on_ready: Callable[[str], None] = lambda url: None,
    on_stopping: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGTERM, Ctrl-C or ``stop``; return within five seconds of it.

    port         0 takes any free one
    on_ready     called with the address once requests are answered, e.g. "http://127.0.0.1:5110"
    on_stopping  called when the end begins: long answers should end themselves, or they are cut off
    on_stop      called once, after the last answer, however this ends; it has two seconds

    Raises CannotStart if the address cannot be used. Signals are only looked at in the main thread.
    """
    stop = stop or threading.Event()
    try:
        with _stopped_by_signals(stop):
            server = _Server(app, host, port, threads)
            server.prepare()
            loop = threading.Thread(target=server.serve, name="web server", daemon=True)
            loop.start()
            try:
                on_ready(server.url)
                # A wait without an end would not let Ctrl-C through on Windows.
                while not stop.wait(0.5) and loop.is_alive():
                    pass
                logger.info("server stopping")
                on_stopping()
            finally:
                server.stop()
                loop.join(1)
    finally:
        _call_within(on_stop, ON_STOP_SECONDS)


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        # A second signal changes nothing: a starter may pass on what the terminal has already sent us.
        stop.set()

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
        number = getattr(signal, name, None)  # SIGBREAK is Windows', SIGHUP the others'
        started_under_nohup = name == "SIGHUP" and number and signal.getsignal(number) is signal.SIG_IGN
        if number and not started_under_nohup:
            before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _call_within(function: Callable[[], None], seconds: float) -> None:
    failures: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call, name="on stop", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        logger.warning("server stopped before its last work was done seconds=%g", seconds)
    if failures:
        raise failures[0]


class _Server(wsgi.Server):
    """Cheroot's server with a pool that ends, patience that ends, and errors as our other ones look."""

    def __init__(self, app: WSGIApplication, host: str, port: int, threads: int) -> None:
        super().__init__(_resolve(host, port), app, server_name=SERVER_NAME, request_queue_size=128)
        self.requests = _WorkerPool(self, threads)
        self.ConnectionClass = _Connection
        self.gateway = _Gateway
        self.expiration_interval = NOTICE_SECONDS
        self.timeout = IDLE_SECONDS
        self.shutdown_timeout = ANSWERS_SECONDS
        self.keep_alive_conn_limit = MAX_IDLE_CONNECTIONS
        self.max_request_header_size = MAX_HEADER_BYTES
        # Bodies are limited by the app: it knows which route takes how much, and refuses before it reads.
        self.max_request_body_size = 0
        _allow_open_files(threads + MAX_IDLE_CONNECTIONS + MAX_WAITING_REQUESTS + 64)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds us."""
        host, port = self.bind_addr
        address = ipaddress.ip_address(host.partition("%")[0])
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @staticmethod
    def bind_socket(socket_: socket.socket, bind_addr: tuple[str, int]) -> socket.socket:
        """Bind, or say what is in the way. Cheroot would wrap an OSError in another without its number."""
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows: nobody may share the port with us
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        try:
            socket_.bind(bind_addr)
        except OSError as error:
            socket_.close()
            raise _cannot_listen(bind_addr, error) from error
        return socket_

    def process_conn(self, conn: Any) -> None:
        """Give a thread to a connection on which something has arrived; only watch a new one, while there is room."""
        if conn.last_used is None and self.can_add_keepalive_connection:
            self.put_conn(conn)
        else:
            super().process_conn(conn)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Log what cheroot would write to stderr."""
        logger.log(level, "%s", msg, exc_info=traceback)


class _WorkerPool:
    """The threads that answer, in the form that cheroot asks of a pool: min, get, put, start and stop.

    They are daemons, and stop gives up on those that do not end: the process must end even if an answer does not.
    """

    def __init__(self, server: _Server, threads: int) -> None:
        self.server, self.min = server, threads
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.get = self._waiting.get
        self._busy: set[Any] = set()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._threads = [
            threading.Thread(target=self._work, name=f"web {number}", daemon=True) for number in range(self.min)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, conn: Any) -> None:
        """Queue a connection that has sent something. Raises queue.Full, which cheroot answers with 503."""
        if self._waiting.qsize() >= MAX_WAITING_REQUESTS:
            raise queue.Full
        self._waiting.put(conn)

    def stop(self, timeout: float = ANSWERS_SECONDS) -> None:
        """Let the answers under way end within ``timeout`` seconds, then cut off the rest."""
        until = time.monotonic() + timeout
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for conn in tuple(self._busy):
            logger.warning("answer cut off client=%s", conn.remote_addr)
            conn.cut_off()

    def _work(self) -> None:
        while (conn := self._waiting.get()) is not None:
            self._busy.add(conn)
            try:
                if conn.communicate():
                    self.server.put_conn(conn)
                else:
                    conn.close()
            except BaseException:  # an app that raises SystemExit must not take a thread with it
                logger.exception("connection failed client=%s", conn.remote_addr)
                with contextlib.suppress(OSError):
                    conn.close()
            finally:
                self._busy.discard(conn)


class _PatientSocket(socket.SocketIO):
    """The reading side of a connection: each piece has READ_SECONDS, all of them together until ``deadline``."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "r")
        self._peer = sock
        self.deadline = time.monotonic() + HEADER_SECONDS

    def readinto(self, buffer: Any) -> int | None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")  # the very words by which cheroot knows a timeout
        patience = self._peer.gettimeout()
        self._peer.settimeout(min(READ_SECONDS, left))
        try:
            return super().readinto(buffer)
        finally:
            self._peer.settimeout(patience)


class _Reader(StreamReader):
    def __init__(self, sock: socket.socket, bufsize: int) -> None:
        # Past StreamReader's own constructor, which makes a SocketIO without a deadline.
        super(StreamReader, self).__init__(_PatientSocket(sock), bufsize)
        self.bytes_read = 0


def _make_file(sock: socket.socket, mode: str, bufsize: int) -> Any:
    return _Reader(sock, bufsize) if "r" in mode else MakeFile(sock, mode, bufsize)


class _Request(HTTPRequest):
    def parse_request(self) -> None:
        self._allow(HEADER_SECONDS)
        super().parse_request()

    def read_request_headers(self) -> bool:
        if not super().read_request_headers():  # type: ignore[no-untyped-call]
            return False
        # int() also takes "-1", "+5" and "1_0", and a length that two programs read differently hides a request.
        if not self.inheaders.get(b"Content-Length", b"0").isdigit():
            self.simple_response("400 Bad Request", "Malformed Content-Length Header.")
            return False
        return True

    def respond(self) -> None:
        self._allow(BODY_SECONDS)
        super().respond()

    def send_headers(self) -> None:
        # Cheroot reads what the app left of the body into memory, however much it is, and of a chunked body nothing,
        # which then stands where the next request is expected.
        self._allow(HEADER_SECONDS)
        left = self.chunked_read and not self.rfile.closed
        if left or getattr(self.rfile, "remaining", 0) > MAX_LEFTOVER_BYTES:
            self.close_connection = True
        super().send_headers()

    def simple_response(self, status: str, msg: str = "") -> None:
        """Answer what never reaches the app, in the form that the app's errors have, and close."""
        number = int(status[:3])
        body = _problem(number, msg)
        head = (
            f"{self.server.protocol} {number} {HTTPStatus(number).phrase}\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            f"Server: {SERVER_NAME}\r\nConnection: close\r\n\r\n"
        )
        self.close_connection = True
        with contextlib.suppress(OSError):  # a client that is gone needs no answer
            self.conn.wfile.write(head.encode("ascii") + body)

    def _allow(self, seconds: float) -> None:
        self.conn.rfile.raw.deadline = time.monotonic() + seconds


class _Gateway(wsgi.Gateway_10):
    """Lends the line to an app that wants to go on by WebSocket, under the name that simple-websocket knows."""

    def respond(self) -> None:
        if self.env.get("HTTP_UPGRADE", "").lower() != "websocket":
            super().respond()
            return
        # A copy, because the borrower closes it: cheroot's loop can die of a socket of its own that others close.
        with self.req.conn.socket.dup() as line:
            self.env["werkzeug.socket"] = line
            super().respond()


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request

    def __init__(self, server: _Server, sock: socket.socket, makefile: object = None) -> None:
        super().__init__(server, sock, _make_file)

    def communicate(self) -> bool:
        keep: bool = super().communicate()  # type: ignore[no-untyped-call]
        if not keep and self.server.ready:
            self._linger()
        return keep

    def cut_off(self) -> None:
        """Close the connection under whoever reads or writes on it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _linger(self) -> None:
        # Closing while the client still sends resets the connection, and the answer may be lost with it: a client
        # that is told 413 would only see that the line broke. So we listen a little, and throw away what comes.
        until = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                self.socket.settimeout(left)
                if not self.socket.recv(64 * 1024):
                    break


def _resolve(host: str, port: int) -> tuple[str, int]:
    """Return one numeric address, so that there is one answer to whether it is free. IPv4 first, as clients try it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise CannotStart(
            f"{host} is no address that this machine knows.",
            "Set MODEL_MANAGER_HOST to 127.0.0.1, or to an address of this machine.",
            variable="MODEL_MANAGER_HOST",
        ) from error
    address = min(found, key=lambda entry: entry[0] != socket.AF_INET)[4]
    return str(address[0]), port


def _cannot_listen(address: tuple[str, int], error: OSError) -> CannotStart:
    host, port = address[:2]
    if error.errno == errno.EADDRINUSE:
        return CannotStart(
            f"Port {port} of {host} is taken: another program, or this service already running, listens there.",
            "Stop that one, or choose another port (--port, or MODEL_MANAGER_PORT).",
            variable="MODEL_MANAGER_PORT",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return CannotStart(
            f"The system does not let this user listen on port {port} of {host}.",
            "Choose a port above 1024 (--port, or MODEL_MANAGER_PORT).",
            variable="MODEL_MANAGER_PORT",
        )
    return CannotStart(
        f"Cannot listen on port {port} of {host}: {error.strerror or error}.",
        "Set MODEL_MANAGER_HOST to 127.0.0.1, or to an address of this machine.",
        variable="MODEL_MANAGER_HOST",
    )


def _problem(status: int, detail: str) -> bytes:
    codes = {413: "payload_too_large", 500: "internal_error"}
    code = codes.get(status, "invalid_request")
    sentence = detail or f"{HTTPStatus(status).phrase}."
    return json.dumps(
        {
            "success": False,
            "error": sentence,
            "code": code,
            "type": f"urn:junmai:model-management:{code.replace('_', '-')}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": sentence,
        }
    ).encode("ascii")


def _allow_open_files(count: int) -> None:
    # macOS gives a terminal 256, fewer than the connections that we are willing to hold.
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # then the smaller number is what there is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

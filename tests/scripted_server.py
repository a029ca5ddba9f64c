"""A server that does to its client exactly what a test says: bytes, pauses and broken connections on a real socket."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

PATIENCE_S = 5.0


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Connection:
    """One connection, seen from the server."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._reader = sock.makefile("rb")

    def receive(self) -> Request | None:
        """The next request; None if the client has gone."""
        start = self._reader.readline()
        if not start:
            return None
        method, path, _ = start.decode().split(" ", 2)
        headers = {}
        while (line := self._reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Request(method, path, headers, self._reader.read(int(headers.get("content-length", 0))))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, body: bytes | object, status: str = "200 OK", *headers: str) -> None:
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def begin_stream(self) -> None:
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")

    def line(self, event: object) -> None:
        data = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self.send(b"0\r\n\r\n")

    def wait_until_closed(self) -> float:
        """The monotonic time at which the client was seen to have closed."""
        self.sock.settimeout(PATIENCE_S)
        with suppress(ConnectionError):
            while self.sock.recv(4096):
                pass
        return time.monotonic()


Script = Callable[[Connection], None]


@dataclass
class ScriptedServer:
    """Runs the script once for each connection. Use as a context manager; errors of a script come up at its end."""

    script: Script
    tls: ssl.SSLContext | None = None
    connections: int = 0
    failures: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> ScriptedServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        # Shutting a listener down wakes accept on Linux, closing it does elsewhere.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        if self.failures:
            raise self.failures[0]

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{'localhost' if self.tls else '127.0.0.1'}:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._play, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, sock: socket.socket) -> None:
        try:
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with sock:
                self.script(Connection(sock))
        except OSError:  # the client went away: what that means is for the test to say
            pass
        except BaseException as error:
            self.failures.append(error)


def answering(body: bytes | object, status: str = "200 OK", *headers: str) -> Script:
    """Every request gets this answer."""

    def script(connection: Connection) -> None:
        while connection.receive():
            connection.answer(body, status, *headers)

    return script


def sending(data: bytes) -> Script:
    """Every connection gets these bytes after its request, and is closed."""

    def script(connection: Connection) -> None:
        connection.receive()
        connection.send(data)

    return script

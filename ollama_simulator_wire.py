"""The wire of the simulated Ollama: connections, and requests and answers in the form that Go's server gives them."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TypeVar
from urllib.parse import urlsplit

from model_core.go_dialect import go_json
from model_core.simulated_checks import Refused
from model_core.simulated_replies import Json, nothing_said
from ollama_simulator_steps import Ended, Gone, Steps

T = TypeVar("T")

_LONGEST_WITH_LENGTH = 2048  # Go's net/http sends a longer answer in chunks
_LONGEST_UNREAD = 256 * 1024  # Go reads that much of a body that was left; for more it closes the connection
_UNTIL_THE_END = sys.maxsize
JSON, _PLAIN_JSON, _NDJSON = "application/json; charset=utf-8", "application/json", "application/x-ndjson"


class Server(ThreadingMixIn, HTTPServer):
    """Accepts connections, a thread each, and ends all of them when told to."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 256
    allow_reuse_address = sys.platform != "win32"  # on Windows it would share a port that is taken

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._stopped = False
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(address, handler)
        self._acceptor = threading.Thread(target=self._accept, name="ollama-simulator", daemon=True)
        self._acceptor.start()

    def server_bind(self) -> None:
        """Bind as TCPServer does: HTTPServer asks the resolver for the machine's name, too, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def _accept(self) -> None:
        while not self._stopped:
            self.handle_request()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Remember the connection, so that it can be ended."""
        with self._connections_lock:
            if not self._stopped:
                self._connections.add(request)
            return not self._stopped

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless it is only that the other side has gone."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Close every connection and wait for every thread."""
        self._stopped = True
        host = "127.0.0.1" if self.server_name == "0.0.0.0" else self.server_name  # noqa: S104  compared, not bound
        with suppress(OSError), socket.create_connection((host, self.server_port), timeout=5):
            pass  # wakes the acceptor, which looks at the flag next
        self._acceptor.join()
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Wire(BaseHTTPRequestHandler):
    """One connection. A class on top says what is answered; this one, how."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """Prepare for the first request."""
        super().setup()
        self._unread = 0
        self.raw = b""

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet; what came in is in ``requests``."""

    def serve(self) -> None:
        """Answer one request, whatever its method."""
        chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "").lower()
        self._unread = _UNTIL_THE_END if chunked else int(self.headers.get("Content-Length") or 0)
        try:
            self.answer(urlsplit(self.path).path)
        except Refused as refusal:
            self.send_json(refusal.status, {"error": refusal.error})
        except (Gone, Ended):
            self.close_connection = True
        if self._unread > _LONGEST_UNREAD:
            self.close_connection = True
        elif self._unread and not self.close_connection:
            self.read_body()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve

    def answer(self, path: str) -> None:
        """Answer the request at this path. May raise Refused, Gone and Ended."""
        raise NotImplementedError

    # --- reading ---

    def read_body(self) -> bytes:
        """Return the body, of which nothing may have been read yet; empty the second time."""
        length, self._unread = self._unread, 0
        if length != _UNTIL_THE_END:
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)

    # --- writing ---

    def send(self, status: int, body: bytes, content_type: str | None, **headers: str) -> None:
        """Send an answer whose body is known."""
        self._head(status, content_type, headers)
        in_chunks = len(body) > _LONGEST_WITH_LENGTH
        if in_chunks:
            self.send_header("Transfer-Encoding", "chunked")
        elif body or (self.command != "HEAD" and status != 204):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if in_chunks:
            self._write_chunk(body)
            self._write_end()
        else:
            self.wfile.write(body)

    def _head(self, status: int, content_type: str | None, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.headers.get("Origin") and status != 403:
            self.send_header("Access-Control-Allow-Origin", self.headers["Origin"])
            self.send_header("Vary", "Origin")
        if self.command == "OPTIONS" and status == 204:
            self.send_header("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS")
            self.send_header(
                "Access-Control-Allow-Headers", "Authorization,Content-Type,User-Agent,Accept,X-Requested-With"
            )
        self.send_header("Date", formatdate(usegmt=True))

    def _write_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _write_end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def send_json(self, status: int, value: Any, content_type: str = JSON) -> None:
        """Send a value as JSON."""
        self.send(status, go_json(value).encode(), content_type)

    def send_empty(self, status: int) -> None:
        """Send a status and nothing else."""
        self.send(status, b"", None)

    def _look(self) -> None:
        """Raise Gone if the client has closed the connection."""
        self.connection.setblocking(False)
        try:
            if self.connection.recv(1, socket.MSG_PEEK) == b"":
                raise Gone
        except (BlockingIOError, InterruptedError):
            pass  # nothing to read: it is there, and waits
        except OSError as error:
            raise Gone from error
        finally:
            with suppress(OSError):
                self.connection.setblocking(True)

    def wait_for(self, steps: Steps[T]) -> T:
        """Run steps that send nothing, and return what they return."""
        try:
            while True:
                next(steps)
                self._look()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    def send_lines(self, steps: Steps[None]) -> None:
        """Send each line when it is known."""
        begun = False

        def begin(status: int = 200, content_type: str = _NDJSON) -> None:
            nonlocal begun
            self._head(status, content_type, {"Transfer-Encoding": "chunked"})
            self.end_headers()
            begun = True

        try:
            for line in steps:
                if line is not None:
                    if not begun:
                        begin()
                    self._write_chunk(go_json(line).encode() + b"\n")
                self._look()
        except Refused as failure:
            error = go_json({"error": failure.error}).encode()
            if begun:
                self._write_chunk(error + b"\n")
            else:
                begin(failure.status, _PLAIN_JSON)
                self._write_chunk(error)
        except Ended as end:
            if end.abrupt:
                raise
        except OSError as error:
            raise Gone from error
        finally:
            steps.close()
        if not begun:
            begin()
        self._write_end()

    def send_last_line(self, steps: Steps[None]) -> None:
        """Send nothing before the end, then the last line alone."""
        last: Json = {}
        try:
            for line in steps:
                last = line or last
                self._look()
        except Refused as failure:
            self.send_json(failure.status, {"error": failure.error}, _PLAIN_JSON)
        else:
            self.send_json(200, last, _PLAIN_JSON)
        finally:
            steps.close()

    def send_in_one_piece(self, steps: Steps[None], chat: bool) -> None:
        """Send a generation whole, the way Ollama adds its pieces up: the last piece, with all the words."""
        last, said = nothing_said(chat=chat), []
        try:
            for line in steps:
                if line is not None:
                    last = line
                    said.append(line["message"]["content"] if chat else line["response"])
                self._look()
        finally:
            steps.close()
        text = "".join(said)
        self.send_json(
            200, last | ({"message": {"role": "assistant", "content": text}} if chat else {"response": text})
        )


def json_or_none(raw: bytes) -> Any:
    """Return what the bytes say as JSON; None where they are none."""
    try:
        return json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        return None

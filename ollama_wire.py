"""HTTP to one address: what goes wrong on the way to Ollama, or with the form of its answers, becomes an error of ours.

The lower half of ollama_client, which knows the calls; here is how any of them travels. Proxies of the environment are
not used: they must not catch what is meant for this machine. A certificate authority of one's own is: SSL_CERT_FILE or
REQUESTS_CA_BUNDLE. No Origin is sent, which Ollama would judge, and no redirect is followed.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
import urllib3
from pydantic import ValidationError
from pydantic_core import from_json
from requests.adapters import HTTPAdapter

from model_core import ollama_answers
from model_core.errors import (
    InvalidModelName,
    InvalidRequest,
    ModelManagerError,
    OllamaBrokeOff,
    OllamaBusy,
    OllamaError,
    OllamaModelMissing,
    OllamaTimeout,
    OllamaUnavailable,
)
from model_core.pull_errors import clean

logger = logging.getLogger(__name__)

T = TypeVar("T")
Json = Mapping[str, Any]

# A verbose description of a model with a large vocabulary has some 15 MB; nothing that is asked for is longer.
LONGEST_BODY = 64 * 2**20
# The longest line is the last of a generation: its `context` has a number for every token, 1 MB for 128 K tokens.
LONGEST_LINE = 16 * 2**20
_LONGEST_ERROR_BODY = 64 * 2**10
_PIECE = 64 * 2**10

_BAD_NAME = re.compile(r"invalid model name|model is required|^(name|source|destination) \".*\" is invalid", re.DOTALL)
_OUT_OF_MEMORY = re.compile(r"out.of.memory|requires more system memory|unable to load full model", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    what   what Ollama does meanwhile, for sentences: "Ollama did not finish listing its models"
    model  the model that a 404 is about
    """

    method: str
    path: str
    what: str
    timeout_s: float
    body: Json | None = None
    model: str | None = None
    connect_timeout_s: float | None = None


class Line:
    """The connection of one call, in the hands of who may hang up before there is an answer.

    connected_s  when it stood, answered_s when an answer began, on the clock of perf_counter; None before
    """

    def __init__(self) -> None:
        self.connected_s: float | None = None
        self.answered_s: float | None = None
        self.sock: socket.socket | None = None
        self._hung_up = False
        self._lock = threading.Lock()
        _open.add(self)

    def connected(self, sock: socket.socket) -> None:
        """Take the socket, and hang up at once where that was wished before there was one."""
        with self._lock:
            self.sock, self.connected_s = sock, time.perf_counter()
            if self._hung_up:
                self._shut_down()

    def hang_up(self) -> None:
        """Wake whoever reads, and let the other side see the end. From any thread; closing would wake nobody."""
        with self._lock:
            self._hung_up = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self.sock is not None:
            with suppress(OSError):  # it is closed already
                self.sock.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """In a fork: let go of a connection that belongs to the process that forked, without a word to Ollama."""
        if self.sock is not None:
            with suppress(OSError):  # it is closed already
                os.close(self.sock.detach())


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An answer that goes on, on a connection of its own."""

    response: requests.Response
    session: requests.Session
    line: Line

    def release(self) -> None:
        """Close for good. From the thread that reads."""
        self.response.close()
        self.session.close()


_open: weakref.WeakSet[Line] = weakref.WeakSet()


def _after_fork() -> None:
    # A fork that kept them would keep Ollama busy after the process that forked has died, for as long as it lives.
    for line in list(_open):
        line.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Wire:
    """HTTP to one address. Here requests' exceptions and Ollama's statuses become errors of ours."""

    def __init__(self, address: str, connect_timeout_s: float) -> None:
        self._address = address
        self._base = _dialled(address)
        self._connect_timeout_s = connect_timeout_s
        self._sessions = _Sessions()

    def close(self) -> None:
        """Close what lies idle."""
        self._sessions.close()

    def answer(self, call: Call) -> Any:
        """Return the JSON that Ollama answers. Raises OllamaError for other than an object."""
        with self._sent(call) as response:
            return _object(call, _body(call, response))

    def done(self, call: Call, content: Any = None) -> None:
        """Have Ollama do something; what it answers, mostly nothing, is of no interest."""
        with self._sent(call, content) as response:
            _body(call, response)

    def lines(self, call: Call) -> Generator[dict[str, Any]]:
        """Yield the objects of an answer that comes line by line. An `error` among them is raised."""
        with self._sent(call) as response:
            yield from _good_objects(call, response)

    def lines_on(self, line: Line, call: Call) -> Generator[dict[str, Any]]:
        """Yield the same over a connection of its own, which may be hung up on at any moment.

        Once the answer has begun, it may be silent for as long as it likes.
        """
        opened = self.opened(call, line)
        try:
            with self._translated(call):
                yield from _good_objects(call, opened.response)
        finally:
            opened.release()

    def opened(self, call: Call, line: Line | None = None) -> Opened:
        """Return an answer that may be silent for as long as it likes, once it has begun."""
        line = line or Line()
        session = _new_session(_TellingAdapter(line.connected))
        try:
            with self._translated(call):
                response = self._request(session, call)
                self._check(call, response)
        except BaseException:
            session.close()
            raise
        line.answered_s = time.perf_counter()
        if line.sock is not None:
            line.sock.settimeout(None)
        return Opened(response, session, line)

    @contextmanager
    def _sent(self, call: Call, content: Any = None) -> Iterator[requests.Response]:
        with self._translated(call), self._request(self._sessions.here(), call, content) as response:
            self._check(call, response)
            yield response

    def _request(self, session: requests.Session, call: Call, content: Any = None) -> requests.Response:
        return session.request(
            call.method,
            self._base + call.path,
            data=content if call.body is None else _encoded(call.body),
            headers={} if call.body is None else {"Content-Type": "application/json"},
            timeout=(call.connect_timeout_s or self._connect_timeout_s, call.timeout_s),
            stream=True,
            allow_redirects=False,
        )

    def _check(self, call: Call, response: requests.Response) -> None:
        logger.debug("ollama %s %s status=%d", call.method, call.path, response.status_code)
        if not 200 <= response.status_code < 300:
            raise self._refusal(call, response)

    def _refusal(self, call: Call, response: requests.Response) -> ModelManagerError:
        status = response.status_code
        body = _body(call, response, _LONGEST_ERROR_BODY, truncate=True)
        text = _error_text(body)
        if 300 <= status < 400:
            return OllamaError(
                f"{self._address} sends on to another address instead of answering.",
                "Set OLLAMA_HOST to the address where Ollama itself answers (often https instead of http).",
                upstream_status=status,
            )
        if status == 404 and call.model is not None and text is not None:
            return OllamaModelMissing(call.model, clean(text))
        if status == 403 and not body and call.method != "HEAD":
            return OllamaError(
                f"Ollama refuses to be called by the name in {self._address} (403).",
                "Use its IP address or localhost in OLLAMA_HOST, or let Ollama listen on more than its loopback.",
                upstream_status=403,
            )
        if status == 503:
            return OllamaBusy(clean(text or ""))
        if text is None and body:
            return _not_ollama(call, body, status)
        return _error(call, status, clean(text or ""))

    @contextmanager
    def _translated(self, call: Call) -> Iterator[None]:
        try:
            yield
        except (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError) as error:
            raise OllamaTimeout(call.what, call.timeout_s) from error
        except requests.ConnectionError as error:
            raise OllamaUnavailable(self._address, _why(error)) from error
        except (urllib3.exceptions.HTTPError, requests.RequestException) as error:
            raise OllamaBrokeOff(call.what) from error


class _Sessions:
    """A session for each thread: requests does not promise that one serves two. None is carried over a fork."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        # Weakly: the connections of a thread that has ended go with it.
        self._all: weakref.WeakSet[requests.Session] = weakref.WeakSet()
        self._process = os.getpid()

    def here(self) -> requests.Session:
        if self._process != os.getpid():
            self._begin()
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            # Two: while the lines of one answer are read, another call may be made.
            session = self._local.session = _new_session(HTTPAdapter(pool_connections=1, pool_maxsize=2))
            with self._lock:
                self._all.add(session)
        return session

    def close(self) -> None:
        with self._lock:
            sessions = list(self._all)
        for session in sessions:
            session.close()


class _TellingAdapter(HTTPAdapter):
    """Tells which socket it has connected: shutting that down is the one way to wake a thread that reads from it."""

    def __init__(self, tell: Callable[[socket.socket], None]) -> None:
        self._tell = tell
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        kinds = {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}
        self.poolmanager.pool_classes_by_scheme = {name: _telling(kind, self._tell) for name, kind in kinds.items()}


def _telling(pool: Any, tell: Callable[[socket.socket], None]) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            tell(self.sock)

    class Pool(pool):  # type: ignore[misc]
        ConnectionCls = Connection

    return Pool


def _new_session(adapter: HTTPAdapter) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
    session.headers.update({"User-Agent": "junmai-model-manager", "Accept-Encoding": "identity"})
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _dialled(address: str) -> str:
    # Windows tries localhost as ::1 first and takes 2 s to see that nobody listens there; Ollama takes 127.0.0.1 where
    # it is told to listen on localhost, as Go does. A certificate, though, is for the name.
    return address.replace("http://localhost:", "http://127.0.0.1:", 1)


def _why(error: requests.ConnectionError) -> str:
    """Return in a few words what was in the way; the library's own text names its objects and ours."""
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate or its TLS is not accepted"
    inner = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(inner, urllib3.exceptions.NameResolutionError):
        return "its name is not known"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, http.client.HTTPException) and not isinstance(cause, http.client.RemoteDisconnected):
            return "what answers there does not speak HTTP"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "the connection was cut" if inner is None else "no connection"


# --- what comes over it ----------------------------------------------------------------------------------------------


class Garbled(ValueError):
    """A whole line that is not a JSON object."""

    def __init__(self, line: bytes) -> None:
        super().__init__(_shown(line) or "a web page")
        self.line = line


def objects(response: requests.Response) -> Iterator[dict[str, Any]]:
    """Yield the object of each line as soon as the line is there. Half a line at the end is passed over.

    Raises Garbled, and what urllib3 raises where the connection breaks.
    """
    for line, is_whole in _lines(response):
        try:
            data = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            if not is_whole:
                return
            raise Garbled(line) from error
        if not isinstance(data, dict):
            raise Garbled(line)
        yield data


def _good_objects(call: Call, response: requests.Response) -> Iterator[dict[str, Any]]:
    try:
        for event in objects(response):
            text = ollama_answers.error_text(event)
            if text is not None:
                raise _error(call, 200, clean(text))
            yield event
    except Garbled as error:
        raise _not_ollama(call, error.line) from error


def _lines(response: requests.Response) -> Iterator[tuple[bytes, bool]]:
    """Yield (line, does it end in a line feed); empty lines are left out."""
    rest: list[bytes] = []
    held = 0
    # read1 gives what is there; every other way of reading waits until a piece is full.
    while piece := response.raw.read1(_PIECE):
        *whole, piece = piece.split(b"\n")
        for line in whole:
            line, rest, held = b"".join((*rest, line)), [], 0
            if line.strip():
                yield line, True
        rest.append(piece)
        held += len(piece)
        if held > LONGEST_LINE:
            raise Garbled(rest[0])
    if line := b"".join(rest).strip():
        yield line, False


def _body(call: Call, response: requests.Response, longest: int = LONGEST_BODY, truncate: bool = False) -> bytes:
    """Return the whole body. The connection can be used again only if it was read to its end."""
    deadline = time.monotonic() + call.timeout_s
    pieces: list[bytes] = []
    held = 0
    while piece := response.raw.read1(_PIECE):
        pieces.append(piece)
        held += len(piece)
        if held > longest:
            if truncate:
                break
            raise OllamaError(f"Ollama's answer when {call.what} is longer than {longest // 2**20} MiB.")
        if time.monotonic() > deadline:
            raise OllamaTimeout(call.what, call.timeout_s)
    return b"".join(pieces)


def _object(call: Call, body: bytes) -> dict[str, Any]:
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise _not_ollama(call, body) from error
    if not isinstance(data, dict):
        raise _not_ollama(call, body)
    return data


def read_as(call: Call, reader: Callable[[Any], T], data: Any) -> T:
    """Return what a function of ollama_answers makes of the JSON. Raises OllamaError where it has another form."""
    try:
        return reader(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise OllamaError(
            f"Ollama's answer when {call.what} is not as it should be ({where}: {first['msg']}).",
            "Look whether it is Ollama that answers there, and how old it is.",
        ) from error


def _error_text(body: bytes) -> str | None:
    try:
        return ollama_answers.error_text(from_json(body))
    except ValueError:
        return None


def _error(call: Call, status: int, text: str) -> ModelManagerError:
    if status == 400 and _BAD_NAME.search(text):
        return InvalidModelName("is not a name that Ollama accepts")
    said = f": {text}" if text else ""
    remedy = "Look at Ollama's log."
    if _OUT_OF_MEMORY.search(text):
        remedy = "Choose a smaller model or quantization, or free memory."
    elif status == 401:
        remedy = "Sign in to Ollama's service there (ollama signin), or use a model that lies on that machine."
    return OllamaError(
        f"Ollama could not finish {call.what} (status {status}){said}.", remedy, upstream_status=status, upstream=text
    )


def _not_ollama(call: Call, body: bytes, status: int = 200) -> OllamaError:
    shown = _shown(body)
    form = "nothing" if not body.strip() else "something that is not Ollama's JSON" if shown else "a web page"
    return OllamaError(
        f"When {call.what}, the server answered {form} (status {status}).",
        "Look whether OLLAMA_HOST is Ollama's address, and whether a proxy stands in between.",
        upstream_status=status,
        upstream=shown,
    )


def _shown(body: bytes) -> str:
    """Return the beginning of what is no JSON; nothing of a web page, which tells nobody anything."""
    start = body[:_LONGEST_ERROR_BODY].lstrip()
    return "" if start.startswith(b"<") else clean(start.decode(errors="replace"))


def _encoded(body: Json) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest("request", f"cannot be written as JSON ({error})") from error

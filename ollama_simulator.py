"""A stand-in for an Ollama server on a real socket, for the tests and the demonstration. /api/version says what it is.

It answers as Ollama 0.33 does (same status, headers, keys, words, order of lines) and keeps state as Ollama does
(models are manifests of shared layers, runners are keyed by the weights). It downloads nothing: sizes are said only.

    with OllamaSimulator(installed=["llama3.2:1b-instruct-q4_K_M"]) as ollama:
        ollama.set_fault("stall", at_bytes=500_000_000, times=1)
        ...  # talk to ollama.url

Only it has ``set_fault``, and the same over HTTP: POST and DELETE /_simulator/fault, GET /_simulator/state.
Alone: ``python ollama_simulator.py --port 11434 --rate 50e6``.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import ipaddress
import json
import math
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from model_core import names
from model_core.errors import InvalidModelName
from model_core.go_dialect import (
    GoError,
    decode_request,
    go_json,
    parse_keep_alive_ns,
    quoted,
    rfc3339_nano,
)
from model_core.names import ModelName
from model_core.records import GIB, MIB
from model_core.simulated_answers import answer_to, embedding_of, tokens_of
from model_core.simulated_library import (
    Layer,
    LibraryModel,
    bytes_on_card,
    library_from_catalog,
    loaded_bytes,
    made_from,
    make_model,
    tensors,
)

__all__ = ["FAULTS", "LibraryModel", "OllamaSimulator", "library_from_catalog", "main"]

VERSION = "0.33.0-simulator"

Request = dict[str, Any]
T = TypeVar("T")
# What takes time is written as a generator: it yields what is to be sent, and None wherever the client may have gone.
Steps = Generator["Request | None", None, T]

KEEP_ALIVE_NS = 5 * 60 * 10**9  # OLLAMA_KEEP_ALIVE where nothing is set
MAX_LOADED_MODELS = 3  # OLLAMA_MAX_LOADED_MODELS where nothing is set
CARD_RESERVE_BYTES = 457 * MIB  # what Ollama leaves free on a card (docs of v0.9; llm/memory.go)
VERIFY_SPEEDUP = 10  # hashing against downloading; on common machines 1 GB/s against 100 MB/s
CONTENT_LENGTH_LIMIT = 2048  # Go's net/http sends a longer answer in chunks
UNREAD_LIMIT = 256 * 1024  # Go reads that much of a body that the handler left; for more it closes the connection
BLOBS_FOLDER = "/usr/share/ollama/.ollama/models/blobs"

CRASHED_MIDWAY = "an error was encountered while running the model: unexpected EOF"
CRASHED_AT_ONCE = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
NO_VISION = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal requests.",'
    '"type":"invalid_request_error"}}'
)
PROXY_PAGE = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>502 Bad Gateway</body>\r\n</html>\r\n"

# Each fault: what it does, then what may be said besides `times` (None: until cleared), `model` and `endpoint`.
FAULTS: Mapping[str, str] = {
    "unknown_model": "pull: the registry has no such model",
    "registry_refused": "pull: nobody listens at the registry",
    "registry_no_such_host": "pull: the registry's name does not resolve",
    "registry_status": "pull: the registry answers status=500 with text='boom'",
    "registry_html": "pull: the registry answers with a page",
    "too_new": "pull: the model wants a newer Ollama",
    "slow_manifest": "pull: silence for seconds=1 before the manifest",
    "goes_back": "pull: at at_bytes=0 of the weights, completed falls to to_bytes=0; once unless times says more",
    "stall": "pull: from at_bytes=0 on the same line at every tick, until cleared",
    "silence": "pull: from at_bytes=0 on no line at all, until cleared",
    "cut_stream": "pull: at at_bytes=0 the stream ends, without success and error; abrupt=True: without its last chunk",
    "disk_full": "pull: at at_bytes=0 the disk is full",
    "context_canceled": "pull: at at_bytes=0 a cancelled download ends this one, too",
    "retries_exhausted": "pull: at at_bytes=0 Ollama gives up",
    "digest_mismatch": "pull: the weights are not what their digest says",
    "busy": "generate, chat, embed: the queue is full (503)",
    "forbidden": "any: 403 with an empty body",
    "proxy_error": "any: a proxy's page with status=502",
    "dropped": "any: the connection closes without an answer",
    "slow_answer": "any: silence for seconds=1 first",
    "slow_load": "load: takes seconds=5",
    "load_failed": "load: 500 with text",
    "cut_generation": "generate, chat: ends after after_tokens=1 without done",
    "runner_crash": "generate, chat: an error after after_tokens=1; after 0 the status is 500",
}
_MANIFEST_FAULTS = (
    "unknown_model",
    "registry_refused",
    "registry_no_such_host",
    "registry_status",
    "registry_html",
    "too_new",
)
_BYTE_FAULTS = ("goes_back", "stall", "silence", "cut_stream", "disk_full", "context_canceled", "retries_exhausted")
_INFERENCE = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")

_TEXT_FIELDS = {"model": "string", "name": "string"}
_FIELDS: Mapping[str, dict[str, str]] = {
    "PullRequest": {**_TEXT_FIELDS, "stream": "bool", "insecure": "bool"},
    "DeleteRequest": _TEXT_FIELDS,
    "ShowRequest": {**_TEXT_FIELDS, "system": "string", "verbose": "bool"},
    "CopyRequest": {"source": "string", "destination": "string"},
    "CreateRequest": {
        **_TEXT_FIELDS, "stream": "bool", "from": "string", "files": "map[string]string", "template": "string",
        "system": "string", "parameters": "map[string]interface {}", "messages": "[]api.Message",
    },
    "GenerateRequest": {
        "model": "string", "prompt": "string", "suffix": "string", "system": "string", "template": "string",
        "stream": "bool", "raw": "bool", "options": "map[string]interface {}", "images": "[]api.ImageData",
    },
    "ChatRequest": {
        "model": "string", "messages": "[]api.Message", "stream": "bool", "options": "map[string]interface {}",
    },
    "EmbedRequest": {"model": "string", "options": "map[string]interface {}"},
    "EmbeddingRequest": {"model": "string", "prompt": "string", "options": "map[string]interface {}"},
}  # fmt: skip

_RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
_OPTION_TYPES: Mapping[str, tuple[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(
        ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict", "num_keep", "seed",
         "num_predict", "top_k", "repeat_last_n"), ("integer", (int, float))),
    **dict.fromkeys(
        ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"),
        ("float32", (int, float))),
    "use_mmap": ("boolean", bool),
    "stop": ("array", list),
}  # fmt: skip

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


class _Refused(Exception):
    """The request is answered with this status and error."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error


class _Failed(_Refused):
    """What was under way has failed: an error line if something was sent already, else a status of its own."""

    def __init__(self, error: str, status: int = 500) -> None:
        super().__init__(status, error)


class _Ended(Exception):
    """The stream ends here, as if the server had gone; ``abrupt``: in the middle of the encoding, too."""

    def __init__(self, abrupt: bool = False) -> None:
        super().__init__()
        self.abrupt = abrupt


class _Gone(Exception):
    """The client has closed the connection, or the simulator stops."""


@dataclass
class _Fault:
    kind: str
    times: int | None
    model: str | None
    endpoint: str | None
    details: dict[str, Any]
    cleared: bool = False

    def concerns(self, model: str | None, endpoint: str | None) -> bool:
        return (self.model is None or (model is not None and names.same(self.model, model))) and (
            self.endpoint is None or self.endpoint == endpoint
        )


@dataclass
class _Installed:
    name: ModelName
    model: LibraryModel
    modified_ns: int


@dataclass
class _Download:
    layer: Layer
    completed: int = 0
    waiters: int = 0
    moved_at: float = 0.0
    done: bool = False


@dataclass
class _Runner:
    name: ModelName
    model: LibraryModel
    options: Request
    context_tokens: int
    size_bytes: int
    card_bytes: int
    keep_ns: int
    expires_ns: int = 0
    in_use: int = 0
    gone_at: float | None = None


class LoggedRequest(NamedTuple):
    """One request as it came in; the body is parsed JSON, or None where it was none."""

    method: str
    path: str
    body: Any


class OllamaSimulator:
    """One simulated Ollama: start it, talk to its ``url``, stop it. State survives a stop and a new start.

    library           what the registry offers: full name to model; None: what the catalogue knows
    rate_bytes_per_s  of a download, all pulls of one layer together
    tick_s            between two progress lines; Ollama's is 0.06
    load_seconds      from the request to a loaded model
    unload_seconds    from the answer to an unload until the memory is free
    vram_bytes        of the card; 0: there is none
    tokens_per_second of a generation
    installed         names of library models that are there from the beginning
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        library: Mapping[str, LibraryModel] | None = None,
        rate_bytes_per_s: float = 100e6,
        tick_s: float = 0.06,
        load_seconds: float = 0.2,
        unload_seconds: float = 0.05,
        vram_bytes: int = 8 * GIB,
        tokens_per_second: float = 40.0,
        installed: Iterable[str] = (),
    ) -> None:
        if library is None:
            from catalog import MODEL_CATALOG  # only who does not bring a library needs the catalogue

            library = library_from_catalog(MODEL_CATALOG)
        self.host, self.port = host, port
        self.rate_bytes_per_s, self.tick_s = rate_bytes_per_s, tick_s
        self.load_seconds, self.unload_seconds = load_seconds, unload_seconds
        self.vram_bytes, self.tokens_per_second = vram_bytes, tokens_per_second
        self.requests: list[LoggedRequest] = []
        self.bytes_sent_total = 0
        self.concurrent_pulls_peak: Counter[str] = Counter()
        self._library = {names.parse(name): model for name, model in library.items()}
        self._lock = threading.RLock()
        self._installed: dict[tuple[str, str, str, str], _Installed] = {}
        self._blobs: dict[str, Layer] = {}
        self._uploads: dict[str, bytes] = {}
        self._downloads: dict[str, _Download] = {}
        self._runners: dict[str, _Runner] = {}
        self._loading = False
        self._pulling: Counter[str] = Counter()
        self._faults: list[_Fault] = []
        self._stopping = threading.Event()
        self._server: _Server | None = None
        self._acceptor: threading.Thread | None = None
        for name in installed:
            self.install(name)

    # --- life ---

    @property
    def url(self) -> str:
        """Where it listens; known once it has started."""
        host = "127.0.0.1" if self.host in ("", "0.0.0.0") else self.host  # noqa: S104  compared, not bound
        return f"http://{host}:{self.port}"

    def start(self) -> OllamaSimulator:
        """Listen. Raises OSError if the port is taken."""
        if self._server is not None:
            return self
        self._stopping.clear()
        self._server = _Server((self.host, self.port), self)
        self.port = self._server.server_address[1]
        self._acceptor = threading.Thread(
            target=self._server.accept_until_stopped, name="ollama-simulator", daemon=True
        )
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Close every connection, end every thread. A download that was running keeps its bytes; runners are gone."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping.set()
        server.stop()
        if self._acceptor is not None:
            self._acceptor.join()
        with self._lock:
            self._runners.clear()

    def __enter__(self) -> OllamaSimulator:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # --- what tests and the demonstration arrange ---

    def install(self, name: str, model: LibraryModel | None = None) -> None:
        """Put a model there at once: the library's of that name, or the one given. Raises KeyError if there is none."""
        parsed = names.parse(name)
        found = model if model is not None else self._library.get(parsed)
        if found is None:
            raise KeyError(f"the simulated library has no {name}; it has {', '.join(self.library_names())}")
        with self._lock:
            self._blobs.update((layer.digest, layer) for layer in found.layers)
            self._write_manifest(parsed, found)

    def publish(self, name: str, model: LibraryModel) -> None:
        """Put a model into the library, or move its tag to another one."""
        with self._lock:
            self._library[names.parse(name)] = model

    def unpublish(self, name: str) -> None:
        """Take a model out of the library."""
        with self._lock:
            self._library.pop(names.parse(name), None)

    def library_names(self) -> list[str]:
        """Return the names that can be pulled, sorted."""
        with self._lock:
            return sorted(name.display for name in self._library)

    def set_fault(
        self,
        kind: str,
        *,
        times: int | None = None,
        model: str | None = None,
        endpoint: str | None = None,
        **details: Any,
    ) -> None:
        """Arm a fault of FAULTS, for one model or one path where these are said. It heals after ``times`` hits.

        Raises ValueError for a kind that does not exist.
        """
        if kind not in FAULTS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(FAULTS)}")
        if kind == "goes_back" and times is None:
            times = 1
        with self._lock:
            self._faults.append(_Fault(kind, times, model, endpoint, details))

    def clear_faults(self) -> None:
        """End all faults, also for the pulls that hang in one."""
        with self._lock:
            for fault in self._faults:
                fault.cleared = True
            self._faults.clear()

    def state(self) -> dict[str, Any]:
        """Return what is going on inside, as JSON values."""
        with self._lock:
            self._sweep()
            return {
                "version": VERSION,
                "library": self.library_names(),
                "installed": [entry.name.display for entry in self._installed.values()],
                "partial": {digest: download.completed for digest, download in self._downloads.items()},
                "running": [runner.name.display for runner in self._runners.values()],
                "pulling": dict(+self._pulling),
                "bytes_sent_total": self.bytes_sent_total,
                "faults": [{"kind": fault.kind, "times": fault.times, **fault.details} for fault in self._armed()],
            }

    # --- faults ---

    def _armed(self) -> list[_Fault]:
        return [fault for fault in self._faults if fault.times is None or fault.times > 0]

    def hit(self, *kinds: str, model: str | None = None, endpoint: str | None = None) -> _Fault | None:
        """Return the first armed fault of these kinds that concerns the model or the path, and count the hit."""
        with self._lock:
            for fault in self._armed():
                if fault.kind in kinds and fault.concerns(model, endpoint):
                    self._count(fault)
                    return fault
        return None

    def _count(self, fault: _Fault) -> None:
        if fault.times is not None:
            fault.times -= 1

    # --- names and manifests ---

    def existing(self, name: ModelName) -> ModelName:
        """Return the name in the spelling of what is installed, part by part, as Ollama does."""
        for entry in self._installed.values():
            name = ModelName(
                *(
                    there if there.lower() == part.lower() else part
                    for there, part in zip(
                        (entry.name.host, entry.name.namespace, entry.name.model, entry.name.tag),
                        (name.host, name.namespace, name.model, name.tag),
                        strict=True,
                    )
                )
            )
        return name

    def find(self, name: ModelName) -> _Installed | None:
        """Return what is installed under a name, in whatever case."""
        with self._lock:
            return self._installed.get(name.key)

    def _write_manifest(self, name: ModelName, model: LibraryModel) -> None:
        with self._lock:
            old = self._installed.get(name.key)
            spelled = old.name if old else self.existing(name)
            self._installed[name.key] = _Installed(spelled, model, time.time_ns())

    def _remove_unused(self, layers: Iterable[Layer]) -> None:
        with self._lock:
            used = {layer.digest for entry in self._installed.values() for layer in entry.model.layers}
            for layer in layers:
                if layer.digest not in used:
                    self._blobs.pop(layer.digest, None)
                    self._uploads.pop(layer.digest, None)

    def has_blob(self, digest: str) -> bool:
        """Say whether a blob is complete."""
        with self._lock:
            return digest.replace("-", ":") in self._blobs

    def add_blob(self, digest: str, data: bytes) -> None:
        """Keep what a client has uploaded."""
        with self._lock:
            self._blobs[digest] = Layer("model", digest, len(data))
            self._uploads[digest] = data

    def copy(self, source: ModelName, destination: ModelName) -> bool:
        """Give a model another name. False if there is no such model."""
        with self._lock:
            entry = self.find(source)
            if entry is not None and source.key != destination.key:
                self._write_manifest(destination, entry.model)
            return entry is not None

    def delete(self, name: ModelName) -> bool:
        """Forget a name, and the blobs that no other name needs; a runner stays. False if there is no such model."""
        with self._lock:
            entry = self._installed.pop(name.key, None)
            if entry is not None:
                self._remove_unused(entry.model.layers)
            return entry is not None

    def tags(self) -> list[Request]:
        """Return what /api/tags lists: the last modified second first, and no order within a second."""
        with self._lock:
            entries = sorted(self._installed.values(), key=lambda entry: entry.model.digest)
        entries.sort(key=lambda entry: entry.modified_ns // 10**9, reverse=True)
        return [_listed(entry) for entry in entries]

    def running(self) -> list[Request]:
        """Return what /api/ps lists: under the name that loaded it, the longest to stay first."""
        with self._lock:
            self._sweep()
            runners = sorted(self._runners.values(), key=lambda runner: runner.expires_ns // 10**9, reverse=True)
            return [_runner_listed(runner) for runner in runners]

    # --- create ---

    def create(self, name: ModelName, request: Request) -> Steps[None]:
        """Make a model from another one or from an uploaded file, yielding Ollama's lines."""
        if request.get("from"):
            base, base_name = yield from self._base(str(request["from"]))
        elif request.get("files") is not None:
            base, base_name = (yield from self._from_file(request["files"])), ""
        else:
            raise _Failed("neither 'from' or 'files' was specified", 400)
        template = str(request.get("template") or "")
        if template.count("{{") > template.count("}}"):
            raise _Failed("template error: template: :1: unclosed action", 400)
        made, new = made_from(base, base_name, request)
        for layer in made.layers:
            if layer.kind != "config":
                fresh = layer.digest in new and layer.digest not in self._blobs
                yield {
                    "status": f"{'creating new' if fresh or not base_name else 'using existing'} layer {layer.digest}"
                }
        yield {"status": "writing manifest"}
        with self._lock:
            old = self.find(name)
            self._blobs.update((layer.digest, layer) for layer in made.layers)
            self._write_manifest(name, made)
            self._remove_unused(old.model.layers if old else ())
        yield {"status": "success"}

    def _base(self, sent: str) -> Steps[tuple[LibraryModel, str]]:
        try:
            name = names.parse(sent.strip())
        except InvalidModelName as error:
            raise _Failed("invalid model name", 400) from error
        entry = self.find(name)
        if entry is None or entry.name != name:  # here alone the case counts
            for line in self.pull(name, insecure=False):
                if line != {"status": "success"}:
                    yield line
        entry = self.find(name)
        if entry is None:
            raise _Failed(f"model {quoted(sent)} not found")
        return entry.model, entry.name.display

    def _from_file(self, files: Mapping[str, str]) -> Steps[LibraryModel]:
        if not files:
            raise _Failed("unknown type", 400)
        digest = next(iter(files.values()))
        yield {"status": "parsing GGUF"}
        if not _DIGEST.fullmatch(digest):
            raise _Failed("invalid digest format")
        if not self.has_blob(digest):
            raise _Failed(f"open {BLOBS_FOLDER}/{digest.replace(':', '-')}: no such file or directory")
        with self._lock:
            known = [entry.model for entry in self._installed.values() if entry.model.weights.digest == digest]
            data = self._uploads.get(digest)
        if not known and not (data or b"").startswith(b"GGUF"):
            raise _Failed("supplied file was not in GGUF format")
        yield {"status": "verifying conversion"}
        like = known[0] if known else make_model(digest, size_bytes=len(data or b""))
        return replace(like, layers=(self._blobs[digest],))

    # --- pull ---

    def pull(self, name: ModelName, insecure: bool) -> Steps[None]:
        """Fetch a model as Ollama does, yielding its progress lines."""
        self._begin_pull(name)
        try:
            yield {"status": "pulling manifest"}
            model = yield from self._manifest(name, insecure)
            fresh = []
            for layer in model.layers:
                if not (yield from self._fetch(name, layer)):
                    fresh.append(layer)
            yield {"status": "verifying sha256 digest"}
            yield from self.pause(sum(layer.size_bytes for layer in fresh) / (VERIFY_SPEEDUP * self.rate_bytes_per_s))
            self._verify(name, fresh)
            yield {"status": "writing manifest"}
            old = self.find(name)
            self._write_manifest(name, model)
            kept = {layer.digest for layer in model.layers}
            left_over = [layer for layer in old.model.layers if layer.digest not in kept] if old else []
            if left_over:
                yield {"status": "removing unused layers"}
                self._remove_unused(left_over)
            yield {"status": "success"}
        finally:
            with self._lock:
                self._pulling[name.display] -= 1

    def _begin_pull(self, name: ModelName) -> None:
        with self._lock:
            self._pulling[name.display] += 1
            self.concurrent_pulls_peak[name.display] = max(
                self.concurrent_pulls_peak[name.display], self._pulling[name.display]
            )

    def _manifest(self, name: ModelName, insecure: bool) -> Steps[LibraryModel]:
        if fault := self.hit("slow_manifest", model=name.display):
            yield from self.pause(float(fault.details.get("seconds", 1)))
        fault = self.hit(*_MANIFEST_FAULTS, model=name.display)
        kind = fault.kind if fault else self._reachability(name.host)
        address = (
            f"{'http' if insecure else 'https'}://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
        )
        port = name.host if ":" in name.host else f"{name.host}:{80 if insecure else 443}"
        problems = {
            "registry_refused": f"Get {quoted(address)}: dial tcp {port}: connect: connection refused",
            "registry_no_such_host": f"Get {quoted(address)}: dial tcp: lookup {name.host} on 127.0.0.53:53: "
            "no such host",
            "registry_html": "invalid character '<' looking for beginning of value",
            "too_new": "412: \n\nThe model you are attempting to pull requires a newer version of Ollama.",
            "unknown_model": "file does not exist",
        }
        if fault and kind == "registry_status":
            raise _Failed(
                f"pull model manifest: {fault.details.get('status', 500)}: {fault.details.get('text', 'boom')}"
            )
        if kind is not None:
            raise _Failed(f"pull model manifest: {problems[kind]}")
        model = self._library.get(name)
        if model is None:
            raise _Failed(f"pull model manifest: {problems['unknown_model']}")
        return model

    def _reachability(self, host: str) -> str | None:
        if host == names.DEFAULT_HOST or any(known.host == host for known in self._library):
            return None
        try:
            ipaddress.ip_address(host.rpartition(":")[0] or host)
        except ValueError:
            return "registry_no_such_host"
        return "registry_refused"

    def _fetch(self, name: ModelName, layer: Layer) -> Steps[bool]:
        """Bring one layer, or wait while another pull brings it. Returns whether it was there already."""
        download = self._join(layer)
        if download is None:
            yield _progress(layer, layer.size_bytes)
            return True
        try:
            while True:
                yield from self.pause(min(self.tick_s, (layer.size_bytes - download.completed) / self.rate_bytes_per_s))
                fault = self._advance(name, download)
                if download.done:
                    return False
                if fault:
                    yield from self._suffer(fault, download)
                yield _progress(layer, download.completed)
        finally:
            with self._lock:
                download.waiters -= 1

    def _join(self, layer: Layer) -> _Download | None:
        with self._lock:
            if layer.digest in self._blobs:
                return None
            download = self._downloads.setdefault(layer.digest, _Download(layer))
            if download.waiters == 0:
                download.moved_at = time.monotonic()
            download.waiters += 1
            return download

    def _advance(self, name: ModelName, download: _Download) -> _Fault | None:
        """Let time do its work on a download, whoever of its waiters asks. Returns the fault that it ran into."""
        with self._lock:
            now = time.monotonic()
            # No more than one tick's worth: a thread that was kept waiting must not make a download jump.
            elapsed_s = min(now - download.moved_at, self.tick_s)
            download.moved_at = now
            total = download.layer.size_bytes
            aimed = [
                fault for fault in self._armed() if fault.kind in _BYTE_FAULTS and fault.concerns(name.display, None)
            ]
            ahead = [
                (int(fault.details.get("at_bytes", 0)), fault)
                for fault in aimed
                if download.layer.kind == "model"
                and download.completed <= int(fault.details.get("at_bytes", 0)) < total
            ]
            limit, fault = min(ahead, key=lambda item: item[0], default=(total, None))
            reached = min(limit, download.completed + math.ceil(self.rate_bytes_per_s * elapsed_s))
            self.bytes_sent_total += reached - download.completed
            download.completed = reached
            if reached >= total:
                self._finish(download)
                return None
            if fault is None or reached < limit:
                return None
            self._count(fault)
            return fault

    def _finish(self, download: _Download) -> None:
        download.done = True
        self._downloads.pop(download.layer.digest, None)
        self._blobs[download.layer.digest] = download.layer

    def _suffer(self, fault: _Fault, download: _Download) -> Steps[None]:
        digest = download.layer.digest
        if fault.kind == "goes_back":
            with self._lock:
                download.completed = min(download.completed, int(fault.details.get("to_bytes", 0)))
        elif fault.kind in ("stall", "silence"):
            while not fault.cleared:
                yield _progress(download.layer, download.completed) if fault.kind == "stall" else None
                yield from self.pause(self.tick_s)
        elif fault.kind == "cut_stream":
            raise _Ended(abrupt=bool(fault.details.get("abrupt")))
        elif fault.kind == "disk_full":
            raise _Failed(f"write {BLOBS_FOLDER}/{digest.replace(':', '-')}-partial: no space left on device")
        elif fault.kind == "context_canceled":
            raise _Failed("context canceled")
        else:
            raise _Failed("max retries exceeded: EOF")

    def _verify(self, name: ModelName, fresh: list[Layer]) -> None:
        weights = next((layer for layer in fresh if layer.kind == "model"), None)
        if weights is None or not self.hit("digest_mismatch", model=name.display):
            return
        with self._lock:
            self._blobs.pop(weights.digest, None)
        got = hashlib.sha256(weights.digest.encode()).hexdigest()
        raise _Failed(f"digest mismatch, file must be downloaded again: want {weights.digest}, got sha256:{got}")

    def pause(self, seconds: float) -> Steps[None]:
        """Wait, looking at every tick whether anyone still listens."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._stopping.wait(min(left, max(self.tick_s, 0.01))):
                raise _Gone
            yield None

    # --- runners ---

    def runner_for(self, entry: _Installed, options: Request, keep_ns: int | None) -> Steps[_Runner]:
        """Return a runner of the model, loaded if it was not; the caller must give it back with ``release``."""
        wanted = entry.model.parameters | options
        options = {key: wanted[key] for key in _RUNNER_OPTIONS if key in wanted}
        weights = entry.model.weights.digest
        while True:
            with self._lock:
                self._sweep()
                runner = self._runners.get(weights)
                if runner and runner.gone_at is None and runner.options == options:
                    runner.in_use += 1
                    runner.keep_ns = runner.keep_ns if keep_ns is None else keep_ns
                    return runner
                if runner and runner.in_use == 0:
                    self._unload(runner)
                free = runner is None and not self._loading
                self._loading = self._loading or free
            if free:
                break
            yield from self.pause(max(self.tick_s, 0.001))
        try:
            yield from self._load_time(entry)
            with self._lock:
                self._runners[weights] = runner = self._loaded(entry, options, keep_ns)
                return runner
        finally:
            with self._lock:
                self._loading = False

    def _load_time(self, entry: _Installed) -> Steps[None]:
        if fault := self.hit("load_failed", model=entry.name.display):
            text = "llama-server process has terminated: error loading model: unable to allocate CUDA0 buffer"
            raise _Failed(str(fault.details.get("text", text)))
        slow = self.hit("slow_load", model=entry.name.display)
        yield from self.pause(float(slow.details.get("seconds", 5)) if slow else self.load_seconds)

    def _loaded(self, entry: _Installed, options: Request, keep_ns: int | None) -> _Runner:
        context = int(options.get("num_ctx") or self._default_context())
        context = max(4, min(context, entry.model.number("context_length", context)))
        size = loaded_bytes(entry.model, context)
        free = self._make_room(size)
        if options.get("num_gpu") == 0 or not self.vram_bytes:
            free = 0
        on_card = bytes_on_card(entry.model, size, free) if free > 0 else 0
        runner = _Runner(
            entry.name, entry.model, options, context, size, on_card, KEEP_ALIVE_NS if keep_ns is None else keep_ns
        )
        runner.in_use = 1
        runner.expires_ns = time.time_ns() + runner.keep_ns
        return runner

    def _default_context(self) -> int:
        for vram_gib, context in ((47, 262_144), (23, 32_768)):
            if self.vram_bytes >= vram_gib * GIB:
                return context
        return 4096

    def _make_room(self, size_bytes: int) -> int:
        """Unload idle models until the new one fits and is not one too many. Returns the free bytes of the card."""
        while True:
            used = sum(runner.card_bytes for runner in self._runners.values())
            free = self.vram_bytes - CARD_RESERVE_BYTES - used
            idle = [(runner.expires_ns, weights) for weights, runner in self._runners.items() if runner.in_use == 0]
            if not idle or (size_bytes <= free and len(self._runners) < MAX_LOADED_MODELS):
                return free
            del self._runners[min(idle)[1]]

    def release(self, runner: _Runner) -> None:
        """Give a runner back; from now on its idle time counts."""
        with self._lock:
            runner.in_use -= 1
            now = time.time_ns()
            if runner.gone_at is None:
                runner.expires_ns = now + runner.keep_ns
            if runner.in_use == 0 and (runner.keep_ns == 0 or runner.gone_at == math.inf):
                self._unload(runner)

    def _unload(self, runner: _Runner) -> None:
        """Let it go: at once if it is idle, else when its last request has ended."""
        if runner.gone_at in (None, math.inf):
            runner.expires_ns = min(runner.expires_ns, time.time_ns())
            runner.gone_at = math.inf if runner.in_use else time.monotonic() + self.unload_seconds

    def expire(self, model: LibraryModel) -> None:
        """Unload whatever runs on the model's weights; who asks gets the answer before the memory is free."""
        with self._lock:
            if runner := self._runners.get(model.weights.digest):
                self._unload(runner)

    def _sweep(self) -> None:
        for weights, runner in list(self._runners.items()):
            if runner.in_use == 0 and runner.expires_ns <= time.time_ns():
                self._unload(runner)
            if runner.gone_at is not None and runner.gone_at <= time.monotonic():
                del self._runners[weights]

    # --- words ---

    def speak(
        self, model: str, entry: _Installed, request: Request, started: float, loaded: float, chat: bool
    ) -> Steps[None]:
        """Yield the chunks of an answer, the last one with its metrics."""
        wanted = request.get("format")
        if wanted and wanted != "json" and not isinstance(wanted, dict):
            raise _Failed(f'invalid format: {quoted(go_json(wanted))}; expected "json" or a valid JSON Schema object')
        if _has_images(request) and "vision" not in entry.model.capabilities:
            raise _Failed(NO_VISION, 400)
        options = entry.model.parameters | (request.get("options") or {})
        prompt = go_json(request.get("messages")) if chat else str(request.get("prompt"))
        cut = self.hit("cut_generation", model=entry.name.display)
        crash = None if cut else self.hit("runner_crash", model=entry.name.display)
        broken = cut or crash
        stop_after = int(broken.details.get("after_tokens", 1)) if broken else None

        pieces = list(tokens_of(answer_to(prompt, options.get("seed"), wanted)))
        most = int(options.get("num_predict") or -1)
        said = pieces[:most] if most > 0 else pieces
        for number, piece in enumerate(said):
            if number == stop_after:
                break
            yield from self.pause(1 / self.tokens_per_second)
            yield _chunk(model, piece, chat)
        if crash:
            raise _Failed(CRASHED_MIDWAY if stop_after else CRASHED_AT_ONCE)
        if cut:
            return
        ended = time.monotonic()
        prompt_tokens = len(list(tokens_of(prompt))) + 2
        last = _chunk(model, "", chat) | {"done": True, "done_reason": "length" if len(said) < len(pieces) else "stop"}
        if not chat and not request.get("raw"):
            last["context"] = list(range(259, 259 + prompt_tokens + len(said)))
        yield last | {
            "total_duration": int((ended - started) * 1e9) + 1,
            "load_duration": int((loaded - started) * 1e9) + 1,
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": int(prompt_tokens / (10 * self.tokens_per_second) * 1e9) + 1,
            "eval_count": len(said),
            "eval_duration": int((ended - loaded) * 1e9) + 1,
        }


def _progress(layer: Layer, completed: int) -> Request:
    line = {"status": f"pulling {layer.digest[7:19]}", "digest": layer.digest, "total": layer.size_bytes}
    return line | ({"completed": completed} if completed else {})


def _chunk(model: str, text: str, chat: bool) -> Request:
    said = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
    return {"model": model, "created_at": rfc3339_nano(time.time_ns()), **said, "done": False}


def _listed(entry: _Installed) -> Request:
    shape = {key: entry.model.number(key) for key in ("context_length", "embedding_length") if entry.model.number(key)}
    return {
        "name": entry.name.display,
        "model": entry.name.display,
        "modified_at": _local_time(entry.modified_ns),
        "size": entry.model.size_bytes,
        "digest": entry.model.digest,
        "details": _details(entry.model) | shape,
        "capabilities": list(entry.model.capabilities),
    }


def _runner_listed(runner: _Runner) -> Request:
    return {
        "name": runner.name.display,
        "model": runner.name.display,
        "size": runner.size_bytes,
        "digest": runner.model.digest,
        "details": _details(runner.model) | {"parent_model": ""},
        "expires_at": _local_time(runner.expires_ns),
        "size_vram": runner.card_bytes,
        "context_length": runner.context_tokens,
    }


# --- the socket ------------------------------------------------------------------------------------------------------


class _Server(ThreadingMixIn, HTTPServer):
    """Accepts connections, a thread each, and ends all of them when told to."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 256
    allow_reuse_address = sys.platform != "win32"  # on Windows it would share a port that is taken

    def __init__(self, address: tuple[str, int], simulator: OllamaSimulator) -> None:
        self.simulator = simulator
        self._stopped = False
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks the resolver for the machine's name, which may take seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def accept_until_stopped(self) -> None:
        while not self._stopped:
            self.handle_request()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._connections_lock:
            if not self._stopped:
                self._connections.add(request)
            return not self._stopped

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self._stopped = True
        with suppress(OSError), socket.create_connection((self.server_name, self.server_port), timeout=5):
            pass  # wakes the acceptor, which looks at the flag next
        with self._connections_lock:
            open_connections = list(self._connections)
        for connection in open_connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, asks the simulator, writes answers as Go's server would."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.simulator = self.server.simulator
        self._unread = 0

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet; what came in is in ``requests``."""

    def serve(self) -> None:
        """Answer one request, whatever its method."""
        try:
            self._answer()
        except _Refused as refusal:
            self._json(refusal.status, {"error": refusal.error})
        except (_Gone, _Ended):
            self.close_connection = True
        if self._unread > UNREAD_LIMIT:
            self.close_connection = True
        elif self._unread and not self.close_connection:
            self._body()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "").lower()
        self._unread = sys.maxsize if chunked else int(self.headers.get("Content-Length") or 0)
        self.raw = b"" if path.startswith("/api/blobs/") else self._body()
        self.simulator.requests.append(LoggedRequest(self.command, path, _json_or_none(self.raw)))
        if path.startswith("/_simulator/"):
            self._control(path)
            return
        if self._disturbed(path):
            return
        if not (self._origin_allowed() and self._host_allowed()):
            self._empty(403)
            return
        if self.command == "OPTIONS" and self.headers.get("Origin"):
            self._empty(204)
            return
        methods = _methods_at(path)
        if methods is None and path.endswith("/") and _methods_at(path.rstrip("/")):
            self._send(301 if self.command == "GET" else 307, b"", None, Location=path.rstrip("/"))
        elif methods is None:
            self._send(404, b"404 page not found", "text/plain")
        elif self.command not in methods:
            self._send(405, b"405 method not allowed", "text/plain", Allow=", ".join(methods))
        else:
            methods[self.command](self)

    # --- reading ---

    def _body(self) -> bytes:
        length, self._unread = self._unread, 0
        if length != sys.maxsize:
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _request(self, struct: str) -> Request:
        try:
            request = decode_request(self.raw, struct, _FIELDS[struct])
            request["keep_alive"] = parse_keep_alive_ns(request.get("keep_alive"))
        except GoError as error:
            raise _Refused(400, str(error)) from error
        for image in request.get("images") or []:
            _check_image(image)
        return request

    def _origin_allowed(self) -> bool:
        origin = self.headers.get("Origin")
        if not origin or origin in (f"http://{self.headers.get('Host')}", f"https://{self.headers.get('Host')}"):
            return True
        return _ORIGIN.fullmatch(origin) is not None

    def _host_allowed(self) -> bool:
        if not ipaddress.ip_address(self.server.server_name).is_loopback:
            return True
        host = (self.headers.get("Host") or "").lower()
        host = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            known = ("", "localhost", socket.gethostname().lower())
            return host in known or host.endswith((".localhost", ".local", ".internal"))
        return address.is_loopback or address.is_unspecified or any(address in network for network in _PRIVATE)

    # --- writing ---

    def _send(self, status: int, body: bytes, content_type: str | None, **headers: str) -> None:
        self._head(status, content_type, headers)
        if len(body) > CONTENT_LENGTH_LIMIT:
            self.send_header("Transfer-Encoding", "chunked")
        elif body or (self.command != "HEAD" and status != 204):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if len(body) > CONTENT_LENGTH_LIMIT:
            self._write_chunk(body)
            body = b"0\r\n\r\n"
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

    def _json(self, status: int, value: Any, content_type: str = "application/json; charset=utf-8") -> None:
        self._send(status, go_json(value).encode(), content_type)

    def _empty(self, status: int) -> None:
        self._send(status, b"", None)

    def _until(self, steps: Steps[T]) -> T:
        """Run steps that send nothing. Raises _Gone when the client goes away meanwhile."""
        try:
            while True:
                next(steps)
                self._look()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    def _look(self) -> None:
        """Raise _Gone if the client has closed the connection."""
        self.connection.setblocking(False)
        try:
            if self.connection.recv(1, socket.MSG_PEEK) == b"":
                raise _Gone
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            raise _Gone from error
        finally:
            with suppress(OSError):
                self.connection.setblocking(True)

    def _stream(self, steps: Steps[None]) -> None:
        """Send each line when it is known."""
        begun = False

        def begin(status: int, content_type: str) -> None:
            self._head(status, content_type, {"Transfer-Encoding": "chunked"})
            self.end_headers()

        try:
            for line in steps:
                if line is not None:
                    if not begun:
                        begin(200, "application/x-ndjson")
                        begun = True
                    self._write_chunk(go_json(line).encode() + b"\n")
                self._look()
        except _Refused as failure:
            error = go_json({"error": failure.error}).encode()
            if not begun:
                begin(failure.status, "application/json")
            self._write_chunk(error + (b"\n" if begun else b""))
        except _Ended as end:
            if end.abrupt:
                raise
            if not begun:
                begin(200, "application/x-ndjson")
        except OSError as error:
            raise _Gone from error
        else:
            if not begun:
                begin(200, "application/x-ndjson")
        finally:
            steps.close()
        self.wfile.write(b"0\r\n\r\n")

    def _last_line(self, steps: Steps[None]) -> None:
        """Send nothing before the end, then the last line alone."""
        last: Request = {}
        try:
            for line in steps:
                last = line or last
                self._look()
        except _Refused as failure:
            self._json(failure.status, {"error": failure.error}, "application/json")
        else:
            self._json(200, last, "application/json")
        finally:
            steps.close()

    def _whole(self, steps: Steps[None], chat: bool) -> None:
        """Send a generation in one piece, the way Ollama adds its chunks up."""
        nothing = _chunk("", "", chat) | {"created_at": "0001-01-01T00:00:00Z"}
        last, said = nothing, []
        try:
            for line in steps:
                if line is not None:
                    last = line
                    said.append(line["message"]["content"] if chat else line["response"])
                self._look()
        finally:
            steps.close()
        text = "".join(said)
        self._json(200, last | ({"message": {"role": "assistant", "content": text}} if chat else {"response": text}))

    # --- faults and control ---

    def _disturbed(self, path: str) -> bool:
        simulator = self.simulator
        if fault := simulator.hit("slow_answer", endpoint=path):
            self._until(simulator.pause(float(fault.details.get("seconds", 1))))
        if simulator.hit("dropped", endpoint=path):
            raise _Gone
        if simulator.hit("forbidden", endpoint=path):
            self._empty(403)
            return True
        if fault := simulator.hit("proxy_error", endpoint=path):
            self._send(int(fault.details.get("status", 502)), PROXY_PAGE, "text/html")
            return True
        if path in _INFERENCE and simulator.hit("busy", endpoint=path):
            self._json(503, {"error": "server busy, please try again.  maximum pending requests exceeded"})
            return True
        return False

    def _control(self, path: str) -> None:
        if (self.command, path) == ("GET", "/_simulator/state"):
            self._json(200, self.simulator.state())
        elif (self.command, path) == ("DELETE", "/_simulator/fault"):
            self.simulator.clear_faults()
            self._empty(204)
        elif (self.command, path) == ("POST", "/_simulator/fault"):
            try:
                self.simulator.set_fault(**(_json_or_none(self.raw) or {}))
            except (TypeError, ValueError) as error:
                raise _Refused(400, str(error)) from error
            self._json(200, self.simulator.state())
        else:
            raise _Refused(404, "the simulator has POST and DELETE /_simulator/fault and GET /_simulator/state")

    # --- the endpoints ---

    def _root(self) -> None:
        self._send(200, b"Ollama is running", "text/plain; charset=utf-8")

    def _version(self) -> None:
        self._json(200, {"version": VERSION})

    def _status(self) -> None:
        self._json(200, {"cloud": {"disabled": True, "source": "env"}})

    def _tags(self) -> None:
        self._json(200, {"models": self.simulator.tags()})

    def _ps(self) -> None:
        self._json(200, {"models": self.simulator.running()})

    def _show(self) -> None:
        request = self._request("ShowRequest")
        reference = _Reference.read(request, required=(400, "model is required"))
        reference.refuse_cloud("remote model details are unavailable")
        entry = self.simulator.find(reference.name)
        if entry is None:
            shown = self.simulator.existing(reference.name).display
            raise _Refused(404, f"model '{shown}' not found")
        self._json(200, _shown(entry, request))

    def _pull(self) -> None:
        request = self._request("PullRequest")
        reference = _Reference.read(request, required=(400, "invalid model name"))
        name = self.simulator.existing(reference.pull_name)
        steps = self.simulator.pull(name, bool(request.get("insecure")))
        self._lines(request, steps)

    def _lines(self, request: Request, steps: Steps[None]) -> None:
        if request.get("stream") is False:
            self._last_line(steps)
        else:
            self._stream(steps)

    def _delete(self) -> None:
        request = self._request("DeleteRequest")
        sent = request.get("model") or request.get("name") or ""
        reference = _Reference.read(
            request, required=(400, "model is required"), invalid=f"name {quoted(sent)} is invalid"
        )
        if not self.simulator.delete(reference.pull_name):
            raise _Refused(404, f"model '{sent}' not found")
        self._empty(200)

    def _copy(self) -> None:
        request = self._request("CopyRequest")
        parsed = {}
        for side in ("source", "destination"):
            sent = request.get(side) or ""
            try:
                parsed[side] = names.parse(sent)
            except InvalidModelName as error:
                raise _Refused(400, f"{side} {quoted(sent)} is invalid") from error
        if not self.simulator.copy(parsed["source"], parsed["destination"]):
            raise _Refused(404, f"model {quoted(request['source'])} not found")
        self._empty(200)

    def _create(self) -> None:
        request = self._request("CreateRequest")
        for path, digest in (request.get("files") or {}).items():
            if path.startswith("/") or ".." in path.split("/"):
                raise _Refused(400, "file path must be relative")
            if not digest:
                raise _Refused(400, "invalid digest format")
        try:
            name = names.parse(request.get("model") or request.get("name") or "")
        except InvalidModelName as error:
            raise _Refused(400, "invalid model name") from error
        self._lines(request, self.simulator.create(name, request))

    def _blob_there(self) -> None:
        digest = self._digest()
        if not self.simulator.has_blob(digest):
            raise _Refused(404, f"blob {quoted(digest)} not found")
        self._empty(200)

    def _blob_upload(self) -> None:
        digest = self._digest()
        if self.simulator.has_blob(digest):
            self._empty(200)
            return
        data = self._body()
        got = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if got != digest:
            raise _Refused(400, f"digest mismatch, expected {quoted(digest)}, got {quoted(got)}")
        self.simulator.add_blob(digest, data)
        self._empty(201)

    def _digest(self) -> str:
        digest = urlsplit(self.path).path.removeprefix("/api/blobs/")
        if not _DIGEST.fullmatch(digest):
            raise _Refused(400, "invalid digest format")
        return digest

    def _generate(self) -> None:
        request = self._request("GenerateRequest")
        sent = request.get("model") or ""
        reference = _Reference.read(request, required=(404, f"model '{sent}' not found"))
        self._infer(request, reference, sent, chat=False)

    def _chat(self) -> None:
        request = self._request("ChatRequest")
        reference = _Reference.read(request, required=(400, "model is required"))
        self._infer(request, reference, request.get("model") or "", chat=True)

    def _infer(self, request: Request, reference: _Reference, sent: str, chat: bool) -> None:
        started = time.monotonic()
        simulator = self.simulator
        reference.refuse_cloud("remote model is unavailable")
        entry = simulator.find(reference.name)
        if entry is None:
            raise _Refused(404, f"model '{sent}' not found")
        silent = not (request.get("messages") if chat else request.get("prompt"))
        if silent and request["keep_alive"] == 0:
            simulator.expire(entry.model)
            self._json(200, _chunk(sent, "", chat) | {"done": True, "done_reason": "unload"})
            return
        _check_capabilities(request, entry, sent, chat)
        _check_options(request.get("options") or {})
        runner = self._until(simulator.runner_for(entry, request.get("options") or {}, request["keep_alive"]))
        try:
            if silent:
                self._json(200, _chunk(sent, "", chat) | {"done": True, "done_reason": "load"})
                return
            steps = simulator.speak(sent, entry, request, started, time.monotonic(), chat)
            if request.get("stream") is False:
                self._whole(steps, chat)
            else:
                self._stream(steps)
        finally:
            simulator.release(runner)

    def _embed(self) -> None:
        request = self._request("EmbedRequest")
        texts = request.get("input") or []
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _Refused(400, "invalid input type")
        started = time.monotonic()
        vectors = self._vectors(request, texts)
        taken = int((time.monotonic() - started) * 1e9) + 1
        metrics = {
            "total_duration": taken,
            "load_duration": taken,
            "prompt_eval_count": sum(len(t.split()) for t in texts),
        }
        self._json(200, {"model": request.get("model"), "embeddings": vectors} | (metrics if texts else {}))

    def _embeddings(self) -> None:
        request = self._request("EmbeddingRequest")
        prompt = request.get("prompt")
        if not (request.get("model") or "").strip():
            raise _Refused(400, "model is required")
        vectors = self._vectors(request, [prompt] if prompt else [])
        self._json(200, {"embedding": vectors[0] if vectors else []})

    def _vectors(self, request: Request, texts: list[str]) -> list[list[float]]:
        sent = request.get("model") or ""
        reference = _Reference.read(request, required=(404, f"model '{sent}' not found"))
        reference.refuse_cloud("remote model is unavailable")
        entry = self.simulator.find(reference.name)
        if entry is None:
            raise _Refused(404, f"model {quoted(sent)} not found, try pulling it first")
        _check_options(request.get("options") or {})
        runner = self._until(self.simulator.runner_for(entry, request.get("options") or {}, request["keep_alive"]))
        try:
            return [embedding_of(text, entry.model.number("embedding_length", 64)) for text in texts]
        finally:
            self.simulator.release(runner)


_ROUTES: Mapping[str, Mapping[str, Callable[[_Handler], None]]] = {
    "/": {"HEAD": _Handler._root, "GET": _Handler._root},
    "/api/version": {"HEAD": _Handler._version, "GET": _Handler._version},
    "/api/status": {"GET": _Handler._status},
    "/api/tags": {"HEAD": _Handler._tags, "GET": _Handler._tags},
    "/api/ps": {"GET": _Handler._ps},
    "/api/show": {"POST": _Handler._show},
    "/api/pull": {"POST": _Handler._pull},
    "/api/delete": {"DELETE": _Handler._delete},
    "/api/copy": {"POST": _Handler._copy},
    "/api/create": {"POST": _Handler._create},
    "/api/blobs/*": {"HEAD": _Handler._blob_there, "POST": _Handler._blob_upload},
    "/api/generate": {"POST": _Handler._generate},
    "/api/chat": {"POST": _Handler._chat},
    "/api/embed": {"POST": _Handler._embed},
    "/api/embeddings": {"POST": _Handler._embeddings},
}


def _methods_at(path: str) -> Mapping[str, Callable[[_Handler], None]] | None:
    return _ROUTES.get("/api/blobs/*" if re.fullmatch(r"/api/blobs/[^/]+", path) else path)


# Pages that Ollama lets in where OLLAMA_ORIGINS is not set (envconfig/config.go).
_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:.*)?|(app|file|tauri|vscode-webview|vscode-file)://.*"
)
_PRIVATE = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]


@dataclass(frozen=True)
class _Reference:
    """What the model field of a request means: a name, and whether it is to be local or in the cloud."""

    name: ModelName
    source: str | None
    pull_name: ModelName

    @classmethod
    def read(cls, request: Request, *, required: tuple[int, str], invalid: str = "invalid model name") -> _Reference:
        raw = str(request.get("model") or request.get("name") or "").strip()
        if not raw:
            raise _Refused(*required)
        base, source = _without_suffix(raw)
        if source and _without_suffix(base)[1]:
            raise _Refused(400, f"use either :local or :cloud, not both: {quoted(raw)}")
        tagged = base.rfind(":") > base.rfind("/")
        stub = f"{base}{'-' if tagged else ':'}cloud" if source == "cloud" else base
        try:
            return cls(names.parse(base), source, names.parse(stub))
        except InvalidModelName as error:
            raise _Refused(400, invalid) from error

    def refuse_cloud(self, operation: str) -> None:
        if self.source == "cloud":
            raise _Refused(403, f"ollama cloud is disabled: {operation}")


def _without_suffix(raw: str) -> tuple[str, str | None]:
    source = names.source_suffix(raw)
    base, _, suffix = raw.rpartition(":")
    if source is None:
        return raw, None
    return (base if suffix.strip().lower() == source else f"{base}:{suffix.strip()[: -len('-cloud')]}"), source


def _json_or_none(raw: bytes) -> Any:
    try:
        return decode_request(b'{"it":' + raw + b"}", "", {})["it"] if raw else None
    except GoError:
        return None


def _check_image(image: Any) -> None:
    if not isinstance(image, str):
        raise _Refused(
            400, "json: cannot unmarshal number into Go struct field GenerateRequest.images of type api.ImageData"
        )
    text = image
    with suppress(ValueError):
        base64.b64decode(text, validate=True)
        return
    bad = re.search(r"[^A-Za-z0-9+/]", text)
    raise _Refused(400, f"illegal base64 data at input byte {bad.start() if bad else len(text) // 4 * 4}")


def _check_options(options: Request) -> None:
    for key, value in options.items():
        if key in _OPTION_TYPES and value is not None:
            go_type, kinds = _OPTION_TYPES[key]
            if not isinstance(value, kinds) or (go_type != "boolean" and isinstance(value, bool)):
                raise _Refused(500, f"option {quoted(key)} must be of type {go_type}")
            if go_type == "array" and not all(isinstance(item, str) for item in value):
                raise _Refused(500, f"option {quoted(key)} must be of an array of strings")


def _check_capabilities(request: Request, entry: _Installed, sent: str, chat: bool) -> None:
    able = entry.model.capabilities
    full = f"{entry.name.host}/{entry.name.namespace}/{entry.name.model}:{entry.name.tag}"
    if request.get("raw") and (request.get("template") or request.get("system") or request.get("context")):
        raise _Refused(400, "raw mode does not support template, system, or context")
    if request.get("think") and "thinking" not in able:
        raise _Refused(400, f"{quoted(sent)} does not support thinking")
    if "completion" not in able:
        raise _Refused(400, f"{quoted(sent)} does not support {'chat' if chat else 'generate'}")
    for field, capability in (("tools", "tools"), ("suffix", "insert")):
        if request.get(field) and capability not in able:
            raise _Refused(400, f"{full} does not support {capability}")


def _has_images(request: Request) -> bool:
    messages = [message for message in request.get("messages") or [] if isinstance(message, dict)]
    return bool(request.get("images")) or any(message.get("images") for message in messages)


def _details(model: LibraryModel) -> Request:
    return {
        "parent_model": model.parent,
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def _shown(entry: _Installed, request: Request) -> Request:
    """Return what /api/show says; what a model lacks is absent."""
    model = entry.model
    system = request.get("system") or model.text("system")
    info = {
        key: None if isinstance(value, list) and not request.get("verbose") else value
        for key, value in sorted(model.model_info.items())
    }
    answer = {
        "license": model.text("license"),
        "modelfile": _modelfile(entry, system),
        "parameters": "\n".join(f"{key:<30} {_go_syntax(value)}" for key, value in _each(model.parameters)),
        "template": model.text("template"),
        "system": system,
        "details": _details(model),
        "messages": _messages(model),
        "model_info": info,
        "tensors": tensors(model),
        "capabilities": list(model.capabilities),
        "modified_at": _local_time(entry.modified_ns),
    }
    return {key: value for key, value in answer.items() if value or key in ("details", "model_info", "modified_at")}


def _modelfile(entry: _Installed, system: str) -> str:
    model = entry.model
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {entry.name.display}",
        "",
        f"FROM {BLOBS_FOLDER}/{model.weights.digest.replace(':', '-')}",
        f'TEMPLATE "{model.text("template")}"',
        *([f"SYSTEM {system}"] if system else []),
        *(f"PARAMETER {key} {_plain(value)}" for key, value in _each(model.parameters)),
        *(f"LICENSE {layer.text}" for layer in model.layers if layer.kind == "license"),
        *(f"MESSAGE {message['role']} {message['content']}" for message in _messages(model)),
    ]
    return "\n".join(lines) + "\n"


def _messages(model: LibraryModel) -> list[Request]:
    return list(json.loads(model.text("messages") or "[]"))


def _each(parameters: Request) -> list[tuple[str, Any]]:
    return [
        (key, item) for key, value in parameters.items() for item in (value if isinstance(value, list) else [value])
    ]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _go_syntax(value)


def _go_syntax(value: Any) -> str:
    """Return a value in Go's %#v: text quoted, a number as short as it can be."""
    if isinstance(value, str):
        return quoted(value)
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else go_json(value)


def _local_time(moment_ns: int) -> str:
    """Return a moment in the local zone, as Ollama shows the times of files; far moments with the offset of today."""
    return rfc3339_nano(moment_ns, time.localtime().tm_gmtoff)


def main(arguments: list[str] | None = None) -> int:
    """Run one simulated Ollama until it is interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for an Ollama server that downloads nothing and says so.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11434, help="0 takes any free one (default: 11434, Ollama's own)")
    parser.add_argument("--rate", type=float, default=100e6, help="of downloads, in bytes per second (default: 100e6)")
    parser.add_argument("--vram-gb", type=float, default=8.0, help="of the simulated card (default: 8)")
    parser.add_argument("--installed", action="append", default=[], metavar="NAME", help="there from the beginning")
    given = parser.parse_args(arguments)
    simulator = OllamaSimulator(
        host=given.host,
        port=given.port,
        rate_bytes_per_s=given.rate,
        vram_bytes=int(given.vram_gb * GIB),
        installed=given.installed,
    )
    with simulator:
        print(f"A simulated Ollama ({VERSION}) listens at {simulator.url}; Ctrl-C ends it.", flush=True)  # noqa: T201
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

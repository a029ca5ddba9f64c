"""The endpoints of the simulated Ollama: who may come in, what a request asks for, and which answer it gets."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from model_core import names
from model_core.errors import InvalidModelName
from model_core.go_dialect import quoted
from model_core.simulated_checks import (
    Reference,
    Refused,
    check_ability,
    check_digest,
    check_options,
    read_reference,
    read_request,
)
from model_core.simulated_library import manifest_text
from model_core.simulated_replies import Installed, Json, chunk, shown
from model_core.simulated_words import embedding_of
from ollama_simulator_faults import Fault, Faults
from ollama_simulator_models import Models
from ollama_simulator_runners import Runner, Runners
from ollama_simulator_steps import Gone, Pace, Steps
from ollama_simulator_wire import Wire, json_or_none

VERSION = "0.33.0-simulator"

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_INFERENCE = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")
_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_PROXY_PAGE = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>502 Bad Gateway</body>\r\n</html>\r\n"

# Pages that Ollama lets in where OLLAMA_ORIGINS is not set (envconfig/config.go).
_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:.*)?|(app|file|tauri|vscode-webview|vscode-file)://.*"
)
_PRIVATE = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]


class LoggedRequest(NamedTuple):
    """One request as it came in; the body is parsed JSON, or None where it was none."""

    method: str
    path: str
    body: Any


class Simulated(Protocol):
    """What the socket needs of the simulator behind it."""

    models: Models
    runners: Runners
    faults: Faults
    pace: Pace
    requests: list[LoggedRequest]

    def set_fault(self, kind: str, **details: Any) -> None:
        """Arm a fault."""

    def clear_faults(self) -> None:
        """End all faults."""

    def state(self) -> Json:
        """Return what is going on inside."""


class Endpoints(Wire):
    """One connection to a simulator; Server is given a subclass that names it."""

    simulator: Simulated

    def answer(self, path: str) -> None:
        """Answer one request."""
        self.raw = b"" if path.startswith("/api/blobs/") else self.read_body()
        self.simulator.requests.append(LoggedRequest(self.command, path, json_or_none(self.raw)))
        if path.startswith("/_simulator/"):
            self._control(path)
        elif self._disturbed(path):
            return
        elif not (self._origin_allowed() and self._host_allowed()):
            self.send_empty(403)
        elif self.command == "OPTIONS" and self.headers.get("Origin"):
            self.send_empty(204)
        else:
            self._route(path)

    def _route(self, path: str) -> None:
        methods = _methods_at(path)
        if methods is None and _methods_at(path.rstrip("/")):
            self.send(301 if self.command == "GET" else 307, b"", None, Location=path.rstrip("/"))
        elif methods is None:
            self.send(404, b"404 page not found", "text/plain")
        elif self.command not in methods:
            self.send(405, b"405 method not allowed", "text/plain", Allow=", ".join(methods))
        else:
            methods[self.command](self)

    # --- who may come in ---

    def _origin_allowed(self) -> bool:
        origin, host = self.headers.get("Origin"), self.headers.get("Host")
        return not origin or origin in (f"http://{host}", f"https://{host}") or bool(_ORIGIN.fullmatch(origin))

    def _host_allowed(self) -> bool:
        if not ipaddress.ip_address(self.server.server_name).is_loopback:
            return True
        host = (self.headers.get("Host") or "").lower()
        before, _, port = host.rpartition(":")
        host = before if port.isdigit() else host
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            known = ("", "localhost", socket.gethostname().lower())
            return host in known or host.endswith((".localhost", ".local", ".internal"))
        return address.is_loopback or address.is_unspecified or any(address in network for network in _PRIVATE)

    # --- faults and control ---

    def _disturbed(self, path: str) -> bool:
        """Let the faults of any path strike. Returns whether that was the answer."""
        faults = self.simulator.faults
        if slow := faults.hit("slow_answer", endpoint=path):
            self.wait_for(self.simulator.pace.pause(float(slow.details.get("seconds", 1))))
        if faults.hit("dropped", endpoint=path):
            raise Gone
        if faults.hit("forbidden", endpoint=path):
            self.send_empty(403)
        elif proxy := faults.hit("proxy_error", endpoint=path):
            self.send(int(proxy.details.get("status", 502)), _PROXY_PAGE, "text/html")
        elif path in _INFERENCE and faults.hit("busy", endpoint=path):
            self.send_json(503, {"error": _BUSY})
        else:
            return False
        return True

    def _control(self, path: str) -> None:
        asked = (self.command, path)
        if asked == ("GET", "/_simulator/state"):
            self.send_json(200, self.simulator.state())
        elif asked == ("DELETE", "/_simulator/fault"):
            self.simulator.clear_faults()
            self.send_empty(204)
        elif asked == ("POST", "/_simulator/fault"):
            try:
                self.simulator.set_fault(**(json_or_none(self.raw) or {}))
            except (TypeError, ValueError) as error:
                raise Refused(400, str(error)) from error
            self.send_json(200, self.simulator.state())
        else:
            raise Refused(404, "the simulator has POST and DELETE /_simulator/fault and GET /_simulator/state")

    # --- the endpoints ---

    def _root(self) -> None:
        self.send(200, b"Ollama is running", "text/plain; charset=utf-8")

    def _registry(self) -> None:
        """What Ollama's registry would say: a simulated Ollama fetches from itself."""
        host, path = names.DEFAULT_HOST, self.path.partition("?")[0]
        _, _, namespace, model, _, tag = path.split("/")
        try:
            found = self.simulator.models.published_as(names.parse(f"{host}/{namespace}/{model}:{tag}"))
        except InvalidModelName:
            found = None
        if found is None:
            self.send_json(404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]})
        elif isinstance(found, Fault):
            status = int(found.details.get("status", 500)) if found.kind == "registry_status" else 503
            self.send(status, _PROXY_PAGE, "text/html")
        else:
            # Nothing that hashes to the digest of the real manifest can be made up, so the header says it.
            self.send(200, manifest_text(found), _MANIFEST_TYPE, **{"Ollama-Content-Digest": found.digest})

    def _version(self) -> None:
        self.send_json(200, {"version": VERSION})

    def _status(self) -> None:
        self.send_json(200, {"cloud": {"disabled": True, "source": "env"}})

    def _tags(self) -> None:
        models = self.simulator.models.tags()
        if self.simulator.faults.hit("bare_list"):
            models = [{key: value for key, value in model.items() if key != "capabilities"} for model in models]
        self.send_json(200, {"models": models})

    def _ps(self) -> None:
        self.send_json(200, {"models": self.simulator.runners.listed()})

    def _show(self) -> None:
        request = read_request(self.raw, "ShowRequest")
        reference = read_reference(request, absent=(400, "model is required"))
        reference.refuse_cloud("remote model details are unavailable")
        spelled = self.simulator.models.spelled(reference.name).display
        entry = self._found(reference, 404, f"model '{spelled}' not found")
        self.send_json(200, shown(entry, request, time.localtime().tm_gmtoff))

    def _found(self, reference: Reference, status: int, error: str) -> Installed:
        entry = self.simulator.models.find(reference.name)
        if entry is None:
            raise Refused(status, error)
        return entry

    def _pull(self) -> None:
        request = read_request(self.raw, "PullRequest")
        reference = read_reference(request, absent=(400, "invalid model name"))
        name = self.simulator.models.spelled(reference.pull_name)
        self._lines(request, self.simulator.models.pull(name, insecure=bool(request.get("insecure"))))

    def _lines(self, request: Json, steps: Steps[None]) -> None:
        if request.get("stream") is False:
            self.send_last_line(steps)
        else:
            self.send_lines(steps)

    def _delete(self) -> None:
        request = read_request(self.raw, "DeleteRequest")
        sent = request.get("model") or request.get("name") or ""
        invalid = f"name {quoted(sent)} is invalid"
        reference = read_reference(request, absent=(400, "model is required"), invalid=invalid)
        if not self.simulator.models.delete(reference.pull_name):
            raise Refused(404, f"model '{sent}' not found")
        self.send_empty(200)

    def _copy(self) -> None:
        request = read_request(self.raw, "CopyRequest")
        parsed = {}
        for side in ("source", "destination"):
            sent = request.get(side) or ""
            try:
                parsed[side] = names.parse(sent)
            except InvalidModelName as error:
                raise Refused(400, f"{side} {quoted(sent)} is invalid") from error
        if not self.simulator.models.copy(parsed["source"], parsed["destination"]):
            raise Refused(404, f"model {quoted(request['source'])} not found")
        self.send_empty(200)

    def _create(self) -> None:
        request = read_request(self.raw, "CreateRequest")
        for path, digest in (request.get("files") or {}).items():
            if path.startswith("/") or ".." in path.split("/"):
                raise Refused(400, "file path must be relative")
            if not digest:
                raise Refused(400, "invalid digest format")
        try:
            name = names.parse(request.get("model") or request.get("name") or "")
        except InvalidModelName as error:
            raise Refused(400, "invalid model name") from error
        self._lines(request, self.simulator.models.create(name, request))

    def _blob_is_there(self) -> None:
        digest = self._digest()
        if not self.simulator.models.has_blob(digest):
            raise Refused(404, f"blob {quoted(digest)} not found")
        self.send_empty(200)

    def _blob_upload(self) -> None:
        digest = self._digest()
        if self.simulator.models.has_blob(digest):
            self.send_empty(200)
            return
        data = self.read_body()
        got = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if got != digest:
            raise Refused(400, f"digest mismatch, expected {quoted(digest)}, got {quoted(got)}")
        self.simulator.models.add_blob(digest, data)
        self.send_empty(201)

    def _digest(self) -> str:
        digest = urlsplit(self.path).path.removeprefix("/api/blobs/")
        check_digest(digest)
        return digest

    def _generate(self) -> None:
        request = read_request(self.raw, "GenerateRequest")
        absent = (404, f"model '{request.get('model') or ''}' not found")
        self._infer(request, read_reference({"model": request.get("model")}, absent=absent), chat=False)

    def _chat(self) -> None:
        request = read_request(self.raw, "ChatRequest")
        absent = (400, "model is required")
        self._infer(request, read_reference({"model": request.get("model")}, absent=absent), chat=True)

    def _infer(self, request: Json, reference: Reference, *, chat: bool) -> None:
        started = time.monotonic()
        runners, sent = self.simulator.runners, request["model"]
        reference.refuse_cloud("remote model is unavailable")
        entry = self._found(reference, 404, f"model '{sent}' not found")
        nothing_asked = not (request.get("messages") if chat else request.get("prompt"))
        if nothing_asked and request["keep_alive"] == 0:
            runners.expire(entry.model)
            self.send_json(200, chunk(sent, "", time.time_ns(), chat=chat) | {"done": True, "done_reason": "unload"})
            return
        check_ability(request, entry.name, entry.model, chat=chat)
        runner = self._runner(entry, request)
        try:
            if nothing_asked:
                self.send_json(200, chunk(sent, "", time.time_ns(), chat=chat) | {"done": True, "done_reason": "load"})
                return
            steps = runners.speak(runner, entry, request, started=started, loaded=time.monotonic(), chat=chat)
            if request.get("stream") is False:
                self.send_in_one_piece(steps, chat)
            else:
                self.send_lines(steps)
        finally:
            runners.give_back(runner)

    def _runner(self, entry: Installed, request: Json) -> Runner:
        options = request.get("options") or {}
        check_options(options)
        return self.wait_for(self.simulator.runners.lend(entry, options, request["keep_alive"]))

    def _embed(self) -> None:
        request = read_request(self.raw, "EmbedRequest")
        texts = request.get("input") or []
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "invalid input type")
        started = time.monotonic()
        vectors = self._vectors(request, texts, (404, f"model '{request.get('model') or ''}' not found"))
        taken_ns = int((time.monotonic() - started) * 1e9) + 1
        tokens = sum(len(text.split()) for text in texts)
        metrics = {"total_duration": taken_ns, "load_duration": taken_ns, "prompt_eval_count": tokens}
        self.send_json(200, {"model": request["model"], "embeddings": vectors} | (metrics if texts else {}))

    def _embeddings(self) -> None:
        request = read_request(self.raw, "EmbeddingRequest")
        prompt = request.get("prompt")
        vectors = self._vectors(request, [prompt] if prompt else [], (400, "model is required"))
        self.send_json(200, {"embedding": vectors[0] if vectors else []})

    def _vectors(self, request: Json, texts: list[str], absent: tuple[int, str]) -> list[list[float]]:
        reference = read_reference({"model": request.get("model")}, absent=absent)
        reference.refuse_cloud("remote model is unavailable")
        entry = self._found(reference, 404, f"model {quoted(request['model'])} not found, try pulling it first")
        runner = self._runner(entry, request)
        try:
            return [embedding_of(text, entry.model.number("embedding_length", 64)) for text in texts]
        finally:
            self.simulator.runners.give_back(runner)


# The order of the methods is that of the Allow header.
_ROUTES: Mapping[str, Mapping[str, Callable[[Endpoints], None]]] = {
    "/": {"HEAD": Endpoints._root, "GET": Endpoints._root},
    "/api/version": {"HEAD": Endpoints._version, "GET": Endpoints._version},
    "/api/status": {"GET": Endpoints._status},
    "/api/tags": {"HEAD": Endpoints._tags, "GET": Endpoints._tags},
    "/api/ps": {"GET": Endpoints._ps},
    "/api/show": {"POST": Endpoints._show},
    "/api/pull": {"POST": Endpoints._pull},
    "/api/delete": {"DELETE": Endpoints._delete},
    "/api/copy": {"POST": Endpoints._copy},
    "/api/create": {"POST": Endpoints._create},
    "/v2/*": {"GET": Endpoints._registry},
    "/api/blobs/*": {"HEAD": Endpoints._blob_is_there, "POST": Endpoints._blob_upload},
    "/api/generate": {"POST": Endpoints._generate},
    "/api/chat": {"POST": Endpoints._chat},
    "/api/embed": {"POST": Endpoints._embed},
    "/api/embeddings": {"POST": Endpoints._embeddings},
}


def _methods_at(path: str) -> Mapping[str, Callable[[Endpoints], None]] | None:
    if re.fullmatch(r"/v2/[^/]+/[^/]+/manifests/[^/]+", path):
        return _ROUTES["/v2/*"]
    return _ROUTES.get("/api/blobs/*" if re.fullmatch(r"/api/blobs/[^/]+", path) else path)

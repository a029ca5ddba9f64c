"""The models of the simulated Ollama: what is installed, which blobs are there, and how a pull brings them."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from model_core import names
from model_core.errors import InvalidModelName
from model_core.go_dialect import quoted
from model_core.names import ModelName
from model_core.simulated_checks import Refused, check_digest
from model_core.simulated_library import Layer, LibraryModel, made_from, make_model
from model_core.simulated_replies import Installed, Json, blob_path, listed, progress_line
from ollama_simulator_faults import MANIFEST_FAULTS, Fault, Faults
from ollama_simulator_steps import Ended, Pace, Steps

# How much faster hashing is than downloading: on common machines 1 GB/s against 100 MB/s.
_VERIFY_SPEEDUP = 10
_NO_SUCH_MODEL = "file does not exist"
_HOLDING = ("stall", "silence")  # what stops a download for all who wait for it
_RESOLVER = "127.0.0.53:53"


@dataclass
class _Download:
    """A blob on its way, shared by all pulls that need it; without waiters it stands still and keeps its bytes."""

    layer: Layer
    completed: int = 0
    waiters: int = 0
    moved_at: float = 0.0
    held_by: Fault | None = None
    done: bool = False


class Models:
    """The library, the store and the downloads of one simulator."""

    def __init__(self, library: Mapping[str, LibraryModel], pace: Pace, faults: Faults, lock: threading.RLock) -> None:
        self.bytes_sent_total = 0
        self.concurrent_pulls_peak: Counter[str] = Counter()
        self._library = {names.parse(name): model for name, model in library.items()}
        self._pace, self._faults, self._lock = pace, faults, lock
        self._installed: dict[tuple[str, str, str, str], Installed] = {}
        self._blobs: dict[str, Layer] = {}
        self._uploads: dict[str, bytes] = {}
        self._downloads: dict[str, _Download] = {}
        self._pulling: Counter[str] = Counter()

    # --- the library ---

    def publish(self, name: ModelName, model: LibraryModel | None) -> None:
        """Put a model into the library, move its tag to another one, or, with None, take it out."""
        with self._lock:
            self._library.pop(name, None)
            if model is not None:
                self._library[name] = model

    def published(self) -> list[str]:
        """Return the names that can be pulled, sorted."""
        with self._lock:
            return sorted(name.display for name in self._library)

    def published_as(self, name: ModelName) -> LibraryModel | Fault | None:
        """Return what the registry has under a name, None where it has nothing, or the fault that is in its way.

        A fault that strikes a certain number of times is meant for pulls: asking here does not use it up.
        """
        fault = self._faults.ahead(*MANIFEST_FAULTS, model=name.display)
        if fault:
            return None if fault.kind == "unknown_model" else fault
        with self._lock:
            return self._library.get(name)

    def install(self, name: ModelName, model: LibraryModel | None) -> None:
        """Put a model there at once. Raises KeyError if none is given and the library has none of that name."""
        found = model if model is not None else self._library.get(name)
        if found is None:
            raise KeyError(f"the simulated library has no {name.display}; it has {', '.join(self.published())}")
        with self._lock:
            self._blobs.update((layer.digest, layer) for layer in found.layers)
            self._write_manifest(name, found)

    # --- what is there ---

    def find(self, name: ModelName) -> Installed | None:
        """Return what is installed under a name, in whatever case."""
        with self._lock:
            return self._installed.get(name.key)

    def spelled(self, name: ModelName) -> ModelName:
        """Return a name with each part in the spelling of something installed, which may differ from part to part."""
        with self._lock:
            there = [entry.name for entry in self._installed.values()]
        for other in there:
            name = ModelName(
                other.host if other.host.lower() == name.host.lower() else name.host,
                other.namespace if other.namespace.lower() == name.namespace.lower() else name.namespace,
                other.model if other.model.lower() == name.model.lower() else name.model,
                other.tag if other.tag.lower() == name.tag.lower() else name.tag,
            )
        return name

    def tags(self) -> list[Json]:
        """Return the list of /api/tags: by the second of the last change, the latest first, and unordered within it."""
        with self._lock:
            entries = sorted(self._installed.values(), key=lambda entry: entry.model.digest)
        entries.sort(key=lambda entry: entry.modified_ns // 10**9, reverse=True)
        return [listed(entry, time.localtime().tm_gmtoff) for entry in entries]

    def installed_names(self) -> list[str]:
        """Return the names of what is installed, in the order in which they came."""
        with self._lock:
            return [entry.name.display for entry in self._installed.values()]

    def partial_bytes(self) -> dict[str, int]:
        """Return what has come of each unfinished blob."""
        with self._lock:
            return {digest: download.completed for digest, download in self._downloads.items()}

    def pulling(self) -> dict[str, int]:
        """Return how many pulls of each model run at this moment."""
        with self._lock:
            return dict(+self._pulling)

    def has_blob(self, digest: str) -> bool:
        """Say whether a blob is complete."""
        with self._lock:
            return digest.replace("-", ":") in self._blobs

    def add_blob(self, digest: str, data: bytes) -> None:
        """Keep what a client has uploaded."""
        with self._lock:
            self._blobs[digest] = Layer("model", digest, len(data))
            self._uploads[digest] = data

    # --- changes without a download ---

    def copy(self, source: ModelName, destination: ModelName) -> bool:
        """Give a model another name. False if there is no such model."""
        with self._lock:
            entry = self.find(source)
            if entry is not None and source.key != destination.key:
                self._write_manifest(destination, entry.model)
            return entry is not None

    def delete(self, name: ModelName) -> bool:
        """Forget a name, and the blobs that no other name needs. False if there is no such model."""
        with self._lock:
            entry = self._installed.pop(name.key, None)
            if entry is not None:
                self._remove_unused(entry.model.layers)
            return entry is not None

    def _write_manifest(self, name: ModelName, model: LibraryModel) -> None:
        with self._lock:
            self._installed[name.key] = Installed(self.spelled(name), model, time.time_ns())

    def _remove_unused(self, layers: Iterable[Layer]) -> None:
        with self._lock:
            used = {layer.digest for entry in self._installed.values() for layer in entry.model.layers}
            for layer in layers:
                if layer.digest not in used:
                    self._blobs.pop(layer.digest, None)
                    self._uploads.pop(layer.digest, None)

    # --- create ---

    def create(self, name: ModelName, request: Json) -> Steps[None]:
        """Make a model from another one or from an uploaded file, yielding Ollama's lines."""
        base_name = ""
        if request.get("from"):
            entry = yield from self._base(str(request["from"]))
            base, base_name = entry.model, entry.name.display
        elif request.get("files") is not None:
            base = yield from self._from_file(request["files"])
        else:
            raise Refused(400, "neither 'from' or 'files' was specified")
        template = str(request.get("template") or "")
        if template.count("{{") > template.count("}}"):
            raise Refused(400, "template error: template: :1: unclosed action")
        made, new = made_from(base, base_name, request)
        for layer in made.layers:
            if layer.kind != "config":
                there = base_name and (layer.digest not in new or self.has_blob(layer.digest))
                yield {"status": f"{'using existing' if there else 'creating new'} layer {layer.digest}"}
        yield {"status": "writing manifest"}
        with self._lock:
            old = self.find(name)
            self._blobs.update((layer.digest, layer) for layer in made.layers)
            self._write_manifest(name, made)
            self._remove_unused(old.model.layers if old else ())
        yield {"status": "success"}

    def _base(self, sent: str) -> Steps[Installed]:
        """Return the model to build on; where it is not there in this very spelling, Ollama pulls it."""
        try:
            name = names.parse(sent.strip())
        except InvalidModelName as error:
            raise Refused(400, "invalid model name") from error
        entry = self.find(name)
        if entry is None or entry.name != name:
            for line in self.pull(name, insecure=False):
                if line != {"status": "success"}:
                    yield line
        entry = self.find(name)
        if entry is None:
            raise Refused(500, f"model {quoted(sent)} not found")
        return entry

    def _from_file(self, files: Mapping[str, str]) -> Steps[LibraryModel]:
        if not files:
            raise Refused(400, "unknown type")
        digest = next(iter(files.values()))
        yield {"status": "parsing GGUF"}
        check_digest(digest)
        with self._lock:
            blob = self._blobs.get(digest)
            known = [entry.model for entry in self._installed.values() if entry.model.weights.digest == digest]
            data = self._uploads.get(digest, b"")
        if blob is None:
            raise Refused(500, f"open {blob_path(digest)}: no such file or directory")
        if not known and not data.startswith(b"GGUF"):
            raise Refused(500, "supplied file was not in GGUF format")
        yield {"status": "verifying conversion"}
        like = known[0] if known else make_model(digest, size_bytes=blob.size_bytes)
        return replace(like, layers=(blob,))

    # --- pull ---

    def pull(self, name: ModelName, *, insecure: bool) -> Steps[None]:
        """Fetch a model as Ollama does, yielding its lines. Raises Refused for what Ollama gives up for."""
        with self._lock:
            self._pulling[name.display] += 1
            peak = max(self.concurrent_pulls_peak[name.display], self._pulling[name.display])
            self.concurrent_pulls_peak[name.display] = peak
        try:
            yield {"status": "pulling manifest"}
            model = yield from self._manifest(name, insecure)
            fresh = []
            for layer in model.layers:
                if not (yield from self._fetch(name, layer)):
                    fresh.append(layer)
            yield {"status": "verifying sha256 digest"}
            fresh_bytes = sum(layer.size_bytes for layer in fresh)
            yield from self._pace.pause(fresh_bytes / (_VERIFY_SPEEDUP * self._pace.rate_bytes_per_s))
            self._verify(name, fresh)
            yield {"status": "writing manifest"}
            left_over = self._point_to(name, model)
            if left_over:
                yield {"status": "removing unused layers"}
                self._remove_unused(left_over)
            yield {"status": "success"}
        finally:
            with self._lock:
                self._pulling[name.display] -= 1

    def _point_to(self, name: ModelName, model: LibraryModel) -> list[Layer]:
        """Write the manifest; return the layers that the name needed before and no longer does."""
        with self._lock:
            old = self.find(name)
            self._write_manifest(name, model)
        kept = {layer.digest for layer in model.layers}
        return [layer for layer in old.model.layers if layer.digest not in kept] if old else []

    def _manifest(self, name: ModelName, insecure: bool) -> Steps[LibraryModel]:
        if slow := self._faults.hit("slow_manifest", model=name.display):
            yield from self._pace.pause(float(slow.details.get("seconds", 1)))
        fault = self._faults.hit(*MANIFEST_FAULTS, model=name.display)
        problem = fault.kind if fault else self._reachability(name.host)
        if problem:
            raise Refused(500, f"pull model manifest: {_registry_problem(problem, name, insecure, fault)}")
        with self._lock:
            model = self._library.get(name)
        if model is None:
            raise Refused(500, f"pull model manifest: {_NO_SUCH_MODEL}")
        return model

    def _reachability(self, host: str) -> str | None:
        """Return the fault of asking this host: the only registries are those that the library's names carry."""
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
            yield progress_line(layer, layer.size_bytes)
            return True
        try:
            while True:
                # What needs less than a tick is done before there is a line about it.
                needed_s = (layer.size_bytes - download.completed) / self._pace.rate_bytes_per_s
                yield from self._pace.pause(min(self._pace.tick_s, needed_s))
                fault = self._advance(name, download)
                if download.done:
                    return False
                if fault:
                    yield from self._suffer(fault, download)
                yield progress_line(layer, download.completed)
        finally:
            with self._lock:
                download.waiters -= 1

    def _join(self, layer: Layer) -> _Download | None:
        with self._lock:
            if layer.digest in self._blobs:
                return None
            download = self._downloads.setdefault(layer.digest, _Download(layer))
            if download.waiters == 0:
                download.moved_at, download.held_by = time.monotonic(), None
            download.waiters += 1
            return download

    def _advance(self, name: ModelName, download: _Download) -> Fault | None:
        """Let time do its work on a download, whoever of its waiters asks. Returns the fault that it has run into."""
        with self._lock:
            if download.held_by and not download.held_by.cleared:
                return download.held_by
            now = time.monotonic()
            # One tick's worth at most: a thread that was kept waiting must not make the download jump.
            elapsed_s = min(now - download.moved_at, self._pace.tick_s)
            download.moved_at = now
            total = download.layer.size_bytes
            of_weights = download.layer.kind == "model"
            fault = self._faults.on_the_way(name.display, download.completed, total) if of_weights else None
            limit = fault.at_bytes if fault else total
            reached = min(limit, download.completed + math.ceil(self._pace.rate_bytes_per_s * elapsed_s))
            self.bytes_sent_total += reached - download.completed
            download.completed = reached
            if reached >= total:
                self._finish(download)
            if fault is None or reached < limit:
                return None
            fault.strike()
            download.held_by = fault if fault.kind in _HOLDING else None
            return fault

    def _finish(self, download: _Download) -> None:
        download.done = True
        self._downloads.pop(download.layer.digest, None)
        self._blobs[download.layer.digest] = download.layer

    def _suffer(self, fault: Fault, download: _Download) -> Steps[None]:
        if fault.kind == "goes_back":
            with self._lock:
                download.completed = min(download.completed, int(fault.details.get("to_bytes", 0)))
        elif fault.kind in _HOLDING:
            while not fault.cleared:
                yield progress_line(download.layer, download.completed) if fault.kind == "stall" else None
                yield from self._pace.pause(self._pace.tick_s)
        elif fault.kind == "cut_stream":
            raise Ended(abrupt=bool(fault.details.get("abrupt")))
        elif fault.kind == "disk_full":
            raise Refused(500, f"write {blob_path(download.layer.digest)}-partial: no space left on device")
        elif fault.kind == "context_canceled":
            raise Refused(500, "context canceled")
        else:
            raise Refused(500, "max retries exceeded: EOF")

    def _verify(self, name: ModelName, fresh: list[Layer]) -> None:
        weights = next((layer for layer in fresh if layer.kind == "model"), None)
        if weights is None or not self._faults.hit("digest_mismatch", model=name.display):
            return
        with self._lock:
            self._blobs.pop(weights.digest, None)
        got = hashlib.sha256(weights.digest.encode()).hexdigest()
        raise Refused(500, f"digest mismatch, file must be downloaded again: want {weights.digest}, got sha256:{got}")


def _registry_problem(kind: str, name: ModelName, insecure: bool, fault: Fault | None) -> str:
    """Return what Ollama says after "pull model manifest: "."""
    scheme, port = ("http", 80) if insecure else ("https", 443)
    got = f"Get {quoted(f'{scheme}://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}')}: dial tcp"
    address = name.host if ":" in name.host else f"{name.host}:{port}"
    details = fault.details if fault else {}
    return {
        "unknown_model": _NO_SUCH_MODEL,
        "registry_refused": f"{got} {address}: connect: connection refused",
        "registry_no_such_host": f"{got}: lookup {name.host} on {_RESOLVER}: no such host",
        "registry_status": f"{details.get('status', 500)}: {details.get('text', 'boom')}",
        "registry_html": "invalid character '<' looking for beginning of value",
        "too_new": "412: \n\nThe model you are attempting to pull requires a newer version of Ollama.",
    }[kind]

"""Speak to one Ollama server over HTTP. The only module that does; what its answers mean is decided in model_core.

    client = OllamaClient("http://localhost:11434")
    client.generate("llama3.2:1b-instruct", "Describe the light in one sentence.")
    with client.pull("llama3.2:1b-instruct-q4_K_M") as pull:
        for event in pull:              # Ollama's own objects; ends after {"status": "success"}, else PullFailed
            ...

One client may be used by many threads, and on both sides of a fork. Nothing is sent before the first call. Where Ollama
does not do its part, a call raises an OllamaError of model_core/errors.py, with its cause attached. The environment's
proxies are not used: they must not catch what is meant for this machine.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

import requests
import urllib3
from pydantic import ValidationError
from pydantic_core import from_json
from requests.adapters import HTTPAdapter

from catalog import MODEL_CATALOG
from model_core import names, ollama_answers, pull_errors
from model_core.errors import (
    AnswerCutShort,
    InvalidModelName,
    InvalidRequest,
    ModelManagerError,
    OllamaBusy,
    OllamaError,
    OllamaModelMissing,
    OllamaTimeout,
    OllamaUnavailable,
    PullEnded,
    PullFailed,
)
from model_core.ollama_host import is_loopback, read_host
from model_core.pull_errors import clean
from model_core.records import Answer, CatalogEntry, InstalledModel, ModelDetails, RunningModel

__all__ = ["OllamaClient", "PullStream", "read_host"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Json = Mapping[str, Any]
KeepAlive = float | str | None

DEFAULT_HOST = "http://localhost:11434"
DEFAULT_MODEL = "llama3.1:8b-instruct"

# A verbose description of a model with a large vocabulary has some 15 MB; nothing that is asked for here is longer.
_LONGEST_BODY = 64 * 2**20
# The longest line is the last of a generation: its `context` has a number for every token, 1 MB for 128 K tokens.
_LONGEST_LINE = 16 * 2**20
_LONGEST_ERROR_BODY = 64 * 2**10
_PIECE = 64 * 2**10

# Ollama writes the first line of a pull before it asks the registry for anything.
_PULL_BEGINS_WITHIN_S = 30.0
# Events that wait for a slow reader. Beyond them the network's own buffers hold what comes.
_WAITING_EVENTS = 1000

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BAD_NAME = re.compile(r"invalid model name|model is required|^(name|source|destination) \".*\" is invalid", re.DOTALL)
_OUT_OF_MEMORY = re.compile(r"out.of.memory|requires more system memory|unable to load full model", re.IGNORECASE)

# What "8-bit" and "4-bit" stand for in the catalogue, as its files measure: Q8_0 has 8.5 bits per weight, Q4_K_M of an
# 8B model 4.9. Models are published with 16.
_BITS_PER_WEIGHT = MappingProxyType({8: 8.5, 4: 4.9})
_BITS_AS_PUBLISHED = 16.0
_QUANTIZATION = MappingProxyType({8: "q8", 4: "q4"})


class OllamaClient:
    """One Ollama server.

    host                 written as OLLAMA_HOST is; see read_host. Raises InvalidRequest for what is no address
    enable_quantization  generate, generate_config use the catalogue's variant of quantization_bits, where there is one
    config_schema        the JSON schema that generate_config asks for
    catalog              where variants are looked up

    Times are in seconds and say how long Ollama may be silent; a whole call may take twice as long. Where nobody
    listens, an answer comes at once, on Windows after some 2 s.
    """

    def __init__(
        self,
        host: str | None = DEFAULT_HOST,
        enable_quantization: bool = False,
        quantization_bits: int = 8,
        *,
        connect_timeout_s: float = 3.0,
        list_timeout_s: float = 10.0,
        show_timeout_s: float = 30.0,
        change_timeout_s: float = 60.0,
        load_timeout_s: float = 330.0,  # Ollama's own limit for a load is 5 minutes (OLLAMA_LOAD_TIMEOUT)
        generate_timeout_s: float = 120.0,
        config_timeout_s: float = 60.0,
        config_schema: Json | None = None,
        catalog: Mapping[str, CatalogEntry] = MODEL_CATALOG,
    ) -> None:
        self.address = read_host(host)
        self.is_local = is_loopback(self.address)
        self._wire = _Wire(self.address, connect_timeout_s)
        self._list_s, self._show_s, self._change_s = list_timeout_s, show_timeout_s, change_timeout_s
        self._load_s, self._generate_s, self._config_s = load_timeout_s, generate_timeout_s, config_timeout_s
        self._config_schema, self._catalog = config_schema, catalog
        self._performance = _Performance()
        self.set_quantization(enable_quantization, quantization_bits)

    def close(self) -> None:
        """Close the idle connections of all threads. The client can still be used; it connects anew."""
        self._wire.close()

    # --- what there is -----------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Return the server's version; "0.0.0" is one built from source. The cheapest way to see that it lives."""
        call = _Call("GET", "/api/version", "telling its version", self._list_s)
        return _read(call, ollama_answers.version, self._wire.answer(call))

    def tags(self) -> list[InstalledModel]:
        """Return the installed models, the most recently changed first."""
        call = self._tags_call()
        return _read(call, ollama_answers.installed_models, self._wire.answer(call))

    def _tags_call(self) -> _Call:
        return _Call("GET", "/api/tags", "listing its models", self._list_s)

    def running(self) -> list[RunningModel]:
        """Return the loaded models. One that is still loading is not among them."""
        call = _Call("GET", "/api/ps", "listing what runs", self._list_s)
        return _read(call, ollama_answers.running_models, self._wire.answer(call))

    def show(self, model: str, verbose: bool = False) -> ModelDetails:
        """Return the details of an installed model; with ``verbose`` the lists in model_info too, which are megabytes.

        Raises OllamaModelMissing.
        """
        body = {"model": model, "verbose": verbose}
        call = _Call("POST", "/api/show", f"describing {model}", self._show_s, body, model)
        return _read(call, lambda data: ollama_answers.model_details(model, data), self._wire.answer(call))

    # --- what changes it ---------------------------------------------------------------------------------------------

    def pull(self, model: str, *, insecure: bool = False) -> PullStream:
        """Have Ollama fetch a model, and return the stream of what it says about that.

        Two pulls of one model at a time can kill Ollama (up to 0.33): the caller sees to it that there is one.
        ``insecure`` makes Ollama speak plain HTTP to the registry; it is for a registry of one's own.
        """
        body = {"model": model, "stream": True, **({"insecure": True} if insecure else {})}
        call = _Call("POST", "/api/pull", f"starting to pull {model}", _PULL_BEGINS_WITHIN_S, body)
        return PullStream(model, self._wire.opened(call))

    def delete(self, model: str) -> None:
        """Remove a name; what other names share stays on the disk, and what is loaded in memory.

        Raises OllamaModelMissing.
        """
        self._wire.done(_Call("DELETE", "/api/delete", f"deleting {model}", self._change_s, {"model": model}, model))

    def copy(self, source: str, destination: str) -> None:
        """Give an installed model a second name, at once and without bytes; a model of that name is overwritten.

        Raises OllamaModelMissing for the source.
        """
        body = {"source": source, "destination": destination}
        self._wire.done(_Call("POST", "/api/copy", f"copying {source}", self._change_s, body, source))

    def create(
        self,
        model: str,
        *,
        from_model: str | None = None,
        files: Mapping[str, str] | None = None,
        system: str | None = None,
        template: str | None = None,
        parameters: Json | None = None,
        messages: Sequence[Json] | None = None,
        license: str | Sequence[str] | None = None,
        adapters: Mapping[str, str] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Make a model from an installed one, or from files that push_blob sent; return Ollama's events.

        files, adapters  {file name: "sha256:…"}

        The model is there when the events have ended without an error; an existing one of that name is overwritten.
        Raises OllamaModelMissing if ``from_model`` is not installed: Ollama would fetch it, gigabytes, and say nothing.
        """
        if from_model is not None and not self._is_installed(from_model):
            raise OllamaModelMissing(from_model)
        wishes = {
            "from": from_model,
            "files": files,
            "system": system,
            "template": template,
            "parameters": parameters,
            "messages": messages,
            "license": license,
            "adapters": adapters,
        }
        body = {"model": model, "stream": True, **_given(wishes)}
        call = _Call("POST", "/api/create", f"creating {model}", self._load_s, body)
        events = self._creation(call)
        # Up to the first event now: a caller who does not look at the events still hears of what is refused.
        return chain([next(events)], events)

    def _creation(self, call: _Call) -> Iterator[dict[str, Any]]:
        for event in self._wire.lines(call):
            yield event
            if event.get("status") == "success":
                return
        raise OllamaError(f"Ollama ended {call.what} and did not say that it had succeeded.", "Look at Ollama's log.")

    def has_blob(self, digest: str) -> bool:
        """Say whether Ollama's machine holds these bytes, whole."""
        call = _Call("HEAD", f"/api/blobs/{_checked_digest(digest)}", "looking for a file", self._list_s)
        try:
            self._wire.done(call)
        except OllamaError as error:
            if error.facts["upstream_status"] == 404:
                return False
            raise
        return True

    def push_blob(self, digest: str, file: Path) -> None:
        """Send a file to Ollama, unless it has it. The digest is that of the file's bytes; Ollama checks it."""
        if self.has_blob(digest):
            return
        path = f"/api/blobs/{_checked_digest(digest)}"
        # While bytes go out, the socket obeys the time for connecting; a disk that fills its caches may pause.
        call = _Call("POST", path, "taking a file", self._load_s, connect_timeout_s=self._change_s)
        try:
            with file.open("rb") as content:
                self._wire.done(call, content)
        except OllamaError:
            # Ollama answers before it has read everything where the bytes came from elsewhere in the meantime.
            if not self.has_blob(digest):
                raise

    def load(self, model: str, *, keep_alive: KeepAlive = None, options: Json | None = None) -> None:
        """Bring a model into memory; return when it is there. Ollama stops a load that nobody waits for.

        keep_alive  seconds, or Go's form ("5m"); negative: for ever; None: as it was
        options     the same as later calls will use, or Ollama loads it again

        Raises OllamaModelMissing.
        """
        body = {"model": model, "stream": False, **_given({"keep_alive": keep_alive, "options": options})}
        self._wire.answer(_Call("POST", "/api/generate", f"loading {model}", self._load_s, body, model))

    def unload(self, model: str) -> None:
        """Ask for the memory back. It is free a little later; running() shows when. Raises OllamaModelMissing."""
        body = {"model": model, "stream": False, "keep_alive": 0}
        self._wire.answer(_Call("POST", "/api/generate", f"unloading {model}", self._change_s, body, model))

    # --- what it answers ---------------------------------------------------------------------------------------------

    def generate_answer(
        self,
        model: str,
        prompt: str,
        *,
        options: Json | None = None,
        format: str | Json | None = None,
        system: str | None = None,
        images: Sequence[bytes | str] | None = None,
        keep_alive: KeepAlive = None,
        think: bool | str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Return what the model says to the prompt, with Ollama's figures.

        format     "json" or a JSON schema
        images     the files' bytes, or their base64
        timeout_s  the whole answer, loading included; the client's own where left out

        Raises OllamaModelMissing, AnswerCutShort where Ollama stopped before the end.
        """
        wishes = {"options": options, "format": format, "system": system, "keep_alive": keep_alive, "think": think}
        body = {"model": model, "prompt": prompt, "stream": False, **_given(wishes), **_images(images)}
        return self._answer("/api/generate", body, timeout_s)

    def chat_answer(
        self,
        model: str,
        messages: Sequence[Json],
        *,
        options: Json | None = None,
        format: str | Json | None = None,
        keep_alive: KeepAlive = None,
        think: bool | str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Return the next message of a conversation; else as generate_answer."""
        wishes = {"options": options, "format": format, "keep_alive": keep_alive, "think": think}
        body = {"model": model, "messages": list(messages), "stream": False, **_given(wishes)}
        return self._answer("/api/chat", body, timeout_s)

    def _answer(self, path: str, body: Json, timeout_s: float | None) -> Answer:
        model = body["model"]
        call = _Call("POST", path, f"generating with {model}", timeout_s or self._generate_s, body, model)
        with self._performance.measured(model):
            data = self._wire.answer(call)
            text, _, done = _read(call, ollama_answers.piece, data)
            if not done:
                raise AnswerCutShort(model, len(text))
            return _read(call, lambda found: ollama_answers.answer(model, found), data)

    def stream_generate(
        self,
        model: str,
        prompt: str,
        *,
        options: Json | None = None,
        format: str | Json | None = None,
        system: str | None = None,
        images: Sequence[bytes | str] | None = None,
        keep_alive: KeepAlive = None,
        think: bool | str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[str | Answer]:
        """Yield the answer in pieces as they come, and at last the whole Answer. Closing the iterator stops Ollama.

        timeout_s is the longest silence: the load before the first piece counts, the length of the answer does not.
        Raises as generate_answer does, at the first piece.
        """
        wishes = {"options": options, "format": format, "system": system, "keep_alive": keep_alive, "think": think}
        body = {"model": model, "prompt": prompt, "stream": True, **_given(wishes), **_images(images)}
        call = _Call("POST", "/api/generate", f"generating with {model}", timeout_s or self._generate_s, body, model)
        texts: list[str] = []
        thoughts: list[str] = []
        with self._performance.measured(model):
            for line in self._wire.lines(call):
                text, thought, done = _read(call, ollama_answers.piece, line)
                texts.append(text)
                thoughts.append(thought)
                if text:
                    yield text
                if done:
                    said = {"text": "".join(texts), "thinking": "".join(thoughts)}
                    yield _read(call, lambda data: ollama_answers.answer(model, data, **said), line)  # noqa: B023
                    return
            raise AnswerCutShort(model, sum(map(len, texts)))

    # --- what AutoDev's own client offers ----------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The address."""
        return self.address

    @property
    def enable_quantization(self) -> bool:
        """Whether generate and generate_config use the catalogue's variants; set_quantization changes it."""
        return self._quantization[0]

    @property
    def quantization_bits(self) -> int:
        """4 or 8."""
        return self._quantization[1]

    def generate(self, model: str, prompt: str, temperature: float = 0.2, max_tokens: int = 500) -> str:
        """Return the text that a model says to the prompt. Raises as generate_answer does."""
        options = {"temperature": temperature, "num_predict": max_tokens}
        return self.generate_answer(self._to_use(model), prompt, options=options).text

    def generate_config(self, prompt: str, model: str = DEFAULT_MODEL) -> dict[str, Any] | None:
        """Return the JSON object that a model makes of the prompt, None where none could be had; the log says why."""
        rule = "You write settings for Adobe Lightroom. Answer with one JSON object and nothing else."
        if self._config_schema is not None:
            rule += f" It must satisfy this JSON schema: {json.dumps(self._config_schema)}"
        messages = [{"role": "system", "content": rule}, {"role": "user", "content": prompt}]
        name, form = self._to_use(model), self._config_schema or "json"
        try:
            text = self.chat_answer(name, messages, format=form, timeout_s=self._config_s).text
            config = from_json(text, allow_inf_nan=False)
        except (ModelManagerError, ValueError) as error:
            logger.warning("config not generated model=%s reason=%s", name, error)
            return None
        if not isinstance(config, dict):
            logger.warning("config not generated model=%s reason=its JSON is not an object", name)
            return None
        return config

    def list_available_models(self) -> list[dict[str, Any]]:
        """Return the installed models as Ollama itself describes them."""
        call = self._tags_call()
        data = self._wire.answer(call)
        _read(call, ollama_answers.installed_models, data)
        return list(data["models"] or ())

    def check_model_exists(self, model: str) -> bool:
        """Say whether generate would find the model: under its name or, with quantization on, as the variant."""
        return self._is_installed(self._to_use(model))

    def _is_installed(self, model: str) -> bool:
        return any(names.same(installed.name, model) for installed in self.tags())

    def set_quantization(self, enable: bool, bits: int = 8) -> None:
        """Let generate and generate_config use the catalogue's 4-bit or 8-bit variants. Raises InvalidRequest."""
        if bits not in _QUANTIZATION:
            raise InvalidRequest("bits", "only 4 and 8 are possible")
        self._quantization = (bool(enable), bits)

    def get_quantization_settings(self) -> dict[str, Any]:
        """Return {enabled, bits, memory_reduction} and what stands behind it; bits and what follows are None when off.

        memory_reduction            words; of the weights alone, against the 16 bits that models are published with
        memory_reduction_fraction   the same as a number from 0 to 1
        variants                    {catalogue id: tag that is used, None where the id itself is}

        A model outside the catalogue is used as it is.
        """
        enabled, bits = self._quantization
        if not enabled:
            return {"enabled": False, "bits": None, "memory_reduction": None, "memory_reduction_fraction": None,
                    "variants": None}  # fmt: skip
        fraction = 1 - _BITS_PER_WEIGHT[bits] / _BITS_AS_PUBLISHED
        return {
            "enabled": True,
            "bits": bits,
            "memory_reduction": (
                f"{fraction:.0%} of the weights against f16 ({_BITS_PER_WEIGHT[bits]:g} bits per weight instead of 16);"
                " nothing where a model has no such variant"
            ),
            "memory_reduction_fraction": round(fraction, 2),
            "variants": {name: self._variant(name, bits) for name in self._catalog},
        }

    def _to_use(self, model: str) -> str:
        enabled, bits = self._quantization
        return (self._variant(model, bits) if enabled else None) or model

    def _variant(self, model: str, bits: int) -> str | None:
        """Return the tag that the catalogue has for a model in so many bits; None for a model that is no id of it."""
        entry = next((entry for entry in self._catalog.values() if names.same(entry.name, model)), None)
        variants = entry.variants if entry else ()
        return next((variant.tag for variant in variants if variant.quantization == _QUANTIZATION[bits]), None)

    def get_performance_stats(self, model: str | None = None) -> dict[str, Any]:
        """Return the calls of this client: of one model, {} if there were none, or {model: that} of all.

        {total_calls, successful_calls, failed_calls, total_time, avg_time, min_time, max_time}: seconds, of the
        successful calls; None while there are none. The model is the name that Ollama was given.
        """
        return self._performance.report(model)

    def compare_quantization_performance(self, model: str, prompt: str, test_iterations: int = 3) -> dict[str, Any]:
        """Time a model under its own name and its 8-bit and 4-bit variants, as far as they are installed.

        {model, iterations, non_quantized, quantized_8bit, quantized_4bit, models, notes}; each of the three is
        {avg_time, min_time, max_time, success_rate, speedup}, in seconds without loading, or {} where nothing could be
        timed: then a note says why. `non_quantized` is what the name stands for, mostly 4-bit already; `models` tells
        which tag each is.
        """
        if test_iterations < 1:
            raise InvalidRequest("test_iterations", "must be at least 1")
        installed = [found.name for found in self.tags()]
        tags = {
            "non_quantized": model,
            "quantized_8bit": self._variant(model, 8),
            "quantized_4bit": self._variant(model, 4),
        }
        result: dict[str, Any] = {"model": model, "iterations": test_iterations}
        notes: list[str] = []
        for row, tag in tags.items():
            if tag is None:
                result[row] = {}
                notes.append(f"{row}: the catalogue has no such variant of {model}")
            elif not any(names.same(tag, name) for name in installed):
                result[row] = {}
                notes.append(f"{row}: {tag} is not installed")
            else:
                result[row] = self._timed(tag, prompt, test_iterations, notes)
        own = result["non_quantized"].get("avg_time")
        for row in tags:
            if result[row]:
                result[row]["speedup"] = own / result[row]["avg_time"] if own and result[row]["avg_time"] else None
        return {**result, "models": tags, "notes": notes}

    def _timed(self, tag: str, prompt: str, times: int, notes: list[str]) -> dict[str, Any]:
        seconds = []
        try:
            self.load(tag)
        except OllamaError as error:
            notes.append(f"{tag}: {error}")
            return {}
        for _ in range(times):
            begun = time.monotonic()
            try:
                self.generate_answer(tag, prompt, options={"temperature": 0.2, "num_predict": 100})
            except OllamaError as error:
                notes.append(f"{tag}: {error}")
            else:
                seconds.append(time.monotonic() - begun)
        if not seconds:
            return {}
        return {
            "avg_time": sum(seconds) / len(seconds),
            "min_time": min(seconds),
            "max_time": max(seconds),
            "success_rate": len(seconds) / times,
        }


class PullStream:
    """One pull, as Ollama tells of it. Close it in any case: as long as it is open, Ollama goes on.

    A thread of its own takes the lines from the network, so that a reader can wait with a limit, and can be woken:
    after a time-out, Python's buffered sockets cannot be read again.
    """

    def __init__(self, model: str, opened: _Opened) -> None:
        self.model = model
        self._opened = opened
        self._changed = threading.Condition()
        self._events: deque[dict[str, Any]] = deque()
        self._closed = False
        self._ended: Exception | None = None
        self._thread = threading.Thread(target=self._take, name=f"pull {model}", daemon=True)
        self._thread.start()

    def __enter__(self) -> PullStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, timeout_s: float) -> dict[str, Any] | None:
        """Return Ollama's next event, as it is, or None if none came within the time.

        {"status": "success"} is the last one. Raises PullFailed where Ollama says `error`, or ends without success;
        PullEnded after either, and after close.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._ended or self._closed, timeout_s)
            if self._closed:
                raise PullEnded(self.model)
            if not self._events and self._ended is None:
                return None
            event = self._events.popleft() if self._events else None
            self._changed.notify_all()
        if event is None:
            self.close()
            raise _failed(self.model, pull_errors.CUT_SHORT) from self._ended
        return self._judged(event)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            # Not for ever: on Windows Ctrl-C does not get through to a wait without an end.
            event = self.read(timeout_s=1.0)
            if event is not None:
                yield event
                if event.get("status") == "success":
                    return

    def close(self) -> None:
        """End the pull unless it has ended: Ollama sees the connection close, and stops. From any thread, and again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._opened.hang_up()
        if threading.current_thread() is not self._thread:
            # It wakes at once; where it does not (Windows), it does when Ollama closes its side, and harms nobody.
            self._thread.join(timeout=1.0)

    def _judged(self, event: dict[str, Any]) -> dict[str, Any]:
        text = ollama_answers.error_text(event)
        if text is not None:
            self.close()
            raise _failed(self.model, pull_errors.classify(text))
        if event.get("status") == "success":
            self.close()
        return event

    def _take(self) -> None:
        ended: Exception = EOFError("the stream ended")
        try:
            for event in _objects(self._opened.response):
                with self._changed:
                    self._changed.wait_for(lambda: len(self._events) < _WAITING_EVENTS or self._closed)
                    if self._closed:
                        return
                    self._events.append(event)
                    self._changed.notify_all()
        except Exception as error:  # whatever it is, the reader must hear of it, or it would wait for ever
            ended = error
        finally:
            self._opened.release()
            with self._changed:
                self._ended = ended
                self._changed.notify_all()


def _failed(model: str, problem: pull_errors.PullProblem) -> PullFailed:
    happened, remedy = pull_errors.describe(problem, model)
    return PullFailed(
        model,
        happened,
        remedy,
        reason=problem.reason.value,
        upstream=problem.upstream,
        heals_by_retrying=problem.heals_by_retrying,
    )


# --- the wire --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call:
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


@dataclass(frozen=True, slots=True)
class _Opened:
    """An answer that goes on, on a connection of its own."""

    response: requests.Response
    session: requests.Session
    sock: socket.socket | None

    def hang_up(self) -> None:
        """Wake whoever reads, and let the other side see the end. From any thread; closing would wake nobody."""
        if self.sock is not None:
            with suppress(OSError):  # it is closed already
                self.sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close for good. From the thread that reads."""
        self.response.close()
        self.session.close()


class _Wire:
    """HTTP to one address. Here requests' exceptions and Ollama's statuses become errors of ours."""

    def __init__(self, address: str, connect_timeout_s: float) -> None:
        self._address = address
        self._base = _dialled(address)
        self._connect_timeout_s = connect_timeout_s
        self._sessions = _Sessions()

    def close(self) -> None:
        self._sessions.close()

    def answer(self, call: _Call) -> Any:
        """Return the JSON that Ollama answers. Raises OllamaError for other than an object."""
        with self._sent(call) as response:
            return _object(call, _body(call, response))

    def done(self, call: _Call, content: Any = None) -> None:
        """Have Ollama do something; what it answers, mostly nothing, is of no interest."""
        with self._sent(call, content) as response:
            _body(call, response)

    def lines(self, call: _Call) -> Iterator[dict[str, Any]]:
        """Yield the objects of an answer that comes line by line. An `error` among them is raised."""
        with self._sent(call) as response:
            try:
                for event in _objects(response):
                    text = ollama_answers.error_text(event)
                    if text is not None:
                        raise _error(call, 200, clean(text))
                    yield event
            except _Garbled as error:
                raise _not_ollama(call, error.line) from error

    def opened(self, call: _Call) -> _Opened:
        """Return an answer that may be silent for as long as it likes, once it has begun."""
        sockets: list[socket.socket] = []
        session = _new_session(_TellingAdapter(sockets.append))
        try:
            with self._translated(call):
                response = self._request(session, call)
                self._check(call, response)
        except BaseException:
            session.close()
            raise
        for sock in sockets:
            sock.settimeout(None)
        return _Opened(response, session, sockets[-1] if sockets else None)

    @contextmanager
    def _sent(self, call: _Call, content: Any = None) -> Iterator[requests.Response]:
        with self._translated(call), self._request(self._sessions.here(), call, content) as response:
            self._check(call, response)
            yield response

    def _request(self, session: requests.Session, call: _Call, content: Any = None) -> requests.Response:
        return session.request(
            call.method,
            self._base + call.path,
            data=content if call.body is None else _encoded(call.body),
            headers={} if call.body is None else {"Content-Type": "application/json"},
            timeout=(call.connect_timeout_s or self._connect_timeout_s, call.timeout_s),
            stream=True,
            allow_redirects=False,
        )

    def _check(self, call: _Call, response: requests.Response) -> None:
        logger.debug("ollama %s %s status=%d", call.method, call.path, response.status_code)
        if not 200 <= response.status_code < 300:
            raise self._refusal(call, response)

    def _refusal(self, call: _Call, response: requests.Response) -> ModelManagerError:
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
    def _translated(self, call: _Call) -> Iterator[None]:
        try:
            yield
        except (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError) as error:
            raise OllamaTimeout(call.what, call.timeout_s) from error
        except requests.ConnectionError as error:
            raise OllamaUnavailable(self._address, _why(error)) from error
        except (urllib3.exceptions.HTTPError, requests.RequestException) as error:
            happened = f"The connection to Ollama broke while it was {call.what}."
            raise OllamaError(happened, "Try again; look whether Ollama still runs.") from error


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
            session = self._local.session = _new_session(HTTPAdapter(pool_connections=1, pool_maxsize=1))
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

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        tell = self._tell

        class Telling(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                tell(self.sock)

        pool.ConnectionCls = Telling
        return pool


def _new_session(adapter: HTTPAdapter) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
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
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "the connection was cut" if inner is None else "no connection"


# --- what comes over it ----------------------------------------------------------------------------------------------


class _Garbled(ValueError):
    """A whole line that is not a JSON object."""

    def __init__(self, line: bytes) -> None:
        super().__init__(clean(line[:_LONGEST_ERROR_BODY].decode(errors="replace")))
        self.line = line


def _objects(response: requests.Response) -> Iterator[dict[str, Any]]:
    """Yield the object of each line as soon as the line is there. Half a line at the end is passed over.

    Raises _Garbled, and what urllib3 raises where the connection breaks.
    """
    for line, is_whole in _lines(response):
        try:
            data = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            if not is_whole:
                return
            raise _Garbled(line) from error
        if not isinstance(data, dict):
            raise _Garbled(line)
        yield data


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
        if held > _LONGEST_LINE:
            raise _Garbled(rest[0])
    if line := b"".join(rest).strip():
        yield line, False


def _body(call: _Call, response: requests.Response, longest: int = _LONGEST_BODY, truncate: bool = False) -> bytes:
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


def _object(call: _Call, body: bytes) -> dict[str, Any]:
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise _not_ollama(call, body) from error
    if not isinstance(data, dict):
        raise _not_ollama(call, body)
    return data


def _read(call: _Call, reader: Callable[[Any], T], data: Any) -> T:
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


def _error(call: _Call, status: int, text: str) -> ModelManagerError:
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


def _not_ollama(call: _Call, body: bytes, status: int = 200) -> OllamaError:
    start = body.lstrip()[:1]
    form = "nothing" if not start else "a web page" if start == b"<" else "something that is not Ollama's JSON"
    return OllamaError(
        f"When {call.what}, the server answered {form} (status {status}).",
        "Look whether OLLAMA_HOST is Ollama's address, and whether a proxy stands in between.",
        upstream_status=status,
        upstream="" if start == b"<" else clean(body[:_LONGEST_ERROR_BODY].decode(errors="replace")),
    )


def _encoded(body: Json) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest("request", f"cannot be written as JSON ({error})") from error


def _given(wishes: Json) -> dict[str, Any]:
    return {name: value for name, value in wishes.items() if value is not None}


def _images(images: Sequence[bytes | str] | None) -> dict[str, Any]:
    if not images:
        return {}
    return {"images": [image if isinstance(image, str) else base64.b64encode(image).decode() for image in images]}


def _checked_digest(digest: str) -> str:
    lowered = digest.lower()
    if not _DIGEST.fullmatch(lowered):
        raise InvalidRequest("digest", "is not sha256: and 64 hexadecimal digits")
    return lowered


# --- how long it took ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Calls:
    successes: int = 0
    failures: int = 0
    total_s: float = 0.0
    min_s: float | None = None
    max_s: float | None = None


class _Performance:
    """The calls of one client, by model. Times are those of successes: a failure's says nothing about the model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, _Calls] = {}

    @contextmanager
    def measured(self, model: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        except GeneratorExit:  # the caller had heard enough: neither a success nor a failure
            raise
        except BaseException:
            self._add(model, None)
            raise
        self._add(model, time.monotonic() - begun)

    def _add(self, model: str, seconds: float | None) -> None:
        with self._lock:
            calls = self._calls.setdefault(model, _Calls())
            if seconds is None:
                calls.failures += 1
                return
            calls.successes += 1
            calls.total_s += seconds
            calls.min_s = seconds if calls.min_s is None else min(calls.min_s, seconds)
            calls.max_s = seconds if calls.max_s is None else max(calls.max_s, seconds)

    def report(self, model: str | None) -> dict[str, Any]:
        with self._lock:
            reports = {name: _reported(calls) for name, calls in self._calls.items()}
        return reports if model is None else reports.get(model, {})


def _reported(calls: _Calls) -> dict[str, Any]:
    return {
        "total_calls": calls.successes + calls.failures,
        "successful_calls": calls.successes,
        "failed_calls": calls.failures,
        "total_time": calls.total_s,
        "avg_time": calls.total_s / calls.successes if calls.successes else None,
        "min_time": calls.min_s,
        "max_time": calls.max_s,
    }

"""Speak to one Ollama server. The only module that does; what its answers mean is decided in model_core.

    client = OllamaClient("http://localhost:11434")
    client.generate("llama3.2:1b-instruct", "Describe the light in one sentence.")
    with client.pull("llama3.2:1b-instruct-q4_K_M") as pull:
        for event in pull:              # Ollama's own objects; ends after {"status": "success"}, else PullFailed
            ...

One client may be used by many threads, and on both sides of a fork. Nothing is sent before the first call. Where Ollama
does not do its part, a call raises an OllamaError of model_core/errors.py, with its cause attached.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from pydantic_core import from_json

from catalog import MODEL_CATALOG
from model_core import names, ollama_answers, pull_errors
from model_core.errors import (
    AnswerCutShort,
    InvalidRequest,
    ModelManagerError,
    OllamaError,
    OllamaModelMissing,
    OllamaTimeout,
    PullEnded,
    PullFailed,
)
from model_core.memory import DEFAULT_CONTEXT_TOKENS
from model_core.ollama_host import is_loopback, read_host
from model_core.records import Answer, CatalogEntry, InstalledModel, ModelDetails, RunningModel
from ollama_lines import Arrived, Ended, HungUp, LineStream
from ollama_wire import Call, Garbled, Json, Line, Opened, Wire, objects, read_as

__all__ = ["GenerateStream", "OllamaClient", "PullStream", "read_host"]

logger = logging.getLogger(__name__)

KeepAlive = float | str | None

DEFAULT_HOST = "http://localhost:11434"
DEFAULT_MODEL = "llama3.1:8b-instruct"

# Ollama writes the first line of a pull before it asks the registry for anything.
_PULL_BEGINS_WITHIN_S = 30.0

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

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
    context_of           how many tokens of context a model is used with. It goes along with every load and every
                         question that does not say another: left to itself, Ollama takes one by the size of the card,
                         and loads the model anew whenever it changes

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
        context_of: Callable[[str], int] = lambda model: DEFAULT_CONTEXT_TOKENS,
    ) -> None:
        self.context_of = context_of
        self.address = read_host(host)
        self.is_local = is_loopback(self.address)
        self._wire = Wire(self.address, connect_timeout_s)
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
        call = Call("GET", "/api/version", "telling its version", self._list_s)
        return read_as(call, ollama_answers.version, self._wire.answer(call))

    def tags(self) -> list[InstalledModel]:
        """Return the installed models, the most recently changed first."""
        call = self._tags_call()
        return read_as(call, ollama_answers.installed_models, self._wire.answer(call))

    def _tags_call(self) -> Call:
        return Call("GET", "/api/tags", "listing its models", self._list_s)

    def running(self) -> list[RunningModel]:
        """Return the loaded models. One that is still loading is not among them."""
        call = Call("GET", "/api/ps", "listing what runs", self._list_s)
        return read_as(call, ollama_answers.running_models, self._wire.answer(call))

    def simulated_card(self) -> tuple[int, int]:
        """Return the size of a simulated Ollama's card and what is free of it, in bytes; a real one does not tell."""
        call = Call("GET", "/_simulator/state", "telling of its card", self._list_s)
        return read_as(call, ollama_answers.simulated_card, self._wire.answer(call))

    def show(self, model: str, verbose: bool = False) -> ModelDetails:
        """Return the details of an installed model; with ``verbose`` the lists in model_info too, which are megabytes.

        Raises OllamaModelMissing.
        """
        body = {"model": model, "verbose": verbose}
        call = Call("POST", "/api/show", f"describing {model}", self._show_s, body, model)
        return read_as(call, lambda data: ollama_answers.model_details(model, data), self._wire.answer(call))

    # --- what changes it ---------------------------------------------------------------------------------------------

    def pull(self, model: str, *, insecure: bool = False) -> PullStream:
        """Have Ollama fetch a model, and return the stream of what it says about that.

        Two pulls of one model at a time can kill Ollama (up to 0.33): the caller sees to it that there is one.
        ``insecure`` makes Ollama speak plain HTTP to the registry; it is for a registry of one's own.
        """
        body = {"model": model, "stream": True, **({"insecure": True} if insecure else {})}
        call = Call("POST", "/api/pull", f"starting to pull {model}", _PULL_BEGINS_WITHIN_S, body)
        return PullStream(model, self._wire.opened(call))

    def delete(self, model: str) -> None:
        """Remove a name; what other names share stays on the disk, and what is loaded in memory.

        Raises OllamaModelMissing.
        """
        self._wire.done(Call("DELETE", "/api/delete", f"deleting {model}", self._change_s, {"model": model}, model))

    def copy(self, source: str, destination: str) -> None:
        """Give an installed model a second name, at once and without bytes; a model of that name is overwritten.

        Raises OllamaModelMissing for the source.
        """
        body = {"source": source, "destination": destination}
        self._wire.done(Call("POST", "/api/copy", f"copying {source}", self._change_s, body, source))

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
        call = Call("POST", "/api/create", f"creating {model}", self._load_s, body)
        events = self._creation(call)
        # Up to the first event now: a caller who does not look at the events still hears of what is refused.
        return chain([next(events)], events)

    def _creation(self, call: Call) -> Iterator[dict[str, Any]]:
        for event in self._wire.lines(call):
            yield event
            if event.get("status") == "success":
                return
        raise OllamaError(f"Ollama ended {call.what} and did not say that it had succeeded.", "Look at Ollama's log.")

    def has_blob(self, digest: str) -> bool:
        """Say whether Ollama's machine holds these bytes, whole."""
        call = Call("HEAD", f"/api/blobs/{_checked_digest(digest)}", "looking for a file", self._list_s)
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
        call = Call("POST", path, "taking a file", self._load_s, connect_timeout_s=self._change_s)
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
        wishes = {"keep_alive": keep_alive, "options": self._options(model, options)}
        body = {"model": model, "stream": False, **_given(wishes)}
        call = self._loading_call(model, body)
        _, _, done = read_as(call, ollama_answers.piece, self._wire.answer(call))
        if not done:
            raise OllamaError(f"Ollama did not finish loading {model}, and did not say why.", "Look at Ollama's log.")

    def loading(self, model: str, *, options: Json | None = None) -> GenerateStream:
        """Begin what load does, and return what tells of it: closing it stops the load. Raises nothing yet."""
        body = {"model": model, "stream": False, "options": self._options(model, options)}
        return GenerateStream(self._wire, self._loading_call(model, body), self._load_s)

    def _loading_call(self, model: str, body: Json) -> Call:
        return Call("POST", "/api/generate", f"loading {model}", self._load_s, body, model)

    def unload(self, model: str) -> None:
        """Ask for the memory back. It is free a little later; running() shows when. Raises OllamaModelMissing."""
        body = {"model": model, "stream": False, "keep_alive": 0}
        self._wire.answer(Call("POST", "/api/generate", f"unloading {model}", self._change_s, body, model))

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
        wishes = {"format": format, "system": system, "keep_alive": keep_alive, "think": think}
        wishes["options"] = self._options(model, options)
        body = {"model": model, "prompt": prompt, "stream": False, **_given(wishes), **_images(images)}
        return self._answer("/api/generate", body, timeout_s)

    def _options(self, model: str, options: Json | None) -> Json:
        return {"num_ctx": self.context_of(model), **(options or {})}

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
        wishes = {"format": format, "keep_alive": keep_alive, "think": think}
        wishes["options"] = self._options(model, options)
        body = {"model": model, "messages": list(messages), "stream": False, **_given(wishes)}
        return self._answer("/api/chat", body, timeout_s)

    def _answer(self, path: str, body: Json, timeout_s: float | None) -> Answer:
        model = body["model"]
        call = Call("POST", path, f"generating with {model}", timeout_s or self._generate_s, body, model)
        with self._performance.measured(model):
            data = self._wire.answer(call)
            text, _, done = read_as(call, ollama_answers.piece, data)
            if not done:
                raise AnswerCutShort(model, len(text))
            return read_as(call, lambda found: ollama_answers.answer(model, found), data)

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
        wishes = {"format": format, "system": system, "keep_alive": keep_alive, "think": think}
        wishes["options"] = self._options(model, options)
        body = {"model": model, "prompt": prompt, "stream": True, **_given(wishes), **_images(images)}
        call = Call("POST", "/api/generate", f"generating with {model}", timeout_s or self._generate_s, body, model)
        texts: list[str] = []
        thoughts: list[str] = []
        with self._performance.measured(model), closing(self._wire.lines(call)) as lines:
            for line in lines:
                text, thought, done = read_as(call, ollama_answers.piece, line)
                texts.append(text)
                thoughts.append(thought)
                if text:
                    yield text
                if done:
                    break
            else:
                raise AnswerCutShort(model, sum(map(len, texts)))
        said = {"text": "".join(texts), "thinking": "".join(thoughts)}
        yield read_as(call, lambda data: ollama_answers.answer(model, data, **said), line)

    def generating(
        self,
        model: str,
        prompt: str,
        *,
        options: Json | None = None,
        system: str | None = None,
        images: Sequence[bytes | str] | None = None,
        think: bool | str | None = None,
        truncate: bool | None = None,
    ) -> GenerateStream:
        """Begin a generation, and return what tells of it: it can be hung up on at any moment. Raises nothing yet.

        truncate  False: refuse a prompt that is longer than the context; else Ollama drops its beginning without a word

        Until the first piece it may take as long as a load, since it can contain one.
        """
        wishes = {
            "options": self._options(model, options),
            "system": system,
            "think": think,
            "truncate": truncate,
        }
        body = {"model": model, "prompt": prompt, "stream": True, **_given(wishes), **_images(images)}
        call = Call("POST", "/api/generate", f"generating with {model}", self._load_s, body, model)
        return GenerateStream(self._wire, call, self._generate_s)

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
        read_as(call, ollama_answers.installed_models, data)
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
            begun = time.perf_counter()
            try:
                self.generate_answer(tag, prompt, options={"temperature": 0.2, "num_predict": 100})
            except OllamaError as error:
                notes.append(f"{tag}: {error}")
            else:
                seconds.append(time.perf_counter() - begun)
        if not seconds:
            return {}
        return {
            "avg_time": sum(seconds) / len(seconds),
            "min_time": min(seconds),
            "max_time": max(seconds),
            "success_rate": len(seconds) / times,
        }


class PullStream:
    """One pull, as Ollama tells of it. Close it in any case: as long as it is open, Ollama goes on."""

    def __init__(self, model: str, opened: Opened) -> None:
        self.model, self._opened = model, opened
        try:
            self._lines = LineStream(f"pull {model}", _released_after(opened), opened.line.hang_up)
        except RuntimeError:  # the system has no more threads to give
            opened.release()
            raise

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
        try:
            arrived = self._lines.read(timeout_s)
        except HungUp:
            raise PullEnded(self.model) from None
        except Ended as end:
            self.close()
            raise _failed(self.model, _how_it_ended(end.why)) from end.why
        return None if arrived is None else self._judged(arrived.event)

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
        self._lines.close()

    def _judged(self, event: dict[str, Any]) -> dict[str, Any]:
        text = ollama_answers.error_text(event)
        if text is not None:
            self.close()
            raise _failed(self.model, pull_errors.classify(text))
        if event.get("status") == "success":
            self.close()
        return event


class GenerateStream:
    """One generation, or one load, as Ollama tells of it: closing it stops Ollama, also before the first word.

    silence_s      so long nothing may come once the answer has begun
    first_piece_s  from the moment the connection stood to the first piece with text in it; None before, or without any
    """

    def __init__(self, wire: Wire, call: Call, silence_s: float) -> None:
        self.first_piece_s: float | None = None
        self._call, self._silence_s = call, silence_s
        self._line = Line()
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._heard_s = float("-inf")
        lines = wire.lines_on(self._line, call)
        self._lines = LineStream(f"generate {call.model}", lines, self._line.hang_up)

    def __enter__(self) -> GenerateStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def finished(self, timeout_s: float) -> Answer | None:
        """Return the whole answer as soon as it is there, None where it is not within the time.

        Raises OllamaModelMissing, AnswerCutShort where Ollama stopped before the end, OllamaTimeout, OllamaError.
        """
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                arrived = self._lines.read(left_s)
            except HungUp:
                raise AnswerCutShort(self._model, self._characters) from None
            except Ended as end:
                raise self._failure(end.why) from end.why
            if arrived is None:
                break
            if answer := self._taken(arrived):
                return answer
        begun_s = self._line.answered_s
        if begun_s is not None and time.perf_counter() - max(begun_s, self._heard_s) > self._silence_s:
            raise OllamaTimeout(self._call.what, self._silence_s)
        return None

    def close(self) -> None:
        """Have Ollama stop, unless it is done. From any thread, and again."""
        self._lines.close()

    @property
    def _model(self) -> str:
        return self._call.model or ""

    @property
    def _characters(self) -> int:
        return sum(map(len, self._texts))

    def _taken(self, arrived: Arrived) -> Answer | None:
        """Take in one piece; return the answer if it was the last."""
        text, thought, done = read_as(self._call, ollama_answers.piece, arrived.event)
        self._heard_s = arrived.at_s
        if self.first_piece_s is None and (text or thought) and self._line.connected_s is not None:
            self.first_piece_s = arrived.at_s - self._line.connected_s
        self._texts.append(text)
        self._thoughts.append(thought)
        if not done:
            return None
        said = {"text": "".join(self._texts), "thinking": "".join(self._thoughts)}
        return read_as(self._call, lambda data: ollama_answers.answer(self._model, data, **said), arrived.event)

    def _failure(self, why: Exception) -> Exception:
        if isinstance(why, ModelManagerError):
            return why
        if isinstance(why, EOFError):
            return AnswerCutShort(self._model, self._characters)
        return OllamaError(f"The answer of {self._model} could not be read ({type(why).__name__}).", "Try again.")


def _released_after(opened: Opened) -> Generator[dict[str, Any]]:
    try:
        yield from objects(opened.response)
    finally:
        opened.release()


def _how_it_ended(why: Exception) -> pull_errors.PullProblem:
    if isinstance(why, Garbled):
        return pull_errors.classify(f"something that is not its JSON ({why})")
    return pull_errors.CUT_SHORT


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
        begun = time.perf_counter()
        try:
            yield
        except GeneratorExit:  # the caller had heard enough: neither a success nor a failure
            raise
        except BaseException:
            self._add(model, None)
            raise
        self._add(model, time.perf_counter() - begun)

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

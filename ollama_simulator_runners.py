"""What the simulated Ollama has loaded: runners on a model's weights, their memory, their end, and what they say."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

from model_core.go_dialect import go_json, quoted, rfc3339_nano
from model_core.names import ModelName
from model_core.records import GIB, MIB
from model_core.simulated_checks import Refused, has_images
from model_core.simulated_library import LibraryModel, bytes_on_card, loaded_bytes
from model_core.simulated_replies import Installed, Json, chunk, details
from model_core.simulated_words import answer_to, tokens_of
from ollama_simulator_faults import Fault, Faults
from ollama_simulator_steps import Ended, Pace, Steps

_KEEP_ALIVE_NS = 5 * 60 * 10**9  # OLLAMA_KEEP_ALIVE where nothing is set
_MOST_LOADED = 3  # OLLAMA_MAX_LOADED_MODELS where nothing is set
_CARD_RESERVE_BYTES = 457 * MIB  # what Ollama leaves free on a card
_DEFAULT_CONTEXT = ((47 * GIB, 262_144), (23 * GIB, 32_768), (0, 4096))  # by the memory of the card
_READS_FASTER_BY = 10  # than it writes
_TOKENS_OF_AN_IMAGE = 256  # of gemma3
_OPTIONS_OF_A_RUNNER = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")

_NO_VISION = "Multimodal data provided, but model does not support multimodal requests."
_LOAD_FAILED = "llama-server process has terminated: error loading model: unable to allocate CUDA0 buffer"
_CRASHED_MIDWAY = "an error was encountered while running the model: unexpected EOF"
_CRASHED_AT_ONCE = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


@dataclass
class Runner:
    """One loaded model.

    gone_at  None while it stays, infinity when it goes after its last request
    read     the tokens of the newest prompt: what begins another one as they do is not read again
    """

    name: ModelName
    model: LibraryModel
    options: Mapping[str, object]
    context_tokens: int
    size_bytes: int
    card_bytes: int
    keep_ns: int
    expires_ns: int
    in_use: int = 1
    gone_at: float | None = None
    read: tuple[str, ...] = ()


class Runners:
    """The runners of one simulator, keyed by the weights: all names of the same weights share one."""

    def __init__(self, pace: Pace, faults: Faults, lock: threading.RLock) -> None:
        self._pace, self._faults, self._lock = pace, faults, lock
        self._runners: dict[str, Runner] = {}
        self._loading = False

    def clear(self) -> None:
        """Let all go, as when Ollama ends."""
        with self._lock:
            self._runners.clear()

    def names(self) -> list[str]:
        """Return under which names something is loaded."""
        return [runner["name"] for runner in self.listed()]

    def card_bytes(self) -> int:
        """Return how much of the card the runners hold."""
        with self._lock:
            self._sweep()
            return sum(runner.card_bytes for runner in self._runners.values())

    def listed(self) -> list[Json]:
        """Return the list of /api/ps: under the names that loaded, the longest to stay first."""
        with self._lock:
            self._sweep()
            runners = sorted(self._runners.values(), key=lambda runner: runner.expires_ns // 10**9, reverse=True)
            return [_runner_listed(runner) for runner in runners]

    # --- loading and letting go ---

    def lend(self, entry: Installed, asked: Json, keep_ns: int | None) -> Steps[Runner]:
        """Return a runner of the model, loaded if it was not; the caller must give it back with ``give_back``."""
        wanted = entry.model.parameters | asked
        options = {key: wanted[key] for key in _OPTIONS_OF_A_RUNNER if key in wanted}
        weights = entry.model.weights.digest
        while not self._may_load(weights, options):
            if runner := self._ready(weights, options, keep_ns):
                return runner
            yield from self._pace.pause(max(self._pace.tick_s, 0.001))
        try:
            if failed := self._faults.hit("load_failed", model=entry.name.display):
                raise Refused(500, str(failed.details.get("text", _LOAD_FAILED)))
            slow = self._faults.hit("slow_load", model=entry.name.display)
            yield from self._slowly(slow) if slow else self._pace.pause(self._pace.load_seconds)
            while (runner := self._loaded(entry, options, keep_ns)) is None:
                yield from self._pace.pause(max(self._pace.tick_s, 0.001))
            return runner
        finally:
            with self._lock:
                self._loading = False

    def _slowly(self, fault: Fault) -> Steps[None]:
        until = time.monotonic() + float(fault.details.get("seconds", 5))
        while not fault.cleared and time.monotonic() < until:
            yield from self._pace.pause(max(self._pace.tick_s, 0.001))

    def _may_load(self, weights: str, options: Mapping[str, object]) -> bool:
        """Take the only place for loading if it is free and needed; one with other options is let go first."""
        with self._lock:
            self._sweep()
            there = self._runners.get(weights)
            if there and there.options != options and there.in_use == 0:
                self._let_go(there)
            if there or self._loading:
                return False
            self._loading = True
            return True

    def _ready(self, weights: str, options: Mapping[str, object], keep_ns: int | None) -> Runner | None:
        with self._lock:
            runner = self._runners.get(weights)
            if runner is None or runner.gone_at is not None or runner.options != options:
                return None
            runner.in_use += 1
            if keep_ns is not None:
                runner.keep_ns = keep_ns
            return runner

    def _loaded(self, entry: Installed, options: Json, keep_ns: int | None) -> Runner | None:
        default = next(context for least, context in _DEFAULT_CONTEXT if self._pace.vram_bytes >= least)
        context = int(options.get("num_ctx") or default)
        context = max(4, min(context, entry.model.number("context_length", context)))
        size = loaded_bytes(entry.model, context)
        keep = _KEEP_ALIVE_NS if keep_ns is None else keep_ns
        with self._lock:
            free = self._make_room(size)
            if free is None:
                return None
            on_card = 0 if options.get("num_gpu") == 0 else bytes_on_card(entry.model, size, max(0, free))
            runner = Runner(entry.name, entry.model, options, context, size, on_card, keep, time.time_ns() + keep)
            self._runners[entry.model.weights.digest] = runner
            return runner

    def _make_room(self, size_bytes: int) -> int | None:
        """Drop idle runners until the new one fits and is not one too many.

        Returns the free bytes of the card, or None while one that is in use has to finish first.
        """
        self._sweep()
        while True:
            used = sum(runner.card_bytes for runner in self._runners.values())
            free = self._pace.vram_bytes - _CARD_RESERVE_BYTES - used
            idle = [(runner.expires_ns, weights) for weights, runner in self._runners.items() if runner.in_use == 0]
            crowded = len(self._runners) >= _MOST_LOADED or (size_bytes > free and used > 0)
            if not crowded:
                return free
            if not idle:
                self._let_go(min(self._runners.values(), key=lambda runner: runner.keep_ns))
                return None
            del self._runners[min(idle)[1]]

    def give_back(self, runner: Runner) -> None:
        """Take a runner back; from now on its idle time counts."""
        with self._lock:
            runner.in_use -= 1
            if runner.gone_at is None:
                runner.expires_ns = time.time_ns() + runner.keep_ns

    def expire(self, model: LibraryModel) -> None:
        """Unload whatever runs on the model's weights; who asks has the answer before the memory is free."""
        with self._lock:
            if runner := self._runners.get(model.weights.digest):
                self._let_go(runner)

    def _let_go(self, runner: Runner) -> None:
        if runner.gone_at in (None, math.inf):
            runner.expires_ns = min(runner.expires_ns, time.time_ns())
            runner.gone_at = math.inf if runner.in_use else time.monotonic() + self._pace.unload_seconds

    def _sweep(self) -> None:
        """Nobody watches the clock: who looks at the runners lets those go whose time is over."""
        for weights, runner in list(self._runners.items()):
            if runner.in_use == 0 and runner.expires_ns <= time.time_ns():
                self._let_go(runner)
            if runner.gone_at is not None and runner.gone_at <= time.monotonic():
                del self._runners[weights]

    # --- saying something ---

    def speak(
        self, runner: Runner, entry: Installed, request: Json, *, started: float, loaded: float, chat: bool
    ) -> Steps[None]:
        """Yield the pieces of an answer, the last one with its metrics; the moments are of the monotonic clock."""
        sent = str(request.get("model") or "")
        wanted = request.get("format")
        if wanted and wanted != "json" and not isinstance(wanted, dict):
            raise Refused(
                500, f'invalid format: {quoted(go_json(wanted))}; expected "json" or a valid JSON Schema object'
            )
        if has_images(request) and "vision" not in entry.model.capabilities:
            raise Refused(400, _of_llama_server(_NO_VISION, "invalid_request_error"))
        options = entry.model.parameters | (request.get("options") or {})
        prompt = go_json(request.get("messages")) if chat else str(request.get("prompt"))
        pieces = list(tokens_of(answer_to(prompt, options.get("seed"), wanted)))
        most = int(options.get("num_predict") or -1)
        said = pieces[:most] if most > 0 else pieces

        tokens = _tokens_to_read(request, prompt)
        if len(tokens) + 2 > runner.context_tokens:
            if request.get("truncate") is False:
                raise Refused(400, _too_long(len(tokens) + 2, runner.context_tokens))
            tokens = tokens[-(runner.context_tokens // 2) :]  # and says nothing of it
        fresh_tokens = len(tokens) - _common(runner.read, tokens)
        runner.read = tokens
        reading_s = fresh_tokens / (_READS_FASTER_BY * self._pace.tokens_per_second)
        yield from self._pace.pause(reading_s)
        read_at = time.monotonic()

        fault = self._faults.hit("cut_generation", "runner_crash", model=entry.name.display)
        last_piece = int(fault.details.get("after_tokens", 1)) if fault else len(said)
        for piece in said[:last_piece]:
            yield from self._pace.pause(1 / self._pace.tokens_per_second)
            yield chunk(sent, piece, time.time_ns(), chat=chat)
        if fault and fault.kind == "runner_crash":
            raise Refused(500, _CRASHED_MIDWAY if last_piece else _CRASHED_AT_ONCE)
        if fault and fault.details.get("abrupt"):
            raise Ended(abrupt=True)
        if fault:
            return
        end = chunk(sent, "", time.time_ns(), chat=chat)
        end |= {"done": True, "done_reason": "length" if len(said) < len(pieces) else "stop"}
        # All of the prompt is counted, and only what was not read before has taken its time.
        prompt_tokens = len(tokens) + 2
        if not chat and not request.get("raw"):
            end["context"] = list(range(259, 259 + prompt_tokens + len(said)))
        now = time.monotonic()
        yield end | {
            "total_duration": _ns(now - started),
            "load_duration": _ns(loaded - started),
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": _ns(reading_s),
            "eval_count": len(said),
            "eval_duration": _ns(now - read_at),
        }


def _too_long(prompt_tokens: int, context_tokens: int) -> str:
    return _of_llama_server(
        f"request ({prompt_tokens} tokens) exceeds the available context size ({context_tokens} tokens), "
        "try increasing it",
        "exceed_context_size_error",
        n_prompt_tokens=prompt_tokens,
        n_ctx=context_tokens,
    )


def _of_llama_server(message: str, kind: str, **more: int) -> str:
    """Return a refusal of llama.cpp's server, whose whole answer Ollama hands on as a text."""
    return go_json({"error": {"code": 400, "message": message, "type": kind, **more}})


def _tokens_to_read(request: Json, prompt: str) -> tuple[str, ...]:
    """Return what a model is to read, in its order: the system's text, the images, the prompt."""
    system = tokens_of(str(request.get("system") or ""))
    images = (image for image in request.get("images") or [] for _ in range(_TOKENS_OF_AN_IMAGE))
    return (*system, *images, *tokens_of(prompt))


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return how many tokens two prompts have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _ns(seconds: float) -> int:
    return max(1, int(seconds * 1e9))


def _runner_listed(runner: Runner) -> Json:
    return {
        "name": runner.name.display,
        "model": runner.name.display,
        "size": runner.size_bytes,
        "digest": runner.model.digest,
        "details": details(runner.model) | {"parent_model": ""},
        "expires_at": rfc3339_nano(runner.expires_ns, time.localtime().tm_gmtoff),
        "size_vram": runner.card_bytes,
        "context_length": runner.context_tokens,
    }

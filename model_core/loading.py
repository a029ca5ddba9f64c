"""What is loaded, in words and figures: where it lies, what Ollama counted beside what we had estimated, what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from pydantic import Field

from model_core import times
from model_core.errors import InvalidRequest
from model_core.go_dialect import LONGEST_S, GoError, parse_keep_alive_ns
from model_core.measurements import error_percent
from model_core.memory import OVERHEAD_BYTES, MemoryNeed, bits_of, format_memory
from model_core.records import Reason, Record, RunningModel

# Ollama tells "for ever" as now and 292 years.
_FOREVER_FROM_YEAR = 2200
# A share as Ollama tells it; what rounds to less than all of it lies partly in RAM.
_WHOLE_SHARE = 1.0
# Ollama takes this for anything less (sched.go).
_SMALLEST_CONTEXT_TOKENS = 4
# What has happened ends with it, and what to do begins behind it.
SLOW = "which is slow."


class Phase(StrEnum):
    """What is waited for while a model is loaded."""

    LOOKING = "looking at what is loaded"
    LOADING = "loading"
    COUNTING = "reading how much memory it took"


class Running(Record):
    """A model that is in memory.

    name   the one that callers use; names are all that this runner answers for, Ollama itself names one of them
    sizes  as Ollama counts them, without what the card's own software holds; None where it does not know
    """

    name: str
    names: tuple[str, ...]
    digest: str
    size_bytes: int | None
    size_vram_bytes: int | None
    gpu_share: float | None = Field(description="from 0 to 1; null where Ollama does not know")
    context_tokens: int | None
    expires_at: str | None = Field(description="null where it is not known, and where it stays for ever")
    stays: bool = Field(description="until it is unloaded")
    estimate_bytes: int | None = Field(description="what we say it needs, with what the card's own software holds")
    measured_bytes: int | None = Field(description="the same as Ollama counted; null where that cannot be believed")
    error_percent: float | None = Field(description="of the estimate; above zero it was too high")
    warnings: tuple[Reason, ...] = ()


class Loaded(Record):
    """A load that has happened.

    load_seconds  waited for Ollama; next to nothing where it was loaded already
    running       None where Ollama does not say what became of it
    """

    model: str
    message: str
    load_seconds: float
    was_loaded: bool
    context_tokens: int
    gpu_share: float | None
    running: Running | None
    warnings: tuple[Reason, ...]


class Unloaded(Record):
    """An unload that has been asked for; is_gone is False while an answer that is under way keeps it in memory."""

    model: str
    message: str
    was_loaded: bool
    is_gone: bool


def check_keep_alive(value: Any) -> float | str | None:
    """Return how long a model is to stay loaded after its last use, as Ollama takes it.

    A number is seconds, a text a duration such as "5m"; below zero is for ever; None: as it is, or Ollama's own.

    >>> check_keep_alive("1h30m"), check_keep_alive(-1)
    ('1h30m', -1)

    Raises InvalidRequest.
    """
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise GoError("not a number")
        if isinstance(value, int | float) and value > LONGEST_S:
            raise GoError("more than Ollama can count, which then lets go of the model at once")
        length_ns = parse_keep_alive_ns(value)
    except (GoError, KeyError):
        raise InvalidRequest(
            "keep_alive",
            "is no length of time that Ollama knows",
            'Give seconds as a number (300, or -1 for ever), or a text with a unit ("5m", "1h30m").',
        ) from None
    if length_ns == 0:
        raise InvalidRequest("keep_alive", "is 0, which takes a model out of memory", "Unload it, or leave this out.")
    kept: float | str | None = value
    return kept


def is_as_before(before: RunningModel | None, after: RunningModel | None) -> bool:
    """Say whether a load found the model in memory already, with the same context."""
    return before is not None and after is not None and before.context_tokens == after.context_tokens


def context_got(asked_tokens: int, runner: RunningModel | None, longest_tokens: int | None) -> int:
    """Return the context that a load with this one came to.

    runner          what is listed after it; None: nothing
    longest_tokens  what the model can read at once; None: not known

    Ollama changes only what is below its smallest, or beyond the longest. Where it lists another one all the same,
    somebody has asked with that in between, and the model was loaded anew for it.
    """
    if runner is None or not runner.context_tokens:
        return asked_tokens
    is_possible = longest_tokens is not None and _SMALLEST_CONTEXT_TOKENS <= asked_tokens <= longest_tokens
    return asked_tokens if is_possible else runner.context_tokens


def running(
    model: RunningModel,
    name: str,
    names: Iterable[str],
    need: MemoryNeed | None,
    *,
    form: str | None = None,
    has_card: bool | None = None,
    fitting_context: int | None = None,
) -> Running:
    """Return a loaded model as it is shown.

    need             what we say it needs with its context; Ollama's count stands in it where that can be believed
    form             its quantization; None: not known
    has_card         whether there is one that it could lie on; None: not known
    fitting_context  for what spills: the longest with which all of it would lie in what it has of the card; None: none
    """
    stays, share = _stays(model.expires_at), model.gpu_share
    measured = need.total if need and need.basis == "measured" else None
    estimate = need.estimate if need and measured else need.total if need else None
    return Running(
        name=name,
        names=tuple(names),
        digest=model.digest,
        size_bytes=model.size_bytes,
        size_vram_bytes=model.size_vram_bytes,
        gpu_share=None if share is None else round(share, 4),
        context_tokens=model.context_tokens,
        expires_at=None if stays else times.normal(model.expires_at),
        stays=stays,
        estimate_bytes=estimate,
        measured_bytes=measured,
        error_percent=error_percent(estimate, measured) if estimate and measured else None,
        warnings=tuple(_spilled(model, name, form, has_card, fitting_context)),
    )


def _stays(expires_at: str | None) -> bool:
    moment = times.normal(expires_at)
    return moment is not None and int(moment[:4]) >= _FOREVER_FROM_YEAR


def _spilled(
    model: RunningModel, name: str, form: str | None, has_card: bool | None, fitting_context: int | None
) -> list[Reason]:
    """Return that a model lies partly or wholly in RAM, and what to do; nothing where it lies on the card."""
    share = model.gpu_share
    if share is None or share >= _WHOLE_SHARE or model.size_bytes is None or (not share and has_card is False):
        return []
    in_ram = model.size_bytes - (model.size_vram_bytes or 0)
    where = f"{share:.0%} of {name} lies on the graphics card" if share else f"Nothing of {name} lies on the card"
    smaller = "a smaller model" if (bits_of(form) or 0) <= 4 else "its 4-bit form or a smaller model"
    take = f"Take {smaller}"
    if fitting_context:
        now = f"{model.context_tokens or 0:,}"
        take = f"Load it with a smaller context ({fitting_context:,} tokens instead of {now}), take {smaller}"
    text = (
        f"{where}, {format_memory(in_ram)} in RAM, {SLOW} {take}, or close other programs that use the card and load "
        "it again."
    )
    values = {
        "model": name,
        "gpu_share": round(share, 4),
        "in_ram_bytes": in_ram,
        "context_tokens": model.context_tokens,
        "fitting_context_tokens": fitting_context,
    }
    return [Reason(code="partly_in_ram" if share else "in_ram", text=text, values=values)]


def loaded(
    model: str,
    seconds: float,
    was_loaded: bool,
    context_tokens: int,
    now: Running | None,
    *,
    got_tokens: int | None = None,
    is_new_context: bool = False,
) -> Loaded:
    """Return what is told of a load.

    got_tokens      what came of the context that was asked for; None: that very context
    is_new_context  it was chosen just now, and stays
    """
    warnings = list(now.warnings) if now else [_not_listed(model)]
    got = got_tokens or context_tokens
    if is_new_context and got < context_tokens:
        warnings.append(_shorter(model, got, context_tokens))
    how = "was loaded already" if was_loaded else f"is loaded, after {seconds:.1f} s"
    message = f"{model} {how}."
    if now and now.gpu_share == 1:
        message += " It lies on the graphics card as a whole."
    if is_new_context:
        message += f" From now on it is used with a context of {got:,} tokens."
    return Loaded(
        model=model,
        message=message,
        load_seconds=round(seconds, 3),
        was_loaded=was_loaded,
        context_tokens=got,
        gpu_share=now.gpu_share if now else None,
        running=now,
        warnings=tuple(warnings),
    )


def _shorter(model: str, got: int, asked: int) -> Reason:
    text = f"{model} reads at most {got:,} tokens at once, fewer than the {asked:,} that were asked for."
    values = {"model": model, "context_tokens": got, "asked_context_tokens": asked}
    return Reason(code="shorter_context", text=text, values=values)


def _not_listed(model: str) -> Reason:
    text = f"Ollama says that it has loaded {model}, but does not list it: how much memory it takes is not known."
    return Reason(code="not_listed", text=text, values={"model": model})


def unloaded(model: str, was_loaded: bool, is_gone: bool) -> Unloaded:
    """Return what is told of an unload."""
    if not was_loaded:
        message = f"{model} was not loaded."
    elif is_gone:
        message = f"{model} has left the memory."
    else:
        message = f"{model} is still answering; it leaves the memory when it has ended."
    return Unloaded(model=model, message=message, was_loaded=was_loaded, is_gone=is_gone)


def held_on_card_bytes(running_models: Sequence[RunningModel]) -> int:
    """Return what the loaded models hold of the card: Ollama lets go of them when another one needs the room."""
    return sum(model.size_vram_bytes + OVERHEAD_BYTES for model in running_models if model.size_vram_bytes)

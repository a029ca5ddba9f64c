"""What a card says to a need: fits, tight, spills or too large; and what would make it fit.

fits ≤ available - 1 GiB < tight ≤ available < spills ≤ available + half of the free RAM < too large
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import ceil
from types import MappingProxyType

from pydantic import Field

from model_core.candidates import Criteria, smallest_known
from model_core.memory import (
    Basis,
    KvType,
    MemoryNeed,
    MemoryProfile,
    form_in_words,
    format_memory,
    format_need,
    label,
    memory_need,
)
from model_core.records import GIB, Reason, Record

# llama.cpp leaves this much of a card free when it decides by itself what to put there (llama.cpp#16653).
RESERVE_BYTES = 1 * GIB
SMALLEST_CONTEXT_TOKENS = 512


class Verdict(StrEnum):
    """What a card says to a need, the best first."""

    FITS = "fits"
    TIGHT = "tight"
    SPILLS = "spills"
    TOO_LARGE = "too_large"

    @property
    def rank(self) -> int:
        """0 for the best."""
        return _RANK[self]

    @property
    def runs_on_card(self) -> bool:
        """Whether the whole model lies on the card, and so may be recommended."""
        return self in (Verdict.FITS, Verdict.TIGHT)


_RANK = {verdict: rank for rank, verdict in enumerate(Verdict)}


def verdict(need_bytes: int, available_bytes: int, *, ram_free_bytes: int | None = None) -> Verdict:
    """Say how a need goes with what is available on the card.

    fits       a reserve of 1 GiB stays free: "comfortably"
    tight      it fits, and nothing else may come
    spills     the card and half of the free RAM hold it: slow, and Ollama does it without a word
    too_large  more than that

    Where the free RAM is not known, nothing can be said to be too large: it spills.

    >>> verdict(6 * GIB, 8 * GIB), verdict(6 * GIB, 6 * GIB), verdict(6 * GIB, 4 * GIB, ram_free_bytes=2 * GIB)
    (<Verdict.FITS: 'fits'>, <Verdict.TIGHT: 'tight'>, <Verdict.TOO_LARGE: 'too_large'>)
    """
    if need_bytes <= available_bytes - RESERVE_BYTES:
        return Verdict.FITS
    if need_bytes <= available_bytes:
        return Verdict.TIGHT
    if ram_free_bytes is None or need_bytes <= available_bytes + ram_free_bytes // 2:
        return Verdict.SPILLS
    return Verdict.TOO_LARGE


def largest_context(
    profile: MemoryProfile,
    available_bytes: int,
    *,
    at_most: int | None = None,
    at_least_verdict: Verdict = Verdict.FITS,
    kv_type: KvType = KvType.F16,
    parallel: int = 1,
) -> int | None:
    """Return the longest context, a power of two from 512 on, with which the model still gets this verdict.

    at_most  looks no further than this, nor further than the model can read. None where no context is short enough,
    and where neither limit is known.
    """
    limit = smallest_known(at_most, profile.context_limit)
    if limit is None or limit < SMALLEST_CONTEXT_TOKENS:
        return None

    def goes(context: int) -> bool:
        need = memory_need(profile, context, kv_type=kv_type, parallel=parallel)
        return verdict(need.total, available_bytes).rank <= at_least_verdict.rank

    # An estimate never falls as the context grows, so the shortest decides whether to look at all. A measurement may
    # lie below the estimate for a shorter context.
    if not profile.measured and not goes(SMALLEST_CONTEXT_TOKENS):
        return None
    longest = limit.bit_length() - 1
    shortest = SMALLEST_CONTEXT_TOKENS.bit_length() - 1
    return next((1 << power for power in range(longest, shortest - 1, -1) if goes(1 << power)), None)


class FitCheck(Record):
    """Whether one model in one quantization goes with what is available, and why."""

    model: str
    quantization: str | None
    compatible: bool = Field(description="fits or tight: the whole model lies on the card")
    verdict: Verdict
    need: MemoryNeed
    available_bytes: int
    margin_bytes: int = Field(description="what stays free; below zero, what is missing")
    basis: Basis
    fits_with_context: int | None = Field(
        default=None, description="for what does not fit: the longest shorter context with which it would"
    )
    ways: tuple[Reason, ...] = Field(default=(), description="for what does not fit: what would change that")
    message: str


def check_fit(
    wish: Criteria,
    model: str,
    quantization: str | None,
    profile: MemoryProfile,
    forms: Mapping[str, MemoryProfile] = MappingProxyType({}),
) -> FitCheck:
    """Compare what a model needs with what a wish finds available. Model and quantization are for the message only.

    forms  quantizations of the same model, as ways to make it fit
    """
    need = need_of(wish, profile)
    found = verdict(need.total, wish.available_bytes, ram_free_bytes=wish.ram_free_bytes)
    shorter, ways = None, list[Reason]()
    if not found.runs_on_card:
        shorter = longest_that_fits(wish, profile, need)
        ways += [] if shorter is None else [_shorter_context(wish, profile, shorter)]
        ways += [way for form in forms if form != quantization for way in _smaller_form(wish, form, forms[form], need)]
        ways += _smaller_cache(wish, profile, need)
        ways += more_memory(wish, need, is_the_only_way=not ways)
    return FitCheck(
        model=model,
        quantization=quantization,
        compatible=found.runs_on_card,
        verdict=found,
        need=need,
        available_bytes=wish.available_bytes,
        margin_bytes=wish.available_bytes - need.total,
        basis=need.basis,
        fits_with_context=shorter,
        ways=tuple(ways),
        message=_message(label(model, quantization), found, need, wish, shorter),
    )


def need_of(wish: Criteria, profile: MemoryProfile) -> MemoryNeed:
    """Return what a model needs, used as it is wished."""
    return memory_need(profile, wish.context_tokens, kv_type=wish.kv_type, parallel=wish.parallel)


def longest_that_fits(wish: Criteria, profile: MemoryProfile, need: MemoryNeed) -> int | None:
    """Return the longest context, shorter than that of the need, with which the model would lie on the card."""
    return largest_context(
        profile,
        wish.available_bytes,
        at_most=need.context_tokens - 1,
        at_least_verdict=Verdict.TIGHT,
        kv_type=wish.kv_type,
        parallel=wish.parallel,
    )


# --- what would make it fit ------------------------------------------------------------------------------------------

SMALLER_CACHE = "OLLAMA_FLASH_ATTENTION=1 and OLLAMA_KV_CACHE_TYPE=q8_0"


def _shorter_context(wish: Criteria, profile: MemoryProfile, context_tokens: int) -> Reason:
    need = need_of(wish.model_copy(update={"context_tokens": context_tokens}), profile)
    return Reason(
        code="shorter_context",
        text=f"With a context of {context_tokens:,} tokens it {_needs(wish, need)}.",
        values={"context_tokens": context_tokens, "need_bytes": need.total},
    )


def _smaller_form(wish: Criteria, name: str, form: MemoryProfile, need: MemoryNeed) -> list[Reason]:
    smaller = need_of(wish, form)
    if smaller.total >= need.total or smaller.total > wish.available_bytes:
        return []
    text = f"Its {form_in_words(name)} form {_needs(wish, smaller)}."
    return [Reason(code="smaller_form", text=text, values={"quantization": name, "need_bytes": smaller.total})]


def _smaller_cache(wish: Criteria, profile: MemoryProfile, need: MemoryNeed) -> list[Reason]:
    if wish.kv_type is not KvType.F16 or need.kv_cache is None:
        return []
    smaller = need_of(wish.model_copy(update={"kv_type": KvType.Q8_0}), profile)
    if smaller.total > wish.available_bytes:
        return []
    text = f"With an 8-bit cache it {_needs(wish, smaller)}: start Ollama itself with {SMALLER_CACHE}."
    values = {"kv_type": KvType.Q8_0.value, "need_bytes": smaller.total}
    return [Reason(code="smaller_cache", text=text, values=values)]


def _needs(wish: Criteria, need: MemoryNeed) -> str:
    fits = verdict(need.total, wish.available_bytes) is Verdict.FITS
    return f"needs {format_memory(need.total)}" + (", and fits" if fits else ", which is tight")


def more_memory(wish: Criteria, need: MemoryNeed, *, is_the_only_way: bool = True) -> list[Reason]:
    """Return how much more would have to be free, and how to come to it; on a machine that has so much."""
    missing, total = need.total - wish.available_bytes, wish.total_bytes
    values = {"missing_bytes": missing, "total_bytes": total}
    if total is not None and need.total > total:
        if not is_the_only_way:
            return []
        has = "Half of this machine's RAM is" if wish.on_processor else "The card has"
        text = f"{has} {format_memory(total)} in all, too little for it: choose a smaller model."
        return [Reason(code="smaller_model", text=text, values=values)]
    return [Reason(code="free_memory", text=_how_to_free(wish, need, missing), values=values)]


def _how_to_free(wish: Criteria, need: MemoryNeed, missing_bytes: int) -> str:
    more, free = format_memory(missing_bytes), wish.machine.free_bytes
    if wish.cap_bytes is not None and need.total > wish.cap_bytes:
        raise_it = f"MODEL_MANAGER_VRAM_GB allows {format_memory(wish.cap_bytes)}: raise it to {_gib_above(need.total)}"
        if wish.total_bytes is None:
            raise_it += " where there is as much"
        if wish.on_processor:
            is_free = wish.machine.ram_free_bytes is None or need.total <= wish.machine.ram_free_bytes // 2
        else:
            is_free = free is None or need.total <= free + wish.machine.held_bytes
        return f"{raise_it}." if is_free else f"{raise_it}, and close other programs that use the memory."
    if wish.on_processor:
        return f"{format_memory(2 * missing_bytes)} more RAM must be free, as half of it counts: close other programs."
    if wish.source == "probe":
        return f"{more} more must be free: close other programs that use the card."
    return f"{more} more would have to be free."


def _gib_above(size_bytes: int) -> str:
    """Return the figure for a setting in GiB that allows so much.

    >>> _gib_above(GIB), _gib_above(GIB + 1)
    ('1.0', '1.1')
    """
    return f"{ceil(size_bytes * 10 / GIB) / 10:.1f}"


# --- words -----------------------------------------------------------------------------------------------------------


def _message(name: str, found: Verdict, need: MemoryNeed, wish: Criteria, shorter: int | None) -> str:
    margin_bytes = wish.available_bytes - need.total
    start = f"{name} needs {format_need(need)}; {format_memory(wish.available_bytes)} are available"
    if found is Verdict.FITS:
        return f"{start}, so it fits, with {format_memory(margin_bytes)} to spare."
    if found is Verdict.TIGHT:
        return f"{start}: tight, with {format_memory(margin_bytes)} to spare.{close_others(wish)}"
    if found is Verdict.SPILLS:
        end = f"The missing {format_memory(-margin_bytes)} would lie in RAM, which is slow."
    else:
        beside = ", more than the free RAM could take over" if wish.ram_free_bytes else ""
        end = f"{format_memory(-margin_bytes)} are missing{beside}."
    hint = f" It would fit with a context of {shorter:,} tokens." if shorter else ""
    return f"{start}. {end}{hint}"


def close_others(wish: Criteria) -> str:
    """Return what to do where little stays free, as a sentence to append; nothing where no other program has any."""
    return "" if wish.is_all_there_is else " Close other programs that use the memory."

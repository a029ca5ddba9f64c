"""What a card says to a need: fits, tight, spills or too large; and what would make it fit.

fits ≤ available - 1 GiB < tight ≤ available < spills ≤ available + half of the free RAM < too large
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from pydantic import Field

from model_core.candidates import Criteria
from model_core.memory import (
    DEFAULT_CONTEXT_TOKENS,
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
    flash_attention: bool | None = None,
    parallel: int = 1,
) -> int | None:
    """Return the longest context, a power of two from 512 on, with which the model still gets this verdict.

    at_most  looks no further than this, nor further than the model can read. None where no context is short enough,
    and where neither limit is known.
    """
    limits = [limit for limit in (at_most, profile.context_limit) if limit is not None]
    if not limits or min(limits) < SMALLEST_CONTEXT_TOKENS:
        return None

    def goes(context: int) -> bool:
        need = memory_need(profile, context, kv_type=kv_type, flash_attention=flash_attention, parallel=parallel)
        return verdict(need.total, available_bytes).rank <= at_least_verdict.rank

    # An estimate never falls as the context grows, so the shortest decides whether to look at all. A measurement may
    # lie below the estimate for a shorter context.
    if not profile.measured and not goes(SMALLEST_CONTEXT_TOKENS):
        return None
    longest = min(limits).bit_length() - 1
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
    model: str,
    quantization: str | None,
    profile: MemoryProfile,
    available_bytes: int,
    *,
    context_tokens: int = DEFAULT_CONTEXT_TOKENS,
    ram_free_bytes: int | None = None,
    kv_type: KvType = KvType.F16,
    flash_attention: bool | None = None,
    parallel: int = 1,
    other_forms: Mapping[str, MemoryProfile] = MappingProxyType({}),
    total_bytes: int | None = None,
) -> FitCheck:
    """Compare what a model needs with what is available. The model and the quantization are for the message only.

    other_forms  further quantizations of the same model, as ways to make it fit
    total_bytes  of the card; None: not known
    """
    need = memory_need(profile, context_tokens, kv_type=kv_type, flash_attention=flash_attention, parallel=parallel)
    found = verdict(need.total, available_bytes, ram_free_bytes=ram_free_bytes)
    shorter, ways = None, list[Reason]()
    if not found.runs_on_card:
        shorter = largest_context(
            profile,
            available_bytes,
            at_most=need.context_tokens - 1,
            at_least_verdict=Verdict.TIGHT,
            kv_type=kv_type,
            flash_attention=flash_attention,
            parallel=parallel,
        )
        ways += [] if shorter is None else [_shorter_context(profile, shorter, kv_type, flash_attention, parallel)]
        ways += _smaller_forms(other_forms, need, available_bytes, parallel)
        ways += _smaller_caches(profile, need, available_bytes, parallel)
        ways += _more_memory(need, available_bytes, total_bytes)
    return FitCheck(
        model=model,
        quantization=quantization,
        compatible=found.runs_on_card,
        verdict=found,
        need=need,
        available_bytes=available_bytes,
        margin_bytes=available_bytes - need.total,
        basis=need.basis,
        fits_with_context=shorter,
        ways=tuple(ways),
        message=_message(label(model, quantization), found, need, available_bytes, shorter),
    )


def check_for(
    wish: Criteria, model: str, quantization: str | None, profile: MemoryProfile, forms: Mapping[str, MemoryProfile]
) -> FitCheck:
    """Compare what a model needs with what a wish finds available; forms are all quantizations of it, this one too."""
    return check_fit(
        model,
        quantization,
        profile,
        wish.available_bytes,
        context_tokens=wish.context_tokens,
        ram_free_bytes=wish.ram_free_bytes,
        kv_type=wish.kv_type,
        parallel=wish.parallel,
        other_forms={form: other for form, other in forms.items() if form != quantization},
        total_bytes=wish.machine.total_bytes,
    )


# --- what would make it fit ------------------------------------------------------------------------------------------


def _shorter_context(
    profile: MemoryProfile, context_tokens: int, kv_type: KvType, flash_attention: bool | None, parallel: int
) -> Reason:
    need = memory_need(profile, context_tokens, kv_type=kv_type, flash_attention=flash_attention, parallel=parallel)
    return Reason(
        code="shorter_context",
        text=f"With a context of {context_tokens:,} tokens it needs {format_memory(need.total)}, and fits.",
        values={"context_tokens": context_tokens, "need_bytes": need.total},
    )


def _smaller_forms(
    forms: Mapping[str, MemoryProfile], need: MemoryNeed, available_bytes: int, parallel: int
) -> list[Reason]:
    found = []
    for name, form in forms.items():
        smaller = memory_need(form, need.context_tokens, kv_type=need.kv_type, parallel=parallel)
        if smaller.total < need.total and smaller.total <= available_bytes:
            text = f"Its {form_in_words(name)} form needs {format_memory(smaller.total)}, and fits."
            values = {"quantization": name, "need_bytes": smaller.total}
            found.append(Reason(code="smaller_form", text=text, values=values))
    return found


def _smaller_caches(profile: MemoryProfile, need: MemoryNeed, available_bytes: int, parallel: int) -> list[Reason]:
    if need.kv_type is not KvType.F16 or need.kv_cache is None:
        return []
    smaller = memory_need(profile, need.context_tokens, kv_type=KvType.Q8_0, parallel=parallel)
    if smaller.total > available_bytes:
        return []
    text = (
        f"With an 8-bit cache it needs {format_memory(smaller.total)}, and fits: start Ollama itself with "
        "OLLAMA_FLASH_ATTENTION=1 and OLLAMA_KV_CACHE_TYPE=q8_0."
    )
    values = {"kv_type": KvType.Q8_0.value, "need_bytes": smaller.total}
    return [Reason(code="smaller_cache", text=text, values=values)]


def _more_memory(need: MemoryNeed, available_bytes: int, total_bytes: int | None) -> list[Reason]:
    missing = need.total - available_bytes
    values = {"missing_bytes": missing, "total_bytes": total_bytes}
    if total_bytes is not None and need.total > total_bytes:
        text = f"The card has {format_memory(total_bytes)} in all, too little for it: choose a smaller model."
        return [Reason(code="smaller_model", text=text, values=values)]
    text = f"{format_memory(missing)} more must be free: close other programs that use the card."
    return [Reason(code="free_memory", text=text, values=values)]


# --- words -----------------------------------------------------------------------------------------------------------


def _message(name: str, found: Verdict, need: MemoryNeed, available_bytes: int, shorter: int | None) -> str:
    margin_bytes = available_bytes - need.total
    start = f"{name} needs {format_need(need)}; {format_memory(available_bytes)} are available"
    if found is Verdict.FITS:
        return f"{start}, so it fits, with {format_memory(margin_bytes)} to spare."
    if found is Verdict.TIGHT:
        return f"{start}: tight, with {format_memory(margin_bytes)} to spare. Close other programs that use the card."
    if found is Verdict.SPILLS:
        end = f"The missing {format_memory(-margin_bytes)} would lie in RAM, which is slow."
    else:
        end = f"{format_memory(-margin_bytes)} are missing, more than the free RAM could take over."
    hint = f" It would fit with a context of {shorter:,} tokens." if shorter else ""
    return f"{start}. {end}{hint}"

"""How much memory a model needs on the graphics card, and what a card says to that.

    need = weights on the card + KV cache + compute graph + 457 MiB

for (model, quantization, context, type of cache). Where the numbers of the transformer are not known, the need is a
guess from the size of the file, and a range. What Ollama measured after loading stands above both.

All memory is in bytes; GiB means 2**30 bytes, which is also what card makers mean by GB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import Field

from model_core.errors import InvalidRequest
from model_core.records import GIB, MIB, Architecture, CatalogEntry, Record, Variant

DEFAULT_CONTEXT_TOKENS = 4096
SMALLEST_CONTEXT_TOKENS = 512

# What CUDA and ROCm hold before any model: the least memory that Ollama up to 0.9 reserved on a card (llm/memory.go).
OVERHEAD_BYTES = 457 * MIB
# llama.cpp leaves this much of a card free when it decides by itself what to put there (llama.cpp#16653).
RESERVE_BYTES = 1 * GIB
# Tokens worked on at once while a prompt is read: Ollama's default.
BATCH_TOKENS = 512

# A model whose numbers are not known: file × 6/5 + 1 to 1.5 GiB. Taken from what people report of models that see
# (ollama#8310, ollama#9730, photoprism-docs#211); a model without eyes needs less, so the guess is on the high side.
GUESS_FACTOR = (6, 5)
GUESS_LOW_BYTES, GUESS_HIGH_BYTES = 1 * GIB, 3 * GIB // 2

Basis = Literal["catalogue", "show", "guess", "measured"]


class KvType(StrEnum):
    """How the cache of past tokens is stored. Ollama sets it for the whole server (OLLAMA_KV_CACHE_TYPE)."""

    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


class _Block(NamedTuple):
    """A storage type of GGUF: so many bytes hold so many values."""

    bytes: int
    values: int

    def size_of(self, values: int) -> int:
        return -(-values * self.bytes // self.values)


# ggml's block sizes (ggml-common.h). A file called Q4_K_M or Q4_K_S keeps its token embedding as Q4_K, and so on.
_BLOCKS: Mapping[str, _Block] = {
    "F32": _Block(4, 1),
    "F16": _Block(2, 1),
    "BF16": _Block(2, 1),
    "Q8_0": _Block(34, 32),
    "Q5_1": _Block(24, 32),
    "Q5_0": _Block(22, 32),
    "Q4_1": _Block(20, 32),
    "Q4_0": _Block(18, 32),
    "Q6_K": _Block(210, 256),
    "Q5_K": _Block(176, 256),
    "Q4_K": _Block(144, 256),
    "Q3_K": _Block(110, 256),
    "Q2_K": _Block(84, 256),
}


# --- the need --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProfile:
    """What is known of one model in one quantization that its need follows from.

    file_bytes     size of the weights on disk
    architecture   the numbers of the transformer; None makes every need a guess
    file_type      GGUF's word for the quantization; None counts the token embedding as lying on the card
    context_limit  the most tokens that the model can read; Ollama cuts a longer wish down to it. None: not known
    basis          where the architecture comes from
    measured       context in tokens → bytes on the card, as Ollama counted them after a load that lay wholly there
    """

    file_bytes: int
    architecture: Architecture | None = None
    file_type: str | None = None
    context_limit: int | None = None
    basis: Literal["catalogue", "show"] = "catalogue"
    measured: Mapping[int, int] = field(default_factory=dict)


class MemoryNeed(Record):
    """The memory that a model takes on the card, in bytes, with its parts where they are known apart."""

    weights: int | None = Field(description="what of the file lies on the card; for a guess, the whole file")
    kv_cache: int | None
    graph: int | None
    overhead: int | None
    total: int = Field(description="the figure that decides: for a guess, the upper end of its range")
    low: int
    high: int
    basis: Basis
    context_tokens: int = Field(description="what the model will really be given: never more than it can read")
    kv_type: KvType = KvType.F16
    flash_attention: bool = False
    estimate: int | None = Field(default=None, description="what the formula says, where a measurement stands above it")


def profile_of(entry: CatalogEntry, variant: Variant, measured: Mapping[int, int] | None = None) -> MemoryProfile:
    """Return what a catalogue entry, or a custom one, says of one of its quantizations.

    A model that sees is always guessed: its projector, and the graph for pictures, are in none of our figures.
    """
    return MemoryProfile(
        file_bytes=variant.weights_bytes or variant.size_bytes,
        architecture=None if "vision" in entry.capabilities else entry.architecture,
        file_type=variant.file_type,
        context_limit=entry.context_tokens,
        measured=measured or {},
    )


def memory_need(
    profile: MemoryProfile,
    context_tokens: int = DEFAULT_CONTEXT_TOKENS,
    *,
    kv_type: KvType = KvType.F16,
    flash_attention: bool | None = None,
    parallel: int = 1,
) -> MemoryNeed:
    """Return what the model needs with this context.

    flash_attention  None means: as careful as the cache allows. Whether Ollama uses it depends on its version, its
                     settings, the card and the model, and cannot be asked, so for an f16 cache the larger figure,
                     without it, is taken. A quantised cache exists with flash attention only.
    parallel         requests that share the server at once (OLLAMA_NUM_PARALLEL); each has a context of its own

    Raises InvalidRequest for a context or a number of requests below 1, and for a quantised cache without flash
    attention.
    """
    if context_tokens < 1:
        raise InvalidRequest("context_tokens", "must be at least 1")
    if parallel < 1:
        raise InvalidRequest("parallel", "must be at least 1")
    if flash_attention is None:
        flash_attention = kv_type is not KvType.F16
    elif not flash_attention and kv_type is not KvType.F16:
        raise InvalidRequest("flash_attention", "a quantised cache works with flash attention only")

    context = min(context_tokens, profile.context_limit or context_tokens)
    estimate = _estimate(profile, context, kv_type, flash_attention, parallel)
    on_card = profile.measured.get(context)
    if on_card is None:
        return estimate
    # Ollama counts what it put on the card, not what the card's own software holds besides.
    total = on_card + OVERHEAD_BYTES
    return MemoryNeed(
        weights=None,
        kv_cache=None,
        graph=None,
        overhead=OVERHEAD_BYTES,
        total=total,
        low=total,
        high=total,
        basis="measured",
        context_tokens=context,
        kv_type=kv_type,
        flash_attention=flash_attention,
        estimate=estimate.total,
    )


def _estimate(
    profile: MemoryProfile, context_tokens: int, kv_type: KvType, flash_attention: bool, parallel: int
) -> MemoryNeed:
    architecture = profile.architecture
    if architecture is None:
        times, by = GUESS_FACTOR
        enlarged = -(-profile.file_bytes * times // by)
        return MemoryNeed(
            weights=profile.file_bytes,
            kv_cache=None,
            graph=None,
            overhead=None,
            total=enlarged + GUESS_HIGH_BYTES,
            low=enlarged + GUESS_LOW_BYTES,
            high=enlarged + GUESS_HIGH_BYTES,
            basis="guess",
            context_tokens=context_tokens,
            kv_type=kv_type,
            flash_attention=flash_attention,
        )
    weights = weights_on_card_bytes(profile.file_bytes, architecture, profile.file_type)
    kv_cache = kv_cache_bytes(architecture, context_tokens, kv_type, parallel)
    graph = graph_bytes(architecture, context_tokens, flash_attention=flash_attention, parallel=parallel)
    total = weights + kv_cache + graph + OVERHEAD_BYTES
    return MemoryNeed(
        weights=weights,
        kv_cache=kv_cache,
        graph=graph,
        overhead=OVERHEAD_BYTES,
        total=total,
        low=total,
        high=total,
        basis=profile.basis,
        context_tokens=context_tokens,
        kv_type=kv_type,
        flash_attention=flash_attention,
    )


def weights_on_card_bytes(file_bytes: int, architecture: Architecture, file_type: str | None) -> int:
    """Return what of the file goes to the card: all of it, less the token embedding where that is a tensor of its own.

    llama.cpp keeps the token embedding in RAM. Small models use the same tensor for their output (tied embeddings);
    then it lies on the card. Where the type of storage is not known, nothing is taken off.
    """
    block = _BLOCKS.get(_storage_of_embedding(file_type))
    if architecture.tied_embeddings or block is None:
        return file_bytes
    return max(0, file_bytes - block.size_of(architecture.vocabulary * architecture.embedding_length))


def _storage_of_embedding(file_type: str | None) -> str:
    name = (file_type or "").upper()
    return name[:-2] if name.endswith(("_S", "_M", "_L")) else name


def kv_cache_bytes(
    architecture: Architecture, context_tokens: int, kv_type: KvType = KvType.F16, parallel: int = 1
) -> int:
    """Return what the keys and values of every token in the context take.

    >>> mha = Architecture(parameters=13_020_000_000, layers=40, embedding_length=5120, heads=40, kv_heads=40,
    ...                    key_length=128, value_length=128, feed_forward_length=13824, vocabulary=32_000)
    >>> kv_cache_bytes(mha, 4096) / GIB
    3.125
    """
    values_per_token = (
        architecture.layers * architecture.kv_heads * (architecture.key_length + architecture.value_length)
    )
    return _BLOCKS[kv_type.upper()].size_of(values_per_token * context_tokens * parallel)


def graph_bytes(architecture: Architecture, context_tokens: int, *, flash_attention: bool, parallel: int = 1) -> int:
    """Return the working memory of one batch: the larger of the attention's and the output's.

    Ollama's own estimate up to 0.9 (fs/ggml GraphSize, architecture llama, and its Mixtral case). Flash attention
    never holds the matrix of every token against every other, so only the output counts.
    """
    batch, context = min(context_tokens, BATCH_TOKENS), context_tokens * parallel
    width, heads = architecture.embedding_length, architecture.heads
    output = 4 * batch * (width + architecture.vocabulary)
    if flash_attention:
        return output
    scores = context * (1 + heads)
    if architecture.experts:
        inner = 2 + 3 * width + scores + 2 * architecture.kv_heads + architecture.feed_forward_length
    else:
        inner = 1 + 4 * width + scores
    return max(4 * batch * inner, output)


# --- the verdict -----------------------------------------------------------------------------------------------------


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
) -> FitCheck:
    """Compare what a model needs with what is available. The model and the quantization are for the message only."""
    need = memory_need(profile, context_tokens, kv_type=kv_type, flash_attention=flash_attention, parallel=parallel)
    found = verdict(need.total, available_bytes, ram_free_bytes=ram_free_bytes)
    shorter = None
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
        message=_message(label(model, quantization), found, need, available_bytes, shorter),
    )


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


# --- words -----------------------------------------------------------------------------------------------------------


def format_memory(size_bytes: int) -> str:
    """Return memory as people read it; less than one GiB in MiB, so that a small lack never reads as none.

    >>> [format_memory(size) for size in (8 * GIB, 5_951_000_000, GIB // 2, 1, 0)]
    ['8 GiB', '5.54 GiB', '512 MiB', '1 MiB', '0 MiB']
    """
    if size_bytes < GIB:
        return f"{-(-size_bytes // MIB)} MiB"
    return f"{size_bytes / GIB:.2f}".rstrip("0").rstrip(".") + " GiB"


def format_need(need: MemoryNeed) -> str:
    """Return a need in words: a figure with its context, a range for a guess, a measurement as such."""
    if need.basis == "guess":
        return f"{format_memory(need.low)} to {format_memory(need.high)} (guessed from the size of its file)"
    how = "measured " if need.basis == "measured" else ""
    return f"{format_memory(need.total)} ({how}with a context of {need.context_tokens:,} tokens)"


def label(model: str, quantization: str | None) -> str:
    """Return the name of a model with its quantization, in words where they are ours.

    >>> label("llama3.1:8b-instruct", "q4"), label("mine:latest", None), label("mine:latest", "Q5_K_M")
    ('llama3.1:8b-instruct (4-bit)', 'mine:latest', 'mine:latest (Q5_K_M)')
    """
    words = {"q4": "4-bit", "q8": "8-bit"}
    return f"{model} ({words.get(quantization, quantization)})" if quantization else model

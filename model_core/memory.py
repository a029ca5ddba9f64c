"""How much memory a model needs on the graphics card.

    need = weights on the card + KV cache + compute graph + 457 MiB (+ 1 GiB for a model that sees)

for (model, quantization, context, type of cache). Where the numbers of the transformer are not known, the need is a
guess from the size of the file, and a range. What Ollama measured after loading stands above both. What a card says to
a need stands in fit.py.

All memory is in bytes; GiB means 2**30 bytes, which is also what card makers mean by GB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import Field

from model_core.errors import InvalidRequest
from model_core.records import GIB, MIB, Architecture, CatalogEntry, Record, Tensor, Variant

DEFAULT_CONTEXT_TOKENS = 4096

# What CUDA and ROCm hold before any model: the least memory that Ollama up to 0.9 reserved on a card (llm/memory.go).
OVERHEAD_BYTES = 457 * MIB
# Tokens worked on at once while a prompt is read: Ollama's default.
BATCH_TOKENS = 512

# A model whose numbers are not known: file × 6/5 + 1 to 1.5 GiB. Taken from what people report of models that see
# (ollama#8310, ollama#9730, photoprism-docs#211); a model without eyes needs less, so the guess is on the high side.
GUESS_FACTOR = (6, 5)
GUESS_LOW_BYTES, GUESS_HIGH_BYTES = 1 * GIB, 3 * GIB // 2
# That is for the usual context, once. Each token more may take so many millionths of the file: the most that one of the
# catalogue's models does, llama3.2:3b in 4 bit with 112 KiB of 2.0 GB. Larger ones and those with sliding windows take
# less; old ones that share no heads (13B of 2023: 110) take more.
GUESS_CACHE_MILLIONTHS = 57
# What Ollama keeps free for the part that sees, beside its weights, or puts that part on the processor
# (llm/llama_server.go, v0.33).
VISION_BYTES = 1 * GIB

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
    "MXFP4": _Block(17, 32),
}


def tensor_bytes(tensor: Tensor) -> int | None:
    """Return what a tensor takes; None for a type of storage that is not known here.

    >>> tensor_bytes(Tensor(storage="Q4_K", values=128_256 * 4096)) / MIB
    281.8125
    """
    block = _BLOCKS.get(tensor.storage.upper())
    return block.size_of(tensor.values) if block else None


# --- the need --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProfile:
    """What is known of one model in one quantization that its need follows from.

    file_bytes     size of the weights on disk
    architecture   the numbers of the transformer; None makes every need a guess
    file_type      GGUF's word for the quantization; None counts the token embedding as lying on the card
    context_limit  the most tokens that the model can read; Ollama cuts a longer wish down to it. None: not known
    basis          where the architecture comes from
    sees           part of the file looks at pictures, and needs memory of its own for that
    measured       context in tokens → bytes on the card, as Ollama counted them after a load that lay wholly there
    """

    file_bytes: int
    architecture: Architecture | None = None
    file_type: str | None = None
    context_limit: int | None = None
    basis: Literal["catalogue", "show"] = "catalogue"
    sees: bool = False
    measured: Mapping[int, int] = field(default_factory=dict)


class MemoryNeed(Record):
    """The memory that a model takes on the card, in bytes, with its parts where they are known apart."""

    weights: int | None = Field(description="what of the file lies on the card; for a guess, the whole file")
    kv_cache: int | None
    graph: int | None
    overhead: int | None
    vision: int | None = Field(default=None, description="what looking at pictures takes besides the weights")
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

    A model that sees is guessed: its projector, and the graph for pictures, are in none of the catalogue's figures.
    """
    sees = "vision" in entry.capabilities
    return MemoryProfile(
        file_bytes=variant.weights_bytes or variant.size_bytes,
        architecture=None if sees else entry.architecture,
        file_type=variant.file_type,
        context_limit=entry.context_tokens,
        sees=sees,
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
    # A measurement is of the server as it is set up; another cache, or more requests at once, are a what-if.
    is_as_measured = kv_type is KvType.F16 and parallel == 1
    on_card = profile.measured.get(context) if is_as_measured else None
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
        more_tokens = max(0, context_tokens * parallel - DEFAULT_CONTEXT_TOKENS)
        more_values = more_tokens * profile.file_bytes * GUESS_CACHE_MILLIONTHS // 10**6 // _BLOCKS["F16"].bytes
        high = enlarged + GUESS_HIGH_BYTES + _BLOCKS[kv_type.upper()].size_of(more_values)
        return MemoryNeed(
            weights=profile.file_bytes,
            kv_cache=None,
            graph=None,
            overhead=None,
            total=high,
            low=enlarged + GUESS_LOW_BYTES,
            high=high,
            basis="guess",
            context_tokens=context_tokens,
            kv_type=kv_type,
            flash_attention=flash_attention,
        )
    weights = weights_on_card_bytes(profile.file_bytes, architecture, profile.file_type)
    kv_cache = kv_cache_bytes(architecture, context_tokens, kv_type, parallel)
    graph = graph_bytes(architecture, context_tokens, flash_attention=flash_attention, parallel=parallel)
    vision = VISION_BYTES if profile.sees else None
    total = weights + kv_cache + graph + OVERHEAD_BYTES + (vision or 0)
    return MemoryNeed(
        weights=weights,
        kv_cache=kv_cache,
        graph=graph,
        overhead=OVERHEAD_BYTES,
        vision=vision,
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
    if architecture.tied_embeddings:
        return file_bytes
    embedding = architecture.embedding_bytes
    if embedding is None:
        values = architecture.vocabulary * architecture.embedding_length
        embedding = tensor_bytes(Tensor(storage=_storage_of_embedding(file_type), values=values))
    return max(0, file_bytes - (embedding or 0))


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
    heads = sum(architecture.kv_heads_by_layer) or architecture.layers * architecture.kv_heads
    values_per_token = heads * (architecture.key_length + architecture.value_length)
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
    return f"{model} ({form_in_words(quantization)})" if quantization else model


def bits_of(quantization: str | None) -> int | None:
    """Return the bits that a weight takes, by the quantization's name; None where it does not tell.

    >>> [bits_of(name) for name in ("q4", "Q5_K_M", "F16", "unknown", None)]
    [4, 5, 16, None, None]
    """
    found = re.search(r"\d+", quantization or "")
    return int(found[0]) if found else None


def form_in_words(quantization: str) -> str:
    """Return a quantization as people read it: our own two words in bits, Ollama's as they are."""
    return {"q4": "4-bit", "q8": "8-bit"}.get(quantization, quantization)

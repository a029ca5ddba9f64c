"""What Ollama tells of a model (/api/show) → the numbers that its memory follows from, where no catalogue has them.

The keys carry the name of the architecture in front ("gemma3.block_count"), a number may be missing where it follows
from others, and a list is null unless it was asked for (`wants_lists`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_core.memory import tensor_bytes
from model_core.records import Architecture, Described, ModelDetails

# What is one number in most models, and a list with a number for each layer in some (Gemma 3n, OpenELM, hybrids).
_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")


def wants_lists(details: ModelDetails) -> bool:
    """Say whether a number that is needed is a list of this model's, which comes only when everything is asked for."""
    info, prefix = details.model_info, _prefix(details.model_info)
    return any(f"{prefix}.{key}" in info and info[f"{prefix}.{key}"] is None for key in _PER_LAYER)


def described(details: ModelDetails) -> Described:
    """Return what the need of these weights follows from."""
    prefix = _prefix(details.model_info)
    sees = (
        "vision" in (details.capabilities or ())
        or bool(details.projector_info)
        or any(key.startswith(f"{prefix}.vision.") for key in details.model_info)
    )
    return Described(architecture=architecture_of(details), sees=sees, capabilities=details.capabilities)


def architecture_of(details: ModelDetails) -> Architecture | None:
    """Return the numbers of the transformer; None where the ones that everything follows from are not told.

    Where the heads of the cache are not told, there are as many as of the attention: the cache is never larger.
    """
    info, prefix = details.model_info, _prefix(details.model_info)

    def said(key: str) -> Any:
        return info.get(f"{prefix}.{key}")

    layers, width = _whole(said("block_count")), _whole(said("embedding_length"))
    heads = _largest(said("attention.head_count"))
    if not layers or not width or heads is None:
        return None
    by_layer = _numbers(said("attention.head_count_kv"))
    kv_heads = max(by_layer, default=None) if by_layer else _whole(said("attention.head_count_kv"))
    head_length = width // heads if heads else 0
    feed_forward = _largest(said("feed_forward_length")) or 0
    experts, used = _whole(said("expert_count")) or 0, _whole(said("expert_used_count")) or 0
    expert_width = _whole(said("expert_feed_forward_length")) or feed_forward
    parameters = _whole(info.get("general.parameter_count")) or 0
    return Architecture(
        parameters=parameters,
        layers=layers,
        embedding_length=width,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        key_length=_whole(said("attention.key_length")) or head_length,
        value_length=_whole(said("attention.value_length")) or head_length,
        feed_forward_length=feed_forward or expert_width,
        vocabulary=_vocabulary(info, prefix, details, width),
        tied_embeddings=details.tied_embeddings is not False,
        experts=experts,
        experts_used=used,
        active_parameters=_active(parameters, layers, width, expert_width, experts, used),
        kv_heads_by_layer=by_layer if len(by_layer) == layers else (),
        embedding_bytes=tensor_bytes(details.token_embedding) if details.token_embedding else None,
    )


def _prefix(info: Mapping[str, Any]) -> str:
    return str(info.get("general.architecture") or "llama")


def _whole(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 2**63 else None


def _numbers(value: Any) -> tuple[int, ...]:
    """Return a list of numbers; nothing where it is none."""
    numbers = [_whole(item) for item in value] if isinstance(value, list) else []
    return tuple(number for number in numbers if number is not None) if None not in numbers else ()


def _largest(value: Any) -> int | None:
    return max(_numbers(value), default=None) if isinstance(value, list) else _whole(value)


def _vocabulary(info: Mapping[str, Any], prefix: str, details: ModelDetails, width: int) -> int:
    if told := _whole(info.get(f"{prefix}.vocab_size")):
        return told
    if tokens := info.get("tokenizer.ggml.tokens"):
        return len(tokens)
    return details.token_embedding.values // width if details.token_embedding else 0


def _active(parameters: int, layers: int, width: int, expert_width: int, experts: int, used: int) -> int | None:
    """Return how many parameters a token meets: all but those of the experts that are not asked.

    An expert of a layer has three matrices, of width × its own width each.

    >>> round(_active(46_700_000_000, 32, 4096, 14336, 8, 2) / 1e9, 1)  # Mixtral 8x7B; Mistral AI says the same
    12.9
    """
    if not experts or not used or not parameters:
        return None
    active = parameters - layers * 3 * width * expert_width * (experts - used)
    return active if active > 0 else None

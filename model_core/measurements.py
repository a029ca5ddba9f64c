"""What Ollama counted of loaded models: what of it can be believed and is kept, and how far the estimate was off.

    {digest: {context in tokens: Measured}}

A measurement stands above the estimate for the weights and the context that it was made with, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from model_core.records import MIB, Document, Measured, RunningModel

# Of one model, and in all. The newest stay; more contexts than this are tried by nobody but a test.
CONTEXTS_KEPT, MODELS_KEPT = 8, 200

# What stands in a manifest beside the weights (template, licence, parameters) is smaller than this.
_BESIDE_THE_WEIGHTS = MIB


def with_running(
    document: Document, running: Iterable[RunningModel], at: str, load_seconds: Mapping[str, float] | None = None
) -> Document:
    """Return the document with what Ollama counts now; the same object where it says nothing new.

    load_seconds  by digest, of loads that were just waited for
    """
    measured = dict(document.measured)
    for model in running:
        if found := _counted(model, at, (load_seconds or {}).get(model.digest)):
            context, before = model.context_tokens or 0, measured.get(model.digest, {})
            kept = _kept(before.get(context), found)
            if not _is_the_same(before.get(context), kept):
                measured[model.digest] = _newest({**before, context: kept}, CONTEXTS_KEPT)
    if measured == document.measured:
        return document
    newest = sorted(measured, key=lambda digest: max(found.at for found in measured[digest].values()))
    kept_digests = set(newest[-MODELS_KEPT:])
    return document.model_copy(update={"measured": {d: of for d, of in measured.items() if d in kept_digests}})


def _counted(model: RunningModel, at: str, load_seconds: float | None) -> Measured | None:
    if not model.size_bytes or model.size_vram_bytes is None or not model.context_tokens:
        return None
    return Measured(
        size_bytes=model.size_bytes, size_vram_bytes=model.size_vram_bytes, at=at, load_seconds=load_seconds
    )


def _is_the_same(before: Measured | None, kept: Measured) -> bool:
    """When it was counted again is no news."""
    return before is not None and before.model_copy(update={"at": kept.at}) == kept


def _kept(before: Measured | None, found: Measured) -> Measured:
    """Return what to keep of two counts: the later one, unless only the earlier one lay on the card as a whole."""
    if before is None:
        return found
    load_seconds = before.load_seconds if found.load_seconds is None else found.load_seconds
    kept = before if is_whole(before) and not is_whole(found) else found
    return kept.model_copy(update={"load_seconds": load_seconds})


def is_whole(found: Measured) -> bool:
    """Did all of it lie on the card?"""
    return found.size_vram_bytes >= found.size_bytes


def _newest(by_context: Mapping[int, Measured], count: int) -> dict[int, Measured]:
    newest = sorted(by_context, key=lambda context: by_context[context].at)[-count:]
    return {context: found for context, found in by_context.items() if context in newest}


def bytes_on_card(by_context: Mapping[int, Measured], file_sizes: Iterable[int], *, sees: bool) -> dict[int, int]:
    """Return what can be believed to be the whole need of these weights, in bytes by context.

    file_sizes  what the files weigh, as far as known: Ollama says the file's size where it could not count
    sees        then nothing: the part that sees is loaded by another reader, whose weights Ollama does not count
                (llama.cpp's clip_model_loader says "model size", Ollama looks for "model buffer size")

    Only what lay on the card as a whole counts: of the rest, Ollama's count has overlaps.
    """
    if sees:
        return {}
    sizes = list(file_sizes)
    return {
        context: found.size_vram_bytes
        for context, found in by_context.items()
        if is_whole(found) and not any(_is_file_size(found.size_bytes, size) for size in sizes)
    }


def _is_file_size(counted_bytes: int, file_bytes: int) -> bool:
    return 0 <= file_bytes - counted_bytes <= _BESIDE_THE_WEIGHTS


def of_digest(measured: Mapping[str, Mapping[int, Measured]], digest: str | None) -> Mapping[int, Measured]:
    """Return what was measured of weights whose digest may be known by its first digits only."""
    if not digest:
        return {}
    return measured.get(digest) or next((of for known, of in measured.items() if known.startswith(digest)), {})


def runner_of(running: Iterable[RunningModel], digest: str) -> RunningModel | None:
    """Return what runs on weights of this digest, whatever name it was loaded under: aliases share one runner."""
    return next((model for model in running if model.digest == digest), None)


def error_percent(estimate_bytes: int, measured_bytes: int) -> float:
    """Return how far an estimate is off, in percent of what was measured; above zero it was too high.

    >>> error_percent(5_500, 5_000)
    10.0
    """
    return round((estimate_bytes / measured_bytes - 1) * 100, 1)

"""(progress, line of Ollama's pull) → progress: one number for the whole model, which never falls.

Ollama speaks of one layer at a time, leaves small layers out, seldom reaches a layer's total, and counts back when a
connection breaks. Here the layers are added up; what falls back is kept apart as "fetching again"; and 100 % is for the
one who sees the model in Ollama's list: no line of a pull makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from model_core.records import LayerProgress

# Until the model is there, the bar stays below its end.
CEILING_PERCENT = 99.9

WINDOW_S = 10.0  # the rate is over the last ten seconds: long enough to be calm, short enough to be true
SAMPLE_EVERY_S = 0.5
CALM_AFTER_S = 1.0  # what has been watched for less has no rate yet

WAITING, ASKING, DOWNLOADING, CHECKING, WRITING, NAMING, DONE = (
    "waiting",
    "asking the registry",
    "downloading",
    "checking",
    "writing",
    "naming",
    "done",
)
_PHASES = {
    "pulling manifest": ASKING,
    "verifying sha256 digest": CHECKING,
    "writing manifest": WRITING,
    "removing unused layers": WRITING,
}


@dataclass(frozen=True)
class Progress:
    """How far a pull is.

    expected_bytes   what the whole model weighs, as known before the first line; None: unknown
    is_estimate      expected_bytes is the catalogue's figure, not a manifest's
    layers           what this attempt has heard of, in Ollama's order
    earlier          what attempts before it had of layers that it has not heard of yet
    reached_bytes    the most that was ever there
    fetched_bytes    what came in during this attempt; what lay there already does not count
    percent          None while the total is unknown; never falls
    samples          (moment in seconds, fetched_bytes), newest last; what the rate is made of
    """

    expected_bytes: int | None = None
    is_estimate: bool = False
    phase: str = WAITING
    phase_since_s: float = 0.0
    layers: tuple[LayerProgress, ...] = ()
    earlier: tuple[LayerProgress, ...] = ()
    reached_bytes: int = 0
    fetched_bytes: int = 0
    percent: float | None = None
    changed_at_s: float = 0.0
    samples: tuple[tuple[float, int], ...] = ()

    @property
    def total_bytes(self) -> int | None:
        """The total to show: what was expected, or more where there turned out to be more."""
        if self.expected_bytes is None:
            return None
        return max(self.expected_bytes, _total(self.layers), self.reached_bytes)

    @property
    def present_bytes(self) -> int:
        """What is there now, as far as Ollama has told."""
        return _sum(self.layers) + _sum(self.earlier)

    @property
    def fetching_again_bytes(self) -> int:
        """What had been there and is being fetched once more."""
        return max(0, self.reached_bytes - self.present_bytes) if self.phase == DOWNLOADING else 0


def begin(progress: Progress, now_s: float) -> Progress:
    """Return the progress at the start of an attempt: the layers are heard of anew, what was reached stays shown."""
    heard = {layer.digest: layer for layer in (*progress.earlier, *progress.layers)}
    return replace(
        _enter(progress, ASKING, now_s),
        layers=(),
        earlier=tuple(heard.values()),
        fetched_bytes=0,
        changed_at_s=now_s,
        samples=(),
    )


def advance(progress: Progress, event: dict[str, Any], now_s: float) -> Progress:
    """Return the progress after one line of Ollama's. A line that says nothing we know changes nothing."""
    status = event.get("status")
    if not isinstance(status, str):
        return progress
    if phase := _PHASES.get(status):
        return _filled(_enter(progress, phase, now_s))
    digest = event.get("digest")
    if status.startswith("pulling ") and isinstance(digest, str):
        return _with_layer(progress, digest, _size(event.get("total")), _size(event.get("completed")) or 0, now_s)
    return progress


def enter(progress: Progress, phase: str, now_s: float) -> Progress:
    """Return the progress in a phase that no line of Ollama's announces (waiting, naming)."""
    return _enter(progress, phase, now_s)


def finish(progress: Progress, now_s: float, size_bytes: int | None = None) -> Progress:
    """Return the progress of a model that was seen in Ollama's list: all of it, 100 %.

    size_bytes  what the list says that it weighs; small layers are left out of what Ollama says while it pulls
    """
    seen = _total(progress.layers)
    if size_bytes is None and not progress.is_estimate:
        size_bytes = progress.expected_bytes
    total = max(size_bytes or 0, seen) or progress.expected_bytes
    return replace(
        _enter(progress, DONE, now_s),
        expected_bytes=total,
        is_estimate=progress.is_estimate and not (size_bytes or seen),
        reached_bytes=progress.reached_bytes if total is None else total,
        percent=100.0,
        earlier=(),
        samples=(),
    )


def bytes_per_second(progress: Progress) -> float | None:
    """Return the rate over the window; None while there is too little to measure."""
    if progress.phase != DOWNLOADING or not progress.samples:
        return None
    (first_s, first_bytes), (last_s, last_bytes) = progress.samples[0], progress.samples[-1]
    return (last_bytes - first_bytes) / (last_s - first_s) if last_s - first_s >= CALM_AFTER_S else None


def eta_seconds(progress: Progress) -> float | None:
    """Return the time left at the present rate, with what is fetched again; None where the total or the rate is
    unknown or nothing moves.
    """
    rate, total = bytes_per_second(progress), progress.total_bytes
    if not rate or total is None:
        return None
    return max(0, total - progress.present_bytes) / rate


def is_stalled(progress: Progress, now_s: float, after_s: float = 30.0) -> bool:
    """Say whether no byte has come for so long: Ollama repeats its last line for ever when a connection is dead.

    The default is Ollama's own patience with a silent part of a layer (server/download.go, 30 s).
    """
    return progress.phase == DOWNLOADING and now_s - progress.changed_at_s >= after_s


def _enter(progress: Progress, phase: str, now_s: float) -> Progress:
    return progress if progress.phase == phase else replace(progress, phase=phase, phase_since_s=now_s)


def _with_layer(progress: Progress, digest: str, total: int | None, completed: int, now_s: float) -> Progress:
    known = {layer.digest: layer for layer in progress.layers}
    before = known.get(digest)
    if total is None and before is not None:
        total = before.total_bytes
    if total is not None:
        completed = min(completed, total)
    moved = before is None or before.downloaded_bytes != completed
    known[digest] = LayerProgress(digest=digest, total_bytes=total, downloaded_bytes=completed)
    # Ollama fetches one layer after the other: what came before this one is whole, though its last line said less.
    layers = tuple(_whole(layer) if layer.digest != digest else layer for layer in known.values())
    earlier = _without(progress, digest)
    fetched = max(0, completed - before.downloaded_bytes) if before else 0
    progress = replace(
        _enter(progress, DOWNLOADING, now_s),
        layers=layers,
        earlier=earlier,
        reached_bytes=max(progress.reached_bytes, _sum(layers) + _sum(earlier)),
        fetched_bytes=progress.fetched_bytes + fetched,
        changed_at_s=now_s if moved else progress.changed_at_s,
    )
    return _sampled(_with_percent(progress), now_s)


def _without(progress: Progress, digest: str) -> tuple[LayerProgress, ...]:
    """Return what is left of earlier attempts once this layer is heard of."""
    left = tuple(layer for layer in progress.earlier if layer.digest != digest)
    # An attempt that begins with a layer nobody knows fetches another manifest: the tag has moved.
    is_another = not progress.layers and len(left) == len(progress.earlier)
    return () if is_another else left


def _whole(layer: LayerProgress) -> LayerProgress:
    if layer.total_bytes is None or layer.downloaded_bytes == layer.total_bytes:
        return layer
    return layer.model_copy(update={"downloaded_bytes": layer.total_bytes})


def _filled(progress: Progress) -> Progress:
    """From the checking on, every byte is there."""
    if progress.phase not in (CHECKING, WRITING):
        return progress
    layers = tuple(_whole(layer) for layer in progress.layers)
    reached = max(progress.reached_bytes, _sum(layers))
    if progress.expected_bytes is not None and not progress.is_estimate:
        reached = max(reached, progress.expected_bytes)
    return _with_percent(replace(progress, layers=layers, earlier=(), reached_bytes=reached))


def _with_percent(progress: Progress) -> Progress:
    total = progress.total_bytes
    if not total:
        return progress
    percent = min(CEILING_PERCENT, 100 * progress.reached_bytes / total)
    return replace(progress, percent=max(percent, progress.percent or 0.0))


def _sampled(progress: Progress, now_s: float) -> Progress:
    samples = progress.samples
    if samples and now_s - samples[-1][0] < SAMPLE_EVERY_S:
        return progress
    kept = tuple(sample for sample in samples if now_s - sample[0] <= WINDOW_S)
    return replace(progress, samples=(*kept, (now_s, progress.fetched_bytes)))


def _sum(layers: tuple[LayerProgress, ...]) -> int:
    return sum(layer.downloaded_bytes for layer in layers)


def _total(layers: tuple[LayerProgress, ...]) -> int:
    return sum(layer.total_bytes or 0 for layer in layers)


def _size(value: Any) -> int | None:
    # Go's int64; a number beyond would not become a float.
    is_size = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if is_size else None

"""What the recommender weighs, and what it is asked: one model in one form, and a wish."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from model_core.memory import DEFAULT_CONTEXT_TOKENS, KvType, MemoryProfile, bits_of, profile_of
from model_core.records import CatalogEntry, ModelPurpose, Record, Variant
from model_core.speed import Card, Speed

SEEING, ANSWERING = "vision", "completion"

Source = Literal["caller", "setting", "probe", "processor", "assumed"]

_UNKNOWN_BITS = 99

# Every model starts as if it had been used 5 times and had worked in 9 of 10 cases, so that one failure in one try
# does not condemn it. Below 0.6 it is unreliable: that takes three failures at the start, or more than four in ten
# of many.
PRIOR_USES, PRIOR_RATE = 5, 0.9
UNRELIABLE_BELOW = 0.6

# Scores of answers, from 0 to 5, count from the third on, as if five of 3.5 had come before: that is where AutoDev
# itself draws the line between keeping and rejecting (selection_threshold). They are compared in half points, which is
# what people mean when they score.
SCORES_COUNT_FROM, PRIOR_SCORES, PRIOR_SCORE = 3, 5, 3.5


def smallest_known(*limits: int | None) -> int | None:
    """Return the smallest of several limits; None where none of them is known.

    >>> smallest_known(8, None, 6), smallest_known(None)
    (6, None)
    """
    return min((limit for limit in limits if limit is not None), default=None)


class Machine(Record):
    """What the memory that is available was made of; None where it is not known.

    usable_bytes  what programs may hold of the card; None: all of it
    held_bytes    of loaded models: Ollama lets go of them when another one needs the room, so it counts as free
    cap_bytes     what the setting allows at most
    """

    gpu: str | None = None
    gpu_count: int | None = None
    total_bytes: int | None = None
    usable_bytes: int | None = None
    free_bytes: int | None = None
    held_bytes: int = 0
    cap_bytes: int | None = None
    ram_total_bytes: int | None = None
    ram_free_bytes: int | None = None
    gpus_source: str | None = Field(default=None, description="who says so, or why nobody does")
    unified: bool = Field(default=False, description="the card has no memory of its own but shares the RAM")
    is_here: bool = Field(default=True, description="false: the caller asks about another card than the one here")
    card: Card | None = Field(default=None, description="what the speed follows from; null: not known")


class Criteria(Record):
    """What the answer was asked for, and where its figure comes from."""

    available_bytes: int = Field(ge=0, description="free on the card; 0 means none")
    priority: Literal[ModelPurpose.SPEED, ModelPurpose.BALANCED, ModelPurpose.QUALITY] = ModelPurpose.BALANCED
    context_tokens: int = Field(default=DEFAULT_CONTEXT_TOKENS, ge=1)
    needs: tuple[str, ...] = Field(default=(), description="capabilities that the model must have, such as vision")
    installed_only: bool | None = Field(default=None, description="true: nothing that must be downloaded first")
    source: Source = Field(
        default="caller", description="who says what is available; processor: there is no card, this is RAM"
    )
    kv_type: KvType = KvType.F16
    parallel: int = Field(default=1, ge=1, description="requests that Ollama serves at once")
    machine: Machine = Machine()

    @property
    def on_processor(self) -> bool:
        """Whether there is no card."""
        return self.source == "processor"

    @property
    def total_bytes(self) -> int | None:
        """What there could be available at most, everything else closed; None where that is not known."""
        if self.on_processor:
            return None if self.machine.ram_total_bytes is None else self.machine.ram_total_bytes // 2
        if self.source in ("caller", "assumed"):
            return None
        return smallest_known(self.machine.total_bytes, self.machine.usable_bytes)

    @property
    def cap_bytes(self) -> int | None:
        """What the setting allows at most; None where it is not set, or the caller's own figure counts."""
        return None if self.source == "caller" else self.machine.cap_bytes

    @property
    def is_all_there_is(self) -> bool:
        """Whether nothing would become free by closing other programs."""
        limit = smallest_known(self.total_bytes, self.cap_bytes)
        return limit is not None and self.available_bytes >= limit

    @property
    def ram_free_bytes(self) -> int | None:
        """RAM that could take what does not fit; none is left where the model lies in RAM anyway."""
        return 0 if self.on_processor or self.machine.unified else self.machine.ram_free_bytes


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the ranking needs to know of one model in one quantization.

    quantization   q4, q8, or Ollama's word for it; None: not known
    parameters     None: not known, which ranks as the smallest
    download_bytes what must be downloaded first; None: not known. Not read for what is installed
    approximate    download_bytes is rounded
    success_count, failure_count  what is on record of these very weights
    mean_seconds   over the successes that carried a time; None: no such success
    score, score_count  mean of the scores of its answers, 0 to 5, and how many there are
    seen_speed     of its uses here, benchmark_speed of its answers in a benchmark here; None: nothing was measured
    elsewhere      some of what is on record of it was recorded on another machine
    gpu_share      of the loaded model; None: it is not loaded, or not known
    context_tokens what it was loaded with here, and will be again; None: it never was
    """

    name: str
    memory: MemoryProfile
    purpose: ModelPurpose
    quantization: str | None = None
    parameters: int | None = None
    capabilities: tuple[str, ...] = (ANSWERING,)
    installed: bool = False
    published: bool = True
    download_bytes: int | None = None
    approximate: bool = False
    success_count: int = 0
    failure_count: int = 0
    mean_seconds: float | None = None
    score: float | None = None
    score_count: int = 0
    seen_speed: Speed | None = None
    benchmark_speed: Speed | None = None
    elsewhere: bool = False
    gpu_share: float | None = None
    context_tokens: int | None = None

    @property
    def where(self) -> str:
        """Where it was used, as part of a sentence."""
        return "here and elsewhere" if self.elsewhere else "here"

    @cached_property
    def bits(self) -> int:
        """The bits a weight takes, read from the quantization's name; a high number where it does not tell."""
        bits = bits_of(self.quantization)
        return _UNKNOWN_BITS if bits is None else bits

    @property
    def use_count(self) -> int:
        """Successes and failures together."""
        return self.success_count + self.failure_count

    @cached_property
    def rate(self) -> float:
        """The rate of success with the prior: 0.9 for what was never used."""
        return (self.success_count + PRIOR_USES * PRIOR_RATE) / (self.use_count + PRIOR_USES)

    @cached_property
    def reliable(self) -> bool:
        """Whether it works often enough to be tried again."""
        return self.rate >= UNRELIABLE_BELOW

    @property
    def score_in_halves(self) -> int:
        """The score of its answers with the prior, in half points; 7 for what was not scored often enough.

        >>> from model_core.memory import MemoryProfile
        >>> new = Candidate(name="m", memory=MemoryProfile(file_bytes=1), purpose=ModelPurpose.SPEED)
        >>> from dataclasses import replace
        >>> [replace(new, score=s, score_count=n).score_in_halves for s, n in ((5, 2), (5, 3), (1, 3), (4.5, 40))]
        [7, 8, 5, 9]
        """
        if self.score is None or self.score_count < SCORES_COUNT_FROM:
            return round(PRIOR_SCORE * 2)
        total = self.score * self.score_count + PRIOR_SCORE * PRIOR_SCORES
        return round(total / (self.score_count + PRIOR_SCORES) * 2)

    @property
    def sees(self) -> bool:
        """Whether it looks at pictures."""
        return SEEING in self.capabilities


def candidate_of(
    entry: CatalogEntry, variant: Variant, *, memory: MemoryProfile | None = None, **known: Any
) -> Candidate:
    """Return one quantization of a catalogue entry, or of a custom one, as a candidate.

    memory  what its need follows from; None: what the catalogue says
    known   the fields of a candidate that are not the catalogue's
    """
    facts: dict[str, Any] = {
        "name": entry.name,
        "memory": memory or profile_of(entry, variant),
        "purpose": entry.purpose,
        "quantization": variant.quantization,
        "parameters": entry.parameters or (entry.architecture.parameters if entry.architecture else None),
        "capabilities": entry.capabilities,
        "published": entry.published,
        "download_bytes": variant.size_bytes,
        "approximate": variant.approximate,
    }
    return Candidate(**(facts | known))

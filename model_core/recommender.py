"""Which model to take: from candidates and a wish to a ranked list, each place with its reasons.

The order, each step only among equals of the one before:

    1 reliable         a model that mostly failed here is no help, however well it would suit
    2 purpose          what was asked for; else the nearest (NEAREST_PURPOSES)
    3 verdict          comfortable before tight: a tight model spills as soon as another program wants the card
    4 installed        nothing to wait for; so only a better purpose or verdict is worth a download
    5 size             among equals the larger model answers better
    6 quantization     4-bit: smaller and faster; for quality 8-bit, where it fits comfortably
    7 history          the higher rate of success, then the shorter time
    8 name             so that the answer never depends on the order in which the candidates came

What does not lie on the card as a whole is never recommended: see model_core/memory.py for the verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from model_core.errors import NoSuitableModel
from model_core.fit import Verdict, largest_context, verdict
from model_core.memory import (
    DEFAULT_CONTEXT_TOKENS,
    KvType,
    MemoryNeed,
    MemoryProfile,
    format_memory,
    label,
    memory_need,
    profile_of,
)
from model_core.records import CatalogEntry, ModelPurpose, Reason, Record, Variant

NEAREST_PURPOSES: Mapping[ModelPurpose, tuple[ModelPurpose, ...]] = {
    # Whoever wants quality rather waits a little than takes the quickest; whoever wants the middle can bear less
    # quality better than a long wait; whoever wants speed gives up as little of it as possible.
    ModelPurpose.QUALITY: (ModelPurpose.QUALITY, ModelPurpose.BALANCED, ModelPurpose.SPEED),
    ModelPurpose.BALANCED: (ModelPurpose.BALANCED, ModelPurpose.SPEED, ModelPurpose.QUALITY),
    ModelPurpose.SPEED: (ModelPurpose.SPEED, ModelPurpose.BALANCED, ModelPurpose.QUALITY),
}

# Every model starts as if it had been used 5 times and had worked in 9 of 10 cases, so that one failure in one try
# does not condemn it. Below 0.6 it is unreliable: that takes three failures at the start, or more than four in ten
# of many.
PRIOR_USES, PRIOR_RATE = 5, 0.9
UNRELIABLE_BELOW = 0.6

SEEING = "vision"
ANSWERING = "completion"

# How many places of the list are explained; a person reads the first few.
DEFAULT_LIMIT = 20
# How many models an empty answer names that would fit with less context.
WOULD_FIT_LIMIT = 5

_UNKNOWN_BITS = 99
_NEVER_TIMED = float("inf")


# --- what is asked ---------------------------------------------------------------------------------------------------


class Criteria(Record):
    """What the answer was asked for, and where its figure comes from."""

    available_bytes: int = Field(ge=0, description="free on the card; 0 means none")
    priority: Literal[ModelPurpose.SPEED, ModelPurpose.BALANCED, ModelPurpose.QUALITY] = ModelPurpose.BALANCED
    context_tokens: int = Field(default=DEFAULT_CONTEXT_TOKENS, ge=1)
    needs: tuple[str, ...] = Field(default=(), description="capabilities that the model must have, such as vision")
    installed_only: bool | None = Field(default=None, description="true: nothing that must be downloaded first")
    source: Literal["caller", "setting", "probe", "processor", "assumed"] = Field(
        default="caller", description="who says what is available; processor: there is no card, this is free RAM"
    )
    kv_type: KvType = KvType.F16


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the ranking needs to know of one model in one quantization.

    quantization   q4, q8, or Ollama's word for it; None: not known
    parameters     None: not known, which ranks as the smallest
    download_bytes what must be downloaded first; None: not known. Not read for what is installed
    approximate    download_bytes is rounded
    success_count, failure_count  what is on record of these very weights
    mean_seconds   over the successes that carried a time; None: no such success
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

    @cached_property
    def bits(self) -> int:
        """The bits a weight takes, read from the quantization's name; a high number where it does not tell."""
        found = re.search(r"\d+", self.quantization or "")
        return int(found[0]) if found else _UNKNOWN_BITS

    @property
    def use_count(self) -> int:
        """Successes and failures together."""
        return self.success_count + self.failure_count

    @property
    def rate(self) -> float:
        """The rate of success with the prior: 0.9 for what was never used."""
        return (self.success_count + PRIOR_USES * PRIOR_RATE) / (self.use_count + PRIOR_USES)

    @property
    def reliable(self) -> bool:
        """Whether it works often enough to be tried again."""
        return self.rate >= UNRELIABLE_BELOW


def candidate_of(
    entry: CatalogEntry,
    variant: Variant,
    *,
    installed: bool = False,
    success_count: int = 0,
    failure_count: int = 0,
    mean_seconds: float | None = None,
    memory: MemoryProfile | None = None,
) -> Candidate:
    """Return one quantization of a catalogue entry, or of a custom one, as a candidate."""
    return Candidate(
        name=entry.name,
        memory=memory or profile_of(entry, variant),
        purpose=entry.purpose,
        quantization=variant.quantization,
        parameters=entry.parameters or (entry.architecture.parameters if entry.architecture else None),
        capabilities=entry.capabilities,
        installed=installed,
        published=entry.published,
        download_bytes=variant.size_bytes,
        approximate=variant.approximate,
        success_count=success_count,
        failure_count=failure_count,
        mean_seconds=mean_seconds,
    )


# --- what is answered ------------------------------------------------------------------------------------------------


class Recommended(Record):
    """One place of the list."""

    model: str
    quantization: str | None
    purpose: ModelPurpose
    verdict: Verdict
    need: MemoryNeed
    margin_bytes: int
    installed: bool
    download_bytes: int | None = Field(description="null for what is installed, and where it is not known")
    reasons: tuple[Reason, ...]


class Recommendation(Record):
    """The ranked list; never empty."""

    ranked: tuple[Recommended, ...]
    criteria: Criteria
    suitable_count: int = Field(description="how many would do, also those that the list leaves out")

    @property
    def best(self) -> Recommended:
        """The model to take."""
        return self.ranked[0]

    @property
    def alternatives(self) -> tuple[Recommended, ...]:
        """The others, in their order."""
        return self.ranked[1:]


# --- the ranking -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Weighed:
    """A candidate with what the card says to it. Each is itself only: two like ones are two places of the list."""

    candidate: Candidate
    need: MemoryNeed
    verdict: Verdict
    purpose_distance: int


def recommend(
    candidates: Iterable[Candidate], criteria: Criteria, *, limit: int | None = DEFAULT_LIMIT
) -> Recommendation:
    """Return the models that suit, the best first, each with its reasons.

    limit  how many places the list has at most; None for all

    Raises NoSuitableModel, with the smallest need and with what would fit if the context were shorter, where nothing
    lies on the card as a whole.
    """
    eligible = [_weigh(candidate, criteria) for candidate in candidates if _is_eligible(candidate, criteria)]
    suitable = [weighed for weighed in eligible if weighed.verdict.runs_on_card]
    if not suitable:
        raise _nothing_suits(eligible, criteria)
    suitable.sort(key=lambda weighed: _rank(weighed, criteria))
    larger = _larger_download(suitable)
    if larger is not None:
        suitable.remove(larger)
        suitable.insert(1, larger)
    explain = _Explanation(suitable, criteria, larger)
    return Recommendation(
        ranked=tuple(_recommended(weighed, explain) for weighed in suitable[:limit]),
        criteria=criteria,
        suitable_count=len(suitable),
    )


def _is_eligible(candidate: Candidate, criteria: Criteria) -> bool:
    """Whether the wish allows it at all, whatever the card says."""
    sees = SEEING in candidate.capabilities
    return (
        ANSWERING in candidate.capabilities
        # What nobody published can be had only where the user made it.
        and (candidate.published or candidate.installed)
        and (candidate.installed or criteria.installed_only is not True)
        and all(need in candidate.capabilities for need in criteria.needs)
        # Models that see are for those who ask for it: they are slower at text than their equals without eyes.
        and sees == (SEEING in criteria.needs)
        and (sees or candidate.purpose is not ModelPurpose.SPECIALIZED)
    )


def _weigh(candidate: Candidate, criteria: Criteria) -> _Weighed:
    need = memory_need(candidate.memory, criteria.context_tokens, kv_type=criteria.kv_type)
    return _Weighed(
        candidate,
        need,
        verdict(need.total, criteria.available_bytes),
        _purpose_distance(candidate.purpose, criteria.priority),
    )


def _purpose_distance(purpose: ModelPurpose, priority: ModelPurpose) -> int:
    # Specialized models come this far only when their speciality was asked for: then it is the purpose.
    return 0 if purpose is ModelPurpose.SPECIALIZED else NEAREST_PURPOSES[priority].index(purpose)


def _rank(weighed: _Weighed, criteria: Criteria) -> tuple[Any, ...]:
    """The order of the module's head, one line a step; the smallest comes first."""
    candidate = weighed.candidate
    return (
        not candidate.reliable,
        weighed.purpose_distance,
        weighed.verdict.rank,
        not candidate.installed,
        -(candidate.parameters or 0),
        (not _is_finer_choice(weighed, criteria), candidate.bits),
        (-candidate.rate, _NEVER_TIMED if candidate.mean_seconds is None else candidate.mean_seconds),
        (candidate.name, candidate.quantization or ""),
    )


def _is_finer_choice(weighed: _Weighed, criteria: Criteria) -> bool:
    return criteria.priority is ModelPurpose.QUALITY and weighed.candidate.bits == 8 and weighed.verdict is Verdict.FITS


def _larger_download(ranked: Sequence[_Weighed]) -> _Weighed | None:
    """Return what comes second though the order puts it further down.

    Where the first is taken because it is installed, a larger model of the same purpose may be worth the wait: people
    must see it at once, with its size.
    """
    first = ranked[0]
    if not first.candidate.installed:
        return None
    return next(
        (
            other
            for other in ranked[1:]
            if not other.candidate.installed
            and other.candidate.reliable
            and other.purpose_distance == first.purpose_distance
            and (other.candidate.parameters or 0) > (first.candidate.parameters or 0)
        ),
        None,
    )


def _recommended(weighed: _Weighed, explain: _Explanation) -> Recommended:
    candidate = weighed.candidate
    return Recommended(
        model=candidate.name,
        quantization=candidate.quantization,
        purpose=candidate.purpose,
        verdict=weighed.verdict,
        need=weighed.need,
        margin_bytes=explain.criteria.available_bytes - weighed.need.total,
        installed=candidate.installed,
        download_bytes=None if candidate.installed else candidate.download_bytes,
        reasons=explain.reasons(weighed),
    )


# --- the reasons -----------------------------------------------------------------------------------------------------


class _Explanation:
    """Reasons in words that a photographer understands. Every figure in a text stands in the reason's values, too."""

    def __init__(self, ranked: Sequence[_Weighed], criteria: Criteria, larger: _Weighed | None) -> None:
        self.criteria = criteria
        self._first, self._larger = ranked[0], larger
        self._purpose_was_met = any(weighed.purpose_distance == 0 for weighed in ranked)
        self._passed_over = min(ranked, key=lambda weighed: _rank(weighed, criteria)[1:])

    def reasons(self, weighed: _Weighed) -> tuple[Reason, ...]:
        """Return why this model stands where it stands, the weightiest first."""
        found = [
            self._passed_over_reason(weighed),
            self._reliability(weighed.candidate),
            self._purpose(weighed),
            self._memory(weighed),
            self._source(weighed),
            self._context(weighed.need),
            self._availability(weighed),
            self._quantization(weighed),
            self._experience(weighed.candidate),
        ]
        return tuple(reason for reason in found if reason is not None)

    def _passed_over_reason(self, weighed: _Weighed) -> Reason | None:
        other = self._passed_over.candidate
        if weighed is not self._first or other.reliable or self._passed_over is weighed:
            return None
        return Reason(
            code="passed_over",
            text=f"{label(other.name, other.quantization)} would suit better, but failed here "
            f"{other.failure_count} of {other.use_count} times.",
            values={
                "model": other.name,
                "quantization": other.quantization,
                "failure_count": other.failure_count,
                "use_count": other.use_count,
            },
        )

    def _reliability(self, candidate: Candidate) -> Reason | None:
        if candidate.reliable:
            return None
        return Reason(
            code="unreliable",
            text=f"Failed here {candidate.failure_count} of {candidate.use_count} times, so it stands behind others.",
            values={"failure_count": candidate.failure_count, "use_count": candidate.use_count},
        )

    def _purpose(self, weighed: _Weighed) -> Reason:
        purpose, wished = weighed.candidate.purpose, self.criteria.priority
        values = {"purpose": purpose.value, "priority": wished.value}
        if purpose is ModelPurpose.SPECIALIZED:
            needs = ", ".join(self.criteria.needs)
            return Reason(
                code="capability",
                text=f"It can do what was asked for: {needs}.",
                values={"needs": [*self.criteria.needs]},
            )
        if weighed.purpose_distance == 0:
            return Reason(code="purpose", text=f"Made for {_work(purpose)}.", values=values)
        if self._purpose_was_met:
            return Reason(
                code="other_purpose", text=f"Made for {_work(purpose)}, not for {_work(wished)}.", values=values
            )
        lack = "is installed and fits" if self.criteria.installed_only else "fits"
        return Reason(
            code="nearest_purpose",
            text=f"Nothing made for {_work(wished)} {lack}; this one is made for {_work(purpose)}, which is nearest.",
            values=values,
        )

    def _memory(self, weighed: _Weighed) -> Reason:
        need, available = weighed.need, self.criteria.available_bytes
        left = available - need.total
        amount = format_memory(need.total)
        if need.basis == "guess":
            amount = f"{format_memory(need.low)} to {format_memory(need.high)} (guessed from the size of its file)"
        start = f"Needs {amount} of the {format_memory(available)} of {self._place()} that are available"
        values: dict[str, Any] = {
            "need_bytes": need.total,
            "need_low_bytes": need.low,
            "need_high_bytes": need.high,
            "available_bytes": available,
            "margin_bytes": left,
            "basis": need.basis,
        }
        if weighed.verdict is Verdict.FITS:
            return Reason(code="fits", text=f"{start}; {format_memory(left)} stay free.", values=values)
        return Reason(
            code="tight",
            text=f"{start}: tight, only {format_memory(left)} stay free. Close other programs that use the memory.",
            values=values,
        )

    def _place(self) -> str:
        return "memory" if self.criteria.source == "processor" else "graphics memory"

    def _source(self, weighed: _Weighed) -> Reason | None:
        available = self.criteria.available_bytes
        if weighed is not self._first:
            return None
        if self.criteria.source == "assumed":
            return Reason(
                code="assumed_memory",
                text=f"How much graphics memory is free is not known here; {format_memory(available)} were assumed.",
                values={"available_bytes": available},
            )
        if self.criteria.source == "processor":
            return Reason(
                code="on_processor",
                text="There is no graphics card: it will run on the processor, slowly.",
                values={"available_bytes": available},
            )
        return None

    def _context(self, need: MemoryNeed) -> Reason | None:
        asked = self.criteria.context_tokens
        if need.context_tokens >= asked:
            return None
        return Reason(
            code="shorter_context",
            text=f"Reads at most {need.context_tokens:,} tokens, fewer than the {asked:,} asked for.",
            values={"context_tokens": need.context_tokens, "asked_context_tokens": asked},
        )

    def _availability(self, weighed: _Weighed) -> Reason:
        candidate, size = weighed.candidate, weighed.candidate.download_bytes
        if candidate.installed:
            return Reason(code="installed", text="Already installed.")
        values: dict[str, Any] = {"download_bytes": size, "approximate": candidate.approximate}
        if size is None:
            amount = "Must be downloaded first, how much is not known"
        else:
            amount = f"{'About ' if candidate.approximate else ''}{format_download(size)} to download first"
        if weighed is not self._larger:
            return Reason(code="download", text=f"{amount}.", values=values)
        first = self._first.candidate
        return Reason(
            code="larger_download",
            text=f"{amount}; larger than {label(first.name, first.quantization)}, which is installed.",
            values={**values, "model": first.name, "quantization": first.quantization},
        )

    def _quantization(self, weighed: _Weighed) -> Reason | None:
        if _is_finer_choice(weighed, self.criteria):
            return Reason(
                code="finer",
                text="The 8-bit form: finer than 4-bit, and it still fits comfortably.",
                values={"bits": weighed.candidate.bits},
            )
        if self.criteria.priority is ModelPurpose.SPEED and weighed.candidate.bits == 4:
            return Reason(code="faster", text="The 4-bit form is the fastest.", values={"bits": weighed.candidate.bits})
        return None

    def _experience(self, candidate: Candidate) -> Reason | None:
        if not candidate.reliable:
            return None
        if not candidate.success_count:
            failures = candidate.failure_count
            return Reason(
                code="unproven",
                text=f"Failed here {failures} of {failures} times so far." if failures else "Not used here yet.",
                values={"success_count": 0, "failure_count": failures, "use_count": failures},
            )
        mean = candidate.mean_seconds
        took = f", {format_seconds(mean)} on average" if mean is not None else ""
        return Reason(
            code="proven",
            text=f"Worked here {candidate.success_count} of {candidate.use_count} times{took}.",
            values={
                "success_count": candidate.success_count,
                "use_count": candidate.use_count,
                "mean_seconds": mean,
            },
        )


def _work(purpose: ModelPurpose) -> str:
    return "balanced work" if purpose is ModelPurpose.BALANCED else purpose.value


def format_download(size_bytes: int) -> str:
    """Return a download's size in decimal units, as Ollama shows it.

    >>> format_download(4_920_753_328), format_download(810_000_000)
    ('4.9 GB', '810 MB')
    """
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def format_seconds(seconds: float) -> str:
    """Return a time as people read it.

    >>> format_seconds(0.042), format_seconds(4.19), format_seconds(75.4)
    ('0.042 s', '4.2 s', '75 s')
    """
    return f"{seconds:.3g} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


# --- nothing suits ---------------------------------------------------------------------------------------------------


def _nothing_suits(eligible: Sequence[_Weighed], criteria: Criteria) -> NoSuitableModel:
    asked = criteria.model_dump(mode="json")
    if not eligible:
        happened, remedy = _nothing_to_choose_from(criteria)
        return NoSuitableModel(happened, remedy, criteria=asked, smallest_need_bytes=None, smallest_model=None)
    smallest = min(eligible, key=lambda weighed: (weighed.need.total, _rank(weighed, criteria)))
    candidate, need = smallest.candidate, smallest.need
    would_fit = _would_fit(eligible, criteria)
    return NoSuitableModel(
        f"Nothing fits {format_memory(criteria.available_bytes)}: the smallest that suits, "
        f"{label(candidate.name, candidate.quantization)}, needs {format_memory(need.total)} "
        f"with a context of {need.context_tokens:,} tokens.",
        _way_out(would_fit, criteria),
        criteria=asked,
        smallest_need_bytes=need.total,
        smallest_model=candidate.name,
        would_fit=would_fit,
    )


def _nothing_to_choose_from(criteria: Criteria) -> tuple[str, str]:
    wish = f" with {', '.join(criteria.needs)}" if criteria.needs else ""
    if criteria.installed_only:
        return f"No suitable model{wish} is installed.", "Leave installed_only out to see what can be downloaded."
    if criteria.needs:
        return f"There is no model{wish} to choose from.", "Install one, or leave needs out."
    return "There is no model to choose from.", "Install one, or add one of your own."


def _way_out(would_fit: Sequence[Mapping[str, Any]], criteria: Criteria) -> str:
    if would_fit:
        best = would_fit[0]
        name = label(best["model"], best["quantization"])
        return f"With a context of {best['context_tokens']:,} tokens {name} would fit."
    if criteria.installed_only:
        return "Leave installed_only out to see what can be downloaded."
    return "Close other programs that use the memory, or choose a model by hand and let part of it lie in RAM, slowly."


def _would_fit(eligible: Sequence[_Weighed], criteria: Criteria) -> list[dict[str, Any]]:
    """Return what would be recommended if the context were shorter, each with the longest that is short enough."""
    hopeful = []
    for weighed in eligible:
        context = largest_context(
            weighed.candidate.memory,
            criteria.available_bytes,
            at_most=weighed.need.context_tokens - 1,
            at_least_verdict=Verdict.TIGHT,
            kv_type=criteria.kv_type,
        )
        if context is not None:
            hopeful.append(_weigh(weighed.candidate, criteria.model_copy(update={"context_tokens": context})))
    hopeful.sort(key=lambda weighed: _rank(weighed, criteria))
    return [
        {
            "model": weighed.candidate.name,
            "quantization": weighed.candidate.quantization,
            "context_tokens": weighed.need.context_tokens,
            "need_bytes": weighed.need.total,
            "verdict": weighed.verdict.value,
        }
        for weighed in hopeful[:WOULD_FIT_LIMIT]
    ]

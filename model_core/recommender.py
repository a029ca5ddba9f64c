"""Which model to take: from candidates and a wish to a ranked list with reasons, and what was not chosen and why.

The rules stand in ranking.py, the words in explanation.py, what is weighed in candidates.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from model_core.candidates import ANSWERING, Candidate, Criteria
from model_core.errors import NoSuitableModel
from model_core.explanation import Explanation
from model_core.fit import SMALLER_CACHE, Verdict, check_fit, longest_that_fits, more_memory
from model_core.memory import KvType, MemoryNeed, MemoryProfile, format_memory, label
from model_core.ranking import Bar, Weighed, bar_of, larger_download, rank, used_as, weigh, weigh_all
from model_core.records import ModelPurpose, Reason, Record
from model_core.speed import Speed

# How many places of the list, and how many that are not on it, are explained; a person reads the first few.
DEFAULT_LIMIT, NOT_CHOSEN_LIMIT = 20, 10
# How many models an empty answer names that would fit with less context.
WOULD_FIT_LIMIT = 5


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
    speed: Speed | None = Field(default=None, description="tokens a second to expect; null where it cannot be said")
    reasons: tuple[Reason, ...]


class NotChosen(Record):
    """What is not on the list: one sentence why, and what would have to change."""

    model: str
    quantization: str | None
    installed: bool
    verdict: Verdict | None = Field(description="null where the card was not asked")
    need_bytes: int | None
    reason: Reason
    ways: tuple[Reason, ...] = Field(description="each single thing that would put it on the list")


class Recommendation(Record):
    """The ranked list; never empty."""

    ranked: tuple[Recommended, ...]
    criteria: Criteria
    suitable_count: int = Field(description="how many would do, also those that the list leaves out")
    not_chosen: tuple[NotChosen, ...] = Field(default=(), description="the nearest first, and not all of many")
    not_chosen_count: int = Field(default=0, description="how many were not chosen, also those that are left out")

    @property
    def best(self) -> Recommended:
        """The model to take."""
        return self.ranked[0]

    @property
    def alternatives(self) -> tuple[Recommended, ...]:
        """The others, in their order."""
        return self.ranked[1:]


def recommend(
    candidates: Iterable[Candidate], criteria: Criteria, *, limit: int | None = DEFAULT_LIMIT
) -> Recommendation:
    """Return the models that suit, the best first, each with its reasons; and the nearest of those that do not.

    limit  how many places the list has at most; None for all

    Raises NoSuitableModel, with the smallest need and with what would fit if the context were shorter, where nothing
    lies on the card as a whole.
    """
    asked = [(candidate, bar_of(candidate, criteria)) for candidate in candidates]
    eligible = weigh_all([candidate for candidate, bar in asked if bar is None], criteria)
    suitable = [weighed for weighed in eligible if weighed.verdict.runs_on_card]
    if not suitable:
        answering = [candidate for candidate, _ in asked if ANSWERING in candidate.capabilities]
        able = sorted({ability for candidate in answering for ability in candidate.capabilities})
        raise _nothing_suits(eligible, criteria, able)
    suitable.sort(key=lambda weighed: rank(weighed, criteria))
    larger = larger_download(suitable)
    if larger is not None:
        suitable.remove(larger)
        suitable.insert(1, larger)
    explain = Explanation(suitable, criteria, larger)
    return Recommendation(
        ranked=tuple(_recommended(weighed, explain) for weighed in suitable[:limit]),
        criteria=criteria,
        suitable_count=len(suitable),
        not_chosen=tuple(_not_chosen(asked, eligible, criteria)),
        not_chosen_count=len(asked) - len(suitable),
    )


def _recommended(weighed: Weighed, explain: Explanation) -> Recommended:
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
        speed=weighed.speed,
        reasons=explain.reasons(weighed),
    )


# --- what is not chosen ----------------------------------------------------------------------------------------------


def _not_chosen(
    asked: Sequence[tuple[Candidate, Bar | None]], eligible: Sequence[Weighed], criteria: Criteria
) -> list[NotChosen]:
    """Return what does not fit, the nearest first, then what takes no part."""
    too_large = sorted(
        (weighed for weighed in eligible if not weighed.verdict.runs_on_card),
        key=lambda weighed: (weighed.need.total, _name_of(weighed.candidate)),
    )[:NOT_CHOSEN_LIMIT]
    forms = _forms((candidate for candidate, _ in asked), {weighed.candidate.name for weighed in too_large})
    found = [_does_not_fit(weighed, forms[weighed.candidate.name], criteria) for weighed in too_large]
    barred = sorted(((candidate, bar) for candidate, bar in asked if bar), key=lambda one: _name_of(one[0]))
    found += [
        NotChosen(
            model=candidate.name,
            quantization=candidate.quantization,
            installed=candidate.installed,
            verdict=None,
            need_bytes=None,
            reason=Reason(code=bar.code, text=bar.text),
            ways=(),
        )
        for candidate, bar in barred[:NOT_CHOSEN_LIMIT]
    ]
    return found[:NOT_CHOSEN_LIMIT]


def _name_of(candidate: Candidate) -> tuple[str, str]:
    return candidate.name, candidate.quantization or ""


def _forms(candidates: Iterable[Candidate], names: set[str]) -> Mapping[str, dict[str, MemoryProfile]]:
    forms: dict[str, dict[str, MemoryProfile]] = {name: {} for name in names}
    for candidate in candidates:
        if candidate.name in forms and candidate.quantization:
            forms[candidate.name][candidate.quantization] = candidate.memory
    return forms


def _does_not_fit(weighed: Weighed, forms: Mapping[str, MemoryProfile], criteria: Criteria) -> NotChosen:
    candidate = weighed.candidate
    check = check_fit(used_as(candidate, criteria), candidate.name, candidate.quantization, candidate.memory, forms)
    values = {
        "need_bytes": check.need.total,
        "available_bytes": criteria.available_bytes,
        "missing_bytes": -check.margin_bytes,
    }
    return NotChosen(
        model=candidate.name,
        quantization=candidate.quantization,
        installed=candidate.installed,
        verdict=check.verdict,
        need_bytes=check.need.total,
        reason=Reason(code=check.verdict.value, text=check.message, values=values),
        ways=check.ways,
    )


# --- nothing suits ---------------------------------------------------------------------------------------------------


def _nothing_suits(eligible: Sequence[Weighed], criteria: Criteria, able: Sequence[str]) -> NoSuitableModel:
    asked = criteria.model_dump(mode="json")
    if not eligible:
        happened, remedy = _nothing_to_choose_from(criteria, able)
        return NoSuitableModel(happened, remedy, criteria=asked, smallest_need_bytes=None, smallest_model=None)
    smallest = min(eligible, key=lambda weighed: (weighed.need.total, _name_of(weighed.candidate)))
    candidate, need = smallest.candidate, smallest.need
    would_fit, cached = _would_fit(eligible, criteria), _fits_with_a_smaller_cache(eligible, criteria)
    return NoSuitableModel(
        f"Nothing fits {format_memory(criteria.available_bytes)}: the smallest that suits, "
        f"{label(candidate.name, candidate.quantization)}, needs {format_memory(need.total)} "
        f"with a context of {need.context_tokens:,} tokens.",
        " ".join(filter(None, (_shorter(would_fit), cached))) or _way_out(criteria, need),
        criteria=asked,
        smallest_need_bytes=need.total,
        smallest_model=candidate.name,
        would_fit=would_fit,
    )


def _nothing_to_choose_from(criteria: Criteria, able: Sequence[str]) -> tuple[str, str]:
    wish = f" with {', '.join(criteria.needs)}" if criteria.needs else ""
    if criteria.installed_only:
        return f"No suitable model{wish} is installed.", "Leave installed_only out to see what can be downloaded."
    if criteria.needs:
        what = f" What there is can do: {', '.join(able)}." if able else ""
        return f"There is no model{wish} to choose from.", f"Install one, or leave needs out.{what}"
    return "There is no model to choose from.", "Install one, or add one of your own."


def _shorter(would_fit: Sequence[Mapping[str, Any]]) -> str:
    if not would_fit:
        return ""
    best = would_fit[0]
    name = label(best["model"], best["quantization"])
    return f"With a context of {best['context_tokens']:,} tokens {name} would lie on the card."


def _fits_with_a_smaller_cache(eligible: Sequence[Weighed], criteria: Criteria) -> str:
    if criteria.kv_type is not KvType.F16:
        return ""
    smaller = criteria.model_copy(update={"kv_type": KvType.Q8_0})
    found = [weighed for weighed in (weigh(one.candidate, smaller) for one in eligible) if weighed.verdict.runs_on_card]
    if not found:
        return ""
    best = min(found, key=lambda weighed: rank(weighed, smaller)).candidate
    name = label(best.name, best.quantization)
    return f"With an 8-bit cache {name} would do as it is asked for: start Ollama itself with {SMALLER_CACHE}."


def _way_out(criteria: Criteria, need: MemoryNeed) -> str:
    if criteria.installed_only:
        return "Leave installed_only out to see what can be downloaded."
    (way,) = more_memory(criteria, need)
    if criteria.on_processor:
        return way.text
    by_hand = "choose a model by hand and let it lie in RAM, slowly"
    if criteria.source in ("caller", "assumed"):
        return f"A card with {format_memory(need.total)} free would do; or {by_hand}."
    if way.code == "smaller_model":
        return f"This card is too small for any of them: {by_hand}."
    return f"{way.text.rstrip('.')}; or {by_hand}."


def _would_fit(eligible: Sequence[Weighed], criteria: Criteria) -> list[dict[str, Any]]:
    """Return what would be recommended if the context were shorter, each with the longest that is short enough."""
    hopeful = []
    for weighed in eligible:
        context = longest_that_fits(criteria, weighed.candidate.memory, weighed.need)
        if context is not None:
            shorter = criteria.model_copy(update={"context_tokens": context})
            hopeful.append(weigh(replace(weighed.candidate, context_tokens=None), shorter, weighed.failed_form))
    # Whoever asked for a long context wants as much of it as there is.
    hopeful.sort(key=lambda weighed: (-weighed.need.context_tokens, rank(weighed, criteria)))
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

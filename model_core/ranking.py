"""The rules by which models are ranked, each with its reason. docs/recommendation.md shows them with worked rows.

Each rule decides only among equals of the ones before it. What does not lie on the card as a whole is never ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from model_core.candidates import ANSWERING, SCORES_COUNT_FROM, SEEING, Candidate, Criteria
from model_core.fit import Verdict, need_of, verdict
from model_core.memory import MemoryNeed, form_in_words, format_memory
from model_core.records import ModelPurpose
from model_core.speed import Speed, estimate, is_of_this_machine

NEAREST_PURPOSES: Mapping[ModelPurpose, tuple[ModelPurpose, ...]] = {
    # Whoever wants quality rather waits a little than takes the quickest; whoever wants the middle can bear less
    # quality better than a long wait; whoever wants speed gives up as little of it as possible.
    ModelPurpose.QUALITY: (ModelPurpose.QUALITY, ModelPurpose.BALANCED, ModelPurpose.SPEED),
    ModelPurpose.BALANCED: (ModelPurpose.BALANCED, ModelPurpose.SPEED, ModelPurpose.QUALITY),
    ModelPurpose.SPEED: (ModelPurpose.SPEED, ModelPurpose.BALANCED, ModelPurpose.QUALITY),
}

# A judgement of a photo has some 200 tokens: below this it takes more than a minute. On a card nothing is as slow.
TOO_SLOW_BELOW_TOKENS_PER_S = 3.0

_NEVER_TIMED = float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """A candidate with what the card says to it. Each is itself only: two like ones are two places of the list.

    speed        tokens a second to expect; None: it cannot be said, or is not looked for, since it does not fit
    is_too_slow  it writes more slowly than anybody waits for
    failed_form  another form of the same model that mostly failed, while this one has not worked yet
    """

    candidate: Candidate
    need: MemoryNeed
    verdict: Verdict
    purpose_distance: int
    speed: Speed | None
    is_too_slow: bool
    failed_form: Candidate | None = None

    @property
    def reliable(self) -> bool:
        """Whether it works often enough to be tried again."""
        return self.candidate.reliable and self.failed_form is None

    @property
    def failed(self) -> Candidate:
        """What speaks against it where it is not reliable: its own failures, else those of another form."""
        return self.candidate if self.failed_form is None or not self.candidate.reliable else self.failed_form


def weigh_all(candidates: Sequence[Candidate], criteria: Criteria) -> list[Weighed]:
    """Return what the machine and the history say to each candidate."""
    failed: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda one: (one.rate, one.quantization or "")):
        if not candidate.reliable:
            failed.setdefault(candidate.name, candidate)
    return [weigh(candidate, criteria, _failed_form(candidate, failed)) for candidate in candidates]


def _failed_form(candidate: Candidate, failed: Mapping[str, Candidate]) -> Candidate | None:
    # What the 4-bit form cannot do, the 8-bit form has to show that it can.
    return None if candidate.success_count else failed.get(candidate.name)


def weigh(candidate: Candidate, criteria: Criteria, failed_form: Candidate | None = None) -> Weighed:
    """Return what the machine says to a candidate."""
    wish = used_as(candidate, criteria)
    need = need_of(wish, candidate.memory)
    found = verdict(need.total, criteria.available_bytes, ram_free_bytes=criteria.ram_free_bytes)
    of_uses, of_writing = speeds(candidate, need, found, criteria) if found.runs_on_card else (None, None)
    return Weighed(
        candidate,
        need,
        found,
        _purpose_distance(candidate.purpose, criteria.priority),
        of_uses or of_writing,
        _is_too_slow(of_uses, of_writing),
        failed_form,
    )


def speeds(
    candidate: Candidate, need: MemoryNeed, found: Verdict, criteria: Criteria
) -> tuple[Speed | None, Speed | None]:
    """Return how fast a model has been at its work here, and how fast it writes; None for what is not known.

    What was measured holds where the model lies on the card that is here; it tells nothing of what spills.
    """
    estimated = estimate(candidate.memory, need, criteria.available_bytes, criteria.machine.card)
    if not found.runs_on_card or not criteria.machine.is_here:
        return None, estimated
    of_uses, of_answers = (
        seen if seen is not None and is_of_this_machine(seen, estimated, criteria.machine.card) else None
        for seen in (candidate.seen_speed, candidate.benchmark_speed)
    )
    return of_uses, of_answers or estimated


def _is_too_slow(of_uses: Speed | None, of_writing: Speed | None) -> bool:
    # A use has its prompt and may have its load in it: one as quick proves that it can be, a slow one proves nothing.
    known = [seen.tokens_per_second for seen in (of_uses, of_writing) if seen is not None]
    return of_writing is not None and max(known) < TOO_SLOW_BELOW_TOKENS_PER_S


def used_as(candidate: Candidate, criteria: Criteria) -> Criteria:
    """Return the wish with the context that a model is used with here, where that is more than is wished."""
    if (candidate.context_tokens or 0) <= criteria.context_tokens:
        return criteria
    return criteria.model_copy(update={"context_tokens": candidate.context_tokens})


def _purpose_distance(purpose: ModelPurpose, priority: ModelPurpose) -> int:
    # Specialized models come this far only when their speciality was asked for: then it is the purpose.
    return 0 if purpose is ModelPurpose.SPECIALIZED else NEAREST_PURPOSES[priority].index(purpose)


# --- who takes part --------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """Why a candidate takes no part at all, whatever the card says: a code, and a sentence."""

    code: str
    text: str


def bar_of(candidate: Candidate, criteria: Criteria) -> Bar | None:
    """Return what keeps a candidate out; None where it takes part."""
    missing = [need for need in criteria.needs if need not in candidate.capabilities]
    if ANSWERING not in candidate.capabilities:
        return Bar("cannot_answer", "It answers nothing: it turns texts into numbers for searching.")
    if not candidate.published and not candidate.installed:
        # What nobody published can be had only where the user made it.
        return Bar("not_published", "It was never published, so it cannot be had.")
    if missing:
        return Bar("lacks_ability", f"It cannot do what was asked for: {', '.join(missing)}.")
    if candidate.sees and SEEING not in criteria.needs:
        # They are slower at text than their equals without eyes.
        return Bar("for_photos", "It is for looking at photos; ask for that (needs: vision) to have it considered.")
    if not candidate.sees and candidate.purpose is ModelPurpose.SPECIALIZED:
        return Bar("specialized", "Nobody said what it is for; it is considered once it has worked five times.")
    if criteria.installed_only and not candidate.installed:
        return Bar("not_installed", "It is not installed, and only installed ones were asked for.")
    return None


# --- the rules -------------------------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """One step of the order.

    key     of what is weighed; the smaller comes first
    why     the reason for the rule
    behind  why one with a greater key stands behind another, as the end of a sentence
    """

    name: str
    key: Callable[[Weighed, Criteria], Any]
    why: str
    behind: Callable[[Weighed, Weighed], str]


def is_finer_choice(weighed: Weighed, criteria: Criteria) -> bool:
    """Whether it is the 8-bit form where that is worth its memory."""
    wants_quality = criteria.priority is ModelPurpose.QUALITY
    return wants_quality and weighed.candidate.bits == 8 and weighed.verdict is Verdict.FITS


def _scored(weighed: Weighed, _: Weighed) -> str:
    candidate = weighed.candidate
    if candidate.score is None or candidate.score_count < SCORES_COUNT_FROM:
        return f"its own answers were not scored often enough {candidate.where}"
    return (
        f"its own answers were scored {candidate.score:.1f} on average, "
        f"{candidate.score_count:,} times {candidate.where}"
    )


def _history(weighed: Weighed, _: Criteria) -> tuple[float, float]:
    seconds = weighed.candidate.mean_seconds
    return -weighed.candidate.rate, _NEVER_TIMED if seconds is None else seconds


def _formed(weighed: Weighed, first: Weighed) -> str:
    candidate = weighed.candidate
    if candidate.quantization is None:
        return "which form this one has is not known"
    is_finer = first.candidate.bits > candidate.bits
    return f"this one is {form_in_words(candidate.quantization)}: {'less fine' if is_finer else 'larger and slower'}"


def _lasted(weighed: Weighed, first: Weighed) -> str:
    candidate, best = weighed.candidate, first.candidate
    if candidate.rate == best.rate:
        seconds = candidate.mean_seconds
        return "this one was not timed here" if seconds is None else f"this one took {seconds:.1f} s on average here"
    if candidate.failure_count:
        return failures(weighed)
    return f"this one worked fewer times {candidate.where}: {candidate.use_count:,}"


RULES: tuple[Rule, ...] = (
    Rule(
        "reliable",
        lambda weighed, _: not weighed.reliable,
        "A model that mostly failed here is no help, however well it would suit. Every model starts as if it had been "
        "used 5 times and had worked 9 times in 10; it is unreliable below 0.6, which takes three failures at the "
        "start, or more than four in ten of many. Its other forms count as unreliable, too, until they have worked.",
        lambda weighed, _: failures(weighed),
    ),
    Rule(
        "bearable",
        lambda weighed, _: weighed.is_too_slow,
        "Below 3 tokens a second a judgement of 200 tokens takes more than a minute a photo: on a processor, or of the "
        "largest models in the memory that a chip shares. An estimate or a benchmark says so; a time on record has the "
        "prompt and the load in it, and can only say that it is faster.",
        lambda weighed, _: (
            f"this one writes some {weighed.speed.tokens_per_second if weighed.speed else 0:.1f} tokens a second"
        ),
    ),
    Rule(
        "purpose",
        lambda weighed, _: weighed.purpose_distance,
        "What was asked for, else the nearest: quality → balanced → speed; balanced → speed → quality; "
        "speed → balanced → quality.",
        lambda weighed, _: f"this one is made for {work(weighed.candidate.purpose)}",
    ),
    Rule(
        "verdict",
        lambda weighed, _: weighed.verdict.rank,
        "Comfortable (1 GiB stays free) before tight: a tight model spills as soon as another program wants the card.",
        lambda weighed, _: f"this one is tight: it needs {format_memory(weighed.need.total)}",
    ),
    Rule(
        "installed",
        lambda weighed, _: not weighed.candidate.installed,
        "Nothing to wait for; so only a better purpose or verdict is worth a download. A larger model of the same "
        "purpose that must be downloaded is shown as the first alternative, with its size.",
        lambda weighed, _: "this one must be downloaded first",
    ),
    Rule(
        "score",
        lambda weighed, _: -weighed.candidate.score_in_halves,
        "What you think of its answers (quality_score, 0 to 5) is worth more than its size. Scores count from the "
        "third on, as if five of 3.5 had come before, and in half points.",
        _scored,
    ),
    Rule(
        "size",
        lambda weighed, _: -(weighed.candidate.parameters or 0),
        "Among equals the model with more parameters answers better.",
        lambda weighed, _: (
            "this one has fewer parameters"
            if weighed.candidate.parameters
            else "how many parameters this one has is not known"
        ),
    ),
    Rule(
        "form",
        lambda weighed, criteria: (not is_finer_choice(weighed, criteria), weighed.candidate.bits),
        "4-bit: smaller and faster. For quality the 8-bit form of the same model, where it fits comfortably.",
        _formed,
    ),
    Rule(
        "history",
        _history,
        "The higher rate of success here, then the shorter time.",
        _lasted,
    ),
    Rule(
        "name",
        lambda weighed, _: (weighed.candidate.name, weighed.candidate.quantization or ""),
        "So that the answer never depends on the order in which the candidates came.",
        lambda weighed, _: "there is no difference but the name",
    ),
)


def rank(weighed: Weighed, criteria: Criteria) -> tuple[Any, ...]:
    """Return what a candidate is sorted by; the smallest comes first."""
    return tuple(rule.key(weighed, criteria) for rule in RULES)


def deciding_rule(weighed: Weighed, before: Weighed, criteria: Criteria) -> Rule:
    """Return the rule that puts one behind another: the first by which they differ."""
    return next((rule for rule in RULES if rule.key(weighed, criteria) != rule.key(before, criteria)), RULES[-1])


def larger_download(ranked: Sequence[Weighed]) -> Weighed | None:
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
            and other.reliable
            and not other.is_too_slow
            and other.purpose_distance == first.purpose_distance
            and (other.candidate.parameters or 0) > (first.candidate.parameters or 0)
        ),
        None,
    )


def failures(weighed: Weighed) -> str:
    """Return what speaks against a model that is not reliable, as the end of a sentence."""
    failed = weighed.failed
    which = "this one" if failed is weighed.candidate else f"its {form_in_words(failed.quantization or '')} form"
    return f"{which} failed {failed.where} {failed.failure_count} of {failed.use_count} times"


def work(purpose: ModelPurpose) -> str:
    """Return what a purpose is called in a sentence."""
    return "balanced work" if purpose is ModelPurpose.BALANCED else purpose.value

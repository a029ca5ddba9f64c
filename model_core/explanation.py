"""Why a model stands where it stands, in words that a photographer understands; the figures stand beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_core.budget import ASSUMED_BYTES
from model_core.candidates import Candidate, Criteria
from model_core.fit import Verdict, close_others
from model_core.memory import DEFAULT_CONTEXT_TOKENS, KvType, form_in_words, format_memory, label
from model_core.ranking import Weighed, deciding_rule, is_finer_choice, rank, work
from model_core.records import ModelPurpose, Reason
from model_core.speed import Speed


class Explanation:
    """The reasons of one ranked list; larger is the download that comes second though the order has it further down."""

    def __init__(self, ranked: Sequence[Weighed], criteria: Criteria, larger: Weighed | None) -> None:
        self.criteria = criteria
        self._first, self._larger = ranked[0], larger
        self._nearest = min(weighed.purpose_distance for weighed in ranked)
        doubtful = [weighed for weighed in ranked if not weighed.reliable]
        self._passed_over = min([ranked[0], *doubtful], key=lambda weighed: rank(weighed, criteria)[1:])

    def reasons(self, weighed: Weighed) -> tuple[Reason, ...]:
        """Return why this model stands where it stands, the weightiest first."""
        found = [
            self._passed_over_reason(weighed),
            self._reliability(weighed),
            self._purpose(weighed),
            self._memory(weighed),
            self._source(weighed),
            self._setup(weighed),
            self._in_ram(weighed.candidate),
            self._context(weighed),
            self._speed(weighed),
            self._availability(weighed),
            self._quantization(weighed),
            self._experience(weighed.candidate),
            self._score(weighed.candidate),
            self._behind(weighed),
        ]
        return tuple(reason for reason in found if reason is not None)

    def _passed_over_reason(self, weighed: Weighed) -> Reason | None:
        if weighed is not self._first or self._passed_over.reliable or self._passed_over is weighed:
            return None
        other, failed = self._passed_over.candidate, self._passed_over.failed
        which = "" if failed is other else f"its {form_in_words(failed.quantization or '')} form "
        return Reason(
            code="passed_over",
            text=f"{label(other.name, other.quantization)} would suit better, but {which}failed {failed.where} "
            f"{failed.failure_count} of {failed.use_count} times.",
            values={
                "model": other.name,
                "quantization": other.quantization,
                "failed_quantization": failed.quantization,
                "failure_count": failed.failure_count,
                "use_count": failed.use_count,
            },
        )

    def _reliability(self, weighed: Weighed) -> Reason | None:
        if weighed.reliable:
            return None
        failed = weighed.failed
        values = {"failure_count": failed.failure_count, "use_count": failed.use_count}
        if failed is weighed.candidate:
            text = (
                f"Failed {failed.where} {failed.failure_count} of {failed.use_count} times{self._consequence(weighed)}."
            )
            return Reason(code="unreliable", text=text, values=values)
        form = form_in_words(failed.quantization or "")
        text = (
            f"Its {form} form failed {failed.where} {failed.failure_count} of {failed.use_count} times, and this one "
            f"has not worked here yet{self._consequence(weighed)}."
        )
        return Reason(code="unreliable_form", text=text, values={**values, "quantization": failed.quantization})

    def _consequence(self, weighed: Weighed) -> str:
        return "; nothing else suits better" if weighed is self._first else ", so it stands behind others"

    def _behind(self, weighed: Weighed) -> Reason | None:
        if weighed is self._first:
            return None
        first = self._first.candidate
        rule = deciding_rule(weighed, self._first, self.criteria)
        return Reason(
            code="behind",
            text=f"Stands behind {label(first.name, first.quantization)}: {rule.behind(weighed, self._first)}.",
            values={"model": first.name, "quantization": first.quantization, "rule": rule.name},
        )

    def _purpose(self, weighed: Weighed) -> Reason:
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
            return Reason(code="purpose", text=f"Made for {work(purpose)}.", values=values)
        if weighed.purpose_distance > self._nearest:
            return Reason(
                code="other_purpose", text=f"Made for {work(purpose)}, not for {work(wished)}.", values=values
            )
        lack = "is installed and fits" if self.criteria.installed_only else "fits"
        return Reason(
            code="nearest_purpose",
            text=f"Nothing made for {work(wished)} {lack}; this one is made for {work(purpose)}, which is nearest.",
            values=values,
        )

    def _memory(self, weighed: Weighed) -> Reason:
        need, available = weighed.need, self.criteria.available_bytes
        left = available - need.total
        amount = format_memory(need.total)
        if need.basis == "guess":
            amount = f"{format_memory(need.low)} to {format_memory(need.high)} (guessed from the size of its file)"
        elif need.basis == "measured":
            amount += " (measured here)"
        if need.context_tokens != DEFAULT_CONTEXT_TOKENS:
            amount += f" with a context of {need.context_tokens:,} tokens"
        place = "memory" if self.criteria.on_processor else "graphics memory"
        start = f"Needs {amount} of the {format_memory(available)} of {place} that are available"
        values: dict[str, Any] = {
            "need_bytes": need.total,
            "need_low_bytes": need.low,
            "need_high_bytes": need.high,
            "available_bytes": available,
            "margin_bytes": left,
            "basis": need.basis,
            "context_tokens": need.context_tokens,
        }
        if weighed.verdict is Verdict.FITS:
            return Reason(code="fits", text=f"{start}; {format_memory(left)} stay free.", values=values)
        text = f"{start}: tight, only {format_memory(left)} stay free.{close_others(self.criteria)}"
        return Reason(code="tight", text=text, values=values)

    def _source(self, weighed: Weighed) -> Reason | None:
        return source_reason(self.criteria) if weighed is self._first else None

    def _in_ram(self, candidate: Candidate) -> Reason | None:
        share = candidate.gpu_share
        if share is None or share >= 1 or self.criteria.on_processor:
            return None
        return Reason(
            code="partly_in_ram",
            text=f"As it is loaded now, {share:.0%} of it lies on the card and the rest in RAM, which is slow: load it "
            "again when more of the card is free.",
            values={"gpu_share": share},
        )

    def _setup(self, weighed: Weighed) -> Reason | None:
        """Return how Ollama must be started for the figures to hold; None where it is as it comes."""
        kv_type, parallel = self.criteria.kv_type, self.criteria.parallel
        settings = []
        if kv_type is not KvType.F16:
            settings += ["OLLAMA_FLASH_ATTENTION=1", f"OLLAMA_KV_CACHE_TYPE={kv_type}"]
        if parallel > 1:
            settings.append(f"OLLAMA_NUM_PARALLEL={parallel}")
        if not settings or weighed is not self._first:
            return None
        text = f"This holds where Ollama itself is started with {' and '.join(settings)}."
        return Reason(code="setup", text=text, values={"kv_type": kv_type.value, "parallel": parallel})

    def _context(self, weighed: Weighed) -> Reason | None:
        asked, need, own = self.criteria.context_tokens, weighed.need, weighed.candidate.context_tokens
        if own and own > asked:
            return Reason(
                code="own_context",
                text=f"It was loaded with a context of {own:,} tokens here, and is used with that until it is loaded "
                "with another one.",
                values={"context_tokens": own, "asked_context_tokens": asked},
            )
        if need.context_tokens >= asked:
            return None
        return Reason(
            code="shorter_context",
            text=f"Reads at most {need.context_tokens:,} tokens, fewer than the {asked:,} asked for.",
            values={"context_tokens": need.context_tokens, "asked_context_tokens": asked},
        )

    def _speed(self, weighed: Weighed) -> Reason | None:
        speed = weighed.speed
        if speed is None:
            return None
        # What was measured says itself whether that is slow.
        is_guess = self.criteria.on_processor and speed.basis == "estimate"
        expect = "It works, slowly: expect" if is_guess else "Expect"
        return Reason(code="speed", text=f"{expect} {format_speed(speed)}.", values=speed.model_dump())

    def _availability(self, weighed: Weighed) -> Reason:
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

    def _quantization(self, weighed: Weighed) -> Reason | None:
        bits = {"bits": weighed.candidate.bits}
        if is_finer_choice(weighed, self.criteria):
            return Reason(
                code="finer",
                text="The 8-bit form: finer than 4-bit, and it still fits comfortably.",
                values=bits,
            )
        if self.criteria.priority is ModelPurpose.SPEED and weighed.candidate.bits == 4:
            return Reason(code="faster", text="Of its forms the 4-bit one is the fastest.", values=bits)
        return None

    def _experience(self, candidate: Candidate) -> Reason | None:
        if not candidate.reliable:
            return None
        if not candidate.success_count:
            failures = candidate.failure_count
            return Reason(
                code="unproven",
                text=f"Failed {candidate.where} {failures} of {failures} times so far."
                if failures
                else "Not used here yet.",
                values={"success_count": 0, "failure_count": failures, "use_count": failures},
            )
        mean = candidate.mean_seconds
        on_average = "on average here" if candidate.elsewhere else "on average"
        took = f", {format_seconds(mean)} {on_average}" if mean is not None else ""
        return Reason(
            code="proven",
            text=f"Worked {candidate.where} {candidate.success_count} of {candidate.use_count} times{took}.",
            values={
                "success_count": candidate.success_count,
                "use_count": candidate.use_count,
                "mean_seconds": mean,
            },
        )

    def _score(self, candidate: Candidate) -> Reason | None:
        if candidate.score is None or not candidate.score_count:
            return None
        times = "once" if candidate.score_count == 1 else f"{candidate.score_count:,} times"
        return Reason(
            code="scored",
            text=f"Its answers were scored {times} {candidate.where}: {candidate.score:.1f} of 5 on average.",
            values={"score": candidate.score, "score_count": candidate.score_count},
        )


def source_reason(criteria: Criteria) -> Reason | None:
    """Return what the available memory is made of; None where the caller said it."""
    available, machine = format_memory(criteria.available_bytes), criteria.machine
    values: dict[str, Any] = {"available_bytes": criteria.available_bytes}
    card = machine.gpu or "The card"
    if criteria.source == "assumed":
        why = f" ({machine.gpus_source})" if machine.gpus_source else ""
        text = f"How much graphics memory is free is not known here{why}; {available} were assumed."
        return Reason(code="assumed_memory", text=text, values=values)
    if criteria.source == "setting":
        text = f"No more than {available} may be used: MODEL_MANAGER_VRAM_GB says so."
        return Reason(code="capped", text=text, values=values)
    if criteria.source == "processor":
        text = f"There is no graphics card: it will run on the processor, slowly. {_ram_counted(criteria)}"
        return Reason(code="on_processor", text=text, values={**values, "ram_free_bytes": machine.ram_free_bytes})
    if criteria.source == "probe":
        values |= {field: getattr(machine, field) for field in ("gpu", "total_bytes", "free_bytes", "held_bytes")}
        if machine.free_bytes is None:
            text = f"How much of {card} is free cannot be known here; all of its {available} were counted."
            return Reason(code="free_unknown", text=text, values=values)
        total = "" if machine.total_bytes is None else f" of its {format_memory(machine.total_bytes)}"
        text = f"{card} has {format_memory(machine.free_bytes)}{total} free now"
        if machine.held_bytes:
            text += f"; what Ollama has loaded ({format_memory(machine.held_bytes)}) would make room"
        return Reason(code="free_now", text=f"{text}.", values=values)
    return None


def _ram_counted(criteria: Criteria) -> str:
    available, free = criteria.available_bytes, criteria.machine.ram_free_bytes
    if free is not None and available == free // 2:
        return f"Half of the {format_memory(free)} of RAM that are free were counted."
    if available == criteria.cap_bytes:
        return f"No more than {format_memory(available)} of RAM may be used: MODEL_MANAGER_VRAM_GB says so."
    if free is None and available == ASSUMED_BYTES:
        return f"How much RAM is free is not known; {format_memory(available)} were assumed."
    return f"{format_memory(available)} of RAM were counted."


def format_speed(speed: Speed) -> str:
    """Return a speed as people read it, with where it comes from."""
    rate = f"{format_rate(speed.tokens_per_second)} tokens a second"
    if speed.low is None or speed.high is None:
        return f"{rate} ({speed.source})"
    return f"some {rate} ({format_rate(speed.low)} to {format_rate(speed.high)}, {speed.source})"


def format_rate(tokens_per_second: float) -> str:
    """Return tokens a second as people read them.

    >>> [format_rate(rate) for rate in (0.634, 5.53, 41.2, 4172.3)]
    ['0.6', '5.5', '41', '4,172']
    """
    return f"{tokens_per_second:.1f}" if tokens_per_second < 10 else f"{tokens_per_second:,.0f}"


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

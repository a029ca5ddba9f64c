"""Look at everything that advice and AutoDev rest on, and say of each in a line what is well, and what to do if not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from model_core.advice import Fit
from model_core.budget import Budget
from model_core.candidates import UNRELIABLE_BELOW
from model_core.explanation import format_download
from model_core.fit import Verdict
from model_core.hardware import Gpu, Hardware
from model_core.loading import SLOW, Running
from model_core.memory import format_memory, label
from model_core.recommender import Recommended
from model_core.records import DownloadJob, Record, StoredModel

# Older ones write manifests anew while pulling, so digests differ from the registry's (ollama#15104).
OLDEST_VERSION = (0, 19)
# The 8B in its 4-bit form has 4.9 GB; with less than this the next download will not fit.
LITTLE_DISK_BYTES = 10_000_000_000

# With fewer uses a rate says little.
USES_THAT_TELL = 5

_VERSION = re.compile(r"(\d+)\.(\d+)")


class Finding(Record):
    """One line: what was looked at, how it is, and what to do; ok is None for what is neither well nor a fault."""

    subject: str
    ok: bool | None
    text: str
    remedy: str | None = None
    values: dict[str, Any] = Field(default_factory=dict)


class Diagnosis(Record):
    """Everything that was looked at."""

    ok: bool = Field(description="nothing needs to be done")
    reachable: bool = Field(description="Ollama answers")
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a diagnosis rests on; what cannot be known is None or empty.

    ollama_problem   why Ollama does not answer, with what to do
    current          the selected model's record, installed or not
    current_fit      what the card says to it
    heard            Ollama has ever told what it holds
    ids_missing      ids of the catalogue whose models are there under other names only
    own_models       ids of the catalogue under which a model of the user's own stands
    document_problem what is wrong with the document, with what to do
    advised          what would be recommended now; None: nothing suits
    """

    address: str
    reachable: bool
    version: str | None
    simulated: bool
    ollama_problem: str | None
    hardware: Hardware
    budget: Budget
    document_path: str
    document_writable: bool
    document_problem: str | None
    current: StoredModel | None
    heard: bool
    current_installed: bool
    current_fit: Fit | None
    contexts: dict[str, int]
    ids_missing: Sequence[str]
    own_models: Sequence[str]
    running: Sequence[Running]
    unfinished: Sequence[DownloadJob]
    advised: Recommended | None


def diagnose(facts: Facts) -> Diagnosis:
    """Return what is well and what is not, in the order in which one would look."""
    findings = tuple(
        finding
        for look in (_ollama, _card, _memory, _disk, _document, _current, _advice, _aliases, _loaded, _downloads)
        for finding in look(facts)
    )
    is_well = all(finding.ok is not False for finding in findings)
    return Diagnosis(ok=is_well, reachable=facts.reachable, findings=findings)


def _well(subject: str, text: str, **values: Any) -> Finding:
    return Finding(subject=subject, ok=True, text=text, values=values)


def _note(subject: str, text: str, remedy: str | None = None, **values: Any) -> Finding:
    return Finding(subject=subject, ok=None, text=text, remedy=remedy, values=values)


def _to_do(subject: str, text: str, remedy: str | None, **values: Any) -> Finding:
    return Finding(subject=subject, ok=False, text=text, remedy=remedy, values=values)


def _ollama(facts: Facts) -> Iterator[Finding]:
    values = {"address": facts.address, "version": facts.version}
    said = f"Ollama {facts.version or 'of unknown version'} answers at {facts.address}."
    found = _VERSION.match(facts.version or "")
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if not facts.reachable:
        happened = f"Ollama does not answer at {facts.address}."
        remedy = None if facts.ollama_problem else "Start it, or get it at https://ollama.com/download."
        yield _to_do("Ollama", facts.ollama_problem or happened, remedy, **values)
    elif facts.simulated:
        yield _note("Ollama", f"{said} It is simulated: no model is real.", **values)
    elif number == (0, 0):  # what was built from source says so
        yield _note("Ollama", f"{said} How old it is cannot be told.", **values)
    elif number < OLDEST_VERSION:
        why = "Before 0.19 what it says of a model's version cannot be compared with the library's."
        yield _to_do("Ollama", f"{said} {why}", "Update it: https://ollama.com/download", **values)
    else:
        yield _well("Ollama", said, **values)


def _card(facts: Facts) -> Iterator[Finding]:
    gpus, cap = facts.hardware.gpus, facts.budget.machine.cap_bytes
    if gpus is None:
        why = facts.hardware.sources.get("gpus", "nobody looked")
        counted = f"{format_memory(facts.budget.available_bytes)} are {'assumed' if cap is None else 'allowed'}."
        text = f"The graphics card is not known ({why}). {counted}"
        if cap is None:
            yield _note("Card", text, "Say how much of it may be used: MODEL_MANAGER_VRAM_GB.")
        else:
            yield _well("Card", text)
    elif not gpus:
        text = "There is no graphics card that Ollama would use: models run on the processor, slowly."
        yield _note("Card", text, "Small models are bearable: ask for recommend.")
    else:
        yield from (_one_card(gpu, cap) for gpu in gpus)


def _one_card(gpu: Gpu, cap_bytes: int | None) -> Finding:
    total = "of unknown size" if gpu.total_bytes is None else format_memory(gpu.total_bytes)
    free = "how much is free cannot be known" if gpu.free_bytes is None else f"{format_memory(gpu.free_bytes)} free"
    text = f"{gpu.name or 'A card without a name'}, {total}, {free} ({gpu.source})."
    values = {"total_bytes": gpu.total_bytes, "free_bytes": gpu.free_bytes, "cap_bytes": cap_bytes}
    if cap_bytes is not None and gpu.total_bytes is not None and cap_bytes > gpu.total_bytes:
        allowed = f"MODEL_MANAGER_VRAM_GB allows {format_memory(cap_bytes)}, which is more."
        return _to_do("Card", f"{text} {allowed}", "Lower it, or unset it.", **values)
    return _well("Card", text, **values)


def _memory(facts: Facts) -> Iterator[Finding]:
    memory = facts.hardware.memory
    if memory and memory.total_bytes is not None and memory.free_bytes is not None:
        text = f"{format_memory(memory.total_bytes)} of RAM, {format_memory(memory.free_bytes)} free."
        yield _well("Memory", text, **memory.model_dump())


def _disk(facts: Facts) -> Iterator[Finding]:
    disk = facts.hardware.disk
    if disk is None or disk.free_bytes is None:
        return
    surely = "" if disk.is_certain else " Whether Ollama keeps its models there is not certain."
    text = f"{format_download(disk.free_bytes)} free for models at {disk.path}.{surely}"
    if disk.free_bytes < LITTLE_DISK_BYTES:
        remedy = "Free space, or delete a model that is not needed: the next download may not fit."
        yield _to_do("Disk", text, remedy, **disk.model_dump())
    else:
        yield _well("Disk", text, **disk.model_dump())


def _document(facts: Facts) -> Iterator[Finding]:
    path = facts.document_path
    if facts.document_problem or not facts.document_writable:
        happened = facts.document_problem or f"{path} cannot be written."
        yield _to_do("Document", happened, "Look at health for the details.", path=path)
    else:
        yield _well("Document", f"{path} is well.", path=path)


def _current(facts: Facts) -> Iterator[Finding]:
    model, subject = facts.current, "Current model"
    if model is None:
        remedy = "Ask for recommend, download what it names, and switch to it."
        yield _to_do(subject, "No model is selected.", remedy)
    elif not facts.heard:
        text = f"{model.name} is selected; whether Ollama holds it is not known until it answers."
        yield _note(subject, text, model=model.name)
    elif not facts.current_installed:
        missing = _to_do if facts.reachable else _note
        text = f"{model.name} is selected, but Ollama does not hold it."
        yield missing(subject, text, "Download it, or switch to another one.", model=model.name)
    else:
        yield _fit_of(model, facts.current_fit)
        yield from _reliability_of(model)


def _fit_of(model: StoredModel, fit: Fit | None) -> Finding:
    subject = "Current model"
    if fit is None:
        return _well(subject, f"{model.name} is selected.", model=model.name)
    if not fit.check.compatible:
        ways = " ".join(way.text for way in fit.check.ways) or "Switch to a smaller model."
        if fit.check.fits_with_context:
            ways += " The context is chosen by loading the model with it."
        return _to_do(subject, fit.check.message, ways, model=model.name)
    if fit.criteria.on_processor:
        return _note(subject, f"{model.name} runs on the processor, slowly.", model=model.name)
    how = _note if fit.check.verdict is Verdict.TIGHT else _well
    return how(subject, fit.check.message, model=model.name)


def _reliability_of(model: StoredModel) -> Iterator[Finding]:
    rate = model.success_rate
    if model.usage_count >= USES_THAT_TELL and rate is not None and rate < UNRELIABLE_BELOW:
        text = f"{model.name} worked only {rate:.0%} of {model.usage_count:,} times."
        yield _to_do("Current model", text, "Ask for recommend: another one may do better.", model=model.name)


def _advice(facts: Facts) -> Iterator[Finding]:
    best, current = facts.advised, facts.current
    if best is None:
        yield _note("Advice", "No model of the catalogue fits what is free now.", "Ask for recommend: it says why.")
    elif current is not None and best.model == current.name and best.quantization == _form(facts.current_fit):
        yield _well("Advice", f"{best.model} is what would be recommended now, too.", model=best.model)
    else:
        why = best.reasons[0].text if best.reasons else ""
        what = "switch to it" if best.installed else "download it"
        if current is not None and best.model == current.name:
            what += f" with quantization {best.quantization}"
        text = f"{label(best.model, best.quantization)} would be recommended now. {why}".strip()
        yield _note("Advice", text, f"Ask for recommend, or {what}.", model=best.model, installed=best.installed)


def _form(fit: Fit | None) -> str | None:
    return fit.check.quantization if fit else None


def _aliases(facts: Facts) -> Iterator[Finding]:
    if facts.ids_missing:
        text = f"Installed, but not under the name that AutoDev uses: {', '.join(facts.ids_missing)}."
        yield _to_do("Names", text, "Run sync: it makes the names.", models=list(facts.ids_missing))
    if facts.own_models:
        text = f"Models of your own stand under names of the catalogue: {', '.join(facts.own_models)}."
        yield _note("Names", text, models=list(facts.own_models))
    if facts.reachable and not facts.ids_missing and not facts.own_models:
        yield _well("Names", "Every model answers under the name that AutoDev uses.")


def _loaded(facts: Facts) -> Iterator[Finding]:
    for model in facts.running:
        values = {"model": model.name, "gpu_share": model.gpu_share, "context_tokens": model.context_tokens}
        if model.warnings:
            happened, slow, remedy = model.warnings[0].text.partition(SLOW)
            yield _to_do("Loaded", f"{happened}{slow}", remedy.strip(), **values)
        else:
            yield _well("Loaded", f"{model.name} {_where(model)}.", **values)
        usual = facts.contexts.get(model.name)
        if usual and model.context_tokens and model.context_tokens > usual:
            text = (
                f"{model.name} is loaded with a context of {model.context_tokens:,} tokens and used with {usual:,}: "
                "whenever the two take turns, it is loaded anew."
            )
            yield _to_do("Loaded", text, "Have every program say num_ctx, or load it with that context.", **values)


def _where(model: Running) -> str:
    if model.gpu_share is None:
        return "is loaded; where, Ollama does not tell"
    return "lies on the card as a whole" if model.gpu_share == 1 else "runs on the processor"


def _downloads(facts: Facts) -> Iterator[Finding]:
    if facts.unfinished:
        models = ", ".join(job.model for job in facts.unfinished)
        text = f"Not finished: the download of {models}."
        yield _to_do("Downloads", text, "Download again: it goes on from where it was.")

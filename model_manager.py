"""ModelManager: which models there are, which is used, how well it does. What AI Selector imports and every face calls.

    manager = ModelManager()
    manager.download_model("llama3.2:1b-instruct", progress_callback=print)
    manager.switch_model("llama3.2:1b-instruct")
    manager.record_usage("llama3.2:1b-instruct", inference_time=1.4)

Each use case stands here once and is short: what it thinks stands in model_core/, what it touches in the modules at the
root. The methods that AutoDev's documentation names answer False, None or (False, message); each has a twin that raises
the typed error and returns a record (select_model, pull_model, remove_model, recommend, check_fit, sync).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from bell import Bell
from benchmark_worker import BenchmarkWorker
from catalog import MODEL_CATALOG
from download_survey import Survey, Surveyor
from download_worker import DownloadWorker, Listener, Wanted
from event_hub import EventHub
from hardware_probe import ollama_disk
from job_watch import JobWatch, Watched
from json_store import JsonStore
from metadata_path import DEFAULT, resolve_metadata_file
from model_core import (
    advice,
    benchmark_comparison,
    benchmarks,
    comparison,
    doctor,
    downloads,
    exchange,
    fit,
    installed,
    listing,
    loading,
    memory,
    names,
    plans,
    pull_progress,
    recommender,
    times,
    usage,
)
from model_core.advice import Fit
from model_core.benchmark_comparison import BenchmarkComparison
from model_core.benchmark_records import (
    DEFAULT_ANSWER_TOKENS,
    DEFAULT_SEED,
    Benchmark,
    BenchmarkModel,
    BenchmarkState,
)
from model_core.budget import Budget
from model_core.candidates import ANSWERING, SEEING, Criteria
from model_core.changes import with_context, with_events, with_selected
from model_core.comparison import Comparison
from model_core.doctor import Diagnosis, Facts
from model_core.document import DocumentCodec, read_import
from model_core.errors import (
    AnswerCutShort,
    BenchmarkFailed,
    BenchmarkNotFound,
    BenchmarkUnsuitable,
    CannotDeleteCurrent,
    CannotStart,
    DownloadFailed,
    DownloadNotFound,
    InsufficientDisk,
    InsufficientVram,
    InvalidModelName,
    InvalidRequest,
    InvalidTransition,
    ModelInUse,
    ModelLacksCapability,
    ModelManagerError,
    ModelNotFound,
    ModelNotInstalled,
    ModelNotPublished,
    NameTaken,
    NoCurrentModel,
    NoSuitableModel,
    OllamaBrokeOff,
    OllamaBusy,
    OllamaError,
    OllamaModelMissing,
    OllamaTimeout,
    OllamaUnavailable,
    PullEnded,
    PullFailed,
    RegistryModelMissing,
    RegistryNotAllowed,
    RegistryUnavailable,
    StoreBusy,
    StoreError,
    StoreUnreadable,
    StoreUnwritable,
    UnknownQuantization,
)
from model_core.fit import FitCheck
from model_core.hardware import Hardware
from model_core.installed import Inventory, Meant
from model_core.loading import Loaded, Phase, Running, Unloaded
from model_core.patience import Patience
from model_core.picture import Picture
from model_core.plans import DownloadPlan, Room, check_room
from model_core.recommender import Recommendation, Recommended
from model_core.records import (
    CatalogEntry,
    Document,
    DownloadJob,
    DownloadState,
    InstalledModel,
    LayerProgress,
    ModelMetadata,
    ModelPurpose,
    RunningModel,
)
from model_core.usage import Event, Statistics
from ollama_client import KeepAlive, OllamaClient
from ollama_inventory import OllamaInventory, Seen
from ollama_machine import OllamaMachine
from pictures import Pictures, with_seen
from registry_client import RegistryClient, https

__all__ = [
    "MODEL_CATALOG",
    "AnswerCutShort",
    "BenchmarkFailed",
    "BenchmarkNotFound",
    "BenchmarkUnsuitable",
    "CannotDeleteCurrent",
    "CannotStart",
    "DownloadFailed",
    "DownloadNotFound",
    "InsufficientDisk",
    "InsufficientVram",
    "InvalidModelName",
    "InvalidRequest",
    "InvalidTransition",
    "ModelInUse",
    "ModelLacksCapability",
    "ModelManager",
    "ModelManagerError",
    "ModelMetadata",
    "ModelNotFound",
    "ModelNotInstalled",
    "ModelNotPublished",
    "ModelPurpose",
    "NameTaken",
    "NoCurrentModel",
    "NoSuitableModel",
    "OllamaBrokeOff",
    "OllamaBusy",
    "OllamaError",
    "OllamaModelMissing",
    "OllamaTimeout",
    "OllamaUnavailable",
    "PullEnded",
    "PullFailed",
    "RegistryModelMissing",
    "RegistryNotAllowed",
    "RegistryUnavailable",
    "StoreBusy",
    "StoreError",
    "StoreUnreadable",
    "StoreUnwritable",
    "UnknownQuantization",
]

T = TypeVar("T")

logger = logging.getLogger(__name__)

DEFAULT_OLLAMA = "http://localhost:11434"
DEFAULT_REGISTRIES = (names.DEFAULT_HOST, "hf.co")
# Who waits for a download whose owner went away takes it over; more often than this, something else is wrong.
MOST_TAKEOVERS = 10
MOST_DOWNLOADS_AT_ONCE = 16  # a guess; two already share one line
# Switching and deleting wait for one another: a deletion takes as long as Ollama takes.
MODELS_WAIT_S = 30.0


@dataclass(frozen=True)
class Listing:
    """The models, smallest first, and the answer of Ollama's that they rest on."""

    models: tuple[ModelMetadata, ...]
    seen: Seen


@dataclass(frozen=True)
class Selection:
    """A switch that has happened. previous is None where nothing was selected, loaded where that was not wished."""

    model: str
    previous: str | None
    info: ModelMetadata
    warnings: tuple[str, ...] = ()
    loaded: Loaded | None = None


@dataclass(frozen=True)
class Removal:
    """A deletion that has happened. freed_bytes is None where it cannot be known what else uses the same files."""

    model: str
    names: tuple[str, ...]
    freed_bytes: int | None


@dataclass(frozen=True)
class SyncResult:
    """What changed in Ollama since it was last remembered, in the names that callers use."""

    installed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]


class ModelManager:
    """All use cases, on one document and one Ollama. May be used from many threads and processes at once.

    ollama_host    Ollama's address, as its own clients take it; left out, OLLAMA_HOST of the environment counts
    metadata_file  the document; a relative path starts beside the modules, not at the working directory; left out,
                   MODEL_MANAGER_METADATA_FILE of the environment counts
    client         what speaks to Ollama; made from ollama_host when left out. It learns the contexts of the document
    vram_gb        what may be used of the card, in GiB; None: not set
    registries     hosts that a model's name may carry
    downloads_at_once  in all processes together; each takes its own word for it
    patience       how long a download may stand still, and how it is tried again
    hardware       says what the machine has; left out, the probe of this one, where Ollama runs here

    Making one does not need Ollama, and asks it nothing. Raises InvalidRequest for values that cannot be.
    """

    MODEL_CATALOG: Mapping[str, CatalogEntry] = MODEL_CATALOG

    def __init__(
        self,
        ollama_host: str = DEFAULT_OLLAMA,
        metadata_file: str | PathLike[str] = DEFAULT,
        *,
        client: OllamaClient | None = None,
        vram_gb: float | None = None,
        registries: Sequence[str] = DEFAULT_REGISTRIES,
        downloads_at_once: int = 1,
        patience: Patience | None = None,
        registry: RegistryClient | None = None,
        disk: Callable[[], Room] | None = None,
        hardware: Callable[[], Hardware] | None = None,
    ) -> None:
        if ollama_host == DEFAULT_OLLAMA:
            ollama_host = os.environ.get("OLLAMA_HOST") or ollama_host
        if metadata_file == DEFAULT:
            metadata_file = os.environ.get("MODEL_MANAGER_METADATA_FILE") or metadata_file
        cap_bytes = None if vram_gb is None else advice.gib_as_bytes(vram_gb, "vram_gb")
        if not 1 <= downloads_at_once <= MOST_DOWNLOADS_AT_ONCE:
            raise InvalidRequest("downloads_at_once", f"must be from 1 to {MOST_DOWNLOADS_AT_ONCE}")
        self.client = client or OllamaClient(ollama_host)
        self._registries = tuple(registries)
        codec = DocumentCodec(MODEL_CATALOG, secrets.token_hex(8), _localize)
        self.store: JsonStore[Document] = JsonStore.open(resolve_metadata_file(metadata_file), codec)
        self._inventory = OllamaInventory(self.client, _now, lambda: self.store.read().ollama)
        news = Bell()
        self._machine = OllamaMachine(self.client, self._inventory, _now, cap_bytes=cap_bytes, look=hardware)
        # AI Selector asks through this client: a context other than that of the load would load the model anew.
        self.client.context_of = self.context_of
        self._worker = DownloadWorker(
            self.client,
            self.store,
            self._inventory,
            change=self._change,
            completed=self._with_completed,
            is_taken=self._is_taken,
            now_text=_now,
            at_once=downloads_at_once,
            patience=patience,
            news=news,
        )
        self._benchmarks = BenchmarkWorker(
            self.client,
            self.store.path,
            counted=self._count_in_passing,
            now_text=_now,
            patience=patience,
            news=news,
        )
        self._pictures = Pictures(
            self.client,
            self.store,
            self._inventory,
            self._machine,
            change=self._change,
            benchmarks=self._benchmarks.kept,
            now_text=_now,
        )
        watched = (
            Watched("download", self._worker.all, lambda job: job.model_dump(mode="json")),
            Watched("benchmark", self._benchmarks.all, benchmarks.brief),
        )
        self._watch = JobWatch(watched, news)
        self._registry = registry or RegistryClient(self._registry_at)
        self._surveyor = Surveyor(self.client, self._registry, disk or self._disk)

    # --- what there is -----------------------------------------------------------------------------------------------

    def listing(
        self, purpose: str | None = None, max_vram_gb: float | None = None, installed_only: bool = False
    ) -> Listing:
        """Return the models that pass the filters, and how fresh the word on Ollama is. Raises InvalidRequest."""
        wanted = listing.check_purpose(purpose)
        if max_vram_gb is not None:
            advice.gib_as_bytes(max_vram_gb, "max_vram")
        picture, seen = self._pictures.look()
        models = picture.models
        if wanted is None and max_vram_gb is None and not installed_only:
            return Listing(models, seen)
        return Listing(tuple(listing.chosen(models, wanted, max_vram_gb, installed_only)), seen)

    def list_available_models(
        self, purpose: str | None = None, max_vram_gb: float | None = None, installed_only: bool = False
    ) -> list[ModelMetadata]:
        """Return the models, smallest first. Raises InvalidRequest for an unknown purpose or an impossible figure."""
        return list(self.listing(purpose, max_vram_gb, installed_only).models)

    def list_installed_models(self) -> list[str]:
        """Return the names of what Ollama holds, each thing once, as last seen."""
        return self.installed()[0]

    def installed(self) -> tuple[list[str], Seen]:
        """Return the names of what Ollama holds, and how fresh that word is."""
        picture, seen = self._pictures.look()
        return picture.shown.names, seen

    def info(self, name: str) -> ModelMetadata:
        """Return one model. Raises ModelNotFound, InvalidModelName."""
        return self._pictures.look()[0].info(name)

    def get_model_info(self, name: str) -> ModelMetadata | None:
        """Return one model, None if there is none of that name."""
        return _or_none(lambda: self.info(name))

    def seen(self) -> Seen:
        """Return the last word on Ollama that is fit to be shown."""
        return self._inventory.look()

    def is_simulated(self) -> bool:
        """Say whether Ollama is the stand-in, as last heard; asks it only where nobody has asked before."""
        return self._inventory.is_simulated()

    # --- which one is used -------------------------------------------------------------------------------------------

    def current(self) -> ModelMetadata:
        """Return the selected model, installed or not. Raises NoCurrentModel."""
        name = self.store.read().current_model
        if name is None:
            raise NoCurrentModel
        return self.info(name)

    def get_current_model(self) -> str | None:
        """Return the name of the selected model, None before the first selection."""
        return self.store.read().current_model

    def select_model(
        self, name: str, quantization: str | None = None, *, require_fit: bool = False, load: bool = False
    ) -> Selection:
        """Make a model that is there the current one, under the name that callers use.

        quantization  for a catalogue entry: the id is pointed to this form of it
        require_fit   refuse what does not lie on the card as a whole
        load          also put it into memory, and wait for that; that this does not work is a warning

        Raises ModelNotInstalled, ModelLacksCapability, ModelNotFound, UnknownQuantization, InsufficientVram, NameTaken,
        OllamaUnavailable.
        """
        with self._undisturbed():
            picture, seen = self._pictures.ask()
            meant, copied = picture.known(name), dict[str, str]()
            quantization = quantization or meant.quantization
            if meant.entry:
                advice.answering(meant, picture.held(meant), quantization)
            elif quantization:
                raise UnknownQuantization(meant.name, ())
            else:
                self._check_answers(meant.name, picture.inventory.get(meant.name))
            check = self._fit_now(picture, meant.name, quantization).check
            if require_fit and not check.compatible:
                ways = [way.text for way in check.ways]
                raise InsufficientVram(
                    meant.name, check.need.total, check.available_bytes, check.need.context_tokens, ways
                )
            if meant.entry:
                seen, copied = self._made_to_answer(picture, meant, quantization, seen)
            after = self._change(lambda before: with_selected(with_seen(before, seen, copied), meant.name))
        logger.info("model selected name=%s previous=%s", meant.name, after.previous_model)
        warnings, loaded = [] if check.compatible else [check.message], None
        if load:
            try:
                loaded = self.load_model(meant.name)
            except ModelManagerError as error:
                warnings.append(f"It is the current model, but could not be loaded: {error}")
            else:
                warnings += [warning.text for warning in loaded.warnings]
        return Selection(meant.name, after.previous_model, self.info(meant.name), tuple(warnings), loaded)

    def switch_model(self, name: str) -> bool:
        """Make a model that is there the current one; say whether that happened. The log has the reason if not."""
        try:
            self.select_model(name)
        except ModelManagerError as error:
            logger.warning("switch refused name=%s reason=%s", name, error)
            return False
        return True

    # --- what is in memory -------------------------------------------------------------------------------------------

    def running(self) -> list[Running]:
        """Return what Ollama has in memory, with what it counted beside our estimate. Raises OllamaUnavailable."""
        self._pictures.ask()
        runners = self._machine.runners.ask()
        picture = self._pictures.counted(runners)
        return [picture.running(runner, self._machine.has_card()) for runner in runners]

    def load_model(
        self,
        name: str,
        keep_alive: KeepAlive = None,
        *,
        context_tokens: int | None = None,
        on_phase: Callable[[Phase], object] = lambda phase: None,
    ) -> Loaded:
        """Bring an installed model into memory, wait until it is there, and say where it lies.

        keep_alive      how long it stays after its last use: seconds, or "5m"; below zero for ever; None: as it is
        context_tokens  once it is loaded, it is used with so much; None: as before, 4096 at first
        on_phase        is told what is waited for

        Raises ModelNotInstalled, ModelLacksCapability, ModelNotFound, InvalidRequest, OllamaUnavailable, StoreError.
        """
        loading.check_keep_alive(keep_alive)
        if context_tokens is not None:
            advice.check_context(context_tokens)
        with self._undisturbed():
            meant, held = self._loadable(name)
        asked = context_tokens or self.context_of(meant.name)
        done = self._machine.runners.load(meant.name, held.digest, asked, keep_alive, on_phase)
        self._machine.has_changed()
        longest = held.context_tokens or (meant.entry.context_tokens if meant.entry else None)
        got = loading.context_got(asked, done.runner, longest)
        if context_tokens is not None:
            # Not before: a context with which it cannot be loaded would fail everybody who asks from then on.
            self._change(lambda document: with_context(document, meant.name, got, MODEL_CATALOG))
        picture = self._pictures.counted(self._machine.runners.look(), {held.digest: done.seconds})
        now = picture.running(done.runner, self._machine.has_card()) if done.runner else None
        is_new = context_tokens is not None
        return loading.loaded(
            meant.name, done.seconds, done.was_loaded, asked, now, got_tokens=got, is_new_context=is_new
        )

    def unload_model(self, name: str) -> Unloaded:
        """Take a model out of memory, whichever of its names it was loaded under, and wait until it has gone.

        Raises ModelNotFound, ModelNotInstalled, OllamaUnavailable.
        """
        picture, _ = self._pictures.ask()
        meant = picture.known(name)
        digests = picture.digests(meant)
        if not digests:
            raise ModelNotInstalled(meant.name)
        # Not by the name that Ollama lists: it may have been deleted since, or be another model's by now.
        names_of_it = [picture.inventory.of_digest(digest)[0].name for digest in sorted(digests)]
        done = self._machine.runners.unload(names_of_it, digests)
        self._machine.has_changed()
        return loading.unloaded(meant.name, done.was_loaded, done.is_gone)

    def context_of(self, name: str) -> int:
        """Return how many tokens of context a model is loaded and asked with."""
        return self._pictures.last().context_of(name)

    def _loadable(self, name: str) -> tuple[Meant, InstalledModel]:
        """Return what is meant, its id made to answer, and what of Ollama's stands under it.

        Raises ModelNotInstalled, ModelLacksCapability, ModelNotFound.
        """
        picture, seen = self._pictures.ask()
        meant = picture.known(name)
        if meant.entry is None or (meant.quantization and meant.quantization != picture.held(meant).quantization):
            there = self._check_answers(meant.name, picture.inventory.get(name), meant.quantization)
            return Meant(there.name), there
        source = advice.answering(meant, picture.held(meant), None)
        seen, copied = self._made_to_answer(picture, meant, None, seen)
        self._change(lambda document: with_seen(document, seen, copied))
        return meant, source

    def _count_in_passing(self, runner: RunningModel, load_seconds: float | None) -> None:
        """Remember what Ollama counts of a model that a benchmark has loaded; the benchmark goes on in any case."""
        self._machine.has_changed()
        try:
            self._pictures.counted((runner,), {} if load_seconds is None else {runner.digest: load_seconds})
        except StoreError as error:
            logger.warning("not remembered what a loaded model takes name=%s reason=%s", runner.name, error)

    # --- fetching and removing ---------------------------------------------------------------------------------------

    def start_download(self, name: str, quantization: str | None = None, *, force: bool = False) -> DownloadJob:
        """Return the job that brings a model, queued or running; one that has ended at once if it is there already.

        Raises ModelNotPublished, UnknownQuantization, NameTaken, InvalidModelName, RegistryNotAllowed,
        OllamaUnavailable, StoreError.
        """
        return self._begun(name, quantization, force, None)

    def _begun(self, name: str, quantization: str | None, force: bool, listener: Listener | None) -> DownloadJob:
        looked_at = None if force else _now()
        picture, seen = self._pictures.ask()
        meant, wanted = self._desired(picture, name, quantization)
        if not force and self._is_there(picture, meant, quantization, seen):
            return _finished(wanted)
        running = self._worker.joined(wanted, listener)
        if running is not None:
            return running
        planned, survey = self._planned(picture, meant, wanted)
        check_room(planned, force=force)
        return self._worker.start(_as_surveyed(wanted, survey), listener, looked_at=looked_at)

    def plan_download(self, name: str, quantization: str | None = None) -> DownloadPlan:
        """Return what a download would fetch, whether there is room for it, and what to know before; fetch nothing.

        Raises what start_download raises, except for InsufficientDisk: the plan says it.
        """
        picture, _ = self._pictures.ask()
        meant, wanted = self._desired(picture, name, quantization)
        return self._planned(picture, meant, wanted)[0]

    def _desired(self, picture: Picture, name: str, quantization: str | None) -> tuple[Meant, Wanted]:
        tag = names.downloadable(name, self._registries)
        meant = picture.literal(name)
        wanted = _wanted(meant, tag.display, quantization)
        # A custom entry came with a document, and its tags are whatever stood there.
        names.downloadable(wanted.tag, self._registries)
        held = picture.held(meant)
        if held.own_model and held.under_id:
            raise NameTaken(meant.name, held.under_id.digest)
        return meant, wanted

    def _planned(self, picture: Picture, meant: Meant, wanted: Wanted) -> tuple[DownloadPlan, Survey]:
        survey = self._surveyor.survey(names.parse(wanted.tag))
        if survey.is_missing:
            raise RegistryModelMissing(wanted.tag, names.parse(wanted.tag).host)
        total = survey.manifest.total_bytes if survey.manifest else wanted.expected_bytes
        check = self._fit_of(meant, wanted.quantization, total)
        planned = plans.plan(
            wanted.model,
            wanted.tag,
            wanted.quantization,
            manifest=survey.manifest,
            present=survey.present,
            catalogue_bytes=wanted.expected_bytes,
            room=survey.room,
            already_installed=picture.inventory.get(wanted.tag) is not None,
            memory=check.model_dump(mode="json") if check else None,
            license=meant.entry.license if meant.entry else None,
            warnings=plans.warnings(meant.entry, check, survey.manifest, survey.room),
        )
        return planned, survey

    def _fit_of(self, meant: Meant, quantization: str | None, size_bytes: int | None) -> FitCheck | None:
        profile = advice.profile_before(meant.entry, quantization, size_bytes)
        return fit.check_fit(self._wish(), meant.name, quantization, profile) if profile else None

    def pull_model(
        self,
        name: str,
        progress_callback: Callable[[dict[str, Any]], object] | None = None,
        quantization: str | None = None,
        *,
        force: bool = False,
    ) -> DownloadJob:
        """Fetch a model, wait until it is there, and return the completed job.

        progress_callback  gets Ollama's own objects, one a line; what it raises is logged once and harms nothing

        Raises what start_download raises, and DownloadFailed or a more telling error when the download ended otherwise.
        """
        listener, report = Listener(), _Callback(progress_callback)
        job = self._begun(name, quantization, force, listener)
        for _ in range(MOST_TAKEOVERS):
            if job.state is DownloadState.COMPLETED:
                return job
            for event in self._worker.events(job.id, listener):
                report(event)
            job = self._worker.get(job.id)
            if job.state is not DownloadState.INTERRUPTED or self._worker.closed:
                break
            # Whoever had it has gone, or could not write down its end; the caller still wants the model.
            job = self._worker.resume(job.id, listener.meet)
        if problem := downloads.failure_of(job):
            raise problem
        return job

    def download_model(
        self,
        name: str,
        progress_callback: Callable[[dict[str, Any]], object] | None = None,
        quantization: str | None = None,
    ) -> tuple[bool, str]:
        """Fetch a model and wait until it is there; return whether it is, and a sentence for a person."""
        try:
            job = self.pull_model(name, progress_callback, quantization)
        except ModelManagerError as error:
            return False, str(error)
        is_usual = job.quantization == advice.DEFAULT_QUANTIZATION
        what = job.model if is_usual else memory.label(job.model, job.quantization)
        return True, f"{what} was there already." if job.already_installed else f"{what} is installed."

    def downloads(self) -> list[DownloadJob]:
        """Return every download that is on record, in the order in which they were asked for."""
        return self._worker.all()

    def download(self, job_id: str, *, since: int | None = None, wait_s: float = 0.0) -> DownloadJob:
        """Return one download; with `since`, wait up to wait_s for a version past it. Raises DownloadNotFound."""
        if since is None and wait_s:
            since = self._worker.get(job_id).version
        return self._worker.wait(job_id, since, wait_s) if since is not None else self._worker.get(job_id)

    def follow_download(self, job: DownloadJob) -> Iterable[DownloadJob]:
        """Yield a download now and after each change, the last time when nobody works on it any more."""
        return [job] if job.already_installed else self._worker.follow(job.id)

    def resume_downloads(self) -> list[DownloadJob]:
        """Take over every download that was interrupted, also by the end of another process."""
        return self._worker.resume_interrupted()

    def owns_job(self, job_id: str) -> bool:
        """Return whether a download or a benchmark is at work in this process, and ends with it."""
        return self._worker.owns(job_id) or self._benchmarks.owns(job_id)

    def watching_jobs(self) -> AbstractContextManager[EventHub]:
        """Return a context in which a hub tells every change of every job, also of other processes."""
        return self._watch.watching()

    def end_watching(self) -> None:
        """Send everybody home who watches jobs: the end has begun."""
        self._watch.close()

    def pause_download(self, job_id: str) -> DownloadJob:
        """Let a download rest; Ollama keeps what it has. Raises InvalidTransition, DownloadNotFound, StoreError."""
        return self._worker.stop(job_id, "pause")

    def cancel_download(self, job_id: str) -> DownloadJob:
        """End a download for good; it says what stays. Raises InvalidTransition, DownloadNotFound, StoreError."""
        return self._worker.stop(job_id, "cancel")

    def resume_download(self, job_id: str) -> DownloadJob:
        """Go on with a download that rests or ended without the model. Raises InvalidTransition, DownloadNotFound."""
        job = self._worker.get(job_id)
        if job.state not in downloads.OWNED:
            downloads.check_wish(job, "resume")
        return self._worker.resume(job_id)

    def move_download(self, job_id: str, position: int) -> DownloadJob:
        """Put a waiting download at another place; 0 is next. Raises InvalidTransition, DownloadNotFound."""
        return self._worker.move(job_id, position)

    def forget_download(self, job_id: str) -> DownloadJob:
        """Take a download that has ended off the record. Raises InvalidTransition, DownloadNotFound."""
        return self._worker.forget(job_id)

    def remove_model(self, name: str) -> Removal:
        """Delete a model from Ollama: of a catalogue entry its id and its own tags, else the name.

        Raises CannotDeleteCurrent, ModelInUse, ModelNotInstalled, ModelNotFound, OllamaUnavailable.
        """
        with self._undisturbed():
            picture, _ = self._pictures.ask()
            # Before anything else: what is being fetched is not "not installed", and "download it" is no advice.
            if job := downloads.in_the_way(self._worker.all(), picture.literal(name).name):
                raise ModelInUse(job.model, job.id)
            model, going = picture.going(name)
            if measuring := benchmarks.in_the_way(self._benchmarks.all(), going):
                raise ModelInUse(model, measuring.id, "benchmark")
            self._unload(going, picture.inventory)
            for one in going:
                self._delete(one)
            after = self._inventory.ask()
            self._change(lambda document: with_seen(document, after))
        logger.info("model deleted name=%s names=%s", model, ",".join(going))
        return Removal(model, tuple(going), installed.freed_bytes(going, picture.inventory, after.inventory))

    def delete_model(self, name: str) -> tuple[bool, str]:
        """Delete a model from Ollama; return whether that happened, and a sentence for a person."""
        try:
            removal = self.remove_model(name)
        except ModelManagerError as error:
            return False, str(error)
        return True, f"{removal.model} is deleted ({', '.join(removal.names)})."

    def sync(self) -> SyncResult:
        """Ask Ollama what it holds, remember it, and make ids again that were removed. Raises OllamaUnavailable."""
        picture, seen = self._pictures.ask()
        copied: dict[str, str] = {}
        for entry in picture.ids_to_make():
            try:
                seen, made = self._made_to_answer(picture, Meant(entry.name, entry), None, seen)
            except OllamaError as error:
                logger.warning("id not made again name=%s reason=%s", entry.name, error)
            else:
                copied |= made
        after = self._change(lambda before: with_seen(before, seen, copied))
        self._pictures.described(self._pictures.look()[0])
        was = {name for name, model in picture.document.models.items() if model.installed}
        now = {name for name, model in after.models.items() if model.installed}
        return SyncResult(tuple(sorted(now)), tuple(sorted(now - was)), tuple(sorted(was - now)))

    def sync_with_ollama(self) -> bool:
        """Ask Ollama what it holds and remember it; say whether that worked. The log has the reason if not."""
        try:
            self.sync()
        except ModelManagerError as error:
            logger.warning("sync failed reason=%s", error)
            return False
        return True

    _sync_with_ollama = sync_with_ollama

    # --- measuring ---------------------------------------------------------------------------------------------------

    def start_benchmark(
        self,
        models: Iterable[str],
        prompts: Iterable[str] | None = None,
        photos: Iterable[bytes | str | PathLike[str]] | None = (),
        runs: int | None = None,
        *,
        answer_tokens: int = DEFAULT_ANSWER_TOKENS,
        context_tokens: int = memory.DEFAULT_CONTEXT_TOKENS,
        seed: int = DEFAULT_SEED,
    ) -> Benchmark:
        """Return the job that measures installed models on the same prompts, queued or running.

        prompts  None: a rating, keywords and a short critique, as AutoDev asks for them
        photos   a list of files, or of their bytes; each prompt is asked with each, of models that can see; None: none

        Raises InvalidRequest, ModelNotInstalled, BenchmarkUnsuitable, ModelNotFound, OllamaUnavailable, StoreError.
        """
        seen_photos = _photos(photos)
        asked = benchmarks.check(models, prompts, seen_photos, runs, answer_tokens, context_tokens, seed)
        with self._undisturbed():
            picture, seen = self._pictures.ask()
            measured = [
                self._measured(picture, name, f"models.{place}", with_photos=bool(seen_photos))
                for place, name in enumerate(asked.models)
            ]
            benchmarks.check_distinct(measured)
            fits = [self._fit_now(picture, name, context_tokens=asked.context_tokens) for name in asked.models]
            wanted = Benchmark(
                id="",
                models=tuple(measured),
                prompts=asked.prompts,
                photos=tuple(map(benchmarks.photo_of, seen_photos)),
                runs=asked.runs,
                answer_tokens=asked.answer_tokens,
                context_tokens=asked.context_tokens,
                seed=asked.seed,
                warnings=tuple(fit.check.message for fit in fits if not fit.check.compatible),
                gpu=fits[0].criteria.machine.gpu,
                ollama_version=seen.version,
                simulated=seen.simulated,
            )
            return self._benchmarks.start(wanted, seen_photos)

    def _measured(self, picture: Picture, name: str, field: str, *, with_photos: bool) -> BenchmarkModel:
        """Return a model as it is measured; field is where its name was given.

        Raises InvalidModelName, ModelNotFound, ModelNotInstalled, BenchmarkUnsuitable.
        """
        with _told_of(field):
            told, found = picture.answering(name)
        able = self._abilities(found)
        for capability in (ANSWERING, SEEING) if with_photos else (ANSWERING,):
            if able is not None and capability not in able:
                raise BenchmarkUnsuitable(told, capability, able)
        return BenchmarkModel(
            name=told,
            ollama_name=picture.steady_name(name, found),
            digest=found.digest,
            quantization=found.quantization_level,
            size_bytes=found.size_bytes,
            thinks="thinking" in (able or ()),
        )

    def _check_answers(
        self, name: str, model: InstalledModel | None, quantization: str | None = None
    ) -> InstalledModel:
        """Return the model. Raises ModelNotInstalled, ModelLacksCapability for one that only makes embeddings."""
        if model is None:
            raise ModelNotInstalled(name, quantization)
        able = self._abilities(model)
        if able is not None and ANSWERING not in able:
            raise ModelLacksCapability(model.name, ANSWERING, able)
        return model

    def _abilities(self, model: InstalledModel) -> Sequence[str] | None:
        """Return what a model can do; None where Ollama does not know. Raises OllamaError."""
        if model.capabilities is None:  # an Ollama before 0.30 does not tell it in its list
            return self.client.show(model.name).capabilities
        return model.capabilities

    def benchmarks(self) -> list[Benchmark]:
        """Return every benchmark that is kept, in the order in which they were asked for."""
        return self._benchmarks.all()

    def benchmark(self, job_id: str, *, since: int | None = None, wait_s: float = 0.0) -> Benchmark:
        """Return one benchmark; with `since`, wait up to wait_s for a version past it. Raises BenchmarkNotFound."""
        if since is None and wait_s:
            since = self._benchmarks.get(job_id).version
        return self._benchmarks.wait(job_id, since, wait_s) if since is not None else self._benchmarks.get(job_id)

    def follow_benchmark(self, job: Benchmark) -> Iterable[Benchmark]:
        """Yield a benchmark now and after each change, the last time when nobody works on it any more."""
        return self._benchmarks.follow(job.id)

    def cancel_benchmark(self, job_id: str) -> Benchmark:
        """End a benchmark; what was measured is kept. Raises InvalidTransition, BenchmarkNotFound, StoreError."""
        return self._benchmarks.stop(job_id, "cancel")

    def resume_benchmark(self, job_id: str) -> Benchmark:
        """Go on with a benchmark that was interrupted. Raises InvalidTransition, BenchmarkNotFound, StoreError."""
        job = self._benchmarks.get(job_id)
        if job.state not in benchmarks.OWNED:
            benchmarks.KIND.check_wish(job, "resume")
        return self._benchmarks.resume(job_id)

    def resume_benchmarks(self) -> list[Benchmark]:
        """Take over every benchmark that was interrupted, also by the end of another process."""
        return self._benchmarks.resume_interrupted()

    def compare_benchmarks(self, job_ids: Sequence[str]) -> BenchmarkComparison:
        """Return benchmarks that asked the same at different times side by side.

        Raises InvalidRequest where they asked different things, BenchmarkNotFound.
        """
        return benchmark_comparison.compare([self.benchmark(one) for one in benchmark_comparison.check_ids(job_ids)])

    def forget_benchmark(self, job_id: str) -> Benchmark:
        """Take a benchmark that has ended off the record. Raises InvalidTransition, BenchmarkNotFound."""
        return self._benchmarks.forget(job_id)

    # --- advice ------------------------------------------------------------------------------------------------------

    def hardware(self) -> Hardware:
        """Return what the machine that Ollama runs on has, as far as it can be known; it never waits for long."""
        return self._machine.hardware()

    def budget(self, available_vram_gb: float | None = None, *, on_processor: bool = False) -> Budget:
        """Return how much memory advice counts on now, and who says so.

        on_processor  the figure is of RAM, on a machine without a card

        Raises InvalidRequest.
        """
        asked = None if available_vram_gb is None else advice.gib_as_bytes(available_vram_gb, "available_vram_gb")
        return self._machine.budget(asked, on_processor=on_processor)

    def recommend(
        self,
        available_vram_gb: float | None = None,
        priority: str = "balanced",
        *,
        context_tokens: int = memory.DEFAULT_CONTEXT_TOKENS,
        needs: Sequence[str] = (),
        installed_only: bool | None = None,
        kv_type: str = memory.KvType.F16,
        parallel: int = 1,
        on_processor: bool = False,
    ) -> Recommendation:
        """Return the models that suit, the best first, each with its reasons; and what was not chosen, and why not.

        available_vram_gb  in GiB; 0 means none; None: what is free now, and the answer says what that was made of
        kv_type, parallel  how Ollama is set up: its cache, and how many requests it serves at once
        on_processor       the figure is of RAM, on a machine without a card

        Raises NoSuitableModel, InvalidRequest.
        """
        found = self.budget(available_vram_gb, on_processor=on_processor)
        criteria = advice.criteria(
            found, priority, context_tokens, needs, installed_only, kv_type=kv_type, parallel=parallel
        )
        return recommender.recommend(self._pictures.advising(found.machine.gpu).candidates(), criteria)

    def recommend_model(self, available_vram_gb: float | None = None, priority: str = "balanced") -> str | None:
        """Return the name of the model that suits best, None if none does. Raises InvalidRequest."""
        try:
            return self.recommend(available_vram_gb, priority).best.model
        except NoSuitableModel:
            return None

    def check_fit(
        self,
        name: str,
        available_vram_gb: float | None = None,
        *,
        quantization: str | None = None,
        context_tokens: int | None = None,
        kv_type: str = memory.KvType.F16,
        parallel: int = 1,
    ) -> Fit:
        """Say whether a model lies on the card as a whole, with the parts of its need and what would make it fit.

        quantization    None: the one that is installed, else 4-bit
        context_tokens  None: what the model is used with, 4096 at first

        Raises ModelNotFound, UnknownQuantization, InvalidRequest.
        """
        found = self.budget(available_vram_gb)
        picture = self._pictures.advising(found.machine.gpu)
        context = picture.context_of(name) if context_tokens is None else context_tokens
        wish = advice.criteria(found, "balanced", context, (), None, kv_type=kv_type, parallel=parallel)
        return picture.fit(name, quantization, wish)

    def check_model_compatibility(self, name: str, available_vram_gb: float | None = None) -> tuple[bool, str]:
        """Say whether a model lies on the card as a whole, and why, in a sentence."""
        try:
            fit = self.check_fit(name, available_vram_gb)
        except ModelManagerError as error:
            return False, str(error)
        return fit.check.compatible, fit.check.message

    # --- how well it does --------------------------------------------------------------------------------------------

    def record_usage(
        self,
        name: str,
        inference_time: float | None,
        success: bool = True,
        *,
        tokens: int | None = None,
        quality_score: float | None = None,
        task: str | None = None,
    ) -> None:
        """Count one inference; it is on disk when this returns.

        inference_time  seconds; 0 or None counts the use without a time
        tokens          of the answer; with the time they give tokens a second
        quality_score   0 to 5
        task            what it was for, in a few words; figures are kept of 50 tasks a model

        Raises InvalidRequest for impossible values, ModelNotFound for a model that nobody has heard of, StoreError.
        """
        told = {"tokens": tokens, "quality_score": quality_score, "task": task}
        self._record([(name, usage.check_event(inference_time, success, _now(), **told))])

    def record_events(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Count several inferences, all or none, and return how many.

        events  what POST /usage takes, such as {"model": "llama3.2:1b-instruct", "inference_time": 1.4, "tokens": 90}

        Raises InvalidRequest and ModelNotFound, which name the field with its place, such as 3.tokens; StoreError.
        """
        if isinstance(events, Mapping | str | bytes) or not isinstance(events, Iterable):
            raise InvalidRequest("events", "must be a list of uses", "Put a single one into a list.")
        at = _now()
        return self._record([_checked_event(place, event, at) for place, event in enumerate(events)], is_list=True)

    def _record(self, events: Sequence[tuple[Any, Event]], *, is_list: bool = False) -> int:
        document = self.store.read()
        # The usual case asks nobody: recording must cost the same whether Ollama answers or not.
        if all(isinstance(name, str) and name in document.models for name, _ in events):
            moved = self._seen_moved(document, {name for name, _ in events})
            self._change(lambda now: with_events(with_seen(now, moved) if moved else now, events, MODEL_CATALOG))
        else:
            picture, seen = self._pictures.look()
            found = [
                (_known_name(picture, name, f"{place}.model" if is_list else None), event)
                for place, (name, event) in enumerate(events)
            ]
            # With what Ollama holds comes the digest that the figures of a model not yet on record belong to.
            self._change(lambda document: with_events(with_seen(document, seen), found, MODEL_CATALOG))
        return len(events)

    def _seen_moved(self, document: Document, models: Collection[str]) -> Seen | None:
        """Return what was seen of Ollama where it has put other weights under one of these names since."""
        seen = self._inventory.last()
        if seen is None or (seen.checked_at or "") <= (document.ollama.checked_at or ""):
            return None
        held = {name: seen.inventory.get(name) for name in models}
        has_moved = any(there and there.digest != document.models[name].digest for name, there in held.items())
        return seen if has_moved else None

    def statistics(self, name: str) -> Statistics:
        """Return what is on record of one model; nothing but zeros before its first use. Raises ModelNotFound."""
        picture, _ = self._pictures.look()
        return picture.statistics(picture.known(name).name, _today())

    def get_model_statistics(self, name: str) -> dict[str, Any] | None:
        """Return what is on record of one model, None if there is no such model."""
        found = _or_none(lambda: self.statistics(name))
        return found.model_dump() if found else None

    def all_statistics(self) -> dict[str, Statistics]:
        """Return what is on record of every model."""
        (picture, _), today = self._pictures.look(), _today()
        return {name: picture.statistics(name, today) for name in picture.records}

    def get_all_statistics(self) -> dict[str, dict[str, Any]]:
        """Return what is on record of every model, as plain values."""
        return {name: found.model_dump() for name, found in self.all_statistics().items()}

    def compare(self, models: Sequence[str], metrics: Sequence[str] | None = None) -> Comparison:
        """Return what is on record of 2 to 10 models side by side, and in what one is ahead by more than chance.

        metrics  of success_rate, inference_time, tokens_per_second, quality_score, usage_count; None: all of them

        Raises InvalidRequest, ModelNotFound.
        """
        wanted, said = comparison.check_metrics(metrics), comparison.check_models(models)
        picture, _ = self._pictures.look()
        meant = [_known_name(picture, name, f"models.{place}") for place, name in enumerate(said)]
        comparison.check_different(said, meant)
        return comparison.compare({name: picture.usage_of(name) for name in meant}, wanted)

    # --- care of the data --------------------------------------------------------------------------------------------

    def export_document(self) -> dict[str, Any]:
        """Return the document as plain values, with the moment, who wrote it, and a checksum."""
        return exchange.export(self.store.read(), _now(), simulated=self.is_simulated())

    def import_document(
        self, raw: bytes, mode: exchange.Mode = "merge", *, dry_run: bool = False
    ) -> exchange.ImportResult:
        """Take over an exported document, or only say what that would change.

        Raises InvalidRequest for what is no document of ours, StoreError.
        """
        theirs = _read_document(raw)
        before = self.store.read()
        if dry_run:
            return exchange.compare(before, exchange.merged(before, theirs, mode), mode, dry_run=True)
        results: list[exchange.ImportResult] = []

        def change(document: Document) -> Document:
            after = exchange.merged(document, theirs, mode)
            results.append(exchange.compare(document, after, mode, dry_run=False))
            return after

        self._change(change)
        logger.info(
            "document imported mode=%s added=%d updated=%d", mode, len(results[-1].added), len(results[-1].updated)
        )
        return results[-1]

    def export_metadata(self, path: str | PathLike[str]) -> bool:
        """Write the document to a file; say whether that worked. The log has the reason if not."""
        try:
            text = json.dumps(self.export_document(), indent=2, ensure_ascii=False)
            Path(path).write_text(text + "\n", "utf-8")
        except (OSError, ModelManagerError) as error:
            logger.warning("export failed path=%s reason=%s", path, error)
            return False
        return True

    def import_metadata(self, path: str | PathLike[str]) -> bool:
        """Take over an exported file; say whether that worked. The log has the reason if not."""
        try:
            self.import_document(Path(path).read_bytes())
        except (OSError, ModelManagerError) as error:
            logger.warning("import failed path=%s reason=%s", path, error)
            return False
        return True

    def health(self) -> dict[str, Any]:
        """Return how each part is: {"ready": bool, "parts": {name: {"ok": bool, "problem": words or null, facts…}}}."""
        store = self.store.health()
        parts: dict[str, dict[str, Any]] = {
            "store": {"problem": store.problem, "path": store.path, "writable": store.writable}
        }
        if store.set_aside:
            parts["store"]["set_aside"] = list(store.set_aside)
        try:
            parts |= self._health_of_the_rest()
        except StoreError as error:  # the document cannot be read at all, and it says what there is to know
            parts["store"] |= {"problem": store.problem or str(error), "writable": False}
        for part in parts.values():
            part["ok"] = part["problem"] is None
        ready = parts["store"]["writable"] and bool(parts.get("ollama", {}).get("ok"))
        return {"ready": ready, "parts": parts}

    def diagnose(self) -> Diagnosis:
        """Look at everything, and say of each what is well, and what to do if not. Raises StoreUnreadable."""
        looked, found = self.hardware(), self.budget()
        picture, seen = self._pictures.advising(found.machine.gpu), self.seen()
        store, current = self.store.health(), picture.document.current_model
        running = [picture.running(runner, self._machine.has_card()) for runner in self._machine.loaded()]
        return doctor.diagnose(
            Facts(
                address=self.client.address,
                reachable=bool(seen.reachable),
                version=seen.version,
                simulated=seen.simulated,
                ollama_problem=str(seen.error) if seen.error else None,
                hardware=looked,
                budget=found,
                document_path=store.path,
                document_writable=store.writable,
                document_problem=store.problem,
                current=picture.stored(current) if current else None,
                heard=seen.checked_at is not None,
                current_installed=bool(current and picture.is_installed(current)),
                current_fit=self._fit_now(picture, current) if current and picture.is_installed(current) else None,
                contexts={model.name: picture.context_of(model.name) for model in running},
                ids_missing=[entry.name for entry in picture.ids_to_make()] if seen.reachable else [],
                own_models=[name for name, held in picture.shown.entries.items() if held.own_model],
                running=running,
                unfinished=self._interrupted(),
                advised=self._advised(),
            )
        )

    def _advised(self) -> Recommended | None:
        try:
            return self.recommend().best
        except NoSuitableModel:
            return None

    def _interrupted(self) -> list[DownloadJob]:
        return [job for job in self._worker.all() if job.state is DownloadState.INTERRUPTED]

    def _health_of_the_rest(self) -> dict[str, dict[str, Any]]:
        picture, seen = self._pictures.look()
        unfinished = self._interrupted()
        return {
            "ollama": {"problem": str(seen.error) if seen.error else None, "version": seen.version},
            "current_model": {"problem": _problem_of_current(picture, seen), "model": picture.document.current_model},
            "downloads": {"problem": _unfinished(unfinished), "unfinished": [job.id for job in unfinished]},
            "benchmarks": self._health_of_benchmarks(),
        }

    def _health_of_benchmarks(self) -> dict[str, Any]:
        problem = self._benchmarks.health().problem
        if problem:
            return {"problem": problem, "unfinished": []}
        left = [job.id for job in self._benchmarks.all() if job.state is BenchmarkState.INTERRUPTED]
        told = f"{len(left)} benchmarks did not finish ({', '.join(left)}). Resume or cancel them." if left else None
        return {"problem": told, "unfinished": left}

    def close(self) -> None:
        """Let go of running jobs (they go on another time) and of the connections to Ollama and the registry."""
        self.end_watching()
        self._benchmarks.close()
        self._worker.close()
        self.store.close()
        self._registry.close()
        self.client.close()

    # --- the same for all --------------------------------------------------------------------------------------------

    def _change(self, function: Callable[[Document], Document]) -> Document:
        """Change the document, and count and date the change. Returns it as it is on disk after that."""
        at = _now()

        def dated(document: Document) -> Document:
            after = function(document)
            if after is document:
                return document
            return after.model_copy(update={"last_updated": at, "revision": document.revision + 1})

        return self.store.change(dated)

    def _with_completed(self, document: Document, job: DownloadJob, seen: Seen) -> Document:
        there = seen.inventory.get(job.model)
        copied = {job.model: there.digest} if there and job.model != job.tag else {}
        return with_seen(document, seen, copied)

    # --- parts of the use cases --------------------------------------------------------------------------------------

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Let nobody, in whichever process, delete what is being selected. Raises StoreBusy, StoreUnwritable."""
        lock = self._worker.files.models()
        if not lock.acquire(MODELS_WAIT_S):
            raise StoreBusy(
                f"Another program has been switching or deleting a model for {MODELS_WAIT_S:.0f} s.",
                "Try again in a moment.",
                path=str(lock.path),
            )
        try:
            yield
        finally:
            lock.release()

    def _fit_now(
        self, picture: Picture, name: str, quantization: str | None = None, context_tokens: int | None = None
    ) -> Fit:
        return picture.fit(name, quantization, self._wish(context_tokens or picture.context_of(name)))

    def _wish(self, context_tokens: int = memory.DEFAULT_CONTEXT_TOKENS) -> Criteria:
        return advice.criteria(self.budget(), "balanced", context_tokens, (), None)

    def _made_to_answer(
        self, picture: Picture, meant: Meant, quantization: str | None, seen: Seen
    ) -> tuple[Seen, dict[str, str]]:
        """See to it that an entry's id is there and points to the form that is meant; return what was copied."""
        source = advice.answering(meant, picture.held(meant), quantization)
        under_id = picture.inventory.get(meant.name)
        if under_id and under_id.digest == source.digest:
            return seen, {}
        self.client.copy(source.name, meant.name)
        return self._inventory.ask(), {meant.name: source.digest}

    def _is_there(self, picture: Picture, meant: Meant, quantization: str | None, seen: Seen) -> bool:
        """Say whether nothing needs to be fetched; an id that alone is missing is made."""
        quantization = quantization or meant.quantization
        held, copied = picture.held(meant), dict[str, str]()
        if meant.entry is None:
            there = picture.inventory.get(meant.name) is not None
        else:
            there = held.installed if quantization is None else quantization in (held.by_quantization or {})
            if there:
                seen, copied = self._made_to_answer(picture, meant, quantization, seen)
        if there:
            self._change(lambda document: with_seen(document, seen, copied))
        return there

    def _registry_at(self, host: str) -> str:
        # A simulated Ollama fetches from itself; the real registry knows nothing of what it has.
        return self.client.address if self.is_simulated() else https(host)

    def _disk(self) -> Room:
        # Of another machine's disk, and of a simulated one, nothing is known.
        return ollama_disk() if self.client.is_local and not self.is_simulated() else Room()

    def _is_taken(self, inventory: Inventory, name: str) -> bool:
        picture = Picture(MODEL_CATALOG, self.store.read(), inventory)
        return picture.held(picture.literal(name)).own_model

    def _unload(self, going: Sequence[str], inventory: Inventory) -> None:
        """Have Ollama take the names out of memory first: once deleted, they cannot be unloaded by name any more."""
        digests = [held.digest for name in going if (held := inventory.get(name))]
        try:
            # Only what was loaded under these very names: another name of the same weights may go on.
            loaded = [r.name for r in self._machine.runners.ask() if any(names.same(r.name, name) for name in going)]
            self._machine.runners.unload(loaded, digests)
        except OllamaError as error:
            logger.warning("unload before deletion failed reason=%s", error)

    def _delete(self, name: str) -> None:
        try:
            self.client.delete(name)
        except OllamaModelMissing:
            logger.info("deleted already by somebody else name=%s", name)


class _Callback:
    """The caller's own function: what it raises is logged once, and harms nothing."""

    def __init__(self, function: Callable[[dict[str, Any]], object] | None) -> None:
        self._function, self._complained = function, False

    def __call__(self, event: dict[str, Any]) -> None:
        if self._function is None:
            return
        try:
            self._function(event)
        except Exception:
            if not self._complained:
                logger.exception("the progress callback raised; the download goes on")
            self._complained = True


def _wanted(meant: Meant, tag: str, quantization: str | None) -> Wanted:
    """Return what a download brings. Raises UnknownQuantization, ModelNotPublished."""
    if meant.entry is None:
        if quantization:
            raise UnknownQuantization(meant.name, ())
        return Wanted(tag, tag, None, None, None, is_estimate=False)
    variant = advice.variant_of(meant.entry, quantization or meant.quantization)
    copy_to = None if names.same(variant.tag, meant.name) else meant.name
    # The catalogue's figure stays an estimate: a tag of the library can move.
    return Wanted(meant.name, variant.tag, variant.quantization, copy_to, variant.size_bytes, is_estimate=True)


def _as_surveyed(wanted: Wanted, survey: Survey) -> Wanted:
    """Return a wish with what the registry and Ollama said of it."""
    if survey.manifest is None:
        return wanted
    layers = {
        layer.digest: LayerProgress(
            digest=layer.digest,
            total_bytes=layer.size_bytes,
            downloaded_bytes=layer.size_bytes if layer.digest in survey.present else 0,
        )
        for layer in survey.manifest.layers
    }
    return replace(wanted, expected_bytes=survey.manifest.total_bytes, is_estimate=False, layers=tuple(layers.values()))


def _finished(wanted: Wanted) -> DownloadJob:
    at = _now()
    return DownloadJob(
        id=secrets.token_hex(6),
        model=wanted.model,
        tag=wanted.tag,
        quantization=wanted.quantization,
        state=DownloadState.COMPLETED,
        phase=pull_progress.DONE,
        percent=100.0,
        already_installed=True,
        started_at=at,
        updated_at=at,
        finished_at=at,
    )


def _problem_of_current(picture: Picture, seen: Seen) -> str | None:
    name = picture.document.current_model
    if name is None or not seen.reachable or picture.is_installed(name):
        return None
    return f"{name} is selected, but Ollama does not hold it. Download it, or switch to another model."


def _now() -> str:
    return times.to_text(datetime.now(UTC))


def _today() -> str:
    return _now()[:10]


def _or_none(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except (ModelNotFound, InvalidRequest):
        return None


def _photos(photos: Any) -> list[bytes]:
    """Return the bytes of photos. Raises InvalidRequest for what is no list, or cannot be read."""
    if photos is None:
        return []
    # A path is a list of letters, too, and bytes are one of numbers.
    if isinstance(photos, str | bytes | bytearray | memoryview) or not isinstance(photos, Iterable):
        raise InvalidRequest("photos", "must be a list of files, or of their bytes", "Put a single one into a list.")
    return [_photo(photo, number) for number, photo in enumerate(photos)]


def _photo(photo: bytes | str | PathLike[str], number: int) -> bytes:
    """Return the bytes of a photo. Raises InvalidRequest for a file that cannot be read, or is too large to be."""
    if isinstance(photo, bytes):
        return photo
    try:
        with Path(photo).open("rb") as file:
            # One byte more than may be: the check says so, and nothing larger is taken in.
            return file.read(benchmarks.LARGEST_PHOTO_BYTES + 1)
    except (OSError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no path"
        raise InvalidRequest(f"photos.{number}", f"cannot be read ({why})") from error


def _known_name(picture: Picture, name: Any, field: str | None = None) -> str:
    """Return what a name means; field is what it was given in, where that is not just the model of the request."""
    with _told_of(field):
        return picture.known(name).name


@contextmanager
def _told_of(field: str | None) -> Iterator[None]:
    """Have what is wrong with a name that stands in a list told of its place there; None: it stands in none."""
    try:
        yield
    except (InvalidRequest, ModelNotFound) as error:
        raise (error if field is None else error.at(field)) from None


# What may be told of one inference, besides its model.
_TOLD_OF_A_USE = ("inference_time", "success", "tokens", "quality_score", "task")
_KNOWN_OF_A_USE = ", ".join(("model", *_TOLD_OF_A_USE))


def _checked_event(place: int, told: Any, at: str) -> tuple[Any, Event]:
    if not isinstance(told, Mapping):
        raise InvalidRequest(str(place), "must be a use by its fields", 'For instance {"model": …, "tokens": 90}.')
    fields = {"inference_time": None, "success": True, **told}
    name = fields.pop("model", None)
    for field in fields:
        if field not in _TOLD_OF_A_USE:
            raise InvalidRequest(f"{place}.{field}", "is not a field of a use", f"Known are {_KNOWN_OF_A_USE}.")
    try:
        return name, usage.check_event(**fields, at=at)
    except InvalidRequest as error:
        raise error.within(str(place)) from None


def _unfinished(jobs: Sequence[DownloadJob]) -> str | None:
    if not jobs:
        return None
    models = ", ".join(job.model for job in jobs)
    return f"{len(jobs)} downloads did not finish ({models}). Download them again to go on."


def _read_document(raw: bytes) -> Document:
    """Return the document that somebody hands in. Raises InvalidRequest with what is wrong."""
    try:
        data = json.loads(raw)
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
        exchange.check(data)
        return read_import(raw, DocumentCodec(MODEL_CATALOG, exchange.installation_of(data), _localize))
    except InvalidRequest:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("document", f"is no exported document ({error})", "Hand in what export wrote.") from error


def _localize(moment: datetime) -> datetime:
    """Old documents wrote the local time of this machine, without a zone."""
    return moment.astimezone(UTC)

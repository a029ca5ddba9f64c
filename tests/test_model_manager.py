"""model_manager: the methods that AutoDev names, in their exact form; each twin says why; nothing is done by half."""

from __future__ import annotations

import errno
import inspect
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

import model_manager
from catalog import MODEL_CATALOG
from json_store import JsonStore
from json_store_system import RealFileSystem
from model_core import errors, hardware
from model_core.document import DocumentCodec
from model_core.hardware import Hardware, MachineMemory
from model_core.records import GIB, ModelMetadata, ModelPurpose
from model_core.simulated_library import make_model
from model_manager import (
    CannotDeleteCurrent,
    DownloadFailed,
    InsufficientDisk,
    InsufficientVram,
    InvalidModelName,
    InvalidRequest,
    ModelInUse,
    ModelLacksCapability,
    ModelManager,
    ModelManagerError,
    ModelNotFound,
    ModelNotInstalled,
    ModelNotPublished,
    NameTaken,
    NoCurrentModel,
    NoSuitableModel,
    OllamaError,
    OllamaUnavailable,
    RegistryNotAllowed,
    StoreUnreadable,
    StoreUnwritable,
    UnknownQuantization,
)
from ollama_simulator import library_from_catalog
from tests.download_scenes import (
    CALM,
    HELD_AT,
    MODEL,
    OTHER,
    OTHER_TAG,
    TAG,
    Answer,
    asked,
    held_up,
    pulls,
    standing,
    until,
)

Q8_TAG = "llama3.2:1b-instruct-q8_0"
UNPUBLISHED = "llama3.1:13b-instruct"
SEED = (MODEL, OTHER, "llama3.1:8b-instruct", UNPUBLISHED, "mixtral:8x7b-instruct", "llama3.1:70b-instruct")


class FullDisk(RealFileSystem):
    """The machine's own file system, which takes no new file while ``is_full``."""

    is_full = False

    def create(self, path: Path) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return super().create(path)

    def may_write(self, folder: Path) -> bool:
        return not self.is_full


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "document.json"


@pytest.fixture
def disk(path):
    """The disk that the document stands on: whoever opens the document afterwards shares the store."""
    disk = FullDisk()
    store = JsonStore.open(path, DocumentCodec(MODEL_CATALOG, "ab" * 8), disk)
    yield disk
    store.close()


@pytest.fixture
def managers(simulator, path):
    """Makes managers on one document and one simulated Ollama."""
    made = []

    def make(url: str = simulator.url, **options) -> ModelManager:
        made.append(ModelManager(url, path, **{"patience": CALM, **options}))
        return made[-1]

    yield make
    simulator.clear_faults()
    for manager in made:
        manager.close()


@pytest.fixture
def manager(managers) -> ModelManager:
    return managers()


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def digests(manager: ModelManager) -> dict[str, str]:
    """What Ollama holds at this moment."""
    return {model.name: model.digest for model in manager.client.tags()}


def own_model(manager: ModelManager, simulator, name: str = MODEL) -> str:
    """Put a model of the user's own there, which shares nothing with the catalogue's; return its digest."""
    simulator.install(OTHER_TAG)
    list(manager.client.create(name, from_model=OTHER_TAG, system="You are somebody else."))
    manager.client.delete(OTHER_TAG)
    return digests(manager)[name]


# --- the form --------------------------------------------------------------------------------------------------------

FORMS = {
    "list_available_models": ["purpose=None", "max_vram_gb=None", "installed_only=False"],
    "list_installed_models": [],
    "get_model_info": ["name"],
    "get_current_model": [],
    "switch_model": ["name"],
    "download_model": ["name", "progress_callback=None", "quantization=None"],
    "delete_model": ["name"],
    "recommend_model": ["available_vram_gb=None", "priority='balanced'"],
    "check_model_compatibility": ["name", "available_vram_gb=None"],
    "record_usage": ["name", "inference_time", "success=True"],
    "get_model_statistics": ["name"],
    "get_all_statistics": [],
    "sync_with_ollama": [],
    "_sync_with_ollama": [],
    "export_metadata": ["path"],
    "import_metadata": ["path"],
}


@pytest.mark.parametrize(("method", "form"), FORMS.items(), ids=FORMS.keys())
def test_a_documented_method_keeps_its_form(method, form):
    parameters = list(inspect.signature(getattr(ModelManager, method)).parameters.values())[1:]
    documented = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in documented]

    assert shown == form
    # What came later is named, and may be left out.
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for p in parameters[len(documented) :])


def test_the_constructor_keeps_its_form():
    host, metadata_file, *rest = list(inspect.signature(ModelManager).parameters.values())

    assert (host.name, host.default) == ("ollama_host", "http://localhost:11434")
    assert (metadata_file.name, Path(metadata_file.default)) == ("metadata_file", Path("data/model_metadata.json"))
    assert {parameter.kind for parameter in rest} == {inspect.Parameter.KEYWORD_ONLY}


def test_every_error_can_be_imported_from_the_manager():
    def below(kind):
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    raised = {kind.__name__ for kind in below(errors.ModelManagerError) if kind.__module__ == errors.__name__}

    assert raised <= set(model_manager.__all__)
    assert all(hasattr(model_manager, name) for name in model_manager.__all__)
    assert {"ModelMetadata", "ModelPurpose", "ModelManager", "MODEL_CATALOG"} <= set(model_manager.__all__)


def test_the_catalogue_is_the_class_s_and_cannot_be_changed():
    assert set(SEED) <= set(ModelManager.MODEL_CATALOG)
    with pytest.raises(TypeError):
        ModelManager.MODEL_CATALOG["mine"] = ModelManager.MODEL_CATALOG[MODEL]
    with pytest.raises(ValueError, match="frozen"):
        ModelManager.MODEL_CATALOG[MODEL].installed = True


def test_what_is_answered_has_the_documented_types(manager, simulator):
    simulator.install(TAG)

    assert all(type(model) is ModelMetadata for model in manager.list_available_models())
    assert manager.list_installed_models() == [MODEL]
    assert type(manager.get_model_info(MODEL)) is ModelMetadata
    assert manager.get_model_info(MODEL).purpose is ModelPurpose.SPEED
    assert manager.switch_model(MODEL) is True
    assert manager.get_current_model() == MODEL
    assert [type(part) for part in manager.download_model(MODEL)] == [bool, str]
    assert [type(part) for part in manager.delete_model(MODEL)] == [bool, str]
    assert manager.recommend_model(8) == "llama3.1:8b-instruct"
    assert [type(part) for part in manager.check_model_compatibility(MODEL, 8)] == [bool, str]
    assert manager.record_usage(MODEL, 1.5) is None
    assert type(manager.get_model_statistics(MODEL)) is dict
    assert type(manager.get_all_statistics()[MODEL]) is dict
    assert manager.sync_with_ollama() is True


def test_what_there_is_not_is_none_or_false_or_a_sentence(manager):
    assert manager.get_model_info("nope") is None
    assert manager.get_model_info("not a name!") is None
    assert manager.get_current_model() is None
    assert manager.get_model_statistics("nope") is None
    assert manager.switch_model("nope") is False
    assert manager.recommend_model(0.5) is None
    for method in (manager.download_model, manager.delete_model, manager.check_model_compatibility):
        happened, message = method("nope")
        assert happened is False
        assert "nope" in message


def test_each_twin_raises_what_the_form_of_old_only_says(manager):
    for twin in (manager.select_model, manager.remove_model, manager.check_fit, manager.info, manager.statistics):
        with pytest.raises(ModelNotFound):
            twin("nope")
    with pytest.raises(ModelManagerError, match="nope"):
        manager.pull_model("nope")
    with pytest.raises(NoCurrentModel):
        manager.current()
    with pytest.raises(NoSuitableModel):
        manager.recommend(0.5)


NO_NAMES = pytest.mark.parametrize("name", [None, 5, ["x"]], ids=str)


@NO_NAMES
def test_what_is_no_name_at_all_is_refused_by_whoever_raises(manager, name):
    for method in (
        *(manager.select_model, manager.load_model, manager.unload_model, manager.pull_model, manager.start_download),
        *(manager.plan_download, manager.remove_model, manager.check_fit, manager.info, manager.statistics),
    ):
        with pytest.raises(InvalidRequest) as refusal:
            method(name)
        assert refusal.value.field == "model"


@NO_NAMES
def test_what_is_no_name_at_all_is_none_or_false_or_a_sentence(manager, name):
    assert manager.get_model_info(name) is None
    assert manager.get_model_statistics(name) is None
    assert manager.switch_model(name) is False
    for method in (manager.download_model, manager.delete_model, manager.check_model_compatibility):
        assert method(name) == (False, "model: must be the name of a model.")


# --- making one ------------------------------------------------------------------------------------------------------


def test_making_one_asks_nobody_writes_nothing_and_takes_no_time(nobody, tmp_path, managers, simulator):
    took_s = []
    for number in range(3):
        began = time.perf_counter()
        ModelManager(nobody, tmp_path / f"{number}.json")
        took_s.append(time.perf_counter() - began)
    managers()

    assert min(took_s) < 0.05
    assert simulator.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_starts_beside_the_modules(nobody, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_MANAGER_METADATA_FILE")

    manager = ModelManager(nobody)

    assert manager.store.path == Path(model_manager.__file__).parent / "data" / "model_metadata.json"
    assert list(tmp_path.iterdir()) == []


def test_two_on_one_path_share_one_store(managers, simulator):
    one, two = managers(), managers()

    assert one.store is two.store


@pytest.mark.parametrize(
    "options",
    [
        {"vram_gb": float("nan")},
        {"vram_gb": -1},
        {"vram_gb": True},
        {"downloads_at_once": 0},
        {"downloads_at_once": 17},
        {"ollama_host": "http://:notaport"},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused_at_once(options, path, nobody):
    with pytest.raises(InvalidRequest):
        ModelManager(**{"ollama_host": nobody, "metadata_file": path, **options})


def test_a_disk_that_takes_nothing_can_be_read_and_says_why_it_cannot_be_written(disk, manager, simulator):
    simulator.install(TAG)
    manager.sync()
    manager.switch_model(MODEL)
    disk.is_full = True

    assert (manager.get_current_model(), manager.list_installed_models()) == (MODEL, [MODEL])
    assert manager.recommend_model(8)
    assert manager.get_model_statistics(MODEL)["usage_count"] == 0
    for change in (
        lambda: manager.record_usage(MODEL, 1.0),
        lambda: manager.start_download(OTHER),
        lambda: manager.import_document(json.dumps(manager.export_document() | {"checksum": None}).encode(), "replace"),
    ):
        with pytest.raises(StoreUnwritable, match="full"):
            change()
    assert pulls(simulator) == 0


# --- downloading -----------------------------------------------------------------------------------------------------


def test_a_download_brings_the_real_tag_and_the_id_for_all_callers(manager, simulator):
    assert manager.download_model(MODEL) == (True, f"{MODEL} is installed.")

    assert set(digests(manager)) == {MODEL, TAG}
    assert manager.get_model_info(MODEL).installed
    assert manager.client.generate(MODEL, "hello")
    stored = manager.store.read().models[MODEL]
    assert (stored.installed, stored.digest) == (True, digests(manager)[TAG])


def test_what_is_there_is_not_fetched_again(manager, simulator):
    manager.download_model(MODEL)
    job = manager.pull_model(MODEL)

    assert manager.download_model(MODEL) == (True, f"{MODEL} was there already.")
    assert (job.state, job.percent, job.already_installed) == ("completed", 100.0, True)
    assert list(manager.follow_download(job)) == [job]
    assert pulls(simulator) == 1


def test_what_came_between_the_look_and_the_start_is_not_fetched_again(managers, simulator):
    one, two = managers(), managers()
    # Its look is over; what it learns from the registry takes a moment.
    simulator.set_fault("slow_answer", times=1, endpoint=f"/v2/library/{TAG.replace(':', '/manifests/')}", seconds=0.3)
    late = Answer(lambda: one.pull_model(MODEL))
    until(lambda: any(request.path.startswith("/v2/") for request in simulator.requests))
    job = two.pull_model(MODEL)

    assert late.get() == job
    assert pulls(simulator) == 1


def test_what_was_deleted_since_is_fetched_again(manager, simulator):
    first = manager.pull_model(MODEL)
    manager.remove_model(MODEL)
    second = manager.pull_model(MODEL)

    assert first.id != second.id
    assert MODEL in digests(manager)
    assert pulls(simulator) == 2


def test_who_insists_has_it_fetched_again(manager, simulator):
    manager.pull_model(MODEL)
    manager.pull_model(MODEL, force=True)

    assert pulls(simulator) == 2


def test_a_tag_that_was_pulled_by_hand_only_needs_its_id(manager, simulator):
    simulator.install(TAG)

    assert manager.pull_model(MODEL).already_installed
    assert set(digests(manager)) == {MODEL, TAG}
    assert pulls(simulator) == 0


def test_another_quantization_is_another_download_and_the_id_points_there(manager, simulator):
    manager.pull_model(MODEL)
    job = manager.pull_model(MODEL, quantization="q8")

    assert (job.tag, job.quantization) == (Q8_TAG, "q8")
    assert digests(manager)[MODEL] == digests(manager)[Q8_TAG] != digests(manager)[TAG]


def test_a_real_tag_means_its_entry(manager, simulator):
    job = manager.pull_model(Q8_TAG)

    assert (job.model, job.quantization) == (MODEL, "q8")
    assert set(digests(manager)) == {MODEL, Q8_TAG}


def test_a_model_of_ollamas_library_can_be_had_by_its_name(manager, simulator):
    simulator.publish("tinyllama:latest", library_from_catalog(MODEL_CATALOG)[TAG])

    assert manager.download_model("tinyllama") == (True, "tinyllama:latest is installed.")
    assert "tinyllama:latest" in digests(manager)


REFUSED = {
    "unpublished": (UNPUBLISHED, {}, ModelNotPublished, "never published"),
    "quantization": (MODEL, {"quantization": "q2"}, UnknownQuantization, "q4, q8"),
    "quantization of a stranger": ("tinyllama", {"quantization": "q4"}, UnknownQuantization, "Leave"),
    "blanks": (" tinyllama", {}, InvalidModelName, "blanks"),
    "cloud": ("gpt-oss:20b-cloud", {}, InvalidModelName, "cloud"),
    "no name": ("not a name!", {}, InvalidModelName, "looks like"),
    "empty": ("", {}, InvalidModelName, "looks like"),
    "scheme": ("http://registry.ollama.ai/library/x", {}, InvalidModelName, "scheme"),
    "registry": ("evil.example/a/b", {}, RegistryNotAllowed, "evil.example"),
}


@pytest.mark.parametrize(("name", "options", "error", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_may_not_be_had_never_reaches_a_pull(manager, simulator, name, options, error, words):
    with pytest.raises(error, match=words):
        manager.pull_model(name, **options)

    assert manager.download_model(name, **options)[0] is False
    assert pulls(simulator) == 0
    assert manager.downloads() == []


def test_a_model_of_ones_own_under_the_id_is_never_overwritten(manager, simulator):
    mine = own_model(manager, simulator)

    for force in (False, True):
        with pytest.raises(NameTaken, match="Keep it under another name"):
            manager.pull_model(MODEL, force=force)

    assert digests(manager)[MODEL] == mine
    assert pulls(simulator) == 0


def test_without_ollama_nothing_is_begun_and_the_sentence_says_how_to_get_it(managers, nobody):
    manager = managers(nobody)

    happened, message = manager.download_model(MODEL)

    assert happened is False
    assert "Start Ollama" in message
    assert manager.downloads() == []


@pytest.mark.parametrize(
    ("kind", "details", "error"),
    [
        ("disk_full", {"at_bytes": HELD_AT}, InsufficientDisk),
        ("too_new", {}, DownloadFailed),
        ("forbidden", {"endpoint": "/api/pull"}, OllamaError),
        ("dropped", {"endpoint": "/api/pull"}, OllamaUnavailable),
    ],
)
def test_a_download_that_fails_raises_what_it_failed_of(manager, simulator, kind, details, error):
    simulator.set_fault(kind, **details)

    with pytest.raises(ModelManagerError) as raised:
        manager.pull_model(MODEL)

    assert type(raised.value) is error
    assert raised.value.remedy
    assert manager.get_model_info(MODEL).installed is False
    assert manager.store.read().models[MODEL].installed is False


def test_a_download_whose_end_cannot_be_written_down_is_no_success(disk, manager, simulator):
    with held_up(simulator):
        downloading = Answer(lambda: manager.download_model(MODEL))
        until(standing(simulator))
        disk.is_full = True
    happened, message = downloading.get()
    seen = [job.state for job in manager.downloads()]
    disk.is_full = False

    assert happened is False
    assert "full" in message
    assert seen == ["interrupted"]
    assert manager.download_model(MODEL)[0] is True


def test_who_waits_for_a_download_takes_it_over_when_its_owner_goes(managers, simulator):
    owner, waiting = managers(), managers()
    with held_up(simulator):
        job = owner.start_download(MODEL)
        until(standing(simulator))
        answer = Answer(lambda: waiting.pull_model(MODEL))
        owner.close()

    assert (answer.get().id, answer.get().state) == (job.id, "completed")
    assert pulls(simulator) == 2


def test_who_closes_its_own_manager_does_not_have_it_go_on(manager, simulator):
    with held_up(simulator):
        answer = Answer(lambda: manager.download_model(MODEL))
        until(standing(simulator))
        manager.close()

        happened, message = answer.get()

    assert (happened, "interrupted" in message) == (False, True)
    assert pulls(simulator) == 1


# --- the callback ----------------------------------------------------------------------------------------------------


def test_the_callback_gets_ollamas_own_events_in_order_in_the_callers_thread(manager, simulator):
    events, threads = [], set()

    def note(event):
        events.append(event)
        threads.add(threading.get_ident())

    manager.download_model(MODEL, progress_callback=note)

    totals = [event["completed"] for event in events if "completed" in event]
    assert threads == {threading.get_ident()}
    assert events[0] == {"status": "pulling manifest"}
    assert events[-1] == {"status": "success"}
    assert totals == sorted(totals)
    assert len(totals) > 2


def test_a_callback_that_raises_is_logged_once_and_harms_nothing(manager, simulator, caplog):
    def fail(event):
        raise RuntimeError("the bar is broken")

    assert manager.download_model(MODEL, fail) == (True, f"{MODEL} is installed.")
    assert len([record for record in caplog.records if "callback raised" in record.message]) == 1


def test_ctrl_c_while_waiting_leaves_the_download_going(manager, simulator):
    def interrupt(event):
        raise KeyboardInterrupt

    with held_up(simulator):
        with pytest.raises(KeyboardInterrupt):
            manager.download_model(MODEL, interrupt)
        until(standing(simulator))
        states = [job.state for job in manager.downloads()]

    assert states == ["downloading"]
    assert manager.download_model(MODEL)[0] is True
    assert pulls(simulator) == 1


# --- switching -------------------------------------------------------------------------------------------------------


def test_a_switch_is_remembered_with_what_was_before(manager, simulator):
    simulator.install(TAG)
    simulator.install(OTHER_TAG)

    first, second = manager.select_model(MODEL), manager.select_model(OTHER)

    assert (first.model, first.previous, second.model, second.previous) == (MODEL, None, OTHER, MODEL)
    assert second.info.name == OTHER
    assert (manager.get_current_model(), manager.store.read().previous_model) == (OTHER, MODEL)


def test_switching_to_what_is_current_forgets_nothing(manager, simulator):
    simulator.install(TAG)
    simulator.install(OTHER_TAG)
    manager.select_model(MODEL)
    manager.select_model(OTHER)

    assert manager.select_model(OTHER).previous == MODEL


@pytest.mark.parametrize(
    ("name", "error"), [(MODEL, ModelNotInstalled), ("nope", ModelNotFound), (UNPUBLISHED, ModelNotPublished)]
)
def test_nobody_switches_to_what_is_not_there(manager, name, error, caplog):
    with pytest.raises(error):
        manager.select_model(name)

    assert manager.switch_model(name) is False
    assert manager.get_current_model() is None
    assert "switch refused" in caplog.text


def test_nobody_switches_to_what_only_makes_embeddings(manager, simulator):
    simulator.install("all-minilm", make_model("all-minilm", size_bytes=46_000_000, capabilities=("embedding",)))

    with pytest.raises(ModelLacksCapability, match="does not answer in words: it can do embedding"):
        manager.select_model("all-minilm")

    assert manager.get_current_model() is None


def test_a_switch_is_decided_on_what_ollama_holds_now(manager, simulator):
    simulator.install(TAG)
    manager.list_installed_models()
    manager.client.delete(TAG)

    assert manager.switch_model(MODEL) is False


def test_a_missing_id_is_made_again_by_switching(manager, simulator):
    manager.download_model(MODEL)
    manager.client.delete(MODEL)

    manager.select_model(MODEL)

    assert digests(manager)[MODEL] == digests(manager)[TAG]


def test_a_switch_remembers_what_it_has_seen(manager, simulator):
    simulator.install(TAG)

    manager.select_model(MODEL)

    stored = manager.store.read().models[MODEL]
    assert (stored.installed, stored.digest, stored.copied_digest) == (True, digests(manager)[TAG], stored.digest)


def test_an_id_that_we_made_stays_ours_when_its_tag_moves(manager, simulator):
    library = library_from_catalog(MODEL_CATALOG)
    simulator.publish(TAG, library[OTHER_TAG])  # a version that the catalogue does not know
    manager.download_model(MODEL)
    simulator.publish(TAG, library[Q8_TAG])
    with manager.client.pull(TAG) as by_hand:
        list(by_hand)
    manager.sync()

    assert not manager.get_model_info(MODEL).own_model
    assert manager.pull_model(MODEL, force=True).state == "completed"
    assert digests(manager)[MODEL] == digests(manager)[TAG]


def test_a_quantization_points_the_id_elsewhere_and_back(manager, simulator):
    simulator.install(TAG)
    simulator.install(Q8_TAG)

    manager.select_model(MODEL, "q8")
    eight = digests(manager)
    manager.select_model(MODEL, "q4")
    four = digests(manager)

    assert eight[MODEL] == eight[Q8_TAG]
    assert four[MODEL] == four[TAG]
    assert manager.get_model_info(MODEL).installed_quantization == "q4"


def test_a_quantization_that_is_not_there_is_not_switched_to(manager, simulator):
    simulator.install(TAG)

    with pytest.raises(ModelNotInstalled, match="q8"):
        manager.select_model(MODEL, "q8")
    with pytest.raises(UnknownQuantization):
        manager.select_model(MODEL, "q2")

    assert manager.get_current_model() is None


def test_a_switch_that_is_refused_for_memory_points_nothing_elsewhere(managers, simulator):
    manager = managers(vram_gb=1.7)
    simulator.install(TAG)
    simulator.install(Q8_TAG)
    manager.select_model(MODEL, "q4")
    before = digests(manager)

    with pytest.raises(InsufficientVram) as refusal:
        manager.select_model(MODEL, "q8", require_fit=True)

    assert digests(manager) == before
    assert refusal.value.need_bytes > refusal.value.available_bytes


def test_a_switch_to_what_does_not_fit_says_so(managers, simulator):
    manager = managers(vram_gb=0.5)
    simulator.install(TAG)

    selection = manager.select_model(MODEL)

    assert manager.get_current_model() == MODEL
    assert "GiB" in selection.warnings[0]


def test_a_model_of_ones_own_under_the_id_can_be_used_but_has_no_quantization(manager, simulator):
    mine = own_model(manager, simulator)

    assert manager.switch_model(MODEL)
    with pytest.raises(NameTaken):
        manager.select_model(MODEL, "q4")
    assert digests(manager) == {MODEL: mine}


def test_a_model_that_is_not_in_the_catalogue_can_be_used(manager, simulator):
    own_model(manager, simulator, "mine:latest")

    assert manager.select_model("Mine").model == "mine:latest"
    with pytest.raises(UnknownQuantization):
        manager.select_model("mine", "q4")


def test_a_model_that_is_on_record_but_gone_cannot_be_used(manager, simulator):
    own_model(manager, simulator, "mine:latest")
    manager.record_usage("mine", 1.0)
    manager.client.delete("mine:latest")

    with pytest.raises(ModelNotInstalled):
        manager.select_model("mine")


def test_the_real_tag_or_another_case_means_the_entry(manager, simulator):
    simulator.install(TAG)

    assert manager.select_model(TAG).model == MODEL
    assert manager.select_model(MODEL.upper()).model == MODEL


def test_a_switch_can_load_at_once_and_says_when_that_did_not_work(manager, simulator):
    simulator.install(TAG)
    simulator.install(OTHER_TAG)

    loaded = manager.select_model(MODEL, load=True)
    running = [model.name for model in manager.client.running()]
    simulator.set_fault("load_failed")
    failed = manager.select_model(OTHER, load=True)

    assert loaded.warnings == ()
    assert running == [MODEL]
    assert manager.get_current_model() == OTHER
    assert "could not be loaded" in failed.warnings[-1]


def test_without_ollama_the_selection_stays(manager, simulator):
    simulator.install(TAG)
    manager.select_model(MODEL)
    simulator.stop()

    with pytest.raises(OllamaUnavailable):
        manager.select_model(OTHER)

    assert manager.get_current_model() == MODEL


# --- deleting --------------------------------------------------------------------------------------------------------


def test_deleting_takes_the_id_and_the_tag_and_keeps_the_record(manager, simulator):
    manager.download_model(MODEL)
    manager.record_usage(MODEL, 1.0)

    removal = manager.remove_model(MODEL)

    assert digests(manager) == {}
    assert (removal.model, set(removal.names)) == (MODEL, {MODEL, TAG})
    assert removal.freed_bytes > 800_000_000
    assert manager.store.read().models[MODEL].installed is False
    assert manager.get_model_statistics(MODEL)["usage_count"] == 1


def test_the_current_model_is_not_deleted(manager, simulator):
    manager.download_model(MODEL)
    manager.switch_model(MODEL)

    for name in (MODEL, TAG):
        with pytest.raises(CannotDeleteCurrent, match="Switch to another"):
            manager.remove_model(name)

    assert set(digests(manager)) == {MODEL, TAG}


def test_what_is_being_downloaded_is_not_deleted(manager, simulator):
    simulator.install(Q8_TAG)
    with held_up(simulator):
        job = manager.start_download(MODEL, "q4")
        until(standing(simulator))

        with pytest.raises(ModelInUse) as refusal:
            manager.remove_model(MODEL)

    assert refusal.value.download == job.id
    assert Q8_TAG in digests(manager)


@pytest.mark.parametrize(("name", "error"), [(MODEL, ModelNotInstalled), ("nope", ModelNotFound)])
def test_what_is_not_there_cannot_be_deleted(manager, name, error):
    with pytest.raises(error):
        manager.remove_model(name)


def test_what_is_loaded_leaves_the_memory_first(manager, simulator):
    manager.download_model(MODEL)
    manager.client.load(MODEL)

    manager.remove_model(MODEL)

    assert simulator.state()["running"] == []
    assert digests(manager) == {}


def test_what_somebody_else_has_just_removed_is_gone_all_the_same(manager, simulator):
    manager.download_model(MODEL)
    simulator.set_fault("slow_answer", endpoint="/api/ps", seconds=0.1)
    deleting = Answer(lambda: manager.remove_model(MODEL))
    until(lambda: asked(simulator, "/api/ps"))
    manager.client.delete(TAG)

    assert deleting.get().model == MODEL
    assert digests(manager) == {}


def test_of_a_model_of_ones_own_under_the_id_the_entrys_tags_stay(manager, simulator):
    own_model(manager, simulator)
    simulator.install(TAG)

    manager.remove_model(MODEL)

    assert set(digests(manager)) == {TAG}


def test_a_copy_of_ones_own_stays_and_keeps_the_bytes(manager, simulator):
    manager.download_model(MODEL)
    manager.client.copy(TAG, "mine:latest")

    removal = manager.remove_model(MODEL)

    assert set(digests(manager)) == {"mine:latest"}
    assert removal.freed_bytes == 0


def test_one_form_can_go_while_the_other_stays(manager, simulator):
    manager.download_model(MODEL)
    manager.download_model(MODEL, quantization="q8")
    manager.select_model(MODEL)

    manager.remove_model(TAG)

    assert set(digests(manager)) == {MODEL, Q8_TAG}


# --- syncing ---------------------------------------------------------------------------------------------------------


def test_a_sync_tells_what_came_and_what_went_and_makes_the_ids(manager, simulator):
    simulator.install(TAG)
    first = manager.sync()
    manager.client.delete(TAG)
    manager.client.delete(MODEL)
    simulator.install(OTHER_TAG)
    own_model(manager, simulator, "mine:latest")
    simulator.install(OTHER_TAG)
    second = manager.sync()

    assert (first.installed, first.added, first.removed) == ((MODEL,), (MODEL,), ())
    assert (second.added, second.removed) == ((OTHER, "mine:latest"), (MODEL,))
    assert {OTHER, OTHER_TAG, "mine:latest"} == set(digests(manager))
    assert manager.store.read().models["mine:latest"].installed


def test_a_sync_without_ollama_changes_nothing(manager, simulator, path):
    simulator.install(TAG)
    manager.sync()
    before = path.read_bytes()
    simulator.stop()

    with pytest.raises(OllamaUnavailable):
        manager.sync()

    assert manager.sync_with_ollama() is False
    assert path.read_bytes() == before
    assert manager.list_installed_models() == [MODEL]


def test_a_sync_that_changes_nothing_writes_nothing(manager, simulator, path):
    simulator.install(TAG)
    manager.sync()
    before = path.stat().st_mtime_ns, path.stat().st_ino
    manager.sync()

    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_an_id_that_cannot_be_made_does_not_spoil_the_sync(manager, simulator, caplog):
    simulator.install(TAG)
    simulator.set_fault("forbidden", endpoint="/api/copy")

    assert manager.sync().installed == (MODEL,)
    assert "id not made again" in caplog.text


def test_a_sync_that_cannot_be_kept_is_false(disk, manager, simulator):
    simulator.install(TAG)
    disk.is_full = True

    assert manager.sync_with_ollama() is False


# --- usage -----------------------------------------------------------------------------------------------------------


def test_a_record_is_in_the_file_when_the_call_returns(manager, path):
    manager.record_usage(MODEL, 1.5)
    manager.record_usage(MODEL, 0, success=False)

    stored = json.loads(path.read_text())["models"][MODEL]
    assert (stored["usage_count"], stored["success_rate"], stored["avg_inference_time"]) == (2, 0.5, 1.5)


def test_records_of_many_threads_are_all_kept(manager):
    def record():
        for _ in range(25):
            manager.record_usage(MODEL, 0.1)

    for answer in [Answer(record) for _ in range(8)]:
        answer.get()

    assert manager.get_model_statistics(MODEL)["usage_count"] == 200


def test_recording_asks_ollama_nothing(manager, simulator):
    for _ in range(10):
        manager.record_usage(MODEL, 0.1)

    assert simulator.requests == []


def test_recording_does_not_need_ollama(managers, nobody):
    manager = managers(nobody)

    manager.record_usage(MODEL, 1.0)

    assert manager.get_model_statistics(MODEL)["usage_count"] == 1


def test_a_model_that_only_ollama_knows_is_recorded_under_its_digest(manager, simulator):
    digest = own_model(manager, simulator, "mine:latest")
    manager.record_usage("mine", 1.0)
    before = len(simulator.requests)
    manager.record_usage("mine:latest", 2.0)

    stored = manager.store.read().models["mine:latest"]
    assert stored.usage_count == 2
    assert [set(by_digest) for by_digest in stored.history.values()] == [{digest}]
    assert len(simulator.requests) == before


def test_two_forms_of_one_id_do_not_mix_their_figures(manager, simulator):
    manager.download_model(MODEL)
    manager.record_usage(MODEL, 1.0)
    manager.download_model(MODEL, quantization="q8")
    manager.record_usage(MODEL, 3.0)

    (by_digest,) = manager.store.read().models[MODEL].history.values()
    assert {digest: usage.count for digest, usage in by_digest.items()} == {
        digests(manager)[TAG]: 1,
        digests(manager)[Q8_TAG]: 1,
    }
    assert manager.get_model_statistics(MODEL)["avg_inference_time"] == 2.0


def test_a_tag_is_recorded_as_its_entry(manager, simulator):
    manager.record_usage(TAG, 1.0)

    assert manager.get_model_statistics(MODEL)["usage_count"] == 1


BAD_USAGE = {
    "negative": (-0.1, True),
    "nan": (float("nan"), True),
    "infinite": (float("inf"), True),
    "more than a day": (86_401, True),
    "text": ("1.0", True),
    "bool": (True, True),
    "no success": (1.0, None),
    "a number as success": (1.0, 1),
}


@pytest.mark.parametrize(("seconds", "success"), BAD_USAGE.values(), ids=BAD_USAGE.keys())
def test_an_impossible_record_is_refused(manager, seconds, success):
    with pytest.raises(InvalidRequest):
        manager.record_usage(MODEL, seconds, success)

    assert manager.get_model_statistics(MODEL)["usage_count"] == 0


@NO_NAMES
def test_a_record_of_no_name_is_refused(manager, name):
    with pytest.raises(InvalidRequest):
        manager.record_usage(name, 1.0)


def test_of_several_records_all_count_or_none(manager):
    with pytest.raises(ModelNotFound):
        manager.record_events([{"model": MODEL, "inference_time": 1.0}, {"model": "nope", "inference_time": 1.0}])

    assert manager.get_model_statistics(MODEL)["usage_count"] == 0
    assert manager.record_events([{"model": MODEL, "inference_time": 1.0}, {"model": OTHER, "success": False}]) == 2
    assert manager.get_model_statistics(OTHER)["success_rate"] == 0.0
    assert manager.record_events([]) == 0


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"inference_time": -1}, "1.inference_time"),
        ({"tokens": 1.5}, "1.tokens"),
        ({"task": ""}, "1.task"),
        ({"inference_tme": 1}, "1.inference_tme"),
        ({"at": "2026-11-27"}, "1.at"),
        ({7: 1}, "1.7"),
    ],
)
def test_of_several_records_the_impossible_one_is_named_by_its_place(manager, told, field):
    with pytest.raises(InvalidRequest) as refusal:
        manager.record_events([{"model": MODEL}, {"model": MODEL, **told}])

    assert refusal.value.field == field
    assert str(refusal.value).startswith(f"{field}: ")


def test_what_is_no_record_is_refused_by_its_place(manager):
    with pytest.raises(InvalidRequest, match="by its fields") as refusal:
        manager.record_events([{"model": MODEL}, 5])

    assert refusal.value.field == "1"


@pytest.mark.parametrize("events", [5, None, "x", {"model": MODEL}], ids=str)
def test_records_that_are_no_list_are_refused(manager, events):
    with pytest.raises(InvalidRequest) as refusal:
        manager.record_events(events)

    assert refusal.value.field == "events"
    assert manager.get_model_statistics(MODEL)["usage_count"] == 0


def test_a_record_without_a_model_is_refused(manager):
    with pytest.raises(InvalidRequest) as refusal:
        manager.record_events([{"inference_time": 1.0}])

    assert refusal.value.field == "0.model"


def test_of_several_records_the_one_of_an_unknown_model_is_named_by_its_place(manager):
    with pytest.raises(ModelNotFound, match=r"^1\.model: There is no model nope") as refusal:
        manager.record_events([{"model": MODEL}, {"model": "nope"}])

    assert refusal.value.field == "1.model"


def test_a_name_that_is_nearly_one_is_answered_with_what_may_be_meant(manager):
    with pytest.raises(ModelNotFound, match=f"Did you mean {MODEL}") as refusal:
        manager.select_model(MODEL.removesuffix("-instruct"))

    assert MODEL in refusal.value.alike


def test_what_is_told_of_an_inference_shows_in_the_statistics(manager):
    manager.record_usage(MODEL, 2.0, tokens=90, quality_score=4.5, task="tags")
    manager.record_usage(MODEL, 4.0)

    shown = manager.statistics(MODEL)
    assert (shown.p50, shown.p99, shown.quantile_count) == (2.0, pytest.approx(4.0, rel=0.01), 2)
    assert (shown.tokens_per_second, shown.avg_quality_score) == (45.0, 4.5)
    assert {task: figures.usage_count for task, figures in shown.by_task.items()} == {"tags": 1}
    assert [(day.date, day.usage_count) for day in shown.by_day] == [(shown.last_used[:10], 2)]
    assert manager.get_all_statistics()[MODEL] == manager.get_model_statistics(MODEL)


def test_a_record_that_cannot_be_kept_is_an_error(disk, manager):
    disk.is_full = True

    with pytest.raises(StoreUnwritable):
        manager.record_usage(MODEL, 1.0)


# --- side by side ----------------------------------------------------------------------------------------------------


def test_models_are_compared_by_what_is_on_record_under_any_of_their_names(manager):
    manager.record_events([{"model": MODEL, "inference_time": 1.0}] * 6 + [{"model": OTHER, "inference_time": 9.0}] * 6)

    found = manager.compare([TAG, OTHER], ["inference_time"])

    assert found.models == (MODEL, OTHER)
    assert found.winners["inference_time"].winner == MODEL


def test_models_are_compared_while_ollama_is_down(managers, nobody):
    found = managers(nobody).compare([MODEL, OTHER])

    assert {row.figures["success_rate"].text for row in found.rows} == {"never used"}


def test_what_cannot_be_compared_is_refused(manager):
    for models, metrics in (([MODEL], None), ([MODEL, TAG], None), ([MODEL, 7], None), ([MODEL, OTHER], ["beauty"])):
        with pytest.raises(InvalidRequest):
            manager.compare(models, metrics)
    with pytest.raises(ModelNotFound):
        manager.compare([MODEL, "nobody"])


# --- benchmarks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "error"), [("nobody/knows:it", ModelNotFound), ("../x", InvalidModelName)])
def test_of_several_names_the_wrong_one_is_told_by_its_place(manager, simulator, name, error):
    simulator.install(TAG)

    for method in (manager.compare, manager.start_benchmark):
        with pytest.raises(error, match=r"^models\.1: ") as refusal:
            method([MODEL, name])
        assert refusal.value.field == "models.1"


@pytest.mark.parametrize("photos", ["/a/b.jpg", Path("/a/b.jpg"), b"\xff\xd8\xff", bytearray(b"\xff\xd8\xff"), 5])
def test_photos_that_are_no_list_are_refused_as_a_whole(manager, photos):
    with pytest.raises(InvalidRequest, match="must be a list of files") as refusal:
        manager.start_benchmark([MODEL], photos=photos)

    assert refusal.value.field == "photos"


def test_no_photos_at_all_are_none(manager):
    with pytest.raises(ModelNotInstalled):  # which is looked at after the photos
        manager.start_benchmark([MODEL], photos=None)


# --- advice ----------------------------------------------------------------------------------------------------------


def test_where_nothing_is_known_eight_gib_are_assumed_and_that_is_said(managers):
    manager = managers(hardware=lambda: hardware.elsewhere())

    recommendation = manager.recommend()

    assert (recommendation.criteria.source, recommendation.best.model) == ("assumed", "llama3.1:8b-instruct")
    assert "assumed_memory" in [reason.code for reason in recommendation.best.reasons]
    assert manager.check_fit(MODEL).source == "assumed"


def test_advice_counts_what_is_free_now_and_what_loaded_models_would_make_free(managers, simulator):
    manager = managers()
    simulator.install("llama3.1:8b-instruct-q4_K_M")
    before = manager.budget()

    manager.load_model("llama3.1:8b-instruct")
    after = manager.budget()

    assert (before.source, before.available_bytes) == ("probe", 8 * GIB)
    assert after.machine.free_bytes < 4 * GIB < after.machine.held_bytes
    assert after.available_bytes == before.available_bytes
    assert manager.recommend().best.model == "llama3.1:8b-instruct"


def test_without_a_card_advice_is_for_the_processor_and_says_how_fast(managers):
    ram = MachineMemory(total_bytes=32 * GIB, free_bytes=20 * GIB, source="psutil")
    nothing = Hardware(gpus=(), memory=ram, sources={})
    manager = managers(hardware=lambda: nothing)

    best = manager.recommend().best

    assert (best.model, best.speed.basis) == ("llama3.1:8b-instruct", "estimate")
    words = {reason.code: reason.text for reason in best.reasons}
    assert "Half of the 20 GiB of RAM that are free were counted" in words["on_processor"]
    assert words["speed"].startswith("It works, slowly: expect some 5")


def test_the_setting_caps_what_is_free_and_the_caller_comes_before_both(managers):
    manager = managers(vram_gb=2)

    assert manager.recommend().criteria.source == "setting"
    assert managers(vram_gb=100).recommend().criteria.source == "probe"
    assert manager.recommend_model(priority="speed") == MODEL
    assert manager.recommend(8).criteria.source == "caller"
    assert manager.recommend_model(8) == "llama3.1:8b-instruct"
    assert managers(vram_gb=0).recommend_model() is None


def test_no_memory_is_none_and_not_no_filter(manager):
    assert manager.recommend_model(0) is None
    assert manager.list_available_models(max_vram_gb=0) == []
    assert manager.check_model_compatibility(MODEL, 0)[0] is False


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 10_001, "8", True], ids=str)
def test_an_impossible_memory_is_refused_everywhere(manager, value):
    for call in (manager.recommend_model, manager.recommend, lambda gb: manager.check_fit(MODEL, gb)):
        with pytest.raises(InvalidRequest):
            call(value)
    assert manager.check_model_compatibility(MODEL, value)[0] is False
    with pytest.raises(InvalidRequest):
        manager.list_available_models(max_vram_gb=value)


@pytest.mark.parametrize("gb", [0.5, 2, 6, 8, 12, 24, 32, 48, 80])
@pytest.mark.parametrize("priority", ["speed", "balanced", "quality"])
def test_what_is_advised_can_be_had_and_fits(manager, gb, priority):
    name = manager.recommend_model(gb, priority)

    if name is not None:
        best = manager.recommend(gb, priority).best
        assert MODEL_CATALOG[name].published
        assert manager.check_fit(name, gb, quantization=best.quantization).check.compatible


def test_an_unknown_wish_is_refused_in_words(manager):
    with pytest.raises(InvalidRequest, match="balanced"):
        manager.recommend(8, "cheap")
    with pytest.raises(InvalidRequest, match="speed"):
        manager.list_available_models(purpose="cheap")


# --- statistics, export, import --------------------------------------------------------------------------------------


def test_statistics_have_the_documented_keys(manager):
    documented = {"name", "usage_count", "last_used", "avg_inference_time", "success_rate", "installed"}

    assert documented <= set(manager.get_model_statistics(MODEL))
    assert set(SEED) <= set(manager.get_all_statistics())


def test_what_was_exported_can_be_imported_elsewhere(manager, tmp_path, nobody):
    manager.record_usage(MODEL, 1.0)
    there = ModelManager(nobody, tmp_path / "there.json")

    assert manager.export_metadata(tmp_path / "export.json") is True
    assert there.import_metadata(tmp_path / "export.json") is True
    assert there.import_metadata(tmp_path / "export.json") is True

    assert there.get_model_statistics(MODEL)["usage_count"] == 1


def test_what_cannot_be_exported_or_imported_is_false_and_logged(manager, tmp_path, caplog):
    (tmp_path / "rubbish.json").write_text("[" * 100_000)

    assert manager.export_metadata(tmp_path / "no" / "folder.json") is False
    assert manager.import_metadata(tmp_path / "nothing.json") is False
    assert manager.import_metadata(tmp_path / "rubbish.json") is False
    assert caplog.text.count("failed") == 3


# --- health ----------------------------------------------------------------------------------------------------------


def test_a_healthy_manager_has_no_problems(manager):
    health = manager.health()

    assert health["ready"] is True
    assert [part for part in health["parts"].values() if not part["ok"] or part["problem"]] == []


def test_health_says_what_is_wrong_and_what_to_do(manager, simulator):
    simulator.install(TAG)
    manager.switch_model(MODEL)
    with held_up(simulator, OTHER_TAG):
        manager.start_download(OTHER)
        until(standing(simulator))
        manager.close()
    manager.client.delete(MODEL)
    manager.client.delete(TAG)
    manager.sync()
    parts = manager.health()["parts"]

    assert "Download it, or switch" in parts["current_model"]["problem"]
    assert "Download them again" in parts["downloads"]["problem"]
    assert len(parts["downloads"]["unfinished"]) == 1
    assert parts["ollama"]["ok"]


def test_health_without_ollama_says_how_to_get_it(managers, nobody):
    health = managers(nobody).health()

    assert health["ready"] is False
    assert "Start Ollama" in health["parts"]["ollama"]["problem"]
    assert health["parts"]["store"]["ok"]


def test_health_tells_of_a_disk_that_takes_nothing(disk, manager):
    disk.is_full = True
    with pytest.raises(StoreUnwritable):
        manager.record_usage(MODEL, 1.0)

    health = manager.health()

    assert health["ready"] is False
    assert "full" in health["parts"]["store"]["problem"]


def test_health_answers_also_where_the_document_cannot_be_read(manager, path):
    path.write_text(json.dumps({"format": 99, "models": {}}))

    with pytest.raises(StoreUnreadable):
        manager.get_current_model()
    health = manager.health()

    assert health["ready"] is False
    assert "Update this program" in health["parts"]["store"]["problem"]


def test_health_names_a_document_that_was_set_aside(manager, path):
    path.write_text("{ this is no document")

    manager.record_usage(MODEL, 1.0)
    health = manager.health()

    assert "set aside" in health["parts"]["store"]["problem"]
    assert health["ready"] is True


# --- shown while Ollama is away --------------------------------------------------------------------------------------


def test_what_can_be_answered_without_ollama_is_answered_from_the_last_known_state(managers, simulator):
    first = managers()
    simulator.install(TAG)
    first.sync()
    first.switch_model(MODEL)
    simulator.stop()
    second = managers()

    assert second.list_installed_models() == [MODEL]
    assert second.get_model_info(MODEL).installed
    assert second.get_current_model() == MODEL
    assert (second.seen().reachable, second.seen().simulated) == (False, True)
    assert second.seen().checked_at


def test_closing_twice_harms_nobody(managers):
    manager = managers()
    manager.close()
    manager.close()

    assert manager.get_current_model() is None


def test_what_is_left_out_is_taken_from_the_environment(simulator, monkeypatch, tmp_path):
    monkeypatch.setenv("OLLAMA_HOST", simulator.url)
    monkeypatch.setenv("MODEL_MANAGER_METADATA_FILE", str(tmp_path / "elsewhere.json"))

    manager = ModelManager()

    assert manager.client.address == simulator.url
    assert manager.store.path == tmp_path / "elsewhere.json"
    assert ModelManager("http://127.0.0.1:1", tmp_path / "own.json").store.path == tmp_path / "own.json"


def test_what_is_being_fetched_is_in_use_and_not_missing(simulator, tmp_path):
    manager = ModelManager(simulator.url, tmp_path / "document.json")
    simulator.set_fault("stall", at_bytes=1000)
    job = manager.start_download("llama3.2:1b-instruct")

    with pytest.raises(ModelInUse) as refused:
        manager.remove_model("llama3.2:1b-instruct")

    assert refused.value.download == job.id
    manager.close()


def test_an_ollama_that_lists_no_abilities_is_asked_for_them_before_advice(manager, simulator):
    """Before 0.30 its list does not tell what a model can do."""
    simulator.set_fault("bare_list")
    for name, able in (("seer:7b", ("completion", "vision")), ("numbers:latest", ("embedding",))):
        simulator.install(name, make_model(name, size_bytes=2_000_000_000, capabilities=able))
    for name in ("seer:7b", "numbers:latest"):
        for _ in range(6):
            manager.record_usage(name, 0.1)

    seen = manager.recommend(8, needs=["vision"], installed_only=True).ranked
    quick = manager.recommend(8, "speed", installed_only=None).ranked

    assert [place.model for place in seen] == ["seer:7b"]
    assert "numbers:latest" not in [place.model for place in quick]


def test_a_use_belongs_to_the_weights_that_were_last_seen_to_answer(manager, simulator):
    """Somebody has pointed the id to the 8-bit form by Ollama's own means."""
    simulator.install(f"{MODEL}-q4_K_M")
    simulator.install(f"{MODEL}-q8_0")
    manager.select_model(MODEL, "q4")
    manager.record_usage(MODEL, 1.0)
    manager.client.copy(f"{MODEL}-q8_0", MODEL)
    manager.sync_with_ollama()
    q8 = next(model.digest for model in manager.client.tags() if model.name == MODEL)
    manager.client.copy(f"{MODEL}-q4_K_M", MODEL)
    manager._inventory.ask()  # seen, and not written down
    manager.record_usage(MODEL, 1.0)

    (by_digest,) = manager.store.read().models[MODEL].history.values()
    assert {digest == q8: part.count for digest, part in by_digest.items()} == {False: 2}


def test_what_this_process_saw_before_another_one_wrote_is_not_written_over_it(managers, simulator):
    simulator.install(f"{MODEL}-q4_K_M")
    simulator.install(f"{MODEL}-q8_0")
    one, two = managers(), managers()
    one.select_model(MODEL, "q4")
    two.select_model(MODEL, "q8")  # the last look of the first one is older now
    one.record_usage(MODEL, 1.0)

    q8 = next(model.digest for model in one.client.tags() if model.name == MODEL)
    (by_digest,) = one.store.read().models[MODEL].history.values()
    assert list(by_digest) == [q8]

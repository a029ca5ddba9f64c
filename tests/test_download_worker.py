"""download_worker, download_run: a download ends as it must whatever goes wrong, once for all who ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from catalog import MODEL_CATALOG
from download_worker import DownloadWorker, Listener, Wanted
from json_store import JsonStore
from model_core.document import DocumentCodec
from model_core.downloads import OWNED
from model_core.errors import DownloadNotFound, InvalidTransition, StoreUnwritable
from model_core.records import DownloadJob, DownloadState
from ollama_client import OllamaClient
from ollama_inventory import OllamaInventory
from tests.download_scenes import (
    CALM,
    HELD_AT,
    IMPATIENT,
    MODEL,
    OTHER,
    OTHER_TAG,
    SOON_S,
    TAG,
    Answer,
    asked,
    held_up,
    pulls,
    standing,
    until,
)
from tests.scripted_server import ScriptedServer

S = DownloadState
SIZE = MODEL_CATALOG[MODEL].variants[0].size_bytes
WANTED = Wanted(MODEL, TAG, "q4", MODEL, SIZE, is_estimate=True)
WANTED_OTHER = Wanted(OTHER, OTHER_TAG, "q4", OTHER, 2_019_392_703, is_estimate=True)
DIRECT = Wanted(TAG, TAG, None, None, None, is_estimate=False)


@dataclass
class Scene:
    """A worker, and a store that refuses the changes whose numbers (the first is 1) stand in ``refused``."""

    url: str
    path: object
    options: dict = field(default_factory=dict)
    refused: set = field(default_factory=set)
    changes: int = 0
    before_change: Callable[[], object] = lambda: None
    after_change: Callable[[], object] = lambda: None
    remembered: list = field(default_factory=list)
    taken: set = field(default_factory=set)

    def __post_init__(self) -> None:
        self.client = OllamaClient(self.url)
        self.store = JsonStore.open(self.path, DocumentCodec(MODEL_CATALOG, "ab" * 8))
        self.worker = self.made(self.store)

    def made(self, store) -> DownloadWorker:
        return DownloadWorker(
            self.client,
            store,
            OllamaInventory(self.client, lambda: "2026-11-23T18:00:00.000000Z", lambda: self.store.read().ollama),
            change=self.change,
            completed=self.remember,
            is_taken=lambda inventory, name: name in self.taken,
            now_text=lambda: "2026-11-23T18:00:00.000000Z",
            **{"patience": CALM, **self.options},
        )

    def change(self, function):
        self.changes += 1
        self.before_change()
        if self.changes in self.refused:
            raise StoreUnwritable("The disk is full.", "Free space there.", path=str(self.path))
        document = self.store.change(function)
        self.after_change()
        return document

    def remember(self, document, job, seen):
        self.remembered.append((job.model, [model.name for model in seen.inventory.models]))
        return document

    def fetch(self, wanted: Wanted = WANTED) -> DownloadJob:
        return self.fetched(wanted)[0]

    def fetched(self, wanted: Wanted = WANTED) -> tuple[DownloadJob, list]:
        """Download to the end; the job then, and Ollama's lines."""

        def whole():
            listener = Listener()
            job = self.worker.start(wanted, listener)
            lines = list(self.worker.events(job.id, listener))
            return self.worker.get(job.id), lines

        return Answer(whole).get()

    def ended(self, job: DownloadJob) -> DownloadJob:
        return until(lambda: (now := self.worker.get(job.id)).state not in OWNED and now, "the end of the download")

    def installed(self) -> set[str]:
        return {model.name for model in self.client.tags()}

    def on_record(self, job: DownloadJob) -> DownloadJob:
        return self.store.read().downloads[job.id]


@pytest.fixture
def scenes(simulator, tmp_path):
    """Makes scenes on one document and one simulated Ollama; closes them, and looks whether anything is left."""
    made = []

    def make(**options) -> Scene:
        made.append(Scene(simulator.url, tmp_path / "document.json", options))
        return made[-1]

    yield make
    simulator.clear_faults()
    for scene in made:
        scene.worker.close()
        scene.client.close()
    until(lambda: not leftovers(), f"the end of {leftovers()}")


@pytest.fixture
def scene(scenes) -> Scene:
    return scenes()


@pytest.fixture
def hasty(scenes, kind) -> Scene:
    """One that takes a quarter of a second for a stall, where the test is about one."""
    return scenes(patience=IMPATIENT if kind in ("stall", "silence", "slow_manifest") else CALM)


def leftovers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("download-", "pull "))]


def files_left(scene: Scene) -> set[str]:
    return {path.name for path in scene.worker.files.folder.iterdir()} - {"slot-0.lock", "pull-start.lock"}


def bytes_of(*tags: str) -> int:
    """What the simulated registry holds under these tags."""
    variants = [variant for entry in MODEL_CATALOG.values() for variant in entry.variants]
    return sum(variant.size_bytes for variant in variants if variant.tag in tags)


# --- how it goes well ------------------------------------------------------------------------------------------------


def test_a_download_brings_the_tag_and_the_id_and_says_so_then(scene, simulator):
    job = scene.fetch()

    assert (job.state, job.percent, job.phase) == (S.COMPLETED, 100.0, "done")
    assert job.downloaded_bytes == job.total_bytes
    assert abs(job.total_bytes - SIZE) < 10_000  # Ollama says nothing of layers that are there before its next line
    assert scene.installed() == {MODEL, TAG}
    assert [(model, set(there)) for model, there in scene.remembered] == [(MODEL, {MODEL, TAG})]
    assert scene.on_record(job) == job


def test_a_name_of_ollamas_own_needs_no_copy(scene, simulator):
    job = scene.fetch(DIRECT)

    assert job.state is S.COMPLETED
    assert scene.installed() == {TAG}
    assert asked(simulator, "/api/copy") == 0


def test_the_document_is_written_for_changes_of_state_only(scene, simulator):
    simulator.pace.tick_s, simulator.pace.rate_bytes_per_s = 0.001, 5e9

    _, lines = scene.fetched()

    assert len(lines) > 50
    assert scene.changes == 4  # queued, downloading, verifying, completed


def test_who_listens_hears_every_line_of_ollamas_in_order(scene, simulator):
    simulator.pace.tick_s, simulator.pace.rate_bytes_per_s = 0.001, 5e9

    _, lines = scene.fetched()

    completed = [line["completed"] for line in lines if "completed" in line]
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-3:] == [{"status": "verifying sha256 digest"}, {"status": "writing manifest"}, {"status": "success"}]
    assert completed == sorted(completed)
    assert len(set(completed)) == len(completed)


def test_what_is_followed_never_falls_back_and_reaches_100_only_at_the_end(scene, simulator):
    simulator.pace.rate_bytes_per_s = 2e9
    simulator.set_fault("goes_back", at_bytes=700_000_000, to_bytes=100_000_000)
    job = scene.worker.start(WANTED)

    steps = Answer(lambda: list(scene.worker.follow(job.id))).get()

    percents = [step.percent for step in steps if step.percent is not None]
    assert percents == sorted(percents)
    assert [step.state for step in steps if step.percent == 100.0] == [S.COMPLETED]
    assert steps[-1].state is S.COMPLETED
    assert [step.version for step in steps] == sorted({step.version for step in steps})
    assert any("fetching again" in (step.message or "") for step in steps)


def test_nothing_is_left_of_a_download_but_its_record(scene):
    for wanted in (WANTED, WANTED_OTHER, Wanted("nope:latest", "nope:latest", None, None, None, is_estimate=False)):
        scene.fetch(wanted)

    until(lambda: files_left(scene) == set())


# --- how it goes wrong, and heals ------------------------------------------------------------------------------------

ONCE = {"times": 1}
MID = {"at_bytes": HELD_AT}
PULL, COPY, TAGS = {"endpoint": "/api/pull"}, {"endpoint": "/api/copy"}, {"endpoint": "/api/tags"}

HEALING = {
    "registry refused": ("registry_refused", ONCE, 2),
    "registry not resolved": ("registry_no_such_host", ONCE, 2),
    "registry 503": ("registry_status", ONCE | {"status": 503, "text": "later"}, 2),
    "registry answers a page": ("registry_html", ONCE, 2),
    "registry is slow": ("slow_manifest", ONCE | {"seconds": 0.2}, 1),
    "registry never answers": ("slow_manifest", ONCE | {"seconds": 60}, 2),
    "goes back": ("goes_back", MID | {"to_bytes": 10}, 1),
    "stalls": ("stall", ONCE | MID, 2),
    "falls silent": ("silence", ONCE | MID, 2),
    "stream cut": ("cut_stream", ONCE | MID | {"abrupt": False}, 2),
    "connection cut": ("cut_stream", ONCE | MID | {"abrupt": True}, 2),
    "damaged once": ("digest_mismatch", ONCE, 2),
    "an earlier pull was still ending": ("context_canceled", ONCE | MID, 2),
    "Ollama gave up": ("retries_exhausted", ONCE | MID, 2),
    "no answer to the pull": ("dropped", ONCE | PULL, 2),
    "proxy in the way of the pull": ("proxy_error", ONCE | PULL, 2),
    "no answer to the copy": ("dropped", ONCE | COPY, 1),
    "proxy in the way of the copy": ("proxy_error", ONCE | COPY, 1),
    "no answer to the list": ("dropped", ONCE | TAGS, 1),
}


@pytest.mark.parametrize(("kind", "details", "attempts"), HEALING.values(), ids=HEALING.keys())
def test_what_can_heal_is_tried_again_and_nothing_is_fetched_twice(hasty, simulator, kind, details, attempts):
    simulator.set_fault(kind, **details)

    job = hasty.fetch()

    assert (job.state, job.error, job.percent) == (S.COMPLETED, None, 100.0)
    assert pulls(simulator) == attempts
    assert hasty.installed() == {MODEL, TAG}
    again = {"digest_mismatch": bytes_of(TAG), "goes_back": MID["at_bytes"] - 10}.get(kind, 0)
    assert abs(simulator.bytes_sent_total - bytes_of(TAG) - again) <= 2_000_000


LASTING = {
    "unknown model": ("unknown_model", {}, 1, "download_failed", "unknown_model", "Check the name"),
    "registry refused": ("registry_refused", {}, 3, "download_failed", "registry_unreachable", "Check the network"),
    "not resolved": ("registry_no_such_host", {}, 3, "download_failed", "registry_unreachable", "Check the network"),
    "registry 500": ("registry_status", {}, 3, "download_failed", "registry_error", "Try again later"),
    "registry 404": ("registry_status", {"status": 404}, 1, "download_failed", "registry_error", "Try again later"),
    "registry page": ("registry_html", {}, 3, "download_failed", "registry_error", "Try again later"),
    "too new": ("too_new", {}, 1, "download_failed", "too_new", "Update Ollama"),
    "stalls": ("stall", MID, 3, "download_failed", "stalled", "Check the network"),
    "silent": ("silence", MID, 3, "download_failed", "silent", "Check the network"),
    "cut": ("cut_stream", MID, 3, "download_failed", "cut_short", "Look whether Ollama still runs"),
    "damaged twice": ("digest_mismatch", {}, 2, "download_failed", "digest_mismatch", "something between Ollama"),
    "disk full": ("disk_full", MID, 1, "insufficient_disk", None, "Free space"),
    "cancelled": ("context_canceled", MID, 3, "download_failed", "upstream_cancelled", "Download again"),
    "gave up": ("retries_exhausted", MID, 3, "download_failed", "retries_exhausted", "Download again"),
    "forbidden": ("forbidden", PULL, 1, "ollama_error", None, "OLLAMA_HOST"),
    "proxy 502": ("proxy_error", PULL, 3, "ollama_error", None, "proxy"),
    "a page for an answer": ("proxy_error", PULL | {"status": 200}, 1, "download_failed", "other", "its log"),
    "dropped": ("dropped", PULL, 3, "ollama_unavailable", None, "Start Ollama"),
    "copy forbidden": ("forbidden", COPY, 1, "ollama_error", None, "OLLAMA_HOST"),
    "copy dropped": ("dropped", COPY, 1, "ollama_unavailable", None, "Start Ollama"),
    "list dropped": ("dropped", TAGS, 1, "ollama_unavailable", None, "Start Ollama"),
}


@pytest.mark.parametrize(
    ("kind", "details", "attempts", "code", "reason", "remedy"), LASTING.values(), ids=LASTING.keys()
)
def test_what_does_not_heal_ends_with_what_to_do(hasty, simulator, kind, details, attempts, code, reason, remedy):
    simulator.set_fault(kind, **details)

    job = hasty.fetch()

    assert job.state is S.FAILED
    assert (job.error["code"], job.error.get("reason")) == (code, reason)
    assert remedy in job.error["remedy"]
    assert pulls(simulator) == attempts
    assert hasty.remembered == []
    assert job.percent != 100.0
    assert hasty.on_record(job) == job
    assert not hasty.worker.files.is_owned(job.id)
    until(lambda: simulator.state()["pulling"] == {}, "Ollama's end of the pull")


@pytest.mark.parametrize("kind", ["disk_full", "stall", "digest_mismatch", "registry_refused"])
def test_a_failed_download_that_is_resumed_goes_on_where_it_stood(hasty, simulator, kind):
    simulator.set_fault(kind, at_bytes=HELD_AT)
    job = hasty.fetch()
    simulator.clear_faults()
    before = simulator.bytes_sent_total

    again = hasty.worker.resume(job.id)
    done = hasty.ended(again)

    assert (again.id, again.error, again.finished_at) == (job.id, None, None)
    assert (done.state, done.error) == (S.COMPLETED, None)
    kept = HELD_AT if kind in ("disk_full", "stall") else 0
    assert abs(simulator.bytes_sent_total - before - (bytes_of(TAG) - kept)) <= 2_000_000


def test_an_ollama_that_is_killed_and_comes_back_goes_on(scenes, simulator):
    scene = scenes(patience=replace(IMPATIENT, fruitless_attempts=50))
    simulator.set_fault("silence", times=1, at_bytes=HELD_AT)
    job = scene.worker.start(WANTED)
    until(standing(simulator))
    simulator.stop()
    until(lambda: scene.worker.get(job.id).attempt > 2, "another attempt")
    waiting = scene.worker.get(job.id)
    simulator.clear_faults()
    simulator.start()

    assert waiting.state in OWNED
    assert waiting.phase == "waiting" or waiting.phase == "asking the registry"
    assert scene.ended(job).state is S.COMPLETED
    assert abs(simulator.bytes_sent_total - bytes_of(TAG)) <= 2_000_000


def test_an_ollama_that_is_killed_and_stays_away_ends_it(scene, simulator):
    with held_up(simulator):
        job = scene.worker.start(WANTED)
        until(standing(simulator))
        simulator.stop()

        assert scene.ended(job).error["code"] == "ollama_unavailable"


def test_while_it_waits_for_the_next_attempt_it_says_why(scenes, simulator):
    scene = scenes(patience=replace(IMPATIENT, first_pause_s=30.0, longest_pause_s=30.0))
    simulator.set_fault("registry_refused")
    job = scene.worker.start(WANTED)

    waiting = until(lambda: (now := scene.worker.get(job.id)).phase == "waiting" and now.attempt == 2 and now)

    assert waiting.state is S.DOWNLOADING
    assert "could not reach the registry" in waiting.message
    assert "Trying again in 3" in waiting.message


def test_an_ollama_that_answers_rubbish_ends_it(tmp_path):
    def rubbish(connection):
        while request := connection.receive():
            if request.path != "/api/pull":
                connection.answer({"models": []})
                continue
            connection.begin_stream()
            connection.line({"status": "pulling manifest"})
            connection.line(b"\x00\xff rubbish\n")
            connection.end_stream()

    with ScriptedServer(rubbish) as server:
        scene = Scene(server.url, tmp_path / "document.json")
        job = scene.fetch()
        scene.worker.close()
        scene.client.close()

    assert (job.state, job.error["code"]) == (S.FAILED, "download_failed")


TAG_AND_ANOTHER_MODEL_UNDER_THE_ID = [
    {"name": TAG, "model": TAG, "digest": "a" * 64, "size": 5},
    {"name": MODEL, "model": MODEL, "digest": "b" * 64, "size": 5},
]


@pytest.mark.parametrize(
    "listed", [[], TAG_AND_ANOTHER_MODEL_UNDER_THE_ID[:1], TAG_AND_ANOTHER_MODEL_UNDER_THE_ID],
    ids=["nothing", "no id", "another model under the id"],
)  # fmt: skip
def test_success_without_the_model_in_the_list_is_no_success(tmp_path, listed):
    def liar(connection):
        while request := connection.receive():
            if request.path == "/api/pull":
                connection.begin_stream()
                connection.line({"status": "success"})
                connection.end_stream()
            elif request.path == "/api/version":
                connection.answer({"version": "0.33.0"})
            else:
                connection.answer({"models": listed})

    with ScriptedServer(liar) as server:
        scene = Scene(server.url, tmp_path / "document.json")
        job = scene.fetch()
        scene.worker.close()
        scene.client.close()

    assert (job.state, job.error["reason"]) == (S.FAILED, "not_listed")
    assert "download again" in job.error["remedy"]
    assert scene.remembered == []


@pytest.mark.parametrize(("gone", "before"), [(TAG, "/api/copy"), (MODEL, "/api/tags")], ids=["the tag", "the id"])
def test_a_name_that_somebody_removes_before_the_list_is_read_is_no_success(scene, simulator, gone, before):
    simulator.set_fault("slow_answer", endpoint=before, seconds=0.15)
    fetching = Answer(scene.fetch)
    until(lambda: asked(simulator, "/api/copy") == 1)
    until(lambda: gone == TAG or MODEL in simulator.state()["installed"])
    OllamaClient(simulator.url).delete(gone)

    job = fetching.get()

    assert (job.state, job.error["reason"]) == (S.FAILED, "not_listed")
    assert scene.remembered == []


def test_a_model_of_the_users_own_under_the_id_is_not_overwritten(scene, simulator):
    simulator.install(OTHER_TAG)
    scene.client.copy(OTHER_TAG, MODEL)
    mine = {model.name: model.digest for model in scene.client.tags()}[MODEL]
    scene.taken.add(MODEL)

    job = scene.fetch()

    assert job.error["code"] == "name_taken"
    assert {model.name: model.digest for model in scene.client.tags()}[MODEL] == mine


# --- once for all who ask --------------------------------------------------------------------------------------------


def test_many_who_ask_at_once_get_one_job_and_one_pull_and_all_hear_it(scene, simulator):
    together, asked_all = threading.Barrier(8), threading.Barrier(9)

    def ask():
        listener = Listener()
        together.wait()
        job = scene.worker.start(WANTED, listener)
        asked_all.wait()
        return job.id, list(scene.worker.events(job.id, listener))

    with held_up(simulator):
        answers = [Answer(ask) for _ in range(8)]
        asked_all.wait(SOON_S)
    heard = [answer.get() for answer in answers]

    assert {job_id for job_id, _ in heard} == set(scene.store.read().downloads)
    assert [lines[-1] for _, lines in heard] == [{"status": "success"}] * 8
    assert len(scene.store.read().downloads) == pulls(simulator) == 1


def test_who_is_second_by_a_hair_gets_the_job_of_who_was_first(scenes, simulator):
    one, two = scenes(), scenes()
    first = []

    def be_faster():
        two.before_change = lambda: None
        first.append(one.worker.start(WANTED))

    two.before_change = be_faster
    with held_up(simulator):
        second = two.worker.start(WANTED)
        until(standing(simulator))

    assert {second.id} == {first[0].id} == set(one.store.read().downloads)
    assert one.ended(second).state is S.COMPLETED
    assert pulls(simulator) == 1
    until(lambda: files_left(one) == set())


def test_who_asks_while_it_is_being_begun_here_hears_every_line_too(scene, simulator):
    listener, second = Listener(), []

    def ask_too():
        scene.after_change = lambda: None
        second.append(Answer(lambda: scene.worker.start(WANTED, listener)))
        second[0].wait(0.05)  # it may come through before the first one has its thread; it must not

    scene.after_change = ask_too
    with held_up(simulator):
        job = scene.worker.start(WANTED)
        joined = second[0].get()

    assert joined.id == job.id
    assert listener.run is not None
    assert list(scene.worker.events(job.id, listener))[-1] == {"status": "success"}


def test_two_workers_on_one_document_have_one_job(scenes, simulator):
    one, two = scenes(), scenes()
    with held_up(simulator):
        first = one.worker.start(WANTED)
        until(standing(simulator))
        joined = Answer(two.fetch)
        second = until(lambda: two.worker.get(first.id))

    assert second.id == first.id
    assert joined.get().state is S.COMPLETED
    assert pulls(simulator) == 1


def test_who_comes_later_hears_the_rest(scene, simulator):
    with held_up(simulator):
        first = scene.worker.start(WANTED)
        until(standing(simulator))
        listener = Listener()
        job = scene.worker.start(WANTED, listener)

    lines = Answer(lambda: list(scene.worker.events(job.id, listener))).get()

    assert job.id == first.id
    assert {"status": "pulling manifest"} not in lines
    assert lines[-1] == {"status": "success"}


def test_another_worker_sees_how_far_it_is(scenes, simulator):
    one, two = scenes(), scenes()
    with held_up(simulator, kind="stall"):
        job = one.worker.start(WANTED)
        far = until(lambda: (now := two.worker.get(job.id)).downloaded_bytes == HELD_AT and now)

    assert (far.state, far.total_bytes) == (S.DOWNLOADING, one.worker.get(job.id).total_bytes)
    assert one.ended(job).state is S.COMPLETED
    until(lambda: two.worker.get(job.id) == one.worker.get(job.id))


def test_different_models_come_one_after_another_in_the_order_of_asking(scene, simulator):
    wanted = [WANTED, WANTED_OTHER] + [
        Wanted(tag, tag, None, None, None, is_estimate=False)
        for tag in ("llama3.2:1b-instruct-q8_0", "llama3.2:3b-instruct-q8_0")
    ]
    with held_up(simulator):
        jobs = [scene.worker.start(one) for one in wanted]
        until(standing(simulator))
        states = [scene.worker.get(job.id).state for job in jobs]
        pulled = pulls(simulator)
    ends = [scene.ended(job).state for job in jobs]

    assert states == [S.DOWNLOADING, S.QUEUED, S.QUEUED, S.QUEUED]
    assert pulled == 1
    assert ends == [S.COMPLETED] * 4
    assert [r.body["model"] for r in simulator.requests if r.path == "/api/pull"] == [one.tag for one in wanted]


def test_no_more_run_at_once_than_is_set_in_all_workers_together(scenes, simulator):
    one, two = scenes(at_once=2), scenes(at_once=2)
    third = Wanted("gemma3:4b", "gemma3:4b", None, None, None, is_estimate=False)
    simulator.set_fault("silence", at_bytes=HELD_AT)
    jobs = [one.worker.start(WANTED), two.worker.start(WANTED_OTHER), one.worker.start(third)]
    until(lambda: list(simulator.state()["partial"].values()) == [HELD_AT] * 2)

    states = [two.worker.get(job.id).state for job in jobs]
    simulator.clear_faults()
    ends = [one.ended(job).state for job in jobs]

    assert states == [S.DOWNLOADING, S.DOWNLOADING, S.QUEUED]
    assert ends == [S.COMPLETED] * 3


def test_the_next_pull_begins_when_the_one_before_has_its_first_byte(scenes, simulator):
    scene = scenes(at_once=2)
    simulator.set_fault("slow_manifest", seconds=0.2)
    first, second = scene.worker.start(WANTED), scene.worker.start(WANTED_OTHER)

    until(lambda: pulls(simulator) == 2)
    has_begun = simulator.bytes_sent_total > 0

    assert has_begun
    assert scene.ended(first).state is scene.ended(second).state is S.COMPLETED


def test_one_tag_is_pulled_once_at_a_time_also_for_two_names(scenes, simulator):
    scene = scenes(at_once=2)
    custom = Wanted("my-own:latest", TAG, None, "my-own:latest", None, is_estimate=False)
    jobs = [scene.worker.start(WANTED), scene.worker.start(custom)]

    assert [scene.ended(job).state for job in jobs] == [S.COMPLETED] * 2
    assert simulator.concurrent_pulls_peak[TAG] == 1
    assert {MODEL, "my-own:latest"} < scene.installed()


# --- whose it is -----------------------------------------------------------------------------------------------------


def test_closing_leaves_it_interrupted_and_another_goes_on_without_fetching_twice(scenes, simulator):
    one, two, listener = scenes(), scenes(), Listener()
    with held_up(simulator):
        job = one.worker.start(WANTED, listener)
        until(standing(simulator))
        until(lambda: any(line.get("completed", 0) >= 200_000_000 for line in list(listener.lines)))
        began = time.monotonic()
        one.worker.close()
        took_s = time.monotonic() - began
        left = two.worker.get(job.id)
        until(lambda: simulator.state()["pulling"] == {}, "Ollama's end of the pull")
    taken = two.worker.resume_interrupted()
    done = two.ended(job)

    assert took_s < 2
    assert left.state is S.INTERRUPTED
    assert 200_000_000 <= left.downloaded_bytes <= HELD_AT  # what Ollama last said of it
    assert [one.id for one in taken] == [job.id]
    assert done.state is S.COMPLETED
    assert abs(simulator.bytes_sent_total - bytes_of(TAG)) <= 2_000_000


def test_what_was_waiting_its_turn_is_interrupted_by_closing_too(scene, simulator):
    with held_up(simulator):
        jobs = [scene.worker.start(WANTED), scene.worker.start(WANTED_OTHER)]
        until(standing(simulator))
        scene.worker.close()

    assert [scene.on_record(job).state for job in jobs] == [S.INTERRUPTED] * 2


def test_a_closed_worker_starts_nothing_any_more_but_keeps_what_is_asked(scene, simulator):
    scene.worker.close()

    job = scene.fetch()

    assert job.state is S.INTERRUPTED
    assert pulls(simulator) == 0


def test_a_job_of_somebody_who_lives_is_never_taken_over(scenes, simulator):
    one, two = scenes(), scenes()
    with held_up(simulator):
        job = one.worker.start(WANTED)
        until(standing(simulator))

        assert two.worker.resume_interrupted() == []
        assert two.worker.resume(job.id).state is S.DOWNLOADING
        assert pulls(simulator) == 1

    assert one.ended(job).state is S.COMPLETED


# As a process leaves it that was killed, and as one leaves it that was closed.
@pytest.mark.parametrize("left", [S.DOWNLOADING, S.INTERRUPTED])
@pytest.mark.parametrize("ask", ["start", "resume", "resume_interrupted"])
def test_somebody_who_only_looks_keeps_nobody_from_taking_over(scenes, simulator, ask, left):
    one, two = scenes(), scenes()
    simulator.set_fault("too_new", times=1)
    job = one.fetch()
    jobs = {job.id: job.model_copy(update={"state": left})}
    one.store.change(lambda document: document.model_copy(update={"downloads": jobs}))
    looker = two.worker.files.owner_lock(job.id)
    looker.acquire()
    looked = threading.Timer(0.03, looker.release)
    looked.start()

    {
        "start": lambda: two.worker.start(WANTED),
        "resume": lambda: two.worker.resume(job.id),
        "resume_interrupted": two.worker.resume_interrupted,
    }[ask]()

    looked.join()
    assert two.ended(job).state is S.COMPLETED


@dataclass
class Outdated:
    """A store that shows an older document first: what a read finds that was a moment too early."""

    store: JsonStore
    older: list

    @property
    def path(self):
        return self.store.path

    def read(self):
        return self.older.pop() if self.older else self.store.read()


def test_a_good_end_between_two_looks_is_not_taken_for_an_interruption(scenes):
    one, two = scenes(), scenes()
    job = one.fetch()
    running = {job.id: job.model_copy(update={"state": S.VERIFYING, "version": job.version - 1})}
    earlier = one.store.read().model_copy(update={"downloads": running})
    watching = two.made(Outdated(two.store, [earlier]))

    assert watching.get(job.id) == job


def test_asking_for_what_was_interrupted_goes_on_with_the_same_job(scenes, simulator):
    one, two = scenes(), scenes()
    with held_up(simulator):
        job = one.worker.start(WANTED)
        until(standing(simulator))
        one.worker.close()

    assert two.fetch().id == job.id
    assert abs(simulator.bytes_sent_total - bytes_of(TAG)) <= 2_000_000


def test_what_is_done_cannot_be_resumed(scene):
    job = scene.fetch()

    with pytest.raises(InvalidTransition) as refusal:
        scene.worker.resume(job.id)

    assert refusal.value.state == "completed"


def test_a_job_that_nobody_knows_is_not_found(scene):
    for call in (scene.worker.get, scene.worker.resume, lambda job_id: scene.worker.wait(job_id, 0, 0)):
        with pytest.raises(DownloadNotFound):
            call("000000000000")


# --- when the document cannot be written -----------------------------------------------------------------------------


def test_a_job_that_cannot_be_written_down_is_not_begun(scene, simulator):
    scene.refused = {1}

    with pytest.raises(StoreUnwritable):
        scene.worker.start(WANTED)

    assert scene.worker.all() == []
    assert pulls(simulator) == 0
    assert files_left(scene) == set()


@pytest.mark.parametrize("point", [2, 3, 4], ids=["downloading", "verifying", "completed"])
def test_what_the_document_could_not_take_down_did_not_happen_and_can_be_resumed(scene, simulator, point, caplog):
    scene.refused = {point}

    job = scene.fetch()
    listed = scene.worker.all()
    done = scene.ended(scene.worker.resume(job.id))

    assert job.state is S.INTERRUPTED
    assert job.message == "It could not be recorded any more. The disk is full. Free space there. Then resume it."
    assert listed == [job]
    assert "The disk is full." in caplog.text
    assert (done.state, done.message) == (S.COMPLETED, None)
    assert abs(simulator.bytes_sent_total - bytes_of(TAG)) <= 2_000_000


def test_a_failure_that_could_not_be_written_down_is_no_end_either(scene, simulator):
    simulator.set_fault("too_new", times=1)
    scene.refused = {3}

    job = scene.fetch()

    assert job.state is S.INTERRUPTED
    assert scene.ended(scene.worker.resume(job.id)).state is S.COMPLETED


def test_a_folder_that_cannot_be_made_is_told_before_anything_begins(scene, simulator):
    scene.worker.files.folder.write_text("in the way")

    with pytest.raises(StoreUnwritable) as refusal:
        scene.worker.start(WANTED)

    assert "allow this user" in str(refusal.value)
    assert pulls(simulator) == 0
    assert scene.store.read().downloads == {}


# --- watching --------------------------------------------------------------------------------------------------------


def test_waiting_ends_with_the_next_change_and_not_before(scene, simulator):
    with held_up(simulator):
        job = scene.worker.start(WANTED)
        until(standing(simulator))
        now = until(lambda: (now := scene.worker.get(job.id)).downloaded_bytes and now)
        same = scene.worker.wait(job.id, now.version, 0.05)
        waiting = Answer(lambda: scene.worker.wait(job.id, now.version, SOON_S))
        assert not waiting.is_there
    newer = waiting.get()

    assert same.version == now.version
    assert newer.version > now.version


def test_a_listener_that_leaves_costs_nothing_any_more(scene, simulator):
    with held_up(simulator, kind="stall"):
        listener = Listener()
        job = scene.worker.start(WANTED, listener)
        lines = scene.worker.events(job.id, listener)
        next(lines)
        lines.close()
        listener.lines.clear()
        until(lambda: scene.worker.get(job.id).downloaded_bytes == HELD_AT)

        assert not listener.lines


def test_a_slow_listener_does_not_slow_the_download(scene, simulator):
    listener = Listener()
    job = scene.worker.start(WANTED, listener)
    done = scene.ended(job)

    assert done.state is S.COMPLETED
    assert list(scene.worker.events(job.id, listener))[-1] == {"status": "success"}


def test_files_that_a_killed_process_left_of_nothing_are_swept(scene):
    folder = scene.worker.files.folder
    folder.mkdir()
    for name in ("0123456789ab.lock", "0123456789ab.json", "0123456789ab.tmp", "notes.txt"):
        (folder / name).write_text("")

    scene.fetch()

    until(lambda: files_left(scene) == {"notes.txt"})

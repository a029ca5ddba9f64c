"""What may be wished of a download, from here and from another process: it happens at once, or is refused in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from download_scenes import CALM, IMPATIENT, MODEL, OTHER, SOON_S, TAG, THIRD, Answer, held_up, pulls, standing, until

from catalog import MODEL_CATALOG
from download_files import DownloadFiles
from model_core.downloads import OWNED, WISHES
from model_core.errors import DownloadNotFound, InsufficientDisk, InvalidTransition, RegistryModelMissing
from model_core.plans import Room
from model_core.records import DownloadState
from model_manager import ModelManager
from registry_client import RegistryClient
from tests.download_owners import Owner

S = DownloadState
SIZE = 810_000_000
ANSWER_S = 1.0  # so soon a wish is answered
STOP_S = 2.0  # so soon Ollama fetches nothing any more
GB = 10**9


@pytest.fixture
def managers(simulator, tmp_path):
    """Makes managers on one document."""
    made = []

    def make(**options) -> ModelManager:
        made.append(ModelManager(simulator.url, tmp_path / "document.json", **{"patience": CALM, **options}))
        return made[-1]

    yield make
    simulator.clear_faults()
    for manager in made:
        manager.close()


@pytest.fixture
def manager(managers) -> ModelManager:
    return managers()


@pytest.fixture
def owner(simulator, tmp_path):
    owner = Owner(simulator.url, tmp_path / "document.json", CALM)
    yield owner
    owner.leave()


@pytest.fixture
def flowing(simulator):
    """Ollama fetches at a pace that leaves time to interfere: 4 s for the model, 2 MB a line."""
    simulator.pace.rate_bytes_per_s, simulator.pace.tick_s = 200e6, 0.01
    return simulator


def ended(manager: ModelManager, job_id: str):
    return until(lambda: (now := manager.download(job_id)).state not in OWNED and now, "the end of the download")


def under_way(manager: ModelManager, simulator, name: str = MODEL) -> str:
    """The id of a download of which some has come."""
    job = manager.start_download(name)
    until(lambda: simulator.bytes_sent_total > 20_000_000)
    return job.id


def soon(call: Callable):
    """What a call returns. Fails when that takes longer than a wish may."""
    began = time.monotonic()
    value = call()
    assert time.monotonic() - began < ANSWER_S
    return value


def until_nothing_is_sent(simulator) -> int:
    until(lambda: not simulator.state()["pulling"], "the end of what Ollama sends", STOP_S)
    return simulator.bytes_sent_total


# --- pause, resume, cancel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "state"), [("pause", S.PAUSED), ("cancel", S.CANCELLED)])
def test_a_download_stops_within_a_second_and_goes_on_without_fetching_a_byte_twice(manager, flowing, wish, state):
    job_id = under_way(manager, flowing)

    stopped = soon(lambda: getattr(manager, f"{wish}_download")(job_id))
    sent = until_nothing_is_sent(flowing)
    flowing.pace.rate_bytes_per_s = 100e9
    resumed = soon(lambda: manager.resume_download(job_id))
    done = ended(manager, job_id)

    assert stopped.state is state
    assert 0 < stopped.downloaded_bytes <= sent < SIZE
    assert resumed.id == job_id
    assert done.state is S.COMPLETED
    assert flowing.bytes_sent_total == SIZE
    assert pulls(flowing) == 2


@pytest.mark.parametrize(("wish", "state"), [("pause", S.PAUSED), ("cancel", S.CANCELLED)])
def test_a_download_of_another_process_stops_within_a_second(manager, owner, flowing, wish, state):
    job_id = owner.ask("start_download", MODEL).id
    until(lambda: flowing.bytes_sent_total > 20_000_000)

    stopped = soon(lambda: getattr(manager, f"{wish}_download")(job_id))
    until_nothing_is_sent(flowing)
    flowing.pace.rate_bytes_per_s = 100e9
    manager.resume_download(job_id)  # by this process now

    assert stopped.state is state
    assert ended(manager, job_id).state is S.COMPLETED
    assert flowing.bytes_sent_total == SIZE


def test_a_paused_download_holds_up_no_other(manager, simulator):
    with held_up(simulator):
        job_id = manager.start_download(MODEL).id
        until(standing(simulator))
        manager.pause_download(job_id)

        assert manager.pull_model(OTHER).state is S.COMPLETED
    assert manager.download(job_id).state is S.PAUSED


def test_a_cancelled_download_says_what_stays_and_how_to_go_on(manager, simulator):
    with held_up(simulator, kind="stall"):
        job_id = manager.start_download(MODEL).id
        until(standing(simulator))
        until(lambda: manager.download(job_id).downloaded_bytes >= 300_000_000)
        job = manager.cancel_download(job_id)

    assert "300 MB may stay on Ollama's disk" in job.message
    assert "started again more than an hour later" in job.message
    assert "resume goes on from there" in job.message
    assert job.finished_at is not None
    assert manager.downloads() == [job]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from elsewhere"])
def test_what_waits_its_turn_is_cancelled_at_once_and_never_asked_for(managers, simulator, elsewhere):
    manager = managers()
    other = managers() if elsewhere else manager
    with held_up(simulator):
        manager.start_download(MODEL)
        waiting = manager.start_download(OTHER)

        job = soon(lambda: other.cancel_download(waiting.id))

        assert job.state is S.CANCELLED
    assert pulls(simulator, MODEL_CATALOG[OTHER].variants[0].tag) == 0


def test_what_is_paused_can_be_cancelled_by_anybody(managers, simulator):
    one, two = managers(), managers()
    with held_up(simulator):
        job_id = one.start_download(MODEL).id
        until(standing(simulator))
        one.pause_download(job_id)

        job = soon(lambda: two.cancel_download(job_id))

    assert job.state is one.download(job_id).state is S.CANCELLED


def test_what_lost_its_owner_can_be_cancelled_and_stays_so(manager, owner, simulator):
    with held_up(simulator):
        job_id = owner.ask("start_download", MODEL).id
        until(standing(simulator))
        owner.kill()

        job = soon(lambda: manager.cancel_download(job_id))

    assert job.state is S.CANCELLED
    assert manager.resume_downloads() == []


def test_while_it_waits_for_the_next_attempt_it_can_be_paused(managers, simulator):
    manager = managers(patience=replace(IMPATIENT, first_pause_s=60.0, longest_pause_s=60.0))
    simulator.set_fault("cut_stream", times=1, at_bytes=300_000_000)
    job_id = manager.start_download(MODEL).id
    until(lambda: manager.download(job_id).attempt == 2)

    assert soon(lambda: manager.pause_download(job_id)).state is S.PAUSED


@pytest.mark.parametrize("fault", ["slow_manifest", "slow_answer"])
def test_an_ollama_that_does_not_answer_keeps_nobody_from_cancelling(manager, simulator, fault):
    simulator.set_fault(fault, seconds=60, endpoint=None if fault == "slow_manifest" else "/api/pull")
    job_id = manager.start_download(MODEL).id
    until(lambda: manager.download(job_id).phase == "asking the registry")

    assert soon(lambda: manager.cancel_download(job_id)).state is S.CANCELLED


def test_an_ollama_that_answers_after_the_cancel_is_hung_up_on(manager, flowing):
    flowing.set_fault("slow_answer", times=1, endpoint="/api/pull", seconds=0.3)
    job_id = manager.start_download(MODEL).id
    until(lambda: pulls(flowing))
    manager.cancel_download(job_id)

    until(lambda: not any(thread.name.startswith("pull") for thread in threading.enumerate()), "the late answer")
    assert until_nothing_is_sent(flowing) < SIZE / 4


def test_an_order_that_comes_while_a_wish_is_looked_for_is_not_lost(manager, simulator):
    looking, ordered = threading.Event(), threading.Event()

    class SlowToLook(DownloadFiles):
        def wished(self, job_id):
            looking.set()
            ordered.wait(SOON_S)
            return super().wished(job_id)

    worker = manager._worker
    worker._desk = replace(worker._desk, files=SlowToLook(manager.store.path))
    with held_up(simulator):
        job_id = manager.start_download(MODEL).id
        assert looking.wait(SOON_S)
        cancelling = Answer(lambda: manager.cancel_download(job_id))
        until(lambda: worker._runs[job_id]._order)
        ordered.set()

        assert soon(cancelling.get).state is S.CANCELLED


def test_a_wish_that_came_too_late_does_not_strike_who_goes_on(manager, owner, simulator):
    with held_up(simulator):
        job_id = owner.ask("start_download", MODEL).id
        until(standing(simulator))
        owner.kill()
        # As it is left by somebody whose wish nobody heard any more.
        manager._worker.files.wish(job_id, "pause")

        manager.resume_download(job_id)
    assert ended(manager, job_id).state is S.COMPLETED


def test_who_waits_for_a_download_that_somebody_pauses_is_told(manager, simulator):
    with held_up(simulator):
        waiting = Answer(lambda: manager.download_model(MODEL))
        until(standing(simulator))
        (job,) = manager.downloads()
        manager.pause_download(job.id)

        done, message = waiting.get()

    assert not done
    assert "paused" in message


def test_asking_again_for_what_is_paused_goes_on_with_it(manager, simulator):
    with held_up(simulator):
        job_id = manager.start_download(MODEL).id
        until(standing(simulator))
        manager.pause_download(job_id)

    assert manager.pull_model(MODEL).id == job_id
    assert simulator.bytes_sent_total == SIZE


def test_a_download_that_was_asked_for_anew_is_not_resumed_beside_it(manager, simulator):
    with held_up(simulator):
        first = manager.start_download(MODEL).id
        until(standing(simulator))
        manager.cancel_download(first)
        second = manager.start_download(MODEL).id

        resumed = manager.resume_download(first)

        assert resumed.id == second != first
        assert manager.download(first).state is S.CANCELLED
    assert ended(manager, second).state is S.COMPLETED


# --- what cannot be --------------------------------------------------------------------------------------------------


def queued(manager, simulator):
    manager.start_download(OTHER)
    return manager.start_download(MODEL).id


def downloading(manager, simulator):
    job_id = manager.start_download(MODEL).id
    until(standing(simulator))
    return job_id


def paused(manager, simulator):
    return manager.pause_download(downloading(manager, simulator)).id


def cancelled(manager, simulator):
    return manager.cancel_download(downloading(manager, simulator)).id


def failed(manager, simulator):
    simulator.clear_faults()
    simulator.set_fault("disk_full", at_bytes=5)
    return ended(manager, manager.start_download(MODEL).id).id


def completed(manager, simulator):
    simulator.clear_faults()
    return manager.pull_model(MODEL).id


IN_STATE = {
    S.QUEUED: queued,
    S.DOWNLOADING: downloading,
    S.PAUSED: paused,
    S.CANCELLED: cancelled,
    S.FAILED: failed,
    S.COMPLETED: completed,
}
CALLS = {
    "pause": lambda manager, job_id: manager.pause_download(job_id),
    "cancel": lambda manager, job_id: manager.cancel_download(job_id),
    "resume": lambda manager, job_id: manager.resume_download(job_id),
    "move": lambda manager, job_id: manager.move_download(job_id, 0),
    "forget": lambda manager, job_id: manager.forget_download(job_id),
}
# Whoever asks for what runs or waits to go on gets what is true already.
HARMLESS = {(S.QUEUED, "resume"), (S.DOWNLOADING, "resume")}


@pytest.mark.parametrize("state", IN_STATE)
def test_an_impossible_wish_is_refused_with_the_state_and_what_is_allowed(manager, simulator, state):
    simulator.set_fault("silence", at_bytes=300_000_000)
    job_id = IN_STATE[state](manager, simulator)
    before = manager.download(job_id)
    assert before.state is state

    for wish in CALLS.keys() - set(WISHES[state]):
        if (state, wish) in HARMLESS:
            assert CALLS[wish](manager, job_id).id == job_id
            continue
        with pytest.raises(InvalidTransition) as refusal:
            CALLS[wish](manager, job_id)
        assert (refusal.value.state, tuple(refusal.value.allowed)) == (state, WISHES[state])
        assert refusal.value.wish == wish
        assert wish.removesuffix("et") in str(refusal.value)  # forgotten
    assert manager.download(job_id) == before


@pytest.mark.parametrize("wish", CALLS)
def test_of_a_download_that_nobody_knows_nothing_can_be_wished(manager, wish):
    with pytest.raises(DownloadNotFound):
        CALLS[wish](manager, "000000000000")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from elsewhere"])
@pytest.mark.parametrize("wish", ["pause", "cancel"])
def test_what_is_being_checked_is_not_stopped_and_ends_well(managers, simulator, wish, elsewhere):
    manager = managers()
    other = managers() if elsewhere else manager
    simulator.set_fault("slow_answer", endpoint="/api/copy", seconds=0.5)
    job_id = manager.start_download(MODEL).id
    until(lambda: other.download(job_id).state is S.VERIFYING)

    with pytest.raises(InvalidTransition) as refusal:
        soon(lambda: CALLS[wish](other, job_id))

    assert (refusal.value.state, refusal.value.allowed) == (S.VERIFYING, [])
    assert ended(manager, job_id).state is S.COMPLETED


# --- the order, the record -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from elsewhere"])
def test_what_waits_is_fetched_in_the_order_that_somebody_wished(managers, simulator, elsewhere):
    manager = managers()
    other = managers() if elsewhere else manager
    with held_up(simulator):
        first = manager.start_download(MODEL)
        until(standing(simulator))
        second, third = manager.start_download(OTHER), manager.start_download(THIRD)
        other.move_download(third.id, 0)

        assert [job.id for job in manager.downloads()] == [first.id, third.id, second.id]
    for job in (first, second, third):
        ended(manager, job.id)
    fetched = [request.body["model"] for request in simulator.requests if request.path == "/api/pull"]
    assert fetched == [MODEL_CATALOG[name].variants[0].tag for name in (MODEL, THIRD, OTHER)]


def test_only_what_has_ended_is_forgotten(manager, simulator):
    job = manager.pull_model(MODEL)

    assert manager.forget_download(job.id) == job
    assert manager.downloads() == []
    with pytest.raises(DownloadNotFound):
        manager.download(job.id)


# --- before the first byte -------------------------------------------------------------------------------------------


def disk(free_bytes: int | None, is_certain: bool = True):
    return lambda: Room(free_bytes=free_bytes, path="/models", is_certain=is_certain)


def test_a_plan_says_what_would_be_fetched_and_fetches_nothing(managers, simulator):
    planned = managers(disk=disk(20 * GB)).plan_download(MODEL)

    assert (planned.total_bytes, planned.present_bytes, planned.missing_bytes) == (SIZE, 0, SIZE)
    assert (planned.free_bytes, planned.fits_disk, planned.disk_is_certain) == (20 * GB, True, True)
    assert planned.basis == "manifest"
    assert planned.license
    assert planned.memory["compatible"] is True
    assert (pulls(simulator), simulator.bytes_sent_total, simulator.state()["installed"]) == (0, 0, [])


def test_a_plan_counts_what_ollama_holds_already(manager, simulator):
    simulator.install(TAG)

    planned = manager.plan_download(MODEL)

    assert (planned.present_bytes, planned.missing_bytes, planned.already_installed) == (SIZE, 0, True)


def test_layers_that_are_shared_with_another_model_count_as_done(manager, simulator):
    simulator.install("llama3.2:1b-instruct-q8_0")

    planned = manager.plan_download(MODEL)

    assert 0 < planned.present_bytes < SIZE
    assert planned.present_bytes + planned.missing_bytes == SIZE


def test_a_plan_warns_of_a_size_and_a_disk_that_may_be_others(managers, simulator):
    simulator.set_fault("registry_status", status=503)

    planned = managers(disk=disk(20 * GB, is_certain=False)).plan_download("llama3.1:70b-instruct")

    assert planned.basis == "catalogue"
    assert {"size_estimated", "disk_assumed"} <= {warning.code for warning in planned.warnings}
    assert planned.memory["verdict"] in {warning.code for warning in planned.warnings}


@pytest.mark.parametrize("force", [False, True])
def test_70b_on_a_disk_with_20_gb_free_is_refused_before_the_first_byte_with_both_figures(managers, simulator, force):
    manager = managers(disk=disk(20 * GB))

    with pytest.raises(InsufficientDisk) as refusal:
        manager.start_download("llama3.1:70b-instruct", force=force)

    assert "42.5 GB" in str(refusal.value)
    assert "20.0 GB" in str(refusal.value)
    assert (refusal.value.need_bytes, refusal.value.free_bytes) == (42_520_412_561, 20 * GB)
    assert manager.downloads() == []
    assert pulls(simulator) == 0


@pytest.mark.parametrize("doubt", ["disk", "size"])
def test_a_doubtful_figure_refuses_too_but_can_be_overridden(managers, simulator, doubt):
    manager = managers(disk=disk(20 * GB, is_certain=doubt != "disk"))
    if doubt == "size":
        simulator.set_fault("registry_status", times=1, status=503)

    with pytest.raises(InsufficientDisk):
        manager.start_download("llama3.1:70b-instruct")
    assert pulls(simulator) == 0

    assert manager.start_download("llama3.1:70b-instruct", force=True).state is S.QUEUED


@pytest.mark.parametrize("call", ["start_download", "plan_download", "pull_model"])
def test_a_model_that_the_registry_does_not_have_is_not_found_and_leaves_no_job(manager, simulator, call):
    with pytest.raises(RegistryModelMissing) as missing:
        getattr(manager, call)("nobody/has-this:1b")

    assert missing.value.code == "model_not_found"
    assert "nobody/has-this:1b" in str(missing.value)
    assert manager.downloads() == []
    assert pulls(simulator) == 0


@pytest.mark.parametrize(
    "registry", [None, RegistryClient(lambda host: "http://127.0.0.1:9")], ids=["it answers 503", "nobody answers"]
)
def test_a_registry_that_cannot_be_asked_leaves_an_estimate_and_the_download_goes(managers, simulator, registry):
    if registry is None:
        simulator.set_fault("registry_status", times=1, status=503)
    manager = managers(registry=registry)

    job = manager.start_download(MODEL)

    assert (job.total_bytes, job.total_is_estimate) == (SIZE, True)
    done = ended(manager, job.id)
    assert (done.state, done.total_is_estimate) == (S.COMPLETED, False)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_percent_is_of_what_the_manifest_says_and_what_is_there_counts_as_done(manager, simulator):
    simulator.install("llama3.2:1b-instruct-q8_0")
    present = manager.plan_download(MODEL, "q4").present_bytes
    with held_up(simulator, kind="stall"):
        job = manager.start_download(MODEL, "q4")
        until(standing(simulator))
        held = until(lambda: (now := manager.download(job.id)).downloaded_bytes >= 300_000_000 and now)
        steps = Answer(lambda: [now.percent for now in manager.follow_download(job) if now.percent is not None])

    assert (job.total_bytes, job.total_is_estimate) == (SIZE, False)
    assert held.total_bytes == SIZE
    assert held.downloaded_bytes == 300_000_000 + present
    assert held.percent == round(100 * held.downloaded_bytes / SIZE, 1)
    percents = steps.get()
    assert percents == sorted(percents)
    assert percents[-1] == 100.0


def test_a_standstill_says_that_no_data_came_and_heals_by_itself(managers, simulator):
    manager = managers(patience=replace(IMPATIENT, stalled_s=0.3, first_pause_s=0.3, longest_pause_s=0.3))
    simulator.set_fault("stall", times=1, at_bytes=300_000_000)

    job = manager.start_download(MODEL)
    messages = [step.message for step in manager.follow_download(job) if step.message]

    assert any("no data for" in message and "Trying again in" in message for message in messages)
    assert ended(manager, job.id).state is S.COMPLETED
    assert simulator.bytes_sent_total == SIZE
    assert pulls(simulator) == 2

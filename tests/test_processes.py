"""Several processes on one document: they see one another's doings at once, do nothing twice and lose nothing."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from model_core.downloads import OWNED
from model_core.records import DownloadState
from model_manager import ModelManager
from registry_client import RegistryClient
from tests.download_owners import PROCESSES, Owner
from tests.download_scenes import CALM, MODEL, OTHER, OTHER_TAG, TAG, THIRD, asked, held_up, pulls, standing, until

S = DownloadState

HAS_FORK = "fork" in multiprocessing.get_all_start_methods()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "document.json"


@pytest.fixture
def manager(simulator, path):
    manager = ModelManager(simulator.url, path, patience=CALM)
    yield manager
    simulator.clear_faults()
    manager.close()


@pytest.fixture
def owners(simulator, path):
    """Makes other processes with a manager on the same document."""
    made = []

    def make() -> Owner:
        made.append(Owner(simulator.url, path, CALM))
        return made[-1]

    yield make
    simulator.clear_faults()
    for owner in made:
        owner.process.kill()
        owner.process.join()


def ended(manager: ModelManager, job) -> DownloadState:
    return until(lambda: (now := manager.download(job.id).state) not in OWNED and now, "the end of the download")


def bytes_fetched_once(simulator, *tags: str) -> bool:
    weights = {model.name: model.size_bytes for model in listed(simulator)}
    return abs(simulator.bytes_sent_total - sum(weights[tag] for tag in tags)) <= 2_000_000


def listed(simulator):
    manager = ModelManager(simulator.url, Path("unused.json"))
    return manager.client.tags()


# --- downloads -------------------------------------------------------------------------------------------------------


def test_two_that_start_the_same_model_get_one_job_and_one_pull(manager, owners, simulator):
    one, two = owners(), owners()
    with held_up(simulator):
        one.say("start_download", MODEL)
        two.say("start_download", MODEL)
        jobs = [one.answer(), two.answer()]
        until(standing(simulator))

    assert jobs[0].id == jobs[1].id
    assert ended(manager, jobs[0]) is S.COMPLETED
    assert pulls(simulator) == 1


def test_different_models_come_in_the_order_of_asking_whoever_asked(manager, owners, simulator):
    one, two = owners(), owners()
    with held_up(simulator):
        jobs = [owner.ask("start_download", name) for owner, name in ((one, MODEL), (two, OTHER), (one, THIRD))]
        until(standing(simulator))
        states = [manager.download(job.id).state for job in jobs]

    assert states == [S.DOWNLOADING, S.QUEUED, S.QUEUED]
    assert [ended(manager, job) for job in jobs] == [S.COMPLETED] * 3
    pulled = [request.body["model"] for request in simulator.requests if request.path == "/api/pull"]
    assert pulled == [TAG, OTHER_TAG, "llama3.1:8b-instruct-q4_K_M"]


def test_what_a_killed_process_had_accepted_is_all_there_and_goes_on(manager, owners, simulator):
    owner = owners()
    with held_up(simulator):
        jobs = [owner.ask("start_download", name) for name in (MODEL, OTHER)]
        until(standing(simulator))
        owner.kill()
        until(lambda: simulator.state()["pulling"] == {}, "Ollama's end of the pull")
        left = [manager.download(job.id).state for job in jobs]
        problem = manager.health()["parts"]["downloads"]["problem"]
    taken = manager.resume_downloads()

    assert left == [S.INTERRUPTED] * 2
    assert "2 downloads did not finish" in problem
    assert [job.id for job in taken] == [job.id for job in jobs]
    assert [ended(manager, job) for job in jobs] == [S.COMPLETED] * 2
    assert bytes_fetched_once(simulator, TAG, OTHER_TAG)


def test_a_process_that_ends_as_it_should_leaves_its_download_to_others(manager, owners, simulator):
    owner = owners()
    with held_up(simulator):
        job = owner.ask("start_download", MODEL)
        until(standing(simulator))
        owner.leave()

        assert manager.store.read().downloads[job.id].state is S.INTERRUPTED

    assert manager.pull_model(MODEL).id == job.id
    assert bytes_fetched_once(simulator, TAG)


def test_who_waits_for_a_download_of_a_process_that_is_killed_takes_it_over(manager, owners, simulator):
    owner, waiting = owners(), owners()
    with held_up(simulator):
        job = owner.ask("start_download", MODEL)
        until(standing(simulator))
        waiting.say("pull_model", MODEL)
        until(lambda: asked(simulator, "/api/tags") >= 2)
        owner.kill()

    assert waiting.answer().id == job.id
    assert manager.download(job.id).state is S.COMPLETED
    assert bytes_fetched_once(simulator, TAG)


def test_nobody_takes_over_from_a_process_that_lives(manager, owners, simulator):
    owner = owners()
    with held_up(simulator):
        job = owner.ask("start_download", MODEL)
        until(standing(simulator))

        assert manager.resume_downloads() == []
        assert manager.download(job.id).state is S.DOWNLOADING

    assert ended(manager, job) is S.COMPLETED
    assert pulls(simulator) == 1


def test_another_process_shows_how_far_it_is(manager, owners, simulator):
    owner = owners()
    with held_up(simulator, kind="stall"):
        job = owner.ask("start_download", MODEL)
        far = until(lambda: (now := manager.download(job.id)).downloaded_bytes and now)

    assert far.state is S.DOWNLOADING
    assert 0 < far.percent < 100
    assert ended(manager, job) is S.COMPLETED


def test_killed_processes_leave_no_files_behind_once_their_work_is_done(manager, owners, simulator, path):
    for name in (MODEL, OTHER):
        owner = owners()
        with held_up(simulator, TAG if name == MODEL else OTHER_TAG):
            owner.ask("start_download", name)
            until(standing(simulator))
            owner.kill()
        manager.pull_model(name)

    folder = path.with_name("document.json.downloads")
    until(lambda: {file.name for file in folder.iterdir()} <= {"slot-0.lock", "pull-start.lock", "models.lock"})


# --- benchmarks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_models(simulator):
    simulator.install(TAG)
    simulator.install(OTHER_TAG)
    return [MODEL, OTHER]


def test_a_benchmark_of_a_killed_process_keeps_what_it_has_and_goes_on(manager, owners, simulator, two_models):
    owner = owners()
    simulator.set_fault("slow_load", model=OTHER_TAG, seconds=60)
    job = owner.ask("start_benchmark", two_models, ["Rate it."], (), 1)
    seen = until(lambda: (now := manager.benchmark(job.id)).phase == f"loading {OTHER}" and now)
    owner.kill()
    left = manager.benchmark(job.id)
    problem = manager.health()["parts"]["benchmarks"]["problem"]
    simulator.clear_faults()
    taken = manager.resume_benchmarks()
    done = until(lambda: (now := manager.benchmark(job.id)).state == "completed" and now)

    assert (seen.state, left.state) == ("running", "interrupted")
    assert job.id in problem
    assert [one.id for one in taken] == [job.id]
    assert done.results[0] == left.results[0] == seen.results[0]
    assert [result.model for result in done.results] == [MODEL, OTHER]


def test_a_benchmark_of_another_process_is_cancelled_within_a_second(manager, owners, simulator, two_models):
    simulator.set_fault("slow_load", seconds=60)
    job = owners().ask("start_benchmark", two_models)
    until(lambda: manager.benchmark(job.id).phase == f"loading {MODEL}")

    began = time.monotonic()
    cancelled = manager.cancel_benchmark(job.id)

    assert cancelled.state == "cancelled"
    assert time.monotonic() - began < 1


def test_benchmarks_of_several_processes_take_turns(manager, owners, simulator, two_models):
    one, two = owners(), owners()
    simulator.set_fault("slow_load", seconds=60)
    first = one.ask("start_benchmark", [MODEL])
    until(lambda: manager.benchmark(first.id).phase == f"loading {MODEL}")
    second = two.ask("start_benchmark", [OTHER])
    waiting = manager.benchmark(second.id).state
    one.kill()
    until(lambda: manager.benchmark(second.id).state == "running")
    simulator.clear_faults()

    assert waiting == "queued"
    assert until(lambda: manager.benchmark(second.id).state == "completed")


# --- the selection ---------------------------------------------------------------------------------------------------


def test_a_switch_is_seen_by_the_others_at_once(manager, owners, simulator):
    simulator.install(TAG)
    simulator.install(OTHER_TAG)
    owner = owners()

    assert owner.ask("switch_model", MODEL)
    seen = manager.get_current_model()
    assert manager.switch_model(OTHER)

    assert seen == MODEL
    assert owner.ask("get_current_model") == OTHER
    assert manager.store.read().previous_model == MODEL


def test_nobody_switches_to_what_another_process_is_deleting(manager, owners, simulator):
    simulator.install(TAG)
    owner = owners()
    simulator.set_fault("slow_answer", endpoint="/api/delete", seconds=0.3)
    owner.say("remove_model", MODEL)
    until(lambda: asked(simulator, "/api/delete"))

    assert manager.switch_model(MODEL) is False
    assert owner.answer().model == MODEL
    assert manager.get_current_model() is None


def test_nobody_deletes_what_another_process_is_switching_to(manager, owners, simulator):
    simulator.install(TAG)
    owner = owners()
    simulator.set_fault("slow_answer", endpoint="/api/copy", seconds=0.3)
    owner.say("switch_model", MODEL)
    until(lambda: asked(simulator, "/api/copy"))

    happened, message = manager.delete_model(MODEL)

    assert owner.answer() is True
    assert (happened, "is the current model" in message) == (False, True)


# --- usage -----------------------------------------------------------------------------------------------------------


def test_records_of_three_processes_at_once_are_all_kept(manager, owners):
    three = [owners() for _ in range(3)]
    for _ in range(30):
        for owner in three:
            owner.say("record_usage", MODEL, 0.5)
    for owner in three:
        for _ in range(30):
            owner.answer()

    statistics = manager.get_model_statistics(MODEL)
    assert (statistics["usage_count"], statistics["avg_inference_time"]) == (90, 0.5)


def test_a_record_that_was_acknowledged_survives_kill_9(manager, owners):
    owner = owners()
    owner.ask("record_usage", MODEL, 0.5)
    owner.kill()

    assert manager.get_model_statistics(MODEL)["usage_count"] == 1


# --- fork ------------------------------------------------------------------------------------------------------------


def forked(work: Callable[[], bool]) -> bool:
    """Do something in a fork of this process, and return what came of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on it says that threads are not taken along
        child = os.fork()
    if child == 0:
        good = False
        with suppress(BaseException):
            good = work()
        os._exit(0 if good else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def fork_and_tell(url: str, path: Path, told) -> None:
    """Download, fork meanwhile, and tell how the fork saw it."""
    manager = ModelManager(url, path, patience=CALM, registry=RegistryClient(lambda host: url))
    manager.record_usage(MODEL, 1.0)
    job = manager.start_download(MODEL)
    until(lambda: manager.download(job.id).downloaded_bytes)

    def as_another_process() -> bool:
        manager.record_usage(MODEL, 1.0)
        seen = manager.download(job.id).state
        return (
            seen is S.DOWNLOADING
            and manager.resume_downloads() == []
            and manager.list_installed_models() == []
            and manager.switch_model(MODEL) is False
        )

    told.send(forked(as_another_process))
    told.send(job.id)
    told.recv()  # killed here


@pytest.mark.skipif(not HAS_FORK, reason="there is no fork here")
def test_a_fork_of_a_downloading_process_works_and_takes_nothing_away(manager, simulator, path):
    told, theirs = PROCESSES.Pipe()
    with held_up(simulator):
        process = PROCESSES.Process(target=fork_and_tell, args=(simulator.url, path, theirs), daemon=True)
        process.start()
        theirs.close()
        assert told.poll(30)
        fork_was_well, job_id = told.recv(), told.recv()
        after_the_fork = manager.download(job_id).state
        process.kill()
        process.join()
        after_the_kill = manager.download(job_id).state

    assert fork_was_well
    assert after_the_fork is S.DOWNLOADING
    assert after_the_kill is S.INTERRUPTED
    assert manager.get_model_statistics(MODEL)["usage_count"] == 2


def fork_and_stay(url: str, path: Path, told) -> None:
    """Download, and leave a fork behind that lives on."""
    manager = ModelManager(url, path, patience=CALM, registry=RegistryClient(lambda host: url))
    job = manager.start_download(MODEL)
    until(lambda: manager.download(job.id).downloaded_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        with suppress(BaseException):
            until(lambda: manager.download(job.id).state is S.INTERRUPTED)
            path.with_suffix(".seen").touch()
            time.sleep(60)  # it is killed by the test
        os._exit(0)
    told.send((job.id, child))
    told.recv()  # killed here


@pytest.mark.skipif(not HAS_FORK, reason="there is no fork here")
def test_a_fork_that_lives_on_does_not_pass_for_the_owner(manager, simulator, path):
    told, theirs = PROCESSES.Pipe()
    with held_up(simulator):
        process = PROCESSES.Process(target=fork_and_stay, args=(simulator.url, path, theirs), daemon=True)
        process.start()
        theirs.close()
        assert told.poll(30)
        job_id, child = told.recv()
        process.kill()
        process.join()
        until(lambda: manager.download(job_id).state is S.INTERRUPTED)
        until(lambda: simulator.state()["pulling"] == {}, "Ollama's end of the pull")
        until(lambda: path.with_suffix(".seen").exists(), "the fork's own look")
        os.kill(child, 9)

"""Proof: whatever goes wrong in whichever phase of a download, it ends as it must, says why, and leaves nothing."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from model_core import names
from model_core.downloads import OWNED
from model_core.records import DownloadJob, DownloadState
from model_manager import ModelManager
from ollama_simulator import FAULTS, OllamaSimulator
from ollama_simulator_faults import BYTE_FAULTS, MANIFEST_FAULTS
from registry_client import RegistryClient
from tests.download_owners import Owner
from tests.download_scenes import CALM, IMPATIENT, MODEL, TAG, pulls, until
from tests.scripted_server import ScriptedServer

S = DownloadState
SIZE = 810_000_000
HALF = 400_000_000
FAST, CRAWL = 100e9, 1e6
LIMIT_S = 20.0  # nothing takes so long: what does hangs
PATIENCE = replace(IMPATIENT, asking_s=1.5, checking_s=1.5)
TICK_BYTES = 2_000_000

# --- the phases, and how a download is held in one -------------------------------------------------------------------


@dataclass
class Stage:
    """One simulated Ollama, and one manager that downloads from it."""

    simulator: OllamaSimulator
    manager: ModelManager
    hold_s: float = 0.25

    def phase(self, job_id: str) -> str:
        return self.manager.download(job_id).phase


Hold = Callable[[Stage], Iterator[None]]


def waiting(stage: Stage) -> Iterator[None]:
    slot = stage.manager._worker.files.slots(1)[0]
    assert slot.acquire()
    yield
    slot.release()


def asking(stage: Stage) -> Iterator[None]:
    stage.simulator.set_fault("slow_manifest", times=1, seconds=stage.hold_s)
    yield


def downloading(stage: Stage) -> Iterator[None]:
    stage.simulator.pace.rate_bytes_per_s = CRAWL
    yield
    stage.simulator.pace.rate_bytes_per_s = FAST


def checking(stage: Stage) -> Iterator[None]:
    # All but the last byte is there, so that the time goes into the checking; it is ten times as fast as the fetching.
    simulator = stage.simulator
    weights = simulator.models.published_as(names.parse(TAG)).weights.size_bytes
    simulator.set_fault("cut_stream", times=1, at_bytes=weights - 1)
    with stage.manager.client.pull(TAG) as stream, pytest.raises(Exception, match="did not say why"):
        list(stream)
    simulator.requests.clear()
    simulator.pace.rate_bytes_per_s = SIZE / 10 / stage.hold_s
    yield
    simulator.pace.rate_bytes_per_s = FAST


def naming(stage: Stage) -> Iterator[None]:
    stage.simulator.set_fault("slow_answer", times=1, endpoint="/api/copy", seconds=stage.hold_s)
    yield


PHASES: dict[str, Hold] = {
    "waiting": waiting,
    "asking the registry": asking,
    "downloading": downloading,
    "checking": checking,
    "naming": naming,
}


@contextmanager
def stage_at(path: Path, hold_s: float = 0.25) -> Iterator[Stage]:
    pace = {"rate_bytes_per_s": FAST, "tick_s": 0.002, "unload_seconds": 0.005}
    with OllamaSimulator(**pace) as simulator:
        manager = ModelManager(simulator.url, path / "document.json", patience=PATIENCE)
        yield Stage(simulator, manager, hold_s)
        simulator.clear_faults()
        manager.close()


@contextmanager
def held(stage: Stage, phase: str, start: Callable[[], DownloadJob]) -> Iterator[DownloadJob]:
    """Within the block, a download stands in this phase; after it, it goes on."""
    hold = PHASES[phase](stage)
    next(hold)
    job = start()
    until(lambda: stage.phase(job.id) == phase, phase)
    yield job
    next(hold, None)


def ended(manager: ModelManager, job_id: str) -> DownloadJob:
    return until(lambda: (now := manager.download(job_id)).state not in OWNED and now, "the end", LIMIT_S)


def installed(simulator: OllamaSimulator) -> set[str]:
    return set(simulator.state()["installed"])


def open_files() -> int | None:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else None


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    gc.collect()
    threads, files = set(threading.enumerate()), open_files()
    yield
    until(lambda: set(threading.enumerate()) <= threads, "the end of every thread")
    gc.collect()
    until(lambda: (now := open_files()) is None or now <= files, "the closing of every file")


# --- every fault in every phase --------------------------------------------------------------------------------------

# What is said more exactly than by the defaults of the simulator.
DETAILS = {
    **{kind: {"at_bytes": HALF} for kind in BYTE_FAULTS},
    "goes_back": {"at_bytes": HALF, "to_bytes": 1000},
    "slow_manifest": {"seconds": 60},
    "slow_answer": {"seconds": 0.2},
}
BEFORE_THE_MANIFEST = ("waiting", "asking the registry")
BEFORE_THE_LAST_BYTE = (*BEFORE_THE_MANIFEST, "downloading")

# What ends a download that struck once, or again and again: the code of the error and its reason. None: it heals.
ONCE: dict[str, tuple[str, str | None]] = {
    "unknown_model": ("download_failed", "unknown_model"),
    "too_new": ("download_failed", "too_new"),
    "disk_full": ("insufficient_disk", None),
    "forbidden": ("ollama_error", None),
}
ALWAYS: dict[str, tuple[str, str | None]] = {
    **ONCE,
    "registry_refused": ("download_failed", "registry_unreachable"),
    "registry_no_such_host": ("download_failed", "registry_unreachable"),
    "registry_status": ("download_failed", "registry_error"),
    "registry_html": ("download_failed", "registry_error"),
    "stall": ("download_failed", "stalled"),
    "silence": ("download_failed", "silent"),
    "cut_stream": ("download_failed", "cut_short"),
    "context_canceled": ("download_failed", "upstream_cancelled"),
    "retries_exhausted": ("download_failed", "retries_exhausted"),
    "slow_manifest": ("download_failed", "silent"),
    "digest_mismatch": ("download_failed", "digest_mismatch"),
    "dropped": ("ollama_unavailable", None),
    "proxy_error": ("ollama_error", None),
}


def strikes(fault: str, phase: str) -> bool:
    """Whether a fault that begins in this phase is still met."""
    if fault == "slow_manifest":
        return phase == "waiting"
    if fault in MANIFEST_FAULTS:
        return phase in BEFORE_THE_MANIFEST
    if fault in BYTE_FAULTS:
        return phase in BEFORE_THE_LAST_BYTE
    return fault != "digest_mismatch" or phase != "naming"


def due(fault: str, phase: str, times: int | None) -> tuple[DownloadState, str, str | None]:
    failure = (ALWAYS if times is None else ONCE).get(fault) if strikes(fault, phase) else None
    return (S.FAILED, *failure) if failure else (S.COMPLETED, "", None)


def outcome(path: Path, fault: str, phase: str, times: int | None) -> tuple[tuple, DownloadJob, float]:
    """How a download ends that meets this fault from this phase on; AssertionError for what may never be."""
    began = time.monotonic()
    with stage_at(path) as stage:
        with held(stage, phase, lambda: stage.manager.start_download(MODEL)) as job:
            stage.simulator.set_fault(fault, times=times, **DETAILS.get(fault, {}))
        job = ended(stage.manager, job.id)
        taken_s = time.monotonic() - began
        if job.state is S.COMPLETED:
            assert {MODEL, TAG} <= installed(stage.simulator)
            assert (job.percent, job.error) == (100.0, None)
        else:
            assert job.percent != 100.0
            assert job.error["remedy"]
        assert stage.manager.downloads() == [job]
    error = job.error or {}
    return (job.state, error.get("code", ""), error.get("reason")), job, taken_s


def prove(path: Path, phase: str, faults: list[str]) -> None:
    wrong = []
    print(f"\n{'phase':<20} {'fault':<22} {'struck':<7} {'end':<10} {'reason':<22} {'attempts':>8} {'s':>5}")
    for number, fault in enumerate(faults):
        for times in (1, None):
            with nothing_left_behind():
                found, job, taken_s = outcome(path / f"{number}-{times}", fault, phase, times)
            struck = "-" if not strikes(fault, phase) else "once" if times else "always"
            print(
                f"{phase:<20} {fault:<22} {struck:<7} {found[0]:<10} {found[2] or found[1]:<22} "
                f"{job.attempt:>8} {taken_s:>5.1f}"
            )
            if found != due(fault, phase, times):
                wrong.append((fault, times, found, due(fault, phase, times)))
    assert wrong == []


@pytest.mark.parametrize(
    ("phase", "fault"),
    [
        ("waiting", "unknown_model"),
        ("asking the registry", "registry_refused"),
        ("downloading", "cut_stream"),
        ("checking", "digest_mismatch"),
        ("naming", "dropped"),
    ],
)
def test_a_fault_in_a_phase_leads_to_the_right_end(tmp_path, phase, fault):
    prove(tmp_path, phase, [fault])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("phase", PHASES)
def test_every_fault_in_every_phase_leads_to_the_right_end(tmp_path, phase):
    prove(tmp_path, phase, list(FAULTS))


# --- a stream that breaks after any of its lines ---------------------------------------------------------------------

DIGEST = f"sha256:{1:064x}"
LINES = (
    {"status": "pulling manifest"},
    {"status": "pulling 000000000000", "digest": DIGEST, "total": 1000, "completed": 400},
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
)
BREAKS: dict[str, tuple[str, bool]] = {  # how it breaks: the reason when it does so always, and whether once heals
    "ends": ("cut_short", True),
    "is cut": ("cut_short", True),
    "falls silent": ("silent", True),
    "no space": ("insufficient_disk", False),
    "cancelled": ("upstream_cancelled", True),
    "rubbish": ("other", False),
    "unknown error": ("other", False),
}


class BreakingOllama:
    """Answers a pull with so many lines, and then breaks, so often; after that, the model comes."""

    def __init__(self, lines: int, how: str, times: float) -> None:
        self._lines, self._how, self._times = lines, how, times
        self._there: list[str] = []
        self.goes_on = threading.Event()

    def __call__(self, connection) -> None:
        while request := connection.receive():
            if request.path == "/api/pull":
                connection.begin_stream()
                if not self._pulled(connection):
                    return
            elif request.path == "/api/copy":
                self._there.append(MODEL)
                connection.answer({})
            elif request.path == "/api/version":
                connection.answer({"version": "0.33.0"})
            else:
                listed = [{"name": name, "model": name, "digest": "a" * 64, "size": 1000} for name in self._there]
                connection.answer({"models": listed})

    def _pulled(self, connection) -> bool:
        breaks, self._times = self._times > 0, self._times - 1
        for line in LINES[: self._lines] if breaks else LINES:
            connection.line(line)
        if not breaks:
            self._there.append(TAG)
            connection.line({"status": "success"})
        elif self._how == "is cut":
            return False
        elif self._how == "falls silent":
            self.goes_on.wait(LIMIT_S)
            return False
        elif self._how != "ends":
            connection.line(
                {
                    "no space": {"error": "write /root/.ollama/models/x: no space left on device"},
                    "cancelled": {"error": "context canceled"},
                    "rubbish": b"\x00\xff\n",
                    "unknown error": {"error": "something new"},
                }[self._how]
            )
        connection.end_stream()
        return True


def broken_off(path: Path, ollama: BreakingOllama) -> DownloadJob:
    """The job as it is at its end."""
    patience = replace(IMPATIENT, stalled_s=0.1, asking_s=0.1, checking_s=0.1)
    nobody = RegistryClient(lambda host: "http://127.0.0.1:9")
    with ScriptedServer(ollama) as server:
        manager = ModelManager(server.url, path / "document.json", patience=patience, registry=nobody)
        job = ended(manager, manager.start_download(MODEL).id)
        ollama.goes_on.set()
        manager.close()
    return job


def prove_break(path: Path, lines: int, how: str, times: float) -> None:
    with nothing_left_behind():
        job = broken_off(path, BreakingOllama(lines, how, times))

    reason, heals = BREAKS[how]
    if heals and times == 1:
        assert (job.state, job.error) == (S.COMPLETED, None)
    else:
        assert job.state is S.FAILED
        assert reason in (job.error["code"], job.error.get("reason"))
        assert job.error["remedy"]


AFTER = pytest.mark.parametrize(
    "lines", range(len(LINES) + 1), ids=["at once", "asking", "downloading", "checking", "writing"]
)


@AFTER
def test_a_stream_that_is_cut_after_any_line_is_tried_again(tmp_path, lines):
    prove_break(tmp_path, lines, "is cut", 1)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, float("inf")], ids=["once", "always"])
@pytest.mark.parametrize("how", BREAKS)
@AFTER
def test_a_stream_that_breaks_after_any_line_is_tried_again_or_ends_it(tmp_path, lines, how, times):
    prove_break(tmp_path, lines, how, times)


# --- by chance -------------------------------------------------------------------------------------------------------


def prove_random_faults(path: Path, runs: int, seed: int) -> None:
    with nothing_left_behind():
        run_random_faults(path, runs, seed)


def run_random_faults(path: Path, runs: int, seed: int) -> None:
    chance, ends = random.Random(seed), {S.COMPLETED: 0, S.FAILED: 0}
    kinds = [*BYTE_FAULTS, *MANIFEST_FAULTS, "digest_mismatch", "dropped", "proxy_error", "forbidden"]
    with stage_at(path) as stage:
        simulator, manager = stage.simulator, stage.manager
        for number in range(runs):
            slot = stage.manager._worker.files.slots(1)[0]
            until(slot.acquire)
            job = manager.start_download(MODEL)
            what = {
                "kind": chance.choice(kinds),
                "times": chance.choice([1, 2, None]),
                "at_bytes": chance.randrange(SIZE),
                "to_bytes": chance.randrange(SIZE),
                "abrupt": chance.random() < 0.5,
            }
            simulator.set_fault(**what)
            slot.release()
            job = ended(manager, job.id)
            ends[job.state] += 1
            assert (job.state is S.COMPLETED) <= ({MODEL, TAG} <= installed(simulator)), (seed, number, what)
            assert manager.downloads()[-1] == job, (seed, number, what)

            simulator.clear_faults()
            if job.state is S.FAILED:
                assert job.error["remedy"], (seed, number, what)
                manager.resume_download(job.id)
                assert ended(manager, job.id).state is S.COMPLETED, (seed, number, what)
            assert {MODEL, TAG} <= installed(simulator)
            manager.remove_model(MODEL)
    print(f"\n{runs} runs, seed {seed}: {ends[S.COMPLETED]} completed, {ends[S.FAILED]} failed and completed by resume")


def test_a_few_random_faults_never_lie_and_lose_nothing(tmp_path):
    prove_random_faults(tmp_path, 6, seed=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_hundred_random_faults_never_lie_and_lose_nothing(tmp_path):
    prove_random_faults(tmp_path, 300, seed=2026)


# --- two processes ---------------------------------------------------------------------------------------------------


def prove_one_pull(path: Path, rounds: int) -> None:
    with stage_at(path) as stage:
        simulator, manager = stage.simulator, stage.manager
        owners = [Owner(simulator.url, manager.store.path, CALM) for _ in range(2)]
        for _ in range(rounds):
            simulator.requests.clear()
            for owner in owners:
                owner.say("start_download", MODEL)
            jobs = [owner.answer() for owner in owners]
            for job in jobs:
                assert job.already_installed or ended(manager, job.id).state is S.COMPLETED
            assert len({job.id for job in jobs if not job.already_installed}) == 1
            assert pulls(simulator) == 1
            manager.remove_model(MODEL)
        assert max(simulator.concurrent_pulls_peak.values()) == 1
        for owner in owners:
            owner.leave()


def test_two_processes_that_start_the_same_at_once_make_one_pull(tmp_path):
    prove_one_pull(tmp_path, 5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_times_two_processes_that_start_the_same_at_once_make_one_pull(tmp_path):
    prove_one_pull(tmp_path, 50)


@pytest.mark.parametrize("phase", PHASES)
def test_what_a_killed_process_left_in_any_phase_is_found_and_ends_well(tmp_path, phase):
    with stage_at(tmp_path, hold_s=1.0) as stage:
        simulator, manager = stage.simulator, stage.manager
        owner = Owner(simulator.url, manager.store.path, CALM)
        with held(stage, phase, lambda: owner.ask("start_download", MODEL)) as job:
            owner.kill()
            simulator.clear_faults()
            left = until(lambda: (now := manager.download(job.id)).state is S.INTERRUPTED and now, "the interruption")
        taken = manager.resume_downloads()
        done = ended(manager, job.id)

        assert left.id == job.id
        assert [one.id for one in taken] == [job.id]
        assert done.state is S.COMPLETED
        assert {MODEL, TAG} <= installed(simulator)
        assert simulator.bytes_sent_total <= SIZE + TICK_BYTES
        assert manager.downloads() == [done]


def prove_kills(path: Path, kills: int, seed: int) -> None:
    """Kill the owner at any moment, also in the last milliseconds: while the model is checked, written, named."""
    chance, left = random.Random(seed), {}
    with stage_at(path) as stage:
        simulator, manager = stage.simulator, stage.manager
        for number in range(kills):
            simulator.pace.rate_bytes_per_s = 4e9
            before = simulator.bytes_sent_total
            owner = Owner(simulator.url, manager.store.path, CALM)
            job = owner.ask("start_download", MODEL)
            reached = chance.choice([0, chance.randrange(SIZE), SIZE])
            until(lambda at=before + reached: simulator.bytes_sent_total >= at)
            # Not to wait for something: to choose the moment after the last byte.
            time.sleep(chance.random() * 0.12)
            owner.kill()
            simulator.pace.rate_bytes_per_s = FAST
            found = manager.download(job.id)
            left[found.state] = left.get(found.state, 0) + 1
            taken = [one.id for one in manager.resume_downloads()]
            done = ended(manager, job.id)

            where = (seed, number, found)
            assert found.state in (S.INTERRUPTED, S.COMPLETED), where
            assert taken == ([job.id] if found.state is S.INTERRUPTED else []), where
            assert done.state is S.COMPLETED, where
            assert {MODEL, TAG} <= installed(simulator), where
            assert simulator.bytes_sent_total - before <= SIZE + 4e9 * 0.002, where
            manager.remove_model(MODEL)
    print(f"\n{kills} kills, seed {seed}: {left}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_owners_that_are_killed_at_any_moment_lose_nothing_and_fetch_nothing_twice(tmp_path):
    prove_kills(tmp_path, 100, seed=9)

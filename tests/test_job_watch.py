"""What whoever watches jobs is told, whoever owns them."""

from __future__ import annotations

import threading
import time

import pytest

from bell import Bell
from job_watch import JobWatch, Watched
from model_core.benchmark_records import Benchmark
from model_manager import ModelManager

MODEL = "llama3.2:1b-instruct"


@pytest.fixture
def manager(simulator, tmp_path):
    made = ModelManager(simulator.url, tmp_path / "document.json")
    yield made
    made.close()


def watch(hub, until, seen=0, patience_s=10.0):
    """Return the downloads that were told until one fulfils the condition."""
    told, deadline = [], time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for event in hub.since(seen, 0.5):
            seen = event.id
            told.append(event.data["download"])
            if until(told[-1]):
                return told
    raise AssertionError(f"not told in {patience_s} s; told: {[d.get('state') for d in told]}")


def ended(download):
    return download["state"] == "completed"


def test_a_watcher_sees_a_download_from_its_start_to_its_end(manager):
    with manager.watching_jobs() as hub:
        manager.start_download(MODEL)

        told = watch(hub, ended)

    percents = [download["percent"] or 0 for download in told]
    assert percents == sorted(percents)
    assert percents[-1] == 100


def test_all_watchers_are_told_the_same(manager):
    results = []

    def one() -> None:
        with manager.watching_jobs() as hub:
            results.append(watch(hub, ended)[-1])

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    manager.start_download(MODEL)
    for thread in threads:
        thread.join(20)

    assert len(results) == 5
    assert all(result == results[0] for result in results)


def test_who_comes_later_is_told_first_what_there_is(manager):
    manager.pull_model(MODEL)

    with manager.watching_jobs() as hub:
        (event,) = hub.since(0)

    assert event.type == "download"
    assert event.data["download"]["state"] == "completed"


def test_downloads_of_another_manager_on_the_same_document_are_seen_within_a_second(simulator, tmp_path):
    here, there = (ModelManager(simulator.url, tmp_path / "document.json") for _ in range(2))
    with here.watching_jobs() as hub:
        there.start_download(MODEL)

        started = time.monotonic()
        watch(hub, lambda download: True)

    assert time.monotonic() - started < 1
    there.close()
    here.close()


def test_what_was_taken_off_the_record_is_told_to_be_gone(manager):
    job = manager.pull_model(MODEL)
    with manager.watching_jobs() as hub:
        seen = hub.last_id
        manager.forget_download(job.id)

        deadline = time.monotonic() + 5
        while not (events := hub.since(seen, 0.5)) and time.monotonic() < deadline:
            pass

    assert [(event.type, event.data["download"]["id"]) for event in events] == [("download_forgotten", job.id)]


def test_a_fault_of_ours_in_one_look_ends_no_watch(caplog):
    looks = iter([[], KeyError("a fault of ours"), [Benchmark(id="b1", models=(), prompts=())]])

    def jobs():
        look = next(looks, [])
        if isinstance(look, Exception):
            raise look
        return look

    watching = JobWatch([Watched("benchmark", jobs, lambda job: {"id": job.id})], Bell())
    with watching.watching() as hub:
        deadline = time.monotonic() + 10
        while not (events := hub.since(0, 0.5)) and time.monotonic() < deadline:
            pass

    assert events[0].data["benchmark"]["id"] == "b1"
    assert "a fault of ours" in caplog.text


def test_nothing_looks_when_nobody_watches(manager):
    with manager.watching_jobs():
        pass

    deadline = time.monotonic() + 5
    while "job-watch" in {thread.name for thread in threading.enumerate()} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "job-watch" not in {thread.name for thread in threading.enumerate()}

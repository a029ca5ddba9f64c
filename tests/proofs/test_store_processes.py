"""Proof: any number of processes and threads share one document, after a fork too, and every change counts once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from json_store import JsonStore, Limits
from tests.store_records import TallyCodec
from tests.store_writers import Writer, counting, open_tally

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
# Python 3.12 and later warn of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


def prove_nothing_lost(path: Path, processes: int, threads: int, times: int) -> None:
    writers = [
        Writer(path, [f"{process}-{thread}" for thread in range(threads)], times) for process in range(processes)
    ]
    for writer in writers:
        writer.finish()

    names = {f"{process}-{thread}" for process in range(processes) for thread in range(threads)}
    assert open_tally(path).read().others == dict.fromkeys(names, times)
    assert {name: kept for writer in writers for name, kept in writer.acknowledged.items()} == dict.fromkeys(
        names, times
    )


def in_a_fork(work: Callable[[], object]) -> int:
    """Do the work in a forked child and return its process id; the child ends with 0 when the work went well."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def exit_code(child: int, timeout_s: float = 30.0) -> int:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hung")


def test_four_processes_of_four_threads_lose_nothing(tmp_path):
    prove_nothing_lost(tmp_path / "document.json", processes=4, threads=4, times=25)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_processes_of_eight_threads_lose_nothing_of_64_000_changes(tmp_path):
    prove_nothing_lost(tmp_path / "document.json", processes=8, threads=8, times=1000)


@forks
def test_forked_children_count_beside_the_threads_of_their_parent(tmp_path):
    store = open_tally(tmp_path / "document.json")
    store.change(counting("before"))
    stop = threading.Event()
    counted = []

    def keep_counting() -> None:
        while not stop.is_set():
            counted.append(store.change(counting("parent")))

    def count_in_child() -> None:
        for _ in range(30):
            store.change(counting("children"))

    threads = [threading.Thread(target=keep_counting) for _ in range(3)]
    for thread in threads:
        thread.start()
    # The threads hold the store's locks at whatever moment the fork comes.
    codes = [exit_code(child) for child in [in_a_fork(count_in_child) for _ in range(6)]]
    stop.set()
    for thread in threads:
        thread.join()

    assert codes == [0] * 6
    assert store.read().others == {"before": 1, "parent": len(counted), "children": 180}


@forks
def test_a_child_that_lives_on_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path):
    path = tmp_path / "document.json"
    told, ready = os.pipe()

    def fork_while_writing() -> None:
        store = open_tally(path)

        def fork_and_die(tally):
            # The child only sleeps; what it inherited is all that it has.
            grandchild = in_a_fork(lambda: time.sleep(60))
            os.write(ready, f"{grandchild}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
            return tally

        store.change(fork_and_die)

    assert exit_code(in_a_fork(fork_while_writing)) == -signal.SIGKILL
    grandchild = int(os.read(told, 100))
    try:
        store = JsonStore(path, TallyCodec(), limits=Limits(lock_wait_s=5))
        assert store.change(counting("after")).others == {"after": 1}
    finally:
        os.kill(grandchild, signal.SIGKILL)


@forks
def test_a_child_that_was_forked_by_a_changing_function_does_not_write_on(tmp_path):
    store = open_tally(tmp_path / "document.json")
    parent, children = os.getpid(), []

    def fork_within(tally):
        child = os.fork()
        children.append(child)
        return counting("parent" if child else "child")(tally)

    try:
        store.change(fork_within)
        if os.getpid() != parent:
            os._exit(3)
    except RuntimeError:
        if os.getpid() != parent:
            # The child is refused that one, and may change the document like any other process.
            store.change(counting("child, later"))
            os._exit(0)
        raise

    assert exit_code(children[0]) == 0
    assert store.read().others == {"parent": 1, "child, later": 1}


def test_a_program_ends_while_its_daemon_threads_still_wait_for_a_writer(tmp_path):
    program = f"""
import threading
from tests.store_writers import counting, open_tally
store = open_tally(__import__("pathlib").Path({str(tmp_path / "document.json")!r}))
begun = threading.Event()
def for_ever(tally):
    begun.set()
    threading.Event().wait()
threading.Thread(target=store.change, args=(for_ever,), daemon=True).start()
begun.wait()
for _ in range(3):
    threading.Thread(target=store.change, args=(counting("waiting"),), daemon=True).start()
"""
    root = Path(__file__).resolve().parent.parent.parent
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=30, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (0, "")

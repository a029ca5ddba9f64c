"""What the store promises, and what it answers when the world is not as it should be."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import stat
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from json_store import JsonStore, Limits
from json_store_system import RealFileSystem
from model_core.errors import StoreBusy, StoreError, StoreUnreadable, StoreUnwritable
from tests.simulated_disk import DOCUMENT, SimulatedDisk
from tests.store_records import NO_WAITING, Tally, TallyCodec, adding

needs_posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "data" / "document.json"


@pytest.fixture
def store(path) -> JsonStore[Tally]:
    return process(path)


def process(path: Path, limits: Limits = NO_WAITING, system: SimulatedDisk | None = None) -> JsonStore[Tally]:
    """Return a store as another process would have it: nothing shared but the disk."""
    return JsonStore(path, TallyCodec(), system, limits)


def same(tally: Tally) -> Tally:
    return tally


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, "it never came about"
        time.sleep(0.001)


@contextmanager
def somebody_changing(store: JsonStore[Tally], function: Callable[[Tally], Tally] = same):
    """Keep the store's leader within a changing function while the block runs."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(tally: Tally) -> Tally:
        begun.set()
        assert go_on.wait(10)
        return function(tally)

    with ThreadPoolExecutor() as pool:
        change = pool.submit(store.change, slow)
        assert begun.wait(10)
        try:
            yield
        finally:
            go_on.set()
            change.result(10)


def in_one_batch(store: JsonStore[Tally], functions: list[Callable[[Tally], Tally]]) -> list[Tally | BaseException]:
    """Return what change() gives for each function, all of them committed together."""
    with ThreadPoolExecutor(len(functions)) as pool:
        with somebody_changing(store):
            changes = []
            for function in functions:
                changes.append(pool.submit(store.change, function))
                # Only the queue itself tells that the caller waits in it, and in which place.
                wait_until(lambda: len(store._queue) == len(changes))
        return [change.exception(10) or change.result() for change in changes]


# --- reading and changing --------------------------------------------------------------------------------------------


def test_where_there_is_no_file_the_empty_value_is_read_and_nothing_is_made(store, path):
    assert store.read() == Tally()
    assert store.health().problem is None
    assert not path.parent.exists()


def test_a_change_is_in_the_file_when_it_returns(store, path):
    assert store.change(adding("a")) == Tally(("a",))

    assert TallyCodec().decode(path.read_bytes()) == store.read() == Tally(("a",))


def test_each_caller_gets_the_value_just_after_its_own_function(store):
    kept = in_one_batch(store, [adding("a"), adding("b"), adding("c")])

    assert [tally.entries for tally in kept] == [("a",), ("a", "b"), ("a", "b", "c")]


def test_callers_that_wait_together_are_written_together():
    disk = SimulatedDisk()
    store = process(DOCUMENT, system=disk)
    store.change(adding("first"))
    before = disk.calls.count("sync")

    in_one_batch(store, [adding(str(number)) for number in range(20)])

    assert disk.calls.count("sync") - before == 1


def test_a_change_that_changes_nothing_writes_nothing(store, path):
    store.change(adding("a"))
    before = path.stat()

    assert store.change(same) is store.read()
    assert path.stat() == before


def test_a_change_that_fails_leaves_no_trace(store, path):
    store.change(adding("a"))
    before = path.read_bytes()

    with pytest.raises(ZeroDivisionError):
        store.change(lambda _: 1 / 0)

    assert store.read() == Tally(("a",))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(lambda _: {}["no such key"], id="raises"),
        pytest.param(lambda tally: Tally(tally.entries, {"n": float("nan")}), id="NaN"),
        pytest.param(lambda tally: Tally((*tally.entries, "\ud800")), id="lone surrogate"),
        pytest.param(lambda tally: Tally(tally.entries, {"n": object()}), id="no JSON"),
        pytest.param(lambda tally: Tally(tally.entries, {"n": "n" * 2**17}), id="too big to be read again"),
        pytest.param(lambda _: pytest.fail("of the function"), id="no Exception"),
    ],
)
def test_in_a_batch_only_the_one_that_is_wrong_fails(path, bad):
    store = process(path, Limits(document_bytes=2**16))

    first, wrong, last = in_one_batch(store, [adding("a"), bad, adding("b")])

    assert isinstance(wrong, (KeyError, ValueError, TypeError, pytest.fail.Exception))
    assert (first.entries, last.entries) == (("a",), ("a", "b"))
    assert store.read().entries == ("a", "b")


def test_ctrl_c_while_the_document_is_changed_reaches_the_thread_that_it_was_meant_for(store):
    def interrupted(_: Tally) -> Tally:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.change(interrupted)

    assert store.change(adding("a")).entries == ("a",)


def test_ctrl_c_in_somebody_elses_function_ends_who_runs_it_and_fails_the_others(store):
    def interrupted(_: Tally) -> Tally:
        raise KeyboardInterrupt

    leader, other, third = in_one_batch(store, [adding("a"), interrupted, adding("b")])

    assert isinstance(leader, KeyboardInterrupt)
    assert isinstance(other, StoreUnwritable)
    assert "interrupted by KeyboardInterrupt" in third.happened
    assert store.change(adding("c")).entries == ("c",)


@needs_posix
def test_ctrl_c_while_waiting_withdraws_the_change(store):
    def interrupt_who_waits() -> None:
        wait_until(lambda: len(store._queue) == 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with ThreadPoolExecutor() as pool, somebody_changing(store, adding("a")):
        interrupting = pool.submit(interrupt_who_waits)
        with pytest.raises(KeyboardInterrupt):
            store.change(adding("withdrawn"))
        interrupting.result(10)

    assert store.change(adding("b")).entries == ("a", "b")


def test_whose_own_function_raised_is_told_so_also_when_the_batch_could_not_be_written():
    disk = SimulatedDisk()
    store = process(DOCUMENT, system=disk)
    store.change(adding("a"))
    disk.broken = ("sync", errno.EIO)

    unwritten, own = in_one_batch(store, [adding("b"), lambda _: 1 / 0])

    assert isinstance(unwritten, StoreUnwritable)
    assert isinstance(own, ZeroDivisionError)


def test_an_error_that_cannot_be_copied_still_reaches_every_caller():
    class Peculiar(Exception):
        def __init__(self, *, needed: str) -> None:
            super().__init__()

    class PeculiarDisk(SimulatedDisk):
        def stamp(self, path: Path, modified_ns: int) -> None:
            raise Peculiar(needed="")

    errors = in_one_batch(process(DOCUMENT, system=PeculiarDisk()), [adding("a"), adding("b")])

    assert [type(error) for error in errors] == [Peculiar] * 2


def test_a_change_within_a_change_is_refused_instead_of_waiting_for_itself(store):
    with pytest.raises(RuntimeError, match="wait for itself"):
        store.change(lambda tally: store.change(adding("b")))

    assert store.change(lambda tally: adding(f"after {store.read().entries}")(tally)).entries == ("after ()",)


def test_a_reader_does_not_wait_for_a_writer(store):
    store.change(adding("a"))

    with somebody_changing(store, adding("b")):
        assert store.read().entries == ("a",)

    assert store.read().entries == ("a", "b")


def test_many_threads_lose_nothing(store):
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.change(adding(str(number))), range(200)))

    assert sorted(store.read().entries, key=int) == [str(number) for number in range(200)]


def test_another_process_sees_a_change_at_once(store, path):
    other = process(path)
    store.change(adding("a"))
    assert other.read().entries == ("a",)

    other.change(adding("b"))
    assert store.read().entries == ("a", "b")
    assert store.change(adding("c")).entries == ("a", "b", "c")


def test_close_returns_when_nothing_is_being_written(store):
    with ThreadPoolExecutor() as pool:
        with somebody_changing(store, adding("a")):
            closed = pool.submit(store.close)
            wait_until(lambda: len(store._queue) == 1)
            assert not closed.done()
        assert closed.result(10) is None

    assert store.read().entries == ("a",)
    store.close()
    assert store.change(adding("b")).entries == ("a", "b")


# --- one store for one file ------------------------------------------------------------------------------------------


def test_whoever_opens_the_same_file_shares_the_store(path, monkeypatch):
    store = JsonStore.open(path, TallyCodec())
    path.parent.mkdir()
    monkeypatch.chdir(path.parent)

    assert JsonStore.open(str(path), TallyCodec()) is store
    assert JsonStore.open(path.parent / ".." / "data" / path.name, TallyCodec()) is store
    assert JsonStore.open(path.name, TallyCodec()) is store
    assert JsonStore.open(path.with_name("other.json"), TallyCodec()) is not store


def test_one_file_is_not_opened_with_two_kinds_of_codec(path):
    class OtherCodec(TallyCodec):
        pass

    store = JsonStore.open(path, TallyCodec())

    with pytest.raises(TypeError, match="OtherCodec"):
        JsonStore.open(store.path, OtherCodec())


def test_a_store_that_nobody_uses_any_more_is_let_go(path):
    let_go = weakref.ref(JsonStore.open(path, TallyCodec()))
    gc.collect()

    assert let_go() is None


@needs_posix
def test_of_a_linked_document_the_target_is_replaced_and_the_link_stays(path, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(path)
    store = JsonStore.open(link, TallyCodec())

    store.change(adding("a"))

    assert link.is_symlink()
    assert store.path == path.resolve()
    assert TallyCodec().decode(path.read_bytes()).entries == ("a",)
    assert JsonStore.open(path, TallyCodec()) is store
    assert [name.name for name in tmp_path.iterdir() if name.is_file()] == ["link.json"]


@needs_posix
def test_the_document_and_what_lies_beside_it_are_their_owners_alone(store, path):
    path.parent.mkdir()
    path.write_bytes(b'["x"]')
    path.chmod(0o644)
    store.change(adding("a"))
    store.change(adding("b"))

    modes = {name.name: stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()}
    # The old form is the very file that was there.
    assert modes.pop("document.json.before-upgrade") == 0o644
    assert set(modes.values()) == {0o600}


# --- a person with an editor -----------------------------------------------------------------------------------------


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def swap(path: Path, content: bytes) -> None:
    new = path.with_suffix(".swap")
    new.write_bytes(content)
    new.replace(path)


@pytest.mark.parametrize("save", [rewrite, swap])
def test_what_a_person_saves_is_seen_and_kept(store, path, save):
    store.change(adding("a"))

    save(path, b'{"entries": ["person"], "note": "unknown keys stay"}')

    assert store.read().entries == ("person",)
    assert store.change(adding("b")) == Tally(("person", "b"), {"note": "unknown keys stay"})


def test_a_document_that_an_editor_is_saving_is_read_again(caplog):
    disk = SimulatedDisk()
    store = process(DOCUMENT, Limits(damage_grace_s=60), disk)
    store.change(adding("a"))
    disk.edit(DOCUMENT, b'{"entries": ["per')
    reads = []

    def finish_saving(call: str) -> None:
        reads.append(call == "read")
        if sum(reads) == 3:
            disk.edit(DOCUMENT, b'{"entries": ["person"]}')

    disk.watch = finish_saving

    assert store.read().entries == ("a",)
    assert store.change(adding("b")).entries == ("person", "b")
    assert store.health().set_aside == ()


def test_an_older_form_is_kept_when_it_is_first_replaced_and_only_then(store, path):
    path.parent.mkdir()
    path.write_bytes(b'["old"]')
    kept = path.with_name("document.json.before-upgrade")

    assert store.read().entries == ("old",)
    assert not kept.exists()

    store.change(adding("a"))
    store.change(adding("b"))
    process(path).change(adding("c"))
    assert kept.read_bytes() == b'["old"]'
    assert [name.name for name in path.parent.iterdir() if "before-upgrade" in name.name] == [kept.name]

    path.write_bytes(b'["another old one"]')
    store.change(adding("a"))
    assert {name.read_bytes() for name in path.parent.glob("*before-upgrade*")} == {b'["old"]', b'["another old one"]'}


# --- damage ----------------------------------------------------------------------------------------------------------

DAMAGED = {
    "truncated": b'{"entries": ["a", "b',
    "empty": b"",
    "not JSON": b"entries: a, b",
    "wrong form": b'{"models": {}}',
    "another type": b"17",
    "no text": b"\xff\xfe\x00\x01",
    "zeros": b"\0" * 400,
    "deep": b"[" * 2**20,
    "too big": b" " * 5000,
}
SMALL = Limits(lock_wait_s=0, damage_grace_s=0, replace_retry_s=0, document_bytes=2**21)


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_unreadable_document_is_set_aside_and_the_last_good_version_restored(path, damage, caplog):
    limits = Limits(damage_grace_s=0, document_bytes=4096) if damage == "too big" else SMALL
    before = process(path, limits)
    before.change(adding("a"))
    before.change(adding("b"))
    path.write_bytes(DAMAGED[damage])

    store = process(path, limits)

    # The last change is not in the copy, and health says that it may be missing.
    assert store.read().entries == ("a",)
    health = store.health()
    (aside,) = health.set_aside
    assert Path(aside).read_bytes() == DAMAGED[damage]
    assert Path(aside).name.startswith("document.json.unreadable-20")
    assert aside in health.problem
    assert "may be missing" in health.problem
    (incident,) = health.incidents
    assert (incident.set_aside, incident.restored_from) == (aside, "previous")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert aside in caplog.text
    assert store.change(adding("c")).entries == ("a", "c")
    # A process that comes later tells of it, too, until somebody has removed it.
    later = process(path, limits)
    assert aside in later.health().problem
    Path(aside).unlink()
    assert later.health().problem is store.health().problem is None


def test_a_process_that_saw_the_last_version_restores_it_whole(store, path):
    store.change(adding("a"))
    store.change(adding("b"))
    path.write_bytes(b"{")

    assert store.change(adding("c")).entries == ("a", "b", "c")
    assert store.health().incidents[0].restored_from == "memory"


def test_of_memory_and_the_copy_beside_the_document_the_newer_one_is_restored(store, path):
    store.change(adding("a"))
    other = process(path)
    other.change(adding("b"))
    other.change(adding("c"))
    path.write_bytes(b"{")

    assert store.change(adding("d")).entries == ("a", "b", "d")


def test_without_a_good_version_it_starts_empty_and_says_so(store, path, caplog):
    path.parent.mkdir()
    path.write_bytes(b"{")

    assert store.read() == Tally()
    health = store.health()
    assert "starts empty" in health.problem
    assert health.incidents[0].restored_from == "nothing"
    assert Path(health.set_aside[0]).read_bytes() == b"{"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_when_the_copy_is_damaged_too_both_are_set_aside(store, path):
    path.parent.mkdir()
    path.write_bytes(b"{")
    path.with_name("document.json.previous").write_bytes(b"[")

    store.change(adding("a"))

    assert sorted(Path(aside).read_bytes() for aside in store.health().set_aside) == [b"[", b"{"]


def test_what_is_wrong_with_a_document_is_said_in_short(path):
    class TalkativeCodec(TallyCodec):
        def decode(self, raw: bytes) -> Tally:
            raise ValueError("wrong\n" + "all over the place\n" * 100)

    path.parent.mkdir()
    path.write_bytes(b"{}")
    store = JsonStore(path, TalkativeCodec(), limits=NO_WAITING)
    store.read()

    assert store.health().incidents[0].reason == "cannot be read (wrong)"


def test_several_damaged_documents_within_one_second_are_all_kept(store, path):
    for number in range(3):
        store.change(adding(str(number)))
        path.write_bytes(b"{%d" % number)

    assert store.change(same).entries == ("0", "1", "2")
    assert sorted(Path(aside).read_bytes() for aside in store.health().set_aside) == [b"{0", b"{1", b"{2"]


def test_while_the_document_is_damaged_readers_see_what_they_saw_before_and_do_not_wait(path):
    store = process(path, Limits(damage_grace_s=60))
    store.change(adding("a"))
    path.write_bytes(b"{")

    assert store.read().entries == ("a",)
    health = store.health()
    assert "cannot be read" in health.problem
    assert health.set_aside == ()
    path.write_bytes(b'{"entries": ["person"]}')
    assert store.read().entries == ("person",)
    assert store.health().problem is None


def test_a_damaged_document_is_not_read_again_and_again():
    disk = SimulatedDisk()
    store = process(DOCUMENT, Limits(damage_grace_s=60), disk)
    store.change(adding("a"))
    disk.edit(DOCUMENT, b"{")

    for _ in range(5):
        assert store.read().entries == ("a",)

    assert disk.calls.count("read") == 1


def test_a_reader_restores_a_document_that_stays_damaged(store, path):
    store.change(adding("a"))
    path.write_bytes(b"{")

    assert store.read().entries == ("a",)
    assert store.health().incidents[0].restored_from == "memory"
    assert TallyCodec().decode(path.read_bytes()).entries == ("a",)


def test_a_reader_does_not_restore_what_somebody_is_writing(store, path):
    store.change(adding("a"))

    with somebody_changing(store, adding("b")):
        path.write_bytes(b"{")
        assert store.read().entries == ("a",)
        assert path.read_bytes() == b"{"

    assert store.read().entries == ("a", "b")


def test_a_document_that_was_removed_is_restored_and_not_forgotten(store, path):
    store.change(adding("a"))
    store.change(adding("b"))
    path.unlink()

    assert store.change(adding("c")).entries == ("a", "b", "c")
    assert "is missing" in store.health().problem


def test_a_document_that_was_removed_while_nobody_looked_is_restored_from_the_copy(store, path):
    store.change(adding("a"))
    store.change(adding("b"))
    path.unlink()
    later = process(path)

    assert later.read().entries == ("a",)
    assert "is missing" in later.health().problem
    assert later.health().set_aside == ()


def test_a_document_that_came_back_unharmed_is_no_problem(path):
    store = process(path, Limits(damage_grace_s=60))
    store.change(adding("a"))
    away = path.rename(path.with_suffix(".away"))
    assert store.read().entries == ("a",)
    assert "is missing" in store.health().problem

    away.rename(path)

    assert store.health().problem is None


def test_a_document_that_is_saved_just_before_it_would_be_set_aside_is_kept():
    disk = SimulatedDisk()
    store = process(DOCUMENT, system=disk)
    store.change(adding("a"))
    disk.edit(DOCUMENT, b'{"entries": ["per')

    def save_after_it_was_read(call: str) -> None:
        if call == "signature" and disk.calls[-1] == "read":
            disk.watch = None
            disk.edit(DOCUMENT, b'{"entries": ["person"]}')

    disk.watch = save_after_it_was_read

    assert store.change(adding("b")).entries == ("person", "b")
    assert store.health().set_aside == ()


def test_a_document_that_cannot_be_restored_yet_is_set_aside_once():
    disk = SimulatedDisk()
    disk.put(DOCUMENT, b"{")
    disk.broken = ("write", errno.ENOSPC)
    store = process(DOCUMENT, system=disk)

    for _ in range(3):
        assert store.read() == Tally()
        with pytest.raises(StoreUnwritable):
            store.change(adding("a"))
    assert len(store.health().set_aside) == 1

    disk.broken = None
    assert store.change(adding("a")).entries == ("a",)
    assert store.health().incidents[0].restored_from == "nothing"
    assert len(store.health().set_aside) == 1


def test_versions_go_on_in_order_when_the_clock_was_set_back(store, path):
    store.change(adding("a"))
    in_a_year_ns = time.time_ns() + 365 * 24 * 3600 * 10**9
    os.utime(path, ns=(in_a_year_ns, in_a_year_ns))

    store.change(adding("b"))
    store.change(adding("c"))
    path.write_bytes(b"{")

    # By its time, the copy beside it is from next year; what this process saw is later still.
    assert store.change(same).entries == ("a", "b", "c")
    assert path.stat().st_mtime_ns > in_a_year_ns


def test_leftovers_of_a_process_that_died_are_harmless(store, path):
    path.parent.mkdir()
    for suffix in (".new", ".previous.new", ".lock"):
        path.with_name(path.name + suffix).write_bytes(b"left over")

    store.change(adding("a"))
    store.change(adding("b"))

    assert process(path).read().entries == ("a", "b")
    assert sorted(name.name for name in path.parent.iterdir()) == [
        "document.json",
        "document.json.lock",
        "document.json.lock.next",
        "document.json.previous",
    ]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "happened", "remedy"),
    [
        (errno.ENOSPC, "the disk is full", "Free some space"),
        (errno.EDQUOT, "share of the disk", "Free some space"),
        (errno.EROFS, "read-only", "writable"),
        (errno.EACCES, "may not write", "right to write"),
        (errno.EIO, "the disk reports an error", "replace it"),
        (errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "another place"),
    ],
)
def test_what_cannot_be_written_is_said_in_words_and_the_old_document_stands(number, happened, remedy):
    disk = SimulatedDisk()
    store = process(DOCUMENT, system=disk)
    store.change(adding("a"))
    before = disk.content(DOCUMENT)
    disk.broken = ("write", number)

    with pytest.raises(StoreUnwritable) as caught:
        store.change(adding("b"))

    assert happened in caught.value.happened
    assert remedy in caught.value.remedy
    assert (caught.value.path, caught.value.reason) == (str(DOCUMENT), errno.errorcode[number])
    assert disk.content(DOCUMENT) == before
    assert store.read().entries == ("a",)
    health = store.health()
    assert not health.writable
    assert happened in health.problem
    disk.broken = None
    assert store.change(adding("c")).entries == ("a", "c")
    assert (store.health().writable, store.health().problem) == (True, None)


def test_every_caller_of_a_batch_that_cannot_be_written_gets_an_error_of_its_own():
    disk = SimulatedDisk()
    store = process(DOCUMENT, system=disk)
    store.change(adding("a"))
    disk.broken = ("sync", errno.EIO)

    errors = in_one_batch(store, [adding("b"), adding("c"), adding("d")])

    assert [type(error) for error in errors] == [StoreUnwritable] * 3
    assert len({id(error) for error in errors}) == 3
    assert all(isinstance(error.__cause__, OSError) for error in errors)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_document_that_may_not_be_read_is_never_set_aside(number):
    disk = SimulatedDisk()
    process(DOCUMENT, system=disk).change(adding("a"))
    names = set(disk.names_seen)
    disk.broken = ("read", number)
    store = process(DOCUMENT, system=disk)

    for use in (store.read, lambda: store.change(adding("b"))):
        with pytest.raises(StoreUnreadable) as caught:
            use()
        assert caught.value.path == str(DOCUMENT)
        assert caught.value.remedy
    assert "cannot be read" in store.health().problem
    assert set(disk.names_seen) == names
    disk.broken = None
    assert store.read().entries == ("a",)


def test_a_folder_in_the_place_of_the_document_is_left_alone(store, path):
    path.mkdir(parents=True)

    with pytest.raises(StoreUnreadable, match="a folder, or something else"):
        store.read()
    with pytest.raises(StoreUnwritable, match="a folder, or something else"):
        store.change(adding("a"))

    assert path.is_dir()
    assert "a folder, or something else" in store.health().problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(20)
def test_a_named_pipe_in_the_place_of_the_document_is_left_alone(store, path):
    path.parent.mkdir()
    os.mkfifo(path)

    for use in (store.read, lambda: store.change(adding("a"))):
        with pytest.raises(StoreError, match="something else that is no file"):
            use()

    assert path.is_fifo()


def test_a_file_in_the_place_of_the_folder_is_left_alone(store, path):
    path.parent.write_text("a file")

    with pytest.raises(StoreUnwritable, match="a file stands where a folder"):
        store.change(adding("a"))
    with pytest.raises(StoreUnreadable, match="a file stands where a folder"):
        store.read()

    assert path.parent.read_text() == "a file"


def test_a_document_in_a_read_only_folder_is_readable_also_when_it_is_damaged(caplog):
    disk = SimulatedDisk()
    disk.put(DOCUMENT, b"{")
    disk.put(DOCUMENT.with_name("document.json.previous"), b'{"entries": ["a"]}')
    disk.broken = ("lock", errno.EROFS)
    store = process(DOCUMENT, system=disk)

    assert store.read().entries == ("a",)
    assert store.read().entries == ("a",)
    assert "not set aside yet" in store.health().problem
    with pytest.raises(StoreUnwritable, match="read-only"):
        store.change(adding("b"))
    assert disk.content(DOCUMENT) == b"{"

    disk.broken = None
    assert store.change(adding("b")).entries == ("a", "b")


def test_a_document_of_a_newer_program_is_left_alone(path):
    class ModernCodec(TallyCodec):
        def decode(self, raw: bytes) -> Tally:
            raise StoreUnreadable("It has format 9.", "Update.", path="")

    process(path).change(adding("a"))
    before = path.read_bytes()
    store = JsonStore(path, ModernCodec(), limits=NO_WAITING)

    for use in (store.read, lambda: store.change(same)):
        with pytest.raises(StoreUnreadable) as caught:
            use()
        assert (caught.value.happened, caught.value.path) == ("It has format 9.", str(path))
    assert path.read_bytes() == before


def test_a_lock_that_another_process_keeps_is_said_with_how_long_we_waited(path):
    store = process(path, Limits(lock_wait_s=0.05))
    store.change(adding("a"))
    lock = RealFileSystem().lock(path.with_name("document.json.lock"))
    assert lock.taken()

    with pytest.raises(StoreBusy) as caught:
        store.change(adding("b"))

    assert store.read().entries == ("a",)
    lock.release()
    assert caught.value.waited_s >= 0.05
    assert caught.value.lock == str(path) + ".lock"
    assert store.health().writable
    assert store.change(adding("b")).entries == ("a", "b")


class HeldOpen(SimulatedDisk):
    """Answers a replace as Windows does while somebody has the file open: so many times."""

    times = 0

    def replace(self, source: Path, target: Path) -> None:
        if target == DOCUMENT and self.times > 0:
            self.times -= 1
            error = PermissionError(errno.EACCES, "access is denied")
            error.winerror = 32
            raise error
        super().replace(source, target)


def test_a_file_that_somebody_holds_open_on_windows_is_replaced_when_it_is_let_go():
    disk = HeldOpen()
    store = process(DOCUMENT, Limits(replace_retry_s=30), disk)
    store.change(adding("a"))
    disk.times = 3

    assert store.change(adding("b")).entries == ("a", "b")


def test_a_file_that_is_never_let_go_on_windows_is_given_up_in_the_end():
    disk = HeldOpen()
    store = process(DOCUMENT, Limits(replace_retry_s=0.05), disk)
    store.change(adding("a"))
    disk.times = 10**9

    with pytest.raises(StoreUnwritable):
        store.change(adding("b"))

    assert store.read().entries == ("a",)


def test_a_program_that_rewrites_the_document_without_end_does_not_keep_a_caller_for_ever():
    disk = SimulatedDisk()
    store = process(DOCUMENT, system=disk)
    store.change(adding("a"))

    def rewrite_at_each_sync(call: str) -> None:
        if call == "sync":
            disk.edit(DOCUMENT, b'{"entries": []}')

    disk.watch = rewrite_at_each_sync
    with pytest.raises(StoreBusy, match="again and again"):
        store.change(adding("b"))

    disk.watch = None
    assert store.change(adding("b")).entries == ("b",)

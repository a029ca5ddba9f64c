"""Proof: the power may go, or the disk may fail, at each call that the store makes to the system.

Each scene is played once for every call in it, with the power going before, in the midst of, or after this call, and
every disk that may be found afterwards is looked at. Then once for every call with an error from it. Last, each safety
is taken away, and the same proof must fail.
"""

from __future__ import annotations

import errno
import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from json_store import JsonStore
from model_core.errors import StoreError
from tests.simulated_disk import DOCUMENT, Fault, Kind, PowerCut, SimulatedDisk
from tests.store_records import NO_WAITING, Tally, TallyCodec, adding

CUTS: tuple[Kind, ...] = ("before", "torn", "after")
FAILURES = (errno.ENOSPC, errno.EIO, errno.EACCES)
OLD_FORM = b'["x"]'
DAMAGED = b'{"entries": ["x'


@dataclass
class Run:
    """One playing of a scene: the disk, and what those who called change() were told."""

    disk: SimulatedDisk
    present: tuple[str, ...] = ()  # in the document when the scene began
    acknowledged: list[str] = field(default_factory=list)
    asked: str | None = None  # neither acknowledged nor refused yet
    refused: list[str] = field(default_factory=list)

    @property
    def promised(self) -> tuple[str, ...]:
        return *self.present, *self.acknowledged

    def process(self) -> JsonStore[Tally]:
        """Return a store as another process would have it: nothing shared but the disk."""
        return JsonStore(DOCUMENT, TallyCodec(), self.disk, NO_WAITING)

    def change(self, store: JsonStore[Tally], name: str) -> None:
        self.asked = name
        seen = self.disk.content(DOCUMENT)
        try:
            store.change(adding(name))
        except StoreError:
            assert self.disk.content(DOCUMENT) in (seen, encoded(self.promised)), "a change that failed left a trace"
            self.refused.append(name)
        else:
            self.acknowledged.append(name)
        self.asked = None


@dataclass(frozen=True)
class Scene:
    """What stands on the disk, and what is done with it. ``links``: whether this file system has hard links."""

    play: Callable[[Run], None]
    files: dict[str, bytes] = field(default_factory=dict)
    present: tuple[str, ...] = ()
    links: bool = True
    kept: bytes | None = None  # must be found on the disk whatever happens

    def begin(self, disk: SimulatedDisk) -> Run:
        disk.links = self.links
        for suffix, content in self.files.items():
            disk.put(beside(suffix), content)
        return Run(disk, self.present)


def one_process(run: Run) -> None:
    store = run.process()
    for name in "abc":
        run.change(store, name)


def two_processes(run: Run) -> None:
    one, other = run.process(), run.process()
    for store, name in ((one, "a"), (other, "b"), (one, "c"), (one, "d"), (other, "e")):
        run.change(store, name)


def a_reader_first(run: Run) -> None:
    store = run.process()
    # A reader may be told that the disk is at fault, as long as it is not told anything false.
    with suppress(StoreError):
        assert store.read().entries in (run.promised, ())
    run.change(store, "a")
    run.change(store, "b")


def encoded(entries: Iterable[str]) -> bytes:
    return TallyCodec().encode(Tally(tuple(entries)))


def beside(suffix: str) -> Path:
    return DOCUMENT.with_name(DOCUMENT.name + suffix)


X = encoded("x")
SCENES = {
    "no document yet": Scene(one_process),
    "a document": Scene(one_process, {"": X}, ("x",)),
    "no links": Scene(one_process, {"": X}, ("x",), links=False),
    "two processes": Scene(two_processes, {"": X}, ("x",)),
    "an older form": Scene(one_process, {"": OLD_FORM}, ("x",), kept=OLD_FORM),
    "an older form, no links": Scene(one_process, {"": OLD_FORM}, ("x",), links=False, kept=OLD_FORM),
    "damaged": Scene(a_reader_first, {"": DAMAGED, ".previous": X}, ("x",), kept=DAMAGED),
    "damaged, no links": Scene(a_reader_first, {"": DAMAGED, ".previous": X}, ("x",), links=False, kept=DAMAGED),
    "damaged, nothing to restore": Scene(a_reader_first, {"": DAMAGED}, kept=DAMAGED),
    "both damaged": Scene(a_reader_first, {"": DAMAGED, ".previous": b"]"}, kept=b"]"),
    "missing": Scene(a_reader_first, {".previous": X}, ("x",)),
    "leftovers": Scene(one_process, {"": X, ".new": DAMAGED, ".previous.new": DAMAGED}, ("x",)),
}
QUICK = ("no document yet", "a document", "an older form", "damaged")


@pytest.fixture(autouse=True)
def quiet():
    """The store says loudly what it finds, some thousand times here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# --- the proofs ------------------------------------------------------------------------------------------------------


def calls_of(scene: Scene, make_disk: Callable[[], SimulatedDisk] = SimulatedDisk) -> list[str]:
    run = scene.begin(make_disk())
    scene.play(run)
    assert not run.refused
    return run.disk.calls


def prove_power_cuts(scene: Scene, make_disk: Callable[[], SimulatedDisk] = SimulatedDisk) -> None:
    """Play the scene with the power going at each call; AssertionError when a disk holds less or more than was told."""
    calls = calls_of(scene, make_disk)
    for at, kind in itertools.product(range(1, len(calls) + 1), CUTS):
        run = scene.begin(make_disk())
        run.disk.fault = Fault(at, kind)
        with pytest.raises(PowerCut):
            scene.play(run)
        for found in run.disk.survivors():
            check_found(scene, run, found)
    run = scene.begin(make_disk())
    scene.play(run)
    for found in run.disk.survivors():
        check_found(scene, run, found)


def check_found(scene: Scene, run: Run, found: SimulatedDisk) -> None:
    allowed = [run.promised] + [(*run.promised, name) for name in (run.asked, *run.refused) if name]
    contents = [file.content for file in found.files.values()]
    assert scene.kept is None or scene.kept in contents, "what was to be kept is gone"
    store = JsonStore(DOCUMENT, TallyCodec(), found, NO_WAITING)

    entries = store.read().entries

    assert entries in allowed
    assert store.change(adding("z")).entries == (*entries, "z")
    assert found.content(DOCUMENT) == encoded((*entries, "z"))
    assert scene.kept is None or scene.kept in [file.content for file in found.files.values()]


def prove_errors(scene: Scene, failures: Iterable[int] = FAILURES) -> None:
    """Play the scene with an error from each call, once or from then on; then mend the disk and go on."""
    calls = calls_of(scene)
    for at, failure, lasting in itertools.product(range(1, len(calls) + 1), failures, (False, True)):
        run = scene.begin(SimulatedDisk(fault=Fault(at, "error", failure, lasting)))
        scene.play(run)
        for found in run.disk.survivors():
            check_found(scene, run, found)
        run.disk.fault = run.disk.broken = None
        store = run.process()
        assert store.read().entries == run.promised
        run.change(store, "y")
        assert run.acknowledged[-1] == "y"
        for found in run.disk.survivors():
            check_found(scene, run, found)


@pytest.mark.parametrize("name", QUICK)
def test_the_power_may_go_at_any_call(name):
    prove_power_cuts(SCENES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES.keys() - set(QUICK))
def test_the_power_may_go_at_any_call_of_every_scene(name):
    prove_power_cuts(SCENES[name])


@pytest.mark.parametrize("name", QUICK)
def test_any_call_may_fail(name):
    prove_errors(SCENES[name], [errno.EIO])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_any_call_may_fail_in_every_way(name):
    prove_errors(SCENES[name])


# --- other processes, readers and people, at each call ---------------------------------------------------------------


def at_call(disk: SimulatedDisk, number: int, act: Callable[[], None]) -> None:
    """Let something happen just before the disk carries out the call with this number."""

    def watch(_name: str) -> None:
        if len(disk.calls) + 1 == number:
            disk.watch = None
            act()

    disk.watch = watch


class Turns:
    """Lets two writers alternate: the first makes so many calls, then the second so many, then each to its end."""

    def __init__(self, first: int, second: int) -> None:
        self._left = {"first": first, "second": second}
        self._whose = "first"
        self._ended: set[str] = set()
        self._changed = threading.Condition()

    def wait(self, _call: str) -> None:
        me = threading.current_thread().name
        with self._changed:
            if self._whose == me and self._left[me] == 0:
                self._pass_on(me)
            assert self._changed.wait_for(lambda: self._whose == me, timeout=30)
            self._left[me] -= 1

    def end(self) -> None:
        me = threading.current_thread().name
        with self._changed:
            self._ended.add(me)
            if self._whose == me:
                self._pass_on(me)

    def _pass_on(self, me: str) -> None:
        other = "second" if me == "first" else "first"
        if other not in self._ended:
            self._whose = other
            self._changed.notify_all()


def prove_exclusion(make_disk: Callable[[], SimulatedDisk] = SimulatedDisk) -> None:
    """Let two processes change at once, suspended at each pair of calls: what both were told is what is there."""
    scene = SCENES["a document"]
    run = scene.begin(make_disk())
    run.change(run.process(), "a")
    count = len(run.disk.calls) + 1
    for first, second in itertools.product(range(count), repeat=2):
        run = scene.begin(make_disk())
        acknowledged = change_in_turns(run, Turns(first, second))
        assert sorted(run.process().read().entries) == sorted(["x", *acknowledged])


def change_in_turns(run: Run, turns: Turns) -> list[str]:
    acknowledged: list[str] = []

    def write(name: str) -> None:
        with suppress(StoreError):
            run.process().change(adding(name))
            acknowledged.append(name)
        turns.end()

    run.disk.watch = turns.wait
    threads = [threading.Thread(target=write, args=(name,), name=name) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.disk.watch = None
    return acknowledged


def prove_whole_documents(make_disk: Callable[[], SimulatedDisk] = SimulatedDisk) -> None:
    """Look at the bare file at each call: it is a document each time, and never missing once it was there."""
    run = SCENES["two processes"].begin(make_disk())
    run.disk.watch = lambda _name: TallyCodec().decode(run.disk.content(DOCUMENT))
    try:
        SCENES["two processes"].play(run)
    except ValueError as error:
        raise AssertionError("a reader would have seen half a document") from error


def prove_last_good_version(make_disk: Callable[[], SimulatedDisk] = SimulatedDisk) -> None:
    """Damage the document from outside after some changes: a fresh process has all but the last one."""
    run = SCENES["a document"].begin(make_disk())
    SCENES["a document"].play(run)
    run.disk.edit(DOCUMENT, DAMAGED)

    assert run.process().read().entries == run.promised[:-1]


def prove_versions_differ(make_disk: Callable[[], SimulatedDisk] = SimulatedDisk) -> None:
    """Replace the document by others of the same size: whoever saw an early one is not taken in by a used inode."""
    run = SCENES["a document"].begin(make_disk())
    observer, writer = run.process(), run.process()
    for name in "abcdefgh":
        writer.change(lambda _, name=name: Tally((name,)))
        if name == "b":
            assert observer.read().entries == ("b",)
        for _ in range("abc".find(name)):
            writer.change(lambda _: Tally(("-",)))

    assert observer.read().entries == ("h",)


def prove_acknowledged_by_another(make_disk: Callable[[], SimulatedDisk] = SimulatedDisk) -> None:
    """Kill a writer at each call; what another process then acts upon survives the power cut that follows."""
    scene = SCENES["a document"]
    for at in range(1, len(calls_of(scene, make_disk)) + 1):
        run = scene.begin(make_disk())
        run.disk.fault = Fault(at, "kill")
        with pytest.raises(PowerCut):
            scene.play(run)
        acted_upon = run.process().change(lambda tally: tally).entries
        assert acted_upon in (run.promised, (*run.promised, run.asked))
        for found in run.disk.survivors():
            assert JsonStore(DOCUMENT, TallyCodec(), found, NO_WAITING).read().entries == acted_upon


def test_another_process_may_write_at_any_call():
    prove_exclusion()


def test_the_file_is_a_document_at_any_call():
    prove_whole_documents()


def test_of_a_document_damaged_from_outside_all_but_the_last_change_is_restored():
    prove_last_good_version()


def test_no_version_looks_like_another():
    prove_versions_differ()


def test_what_another_process_acts_upon_survives():
    prove_acknowledged_by_another()


def test_a_person_may_save_at_any_call_until_the_document_is_replaced():
    scene = SCENES["a document"]
    calls = calls_of(scene)
    saved = TallyCodec().encode(Tally(("x", "person"), {"note": "by hand"}))
    # After the store's last look at the file, the copy beside it is made and the document replaced: calls of no time.
    last_look = calls.index("replace") - 2
    assert calls[last_look : last_look + 3] == ["signature", "link", "replace"]
    for at in range(1, last_look + 2):
        run = scene.begin(SimulatedDisk())
        at_call(run.disk, at, lambda run=run: run.disk.edit(DOCUMENT, saved))
        scene.play(run)

        assert run.process().read() == Tally(("x", "person", "a", "b", "c"), {"note": "by hand"})


def test_a_write_that_takes_only_a_part_is_gone_on_with():
    calls = calls_of(SCENES["a document"])
    for at in (number for number, name in enumerate(calls, 1) if name == "write"):
        run = SCENES["a document"].begin(SimulatedDisk(fault=Fault(at, "short")))
        one_process(run)

        assert run.disk.content(DOCUMENT) == encoded("xabc")


# --- each safety taken away ------------------------------------------------------------------------------------------


class WithoutFileSync(SimulatedDisk):
    def sync(self, descriptor: int) -> None:
        pass


class WithoutFolderSync(SimulatedDisk):
    def sync_folder(self, folder: Path) -> None:
        pass


class WithoutLock(SimulatedDisk):
    def lock(self, path: Path) -> NoLock:
        return NoLock()


class NoLock:
    def taken(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


class WithoutReplace(SimulatedDisk):
    """Copies the content over instead of the name, as a plain open(path, "w") does."""

    def replace(self, source: Path, target: Path) -> None:
        if target not in self.names_seen:
            super().replace(source, target)
            return
        content, _ = self.read(source, 2**30)
        file = self.files[self.names_seen[target]]
        file.content = b""
        self.opened[-1] = self.names_seen[target]
        self.write(-1, memoryview(content))
        self.sync(-1)
        self.close(-1)
        self.remove(source)


class WithoutPrevious(SimulatedDisk):
    def link(self, source: Path, target: Path) -> None:
        if not target.name.endswith(".previous.new"):
            super().link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        if not target.name.endswith(".previous"):
            super().replace(source, target)


class WithoutStamp(SimulatedDisk):
    def stamp(self, path: Path, modified_ns: int) -> None:
        pass


@pytest.mark.parametrize(
    ("weakened", "prove"),
    [
        (WithoutFileSync, lambda disk: prove_power_cuts(SCENES["a document"], disk)),
        (WithoutFolderSync, lambda disk: prove_power_cuts(SCENES["a document"], disk)),
        (WithoutFolderSync, lambda disk: prove_power_cuts(SCENES["an older form"], disk)),
        (WithoutFolderSync, prove_acknowledged_by_another),
        (WithoutLock, prove_exclusion),
        (WithoutReplace, prove_whole_documents),
        (WithoutReplace, lambda disk: prove_power_cuts(SCENES["a document"], disk)),
        (WithoutPrevious, prove_last_good_version),
        (WithoutStamp, prove_versions_differ),
    ],
    ids=lambda value: value.__name__.strip("<>"),
)
def test_a_store_without_one_of_its_safeties_is_found_out(weakened, prove):
    with pytest.raises(AssertionError):
        prove(weakened)

"""The contract between the store and a file system, held by the real one and by the simulated disk alike."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path

import pytest

from json_store_system import RealFileSystem
from tests.simulated_disk import DOCUMENT, SimulatedDisk


@pytest.fixture(params=["real", "simulated"])
def place(request, tmp_path):
    """A file system, and a folder on it."""
    if request.param == "real":
        return RealFileSystem(), tmp_path
    disk = SimulatedDisk()
    disk.make_folder(DOCUMENT.parent)
    return disk, DOCUMENT.parent


def written(system, path: Path, content: bytes) -> Path:
    descriptor = system.create(path)
    assert system.write(descriptor, memoryview(content)) == len(content)
    system.sync(descriptor)
    system.close(descriptor)
    return path


def test_what_was_written_is_read(place):
    system, folder = place
    path = written(system, folder / "a", b"content")

    content, signature = system.read(path, 100)

    assert content == b"content"
    assert signature == system.signature(path)
    assert (signature.size_bytes, signature.regular) == (7, True)


def test_no_more_is_read_than_the_limit(place):
    system, folder = place

    assert system.read(written(system, folder / "a", b"content"), 3)[0] == b"con"


def test_a_folder_is_no_regular_file(place):
    system, folder = place

    assert not system.signature(folder).regular


def test_what_is_missing_is_missing_for_every_call(place):
    system, folder = place
    missing, other = folder / "missing", folder / "other"
    calls = (
        lambda: system.signature(missing),
        lambda: system.read(missing, 1),
        lambda: system.stamp(missing, 1),
        lambda: system.link(missing, other),
        lambda: system.replace(missing, other),
        lambda: system.remove(missing),
        lambda: system.create(missing / "within"),
        lambda: system.make_folder(missing / "within"),
        lambda: system.lock(missing / "within").taken(),
    )

    for call in calls:
        with pytest.raises(FileNotFoundError):
            call()


def test_a_name_that_is_taken_is_not_given_again(place):
    system, folder = place
    path, other = written(system, folder / "a", b"a"), written(system, folder / "b", b"b")

    for call in (lambda: system.create(path), lambda: system.link(other, path), lambda: system.make_folder(path)):
        with pytest.raises(FileExistsError):
            call()
    assert system.read(path, 10)[0] == b"a"


def test_a_replace_takes_the_place_and_the_state_of_the_file_with_it(place):
    system, folder = place
    old, new = written(system, folder / "old", b"old"), written(system, folder / "new", b"new")
    system.stamp(new, 1_700_000_000_123_456_789)
    signature = system.signature(new)

    system.replace(new, old)

    assert system.names(folder) == ["old"]
    assert system.signature(old) == signature
    assert signature.modified_ns == 1_700_000_000_123_456_789


def test_a_linked_file_outlives_the_name_it_had_first(place):
    system, folder = place
    path = written(system, folder / "a", b"content")

    system.link(path, folder / "b")
    system.remove(path)

    assert system.read(folder / "b", 100)[0] == b"content"


def test_a_replace_between_two_names_of_one_file_does_nothing(place):
    system, folder = place
    path = written(system, folder / "a", b"content")
    system.link(path, folder / "b")

    system.replace(path, folder / "b")

    assert system.read(folder / "b", 100)[0] == b"content"


def refused(lock) -> bool:
    if not lock.taken():
        return True
    lock.release()
    return False


def test_a_lock_that_is_held_is_refused_and_free_again_afterwards(place):
    system, folder = place
    one, other = system.lock(folder / "lock"), system.lock(folder / "lock")

    assert one.taken()
    assert refused(other)
    one.release()
    assert not refused(other)

    assert system.names(folder) == ["lock"]


def test_a_lock_that_was_closed_is_opened_anew(place):
    system, folder = place
    lock = system.lock(folder / "lock")

    assert not refused(lock)
    lock.close()
    assert not refused(lock)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove a file that is open")
def test_a_lock_file_that_was_removed_locks_nobody_in_with_those_who_come_later(tmp_path):
    system = RealFileSystem()
    early, late = system.lock(tmp_path / "lock"), system.lock(tmp_path / "lock")
    assert not refused(early)
    (tmp_path / "lock").unlink()

    assert late.taken()

    assert refused(early)


def test_the_handle_of_a_lock_goes_with_it(tmp_path):
    lock = RealFileSystem().lock(tmp_path / "lock")
    assert lock.taken()
    del lock
    gc.collect()

    assert not refused(RealFileSystem().lock(tmp_path / "lock"))


def test_folders_are_made_and_synced(place):
    system, folder = place

    system.make_folder(folder / "within")
    system.sync_folder(folder)

    assert system.names(folder) == ["within"]
    assert system.may_write(folder / "within")


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps rights elsewhere")
def test_new_files_are_their_owners_alone(tmp_path):
    system = RealFileSystem()
    written(system, tmp_path / "a", b"")
    refused(system.lock(tmp_path / "lock"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert modes == {"a": 0o600, "lock": 0o600}


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs symbolic links")
def test_a_new_file_is_not_written_through_a_link_that_somebody_laid(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        RealFileSystem().create(tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(10)
def test_a_named_pipe_in_the_place_of_a_file_does_not_keep_the_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "a")

    assert not RealFileSystem().signature(tmp_path / "a").regular
    RealFileSystem().read(tmp_path / "a", 10)

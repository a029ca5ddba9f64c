"""Where Ollama's models lie, and how much room there is."""

from __future__ import annotations

from pathlib import Path

from hardware_probe import ollama_disk


def test_ollama_models_says_which_disk_it_is(tmp_path: Path):
    found = ollama_disk({"OLLAMA_MODELS": str(tmp_path)}, home=tmp_path / "nobody")

    assert found.path == str(tmp_path)
    assert found.is_certain
    assert found.free_bytes is not None
    assert found.free_bytes > 0


def test_the_users_own_folder_is_certain_once_it_is_there(tmp_path: Path):
    (tmp_path / ".ollama" / "models").mkdir(parents=True)

    assert ollama_disk({}, home=tmp_path).is_certain


def test_a_folder_that_is_not_there_yet_is_measured_where_it_would_be_and_doubted(tmp_path: Path):
    found = ollama_disk({"OLLAMA_MODELS": str(tmp_path / "not" / "yet")}, home=tmp_path)

    assert found.path == str(tmp_path)
    assert not found.is_certain
    assert found.free_bytes is not None


def test_a_folder_that_may_not_be_looked_into_leaves_the_room_unknown_and_raises_nothing(tmp_path: Path):
    # A name longer than any system takes: looking at it fails as a closed folder does, also for root.
    closed = tmp_path / ("x" * 5000)

    found = ollama_disk({"OLLAMA_MODELS": str(closed)}, home=tmp_path)

    assert not found.is_certain

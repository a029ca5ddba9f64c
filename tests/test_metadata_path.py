"""Where the document stands, for every way in which the modules may have come to a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metadata_path import default_metadata_file, resolve_metadata_file

ROOT = Path(__file__).resolve().parent.parent


def test_in_a_checkout_it_stands_beside_the_modules_and_not_at_the_working_directory(tmp_path):
    asked = "import metadata_path; print(metadata_path.default_metadata_file())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, "-c", asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )

    assert Path(answer.stdout.strip()) == ROOT / "data" / "model_metadata.json"


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_an_installed_package_leaves_it_to_the_users_own_folder(tmp_path, folder):
    modules = tmp_path / folder
    modules.mkdir()

    chosen = default_metadata_file(modules)

    assert chosen.is_absolute()
    assert tmp_path not in chosen.parents
    assert "junmai-model-manager" in chosen.parts
    assert chosen.name == "model_metadata.json"


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_may_not_be_written_leaves_it_to_the_users_own_folder(tmp_path):
    tmp_path.chmod(0o500)

    assert tmp_path not in default_metadata_file(tmp_path).parents


def test_a_relative_path_starts_beside_the_modules(tmp_path):
    assert resolve_metadata_file("elsewhere/m.json", tmp_path) == tmp_path / "elsewhere" / "m.json"


def test_an_absolute_path_and_a_home_are_taken_as_they_are(tmp_path):
    assert resolve_metadata_file(tmp_path / "m.json", Path("/nowhere")) == tmp_path / "m.json"
    assert resolve_metadata_file("~/m.json") == Path.home() / "m.json"


def test_the_default_is_what_its_own_text_means(tmp_path):
    assert default_metadata_file(tmp_path) == resolve_metadata_file("data/model_metadata.json", tmp_path)


def test_looking_up_the_path_loads_nothing_but_the_standard_library():
    asked = "import sys, metadata_path; print(sorted({'pydantic', 'platformdirs', 'requests'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"

"""Files of jobs: what is wished of an owner reaches it, also where the file is in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from job_files import JobFiles
from model_core.errors import StoreUnwritable

JOB = "0123456789ab"


@pytest.fixture
def files(tmp_path) -> JobFiles:
    return JobFiles(tmp_path)


@pytest.fixture
def in_use(monkeypatch):
    """As on Windows while the owner reads the wish before: so many replaces are refused."""

    def refuse(times: int) -> None:
        left, replace = [None] * times, Path.replace

        def refusing(path, target):
            if left:
                left.pop()
                error = PermissionError(13, "The process cannot access the file")
                error.winerror = 32
                raise error
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", refusing)

    return refuse


def test_a_wish_is_taken_once(files):
    files.wish(JOB, "cancel")

    assert (files.wished(JOB), files.wished(JOB)) == ("cancel", None)


def test_a_wish_waits_a_moment_for_who_reads_the_one_before(files, in_use):
    files.wish(JOB, "pause")
    in_use(3)
    files.wish(JOB, "cancel")

    assert files.wished(JOB) == "cancel"


def test_a_wish_that_cannot_be_left_says_so(files, in_use):
    in_use(1000)

    with pytest.raises(StoreUnwritable):
        files.wish(JOB, "cancel")

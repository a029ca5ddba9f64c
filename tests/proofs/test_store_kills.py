"""Proof: a writing process may be killed at any moment. What it was told is kept, the file is whole, others go on."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.store_records import TallyCodec
from tests.store_writers import Acknowledged, Writer, open_tally

NAMES = ["one", "two", "three"]


def prove_kills(path: Path, kills: int) -> None:
    chance, counted = random.Random(kills), Acknowledged()
    bystander = Writer(path, ["bystander"])
    bystander.listen(1)
    for _ in range(kills):
        writer = Writer(path, NAMES)
        writer.listen(chance.randint(1, 12))
        # Not to wait for something: to choose the moment within a write.
        time.sleep(chance.random() * 0.003)
        writer.kill()

        found = TallyCodec().decode(path.read_bytes()).others
        counted |= writer.acknowledged
        for name in NAMES:
            # At most one change of each thread was under way, and nobody was told of it.
            assert found.get(name, 0) - counted.get(name, 0) in (0, 1)
            counted[name] = found.get(name, 0)
        bystander.catch_up()
        bystander.listen(3)
    bystander.kill()
    health = open_tally(path).health()
    assert health.problem is None
    assert open_tally(path).read().others["bystander"] - bystander.acknowledged["bystander"] in (0, 1)


def test_a_dozen_killed_writers_lose_nothing(tmp_path):
    prove_kills(tmp_path / "document.json", 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_killed_writers_lose_nothing(tmp_path):
    prove_kills(tmp_path / "document.json", 1000)

"""Write docs/decision-table.md: what is recommended on every size of card, so that a change of the rules can be read.

python docs/decision_table.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catalog import MODEL_CATALOG
from model_core.candidates import Candidate, Criteria, candidate_of
from model_core.errors import NoSuitableModel
from model_core.memory import format_memory, label
from model_core.recommender import recommend
from model_core.records import GIB

PAGE = Path(__file__).resolve().with_name("decision-table.md")

CARDS_GIB = (1, 2, 4, 6, 8, 10, 12, 16, 24, 32, 40, 48, 80)
PRIORITIES = ("speed", "balanced", "quality")

FRESH = [candidate_of(entry, variant) for entry in MODEL_CATALOG.values() for variant in entry.variants]


def _used(candidate: Candidate) -> Candidate:
    """Return what a few weeks leave behind: one model that is liked, one that mostly failed."""
    form = (candidate.name, candidate.quantization)
    if form == ("llama3.2:3b-instruct", "q4"):
        worked = replace(candidate, installed=True, success_count=48, failure_count=2, mean_seconds=2.4)
        return replace(worked, score=4.2, score_count=30)
    if form == ("llama3.1:8b-instruct", "q4"):
        return replace(candidate, installed=True, failure_count=20)
    return candidate


USED = [_used(candidate) for candidate in FRESH]

HEAD = """# What is recommended on which card

Made by `python docs/decision_table.py`; a test compares. The rules are in [recommendation.md](recommendation.md).
The whole of the card is free, the context is 4,096 tokens. *Used* is a machine on which llama3.2:3b-instruct (4-bit)
is installed, worked 48 of 50 times and was scored 4.2 of 5, and llama3.1:8b-instruct (4-bit) is installed and failed 20
of 20 times.

| card | wish | machine | recommended | verdict | needs | next |
|---|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the page."""
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows())


def rows() -> Iterator[tuple[str, ...]]:
    """Yield one row for each card, wish and machine, then one for each card and photos."""
    for card in CARDS_GIB:
        for priority in PRIORITIES:
            yield _row(card, priority, "fresh", FRESH, ())
            yield _row(card, priority, "used", USED, ())
    for card in CARDS_GIB:
        yield _row(card, "quality", "fresh", FRESH, ("vision",))


def _row(
    card: int, priority: str, machine: str, candidates: list[Candidate], needs: tuple[str, ...]
) -> tuple[str, ...]:
    criteria = Criteria.model_validate({"available_bytes": card * GIB, "priority": priority, "needs": needs})
    start = (f"{card} GiB", f"{priority}, photos" if needs else priority, machine)
    try:
        answer = recommend(candidates, criteria)
    except NoSuitableModel as error:
        return (*start, "nothing", "", "", error.remedy)
    best, following = answer.best, answer.alternatives[:1]
    then = ", ".join(label(place.model, place.quantization) for place in following)
    return (
        *start,
        label(best.model, best.quantization) + (", installed" if best.installed else ""),
        best.verdict.value,
        format_memory(best.need.total),
        then,
    )


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8", newline="\n")

"""docs/decision-table.md says what the rules come to: whoever changes them sees it there as a difference."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_page_is_what_the_rules_come_to():
    made = runpy.run_path(str(DOCS / "decision_table.py"))["page"]()

    # Made anew by: python docs/decision_table.py
    assert (DOCS / "decision-table.md").read_text("utf-8") == made


def test_every_card_and_every_wish_stand_in_it_for_a_fresh_machine_and_a_used_one():
    rows = [line.split(" | ")[:3] for line in (DOCS / "decision-table.md").read_text("utf-8").splitlines()]

    asked = {tuple(row) for row in rows if row[0].endswith("GiB")}
    assert len(asked) == 13 * 3 * 2 + 13
    assert {row[2] for row in asked} == {"fresh", "used"}

"""What one more record costs when there are many already: the thinking, and the document as it is then written.

    python bench/record_cost.py [--rounds 300]

Claim: a record after 10^6 events <= 1.1 x one after 10^3. Both take turns, and of each the median counts.
The million is put there as sums: a model that was used a million times is not larger than one that was used once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catalog import MODEL_CATALOG
from model_core import usage
from model_core.document import DocumentCodec
from model_core.records import Document, Usage

MODEL, HERE, NOW = next(iter(MODEL_CATALOG)), "0123456789abcdef", "2026-11-23T12:00:00.000000Z"
CODEC = DocumentCodec(MODEL_CATALOG, HERE)


def document_after(events: int) -> Document:
    document = CODEC.empty()
    sums = Usage(count=events, success_count=events, timed_count=events, total_ns=events * 2 * 10**9, last_used=NOW)
    model = usage.with_history(document.models[MODEL], {HERE: {"46e0c10c039e": sums}})
    return document.model_copy(update={"models": {**document.models, MODEL: model}})


def record_us(document: Document) -> float:
    began = time.perf_counter()
    event = usage.check_event(2.0, True, NOW)
    model = usage.record(document.models[MODEL], HERE, "46e0c10c039e", event)
    CODEC.encode(document.model_copy(update={"models": {**document.models, MODEL: model}}))
    return (time.perf_counter() - began) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    few, many = document_after(10**3), document_after(10**6)
    taken: dict[str, list[float]] = {"few": [], "many": []}
    for _ in range(rounds):
        taken["few"].append(record_us(few))
        taken["many"].append(record_us(many))
    after_few, after_many = (statistics.median(taken[which]) for which in ("few", "many"))
    ratio = after_many / after_few
    print(f"a record after 10^3 events {after_few:.0f} us, after 10^6 {after_many:.0f} us")
    print(f"ratio {ratio:.3f}  claimed <= 1.1  {'ok' if ratio <= 1.1 else 'MISSED'}")


if __name__ == "__main__":
    main()

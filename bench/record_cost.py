"""What one more record costs when there are many already, and what it costs to put many histories together.

    python bench/record_cost.py [--rounds 2000]

Claims: the thinking of a record <= 20 us, on a model with 300 filled buckets, 50 tasks and 90 days; a record after 10^6
events <= 1.1 x one after 10^3, with the document as it is then written; 1,000 histories put together <= 1 s.
Medians count; the two sizes take turns, and the thinking is that of the quietest of ten stretches. The million is put
there as sums: a model that was used a million times is not larger than one that was used once for each of its buckets,
tasks and days.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catalog import MODEL_CATALOG
from model_core import usage
from model_core.counts import Counts
from model_core.document import DocumentCodec
from model_core.histogram import bucket_of
from model_core.records import Document, History, StoredModel, Usage

MODEL, HERE, DIGEST = next(iter(MODEL_CATALOG)), "0123456789abcdef", "46e0c10c039e"
TODAY = date(2026, 11, 23)
NOW = f"{TODAY}T12:00:00.000000Z"
BUCKETS, TASKS, DAYS = 300, 50, 90
HISTORIES = 1000
CODEC = DocumentCodec(MODEL_CATALOG, HERE)
EVENT = usage.check_event(2.0, True, NOW, tokens=90, quality_score=4.5, task="task 7")


def sums(events: int) -> dict[str, int]:
    ns = events * 2 * 10**9
    return {
        **dict.fromkeys(("count", "success_count", "timed_count", "quality_count"), events),
        "total_ns": ns,
        "token_count": events * 90,
        "token_ns": ns,
        "quality_thousandths": events * 4500,
    }


def spread(around: int, events: int) -> Counts[int]:
    return Counts({bucket_of(int(around * 1.0203**place)): 1 + events // BUCKETS for place in range(-200, 100)})


def usage_after(events: int) -> Usage:
    part = Counts(sums(1 + events // DAYS))
    return Usage(
        **sums(events),
        min_ns=10**6,
        max_ns=10**13,
        first_used=NOW,
        last_used=NOW,
        durations=spread(2 * 10**9, events),
        speeds=spread(45 * usage.SPEED_UNIT, events),
        qualities=Counts(dict.fromkeys(range(51), 1 + events // 51)),
        by_task={f"task {number}": part for number in range(TASKS)},
        by_day={str(TODAY - timedelta(days=number)): part for number in range(DAYS)},
    )


def document_after(events: int) -> Document:
    document = CODEC.empty()
    model = usage.with_history(document.models[MODEL], {HERE: {DIGEST: usage_after(events)}})
    return document.model_copy(update={"models": {**document.models, MODEL: model}})


def recorded(document: Document) -> StoredModel:
    return usage.record(document.models[MODEL], HERE, DIGEST, EVENT)


def written(document: Document) -> bytes:
    return CODEC.encode(document.model_copy(update={"models": {**document.models, MODEL: recorded(document)}}))


def taken_us(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


def put_together_s() -> float:
    """Take over one history after the other, as imports would, then sum up what is on record."""
    others: list[History] = [{f"{number:016x}": {DIGEST: usage_after(10**4)}} for number in range(HISTORIES)]
    began = time.perf_counter()
    mine: History = {}
    for other in others:
        mine = usage.merge(mine, other)
    usage.whole(mine)
    return time.perf_counter() - began


def verdict(claim: str, holds: bool) -> str:
    return f"claimed {claim}  {'ok' if holds else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2000)
    rounds = parser.parse_args().rounds
    few, many = document_after(10**3), document_after(10**6)
    thinking = min(statistics.median(taken_us(lambda: recorded(many)) for _ in range(rounds // 10)) for _ in range(10))
    taken: dict[str, list[float]] = {"few": [], "many": []}
    for _ in range(rounds):
        taken["few"].append(taken_us(lambda: written(few)))
        taken["many"].append(taken_us(lambda: written(many)))
    after_few, after_many = (statistics.median(taken[which]) for which in ("few", "many"))
    ratio, together_s = after_many / after_few, put_together_s()
    print(f"the thinking of a record {thinking:.1f} us  {verdict('<= 20', thinking <= 20)}")
    print(f"with the document after 10^3 events {after_few:.0f} us, after 10^6 {after_many:.0f} us")
    print(f"ratio {ratio:.3f}  {verdict('<= 1.1', ratio <= 1.1)}")
    print(f"{HISTORIES} histories put together {together_s:.2f} s  {verdict('<= 1', together_s <= 1)}")


if __name__ == "__main__":
    main()

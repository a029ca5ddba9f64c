"""What the thinking of a recommendation costs: with 50 models and full history, and with 10,000.

    python bench/recommend.py [--runs 30]

Claims: 50 models with full history <= 5 ms, 10,000 models <= 200 ms, also where nothing fits and the way out is looked
for. The best of the runs counts: the rest is what else went on here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catalog import MODEL_CATALOG
from model_core.candidates import Candidate, Criteria, candidate_of
from model_core.errors import NoSuitableModel
from model_core.memory import GIB
from model_core.recommender import recommend


def candidates(count: int) -> list[Candidate]:
    """So many models with a history each, as the catalogue has them, over and over."""
    known = [candidate_of(entry, variant) for entry in MODEL_CATALOG.values() for variant in entry.variants]
    return [
        replace(
            known[i % len(known)], name=f"m{i}", success_count=i % 50, failure_count=i % 7, mean_seconds=1.0 + i % 7
        )
        for i in range(count)
    ]


def best_ms(models: list[Candidate], criteria: Criteria, runs: int) -> float:
    taken = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        with contextlib.suppress(NoSuitableModel):
            recommend(models, criteria)
        taken.append(time.perf_counter() - began)
    return round(min(taken[1:]) * 1000, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    some, many = candidates(50), candidates(10_000)
    ordinary = Criteria(available_bytes=20 * GIB)
    hopeless = Criteria(available_bytes=GIB, context_tokens=131_072)
    figures = {
        "50_models_ms": best_ms(some, ordinary, runs),
        "50_models_nothing_fits_ms": best_ms(some, hopeless, runs),
        "10000_models_ms": best_ms(many, ordinary, max(3, runs // 10)),
        "10000_models_nothing_fits_ms": best_ms(many, hopeless, max(3, runs // 10)),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

"""How AutoDev's AI Selector uses the manager: choose a model for this machine, judge photos with it, record each time.

    python start.py demo                        prints the two addresses of the demonstration
    python examples/ai_selector.py --ollama http://127.0.0.1:PORT --file PATH [--vram 8] [--priority balanced]

Run it with the Python of `.venv`, or with any that has requirements.txt installed. Without the two options it works on
your own Ollama and your own document.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model_core.errors import ModelManagerError, NoSuitableModel, OllamaError
from model_manager import ModelManager
from ollama_client import OllamaClient

PHOTOS = {
    "IMG_0412.CR3": "focus 4.6, exposure 4.1, composition 3.9, faces 2, ISO 400, 1/250 s, f/2.8, golden hour",
    "IMG_0413.CR3": "focus 2.2, exposure 3.0, composition 3.5, faces 1, ISO 6400, 1/30 s, f/4, indoors",
}
PROMPT = """You rate photographs from their measurements: {measurements}.
Answer in two lines.
SCORE: a number from 1 to 5
REASONING: one sentence"""


@dataclass(frozen=True)
class Evaluation:
    """What came out for one photo; score is None where the model's answer held none."""

    photo: str
    score: float | None
    answer: str


class AISelector:
    """Judges photos with the current model. The language model gets measurements, never the picture."""

    def __init__(self, manager: ModelManager, client: OllamaClient) -> None:
        self._manager, self._client = manager, client

    def evaluate(self, photo: str, measurements: str) -> Evaluation:
        """Ask the current model, and record how long it took and whether it worked. Raises OllamaError."""
        model = self._manager.current().name
        started_s = time.monotonic()
        try:
            answer = self._client.generate_answer(
                model, PROMPT.format(measurements=measurements), options={"num_predict": 120, "temperature": 0.2}
            )
        except OllamaError:
            self._manager.record_usage(model, time.monotonic() - started_s, success=False, task="rating")
            raise
        self._manager.record_usage(model, time.monotonic() - started_s, tokens=answer.answer_tokens, task="rating")
        found = re.search(r"SCORE:\s*([1-5](?:\.\d+)?)", answer.text)
        return Evaluation(photo, float(found[1]) if found else None, answer.text)


def choose_model(manager: ModelManager, vram_gb: float | None, priority: str) -> str:
    """Make the model that suits this machine the current one, fetching it first if need be, and return its name.

    Raises NoSuitableModel, DownloadFailed, OllamaUnavailable.
    """
    best = manager.recommend(vram_gb, priority).best
    for reason in best.reasons:
        print(f"  {reason.text}")
    if not best.installed:
        print(f"  fetching {best.model} …")
        manager.pull_model(best.model, quantization=best.quantization)
    return manager.select_model(best.model, best.quantization).model


def main() -> int:
    """Run both parts once. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ollama", default="http://127.0.0.1:11434", help="Ollama's address")
    parser.add_argument("--file", default="data/model_metadata.json", help="the metadata document")
    parser.add_argument("--vram", type=float, default=8.0, help="graphics memory that may be used, in GiB")
    parser.add_argument("--priority", default="balanced", choices=["speed", "balanced", "quality"])
    given = parser.parse_args()
    manager = ModelManager(given.ollama, given.file)
    try:
        print(f"Choosing a model for {given.vram:g} GiB, {given.priority}:")
        print(f"Current model: {choose_model(manager, given.vram, given.priority)}")
        selector = AISelector(manager, manager.client)
        for photo, measurements in PHOTOS.items():
            evaluation = selector.evaluate(photo, measurements)
            score = "no score" if evaluation.score is None else f"{evaluation.score:g}"
            print(f"{photo}: {score} ({evaluation.answer.splitlines()[0][:60]})")
        statistics = manager.statistics(manager.current().name)
        print(
            f"On record: {statistics.usage_count} uses, {statistics.p50 or 0:.2f} s in the middle, "
            f"{statistics.tokens_per_second or 0:.0f} tokens a second"
        )
    except NoSuitableModel as error:
        print(f"No model suits: {error}")
        return 1
    except ModelManagerError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        manager.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The daily loop, all of it: a service, a program that imports the manager, and Ollama, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from download_scenes import until
from rest_api import ONE_B, ONE_B_TAG, THREE_B, THREE_B_TAG, problem
from service_process import ROOT, Service, environment_of

from catalog import MODEL_CATALOG
from ollama_client import OllamaClient

# What AutoDev's AI Selector does, line by line: it is told what to do on stdin and answers with JSON on stdout.
PROGRAM = """
import json, sys
from model_manager import ModelManager

manager = ModelManager(sys.argv[1], sys.argv[2])

def record(name, seconds, success):
    manager.record_usage(name, seconds, success)
    return manager.get_model_statistics(name)

calls = {
    "current": manager.get_current_model,
    "generate": manager.client.generate,
    "record": record,
    "recommend": lambda: manager.recommend_model(8.0, "speed"),
    "check": lambda name: manager.check_model_compatibility(name, 8.0),
    "switch": manager.switch_model,
    "download": lambda name: manager.download_model(name, print_nothing),
    "delete": manager.delete_model,
    "installed": manager.list_installed_models,
}

def print_nothing(event):
    pass

for line in sys.stdin:
    name, *arguments = json.loads(line)
    print(json.dumps(calls[name](*arguments)), flush=True)
manager.close()
"""


class Program:
    """The importing program."""

    def __init__(self, ollama: Any, document: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, ollama.url, str(document)],
            env=environment_of(ollama, document) | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *call: Any) -> Any:
        """Have it call something, and return what came back."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        assert self._process.wait(10) == 0
        self._process.stdout.close()


@pytest.fixture
def document(tmp_path: Path) -> Path:
    return tmp_path / "model_metadata.json"


@pytest.fixture
def program(simulator: Any, document: Path) -> Iterator[Program]:
    program = Program(simulator, document)
    yield program
    program.end()


def held_by(ollama: Any) -> set[str]:
    return {model.name for model in OllamaClient(ollama.url).tags()}


def test_the_daily_loop(simulator, document, program):
    with Service(simulator, document) as service:
        # 1. The list shows the seed's six and the vision models, each with what there is to know of it.
        models = {model["name"]: model for model in service.get("/list")["models"]}
        assert models.keys() == MODEL_CATALOG.keys()
        assert sum("vision" in model["capabilities"] for model in models.values()) >= 5
        for model in models.values():
            assert model["download_size_mb"] or not model["published"]
            assert model["memory"]["need_bytes"] or not model["published"]
            assert model["installed"] is False

        # 2. A download brings the real tag, and says done only when Ollama's list shows the id.
        job = service.post("/download", {"model": ONE_B})["download"]
        assert job["tag"] == ONE_B_TAG
        seen = []

        def done() -> bool:
            newest = service.get(f"/downloads/{job['id']}?wait=5&since={seen[-1]['version'] if seen else 0}")[
                "download"
            ]
            seen.append(newest)
            return bool(newest["state"] == "completed")

        until(done, "the end of the download")
        assert held_by(simulator) == {ONE_B, ONE_B_TAG}
        percents = [step["percent"] for step in seen if step["percent"] is not None]
        assert percents == sorted(percents)
        assert percents[-1] == 100.0
        assert all(percent < 100 for percent in percents[:-1])

        # 3. A switch is seen at once by the other process; what was before is kept.
        assert service.post("/switch", {"model": ONE_B})["previous"] is None
        assert program("current") == ONE_B
        assert program("download", THREE_B)[0] is True
        assert program("switch", THREE_B) is True
        switched = service.post("/switch", {"model": ONE_B})
        assert (switched["model"], switched["previous"]) == (ONE_B, THREE_B)

        # 4. The id answers, and what the other process records counts.
        assert program("generate", ONE_B, "Name three kinds of light.")
        assert program("record", ONE_B, 1.5, True)["usage_count"] == 1
        assert program("record", ONE_B, 2.5, False)["usage_count"] == 2

        # 5. Statistics and advice come from what was recorded, the same for both.
        statistics = service.get(f"/statistics?model={ONE_B}")["statistics"]
        assert (statistics["usage_count"], statistics["success_rate"], statistics["avg_inference_time"]) == (
            2,
            0.5,
            1.5,
        )
        advice = service.post("/recommend", {"available_vram_gb": 8, "priority": "speed"})
        assert advice["recommended_model"] == program("recommend")
        assert service.post("/check_compatibility", {"model": ONE_B, "available_vram_gb": 8})["compatible"] is True
        assert program("check", ONE_B)[0] is True

        # 6. The current model is not deleted; after a switch it goes, both names.
        problem(service.ask("DELETE", "/delete", {"model": ONE_B}), "cannot_delete_current", 409)
        assert program("delete", ONE_B)[0] is False
        service.post("/switch", {"model": THREE_B})
        gone = service.ask("DELETE", "/delete", {"model": ONE_B}).json()
        assert set(gone["names"]) == {ONE_B, ONE_B_TAG}
        assert held_by(simulator) == {THREE_B, THREE_B_TAG}
        # Another process asks Ollama anew after two seconds at most.
        until(lambda: program("installed") == [THREE_B], "the other process to notice")

        # 7. After a kill everything that was acknowledged is there.
        before = service.get("/export")
        service.kill()

    with Service(simulator, document) as service:
        after = service.get("/export")
        assert after["models"] == before["models"]
        assert (after["current_model"], after["previous_model"]) == (THREE_B, ONE_B)
        assert program("record", THREE_B, 1.0, True)["usage_count"] == 1
        assert service.get(f"/statistics?model={THREE_B}")["statistics"]["usage_count"] == 1
        assert service.get("/health")["ready"] is True

"""What a managed pull costs over a bare reader of Ollama's stream, and how soon a watcher sees the first progress.

    python bench/pull_overhead.py [--runs 5]

Claims: wall time of a managed pull <= 1.02 x that of a bare reader, same simulated Ollama, same rate, alternating runs,
medians; the first progress reaches a watcher <= 50 ms after Ollama's line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripted_server import Connection, ScriptedServer

from model_manager import ModelManager
from registry_client import RegistryClient

ROOT = Path(__file__).resolve().parent.parent
MODEL, TAG = "llama3.2:1b-instruct", "llama3.2:1b-instruct-q4_K_M"  # 810 MB
RATE = 220e6


@contextmanager
def simulated_ollama(rate: float) -> Iterator[str]:
    """A simulated Ollama in a process of its own; its address."""
    command = [sys.executable, str(ROOT / "ollama_simulator.py"), "--port", "0", "--rate", str(rate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield next(word.rstrip(";") for word in process.stdout.readline().split() if word.startswith("http"))
    finally:
        process.terminate()
        process.wait(10)


def bare_s(url: str) -> float:
    began = time.perf_counter()
    with requests.post(f"{url}/api/pull", json={"model": TAG}, stream=True) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert lines[-1] == {"status": "success"}
    return time.perf_counter() - began


def managed_s(manager: ModelManager) -> float:
    began = time.perf_counter()
    manager.pull_model(MODEL)
    return time.perf_counter() - began


def overhead(runs: int) -> dict[str, object]:
    bare, managed = [], []
    with simulated_ollama(RATE) as url, tempfile.TemporaryDirectory() as folder:
        manager = ModelManager(url, Path(folder) / "document.json")
        for _ in range(runs):
            bare.append(bare_s(url))
            manager.client.delete(TAG)
            managed.append(managed_s(manager))
            manager.remove_model(MODEL)
        manager.close()
    middle = statistics.median(managed), statistics.median(bare)
    return {
        "bare_s": round(middle[1], 3),
        "managed_s": round(middle[0], 3),
        "ratio": round(middle[0] / middle[1], 4),
        "more_ms": round(1000 * (middle[0] - middle[1]), 1),
    }


class Ollama:
    """Tells when it has sent the first progress of a pull, and waits with the rest until it may go on."""

    def __init__(self) -> None:
        self.sent_s, self.goes_on, self.there = 0.0, threading.Event(), False

    def __call__(self, connection: Connection) -> None:
        while request := connection.receive():
            if request.path == "/api/pull":
                connection.begin_stream()
                connection.line({"status": "pulling manifest"})
                time.sleep(0.05)  # a registry is never faster
                self.sent_s = time.perf_counter()
                connection.line({"status": "pulling 0", "digest": f"sha256:{1:064x}", "total": 1000, "completed": 400})
                self.goes_on.wait(10)
                self.there = True
                connection.line({"status": "success"})
                connection.end_stream()
            elif request.path == "/api/version":
                connection.answer({"version": "0.33.0"})
            else:
                listed = [{"name": TAG, "model": TAG, "digest": "a" * 64, "size": 1000}]
                connection.answer({"models": listed if self.there else []})


def first_progress_ms() -> float:
    ollama = Ollama()
    nobody = RegistryClient(lambda host: "http://127.0.0.1:9")
    with ScriptedServer(ollama) as server, tempfile.TemporaryDirectory() as folder:
        manager = ModelManager(server.url, Path(folder) / "document.json", registry=nobody)
        with manager.watching_jobs() as hub:
            job, seen = manager.start_download(TAG), hub.last_id
            while True:
                events = hub.since(seen, 5.0)
                now_s = time.perf_counter()
                seen = max([seen, *(event.id for event in events)])
                if any(event.data["download"].get("downloaded_bytes") for event in events):
                    break
        ollama.goes_on.set()
        for _ in manager.follow_download(job):
            pass
        manager.close()
    return 1000 * (now_s - ollama.sent_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    figures: dict[str, object] = overhead(runs)
    delays = [first_progress_ms() for _ in range(runs * 4)]
    figures["first_progress_ms"] = {"median": round(statistics.median(delays), 1), "worst": round(max(delays), 1)}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

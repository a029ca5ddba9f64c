"""What a list of models costs: against a ready-made answer of the same bytes, and per model as their number grows.

    python bench/list_models.py [--rounds 100]

Claims: with 50 models GET /list has >= 0.9 of the rate of a Flask route on the same server that returns the same bytes
ready-made; from 100 to 10,000 models the cost per model is flat (we take within 1.5 x for that).

The server is a process of its own, with a simulated Ollama in it. The ready-made route hangs in the app of the service,
with its log line; the bare one in an app of three lines, with nothing around it. One client on one connection asks them
in turns, a hundred requests a round, and the best tenth of the rounds counts: the rest is what else went on here.
For the cost per model something changes before every request, so that the answer is put together anew.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flask import Flask, Response

from app import create_app, create_manager
from catalog import MODEL_CATALOG
from model_core.simulated_library import make_model
from model_manager import ModelManager
from model_settings import load_settings
from ollama_simulator import OllamaSimulator
from web_server import serve

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

REQUESTS_A_ROUND = 100
LIST, READY_MADE, BARE = "/api/model/list", "/ready-made", "/bare"
SIZES = (100, 1_000, 10_000)


def simulated_ollama(models: int) -> OllamaSimulator:
    """An Ollama that holds so many models that no catalogue knows."""
    ollama = OllamaSimulator()
    for number in range(models):
        name = f"someone/model-{number}:8b-instruct-q4_K_M"
        ollama.install(name, make_model(name, size_bytes=4_000_000_000 + number, parameter_size="8B"))
    return ollama


# --- against a ready-made answer -------------------------------------------------------------------------------------


def serve_both(models: int, folder: str) -> None:
    """Serve the list and a ready-made answer of the same bytes until stdin ends; print the address when ready."""
    with simulated_ollama(models - len(MODEL_CATALOG)) as ollama:
        settings = load_settings(
            None, ollama_host=ollama.url, metadata_file=Path(folder, "model_metadata.json"), port=0
        )
        logging.basicConfig(level=logging.INFO, filename=Path(folder, "log"))
        manager = create_manager(settings)
        manager.sync()
        text = create_app(settings, manager).test_client().get(LIST).data
        app, bare = create_app(settings, manager), Flask("bare")
        for ready_made, path in ((app, READY_MADE), (bare, BARE)):
            ready_made.add_url_rule(path, "ready", lambda: Response(text, content_type="application/json"))

        def both(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            return (bare if environ["PATH_INFO"] == BARE else app)(environ, start)

        serve(both, "127.0.0.1", 0, 16, on_ready=lambda url: print(url, flush=True))


def seconds_for(connection: http.client.HTTPConnection, path: str) -> float:
    began = time.perf_counter()
    for _ in range(REQUESTS_A_ROUND):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    return (time.perf_counter() - began) / REQUESTS_A_ROUND


def against_ready_made(rounds: int) -> dict[str, float]:
    """Return microseconds a request by path."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--serve", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment())
        try:
            assert server.stdout
            host = server.stdout.readline().strip().removeprefix("http://")
            connection = http.client.HTTPConnection(host, timeout=10)
            took: dict[str, list[float]] = {LIST: [], READY_MADE: [], BARE: []}
            for _ in range(rounds + 1):
                for path in took:
                    took[path].append(seconds_for(connection, path))
            connection.close()
        finally:
            server.terminate()
            server.wait(10)
    return {path: statistics.mean(sorted(times[1:])[: max(1, rounds // 10)]) * 1e6 for path, times in took.items()}


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "MODEL_MANAGER_"))}


# --- as their number grows -------------------------------------------------------------------------------------------


def microseconds_a_model(models: int) -> dict[str, float]:
    """What one model costs in an answer: the first after something has changed, and the ones after that."""
    with tempfile.TemporaryDirectory() as folder, simulated_ollama(models - len(MODEL_CATALOG)) as ollama:
        settings = load_settings(None, ollama_host=ollama.url, metadata_file=Path(folder, "model_metadata.json"))
        manager = create_manager(settings)
        manager.sync()
        client = create_app(settings, manager).test_client()
        changed, same = [], []
        for _ in range(max(5, 3_000 // models)):
            change_something(manager)
            for took in (changed, same):
                began = time.perf_counter()
                answer = client.get(LIST)
                took.append((time.perf_counter() - began) / models * 1e6)
                assert answer.json and answer.json["count"] == models
        return {"changed": min(changed), "same": min(same)}


def change_something(manager: ModelManager) -> None:
    manager.record_usage(next(iter(MODEL_CATALOG)), 1.0)
    manager.seen()  # what Ollama holds is asked for every two seconds; that is not what is measured here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_both(50, given.serve)
        return
    took = against_ready_made(given.rounds)
    print(json.dumps({path: round(microseconds, 1) for path, microseconds in took.items()}))
    ratio = took[READY_MADE] / took[LIST]
    print(f"50 models: {ratio:.2f} of a ready-made answer  claimed >= 0.9  {'ok' if ratio >= 0.9 else 'MISSED'}")
    print(f"           {took[BARE] / took[LIST]:.2f} of one that nobody logs or looks at")
    costs = {models: microseconds_a_model(models) for models in SIZES}
    for models, cost in costs.items():
        print(
            f"{models:6,} models: {cost['changed']:6.1f} us a model after a change, {cost['same']:6.2f} us after that"
        )
    spread = max(c["changed"] for c in costs.values()) / min(c["changed"] for c in costs.values())
    verdict = "ok" if spread <= 1.5 else "MISSED"
    print(f"{SIZES[0]:,} to {SIZES[-1]:,} models: within {spread:.2f} x  claimed flat (<= 1.5)  {verdict}")


if __name__ == "__main__":
    main()

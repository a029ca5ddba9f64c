"""What it costs to have us: importing the manager, the way to the first answer, and the memory of an idle service.

    python bench/import_and_start.py [--runs 15]

Claims: `import model_manager` <= 1.3 x `import requests, pydantic`; first answer <= 1 s after the start; idle <= 70 MB.
Each figure is taken in processes of its own; the imports take turns, so that a busy machine slows all of them.

`import pydantic` alone loads little of pydantic: most of it waits for the first record. So a second ratio compares
with the same two imports and one record of one field, the least that anything made of records can cost.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
TOLD = {"capture_output": True, "text": True, "check": True}
IDLE_SECONDS = 3  # the catching up after the start is over by then


def environment(folder: str, **more: str) -> dict[str, str]:
    """Ours, with compiled modules kept: where PYTHONDONTWRITEBYTECODE is set, each import would compile us anew."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": folder, **more}


IMPORTS = {
    "requests_pydantic_s": "import requests, pydantic",
    "first_record_s": "import requests, pydantic\nclass Record(pydantic.BaseModel):\n    field: int = 0",
    "model_manager_s": "import model_manager",
}


def seconds_for(code: str, folder: str) -> float:
    timed = f"import time; began = time.perf_counter()\n{code}\nprint(time.perf_counter() - began)"
    answer = subprocess.run([sys.executable, "-c", timed], cwd=ROOT, env=environment(folder), **TOLD)
    return float(answer.stdout)


def import_costs(runs: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in IMPORTS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs + 1):
            for name, code in IMPORTS.items():
                taken[name].append(seconds_for(code, folder))
    # The first of each only fills the caches. The least is what the import costs; the rest is what else went on here.
    cost = {name: min(seconds[1:]) for name, seconds in taken.items()}
    ours = cost["model_manager_s"]
    return {**cost, "ratio": ours / cost["requests_pydantic_s"], "ratio_to_first_record": ours / cost["first_record_s"]}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    # Answering is the only condition to wait for; 2 ms is what this adds to the figure at most.
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.002)
    raise SystemExit(f"the service ended with exit code {process.returncode}")


def start_and_idle(compiled: str) -> dict[str, float]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        settings = environment(
            compiled,
            MODEL_MANAGER_METADATA_FILE=str(Path(folder, "model_metadata.json")),
            OLLAMA_HOST=f"127.0.0.1:{free_port()}",  # nobody answers there
        )
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(port)]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_answer(f"http://127.0.0.1:{port}/api/model/list", process)
            first_answer_s = time.perf_counter() - began
            time.sleep(IDLE_SECONDS)
            idle_mb = psutil.Process(process.pid).memory_info().rss / 1e6
        finally:
            process.terminate()
            process.wait(10)
    return {"first_answer_s": first_answer_s, "idle_mb": idle_mb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    imported = import_costs(runs)
    with tempfile.TemporaryDirectory() as folder:
        started = [start_and_idle(folder) for _ in range(1 + max(3, runs // 5))][1:]
    figures = {
        **imported,
        "first_answer_s": statistics.median(run["first_answer_s"] for run in started),
        "idle_mb": max(run["idle_mb"] for run in started),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    for name, limit in (("ratio", 1.3), ("ratio_to_first_record", 1.3), ("first_answer_s", 1.0), ("idle_mb", 70.0)):
        print(f"{name:21} {figures[name]:8.2f}  claimed <= {limit:g}  {'ok' if figures[name] <= limit else 'MISSED'}")


if __name__ == "__main__":
    main()

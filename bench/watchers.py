"""What watchers cost: hundreds of SSE streams on one fast download, while others ask for /health.

    python bench/watchers.py [--seconds 12]

Claims: with 200 watchers /health keeps p99 < 50 ms, with 500 (520 threads) p99 < 150 ms; the service grows by at most
50 KB a watcher; once all have left, its threads and its memory are as before (5 KB a watcher are taken as none), and
after several waves one more takes nothing (1 KB); a watcher gets at most 1 % of the bytes of a fast pull. That is told
of the model's bytes, and of what Ollama sends to us: lines of progress, which are few.

Service, simulated Ollama, watchers and the one who asks are processes of their own. They share the processors, so on
two cores the figures say as much about the machine as about the service.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
MODEL, RATE_BYTES_PER_S = "llama3.1:70b-instruct", 0.4e9  # 43 GB: longer than any run here
ASK_EVERY_S = 0.02
PATIENCE_S = 30.0
SETTLE_S = 3.0  # who has gone is noticed at the next thing that is written, five times a second here
WAVES, WAVE_S = 6, 1.5
WATCH = b"GET /api/model/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def watch(port: int, count: int) -> None:
    """Hold `count` streams until stdin says otherwise; tell when all have begun, and then what each has got."""
    selector, got = selectors.DefaultSelector(), dict.fromkeys(range(count), 0)
    for number in range(count):
        line = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        line.sendall(WATCH)
        selector.register(line, selectors.EVENT_READ, number)
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    told = False
    while True:
        for key, _ in selector.select():
            if key.data is None:
                print(json.dumps(list(got.values())), flush=True)
                return
            got[key.data] += len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]
        if not told and all(got.values()):
            told = True
            print("all watch", flush=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Running:
    """A simulated Ollama, and the service on it."""

    def __init__(self, folder: str, threads: int) -> None:
        ollama_port, self.port = free_port(), free_port()
        settings = {
            **os.environ,
            "OLLAMA_HOST": f"127.0.0.1:{ollama_port}",
            "MODEL_MANAGER_METADATA_FILE": str(Path(folder, "model_metadata.json")),
            "MODEL_MANAGER_THREADS": str(threads),
            "MODEL_MANAGER_LOG": "warning",
        }
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": settings}
        simulator = [ROOT / "ollama_simulator.py", "--port", str(ollama_port), "--rate", str(RATE_BYTES_PER_S)]
        self._processes = [
            subprocess.Popen([sys.executable, *map(str, command)], **quiet)  # type: ignore[call-overload]
            for command in (simulator, [ROOT / "app.py", "--port", str(self.port)])
        ]
        self.service = psutil.Process(self._processes[1].pid)
        until(lambda: answers(ollama_port, "/api/version") and answers(self.port, "/api/model/health"))
        self.ollama_port = ollama_port

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait(10)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            line.request(method, f"/api/model{path}", json.dumps(body or {}), {"Content-Type": "application/json"})
            answer = json.loads(line.getresponse().read())
        finally:
            line.close()
        assert answer["success"], answer
        return answer

    def size(self) -> tuple[int, int]:
        """Memory in bytes, and threads."""
        return self.service.memory_info().rss, self.service.num_threads()


def answers(port: int, path: str) -> bool:
    try:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        line.request("GET", path)
        return line.getresponse().status == 200
    except OSError:
        return False


def until(condition) -> None:  # noqa: ANN001
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit("what was waited for did not happen")
        time.sleep(0.02)


def health_times_ms(port: int, seconds: float) -> list[float]:
    line, taken = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S), []
    until_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < until_s:
        line.request("GET", "/api/model/health")
        line.getresponse().read()
        taken.append((time.perf_counter() - began_s) * 1000)
        time.sleep(max(0.0, ASK_EVERY_S - (time.perf_counter() - began_s)))
    line.close()
    return taken


def quantile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def watched(running: Running, count: int, seconds: float) -> tuple[list[float], list[int], int]:
    """Have `count` watchers for a while; return /health's times, the bytes of each, and the memory with them."""
    command = [sys.executable, __file__, "--watch", str(running.port), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watchers:
        assert watchers.stdin and watchers.stdout
        assert watchers.stdout.readline() == "all watch\n"
        times = health_times_ms(running.port, seconds)
        memory = running.size()[0]
        watchers.stdin.write("enough\n")
        watchers.stdin.flush()
        return times, json.loads(watchers.stdout.readline()), memory


def bytes_from_ollama(port: int, seconds: float) -> int:
    """Read the stream of a pull as Ollama sends it, for as long as the watchers read theirs."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    line.request("POST", "/api/pull", json.dumps({"model": f"{MODEL}-q4_K_M"}))
    answer, got, until_s = line.getresponse(), 0, time.monotonic() + seconds
    while time.monotonic() < until_s:
        got += len(answer.readline())
    line.close()
    return got


def measure(count: int, threads: int, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, Running(folder, threads) as running:
        lines = bytes_from_ollama(running.ollama_port, seconds)
        before = health_times_ms(running.port, seconds / 2)
        download = running.ask("POST", "/download", {"model": MODEL})["download"]["id"]  # type: ignore[index]
        # A few first, so that what is loaded with the first watcher does not count as that of all.
        watched(running, 4, 1)
        memory_before, threads_before = running.size()
        times, got, memory = watched(running, count, seconds)
        state = running.ask("GET", f"/downloads/{download}")["download"]["state"]  # type: ignore[index]
        assert state == "downloading", f"the download was {state} before the end"
        time.sleep(SETTLE_S)
        memory_after, threads_after = running.size()
        # What stays lies with the allocators and in the stacks of the threads; further waves use it again.
        waves = [watched(running, count, WAVE_S)[2] for _ in range(WAVES)]
        running.ask("POST", f"/downloads/{download}/cancel")
    return {
        "watchers": count,
        "health_p99_alone_ms": quantile(before, 0.99),
        "health_p50_ms": quantile(times, 0.5),
        "health_p99_ms": quantile(times, 0.99),
        "kb_per_watcher": (memory - memory_before) / count / 1000,
        "kb_per_watcher_afterwards": (memory_after - memory_before) / count / 1000,
        "kb_per_watcher_last_wave": (waves[-1] - waves[-2]) / count / 1000,
        "threads_left": threads_after - threads_before,
        "kb_per_second_and_watcher": statistics.mean(got) / seconds / 1000,
        "part_of_model_percent": 100 * statistics.mean(got) / (RATE_BYTES_PER_S * seconds),
        "part_of_ollamas_lines_percent": 100 * statistics.mean(got) / lines,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--watch", nargs=2, type=int, metavar=("PORT", "COUNT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.watch:
        return watch(*given.watch)
    for count, threads, p99_ms in ((200, 256, 50), (500, 520, 150)):
        figures = measure(count, threads, given.seconds)
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        for name, limit in (
            ("health_p99_ms", p99_ms), ("kb_per_watcher", 50), ("kb_per_watcher_afterwards", 5),
            ("kb_per_watcher_last_wave", 1), ("threads_left", 0), ("part_of_model_percent", 1),
            ("part_of_ollamas_lines_percent", 1),
        ):  # fmt: skip
            verdict = "ok" if figures[name] <= limit else "MISSED"
            print(f"{count} watchers  {name:29} {figures[name]:9.4f}  claimed <= {limit:g}  {verdict}", flush=True)
    return None


if __name__ == "__main__":
    main()

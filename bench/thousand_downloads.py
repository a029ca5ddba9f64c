"""Whether a thousand downloads one after another leave anything behind: memory, threads, open files.

    python bench/thousand_downloads.py [--downloads 1000]

Claim: all three are flat. The simulated Ollama runs in a process of its own; what is measured is ours alone (Linux).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pull_overhead import MODEL, simulated_ollama

from model_manager import ModelManager

WARM_UP = 100


def measured() -> dict[str, float]:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "memory_mb": round(kilobytes / 1024, 2),
        "threads": threading.active_count(),
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--downloads", type=int, default=1000)
    count = parser.parse_args().downloads
    rows: dict[int, dict[str, float]] = {}
    with simulated_ollama(1e15) as url, tempfile.TemporaryDirectory() as folder:
        manager = ModelManager(url, Path(folder) / "document.json")
        began = time.perf_counter()
        for number in range(1, count + 1):
            assert manager.pull_model(MODEL).state == "completed"
            manager.remove_model(MODEL)
            if number in (WARM_UP, count) or number % 300 == 0:
                rows[number] = measured()
        taken_s = time.perf_counter() - began
        left = sorted(path.name for path in Path(folder).rglob("*") if path.is_file())
        size = (Path(folder) / "document.json").stat().st_size
        manager.close()
    print(
        json.dumps(
            {"after": rows, "ms_each": round(1000 * taken_s / count, 1), "files": left, "document_bytes": size},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

"""Durable writes: record_usage on a document of 15 models, against what the disk itself can do.

    python bench/store_writes.py [--seconds 3] [--folder FOLDER]

F2 is the rate of the least that a durable write can be on this disk: write the same bytes to a new file, sync it, put
it in the document's place, sync the folder. Naive is what one writes first: under a lock, read with json, change, write
with json.dump, sync.
Claims: >= 0.6 F2 with 1 thread, >= 2 F2 with 8, >= 4 F2 with 64; >= 5 x naive with 8 threads; with 8 processes of 8
threads nothing is lost, and the least-served process gets >= 0.75 of the most-served.

F2 is taken before and after each figure, since a shared disk changes its mind; the figure stands against the mean.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catalog import MODEL_CATALOG
from json_store import JsonStore
from model_core import usage
from model_core.document import DocumentCodec, new_model
from model_core.records import Document

MODELS = 15
INSTALLATIONS = 5  # makes some 40 KB
NAME = "llama3.1:8b-instruct"
AT = "2026-01-01T00:00:00+00:00"
THREADS = (1, 8, 64)
LEAST = {1: 0.6, 8: 2.0, 64: 4.0}


# --- what is written -------------------------------------------------------------------------------------------------


def codec() -> DocumentCodec:
    return DocumentCodec(MODEL_CATALOG, "bench")


def a_document() -> Document:
    """A document as it is after some use: 15 models, each used on several installations."""
    document = codec().empty()
    models = dict(document.models)
    for number in range(MODELS - len(models)):
        models[f"own/model-{number}:latest"] = new_model(f"own/model-{number}:latest")
    event = usage.check_event(1.5, True, AT)
    for installation in range(INSTALLATIONS):
        for name, model in models.items():
            models[name] = usage.record(model, f"installation-{installation}", f"{installation:064x}", event)
    return document.model_copy(update={"models": models})


def record_usage(store: JsonStore[Document]) -> Document:
    """What ModelManager.record_usage does."""
    event = usage.check_event(1.5, True, AT)

    def recorded(document: Document) -> Document:
        model = usage.record(document.models[NAME], document.installation_id, None, event)
        return document.model_copy(
            update={"models": {**document.models, NAME: model}, "revision": document.revision + 1, "last_updated": AT}
        )

    return store.change(recorded)


def counted(document: Document) -> int:
    return document.models[NAME].usage_count


# --- how it is written -----------------------------------------------------------------------------------------------


def bare_writes_per_s(folder: Path, seconds: float) -> float:
    """F2, with one thread."""
    raw, count, target = codec().encode(a_document()), 0, folder / "bare.json"
    started_s = time.perf_counter()
    while time.perf_counter() - started_s < seconds:
        descriptor = os.open(folder / "bare.new", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.write(descriptor, raw)
        os.fsync(descriptor)
        os.close(descriptor)
        (folder / "bare.new").replace(target)
        if os.name != "nt":
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        count += 1
    return count / (time.perf_counter() - started_s)


def per_s(threads: int, seconds: float, act: Callable[[], Any]) -> float:
    counts, started_s = [0] * threads, time.perf_counter()

    def work(index: int) -> None:
        while time.perf_counter() - started_s < seconds:
            act()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - started_s)


def naive_writes(path: Path) -> Callable[[], None]:
    path.write_bytes(codec().encode(a_document()))
    lock = FileLock(path.with_suffix(".lock"), thread_local=False)
    mutex = threading.Lock()

    def write() -> None:
        with mutex, lock:
            document = json.loads(path.read_text())
            document["models"][NAME]["usage_count"] += 1
            with path.open("w") as file:
                json.dump(document, file, indent=2)
                file.flush()
                os.fsync(file.fileno())

    return write


@contextmanager
def a_store(folder: Path) -> Iterator[JsonStore[Document]]:
    store = JsonStore(folder / "document.json", codec())
    store.change(lambda _: a_document())
    yield store
    store.close()


# --- the figures -----------------------------------------------------------------------------------------------------


def threads_against_bare(folder: Path, seconds: float) -> None:
    for threads in THREADS:
        with a_store(folder) as store:
            before, count = bare_writes_per_s(folder, seconds / 2), counted(store.read())
            rate = per_s(threads, seconds, lambda: record_usage(store))
            bare = (before + bare_writes_per_s(folder, seconds / 2)) / 2
            made = counted(store.read()) - count
        print(
            f"{threads:2d} threads: {rate:7.0f} a second, F2 {bare:5.0f}: {rate / bare:5.2f} F2"
            f"   (claimed {LEAST[threads]}; {made} records)"
        )


def threads_against_naive(folder: Path, seconds: float) -> None:
    naive = per_s(8, seconds, naive_writes(folder / "naive.json"))
    with a_store(folder) as store:
        rate = per_s(8, seconds, lambda: record_usage(store))
    print(f" 8 threads: {rate:7.0f} a second, naive {naive:5.0f}: {rate / naive:5.2f} x naive   (claimed 5)")


def serve(folder: Path, threads: int, seconds: float, start: Any, served: Any) -> None:
    store = JsonStore(folder / "document.json", codec())
    store.read()
    start.wait()
    served.put(round(per_s(threads, seconds, lambda: record_usage(store)) * seconds))


def write_so_many(folder: Path, threads: int, times: int) -> None:
    store = JsonStore(folder / "document.json", codec())

    def work() -> None:
        for _ in range(times):
            record_usage(store)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def fairness(folder: Path, processes: int, threads: int, seconds: float) -> None:
    with a_store(folder):
        start, served = multiprocessing.Event(), multiprocessing.Queue()
        workers = [
            multiprocessing.Process(target=serve, args=(folder, threads, seconds, start, served))
            for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        time.sleep(1)
        start.set()
        counts = sorted(served.get() for _ in workers)
        for worker in workers:
            worker.join()
    print(
        f"{processes} processes x {threads} threads, {seconds:g} s: least {counts[0]}, most {counts[-1]}:"
        f" {counts[0] / counts[-1]:.2f}   (claimed 0.75; {sum(counts) / seconds:.0f} a second)"
    )


def nothing_lost(folder: Path, processes: int, threads: int, times: int) -> None:
    with a_store(folder) as store:
        before, started_s = counted(store.read()), time.perf_counter()
        workers = [
            multiprocessing.Process(target=write_so_many, args=(folder, threads, times)) for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        lost = processes * threads * times - (counted(store.read()) - before)
    print(
        f"{processes} processes x {threads} threads x {times}: {lost} lost   (claimed 0;"
        f" {time.perf_counter() - started_s:.0f} s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each figure is taken")
    parser.add_argument("--times", type=int, default=1000, help="changes of each thread where nothing may be lost")
    parser.add_argument("--folder", help="on the disk that is meant; a temporary one where none is named")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    document = a_document()
    print(f"{len(document.models)} models, {len(codec().encode(document))} bytes, in {folder}")
    try:
        threads_against_bare(folder, arguments.seconds)
        threads_against_naive(folder, arguments.seconds)
        fairness(folder, 8, 8, arguments.seconds * 3)
        nothing_lost(folder, 8, 8, arguments.times)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

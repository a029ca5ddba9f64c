"""A stand-in for an Ollama server on a real socket, for the tests and the demonstration. /api/version says what it is.

It answers as Ollama 0.33 does (same status, headers, keys, words, order of lines) and keeps state as Ollama does
(models are manifests of shared layers, runners are keyed by the weights). It downloads nothing: sizes are said only.

    with OllamaSimulator(installed=["llama3.2:1b-instruct-q4_K_M"]) as ollama:
        ollama.set_fault("stall", at_bytes=500_000_000, times=1)
        ...  # talk to ollama.url

Only it has ``set_fault``, and the same over HTTP: POST and DELETE /_simulator/fault, GET /_simulator/state. It is also
the registry that it pulls from: GET /v2/<namespace>/<model>/manifests/<tag>.
Alone: ``python ollama_simulator.py --port 11434 --rate 50e6``.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from model_core import names
from model_core.records import GIB
from model_core.simulated_library import LibraryModel, library_from_catalog
from model_core.simulated_replies import Json
from ollama_simulator_faults import FAULTS, Faults
from ollama_simulator_http import VERSION, Endpoints, LoggedRequest
from ollama_simulator_models import Models
from ollama_simulator_runners import Runners
from ollama_simulator_steps import Pace
from ollama_simulator_wire import Server

__all__ = ["FAULTS", "VERSION", "LibraryModel", "LoggedRequest", "OllamaSimulator", "library_from_catalog", "main"]


class OllamaSimulator:
    """One simulated Ollama: start it, talk to its ``url``, stop it. What is installed survives a stop and a new start.

    library            what the registry offers: full name to model; None: what the catalogue knows
    rate_bytes_per_s   of a download, all pulls of one layer together
    tick_s             between two progress lines; Ollama's is 0.06
    load_seconds       from the request to a loaded model
    unload_seconds     from the answer to an unload until the memory is free
    vram_bytes         of the card; 0: there is none
    tokens_per_second  of a generation
    installed          names of library models that are there from the beginning

    ``pace`` holds the speeds, which may be changed while it runs. ``requests`` are those received, oldest first.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        library: Mapping[str, LibraryModel] | None = None,
        rate_bytes_per_s: float = 100e6,
        tick_s: float = 0.06,
        load_seconds: float = 0.2,
        unload_seconds: float = 0.05,
        vram_bytes: int = 8 * GIB,
        tokens_per_second: float = 40.0,
        installed: Iterable[str] = (),
    ) -> None:
        if library is None:
            from catalog import MODEL_CATALOG  # only who does not bring a library needs the catalogue

            library = library_from_catalog(MODEL_CATALOG)
        self.host, self.port = host, port
        self.pace = Pace(rate_bytes_per_s, tick_s, load_seconds, unload_seconds, tokens_per_second, vram_bytes)
        self.requests: list[LoggedRequest] = []
        self._lock = threading.RLock()
        self.faults = Faults(self._lock)
        self.models = Models(library, self.pace, self.faults, self._lock)
        self.runners = Runners(self.pace, self.faults, self._lock)
        self._server: Server | None = None
        for name in installed:
            self.install(name)

    # --- life ---

    @property
    def url(self) -> str:
        """Where it listens; complete once it has started."""
        host = "127.0.0.1" if self.host in ("", "0.0.0.0") else self.host  # noqa: S104  compared, not bound
        return f"http://{host}:{self.port}"

    def start(self) -> OllamaSimulator:
        """Listen; a second start after a stop takes the same port. Raises OSError if the port is taken."""
        if self._server is None:
            self.pace.stopping.clear()
            connection = type("Connection", (Endpoints,), {"simulator": self})
            self._server = Server((self.host, self.port), connection)
            self.port = self._server.server_port
        return self

    def stop(self) -> None:
        """Close every connection, end every thread. A running download keeps its bytes; what was loaded is gone."""
        server, self._server = self._server, None
        if server is not None:
            self.pace.stopping.set()
            server.stop()
            self.runners.clear()

    def __enter__(self) -> OllamaSimulator:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # --- what tests and the demonstration arrange ---

    def install(self, name: str, model: LibraryModel | None = None) -> None:
        """Put a model there at once: the library's of that name, or the one given. Raises KeyError if there is none."""
        self.models.install(names.parse(name), model)

    def publish(self, name: str, model: LibraryModel) -> None:
        """Put a model into the library, or move its tag to another one."""
        self.models.publish(names.parse(name), model)

    def unpublish(self, name: str) -> None:
        """Take a model out of the library."""
        self.models.publish(names.parse(name), None)

    def set_fault(
        self,
        kind: str,
        *,
        times: int | None = None,
        model: str | None = None,
        endpoint: str | None = None,
        **details: Any,
    ) -> None:
        """Arm a fault of FAULTS, for one model or one path where these are said. It heals after ``times`` hits.

        Raises ValueError for a kind that does not exist.
        """
        self.faults.arm(kind, times, model, endpoint, details)

    def clear_faults(self) -> None:
        """End all faults, also for the pulls and the loads that hang in one."""
        self.faults.clear()

    # --- what happened ---

    @property
    def bytes_sent_total(self) -> int:
        """All bytes that downloads have fetched: it shows that nothing was fetched twice."""
        return self.models.bytes_sent_total

    @property
    def concurrent_pulls_peak(self) -> Counter[str]:
        """The most pulls of one model that ever ran at once, by name: two of one model can kill a real Ollama."""
        return self.models.concurrent_pulls_peak

    def state(self) -> Json:
        """Return what is going on inside, as JSON values."""
        return {
            "version": VERSION,
            "library": self.models.published(),
            "installed": self.models.installed_names(),
            "partial": self.models.partial_bytes(),
            "running": self.runners.names(),
            "vram_bytes": self.pace.vram_bytes,
            "vram_used_bytes": self.runners.card_bytes(),
            "pulling": self.models.pulling(),
            "bytes_sent_total": self.bytes_sent_total,
            "faults": [{"kind": fault.kind, "times": fault.times, **fault.details} for fault in self.faults.armed()],
        }


def main(arguments: list[str] | None = None) -> int:
    """Run one simulated Ollama until it is interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for an Ollama server that downloads nothing and says so.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11434, help="0 takes any free one (default: 11434, Ollama's own)")
    parser.add_argument("--rate", type=float, default=100e6, help="of downloads, in bytes per second (default: 100e6)")
    parser.add_argument("--vram-gb", type=float, default=8.0, help="of the simulated card (default: 8)")
    parser.add_argument("--installed", action="append", default=[], metavar="NAME", help="there from the beginning")
    given = parser.parse_args(arguments)
    simulator = OllamaSimulator(
        host=given.host,
        port=given.port,
        rate_bytes_per_s=given.rate,
        vram_bytes=int(given.vram_gb * GIB),
        installed=given.installed,
    )
    with simulator, suppress(KeyboardInterrupt):
        print(f"A simulated Ollama ({VERSION}) listens at {simulator.url}; Ctrl-C ends it.", flush=True)  # noqa: T201
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The service as a process of its own, as a person starts it: `python app.py …` with settings in the environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import requests

from ollama_simulator import OllamaSimulator

ROOT = Path(__file__).resolve().parent.parent
# A busy machine takes long to import; nothing else takes so long.
START_S = 30.0


def environment_of(ollama: OllamaSimulator | str, document: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a process of ours on this Ollama and document."""
    return {
        **os.environ,
        "OLLAMA_HOST": ollama if isinstance(ollama, str) else ollama.url,
        "MODEL_MANAGER_METADATA_FILE": str(document),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        **{f"MODEL_MANAGER_{name.upper()}": value for name, value in settings.items()},
    }


class Service:
    """A running service. ``said`` is what it told the person who started it, ``log`` what it logged."""

    def __init__(self, ollama: OllamaSimulator | str, document: Path, *options: str, **settings: str) -> None:
        self.said: list[str] = []
        self._log = document.with_name(f"log-{time.monotonic_ns()}")
        self._ready = threading.Event()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py"), "--port", "0", *options],
                env=environment_of(ollama, document, **settings),
                cwd=document.parent,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.session = requests.Session()
        self.session.trust_env = False
        if not self._ready.wait(START_S) or self.process.poll() is not None:
            self.process.kill()
            raise AssertionError(f"the service did not start: {self.said} {self.log}")

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if "Ctrl-C ends it" in line:
                self._ready.set()
        self._ready.set()

    @property
    def url(self) -> str:
        """Where it answers, without a path."""
        line = next(line for line in self.said if "answers at" in line)
        return line.split("answers at ")[1].removesuffix("/api/model")

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        """Send a request to the face; a body is sent as JSON."""
        return self.session.request(method, f"{self.url}/api/model{path}", json=body, timeout=30, **more)

    def get(self, path: str) -> Any:
        """Return the body of an answer that went well."""
        return self._well(self.ask("GET", path))

    def post(self, path: str, body: Any = None) -> Any:
        """Return the body of an answer that went well."""
        return self._well(self.ask("POST", path, body))

    def _well(self, answer: requests.Response) -> Any:
        assert answer.ok, answer.text
        return answer.json()

    def send_raw(self, data: bytes) -> bytes:
        """Send bytes over a connection of their own; return all that comes until it closes."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(data)
            return b"".join(iter(lambda: line.recv(65536), b""))

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Ask it to end; return its exit code and how many seconds it took."""
        began_s = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(20)
        took_s = time.monotonic() - began_s
        self._listener.join(5)
        return code, took_s

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        if self.process.poll() is None:
            self.kill()
        self._listener.join(5)
        if self.process.stdout:
            self.process.stdout.close()


def raw_request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a request as it goes over the line; it asks that the connection be closed after it."""
    head = "\r\n".join([line, *headers, "Connection: close"])
    return head.encode("latin-1") + b"\r\n\r\n" + body


def parsed(answer: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of an answer as it came over the line."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, json.loads(body) if body else None

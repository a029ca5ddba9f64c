"""One Ollama to test against, simulated or real, and the ways to bring it into a known state."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from ollama_simulator import OllamaSimulator

DEADLINE_S = 60.0


class Ollama:
    """A server under test. What can be arranged over its own API is; the rest skips the test, and says why."""

    def __init__(self, url: str, simulator: OllamaSimulator | None) -> None:
        self.url, self._simulator = url.rstrip("/"), simulator
        self.session = requests.Session()
        self.session.trust_env = False

    @property
    def is_real(self) -> bool:
        return self._simulator is None

    def simulator(self, needed_for: str) -> OllamaSimulator:
        """Return the simulator, or skip the test: a real server cannot be told to do this."""
        if self._simulator is None:
            pytest.skip(f"a real Ollama cannot be arranged for it: {needed_for}")
        return self._simulator

    def get(self, path: str) -> Any:
        return self._checked(self.session.get(self.url + path, timeout=DEADLINE_S))

    def post(self, path: str, **body: Any) -> requests.Response:
        return self.session.post(self.url + path, json=body, timeout=DEADLINE_S)

    def delete(self, name: str) -> requests.Response:
        return self.session.delete(self.url + "/api/delete", json={"model": name}, timeout=DEADLINE_S)

    def pull(self, name: str, **more: Any) -> list[dict[str, Any]]:
        """Pull to the end and return the lines."""
        answer = self.post("/api/pull", model=name, **more)
        return [json.loads(line) for line in answer.text.splitlines()]

    @contextmanager
    def pulling(self, name: str) -> Iterator[Iterator[dict[str, Any]]]:
        """Begin a pull and lend its lines; leaving closes the connection, wherever the pull is."""
        answer = self.session.post(self.url + "/api/pull", json={"model": name}, stream=True, timeout=DEADLINE_S)
        try:
            yield (json.loads(line) for line in answer.iter_lines(chunk_size=1))
        finally:
            answer.close()

    def tags(self) -> dict[str, dict[str, Any]]:
        return {model["name"]: model for model in self.get("/api/tags")["models"]}

    def running(self) -> dict[str, dict[str, Any]]:
        return {model["name"]: model for model in self.get("/api/ps")["models"]}

    def weights_of(self, name: str) -> str:
        """Return the digest of a model's weights, out of the file that show prints."""
        modelfile = self._checked(self.post("/api/show", model=name))["modelfile"]
        found = re.search(r"^FROM .*(sha256-[0-9a-f]{64})$", modelfile, re.MULTILINE)
        assert found, modelfile
        return found[1].replace("-", ":")

    # --- arranging ---

    def install(self, *wanted: str) -> None:
        for name in wanted:
            if name not in self.tags():
                assert self.pull(name)[-1] == {"status": "success"}

    def alias(self, source: str, destination: str) -> None:
        self._checked(self.post("/api/copy", source=source, destination=destination))

    def make(self, name: str, base: str, **changes: Any) -> None:
        assert '"success"' in self.post("/api/create", **{"model": name, "from": base, **changes}).text

    def load(self, name: str, **more: Any) -> None:
        self._checked(self.post("/api/generate", model=name, **{"options": {"num_gpu": 0}, **more}))

    def unload_all(self) -> None:
        for name in self.running():
            if name not in self.tags():
                self.pull(name)
            self.post("/api/generate", model=name, keep_alive=0)
        wait_until(lambda: not self.running(), "the models are unloaded")

    def close(self) -> None:
        self.session.close()

    def reset(self) -> None:
        """Nothing loaded, nothing installed."""
        self.unload_all()
        for name in self.tags():
            self._checked(self.delete(name))

    @staticmethod
    def _checked(answer: requests.Response) -> Any:
        answer.raise_for_status()
        return answer.json() if answer.content else None


def wait_until(true: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return when the condition holds; fail after the deadline."""
    until = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < until, f"waited {deadline_s} s in vain until {what}"
        time.sleep(0.005)

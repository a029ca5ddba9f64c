"""Other processes that download: they begin on a word, and can be killed as kill -9 does."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

from model_core.patience import Patience
from model_manager import ModelManager
from registry_client import RegistryClient

# Never plain fork: pytest's own process has threads. The fork server starts a process in a few milliseconds.
_METHODS = multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
if "forkserver" in _METHODS:
    PROCESSES.set_forkserver_preload([__name__])


def serve(url: str, path: Path, patience: Patience, told: Any) -> None:
    """Do what is told: the name of a method and its arguments in, what it returned or raised out."""
    # A registry that hangs up, or an Ollama that does, is asked again soon.
    manager = ModelManager(url, path, patience=patience, registry=RegistryClient(lambda host: url))
    told.send("ready")
    while (word := told.recv()) is not None:
        name, arguments = word
        try:
            told.send((True, getattr(manager, name)(*arguments)))
        except Exception as error:
            told.send((False, repr(error)))
    manager.close()


class Owner:
    """One such process."""

    def __init__(self, url: str, path: Path, patience: Patience) -> None:
        self._told, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=serve, args=(url, path, patience, theirs), daemon=True)
        self.process.start()
        theirs.close()
        assert self._hear() == "ready"

    def say(self, name: str, *arguments: Any) -> None:
        """Have it call a method; it begins at once."""
        self._told.send((name, arguments))

    def answer(self) -> Any:
        """What the method returned. AssertionError where it raised, or does not come back."""
        returned, value = self._hear()
        assert returned, value
        return value

    def ask(self, name: str, *arguments: Any) -> Any:
        self.say(name, *arguments)
        return self.answer()

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.kill()
        self.process.join(30)
        self._told.close()

    def leave(self) -> None:
        """Let it end as a program should."""
        if self.process.is_alive():
            self._told.send(None)
        self.process.join(30)
        self._told.close()

    def _hear(self) -> Any:
        assert self._told.poll(30), "another process does not answer"
        return self._told.recv()

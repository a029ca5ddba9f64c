"""How the simulated Ollama takes its time: work in steps, between which it looks whether anyone still waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from model_core.records import GIB
from model_core.simulated_replies import Json

T = TypeVar("T")

# What takes time is a generator: it yields what is to be sent, and None wherever the client may have gone meanwhile.
Steps = Generator[Json | None, None, T]


class Gone(Exception):
    """The client has closed the connection, or the simulator stops."""


class Ended(Exception):
    """The stream ends here, as if the server had gone; ``abrupt``: in the middle of the encoding, too."""

    def __init__(self, abrupt: bool = False) -> None:
        super().__init__()
        self.abrupt = abrupt


@dataclass
class Pace:
    """How fast everything goes; may be changed while it runs. The meaning of each: see OllamaSimulator."""

    rate_bytes_per_s: float
    tick_s: float
    load_seconds: float
    unload_seconds: float
    tokens_per_second: float
    vram_bytes: int = 8 * GIB

    def __post_init__(self) -> None:
        self.stopping = threading.Event()

    def pause(self, seconds: float) -> Steps[None]:
        """Wait, with a look around at every tick. Raises Gone when the simulator stops."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            # A tick of microseconds, as a test may set it, is no reason to look around that often.
            if self.stopping.wait(min(left, max(self.tick_s, 0.01))):
                raise Gone
            yield None

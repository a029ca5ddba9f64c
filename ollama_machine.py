"""The machine that Ollama runs on: what it has, what is loaded there, and how much memory advice may count on."""

from __future__ import annotations

from collections.abc import Callable

from hardware_probe import HardwareProbe
from model_core import budget, hardware
from model_core.budget import Budget
from model_core.errors import OllamaError
from model_core.hardware import Hardware
from model_core.records import RunningModel
from ollama_client import OllamaClient
from ollama_inventory import OllamaInventory
from ollama_runners import OllamaRunners


class OllamaMachine:
    """One machine. May be used from many threads, and on both sides of a fork.

    runners   what is in memory, and the way in and out
    cap_bytes what may be used of the card; None: not set
    look      says what the machine has; None: the probe of this one, where Ollama runs here
    """

    def __init__(
        self,
        client: OllamaClient,
        inventory: OllamaInventory,
        now_text: Callable[[], str],
        *,
        cap_bytes: int | None = None,
        look: Callable[[], Hardware] | None = None,
    ) -> None:
        self.runners = OllamaRunners(client)
        self._inventory, self._cap_bytes, self._own_look = inventory, cap_bytes, look
        self._probe = HardwareProbe(client.is_local, now_text)

    def hardware(self) -> Hardware:
        """Return what the machine has, as far as it can be known; it never waits for long."""
        if self._own_look is not None:
            return self._own_look()
        if not self._inventory.is_simulated():
            return self._probe.look()
        try:
            return hardware.simulated(*self.runners.simulated_card())
        except OllamaError as error:
            return hardware.unknown(error.happened.rstrip("."))

    def has_card(self) -> bool | None:
        """Say whether there is a graphics card; None where that is not known."""
        gpus = self.hardware().gpus
        return None if gpus is None else bool(gpus)

    def loaded(self) -> tuple[RunningModel, ...]:
        """Return what is in memory, as last seen; nothing where Ollama is away."""
        return self.runners.look() if self._inventory.look().reachable else ()

    def budget(self, asked_bytes: int | None = None, *, on_processor: bool = False) -> Budget:
        """Return how much memory advice counts on now.

        asked_bytes   what the caller says is there
        on_processor  and that it is RAM, on a machine without a card
        """
        return budget.budget(
            self.hardware(),
            self.loaded(),
            asked_bytes=asked_bytes,
            asked_on_processor=on_processor,
            cap_bytes=self._cap_bytes,
        )

    def has_changed(self) -> None:
        """Look anew when asked next: something was loaded, or went out of memory."""
        self._probe.forget()

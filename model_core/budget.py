"""How much memory advice may count on, and who says so: the caller, the setting, the card as it is now, or a guess.

caller     a figure came with the question
probe      what is free on the card now, and what loaded models would make free
setting    no more than MODEL_MANAGER_VRAM_GB; where the card is not known, that much
processor  there is no card: half of the RAM that is free, and no more than the setting says
assumed    nothing is known: 8 GiB, the card that AutoDev is made for
"""

from __future__ import annotations

from collections.abc import Sequence

from model_core.candidates import Machine, Source, smallest_known
from model_core.hardware import Gpu, Hardware
from model_core.loading import held_on_card_bytes
from model_core.records import GIB, Record, RunningModel
from model_core.speed import Card

ASSUMED_BYTES = 8 * GIB
NO_CARD = Card(source="there is no graphics card")


class Budget(Record):
    """What may be counted on, in bytes, and what it was made of."""

    available_bytes: int
    source: Source
    machine: Machine = Machine()


def budget(
    hardware: Hardware,
    running: Sequence[RunningModel] = (),
    *,
    asked_bytes: int | None = None,
    asked_on_processor: bool = False,
    cap_bytes: int | None = None,
) -> Budget:
    """Return what advice may count on.

    running             what Ollama has loaded now
    asked_bytes         what the caller says is there; 0 means none
    asked_on_processor  it is about a machine without a card, and that figure is of RAM
    cap_bytes           what the setting allows
    """
    gpus, held = hardware.gpus or (), held_on_card_bytes(running)
    cards = [(gpu, _held(gpu, gpus, held)) for gpu in gpus]
    gpu, held_bytes = max(cards, key=lambda card: _room(*card), default=(None, 0))
    machine = _machine(hardware, gpu, held_bytes, cap_bytes)
    if asked_on_processor:
        ram = {field: getattr(machine, field) for field in ("ram_total_bytes", "ram_free_bytes", "cap_bytes")}
        without = Machine(**ram, is_here=hardware.gpus == (), card=NO_CARD)
        available = _in_ram(without) if asked_bytes is None else asked_bytes
        return Budget(available_bytes=available, source="processor", machine=without)
    if asked_bytes is not None:
        return Budget(available_bytes=asked_bytes, source="caller", machine=_for(machine, asked_bytes))
    if hardware.gpus == ():
        return Budget(available_bytes=_in_ram(machine), source="processor", machine=machine)
    probed = None if gpu is None else _probed(gpu, held_bytes)
    if probed is not None and (cap_bytes is None or probed <= cap_bytes):
        return Budget(available_bytes=probed, source="probe", machine=machine)
    if cap_bytes is not None:
        return Budget(available_bytes=cap_bytes, source="setting", machine=machine)
    return Budget(available_bytes=ASSUMED_BYTES, source="assumed", machine=machine)


def _in_ram(machine: Machine) -> int:
    # The other half is Lightroom's and the system's: as much as of the RAM that a model may spill into.
    half = None if machine.ram_free_bytes is None else machine.ram_free_bytes // 2
    known = smallest_known(half, machine.cap_bytes)
    return ASSUMED_BYTES if known is None else known


def _held(gpu: Gpu, gpus: Sequence[Gpu], held_bytes: int) -> int:
    """Return what the loaded models hold of a card.

    Ollama does not say on which of several cards they lie: it is counted where no other one can hold as much. What the
    card's own software takes for each model is a guess, and no more is held than is not free.
    """
    if gpu.free_bytes is None or (len(gpus) > 1 and [one for one in gpus if _can_hold(one, held_bytes)] != [gpu]):
        return 0
    return held_bytes if gpu.total_bytes is None else min(held_bytes, gpu.total_bytes - gpu.free_bytes)


def _can_hold(gpu: Gpu, held_bytes: int) -> bool:
    return gpu.free_bytes is None or gpu.total_bytes is None or gpu.total_bytes - gpu.free_bytes >= held_bytes


def _probed(gpu: Gpu, held_bytes: int) -> int | None:
    free = _free(gpu)
    return None if free is None else smallest_known(free + held_bytes, gpu.total_bytes, gpu.usable_bytes)


def _room(gpu: Gpu, held_bytes: int) -> int:
    """Return what a model could have of a card: Ollama puts one that fits a card on that card alone (sched.go)."""
    free = _free(gpu)
    return -1 if free is None else free + held_bytes


def _free(gpu: Gpu) -> int | None:
    # Where nobody tells what is free, all of it may be; the answer says that it is not known.
    return gpu.total_bytes if gpu.free_bytes is None else gpu.free_bytes


def _machine(hardware: Hardware, gpu: Gpu | None, held_bytes: int, cap_bytes: int | None) -> Machine:
    return Machine(
        gpu=gpu.name if gpu else None,
        gpu_count=None if hardware.gpus is None else len(hardware.gpus),
        total_bytes=gpu.total_bytes if gpu else None,
        usable_bytes=gpu.usable_bytes if gpu else None,
        free_bytes=gpu.free_bytes if gpu else None,
        held_bytes=held_bytes,
        cap_bytes=cap_bytes,
        ram_total_bytes=hardware.memory.total_bytes if hardware.memory else None,
        ram_free_bytes=hardware.memory.free_bytes if hardware.memory else None,
        gpus_source=hardware.sources.get("gpus"),
        unified=bool(gpu and gpu.unified),
        card=_card(hardware, gpu),
    )


def _card(hardware: Hardware, gpu: Gpu | None) -> Card | None:
    if gpu is None:
        return NO_CARD if hardware.gpus == () else None
    if gpu.bandwidth_bytes_per_s is None:
        return None
    return Card(
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        unified=gpu.unified,
        source=gpu.bandwidth_source or gpu.source,
    )


def _for(machine: Machine, asked_bytes: int) -> Machine:
    """Return the machine that a caller's figure is about: a larger card than the one here is another one."""
    total = 0 if machine.gpu_count == 0 else machine.total_bytes
    if total is None or asked_bytes <= total:
        return machine
    other = {"is_here": False, "card": None, "gpu": None, "total_bytes": None, "usable_bytes": None, "unified": False}
    return machine.model_copy(update=other)

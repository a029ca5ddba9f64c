"""How much memory advice may count on, and who says so: the caller, the setting, the card as it is now, or a guess.

caller     a figure came with the question
probe      what is free on the card now, and what loaded models would make free
setting    no more than MODEL_MANAGER_VRAM_GB; where the card is not known, that much
processor  there is no card: half of the RAM that is free
assumed    nothing is known: 8 GiB, the card that AutoDev is made for
"""

from __future__ import annotations

from collections.abc import Sequence

from model_core.candidates import Machine, Source
from model_core.hardware import Gpu, Hardware
from model_core.loading import held_on_card_bytes
from model_core.records import GIB, Record, RunningModel
from model_core.speed import Card

ASSUMED_BYTES = 8 * GIB


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
    cap_bytes: int | None = None,
) -> Budget:
    """Return what advice may count on.

    running      what Ollama has loaded now
    asked_bytes  what the caller says is there; 0 means none
    cap_bytes    what the setting allows
    """
    gpu = _best(hardware.gpus or ())
    machine = _machine(hardware, gpu, running, cap_bytes)
    if asked_bytes is not None:
        return Budget(available_bytes=asked_bytes, source="caller", machine=_for(machine, asked_bytes))
    if gpu is not None and (free := _free(gpu)) is not None:
        limits = [limit for limit in (gpu.total_bytes, gpu.usable_bytes) if limit is not None]
        available = min([free + machine.held_bytes, *limits])
        if cap_bytes is None or available <= cap_bytes:
            return Budget(available_bytes=available, source="probe", machine=machine)
    if cap_bytes is not None:
        return Budget(available_bytes=cap_bytes, source="setting", machine=machine)
    if hardware.gpus == () and machine.ram_free_bytes is not None:
        # The other half is Lightroom's and the system's: as much as of the RAM that a model may spill into.
        available = machine.ram_free_bytes // 2
        return Budget(available_bytes=available, source="processor", machine=machine)
    return Budget(available_bytes=ASSUMED_BYTES, source="assumed", machine=machine)


def _best(gpus: Sequence[Gpu]) -> Gpu | None:
    """Return the card with the most room: Ollama puts a model that fits one card on that card alone (sched.go)."""
    return max(gpus, key=lambda gpu: -1 if (free := _free(gpu)) is None else free, default=None)


def _free(gpu: Gpu) -> int | None:
    # Where nobody tells what is free, all of it may be; the answer says that it is not known.
    return gpu.total_bytes if gpu.free_bytes is None else gpu.free_bytes


def _machine(hardware: Hardware, gpu: Gpu | None, running: Sequence[RunningModel], cap_bytes: int | None) -> Machine:
    return Machine(
        gpu=gpu.name if gpu else None,
        gpu_count=None if hardware.gpus is None else len(hardware.gpus),
        total_bytes=gpu.total_bytes if gpu else None,
        free_bytes=gpu.free_bytes if gpu else None,
        held_bytes=_held(gpu, running) if gpu else 0,
        cap_bytes=cap_bytes,
        ram_total_bytes=hardware.memory.total_bytes if hardware.memory else None,
        ram_free_bytes=hardware.memory.free_bytes if hardware.memory else None,
        gpus_source=hardware.sources.get("gpus"),
        card=_card(hardware, gpu),
    )


def _held(gpu: Gpu, running: Sequence[RunningModel]) -> int:
    if gpu.free_bytes is None:
        return 0
    held = held_on_card_bytes(running)
    # What the card's own software takes for each model is a guess, and no more is held than is not free.
    return held if gpu.total_bytes is None else min(held, gpu.total_bytes - gpu.free_bytes)


def _card(hardware: Hardware, gpu: Gpu | None) -> Card | None:
    if gpu is None:
        return Card(source="there is no graphics card") if hardware.gpus == () else None
    if gpu.bandwidth_bytes_per_s is None:
        return None
    return Card(
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        unified=gpu.unified,
        source=gpu.bandwidth_source or gpu.source,
    )


def _for(machine: Machine, asked_bytes: int) -> Machine:
    """Return the machine that a caller's figure is about: a larger card than the one here is another one."""
    is_this_one = machine.total_bytes is not None and asked_bytes <= machine.total_bytes
    return machine if is_this_one else machine.model_copy(update={"card": None, "gpu": None, "total_bytes": None})

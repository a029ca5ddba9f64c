"""What a machine has for a model to run in: graphics cards, memory, disk. Records only; hardware_probe.py reads them.

The whole of it, as GET /hardware answers:

    {"gpus": [Gpu] or null, "memory": MachineMemory or null, "disk": Disk or null,
     "sources": {"gpus": text, "memory": text, "disk": text}, "checked_at": ISO time or null, "age_seconds": s or null,
     "pending": bool}

gpus is [] where there is none that Ollama would use, and null where that cannot be known. What is free is what every
other program leaves: what Lightroom or the desktop hold counts as used.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model_core.records import GIB, MIB, Record

Vendor = Literal["nvidia", "amd", "apple", "intel"]

ELSEWHERE = "Ollama is elsewhere"


class Gpu(Record):
    """One graphics card, or the graphics part of a chip, that Ollama would use. None where nobody says."""

    name: str | None = None
    vendor: Vendor | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    usable_bytes: int | None = Field(default=None, description="what programs may hold of it; null: all of it")
    bandwidth_bytes_per_s: int | None = Field(default=None, description="of its memory, at its fastest")
    bandwidth_source: str | None = None
    unified: bool = Field(default=False, description="it has no memory of its own but shares the machine's")
    source: str = Field(description="who says so")


class MachineMemory(Record):
    """The machine's RAM; free_bytes is what a program could get without swapping."""

    total_bytes: int | None = None
    free_bytes: int | None = None
    source: str


class Disk(Record):
    """The disk that Ollama keeps its models on; is_certain says whether it surely is that one."""

    total_bytes: int | None = None
    free_bytes: int | None = None
    path: str | None = None
    is_certain: bool = False
    source: str


class Hardware(Record):
    """A machine as it was looked at; sources says for each part who says so, or why it is unknown."""

    gpus: tuple[Gpu, ...] | None = None
    memory: MachineMemory | None = None
    disk: Disk | None = None
    sources: dict[str, str]
    checked_at: str | None = None
    age_seconds: float | None = None
    pending: bool = Field(default=False, description="the first look is still under way: ask again in a moment")


def unknown(reason: str) -> Hardware:
    """Return a machine of which nothing is known.

    >>> unknown("nobody has looked").sources["gpus"]
    'unknown: nobody has looked'
    """
    return Hardware(sources=dict.fromkeys(("gpus", "memory", "disk"), f"unknown: {reason}"))


def elsewhere() -> Hardware:
    """Return what is known of another machine: nothing. Ollama cannot be asked what it runs on."""
    return unknown(ELSEWHERE)


def simulated(total_bytes: int, free_bytes: int) -> Hardware:
    """Return the machine that a simulated Ollama pretends to run on: a card that says so, and nothing else.

    >>> simulated(8 * GIB, 6 * GIB).gpus[0].name
    'Simulated card'
    """
    source = "the simulated Ollama"
    gpu = Gpu(name="Simulated card", total_bytes=total_bytes or None, free_bytes=free_bytes, source=source)
    nothing = f"unknown: {source} has none"
    return Hardware(gpus=(gpu,) if total_bytes else (), sources={"gpus": source, "memory": nothing, "disk": nothing})


def metal_limit_bytes(total_bytes: int, wired_limit_mb: int | None) -> int:
    """Return how much of a Mac's RAM its graphics may hold.

    wired_limit_mb  what its owner set (iogpu.wired_limit_mb); None and 0: nothing, and so the answer is an estimate

    The estimate is what macOS allowed for years: two thirds up to 36 GB, three quarters above (llama.cpp discussion
    2182; 21,845 MiB of 32 GiB in ollama#434). It is on the low side: newer ones allow more, such as 11.84 of 16 GB
    (llmfit#754) and 107.5 of 128 (antirez/ds4#893).

    >>> metal_limit_bytes(32 * GIB, None) // MIB, metal_limit_bytes(64 * GIB, 0) // GIB
    (21845, 48)
    >>> metal_limit_bytes(32 * GIB, 26_624) // MIB
    26624
    """
    if wired_limit_mb:
        return min(wired_limit_mb * MIB, total_bytes)
    return total_bytes * 2 // 3 if total_bytes <= 36 * GIB else total_bytes * 3 // 4

"""What is unknown is None with its reason, and the records go out as the API draws them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core import hardware
from model_core.hardware import Disk, Gpu, Hardware, MachineMemory
from model_core.records import GIB, MIB


def test_a_machine_goes_out_as_the_api_draws_it():
    machine = Hardware(
        gpus=(Gpu(name="NVIDIA GeForce RTX 3070", vendor="nvidia", total_bytes=8, free_bytes=7, source="NVML"),),
        memory=MachineMemory(total_bytes=32, free_bytes=20, source="psutil"),
        disk=Disk(total_bytes=100, free_bytes=50, path="/models", is_certain=True, source="OLLAMA_MODELS"),
        sources={"gpus": "NVML", "memory": "psutil", "disk": "OLLAMA_MODELS"},
        checked_at="2026-11-20T10:00:00.000000Z",
        age_seconds=1.5,
    )

    assert json.loads(machine.model_dump_json()) == {
        "gpus": [
            {
                "name": "NVIDIA GeForce RTX 3070",
                "vendor": "nvidia",
                "total_bytes": 8,
                "free_bytes": 7,
                "usable_bytes": None,
                "bandwidth_bytes_per_s": None,
                "bandwidth_source": None,
                "unified": False,
                "source": "NVML",
            }
        ],
        "memory": {"total_bytes": 32, "free_bytes": 20, "source": "psutil"},
        "disk": {
            "total_bytes": 100,
            "free_bytes": 50,
            "path": "/models",
            "is_certain": True,
            "source": "OLLAMA_MODELS",
        },
        "sources": {"gpus": "NVML", "memory": "psutil", "disk": "OLLAMA_MODELS"},
        "checked_at": "2026-11-20T10:00:00.000000Z",
        "age_seconds": 1.5,
        "pending": False,
    }


@pytest.mark.parametrize(
    ("machine", "reason"),
    [(hardware.elsewhere(), "unknown: Ollama is elsewhere"), (hardware.unknown("why"), "unknown: why")],
    ids=["elsewhere", "unknown"],
)
def test_of_what_nobody_sees_nothing_is_said_but_why(machine, reason):
    assert (machine.gpus, machine.memory, machine.disk) == (None, None, None)
    assert (machine.checked_at, machine.age_seconds) == (None, None)
    assert machine.sources == {"gpus": reason, "memory": reason, "disk": reason}


@pytest.mark.parametrize(
    ("ram_gib", "limit_mib"),
    # As llama.cpp logged it: llama-cpp-python#687, ollama#434; above 36 GB three quarters.
    [(16, 10_922), (32, 21_845), (36, 24_576), (48, 36_864), (128, 98_304)],
)
def test_a_mac_gives_its_graphics_what_is_known_of_older_ones(ram_gib, limit_mib):
    assert hardware.metal_limit_bytes(ram_gib * GIB, None) // MIB == limit_mib


@given(total_bytes=st.integers(0, 1024 * GIB), wired_limit_mb=st.none() | st.integers(0, 2**21))
def test_a_mac_never_gives_its_graphics_more_than_it_has(total_bytes, wired_limit_mb):
    assert 0 <= hardware.metal_limit_bytes(total_bytes, wired_limit_mb) <= total_bytes

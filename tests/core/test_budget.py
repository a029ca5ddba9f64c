"""What advice counts on: the caller before the setting, never more than is free, and half of the RAM without a card."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.budget import ASSUMED_BYTES, budget
from model_core.hardware import Gpu, Hardware, MachineMemory, elsewhere, unknown
from model_core.memory import OVERHEAD_BYTES
from model_core.records import GIB, RunningModel


def gpu(total=8, free=6, **more):
    return Gpu(
        name="NVIDIA GeForce RTX 4060",
        total_bytes=None if total is None else int(total * GIB),
        free_bytes=None if free is None else int(free * GIB),
        source="NVML",
        **more,
    )


def machine(*gpus, ram_free=20):
    memory = MachineMemory(total_bytes=32 * GIB, free_bytes=ram_free * GIB, source="psutil")
    return Hardware(gpus=gpus, memory=memory, sources={})


def loaded(vram=4):
    size = int(vram * GIB)
    return RunningModel(
        name="m", digest="d", size_bytes=size, size_vram_bytes=size, context_tokens=4096, expires_at=None
    )


def test_what_is_free_on_the_card_is_counted_and_what_it_was_made_of_is_told():
    found = budget(machine(gpu()))

    assert (found.available_bytes, found.source) == (6 * GIB, "probe")
    assert (found.machine.gpu, found.machine.total_bytes) == ("NVIDIA GeForce RTX 4060", 8 * GIB)
    assert (found.machine.free_bytes, found.machine.held_bytes) == (6 * GIB, 0)


def test_what_ollama_has_loaded_would_make_room_but_never_more_than_there_is():
    room = budget(machine(gpu(free=2)), [loaded(4)])
    full = budget(machine(gpu(free=6)), [loaded(4)])

    assert room.available_bytes == 6 * GIB + OVERHEAD_BYTES
    assert full.available_bytes == 8 * GIB


def test_a_chip_that_shares_the_ram_is_counted_up_to_what_it_may_hold():
    mac = gpu(total=32, free=18, usable_bytes=21 * GIB, unified=True)

    assert budget(machine(mac), [loaded(8)]).available_bytes == 21 * GIB


def test_of_several_cards_the_one_with_most_room_counts():
    found = budget(machine(gpu(8, 2), gpu(24, 20), gpu(12, 11)))

    assert (found.available_bytes, found.machine.total_bytes, found.machine.gpu_count) == (20 * GIB, 24 * GIB, 3)


def test_what_ollama_has_loaded_is_counted_on_the_card_that_alone_can_hold_it():
    """Six GiB are Ollama's on the first; on the second it is Lightroom that holds seven."""
    unclear = budget(machine(gpu(8, 1.5), gpu(12, 5)), [loaded(6)])
    clear = budget(machine(gpu(8, 1.5), gpu(12, 11)), [loaded(6)])
    more = budget(machine(gpu(24, 2), gpu(12, 11)), [loaded(20)])
    unknown = budget(machine(gpu(8, 2), gpu(None, None)), [loaded(4)])

    assert (unclear.available_bytes, unclear.machine.held_bytes) == (5 * GIB, 0)
    assert (clear.available_bytes, clear.machine.total_bytes, clear.machine.held_bytes) == (11 * GIB, 12 * GIB, 0)
    assert (unknown.available_bytes, unknown.machine.held_bytes) == (2 * GIB, 0)
    assert (more.machine.total_bytes, more.available_bytes) == (24 * GIB, 22 * GIB + OVERHEAD_BYTES)


def test_a_card_of_which_nothing_is_known_does_not_hide_one_that_is_full():
    found = budget(machine(gpu(None, None), gpu(8, 0)))

    assert (found.available_bytes, found.source) == (0, "probe")


@pytest.mark.parametrize(("cap_gib", "available_gib", "source"), [(4, 4, "setting"), (6, 6, "probe"), (12, 6, "probe")])
def test_the_setting_caps_and_never_adds(cap_gib, available_gib, source):
    found = budget(machine(gpu(free=6)), cap_bytes=cap_gib * GIB)

    assert (found.available_bytes, found.source) == (available_gib * GIB, source)
    assert found.machine.cap_bytes == cap_gib * GIB


@pytest.mark.parametrize("hardware", [elsewhere(), unknown("nobody looked"), machine(gpu(None, None))])
def test_where_the_card_is_not_known_the_setting_decides(hardware):
    found = budget(hardware, cap_bytes=6 * GIB)

    assert (found.available_bytes, found.source) == (6 * GIB, "setting")


@pytest.mark.parametrize("hardware", [elsewhere(), machine(gpu()), machine()])
def test_the_caller_comes_first_and_none_means_none(hardware):
    found = budget(hardware, asked_bytes=0, cap_bytes=6 * GIB)

    assert (found.available_bytes, found.source) == (0, "caller")


def test_without_a_card_half_of_the_free_ram_is_counted():
    found = budget(machine(ram_free=20))

    assert (found.available_bytes, found.source) == (10 * GIB, "processor")
    assert found.machine.ram_free_bytes == 20 * GIB
    assert found.machine.card is not None and found.machine.card.bandwidth_bytes_per_s is None


@pytest.mark.parametrize(
    ("ram_free", "cap_gib", "available_gib"), [(20, 6, 6), (8, 6, 4), (None, 6, 6), (None, None, 8), (0, 6, 0)]
)
def test_a_setting_makes_no_card_of_the_ram(ram_free, cap_gib, available_gib):
    """AutoDev sets 6 GiB on every machine."""
    memory = None if ram_free is None else MachineMemory(free_bytes=ram_free * GIB, source="psutil")
    hardware = Hardware(gpus=(), memory=memory, sources={})

    found = budget(hardware, cap_bytes=None if cap_gib is None else cap_gib * GIB)

    assert (found.available_bytes, found.source) == (available_gib * GIB, "processor")


def test_who_asks_about_a_machine_without_a_card_is_not_answered_about_the_card_here():
    found = budget(machine(gpu()), asked_bytes=12 * GIB, asked_on_processor=True)

    assert (found.available_bytes, found.source, found.machine.gpu) == (12 * GIB, "processor", None)
    assert found.machine.card.bandwidth_bytes_per_s is None
    assert budget(machine(gpu(), ram_free=20), asked_on_processor=True).available_bytes == 10 * GIB


def test_a_card_that_is_not_here_has_none_of_what_the_one_here_shares():
    mac = machine(gpu(total=16, free=8, usable_bytes=12 * GIB, unified=True))

    other = budget(mac, asked_bytes=24 * GIB).machine

    assert (other.unified, other.usable_bytes, other.is_here) == (False, None, False)


@pytest.mark.parametrize(
    ("hardware", "asked_gib", "is_here"),
    [(machine(gpu()), 8, True), (machine(gpu()), 9, False), (machine(), 1, False), (elsewhere(), 24, True)],
)
def test_a_card_that_is_not_here_is_known_as_one(hardware, asked_gib, is_here):
    assert budget(hardware, asked_bytes=asked_gib * GIB).machine.is_here is is_here


@pytest.mark.parametrize("hardware", [elsewhere(), unknown("…"), machine(gpu(None, None))])
def test_where_nothing_is_known_the_usual_card_is_assumed(hardware):
    found = budget(hardware)

    assert (found.available_bytes, found.source) == (ASSUMED_BYTES, "assumed")


def test_a_card_that_does_not_tell_what_is_free_counts_as_a_whole_and_that_is_told():
    found = budget(machine(gpu(16, None)), [loaded(4)])

    assert (found.available_bytes, found.source) == (16 * GIB, "probe")
    assert (found.machine.free_bytes, found.machine.held_bytes) == (None, 0)


def test_the_speed_of_the_card_goes_along_but_not_to_a_larger_one_that_is_only_asked_about():
    fast = machine(gpu(8, 6, bandwidth_bytes_per_s=272 * 10**9, bandwidth_source="by its name"))

    assert budget(fast).machine.card.bandwidth_bytes_per_s == 272e9
    assert budget(fast, asked_bytes=8 * GIB).machine.card.bandwidth_bytes_per_s == 272e9
    assert budget(fast).machine.card.source == "by its name"
    assert budget(machine(gpu(bandwidth_bytes_per_s=10**9))).machine.card.source == "NVML"
    assert budget(fast, asked_bytes=24 * GIB).machine.card is None
    assert budget(machine(gpu())).machine.card is None


@given(free=st.floats(0, 80), held=st.floats(0.1, 80), cap=st.none() | st.integers(0, 90 * GIB))
def test_advice_never_counts_on_more_than_the_card_has_or_the_setting_allows(free, held, cap):
    found = budget(machine(gpu(80, free)), [loaded(held)], cap_bytes=cap)

    # Nobody holds what is free.
    assert found.machine.free_bytes + found.machine.held_bytes <= found.machine.total_bytes

    assert 0 <= found.available_bytes <= 80 * GIB
    assert cap is None or found.available_bytes <= cap

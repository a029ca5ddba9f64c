"""A card is found by its whole name or not at all, and graphics without memory of their own are no card."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core import cards


def gb_per_s(name):
    card = cards.bandwidth_of(name)
    return card and card.bandwidth_bytes_per_s / 1e9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Apple M1", 68.25),
        ("Apple M1 Pro", 200),
        ("Apple M1 Max", 400),
        ("Apple M4 Max", 410),
        ("NVIDIA GeForce RTX 3070", 448),
        ("NVIDIA GeForce RTX 3070 Ti", 608.3),
        ("NVIDIA GeForce RTX 4070 SUPER", 504.2),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 672.3),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", 256),
        ("NVIDIA GeForce RTX 4060 Ti 16GB", 288),
        ("NVIDIA RTX A6000", 768),
        ("NVIDIA RTX 6000 Ada Generation", 960),
        ("NVIDIA GB10", 273.2),
        ("AMD Radeon RX 6800 XT", 512),
        ("AMD Radeon RX 7900 XTX", 960),
        ("AMD Radeon RX 7900 XT", 800),
        ("AMD Radeon(TM) RX 6500 XT", 143.9),
        ("AMD Radeon 8060S Graphics", 256),
        ("Intel(R) Arc(TM) A770 Graphics", 512),
        ("Intel(R) Arc(TM) Pro A50 Graphics", 192),
        ("  intel® arc™ b580  graphics ", 456),
    ],
)
def test_a_card_is_known_by_the_name_that_its_driver_gives_it(name, expected):
    assert gb_per_s(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "NVIDIA GeForce RTX 4070 Ti SUPER Founders",
        "NVIDIA GeForce RTX 4070 with Max-Q Design",
        "NVIDIA GeForce RTX 40",
        "NVIDIA GeForce RTX 2060 Laptop GPU",
        "AMD Radeon RX 6700 XT / 6750 XT",
        "AMD Radeon RX 6600/6600 XT/6600M",
        "Apple M1 Nano",
        "Apple",
        "AMD Radeon(TM) Graphics",
    ],
)
def test_a_name_that_is_not_wholly_known_is_not_known(name):
    assert cards.bandwidth_of(name) is None


def test_what_is_known_of_a_card_says_where_it_is_from():
    assert cards.bandwidth_of("Apple M2").source == "Apple's specifications"
    assert cards.bandwidth_of("NVIDIA GeForce RTX 4090").source == "TechPowerUp's GPU database"


@given(st.text(max_size=60))
def test_no_name_is_too_strange(name):
    assert cards.bandwidth_of(name) is None or name.strip()
    assert cards.is_card(name) in (True, False)


@pytest.mark.parametrize(
    ("clock_mhz", "width_bits", "published_gb_per_s"),
    [
        (7001, 256, 448),
        (9501, 320, 760),
        (10_501, 384, 1008),
        (14_001, 512, 1792),
        (1215, 5120, 1555),
        (5505, 352, 484),
    ],
    ids=["RTX 3070", "RTX 3080", "RTX 4090", "RTX 5090", "A100", "GTX 1080 Ti"],
)
def test_clock_and_width_give_what_is_published(clock_mhz, width_bits, published_gb_per_s):
    found = cards.bandwidth_of_bus(clock_mhz, width_bits) / 1e9

    assert found == pytest.approx(published_gb_per_s, rel=0.001)


@pytest.mark.parametrize(
    "name",
    [
        "AMD Radeon RX 6400",
        "AMD Radeon RX 6700M",
        "Radeon RX 580 Series",
        "Radeon (TM) RX 480 Graphics",
        "Radeon RX Vega 64",
        "AMD Radeon VII",
        "AMD Radeon PRO W7900",
        "Radeon Pro WX 5100",
        "AMD Radeon AI PRO R9700",
        "Intel(R) Arc(TM) A370M Graphics",
        "Intel(R) Arc(TM) B580 Graphics",
        "Intel(R) Arc(TM) Pro B50 Graphics",
    ],
)
def test_a_card_has_memory_of_its_own(name):
    assert cards.is_card(name)


@pytest.mark.parametrize(
    "name",
    [
        "AMD Radeon(TM) Graphics",
        "AMD Radeon 780M Graphics",
        "AMD Radeon(TM) 890M",
        "AMD Radeon(TM) 8060S Graphics",
        "AMD Radeon(TM) Vega 8 Graphics",
        "AMD Radeon(TM) RX Vega 11 Graphics",
        "AMD Radeon R7 Graphics",
        "Intel(R) UHD Graphics 770",
        "Intel(R) Iris(R) Xe Graphics",
        "Intel(R) Arc(TM) Graphics",
        "Intel(R) Arc(TM) 140V GPU (16GB)",
        "Microsoft Basic Display Adapter",
        "",
    ],
)
def test_graphics_within_a_processor_are_no_card(name):
    assert not cards.is_card(name)


def test_of_graphics_within_a_processor_ollama_uses_those_of_the_ryzen_ai_max():
    assert cards.is_ryzen_ai_max("AMD Radeon(TM) 8060S Graphics")
    assert not cards.is_ryzen_ai_max("AMD Radeon 780M Graphics")


IDS = """# List of AMDGPU IDs
#
# Syntax:
# device_id,\trevision_id,\tproduct_name        <-- single tab after comma

1.0.0
73BF,\tC1,\tAMD Radeon RX 6800 XT
73BF,\tC3,\tAMD Radeon RX 6800
744C,\tC8,\tAMD Radeon RX 7900 XTX
broken line
"""


@pytest.mark.parametrize(
    ("device", "revision", "name"),
    [
        ("0x73bf", "0xc1", "AMD Radeon RX 6800 XT"),
        ("0x73bf", "0xc3", "AMD Radeon RX 6800"),
        ("0x744c", "0xc8", "AMD Radeon RX 7900 XTX"),
        ("0x744c", "0x00", None),
        ("", "", None),
    ],
)
def test_libdrm_names_a_chip_by_its_number_and_revision(device, revision, name):
    assert cards.amd_name(IDS, device, revision) == name

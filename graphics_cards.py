"""The graphics cards of this machine, each by whoever can tell of it: NVML, amdgpu's files, macOS, Windows' registry.

Only what Ollama would use is a card. Where a card is there and nobody tells of it, that is said, and never a number.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from model_core import cards
from model_core.hardware import Gpu, MachineMemory, Vendor, metal_limit_bytes
from model_core.records import GIB

logger = logging.getLogger(__name__)

NVML, SYSFS, AMDGPU, MACOS, REGISTRY = "NVML", "sysfs", "amdgpu (sysfs)", "macOS", "Windows registry"
BY_BUS = "NVML: memory clock × bus width"

# PCI's numbers: who made it, and what it is. A compute card without an outlet counts as an accelerator (0x12).
_NVIDIA, _AMD, _INTEL, _MICROSOFT = "10de", "1002", "8086", "1414"
_CONTROLLERS = ("0x03", "0x12")
_RYZEN_AI_MAX = "0x1586"
# NVIDIA's chips that hold the processor, too. NVML tells nothing of their memory: it is the machine's (NVIDIA, DGX
# Spark known issues). Of anything else that does not tell, nothing is known.
_SHARES_THE_RAM = re.compile(r"\b(?:GB10|Orin|Thor)\b")

_DISPLAY_CLASS = "{4d36e968-e325-11ce-bfc1-08002be10318}"
_PCI_ID = re.compile(r"PCI\\VEN_([0-9A-F]{4})&", re.IGNORECASE)


class Found(NamedTuple):
    """The cards, and who says so; None with the reason where it cannot be known what there is."""

    gpus: tuple[Gpu, ...] | None
    source: str


class _Look(NamedTuple):
    """What one of those who can tell told: cards, and what of others remains in doubt."""

    gpus: tuple[Gpu, ...] = ()
    doubts: tuple[str, ...] = ()


# --- what lies outside -----------------------------------------------------------------------------------------------


def _sysctl() -> str:
    # The names as they stand: what an older macOS does not know, it leaves out and complains of on stderr.
    asked = ["/usr/sbin/sysctl", "machdep.cpu.brand_string", "iogpu.wired_limit_mb"]
    return subprocess.run(asked, capture_output=True, text=True, timeout=2, check=False).stdout  # noqa: S603


def _present_displays() -> list[str]:
    r"""Return the display adapters that are there, such as PCI\VEN_1002&DEV_744C&…: the registry remembers old ones."""
    manager: Any = ctypes.WinDLL("cfgmgr32")  # type: ignore[attr-defined, unused-ignore]
    wanted, length = ctypes.c_wchar_p(_DISPLAY_CLASS), ctypes.c_ulong()
    flags = ctypes.c_ulong(0x200 | 0x100)  # CM_GETIDLIST_FILTER_CLASS | CM_GETIDLIST_FILTER_PRESENT
    failed = manager.CM_Get_Device_ID_List_SizeW(ctypes.byref(length), wanted, flags)
    ids = ctypes.create_unicode_buffer(length.value)
    failed = failed or manager.CM_Get_Device_ID_ListW(wanted, ids, length, flags)
    if failed:
        raise OSError(f"Windows does not list its display adapters (error {failed})")
    return [one for one in "".join(ids).split("\0") if one]


@dataclass(frozen=True)
class Outside:
    """What is read, so that every platform's way can be gone on any other. Nothing of it is touched before it is used.

    platform   sys.platform
    root       where /sys and /usr lie
    nvml       imports nvidia-ml-py
    sysctl     what macOS says of its chip, a line each
    registry   imports winreg
    displays   the instance ids of Windows' display adapters
    """

    platform: str = sys.platform
    root: Path = Path("/")
    nvml: Callable[[], Any] = lambda: importlib.import_module("pynvml")
    sysctl: Callable[[], str] = _sysctl
    registry: Callable[[], Any] = lambda: importlib.import_module("winreg")
    displays: Callable[[], list[str]] = _present_displays


def find_cards(memory: MachineMemory | None, outside: Outside | None = None) -> Found:
    """Return the cards of this machine. memory is its RAM, for what shares it.

    Never raises; may take a second, or hang for ever, as drivers do.
    """
    outside = outside or Outside()
    nvidia, silence = _by_nvml(memory, outside)
    who, read = _READERS.get(outside.platform, (NVML, _by_nobody))
    try:
        others = read(memory, outside, silence)
    except Exception as error:  # registries and files fail in ways of their own, and NVML may have answered
        logger.debug("graphics cards not to be read by=%s error=%r", who, error)
        others = _Look(doubts=(f"{who} could not be read ({error})",))
    gpus, doubts = nvidia + others.gpus, "; ".join(dict.fromkeys(others.doubts))
    if gpus:
        sources = ", ".join(dict.fromkeys(gpu.source for gpu in gpus))
        return Found(gpus, f"{sources}; {doubts}" if doubts else sources)
    return Found(None, f"unknown: {doubts}") if doubts else Found((), f"{who}: no card that Ollama would use")


# --- NVIDIA ----------------------------------------------------------------------------------------------------------


def _by_nvml(memory: MachineMemory | None, outside: Outside) -> tuple[tuple[Gpu, ...], str | None]:
    """Return NVIDIA's cards, or none and why not."""
    try:
        nvml = outside.nvml()
        nvml.nvmlInit()
        try:
            gpus = tuple(_nvidia(nvml, index, memory) for index in range(nvml.nvmlDeviceGetCount()))
        finally:
            nvml.nvmlShutdown()
    except ImportError:
        return (), "nvidia-ml-py is not installed"
    except Exception as error:  # an NVMLError, or whatever a library does that does not go with its driver
        return (), str(error)
    return gpus, None if gpus else "NVML names none"


def _nvidia(nvml: Any, index: int, memory: MachineMemory | None) -> Gpu:
    """Return one card; what NVML does not tell of it is None."""

    def told(what: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, what)(*arguments)
        except (nvml.NVMLError, AttributeError):  # an older nvidia-ml-py asks for less
            return None

    handle = told("nvmlDeviceGetHandleByIndex", index)
    if handle is None:
        return Gpu(vendor="nvidia", source=NVML)
    name = told("nvmlDeviceGetName", handle)
    if isinstance(name, bytes):  # as older versions of nvidia-ml-py gave it
        name = name.decode(errors="replace")
    clock_mhz = told("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM)
    width_bits = told("nvmlDeviceGetMemoryBusWidth", handle)
    bandwidth = _by_name(name)
    if clock_mhz and width_bits:
        bandwidth = _Bandwidth(cards.bandwidth_of_bus(clock_mhz, width_bits), BY_BUS)
    gpu = Gpu(name=name, vendor="nvidia", source=NVML, **bandwidth._asdict())
    own = told("nvmlDeviceGetMemoryInfo", handle)
    if own is not None and own.total:
        return gpu.model_copy(update={"total_bytes": own.total, "free_bytes": own.free})
    if name and _SHARES_THE_RAM.search(name):
        return _sharing(gpu, memory)
    return gpu


class _Bandwidth(NamedTuple):
    """The two fields of a Gpu."""

    bandwidth_bytes_per_s: int | None = None
    bandwidth_source: str | None = None


def _by_name(name: str | None) -> _Bandwidth:
    card = cards.bandwidth_of(name)
    return _Bandwidth(card.bandwidth_bytes_per_s, card.source) if card else _Bandwidth()


def _sharing(gpu: Gpu, memory: MachineMemory | None) -> Gpu:
    total, free = (memory.total_bytes, memory.free_bytes) if memory else (None, None)
    return gpu.model_copy(update={"unified": True, "total_bytes": total, "free_bytes": free})


# --- Linux -----------------------------------------------------------------------------------------------------------


def _by_sysfs(memory: MachineMemory | None, outside: Outside, nvml_silence: str | None) -> _Look:
    """Return what PCI's files tell of all cards but NVIDIA's, and of those only whether one is there unheard."""
    devices = outside.root / "sys/bus/pci/devices"
    try:
        listed = sorted(devices.iterdir())
    except OSError as error:
        return _Look(doubts=(f"{devices} cannot be read ({error.strerror})",))
    gpus, doubts = [], []
    for device in listed:
        if not (_text(device / "class") or "").startswith(_CONTROLLERS):
            continue
        vendor = _text(device / "vendor")
        if vendor == f"0x{_NVIDIA}" and nvml_silence:
            doubts.append(_unheard("NVIDIA", nvml_silence))
        elif vendor == f"0x{_MICROSOFT}" and nvml_silence:
            # What Windows lends to a Linux within it (WSL#9821): whose card it is, only NVML could tell.
            doubts.append("Windows lends this Linux a card and does not say which")
        elif vendor == f"0x{_AMD}":
            if (total_bytes := _number(device / "mem_info_vram_total")) is None:
                doubts.append(_unheard("AMD", "amdgpu tells nothing of it"))
            elif (gpu := _amd(device, total_bytes, memory, outside.root)) is not None:
                gpus.append(gpu)
        elif vendor == f"0x{_INTEL}" and ":00:" not in device.name:
            # What Intel has within a processor, graphics or NPU, sits on bus 0. Of its cards, no file tells more.
            gpus.append(Gpu(vendor="intel", source=SYSFS))
    return _Look(tuple(gpus), tuple(doubts))


def _amd(device: Path, total_bytes: int, memory: MachineMemory | None, root: Path) -> Gpu | None:
    """Return AMD's card, None for graphics within a processor that Ollama does not use."""
    chip, revision = _text(device / "device") or "", _text(device / "revision") or ""
    ids = _text(root / "usr/share/libdrm/amdgpu.ids") or ""
    name = _text(device / "product_name") or cards.amd_name(ids, chip, revision)
    free_bytes = _free(device, "vram")
    gpu = Gpu(
        name=name,
        vendor="amd",
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        source=AMDGPU,
        **_by_name(name)._asdict(),
    )
    if not _is_integrated(device, total_bytes):
        return gpu
    return _within_the_ram(gpu, device, memory) if chip == _RYZEN_AI_MAX else None


def _within_the_ram(gpu: Gpu, device: Path, memory: MachineMemory | None) -> Gpu:
    """Return the graphics of a Ryzen AI Max with what it may take of the RAM (GTT) beside the part that is its own."""
    shared_bytes, shared_free_bytes = _number(device / "mem_info_gtt_total") or 0, _free(device, "gtt")
    ram_free_bytes = memory.free_bytes if memory else None
    total_bytes, free_bytes = (gpu.total_bytes or 0) + shared_bytes, None
    if gpu.free_bytes is not None and shared_free_bytes is not None and ram_free_bytes is not None:
        free_bytes = gpu.free_bytes + min(shared_free_bytes, ram_free_bytes)
    return gpu.model_copy(update={"unified": True, "total_bytes": total_bytes, "free_bytes": free_bytes})


def _is_integrated(device: Path, vram_bytes: int) -> bool:
    """Decide as Ollama does (discover/amd.go, August 2026): a card names its memory's maker or is a board; graphics in
    a processor have little set apart for them, and much of the RAM besides.
    """
    if (device / "mem_info_vram_vendor").exists() or (device / "board_info").exists():
        return False
    shared_bytes = _number(device / "mem_info_gtt_total") or 0
    return vram_bytes <= 4 * GIB and shared_bytes >= max(8 * GIB, 4 * vram_bytes)


def _unheard(vendor: str, reason: str) -> str:
    return f"there is an {vendor} card, but its driver does not answer ({reason})"


def _free(device: Path, kind: str) -> int | None:
    total_bytes, used_bytes = _number(device / f"mem_info_{kind}_total"), _number(device / f"mem_info_{kind}_used")
    return None if total_bytes is None or used_bytes is None else max(0, total_bytes - used_bytes)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isascii() and text.isdigit() else None


# --- Windows ---------------------------------------------------------------------------------------------------------


def _by_registry(memory: MachineMemory | None, outside: Outside, nvml_silence: str | None) -> _Look:
    """Return what Windows tells of AMD's and Intel's cards, and whether there is one of NVIDIA's unheard.

    The total is what the driver wrote into the registry; what is free, only the driver's own library could tell.
    """
    registry = outside.registry()
    gpus, doubts = [], []
    for instance in outside.displays():
        pci_id = _PCI_ID.match(instance)
        vendor = pci_id[1].lower() if pci_id else None
        if vendor == _NVIDIA and nvml_silence:
            doubts.append(_unheard("NVIDIA", nvml_silence))
        elif vendor in (_AMD, _INTEL):
            name, total_bytes = _driver_of(registry, instance)
            if name and cards.is_card(name):
                gpu = _by_windows(name, "amd" if vendor == _AMD else "intel")
                gpus.append(gpu.model_copy(update={"total_bytes": total_bytes}))
            elif name and cards.is_ryzen_ai_max(name):
                gpus.append(_by_windows(name, "amd").model_copy(update={"unified": True}))
    return _Look(tuple(gpus), tuple(doubts))


def _by_windows(name: str, vendor: Vendor) -> Gpu:
    return Gpu(name=name, vendor=vendor, source=REGISTRY, **_by_name(name)._asdict())


def _driver_of(registry: Any, instance: str) -> tuple[str | None, int | None]:
    """Return an adapter's name and its memory in bytes, as its driver wrote them down."""
    control = r"SYSTEM\CurrentControlSet"
    driver = _value(registry, rf"{control}\Enum\{instance}", "Driver")  # {4d36e968-…}\0001
    key = rf"{control}\Control\Class\{driver}"
    size = _value(registry, key, "HardwareInformation.qwMemorySize")
    if isinstance(size, bytes):  # some drivers write the number as bytes
        size = int.from_bytes(size, "little")
    return _value(registry, key, "DriverDesc"), size or None


def _value(registry: Any, path: str, name: str) -> Any:
    try:
        with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, path) as key:
            return registry.QueryValueEx(key, name)[0]
    except OSError:  # it is not there
        return None


# --- macOS, and what is none of the three ----------------------------------------------------------------------------


def _by_sysctl(memory: MachineMemory | None, outside: Outside, nvml_silence: str | None) -> _Look:
    says = dict(_lines(outside.sysctl()))
    chip = says.get("machdep.cpu.brand_string")
    if chip is None:
        return _Look(doubts=("macOS does not say which chip it runs on",))
    if "Apple" not in chip:
        return _Look()  # with a processor of Intel, Ollama uses nothing else (docs/macos.mdx)
    wired = says.get("iogpu.wired_limit_mb", "")
    wired_mb = int(wired) if wired.isdecimal() else 0
    source = MACOS if wired_mb else f"{MACOS}; how much of the RAM its graphics may hold is estimated"
    gpu = _sharing(Gpu(name=chip, vendor="apple", source=source, **_by_name(chip)._asdict()), memory)
    if gpu.total_bytes is not None and gpu.free_bytes is not None:
        limit_bytes = metal_limit_bytes(gpu.total_bytes, wired_mb)
        gpu = gpu.model_copy(update={"free_bytes": min(gpu.free_bytes, limit_bytes), "usable_bytes": limit_bytes})
    return _Look((gpu,))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _by_nobody(memory: MachineMemory | None, outside: Outside, nvml_silence: str | None) -> _Look:
    return _Look(doubts=(f"on {outside.platform} only NVIDIA's cards can be seen",))


_READERS = {"linux": (SYSFS, _by_sysfs), "win32": (REGISTRY, _by_registry), "darwin": (MACOS, _by_sysctl)}

"""The graphics cards, on every platform, from written stand-ins of what lies outside: NVML, files, registry, sysctl."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from graphics_cards import Outside, find_cards
from model_core.hardware import MachineMemory
from model_core.records import GIB, MIB

RAM = MachineMemory(total_bytes=32 * GIB, free_bytes=20 * GIB, source="psutil")

RTX_3070 = {"name": "NVIDIA GeForce RTX 3070", "memory": (8 * GIB, 7 * GIB), "clock_mhz": 7001, "width_bits": 256}


class Nvml:
    """nvidia-ml-py on a machine with these cards; what a card does not hold, NVML does not tell of it."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_MEM = 2

    def __init__(self, *cards: dict | None, will_not_start: str = "") -> None:
        self.cards, self.will_not_start, self.started = cards, will_not_start, 0

    def __call__(self) -> Nvml:
        return self

    def nvmlInit(self) -> None:
        if self.will_not_start:
            raise self.NVMLError(self.will_not_start)
        self.started += 1

    def nvmlShutdown(self) -> None:
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict:
        if self.cards[index] is None:
            raise self.NVMLError("GPU is lost")
        return self.cards[index]

    def told(self, card: dict, key: str):
        assert self.started == 1
        if key not in card:
            raise self.NVMLError("Not Supported")
        return card[key]

    def nvmlDeviceGetName(self, card: dict):
        return self.told(card, "name")

    def nvmlDeviceGetMemoryInfo(self, card: dict):
        total, free = self.told(card, "memory")
        return SimpleNamespace(total=total, free=free, used=total - free)

    def nvmlDeviceGetMaxClockInfo(self, card: dict, kind: int) -> int:
        assert kind == self.NVML_CLOCK_MEM
        return self.told(card, "clock_mhz")

    def nvmlDeviceGetMemoryBusWidth(self, card: dict) -> int:
        return self.told(card, "width_bits")


class Registry:
    """winreg on a machine whose HKEY_LOCAL_MACHINE holds these keys."""

    HKEY_LOCAL_MACHINE = object()

    def __init__(self, keys: dict[str, dict]) -> None:
        self.keys = keys

    def __call__(self) -> Registry:
        return self

    def OpenKey(self, root, path: str):
        assert root is self.HKEY_LOCAL_MACHINE
        if path not in self.keys:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        return nullcontext(self.keys[path])

    def QueryValueEx(self, key: dict, name: str):
        if name not in key:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        return key[name], 1


def not_there(*_arguments):
    raise ModuleNotFoundError("No module named 'pynvml'")


def must_not_be_asked():
    pytest.fail("this is not there on this platform")


def test_the_stand_in_has_what_nvidias_library_has_and_nothing_else():
    asked = {name for name in vars(Nvml) if name.startswith(("nvml", "NVML"))}

    assert {name for name in asked if not hasattr(pynvml, name)} == set()
    assert pynvml.NVML_CLOCK_MEM == Nvml.NVML_CLOCK_MEM
    assert {"total", "free"} <= {name for name, _ in pynvml.c_nvmlMemory_t._fields_}


# --- NVIDIA ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def linux(tmp_path: Path) -> Callable[..., Outside]:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    return lambda nvml=not_there: Outside(
        platform="linux",
        root=tmp_path,
        nvml=nvml,
        sysctl=must_not_be_asked,
        registry=must_not_be_asked,
        displays=must_not_be_asked,
    )


@pytest.fixture
def pci(tmp_path: Path) -> Callable[..., None]:
    """Puts a device into PCI's files."""

    def add(vendor: str, slot: str = "0000:03:00.0", kind: str = "0x030000", **files: object) -> None:
        device = tmp_path / "sys/bus/pci/devices" / slot
        device.mkdir(parents=True)
        for name, content in {"vendor": vendor, "class": kind, **files}.items():
            (device / name).write_text(f"{content}\n")

    return add


def only(found):
    assert len(found.gpus) == 1
    return found.gpus[0]


def test_nvml_says_name_total_free_and_how_fast_the_memory_is(linux):
    nvml = Nvml(RTX_3070)

    found = find_cards(RAM, linux(nvml))

    gpu = only(found)
    assert (gpu.name, gpu.vendor, gpu.unified) == ("NVIDIA GeForce RTX 3070", "nvidia", False)
    assert (gpu.total_bytes, gpu.free_bytes) == (8 * GIB, 7 * GIB)
    assert (gpu.bandwidth_bytes_per_s, gpu.bandwidth_source) == (448_064_000_000, "NVML: memory clock × bus width")
    assert (gpu.source, found.source) == ("NVML", "NVML")
    assert nvml.started == 0


FIELDS_OF = {
    "name": {"name"},
    "memory": {"total_bytes", "free_bytes"},
    "clock_mhz": {"bandwidth_bytes_per_s"},
    "width_bits": {"bandwidth_bytes_per_s"},
}


@pytest.mark.parametrize("untold", FIELDS_OF)
def test_what_nvml_does_not_tell_is_unknown_and_the_rest_is_told(linux, untold):
    unheard_of = {**RTX_3070, "name": "NVIDIA Tomorrow"}
    whole = only(find_cards(RAM, linux(Nvml(unheard_of)))).model_dump()

    partial = only(
        find_cards(RAM, linux(Nvml({key: value for key, value in unheard_of.items() if key != untold})))
    ).model_dump()

    differ = {field for field in whole if whole[field] != partial[field]} - {"bandwidth_source"}
    assert differ == FIELDS_OF[untold]
    assert {partial[field] for field in differ} == {None}


def test_an_old_driver_leaves_the_bandwidth_to_the_table(linux):
    gpu = only(find_cards(RAM, linux(Nvml({"name": "NVIDIA GeForce RTX 3070", "clock_mhz": 7001}))))

    assert (gpu.bandwidth_bytes_per_s, gpu.bandwidth_source) == (448_000_000_000, "TechPowerUp's GPU database")


def test_an_old_library_gives_the_name_as_bytes(linux):
    assert only(find_cards(RAM, linux(Nvml({**RTX_3070, "name": b"NVIDIA TITAN V"})))).name == "NVIDIA TITAN V"


def test_each_card_is_listed_also_one_that_is_lost(linux):
    nvml = Nvml(RTX_3070, None, {**RTX_3070, "name": "NVIDIA RTX A6000"})

    gpus, source = find_cards(RAM, linux(nvml))

    assert source == "NVML"
    assert [gpu.name for gpu in gpus] == ["NVIDIA GeForce RTX 3070", None, "NVIDIA RTX A6000"]
    assert (gpus[1].vendor, gpus[1].total_bytes, gpus[1].free_bytes) == ("nvidia", None, None)
    assert nvml.started == 0


def test_a_chip_that_shares_the_ram_has_what_the_ram_has(linux):
    gpu = only(find_cards(RAM, linux(Nvml({"name": "NVIDIA GB10"}))))

    assert gpu.unified
    assert (gpu.total_bytes, gpu.free_bytes) == (32 * GIB, 20 * GIB)
    assert gpu.bandwidth_bytes_per_s == 273_200_000_000


def test_a_card_that_tells_nothing_of_its_memory_does_not_for_that_share_the_ram(linux):
    gpu = only(find_cards(RAM, linux(Nvml({"name": "NVIDIA GeForce RTX 3070"}))))

    assert not gpu.unified
    assert (gpu.total_bytes, gpu.free_bytes) == (None, None)


SILENT = {
    "nvidia-ml-py is not installed": not_there,
    "NVML Shared Library Not Found": Nvml(will_not_start="NVML Shared Library Not Found"),
    "NVML names none": Nvml(),
}


@pytest.mark.parametrize("reason", SILENT)
def test_a_card_of_nvidia_that_is_there_and_silent_makes_it_unknown(linux, pci, reason):
    pci("0x10de")

    found = find_cards(RAM, linux(SILENT[reason]))

    assert found.gpus is None
    assert found.source == f"unknown: there is an NVIDIA card, but its driver does not answer ({reason})"


@pytest.mark.parametrize("reason", SILENT)
def test_without_any_card_there_is_none(linux, reason):
    assert find_cards(RAM, linux(SILENT[reason])) == ((), "sysfs: no card that Ollama would use")


def test_a_library_that_breaks_is_a_silent_one(linux, pci):
    class Broken(Nvml):
        def nvmlDeviceGetCount(self):
            raise ValueError("access violation")

    nvml = Broken(RTX_3070)

    assert find_cards(RAM, linux(nvml)).gpus == ()
    assert nvml.started == 0
    pci("0x10de")
    assert find_cards(RAM, linux(nvml)).source.endswith("its driver does not answer (access violation)")


def test_an_older_library_that_asks_for_less_still_tells_what_it_can(linux):
    class Older(Nvml):
        @property
        def nvmlDeviceGetMemoryBusWidth(self):
            raise AttributeError("module 'pynvml' has no attribute 'nvmlDeviceGetMemoryBusWidth'")

    gpu = only(find_cards(RAM, linux(Older(RTX_3070))))

    assert gpu.total_bytes == RTX_3070["memory"][0]


def test_a_memory_of_nothing_is_an_unknown_one(linux):
    gpu = only(find_cards(RAM, linux(Nvml({**RTX_3070, "memory": (0, 0)}))))

    assert (gpu.total_bytes, gpu.free_bytes) == (None, None)


# --- Linux -----------------------------------------------------------------------------------------------------------

RX_6800_XT = {
    "vendor": "0x1002",
    "device": "0x73bf",
    "revision": "0xc1",
    "mem_info_vram_total": 16 * GIB,
    "mem_info_vram_used": 3 * GIB,
    "mem_info_gtt_total": 16 * GIB,
    "mem_info_vram_vendor": "samsung",
}
APU = {
    "vendor": "0x1002",
    "device": "0x15bf",
    "revision": "0xc4",
    "mem_info_vram_total": 512 * MIB,
    "mem_info_vram_used": 300 * MIB,
    "mem_info_gtt_total": 15 * GIB,
    "mem_info_gtt_used": 1 * GIB,
}


def test_amdgpu_says_total_and_free_and_libdrm_the_name(linux, pci, tmp_path):
    pci(**RX_6800_XT)
    ids = tmp_path / "usr/share/libdrm/amdgpu.ids"
    ids.parent.mkdir(parents=True)
    ids.write_text("1.0.0\n73BF,\tC1,\tAMD Radeon RX 6800 XT\n")

    found = find_cards(RAM, linux())

    gpu = only(found)
    assert (gpu.name, gpu.vendor, gpu.unified) == ("AMD Radeon RX 6800 XT", "amd", False)
    assert (gpu.total_bytes, gpu.free_bytes) == (16 * GIB, 13 * GIB)
    assert gpu.bandwidth_bytes_per_s == 512_000_000_000
    assert (gpu.source, found.source) == ("amdgpu (sysfs)", "amdgpu (sysfs)")


def test_a_card_that_names_itself_needs_no_list(linux, pci):
    pci(**RX_6800_XT, product_name="AMD Radeon PRO W6800")

    assert only(find_cards(RAM, linux())).name == "AMD Radeon PRO W6800"


def test_a_card_without_a_name_is_a_card(linux, pci):
    pci(**RX_6800_XT)

    gpu = only(find_cards(RAM, linux()))

    assert (gpu.name, gpu.bandwidth_bytes_per_s, gpu.total_bytes) == (None, None, 16 * GIB)


@pytest.mark.parametrize("used", ["", "N/A", "-1", "9" * 5000 + "x"])
def test_a_figure_that_cannot_be_read_is_unknown(linux, pci, used):
    pci(**{**RX_6800_XT, "mem_info_vram_used": used})

    gpu = only(find_cards(RAM, linux()))

    assert (gpu.total_bytes, gpu.free_bytes) == (16 * GIB, None)


@pytest.mark.parametrize(
    ("files", "is_card"),
    [
        ({}, False),
        ({"mem_info_vram_vendor": "hynix"}, True),
        ({"board_info": "type : cem"}, True),
        ({"mem_info_vram_total": 8 * GIB, "mem_info_gtt_total": 64 * GIB}, True),
        ({"mem_info_gtt_total": 7 * GIB}, True),
        ({"mem_info_vram_total": 4 * GIB, "mem_info_gtt_total": 15 * GIB}, True),
    ],
    ids=["little of its own", "names the memory", "is a board", "much of its own", "little RAM", "shares little"],
)
def test_what_has_little_of_its_own_and_shares_much_is_no_card(linux, pci, files, is_card):
    pci(**{**APU, **files})

    assert bool(find_cards(RAM, linux()).gpus) is is_card


@pytest.mark.parametrize(("ram_free_gib", "free_gib"), [(100, 63.5), (10, 10.5)])
def test_a_ryzen_ai_max_has_its_own_part_and_what_is_free_of_the_ram(linux, pci, ram_free_gib, free_gib):
    pci(**{**APU, "device": "0x1586", "mem_info_vram_used": 0, "mem_info_gtt_total": 64 * GIB})
    ram = MachineMemory(total_bytes=128 * GIB, free_bytes=ram_free_gib * GIB, source="psutil")

    gpu = only(find_cards(ram, linux()))

    assert gpu.unified
    assert gpu.total_bytes == int(64.5 * GIB)
    assert gpu.free_bytes == int(free_gib * GIB)


def test_of_a_ryzen_ai_max_nothing_is_free_for_certain_where_the_ram_is_unknown(linux, pci):
    pci(**{**APU, "device": "0x1586"})

    assert only(find_cards(None, linux())).free_bytes is None


def test_a_card_of_amd_without_its_driver_makes_it_unknown(linux, pci):
    pci("0x1002", device="0x73bf")

    found = find_cards(RAM, linux())

    assert found.gpus is None
    assert found.source.startswith("unknown: there is an AMD card, but its driver does not answer")


def test_a_card_that_is_silent_is_mentioned_beside_one_that_tells(linux, pci):
    pci(**RX_6800_XT)
    pci("0x10de", slot="0000:04:00.0")

    found = find_cards(RAM, linux())

    assert only(found).vendor == "amd"
    assert found.source.startswith("amdgpu (sysfs); there is an NVIDIA card, but")


def test_cards_of_several_makers_are_listed_together(linux, pci):
    pci(**RX_6800_XT)
    pci("0x10de", slot="0000:04:00.0")

    found = find_cards(RAM, linux(Nvml(RTX_3070)))

    assert [gpu.vendor for gpu in found.gpus] == ["nvidia", "amd"]
    assert found.source == "NVML, amdgpu (sysfs)"


@pytest.mark.parametrize(
    ("vendor", "slot", "kind"),
    [
        ("0x8086", "0000:00:02.0", "0x030000"),
        ("0x8086", "0000:00:0b.0", "0x120000"),
        ("0x1a03", "0000:03:00.0", "0x030000"),
        ("0x1af4", "0000:03:00.0", "0x030000"),
        ("0x10de", "0000:03:00.1", "0x040300"),
        ("0x1002", "0000:03:00.1", "0x040300"),
    ],
    ids=["Intel's graphics", "Intel's NPU", "a server's console", "a virtual screen", "NVIDIA's sound", "AMD's sound"],
)
def test_what_ollama_does_not_use_is_no_card(linux, pci, vendor, slot, kind):
    pci(vendor, slot=slot, kind=kind)

    assert find_cards(RAM, linux()).gpus == ()


def test_of_a_card_of_intel_no_file_tells_more_than_that_it_is_there(linux, pci):
    pci("0x8086", slot="0000:03:00.0")

    gpu = only(find_cards(RAM, linux()))

    assert (gpu.vendor, gpu.name, gpu.total_bytes, gpu.free_bytes) == ("intel", None, None, None)


def test_within_windows_only_nvml_can_tell_whose_card_it_is(linux, pci):
    pci("0x1414", slot="fe50:00:00.0", kind="0x030200")

    assert find_cards(RAM, linux()).source == "unknown: Windows lends this Linux a card and does not say which"
    assert find_cards(RAM, linux(Nvml(RTX_3070))).source == "NVML"


def test_where_the_devices_cannot_be_listed_it_is_unknown_unless_nvml_answers(linux, tmp_path):
    (tmp_path / "sys/bus/pci/devices").rmdir()

    assert find_cards(RAM, linux()).gpus is None
    assert only(find_cards(RAM, linux(Nvml(RTX_3070)))).name == "NVIDIA GeForce RTX 3070"


# --- Windows ---------------------------------------------------------------------------------------------------------

CONTROL = r"SYSTEM\CurrentControlSet"
CLASS = "{4d36e968-e325-11ce-bfc1-08002be10318}"
AMD_ID = r"PCI\VEN_1002&DEV_744C&SUBSYS_24141458&REV_C8\6&1a2b3c4d&0&00000019"
INTEL_ID = r"PCI\VEN_8086&DEV_56A0&SUBSYS_10208086&REV_08\4&2f3a8d1b&0&0008"
NVIDIA_ID = r"PCI\VEN_10DE&DEV_2484&SUBSYS_39051462&REV_A1\4&1c3d25bb&0&0019"


def windows(*displays: tuple[str, str | None, object], nvml: Callable = not_there, gone: str = "") -> Outside:
    """Windows with these adapters: instance id, name, and what the driver wrote as the size of its memory."""
    keys: dict[str, dict] = {}
    for number, (instance, name, size) in enumerate(displays):
        driver = rf"{CLASS}\{number:04d}"
        keys[rf"{CONTROL}\Enum\{instance}"] = {"Driver": driver}
        written = {"DriverDesc": name, "HardwareInformation.qwMemorySize": size}
        keys[rf"{CONTROL}\Control\Class\{driver}"] = {key: value for key, value in written.items() if value is not None}
    return Outside(
        platform="win32",
        root=Path("nowhere"),
        nvml=nvml,
        sysctl=must_not_be_asked,
        registry=Registry(keys),
        displays=lambda: [instance for instance, _, _ in displays if instance != gone],
    )


@pytest.mark.parametrize("size", [24 * GIB, (24 * GIB).to_bytes(8, "little")], ids=["number", "bytes"])
def test_the_registry_says_name_and_total_of_a_radeon_and_not_what_is_free(size):
    found = find_cards(RAM, windows((AMD_ID, "AMD Radeon RX 7900 XTX", size)))

    gpu = only(found)
    assert (gpu.name, gpu.vendor) == ("AMD Radeon RX 7900 XTX", "amd")
    assert (gpu.total_bytes, gpu.free_bytes) == (24 * GIB, None)
    assert gpu.bandwidth_bytes_per_s == 960_000_000_000
    assert (gpu.source, found.source) == ("Windows registry", "Windows registry")


def test_an_arc_is_a_card_beside_the_processors_graphics():
    found = find_cards(
        RAM,
        windows(
            (r"PCI\VEN_8086&DEV_4680&SUBSYS_86941043&REV_0C\3&11583659&0&10", "Intel(R) UHD Graphics 770", GIB),
            (INTEL_ID, "Intel(R) Arc(TM) A770 Graphics", 16 * GIB),
        ),
    )

    assert [(gpu.name, gpu.total_bytes) for gpu in found.gpus] == [("Intel(R) Arc(TM) A770 Graphics", 16 * GIB)]


@pytest.mark.parametrize(
    ("instance", "name"),
    [
        (AMD_ID, "AMD Radeon(TM) Graphics"),
        (AMD_ID, "Microsoft Basic Display Adapter"),
        (AMD_ID, None),
        (INTEL_ID, "Intel(R) Iris(R) Xe Graphics"),
        (r"ROOT\BASICRENDER\0000", "Microsoft Basic Render Driver"),
        (r"ACPI\QCOM0C36\0", "Qualcomm(R) Adreno(TM) X1-85 GPU"),
    ],
)
def test_on_windows_too_what_ollama_does_not_use_is_no_card(instance, name):
    assert find_cards(RAM, windows((instance, name, 2 * GIB))) == (
        (),
        "Windows registry: no card that Ollama would use",
    )


def test_of_a_ryzen_ai_max_windows_does_not_tell_how_much_it_may_take():
    gpu = only(find_cards(RAM, windows((AMD_ID, "AMD Radeon(TM) 8060S Graphics", 512 * MIB))))

    assert (gpu.unified, gpu.total_bytes, gpu.free_bytes) == (True, None, None)


def test_a_card_that_was_taken_out_is_not_there_though_the_registry_remembers_it():
    outside = windows(
        (NVIDIA_ID, "NVIDIA GeForce RTX 3070", 8 * GIB), (AMD_ID, "AMD Radeon RX 7600", 8 * GIB), gone=NVIDIA_ID
    )

    assert [gpu.name for gpu in find_cards(RAM, outside).gpus] == ["AMD Radeon RX 7600"]


def test_on_windows_nvml_speaks_for_nvidia_and_its_silence_makes_it_unknown():
    display = (NVIDIA_ID, "NVIDIA GeForce RTX 3070", 8 * GIB)

    assert only(find_cards(RAM, windows(display, nvml=Nvml(RTX_3070)))).source == "NVML"
    assert find_cards(RAM, windows(display)).gpus is None


def test_a_windows_that_does_not_list_its_adapters_leaves_what_nvml_says():
    def refused():
        raise OSError("Windows does not list its display adapters (error 13)")

    def outside(nvml):
        return Outside(platform="win32", nvml=nvml, registry=Registry({}), displays=refused)

    silent, telling = find_cards(RAM, outside(not_there)), find_cards(RAM, outside(Nvml(RTX_3070)))

    reason = "Windows registry could not be read (Windows does not list its display adapters (error 13))"
    assert silent == (None, f"unknown: {reason}")
    assert (only(telling).name, telling.source) == ("NVIDIA GeForce RTX 3070", f"NVML; {reason}")


@pytest.mark.parametrize("size", [None, 0, b""])
def test_a_driver_that_writes_no_size_leaves_it_unknown(size):
    assert only(find_cards(RAM, windows((AMD_ID, "AMD Radeon RX 7600", size)))).total_bytes is None


# --- macOS, and others -----------------------------------------------------------------------------------------------


def mac(*lines: str) -> Outside:
    return Outside(
        platform="darwin",
        nvml=not_there,
        sysctl=lambda: "\n".join(lines),
        registry=must_not_be_asked,
        displays=must_not_be_asked,
    )


M1_MAX = "machdep.cpu.brand_string: Apple M1 Max"


def test_a_mac_shares_its_ram_with_its_graphics_up_to_an_estimated_limit():
    ram = MachineMemory(total_bytes=32 * GIB, free_bytes=30 * GIB, source="psutil")

    found = find_cards(ram, mac(M1_MAX, "iogpu.wired_limit_mb: 0"))

    gpu = only(found)
    assert (gpu.name, gpu.vendor, gpu.unified) == ("Apple M1 Max", "apple", True)
    assert (gpu.total_bytes, gpu.free_bytes // MIB) == (32 * GIB, 21_845)
    assert gpu.usable_bytes == gpu.free_bytes
    assert gpu.bandwidth_bytes_per_s == 400_000_000_000
    assert gpu.source == found.source == "macOS; how much of the RAM its graphics may hold is estimated"


def test_what_other_programs_hold_of_a_macs_ram_is_not_free_for_its_graphics():
    assert only(find_cards(RAM, mac(M1_MAX))).free_bytes == 20 * GIB


def test_a_mac_whose_owner_set_the_limit_needs_no_estimate():
    found = find_cards(RAM, mac(M1_MAX, "iogpu.wired_limit_mb: 4096"))

    assert only(found).free_bytes == 4 * GIB
    assert found.source == "macOS"


def test_a_mac_whose_ram_is_unknown_has_graphics_of_unknown_size():
    gpu = only(find_cards(None, mac(M1_MAX)))

    assert (gpu.total_bytes, gpu.free_bytes) == (None, None)


def test_on_a_mac_with_a_processor_of_intel_ollama_uses_no_graphics():
    found = find_cards(RAM, mac("machdep.cpu.brand_string: Intel(R) Core(TM) i9-9880H CPU @ 2.30GHz"))

    assert found == ((), "macOS: no card that Ollama would use")


def test_a_mac_is_one_of_apples_also_for_a_program_made_for_intel():
    assert only(find_cards(RAM, mac("machdep.cpu.brand_string: VirtualApple @ 2.50GHz"))).vendor == "apple"


def test_a_mac_that_does_not_answer_is_unknown():
    def too_slow():
        raise subprocess.TimeoutExpired("sysctl", 2)

    assert find_cards(RAM, mac("")).gpus is None
    assert find_cards(RAM, Outside(platform="darwin", nvml=not_there, sysctl=too_slow)).gpus is None


def test_elsewhere_only_nvidias_cards_can_be_seen():
    def on_freebsd(nvml):
        return Outside(platform="freebsd14", nvml=nvml, registry=must_not_be_asked, displays=must_not_be_asked)

    assert find_cards(RAM, on_freebsd(not_there)).gpus is None
    assert only(find_cards(RAM, on_freebsd(Nvml(RTX_3070)))).name == "NVIDIA GeForce RTX 3070"


def test_this_very_machine_can_be_looked_at():
    found = find_cards(RAM)

    assert found.source
    assert found.gpus is None or all(gpu.source for gpu in found.gpus)

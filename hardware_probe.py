"""What this machine has. Nothing is invented: what cannot be known is None, and each figure says who says so.

Looking takes as long as the slowest driver. So it happens in a thread, which runs only while somebody asks, and a
request takes what was seen last, with its age. What the graphics cards are, graphics_cards.py reads.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakSet

from graphics_cards import find_cards
from model_core import hardware
from model_core.hardware import Disk, Hardware, MachineMemory
from model_core.plans import Room

logger = logging.getLogger(__name__)

FRESH_S = 5.0
# A request may lose 200 ms here; the rest is for starting the thread, and for being woken on a busy machine.
PATIENCE_S = 0.15

# Where Ollama's installer for Linux lets the service keep its models; everywhere else they lie in the user's home.
_SERVICE_MODELS = Path("/usr/share/ollama/.ollama/models")


# --- disk and memory -------------------------------------------------------------------------------------------------


def ollama_disk(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Room:
    """Return the room on the disk that an Ollama on this machine keeps its models on.

    It is certain only where OLLAMA_MODELS says so or the folder is there: Ollama itself cannot be asked.
    """
    disk = read_disk(environment, home)
    return Room(free_bytes=disk.free_bytes, path=disk.path, is_certain=disk.is_certain) if disk else Room()


def read_disk(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Disk | None:
    """Return that disk with its sizes; None where nothing of its path is there."""
    said = environment.get("OLLAMA_MODELS", "").strip()
    own = (home or Path.home()) / ".ollama" / "models"
    places = [Path(said)] if said else [own, *([_SERVICE_MODELS] if sys.platform == "linux" else [])]
    there = next((place for place in places if _is_there(Path.is_dir, place)), None)
    folder = there or next(
        (parent for parent in (places[0], *places[0].parents) if _is_there(Path.exists, parent)), None
    )
    if folder is None:
        return None
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        logger.debug("disk not to be measured path=%s error=%s", folder, error)
        return Disk(path=str(folder), source=f"unknown: {folder} cannot be measured ({error.strerror})")
    return Disk(
        total_bytes=usage.total,
        free_bytes=usage.free,
        path=str(folder),
        is_certain=there is not None,
        source="OLLAMA_MODELS" if said else "Ollama's usual folder",
    )


def _is_there(look: Callable[[Path], bool], path: Path) -> bool:
    try:
        return look(path)
    except OSError as error:  # the service's folder is closed to other users on many a Linux: not to be known, then
        logger.debug("not to be looked into path=%s error=%s", path, error)
        return False


def read_memory() -> MachineMemory | None:
    """Return the machine's RAM; None where psutil cannot tell."""
    import psutil  # here, so that who only imports the manager does not wait for it

    try:
        found = psutil.virtual_memory()
    except (psutil.Error, OSError, RuntimeError) as error:
        logger.debug("memory not to be read error=%s", error)
        return None
    return MachineMemory(total_bytes=found.total, free_bytes=found.available, source="psutil")


def read_machine() -> Hardware:
    """Look at all there is, now. Takes as long as it takes."""
    memory, disk = read_memory(), read_disk()
    cards = find_cards(memory)
    return Hardware(
        gpus=cards.gpus,
        memory=memory,
        disk=disk,
        sources={
            "gpus": cards.source,
            "memory": memory.source if memory else "unknown: psutil cannot tell",
            "disk": disk.source if disk else "unknown: there is nothing where Ollama would keep its models",
        },
    )


# --- looking, without anybody waiting --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """One look at the machine, under way or done."""

    began_s: float
    began_at: str
    done: threading.Event = field(default_factory=threading.Event)


class HardwareProbe:
    """Holds what was seen last. May be asked from many threads, and on both sides of a fork.

    is_local   whether Ollama runs on this machine; where it does not, nothing is read and nothing is known
    now_text   the present moment as text
    read       looks at the machine; it may take long, or hang for ever
    """

    def __init__(
        self,
        is_local: bool,
        now_text: Callable[[], str],
        monotonic: Callable[[], float] = time.monotonic,
        read: Callable[[], Hardware] = read_machine,
    ) -> None:
        """Look at nothing yet."""
        self._is_local, self._now_text, self._monotonic, self._read = is_local, now_text, monotonic, read
        self._seen: tuple[Hardware, _Look] | None = None
        self._is_old = False
        self._start_anew()
        _probes.add(self)

    def _start_anew(self) -> None:
        """After a fork: whoever was looking is in the other process."""
        self._lock = threading.Lock()
        self._under_way: _Look | None = None

    def look(self) -> Hardware:
        """Return the machine as it is now, or as it was seen last, with the age of what is said; within 200 ms.

        There is one look at a time. One that hangs is waited for once: from then on, the last one is the answer, or
        that nothing is known yet.
        """
        if not self._is_local:
            return hardware.elsewhere()
        with self._lock:
            is_fresh = self._seen is not None and self._age_s(self._seen[1]) < FRESH_S
            if is_fresh and not self._is_old:
                return self._last_seen()
            look = self._under_way or self._begin()
        look.done.wait(max(0.0, PATIENCE_S - self._age_s(look)))
        return self._last_seen()

    def forget(self) -> None:
        """Take what was seen for old: something has just been loaded, or let go."""
        with self._lock:
            self._is_old = True

    def _age_s(self, look: _Look) -> float:
        return self._monotonic() - look.began_s

    def _last_seen(self) -> Hardware:
        if (seen := self._seen) is None:
            return hardware.unknown("the machine is being looked at").model_copy(update={"pending": True})
        found, look = seen
        return found.model_copy(
            update={"checked_at": look.began_at, "age_seconds": round(max(0.0, self._age_s(look)), 1)}
        )

    def _begin(self) -> _Look:
        self._is_old = False
        look = self._under_way = _Look(self._monotonic(), self._now_text())
        try:
            threading.Thread(target=self._run, args=(look,), name="hardware-probe", daemon=True).start()
        except RuntimeError as error:  # no more threads to be had: another request will try again
            logger.warning("hardware not looked at reason=%s", error)
            self._under_way = None
            look.done.set()
        return look

    def _run(self, look: _Look) -> None:
        try:
            found = self._read()
        except Exception as error:  # without an answer, every request would begin another look
            logger.exception("hardware not to be read")
            found = hardware.unknown(f"the machine could not be read ({error})")
        with self._lock:
            self._seen, self._under_way = (found, look), None
        look.done.set()


_probes: WeakSet[HardwareProbe] = WeakSet()


def _after_fork() -> None:
    for probe in list(_probes):
        probe._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

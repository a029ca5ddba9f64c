"""What a download would fetch, and whether there is room for it: known before the first byte."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from model_core.errors import InsufficientDisk
from model_core.fit import FitCheck
from model_core.manifests import Manifest
from model_core.records import CatalogEntry, Reason, Record

# A disk that is filled to the last byte takes the machine with it. A guess: Ollama itself looks at nothing.
ROOM_BYTES = 500_000_000

Basis = Literal["manifest", "catalogue", "unknown"]


class Room(Record):
    """The disk that Ollama writes to; free_bytes is None where it cannot be known.

    is_certain  it surely is that disk, and not only where Ollama usually writes
    """

    free_bytes: int | None = None
    path: str | None = None
    is_certain: bool = False


class DownloadPlan(Record):
    """What a download would do; sizes in bytes, None where they cannot be known.

    basis  manifest: what the registry says; catalogue: the figure of ours, which can have aged; unknown: neither
    """

    model: str
    tag: str
    quantization: str | None
    basis: Basis
    digest: str | None = Field(default=None, description="what Ollama's list will show once it is there")
    total_bytes: int | None = None
    present_bytes: int | None = None
    missing_bytes: int | None = None
    free_bytes: int | None = None
    fits_disk: bool | None = None
    disk_is_certain: bool = False
    already_installed: bool = False
    memory: dict[str, Any] = Field(default_factory=dict)
    license: str | None = None
    warnings: tuple[Reason, ...] = ()


def plan(
    model: str,
    tag: str,
    quantization: str | None,
    *,
    manifest: Manifest | None,
    present: Collection[str] = (),
    catalogue_bytes: int | None = None,
    room: Room,
    already_installed: bool = False,
    memory: dict[str, Any] | None = None,
    license: str | None = None,
    warnings: Collection[Reason] = (),
) -> DownloadPlan:
    """Return the plan of a download.

    manifest         what the registry says; None: it could not be asked, and the catalogue's figure stands in
    present          digests of blobs that Ollama holds already
    """
    total = manifest.total_bytes if manifest else catalogue_bytes
    missing = sum(layer.size_bytes for layer in manifest.missing(present)) if manifest else total
    if already_installed:
        missing = 0 if manifest is None else missing
    fits = (
        None if missing is None or room.free_bytes is None else missing + ROOM_BYTES <= room.free_bytes or missing == 0
    )
    return DownloadPlan(
        model=model,
        tag=tag,
        quantization=quantization,
        basis="manifest" if manifest else ("catalogue" if total is not None else "unknown"),
        digest=manifest.digest if manifest else None,
        total_bytes=total,
        present_bytes=None if total is None or missing is None else total - missing,
        missing_bytes=missing,
        free_bytes=room.free_bytes,
        fits_disk=fits,
        disk_is_certain=room.is_certain,
        already_installed=already_installed,
        memory=memory or {},
        license=license,
        warnings=tuple(warnings),
    )


def warnings(
    entry: CatalogEntry | None, check: FitCheck | None, manifest: Manifest | None, room: Room
) -> tuple[Reason, ...]:
    """Return what to know before a download, in words."""
    found = []
    if check is not None and not check.compatible:
        found.append(Reason(code=check.verdict.value, text=check.message, values={"need_bytes": check.need.total}))
    if manifest is None:
        text = "The registry could not be asked; the size is the catalogue's figure, if there is one."
        found.append(Reason(code="size_estimated", text=text))
    if room.free_bytes is not None and not room.is_certain:
        text = f"It is not known for sure that Ollama keeps its models on this disk ({room.path})."
        found.append(Reason(code="disk_assumed", text=text, values={"path": room.path}))
    found += [Reason(code="note", text=note) for note in (entry.notes if entry else ())]
    return tuple(found)


def check_room(planned: DownloadPlan, *, force: bool) -> None:
    """Raise InsufficientDisk where there is no room.

    force goes over a figure that may be wrong (the catalogue's size, a disk that may be another), and never over what
    the registry and the disk themselves say.
    """
    is_sure = planned.basis == "manifest" and planned.disk_is_certain
    if planned.fits_disk is False and (is_sure or not force):
        raise InsufficientDisk(planned.model, planned.missing_bytes, planned.free_bytes)

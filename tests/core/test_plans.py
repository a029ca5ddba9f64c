"""What a download would fetch, and when there is no room for it."""

from __future__ import annotations

import hashlib
import json

import pytest

from model_core.errors import InsufficientDisk
from model_core.manifests import Manifest, read_manifest
from model_core.plans import ROOM_BYTES, DownloadPlan, Room, check_room, plan

GB = 10**9
WEIGHTS, CONFIG = f"sha256:{1:064x}", f"sha256:{2:064x}"


def a_manifest(size: int = 40 * GB) -> Manifest:
    layers = [{"digest": WEIGHTS, "size": size, "mediaType": "application/vnd.ollama.image.model"}]
    return read_manifest(json.dumps({"config": {"digest": CONFIG, "size": 500}, "layers": layers}).encode())


def planned(manifest: Manifest | None = None, **changes: object) -> DownloadPlan:
    given = {"manifest": manifest, "catalogue_bytes": 43 * GB, "room": Room(free_bytes=20 * GB, is_certain=True)}
    return plan("llama3.1:70b-instruct", "llama3.1:70b-instruct-q4_K_M", "q4", **{**given, **changes})


def test_the_registrys_figures_go_before_the_catalogues():
    assert planned(a_manifest()).total_bytes == 40 * GB + 500
    assert planned(a_manifest()).basis == "manifest"
    assert planned().total_bytes == 43 * GB
    assert planned().basis == "catalogue"


def test_what_ollama_holds_already_is_not_fetched_again():
    found = planned(a_manifest(), present={WEIGHTS})

    assert (found.present_bytes, found.missing_bytes) == (40 * GB, 500)
    assert found.fits_disk


def test_without_any_figure_nothing_is_said():
    found = planned(catalogue_bytes=None)

    assert (found.total_bytes, found.missing_bytes, found.fits_disk, found.basis) == (None, None, None, "unknown")
    check_room(found, force=False)


def test_some_room_stays_on_the_disk():
    assert planned(a_manifest(GB), room=Room(free_bytes=GB + 500 + ROOM_BYTES)).fits_disk is True
    assert planned(a_manifest(GB), room=Room(free_bytes=GB + 500 + ROOM_BYTES - 1)).fits_disk is False


def test_a_model_that_does_not_fit_is_refused_with_both_figures():
    with pytest.raises(InsufficientDisk) as refused:
        check_room(planned(a_manifest()), force=False)

    assert (refused.value.need_bytes, refused.value.free_bytes) == (40 * GB + 500, 20 * GB)
    assert "40.0 GB" in str(refused.value)
    assert "20.0 GB" in str(refused.value)


@pytest.mark.parametrize(
    ("manifest", "is_certain", "goes"),
    [(True, True, False), (True, False, True), (False, True, True), (False, False, True)],
    ids=["both sure", "perhaps another disk", "perhaps another size", "nothing sure"],
)
def test_force_goes_over_a_doubtful_figure_and_never_over_a_sure_one(manifest, is_certain, goes):
    found = planned(a_manifest() if manifest else None, room=Room(free_bytes=GB, is_certain=is_certain))

    with pytest.raises(InsufficientDisk):
        check_room(found, force=False)
    if goes:
        check_room(found, force=True)
    else:
        with pytest.raises(InsufficientDisk):
            check_room(found, force=True)


def test_the_digest_is_what_the_list_will_show():
    raw = json.dumps({"config": {"digest": CONFIG, "size": 1}, "layers": []}).encode()

    assert planned(read_manifest(raw)).digest == hashlib.sha256(raw).hexdigest()

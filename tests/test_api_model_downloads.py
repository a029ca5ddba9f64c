"""Downloads over REST: the plan, and what a download is told to do."""

from __future__ import annotations

import pytest
from download_scenes import CALM, MODEL, OTHER, THIRD, held_up, pulls, standing, until
from rest_api import RestApi, problem

from model_core.plans import Room
from model_manager import ModelManager

SEVENTY_B = "llama3.1:70b-instruct"
FREE_BYTES = 20 * 10**9


@pytest.fixture
def rest(simulator, tmp_path):
    disk = Room(free_bytes=FREE_BYTES, is_certain=True)
    manager = ModelManager(simulator.url, tmp_path / "document.json", patience=CALM, disk=lambda: disk)
    yield RestApi(manager)
    manager.close()


def start(rest, model=MODEL):
    return rest.post("/download", {"model": model})["download"]["id"]


def wish(rest, download, what, body=None):
    return rest.post(f"/downloads/{download}/{what}", body or {})["download"]


def state(rest, download):
    return rest.get(f"/downloads/{download}")["download"]["state"]


def completed(rest, model=MODEL):
    return rest.post("/download", {"model": model, "wait": True})["download"]["id"]


def test_the_plan_says_what_a_download_would_do_and_does_nothing(rest, simulator):
    plan = rest.post("/download/plan", {"model": MODEL, "quantization": "q8"})

    assert plan["quantization"] == "q8"
    assert plan["basis"] == "manifest"
    assert plan["total_bytes"] == plan["missing_bytes"] + plan["present_bytes"] > 10**9
    assert (plan["free_bytes"], plan["fits_disk"], plan["already_installed"]) == (FREE_BYTES, True, False)
    assert {"memory", "license", "warnings", "tag", "digest"} <= set(plan)
    assert pulls(simulator) == 0
    assert rest.get("/downloads")["downloads"] == []


def test_the_plan_of_what_does_not_fit_says_so_and_is_no_error(rest):
    plan = rest.post("/download/plan", {"model": SEVENTY_B})

    assert plan["fits_disk"] is False
    assert plan["missing_bytes"] > plan["free_bytes"]


@pytest.mark.parametrize("more", [{}, {"force": True}, {"wait": True}])
def test_what_does_not_fit_the_disk_is_refused_before_the_first_byte(rest, simulator, more):
    body = problem(rest.ask("POST", "/download", {"model": SEVENTY_B, **more}), "insufficient_disk", 507)

    assert body["free_bytes"] == FREE_BYTES < body["need_bytes"]
    assert pulls(simulator) == 0
    assert rest.get("/downloads")["downloads"] == []


def test_a_download_is_paused_resumed_and_cancelled(rest, simulator):
    with held_up(simulator):
        download = start(rest)
        until(standing(simulator))

        assert wish(rest, download, "pause")["state"] == state(rest, download) == "paused"
        assert wish(rest, download, "resume")["state"] in ("queued", "downloading")
        assert wish(rest, download, "cancel")["state"] == state(rest, download) == "cancelled"


def test_a_paused_download_goes_on_where_it_was(rest, simulator):
    with held_up(simulator):
        download = start(rest)
        until(lambda: rest.get(f"/downloads/{download}")["download"]["downloaded_bytes"] > 0)
        kept = wish(rest, download, "pause")["downloaded_bytes"]

    assert kept > 0
    assert wish(rest, download, "resume")["downloaded_bytes"] >= kept
    until(lambda: state(rest, download) == "completed")


def test_a_waiting_download_is_moved(rest, simulator):
    with held_up(simulator):
        first = start(rest)
        until(standing(simulator))
        second, third = start(rest, OTHER), start(rest, THIRD)

        wish(rest, third, "move", {"position": 0})

        assert [job["id"] for job in rest.get("/downloads")["downloads"]] == [first, third, second]


@pytest.mark.parametrize("position", [-1, 1.5, "0", None, True])
def test_a_place_that_is_none_is_refused(rest, position):
    body = problem(rest.ask("POST", "/downloads/none/move", {"position": position}), "invalid_request", 400)

    assert body["field"] == "position"


def test_a_download_that_has_ended_is_forgotten(rest):
    download = completed(rest)

    assert rest.ask("DELETE", f"/downloads/{download}").json["download"]["id"] == download

    problem(rest.ask("GET", f"/downloads/{download}"), "download_not_found", 404)
    assert rest.get("/list?installed_only=true")["count"] == 1


@pytest.mark.parametrize("what", ["pause", "resume", "cancel", "move"])
def test_what_an_ended_download_cannot_do_is_refused_with_its_state(rest, what):
    download = completed(rest)

    answer = rest.ask("POST", f"/downloads/{download}/{what}", {"position": 0} if what == "move" else {})

    body = problem(answer, "invalid_transition", 409)
    assert body["state"] == "completed"
    assert what not in body["allowed"]


def test_a_download_under_way_is_not_forgotten(rest, simulator):
    with held_up(simulator):
        download = start(rest)
        until(standing(simulator))

        body = problem(rest.ask("DELETE", f"/downloads/{download}"), "invalid_transition", 409)

        assert {"pause", "cancel"} <= set(body["allowed"])


@pytest.mark.parametrize("what", ["pause", "resume", "cancel", "move"])
def test_a_download_that_nobody_knows_is_not_found(rest, what):
    answer = rest.ask("POST", f"/downloads/none/{what}", {"position": 0} if what == "move" else {})

    problem(answer, "download_not_found", 404)

"""The REST face on the simulated Ollama."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from download_scenes import IMPATIENT, held_up, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_api import (
    CHANGING,
    NOBODY,
    ONE_B,
    ONE_B_Q8,
    ONE_B_TAG,
    PREFIX,
    ROUTES,
    SEVENTY_B_TAG,
    STREAMS,
    THREE_B,
    THREE_B_TAG,
    UNPUBLISHED,
    RestApi,
    manager_on,
    problem,
    well,
)

from api_model_requests import MOST_EVENTS
from catalog import MODEL_CATALOG
from json_store_system import RealFileSystem
from model_core.records import GIB
from ollama_client import OllamaClient
from ollama_simulator import OllamaSimulator

# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "means"),
    [
        (f"/info/{ONE_B}", ONE_B),
        (f"/info/{ONE_B.upper()}", ONE_B),
        (f"/info/{ONE_B_TAG}", ONE_B),
        (f"/info/library%2F{ONE_B}", ONE_B),
        (f"/info/registry.ollama.ai/library/{ONE_B}", ONE_B),
        (f"/info/registry.ollama.ai%2flibrary%252F{ONE_B}", ONE_B),
        (f"/info/{ONE_B.replace(':', '%3A')}", ONE_B),
    ],
)
def test_a_name_may_stand_in_an_address_in_every_form(shared, path, means):
    assert shared.get(path)["model"]["name"] == means


@pytest.mark.parametrize("name", ["hf.co/someone/A-Model:Q4_K_M", "someone/theirs"])
def test_a_name_with_slashes_is_one_name(shared, name):
    for path in (name, name.replace("/", "%2F")):
        model = problem(shared.ask("GET", f"/info/{path}"), "model_not_found", 404)["model"]
        assert model.startswith(name)


@pytest.mark.parametrize(
    "name",
    ["a%20b", "%00", "%E3%83%A2", "%F0%9F%98%80", "%ED%A0%80", "%FF", "a" * 10_000, "%3Cb%3E", "..", "a//b", "a/"],
)
def test_what_is_no_name_is_no_name_in_an_address_either(shared, name):
    answer = shared.ask("GET", f"/info/{name}")

    assert problem(answer, answer.json["code"], answer.status_code)["code"] in ("invalid_model_name", "not_found")
    assert "<b>" not in answer.get_data(as_text=True)


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "NONSENSE"]
NOWHERE = ["", "/", "/lists", "/list/", "/info/", "/download/", "/list/of/models", "/%2e%2e/x", "/<b>"]


@pytest.mark.parametrize("path", NOWHERE)
def test_there_is_no_other_address(shared, path):
    for method in METHODS:
        problem(shared.ask(method, path), "not_found", 404)
    assert shared.ask("HEAD", path).status_code == 404


@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES}))
def test_another_method_is_refused_with_those_there_are(shared, path):
    takes = {known for known, of in ROUTES if of == path}

    for method in {*METHODS} - takes:
        answer = shared.ask(method, path)
        body = problem(answer, "method_not_allowed", 405)
        assert set(body["allow"]) == takes | {"OPTIONS"} | ({"HEAD"} if "GET" in takes else set())
        assert answer.headers["Allow"] == ", ".join(body["allow"])


@pytest.mark.parametrize("path", sorted({path for method, path in ROUTES if method == "GET"}))
def test_head_is_get_without_the_body(shared, path):
    got, head = shared.ask("GET", path), shared.ask("HEAD", path)

    assert head.status_code == got.status_code
    assert head.content_type == got.content_type
    assert head.data == b""


@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES}))
def test_options_says_what_an_address_takes(shared, path):
    answer = shared.ask("OPTIONS", path)

    takes = {known for known, of in ROUTES if of == path}
    assert set(well(answer)["allow"]) == takes | {"OPTIONS"} | ({"HEAD"} if "GET" in takes else set())
    assert answer.headers["Allow"] == ", ".join(answer.json["allow"])


def test_every_route_is_in_the_table_of_the_tests(shared):
    rules = {
        (method, re.sub("<.*?>", "*", str(rule).removeprefix(PREFIX)))
        for rule in shared.app.url_map.iter_rules()
        if str(rule).startswith(PREFIX) and rule.methods
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }

    assert rules - STREAMS == {(method, path.replace(ONE_B, "*").replace("none", "*")) for method, path in ROUTES}


# --- while Ollama is down --------------------------------------------------------------------------------------------

ANSWERED = [
    *(("GET", "/list"), ("GET", "/installed"), ("GET", f"/info/{ONE_B}"), ("GET", "/current"), ("GET", "/health")),
    *(("GET", "/statistics"), ("GET", f"/statistics?model={ONE_B}"), ("POST", "/recommend")),
    *(("POST", "/check_compatibility"), ("POST", "/compare")),
]
NOT_ANSWERED = [("POST", "/switch"), ("DELETE", "/delete"), ("POST", "/sync"), ("POST", "/download")]
WITHOUT_OLLAMA = [("GET", "/downloads"), ("POST", "/usage"), ("GET", "/export"), ("POST", "/import")]


@pytest.fixture
def left_alone(simulator, tmp_path):
    """The 1B model is there and selected; then Ollama goes away, and the program is started anew."""
    simulator.install(ONE_B_TAG)
    manager = manager_on(simulator, tmp_path)
    manager.select_model(ONE_B)
    manager.close()
    simulator.stop()
    manager = manager_on(simulator, tmp_path)
    yield RestApi(manager)
    manager.close()


@pytest.mark.parametrize(("method", "path"), ANSWERED)
def test_while_ollama_is_down_what_was_last_known_is_answered_and_marked(left_alone, method, path):
    answer = well(left_alone.ask(method, path, ROUTES.get((method, path))))

    assert answer["ollama"]["reachable"] is False
    assert answer["ollama"]["checked_at"].startswith("20")
    assert "does not answer" in answer["ollama"]["problem"]


def test_while_ollama_is_down_what_was_installed_stays_on_the_list(left_alone):
    assert left_alone.get("/installed")["models"] == [ONE_B]
    assert left_alone.get("/current")["info"]["installed"] is True


@pytest.mark.parametrize(("method", "path"), NOT_ANSWERED)
def test_while_ollama_is_down_what_needs_it_says_when_to_come_again(left_alone, method, path):
    body = {"model": ONE_B_TAG if method == "DELETE" else ONE_B} if path != "/sync" else None
    if method == "DELETE":
        left_alone.manager.import_document(b'{"models": {}, "current_model": null}', "replace")

    answer = left_alone.ask(method, path, body)

    problem(answer, "ollama_unavailable", 503)
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(("method", "path"), WITHOUT_OLLAMA)
def test_what_has_nothing_to_do_with_ollama_does_not_ask_it(simulator, tmp_path, method, path):
    manager = manager_on(simulator, tmp_path)
    manager.sync()
    manager.close()
    asked = len(simulator.requests)
    api = RestApi(manager_on(simulator, tmp_path))

    answer = api.ask(method, path, ROUTES[method, path])

    assert answer.status_code == 200
    assert answer.json["ollama"] == {"simulated": True}
    assert simulator.requests[asked:] == []
    api.manager.close()


def test_health_is_well_as_long_as_the_service_is_and_says_what_is_not(left_alone):
    health = left_alone.get("/health")

    assert (health["live"], health["ready"]) == (True, False)
    assert health["parts"]["store"]["ok"]
    assert "does not answer" in health["parts"]["ollama"]["problem"]


def test_health_answers_also_when_neither_document_nor_ollama_can_be_read(tmp_path):
    (tmp_path / "model_metadata.json").write_text('{"format": 99, "models": {}}')

    health = RestApi(manager_on(NOBODY, tmp_path)).get("/health")

    assert (health["live"], health["ready"]) == (True, False)
    assert "format 99" in health["parts"]["store"]["problem"]


# --- the demonstration says what it is -------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_on_the_simulated_ollama_every_answer_says_so(api, method, path):
    for more in ({}, {"headers": {"Host": "evil.example"}}, {"query_string": "colour=red"}):
        answer = api.ask(method, path, ROUTES[method, path], **more)

        assert answer.json["ollama"]["simulated"] is True


def test_every_line_of_progress_says_it_too(api):
    answer = api.ask("POST", "/download", {"model": ONE_B}, headers={"Accept": "application/x-ndjson"})

    assert all(line["ollama"] == {"simulated": True} for line in map(json.loads, answer.data.splitlines()))


def test_nobody_is_called_simulated_who_is_not(guarded):
    assert "ollama" not in problem(guarded().ask("GET", "/lists"), "not_found", 404)
    assert guarded().get("/list")["ollama"]["simulated"] is False


# --- models ----------------------------------------------------------------------------------------------------------

SEED_FIELDS = {
    *("name", "size", "purpose", "description", "recommended_use", "min_vram_gb", "quantization_support"),
    *("download_size_mb", "installed", "last_used", "usage_count", "avg_inference_time", "success_rate"),
}


def test_the_list_holds_what_the_seed_knew_and_what_is_true_besides(shared):
    answer = shared.get("/list")

    assert answer["count"] == len(answer["models"]) == len(MODEL_CATALOG)
    for model in answer["models"]:
        assert model.keys() >= SEED_FIELDS | {"display_name", "tags", "published", "capabilities", "memory", "license"}
    sizes = [min(model["memory"]["need_bytes"].values(), default=0) for model in answer["models"] if model["published"]]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("purpose", ["speed", "balanced", "quality", "specialized"])
def test_the_list_is_filtered_by_purpose(shared, purpose):
    found = shared.get(f"/list?purpose={purpose}")["models"]

    assert {model["name"] for model in found} == {e.name for e in MODEL_CATALOG.values() if e.purpose == purpose}


def test_the_list_is_the_same_text_until_something_changes(api, simulator):
    texts = [api.ask("GET", "/list").data for _ in range(2)]
    api.manager.record_usage(ONE_B, 1.5)
    used = api.get("/list")
    simulator.install(ONE_B_TAG)
    api.manager.sync()
    there = api.get("/list")

    assert texts[0] == texts[1]
    assert {m["name"]: m["usage_count"] for m in used["models"]}[ONE_B] == 1
    assert [m["name"] for m in there["models"] if m["installed"]] == [ONE_B]


def test_the_list_says_when_ollama_was_asked_last_also_where_nothing_has_changed(api):
    first = api.get("/list")
    api.post("/download/plan", {"model": ONE_B})  # decides on what Ollama says this moment, and changes nothing

    second = api.get("/list")

    assert second["models"] == first["models"]
    assert second["ollama"]["checked_at"] > first["ollama"]["checked_at"]


def test_a_filtered_list_is_not_taken_for_the_whole_one(api):
    whole = api.ask("GET", "/list").data

    assert api.get("/list?purpose=speed")["count"] == 2
    assert api.ask("GET", "/list").data == whole


def test_a_switch_says_what_was_before(api, simulator):
    simulator.install(ONE_B_TAG)
    simulator.install(THREE_B_TAG)

    first = api.post("/switch", {"model": ONE_B})
    second = api.post("/switch", {"model": THREE_B_TAG})

    assert (first["model"], first["previous"]) == (ONE_B, None)
    assert (second["model"], second["previous"], second["warnings"]) == (THREE_B, ONE_B, [])
    assert second["info"]["name"] == api.get("/current")["model"] == THREE_B


def test_a_switch_to_what_does_not_fit_warns_unless_it_must_fit(api, simulator):
    simulator.install(SEVENTY_B_TAG)

    done = api.post("/switch", {"model": "llama3.1:70b-instruct"})

    assert len(done["warnings"]) == 1
    assert "GiB" in done["warnings"][0]


def test_a_switch_to_another_form_points_the_name_to_it(api, simulator):
    simulator.install(ONE_B_TAG)
    simulator.install(ONE_B_Q8)

    assert api.post("/switch", {"model": ONE_B, "quantization": "q8"})["info"]["installed_quantization"] == "q8"
    assert api.post("/switch", {"model": ONE_B, "quantization": "q4"})["info"]["installed_quantization"] == "q4"


@pytest.mark.parametrize("where", ["body", "query"])
def test_a_deletion_takes_the_name_and_the_tag(api, simulator, where):
    simulator.install(ONE_B_TAG)
    api.manager.sync()

    path, body = ("/delete", {"model": ONE_B}) if where == "body" else (f"/delete?model={ONE_B}", None)
    gone = well(api.ask("DELETE", path, body))

    assert set(gone["names"]) == {ONE_B, ONE_B_TAG}
    assert gone["freed_bytes"] > 0
    assert api.get("/installed")["models"] == []


def test_a_sync_says_what_came_and_what_went(api, simulator):
    simulator.install(ONE_B_TAG)

    came = api.post("/sync")

    assert (came["installed_count"], came["added"], came["removed"]) == (1, [ONE_B], [])
    assert came["message"] == "1 model is installed."


# --- downloads -------------------------------------------------------------------------------------------------------


def ended(api: RestApi, job: dict[str, Any]) -> dict[str, Any]:
    def look() -> Any:
        shown = api.get(f"/downloads/{job['id']}?wait=5")["download"]
        return shown if shown["state"] not in ("queued", "downloading", "verifying") else None

    return until(look, "the end of the download")


def test_a_download_is_acknowledged_with_where_to_look_and_ends_with_the_model(api, simulator):
    answer = api.ask("POST", "/download", {"model": ONE_B})

    job = well(answer)["download"]
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"{PREFIX}/downloads/{job['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert (job["model"], job["tag"], job["state"]) == (ONE_B, ONE_B_TAG, "queued")
    done = ended(api, job)
    assert (done["state"], done["percent"]) == ("completed", 100.0)
    assert {model["name"] for model in simulator_tags(simulator)} == {ONE_B, ONE_B_TAG}


def simulator_tags(simulator: OllamaSimulator) -> list[dict[str, Any]]:
    return [{"name": model.name} for model in OllamaClient(simulator.url).tags()]


def test_who_asks_for_what_is_on_its_way_gets_the_same_download(api, simulator):
    with held_up(simulator):
        first = api.ask("POST", "/download", {"model": ONE_B})
        second = api.ask("POST", "/download", {"model": ONE_B_TAG})
        assert api.get("/downloads")["count"] == 1

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json["download"]["id"] == second.json["download"]["id"]
    assert first.headers["Location"] == second.headers["Location"]


def test_what_is_there_is_answered_at_once(api, simulator):
    simulator.install(ONE_B_TAG)

    answer = api.ask("POST", "/download", {"model": ONE_B})

    assert answer.status_code == 200
    assert "Location" not in answer.headers
    job = well(answer)["download"]
    assert (job["already_installed"], job["state"], job["percent"]) == (True, "completed", 100.0)
    assert ONE_B in api.get("/installed")["models"]


def test_who_waits_gets_the_answer_of_old_when_the_model_is_there(api):
    answer = api.ask("POST", "/download", {"model": ONE_B, "wait": True})

    assert answer.status_code == 200
    assert well(answer)["message"] == f"{ONE_B} is installed."
    assert answer.json["model"] == ONE_B
    assert answer.json["download"]["state"] == "completed"


def test_progress_comes_line_by_line_and_the_last_line_is_the_end(api):
    answer = api.ask("POST", "/download", {"model": ONE_B}, headers={"Accept": "application/x-ndjson"})

    lines = [json.loads(line) for line in answer.data.splitlines()]
    assert (answer.status_code, answer.content_type) == (200, "application/x-ndjson")
    assert all(isinstance(line, dict) for line in lines)
    assert [line["state"] == "completed" for line in lines] == [False] * (len(lines) - 1) + [True]
    percents = [line["percent"] for line in lines if line["percent"] is not None]
    assert percents == sorted(percents)
    assert len({line["id"] for line in lines}) == 1


def test_progress_of_what_is_there_is_one_line(api, simulator):
    simulator.install(ONE_B_TAG)

    answer = api.ask("POST", "/download", {"model": ONE_B}, headers={"Accept": "application/x-ndjson"})

    assert json.loads(answer.data)["already_installed"] is True


def test_progress_of_what_fails_ends_with_the_reason(simulator, tmp_path):
    simulator.set_fault("disk_full", at_bytes=1000)
    api = RestApi(manager_on(simulator, tmp_path))

    answer = api.ask("POST", "/download", {"model": ONE_B}, headers={"Accept": "application/x-ndjson"})

    last = json.loads(answer.data.splitlines()[-1])
    assert last["state"] == "failed"
    assert last["error"]["code"] == "insufficient_disk"
    api.manager.close()


def test_hanging_up_does_not_stop_a_download(api, simulator):
    with held_up(simulator):
        answer = api.ask(
            "POST", "/download", {"model": ONE_B}, headers={"Accept": "application/x-ndjson"}, buffered=False
        )
        job = json.loads(next(iter(answer.response)))
        answer.close()

    assert ended(api, job)["state"] == "completed"


def test_a_look_may_wait_for_something_newer(api, simulator):
    with held_up(simulator):
        job = api.post("/download", {"model": ONE_B})["download"]
        path = f"/downloads/{job['id']}"
        newer = api.get(f"{path}?since={job['version']}&wait=20")["download"]
        assert newer["version"] > job["version"]
        # Nothing newer comes while nothing moves; then the look returns what there is.
        still = api.get(f"{path}?since=1000000&wait=0.05")["download"]
        assert still["state"] == "downloading"

    assert ended(api, job)["state"] == "completed"
    # What has ended is never waited for.
    assert api.get(f"{path}?since=1000000&wait=60")["download"]["state"] == "completed"


def test_nobody_sees_a_hundred_percent_of_what_is_not_on_record_as_done(api, simulator):
    lock = RealFileSystem().lock(Path(f"{api.manager.store.path}.lock"))
    simulator.set_fault("slow_answer", endpoint="/api/copy", seconds=0.3, times=1)
    path = f"/downloads/{api.post('/download', {'model': ONE_B})['download']['id']}"
    shown = until(lambda: (job := api.get(path)["download"])["phase"] == "naming" and job, "the copy to begin")
    until(lock.taken, "the document to be ours")

    newest = api.get(f"{path}?since={shown['version']}&wait=0.6")["download"]

    assert newest["percent"] < 100
    lock.release()
    lock.close()
    assert ended(api, newest)["percent"] == 100.0


def test_downloads_are_listed_in_the_order_in_which_they_were_asked_for(api, simulator):
    with held_up(simulator):
        for model in (ONE_B, THREE_B):
            api.post("/download", {"model": model})
        listed = api.get("/downloads")

    assert [job["model"] for job in listed["downloads"]] == [ONE_B, THREE_B]
    assert listed["count"] == 2


def test_a_download_that_stands_still_says_why(simulator, tmp_path):
    simulator.set_fault("registry_refused")
    api = RestApi(manager_on(simulator, tmp_path, patience=IMPATIENT))

    job = ended(api, api.post("/download", {"model": ONE_B})["download"])

    assert job["state"] == "failed"
    assert problem(api.ask("POST", "/download", {"model": ONE_B, "wait": True}), job["error"]["code"], 502)
    api.manager.close()


# --- advice and statistics -------------------------------------------------------------------------------------------


def test_a_recommendation_says_what_it_counted_on(shared):
    free = shared.post("/recommend")
    said = shared.post("/recommend", {"available_vram_gb": 8, "priority": "balanced"})

    assert free["recommended_model"] == said["recommended_model"] == "llama3.1:8b-instruct"
    assert (free["criteria"]["source"], said["criteria"]["source"]) == ("probe", "caller")
    assert free["criteria"]["available_vram_gb"] == 8.0
    assert free["criteria"]["machine"]["gpu"] == "Simulated card"
    assert all(set(reason) >= {"code", "text", "values"} for reason in said["reasons"])


def test_the_criteria_of_an_answer_can_be_sent_back_changed_and_nothing_happens(shared):
    before = shared.manager.store.read()
    answer = shared.post("/recommend", {"priority": "quality"})

    same = shared.post("/recommend", {"criteria": answer["criteria"]})
    larger = shared.post("/recommend", {"criteria": {**answer["criteria"], "available_vram_gb": 48}})

    assert same["recommended_model"] == answer["recommended_model"]
    assert larger["recommended_model"] == "llama3.1:70b-instruct"
    assert shared.manager.store.read() is before


def test_the_criteria_of_a_machine_without_a_card_are_answered_about_one(shared):
    criteria = {"available_vram_gb": 55, "source": "processor", "priority": "quality"}
    answer = shared.post("/recommend", {"criteria": criteria})

    same = shared.post("/recommend", {"criteria": answer["criteria"]})

    assert answer["recommended_model"] == same["recommended_model"] == "mixtral:8x7b-instruct"
    assert answer["criteria"]["source"] == same["criteria"]["source"] == "processor"
    assert "55 GiB of memory that are available" in answer["reasons"][1]["text"]
    assert any(
        "on the processor, slowly. 55 GiB of RAM were counted." in reason["text"] for reason in answer["reasons"]
    )


def test_the_criteria_of_a_problem_can_be_sent_back_too_but_not_with_two_figures(shared):
    refused = problem(shared.ask("POST", "/recommend", {"available_vram_gb": 0.5}), "no_suitable_model", 404)

    again = shared.ask("POST", "/recommend", {"criteria": refused["criteria"]})
    larger = shared.post("/recommend", {"criteria": {**refused["criteria"], "available_bytes": 8 * 2**30}})
    two = shared.ask("POST", "/recommend", {"criteria": {**refused["criteria"], "available_vram_gb": 8}})

    assert problem(again, "no_suitable_model", 404)["criteria"] == refused["criteria"]
    assert larger["recommended_model"] == "llama3.1:8b-instruct"
    assert problem(two, "invalid_request", 400)["field"] == "criteria.available_bytes"
    for impossible in (-5, 10**30, 10**400):
        wrong = shared.ask("POST", "/recommend", {"criteria": {"available_bytes": impossible}})
        assert problem(wrong, "invalid_request", 400)["field"] == "criteria.available_bytes"


def test_a_what_if_names_what_it_does_not_know_and_stands_alone(shared):
    unknown = shared.ask("POST", "/recommend", {"criteria": {"colour": "red"}})
    twice = shared.ask("POST", "/recommend", {"criteria": {"priority": "speed"}, "priority": "quality"})

    assert problem(unknown, "invalid_request", 400)["field"] == "criteria.colour"
    assert problem(twice, "invalid_request", 400)["field"] == "criteria"


def test_what_is_not_recommended_says_why_and_what_would_change_that(shared):
    answer = shared.post("/recommend", {"available_vram_gb": 5.4})

    eight = next(one for one in answer["not_chosen"] if one["model"] == "llama3.1:8b-instruct")
    assert eight["reason"]["code"] in ("spills", "too_large")
    assert {way["code"] for way in eight["ways"]} >= {"shorter_context", "free_memory"}
    shorter = next(way["values"] for way in eight["ways"] if way["code"] == "shorter_context")
    again = shared.post("/recommend", {"available_vram_gb": 5.4, "context_tokens": shorter["context_tokens"]})
    assert again["recommended_model"] == "llama3.1:8b-instruct"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kv_type": "q2"}, "kv_type"),
        ({"parallel": 0}, "parallel"),
        ({"parallel": 2.5}, "parallel"),
        ({"context_tokens": 10**12}, "context_tokens"),
        ({"available_vram_gb": -1}, "available_vram_gb"),
        ({"available_vram_gb": 1e300}, "available_vram_gb"),
    ],
)
def test_an_absurd_figure_is_refused_by_its_name(shared, body, field):
    for path in ("/recommend", "/check_compatibility"):
        answer = shared.ask("POST", path, {**body, **({"model": ONE_B} if path != "/recommend" else {})})
        assert problem(answer, "invalid_request", 400)["field"] == field


def test_a_check_shows_what_another_setup_of_ollama_would_change(shared):
    asked = {"model": "llama3.1:8b-instruct", "context_tokens": 32_768}
    plain = shared.post("/check_compatibility", asked)
    smaller = shared.post("/check_compatibility", {**asked, "kv_type": "q8_0"})
    several = shared.post("/check_compatibility", {**asked, "parallel": 4})

    assert smaller["need"]["total"] < plain["need"]["total"] < several["need"]["total"]
    assert "smaller_cache" in {way["code"] for way in plain["ways"]}


def test_the_hardware_says_who_says_so_and_what_advice_counts_on(shared):
    machine = shared.get("/hardware")

    assert [gpu["name"] for gpu in machine["gpus"]] == ["Simulated card"]
    assert machine["gpus"][0]["total_bytes"] == machine["gpus"][0]["free_bytes"] == 8 * GIB
    assert machine["memory"] is None and machine["disk"] is None
    assert machine["sources"]["memory"].startswith("unknown: ")
    assert (machine["available"]["available_bytes"], machine["available"]["source"]) == (8 * GIB, "probe")


# --- what is in memory -----------------------------------------------------------------------------------------------


def test_a_load_says_where_the_model_lies_and_what_ollama_counted(api, simulator):
    simulator.install(ONE_B_TAG)

    done = api.post("/load", {"model": ONE_B, "keep_alive": "10m"})
    running = api.get("/running")

    assert (done["model"], done["gpu_share"], done["was_loaded"], done["warnings"]) == (ONE_B, 1.0, False, [])
    assert done["load_seconds"] >= 0
    assert (running["count"], running["models"][0]["name"]) == (1, ONE_B)
    assert running["models"][0]["error_percent"] is not None


def test_a_load_can_be_watched_line_by_line(api, simulator):
    simulator.install(ONE_B_TAG)

    answer = api.ask("POST", "/load", {"model": ONE_B}, headers={"Accept": "application/x-ndjson"})
    *phases, done = map(json.loads, answer.get_data().splitlines())

    assert [line["phase"] for line in phases][-1] == "reading how much memory it took"
    assert all(line["seconds"] >= 0 for line in phases)
    assert (done["success"], done["model"], done["ollama"]) == (True, ONE_B, {"simulated": True})


def test_a_load_that_fails_says_why_in_its_last_line(api):
    answer = api.ask("POST", "/load", {"model": ONE_B}, headers={"Accept": "application/x-ndjson"})

    last = json.loads(answer.get_data().splitlines()[-1])
    assert (answer.status_code, last["code"], last["status"]) == (200, "model_not_installed", 409)


def test_a_wait_without_news_says_how_long_it_has_lasted(api, simulator):
    simulator.install(ONE_B_TAG)
    simulator.set_fault("slow_load", seconds=1.2, times=1)

    answer = api.ask("POST", "/load", {"model": ONE_B}, headers={"Accept": "application/x-ndjson"})
    *phases, _ = map(json.loads, answer.get_data().splitlines())

    loading = [line["seconds"] for line in phases if line["phase"] == "loading"]
    assert len(loading) == 2 and loading[1] - loading[0] >= 0.9


def test_what_is_not_there_is_not_loaded(shared):
    problem(shared.ask("POST", "/load", {"model": THREE_B}), "model_not_installed", 409)
    problem(shared.ask("POST", "/unload", {"model": THREE_B}), "model_not_installed", 409)
    for keep_alive in ("5", True, "soon", [1]):
        answer = shared.ask("POST", "/load", {"model": ONE_B, "keep_alive": keep_alive})
        assert problem(answer, "invalid_request", 400)["field"] == "keep_alive"


def test_an_unload_frees_the_memory(api, simulator):
    simulator.install(ONE_B_TAG)
    api.post("/load", {"model": ONE_B})

    done = api.post("/unload", {"model": ONE_B})
    again = api.post("/unload", {"model": ONE_B})

    assert (done["was_loaded"], done["is_gone"]) == (True, True)
    assert again["message"] == f"{ONE_B} was not loaded."
    assert api.get("/running")["models"] == []


def test_after_twenty_failures_of_the_first_something_else_is_said_and_why(api, simulator):
    simulator.install("llama3.1:8b-instruct-q4_K_M")
    api.post("/sync")
    first = api.post("/recommend", {})
    failure = {"model": first["recommended_model"], "inference_time": 1, "success": False}

    assert api.post("/usage", [failure] * 20)["recorded"] == 20
    then = api.post("/recommend", {})

    assert then["recommended_model"] != first["recommended_model"] == "llama3.1:8b-instruct"
    assert then["reasons"][0] == {
        "code": "passed_over",
        "text": "llama3.1:8b-instruct (4-bit) would suit better, but failed here 20 of 20 times.",
        "values": {
            "model": "llama3.1:8b-instruct", "quantization": "q4", "failed_quantization": "q4", "failure_count": 20,
            "use_count": 20,
        },
    }  # fmt: skip


def test_the_doctor_says_what_is_well_and_what_to_do(api, simulator):
    fresh = api.get("/doctor")
    simulator.install(ONE_B_TAG)
    api.post("/sync")
    api.post("/switch", {"model": ONE_B})
    after = api.get("/doctor")

    assert (fresh["well"], after["well"], after["reachable"]) == (False, True, True)
    assert [found["subject"] for found in fresh["findings"] if found["ok"] is False] == ["Current model"]
    advice = next(found for found in after["findings"] if found["subject"] == "Advice")
    assert "llama3.1:8b-instruct (4-bit) would be recommended now." in advice["text"]


def test_nothing_that_suits_says_what_would(shared):
    body = problem(shared.ask("POST", "/recommend", {"available_vram_gb": 0.5}), "no_suitable_model", 404)

    assert body["criteria"]["priority"] == "balanced"
    assert body["smallest_need_bytes"] > GIB / 2


def test_only_models_that_see_are_recommended_to_who_needs_eyes(shared):
    answer = shared.post("/recommend", {"needs": ["vision"]})

    assert "vision" in answer["info"]["capabilities"]


def test_a_check_gives_the_parts_of_the_need(shared):
    answer = shared.post("/check_compatibility", {"model": ONE_B, "available_vram_gb": 4})

    parts = answer["need"]
    assert (answer["compatible"], answer["verdict"], answer["source"]) == (True, "fits", "caller")
    assert parts["weights"] + parts["kv_cache"] + parts["graph"] + parts["overhead"] == parts["total"]
    assert answer["margin_bytes"] == 4 * GIB - parts["total"]


def test_usage_counts_one_or_many(api):
    api.post("/usage", {"model": ONE_B, "inference_time": 1.5})
    api.post("/usage", [{"model": ONE_B, "inference_time": 2.5}, {"model": ONE_B, "success": False}])
    api.post("/usage", [])

    statistics = api.get(f"/statistics?model={ONE_B}")["statistics"]
    assert (statistics["usage_count"], statistics["success_count"], statistics["avg_inference_time"]) == (3, 2, 2.0)


def test_statistics_tell_how_fast_how_good_for_what_and_when(api):
    told = {"model": ONE_B, "inference_time": 2.0, "tokens": 90, "quality_score": 4.5, "task": "tags"}
    assert api.post("/usage", told)["recorded"] == 1
    assert api.post("/usage", [{**told, "task": "rating"}, told])["recorded"] == 2

    statistics = api.get(f"/statistics?model={ONE_B}")["statistics"]
    assert [statistics[name] for name in ("p50", "p95", "p99", "quantile_count")] == [2.0, 2.0, 2.0, 3]
    assert [statistics[name] for name in ("tokens_per_second", "speed_count")] == [45.0, 3]
    assert [statistics[name] for name in ("avg_quality_score", "quality_count")] == [4.5, 3]
    assert {task: figures["usage_count"] for task, figures in statistics["by_task"].items()} == {"tags": 2, "rating": 1}
    (day,) = statistics["by_day"]
    assert (day["date"], day["usage_count"], day["tokens_per_second"]) == (statistics["last_used"][:10], 3, 45.0)


@pytest.mark.parametrize(
    ("event", "code", "status"),
    [
        ({"model": "nobody/knows:it"}, "model_not_found", 404),
        ({"model": ONE_B, "inference_time": -1}, "invalid_request", 400),
        ({"model": ONE_B, "success": "yes"}, "invalid_request", 400),
        ({"model": ONE_B, "inference_time": 0.001, "tokens": 10_000_000}, "invalid_request", 400),
        ({"model": ONE_B, "quality_score": 6}, "invalid_request", 400),
        ({"model": ONE_B, "task": " "}, "invalid_request", 400),
        ({"inference_time": 1}, "invalid_request", 400),
        (7, "invalid_request", 400),
    ],
)
def test_of_several_events_with_a_bad_one_none_is_recorded(api, event, code, status):
    problem(api.ask("POST", "/usage", [{"model": ONE_B}, event, {"model": ONE_B}]), code, status)

    assert api.get(f"/statistics?model={ONE_B}")["statistics"]["usage_count"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("inference_time", "fast"), ("inference_time", -1), ("tokens", 0.5), ("quality_score", 5.1), ("task", "")],
)
def test_a_bad_event_is_named_by_its_place(api, field, value):
    answer = api.ask("POST", "/usage", [{"model": ONE_B}, {"model": ONE_B, field: value}])

    assert problem(answer, "invalid_request", 400)["field"] == f"1.{field}"


def test_more_than_a_thousand_events_are_refused(api):
    events = [{"model": ONE_B}] * (MOST_EVENTS + 1)

    assert "1,001 events" in problem(api.ask("POST", "/usage", events), "invalid_request", 400)["error"]
    assert api.get(f"/statistics?model={ONE_B}")["statistics"]["usage_count"] == 0


def test_models_are_compared_side_by_side(api):
    api.post("/usage", [{"model": ONE_B, "inference_time": 1.0 + place / 100} for place in range(9)])
    api.post("/usage", [{"model": THREE_B, "inference_time": 3.0 + place / 100} for place in range(8)])

    answer = api.post("/compare", {"models": [THREE_B, ONE_B], "metrics": ["inference_time", "usage_count"]})

    assert (answer["models"], answer["metrics"]) == ([THREE_B, ONE_B], ["inference_time", "usage_count"])
    assert [row["model"] for row in answer["rows"]] == [THREE_B, ONE_B]
    assert [row["figures"]["inference_time"]["size"] for row in answer["rows"]] == [8, 9]
    judgement = answer["winners"]["inference_time"]
    assert (judgement["winner"], judgement["word"]) == (ONE_B, "real")
    assert judgement["sizes"] == {THREE_B: 8, ONE_B: 9}
    assert f"{ONE_B} beats {THREE_B} in 100 of 100 pairs" in judgement["text"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "models"),
        ({"models": [ONE_B]}, "models"),
        ({"models": [ONE_B] * 11}, "models"),
        ({"models": ONE_B}, "models"),
        ({"models": [ONE_B, 7]}, "models.1"),
        ({"models": [ONE_B, ONE_B_TAG]}, "models.1"),
        ({"models": [ONE_B, THREE_B], "metrics": ["beauty"]}, "metrics.0"),
        ({"models": [ONE_B, THREE_B], "metrics": "quality_score"}, "metrics"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_its_field(shared, body, field):
    assert problem(shared.ask("POST", "/compare", body), "invalid_request", 400)["field"] == field


def test_a_model_that_nobody_knows_is_not_compared(shared):
    problem(shared.ask("POST", "/compare", {"models": [ONE_B, "nobody/knows:it"]}), "model_not_found", 404)
    problem(shared.ask("POST", "/compare", {"models": [ONE_B, "a b"]}), "invalid_model_name", 400)


# --- care of the data ------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path):
    """What another machine exported: three uses of the 1B model."""
    (tmp_path / "elsewhere").mkdir()
    manager = manager_on(NOBODY, tmp_path / "elsewhere")
    manager.record_events([{"model": ONE_B, "inference_time": 1.0}] * 3)
    return json.dumps(manager.export_document()).encode()


def test_an_export_is_a_file_to_keep(shared):
    answer = shared.ask("GET", "/export")

    assert re.fullmatch(
        r'attachment; filename="model_metadata-\d{4}-\d\d-\d\d\.json"', answer.headers["Content-Disposition"]
    )
    assert answer.json.keys() >= {"current_model", "models", "last_updated", "exported_at", "checksum"}


def test_an_export_is_taken_over_elsewhere_and_once(api, exported):
    tried = api.post("/import?dry_run=true", exported)
    before = api.get(f"/statistics?model={ONE_B}")["statistics"]["usage_count"]
    first, again = api.post("/import", exported), api.post("/import?mode=merge", exported)

    assert (tried["changed"], tried["dry_run"], before) == (True, True, 0)
    assert (first["changed"], first["updated"], first["usage_after"]) == (True, [ONE_B], 3)
    assert again["changed"] is False
    assert api.get(f"/statistics?model={ONE_B}")["statistics"]["usage_count"] == 3


def test_an_import_in_place_of_what_was_there_forgets_it(api, exported):
    api.post("/usage", [{"model": THREE_B}] * 5)

    done = api.post("/import?mode=replace", exported)

    assert (done["mode"], done["usage_before"], done["usage_after"]) == ("replace", 5, 3)
    assert api.get(f"/statistics?model={THREE_B}")["statistics"]["usage_count"] == 0


def test_our_own_export_comes_back_also_from_the_demonstration(api):
    api.post("/usage", {"model": ONE_B})

    assert api.post("/import", api.ask("GET", "/export").data)["changed"] is False


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw.replace(b'"usage_count": 3', b'"usage_count": 4', 1),
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"[" * (1024 * 1024),
        lambda raw: b"[]",
        lambda raw: b"null",
        lambda raw: b'{"current_model": null}',
        lambda raw: b'{"models": []}',
        lambda raw: b'{"models": {"\\ud800": {}}}',
        lambda raw: b'{"format": 99, "models": {}}',
    ],
)
def test_what_is_no_export_or_a_damaged_one_changes_nothing(api, exported, spoil):
    revision = api.manager.store.read().revision

    answer = api.ask("POST", "/import", spoil(exported))

    assert problem(answer, "invalid_request", 400)["field"] in ("checksum", "document")
    assert api.manager.store.read().revision == revision


def test_an_import_brings_no_way_around_the_list_of_registries(api, simulator):
    entry = MODEL_CATALOG[ONE_B].model_dump(mode="json") | {"name": "mine"}
    entry["variants"] = [{"quantization": "q4", "tag": "evil.example/u/m:t", "size_bytes": 1}]
    api.post("/import", {"models": {}, "custom": {"mine": entry}})

    answer = api.ask("POST", "/download", {"model": "mine"})

    assert problem(answer, "registry_not_allowed", 400)["registry"] == "evil.example"
    assert "/api/pull" not in {request.path for request in simulator.requests}


# --- old callers -----------------------------------------------------------------------------------------------------


def test_old_callers_find_the_shapes_they_know(api):
    assert api.ask("GET", "/current").json["success"] is False
    assert isinstance(api.ask("GET", "/current").json["error"], str)
    assert api.post("/download", {"model": ONE_B, "wait": True}).keys() >= {"success", "message", "model"}
    assert api.post("/switch", {"model": ONE_B}).keys() >= {"success", "message", "model"}
    assert api.get("/list").keys() >= {"success", "models", "count"}
    assert api.get("/installed")["models"] == [ONE_B]
    assert api.get("/current")["info"]["name"] == api.get("/current")["model"] == ONE_B
    assert api.get(f"/info/{ONE_B}")["model"].keys() >= SEED_FIELDS
    assert api.post("/sync").keys() >= {"success", "message", "installed_count"}
    recommended = api.post("/recommend", {"available_vram_gb": 8.0, "priority": "balanced"})
    assert recommended.keys() >= {"recommended_model", "info", "criteria"}
    assert recommended["criteria"].items() >= {"available_vram_gb": 8.0, "priority": "balanced"}.items()
    checked = api.post("/check_compatibility", {"model": ONE_B, "available_vram_gb": 8.0})
    assert checked.keys() >= {"compatible", "message", "model", "available_vram_gb"}
    one = api.get(f"/statistics?model={ONE_B}")
    assert one["statistics"].keys() >= {
        *("name", "usage_count", "last_used", "avg_inference_time", "success_rate", "installed")
    }
    everything = api.get("/statistics")
    assert everything["count"] == len(everything["statistics"])


@pytest.mark.parametrize(
    ("path", "body", "way"),
    [
        ("/export", {"output_file": "/tmp/export.json"}, "GET this address"),
        ("/export", None, "GET this address"),
        ("/import", {"input_file": "/etc/passwd"}, "as the body"),
    ],
)
def test_a_path_on_the_server_is_refused_with_the_way_that_works(shared, path, body, way):
    answer = problem(shared.ask("POST", path, body), "invalid_request", 400)

    assert way in answer["remedy"]
    assert "passwd" not in str(answer)


# --- whatever comes --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([ONE_B, THREE_B_TAG, UNPUBLISHED, "nobody/knows:it", "hf.co/a/b:c"]) | st.text()
NUMBERS = st.integers() | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | NAMES
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
FIELDS_OF = {
    "/switch": ("model", "quantization", "require_fit", "load"),
    "/download": ("model", "quantization", "wait", "force"),
    "/download/plan": ("model", "quantization"),
    "/recommend": ("available_vram_gb", "priority", "context_tokens", "needs", "installed_only"),
    "/check_compatibility": ("model", "quantization", "available_vram_gb", "context_tokens"),
    "/usage": ("model", "inference_time", "success", "tokens", "quality_score", "task"),
    "/compare": ("models", "metrics"),
    "/import": ("models", "custom", "current_model", "format", "installation_id", "checksum", "last_updated"),
    "/downloads/none/move": ("position",),
}
LIKELY = {
    "model": NAMES,
    "quantization": st.sampled_from(["q4", "q8", "q9"]),
    "priority": st.sampled_from(["speed", "balanced", "quality", "specialized"]),
    "models": st.dictionaries(NAMES, st.dictionaries(st.sampled_from(["name", "history", "usage_count"]), VALUES)),
    **dict.fromkeys(("available_vram_gb", "inference_time", "quality_score"), NUMBERS),
    **dict.fromkeys(("context_tokens", "position", "format", "tokens"), st.integers()),
    **dict.fromkeys(("require_fit", "load", "wait", "force", "installed_only", "success"), st.booleans()),
}


@st.composite
def posted(draw: st.DrawFn) -> tuple[str, Any]:
    """A route, and a body that has something to do with it, more or less."""
    path = draw(st.sampled_from([path for method, path in ROUTES if method == "POST"]))
    fields = {name: LIKELY.get(name, VALUES) | VALUES for name in FIELDS_OF.get(path, ())}
    likely = st.fixed_dictionaries({}, optional=fields)
    return path, draw(likely | likely | st.lists(likely, max_size=3) | VALUES)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request_of=posted())
def test_whatever_is_posted_is_answered_with_an_object_that_says_whether_it_went_well(api, request_of):
    path, body = request_of

    answer = api.ask("POST", path, json.dumps(body).encode())

    assert answer.status_code < 500, answer.json
    assert answer.get_json(force=True)["success"] is (answer.status_code < 300)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["POST", "DELETE"]), path=st.sampled_from([path for _, path in CHANGING]), raw=st.binary()
)
def test_whatever_bytes_come_are_answered_with_an_object(api, method, path, raw):
    answer = api.ask(method, path, raw)

    assert answer.status_code < 500, answer.json
    assert answer.get_json(force=True)["success"] is (answer.status_code < 300)

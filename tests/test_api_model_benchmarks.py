"""Benchmarks over REST: asked for in the background, told as JSON, as a table and as events, and what is refused."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

import pytest
from benchmark_scenes import EMBEDDING, JPEG, ONE, ONE_TAG, PNG, SEEING, THREE, counted, generations, install, loads
from download_scenes import IMPATIENT, until
from rest_api import RestApi, problem

from model_core import benchmarks
from model_core.benchmark_records import DEFAULT_ANSWER_TOKENS, DEFAULT_SEED
from model_core.benchmark_results import FEWEST_TOKENS_FOR_A_RATE
from model_core.judgement import least_of_rounds
from model_manager import ModelManager

ROOT = Path(__file__).resolve().parent.parent

IMAGE = base64.b64encode(JPEG).decode()


@pytest.fixture
def rest(simulator, tmp_path):
    install(simulator)
    manager = ModelManager(simulator.url, tmp_path / "document.json", patience=IMPATIENT)
    yield RestApi(manager)
    simulator.clear_faults()
    manager.close()


def asked_for(rest, **wish):
    """Ask for a benchmark; return the answer."""
    return rest.ask("POST", "/benchmarks", {"models": [ONE], "prompts": ["Rate it."], "runs": 1, **wish})


def show(rest, job_id, query=""):
    return rest.get(f"/benchmarks/{job_id}{query}")["benchmark"]


def done(rest, **wish):
    job_id = asked_for(rest, **wish).json["benchmark"]["id"]
    return until(lambda: (now := show(rest, job_id))["state"] not in ("queued", "running") and now)


def held_up(rest, simulator, **wish):
    """A benchmark that stands still while it loads its first model."""
    simulator.set_fault("slow_load", seconds=60)
    job_id = asked_for(rest, **wish).json["benchmark"]["id"]
    until(lambda: loads(simulator))
    return job_id


def test_it_is_accepted_with_the_address_where_it_can_be_watched(rest):
    answer = asked_for(rest)

    assert answer.status_code == 202
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Location"].endswith(f"/benchmarks/{answer.json['benchmark']['id']}")
    assert rest.client.get(answer.headers["Location"]).json["benchmark"]["models"][0]["name"] == ONE
    assert answer.json["message"] == "1 model to measure, 1 answer: one benchmark runs at a time."


def test_what_was_found_is_told_whole(rest):
    job = done(rest, models=[ONE, THREE], prompts=["one", "two"], runs=2)

    assert job["state"] == "completed"
    assert len(job["results"]) == job["done"] == 8
    assert [row["model"] for row in job["summary"]] == [ONE, THREE]
    for row in job["summary"]:
        assert set(row["tokens_per_second"]) == {"mean", "median", "p95", "min", "max", "count"}
    assert job["simulated"] is True


def test_the_list_leaves_the_single_answers_out(rest):
    job = done(rest)

    listed = rest.get("/benchmarks")

    assert listed["count"] == 1
    assert listed["benchmarks"][0]["id"] == job["id"]
    assert not {"results", "prompts", "loads"} & set(listed["benchmarks"][0])


def test_the_table_is_a_file_to_keep(rest):
    job = done(rest, runs=3)

    answer = rest.ask("GET", f"/benchmarks/{job['id']}?format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.get_data(as_text=True), newline="")))

    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="benchmark-{job["id"]}.csv"'
    assert [(row["round"], row["model"], row["simulated"]) for row in rows] == [
        ("1", ONE, "true"),
        ("2", ONE, "true"),
        ("3", ONE, "true"),
    ]


def test_photos_come_as_base64_and_reach_the_model_as_they_are(rest, simulator):
    job = done(rest, models=[SEEING], images=[IMAGE, base64.b64encode(PNG).decode()])

    assert [result["error"] for result in job["results"]] == [None, None]
    assert {body["images"][0] for body in generations(simulator)} == {IMAGE, base64.b64encode(PNG).decode()}


def test_what_is_wished_of_the_answers_is_done(rest, simulator):
    rest.manager.client.load(ONE_TAG)
    job = done(rest, answer_tokens=20, context_tokens=2048, seed=9)

    assert (job["answer_tokens"], job["context_tokens"], job["seed"]) == (20, 2048, 9)
    (body,) = counted(simulator, rest.manager.benchmark(job["id"]))
    assert body["options"] == {"temperature": 0, "seed": 9, "num_predict": 20, "num_ctx": 2048}


def test_who_waits_hears_the_next_change(rest, simulator):
    job_id = held_up(rest, simulator)
    version = show(rest, job_id)["version"]

    same = show(rest, job_id, f"?since={version}&wait=0.05")
    rest.post(f"/benchmarks/{job_id}/cancel")
    newer = show(rest, job_id, f"?since={version}&wait=20")

    assert same["version"] == version
    assert newer["state"] == "cancelled"


def test_it_is_cancelled_and_then_forgotten(rest, simulator):
    job_id = held_up(rest, simulator)

    refused = problem(rest.ask("DELETE", f"/benchmarks/{job_id}"), "invalid_transition", 409)
    assert (refused["benchmark"], refused["allowed"]) == (job_id, ["cancel"])
    assert rest.post(f"/benchmarks/{job_id}/cancel")["benchmark"]["state"] == "cancelled"
    assert rest.ask("DELETE", f"/benchmarks/{job_id}").json["benchmark"]["id"] == job_id
    problem(rest.ask("GET", f"/benchmarks/{job_id}"), "benchmark_not_found", 404)


def test_an_interrupted_one_goes_on(rest, simulator, tmp_path):
    job_id = held_up(rest, simulator)
    rest.manager.close()
    simulator.clear_faults()
    next_one = RestApi(ModelManager(simulator.url, tmp_path / "document.json"))

    assert show(next_one, job_id)["state"] == "interrupted"
    assert next_one.post(f"/benchmarks/{job_id}/resume")["benchmark"]["state"] == "queued"
    until(lambda: show(next_one, job_id)["state"] == "completed")
    next_one.manager.close()


def test_a_model_that_is_being_measured_is_not_deleted(rest, simulator):
    job_id = held_up(rest, simulator)

    refused = problem(rest.ask("DELETE", "/delete", {"model": ONE}), "model_in_use", 409)

    assert refused["benchmark"] == job_id


def test_events_tell_benchmarks_too(rest):
    job = done(rest)
    lines = rest.ask("GET", "/events", buffered=False)

    text = b""
    for chunk in lines.response:
        text += chunk
        if b"data:" in text:
            break
    lines.close()

    event = json.loads(text.split(b"data: ")[1].split(b"\n")[0])
    assert b"event: benchmark\n" in text
    assert (event["type"], event["data"]["benchmark"]["id"]) == ("benchmark", job["id"])


def test_the_limits_are_those_that_the_documentation_states():
    text = " ".join((ROOT / "docs" / "api.md").read_text("utf-8").partition("## Benchmarks")[2].split())

    for stated in (
        f"`models` are 1 to {benchmarks.MOST_MODELS} installed ones",
        f"{benchmarks.MOST_PROMPTS} at most, of {benchmarks.LONGEST_PROMPT:,} characters",
        f"({benchmarks.MOST_RUNS} at most; ",
        f"{least_of_rounds(1)} times for two models, {least_of_rounds(benchmarks.MOST_MODELS - 1)} for eight",
        f"{benchmarks.MOST_PHOTOS} at most, of {benchmarks.LARGEST_PHOTO_BYTES // 2**20} MiB",
        f"no more than {benchmarks.MOST_ANSWERS} answers",
        f"({DEFAULT_ANSWER_TOKENS}; {benchmarks.ANSWER_TOKENS[0]} to {benchmarks.ANSWER_TOKENS[1]:,})",
        f"`seed` {DEFAULT_SEED}",
        f"the first {benchmarks.LONGEST_KEPT_ANSWER:,} characters",
        f"fewer than {FEWEST_TOKENS_FOR_A_RATE} tokens",
        f"The last {benchmarks.ENDED_KEPT} that have ended",
    ):
        assert stated in text


def test_as_many_photos_and_prompts_as_a_benchmark_may_have_are_within_the_limit(rest):
    photo = JPEG.ljust(benchmarks.LARGEST_PHOTO_BYTES, b"x")
    images = [base64.b64encode(photo).decode()] * benchmarks.MOST_PHOTOS
    prompts = ["選" * benchmarks.LONGEST_PROMPT] * benchmarks.MOST_PROMPTS

    # All of it has been read and found well before anybody looks for the model.
    problem(asked_for(rest, models=["nobody/knows:it"], images=images, prompts=prompts), "model_not_found", 404)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "code", "status"),
    [
        ({"models": ["llama3.1:8b-instruct"]}, "model_not_installed", 409),
        ({"models": ["nobody/knows:it"]}, "model_not_found", 404),
        ({"models": [EMBEDDING]}, "benchmark_unsuitable", 409),
        ({"models": [ONE], "images": [IMAGE]}, "benchmark_unsuitable", 409),
        ({"models": ["../x"]}, "invalid_model_name", 400),
    ],
    ids=["not installed", "unknown", "embeds only", "blind", "no name"],
)
def test_a_model_that_cannot_be_measured_is_refused_with_why(rest, wish, code, status):
    problem(asked_for(rest, **wish), code, status)

    assert rest.get("/benchmarks")["count"] == 0


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"models": []}, "models"),
        ({"models": ONE}, "models"),
        ({"models": [7]}, "models.0"),
        ({"models": [ONE, ONE_TAG]}, "models"),
        ({"models": [ONE] * 9}, "models"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [" "]}, "prompts.0"),
        ({"prompts": ["x" * 8001]}, "prompts.0"),
        ({"prompts": ["x"] * 21}, "prompts"),
        ({"runs": 0}, "runs"),
        ({"runs": 21}, "runs"),
        ({"runs": "3"}, "runs"),
        ({"runs": 1.5}, "runs"),
        ({"answer_tokens": 3}, "answer_tokens"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"seed": -1}, "seed"),
        ({"images": ["no base64!"]}, "images.0"),
        ({"images": [IMAGE, base64.b64encode(b"GIF89a").decode()]}, "images.1"),
        ({"images": [IMAGE] * 11}, "images"),
        ({"images": [base64.b64encode(JPEG + bytes(10 * 2**20)).decode()]}, "images.0"),
        ({"photos": [IMAGE]}, "photos"),
        ({"models": [ONE, THREE], "prompts": ["x"] * 20, "runs": 20}, "runs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused_by_its_field(rest, wish, field):
    assert problem(asked_for(rest, **wish), "invalid_request", 400)["field"] == field


@pytest.mark.parametrize("raw", [b"NaN", b"Infinity", b"1e999", b"true"])
def test_a_number_that_is_none_is_refused(rest, raw):
    answer = rest.ask("POST", "/benchmarks", b'{"models": ["m"], "runs": %s}' % raw)

    assert problem(answer, "invalid_request", 400)["field"] == "runs"


@pytest.mark.parametrize("query", ["format=xml", "format=", "wait=61", "since=x", "colour=red"])
def test_a_question_that_nobody_can_read_is_refused(rest, query):
    assert problem(rest.ask("GET", f"/benchmarks/none?{query}"), "invalid_request", 400)["field"] == query.split("=")[0]


@pytest.mark.parametrize("what", ["cancel", "resume"])
def test_what_an_ended_one_cannot_do_is_refused_with_its_state(rest, what):
    job = done(rest)

    body = problem(rest.ask("POST", f"/benchmarks/{job['id']}/{what}", {}), "invalid_transition", 409)

    assert (body["state"], body["allowed"]) == ("completed", ["forget"])


def test_two_benchmarks_that_asked_the_same_are_put_side_by_side(rest):
    first = done(rest, models=[ONE], prompts=["Rate it."], runs=6)
    second = done(rest, models=[THREE], prompts=["Rate it."], runs=6)

    found = rest.post("/compare_benchmarks", {"benchmarks": [first["id"], second["id"]]})["comparison"]

    assert [row["model"] for row in found["summary"]] == [ONE, THREE]
    assert found["differences"]["tokens_per_second"]["sizes"] == {ONE: 6, THREE: 6}
    other = done(rest, models=[THREE], prompts=["Tag it."])
    problem(rest.ask("POST", "/compare_benchmarks", {"benchmarks": [first["id"], other["id"]]}), "invalid_request", 400)
    problem(rest.ask("POST", "/compare_benchmarks", {"benchmarks": [first["id"], "none"]}), "benchmark_not_found", 404)

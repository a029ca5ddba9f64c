"""What bad input gets: a refusal that names the field, and never an echo of the value."""

from __future__ import annotations

import json

import pytest
from rest_api import (
    ONE_B,
    ROUTES,
    THREE_B,
    problem,
    well,
)

from catalog import MODEL_CATALOG

WITH_FIELDS = [
    (method, path) for (method, path), body in ROUTES.items() if body and "/export" not in path and path != "/import"
]
MARK = "<script>alert(1)</script>"
BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" ",
    "half": b'{"model": "llama3.2:1b-instruct"',
    "words": b"model=llama3.2:1b-instruct",
    "null": b"null",
    "text": b'"llama3.2:1b-instruct"',
    "number": b"7",
    "list of numbers": b"[7]",
    "60 KiB of [": b"[" * 60 * 1024,
    "deep": b'{"model":' * 5_000 + b"1" + b"}" * 5_000,
    "lone surrogate": rb'{"model": "\ud800"}',
    "lone surrogate as a field": rb'{"\ud800": 1}',
    "surrogate in UTF-8": b'{"model": "\xed\xa0\x80"}',
    "no UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": "llama3.2:1b-instruct"}'.encode("utf-16"),
    "NUL": b"\x00",
    "two documents": b'{"model": "a"} {"model": "b"}',
}
NEEDS_A_MODEL = [(method, path) for method, path in WITH_FIELDS if "model" in ROUTES[method, path]]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(("method", "path"), NEEDS_A_MODEL)
def test_a_body_that_is_no_object_with_a_model_is_refused(shared, method, path, body):
    answer = shared.ask(method, path, body)

    assert problem(answer, "invalid_request", 400)["field"] in ("body", "model", "0", "model.model")


@pytest.mark.parametrize("value", [None, 7, True, ["a"], {"a": 1}])
@pytest.mark.parametrize(("method", "path"), NEEDS_A_MODEL)
def test_a_model_that_is_no_text_is_refused(shared, method, path, value):
    assert problem(shared.ask(method, path, {"model": value}), "invalid_request", 400)["field"] == "model"


@pytest.mark.parametrize(
    "name",
    ["", " ", "a\x00b", "../../etc/passwd", "a b", "modèle", "a" * 81, "a:b:c:d", MARK, "x/" * 9 + "y", "x\ny"],
)
@pytest.mark.parametrize(("method", "path"), NEEDS_A_MODEL)
def test_what_ollama_would_not_take_for_a_name_is_refused_and_not_repeated(shared, method, path, name):
    answer = shared.ask(method, path, {"model": name})

    assert problem(answer, "invalid_model_name", 400)["field"] == "model"
    assert MARK not in answer.get_data(as_text=True)


@pytest.mark.parametrize(("method", "path"), NEEDS_A_MODEL)
def test_a_name_of_ten_thousand_characters_is_refused(shared, method, path):
    body = problem(shared.ask(method, path, {"model": "a" * 10_000}), "invalid_request", 400)

    assert body["field"] == "model"
    assert len(body["detail"]) < 200


@pytest.mark.parametrize(("method", "path"), [*WITH_FIELDS, ("POST", "/sync")])
def test_an_unknown_field_is_refused_by_its_name(shared, method, path):
    body = {**ROUTES[method, path], "colour": MARK}

    answer = shared.ask(method, path, body)

    assert problem(answer, "invalid_request", 400)["error"] == "colour: is not a field of this request."
    assert MARK not in answer.get_data(as_text=True)


def test_the_name_of_an_unknown_field_is_shown_plainly_and_not_at_length(shared):
    name = "é" * 1000

    body = problem(shared.ask("POST", "/recommend", {name: 1}), "invalid_request", 400)

    assert body["field"].isascii()
    assert len(body["field"]) <= 80


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_an_unknown_field_of_the_query_is_refused_by_its_name(shared, method, path):
    if path == "/export" and method == "POST":
        pytest.skip("refuses everything")

    answer = shared.ask(method, f"{path}?colour=red", ROUTES[method, path])

    assert problem(answer, "invalid_request", 400)["error"] == "colour: is not a field of this request."


def test_a_field_of_the_query_is_given_once(shared):
    assert problem(shared.ask("GET", "/list?max_vram=8&max_vram=9"), "invalid_request", 400)["field"] == "max_vram"


def test_of_a_key_that_a_body_gives_twice_the_last_counts(shared):
    raw = b'{"model": "llama3.1:70b-instruct", "model": "llama3.2:1b-instruct"}'

    assert well(shared.ask("POST", "/check_compatibility", raw))["model"] == ONE_B


def test_the_mark_before_a_text_from_windows_is_no_fault(shared):
    raw = b"\xef\xbb\xbf" + json.dumps({"model": ONE_B}).encode()

    assert well(shared.ask("POST", "/check_compatibility", raw))["model"] == ONE_B


NO_NUMBERS = [b'"8"', b"true", b"[8]", b"{}"]
NOT_FINITE = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" + b"0" * 400]
NO_MEMORY = [*NO_NUMBERS, *NOT_FINITE, b"-1", b"-0.001", b"10001"]
NO_CONTEXT = [*NO_NUMBERS, *NOT_FINITE, b"0", b"-1", b"4096.5", b"16777217"]
NO_SECONDS = [*NO_NUMBERS, *NOT_FINITE, b"-1", b"86400.1"]
NO_TOKENS = [*NO_NUMBERS, *NOT_FINITE, b"-1", b"0.5", b"10000001"]
NO_QUALITY = [*NO_NUMBERS, *NOT_FINITE, b"-0.1", b"5.1"]
NO_TASK = [b"7", b"true", b"[]", b'""', b'" "', rb'"a\u0000b"', b'"' + b"x" * 65 + b'"', b'"' + b"x" * 2000 + b'"']


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [("/recommend", "available_vram_gb", value) for value in NO_MEMORY]
    + [("/recommend", "context_tokens", value) for value in NO_CONTEXT]
    + [("/check_compatibility", "available_vram_gb", value) for value in NO_MEMORY]
    + [("/check_compatibility", "context_tokens", value) for value in NO_CONTEXT]
    + [("/usage", "inference_time", value) for value in NO_SECONDS]
    + [("/usage", "tokens", value) for value in NO_TOKENS]
    + [("/usage", "quality_score", value) for value in NO_QUALITY]
    + [("/usage", "task", value) for value in NO_TASK],
)
def test_a_value_that_makes_no_sense_is_refused_by_the_name_of_its_field(shared, path, name, value):
    raw = b'{"model": "llama3.2:1b-instruct", "%s": %s}' % (name.encode(), value)
    raw = raw.replace(b'"model": "llama3.2:1b-instruct", ', b"") if path == "/recommend" else raw

    assert problem(shared.ask("POST", path, raw), "invalid_request", 400)["field"] == name


@pytest.mark.parametrize("value", ["NaN", "inf", "-1", "abc", "", "10001", "1e999", "0x8", "9" * 400])
def test_a_limit_that_makes_no_sense_is_refused(shared, value):
    assert problem(shared.ask("GET", f"/list?max_vram={value}"), "invalid_request", 400)["field"] == "max_vram"


def test_no_memory_is_a_limit_like_any_other(shared):
    assert shared.get("/list?max_vram=0")["models"] == []
    assert {model["name"] for model in shared.get("/list?max_vram=2")["models"]} >= {ONE_B, THREE_B}


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "yes"])
def test_a_flag_may_say_yes_in_several_words(shared, word):
    assert [model["name"] for model in shared.get(f"/list?installed_only={word}")["models"]] == [ONE_B]


@pytest.mark.parametrize("word", ["false", "False", "0", "no"])
def test_a_flag_may_say_no_in_several_words(shared, word):
    assert len(shared.get(f"/list?installed_only={word}")["models"]) >= len(MODEL_CATALOG)


@pytest.mark.parametrize("word", ["maybe", "2", "", "null", MARK])
@pytest.mark.parametrize("query", ["/list?installed_only=", "/import?dry_run="])
def test_a_flag_that_says_neither_is_refused(shared, query, word):
    method = "POST" if "import" in query else "GET"

    body = problem(shared.ask(method, query + word), "invalid_request", 400)

    assert body["error"] == f"{body['field']}: must be true or false."


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"priority": "cheap"}, "priority"),
        ({"priority": "specialized"}, "priority"),
        ({"priority": 7}, "priority"),
        ({"needs": "vision"}, "needs"),
        ({"needs": [7]}, "needs.0"),
        ({"needs": ["vision"] * 17}, "needs"),
        ({"installed_only": "perhaps"}, "installed_only"),
        ([], "body"),
    ],
)
def test_a_wish_that_nobody_can_read_is_refused(shared, body, name):
    assert problem(shared.ask("POST", "/recommend", body), "invalid_request", 400)["field"] == name


@pytest.mark.parametrize(
    "query", ["wait=-1", "wait=61", "wait=NaN", "wait=soon", "since=-1", "since=1.5", "since=x", "since="]
)
def test_a_wait_out_of_range_is_refused(shared, query):
    assert (
        problem(shared.ask("GET", f"/downloads/none?{query}"), "invalid_request", 400)["field"] == query.split("=")[0]
    )


@pytest.mark.parametrize("mode", ["", "both", "MERGE"])
def test_an_unknown_way_to_import_is_refused(shared, mode):
    assert (
        problem(shared.ask("POST", f"/import?mode={mode}", {"models": {}}), "invalid_request", 400)["field"] == "mode"
    )


def test_nothing_of_what_is_refused_reaches_ollama(api, simulator):
    before = len(simulator.requests)

    for name in ("evil.example/u/m:t", "a b", "qwen3:8b-cloud", "x:cloud", f" {ONE_B}", "http://evil.example/u/m:t"):
        answer = api.ask("POST", "/download", {"model": name})
        assert answer.status_code == 400

    assert [request.path for request in simulator.requests[before:] if request.path == "/api/pull"] == []
    assert "evil" not in str(simulator.requests)

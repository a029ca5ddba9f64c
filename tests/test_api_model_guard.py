"""Who may call, how much may be sent, and declared as what."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rest_api import (
    CHANGING,
    EVIL,
    JSON,
    ONE_B,
    PREFIX,
    ROUTES,
    problem,
    well,
)

from api_model_guard import Guard
from api_model_requests import MOST_EVENTS
from model_core.errors import InvalidRequest, ModelManagerError

# --- who may call ----------------------------------------------------------------------------------------------------

OURS = ["localhost", "LocalHost", "localhost.", "localhost:5110", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:5110"]
NOT_OURS = [
    *("evil.example", "localhost.evil.example", "evil-localhost", "localhost..x", "0.0.0.0", "127.0.0.2", "[::2]"),
    *("evil.example@localhost", "localhost@evil.example", "localhost:80@evil.example", "localhost,evil.example"),
    *("localhost/x", "localhost?x", "localhost#x", "localhost\\x", "local\thost", " localhost", "localhost "),
    *("localhost:evil", "localhost:", "localhost:123456", "[::1", "::1]", "::1", "[localhost]", "[]", "", "lоcalhost"),
]


@pytest.mark.parametrize("host", OURS)
def test_a_name_of_this_machine_is_answered(guarded, host):
    assert well(guarded().ask("GET", "/health", headers={"Host": host}))


@pytest.mark.parametrize("host", NOT_OURS)
def test_a_name_of_somebody_elses_is_not_answered(host):
    with pytest.raises(ModelManagerError) as caught:
        Guard(["localhost", "127.0.0.1", "::1"], [], None).check({"HTTP_HOST": host, "REQUEST_METHOD": "GET"})

    assert caught.value.code == "host_not_allowed"


def test_a_request_without_a_host_is_not_answered():
    with pytest.raises(ModelManagerError, match="does not answer under the name"):
        Guard(["localhost"], [], None).check({"REQUEST_METHOD": "GET"})


def test_further_names_are_answered_when_they_are_allowed(guarded):
    api = guarded(allowed_hosts=["Photos.lan", "192.168.1.7", "fd00::7"])

    for host in ("photos.lan", "PHOTOS.LAN:5110", "192.168.1.7", "[FD00::7]:5110"):
        assert well(api.ask("GET", "/health", headers={"Host": host}))
    problem(api.ask("GET", "/health", headers={"Host": "localhost"}), "host_not_allowed", 403)


PAGE = "http://localhost:3000"
NOT_ALLOWED = [
    *("https://evil.example", "null", "", "http://localhost:3001", "https://localhost:3000", "http://127.0.0.1:3000"),
    *("http://localhost:3000.evil.example", "http://localhost:30000", "http://evil.example#http://localhost:3000"),
    *("http://localhost:3000/", f"{PAGE}, {EVIL}", "localhost:3000"),
]


@pytest.mark.parametrize("origin", [PAGE, "HTTP://LOCALHOST:3000", "http://localhost", "http://[::1]:8080"])
def test_an_allowed_page_and_one_of_our_own_may_call(guarded, origin):
    api = guarded(allowed_origins=[PAGE, "http://[::1]:8080"])

    assert well(api.ask("GET", "/health", headers={"Origin": origin}))


@pytest.mark.parametrize("origin", NOT_ALLOWED)
def test_a_page_of_another_origin_may_not_call(guarded, origin):
    answer = guarded(allowed_origins=[PAGE]).ask("GET", "/health", headers={"Origin": origin})

    problem(answer, "origin_not_allowed", 403)
    assert "Access-Control-Allow-Origin" not in answer.headers


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    asks = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization, content-type"}
    return {"Origin": origin, **asks}


@pytest.mark.parametrize("origin", [PAGE, "http://[::1]:8080"])
def test_a_browser_is_told_what_an_allowed_page_may_send(guarded, origin):
    api = guarded(allowed_origins=[PAGE, "http://[::1]:8080"], token="secret")

    answer = api.ask("OPTIONS", "/switch", headers=preflight(origin))

    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert {"POST", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    assert "Origin" in answer.headers["Vary"]


def test_an_allowed_page_can_read_answers_problems_and_where_a_download_is(guarded):
    api = guarded(allowed_origins=[PAGE])

    for answer in (api.ask(method, path, headers={"Origin": PAGE}) for method, path in ROUTES):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Location" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origin", NOT_ALLOWED)
def test_a_browser_is_told_nothing_for_other_pages(guarded, origin):
    answer = guarded(allowed_origins=[PAGE]).ask("OPTIONS", "/switch", headers=preflight(origin))

    problem(answer, "origin_not_allowed", 403)
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("origin", [EVIL, PAGE])
def test_where_no_page_is_allowed_no_browser_hears_of_any(guarded, origin):
    answer = guarded().ask("OPTIONS", "/switch", headers=preflight(origin))

    problem(answer, "origin_not_allowed", 403)
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("given", ["Bearer secret", "bearer secret", "BEARER  secret "])
def test_the_right_token_opens(guarded, given):
    assert well(guarded(token="secret").ask("GET", "/health", headers={"Authorization": given}))


NO_TOKENS = [
    *("", "Bearer", "Bearer ", "secret", "Bearer secre", "Bearer secrets", "Bearer Secret", "Basic secret"),
    *("Token secret", "Basic c2VjcmV0", "Bearer \xff", "Bearer secret, Bearer x"),
]


@pytest.mark.parametrize("given", NO_TOKENS)
@pytest.mark.parametrize("path", ["/health", "/nowhere"])
def test_without_the_right_token_nothing_is_told(guarded, path, given):
    answer = guarded(token="secret").ask("GET", path, headers={"Authorization": given})

    problem(answer, "unauthorized", 401)
    assert "secret" not in answer.get_data(as_text=True).replace("/secret", "")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_for_the_token(guarded, method, path):
    problem(guarded(token="secret").ask(method, path, ROUTES[method, path]), "unauthorized", 401)


def test_an_empty_token_protects_nothing_and_is_refused(guarded):
    for token in ("", " "):
        with pytest.raises(InvalidRequest, match="token: is empty"):
            guarded(token=token)


# What a page elsewhere can have a browser send without asking beforehand. A browser of today names the page's origin
# with each of them but a plain GET; the last two are of browsers that did not yet.
FORM = "application/x-www-form-urlencoded"
WITHOUT_ASKING: dict[str, dict[str, Any]] = {
    "a form": {"method": "POST", "content_type": FORM, "data": b"model=x", "headers": {"Origin": EVIL}},
    "an empty form": {"method": "POST", "content_type": FORM, "data": b"", "headers": {"Origin": EVIL}},
    "JSON as text": {"method": "POST", "content_type": "text/plain", "headers": {"Origin": EVIL}},
    "JSON as a form": {"method": "POST", "content_type": FORM, "headers": {"Origin": EVIL}},
    "a file": {"method": "POST", "content_type": "multipart/form-data; boundary=x", "headers": {"Origin": EVIL}},
    "a page from a file": {"method": "POST", "content_type": "text/plain", "headers": {"Origin": "null"}},
    "no type": {"method": "POST", "headers": {"Origin": EVIL}},
    "a name that points here": {"method": "POST", "content_type": JSON, "headers": {"Host": "evil.example"}},
    "a link": {"method": "GET", "headers": {"Referer": EVIL}},
    "a picture": {"method": "HEAD", "headers": {"Referer": EVIL}},
    "JSON as text, of old": {"method": "POST", "content_type": "text/plain"},
    "JSON as a form, of old": {"method": "POST", "content_type": FORM},
}


@pytest.mark.parametrize("request_of", WITHOUT_ASKING.values(), ids=WITHOUT_ASKING)
@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_a_page_elsewhere_can_change_nothing(shared, method, path, request_of):
    before, downloads = shared.manager.store.read(), shared.manager.downloads()
    data = json.dumps(ROUTES[method, path]).encode() if request_of["method"] == "POST" else None

    answer = shared.client.open(PREFIX + path, **{"data": data, **request_of})

    assert answer.status_code in (403, 405, 415) or request_of["method"] in ("GET", "HEAD")
    assert shared.manager.store.read() is before
    assert shared.manager.downloads() == downloads


# --- how much, and declared as what ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_a_body_beyond_the_limit_is_refused(shared, method, path):
    limits = {"/usage": 1024 * 1024, "/import": 16 * 1024 * 1024, "/benchmarks": 144 * 1024 * 1024}
    limit = limits.get(path, 64 * 1024)

    answer = shared.ask(method, path, b"[" * (limit + 1))

    assert problem(answer, "payload_too_large", 413)["limit_bytes"] == limit


@pytest.mark.parametrize("path", ["/switch", "/usage", "/import"])
def test_a_body_beyond_the_limit_is_refused_also_when_its_length_is_not_announced(shared, path):
    body = io.BytesIO(b" " * (16 * 1024 * 1024 + 1))

    answer = shared.client.post(
        PREFIX + path,
        input_stream=body,
        content_type=JSON,
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )

    limit = problem(answer, "payload_too_large", 413)["limit_bytes"]
    # What is beyond is not even read.
    assert body.tell() <= limit + 64 * 1024


def test_a_thousand_events_are_within_the_limit(api):
    event = {
        "model": "llama3.1:8b-instruct",
        "inference_time": 12.3456789012345,
        "success": False,
        "tokens": 1_000_000,
        "quality_score": 4.123,
        "task": "選" * 64,
    }

    assert api.post("/usage", [event] * MOST_EVENTS)["recorded"] == MOST_EVENTS


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/json",
        "",
        None,
        "application/json, text/plain",
        "application/problem+json",
        "application/jsonp",
    ],
)
@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_a_body_that_is_not_declared_as_json_is_refused(shared, method, path, kind):
    problem(shared.ask(method, path, b"{}", content_type=kind), "unsupported_media_type", 415)


@pytest.mark.parametrize("kind", [JSON, "application/json; charset=utf-8", "APPLICATION/JSON", "application/json;a=b"])
def test_json_may_be_declared_with_its_parameters(shared, kind):
    assert well(shared.ask("POST", "/check_compatibility", {"model": ONE_B}, content_type=kind))


def test_what_is_json_is_read_as_utf_8_whatever_it_is_declared_as(shared):
    kind = "application/json; charset=utf-16"

    assert well(shared.ask("POST", "/check_compatibility", {"model": ONE_B}, content_type=kind))
    problem(
        shared.ask(
            "POST", "/check_compatibility", '{"model": "llama3.2:1b-instruct"}'.encode("utf-16"), content_type=kind
        ),
        "invalid_request",
        400,
    )


@pytest.mark.parametrize("kind", ["text/plain", None])
def test_without_a_body_nobody_asks_what_it_is(shared, kind):
    assert well(shared.client.post(f"{PREFIX}/recommend", content_type=kind))

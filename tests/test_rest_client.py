"""The client of our own REST face: what it sends, and what it makes of whatever comes back."""

from __future__ import annotations

import json

import pytest
from scripted_server import ScriptedServer, answering, sending

from rest_client import InProcess, OverHttp, Problem, Reply, RestClient

GOOD = {"success": True, "models": [], "count": 0}


class Recording:
    """A transport that notes what is sent, and answers one thing after the other."""

    def __init__(self, *answers):
        self.answers, self.sent = list(answers), []

    def send(self, method, target, body):
        self.sent.append((method, target, None if body is None else json.loads(body)))
        answer = self.answers.pop(0) if self.answers else GOOD
        if isinstance(answer, Exception):
            raise answer
        return Reply(200, json.dumps(answer).encode())

    def lines(self, method, target, body):
        self.sent.append((method, target, None if body is None else json.loads(body)))
        yield from (Reply(200, json.dumps(answer).encode()) for answer in self.answers)

    def close(self):
        pass


def asked(script, call=RestClient.installed, **how):
    """What comes of a call: its answer, or the problem."""
    with ScriptedServer(script) as server, RestClient(OverHttp(server.url, **how)) as client:
        try:
            return call(client)
        except Problem as problem:
            return problem


def request_of(call, **how):
    """The request that a call sends over HTTP."""
    seen = []

    def script(connection):
        seen.append(connection.receive())
        connection.answer(GOOD, "200 OK", "Connection: close")

    assert asked(script, call, **how) == GOOD
    return seen[0]


# --- what is sent ----------------------------------------------------------------------------------------------------

ALL_FILTERS = "/list?purpose=speed&max_vram=8.0&installed_only=true"
REQUESTS = {
    "list": (lambda c: c.models("speed", 8.0, installed_only=True), ALL_FILTERS),
    "list all": (lambda c: c.models(), "/list"),
    "info": (lambda c: c.info("hf.co/user/repo:Q4_K_M"), "/info/hf.co%2Fuser%2Frepo%3AQ4_K_M"),
    "download": (lambda c: c.download("a/b", since=3, wait_s=1.0), "/downloads/a%2Fb?since=3&wait=1.0"),
    "statistics": (lambda c: c.statistics("a&b"), "/statistics?model=a%26b"),
}


@pytest.mark.parametrize(("call", "target"), REQUESTS.values(), ids=REQUESTS)
def test_what_a_caller_names_is_sent_safely(call, target):
    transport = Recording()

    call(RestClient(transport))

    assert transport.sent == [("GET", target, None)]


WISHES = {
    "plan": (lambda c: c.plan_download("m", "q8"), ("POST", "/download/plan", {"model": "m", "quantization": "q8"})),
    "pause": (lambda c: c.pause_download("a/b"), ("POST", "/downloads/a%2Fb/pause", None)),
    "resume": (lambda c: c.resume_download("d1"), ("POST", "/downloads/d1/resume", None)),
    "cancel": (lambda c: c.cancel_download("d1"), ("POST", "/downloads/d1/cancel", None)),
    "move": (lambda c: c.move_download("d1", 0), ("POST", "/downloads/d1/move", {"position": 0})),
    "forget": (lambda c: c.forget_download("d1"), ("DELETE", "/downloads/d1", None)),
    "end a benchmark": (lambda c: c.cancel_benchmark("a/b"), ("POST", "/benchmarks/a%2Fb/cancel", None)),
    "go on with one": (lambda c: c.resume_benchmark("b1"), ("POST", "/benchmarks/b1/resume", None)),
    "forget one": (lambda c: c.forget_benchmark("b1"), ("DELETE", "/benchmarks/b1", None)),
}


@pytest.mark.parametrize(("call", "sent"), WISHES.values(), ids=WISHES)
def test_what_is_wished_of_a_job_is_sent_to_its_address(call, sent):
    transport = Recording()

    call(RestClient(transport))

    assert transport.sent == [sent]


def test_what_is_not_said_is_not_sent():
    transport = Recording()

    RestClient(transport).recommend()
    RestClient(transport).sync()

    assert transport.sent == [
        ("POST", "/recommend", {"priority": "balanced", "needs": []}),
        ("POST", "/sync", None),
    ]


def test_models_are_named_in_their_order_to_be_compared():
    transport = Recording()

    RestClient(transport).compare(("b", "a"))
    RestClient(transport).compare(["b", "a"], ["quality_score"])

    assert transport.sent == [
        ("POST", "/compare", {"models": ["b", "a"]}),
        ("POST", "/compare", {"models": ["b", "a"], "metrics": ["quality_score"]}),
    ]


def test_what_is_told_of_an_inference_is_sent():
    transport = Recording()

    RestClient(transport).record("m", 1.5, tokens=90, quality_score=0.0, task="tags")

    event = {"model": "m", "inference_time": 1.5, "success": True, "tokens": 90, "quality_score": 0.0, "task": "tags"}
    assert transport.sent == [("POST", "/usage", event)]


def test_a_load_yields_what_is_waited_for_and_then_the_answer():
    transport = Recording({"phase": "loading", "seconds": 1.0}, {**GOOD, "model": "m"})

    steps = list(RestClient(transport).load("m", "5m", 2048))

    assert steps == [{"phase": "loading", "seconds": 1.0}, {**GOOD, "model": "m"}]
    assert transport.sent == [("POST", "/load", {"model": "m", "keep_alive": "5m", "context_tokens": 2048})]


def test_a_load_that_is_refused_is_a_problem():
    refusal = {"success": False, "code": "model_not_installed", "error": "No."}

    with pytest.raises(Problem) as refused:
        list(RestClient(Recording({"phase": "loading", "seconds": 0.0}, refusal)).load("m"))

    assert refused.value.code == "model_not_installed"


@pytest.mark.parametrize("steps", [[], [{"phase": "loading", "seconds": 0.0}]], ids=["at once", "while it loads"])
def test_a_load_whose_answer_breaks_off_has_not_succeeded(steps):
    with pytest.raises(Problem, match="broke off before m was loaded") as broken:
        list(RestClient(Recording(*steps)).load("m"))

    assert broken.value.code == "service_unavailable"


def test_lines_are_yielded_as_they_come_over_http():
    def script(connection):
        request = connection.receive()
        assert request.headers["accept"] == "application/x-ndjson"
        body = b'{"phase": "loading", "seconds": 0.0}\n' + json.dumps(GOOD).encode() + b"\n"
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n" + body)

    steps = asked(script, lambda client: list(client.load("m")))

    assert steps == [{"phase": "loading", "seconds": 0.0}, GOOD]


def test_a_first_look_at_the_machine_is_waited_for_only_as_long_as_is_said():
    looking, seen = {**GOOD, "pending": True}, {**GOOD, "pending": False}

    assert RestClient(Recording(looking, seen)).hardware(wait_s=30.0) == seen
    assert RestClient(Recording(looking, seen)).hardware() == looking


def test_zero_is_a_figure_like_any_other():
    transport = Recording()

    RestClient(transport).recommend(0.0)

    assert transport.sent[0][2]["available_vram_gb"] == 0.0


def test_a_body_is_declared_as_json_and_a_token_goes_with_it():
    request = request_of(lambda client: client.switch("m"), token="open-sesame")

    assert (request.method, request.path) == ("POST", "/api/model/switch")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer open-sesame"
    assert request.json == {"model": "m", "require_fit": False, "load": False}


def test_no_token_is_sent_that_nobody_gave():
    assert "authorization" not in request_of(RestClient.installed).headers


def test_a_proxy_meant_for_the_internet_is_passed_by(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert asked(answering(GOOD)) == GOOD


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "base"),
    [
        ("http://127.0.0.1:5110", "http://127.0.0.1:5110/api/model"),
        ("http://127.0.0.1:5110/", "http://127.0.0.1:5110/api/model"),
        ("localhost:5110", "http://localhost:5110/api/model"),
        ("photos.lan", "http://photos.lan/api/model"),
        ("https://photos.lan/ai/", "https://photos.lan/ai"),
        ("http://[::1]:5110", "http://[::1]:5110/api/model"),
    ],
)
def test_an_address_is_read_as_people_type_it(typed, base):
    assert OverHttp(typed).base == base


@pytest.mark.parametrize(
    "typed",
    ["", "ftp://photos.lan", "http://", "http://h:x", "http://h:99999", "http://u:p@h", "http://h/?a=1", "http://["],
)
def test_what_is_no_address_is_refused(typed):
    with pytest.raises(ValueError):
        OverHttp(typed)


# --- what comes back -------------------------------------------------------------------------------------------------


def test_a_refusal_is_a_problem_with_all_it_says():
    refusal = {"success": False, "code": "no_current_model", "error": "None.", "detail": "None. Choose.", "status": 404}

    problem = asked(answering(refusal, "404 Not Found"))

    assert (problem.body, problem.code, str(problem)) == (refusal, "no_current_model", "None. Choose.")


STRANGERS = {
    "a page": answering(b"<html>boom</html>", "502 Bad Gateway"),
    "another JSON": answering({"hello": "world"}),
    "a list": answering([1, 2]),
    "nothing": answering(b""),
    "a redirection": answering(b"", "302 Found", "Location: http://127.0.0.1:1/"),
    "not UTF-8": answering(b"\xff\xfe\xff"),
}


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
def test_what_is_none_of_our_answers_is_told_from_one(script):
    assert asked(script).code == "service_unexpected"


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
def test_what_is_none_of_our_answers_is_told_also_where_a_load_comes_by_line(script):
    problem = asked(script, lambda client: list(client.load("m")))

    # Nothing at all may be an answer of ours that broke off at once.
    nothing_came = script is STRANGERS["nothing"]
    assert problem.code == ("service_unavailable" if nothing_came else "service_unexpected")


def test_a_page_in_place_of_a_load_is_told_with_its_status():
    problem = asked(STRANGERS["a page"], lambda client: list(client.load("m")))

    assert (problem.code, problem.body["status"]) == ("service_unexpected", 502)


def test_an_error_page_is_not_taken_for_an_export():
    assert asked(STRANGERS["a page"], RestClient.export).code == "service_unexpected"


BROKEN = {
    "closed at once": sending(b""),
    "cut in the body": sending(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    "no HTTP": sending(b"220 mail.photos.lan\r\n"),
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_a_service_that_breaks_off_is_not_reachable(script):
    problem = asked(script)

    assert problem.code == "service_unavailable"
    assert "does not answer" in problem.body["error"]


def test_a_service_that_is_silent_is_not_waited_for_for_ever():
    def silent(connection):
        connection.receive()
        connection.wait_until_closed()

    problem = asked(silent, answer_s=0.1)

    assert problem.code == "service_unavailable"
    assert "may still happen" in problem.body["remedy"]


# --- following a download --------------------------------------------------------------------------------------------


def job(state, version):
    return {"id": "d1", "state": state, "version": version}


def test_a_download_is_followed_until_nobody_works_on_it():
    later = [job("downloading", 1), job("verifying", 2), job("completed", 3)]
    transport = Recording(*({"success": True, "download": one} for one in later))

    seen = list(RestClient(transport).follow(job("queued", 0)))

    assert seen == [job("queued", 0), *later]
    assert [target for _, target, _ in transport.sent] == [
        f"/downloads/d1?since={version}&wait=1.0" for version in (0, 1, 2)
    ]


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "paused", "interrupted"])
def test_what_nobody_works_on_is_not_asked_for_again(state):
    transport = Recording()

    assert list(RestClient(transport).follow(job(state, 5))) == [job(state, 5)]
    assert transport.sent == []


def test_a_service_that_goes_meanwhile_leaves_word_of_how_to_go_on():
    lost = Problem({"success": False, "code": "service_unavailable", "error": "Gone.", "remedy": ""})

    with pytest.raises(Problem) as raised:
        list(RestClient(Recording(lost)).follow(job("downloading", 1)))

    assert "the same command joins in again" in raised.value.body["remedy"]


def test_where_too_many_wait_for_news_a_download_is_looked_at_without_waiting():
    full = Problem({"success": False, "code": "too_many_streams", "error": "Full.", "remedy": ""})
    transport = Recording(full, {"success": True, "download": job("completed", 2)})

    seen = list(RestClient(transport).follow(job("downloading", 1), every_s=0.0))

    assert seen[-1] == job("completed", 2)
    assert transport.sent[-1][1] == "/downloads/d1"


def test_a_benchmark_is_followed_to_its_end():
    steps = [{"id": "b1", "state": state, "version": version} for version, state in enumerate(("running", "completed"))]
    transport = Recording({"success": True, "benchmark": steps[1]})

    assert list(RestClient(transport).follow_benchmark(steps[0])) == steps
    assert transport.sent == [("GET", "/benchmarks/b1?since=0&wait=1.0", None)]


def test_photos_are_sent_in_base64_and_what_is_not_said_is_not_sent():
    transport = Recording()

    RestClient(transport).start_benchmark(["a", "b"], photos=[b"\xff\xd8\xff"])
    RestClient(transport).start_benchmark(["a"], ["Rate it."], runs=5)

    assert transport.sent == [
        ("POST", "/benchmarks", {"models": ["a", "b"], "images": ["/9j/"]}),
        ("POST", "/benchmarks", {"models": ["a"], "prompts": ["Rate it."], "runs": 5}),
    ]


def test_all_downloads_are_watched_until_nobody_works_on_any():
    answers = [
        {"success": True, "downloads": [job("paused", 1), job(state, 1)]}
        for state in ("queued", "verifying", "completed")
    ]

    assert list(RestClient(Recording(*answers)).watch_downloads(every_s=0.0)) == answers


# --- within this process ---------------------------------------------------------------------------------------------


def echo(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "HTTP_AUTHORIZATION", "HTTP_HOST")
    body = environ["wsgi.input"].read().decode()
    return [json.dumps({"success": True, "body": body} | {name: environ.get(name) for name in names}).encode()]


def test_an_app_in_this_process_gets_the_same_request():
    with RestClient(InProcess(echo, "open-sesame")) as client:
        answer = client.switch("m")

    assert json.loads(answer["body"])["model"] == "m"
    assert (answer["REQUEST_METHOD"], answer["PATH_INFO"]) == ("POST", "/api/model/switch")
    assert answer["CONTENT_TYPE"] == "application/json"
    assert answer["HTTP_AUTHORIZATION"] == "Bearer open-sesame"
    assert answer["HTTP_HOST"] == "localhost"


def test_what_works_behind_the_app_is_ended_once():
    ended = []
    client = RestClient(InProcess(echo, on_close=lambda: ended.append(True)))

    client.close()
    client.close()

    assert ended == [True]


def test_a_download_is_our_own_only_where_this_process_works_on_it():
    assert RestClient(InProcess(echo, owns={"d1"}.__contains__)).owns_job("d1")
    assert not RestClient(InProcess(echo, owns={"d1"}.__contains__)).owns_job("d2")
    assert not RestClient(OverHttp("http://127.0.0.1:1")).owns_job("d1")

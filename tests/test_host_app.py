"""The blueprint in an application that was there before: its own routes, errors, pages and managers stay its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, jsonify
from flask.testing import FlaskClient
from flask_cors import CORS
from rest_api import JSON, NOBODY, ONE_B, ONE_B_TAG, PREFIX, PROBLEM, ROUTES, THREE_B_TAG, manager_on, problem, well

from api_model_management import init_model_api
from model_manager import ModelManager
from ollama_simulator import OllamaSimulator

HOST_PAGE = "http://localhost:3000"


class Broken(ModelManager):
    """A manager with a fault in it."""

    def listing(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a fault of ours")


def host_app() -> Flask:
    """An application with answers of its own for everything that goes wrong, as AutoDev's has."""
    app = Flask("host")

    @app.route("/api/jobs")
    def jobs() -> Any:
        return jsonify(jobs=[])

    @app.route("/api/<path:anything>", methods=["PUT"])
    def everything_else(anything: str) -> Any:
        return jsonify(put=anything)

    @app.route("/page")
    def page() -> str:
        return "<h1>a page of the host's</h1>"

    @app.route("/broken")
    def broken() -> str:
        return str(1 / 0)

    @app.route("/forbidden")
    def forbidden() -> str:
        abort(403)

    for code in (400, 403, 404, 405, 413, 415, 500):
        app.register_error_handler(code, lambda error: (f"<h1>the host's {error.code}</h1>", error.code))
    app.register_error_handler(Exception, lambda error: ("<h1>the host's own accident</h1>", 500))
    return app


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ModelManager]:
    manager = manager_on(NOBODY, tmp_path)
    yield manager
    manager.close()


@pytest.fixture(params=[PREFIX, "/ai", "/deep/down/below", "/"], ids=["usual", "other", "deep", "root"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(manager: ModelManager, prefix: str) -> Any:
    app = host_app()
    app.register_blueprint(init_model_api(manager), url_prefix=prefix)
    return app.test_client()


def test_the_blueprint_answers_under_any_prefix(host, prefix):
    assert well(host.get(f"{prefix.rstrip('/')}/list"))["count"] > 5


@pytest.mark.parametrize(
    ("method", "path", "code", "status"),
    [
        ("GET", "/nowhere", "not_found", 404),
        ("POST", "/list", "method_not_allowed", 405),
        ("PUT", "/list", "method_not_allowed", 405),
        ("TRACE", "/list", "method_not_allowed", 405),
        ("GET", "/list?max_vram=much", "invalid_request", 400),
        ("GET", "/info/nobody/knows:it", "model_not_found", 404),
        ("POST", "/sync", "ollama_unavailable", 503),
    ],
)
def test_what_goes_wrong_with_ours_is_answered_by_us(host, prefix, method, path, code, status):
    problem(host.open(prefix.rstrip("/") + path, method=method), code, status)


def test_our_limits_hold_in_an_application_that_has_others(manager):
    app = host_app()
    app.config["MAX_CONTENT_LENGTH"] = 10
    app.register_blueprint(init_model_api(manager))
    client = app.test_client()

    body = {"model": "llama3.2:1b-instruct", "inference_time": 1.25, "success": True}

    assert well(client.post(f"{PREFIX}/usage", json=body))["recorded"] == 1
    problem(client.post(f"{PREFIX}/usage", data="x" * 2_000_000, content_type=JSON), "payload_too_large", 413)
    problem(client.post(f"{PREFIX}/usage", data="x", content_type="text/plain"), "unsupported_media_type", 415)


def test_a_fault_of_ours_is_answered_by_us(tmp_path):
    app = host_app()
    app.register_blueprint(init_model_api(Broken(NOBODY, tmp_path / "d.json")))

    problem(app.test_client().get(f"{PREFIX}/list"), "internal_error", 500)


def test_a_fault_of_ours_is_answered_by_us_also_while_the_host_is_tested(tmp_path):
    app = host_app()
    app.config["TESTING"] = True
    app.register_blueprint(init_model_api(Broken(NOBODY, tmp_path / "d.json")))

    problem(app.test_client().get(f"{PREFIX}/list"), "internal_error", 500)


@pytest.mark.parametrize("prefix", [PREFIX, "/ai"], indirect=True)
def test_what_is_the_hosts_stays_the_hosts(host):
    assert host.get("/api/jobs").json == {"jobs": []}
    assert host.put("/api/anything/else").json == {"put": "anything/else"}
    assert host.get("/page").text == "<h1>a page of the host's</h1>"
    assert host.get("/page", headers={"Host": "evil.example", "Origin": "https://evil.example"}).status_code == 200
    assert host.get("/nowhere").text == "<h1>the host's 404</h1>"
    assert host.post("/page").text == "<h1>the host's 405</h1>"
    assert host.get("/forbidden").text == "<h1>the host's 403</h1>"
    assert host.get("/broken").text == "<h1>the host's own accident</h1>"
    assert host.options("/page").headers["Allow"]


def test_a_route_of_the_hosts_under_our_prefix_stays_the_hosts(manager):
    app = host_app()
    app.add_url_rule(f"{PREFIX}/extra", "extra", lambda: "the host's")
    app.register_blueprint(init_model_api(manager))

    assert app.test_client().get(f"{PREFIX}/extra").text == "the host's"


def test_a_redirect_of_slashes_is_the_hosts_way_of_routing(manager):
    app = host_app()
    app.register_blueprint(init_model_api(manager))

    answer = app.test_client().get("/api//model/list", follow_redirects=True)

    assert well(answer)["count"] > 5


def test_the_address_of_a_download_follows_the_prefix(tmp_path):
    with OllamaSimulator() as ollama:
        manager = manager_on(ollama, tmp_path)
        app = host_app()
        app.register_blueprint(init_model_api(manager), url_prefix="/ai", name="models")
        client = app.test_client()

        answer = client.post("/ai/download", json={"model": ONE_B})

        assert answer.headers["Location"] == f"/ai/downloads/{answer.json['download']['id']}"
        assert well(client.get(answer.headers["Location"]))["download"]["model"] == ONE_B
        manager.close()


def uses_of(client: FlaskClient, prefix: str) -> int:
    return int(well(client.get(f"{prefix}/statistics?model={ONE_B}"))["statistics"]["usage_count"])


def test_two_applications_in_one_process_do_not_share_a_manager(tmp_path):
    installed = {"one": ONE_B_TAG, "other": THREE_B_TAG}
    found = {}
    for name, tag in installed.items():
        (tmp_path / name).mkdir()
        with OllamaSimulator(installed=[tag]) as ollama:
            manager = manager_on(ollama, tmp_path / name)
            app = host_app()
            app.register_blueprint(init_model_api(manager))
            found[name] = (app.test_client(), well(app.test_client().get(f"{PREFIX}/installed"))["models"], manager)
    one, other = found["one"], found["other"]

    well(one[0].post(f"{PREFIX}/usage", json={"model": ONE_B}))

    assert (one[1], other[1]) == ([ONE_B], ["llama3.2:3b-instruct"])
    uses = [
        well(client.get(f"{PREFIX}/statistics?model={ONE_B}"))["statistics"]["usage_count"]
        for client, _, _ in (one, other)
    ]
    assert uses == [1, 0]
    for _, _, manager in (one, other):
        manager.close()


def test_two_managers_stand_side_by_side_in_one_application(tmp_path):
    app, managers = host_app(), []
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        managers.append(manager_on(NOBODY, tmp_path / name))
        app.register_blueprint(init_model_api(managers[-1]), url_prefix=f"/{name}", name=name)
    client = app.test_client()

    well(client.post("/left/usage", json={"model": ONE_B}))

    assert [uses_of(client, prefix) for prefix in ("/left", "/right")] == [1, 0]
    problem(client.get("/right/nowhere"), "not_found", 404)
    for manager in managers:
        manager.close()


def test_the_same_blueprint_may_hang_below_another_one(manager):
    from flask import Blueprint

    outer, app = Blueprint("outer", "outer", url_prefix="/outer"), host_app()
    outer.register_blueprint(init_model_api(manager))
    app.register_blueprint(outer)
    client = app.test_client()

    assert well(client.get(f"/outer{PREFIX}/list"))
    problem(client.post(f"/outer{PREFIX}/list"), "method_not_allowed", 405)
    problem(client.get(f"/outer{PREFIX}/nowhere"), "not_found", 404)


# --- the host's own way with other origins ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cors", [{"origins": "*"}, {"origins": [HOST_PAGE]}, {"origins": "*", "supports_credentials": True}]
)
def test_the_hosts_cors_opens_nothing_of_ours(manager, cors):
    app = host_app()
    CORS(app, **cors)
    app.register_blueprint(init_model_api(manager))
    client = app.test_client()

    for method, path in ROUTES:
        answer = client.open(
            PREFIX + path, method=method, json=ROUTES[method, path], headers={"Origin": "https://evil.example"}
        )
        problem(answer, "origin_not_allowed", 403)
    assert client.get("/page", headers={"Origin": HOST_PAGE}).headers["Access-Control-Allow-Origin"]


@pytest.mark.parametrize("order", ["cors first", "cors last"])
@pytest.mark.parametrize("origins", ["*", [HOST_PAGE], ["http://other.example"]])
def test_a_page_that_both_allow_is_told_so_once(manager, origins, order):
    app = host_app()
    if order == "cors first":
        CORS(app, origins=origins)
    app.register_blueprint(init_model_api(manager, allowed_origins=[HOST_PAGE]))
    if order == "cors last":
        CORS(app, origins=origins)
    client = app.test_client()

    for path in ("/list", "/nowhere", "/list?max_vram=much"):
        answer = client.get(PREFIX + path, headers={"Origin": HOST_PAGE})
        assert answer.headers.getlist("Access-Control-Allow-Origin") == [HOST_PAGE]
        assert answer.content_type in (JSON, PROBLEM)
    asked = client.options(f"{PREFIX}/switch", headers={"Origin": HOST_PAGE, "Access-Control-Request-Method": "POST"})
    assert asked.headers.getlist("Access-Control-Allow-Origin") == [HOST_PAGE]


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_what_the_host_asks_before_every_request_is_answered_by_the_host(manager, status):
    app = host_app()
    app.register_error_handler(status, lambda error: (f"the host's own {error.code}", error.code))
    app.before_request(lambda: abort(status))
    app.register_blueprint(init_model_api(manager))

    answer = app.test_client().get(f"{PREFIX}/list")

    assert (answer.status_code, answer.text) == (status, f"the host's own {status}")


def test_a_refusal_of_the_hosts_keeps_its_status_also_without_a_handler(manager):
    app = Flask("bare")
    app.before_request(lambda: abort(403))
    app.register_blueprint(init_model_api(manager))

    assert app.test_client().get(f"{PREFIX}/list").status_code == 403


def test_a_host_gives_its_own_names_and_token(manager):
    app = host_app()
    app.register_blueprint(init_model_api(manager, allowed_hosts=["autodev.lan"], token="ours"))
    client = app.test_client()
    mine = {"Host": "autodev.lan:5100", "Authorization": "Bearer ours"}

    assert well(client.get(f"{PREFIX}/list", headers=mine))
    problem(client.get(f"{PREFIX}/list", headers={**mine, "Authorization": "Bearer theirs"}), "unauthorized", 401)
    problem(client.get(f"{PREFIX}/list", headers={**mine, "Host": "localhost"}), "host_not_allowed", 403)


def test_answers_do_not_depend_on_how_the_host_writes_json(manager):
    app = host_app()
    app.json.sort_keys = True
    app.json.mimetype = "application/x-of-the-host"
    app.register_blueprint(init_model_api(manager))

    answer = app.test_client().get(f"{PREFIX}/installed")

    assert answer.content_type == JSON
    assert json.loads(answer.data)["success"] is True

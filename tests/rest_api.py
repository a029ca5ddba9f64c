"""The REST face as the tests call it: an app around one manager, asked without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from api_model_management import init_model_api
from model_manager import ModelManager
from ollama_client import OllamaClient
from ollama_simulator import OllamaSimulator

PREFIX = "/api/model"
EVIL = "https://evil.example"
NOBODY = "http://127.0.0.1:1"  # a port that nobody listens on
JSON = "application/json"
PROBLEM = "application/problem+json"

ONE_B, ONE_B_TAG, ONE_B_Q8 = "llama3.2:1b-instruct", "llama3.2:1b-instruct-q4_K_M", "llama3.2:1b-instruct-q8_0"
THREE_B, THREE_B_TAG = "llama3.2:3b-instruct", "llama3.2:3b-instruct-q4_K_M"
SEVENTY_B_TAG = "llama3.1:70b-instruct-q4_K_M"
UNPUBLISHED = "llama3.1:13b-instruct"

# Every route, with a body that it takes.
ROUTES: dict[tuple[str, str], Any] = {
    ("GET", "/list"): None,
    ("GET", "/installed"): None,
    ("GET", f"/info/{ONE_B}"): None,
    ("GET", "/current"): None,
    ("POST", "/switch"): {"model": ONE_B},
    ("DELETE", "/delete"): {"model": THREE_B},
    ("POST", "/sync"): {},
    ("GET", "/running"): None,
    ("POST", "/load"): {"model": ONE_B},
    ("POST", "/unload"): {"model": ONE_B},
    ("POST", "/download"): {"model": THREE_B},
    ("GET", "/downloads"): None,
    ("GET", "/downloads/none"): None,
    ("DELETE", "/downloads/none"): None,
    ("POST", "/downloads/none/pause"): {},
    ("POST", "/downloads/none/resume"): {},
    ("POST", "/downloads/none/cancel"): {},
    ("POST", "/downloads/none/move"): {"position": 0},
    ("POST", "/download/plan"): {"model": THREE_B},
    ("POST", "/benchmarks"): {"models": [ONE_B]},
    ("GET", "/benchmarks"): None,
    ("GET", "/benchmarks/none"): None,
    ("DELETE", "/benchmarks/none"): None,
    ("POST", "/compare_benchmarks"): {"benchmarks": ["one", "other"]},
    ("POST", "/benchmarks/none/cancel"): {},
    ("POST", "/benchmarks/none/resume"): {},
    ("POST", "/ticket"): {},
    ("POST", "/recommend"): {},
    ("POST", "/check_compatibility"): {"model": ONE_B},
    ("GET", "/hardware"): None,
    ("GET", "/statistics"): None,
    ("POST", "/usage"): {"model": ONE_B, "inference_time": 1.5},
    ("POST", "/compare"): {"models": [ONE_B, THREE_B]},
    ("GET", "/export"): None,
    ("POST", "/export"): {"output_file": "export.json"},
    ("POST", "/import"): {"models": {}},
    ("GET", "/health"): None,
    ("GET", "/doctor"): None,
}
# What stays open, and is tested where it is made.
STREAMS = {("GET", "/events"), ("GET", "/ws")}
CHANGING = [route for route in ROUTES if route[0] != "GET"]


class RestApi:
    """One manager behind one blueprint; what is left out of `options` is as the service has it."""

    def __init__(self, manager: ModelManager, prefix: str = PREFIX, **options: Any) -> None:
        self.manager, self.prefix = manager, prefix
        self.app = Flask("host of the tests")
        self.app.register_blueprint(init_model_api(manager, **options), url_prefix=prefix)
        self.client = self.app.test_client()

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> TestResponse:
        """Send a request; a body that is not bytes is sent as JSON."""
        if body is not None:
            more.setdefault("content_type", JSON)
            more["data"] = body if isinstance(body, bytes) else json.dumps(body)
        return self.client.open(self.prefix + path, method=method, **more)

    def get(self, path: str, **more: Any) -> Any:
        """Return the body of an answer that went well."""
        return well(self.ask("GET", path, **more))

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        """Return the body of an answer that went well."""
        return well(self.ask("POST", path, body, **more))


def well(answer: TestResponse) -> Any:
    """Return the body of an answer that went well."""
    assert answer.status_code < 300, answer.get_data(as_text=True)
    assert answer.content_type == JSON
    assert answer.json["success"] is True
    return answer.json


def problem(answer: Any, code: str, status: int) -> Any:
    """Return the body of a problem, once it has the form that every problem has."""
    body = answer.json() if callable(answer.json) else answer.get_json(force=True)
    assert (answer.status_code, body["code"]) == (status, code), body
    assert answer.headers["Content-Type"] == PROBLEM
    assert body["success"] is False
    assert body["status"] == status
    assert body["type"] == f"urn:junmai:model-management:{code.replace('_', '-')}"
    assert body["title"] and body["title"][0].isupper()
    assert body["error"].endswith(".")
    assert body["detail"] == f"{body['error']} {body['remedy']}".strip()
    assert "Traceback" not in json.dumps(body)
    return body


def manager_on(ollama: OllamaSimulator | str, folder: Path, **options: Any) -> ModelManager:
    """Return a manager on a simulated Ollama (or an address), with a document of its own."""
    url = ollama if isinstance(ollama, str) else ollama.url
    return ModelManager(metadata_file=folder / "model_metadata.json", client=OllamaClient(url), **options)

"""Every error there is, as it leaves: over HTTP as a problem, by import as an exception."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rest_api import (
    EVIL,
    NOBODY,
    ONE_B,
    ONE_B_Q8,
    ONE_B_TAG,
    SEVENTY_B_TAG,
    UNPUBLISHED,
    RestApi,
    manager_on,
    problem,
)
from simulated_disk import SimulatedDisk

from api_model_guard import BODY_LIMIT_BYTES
from api_model_problems import STATUS, RequestRefused
from catalog import MODEL_CATALOG
from json_store import JsonStore, Limits
from json_store_system import RealFileSystem
from model_core.document import DocumentCodec
from model_core.errors import InvalidRequest, ModelManagerError
from model_core.records import GIB
from model_core.simulated_library import make_model
from model_manager import ModelManager
from ollama_client import OllamaClient
from ollama_simulator import OllamaSimulator

EMBEDDING = "all-minilm:latest"


def only_embedding():
    return make_model("all-minilm", size_bytes=46_000_000, capabilities=("embedding",))


@dataclass
class Case:
    """How an error comes about: over HTTP, and where there is such a call, by import.

    facts   what the answer holds besides, with these very values
    heads   headers that the answer must have
    """

    code: str
    status: int
    ask: Callable[[RestApi], Any]
    call: Callable[[ModelManager], Any] | None = None
    arrange: Callable[[ModelManager, OllamaSimulator], Any] = lambda manager, ollama: None
    facts: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    make: Callable[[OllamaSimulator, Path], ModelManager] = manager_on
    options: dict[str, Any] = field(default_factory=dict)


def posting(path: str, **body: Any) -> Callable[[RestApi], Any]:
    return lambda api: api.ask("POST", path, body)


def getting(path: str, **more: Any) -> Callable[[RestApi], Any]:
    return lambda api: api.ask("GET", path, **more)


def deleting(name: str) -> Callable[[RestApi], Any]:
    return lambda api: api.ask("DELETE", "/delete", {"model": name})


def one_selected(manager: ModelManager, ollama: OllamaSimulator) -> None:
    ollama.install(ONE_B_TAG)
    manager.select_model(ONE_B)


def a_download_under_way(manager: ModelManager, ollama: OllamaSimulator) -> None:
    ollama.set_fault("silence", at_bytes=1000)
    manager.start_download(ONE_B, "q4")


def one_stream_too_many(api: RestApi) -> Any:
    by_line = {"Accept": "application/x-ndjson"}
    held.append(api.ask("POST", "/download", {"model": ONE_B}, headers=by_line, buffered=False))
    return api.ask("GET", "/downloads/none?wait=1")


def something_of_the_users_own(manager: ModelManager, ollama: OllamaSimulator) -> None:
    ollama.install(ONE_B, make_model("mine", size_bytes=5_000_000_000))


def fault(kind: str, **details: Any) -> Callable[[ModelManager, OllamaSimulator], None]:
    return lambda manager, ollama: ollama.set_fault(kind, **details)


def stopped(manager: ModelManager, ollama: OllamaSimulator) -> None:
    ollama.stop()


def impatient(ollama: OllamaSimulator, folder: Path) -> ModelManager:
    client = OllamaClient(ollama.url, list_timeout_s=0.1)
    return ModelManager(metadata_file=folder / "model_metadata.json", client=client)


def codec() -> DocumentCodec:
    return DocumentCodec(MODEL_CATALOG, "test")


def on_a_locked_document(ollama: OllamaSimulator, folder: Path) -> ModelManager:
    path = folder / "model_metadata.json"
    store = JsonStore.open(path, codec(), limits=Limits(lock_wait_s=0.05))
    store.change(lambda document: document.model_copy(update={"revision": 1}))
    held.append(RealFileSystem().lock(path.with_name("model_metadata.json.lock")))
    assert held[-1].taken()
    return manager_on(ollama, folder)


def on_a_full_disk(ollama: OllamaSimulator, folder: Path) -> ModelManager:
    disk, path = SimulatedDisk(), folder / "model_metadata.json"
    disk.put(path, codec().encode(codec().empty()))
    disk.broken = ("write", errno.ENOSPC)
    store = JsonStore.open(path, codec(), disk)
    manager = manager_on(ollama, folder)
    assert manager.store is store
    return manager


def on_a_document_from_the_future(ollama: OllamaSimulator | str, folder: Path) -> ModelManager:
    (folder / "model_metadata.json").write_text('{"format": 99, "models": {}}')
    return manager_on(ollama, folder)


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    while held:
        held.pop().close()


held: list[Any] = []  # locks that must not be let go of before the test ends


class Broken(ModelManager):
    """A manager with a fault in it."""

    def listing(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a fault of ours")

    info = listing


TABLE = [
    Case("invalid_request", 400, getting("/list?purpose=magic"), lambda m: m.listing("magic"),
         facts={"field": "purpose", "allowed": ["speed", "balanced", "quality", "specialized"]}),
    Case("invalid_model_name", 400, posting("/switch", model="../x"), lambda m: m.select_model("../x")),
    Case("unknown_quantization", 400, posting("/download", model=ONE_B, quantization="q5"),
         lambda m: m.start_download(ONE_B, "q5"), facts={"model": ONE_B, "available": ["q4", "q8"]}),
    Case("registry_not_allowed", 400, posting("/download", model="evil.example/u/m:t"),
         lambda m: m.start_download("evil.example/u/m:t"),
         facts={"registry": "evil.example", "allowed": ["registry.ollama.ai", "hf.co"]}),
    Case("unauthorized", 401, getting("/list"), heads={"WWW-Authenticate": "Bearer"}, options={"token": "secret"}),
    Case("host_not_allowed", 403, getting("/list", headers={"Host": "evil.example"})),
    Case("origin_not_allowed", 403, getting("/list", headers={"Origin": EVIL})),
    Case("model_not_found", 404, getting("/info/nobody/knows:it"), lambda m: m.info("nobody/knows:it"),
         facts={"model": "nobody/knows:it"}),
    Case("model_not_published", 404, posting("/download", model=UNPUBLISHED), lambda m: m.pull_model(UNPUBLISHED),
         facts={"model": UNPUBLISHED, "alternatives": list(MODEL_CATALOG[UNPUBLISHED].alternatives)}),
    Case("no_current_model", 404, getting("/current"), lambda m: m.current()),
    Case("no_suitable_model", 404, posting("/recommend", available_vram_gb=0.5), lambda m: m.recommend(0.5),
         facts={"smallest_model": ONE_B}),
    Case("download_not_found", 404, getting("/downloads/none"), lambda m: m.download("none"),
         facts={"download": "none"}),
    Case("benchmark_not_found", 404, getting("/benchmarks/none"), lambda m: m.benchmark("none"),
         facts={"benchmark": "none"}),
    Case("not_found", 404, getting("/lists")),
    Case("method_not_allowed", 405, posting("/list"), heads={"Allow": "GET, HEAD, OPTIONS"},
         facts={"allow": ["GET", "HEAD", "OPTIONS"]}),
    Case("model_not_installed", 409, posting("/switch", model=ONE_B), lambda m: m.select_model(ONE_B),
         facts={"model": ONE_B}),
    Case("capability_missing", 409, posting("/load", model=EMBEDDING), lambda m: m.load_model(EMBEDDING),
         lambda m, ollama: ollama.install(EMBEDDING, only_embedding()),
         facts={"model": EMBEDDING, "capability": "completion", "capabilities": ["embedding"]}),
    Case("benchmark_unsuitable", 409, posting("/benchmarks", models=["blind:1b"], images=["/9j/4A=="]),
         lambda m: m.start_benchmark(["blind:1b"], photos=[b"\xff\xd8\xff\xe0"]),
         lambda m, ollama: ollama.install("blind:1b", make_model("blind", size_bytes=1_000_000_000)),
         facts={"model": "blind:1b", "capability": "vision", "capabilities": ["completion"]}),
    Case("cannot_delete_current", 409, deleting(ONE_B), lambda m: m.remove_model(ONE_B), one_selected,
         facts={"model": ONE_B}),
    Case("model_in_use", 409, deleting(ONE_B), lambda m: m.remove_model(ONE_B),
         lambda m, ollama: (ollama.install(ONE_B_Q8), a_download_under_way(m, ollama)), facts={"model": ONE_B}),
    Case("name_taken", 409, posting("/download", model=ONE_B), lambda m: m.start_download(ONE_B),
         something_of_the_users_own, facts={"model": ONE_B}),
    Case("insufficient_vram", 409, posting("/switch", model="llama3.1:70b-instruct", require_fit=True),
         lambda m: m.select_model("llama3.1:70b-instruct", require_fit=True),
         lambda m, ollama: ollama.install(SEVENTY_B_TAG), facts={"available_bytes": 8 * GIB}),
    Case("invalid_transition", 409, lambda api: api.ask("POST", f"/downloads/{api.manager.downloads()[0].id}/pause"),
         lambda m: m.pause_download(m.downloads()[0].id), lambda m, ollama: m.pull_model(ONE_B),
         facts={"state": "completed"}),
    Case("payload_too_large", 413, lambda api: api.ask("POST", "/switch", b" " * (BODY_LIMIT_BYTES + 1)),
         facts={"limit_bytes": BODY_LIMIT_BYTES}),
    Case("unsupported_media_type", 415, lambda api: api.ask("POST", "/switch", b"{}", content_type="text/plain")),
    Case("internal_error", 500, getting("/list"), make=lambda ollama, folder: Broken(ollama.url, folder / "d.json")),
    Case("store_unwritable", 500, posting("/usage", model=ONE_B), lambda m: m.record_usage(ONE_B, 1.0),
         make=on_a_full_disk),
    Case("store_unreadable", 500, getting("/current"), lambda m: m.current(), make=on_a_document_from_the_future),
    Case("download_failed", 502, posting("/download", model=ONE_B, wait=True), lambda m: m.pull_model(ONE_B),
         fault("too_new"), facts={"reason": "too_new"}),
    Case("ollama_error", 502, posting("/sync"), lambda m: m.sync(), fault("proxy_error"),
         facts={"upstream_status": 502}),
    Case("ollama_unavailable", 503, posting("/sync"), lambda m: m.sync(), stopped, heads={"Retry-After": "5"}),
    Case("too_many_streams", 503, one_stream_too_many, arrange=fault("silence", at_bytes=1000),
         options={"max_streams": 1}, heads={"Retry-After": "5"}, facts={"max_streams": 1}),
    Case("store_busy", 503, posting("/usage", model=ONE_B), lambda m: m.record_usage(ONE_B, 1.0),
         heads={"Retry-After": "5"}, make=on_a_locked_document),
    Case("ollama_timeout", 504, posting("/sync"), lambda m: m.sync(), fault("slow_answer", seconds=1.0),
         make=impatient),
    Case("insufficient_disk", 507, posting("/download", model=ONE_B, wait=True), lambda m: m.pull_model(ONE_B),
         fault("disk_full", at_bytes=1000), facts={"model": ONE_B, "free_bytes": None}),
]  # fmt: skip
# Raised before anything is served; where a download does without; and how a job ends that nobody waits for.
NOT_OVER_HTTP = {"cannot_start", "registry_unavailable", "benchmark_failed"}


def by_code(cases: list[Case]) -> dict[str, Any]:
    return {"argnames": "case", "argvalues": cases, "ids": [case.code for case in cases]}


@pytest.mark.parametrize(**by_code(TABLE))
def test_an_error_leaves_as_a_problem_with_its_facts(case, simulator, tmp_path):
    manager = case.make(simulator, tmp_path)
    case.arrange(manager, simulator)

    answer = case.ask(RestApi(manager, **case.options))

    body = problem(answer, case.code, case.status)
    assert case.facts.items() <= body.items()
    assert case.heads.items() <= dict(answer.headers).items()
    manager.close()


@pytest.mark.parametrize(**by_code([case for case in TABLE if case.call]))
def test_who_imports_the_manager_gets_the_same_error(case, simulator, tmp_path):
    manager = case.make(simulator, tmp_path)
    case.arrange(manager, simulator)

    with pytest.raises(ModelManagerError) as caught:
        case.call(manager)

    assert caught.value.code == case.code
    assert case.facts.items() <= caught.value.facts.items()
    manager.close()


def test_every_error_has_a_status_and_every_status_an_error():
    def family(kind: type[ModelManagerError]) -> set[str]:
        return {kind.code}.union(*(family(child) for child in kind.__subclasses__() if child.__module__ in ours))

    ours = {"model_core.errors", "api_model_problems"}

    assert family(ModelManagerError) == set(STATUS)
    assert {case.code for case in TABLE} | NOT_OVER_HTTP == set(STATUS)
    assert all(case.status == STATUS[case.code] for case in TABLE)


def test_what_is_wrong_with_http_itself_is_no_error_of_the_core():
    assert not issubclass(RequestRefused, InvalidRequest)


def test_a_fault_of_ours_is_found_in_the_log_under_the_id_of_the_answer(tmp_path, caplog):
    api = RestApi(Broken(NOBODY, tmp_path / "d.json"))

    body = problem(api.ask("GET", "/list"), "internal_error", 500)

    logged = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert body["incident"] in body["detail"]
    assert body["incident"] in logged.getMessage()
    assert "ZeroDivisionError" in logged.exc_text
    assert "ZeroDivisionError" not in json.dumps(body)
    assert "a fault of ours" not in json.dumps(body)


def test_a_path_in_the_log_cannot_pretend_to_be_another_line(tmp_path, caplog):
    api = RestApi(Broken(NOBODY, tmp_path / "d.json"))

    problem(api.ask("GET", "/info/x%0d2026-11-23 INFO all is well"), "internal_error", 500)

    assert caplog.records
    assert all("\r" not in record.getMessage() for record in caplog.records)


def test_a_problem_is_answered_also_when_nothing_at_all_can_be_read(tmp_path):
    manager = on_a_document_from_the_future(NOBODY, tmp_path)

    problem(RestApi(manager).ask("GET", "/current"), "store_unreadable", 500)

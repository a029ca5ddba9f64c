"""The REST face: a blueprint at /api/model. Request in, one call of the manager, JSON out.

    app.register_blueprint(init_model_api(manager))                      # in a host's own app
    app.register_blueprint(init_model_api(manager), url_prefix="/ai")    # under another prefix

Nothing is kept in this module, so two apps in one process do not share a manager. Who may call stands in
api_model_guard.py, what may be asked in api_model_requests.py, and how errors leave in api_model_problems.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any
from urllib.parse import unquote

from flask import Blueprint, Flask, Response, current_app, request, url_for
from flask.blueprints import BlueprintSetupState
from flask_cors import CORS
from pydantic_core import to_json
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from api_model_events import HEARTBEAT_S, USUAL_STREAMS, EventApi, Streams
from api_model_guard import Guard
from api_model_problems import Problems
from api_model_requests import (
    BenchmarkQuery,
    Check,
    Compare,
    CompareBenchmarks,
    Download,
    DownloadQuery,
    ImportQuery,
    ListQuery,
    Load,
    Measure,
    Move,
    Nothing,
    OneModel,
    PerhapsModel,
    Plan,
    Recommend,
    Switch,
    read_body,
    read_events,
    read_query,
    read_raw,
)
from api_model_tickets import TICKET_S, Tickets
from model_core import benchmark_results, benchmarks
from model_core.candidates import Criteria
from model_core.errors import InvalidRequest, StoreError
from model_core.loading import Phase
from model_core.records import GIB, DownloadJob, DownloadState
from model_manager import Listing, ModelManager
from ollama_inventory import Seen

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")
NDJSON = "application/x-ndjson"

# Whoever reads a query checks it; to all other routes every field is unknown.
_READS_A_QUERY = {
    "list_models", "delete", "show_download", "show_benchmark", "statistics", "import_document", "events", "websocket",
    "no_view",
}  # fmt: skip


def init_model_api(
    manager: ModelManager,
    *,
    allowed_hosts: Iterable[str] = DEFAULT_HOSTS,
    allowed_origins: Iterable[str] = (),
    token: str | None = None,
    max_streams: int = USUAL_STREAMS,
    heartbeat_s: float = HEARTBEAT_S,
) -> Blueprint:
    """Return the blueprint for an app, at /api/model unless register_blueprint says otherwise.

    In a host's own app these settings are the host's to give: the names under which the app is called, the origins of
    its pages, and a token, if it wants one; and how many answers may stay open at once (events, progress by line),
    each of which holds a thread of the host's server.
    """
    blueprint = Blueprint("model_management", __name__, url_prefix="/api/model")
    origins = list(allowed_origins)
    tickets = Tickets()
    guard = Guard(allowed_hosts, origins, token, tickets)
    blueprint.before_request(lambda: _check(guard))
    if origins:
        _let_pages_read(blueprint, origins)
    events = EventApi(manager, Problems(lambda: _marks(manager)), Streams(max_streams), heartbeat_s)
    events.add_to(blueprint)
    ModelApi(manager, events, tickets).add_to(blueprint)
    blueprint.record(_catch_the_rest)
    answer_problems(blueprint, manager)
    return blueprint


def answer_problems(scaffold: Flask | Blueprint, manager: ModelManager) -> None:
    """Have every error of an app or a blueprint answered as a problem, never as a page."""
    Problems(lambda: _marks(manager)).answer_for(scaffold)


class ModelApi:
    """The views of one blueprint, on one manager."""

    def __init__(self, manager: ModelManager, events: EventApi, tickets: Tickets) -> None:
        self._manager, self._events, self._tickets = manager, events, tickets
        self._listed: tuple[Listing, bytes] | None = None

    def add_to(self, blueprint: Blueprint) -> None:
        """Hang every view on its route."""
        for rule, method, view in (
            ("/list", "GET", self.list_models),
            ("/installed", "GET", self.list_installed),
            ("/info/<path:name>", "GET", self.model_info),
            ("/current", "GET", self.current_model),
            ("/switch", "POST", self.switch),
            ("/delete", "DELETE", self.delete),
            ("/sync", "POST", self.sync),
            ("/running", "GET", self.running),
            ("/load", "POST", self.load),
            ("/unload", "POST", self.unload),
            ("/download", "POST", self.download),
            ("/downloads", "GET", self.list_downloads),
            ("/downloads/<download_id>", "GET", self.show_download),
            ("/download/plan", "POST", self.plan_download),
            ("/downloads/<download_id>/pause", "POST", self.pause_download),
            ("/downloads/<download_id>/resume", "POST", self.resume_download),
            ("/downloads/<download_id>/cancel", "POST", self.cancel_download),
            ("/downloads/<download_id>/move", "POST", self.move_download),
            ("/downloads/<download_id>", "DELETE", self.forget_download),
            ("/benchmarks", "POST", self.start_benchmark),
            ("/benchmarks", "GET", self.list_benchmarks),
            ("/benchmarks/<benchmark_id>", "GET", self.show_benchmark),
            ("/compare_benchmarks", "POST", self.compare_benchmarks),
            ("/benchmarks/<benchmark_id>/cancel", "POST", self.cancel_benchmark),
            ("/benchmarks/<benchmark_id>/resume", "POST", self.resume_benchmark),
            ("/benchmarks/<benchmark_id>", "DELETE", self.forget_benchmark),
            ("/ticket", "POST", self.ticket),
            ("/recommend", "POST", self.recommend),
            ("/check_compatibility", "POST", self.check_compatibility),
            ("/hardware", "GET", self.hardware),
            ("/statistics", "GET", self.statistics),
            ("/usage", "POST", self.usage),
            ("/compare", "POST", self.compare),
            ("/export", "GET", self.export),
            ("/export", "POST", self.export_to_path),
            ("/import", "POST", self.import_document),
            ("/health", "GET", self.health),
            ("/doctor", "GET", self.doctor),
        ):
            blueprint.add_url_rule(rule, view.__name__, view, methods=[method], provide_automatic_options=False)

    def _answer(self, data: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        return _json({"success": True, **_marks(self._manager), **data}, status, headers)

    def _answer_as_seen(self, data: dict[str, Any]) -> Response:
        """Answer what can be answered without Ollama, and say how fresh the word on it is."""
        return _json({"success": True, **data, "ollama": _ollama(self._manager.seen())})

    # --- models ------------------------------------------------------------------------------------------------------

    def list_models(self) -> Response:
        """Every model, smallest first."""
        query = read_query(ListQuery)
        found = self._manager.listing(query.purpose, query.max_vram, query.installed_only)
        return Response(self._list_as_json(found), content_type="application/json")

    def _list_as_json(self, found: Listing) -> bytes:
        # The same list is asked for again and again; its text is kept as long as it is the same.
        listed = self._listed
        if listed and listed[0].models is found.models and listed[0].seen is found.seen:
            return listed[1]
        answer = {"success": True, "models": found.models, "count": len(found.models), "ollama": _ollama(found.seen)}
        text = to_json(answer)
        self._listed = (found, text)
        return text

    def list_installed(self) -> Response:
        """The names of what Ollama holds, each thing once."""
        names, seen = self._manager.installed()
        return _json({"success": True, "models": names, "count": len(names), "ollama": _ollama(seen)})

    def model_info(self, name: str) -> Response:
        """One model. Servers differ in whether they decode %2F in a path; no name holds a percent sign."""
        return self._answer_as_seen({"model": self._manager.info(unquote(name))})

    def current_model(self) -> Response:
        """The selected model."""
        info = self._manager.current()
        return self._answer_as_seen({"model": info.name, "info": info})

    def switch(self) -> Response:
        """Make a model that is there the current one."""
        asked = read_body(Switch)
        done = self._manager.select_model(
            asked.model, asked.quantization, require_fit=asked.require_fit, load=asked.load
        )
        return self._answer(
            {
                "message": f"{done.model} is the current model.",
                "model": done.model,
                "info": done.info,
                "previous": done.previous,
                "warnings": done.warnings,
                "loaded": done.loaded,
            }
        )

    def delete(self) -> Response:
        """Delete a model from Ollama."""
        name = read_query(PerhapsModel).model or read_body(OneModel).model
        removal = self._manager.remove_model(name)
        return self._answer(
            {
                "message": f"{removal.model} is deleted.",
                "model": removal.model,
                "names": removal.names,
                "freed_bytes": removal.freed_bytes,
            }
        )

    def sync(self) -> Response:
        """Ask Ollama what it holds, and remember it."""
        read_body(Nothing)
        done = self._manager.sync()
        return self._answer(
            {
                "message": f"{_counted(len(done.installed), 'model is', 'models are')} installed.",
                "installed_count": len(done.installed),
                "added": done.added,
                "removed": done.removed,
            }
        )

    # --- what is in memory -------------------------------------------------------------------------------------------

    def running(self) -> Response:
        """What Ollama has in memory, and where it lies."""
        running = self._manager.running()
        return self._answer({"models": running, "count": len(running)})

    def load(self) -> Response:
        """Bring a model into memory: the answer comes when it is there, or line by line what is waited for."""
        asked = read_body(Load)

        def load(on_phase: Callable[[Phase], object]) -> dict[str, Any]:
            done = self._manager.load_model(
                asked.model, asked.keep_alive, context_tokens=asked.context_tokens, on_phase=on_phase
            )
            return {"success": True, **_marks(self._manager), **done.model_dump(mode="json")}

        if _wants_lines():
            return self._events.phases(load)
        with self._held(True):
            return _json(load(lambda phase: None))

    def unload(self) -> Response:
        """Take a model out of memory."""
        return self._answer(self._manager.unload_model(read_body(OneModel).model).model_dump(mode="json"))

    # --- downloads ---------------------------------------------------------------------------------------------------

    def download(self) -> Response:
        """Fetch a model in the background: 202 and where to look, 200 when it is there, or its progress by line."""
        asked = read_body(Download)

        def begin() -> DownloadJob:
            return self._manager.start_download(asked.model, quantization=asked.quantization, force=asked.force)

        if _wants_lines():
            marks = _marks(self._manager)
            return self._events.lines(begin, lambda job: to_json({**job.model_dump(mode="json"), **marks}) + b"\n")
        with self._held(asked.wait):
            pull = self._manager.pull_model
            job = pull(asked.model, quantization=asked.quantization, force=asked.force) if asked.wait else begin()
        answer = {"model": job.model, "download": job}
        if job.state is DownloadState.COMPLETED:
            return self._answer({"message": f"{job.model} is installed.", **answer})
        headers = {"Location": url_for(".show_download", download_id=job.id), "Retry-After": "1"}
        return self._answer({"message": f"{job.model} is being downloaded.", **answer}, 202, headers)

    def _held(self, waits: bool | float) -> AbstractContextManager[None]:
        # An answer that is waited for holds a thread just as one that is streamed.
        return self._events.streams.one() if waits else nullcontext()

    def plan_download(self) -> Response:
        """What a download would fetch, whether there is room for it, and what to know before."""
        asked = read_body(Plan)
        return self._answer(self._manager.plan_download(asked.model, asked.quantization).model_dump(mode="json"))

    def list_downloads(self) -> Response:
        """Every download on record."""
        jobs = self._manager.downloads()
        return self._answer({"downloads": jobs, "count": len(jobs)})

    def show_download(self, download_id: str) -> Response:
        """One download; with wait and since, as soon as there is something newer."""
        asked = read_query(DownloadQuery)
        with self._held(asked.wait):
            job = self._manager.download(download_id, since=asked.since, wait_s=asked.wait)
        return self._answer({"download": job})

    def pause_download(self, download_id: str) -> Response:
        """Let a download rest."""
        return self._granted(self._manager.pause_download, download_id)

    def resume_download(self, download_id: str) -> Response:
        """Go on with a download."""
        return self._granted(self._manager.resume_download, download_id)

    def cancel_download(self, download_id: str) -> Response:
        """End a download without its model."""
        return self._granted(self._manager.cancel_download, download_id)

    def forget_download(self, download_id: str) -> Response:
        """Take a download that has ended off the record."""
        return self._granted(self._manager.forget_download, download_id)

    def _granted(self, wish: Callable[[str], DownloadJob], download_id: str) -> Response:
        read_body(Nothing)
        return self._answer({"download": wish(download_id)})

    def move_download(self, download_id: str) -> Response:
        """Put a waiting download at another place."""
        return self._answer({"download": self._manager.move_download(download_id, read_body(Move).position)})

    def ticket(self) -> Response:
        """Give a ticket, for who cannot send the token along when opening /events or /ws."""
        read_body(Nothing)
        answer = {"ticket": self._tickets.issue(), "expires_in": TICKET_S}
        return self._answer(answer, headers={"Cache-Control": "no-store"})

    # --- benchmarks --------------------------------------------------------------------------------------------------

    def start_benchmark(self) -> Response:
        """Measure installed models on the same prompts, in the background: 202 and where to look."""
        asked = read_body(Measure)
        job = self._manager.start_benchmark(
            asked.models,
            asked.prompts,
            asked.photos(),
            asked.runs,
            answer_tokens=asked.answer_tokens,
            context_tokens=asked.context_tokens,
            seed=asked.seed,
        )
        headers = {"Location": url_for(".show_benchmark", benchmark_id=job.id), "Retry-After": "1"}
        measured, answers = _counted(len(job.models), "model", "models"), _counted(job.total, "answer", "answers")
        told = f"{measured} to measure, {answers}: one benchmark runs at a time."
        return self._answer({"message": told, "benchmark": job}, 202, headers)

    def list_benchmarks(self) -> Response:
        """Every benchmark that is kept, without the single answers."""
        jobs = self._manager.benchmarks()
        return self._answer({"benchmarks": [benchmarks.brief(job) for job in jobs], "count": len(jobs)})

    def show_benchmark(self, benchmark_id: str) -> Response:
        """One benchmark with all that was measured; with wait and since, as soon as there is something newer."""
        asked = read_query(BenchmarkQuery)
        with self._held(asked.wait):
            job = self._manager.benchmark(benchmark_id, since=asked.since, wait_s=asked.wait)
        if asked.format == "json":
            return self._answer({"benchmark": job})
        headers = {"Content-Disposition": f'attachment; filename="benchmark-{job.id}.csv"'}
        return Response(benchmark_results.as_csv(job), headers=headers, content_type="text/csv; charset=utf-8")

    def cancel_benchmark(self, benchmark_id: str) -> Response:
        """End a benchmark; what was measured is kept."""
        read_body(Nothing)
        return self._answer({"benchmark": self._manager.cancel_benchmark(benchmark_id)})

    def resume_benchmark(self, benchmark_id: str) -> Response:
        """Go on with a benchmark that was interrupted."""
        read_body(Nothing)
        return self._answer({"benchmark": self._manager.resume_benchmark(benchmark_id)})

    def compare_benchmarks(self) -> Response:
        """What several benchmarks found that asked the same, side by side."""
        found = self._manager.compare_benchmarks(read_body(CompareBenchmarks).benchmarks)
        return self._answer({"comparison": found})

    def forget_benchmark(self, benchmark_id: str) -> Response:
        """Take a benchmark that has ended off the record."""
        read_body(Nothing)
        return self._answer({"benchmark": self._manager.forget_benchmark(benchmark_id)})

    # --- advice and statistics ---------------------------------------------------------------------------------------

    def recommend(self) -> Response:
        """The model that suits best, the others in their order, what was not chosen, and why."""
        asked = read_body(Recommend).wish
        found = self._manager.recommend(
            asked.vram_gb,
            asked.priority,
            context_tokens=asked.context_tokens,
            needs=asked.needs,
            installed_only=asked.installed_only,
            kv_type=asked.kv_type,
            parallel=asked.parallel,
            on_processor=asked.on_processor,
        )
        best = found.best
        return self._answer_as_seen(
            {
                "recommended_model": best.model,
                "quantization": best.quantization,
                "info": self._manager.info(best.model),
                "reasons": best.reasons,
                "installed": best.installed,
                "verdict": best.verdict,
                "need": best.need,
                "margin_bytes": best.margin_bytes,
                "download_bytes": best.download_bytes,
                "speed": best.speed,
                "suitable_count": found.suitable_count,
                "alternatives": found.alternatives,
                "not_chosen": found.not_chosen,
                "not_chosen_count": found.not_chosen_count,
                "criteria": _criteria(found.criteria),
            }
        )

    def check_compatibility(self) -> Response:
        """Whether a model lies on the card as a whole, the parts of its need, and what would make it fit."""
        asked = read_body(Check)
        fit = self._manager.check_fit(
            asked.model,
            asked.available_vram_gb,
            quantization=asked.quantization,
            context_tokens=asked.context_tokens,
            kv_type=asked.kv_type,
            parallel=asked.parallel,
        )
        return self._answer_as_seen(
            {
                **fit.check.model_dump(mode="json"),
                "speed": fit.speed,
                "available_vram_gb": fit.check.available_bytes / GIB,
                "source": fit.source,
                "machine": fit.criteria.machine,
            }
        )

    def hardware(self) -> Response:
        """What the machine has, who says so, and how much of it advice counts on."""
        machine, found = self._manager.hardware(), self._manager.budget()
        return self._answer({**machine.model_dump(mode="json"), "available": found})

    def statistics(self) -> Response:
        """What is on record, of one model or of all."""
        if name := read_query(PerhapsModel).model:
            found = self._manager.statistics(name)
            return self._answer_as_seen({"model": found.name, "statistics": found})
        everything = self._manager.all_statistics()
        return self._answer_as_seen({"statistics": everything, "count": len(everything)})

    def usage(self) -> Response:
        """Record one inference, or several: all or none."""
        asked = read_events()
        if isinstance(asked, list):
            return self._answer({"recorded": self._manager.record_events(event.model_dump() for event in asked)})
        told = asked.model_dump(exclude={"model"})
        self._manager.record_usage(asked.model, **told)
        return self._answer({"recorded": 1})

    def compare(self) -> Response:
        """What is on record of several models, side by side, and in what one is ahead."""
        asked = read_body(Compare)
        return self._answer_as_seen(self._manager.compare(asked.models, asked.metrics).model_dump(mode="json"))

    # --- care of the data --------------------------------------------------------------------------------------------

    def export(self) -> Response:
        """The document, as a file to keep."""
        document = self._manager.export_document()
        day = document["exported_at"][:10]
        headers = {"Content-Disposition": f'attachment; filename="model_metadata-{day}.json"'}
        return Response(json.dumps(document, indent=2), headers=headers, content_type="application/json")

    def export_to_path(self) -> Response:
        """Old callers named a file of the server here. A path from the network is not taken."""
        raise InvalidRequest("output_file", _NO_PATHS, "GET this address, and save what it answers.")

    def import_document(self) -> Response:
        """Take over an exported document, or say what that would change."""
        asked, raw = read_query(ImportQuery), read_raw()
        if re.match(rb'\s*{\s*"input_file"', raw):
            raise InvalidRequest("input_file", _NO_PATHS, "Send the exported document itself as the body.")
        done = self._manager.import_document(raw, asked.mode, dry_run=asked.dry_run)
        word = "would change" if done.dry_run else "changed"
        added, updated, removed = len(done.added), len(done.updated), len(done.removed)
        message = (
            f"The import {word} this: {_counted(added, 'model', 'models')} added, {updated} updated, {removed} removed."
        )
        return self._answer({"message": message, **done.model_dump(mode="json")})

    # --- around it ---------------------------------------------------------------------------------------------------

    def health(self) -> Response:
        """How each part is. 200 as long as the service works, whatever Ollama does."""
        answer = {"success": True, "live": True, **self._manager.health()}
        with suppress(StoreError):  # the part of the store has told of it
            answer["ollama"] = _ollama(self._manager.seen())
        return _json(answer)

    def doctor(self) -> Response:
        """Everything that was looked at: what is well, and what to do where it is not."""
        found = self._manager.diagnose()
        return self._answer({"well": found.ok, "reachable": found.reachable, "findings": found.findings})


def _wants_lines() -> bool:
    return request.accept_mimetypes.best_match(["application/json", NDJSON]) == NDJSON


_NO_PATHS = "a path on the server is not taken from the network"


# --- answers ---------------------------------------------------------------------------------------------------------


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(data), status, headers, content_type="application/json")


def _criteria(asked: Criteria) -> dict[str, Any]:
    # In one unit only: whoever sends them back changed would not know which figure counts.
    told = asked.model_dump(mode="json", exclude={"available_bytes"})
    return {"available_vram_gb": asked.available_bytes / GIB, **told}


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _ollama(seen: Seen) -> dict[str, Any]:
    return {
        "reachable": seen.reachable,
        "checked_at": seen.checked_at,
        "version": seen.version,
        "simulated": seen.simulated,
        "problem": str(seen.error) if seen.error else None,
    }


def _marks(manager: ModelManager) -> dict[str, Any]:
    """What every answer carries: the demonstration never passes for the real thing."""
    with suppress(StoreError):  # a document that cannot be read is told of by what was asked for, not by this
        if manager.is_simulated():
            return {"ollama": {"simulated": True}}
    return {}


# --- around the views ------------------------------------------------------------------------------------------------


def _check(guard: Guard) -> None:
    """Let a request through to its view, or raise why not."""
    environ = request.environ
    guard.check(environ)
    if environ.get("QUERY_STRING") and (request.endpoint or "").rpartition(".")[2] not in _READS_A_QUERY:
        read_query(Nothing)


def _let_pages_read(blueprint: Blueprint, origins: Iterable[str]) -> None:
    CORS(
        blueprint,
        # As patterns, since a plain text with a bracket in it (http://[::1]:3000) would be taken for one.
        origins=[re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in origins],
        allow_headers=["Authorization", "Content-Type"],
        expose_headers=["Location", "Retry-After"],
        max_age=600,
    )


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _catch_the_rest(state: BlueprintSetupState) -> None:
    """Take every address below the prefix with every method: what no view takes is ours to answer, not the host's."""
    endpoint = f"{state.name_prefix}.{state.name}.no_view".lstrip(".")
    state.app.view_functions[endpoint] = _no_view
    for rest in ("/", "/<path:rest>"):
        # Flask's own add_url_rule knows no rule without methods.
        rule = (state.url_prefix or "").rstrip("/") + rest
        state.app.url_map.add(
            state.app.url_rule_class(rule, endpoint=endpoint, subdomain=state.subdomain, strict_slashes=False)
        )


def _no_view(rest: str = "") -> Response:
    adapter = current_app.create_url_adapter(request)
    allowed = [method for method in _METHODS if _takes(adapter, method)]
    if not allowed:
        raise NotFound
    allowed += [*(["HEAD"] if "GET" in allowed else []), "OPTIONS"]
    if request.method != "OPTIONS":
        raise MethodNotAllowed(allowed)
    return _json({"success": True, "allow": allowed}, headers={"Allow": ", ".join(allowed)})


def _takes(adapter: Any, method: str) -> bool:
    try:
        rule, _ = adapter.match(method=method, return_rule=True)
    except HTTPException:
        return False
    return not rule.endpoint.endswith("no_view")

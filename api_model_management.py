"""The REST face: a blueprint at /api/model. Request in, one call of the manager, JSON out; errors leave by one door.

    app.register_blueprint(init_model_api(manager))                      # in a host's own app
    app.register_blueprint(init_model_api(manager), url_prefix="/ai")    # under another prefix

Nothing is kept in this module, so two apps in one process do not share a manager. Who may call is decided before any
view runs: by the Host header, the Origin of a page, the token, the content type, the size of the body.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from flask import Blueprint, Response, current_app, request, url_for
from flask_cors import CORS
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge, default_exceptions

from model_core.downloads import failure_of
from model_core.errors import InvalidRequest, ModelManagerError, as_facts
from model_core.records import GIB, ModelMetadata
from model_manager import ModelManager
from ollama_inventory import Seen

logger = logging.getLogger(__name__)

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")
BODY_LIMIT_BYTES = 64 * 1024
IMPORT_LIMIT_BYTES = 16 * 1024 * 1024
LONGEST_WAIT_S = 60.0
NDJSON = "application/x-ndjson"

# Every error that the core can raise, and what it is in HTTP. tests/test_api_model_management.py holds it complete.
STATUS: Mapping[str, HTTPStatus] = {
    "invalid_request": HTTPStatus.BAD_REQUEST,
    "invalid_model_name": HTTPStatus.BAD_REQUEST,
    "unknown_quantization": HTTPStatus.BAD_REQUEST,
    "registry_not_allowed": HTTPStatus.BAD_REQUEST,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "host_not_allowed": HTTPStatus.FORBIDDEN,
    "origin_not_allowed": HTTPStatus.FORBIDDEN,
    "model_not_found": HTTPStatus.NOT_FOUND,
    "model_not_published": HTTPStatus.NOT_FOUND,
    "no_current_model": HTTPStatus.NOT_FOUND,
    "no_suitable_model": HTTPStatus.NOT_FOUND,
    "download_not_found": HTTPStatus.NOT_FOUND,
    "not_found": HTTPStatus.NOT_FOUND,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "model_not_installed": HTTPStatus.CONFLICT,
    "cannot_delete_current": HTTPStatus.CONFLICT,
    "model_in_use": HTTPStatus.CONFLICT,
    "name_taken": HTTPStatus.CONFLICT,
    "insufficient_vram": HTTPStatus.CONFLICT,
    "invalid_transition": HTTPStatus.CONFLICT,
    "payload_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "internal_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "cannot_start": HTTPStatus.INTERNAL_SERVER_ERROR,
    "store_unwritable": HTTPStatus.INTERNAL_SERVER_ERROR,
    "store_unreadable": HTTPStatus.INTERNAL_SERVER_ERROR,
    "download_failed": HTTPStatus.BAD_GATEWAY,
    "registry_unavailable": HTTPStatus.BAD_GATEWAY,
    "ollama_error": HTTPStatus.BAD_GATEWAY,
    "ollama_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "store_busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "ollama_timeout": HTTPStatus.GATEWAY_TIMEOUT,
    "insufficient_disk": HTTPStatus.INSUFFICIENT_STORAGE,
}
RETRY_AFTER_S = 5


class _Refused(ModelManagerError):
    """Something of HTTP's own is wrong with the request; the core never hears of it."""

    def __init__(self, code: str, title: str, happened: str, remedy: str, **facts: Any) -> None:
        super().__init__(happened, remedy, **facts)
        self.code, self.title = code, title  # type: ignore[misc]  # one class for the face's own handful of codes


# --- what may be asked -----------------------------------------------------------------------------------------------


class _Asked(BaseModel):
    """A body or a query: unknown fields are refused, numbers are numbers and finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=(), str_max_length=512)


class _Model(_Asked):
    model: str


class _OptionalModel(_Asked):
    model: str | None = None


class _ListQuery(_Asked):
    purpose: str | None = None
    max_vram: float | None = None
    installed_only: bool = False


class _Switch(_Model):
    quantization: str | None = None
    require_fit: bool = False
    load: bool = False


class _Download(_Model):
    quantization: str | None = None
    wait: bool = False
    force: bool = False


class _DownloadQuery(_Asked):
    wait: float = Field(default=0.0, ge=0, le=LONGEST_WAIT_S)
    since: int | None = Field(default=None, ge=0)


class _Recommend(_Asked):
    available_vram_gb: float | None = Field(default=None, strict=True)
    priority: str = "balanced"
    context_tokens: int = Field(default=4096, strict=True)
    needs: list[str] = Field(default=[], max_length=16)
    installed_only: bool | None = None


class _Check(_Model):
    available_vram_gb: float | None = Field(default=None, strict=True)
    quantization: str | None = None
    context_tokens: int = Field(default=4096, strict=True)


class _Event(_Model):
    inference_time: float | None = Field(default=None, strict=True)
    success: bool = Field(default=True, strict=True)


class _ImportQuery(_Asked):
    mode: Literal["merge", "replace"] = "merge"
    dry_run: bool = False


_EVENTS = TypeAdapter(list[_Event])
MOST_EVENTS = 1000

A = TypeVar("A", bound=_Asked)


def _body(kind: type[A]) -> A:
    """Return the body as a record; a body that is not there is an empty object. Raises InvalidRequest."""
    return _validated(lambda: kind.model_validate_json(request.get_data(cache=False) or b"{}"))


def _query(kind: type[A]) -> A:
    return _validated(lambda: kind.model_validate(request.args.to_dict()))


R = TypeVar("R")


def _validated(call: Callable[[], R]) -> R:
    try:
        return call()
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "body"
        if problem["type"] == "extra_forbidden":
            raise InvalidRequest(_plain(field), "is not a field of this request", "Leave it out.") from None
        raise InvalidRequest(_plain(field), problem["msg"][:1].lower() + problem["msg"][1:].rstrip(".")) from None


def _plain(field: str) -> str:
    """A field's name comes from outside: what is no plain word is shown as such, and not at length."""
    return field.encode("ascii", "backslashreplace").decode()[:80]


# --- answers ---------------------------------------------------------------------------------------------------------


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(data), status, headers, content_type="application/json")


def _ollama(seen: Seen) -> dict[str, Any]:
    return {
        "reachable": seen.reachable,
        "checked_at": seen.checked_at,
        "version": seen.version,
        "simulated": seen.simulated,
        "problem": str(seen.error) if seen.error else None,
    }


class ModelApi:
    """The views of one blueprint, on one manager."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager
        self._listed: tuple[tuple[ModelMetadata, ...], bytes] | None = None

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
            ("/download", "POST", self.download),
            ("/downloads", "GET", self.list_downloads),
            ("/downloads/<download_id>", "GET", self.show_download),
            ("/recommend", "POST", self.recommend),
            ("/check_compatibility", "POST", self.check_compatibility),
            ("/statistics", "GET", self.statistics),
            ("/usage", "POST", self.usage),
            ("/export", "GET", self.export),
            ("/export", "POST", self.export_to_path),
            ("/import", "POST", self.import_document),
            ("/health", "GET", self.health),
        ):
            blueprint.add_url_rule(rule, view.__name__, view, methods=[method], provide_automatic_options=False)

    def _answer(self, data: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        answer = {"success": True, **data}
        # The demonstration never passes for the real thing.
        if "ollama" not in answer and (seen := self._manager.seen()).simulated:
            answer["ollama"] = _ollama(seen)
        return _json(answer, status, headers)

    # --- models ------------------------------------------------------------------------------------------------------

    def list_models(self) -> Response:
        """Every model, smallest first."""
        query = _query(_ListQuery)
        found = self._manager.listing(query.purpose, query.max_vram, query.installed_only)
        models = self._models_as_json(found.models)
        rest = to_json({"count": len(found.models), "ollama": _ollama(found.seen)})
        return Response(b'{"success":true,"models":' + models + b"," + rest[1:], content_type="application/json")

    def _models_as_json(self, models: tuple[ModelMetadata, ...]) -> bytes:
        # The same picture is asked for again and again; its text is kept as long as it is the same picture.
        listed = self._listed
        if listed is None or listed[0] is not models:
            self._listed = listed = (models, to_json(models))
        return listed[1]

    def list_installed(self) -> Response:
        """The names of what Ollama holds, each thing once."""
        names, seen = self._manager.installed()
        return self._answer({"models": names, "count": len(names), "ollama": _ollama(seen)})

    def model_info(self, name: str) -> Response:
        """One model. Servers differ in whether they decode %2F in a path; no name holds a percent sign."""
        info = self._manager.info(unquote(name))
        return self._answer({"model": info, "ollama": _ollama(self._manager.seen())})

    def current_model(self) -> Response:
        """The selected model."""
        info = self._manager.current()
        return self._answer({"model": info.name, "info": info, "ollama": _ollama(self._manager.seen())})

    def switch(self) -> Response:
        """Make a model that is there the current one."""
        asked = _body(_Switch)
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
            }
        )

    def delete(self) -> Response:
        """Delete a model from Ollama."""
        asked = _query(_OptionalModel).model or _body(_Model).model
        removal = self._manager.remove_model(asked)
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
        done = self._manager.sync()
        return self._answer(
            {
                "message": f"{len(done.installed)} models are installed.",
                "installed_count": len(done.installed),
                "added": done.added,
                "removed": done.removed,
            }
        )

    # --- downloads ---------------------------------------------------------------------------------------------------

    def download(self) -> Response:
        """Fetch a model in the background: 202 and where to look, 200 when it is there, or its progress by line."""
        asked = _body(_Download)
        job = self._manager.start_download(asked.model, asked.quantization, force=asked.force)
        if request.accept_mimetypes.best_match(["application/json", NDJSON]) == NDJSON:
            lines = (to_json(step) + b"\n" for step in self._manager.follow_download(job))
            return Response(lines, content_type=NDJSON, headers={"Cache-Control": "no-store"})
        if asked.wait:
            *_, job = self._manager.follow_download(job)
            if problem := failure_of(job):
                raise problem
        if job.already_installed or asked.wait:
            return self._answer({"message": f"{job.model} is installed.", "model": job.model, "download": job})
        where = url_for(".show_download", download_id=job.id)
        answer = {"message": f"{job.model} is being downloaded.", "model": job.model, "download": job}
        return self._answer(answer, 202, {"Location": where, "Retry-After": "1"})

    def list_downloads(self) -> Response:
        """Every download on record."""
        jobs = self._manager.downloads()
        return self._answer({"downloads": jobs, "count": len(jobs)})

    def show_download(self, download_id: str) -> Response:
        """One download; with wait and since, as soon as there is something newer."""
        asked = _query(_DownloadQuery)
        return self._answer({"download": self._manager.download(download_id, since=asked.since, wait_s=asked.wait)})

    # --- advice and statistics ---------------------------------------------------------------------------------------

    def recommend(self) -> Response:
        """The model that suits best, the others in their order, and why."""
        asked = _body(_Recommend)
        found = self._manager.recommend(
            asked.available_vram_gb,
            asked.priority,
            context_tokens=asked.context_tokens,
            needs=asked.needs,
            installed_only=asked.installed_only,
        )
        best = found.best
        return self._answer(
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
                "alternatives": found.alternatives,
                "criteria": {
                    **found.criteria.model_dump(mode="json"),
                    "available_vram_gb": found.criteria.available_bytes / GIB,
                },
            }
        )

    def check_compatibility(self) -> Response:
        """Whether a model lies on the card as a whole, and the parts of its need."""
        asked = _body(_Check)
        fit = self._manager.check_fit(
            asked.model,
            asked.available_vram_gb,
            quantization=asked.quantization,
            context_tokens=asked.context_tokens,
        )
        answer = fit.check.model_dump(mode="json")
        return self._answer({**answer, "available_vram_gb": fit.check.available_bytes / GIB, "source": fit.source})

    def statistics(self) -> Response:
        """What is on record, of one model or of all."""
        if name := _query(_OptionalModel).model:
            found = self._manager.statistics(name)
            return self._answer({"model": found.name, "statistics": found})
        everything = self._manager.all_statistics()
        return self._answer({"statistics": everything, "count": len(everything)})

    def usage(self) -> Response:
        """Record one inference, or several: all or none."""
        raw = request.get_data(cache=False)
        if raw.lstrip()[:1] == b"[":
            events = _validated(lambda: _EVENTS.validate_json(raw))
        else:
            events = [_validated(lambda: _Event.model_validate_json(raw or b"{}"))]
        if len(events) > MOST_EVENTS:
            raise InvalidRequest("body", f"holds {len(events)} events, more than {MOST_EVENTS}", "Send several bodies.")
        recorded = self._manager.record_events([(e.model, e.inference_time, e.success) for e in events])
        return self._answer({"recorded": recorded})

    # --- care of the data --------------------------------------------------------------------------------------------

    def export(self) -> Response:
        """The document, as a file to keep."""
        document = self._manager.export_document()
        day = document["exported_at"][:10]
        headers = {"Content-Disposition": f'attachment; filename="model_metadata-{day}.json"'}
        return Response(json.dumps(document, indent=2), headers=headers, content_type="application/json")

    def export_to_path(self) -> Response:
        """Old callers named a file of the server here. A path from the network is not taken."""
        raise InvalidRequest(
            "output_file", "a path on the server is not taken from the network", "GET this address and save the answer."
        )

    def import_document(self) -> Response:
        """Take over an exported document, or say what that would change."""
        asked, raw = _query(_ImportQuery), request.get_data(cache=False)
        done = self._manager.import_document(raw, asked.mode, dry_run=asked.dry_run)
        word = "would change" if done.dry_run else "changed"
        message = f"{len(done.added)} models added, {len(done.updated)} updated, {len(done.removed)} removed"
        return self._answer({"message": f"The import {word} this: {message}.", **done.model_dump(mode="json")})

    # --- around it ---------------------------------------------------------------------------------------------------

    def health(self) -> Response:
        """How each part is. 200 as long as the service works, whatever Ollama does."""
        return self._answer({"live": True, **self._manager.health(), "ollama": _ollama(self._manager.seen())})


# --- who may call ----------------------------------------------------------------------------------------------------


class Guard:
    """Decides, before any view runs, whether a request is one that we answer.

    hosts    names and addresses that may stand in Host, without a port: a page that made its own name point here
             (DNS rebinding) carries that name
    origins  pages elsewhere that may call, as scheme://host[:port]
    token    what must follow "Authorization: Bearer", None: nothing
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str], token: str | None) -> None:
        self._hosts = {host.lower().strip("[]") for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self._token = token

    def check(self) -> None:
        """Raise the refusal that a request deserves; return for a good one."""
        self._check_host()
        self._check_origin()
        # A browser asks with OPTIONS whether it may ask, and cannot show a token then; it learns nothing of ours.
        if request.method != "OPTIONS":
            self._check_token()
            self._check_body()

    def _check_host(self) -> None:
        host = _hostname(request.headers.get("Host", ""))
        if host not in self._hosts:
            raise _Refused(
                "host_not_allowed",
                "Host not allowed",
                "This service does not answer under the name that the request was sent to.",
                "Call it as localhost or 127.0.0.1, or add the name to MODEL_MANAGER_ALLOWED_HOSTS.",
            )

    def _check_origin(self) -> None:
        origin = request.headers.get("Origin")
        if origin is None or origin.lower() in self._origins or origin.lower() == request.host_url.rstrip("/").lower():
            return
        raise _Refused(
            "origin_not_allowed",
            "Origin not allowed",
            "Pages of other origins may not call this service.",
            "Add the page's origin to MODEL_MANAGER_ALLOWED_ORIGINS, for instance http://localhost:3000.",
        )

    def _check_token(self) -> None:
        if self._token is None:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise _Refused(
                "unauthorized",
                "Unauthorized",
                "The token is missing or wrong.",
                "Send the header 'Authorization: Bearer …' with the token from MODEL_MANAGER_TOKEN.",
            )

    def _check_body(self) -> None:
        has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
        limit = IMPORT_LIMIT_BYTES if (request.endpoint or "").endswith(".import_document") else BODY_LIMIT_BYTES
        # Also a body whose length is not announced is read up to here only.
        request.max_content_length = limit
        if has_body and (request.content_length or 0) > limit:
            raise _too_large(limit)
        if has_body and request.mimetype != "application/json":
            raise _Refused(
                "unsupported_media_type",
                "Unsupported media type",
                "The body is not declared as JSON.",
                "Send the header 'Content-Type: application/json'.",
            )


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:  # a bracket without its pair, and the like: no name of ours
        return ""


def _too_large(limit: int) -> _Refused:
    return _Refused(
        "payload_too_large",
        "Payload too large",
        f"The body is larger than {limit:,} bytes.",
        "Send less, or in several requests.",
        limit_bytes=limit,
    )


# --- the one door ----------------------------------------------------------------------------------------------------


def problem_response(error: ModelManagerError) -> Response:
    """Return an error as application/problem+json (RFC 9457), with the fields that old callers read."""
    status = STATUS[error.code]
    body = {
        "success": False,
        **as_facts(error),
        "type": f"urn:junmai:model-management:{error.code.replace('_', '-')}",
        "status": int(status),
    }
    headers = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if "allow" in error.facts:
        headers["Allow"] = ", ".join(error.facts["allow"])
    return Response(to_json(body), status, headers, content_type="application/problem+json")


def _http_problem(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return problem_response(_too_large(request.max_content_length or BODY_LIMIT_BYTES))
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        return problem_response(
            _Refused(
                "method_not_allowed",
                "Method not allowed",
                f"This address does not take {request.method}.",
                f"Use {' or '.join(allowed)}.",
                allow=allowed,
            )
        )
    if isinstance(error, NotFound):
        return problem_response(
            _Refused("not_found", "Not found", "There is no such address.", "README.md and docs/api.md list them all.")
        )
    if error.code is not None and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem_response(InvalidRequest("request", (error.description or error.name).rstrip(".")))
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    incident = secrets.token_hex(4)
    logger.error("internal error id=%s path=%s", incident, request.path, exc_info=error)
    return problem_response(
        ModelManagerError(
            "Something went wrong inside this service.",
            f"The log has the details under the id {incident}; trying again may work.",
            incident=incident,
        )
    )


def init_model_api(
    manager: ModelManager,
    *,
    allowed_hosts: Iterable[str] = DEFAULT_HOSTS,
    allowed_origins: Iterable[str] = (),
    token: str | None = None,
) -> Blueprint:
    """Return the blueprint for an app, at /api/model unless register_blueprint says otherwise.

    In a host's own app these settings are the host's to give: the names under which the app is called, the origins of
    its pages, and a token, if it wants one.
    """
    blueprint = Blueprint("model_management", __name__, url_prefix="/api/model")
    origins = list(allowed_origins)
    blueprint.before_request(Guard(allowed_hosts, origins, token).check)
    if origins:
        CORS(blueprint, origins=origins, allow_headers=["Authorization", "Content-Type"])
    ModelApi(manager).add_to(blueprint)
    for rule in ("/", "/<path:rest>"):
        blueprint.add_url_rule(rule, "no_view", _no_view, methods=[*_METHODS, "HEAD", "OPTIONS"])
    blueprint.register_error_handler(ModelManagerError, problem_response)
    blueprint.register_error_handler(Exception, _unexpected)
    # By number as well: a host's handler for a number goes before ours for a class.
    for code in default_exceptions:
        blueprint.register_error_handler(code, _http_problem)
    return blueprint


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _no_view(rest: str = "") -> Response:
    """What no view takes: OPTIONS of every address, 404 and 405, so that they are ours in a host's app, too."""
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

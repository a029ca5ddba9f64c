"""The one door for errors of the REST face: each leaves as application/problem+json (RFC 9457), none as a page.

    {"success": false, "error": one sentence, "code": word, "type": URN, "title": words, "status": number,
     "detail": sentence and what to do, "remedy": what to do, …the same facts as fields…}

Old callers read `success` and `error`. How the errors of the core come to their status stands here and nowhere else.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Flask, Response, request
from pydantic_core import to_json
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)

from model_core.errors import InvalidRequest, ModelManagerError, as_facts

logger = logging.getLogger(__name__)

# Every error there is, and what it is in HTTP. tests/test_api_model_management.py holds it complete.
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
    "benchmark_not_found": HTTPStatus.NOT_FOUND,
    "not_found": HTTPStatus.NOT_FOUND,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "model_not_installed": HTTPStatus.CONFLICT,
    "benchmark_unsuitable": HTTPStatus.CONFLICT,
    "capability_missing": HTTPStatus.CONFLICT,
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
    "benchmark_failed": HTTPStatus.BAD_GATEWAY,
    "download_failed": HTTPStatus.BAD_GATEWAY,
    "ollama_error": HTTPStatus.BAD_GATEWAY,
    "registry_unavailable": HTTPStatus.BAD_GATEWAY,
    "ollama_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "store_busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "too_many_streams": HTTPStatus.SERVICE_UNAVAILABLE,
    "ollama_timeout": HTTPStatus.GATEWAY_TIMEOUT,
    "insufficient_disk": HTTPStatus.INSUFFICIENT_STORAGE,
}
RETRY_AFTER_S = 5


# --- what only HTTP can get wrong ------------------------------------------------------------------------------------


class RequestRefused(ModelManagerError):
    """Something of HTTP's own is wrong with a request; the core never hears of it."""


class HostNotAllowed(RequestRefused):
    """The request was sent to a name that is none of ours."""

    code, title = "host_not_allowed", "Host not allowed"

    def __init__(self) -> None:
        super().__init__(
            "This service does not answer under the name that the request was sent to.",
            "Call it as localhost or 127.0.0.1, or add the name to MODEL_MANAGER_ALLOWED_HOSTS.",
        )


class OriginNotAllowed(RequestRefused):
    """A page of another origin sent it."""

    code, title = "origin_not_allowed", "Origin not allowed"

    def __init__(self) -> None:
        super().__init__(
            "Pages of other origins may not call this service.",
            "Add the page's origin to MODEL_MANAGER_ALLOWED_ORIGINS, for instance http://localhost:3000.",
        )


class Unauthorized(RequestRefused):
    """A token is asked for, and is missing or wrong."""

    code, title = "unauthorized", "Unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "The token is missing or wrong.",
            "Send the header 'Authorization: Bearer …' with the token from MODEL_MANAGER_TOKEN.",
        )


class PayloadTooLarge(RequestRefused):
    """The body is larger than this address takes."""

    code, title = "payload_too_large", "Payload too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The body is larger than {limit_bytes:,} bytes.",
            "Send less at once; docs/api.md says how much each address takes.",
            limit_bytes=limit_bytes,
        )


class UnsupportedMediaType(RequestRefused):
    """The body is not declared as JSON."""

    code, title = "unsupported_media_type", "Unsupported media type"

    def __init__(self) -> None:
        super().__init__("The body is not declared as JSON.", "Send the header 'Content-Type: application/json'.")


class TooManyStreams(RequestRefused):
    """As many answers stay open as there may be; ``max_streams`` is how many."""

    code, title = "too_many_streams", "Too many streams"

    def __init__(self, max_streams: int) -> None:
        super().__init__(
            f"{max_streams} answers that stay open (events, progress) are being given already.",
            "Close one of them, or let the service have more threads (MODEL_MANAGER_THREADS).",
            max_streams=max_streams,
        )


class AddressNotFound(RequestRefused):
    """No route of ours."""

    code, title = "not_found", "Not found"

    def __init__(self) -> None:
        super().__init__("There is no such address.", "docs/api.md lists them all.")


class WrongMethod(RequestRefused):
    """A route of ours, but not with this method; ``allow`` are those it takes."""

    code, title = "method_not_allowed", "Method not allowed"

    def __init__(self, method: str, allow: Sequence[str]) -> None:
        choice = [method for method in allow if method not in ("HEAD", "OPTIONS")] or allow
        super().__init__(f"This address does not take {method}.", f"Use {' or '.join(choice)}.", allow=list(allow))


# --- how an error leaves ---------------------------------------------------------------------------------------------


class Problems:
    """Answers whatever a view, a guard or the routing raises.

    marks  what every answer carries besides; asked for each problem anew
    """

    def __init__(self, marks: Callable[[], Mapping[str, Any]]) -> None:
        self._marks = marks

    def answer_for(self, scaffold: Flask | Blueprint) -> None:
        """Answer every error of an app or a blueprint."""
        scaffold.register_error_handler(ModelManagerError, self.answer)
        scaffold.register_error_handler(Exception, self._unexpected)
        scaffold.register_error_handler(HTTPException, self._of_http)
        # By number as well: a host's handler for a number goes before ours for a class. Other numbers are raised by
        # nothing of ours, so they are the host's to answer (its own login, say).
        for kind in (BadRequest, NotFound, MethodNotAllowed, RequestEntityTooLarge, InternalServerError):
            scaffold.register_error_handler(kind.code, self._of_http)

    def body(self, error: ModelManagerError) -> dict[str, Any]:
        """Return what is told of an error."""
        return {
            "success": False,
            **as_facts(error),
            "type": f"urn:junmai:model-management:{error.code.replace('_', '-')}",
            "status": int(STATUS[error.code]),
            **self._marks(),
        }

    def answer(self, error: ModelManagerError) -> Response:
        """Return the answer that an error deserves."""
        status, headers = STATUS[error.code], {}
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.warning("request failed path=%s code=%s reason=%s", quote(request.path), error.code, error)
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(RETRY_AFTER_S)
        if status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, WrongMethod):
            headers["Allow"] = ", ".join(error.allow)
        return Response(to_json(self.body(error)), status, headers, content_type="application/problem+json")

    def _of_http(self, error: HTTPException) -> Response | HTTPException:
        if isinstance(error, RequestEntityTooLarge):
            return self.answer(PayloadTooLarge(request.max_content_length or 0))
        if isinstance(error, MethodNotAllowed):
            return self.answer(WrongMethod(quote(request.method), sorted(error.valid_methods or ())))
        if isinstance(error, NotFound):
            return self.answer(AddressNotFound())
        if isinstance(error, BadRequest):
            return self.answer(InvalidRequest("request", (error.description or error.name).rstrip(".")))
        return self._unexpected(error) if isinstance(error, InternalServerError) else error

    def _unexpected(self, error: Exception) -> Response:
        incident = secrets.token_hex(4)
        logger.error("internal error id=%s path=%s", incident, quote(request.path), exc_info=error)
        return self.answer(
            ModelManagerError(
                "Something went wrong inside this service.",
                f"The log has the details under the id {incident}; trying again may work.",
                incident=incident,
            )
        )

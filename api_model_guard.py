"""Who may call the REST face: decided before any view runs, by Host, Origin, token, and the kind and size of the body.

A page elsewhere can make a browser send what it likes to a port of this machine. It cannot choose the Host that the
browser names (so a name of its own that points here gives it away), it cannot leave out its Origin, and it cannot
declare a body as JSON without asking beforehand.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from flask import request

from api_model_problems import HostNotAllowed, OriginNotAllowed, PayloadTooLarge, Unauthorized, UnsupportedMediaType
from api_model_tickets import Tickets
from model_core.errors import InvalidRequest

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

BODY_LIMIT_BYTES = 64 * 1024
# A thousand events of usage do not fit the usual limit; an import is a whole document. A benchmark may bring ten photos
# of 10 MiB, which are 134 MiB in base64, and prompts; while it is read it takes twice its size in memory (measured).
BODY_LIMITS_BYTES: Mapping[str, int] = {
    "usage": 1024 * 1024,
    "import_document": 16 * 1024 * 1024,
    "start_benchmark": 144 * 1024 * 1024,
}

# The views that a browser opens without being able to send the token along.
TAKE_TICKETS = {"events", "websocket"}

# No more than RFC 9110 allows in Host: nothing before an @, no path, no blanks.
_HOST = re.compile(r"(?P<name>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)


class Guard:
    """Decides whether a request is one that we answer.

    hosts    names and addresses that may stand in Host, without a port
    origins  pages elsewhere that may call, as scheme://host[:port]
    token    what must follow "Authorization: Bearer", None: nothing
    tickets  what may be shown in its place where it cannot be sent; None: nothing

    Raises InvalidRequest for an empty token, which would let everybody in.
    """

    def __init__(
        self, hosts: Iterable[str], origins: Iterable[str], token: str | None, tickets: Tickets | None = None
    ) -> None:
        self._hosts = {_plain(host) for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        if token is not None and not token.strip():
            raise InvalidRequest("token", "is empty", "Give one, or None where none is asked for.")
        self._token = token.strip().encode() if token is not None else None
        self._tickets = tickets or Tickets()

    def check(self, environ: WSGIEnvironment) -> None:
        """Raise the refusal that the request in hand deserves; return for a good one."""
        self._check_host(environ.get("HTTP_HOST", ""))
        self._check_origin(environ.get("HTTP_ORIGIN"))
        # A browser asks with OPTIONS whether it may ask, and cannot show a token then; it learns nothing of ours.
        if environ["REQUEST_METHOD"] != "OPTIONS":
            self._check_token(environ.get("HTTP_AUTHORIZATION", ""))
            # Zero or nothing is no body; what is no number is the server's to refuse.
            if environ.get("CONTENT_LENGTH", "0") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ:
                _check_body()

    def _check_host(self, host: str) -> None:
        found = _HOST.fullmatch(host)
        if found is None or _plain(found["name"]) not in self._hosts:
            raise HostNotAllowed

    def _check_origin(self, origin: str | None) -> None:
        if origin is None or origin.lower() in self._origins:
            return
        # The page may be one that we serve ourselves; Host has been looked at already.
        if origin.lower() != request.host_url.rstrip("/").lower():
            raise OriginNotAllowed

    def _check_token(self, authorization: str) -> None:
        if self._token is None:
            return
        scheme, _, given = authorization.partition(" ")
        is_token = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)
        if not is_token and not self._is_ticket_shown():
            raise Unauthorized

    def _is_ticket_shown(self) -> bool:
        if (request.endpoint or "").rpartition(".")[2] not in TAKE_TICKETS:
            return False
        return self._tickets.redeem(request.args.get("ticket", ""))


def _check_body() -> None:
    limit = BODY_LIMITS_BYTES.get((request.endpoint or "").rpartition(".")[2], BODY_LIMIT_BYTES)
    if (request.content_length or 0) > limit:
        raise PayloadTooLarge(limit)
    # A body whose length is not announced is read up to here.
    request.max_content_length = limit
    if request.mimetype != "application/json":
        raise UnsupportedMediaType


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")

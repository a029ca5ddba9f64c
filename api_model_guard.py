"""Who may call the REST face: decided before any view runs, by Host, Origin, token, and the kind and size of the body.

A page elsewhere can make a browser send what it likes to a port of this machine. It cannot choose the Host that the
browser names (so a name of its own that points here gives it away), it cannot leave out its Origin, and it cannot
declare a body as JSON without asking beforehand.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping

from flask import request

from api_model_problems import HostNotAllowed, OriginNotAllowed, PayloadTooLarge, Unauthorized, UnsupportedMediaType

BODY_LIMIT_BYTES = 64 * 1024
# A thousand events of usage do not fit the usual limit; what an import takes over is a whole document.
BODY_LIMITS_BYTES: Mapping[str, int] = {"usage": 1024 * 1024, "import_document": 16 * 1024 * 1024}

# No more than RFC 9110 allows in Host: nothing before an @, no path, no blanks.
_HOST = re.compile(r"(?P<name>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)


class Guard:
    """Decides whether a request is one that we answer.

    hosts    names and addresses that may stand in Host, without a port
    origins  pages elsewhere that may call, as scheme://host[:port]
    token    what must follow "Authorization: Bearer", None: nothing
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str], token: str | None) -> None:
        self._hosts = {_plain(host) for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self._token = token.encode() if token else None

    def check(self) -> None:
        """Raise the refusal that a request deserves; return for a good one."""
        self._check_host()
        self._check_origin()
        # A browser asks with OPTIONS whether it may ask, and cannot show a token then; it learns nothing of ours.
        if request.method != "OPTIONS":
            self._check_token()
            self._check_body()

    def _check_host(self) -> None:
        found = _HOST.fullmatch(request.headers.get("Host", ""))
        if found is None or _plain(found["name"]) not in self._hosts:
            raise HostNotAllowed

    def _check_origin(self) -> None:
        origin = request.headers.get("Origin")
        if origin is None or origin.lower() in self._origins:
            return
        # The page may be one that we serve ourselves; Host has been looked at already.
        if origin.lower() != request.host_url.rstrip("/").lower():
            raise OriginNotAllowed

    def _check_token(self) -> None:
        if self._token is None:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            raise Unauthorized

    def _check_body(self) -> None:
        length = request.content_length or 0
        if not length and "Transfer-Encoding" not in request.headers:
            return
        limit = BODY_LIMITS_BYTES.get((request.endpoint or "").rpartition(".")[2], BODY_LIMIT_BYTES)
        if length > limit:
            raise PayloadTooLarge(limit)
        # A body whose length is not announced is read up to here.
        request.max_content_length = limit
        if request.mimetype != "application/json":
            raise UnsupportedMediaType


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")

"""Replay a recorded scene against a server and say where its answers differ.

Equal must be: statuses, the headers that matter, the keys of every JSON value, the words of errors and statuses, names,
and the order of lines. What cannot be equal (moments, durations, sizes, digests, generated words, how often a line
comes again) must have the same form.
"""

from __future__ import annotations

import http.client
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 60.0
SMALL_LAYER_BYTES = 2**20
GO_CONTENT_LENGTH_LIMIT = 2048  # Go's server gives a longer answer in chunks, unless its length was said
LINES_BEFORE_HANGING_UP = 3

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
HEX_DIGEST = re.compile(r"[0-9a-f]{64}")

# Words that are part of the contract wherever they stand; other texts only have to be texts.
EXACT = {
    "error", "status", "name", "model", "done", "done_reason", "role", "parent_model", "format", "family", "families",
    "capabilities", "license", "template", "system", "general.architecture", "tokenizer.ggml.model",
}  # fmt: skip


@dataclass
class Answer:
    """What came back; lines of a stream apart, headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    lines: list[str] = field(default_factory=list)


def ask(url: str, request: dict[str, Any], *, stream: bool = False, hang_up_after: int | None = None) -> Answer:
    """Send one recorded request. ``hang_up_after`` closes the connection after so many lines."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT_S)
    body = body_of(request)
    headers = {"Host": where.netloc, **request.get("headers", {})}
    connection.putrequest(request["method"], request["path"], skip_host=True, skip_accept_encoding=True)
    if body is not None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    for name, value in headers.items():
        connection.putheader(name, value)
    # A server may answer an upload before it has read it, and hang up.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.endheaders(body)
    try:
        response = connection.getresponse()
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()})
        if stream:
            while line := response.readline():
                answer.lines.append(line.decode().rstrip("\n"))
                if len(answer.lines) == hang_up_after:
                    break
        else:
            answer.body = response.read()
        return answer
    finally:
        connection.close()


def body_of(request: dict[str, Any]) -> bytes | None:
    """Return the bytes of a recorded request; of an upload only the length is on record, so others stand for them."""
    if "json" in request:
        return json.dumps(request["json"]).encode()
    raw = request.get("raw")
    if raw is None:
        return None
    length = re.fullmatch(r"<(\d+) bytes>", raw)
    if not length:
        return str(raw).encode()
    return b"hello" if length[1] == "5" else b"\x00" * int(length[1])


def differences(url: str, exchange: dict[str, Any], *, small_layers_count: bool = True) -> list[str]:
    """Replay one exchange and return what is not as recorded; empty: nothing.

    small_layers_count  whether the small layers of a pull must be the recorded ones: their lines depend on what was
                        there before and, for fresh ones, on the moment
    """
    request, recorded = exchange["request"], exchange["response"]
    stream = "lines" in recorded
    answer = ask(url, request, stream=stream, hang_up_after=LINES_BEFORE_HANGING_UP if "note" in recorded else None)

    found = []
    if answer.status != recorded["status"]:
        found.append(f"status {answer.status}, recorded {recorded['status']}")
    found += _header_differences(recorded, answer, request["method"])
    if stream:
        found += _stream_differences(recorded, answer.lines, small_layers_count)
    else:
        found += _body_differences(recorded["body"], answer.body.decode())
    return found


def _header_differences(recorded: dict[str, Any], answer: Answer, method: str) -> list[str]:
    found = [
        f"{name}: {answer.headers.get(name)!r}, recorded {recorded['headers'].get(name)!r}"
        for name in ("content-type", "allow")
        if answer.headers.get(name) != recorded["headers"].get(name)
    ]
    chunked = answer.headers.get("transfer-encoding") == "chunked"
    if "content-length" in recorded["headers"] and not chunked:
        expected = recorded["headers"]["content-length"] if method == "HEAD" else str(len(answer.body))
        if answer.headers.get("content-length") != expected:
            found.append(f"content-length {answer.headers.get('content-length')}, expected {expected}")
    # A short body in chunks is one that Ollama streams; a long one may be either way on record, by its length then.
    if chunked and "content-length" in recorded["headers"] and len(answer.body) <= GO_CONTENT_LENGTH_LIMIT:
        found.append("chunked, recorded with its length")
    if not chunked and "content-length" not in recorded["headers"] and recorded["headers"].get("transfer-encoding"):
        if "lines" in recorded or len(recorded["body"]) <= GO_CONTENT_LENGTH_LIMIT:
            found.append("not chunked, recorded in chunks")
        elif len(answer.body) > GO_CONTENT_LENGTH_LIMIT:
            found.append("a long answer with its length, recorded in chunks")
    return found


def _body_differences(recorded: str, body: str) -> list[str]:
    if not recorded.startswith("{"):
        return [] if body == recorded else [f"body {body!r}, recorded {recorded!r}"]
    try:
        return _value_differences(json.loads(recorded), json.loads(body), "")
    except ValueError:
        return [f"no JSON: {body!r}"]


def _stream_differences(recorded: dict[str, Any], lines: list[str], small_layers_count: bool) -> list[str]:
    expected = [json.loads(text) for moment, text in recorded["lines"] if moment is not None]
    given = [json.loads(line) for line in lines]
    wanted_order, order = (_order(side, small_layers_count) for side in (expected, given))
    if "note" in recorded:
        # The client hung up at another moment: what came until then must be how it began.
        wanted_order = wanted_order[: len(order)]
    found = [] if order == wanted_order else [f"lines {order}, recorded {wanted_order}"]
    by_kind = {_kind(line, True): line for line in expected}
    for line in given:
        like = by_kind.get(_kind(line, True))
        found += _value_differences(like, line, "") if like else []
        found += _layer_differences(line)
    return found


def _order(lines: list[dict[str, Any]], small_layers_count: bool) -> list[str]:
    """Return the kinds of lines in their order, each run of lines about the same thing once."""
    kinds = [(_kind(line, small_layers_count), line.get("digest")) for line in lines]
    return [kind for (kind, _digest), _run in groupby(kinds) if kind]


def _kind(line: dict[str, Any], small_layers_count: bool) -> str:
    if "digest" in line:
        small = line.get("total", 0) < SMALL_LAYER_BYTES
        if small and not small_layers_count:
            return ""
        return "small layer" if small else "large layer"
    if "error" in line:
        return f"error: {_comparable(line['error'])}"
    if "status" in line:
        return _comparable(line["status"])
    return f"chunk, done {line['done']}"


def _layer_differences(line: dict[str, Any]) -> list[str]:
    if "digest" not in line:
        return []
    well_formed = (
        re.fullmatch(r"sha256:[0-9a-f]{64}", line["digest"])
        and line["status"] == f"pulling {line['digest'][7:19]}"
        and 0 < line.get("completed", 1) <= line["total"]
        and set(line) <= {"status", "digest", "total", "completed"}
    )
    return [] if well_formed else [f"odd layer line {line}"]


def _comparable(text: str) -> str:
    """Take out of a text what differs from machine to machine: digests, resolvers, folders."""
    text = re.sub(r"sha256([:-])[0-9a-f]{64}", r"sha256\1<digest>", text)
    text = re.sub(r"^pulling [0-9a-f]{12}$", "pulling <layer>", text)
    text = re.sub(r" on [0-9a-f.:\[\]]+:53: ", " on <resolver>: ", text)
    return re.sub(r"/\S*/blobs/", "<blobs>/", text)


def _value_differences(recorded: Any, given: Any, key: str) -> list[str]:
    if isinstance(recorded, dict) and isinstance(given, dict):
        return _dict_differences(recorded, given, key)
    if isinstance(recorded, list) and isinstance(given, list) and key == "models":
        return _models_differences(recorded, given)
    if isinstance(recorded, list) and isinstance(given, list) and key not in EXACT:
        return _value_differences(recorded[0], given[0], f"{key}[]") if recorded and given else []
    if key == "parameters" and isinstance(given, str):
        # Lines of text in the order of a Go map, which is none.
        same = sorted(recorded.splitlines()) == sorted(given.splitlines())
        return [] if same else [f"{key}: {given!r}, recorded {recorded!r}"]
    if type(recorded) is not type(given):
        return [] if type(recorded) is type(given) else [f"{key}: {given!r}, recorded {recorded!r}"]
    if key in EXACT:
        same = _comparable(str(recorded)) == _comparable(str(given))
        return [] if same else [f"{key}: {given!r}, recorded {recorded!r}"]
    return [] if _form(recorded, key) == _form(given, key) else [f"{key}: {given!r} has not the form of {recorded!r}"]


def _dict_differences(recorded: dict[str, Any], given: dict[str, Any], key: str) -> list[str]:
    found = []
    if set(recorded) != set(given):
        missing, extra = sorted(set(recorded) - set(given)), sorted(set(given) - set(recorded))
        found.append(f"{key or 'top'}: missing {missing}, extra {extra}")
    return found + [
        difference
        for name in recorded
        if name in given
        for difference in _value_differences(recorded[name], given[name], name)
    ]


def _models_differences(recorded: list[dict[str, Any]], given: list[dict[str, Any]]) -> list[str]:
    """Compare lists of models by name: within one second Ollama has no order."""
    expected, there = ({model["name"]: model for model in side} for side in (recorded, given))
    found = [] if set(expected) == set(there) else [f"models {sorted(there)}, recorded {sorted(expected)}"]
    for moment in ("modified_at", "expires_at"):
        seconds = [model[moment][:19] for model in given if moment in model]
        if seconds != sorted(seconds, reverse=True):
            found.append(f"models are not in the order of {moment}")
    return found + [
        difference
        for name in expected
        if name in there
        for difference in _value_differences(expected[name], there[name], "")
    ]


def _form(value: Any, key: str) -> str:
    """Name the form of a value that cannot be equal."""
    if isinstance(value, str):
        if MOMENT.fullmatch(value):
            return "moment"
        return "digest" if HEX_DIGEST.fullmatch(value) else "text"
    if isinstance(value, int) and not isinstance(value, bool):
        # Nothing in the card is a fact of its own; other figures only have to be there.
        return "0" if value == 0 and key == "size_vram" else "number"
    return type(value).__name__

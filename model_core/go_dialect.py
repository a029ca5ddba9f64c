"""How Go writes JSON, times, durations and complaints, as far as Ollama's answers show it.

The stand-in for Ollama speaks with these; clients match on some of the words, so the words are Go's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

# The longest time.Duration, some 292 years: what Ollama takes for "for ever".
FOREVER_NS = 2**63 - 1
LONGEST_S = FOREVER_NS // 10**9

_UNIT_NS = {"ns": 1, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")
_KIND_OF_JSON = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
_KIND_OF_GO = {"string": str, "bool": bool, "int": int, "float64": (int, float)}


class GoError(ValueError):
    """What Go's own decoder would have complained about; the text is the complaint."""


def go_json(value: Any) -> str:
    r"""Return compact JSON as Go's encoder writes it: keys in the order given, and <, >, & escaped.

    >>> go_json({"error": "x < y"})
    '{"error":"x \\u003c y"}'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def quoted(text: str) -> str:
    r"""Return the text in Go's %q.

    >>> quoted('a "b"')
    '"a \\"b\\""'
    """
    return json.dumps(text, ensure_ascii=False)


def rfc3339_nano(moment_ns: int, offset_s: int = 0) -> str:
    """Return a moment as Go prints it: up to nine digits of the second, zeros at the end trimmed.

    moment_ns  nanoseconds since 1970, UTC
    offset_s   seconds east of UTC in which to show it; 0 prints Z

    >>> rfc3339_nano(1_500_000_000)
    '1970-01-01T00:00:01.5Z'
    >>> rfc3339_nano(0, offset_s=3600)
    '1970-01-01T01:00:00+01:00'
    """
    seconds, nanoseconds = divmod(moment_ns, 10**9)
    shown = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    shown = shown.astimezone(timezone(timedelta(seconds=offset_s)))
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    zone = "Z" if offset_s == 0 else f"{shown:%z}"[:3] + ":" + f"{shown:%z}"[3:5]
    return f"{shown:%Y-%m-%dT%H:%M:%S}{fraction}{zone}"


def parse_duration_ns(text: str) -> int:
    """Return the nanoseconds that Go's time.ParseDuration reads. Raises GoError with its words.

    >>> parse_duration_ns("1h30m") // 10**9
    5400
    >>> parse_duration_ns("5")
    Traceback (most recent call last):
    model_core.go_dialect.GoError: time: missing unit in duration "5"
    """
    sign, rest = (-1 if text.startswith("-") else 1), text.lstrip("+-") if text[:1] in "+-" else text
    if rest == "0":
        return 0
    position, total = 0, 0.0
    while position < len(rest):
        part = _DURATION_PART.match(rest, position)
        if part is None:
            raise GoError(f"time: invalid duration {quoted(text)}")
        number, unit = part.groups()
        if not unit:
            raise GoError(f"time: missing unit in duration {quoted(text)}")
        if unit not in _UNIT_NS:
            raise GoError(f"time: unknown unit {quoted(unit)} in duration {quoted(text)}")
        total += float(number) * _UNIT_NS[unit]
        position = part.end()
    if position == 0 or total > FOREVER_NS:
        raise GoError(f"time: invalid duration {quoted(text)}")
    return sign * int(total)


def parse_keep_alive_ns(value: Any) -> int | None:
    """Return how long a model stays loaded after its last request, in nanoseconds; None where nothing was said.

    A number is seconds, a text a duration of Go's, anything below zero for ever. Raises GoError.

    >>> parse_keep_alive_ns(-1) == parse_keep_alive_ns("-1m") == FOREVER_NS
    True
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        names = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}
        raise GoError(f"Unsupported type: '{names[type(value)]}'")
    if isinstance(value, str):
        length_ns = parse_duration_ns(value)
    elif value > LONGEST_S:
        return 0  # Go's int64 overflows into the past: the model goes at once
    else:
        length_ns = int(max(-1.0, value) * 10**9)
    return FOREVER_NS if length_ns < 0 else length_ns


def decode_request(raw: bytes, struct: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON object of a request's body, its keys in lower case, as Go would fill ``api.<struct>``.

    fields  the type of each field in Go's words; a field that is not listed is not looked at

    Raises GoError with the complaint of Go's decoder; for the rarer ways to be broken the wording is only near.

    >>> decode_request(b'{"model": 3}', "PullRequest", {"model": "string"})
    Traceback (most recent call last):
    model_core.go_dialect.GoError: json: cannot unmarshal number into Go struct field PullRequest.model of type string
    """
    text = raw.decode("utf-8", "replace")
    if not text.strip():
        raise GoError("missing request body")
    try:
        value = json.JSONDecoder().raw_decode(text.lstrip())[0]
    except json.JSONDecodeError as error:
        raise GoError(_complaint(error)) from error
    except RecursionError as error:
        raise GoError("exceeded max depth") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GoError(f"json: cannot unmarshal {_KIND_OF_JSON[type(value)]} into Go value of type api.{struct}")
    request = {key.lower(): item for key, item in value.items()}
    for field, go_type in fields.items():
        _check_field(struct, field, go_type, request.get(field))
    return request


def _complaint(error: json.JSONDecodeError) -> str:
    """Return what Go's scanner would say where Python's stopped."""
    rest = error.doc[error.pos :].strip()
    if not rest or rest.startswith('"'):
        return "unexpected EOF"
    for literal in ("null", "true", "false"):
        if rest[0] == literal[0]:
            wrong = next((i for i, (here, right) in enumerate(zip(rest, literal, strict=False)) if here != right), None)
            if wrong is None:
                return "unexpected EOF"
            return f"invalid character '{rest[wrong]}' in literal {literal} (expecting '{literal[wrong]}')"
    before = error.doc[: error.pos].rstrip()
    if error.msg.startswith("Expecting property name") or (rest[0] == "}" and before.endswith(",")):
        return f"invalid character '{rest[0]}' looking for beginning of object key string"
    if error.msg.startswith("Expecting ':'"):
        return f"invalid character '{rest[0]}' after object key"
    if error.msg.startswith("Expecting ','"):
        where = "array element" if before.rfind("[") > before.rfind("{") else "object key:value pair"
        return f"invalid character '{rest[0]}' after {where}"
    return f"invalid character '{rest[0]}' looking for beginning of value"


def _check_field(struct: str, field: str, go_type: str, value: Any) -> None:
    if value is None:
        return
    expected: Any = _KIND_OF_GO.get(go_type, dict if go_type.startswith("map[") else list)
    fits = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    if not fits:
        kind = _KIND_OF_JSON[type(value)]
        raise GoError(f"json: cannot unmarshal {kind} into Go struct field {struct}.{field} of type {go_type}")


def human_number(count: int) -> str:
    """Return a count of parameters as Ollama shows it.

    >>> [human_number(n) for n in (139_584, 1_235_814_432, 8_030_261_248, 70_553_706_496)]
    ['140K', '1.2B', '8.0B', '70.6B']
    """
    for unit, letter, decimals in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else decimals}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)

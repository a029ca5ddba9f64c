"""What the stand-in for Ollama says: the same request gives the same words, and they mean nothing."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from typing import Any

from model_core.go_dialect import go_json

_SENTENCES = (
    "The light falls from the left and keeps the shadows soft.",
    "The subject stands slightly off the centre, which gives the frame some room.",
    "The colours are warm without being heavy.",
    "A little more exposure would open the darker parts.",
    "The horizon leans by about one degree and could be straightened.",
    "The background is quiet and leads the eye to the face.",
    "The focus lies on the nearer eye, as it should.",
    "This one is worth keeping for the album.",
)
_TOKEN = re.compile(r"\s*\S{1,6}|\s+")


def answer_to(prompt: str, seed: object, wanted: Any = None) -> str:
    """Return a short text for a prompt; JSON where ``wanted`` is the request's ``format``.

    >>> answer_to("hello", 1) == answer_to("hello", 1)
    True
    >>> answer_to("hello", 1, {"type": "object", "properties": {"keep": {"type": "boolean"}}})
    '{"keep":true}'
    """
    chance = random.Random(hashlib.sha256(f"{seed}\n{prompt}".encode()).digest())  # noqa: S311  plausible, not secret
    if wanted == "json":
        return go_json({"answer": chance.choice(_SENTENCES), "score": chance.randint(1, 5), "simulated": True})
    if isinstance(wanted, dict):
        return go_json(_value_for(wanted, chance))
    return " ".join(chance.sample(_SENTENCES, 4))


def _value_for(schema: dict[str, Any], chance: random.Random) -> Any:
    if schema.get("enum"):
        return chance.choice(schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object" or "properties" in schema:
        return {key: _value_for(value, chance) for key, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [_value_for(schema.get("items", {}), chance) for _ in range(max(1, int(schema.get("minItems", 1))))]
    low, high = schema.get("minimum", 1), schema.get("maximum", 5)
    plain = {
        "integer": chance.randint(int(low), int(high)),
        "number": round(chance.uniform(low, high), 2),
        "boolean": True,
        "null": None,
    }
    return plain[kind] if kind in plain else chance.choice(_SENTENCES)


def tokens_of(text: str) -> Iterator[str]:
    """Cut a text into pieces of about a token; together they are the text.

    >>> "".join(tokens_of("The light falls.")) == "The light falls."
    True
    """
    return iter(_TOKEN.findall(text))


def embedding_of(text: str, length: int) -> list[float]:
    """Return a vector of unit length that depends on the text only."""
    chance = random.Random(text)  # noqa: S311  plausible, not secret
    raw = [chance.gauss(0.0, 1.0) for _ in range(length)]
    norm = sum(value * value for value in raw) ** 0.5 or 1.0
    return [round(value / norm, 8) for value in raw]

"""What the stand-in for Ollama refuses before it begins, with the status and the words that Ollama has for it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_core import names
from model_core.errors import InvalidModelName
from model_core.go_dialect import GoError, decode_request, parse_keep_alive_ns, quoted
from model_core.names import ModelName
from model_core.simulated_library import LibraryModel
from model_core.simulated_replies import Json

_NAME = {"model": "string", "name": "string"}
_OPTIONS = {"options": "map[string]interface {}"}
FIELDS: Mapping[str, Mapping[str, str]] = {
    "PullRequest": {**_NAME, "stream": "bool", "insecure": "bool"},
    "DeleteRequest": _NAME,
    "ShowRequest": {**_NAME, "system": "string", "verbose": "bool"},
    "CopyRequest": {"source": "string", "destination": "string"},
    "CreateRequest": {
        **_NAME,
        "stream": "bool",
        "from": "string",
        "files": "map[string]string",
        "template": "string",
        "system": "string",
        "parameters": "map[string]interface {}",
        "messages": "[]api.Message",
    },
    "GenerateRequest": {
        "model": "string",
        "prompt": "string",
        "suffix": "string",
        "system": "string",
        "template": "string",
        "stream": "bool",
        "raw": "bool",
        "images": "[]api.ImageData",
        **_OPTIONS,
    },
    "ChatRequest": {"model": "string", "messages": "[]api.Message", "stream": "bool", **_OPTIONS},
    "EmbedRequest": {"model": "string", **_OPTIONS},
    "EmbeddingRequest": {"model": "string", "prompt": "string", **_OPTIONS},
}

_WHOLE_NUMBERS = (
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict", "num_keep", "seed", "num_predict",
    "top_k", "repeat_last_n",
)  # fmt: skip
_FRACTIONS = ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty")
_NUMBER: tuple[type, ...] = (int, float)
_OPTION_TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys(_WHOLE_NUMBERS, ("integer", _NUMBER)),
    **dict.fromkeys(_FRACTIONS, ("float32", _NUMBER)),
    "use_mmap": ("boolean", (bool,)),
    "stop": ("array", (list,)),
}

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


class Refused(Exception):
    """The request is answered with this status and error; in a stream that has begun, with an error line."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error


def read_request(raw: bytes, struct: str) -> Json:
    """Return a request's fields, ``keep_alive`` in nanoseconds or None. Raises Refused where Ollama cannot read it."""
    try:
        request = decode_request(raw, struct, FIELDS[struct])
        request["keep_alive"] = parse_keep_alive_ns(request.get("keep_alive"))
    except GoError as error:
        raise Refused(400, str(error)) from error
    for image in request.get("images") or []:
        _check_image(image)
    return request


def _check_image(image: Any) -> None:
    if not isinstance(image, str):
        field = "Go struct field GenerateRequest.images of type api.ImageData"
        raise Refused(400, f"json: cannot unmarshal number into {field}")
    bad = re.search(r"[^A-Za-z0-9+/=]", image)
    try:
        base64.b64decode(image, validate=True)
    except ValueError as error:
        where = bad.start() if bad else len(image) // 4 * 4
        raise Refused(400, f"illegal base64 data at input byte {where}") from error


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model field means: a name, whether it is to be here or in the cloud, and the name that a pull reads."""

    name: ModelName
    source: str | None
    pull_name: ModelName

    def refuse_cloud(self, operation: str) -> None:
        """Raise Refused for a cloud model: the stand-in is an Ollama whose cloud is switched off."""
        if self.source == "cloud":
            raise Refused(403, f"ollama cloud is disabled: {operation}")


def read_reference(request: Json, *, absent: tuple[int, str], invalid: str = "invalid model name") -> Reference:
    """Return what the request names; outer blanks do not count.

    absent   status and error where nothing is named
    invalid  the error, with status 400, for what is no name
    """
    raw = str(request.get("model") or request.get("name") or "").strip()
    if not raw:
        raise Refused(*absent)
    base, source = _without_suffix(raw)
    if source and _without_suffix(base)[1]:
        raise Refused(400, f"use either :local or :cloud, not both: {quoted(raw)}")
    tagged = base.rfind(":") > base.rfind("/")
    stub = f"{base}{'-' if tagged else ':'}cloud" if source == "cloud" else base
    try:
        return Reference(names.parse(base), source, names.parse(stub))
    except InvalidModelName as error:
        raise Refused(400, invalid) from error


def _without_suffix(raw: str) -> tuple[str, str | None]:
    source = names.source_suffix(raw)
    if source is None:
        return raw, None
    base, _, suffix = raw.rpartition(":")
    whole = suffix.strip().lower() == source
    return base if whole else f"{base}:{suffix.strip()[: -len('-cloud')]}", source


def check_digest(digest: str) -> None:
    """Raise Refused for what is no digest of a blob."""
    if not _DIGEST.fullmatch(digest):
        raise Refused(400, "invalid digest format")


def check_options(options: Json) -> None:
    """Raise Refused for an option of the wrong type; an unknown option is let pass."""
    for key, value in options.items():
        if key not in _OPTION_TYPES or value is None:
            continue
        go_type, kinds = _OPTION_TYPES[key]
        if not isinstance(value, kinds) or (go_type != "boolean" and isinstance(value, bool)):
            raise Refused(500, f"option {quoted(key)} must be of type {go_type}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise Refused(500, f"option {quoted(key)} must be of an array of strings")


def check_ability(request: Json, name: ModelName, model: LibraryModel, *, chat: bool) -> None:
    """Raise Refused where the model cannot do what is asked."""
    sent, able = request.get("model") or "", model.capabilities
    if request.get("raw") and (request.get("template") or request.get("system") or request.get("context")):
        raise Refused(400, "raw mode does not support template, system, or context")
    if request.get("think") and "thinking" not in able:
        raise Refused(400, f"{quoted(sent)} does not support thinking")
    if "completion" not in able:
        raise Refused(400, f"{quoted(sent)} does not support {'chat' if chat else 'generate'}")
    for field, capability in (("tools", "tools"), ("suffix", "insert")):
        if request.get(field) and capability not in able:
            full = f"{name.host}/{name.namespace}/{name.model}:{name.tag}"
            raise Refused(400, f"{full} does not support {capability}")


def has_images(request: Json) -> bool:
    """Say whether a request shows the model something."""
    messages = [message for message in request.get("messages") or [] if isinstance(message, dict)]
    return bool(request.get("images")) or any(message.get("images") for message in messages)

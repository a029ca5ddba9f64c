"""Ollama's JSON → records. Pure: what arrives here has been read from the wire and decoded already.

Every function raises pydantic.ValidationError where a key is missing that Ollama always sends, or a value has another
type than Ollama gives it. Keys that are not named here are passed over: each version adds some.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from model_core.records import Answer, InstalledModel, ModelDetails, RunningModel, Tensor


class _Wire(BaseModel):
    """What Ollama sends. Strict: a "5" where a 5 is due means that somebody else is answering."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


# Go's int64; JSON itself knows no limit, and a number without one would not even become a float.
_Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Version(_Wire):
    version: str


class _Details(_Wire):
    parent_model: str | None = None
    format: str | None = None
    family: str | None = None
    families: list[str] | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: _Int | None = None


class _Listed(_Wire):
    name: str
    digest: str
    size: _Int
    modified_at: str | None = None
    details: _Details | None = None
    capabilities: list[str] | None = None
    remote_model: str | None = None
    remote_host: str | None = None


class _List(_Wire):
    models: list[_Listed] | None


class _Loaded(_Wire):
    name: str
    digest: str
    size: _Int
    size_vram: _Int
    expires_at: str | None = None
    context_length: _Int | None = None


class _LoadedList(_Wire):
    models: list[_Loaded] | None


class _Tensor(_Wire):
    name: str
    type: str
    shape: list[_Int]


class _Shown(_Wire):
    details: _Details | None = None
    model_info: dict[str, Any] | None = None
    projector_info: dict[str, Any] | None = None
    capabilities: list[str] | None = None
    tensors: list[_Tensor] | None = None
    parameters: str | None = None
    template: str | None = None
    system: str | None = None
    license: str | None = None
    modelfile: str | None = None
    modified_at: str | None = None
    remote_model: str | None = None
    remote_host: str | None = None


class _SimulatorState(_Wire):
    vram_bytes: _Int
    vram_used_bytes: _Int


class _Message(_Wire):
    content: str = ""
    thinking: str | None = None


class _Generated(_Wire):
    response: str | None = None
    thinking: str | None = None
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    total_duration: _Int | None = None
    load_duration: _Int | None = None
    prompt_eval_count: _Int | None = None
    prompt_eval_duration: _Int | None = None
    eval_count: _Int | None = None
    eval_duration: _Int | None = None


def version(data: Any) -> str:
    """Read the answer of /api/version."""
    return _Version.model_validate(data).version


def installed_models(data: Any) -> list[InstalledModel]:
    """Read the answer of /api/tags, in its order: the most recently changed first."""
    return [_installed(model) for model in _List.model_validate(data).models or ()]


def _installed(model: _Listed) -> InstalledModel:
    details = model.details or _Details()
    return InstalledModel(
        name=model.name,
        digest=model.digest,
        size_bytes=model.size,
        modified_at=model.modified_at,
        family=details.family or None,
        parameter_size=details.parameter_size or None,
        quantization_level=details.quantization_level or None,
        context_tokens=details.context_length or None,
        capabilities=None if model.capabilities is None else tuple(model.capabilities),
        remote=bool(model.remote_model or model.remote_host),
    )


def running_models(data: Any) -> list[RunningModel]:
    """Read the answer of /api/ps. Size 0 means that Ollama does not know, of the card's share as well.

    A known size with nothing of it on the card is what it says: the model runs on the processor.
    """
    return [
        RunningModel(
            name=model.name,
            digest=model.digest,
            size_bytes=model.size or None,
            size_vram_bytes=model.size_vram if model.size else None,
            context_tokens=model.context_length or None,
            expires_at=model.expires_at,
        )
        for model in _LoadedList.model_validate(data).models or ()
    ]


def simulated_card(data: Any) -> tuple[int, int]:
    """Read the card of a simulated Ollama: its size, and what is free of it, in bytes."""
    state = _SimulatorState.model_validate(data)
    return state.vram_bytes, max(0, state.vram_bytes - state.vram_used_bytes)


def model_details(model: str, data: Any) -> ModelDetails:
    """Read the answer of /api/show. Left out are most tensors, and the modelfile with the server's paths.

    Of that only the digest of the weights is read.
    """
    shown = _Shown.model_validate(data)
    details = shown.details or _Details()
    tensors = {tensor.name: tensor for tensor in shown.tensors or ()}
    embedding = tensors.get("token_embd.weight")
    return ModelDetails(
        name=model,
        capabilities=None if shown.capabilities is None else tuple(shown.capabilities),
        model_info=shown.model_info or {},
        projector_info=shown.projector_info,
        token_embedding=Tensor(storage=embedding.type, values=math.prod(embedding.shape)) if embedding else None,
        tied_embeddings="output.weight" not in tensors if embedding else None,
        # A model made from a file has the path of that file for a parent.
        parent_model=_unless_path(details.parent_model),
        format=details.format or None,
        family=details.family or None,
        families=tuple(details.families or ()),
        parameter_size=details.parameter_size or None,
        quantization_level=details.quantization_level or None,
        parameters=shown.parameters or None,
        template=shown.template or None,
        system=shown.system or None,
        license=shown.license or None,
        weights_digest=_weights_of(shown.modelfile),
        modified_at=shown.modified_at,
        remote=bool(shown.remote_model or shown.remote_host),
    )


def _weights_of(modelfile: str | None) -> str | None:
    found = _WEIGHTS.search(modelfile or "")
    return found[1] if found else None


def _unless_path(text: str | None) -> str | None:
    return None if not text or text.startswith(("/", "\\")) or text[1:3] in (":\\", ":/") else text


def piece(data: Any) -> tuple[str, str, bool]:
    """Return (text, thinking, is it the last) of one line of /api/generate or /api/chat."""
    line = _Generated.model_validate(data)
    return _text(line), _thinking(line), line.done


def answer(model: str, data: Any, *, text: str | None = None, thinking: str | None = None) -> Answer:
    """Read the last (or only) object of a generation, whose ``done`` is true.

    text, thinking  what the lines before said; left out: the object holds all of it
    """
    last = _Generated.model_validate(data)
    return Answer(
        model=model,
        text=_text(last) if text is None else text,
        thinking=(_thinking(last) if thinking is None else thinking) or None,
        done_reason=last.done_reason,
        total_seconds=_seconds(last.total_duration),
        load_seconds=_seconds(last.load_duration),
        prompt_seconds=_seconds(last.prompt_eval_duration),
        answer_seconds=_seconds(last.eval_duration),
        prompt_tokens=last.prompt_eval_count,
        answer_tokens=last.eval_count,
        tokens_per_second=_rate(last.eval_count, last.eval_duration),
    )


# The blob that the weights lie in, whatever the machine's paths look like.
_WEIGHTS = re.compile(r"^FROM .*sha256-([0-9a-f]{64})\s*$", re.MULTILINE)


def error_text(data: Any) -> str | None:
    """Return what an object says went wrong, None where it says nothing of the kind."""
    if not isinstance(data, Mapping) or "error" not in data:
        return None
    error = data["error"]
    return _innermost(error) if isinstance(error, str) else str(error)


def _innermost(text: str) -> str:
    """Return what llama.cpp's server said, where Ollama hands on its whole answer as a text."""
    if not text.startswith("{"):
        return text
    try:
        said = from_json(text)
    except ValueError:
        return text
    inner = said.get("error") if isinstance(said, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return message if isinstance(message, str) else text


def _text(line: _Generated) -> str:
    return line.message.content if line.message else line.response or ""


def _thinking(line: _Generated) -> str:
    return (line.message.thinking if line.message else line.thinking) or ""


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def _rate(count: int | None, nanoseconds: int | None) -> float | None:
    return count / nanoseconds * 1e9 if count and nanoseconds and nanoseconds > 0 else None

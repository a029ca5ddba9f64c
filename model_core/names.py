"""Ollama's model names: parse, normalise, compare. The rules are Ollama's own (v0.33: name.go, modelref.go).

    [scheme://][host/][namespace/]model[:tag]      defaults: registry.ollama.ai / library / latest

>>> parse("llama3.2").display
'llama3.2:latest'
>>> parse("hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M").host
'hf.co'
>>> same("LLAMA3.2", "registry.ollama.ai/library/llama3.2:latest")
True
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from model_core.errors import InvalidModelName, InvalidRequest, RegistryNotAllowed

DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"

# First character, then the rest; the lengths count bytes, which are characters here: all of it is ASCII.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL_OR_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

# A part that its separator promised and that is empty; it matches none of the patterns.
_MISSING = "!"


@dataclass(frozen=True, slots=True)
class ModelName:
    """A valid name, every part filled in, in the spelling of the caller."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What two names must share to be the same model for Ollama: it compares without regard to case."""
        return (self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())

    @property
    def display(self) -> str:
        """The shortest form that means the same; always with its tag, as Ollama's own lists show it."""
        on_default_host = self.host.lower() == DEFAULT_HOST
        if not on_default_host:
            prefix = f"{self.host}/{self.namespace}/"
        elif self.namespace.lower() != DEFAULT_NAMESPACE:
            prefix = f"{self.namespace}/"
        else:
            prefix = ""
        return f"{prefix}{self.model}:{self.tag}"


def as_text(name: Any) -> str:
    """Return what a caller gave for a name, if it is a text at all. Raises InvalidRequest."""
    if not isinstance(name, str):
        raise InvalidRequest("model", "must be the name of a model")
    return name


@lru_cache(maxsize=4096)
def parse(text: str) -> ModelName:
    """Return the name that ``text`` means to Ollama. Raises InvalidModelName where Ollama would refuse it.

    A scheme is read and dropped, as Ollama does. The source suffixes (``:cloud``, ``:local``) are not looked at here:
    see :func:`source_suffix`.
    """
    rest, tag = text, ""
    if rest.rfind(":") > rest.rfind("/"):
        rest, tag = _cut(rest, ":")
    rest, model, cut = _cut_promised(rest, "/")
    namespace = host = ""
    if cut:
        rest, namespace, cut = _cut_promised(rest, "/")
        if cut:
            host = rest.split("://", 1)[-1]
    name = ModelName(host or DEFAULT_HOST, namespace or DEFAULT_NAMESPACE, model, tag or DEFAULT_TAG)
    for part, text_of_part, pattern in (
        ("host", name.host, _HOST),
        ("namespace", name.namespace, _NAMESPACE),
        ("model", name.model, _MODEL_OR_TAG),
        ("tag", name.tag, _MODEL_OR_TAG),
    ):
        if not pattern.fullmatch(text_of_part):
            raise InvalidModelName(f"not a name that Ollama accepts (its {part} part)")
    return name


def _cut(text: str, separator: str) -> tuple[str, str]:
    before, _, after = text.rpartition(separator)
    return before or _MISSING, after or _MISSING


def _cut_promised(text: str, separator: str) -> tuple[str, str, bool]:
    if separator not in text:
        return "", text, False
    return *_cut(text, separator), True


def source_suffix(text: str) -> str | None:
    """Return "cloud" or "local" where Ollama would read the end of the name as a place rather than a tag, else None.

    >>> [source_suffix(n) for n in ("gpt-oss:20b-cloud", "qwen3:8b:LOCAL", "kimi:cloud", "my-cloud-model")]
    ['cloud', 'local', 'cloud', None]
    """
    _, colon, suffix = text.rpartition(":")
    suffix = suffix.strip().lower()
    if not colon:
        return None
    if suffix in ("cloud", "local"):
        return suffix
    return "cloud" if "/" not in suffix and suffix.endswith("-cloud") else None


def same(one: str, other: str) -> bool:
    """Say whether two texts name the same model. A text that is no name equals only itself."""
    try:
        return parse(one).key == parse(other).key
    except InvalidModelName:
        return one == other


def downloadable(text: str, allowed_registries: tuple[str, ...]) -> ModelName:
    """Return the name if it may be asked of a registry.

    Raises InvalidModelName for outer blanks, a cloud or local suffix and what Ollama would refuse, InvalidRequest for
    what is no text, RegistryNotAllowed for a host that is not on the list.
    """
    text = as_text(text)
    if text != text.strip():
        raise InvalidModelName("has blanks around it")
    if suffix := source_suffix(text):
        raise InvalidModelName(f"ends in a {suffix} suffix, which names a place and not a model to download")
    if "://" in text:
        raise InvalidModelName("carries a scheme, which Ollama would drop in silence")
    name = parse(text)
    if name.host.lower() not in {host.lower() for host in allowed_registries}:
        raise RegistryNotAllowed(name.host, allowed_registries)
    return name

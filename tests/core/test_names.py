"""Names mean to us what they mean to Ollama: the cases of Ollama's own tests, and a property over all names."""

from __future__ import annotations

import doctest
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core import names
from model_core.errors import InvalidModelName, InvalidRequest, RegistryNotAllowed
from model_core.names import ModelName, downloadable, parse, same, source_suffix

LONG_PART, LONG_HOST = "8" * 80, "3" * 350
REGISTRIES = ("registry.ollama.ai", "hf.co")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model", ("registry.ollama.ai", "library", "model", "latest")),
        ("model:tag", ("registry.ollama.ai", "library", "model", "tag")),
        ("namespace/model", ("registry.ollama.ai", "namespace", "model", "latest")),
        ("host/namespace/model", ("host", "namespace", "model", "latest")),
        ("host:port/namespace/model", ("host:port", "namespace", "model", "latest")),
        ("host/namespace/model:tag", ("host", "namespace", "model", "tag")),
        ("host:port/namespace/model:tag", ("host:port", "namespace", "model", "tag")),
        ("host:https/namespace/model:tag", ("host:https", "namespace", "model", "tag")),
        ("scheme://host:port/namespace/model:tag", ("host:port", "namespace", "model", "tag")),
        ("://h/n/m", ("h", "n", "m", "latest")),
        ("h/n/m:t", ("h", "n", "m", "t")),
        ("_why/_the/_lucky:_stiff", ("_why", "_the", "_lucky", "_stiff")),
        (
            "registry.ollama.ai/library/dolphin-mistral:7b-v2.6-dpo-laser-q6_K",
            ("registry.ollama.ai", "library", "dolphin-mistral", "7b-v2.6-dpo-laser-q6_K"),
        ),
        ("hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M", ("hf.co", "bartowski", "Llama-3.2-1B-GGUF", "Q4_K_M")),
        (f"{LONG_PART}/{LONG_PART}/{LONG_PART}:{LONG_PART}", (LONG_PART,) * 4),
        (f"{LONG_HOST}/{LONG_PART}/{LONG_PART}:{LONG_PART}", (LONG_HOST, LONG_PART, LONG_PART, LONG_PART)),
    ],
)
def test_a_name_has_the_parts_that_ollama_reads(text, parts):
    name = parse(text)

    assert (name.host, name.namespace, name.model, name.tag) == parts


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "m:", "n/m:", ":t", "@t", "m@d", "x@sha256", "^", "mm:", "/nn/mm", "//", "//mm", "hh//", "//mm:@",
        "00@", "@", "-hh/nn/mm:tt", "hh/-nn/mm:tt", "hh/nn/-mm:tt", "hh/nn/mm:-tt", ".m", "m:.t", "host/a.b/model",
        "host/name:space/model:tag", "a/b/c/d", "a:123/aa/bb/cc", "http://model", "../../m", "h/../m", "h/n/..",
        "h/n/m:..", "bad name", " llama3.2", "llama3.2\n", "m:t t", "日本語", "m:ｔ", "m+x",
        f"{LONG_PART}8", f"m:{LONG_PART}8", f"{LONG_PART}8/m", f"{LONG_HOST}3/n/m",
    ],
)  # fmt: skip
def test_what_ollama_refuses_is_no_name(text):
    with pytest.raises(InvalidModelName):
        parse(text)


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("registry.ollama.ai/library/model:latest", "model:latest"),
        ("registry.ollama.ai/library/model:tag", "model:tag"),
        ("registry.ollama.ai/namespace/model:tag", "namespace/model:tag"),
        ("host/namespace/model:tag", "host/namespace/model:tag"),
        ("host/library/model:tag", "host/library/model:tag"),
        ("REGISTRY.Ollama.AI/Library/Model", "Model:latest"),
        ("http://host/n/m", "host/n/m:latest"),
    ],
)
def test_a_name_is_shown_as_ollama_shows_it(text, shortest):
    assert parse(text).display == shortest


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("llama3.2", "llama3.2:latest", True),
        ("llama3.2", "library/llama3.2", True),
        ("LLAMA3.2:1B", "registry.ollama.ai/library/llama3.2:1b", True),
        ("llama3.2", "llama3.2:3b", False),
        ("llama3.2", "user/llama3.2", False),
        ("hf.co/user/m", "user/m", False),
        ("bad name", "bad name", True),
        ("bad name", "Bad name", False),
        ("bad name", "llama3.2", False),
    ],
)
def test_names_are_the_same_when_ollama_would_find_the_same_model(one, other, equal):
    assert same(one, other) is equal
    assert same(other, one) is equal


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("gpt-oss:20b:cloud", "cloud"),
        ("gpt-oss:20b-cloud", "cloud"),
        ("gpt-oss:20b:CLOUD", "cloud"),
        ("qwen3:cloud", "cloud"),
        ("localhost:11434/library/foo:cloud", "cloud"),
        ("qwen3:8b:local", "local"),
        ("qwen3:8b:Local ", "local"),
        ("foo:cloud:local", "local"),
        ("llama3.2", None),
        ("gpt-oss:clod", None),
        ("my-cloud-model", None),
        ("my-cloud", None),
        ("foo:bar-cloud/baz", None),
        ("localhost:5000/library/my-cloud", None),
    ],
)
def test_a_place_at_the_end_of_a_name_is_seen(text, source):
    assert source_suffix(text) == source


@pytest.mark.parametrize(
    "text", ["llama3.2:1b-instruct-q4_K_M", "user/model", "hf.co/user/repo-GGUF:Q4_K_M", "HF.CO/a/b"]
)
def test_a_name_of_an_allowed_registry_can_be_downloaded(text):
    assert downloadable(text, REGISTRIES) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        " llama3.2",
        "llama3.2 ",
        "qwen3:cloud",
        "gpt-oss:20b-cloud",
        "qwen3:8b:local",
        "https://hf.co/a/b",
        "bad name",
        "",
    ],
)
def test_what_is_no_plain_name_is_not_asked_of_a_registry(text):
    with pytest.raises(InvalidModelName):
        downloadable(text, REGISTRIES)


@pytest.mark.parametrize(
    "host", ["evil.example", "169.254.169.254", "localhost:5000", "registry.ollama.ai.evil.example"]
)
def test_a_registry_that_is_not_on_the_list_is_refused_by_its_name(host):
    with pytest.raises(RegistryNotAllowed) as refusal:
        downloadable(f"{host}/x/y", REGISTRIES)

    assert refusal.value.registry == host
    assert refusal.value.allowed == list(REGISTRIES)
    assert isinstance(refusal.value, InvalidRequest)


FIRST, REST = string.ascii_letters + string.digits + "_", string.ascii_letters + string.digits + "_-"


def part(longest: int, more: str = "") -> st.SearchStrategy[str]:
    rest = st.text(REST + more, max_size=longest - 1)
    return st.builds("{}{}".format, st.sampled_from(FIRST), rest)


any_name = st.builds(ModelName, host=part(350, ".:"), namespace=part(80), model=part(80, "."), tag=part(80, "."))
library_name = st.builds(
    ModelName, st.sampled_from(["registry.ollama.ai", "hf.co"]), part(8), part(8, "."), part(8, ".")
)


@given(any_name | library_name)
def test_what_is_shown_means_what_was_shown(name):
    assert parse(name.display).key == name.key
    assert parse(name.display.swapcase()).key == name.key


@given(any_name | library_name)
def test_a_name_in_full_has_its_own_parts(name):
    assert parse(f"{name.host}/{name.namespace}/{name.model}:{name.tag}") == name


@given(st.text(max_size=40) | st.text(FIRST + "-.:/@ ", max_size=40))
def test_any_text_is_a_name_or_is_refused(text):
    try:
        name = parse(text)
    except InvalidModelName as refusal:
        assert refusal.code == "invalid_model_name"
    else:
        assert ".." not in (name.host, name.namespace, name.model, name.tag)
        assert parse(name.display).key == name.key


def test_the_examples_of_the_module_are_true():
    failed, tried = doctest.testmod(names)

    assert tried > 0
    assert failed == 0

"""What Ollama tells of a model is read with its traps: prefixes, lists that are null, numbers that follow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catalog import MODEL_CATALOG
from model_core import architectures, ollama_answers
from model_core.architectures import architecture_of, wants_lists
from model_core.memory import MemoryProfile, kv_cache_bytes, memory_need, weights_on_card_bytes
from model_core.names import parse
from model_core.records import GIB, ModelDetails
from model_core.simulated_library import library_from_catalog
from model_core.simulated_replies import Installed, shown

TRANSCRIPTS = Path(__file__).resolve().parent.parent / "transcripts"


def described(model_info, tensors=(), **more):
    return ollama_answers.model_details("m", {"model_info": model_info, "tensors": list(tensors), **more})


def tensor(name, storage, *shape):
    return {"name": name, "type": storage, "shape": list(shape)}


# gemma3:4b as the documentation of /api/show has it: keys and values longer than width ÷ heads, and no vocab_size.
GEMMA3 = {
    "general.architecture": "gemma3",
    "general.parameter_count": 4_299_915_632,
    "gemma3.attention.head_count": 8,
    "gemma3.attention.head_count_kv": 4,
    "gemma3.attention.key_length": 256,
    "gemma3.attention.sliding_window": 1024,
    "gemma3.attention.value_length": 256,
    "gemma3.block_count": 34,
    "gemma3.context_length": 131_072,
    "gemma3.embedding_length": 2560,
    "gemma3.feed_forward_length": 10_240,
    "gemma3.vision.block_count": 27,
    "gemma3.vision.embedding_length": 1152,
    "tokenizer.ggml.tokens": None,
}


def test_what_a_real_ollama_said_is_read_whole():
    scene = json.loads((TRANSCRIPTS / "show.json").read_text("utf-8"))
    details = ollama_answers.model_details("m", json.loads(scene["exchanges"][0]["response"]["body"]))

    found = architecture_of(details)

    assert (found.layers, found.heads, found.kv_heads, found.vocabulary) == (2, 4, 2, 512)
    assert (found.key_length, found.value_length) == (16, 16)
    assert found.tied_embeddings is False
    assert found.embedding_bytes == 2 * 64 * 512
    assert not wants_lists(details)


def test_the_prefix_is_the_architectures_own_and_the_eye_is_not_mistaken_for_the_model():
    found = architecture_of(described(GEMMA3, [tensor("token_embd.weight", "Q6_K", 2560, 262_144)]))

    assert (found.layers, found.embedding_length, found.key_length) == (34, 2560, 256)
    assert found.vocabulary == 262_144
    assert found.tied_embeddings is True
    assert kv_cache_bytes(found, 1) == 34 * 4 * 512 * 2


def test_the_length_of_a_head_follows_where_it_is_not_told():
    info = {
        "general.architecture": "qwen2",
        "qwen2.block_count": 28,
        "qwen2.embedding_length": 3584,
        "qwen2.attention.head_count": 28,
        "qwen2.attention.head_count_kv": 4,
        "qwen2.feed_forward_length": 18_944,
        "qwen2.vocab_size": 152_064,
    }

    found = architecture_of(described(info))

    assert (found.key_length, found.value_length) == (128, 128)
    # Where no tensors are listed, nothing is taken off: the embedding may well lie on the card.
    assert weights_on_card_bytes(GIB, found, "Q4_K_M") == GIB


def test_a_list_is_asked_for_and_counts_layer_by_layer():
    info = {
        "general.architecture": "falcon-h1",
        "falcon-h1.block_count": 4,
        "falcon-h1.embedding_length": 1024,
        "falcon-h1.attention.head_count": 16,
        "falcon-h1.attention.head_count_kv": None,
        "falcon-h1.feed_forward_length": None,
    }
    told = {**info, "falcon-h1.attention.head_count_kv": [0, 0, 0, 2], "falcon-h1.feed_forward_length": [1, 2, 3, 4]}

    assert wants_lists(described(info))
    assert not wants_lists(described(told))
    assert kv_cache_bytes(architecture_of(described(told)), 1) == 2 * 128 * 2
    assert architecture_of(described(told)).feed_forward_length == 4
    # Without the list the cache is taken as large as it can be.
    assert kv_cache_bytes(architecture_of(described(info)), 1) == 4 * 16 * 128 * 2


def test_of_experts_it_is_known_how_many_parameters_a_token_meets():
    entry = MODEL_CATALOG["mixtral:8x7b-instruct"]
    info = {
        "general.architecture": "llama",
        "general.parameter_count": entry.parameters,
        "llama.block_count": 32,
        "llama.embedding_length": 4096,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "llama.feed_forward_length": 14_336,
        "llama.expert_count": 8,
        "llama.expert_used_count": 2,
    }

    found = architecture_of(described(info))

    assert (found.experts, found.experts_used) == (8, 2)
    assert found.active_parameters == pytest.approx(entry.architecture.active_parameters, rel=0.01)


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"general.architecture": "llama"},
        {"general.architecture": "llama", "llama.block_count": 32, "llama.embedding_length": None},
        {"general.architecture": 3, "llama.block_count": 32},
        {"general.architecture": "llama", "llama.block_count": "many", "llama.embedding_length": 64},
        {"general.architecture": "llama", "llama.block_count": -1, "llama.embedding_length": 64},
    ],
)
def test_where_nothing_can_be_concluded_nothing_is(info):
    assert architecture_of(described(info)) is None


def test_a_catalogue_model_described_by_ollama_needs_what_the_catalogue_says():
    entry = MODEL_CATALOG["llama3.1:8b-instruct"]
    model = library_from_catalog(MODEL_CATALOG)[entry.variants[0].tag]
    details = ollama_answers.model_details("m", shown(Installed(parse("m"), model, 0), {}, 0))

    profile = MemoryProfile(file_bytes=4_920_753_328, architecture=architecture_of(details), file_type="Q4_K_M")
    known = MemoryProfile(file_bytes=4_920_753_328, architecture=entry.architecture, file_type="Q4_K_M")

    assert memory_need(profile, 8192) == memory_need(known, 8192)


@pytest.mark.parametrize(
    ("details", "sees"),
    [
        ({"model_info": {"general.architecture": "llama"}}, False),
        ({"capabilities": ["completion", "tools"]}, False),
        ({"capabilities": ["completion", "vision"]}, True),
        ({"projector_info": {"general.architecture": "clip"}}, True),
        ({"model_info": GEMMA3}, True),
        # The eye of another architecture, as some files carry it along.
        ({"model_info": {"general.architecture": "llama", "clip.vision.block_count": 27}}, False),
    ],
)
def test_a_model_that_sees_is_known_by_any_of_three_signs(details, sees):
    assert architectures.described(ollama_answers.model_details("m", details)).sees is sees


def test_a_model_whose_kind_is_not_told_has_no_numbers_and_no_share_of_experts():
    info = {"llama.block_count": 2, "llama.embedding_length": 64, "llama.attention.head_count": 0}

    found = architecture_of(described({**info, "llama.expert_count": 8}))

    assert (found.parameters, found.feed_forward_length, found.key_length) == (0, 0, 0)
    assert found.active_parameters is None
    assert kv_cache_bytes(found, 4096) == 0


def test_details_without_anything_describe_nothing():
    assert architecture_of(ModelDetails(name="m")) is None
    assert not wants_lists(ModelDetails(name="m"))

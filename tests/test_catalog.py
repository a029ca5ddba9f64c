"""The catalogue promises AutoDev's callers their six models as they knew them, and says what is true of each."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from catalog import MODEL_CATALOG, SOURCES
from model_core.memory import GIB, memory_need, profile_of
from model_core.names import downloadable, parse
from model_core.records import ModelPurpose, Variant

PROMISED = {
    # name: size, purpose, recommended use, min_vram_gb, download_size_mb
    "llama3.1:8b-instruct": ("8b", "balanced", "General photo evaluation and tagging", 6, 4700),
    "llama3.1:13b-instruct": ("13b", "quality", "Detailed photo analysis and critique", 8, 7400),
    "llama3.1:70b-instruct": ("70b", "quality", "Professional photo evaluation", 40, 40000),
    "llama3.2:3b-instruct": ("3b", "speed", "Quick photo tagging and basic evaluation", 2, 2000),
    "llama3.2:1b-instruct": ("1b", "speed", "Rapid batch processing", 1, 1300),
    "mixtral:8x7b-instruct": ("8x7b", "quality", "Complex photo analysis", 24, 26000),
}
SEEING = {"gemma3:4b", "qwen3-vl:4b-instruct", "qwen3-vl:8b-instruct", "qwen2.5vl:7b", "llama3.2-vision:11b"}
CARDS_GIB = (1, 2, 4, 6, 8, 10, 12, 16, 24, 32, 40, 48, 80)

ENTRIES = [pytest.param(entry, id=entry.name) for entry in MODEL_CATALOG.values()]
VARIANTS = [
    pytest.param(entry, variant, id=variant.tag) for entry in MODEL_CATALOG.values() for variant in entry.variants
]


@pytest.mark.parametrize("name", PROMISED)
def test_the_six_promised_models_keep_the_fields_that_callers_were_promised(name):
    entry = MODEL_CATALOG[name]

    promised = (entry.size, entry.purpose.value, entry.recommended_use, entry.min_vram_gb, entry.download_size_mb)
    assert promised == PROMISED[name]
    assert entry.quantization_support == ("q4", "q8")


def test_the_catalogue_holds_the_promised_models_and_those_that_see():
    assert set(MODEL_CATALOG) == set(PROMISED) | SEEING


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_stands_under_its_own_name_which_ollama_would_accept(entry):
    assert MODEL_CATALOG[entry.name] is entry
    assert parse(entry.name).display == entry.name


def test_nobody_can_change_the_catalogue():
    with pytest.raises(TypeError):
        MODEL_CATALOG["mine"] = MODEL_CATALOG["gemma3:4b"]  # type: ignore[index]
    with pytest.raises(ValidationError):
        MODEL_CATALOG["gemma3:4b"].min_vram_gb = 1
    with pytest.raises(ValidationError):
        MODEL_CATALOG["gemma3:4b"].variants[0].size_bytes = 1


@pytest.mark.parametrize(("entry", "variant"), VARIANTS)
def test_every_tag_can_be_asked_of_the_library_and_says_its_quantization(entry, variant):
    downloadable(variant.tag, ("registry.ollama.ai",))

    assert variant.tag.endswith(variant.file_type.replace("Q", "q"))
    assert variant.file_type.startswith(variant.quantization.upper())


def test_no_two_variants_share_a_tag_an_alias_or_a_digest():
    variants = [variant for entry in MODEL_CATALOG.values() for variant in entry.variants]
    names = [name for variant in variants for name in (variant.tag, *variant.aliases)]
    digests = [variant.digest_prefix for variant in variants if variant.digest_prefix is not None]

    assert len(set(names)) == len(names)
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)


def test_the_promised_ids_are_no_tags_of_the_library_and_the_ids_that_see_are():
    real = {name for entry in MODEL_CATALOG.values() for v in entry.variants for name in (v.tag, *v.aliases)}

    assert not real & set(PROMISED)
    assert real >= SEEING


def test_an_id_that_is_a_real_tag_means_its_own_4_bit_form():
    for name in SEEING:
        first, *_ = MODEL_CATALOG[name].variants
        assert first.quantization == "q4"
        assert name in first.aliases


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_published_has_a_tag_for_every_quantization_and_what_is_not_has_alternatives(entry):
    if entry.published:
        assert tuple(variant.quantization for variant in entry.variants) == entry.quantization_support
        assert entry.license and entry.license_url and entry.context_tokens and entry.parameters
    else:
        assert entry.name == "llama3.1:13b-instruct"
        assert not entry.variants
        assert entry.alternatives and not set(entry.alternatives) & set(PROMISED)


@pytest.mark.parametrize(("entry", "variant"), VARIANTS)
def test_a_size_that_is_known_rounded_only_says_so(entry, variant):
    if variant.size_bytes % 10_000_000 == 0:
        assert variant.approximate


@pytest.mark.parametrize("entry", ENTRIES)
def test_eight_bits_weigh_more_than_four(entry):
    if entry.published:
        four, eight = entry.variants
        assert four.size_bytes < eight.size_bytes


@pytest.mark.parametrize("entry", ENTRIES)
def test_models_that_see_are_specialized_and_no_others(entry):
    assert ("vision" in entry.capabilities) == (entry.purpose is ModelPurpose.SPECIALIZED) == (entry.name in SEEING)


@pytest.mark.parametrize("entry", ENTRIES)
def test_architecture_numbers_agree_with_the_number_of_parameters(entry):
    numbers = entry.architecture
    if numbers is None:
        return

    attention = numbers.embedding_length * numbers.key_length * (2 * numbers.heads + 2 * numbers.kv_heads)
    feed_forward = 3 * numbers.embedding_length * numbers.feed_forward_length * max(1, numbers.experts)
    embeddings = numbers.vocabulary * numbers.embedding_length * (1 if numbers.tied_embeddings else 2)
    counted = numbers.layers * (attention + feed_forward) + embeddings

    assert entry.parameters == numbers.parameters
    assert counted == pytest.approx(numbers.parameters, rel=0.01)


@pytest.mark.parametrize("name", sorted(SEEING))
def test_the_card_of_a_model_that_sees_is_the_smallest_that_holds_its_upper_guess(name):
    entry = MODEL_CATALOG[name]
    need = memory_need(profile_of(entry, entry.variants[0]))

    assert entry.min_vram_gb == next(card for card in CARDS_GIB if card * GIB >= need.high)


def test_llama_says_that_japanese_is_not_supported():
    for entry in MODEL_CATALOG.values():
        if entry.published and "Llama" in entry.license:
            assert "ja" not in entry.languages
            assert any("Japanese" in note for note in entry.notes)


def test_the_llama_that_sees_says_whom_its_licence_leaves_out():
    assert any("European Union" in note for note in MODEL_CATALOG["llama3.2-vision:11b"].notes)


def test_every_figure_has_its_source():
    figures = {
        "min_vram_gb",
        "download_size_mb",
        "parameters",
        "architecture",
        "context_tokens",
        "license",
        "languages",
        "capabilities",
    }
    figures |= set(Variant.model_fields) - {"quantization", "approximate"}

    assert set(SOURCES) == figures

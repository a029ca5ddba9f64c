"""The library of the stand-in: the catalogue's models with true sizes and digests, and layers that models share."""

from __future__ import annotations

import hashlib

import pytest

from catalog import MODEL_CATALOG
from model_core.simulated_library import (
    ALIASES,
    bytes_on_card,
    library_from_catalog,
    loaded_bytes,
    made_from,
    make_model,
    tensors,
)

LIBRARY = library_from_catalog(MODEL_CATALOG)
VARIANTS = [variant for entry in MODEL_CATALOG.values() if entry.published for variant in entry.variants]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.tag)
def test_every_published_variant_can_be_pulled_with_its_size_and_digest(variant):
    model = LIBRARY[variant.tag]

    assert model.size_bytes == variant.size_bytes
    assert len(model.digest) == 64
    assert model.digest.startswith(variant.digest_prefix or "")
    assert model.quantization.lower() in variant.tag.lower()


def test_what_was_never_published_cannot_be_pulled():
    unpublished = [entry.name for entry in MODEL_CATALOG.values() if not entry.published]

    assert unpublished
    assert not set(unpublished) & set(LIBRARY)


def test_the_catalogues_own_names_are_no_tags_of_the_library():
    assert "llama3.1:8b-instruct" not in LIBRARY


def test_every_plain_tag_points_to_a_model_of_the_catalogue():
    assert {alias: LIBRARY[alias].digest for alias in ALIASES} == {
        alias: LIBRARY[tag].digest for alias, tag in ALIASES.items()
    }
    assert LIBRARY["llama3.2:1b"].quantization == "Q8_0"


def test_two_models_share_their_texts_and_not_their_weights():
    one, other = (make_model(name, size_bytes=10_000) for name in ("one", "other"))
    shared = {layer.digest for layer in one.layers} & {layer.digest for layer in other.layers}

    assert one.weights.digest != other.weights.digest
    assert shared == {layer.digest for layer in one.layers if layer.kind in ("template", "license", "params")}


def test_another_edition_has_other_weights_and_another_digest():
    one, other = (make_model("m", size_bytes=10_000, edition=edition) for edition in (1, 2))

    assert one == make_model("m", size_bytes=10_000)
    assert one.weights.digest != other.weights.digest
    assert one.digest != other.digest


def test_a_text_layer_has_the_digest_of_its_text():
    (system,) = (
        layer
        for layer in made_from(make_model("m", size_bytes=10_000), "m", {"system": "Be short."})[0].layers
        if layer.kind == "system"
    )

    assert system.digest == f"sha256:{hashlib.sha256(b'Be short.').hexdigest()}"


def test_the_known_weight_of_a_file_is_kept():
    model = make_model("m", size_bytes=10_000, weights_bytes=9_000)

    assert (model.size_bytes, model.weights.size_bytes) == (10_000, 9_000)


def test_a_loaded_model_takes_its_file_its_cache_and_its_buffers():
    model = LIBRARY["llama3.1:8b-instruct-q4_K_M"]
    cache = 8192 * 128 * 1024  # 128 KiB a token
    buffers = 4 * 512 * (4096 + 128_256)  # two rows of 32 bit a token of the batch
    in_ram = 4096 * 128_256 * 144 // 256  # the token embedding, 4-bit

    assert loaded_bytes(model, 8192) == model.weights.size_bytes - in_ram + cache + buffers


def test_a_model_whose_output_uses_the_embedding_has_it_once_and_loads_all_of_its_file():
    model = LIBRARY["llama3.2:1b-instruct-q4_K_M"]

    assert "output.weight" not in {tensor["name"] for tensor in tensors(model)}
    assert loaded_bytes(model, 2048) == model.weights.size_bytes + 2048 * 32 * 1024 + 4 * 512 * (2048 + 128_256)


def test_what_does_not_fit_lies_on_the_card_in_whole_layers():
    model = LIBRARY["llama3.1:8b-instruct-q4_K_M"]

    assert bytes_on_card(model, 3200, 3200) == 3200
    assert bytes_on_card(model, 3200, 1650) == 1600
    assert bytes_on_card(model, 3200, 99) == 0
    assert bytes_on_card(model, 3200, -5) == 0


def test_the_tensors_are_those_of_the_figures():
    listed = tensors(LIBRARY["llama3.2:1b-instruct-q4_K_M"])

    assert len(listed) == 2 + 16 * 9
    assert listed[0] == {"name": "token_embd.weight", "type": "Q4_K", "shape": [2048, 128_256]}

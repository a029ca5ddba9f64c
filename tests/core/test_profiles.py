"""What a need follows from: a measurement before what Ollama tells, that before a guess, the catalogue for its own."""

from __future__ import annotations

import pytest
from memory_cases import the_profile

from catalog import MODEL_CATALOG
from model_core.memory import OVERHEAD_BYTES, memory_need
from model_core.profiles import CATALOGUE_ONLY, Profiles
from model_core.records import GIB, Described, InstalledModel, Measured

EIGHT_B, GEMMA = MODEL_CATALOG["llama3.1:8b-instruct"], MODEL_CATALOG["gemma3:4b"]
DIGEST = "46e0c10c039e" + "0" * 52
TOLD = Described(architecture=EIGHT_B.architecture)
MINE = InstalledModel(
    name="mine:latest", digest=DIGEST, size_bytes=4_920_753_328, quantization_level="Q4_K_M", context_tokens=131_072
)


def measured(size, context=4096, digest=DIGEST):
    return {digest: {context: Measured(size_bytes=size, size_vram_bytes=size, at="2026")}}


def test_what_ollama_tells_of_a_model_of_ones_own_takes_the_place_of_the_guess():
    guessed = memory_need(CATALOGUE_ONLY.of_installed(MINE))
    told = memory_need(Profiles({DIGEST: TOLD}).of_installed(MINE))

    assert (guessed.basis, told.basis) == ("guess", "show")
    assert told.total == memory_need(the_profile("llama3.1:8b-instruct")).total


def test_what_was_measured_decides_for_its_context_and_the_estimate_stands_beside():
    profile = Profiles({DIGEST: TOLD}, measured(5 * GIB)).of_installed(MINE)
    estimate = memory_need(Profiles({DIGEST: TOLD}).of_installed(MINE))

    need = memory_need(profile, 4096)

    assert (need.basis, need.total, need.estimate) == ("measured", 5 * GIB + OVERHEAD_BYTES, estimate.total)
    assert memory_need(profile, 8192).basis == "show"


def test_a_catalogue_model_keeps_its_figures_and_what_was_measured_of_it():
    variant = EIGHT_B.variants[0]
    profiles = Profiles({DIGEST: Described()}, measured(5 * GIB))

    assert memory_need(profiles.of_variant(EIGHT_B, variant), 8192).basis == "catalogue"
    # Known by the first digits of its digest also while it is not installed.
    assert memory_need(profiles.of_variant(EIGHT_B, variant)).basis == "measured"
    assert memory_need(profiles.of_variant(EIGHT_B, variant, MINE)).basis == "measured"
    assert memory_need(profiles.of_variant(EIGHT_B, EIGHT_B.variants[1])).basis == "catalogue"


def test_a_size_that_is_only_the_files_is_not_taken_for_a_measurement():
    profiles = Profiles({}, measured(EIGHT_B.variants[0].size_bytes))

    assert memory_need(profiles.of_variant(EIGHT_B, EIGHT_B.variants[0])).basis == "catalogue"


def test_nor_is_the_size_of_the_file_that_is_there_where_the_catalogues_is_rounded():
    variant = MODEL_CATALOG["llama3.2:1b-instruct"].variants[0]
    there = MINE.model_copy(update={"size_bytes": 807_694_464})
    profiles = Profiles({}, measured(there.size_bytes))

    need = memory_need(profiles.of_variant(MODEL_CATALOG["llama3.2:1b-instruct"], variant, there))

    assert (variant.size_bytes, need.basis) == (810_000_000, "catalogue")


@pytest.mark.parametrize(
    ("listed", "told", "able"),
    [
        (("completion", "tools"), Described(capabilities=("embedding",)), ("completion", "tools")),
        (None, Described(capabilities=("embedding",)), ("embedding",)),
        (None, Described(sees=True), ("completion", "vision")),
        (None, Described(), ("completion",)),
    ],
)
def test_what_a_model_can_do_is_what_ollama_lists_or_else_tells_of_it(listed, told, able):
    model = MINE.model_copy(update={"capabilities": listed})

    assert Profiles({DIGEST: told}).capabilities(model) == able


def test_a_model_that_sees_is_guessed_until_ollama_tells_of_it_and_never_measured():
    variant = GEMMA.variants[0]
    there = InstalledModel(name=variant.tag, digest="a2af6cc3eb7f" + "0" * 52, size_bytes=variant.size_bytes)
    profiles = Profiles(
        {there.digest: Described(architecture=EIGHT_B.architecture, sees=True)}, measured(GIB, digest=there.digest)
    )

    assert memory_need(profiles.of_variant(GEMMA, variant)).basis == "guess"
    need = memory_need(profiles.of_variant(GEMMA, variant, there))
    assert (need.basis, need.vision) == ("show", GIB)


def test_the_longest_context_is_the_models_own_where_ollama_tells_it_and_else_the_catalogues():
    variant = GEMMA.variants[0]
    there = InstalledModel(name=variant.tag, digest="a2af6cc3eb7f" + "0" * 52, size_bytes=5)
    profiles = Profiles({there.digest: Described(architecture=EIGHT_B.architecture, sees=True)})
    own = there.model_copy(update={"context_tokens": 2048})

    assert profiles.of_variant(GEMMA, variant, there).context_limit == GEMMA.context_tokens
    assert profiles.of_variant(GEMMA, variant, own).context_limit == 2048
    assert profiles.of_variant(GEMMA, variant, own).file_type == "Q4_K_M"


def test_weights_that_ollama_tells_too_little_of_stay_a_guess():
    assert memory_need(Profiles({DIGEST: Described()}).of_installed(MINE)).basis == "guess"

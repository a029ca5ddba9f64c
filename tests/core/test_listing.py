"""A model is shown with the seed's fields and with what is true of it; a filter lets through what it says."""

from __future__ import annotations

import pytest

from catalog import MODEL_CATALOG
from model_core import listing, memory
from model_core.errors import InvalidRequest
from model_core.installed import Inventory, hold, show
from model_core.records import GIB, InstalledModel, ModelMetadata, ModelPurpose, StoredModel

EIGHT_B, ONE_B, UNPUBLISHED = "llama3.1:8b-instruct", "llama3.2:1b-instruct", "llama3.1:13b-instruct"
ENTRY = MODEL_CATALOG[EIGHT_B]
OWN = InstalledModel(
    name=EIGHT_B,
    digest="3" * 64,
    size_bytes=2 * GIB,
    parameter_size="3.2B",
    quantization_level="Q5_K_M",
    context_tokens=8192,
    capabilities=("completion", "vision"),
)
MINE = OWN.model_copy(update={"name": "mine:latest"})


def of_entry(name=EIGHT_B, *models, stored=None, **changes):
    entry = MODEL_CATALOG[name].model_copy(update=changes)
    return listing.of_entry(entry, stored or StoredModel(name=name), hold(entry, Inventory(models)))


# --- one model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODEL_CATALOG)
def test_an_entry_shows_its_own_fields_and_the_need_of_each_form(name):
    shown, entry = of_entry(name), MODEL_CATALOG[name]

    for field in set(ModelMetadata.model_fields) & set(type(entry).model_fields):
        assert getattr(shown, field) == getattr(entry, field)
    assert shown.tags == {variant.quantization: variant.tag for variant in entry.variants}
    assert shown.memory["need_bytes"] == {
        variant.quantization: memory.memory_need(memory.profile_of(entry, variant)).total for variant in entry.variants
    }
    assert (shown.installed, shown.digest, shown.installed_as) == (False, None, ())


def test_what_is_shown_can_be_checked_and_written_as_json():
    for shown in (of_entry(), of_entry(EIGHT_B, OWN), listing.of_installed(MINE, StoredModel(name="mine:latest"))):
        assert ModelMetadata.from_dict(shown.to_dict()) == shown


def test_what_is_on_record_is_shown():
    stored = StoredModel(name=EIGHT_B, usage_count=3, success_rate=0.5, avg_inference_time=1.5, last_used="2026")

    shown = of_entry(stored=stored)

    assert (shown.usage_count, shown.success_rate, shown.avg_inference_time, shown.last_used) == (3, 0.5, 1.5, "2026")


def test_an_own_model_under_an_id_is_shown_as_what_it_is():
    shown = of_entry(EIGHT_B, OWN)

    assert shown.own_model and shown.installed
    assert (shown.parameters, shown.context_tokens, shown.capabilities) == (
        3_200_000_000,
        8192,
        ("completion", "vision"),
    )
    assert (shown.digest, shown.size_bytes, shown.installed_quantization) == (OWN.digest, OWN.size_bytes, "Q5_K_M")
    assert list(shown.memory["need_bytes"]) == ["Q5_K_M"]
    assert shown.memory["basis"] == "guess"
    # The licence and the languages are those of another model.
    assert (shown.license, shown.languages) == (None, ())


def test_an_own_model_keeps_the_purpose_that_callers_gave_the_id():
    assert of_entry(EIGHT_B, OWN).purpose is ENTRY.purpose


def test_a_model_that_nobody_published_has_a_need_once_the_user_has_made_one():
    assert of_entry(UNPUBLISHED).memory["need_bytes"] == {}
    made = of_entry(UNPUBLISHED, OWN.model_copy(update={"name": UNPUBLISHED}))
    assert list(made.memory["need_bytes"]) == ["Q5_K_M"]


def test_a_custom_model_without_tags_has_the_need_of_what_was_made():
    shown = of_entry(EIGHT_B, OWN, variants=(), license="mine")

    assert (shown.own_model, shown.license, shown.installed_quantization) == (False, "mine", "Q5_K_M")
    assert list(shown.memory["need_bytes"]) == ["Q5_K_M"]


def test_what_the_catalogue_does_not_know_is_shown_as_ollama_tells_it():
    shown = listing.of_installed(MINE, StoredModel(name="mine:latest", usage_count=2))

    assert (shown.name, shown.source, shown.installed, shown.installed_as) == (
        "mine:latest",
        "installed",
        True,
        ("mine:latest",),
    )
    assert (shown.size, shown.parameters, shown.context_tokens) == ("3.2b", 3_200_000_000, 8192)
    assert (shown.purpose, shown.usage_count, shown.download_size_mb) == (ModelPurpose.SPECIALIZED, 2, 2147)
    assert shown.min_vram_gb == round(shown.memory["need_bytes"]["Q5_K_M"] / GIB, 1)


def test_what_ollama_does_not_tell_is_not_made_up():
    shown = listing.of_installed(InstalledModel(name="x:1", digest="d", size_bytes=1), StoredModel(name="x:1"))

    assert (shown.size, shown.parameters, shown.context_tokens, shown.installed_quantization) == ("", None, None, None)
    assert (shown.capabilities, list(shown.memory["need_bytes"])) == ((), ["unknown"])


def test_a_description_of_ones_own_is_kept():
    told = listing.of_installed(MINE, StoredModel(name="mine:latest", description="for the night sky"))
    untold = listing.of_installed(MINE, StoredModel(name="mine:latest"))

    assert (told.description, untold.description) == ("for the night sky", "Installed in Ollama; not in the catalogue.")


def test_what_is_installed_has_its_size_and_its_digest():
    tag = OWN.model_copy(update={"name": "llama3.1:8b-instruct-q4_K_M", "size_bytes": 5})
    under_id = OWN.model_copy(update={"size_bytes": 5})

    for shown in (of_entry(EIGHT_B, tag, under_id), listing.of_installed(tag, StoredModel(name=tag.name))):
        assert (shown.size_bytes, shown.digest) == (5, OWN.digest)


@pytest.mark.parametrize(
    "shown", [of_entry(), of_entry(EIGHT_B, OWN), listing.of_installed(MINE, StoredModel(name="m"))]
)
def test_a_need_says_where_it_comes_from_and_for_which_context(shown):
    assert shown.memory["basis"] == ("catalogue" if not shown.installed else "guess")
    assert shown.memory["context_tokens"] == memory.DEFAULT_CONTEXT_TOKENS


# --- the whole list --------------------------------------------------------------------------------------------------


def all_models(*models, custom=()):
    entries = {**MODEL_CATALOG, **{entry.name: entry for entry in custom}}
    shown = show(entries, Inventory(models), {})
    return listing.all_models(entries, [entry.name for entry in custom], {}, shown)


def test_every_entry_and_every_other_model_is_listed_once_with_its_source():
    custom = MODEL_CATALOG[ONE_B].model_copy(update={"name": "critic"})

    listed = {model.name: model.source for model in all_models(MINE, OWN, custom=[custom])}

    assert listed == {**dict.fromkeys(MODEL_CATALOG, "catalog"), "critic": "custom", "mine:latest": "installed"}


def test_the_lightest_comes_first_and_of_equals_the_name_decides():
    twins = [OWN.model_copy(update={"name": name}) for name in ("b:1", "a:1")]

    order = [
        model.name
        for model in all_models(*twins)
        if model.name in ("a:1", "b:1", ONE_B, EIGHT_B, "llama3.1:70b-instruct")
    ]

    # The twins are guessed to need 3.9 GiB: more than 1B, less than 8B.
    assert order == [ONE_B, "a:1", "b:1", EIGHT_B, "llama3.1:70b-instruct"]


def test_what_has_no_need_stands_where_its_download_would():
    without = MODEL_CATALOG[UNPUBLISHED].model_copy(update={"name": "nothing-known", "download_size_mb": None})

    order = [model.name for model in all_models(custom=[without])]

    assert order[0] == "nothing-known"
    assert order.index(EIGHT_B) < order.index(UNPUBLISHED) < order.index("llama3.1:70b-instruct")


# --- the filters -----------------------------------------------------------------------------------------------------

MODELS = [
    ModelMetadata.from_dict({**of_entry().to_dict(), "name": name, **known})
    for name, known in {
        "small": {"min_vram_gb": 1.0, "purpose": "speed", "installed": True},
        "middle": {"min_vram_gb": 6.0, "purpose": "balanced"},
        "large": {"min_vram_gb": 40.0, "purpose": "quality", "installed": True},
        "unknown": {"min_vram_gb": None, "purpose": "specialized"},
    }.items()
]


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        ({}, ["small", "middle", "large", "unknown"]),
        ({"purpose": ModelPurpose.QUALITY}, ["large"]),
        ({"max_vram_gb": 6.0}, ["small", "middle"]),
        ({"max_vram_gb": 5.9}, ["small"]),
        ({"max_vram_gb": 0}, []),
        ({"installed_only": True}, ["small", "large"]),
        ({"installed_only": True, "max_vram_gb": 8}, ["small"]),
    ],
    ids=str,
)
def test_a_filter_lets_through_what_it_says(wish, names):
    assert [model.name for model in listing.chosen(MODELS, **wish)] == names


@pytest.mark.parametrize("word", [*ModelPurpose, *(str(purpose) for purpose in ModelPurpose)])
def test_a_purpose_is_read_from_its_word(word):
    assert listing.check_purpose(word) == word


def test_no_word_is_no_purpose():
    assert listing.check_purpose(None) is None


@pytest.mark.parametrize("word", ["", "Speed", "fast", 5, True, [], {}])
def test_an_unknown_purpose_is_refused_with_those_there_are(word):
    with pytest.raises(InvalidRequest) as refusal:
        listing.check_purpose(word)

    assert refusal.value.field == "purpose"
    assert refusal.value.allowed == ["speed", "balanced", "quality", "specialized"]

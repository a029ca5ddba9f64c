"""Each thing that Ollama holds belongs to whom it should: to an entry by name or digest, to the user, or to itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import MODEL_CATALOG
from model_core import names
from model_core.errors import InvalidModelName
from model_core.installed import NOTHING, Inventory, alone, freed_bytes, hold, own_names, parameter_count, resolve, show
from model_core.records import InstalledModel

EIGHT_B, ONE_B, UNPUBLISHED, GEMMA = (
    "llama3.1:8b-instruct",
    "llama3.2:1b-instruct",
    "llama3.1:13b-instruct",
    "gemma3:4b",
)
Q4_TAG, Q8_TAG = "llama3.1:8b-instruct-q4_K_M", "llama3.1:8b-instruct-q8_0"
ENTRY = MODEL_CATALOG[EIGHT_B]

# Digests as Ollama shows them; the first two begin as the catalogue knows them, the others nobody has seen before.
Q4 = "46e0c10c039e" + "0" * 52
Q8 = "b158ded76fa0" + "0" * 52
NEW_Q4, NEW_Q8, OTHER = "1" * 64, "2" * 64, "3" * 64


def model(name, digest, quantization=None, size=1000, **known):
    return InstalledModel(name=name, digest=digest, size_bytes=size, quantization_level=quantization, **known)


def held(*models, entry=ENTRY, copied=None):
    return hold(entry, Inventory(models), copied)


def names_of(holding):
    return [found.name for found in holding.names]


# --- what belongs to an entry ----------------------------------------------------------------------------------------


def test_nothing_is_there_where_nothing_is_installed():
    assert held() == NOTHING
    assert not NOTHING.installed
    assert (NOTHING.answering, NOTHING.digest, NOTHING.quantization) == (None, None, None)


PLACES = {
    "the tag": ([model(Q4_TAG, Q4)], None, "q4"),
    "the tag, moved": ([model(Q4_TAG, NEW_Q4)], None, "q4"),
    "the id and its tag": ([model(Q4_TAG, Q4), model(EIGHT_B, Q4)], Q4, "q4"),
    "the id and its tag, of a new document": ([model(Q4_TAG, NEW_Q4), model(EIGHT_B, NEW_Q4)], None, "q4"),
    "the id alone, by its digest": ([model(EIGHT_B, Q8)], None, "q8"),
    "the id alone, as it was copied": ([model(EIGHT_B, NEW_Q8, "Q8_0")], NEW_Q8, "q8"),
    "the id alone, as it was copied, by an Ollama that tells no form": ([model(EIGHT_B, NEW_Q8)], NEW_Q8, None),
    "another name of the library": ([model("llama3.1:8b", Q4)], None, "q4"),
    "the latest": ([model("llama3.1:latest", Q4)], None, "q4"),
    "somebody's copy": ([model("my-eight:latest", Q8)], None, "q8"),
    "a copy of what we had copied": ([model("my-eight:latest", OTHER)], OTHER, None),
    "in capitals": ([model("LLAMA3.1:8B-Instruct-Q4_k_m", NEW_Q4)], None, "q4"),
    "with everything written out": ([model("registry.ollama.ai/library/" + Q8_TAG, NEW_Q8)], None, "q8"),
}


@pytest.mark.parametrize(("models", "copied", "form"), PLACES.values(), ids=PLACES)
def test_an_entry_is_there_by_name_or_by_digest(models, copied, form):
    found = held(*models, copied=copied)

    assert found.installed and not found.own_model
    assert set(names_of(found)) == {one.name for one in models}
    assert found.quantization == form
    assert found.digest == models[-1].digest
    if form:
        assert found.by_quantization[form].digest == models[-1].digest
        assert found.quantization_of(models[-1].digest) == form


def test_the_plain_1b_of_the_library_is_the_8_bit_form():
    plain = model("llama3.2:1b", "baf6a787fdff" + "0" * 52)

    assert held(plain, entry=MODEL_CATALOG[ONE_B]).quantization == "q8"


def test_with_both_forms_there_the_id_says_which_one_answers():
    both = [model(Q4_TAG, Q4), model(Q8_TAG, Q8)]

    assert held(*both, model(EIGHT_B, Q8)).quantization == "q8"
    assert held(*both, model(EIGHT_B, Q4)).quantization == "q4"
    assert set(held(*both, model(EIGHT_B, Q4)).by_quantization) == {"q4", "q8"}


def test_with_both_forms_there_and_no_id_it_would_be_made_of_the_first():
    # Whatever the order of their digests.
    for q4, q8 in ((NEW_Q4, NEW_Q8), (NEW_Q8, NEW_Q4)):
        found = held(model(Q8_TAG, q8), model(Q4_TAG, q4))

        assert (found.quantization, found.answering.name, found.under_id) == ("q4", Q4_TAG, None)
        assert (found.quantization_of(q4), found.quantization_of(q8), found.quantization_of(OTHER)) == (
            "q4",
            "q8",
            None,
        )


def test_the_id_comes_first_among_the_names():
    assert names_of(held(model(Q4_TAG, Q4), model("llama3.1:8b", Q4), model(EIGHT_B, Q4)))[0] == EIGHT_B


def test_an_id_whose_tag_was_removed_by_hand_still_has_its_form():
    found = held(model(EIGHT_B, NEW_Q4, "Q4_K_M"), copied=NEW_Q4)

    assert set(found.by_quantization) == {"q4"}


def test_a_form_is_not_guessed_where_nobody_tells_one():
    variants = tuple(v.model_copy(update={"file_type": None, "digest_prefix": None}) for v in ENTRY.variants)
    entry = ENTRY.model_copy(update={"variants": variants})

    found = held(model(EIGHT_B, OTHER), entry=entry, copied=OTHER)

    assert (found.own_model, found.quantization, found.by_quantization) == (False, None, {})


def test_an_id_keeps_its_digest_when_its_tag_has_moved_on():
    found = held(model(Q4_TAG, NEW_Q4), model(EIGHT_B, Q4))

    assert not found.own_model
    assert (found.quantization, found.digest) == ("q4", Q4)
    assert found.by_quantization["q4"].digest == NEW_Q4


def test_every_known_digest_belongs_to_the_entry_also_where_the_tag_has_moved_on():
    assert set(names_of(held(model(Q4_TAG, NEW_Q4), model("llama3.1:8b", Q4)))) == {Q4_TAG, "llama3.1:8b"}


# --- the user's own --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "copied"),
    [
        ([model(EIGHT_B, OTHER)], None),
        ([model(EIGHT_B, OTHER, "Q4_K_M")], None),
        ([model(EIGHT_B, OTHER)], NEW_Q4),
        ([model(EIGHT_B, OTHER), model(Q4_TAG, Q4)], Q4),
    ],
    ids=["nothing else", "of the same form", "where we had copied", "beside the tag"],
)
def test_what_came_from_elsewhere_under_an_id_is_the_users_own(models, copied):
    found = held(*models, copied=copied)

    assert found.installed and found.own_model
    assert (found.digest, found.quantization) == (OTHER, None)
    assert alone(ENTRY, found) is found.under_id


def test_what_was_never_published_can_only_be_the_users_own():
    entry = MODEL_CATALOG[UNPUBLISHED]

    assert held(model(UNPUBLISHED, OTHER), entry=entry).own_model
    assert held(model("llama3.1:13b", OTHER), entry=entry) == NOTHING


def test_a_custom_entry_without_a_tag_is_what_stands_under_its_id():
    entry = MODEL_CATALOG[ONE_B].model_copy(update={"name": "critic", "variants": ()})

    found = held(model("critic:latest", OTHER), entry=entry)

    assert found.installed and not found.own_model
    assert alone(entry, found).name == "critic:latest"
    assert alone(entry, NOTHING) is None


# --- ids that are names of the library themselves --------------------------------------------------------------------

GEMMA_ENTRY = MODEL_CATALOG[GEMMA]
GEMMA_TAG, GEMMA_Q8_TAG = "gemma3:4b-it-q4_K_M", "gemma3:4b-it-q8_0"
GEMMA_Q4, GEMMA_Q8 = "a2af6cc3eb7f" + "0" * 52, "2376388dec16" + "0" * 52


@pytest.mark.parametrize(
    ("models", "form", "own"),
    [
        ([model(GEMMA, GEMMA_Q4)], "q4", False),
        ([model(GEMMA, OTHER)], "q4", False),
        ([model(GEMMA, OTHER, "Q4_K_M")], "q4", False),
        ([model(GEMMA, OTHER, "Q5_K_M")], None, True),
        ([model(GEMMA, OTHER), model(GEMMA_TAG, GEMMA_Q4)], None, True),
        ([model(GEMMA, GEMMA_Q8), model(GEMMA_Q8_TAG, GEMMA_Q8)], "q8", False),
        ([model(GEMMA, NEW_Q8), model(GEMMA_Q8_TAG, NEW_Q8)], "q8", False),
        ([model(GEMMA, GEMMA_Q8)], "q8", False),
    ],
    ids=[
        "pulled by hand",
        "pulled by hand after it had moved",
        "moved, of the right form",
        "of a form that the library has not under this name",
        "another than the tag",
        "pointed to 8 bit",
        "pointed to 8 bit after the tag had moved",
        "pointed to 8 bit, the tag removed",
    ],
)
def test_an_id_of_the_library_pulled_by_hand_is_the_entry(models, form, own):
    found = held(*models, entry=GEMMA_ENTRY)

    assert (found.quantization, found.own_model) == (form, own)
    assert found.digest == models[0].digest


def test_an_id_of_the_library_is_the_entry_where_the_entry_does_not_know_its_form():
    variants = tuple(v.model_copy(update={"file_type": None}) for v in GEMMA_ENTRY.variants)
    entry = GEMMA_ENTRY.model_copy(update={"variants": variants})

    found = held(model(GEMMA, OTHER, "Q4_K_M"), entry=entry)

    assert (found.own_model, found.quantization) == (False, "q4")


def test_an_id_that_points_to_8_bit_does_not_stand_for_4_bit_as_well():
    found = held(model(GEMMA, NEW_Q8), model(GEMMA_Q8_TAG, NEW_Q8), entry=GEMMA_ENTRY)

    assert set(found.by_quantization) == {"q8"}


# --- the whole list --------------------------------------------------------------------------------------------------


def test_each_thing_is_shown_once():
    shown = show(
        MODEL_CATALOG,
        Inventory([model(Q4_TAG, Q4), model(EIGHT_B, Q4), model("llama3.1:8b", Q4), model("mine:latest", OTHER)]),
        {},
    )

    assert shown.names == [EIGHT_B, "mine:latest"]


def test_a_cloud_model_is_not_here():
    cloud = model("gpt-oss:20b-cloud", OTHER, remote=True)

    inventory = Inventory([cloud, model(EIGHT_B, Q4, remote=True)])

    assert inventory.models == ()
    assert inventory.get("gpt-oss:20b-cloud") is None
    assert show(MODEL_CATALOG, inventory, {}).names == []


def test_what_was_copied_counts_for_the_id_it_was_copied_to():
    assert show(MODEL_CATALOG, Inventory([model(EIGHT_B, OTHER)]), {EIGHT_B: OTHER}).entries[EIGHT_B].own_model is False
    assert show(MODEL_CATALOG, Inventory([model(EIGHT_B, OTHER)]), {ONE_B: OTHER}).entries[EIGHT_B].own_model is True


library = [v.tag for entry in MODEL_CATALOG.values() for v in entry.variants] + [
    *MODEL_CATALOG,
    "a:1",
    "b:2",
    "llama3.1:8b",
]
digests = [f"{v.digest_prefix or 'f' * 12}{'0' * 52}" for entry in MODEL_CATALOG.values() for v in entry.variants] + [
    OTHER
]
inventories = st.dictionaries(st.sampled_from(library), st.sampled_from(digests), max_size=12).map(
    lambda held_: Inventory(model(name, digest) for name, digest in held_.items())
)


@given(inventories, st.dictionaries(st.sampled_from(sorted(MODEL_CATALOG)), st.sampled_from(digests)))
def test_nothing_that_ollama_holds_is_lost_or_shown_twice(inventory, copied):
    shown = show(MODEL_CATALOG, inventory, copied)

    listed = [*(m.name for held_ in shown.entries.values() for m in held_.names), *(m.name for m in shown.others)]
    assert set(listed) == {m.name for m in inventory.models}
    assert len(set(shown.names)) == len(shown.names)
    assert not {m.name for m in shown.others} & {m.name for h in shown.entries.values() for m in h.names}


@given(inventories, st.dictionaries(st.sampled_from(sorted(MODEL_CATALOG)), st.sampled_from(digests)))
def test_what_a_holding_says_of_itself_agrees(inventory, copied):
    for name, found in show(MODEL_CATALOG, inventory, copied).entries.items():
        assert found.installed == bool(found.names) == (found.answering is not None)
        assert not (found.own_model and found.quantization)
        assert set(found.by_quantization) <= {"q4", "q8"}
        assert (alone(MODEL_CATALOG[name], found) is not None) == found.own_model
        if found.quantization:
            assert found.quantization in found.by_quantization
        if found.under_id:
            assert found.answering is found.names[0] is found.under_id
        for one in own_names(MODEL_CATALOG[name], found):
            assert one in {m.name for m in found.names}


# --- what a name means -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "quantization"),
    [
        (EIGHT_B, EIGHT_B, None),
        ("LLAMA3.1:8B-INSTRUCT", EIGHT_B, None),
        ("library/llama3.1:8b-instruct", EIGHT_B, None),
        ("registry.ollama.ai/library/llama3.1:8b-instruct", EIGHT_B, None),
        (f" {EIGHT_B}\n", EIGHT_B, None),
        (Q4_TAG, EIGHT_B, "q4"),
        (Q8_TAG.upper(), EIGHT_B, "q8"),
    ],
)
def test_an_id_or_a_tag_in_any_spelling_means_the_entry(text, name, quantization):
    meant = resolve(text, MODEL_CATALOG)

    assert (meant.name, meant.entry, meant.quantization) == (name, MODEL_CATALOG[name], quantization)


@pytest.mark.parametrize(
    ("text", "name"),
    [("llama3.1:8b", "llama3.1:8b"), ("Mine", "Mine:latest"), ("hf.co/a/b:Q4_K_M", "hf.co/a/b:Q4_K_M")],
)
def test_another_name_means_itself_with_its_tag(text, name):
    meant = resolve(text, MODEL_CATALOG)

    assert (meant.name, meant.entry, meant.quantization) == (name, None, None)


@pytest.mark.parametrize("text", ["", "  ", "a b", "../x", "x:"])
def test_what_is_no_name_means_nothing(text):
    with pytest.raises(InvalidModelName):
        resolve(text, MODEL_CATALOG)


# --- what goes when it is deleted ------------------------------------------------------------------------------------


def test_the_id_and_every_own_tag_go():
    found = held(model(Q4_TAG, Q4), model(Q8_TAG, Q8), model(EIGHT_B, Q4), model("llama3.1:8b", Q4))

    assert set(own_names(ENTRY, found)) == {EIGHT_B, Q4_TAG, Q8_TAG, "llama3.1:8b"}


def test_what_somebody_copied_for_himself_stays():
    found = held(model(EIGHT_B, Q4), model("my-eight:latest", Q4))

    assert own_names(ENTRY, found) == [EIGHT_B]


def test_one_form_goes_with_the_id_only_where_it_points_there():
    found = held(model(Q4_TAG, Q4), model(Q8_TAG, Q8), model(EIGHT_B, Q4))

    assert set(own_names(ENTRY, found, "q4")) == {EIGHT_B, Q4_TAG}
    assert own_names(ENTRY, found, "q8") == [Q8_TAG]


def test_the_id_stays_where_it_cannot_be_told_which_form_it_is():
    found = held(model(Q4_TAG, Q4), model(EIGHT_B, NEW_Q8), copied=NEW_Q8)

    assert own_names(ENTRY, found, "q4") == [Q4_TAG]


def test_the_users_own_model_goes_by_its_name_and_the_tags_stay():
    found = held(model(EIGHT_B, OTHER), model(Q4_TAG, Q4))

    assert own_names(ENTRY, found) == [EIGHT_B]


def test_the_users_own_model_stays_when_a_tag_is_deleted():
    found = held(model(EIGHT_B, OTHER), model(Q4_TAG, Q4))

    assert own_names(ENTRY, found, "q4") == [Q4_TAG]
    assert own_names(ENTRY, found, "q8") == []


def test_an_id_of_the_library_stays_when_another_form_than_its_own_is_deleted():
    pointed_elsewhere = held(
        model(GEMMA, GEMMA_Q8), model(GEMMA_Q8_TAG, GEMMA_Q8), model(GEMMA_TAG, GEMMA_Q4), entry=GEMMA_ENTRY
    )
    users_own = held(model(GEMMA, OTHER), model(GEMMA_TAG, GEMMA_Q4), entry=GEMMA_ENTRY)

    assert own_names(GEMMA_ENTRY, pointed_elsewhere, "q4") == [GEMMA_TAG]
    assert own_names(GEMMA_ENTRY, users_own, "q4") == [GEMMA_TAG]


def test_names_of_another_entry_that_shares_the_weights_stay():
    twin = ENTRY.model_copy(update={"name": "twin:1"})
    shown = show({EIGHT_B: ENTRY, "twin:1": twin}, Inventory([model(EIGHT_B, Q4), model("twin:1", Q4)]), {})

    assert own_names(ENTRY, shown.entries[EIGHT_B]) == [EIGHT_B]


# --- what a deletion gives back --------------------------------------------------------------------------------------


def freed(before, gone):
    after = [one for one in before if one.name not in gone]
    return freed_bytes(gone, Inventory(before), Inventory(after))


TRAITS = {"family": "llama", "parameter_size": "8.0B", "quantization": "Q4_K_M"}


def test_both_names_of_one_model_free_its_size_once():
    assert freed([model(EIGHT_B, Q4, size=5000), model(Q4_TAG, Q4, size=5000)], [EIGHT_B, Q4_TAG]) == 5000


def test_a_name_of_what_stays_under_another_frees_nothing():
    assert freed([model(EIGHT_B, Q4), model(Q4_TAG, Q4)], [EIGHT_B]) == 0


def test_two_models_free_both_sizes():
    assert freed([model(EIGHT_B, Q4, "Q4_K_M", 5000), model(Q8_TAG, Q8, "Q8_0", 8000)], [EIGHT_B, Q8_TAG]) == 13_000


def test_what_may_share_its_weights_with_something_that_stays_frees_nobody_knows_what():
    made_from_it = model("critic:latest", OTHER, **TRAITS)

    assert freed([model(EIGHT_B, Q4, **TRAITS), made_from_it], [EIGHT_B]) is None


def test_a_model_of_another_kind_that_stays_does_not_matter():
    another = model("llava:7b", OTHER, "Q4_0", family="llama", parameter_size="7B")

    assert freed([model(EIGHT_B, Q4, size=5000, **TRAITS), another], [EIGHT_B]) == 5000


# --- Ollama's words --------------------------------------------------------------------------------------------------


def test_a_digest_may_be_asked_for_by_its_beginning():
    inventory = Inventory([model("a:1", Q4), model("b:1", Q8)])

    assert [found.name for found in inventory.of_digest(Q4[:12])] == ["a:1"]
    assert [found.name for found in inventory.of_digest(Q4)] == ["a:1"]
    assert inventory.of_digest(Q4[:20] + "f") == []


def test_a_name_that_ollama_would_not_take_equals_only_itself():
    odd = model("not a name", OTHER)

    assert Inventory([odd]).get("not a name") is odd
    assert Inventory([odd]).get("Not a name") is None
    with pytest.raises(InvalidModelName):
        names.parse(odd.name)


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("8.0B", 8_000_000_000),
        ("3.2B", 3_200_000_000),
        ("137M", 137_000_000),
        ("140.35K", 140_350),
        ("8x7B", 56_000_000_000),
        ("1T", 1_000_000_000_000),
        ("7b", 7_000_000_000),
        ("512", 512),
        ("", None),
        (None, None),
        ("7B-Instruct", None),
        ("-3B", None),
        ("unknown", None),
    ],
)
def test_the_parameters_are_read_from_ollamas_word(word, count):
    assert parameter_count(word) == count

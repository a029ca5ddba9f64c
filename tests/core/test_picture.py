"""Every question about models is answered from one picture, in the names that callers use."""

from __future__ import annotations

import pytest

from catalog import MODEL_CATALOG
from model_core.document import DocumentCodec
from model_core.errors import (
    CannotDeleteCurrent,
    InvalidModelName,
    ModelNotFound,
    ModelNotInstalled,
    ModelNotPublished,
)
from model_core.installed import Inventory
from model_core.picture import Picture
from model_core.records import InstalledModel, StoredModel, Usage

EIGHT_B, ONE_B, UNPUBLISHED, GEMMA = (
    "llama3.1:8b-instruct",
    "llama3.2:1b-instruct",
    "llama3.1:13b-instruct",
    "gemma3:4b",
)
Q4_TAG, Q8_TAG, ALIAS, MINE = "llama3.1:8b-instruct-q4_K_M", "llama3.1:8b-instruct-q8_0", "llama3.1:8b", "mine:latest"
TODAY = "2026-11-23"
Q4, Q8, OTHER = "46e0c10c039e" + "0" * 52, "b158ded76fa0" + "0" * 52, "3" * 64


def installed(name, digest=OTHER, **known):
    return InstalledModel(name=name, digest=digest, size_bytes=7_000_000_000, **known)


HELD = [installed(Q4_TAG, Q4), installed(EIGHT_B, Q4), installed(ALIAS, Q4), installed("Mine:latest")]


def picture(*models, current=None, previous=None, stored=(), custom=None, copied=None):
    document = DocumentCodec(MODEL_CATALOG, "here").empty()
    document = document.model_copy(
        update={
            "current_model": current,
            "previous_model": previous,
            "models": {**document.models, **{model.name: model for model in stored}},
            "custom": custom or {},
        }
    )
    return Picture(MODEL_CATALOG, document, Inventory(models), copied)


def used(name, **known):
    return StoredModel(name=name, usage_count=1, history={"here": {"": Usage(count=1)}}, **known)


# --- what answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told", "answers"),
    [
        (EIGHT_B, EIGHT_B, EIGHT_B),
        (Q4_TAG, EIGHT_B, Q4_TAG),
        (ALIAS, EIGHT_B, Q4_TAG),
        (Q8_TAG, Q8_TAG, Q8_TAG),
        ("mine", "Mine:latest", "Mine:latest"),
    ],
)
def test_what_answers_is_told_by_the_name_that_tells_it_from_others(name, told, answers):
    found = picture(*HELD, installed(Q8_TAG, Q8)).answering(name)

    assert (found[0], found[1].name) == (told, answers)


def test_where_the_id_is_missing_its_tag_answers_in_its_name():
    told, found = picture(installed(Q4_TAG, Q4)).answering(EIGHT_B)

    assert (told, found.name) == (EIGHT_B, Q4_TAG)


def test_a_model_of_the_users_own_answers_under_the_id_and_the_tag_beside_it():
    seen = picture(installed(EIGHT_B, OTHER), installed(Q4_TAG, Q4))

    assert (seen.answering(EIGHT_B)[0], seen.answering(EIGHT_B)[1].digest) == (EIGHT_B, OTHER)
    assert (seen.answering(Q4_TAG)[0], seen.answering(Q4_TAG)[1].digest) == (Q4_TAG, Q4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (ONE_B, ModelNotInstalled),
        (Q8_TAG, ModelNotInstalled),
        (UNPUBLISHED, ModelNotPublished),
        ("qwen3:8b", ModelNotFound),
        ("a b", InvalidModelName),
    ],
)
def test_what_is_not_there_does_not_answer(name, kind):
    with pytest.raises(kind):
        picture(*HELD).answering(name)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "means", "quantization"),
    [
        (EIGHT_B, EIGHT_B, None),
        (EIGHT_B.upper(), EIGHT_B, None),
        (Q4_TAG, EIGHT_B, "q4"),
        (Q8_TAG, EIGHT_B, "q8"),
        (ALIAS, EIGHT_B, "q4"),
        ("mine", "Mine:latest", None),
        ("MINE:LATEST", "Mine:latest", None),
        ("qwen3:8b", "qwen3:8b", None),
        ("qwen3", "qwen3:latest", None),
    ],
)
def test_whatever_a_model_is_called_it_is_known_by_the_name_of_callers(name, means, quantization):
    meant = picture(*HELD).meant(name)

    assert (meant.name, meant.quantization) == (means, quantization)


@pytest.mark.parametrize(("name", "means"), [(EIGHT_B, EIGHT_B), ("mine", "Mine:latest"), ("my-1b", "my-1b")])
def test_the_catalogue_the_document_and_ollama_each_make_a_model_known(name, means):
    seen = picture(*HELD, custom={"my-1b": MODEL_CATALOG[ONE_B]})

    assert seen.known(name).name == means


def test_what_nobody_has_heard_of_is_not_known():
    with pytest.raises(ModelNotFound):
        picture(*HELD).known("qwen3:8b")


def test_what_is_no_name_is_not_looked_for():
    with pytest.raises(InvalidModelName):
        picture(*HELD).known("not a name")


@pytest.mark.parametrize("name", ["gone:latest", "gone", "Never A Name"])
@pytest.mark.parametrize("role", ["current", "previous", "stored"])
def test_what_an_old_document_holds_is_known_whatever_it_is_called(role, name):
    old = picture(stored=[used(name)]) if role == "stored" else picture(**{role: name})

    assert old.known(name).name == name
    assert old.info(name).name == name
    assert old.info(name).installed is False


# --- one model -------------------------------------------------------------------------------------------------------


def test_a_model_is_found_under_each_of_its_names():
    seen = picture(*HELD)

    assert seen.info(EIGHT_B) == seen.info(Q4_TAG) == seen.info(ALIAS)
    assert seen.info(EIGHT_B).installed_as == (EIGHT_B, Q4_TAG, ALIAS)


def test_what_was_used_and_has_gone_shows_its_record_and_nothing_that_ollama_held():
    gone = used(MINE, description="mine", digest="old", size_bytes=5, copied_digest="x", installed=True, note="n")

    shown = picture(stored=[gone]).info(MINE)

    assert (shown.description, shown.usage_count, shown.installed) == ("mine", 1, False)
    assert (shown.digest, shown.size_bytes) == (None, None)
    assert not {"history", "copied_digest"} & set(shown.to_dict())


def test_statistics_say_whether_the_model_is_there():
    seen = picture(*HELD, stored=[used("gone:latest")])

    assert seen.statistics(EIGHT_B, TODAY).installed
    assert not seen.statistics(ONE_B, TODAY).installed
    assert (seen.statistics("gone:latest", TODAY).usage_count, seen.statistics("gone:latest", TODAY).installed) == (
        1,
        False,
    )


def test_what_stands_in_the_list_is_installed_and_nothing_else():
    seen = picture(*HELD)

    assert [name for name in (EIGHT_B, "Mine:latest", ONE_B, ALIAS) if seen.is_installed(name)] == [
        EIGHT_B,
        "Mine:latest",
    ]


def test_a_need_is_that_of_the_model_that_is_meant():
    seen = picture(*HELD)

    for name in (EIGHT_B, Q4_TAG, ALIAS):
        model, form, profile = seen.profile(name, None)
        assert (model, form, profile.architecture) == (EIGHT_B, "q4", MODEL_CATALOG[EIGHT_B].architecture)
    assert seen.profile("mine", None)[0] == "Mine:latest"
    assert seen.profile(EIGHT_B, "q8")[1] == "q8"


def test_a_digest_that_the_document_says_was_copied_makes_the_id_ours():
    copied = StoredModel(name=EIGHT_B, copied_digest=OTHER)

    assert not picture(installed(EIGHT_B), stored=[copied]).info(EIGHT_B).own_model


@pytest.mark.parametrize("name", [ALIAS, Q4_TAG, EIGHT_B.upper(), f"library/{ALIAS}"])
def test_figures_under_another_name_of_an_entry_count_for_the_entry(name):
    """Whoever had AutoDev before used names of Ollama's library: the ids of the catalogue are none."""
    old, ours = used(name), used(EIGHT_B)

    seen = picture(*HELD, stored=[old, ours])

    for asked in (EIGHT_B, name, ALIAS):
        assert seen.statistics(seen.known(asked).name, TODAY).usage_count == 2
        assert seen.info(asked).usage_count == 2
    assert next(one for one in seen.candidates() if one.name == EIGHT_B).failure_count == 2
    assert name not in seen.records
    assert seen.document.models[name] == old


def test_figures_under_another_name_count_once_over_all():
    stored = [used(ALIAS), used(Q4_TAG), used(EIGHT_B), used("mine:latest"), used("gone:latest")]

    assert sum(model.usage_count for model in picture(*HELD, stored=stored).records.values()) == 5


def test_figures_of_a_name_that_points_to_something_else_stay_its_own():
    seen = picture(installed(ALIAS), stored=[used(ALIAS)])

    assert seen.statistics(ALIAS, TODAY).usage_count == 1
    assert seen.statistics(EIGHT_B, TODAY).usage_count == 0


def test_figures_of_a_custom_model_count_for_it_though_nothing_else_is_on_record():
    entry = MODEL_CATALOG[ONE_B].model_copy(update={"variants": MODEL_CATALOG[GEMMA].variants})

    seen = picture(custom={"critic": entry}, stored=[used("gemma3:4b-it-q8_0")])

    assert {name for name, model in seen.records.items() if model.usage_count} <= {"critic", GEMMA}
    assert sum(model.usage_count for model in seen.records.values()) == 1


def test_a_digest_that_was_just_copied_makes_the_id_ours_before_the_document_knows():
    assert picture(installed(EIGHT_B)).info(EIGHT_B).own_model
    assert not picture(installed(EIGHT_B), copied={EIGHT_B: OTHER}).info(EIGHT_B).own_model


def test_a_custom_model_of_a_document_cannot_take_the_place_of_one_of_ours():
    entry = MODEL_CATALOG[ONE_B]
    evil = entry.variants[0].model_copy(update={"tag": "evil/model:1"})

    custom = {name: entry.model_copy(update={"variants": (evil,)}) for name in (ONE_B, ONE_B.upper(), "my-1b")}
    seen = picture(custom=custom)

    assert set(seen.entries) == {*MODEL_CATALOG, "my-1b"}
    assert seen.entries[ONE_B] is entry
    assert {model.name for model in seen.models if model.source == "custom"} == {"my-1b"}


def test_ids_are_made_for_what_is_there_without_one():
    assert [entry.name for entry in picture(installed(ALIAS, Q4)).ids_to_make()] == [EIGHT_B]
    assert list(picture(*HELD).ids_to_make()) == []
    assert list(picture(installed(MINE)).ids_to_make()) == []


# --- what is deleted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "going"),
    [
        (EIGHT_B, EIGHT_B, {EIGHT_B, Q4_TAG, ALIAS}),
        (EIGHT_B.upper(), EIGHT_B, {EIGHT_B, Q4_TAG, ALIAS}),
        (Q4_TAG, EIGHT_B, {EIGHT_B, Q4_TAG, ALIAS}),
        (ALIAS, ALIAS, {ALIAS}),
        ("mine", "mine:latest", {"Mine:latest"}),
    ],
    ids=["the id", "in capitals", "the tag that the id points to", "a name of the library", "a model of one's own"],
)
def test_a_name_goes_by_what_it_says(name, model, going):
    deleted, its_names = picture(*HELD).going(name)

    assert (deleted, set(its_names)) == (model, going)


def test_of_two_forms_the_one_that_is_named_goes():
    seen = picture(*HELD, installed(Q8_TAG, Q8), current=EIGHT_B)

    assert seen.going(Q8_TAG) == (EIGHT_B, [Q8_TAG])


@pytest.mark.parametrize("name", [EIGHT_B, EIGHT_B.upper(), Q4_TAG, f"library/{EIGHT_B}"])
def test_the_current_model_is_not_deleted_under_any_name_of_its_own(name):
    with pytest.raises(CannotDeleteCurrent) as refusal:
        picture(*HELD, current=EIGHT_B).going(name)

    assert refusal.value.model == EIGHT_B


def test_another_model_than_the_current_one_can_be_deleted():
    assert picture(*HELD, current=ONE_B).going(EIGHT_B)[0] == EIGHT_B
    assert picture(*HELD, current="not a name").going("mine")[0] == "mine:latest"


def test_a_current_model_of_ones_own_is_not_deleted_in_any_spelling():
    with pytest.raises(CannotDeleteCurrent):
        picture(*HELD, current="Mine:latest").going("mine")


def test_an_own_model_under_an_id_is_deleted_by_that_id_alone():
    seen = picture(installed(EIGHT_B), installed(Q4_TAG, Q4))

    assert seen.going(EIGHT_B) == (EIGHT_B, [EIGHT_B])
    assert seen.going(Q4_TAG) == (EIGHT_B, [Q4_TAG])


def test_a_current_model_of_ones_own_under_an_id_survives_the_deletion_of_a_tag():
    seen = picture(installed(EIGHT_B), installed(Q4_TAG, Q4), current=EIGHT_B)

    assert seen.going(Q4_TAG) == (EIGHT_B, [Q4_TAG])
    with pytest.raises(CannotDeleteCurrent):
        seen.going(EIGHT_B)


def test_what_the_user_made_of_a_model_that_nobody_published_can_be_deleted():
    assert picture(installed(UNPUBLISHED)).going(UNPUBLISHED) == (UNPUBLISHED, [UNPUBLISHED])


@pytest.mark.parametrize("name", [ONE_B, UNPUBLISHED, Q8_TAG, "gone:latest"])
def test_what_is_known_and_not_there_cannot_be_deleted(name):
    with pytest.raises(ModelNotInstalled):
        picture(*HELD, stored=[used("gone:latest")]).going(name)


def test_what_nobody_has_heard_of_cannot_be_deleted():
    with pytest.raises(ModelNotFound):
        picture(*HELD).going("qwen3:8b")
    with pytest.raises(InvalidModelName):
        picture(*HELD).going("not a name")


def test_a_cloud_model_is_not_ours_to_delete():
    with pytest.raises(ModelNotFound):
        picture(installed("gpt-oss:20b-cloud", remote=True)).going("gpt-oss:20b-cloud")


# --- one value -------------------------------------------------------------------------------------------------------


def test_what_has_been_worked_out_once_is_kept():
    seen = picture(*HELD)

    assert seen.models is seen.models
    assert seen.shown is seen.shown


def test_every_model_is_listed_once_the_lightest_first():
    listed = picture(*HELD).models

    needs = [min(model.memory["need_bytes"].values()) for model in listed if model.memory["need_bytes"]]
    assert needs == sorted(needs)
    assert sorted(model.name for model in listed) == sorted([*MODEL_CATALOG, "Mine:latest"])

"""What is weighed is what is there: the right figures for each form, and wishes that make sense."""

from __future__ import annotations

import math

import pytest

from catalog import MODEL_CATALOG
from model_core import advice, usage
from model_core.budget import Budget
from model_core.candidates import Criteria
from model_core.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelNotInstalled,
    ModelNotPublished,
    NameTaken,
    UnknownQuantization,
)
from model_core.fit import check_fit
from model_core.installed import NOTHING, Inventory, Meant, hold, show
from model_core.memory import profile_of
from model_core.recommender import recommend
from model_core.records import GIB, InstalledModel, ModelPurpose, StoredModel, Usage
from model_core.speed import measured
from model_core.usage import check_event

EIGHT_B, UNPUBLISHED = "llama3.1:8b-instruct", "llama3.1:13b-instruct"
Q4_TAG, Q8_TAG = "llama3.1:8b-instruct-q4_K_M", "llama3.1:8b-instruct-q8_0"
ENTRY = MODEL_CATALOG[EIGHT_B]
Q4, Q8, OTHER, MOVED = "46e0c10c039e" + "0" * 52, "b158ded76fa0" + "0" * 52, "3" * 64, "4" * 64
NOON = "2026-11-23T12:00:00.000000Z"


def installed(name, digest=OTHER, **known):
    return InstalledModel(name=name, digest=digest, size_bytes=2 * GIB, **known)


def history(name=EIGHT_B, **counts):
    """A record with so many successes under each digest."""
    model = StoredModel(name=name)
    for digest, count in counts.items():
        for _ in range(count):
            model = usage.record(
                model, "here", {"q4": Q4, "q8": Q8, "none": None}.get(digest, digest), check_event(1.0, True, NOON)
            )
    return model


def candidates(*models, stored=None, entry=ENTRY, observed=advice.NOTHING_OBSERVED):
    records = {stored.name: stored} if stored else {}
    entries = {entry.name: entry}
    return {
        (one.name, one.quantization): one
        for one in advice.candidates(entries, records, show(entries, Inventory(models), {}), observed=observed)
    }


# --- how fast --------------------------------------------------------------------------------------------------------


def test_without_a_history_the_speed_of_a_benchmark_counts_and_with_one_it_does_not():
    measured_there = advice.Observed(speeds={Q4: measured(50.0, "benchmark", 9)})
    used = usage.record(StoredModel(name=EIGHT_B), "here", Q4, check_event(2.0, True, NOON, tokens=60))
    untold = history(q4=3)  # uses of which nobody said how many tokens they wrote

    def speed(stored):
        found = candidates(installed(EIGHT_B, Q4), stored=stored, observed=measured_there)
        told = recommend(found.values(), Criteria(available_bytes=8 * GIB))
        return next(place.speed for place in told.ranked if place.quantization == "q4")

    assert [speed(stored).basis for stored in (None, untold, used)] == ["benchmark", "benchmark", "history"]
    assert speed(None).tokens_per_second == 50.0
    assert candidates(installed(EIGHT_B, Q4), observed=measured_there)[EIGHT_B, "q8"].benchmark_speed is None


def test_times_are_those_of_this_machine_and_successes_those_of_all():
    there = usage.record(StoredModel(name=EIGHT_B), "elsewhere", Q4, check_event(0.5, True, NOON, tokens=60))
    both = usage.record(there, "here", Q4, check_event(2.0, True, NOON, tokens=60))
    # After a replace an installation goes on to count under a new id.
    here = advice.Observed(installation="here.2")

    alone, of_both = (candidates(stored=stored, observed=here)[EIGHT_B, "q4"] for stored in (there, both))

    assert (alone.success_count, alone.mean_seconds, alone.seen_speed) == (1, None, None)
    assert (of_both.success_count, of_both.mean_seconds) == (2, 2.0)
    assert of_both.seen_speed.tokens_per_second == pytest.approx(30, rel=0.01)
    assert alone.elsewhere and of_both.elsewhere


def test_a_model_of_ones_own_has_the_speed_of_its_benchmark_too():
    own = installed("critic:latest", OTHER)
    observed = advice.Observed(speeds={OTHER: measured(9.0, "benchmark", 5)})

    found = {one.name: one for one in candidates(own, observed=observed).values()}

    assert found["critic:latest"].benchmark_speed.tokens_per_second == 9.0


# --- which figures go to which form ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "recorded", "successes"),
    [
        ([], {"q4": 2, "q8": 3}, {"q4": 2, "q8": 3}),
        ([installed(Q4_TAG, Q4), installed(EIGHT_B, Q4)], {"q4": 2, "q8": 3}, {"q4": 2, "q8": 3}),
        ([], {"none": 5}, {"q4": 5, "q8": 0}),
        ([installed(EIGHT_B, Q8)], {"none": 5}, {"q4": 0, "q8": 5}),
        ([installed(EIGHT_B, Q4), installed(Q8_TAG, Q8)], {"q4": 2, "q8": 3}, {"q4": 2, "q8": 3}),
        ([installed(EIGHT_B, Q4), installed(Q8_TAG, MOVED)], {"q8": 3, MOVED: 7}, {"q4": 0, "q8": 7}),
        ([installed(Q4_TAG, MOVED), installed(EIGHT_B, MOVED)], {"q4": 2, MOVED: 7}, {"q4": 7, "q8": 0}),
        ([installed(Q4_TAG, MOVED), installed(EIGHT_B, Q4)], {"q4": 2, MOVED: 7}, {"q4": 2, "q8": 0}),
        ([], {OTHER: 9}, {"q4": 0, "q8": 0}),
    ],
    ids=[
        "by the digest that the catalogue knows",
        "by the digest that is installed",
        "without a digest: what a download takes",
        "without a digest: what is installed",
        "each its own, with both installed",
        "those of what is installed, not of what was",
        "not those of weights that have been replaced",
        "those of what answers under the id",
        "not those of other weights",
    ],
)
def test_figures_go_to_the_form_that_earned_them(models, recorded, successes):
    found = candidates(*models, stored=history(**recorded))

    assert {form: one.success_count for (_, form), one in found.items()} == successes


def test_figures_of_every_installation_count():
    model = StoredModel(name=EIGHT_B)
    for where, success in (("here", True), ("there", True), ("there", False)):
        model = usage.record(model, where, Q4, check_event(3.0, success, NOON))

    found = candidates(stored=model)[EIGHT_B, "q4"]

    assert (found.success_count, found.failure_count, found.mean_seconds) == (2, 1, 3.0)


def test_a_form_whose_digest_nobody_knows_has_no_figures_of_others():
    variants = tuple(variant.model_copy(update={"digest_prefix": None}) for variant in ENTRY.variants)
    entry = ENTRY.model_copy(update={"variants": variants})

    found = candidates(stored=history(q8=3, none=2), entry=entry)

    assert {form: one.success_count for (_, form), one in found.items()} == {"q4": 2, "q8": 0}


def test_figures_without_a_digest_find_a_form_where_there_is_no_4_bit():
    entry = ENTRY.model_copy(update={"variants": ENTRY.variants[1:]})

    assert candidates(stored=history(none=5), entry=entry)[EIGHT_B, "q8"].success_count == 5


# --- what there is to choose from ------------------------------------------------------------------------------------


def test_each_form_says_whether_it_is_there():
    found = candidates(installed(EIGHT_B, Q8))

    assert {form: one.installed for (_, form), one in found.items()} == {"q4": False, "q8": True}


def test_an_own_model_under_an_id_takes_the_place_of_the_entrys_forms():
    own = installed(
        "LLAMA3.1:8b-instruct", parameter_size="70.6B", quantization_level="Q5_K_M", capabilities=("completion",)
    )

    record = usage.record(history(**{OTHER: 2, "none": 1}), "here", OTHER, check_event(1.0, False, NOON))
    found = candidates(own, installed(Q4_TAG, Q4), stored=record)

    assert list(found) == [(EIGHT_B, "Q5_K_M")]
    one = found[EIGHT_B, "Q5_K_M"]
    assert (one.parameters, one.purpose, one.installed) == (70_600_000_000, ENTRY.purpose, True)
    assert (one.success_count, one.failure_count, one.mean_seconds) == (3, 1, 1.0)
    assert one.memory.file_bytes == 2 * GIB


def test_a_model_that_nobody_published_can_be_chosen_once_the_user_has_made_one():
    entry = MODEL_CATALOG[UNPUBLISHED]

    assert candidates(entry=entry) == {}
    assert [one.purpose for one in candidates(installed(UNPUBLISHED), entry=entry).values()] == [entry.purpose]


def test_a_custom_model_without_tags_can_be_chosen_once_it_was_made():
    entry = ENTRY.model_copy(update={"name": "critic", "variants": ()})

    assert candidates(entry=entry) == {}
    assert [name for name, _ in candidates(installed("critic:latest"), entry=entry)] == ["critic"]


@pytest.mark.parametrize(("successes", "purpose"), [(4, ModelPurpose.SPECIALIZED), (5, ModelPurpose.BALANCED)])
def test_a_custom_model_with_tags_that_nobody_said_the_use_of_is_sorted_by_its_size_once_it_has_proved_itself(
    successes, purpose
):
    entry = ENTRY.model_copy(update={"purpose": ModelPurpose.SPECIALIZED})

    found = candidates(installed(Q4_TAG, Q4), stored=history(q4=successes), entry=entry)

    assert found[EIGHT_B, "q4"].purpose is purpose
    assert found[EIGHT_B, "q8"].purpose is ModelPurpose.SPECIALIZED


def test_a_larger_model_of_ones_own_stands_before_a_smaller_one():
    seeing = {"capabilities": ("completion", "vision"), "quantization_level": "Q4_K_M"}
    models = [
        installed("a-small:1", **seeing, parameter_size="3.2B"),
        installed("b-large:1", **seeing, parameter_size="11B"),
    ]
    found = Budget(available_bytes=24 * GIB, source="caller")
    wish = advice.criteria(found, "quality", 4096, ["vision"], None)

    ranked = recommend(candidates(*models).values(), wish).ranked

    assert [place.model for place in ranked] == ["b-large:1", "a-small:1"]


# --- which form is meant ---------------------------------------------------------------------------------------------


def profile(meant, quantization=None, *models):
    inventory = Inventory(models)
    held = hold(meant.entry, inventory) if meant.entry else NOTHING
    return advice.profile(meant, quantization, held, inventory)


ENTRY_MEANT = Meant(EIGHT_B, ENTRY)


@pytest.mark.parametrize(
    ("meant", "quantization", "models", "form"),
    [
        (ENTRY_MEANT, None, [], "q4"),
        (ENTRY_MEANT, None, [installed(EIGHT_B, Q8)], "q8"),
        (ENTRY_MEANT, "q4", [installed(EIGHT_B, Q8)], "q4"),
        (Meant(EIGHT_B, ENTRY, "q8"), None, [], "q8"),
        (Meant(EIGHT_B, ENTRY, "q8"), "q4", [], "q4"),
    ],
    ids=["4 bit when nothing is said", "what is installed", "what is asked for", "what the tag says", "the wish first"],
)
def test_a_need_is_that_of_the_form_that_is_meant(meant, quantization, models, form):
    found, need = profile(meant, quantization, *models)

    assert found == form
    assert need == profile_of(ENTRY, next(v for v in ENTRY.variants if v.quantization == form))


def test_the_need_of_an_own_model_is_guessed_from_its_file():
    own = installed(EIGHT_B, quantization_level="Q5_K_M", context_tokens=8192)

    for meant, models in (
        (ENTRY_MEANT, [own]),
        (Meant("mine:latest"), [own.model_copy(update={"name": "mine:latest"})]),
    ):
        form, need = profile(meant, None, *models)
        assert (form, need.file_bytes, need.context_limit, need.architecture) == ("Q5_K_M", 2 * GIB, 8192, None)


@pytest.mark.parametrize(
    ("meant", "quantization", "models", "refusal"),
    [
        (ENTRY_MEANT, "q5", [], UnknownQuantization),
        (ENTRY_MEANT, "q4", [installed(EIGHT_B)], UnknownQuantization),
        (Meant("mine:latest"), "q4", [installed("mine:latest")], UnknownQuantization),
        (Meant("mine:latest"), None, [], ModelNotFound),
        (Meant(UNPUBLISHED, MODEL_CATALOG[UNPUBLISHED]), None, [], ModelNotPublished),
    ],
    ids=["an entry without it", "an own model under the id", "an own model", "nothing there", "never published"],
)
def test_a_form_that_there_is_not_has_no_need(meant, quantization, models, refusal):
    with pytest.raises(refusal):
        profile(meant, quantization, *models)


def test_the_forms_that_there_are_are_named():
    with pytest.raises(UnknownQuantization) as refusal:
        advice.variant_of(ENTRY, "q5")

    assert refusal.value.available == ["q4", "q8"]


def test_the_form_of_an_own_model_is_named_where_it_is_known():
    for known, available in (("Q5_K_M", ["Q5_K_M"]), (None, [])):
        with pytest.raises(UnknownQuantization) as refusal:
            profile(ENTRY_MEANT, "q4", installed(EIGHT_B, quantization_level=known))
        assert refusal.value.available == available


def test_4_bit_is_taken_when_nothing_is_said_whatever_the_order():
    backwards = ENTRY.model_copy(update={"variants": ENTRY.variants[::-1]})

    assert advice.variant_of(backwards, None).quantization == "q4"


def test_a_custom_model_without_tags_has_no_form_to_download():
    with pytest.raises(UnknownQuantization):
        advice.variant_of(ENTRY.model_copy(update={"variants": ()}), None)


def test_before_a_download_the_need_follows_from_the_catalogue_or_from_the_size():
    without_tags = MODEL_CATALOG[UNPUBLISHED]

    assert advice.profile_before(ENTRY, "q8", 5) == profile_of(ENTRY, ENTRY.variants[1])
    assert advice.profile_before(ENTRY, None, None) == profile_of(ENTRY, ENTRY.variants[0])
    for unknown in (None, without_tags):
        assert advice.profile_before(unknown, None, 5).file_bytes == 5
        assert advice.profile_before(unknown, None, None) is None


# --- what an id is to point to ---------------------------------------------------------------------------------------


def answering(quantization, *models, entry=ENTRY):
    return advice.answering(Meant(entry.name, entry), hold(entry, Inventory(models)), quantization)


def test_an_id_stays_with_what_it_is_where_no_form_is_asked_for():
    under_id = installed(EIGHT_B, Q8)

    assert answering(None, installed(Q4_TAG, Q4), under_id) is under_id
    assert answering(None, installed(Q4_TAG, Q4)).name == Q4_TAG
    assert answering(None, installed(EIGHT_B)).digest == OTHER


def test_an_id_is_pointed_to_the_form_that_is_asked_for():
    assert answering("q8", installed(EIGHT_B, Q4), installed(Q8_TAG, Q8)).name == Q8_TAG


def test_what_the_user_made_of_a_model_that_nobody_published_answers():
    assert answering(None, installed(UNPUBLISHED), entry=MODEL_CATALOG[UNPUBLISHED]).digest == OTHER


@pytest.mark.parametrize(
    ("quantization", "models", "entry", "refusal"),
    [
        (None, [], ENTRY, ModelNotInstalled),
        ("q8", [installed(Q4_TAG, Q4)], ENTRY, ModelNotInstalled),
        ("q5", [installed(Q4_TAG, Q4)], ENTRY, UnknownQuantization),
        ("q4", [installed(EIGHT_B), installed(Q4_TAG, Q4)], ENTRY, NameTaken),
        (None, [], MODEL_CATALOG[UNPUBLISHED], ModelNotPublished),
        ("q4", [], MODEL_CATALOG[UNPUBLISHED], ModelNotPublished),
    ],
    ids=[
        "nothing there",
        "another form there",
        "no such form",
        "a model of one's own there",
        "never published",
        "nor in 4 bit",
    ],
)
def test_an_id_is_not_pointed_to_what_is_not_there(quantization, models, entry, refusal):
    with pytest.raises(refusal):
        answering(quantization, *models, entry=entry)


def test_what_is_no_entry_is_pointed_to_nothing():
    with pytest.raises(ModelNotFound):
        advice.answering(Meant("mine:latest"), NOTHING, None)


# --- what may be asked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gib", "count"), [(0, 0), (8, 8 * GIB), (0.5, GIB // 2), (10_000, 10_000 * GIB)])
def test_memory_is_counted_in_gib(gib, count):
    assert advice.gib_as_bytes(gib, "available_vram_gb") == count


@pytest.mark.parametrize("value", [-0.1, 10_000.1, math.nan, math.inf, True, "8", None, [], 10**400], ids=repr)
def test_an_impossible_memory_is_refused_and_named(value):
    with pytest.raises(InvalidRequest) as refusal:
        advice.gib_as_bytes(value, "max_vram")

    assert refusal.value.field == "max_vram"


@pytest.mark.parametrize("value", [0, -1, 16_777_217, 4096.0, True, "4096", None, math.nan])
def test_an_impossible_context_is_refused_and_named(value):
    with pytest.raises(InvalidRequest) as refusal:
        advice.check_context(value)

    assert refusal.value.field == "context_tokens"


@pytest.mark.parametrize("value", [1, 4096, 16_777_216])
def test_a_context_is_taken_as_it_is_said(value):
    assert advice.check_context(value) == value


def wish(source="caller", **changes):
    asked = {"priority": "balanced", "context_tokens": 4096, "needs": (), "installed_only": None, **changes}
    return advice.criteria(Budget(available_bytes=8 * GIB, source=source), **asked)


def test_a_wish_is_taken_as_it_is_said():
    asked = wish("setting", priority="speed", needs=["vision"], installed_only=False, context_tokens=8192)

    assert (asked.available_bytes, asked.source, asked.priority) == (8 * GIB, "setting", ModelPurpose.SPEED)
    assert (asked.needs, asked.installed_only, asked.context_tokens) == (("vision",), False, 8192)
    assert (asked.kv_type, asked.parallel) == ("f16", 1)


@pytest.mark.parametrize(
    ("size", "successes", "purpose"),
    [
        ("3.2B", 5, ModelPurpose.SPEED),
        ("7.6B", 5, ModelPurpose.BALANCED),
        ("32.8B", 5, ModelPurpose.QUALITY),
        (None, 5, ModelPurpose.SPEED),
        ("7.6B", 4, ModelPurpose.SPECIALIZED),
    ],
)
def test_a_model_that_nobody_knows_is_considered_once_it_has_worked_here(size, successes, purpose):
    mine = InstalledModel(name="mine:latest", digest="ab" * 32, size_bytes=5, parameter_size=size)
    used = Usage(count=successes + 3, success_count=successes)
    stored = StoredModel(name="mine:latest", history={"here": {mine.digest: used}})

    shown = show({}, Inventory([mine]), {})
    (found,) = advice.candidates({}, {"mine:latest": stored}, shown)

    assert (found.purpose, found.success_count) == (purpose, successes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("priority", value) for value in ("", "fast", "specialized", None, 5, [], {})),
        *(("needs", value) for value in ("vision", [5], [None], None, 5)),
        *(("installed_only", value) for value in ("yes", 1, [])),
        ("context_tokens", 0),
        *(("kv_type", value) for value in ("", "f32", None, 8, [])),
        *(("parallel", value) for value in (0, -1, 65, 1.5, True, "2", None)),
    ],
)
def test_an_impossible_wish_is_refused_and_named(field, value):
    with pytest.raises(InvalidRequest) as refusal:
        wish(**{field: value})

    assert refusal.value.field == field


@pytest.mark.parametrize("models", [[], [installed(EIGHT_B, Q8)], [installed(EIGHT_B, quantization_level="Q5_K_M")]])
def test_what_is_recommended_passes_the_check_of_the_same_form(models):
    inventory = Inventory(models)
    shown = show(MODEL_CATALOG, inventory, {})
    ranked = recommend(advice.candidates(MODEL_CATALOG, {}, shown), wish()).ranked

    assert ranked
    for place in ranked:
        meant = Meant(place.model, MODEL_CATALOG[place.model])
        form, need = advice.profile(meant, place.quantization, shown.entries[place.model], inventory)
        assert check_fit(Criteria(available_bytes=8 * GIB), place.model, form, need).compatible

"""An export carries the whole history to another machine, once; what is this machine's own stays here."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import MODEL_CATALOG
from model_core import exchange, usage
from model_core.document import DocumentCodec, read_import
from model_core.errors import InvalidRequest
from model_core.records import Document, DownloadJob, InstalledModel, OllamaSeen, StoredModel, Usage
from model_core.usage import check_event

EIGHT_B, ONE_B, MINE = "llama3.1:8b-instruct", "llama3.2:1b-instruct", "mine:latest"
CATALOGUE = {name: MODEL_CATALOG[name] for name in (EIGHT_B, ONE_B)}
NOON, LATER = "2026-11-23T12:00:00.000000Z", "2026-11-23T13:00:00.000000Z"


def fresh(installation="here", **changes):
    return DocumentCodec(CATALOGUE, installation).empty().model_copy(update=changes)


def used(document, name=EIGHT_B, times=1, seconds=2.0, success=True, digest="d1"):
    model = document.models.get(name) or StoredModel(name=name)
    for _ in range(times):
        event = check_event(seconds, success, NOON, tokens=90, quality_score=4.5, task="tags")
        model = usage.record(model, document.installation_id, digest, event)
    return document.model_copy(update={"models": {**document.models, name: model}})


def exported(document):
    return json.dumps(exchange.export(document, LATER)).encode()


def read(raw):
    """What the manager does with bytes that are handed in."""
    data = json.loads(raw)
    exchange.check(data)
    return read_import(raw, DocumentCodec(CATALOGUE, exchange.installation_of(data)))


def imported(mine, raw, mode="merge"):
    return exchange.merged(mine, read(raw), mode)


def counts(document):
    return {name: model.usage_count for name, model in document.models.items() if model.usage_count}


def figures(document):
    return {name: usage.statistics(model, installed=False, today=NOON[:10]) for name, model in document.models.items()}


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_a_fresh_machine_has_the_same_statistics_after_an_import(mode):
    there = used(used(used(fresh("there"), times=3), ONE_B, success=False), MINE, times=2)

    assert figures(imported(fresh(), exported(there), mode)) == figures(there)


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_the_same_export_twice_changes_nothing_more(mode):
    raw = exported(used(fresh("there"), times=3))
    mine = used(fresh(), times=2)

    once = imported(mine, raw, mode)

    assert imported(once, raw, mode) == once
    assert not exchange.compare(once, imported(once, raw, mode), mode, dry_run=False).changed


def test_an_export_that_comes_home_again_changes_nothing():
    mine = used(fresh(), times=2)

    assert imported(mine, exported(mine)) == mine


def test_an_older_export_of_our_own_changes_nothing():
    older = used(fresh(), times=2)
    mine = used(older, times=3)

    assert imported(mine, exported(older)) == mine


def test_a_newer_export_of_our_own_brings_back_what_was_lost():
    older = used(fresh(), times=2)

    assert counts(imported(older, exported(used(older, times=3)))) == {EIGHT_B: 5}


def test_the_figures_of_two_installations_add_up_and_stay_apart():
    both = imported(used(fresh(), times=2), exported(used(fresh("there"), times=3)))

    assert counts(both) == {EIGHT_B: 5}
    assert {where: sums["d1"].count for where, sums in both.models[EIGHT_B].history.items()} == {"here": 2, "there": 3}


def test_a_record_after_an_import_counts_on():
    assert counts(used(imported(used(fresh()), exported(used(fresh("there")))))) == {EIGHT_B: 3}


machines = st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from(["use", 0, 1, 2])), max_size=15)


@given(machines)
def test_machines_that_hand_each_other_exports_agree_in_the_end(story):
    documents = [fresh(f"machine-{number}") for number in range(3)]
    total = 0
    for where, what in [*story, (0, 1), (0, 2), (1, 0), (2, 0)]:
        if what == "use":
            documents[where], total = used(documents[where]), total + 1
        else:
            documents[where] = imported(documents[where], exported(documents[what]))

    assert [document.models[EIGHT_B].usage_count for document in documents] == [total] * 3


# --- what an import takes over, and what not -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_downloads_and_what_ollama_holds_stay_where_they_are(mode):
    def busy(document, name):
        job = DownloadJob(id=name, model=EIGHT_B, tag="t")
        seen = OllamaSeen(version=name, models=(InstalledModel(name=name, digest=name, size_bytes=1),))
        held = document.models[EIGHT_B].model_copy(
            update={"installed": True, "digest": name, "size_bytes": 1, "copied_digest": name}
        )
        models = {**document.models, EIGHT_B: held}
        return document.model_copy(update={"downloads": {name: job}, "ollama": seen, "models": models, "revision": 9})

    mine, theirs = busy(used(fresh()), "mine"), busy(used(fresh("there")), "theirs")

    after = imported(mine, exported(theirs), mode)

    assert (after.downloads, after.ollama, after.revision) == (mine.downloads, mine.ollama, mine.revision)
    model = after.models[EIGHT_B]
    assert (model.installed, model.digest, model.size_bytes, model.copied_digest) == (True, "mine", 1, "mine")
    assert set(model.history) == ({"here", "there"} if mode == "merge" else {"there"})


def test_an_export_says_nothing_of_downloads_and_of_ollama():
    assert not {"downloads", "ollama", "revision"} & set(exchange.export(fresh(), LATER))


def test_a_model_that_is_installed_elsewhere_is_not_installed_here():
    there = used(fresh("there"), MINE)
    holds = {"installed": True, "digest": "d", "size_bytes": 1, "copied_digest": "d"}
    models = {name: model.model_copy(update=holds) for name, model in there.models.items()}
    there = there.model_copy(update={"models": models})

    for mode in ("merge", "replace"):
        after = imported(fresh(), exported(there), mode)
        for name in (EIGHT_B, MINE):
            model = after.models[name]
            assert (model.installed, model.digest, model.size_bytes, model.copied_digest) == (False, None, None, None)


def test_a_merge_does_not_change_what_is_selected():
    there = fresh("there", current_model=ONE_B, previous_model=EIGHT_B)

    assert imported(fresh(current_model=EIGHT_B), exported(there)).current_model == EIGHT_B
    assert imported(fresh(), exported(there)).current_model is None


def test_a_merge_leaves_out_what_was_never_used_and_is_not_here():
    there = fresh("there")
    there = there.model_copy(update={"models": {**there.models, MINE: StoredModel(name=MINE)}})

    assert imported(fresh(), exported(there)) == fresh()


def test_a_merge_takes_what_somebody_wrote_down_of_a_model_that_is_not_here():
    there = fresh("there")
    there = there.model_copy(update={"models": {**there.models, MINE: StoredModel(name=MINE, note="dear to me")}})

    assert imported(fresh(), exported(there)).models[MINE].note == "dear to me"


def test_a_replacement_takes_the_selection_the_histories_and_the_custom_models():
    entry = MODEL_CATALOG[ONE_B].model_copy(update={"name": "my-1b"})
    there = used(fresh("there", current_model=ONE_B, previous_model=EIGHT_B, custom={"my-1b": entry}), times=3)
    mine = used(used(fresh(current_model=EIGHT_B, custom={"old": entry}), times=5), MINE)

    after = imported(mine, exported(there), "replace")

    assert (after.current_model, after.previous_model) == (ONE_B, EIGHT_B)
    assert (counts(after), set(after.custom)) == ({EIGHT_B: 3}, {"my-1b"})
    assert MINE not in after.models


def test_a_replacement_keeps_what_is_installed_here_without_its_figures():
    mine = used(fresh(), MINE)
    held = mine.models[MINE].model_copy(update={"installed": True, "digest": "d"})
    mine = mine.model_copy(update={"models": {**mine.models, MINE: held}})

    model = imported(mine, exported(fresh("there")), "replace").models[MINE]

    assert (model.installed, model.digest, model.usage_count, model.history) == (True, "d", 0, {})


def test_what_is_recorded_after_a_replacement_survives_when_the_old_figures_come_back():
    early = used(fresh(), times=2)
    mine = used(early, times=5)
    friend = imported(fresh("friend"), exported(mine))

    restored = used(imported(mine, exported(early), "replace"), times=1)
    friend = imported(friend, exported(restored))
    both = imported(restored, exported(friend))

    assert (counts(restored), counts(both), counts(friend)) == ({EIGHT_B: 3}, {EIGHT_B: 8}, {EIGHT_B: 8})


def test_each_replacement_that_takes_figures_back_begins_a_new_count():
    ids = []
    mine = used(fresh())
    for _ in range(3):
        mine = used(imported(mine, exported(fresh("there")), "replace"))
        ids.append(mine.installation_id)

    assert ids == ["here.2", "here.3", "here.4"]


def test_a_new_count_never_takes_an_id_that_is_on_record():
    there = used(fresh("here.2"), times=4)

    after = imported(used(fresh()), exported(there), "replace")

    assert after.installation_id == "here.3"


def test_a_replacement_that_takes_nothing_of_ours_back_leaves_us_our_id():
    mine = used(fresh())

    assert imported(mine, exported(used(mine)), "replace").installation_id == "here"
    assert imported(fresh(), exported(used(fresh("there"))), "replace").installation_id == "here"


def test_custom_models_are_added_and_ours_are_kept():
    ours = MODEL_CATALOG[ONE_B].model_copy(update={"name": "both", "description": "ours"})
    theirs = ours.model_copy(update={"description": "theirs"})
    there = fresh("there", custom={"both": theirs, "new": theirs.model_copy(update={"name": "new"})})

    after = imported(fresh(custom={"both": ours}), exported(there))

    assert {name: entry.description for name, entry in after.custom.items()} == {"both": "ours", "new": "theirs"}


def test_a_custom_model_has_the_name_under_which_it_stands():
    there = fresh("there", custom={"new": MODEL_CATALOG[ONE_B]})

    assert imported(fresh(), exported(there)).custom["new"].name == "new"


@pytest.mark.parametrize("mode", ["merge", "replace"])
@pytest.mark.parametrize("place", ["name", "tag"])
def test_a_custom_model_with_a_name_that_ollama_would_refuse_is_not_taken(mode, place):
    bad, entry = "../../etc/passwd", MODEL_CATALOG[ONE_B]
    variant = entry.variants[0].model_copy(update={"tag": bad if place == "tag" else "fine"})
    there = fresh(
        "there", custom={bad if place == "name" else "fine": entry.model_copy(update={"variants": (variant,)})}
    )

    with pytest.raises(InvalidRequest) as refusal:
        imported(fresh(), exported(there), mode)

    assert bad not in str(refusal.value)


def test_keys_that_nobody_knows_are_taken_over_and_ours_are_kept():
    def noted(document, note):
        model = document.models[EIGHT_B].model_copy(update=note)
        return document.model_copy(update={**note, "models": {**document.models, EIGHT_B: model}})

    mine, theirs = noted(fresh(), {"a": "mine"}), noted(fresh("there"), {"a": "theirs", "b": [1]})

    merged, replaced = imported(mine, exported(theirs)), imported(mine, exported(theirs), "replace")

    for place in (merged, merged.models[EIGHT_B]):
        assert place.model_extra == {"a": "mine", "b": [1]}
    for place in (replaced, replaced.models[EIGHT_B]):
        assert place.model_extra == {"a": "theirs", "b": [1]}


# --- the checksum ----------------------------------------------------------------------------------------------------


def test_an_export_that_was_changed_on_the_way_is_refused():
    data = exchange.export(used(fresh()), LATER)
    data["models"][EIGHT_B]["history"]["here"]["d1"]["count"] += 1

    with pytest.raises(InvalidRequest) as refusal:
        read(json.dumps(data).encode())

    assert refusal.value.field == "checksum"
    assert "remove the checksum" in refusal.value.remedy


@pytest.mark.parametrize(("was", "is_now"), [(0.1, 0.2), (2.5, 2.9), (2.0, 2.5)])
def test_a_fraction_that_was_changed_on_the_way_is_noticed(was, is_now):
    data = exchange.export(fresh(note={"deep": [was]}), LATER)
    data["note"]["deep"] = [is_now]

    with pytest.raises(InvalidRequest):
        exchange.check(data)


@pytest.mark.parametrize("stated", ["", "sha256:0", 5, False, [], {}])
def test_a_checksum_that_is_none_is_refused(stated):
    with pytest.raises(InvalidRequest):
        exchange.check({**exchange.export(fresh(), LATER), "checksum": stated})


def test_a_document_without_a_checksum_is_taken():
    data = exchange.export(used(fresh("there")), LATER)
    del data["checksum"]

    assert counts(imported(fresh(), json.dumps(data).encode())) == {EIGHT_B: 1}


def test_a_checksum_survives_a_program_that_writes_the_json_in_its_own_way():
    def as_browsers_do(value):
        if isinstance(value, dict):
            return {key: as_browsers_do(value[key]) for key in reversed(value)}
        if isinstance(value, list):
            return [as_browsers_do(item) for item in value]
        return int(value) if isinstance(value, float) and value == int(value) else value

    data = exchange.export(used(fresh(note=["日本", 2.0, 0.5]), seconds=0.1), LATER)
    assert isinstance(data["models"][EIGHT_B]["min_vram_gb"], float)

    for text in (
        json.dumps(as_browsers_do(data)),
        json.dumps(data, indent=8, ensure_ascii=False),
        json.dumps(data, sort_keys=True),
    ):
        exchange.check(json.loads(text))


# --- what the seed's version exported --------------------------------------------------------------------------------


def seed_export(**changes):
    model = {"name": EIGHT_B, "usage_count": 4, "success_rate": 0.5, "avg_inference_time": 2.0, "last_used": NOON}
    return json.dumps({"current_model": EIGHT_B, "models": {EIGHT_B: model}, "exported_at": NOON, **changes}).encode()


@pytest.mark.parametrize("stated", [None, "", 5, ["here"], {}])
def test_an_installation_that_is_none_gets_an_id_of_the_content(stated):
    one, other = (json.loads(seed_export(installation_id=stated, note=note)) for note in "ab")

    assert exchange.installation_of(one) == exchange.installation_of(dict(reversed(one.items())))
    assert exchange.installation_of(one) != exchange.installation_of(other)
    assert exchange.installation_of(one).startswith("document-")


def test_an_installation_that_is_stated_is_kept():
    assert exchange.installation_of({"installation_id": "there"}) == "there"
    assert set(imported(fresh(), seed_export(installation_id="there")).models[EIGHT_B].history) == {"there"}


def test_an_export_without_an_installation_counts_once_however_often_it_is_imported():
    mine = used(fresh())
    for _ in range(3):
        mine = imported(mine, seed_export())

    assert counts(mine) == {EIGHT_B: 5}


def test_the_same_export_counts_once_on_any_way_between_machines():
    one, other = imported(fresh("one"), seed_export()), imported(fresh("other"), seed_export())

    assert counts(imported(one, exported(other))) == {EIGHT_B: 4}


def test_two_different_exports_without_an_installation_count_both():
    assert counts(imported(imported(fresh(), seed_export()), seed_export(exported_at=LATER))) == {EIGHT_B: 8}


def test_what_makes_an_export_is_no_part_of_the_document():
    after = imported(fresh(), seed_export())

    assert not {"exported_at", "checksum"} & set(after.model_extra)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_trial_tells_what_the_import_then_does():
    mine, raw = used(fresh(), times=2), exported(used(used(fresh("there")), MINE))

    trial = exchange.compare(mine, imported(mine, raw), "merge", dry_run=True)

    assert trial.model_dump(exclude={"dry_run"}) == {
        "mode": "merge",
        "changed": True,
        "added": (MINE,),
        "updated": (EIGHT_B,),
        "removed": (),
        "usage_before": 2,
        "usage_after": 4,
    }


def test_custom_models_are_told_of_as_well():
    entry = MODEL_CATALOG[ONE_B].model_copy(update={"name": "critic"})
    mine, theirs = fresh(), fresh("there", custom={"critic": entry})
    changed = fresh("there", custom={"critic": entry.model_copy(update={"description": "new"})})

    def told(before, raw):
        return exchange.compare(before, imported(before, raw, "replace"), "replace", dry_run=True)

    with_it = imported(mine, exported(theirs))
    assert told(mine, exported(theirs)).added == ("critic",)
    assert told(with_it, exported(changed)).updated == ("critic",)
    assert told(with_it, exported(fresh("there"))).removed == ("critic",)


def test_a_replacement_tells_what_goes():
    mine = used(fresh(), MINE)

    told = exchange.compare(mine, imported(mine, exported(fresh("there")), "replace"), "replace", dry_run=False)

    assert (told.removed, told.usage_before, told.usage_after) == ((MINE,), 1, 0)


def test_a_document_of_nothing_but_history_is_enough():
    theirs = Document(models={MINE: StoredModel(name=MINE, history={"x": {"": Usage(count=2, success_count=1)}})})

    model = exchange.merged(fresh(), theirs, "merge").models[MINE]

    assert usage.statistics(model, installed=False, today=NOON[:10]).success_rate == 0.5

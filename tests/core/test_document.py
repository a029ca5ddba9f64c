"""A document opens whoever wrote it, keeps its meaning and what we do not know, and comes back as it was written."""

from __future__ import annotations

import json
import math
from datetime import timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import MODEL_CATALOG
from json_store import JsonStore
from model_core import usage
from model_core.document import FORMAT, DocumentCodec, new_model, read_import, remember
from model_core.errors import InvalidRequest, StoreUnreadable
from model_core.installed import Inventory, show
from model_core.records import (
    Document,
    DownloadJob,
    InstalledModel,
    LayerProgress,
    ModelPurpose,
    OllamaSeen,
    StoredModel,
    Usage,
)
from model_core.usage import check_event

SEED_FIELDS = (
    "name", "size", "purpose", "description", "recommended_use", "min_vram_gb", "quantization_support",
    "download_size_mb", "installed", "last_used", "usage_count", "avg_inference_time", "success_rate",
)  # fmt: skip
EIGHT_B, ONE_B = "llama3.1:8b-instruct", "llama3.2:1b-instruct"
TOKYO = timezone(timedelta(hours=9))
NOON, LATER = "2026-11-23T12:00:00.000000Z", "2026-11-23T13:00:00.000000Z"


def in_tokyo(moment):
    return moment.replace(tzinfo=TOKYO)


@pytest.fixture
def codec():
    return DocumentCodec(MODEL_CATALOG, "this-installation", in_tokyo)


def seed_model(name=EIGHT_B, **changes):
    """A model as the seed's own version writes it: local time, an average that floats, a rate without its count."""
    return {
        "name": name,
        "size": "8b",
        "purpose": "balanced",
        "description": "written by the seed",
        "recommended_use": "General photo evaluation and tagging",
        "min_vram_gb": 6.0,
        "quantization_support": ["q4", "q8"],
        "download_size_mb": 4700,
        "installed": True,
        "last_used": "2026-11-20T21:30:00.123456",
        "usage_count": 7,
        "avg_inference_time": 2.3456789012345,
        "success_rate": 0.8571428571428571,
        **changes,
    }


def seed_document(*models, **changes):
    """A document as the seed's own version writes it."""
    return json.dumps(
        {
            "current_model": EIGHT_B,
            "models": {model["name"]: model for model in models or (seed_model(),)},
            "last_updated": "2026-11-20T21:30:00.123456",
            **changes,
        },
        indent=2,
    ).encode()


# --- what the seed's version wrote -----------------------------------------------------------------------------------


def test_a_document_of_the_seed_keeps_its_figures(codec):
    model = codec.decode(seed_document()).models[EIGHT_B]

    shown = usage.statistics(model, installed=True, today=NOON[:10])
    assert (shown.usage_count, shown.success_count, shown.failure_count) == (7, 6, 1)
    assert shown.success_rate == model.success_rate == 0.8571428571428571
    assert shown.avg_inference_time == model.avg_inference_time == pytest.approx(2.3456789012345, abs=1e-9)


def test_the_figures_of_the_seed_stand_under_this_installation_and_no_digest(codec):
    model = codec.decode(seed_document()).models[EIGHT_B]

    assert {where: [*by_digest] for where, by_digest in model.history.items()} == {"this-installation": [""]}


def test_times_of_the_seed_are_local_times(codec):
    document = codec.decode(seed_document())

    assert document.last_updated == document.models[EIGHT_B].last_used == "2026-11-20T12:30:00.123456Z"


def test_a_current_model_that_is_not_installed_stays_current(codec):
    document = codec.decode(seed_document(seed_model(installed=False)))

    assert document.current_model == EIGHT_B
    assert not document.models[EIGHT_B].installed


def test_a_model_that_the_catalogue_does_not_know_stays_on_record(codec):
    mine = seed_model("mine:latest", purpose="quality", min_vram_gb=9.5, download_size_mb=None)

    model = codec.decode(seed_document(mine)).models["mine:latest"]

    assert (model.purpose, model.min_vram_gb, model.download_size_mb) == (ModelPurpose.QUALITY, 9.5, None)
    assert (model.description, model.usage_count, model.installed) == ("written by the seed", 7, True)


def test_a_model_that_was_never_used_has_no_history(codec):
    fresh = seed_model(usage_count=0, last_used=None, avg_inference_time=None, success_rate=None)

    assert codec.decode(seed_document(fresh)).models[EIGHT_B].history == {}


def test_python_writes_nan_and_infinity_and_they_are_no_figures(codec):
    model = seed_model(avg_inference_time=math.nan, success_rate=math.inf, min_vram_gb=-math.inf, note=[math.nan])

    document = codec.decode(seed_document(model, other={"deep": math.inf}))

    read = document.models[EIGHT_B]
    assert (read.usage_count, read.avg_inference_time, read.success_rate) == (7, None, 1.0)
    assert read.min_vram_gb == MODEL_CATALOG[EIGHT_B].min_vram_gb
    assert (read.note, document.other) == ([None], {"deep": None})
    assert b"NaN" not in codec.encode(document)


def test_a_figure_that_is_too_large_to_be_one_is_none(codec):
    raw = seed_document(seed_model(avg_inference_time=5.5, note=[5.5])).replace(b"5.5", b"1e400")

    read = codec.decode(raw).models[EIGHT_B]

    assert (read.avg_inference_time, read.note, read.usage_count) == (None, [None], 7)


@pytest.mark.parametrize("field", SEED_FIELDS[1:])
@pytest.mark.parametrize(
    "value",
    [None, True, -5, 10**400, 1e300, "", "text", [], ["speed"], [1, None], {}, {"a": 1}],
    ids=lambda value: repr(value)[:12],
)
def test_one_field_of_a_wrong_type_costs_that_field_only(codec, field, value):
    document = codec.decode(seed_document(seed_model(**{field: value}), seed_model(ONE_B)))

    damaged, sound = document.models[EIGHT_B].model_dump(), document.models[ONE_B].model_dump()
    figures = {"usage_count", "success_rate", "avg_inference_time", "last_used", "history"}
    others = set(SEED_FIELDS) - {field, "name"} - (figures if field in figures else set())
    assert {key: damaged[key] for key in others} == {key: sound[key] for key in others}
    assert codec.decode(codec.encode(document)) == document


@pytest.mark.parametrize(
    "wrong", [{"purpose": []}, {"installed": "perhaps"}, {"quantization_support": 4}, {"size": 8}], ids=str
)
def test_what_cannot_be_believed_is_what_the_catalogue_says(codec, wrong):
    model = codec.decode(json.dumps({"models": {EIGHT_B: wrong}}).encode()).models[EIGHT_B]

    assert model == new_model(EIGHT_B, MODEL_CATALOG[EIGHT_B])


@pytest.mark.parametrize("field", SEED_FIELDS)
def test_a_field_that_is_missing_is_filled_from_the_catalogue(codec, field):
    model = seed_model()
    del model[field]

    read = codec.decode(json.dumps({"models": {EIGHT_B: model}}).encode()).models[EIGHT_B]

    entry = MODEL_CATALOG[EIGHT_B]
    if field in type(entry).model_fields:
        assert getattr(read, field) == getattr(entry, field)
    assert set(SEED_FIELDS) <= set(read.model_dump())


@pytest.mark.parametrize(
    ("said", "count"),
    [(7, 7), (7.0, 7), (7.5, 0), (-7, 0), ("7", 0), (True, 0), (None, 0), (10**400, 0), (1e300, 0), (10**15, 10**15)],
)
def test_only_a_whole_number_is_a_count(codec, said, count):
    assert codec.decode(seed_document(seed_model(usage_count=said))).models[EIGHT_B].usage_count == count


@pytest.mark.parametrize("mean", [0.0, 0.001, 86_400.0])
def test_a_mean_is_kept_from_nothing_to_a_day(codec, mean):
    assert codec.decode(seed_document(seed_model(avg_inference_time=mean))).models[EIGHT_B].avg_inference_time == mean


@pytest.mark.parametrize("mean", [-0.001, 86_400.001, 1e300, 10**400])
def test_a_mean_beyond_a_day_is_none(codec, mean):
    assert codec.decode(seed_document(seed_model(avg_inference_time=mean))).models[EIGHT_B].avg_inference_time is None


def test_a_model_has_the_name_under_which_it_stands(codec):
    assert codec.decode(json.dumps({"models": {"mine": seed_model("another")}}).encode()).models["mine"].name == "mine"


def test_a_last_use_is_kept_though_its_count_was_lost(codec):
    assert codec.decode(seed_document(seed_model(usage_count=None))).models[EIGHT_B].last_used is not None


@pytest.mark.parametrize(("said", "rate"), [(-1e-9, 0.0), (1.0000000002, 1.0), (95, 1.0)])
def test_a_rate_beyond_its_ends_is_at_its_end(codec, said, rate):
    assert codec.decode(seed_document(seed_model(success_rate=said))).models[EIGHT_B].success_rate == rate


@pytest.mark.parametrize("current", [None, "", 0, 5, [], {}, ["a"]])
def test_what_is_no_name_is_no_current_model(codec, current):
    assert codec.decode(seed_document(current_model=current)).current_model is None


@pytest.mark.parametrize("model", [None, 5, "installed", ["a"]])
def test_what_stands_in_the_place_of_a_model_and_is_none_is_left_out(codec, model):
    document = codec.decode(json.dumps({"models": {"x": model, EIGHT_B: seed_model()}}).encode())

    assert "x" not in document.models
    assert document.models[EIGHT_B].usage_count == 7


@pytest.mark.parametrize(
    "ours",
    [
        {"revision": "many"},
        {"downloads": []},
        {"downloads": {"a": {"state": "unheard of"}}},
        {"custom": 5},
        {"custom": {"a": {}}},
        {"ollama": "down"},
        {"previous_model": 3},
        {"installation_id": {"a": 1}},
        {"installation_id": ""},
    ],
    ids=str,
)
def test_a_key_of_ours_with_another_meaning_does_not_keep_an_old_document_shut(codec, ours):
    document = codec.decode(seed_document(**ours))

    assert document.models[EIGHT_B].usage_count == 7
    assert document.installation_id == "this-installation"
    assert set(document.models[EIGHT_B].history) == {"this-installation"}


def test_a_key_of_ours_with_our_meaning_is_kept_in_an_old_document(codec):
    job = DownloadJob(id="a1", model=ONE_B, tag="t", state="failed")

    document = codec.decode(
        seed_document(previous_model=ONE_B, installation_id="known", downloads={"a1": job.model_dump(mode="json")})
    )

    assert (document.previous_model, document.installation_id, document.downloads) == (ONE_B, "known", {"a1": job})


@pytest.mark.parametrize(
    "said",
    [
        {"digest": "d", "size_bytes": 5, "copied_digest": "d", "history": {"x": {"": {"count": 3}}}},
        {"digest": 5, "size_bytes": "big", "copied_digest": [], "history": {"x": {"": {"count": -1}}}},
    ],
    ids=["believable", "not believable"],
)
def test_what_ollama_holds_is_asked_of_ollama_and_not_of_an_old_document(codec, said):
    model = codec.decode(seed_document(seed_model(**said))).models[EIGHT_B]

    assert (model.digest, model.size_bytes, model.copied_digest, model.usage_count) == (None, None, None, 7)


@pytest.mark.parametrize("form", [1, 0, -1])
def test_a_lower_format_is_an_old_one(codec, form):
    document = codec.decode(seed_document(format=form))

    assert (document.format, document.models[EIGHT_B].usage_count) == (FORMAT, 7)
    assert codec.is_old(seed_document(format=form))


def test_reading_an_old_document_twice_gives_the_same(codec):
    assert codec.decode(seed_document()) == codec.decode(seed_document())


def test_an_upgrade_happens_once(codec):
    upgraded = codec.decode(seed_document())

    again = codec.decode(codec.encode(upgraded))

    assert again == upgraded
    assert codec.encode(again) == codec.encode(upgraded)


def test_only_an_old_document_is_worth_keeping_aside(codec):
    assert codec.is_old(seed_document())
    assert not codec.is_old(codec.encode(codec.decode(seed_document())))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner)
    ),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from([EIGHT_B, "mine", ""]), st.dictionaries(st.sampled_from(SEED_FIELDS), json_values)),
    st.dictionaries(st.sampled_from(sorted(set(Document.model_fields) - {"models", "format"})), json_values),
)
def test_an_old_document_opens_whatever_stands_in_it(models, keys):
    codec = DocumentCodec(MODEL_CATALOG, "this-installation", in_tokyo)

    document = codec.decode(json.dumps({"models": models, **keys}).encode())

    assert codec.decode(codec.encode(document)) == document


def only_what_the_seed_knows(raw):
    """What is left after the seed's program has read a document and written it again."""
    data = json.loads(raw)
    models = {name: {field: model[field] for field in SEED_FIELDS} for name, model in data["models"].items()}
    return json.dumps({"current_model": data["current_model"], "models": models, "last_updated": data["last_updated"]})


@given(
    st.lists(
        st.builds(check_event, st.floats(0.001, 1000) | st.none(), st.booleans(), st.just(NOON)),
        min_size=1,
        max_size=20,
    )
)
def test_the_program_of_the_seed_in_between_loses_nothing_that_it_knows_and_invents_nothing(events):
    codec = DocumentCodec(MODEL_CATALOG, "this-installation", in_tokyo)
    model = codec.empty().models[EIGHT_B]
    for event in events:
        model = usage.record(model, "this-installation", "d1", event)
    document = codec.empty().model_copy(update={"models": {EIGHT_B: model}, "current_model": EIGHT_B})

    back = codec.decode(only_what_the_seed_knows(codec.encode(document)).encode())

    before, after = (usage.statistics(m, installed=False, today=NOON[:10]) for m in (model, back.models[EIGHT_B]))
    assert (after.usage_count, after.success_count) == (before.usage_count, before.success_count)
    assert after.avg_inference_time == pytest.approx(before.avg_inference_time, abs=1e-9)
    assert (after.success_rate, after.last_used) == (before.success_rate, before.last_used)
    assert (after.min_inference_time, after.max_inference_time) == (None, None)
    assert back.current_model == EIGHT_B


# --- our own form ----------------------------------------------------------------------------------------------------


def test_a_fresh_document_holds_every_model_of_the_catalogue_with_every_field_of_the_seed(codec):
    document = json.loads(codec.encode(codec.empty()))

    assert set(document["models"]) == set(MODEL_CATALOG)
    for name, model in document["models"].items():
        entry = MODEL_CATALOG[name]
        assert list(model)[: len(SEED_FIELDS)] == list(SEED_FIELDS)
        assert (model["size"], model["purpose"], model["min_vram_gb"]) == (entry.size, entry.purpose, entry.min_vram_gb)
        assert (model["usage_count"], model["installed"], model["last_used"]) == (0, False, None)


@pytest.mark.parametrize("models", [{}, {"mine": seed_model("mine")}])
def test_the_catalogue_is_complete_in_every_document_that_is_read(codec, models):
    for raw in (
        json.dumps({"models": models}),
        json.dumps({"models": {n: StoredModel(name=n).model_dump(mode="json") for n in models}, "format": FORMAT}),
    ):
        assert set(codec.decode(raw.encode()).models) == {*MODEL_CATALOG, *models}


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_program_in_python_that_rewrites_our_form_does_not_shut_it(codec, word):
    model = StoredModel(name="m", min_vram_gb=5.5, note=5.5).model_dump_json().replace("5.5", word)

    document = codec.decode(b'{"format":2,"models":{"m":' + model.encode() + b"}}")

    assert (document.models["m"].min_vram_gb, document.models["m"].note) == (None, None)


def test_a_document_without_an_installation_gets_one(codec):
    assert codec.decode(b'{"models":{},"format":2}').installation_id == "this-installation"
    assert codec.decode(b'{"models":{},"format":2,"installation_id":"old"}').installation_id == "old"


@pytest.mark.parametrize("form", [None, FORMAT])
def test_keys_that_nobody_knows_are_kept_wherever_they_stand(codec, form):
    note = {"of": ["somebody", {"else": 1.5}], "日本": None}
    model = StoredModel(name="mine", note=note, empty=None).model_dump(mode="json")
    data = {
        "models": {"mine": model},
        "note": note,
        "downloads": {
            "a": DownloadJob(
                id="a", model="m", tag="t", note=note, layers=(LayerProgress(digest="d", note=note),)
            ).model_dump(mode="json")
        },
        "custom": {"c": MODEL_CATALOG[ONE_B].model_copy(update={"note": note}).model_dump(mode="json")},
        "ollama": OllamaSeen(
            note=note, models=(InstalledModel(name="x", digest="d", size_bytes=1, note=note),)
        ).model_dump(mode="json"),
    }
    if form:
        data["format"] = form
        model["history"] = {"here": {"": Usage(count=1, note=note).model_dump()}}

    back = json.loads(codec.encode(codec.decode(json.dumps(data).encode())))

    places = [
        back, back["models"]["mine"], back["downloads"]["a"], back["downloads"]["a"]["layers"][0], back["custom"]["c"],
        back["ollama"], back["ollama"]["models"][0], *([back["models"]["mine"]["history"]["here"][""]] if form else []),
    ]  # fmt: skip
    assert [place["note"] for place in places] == [note] * len(places)
    assert "empty" in back["models"]["mine"]


stored_models = st.builds(
    StoredModel,
    name=st.just("m"),
    description=st.text(st.characters(codec="utf-8")),
    purpose=st.sampled_from(ModelPurpose),
    min_vram_gb=st.none() | st.floats(0, 1e6),
    quantization_support=st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=2).map(tuple),
    download_size_mb=st.none() | st.integers(),
    avg_inference_time=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    history=st.dictionaries(
        st.sampled_from("AB"),
        st.dictionaries(st.sampled_from(["", "d"]), st.builds(Usage, count=st.integers(0, 10**15))),
    ),
    note=json_values.filter(lambda value: "nan" not in repr(value) and "inf" not in repr(value)),
)


@given(
    st.builds(
        Document,
        current_model=st.none() | st.text(st.characters(codec="utf-8")),
        models=st.dictionaries(st.text(st.characters(codec="utf-8")), stored_models, max_size=3),
        installation_id=st.text(st.characters(codec="utf-8"), min_size=1),
        revision=st.integers(0),
    )
)
def test_what_is_written_is_what_is_read(document):
    codec = DocumentCodec({}, "this-installation")

    assert codec.decode(codec.encode(document)) == document


def test_what_json_cannot_hold_is_not_written(codec):
    with pytest.raises(ValueError, match="cannot be written"):
        codec.encode(codec.empty().model_copy(update={"current_model": "\ud800"}))


def test_of_a_key_that_is_there_twice_the_last_counts(codec):
    assert codec.decode(b'{"models":{},"current_model":"a","current_model":"b"}').current_model == "b"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le"])
def test_what_editors_on_windows_put_before_a_text_does_no_harm(codec, encoding):
    text = '{"models":{},"current_model":"日本"}'
    mark = "\ufeff" if encoding in ("utf-16-be", "utf-16-le") else ""

    raw = (mark + text).encode(encoding)

    assert codec.decode(raw).current_model == "日本"
    assert codec.is_old(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"null", b"5", b'"models"', b"[]", b"{}", b"{", b'{"models":', b'{"models":[]}', b'{"models":null}',
        b"\x00" * 100, b"\xff\xfe", b"\xff\xfe\x00\xd8", b'{"models":{},"n":"\\ud800"}', b'{"models":{},"n":"\xff"}',
        b'{"models":{},"format":"2"}', b'{"models":{},"format":true}', b'{"models":{},"format":null}',
        b'{"models":{},"format":2,"revision":"x"}', b'{"models":{"m":{}},"format":2}',
        b'{"models":{"m":{"name":"m","history":{"a":{"":{"count":-1}}}}},"format":2}',
        b"[" * 1_000_000, b'{"models":' * 100_000, b'{"models":{},"n":' + b"9" * 10_000 + b"}",
    ],
    ids=lambda raw: repr(raw[:40]),
)  # fmt: skip
def test_what_is_no_document_is_told_as_a_value_error(codec, raw):
    with pytest.raises(ValueError):
        codec.decode(raw)


def test_a_document_as_deep_as_can_be_read_can_be_written_again(codec):
    depth = 1
    while True:
        raw = b'{"models":{},"note":' + b"[" * depth + b"]" * depth + b"}"
        try:
            document = codec.decode(raw)
        except ValueError:
            break
        assert codec.decode(codec.encode(document)) == document
        depth += 1
    assert depth > 100


# --- what a newer version wrote --------------------------------------------------------------------------------------

NEWER = b'{"format": 3, "models": {"x": 1}, "current_model": {"name": "x"}}'


def test_a_document_of_a_newer_version_is_refused_with_a_way_out(codec):
    with pytest.raises(StoreUnreadable, match=r"format 3.*up to 2.*[Uu]pdate"):
        codec.decode(NEWER)


def test_a_document_of_a_newer_version_is_not_touched(codec, tmp_path):
    path = tmp_path / "document.json"
    path.write_bytes(NEWER)
    store = JsonStore(path, codec)

    with pytest.raises(StoreUnreadable):
        store.read()
    with pytest.raises(StoreUnreadable):
        store.change(lambda document: document.model_copy(update={"revision": 1}))

    assert path.read_bytes() == NEWER
    assert [file.name for file in tmp_path.iterdir() if "unreadable" in file.name] == []


def test_the_file_of_the_seed_is_kept_when_ours_first_takes_its_place(codec, tmp_path):
    path = tmp_path / "document.json"
    path.write_bytes(seed_document())

    JsonStore(path, codec).change(lambda document: document.model_copy(update={"revision": 1}))

    assert (tmp_path / "document.json.before-upgrade").read_bytes() == seed_document()
    assert codec.decode(path.read_bytes()).models[EIGHT_B].usage_count == 7


# --- what is handed in -----------------------------------------------------------------------------------------------


def test_a_wrong_value_in_an_import_is_named_with_its_place(codec):
    with pytest.raises(ValueError, match=r"models\.m\.installed: "):
        read_import(b'{"models":{"m":{"name":"m","installed":"perhaps"}},"format":2}', codec)


def test_an_import_from_a_newer_version_is_a_bad_request_and_no_trouble_of_the_store(codec):
    with pytest.raises(InvalidRequest, match=r"format 3.*Update this program"):
        read_import(NEWER, codec)


# --- what Ollama holds, in the document ------------------------------------------------------------------------------

CATALOGUE = {name: MODEL_CATALOG[name] for name in (ONE_B, EIGHT_B)}
TAG = InstalledModel(name="llama3.2:1b-instruct-q4_K_M", digest="d1", size_bytes=810)
ID = InstalledModel(name=ONE_B, digest="d1", size_bytes=810)
MINE = InstalledModel(name="mine:latest", digest="d9", size_bytes=7_000_000, parameter_size="7B")


def seen(*models, at=NOON):
    return OllamaSeen(checked_at=at, version="0.33.0", models=models)


def remembered(document, *models, copied=None, at=NOON):
    shown = show(CATALOGUE, Inventory(models), {})
    return remember(document, seen(*models, at=at), shown, copied)


@pytest.fixture
def fresh():
    return DocumentCodec(CATALOGUE, "this-installation").empty()


def used(model):
    return usage.record(model, "this-installation", model.digest, check_event(1.0, True, NOON))


def with_model(document, model):
    return document.model_copy(update={"models": {**document.models, model.name: model}})


def test_what_is_installed_is_remembered_under_the_names_of_callers(fresh):
    document = remembered(fresh, TAG, ID, MINE, copied={ONE_B: "d1"})

    entry, mine = document.models[ONE_B], document.models["mine:latest"]
    assert (entry.installed, entry.digest, entry.size_bytes, entry.copied_digest) == (True, "d1", 810, "d1")
    assert (mine.installed, mine.digest, mine.size, mine.download_size_mb) == (True, "d9", "7b", 7)
    assert set(document.models) == {ONE_B, EIGHT_B, "mine:latest"}
    assert document.models[EIGHT_B] == fresh.models[EIGHT_B]


def test_the_same_answer_again_leaves_the_document_alone(fresh):
    document = remembered(fresh, TAG, ID, MINE)

    assert remembered(document, TAG, ID, MINE, at=LATER) is document


def test_another_answer_is_remembered_with_its_moment(fresh):
    document = remembered(fresh, TAG, ID, MINE)
    renewed = MINE.model_copy(update={"modified_at": LATER})
    newer_ollama = seen(TAG, ID, MINE, at=LATER).model_copy(update={"version": "0.34.0"})
    shown = show(CATALOGUE, Inventory((TAG, ID, MINE)), {})

    assert remembered(document, TAG, ID, renewed, at=LATER).ollama.models[-1] == renewed
    assert remember(document, newer_ollama, shown).ollama.version == "0.34.0"
    assert remember(document, seen(TAG, ID, MINE, at=LATER), shown, {ONE_B: "d7"}).models[ONE_B].copied_digest == "d7"
    assert remembered(document, TAG, ID, renewed, at=LATER).ollama.checked_at == LATER


def test_a_model_that_was_made_anew_keeps_its_figures(fresh):
    document = remembered(fresh, MINE)
    document = with_model(document, used(document.models["mine:latest"]))
    anew = MINE.model_copy(update={"digest": "d10", "size_bytes": 5})

    model = remembered(remembered(document), anew).models["mine:latest"]

    assert (model.installed, model.digest, model.size_bytes, model.usage_count) == (True, "d10", 5, 1)


def test_a_model_whose_size_nobody_tells_has_none(fresh):
    unknown = MINE.model_copy(update={"parameter_size": None})

    assert remembered(fresh, unknown).models["mine:latest"].size == ""


def test_an_entry_that_is_gone_stays_and_is_not_installed(fresh):
    entry = remembered(remembered(fresh, TAG, ID)).models[ONE_B]

    assert (entry.installed, entry.digest, entry.size_bytes) == (False, None, None)


def test_a_model_that_is_gone_and_was_never_used_is_forgotten(fresh):
    assert "mine:latest" not in remembered(remembered(fresh, MINE)).models


@pytest.mark.parametrize(
    "reason_to_stay",
    [
        lambda document: with_model(document, used(document.models["mine:latest"])),
        lambda document: document.model_copy(update={"current_model": "mine:latest"}),
        lambda document: document.model_copy(update={"previous_model": "mine:latest"}),
        lambda document: with_model(document, document.models["mine:latest"].model_copy(update={"note": "dear to me"})),
    ],
    ids=["it was used", "it is selected", "it was selected", "somebody wrote something down"],
)
def test_a_model_that_is_gone_stays_on_record_with_a_reason(fresh, reason_to_stay):
    document = reason_to_stay(remembered(fresh, MINE))

    gone = remembered(document).models["mine:latest"]

    assert (gone.installed, gone.digest, gone.size_bytes) == (False, None, None)
    assert gone.history == document.models["mine:latest"].history


def test_a_new_answer_of_ollamas_does_not_cost_keys_that_nobody_knows(fresh):
    document = fresh.model_copy(update={"ollama": OllamaSeen(note="mine")})

    assert remembered(document, MINE).ollama.note == "mine"


def test_a_model_is_not_said_to_be_installed_because_it_is_on_record():
    assert "nstalled" not in new_model("mine").description

"""Each error means one thing, says what happened and what to do next, and survives every way it is carried about."""

from __future__ import annotations

import copy
import json
import pickle
import re

import pytest

from model_core import errors
from model_core.errors import ModelManagerError, as_facts, from_facts

PATH = "/data/model_metadata.json"

# One of each kind, as somebody would raise it.
SAMPLES = [
    ModelManagerError("Something broke.", "Look at the log."),
    errors.InvalidRequest("max_vram", "must be a number", "It is counted in GiB.", allowed=[1, 2]),
    errors.InvalidModelName("has blanks around it"),
    errors.RegistryNotAllowed("evil.com", ("registry.ollama.ai", "hf.co")),
    errors.UnknownQuantization("llama3.1:8b-instruct", ("q4", "q8")),
    errors.ModelNotFound("qwen3:8b"),
    errors.ModelNotPublished("llama3.1:13b-instruct", ("gemma3:12b", "llama2:13b")),
    errors.NoCurrentModel(),
    errors.NoSuitableModel(
        "Nothing fits 0.5 GiB.",
        "Close other programs.",
        criteria={"available_bytes": 1},
        smallest_need_bytes=2,
        smallest_model="m",
        would_fit=[{"model": "m", "context_tokens": 512}],
    ),
    errors.DownloadNotFound("a1"),
    errors.BenchmarkNotFound("b1"),
    errors.ModelNotInstalled("llama3.1:8b-instruct", "q8"),
    errors.ModelLacksCapability("all-minilm:latest", "completion", ("embedding",)),
    errors.BenchmarkUnsuitable("llama3.2:1b-instruct", "vision", ("completion",)),
    errors.CannotDeleteCurrent("llama3.1:8b-instruct"),
    errors.ModelInUse("llama3.1:8b-instruct", "a1"),
    errors.NameTaken("llama3.1:8b-instruct", "3" * 64),
    errors.InsufficientVram("llama3.1:8b-instruct", 6_700_000_000, 6_690_000_000),
    errors.InsufficientDisk("llama3.1:70b-instruct", 42_500_000_000, 20_000_000_000),
    errors.InvalidTransition("a1", "become paused", "failed", ["queued"]),
    errors.CannotStart("Port 5110 is taken.", "Choose another.", port=5110),
    errors.DownloadFailed("m", "The list does not show m.", "Download again.", reason="not_listed"),
    errors.PullFailed(
        "m", "Ollama could not fetch m.", "Try again.", reason="other", heals_by_retrying=False, upstream="boom"
    ),
    errors.BenchmarkFailed("b1", "m failed 3 times."),
    errors.RegistryUnavailable("registry.ollama.ai", "no such host"),
    errors.RegistryModelMissing("m", "registry.ollama.ai"),
    errors.OllamaError("Ollama answered nonsense.", "Update it.", upstream_status=500, upstream="boom"),
    errors.OllamaUnavailable("http://127.0.0.1:11434", "refused"),
    errors.OllamaTimeout("the list", 5.0),
    errors.OllamaModelMissing("m"),
    errors.OllamaBusy(),
    errors.OllamaBrokeOff("generating"),
    errors.AnswerCutShort("m", 12),
    errors.PullEnded("m"),
    errors.StoreError("It broke.", "Look at it.", path=PATH),
    errors.StoreBusy("It is locked.", "Wait.", path=PATH),
    errors.StoreUnwritable("It cannot be written.", "Make room.", path=PATH),
    errors.StoreUnreadable("It cannot be read.", "Update this program.", path=PATH),
]
each = pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)


def family(kind=ModelManagerError):
    """Every kind of the module, the first of a branch before its children."""
    ours = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [kind, *(found for child in ours for found in family(child))]


def test_there_is_a_sample_of_every_kind():
    assert sorted(kind.__name__ for kind in family()) == sorted(type(error).__name__ for error in SAMPLES)


# --- the tree --------------------------------------------------------------------------------------------------------


def drawn_tree():
    """The tree at the head of the module, as {name: (parent, meaning)}."""
    tree, branch = {}, []
    for row in errors.__doc__.splitlines():
        found = re.fullmatch(r"    ([│ ├└─]*)([A-Z]\w+)(?:  +(.+))?", row)
        if found:
            depth = len(found[1]) // 4
            branch[depth:] = [found[2]]
            tree[found[2]] = (branch[depth - 1] if depth else None, found[3])
    return tree


def test_the_tree_at_the_head_is_the_tree_of_the_classes():
    real = {
        child.__name__: kind.__name__
        for kind in family()
        for child in kind.__subclasses__()
        if child.__module__ == errors.__name__
    }

    assert {name: parent for name, (parent, _) in drawn_tree().items()} == {"ModelManagerError": None, **real}


def test_every_kind_has_a_meaning_of_its_own():
    drawn = [meaning for _, meaning in drawn_tree().values() if meaning]
    told = [kind.__doc__ for kind in family()]

    assert len(drawn) == len(set(drawn)) == len(family()) - 1
    assert None not in told
    assert len(set(told)) == len(told)


# --- code and title --------------------------------------------------------------------------------------------------

# Who asks must do the same about them, wherever they come from; the class is for our own code.
SHARED_CODES = {
    "download_failed": {"DownloadFailed", "PullFailed"},
    "model_not_found": {"ModelNotFound", "RegistryModelMissing"},
    "model_not_installed": {"ModelNotInstalled", "OllamaModelMissing"},
    "ollama_error": {"OllamaError", "OllamaBrokeOff", "AnswerCutShort", "PullEnded"},
    "ollama_unavailable": {"OllamaUnavailable", "OllamaBusy"},
    "store_unwritable": {"StoreError", "StoreUnwritable"},
}


def test_a_code_belongs_to_one_kind_but_for_those_that_ask_for_the_same():
    by_code = {}
    for kind in family():
        by_code.setdefault(kind.code, set()).add(kind.__name__)

    assert {code: names for code, names in by_code.items() if len(names) > 1} == SHARED_CODES


def test_one_code_has_one_title_and_one_title_one_code():
    pairs = {(kind.code, kind.title) for kind in family()}

    assert len(pairs) == len({code for code, _ in pairs}) == len({title for _, title in pairs})
    for code, title in pairs:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
        assert title and not title.endswith(".")


# --- what an error says ----------------------------------------------------------------------------------------------


@each
def test_an_error_says_what_happened_and_what_to_do_next(error):
    assert error.happened.endswith(".") and error.remedy.endswith((".", ")"))
    assert str(error) == f"{error.happened} {error.remedy}"


@each
def test_no_sentence_has_a_hole(error):
    for hole in ("None", "  ", " .", " ,", "are .", "()", "{", "}"):
        assert hole not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelNotPublished("m", ()),
        errors.RegistryNotAllowed("evil.com", ()),
        errors.UnknownQuantization("m", ()),
        errors.ModelNotInstalled("m"),
        errors.InsufficientDisk("m", None, None),
        errors.InsufficientDisk("m", 5, None),
        errors.InsufficientDisk("m", None, 5),
        errors.InvalidTransition("a1", "become queued", "completed", ()),
        errors.InvalidTransition("b1", "resume", "completed", ("forget",), kind="benchmark"),
        errors.ModelLacksCapability("m", "vision", ()),
        errors.ModelLacksCapability("m", "tools", ("completion",)),
        errors.OllamaUnavailable("http://127.0.0.1:11434"),
        errors.NameTaken("hf.co/user/model:Q4", ""),
    ],
    ids=lambda error: str(error)[:40],
)
def test_what_is_not_known_leaves_no_hole_either(error):
    test_no_sentence_has_a_hole(error)
    test_an_error_says_what_happened_and_what_to_do_next(error)


@each
def test_the_values_in_the_sentence_are_facts_as_well(error):
    sentence = str(error)
    for name in ("model", "field", "registry", "download", "benchmark", "address", "characters"):
        if name in error.facts:
            assert str(error.facts[name]) in sentence


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.RegistryNotAllowed("evil.com", ("registry.ollama.ai", "hf.co")), "registry.ollama.ai, hf.co"),
        (errors.RegistryNotAllowed("evil.com", ()), "none"),
        (errors.UnknownQuantization("m", ("q4", "q8")), "q4, q8"),
        (errors.UnknownQuantization("m", ()), "out"),
        (errors.ModelNotPublished("m", ("gemma3:12b", "llama2:13b")), "gemma3:12b, llama2:13b"),
        (errors.InvalidTransition("a1", "become x", "failed", ("resume", "forget")), "resume, forget"),
        (errors.InvalidTransition("a1", "become x", "completed", ()), "start a new download"),
        (errors.InvalidTransition("b1", "resume", "failed", ("forget",), kind="benchmark"), "Benchmark b1 is failed"),
        (errors.ModelInUse("m", "b1", "benchmark"), "m is being measured. Wait until benchmark b1 has ended"),
        (errors.ModelLacksCapability("m", "vision", ("completion", "tools")), "it can do completion, tools"),
        (errors.ModelLacksCapability("m", "vision", ()), "leave the photos out"),
        (errors.ModelNotInstalled("m", "q8"), "m (q8)"),
        (errors.NameTaken("a/m:1", "3" * 64), "ollama cp a/m:1 my-m:1"),
        (errors.InsufficientDisk("m", 42_520_412_561, 20_000_000_000), "42.5 GB on Ollama's disk, 20.0 GB are free"),
        (errors.InsufficientDisk("m", 42_520_412_561, None), "42.5 GB on Ollama's disk, the disk is full"),
        (errors.InsufficientDisk("m", None, None), "does not fit Ollama's disk, the disk is full"),
        (errors.InsufficientVram("m", 3 * 2**30, 2**30), "needs 3.0 GiB of graphics memory, 1.0 GiB are available"),
        (errors.OllamaUnavailable("http://x", "refused"), "http://x (refused)"),
        (errors.OllamaTimeout("the list", 5.0), "the list within 5 s"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_sentence_holds_what_a_person_needs_to_go_on(error, words):
    assert words in str(error)


def test_two_figures_that_differ_are_not_told_as_the_same():
    figures = re.findall(r"[\d.]+ GiB", errors.InsufficientVram("m", 6_700_000_000, 6_690_000_000).happened)

    assert len(set(figures)) == 2


def test_a_value_that_is_refused_is_not_repeated():
    assert "<script>" not in str(errors.InvalidRequest("model", "must be a name"))
    assert set(errors.InvalidRequest("model", "must be a name").facts) == {"field"}


# --- facts -----------------------------------------------------------------------------------------------------------


@each
def test_every_fact_is_an_attribute(error):
    for name, value in error.facts.items():
        assert getattr(error, name) == value


@each
def test_what_an_error_does_not_know_is_no_attribute(error):
    with pytest.raises(AttributeError, match=type(error).__name__):
        _ = error.weather


@each
def test_facts_are_json_and_never_hide_what_every_error_says(error):
    told = json.loads(json.dumps(as_facts(error)))

    assert told == {
        **error.facts,
        "code": error.code,
        "title": error.title,
        "error": error.happened,
        "remedy": error.remedy,
        "detail": str(error),
    }
    # These words are taken in an answer over HTTP (RFC 9457, and ours).
    assert not {"code", "title", "error", "remedy", "detail", "success", "type", "status", "instance"} & set(
        error.facts
    )


def test_a_fact_with_a_word_that_is_taken_does_not_hide_it():
    assert as_facts(ModelManagerError("It broke.", code="mine", error=5))["code"] == "internal_error"


# --- carried about ---------------------------------------------------------------------------------------------------


def same(one, other):
    assert (type(one), str(one), one.facts, one.args) == (type(other), str(other), other.facts, other.args)
    assert (one.happened, one.remedy) == (other.happened, other.remedy)


@each
@pytest.mark.parametrize("carry", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_being_copied_and_pickled(error, carry):
    same(carry(error), error)


def test_a_copy_has_facts_of_its_own():
    error = errors.ModelNotFound("m")

    copy.copy(error).facts["model"] = "another"

    assert error.model == "m"


@each
def test_an_error_that_was_written_down_comes_back_with_its_code(error):
    back = from_facts(json.loads(json.dumps(as_facts(error))))

    assert (as_facts(back), back.facts) == (as_facts(error), error.facts)
    assert isinstance(error, type(back)) or error.code in SHARED_CODES


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"code": "from the future"},
        {"code": 5},
        {"code": ["x"]},
        {"happened": "x", "self": 1, "facts": 2, "args": 3},
    ],
    ids=str,
)
def test_what_cannot_be_recognized_comes_back_as_an_error_all_the_same(facts):
    back = from_facts({"error": "It broke.", "remedy": "Look.", **facts})

    assert type(back) is ModelManagerError
    assert str(back) == "It broke. Look."


@each
def test_a_wrong_value_can_be_caught_as_pythons_own_error_and_others_cannot(error):
    assert isinstance(error, ValueError) == isinstance(error, errors.InvalidRequest)

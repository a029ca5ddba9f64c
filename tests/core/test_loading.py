"""What is told of loaded models: where they lie, what to do where that is not the card, which times Ollama takes."""

from __future__ import annotations

import math

import pytest

from model_core import loading
from model_core.errors import InvalidRequest
from model_core.memory import OVERHEAD_BYTES, MemoryProfile, memory_need
from model_core.records import GIB, RunningModel


def runner(size=6 * GIB, vram=6 * GIB, context=4096, expires_at="2026-11-23T16:52:55.587510129Z"):
    return RunningModel(
        name="m:latest",
        digest="ab" * 32,
        size_bytes=size,
        size_vram_bytes=vram,
        context_tokens=context,
        expires_at=expires_at,
    )


def shown(model, need=None, has_card=None, form="q8", **known):
    return loading.running(model, "m", ["m", "m:latest"], need, form=form, has_card=has_card, **known)


@pytest.mark.parametrize("value", [None, 5, 2.5, -1, "5m", "1h30m", "-1m", "300ms", 9_223_372_036])
def test_a_time_that_ollama_takes_is_handed_on_as_it_is(value):
    assert loading.check_keep_alive(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "5",
        "-1",
        "",
        "soon",
        "5 m",
        "1d",
        True,
        False,
        [5],
        {},
        math.nan,
        math.inf,
        9_223_372_037,
        1e300,
        10**400,
        "9999999999h",
    ],
)
def test_a_time_that_ollama_would_refuse_is_refused_with_what_it_takes(value):
    with pytest.raises(InvalidRequest) as refused:
        loading.check_keep_alive(value)

    assert refused.value.field == "keep_alive"
    assert '"5m"' in refused.value.remedy


@pytest.mark.parametrize("value", [0, 0.0, "0", "0s"])
def test_no_time_at_all_is_what_unload_is_for(value):
    with pytest.raises(InvalidRequest, match="Unload it"):
        loading.check_keep_alive(value)


def test_a_model_on_the_card_has_nothing_to_be_warned_of():
    now = shown(runner())

    assert (now.gpu_share, now.warnings, now.stays) == (1.0, (), False)
    assert now.expires_at == "2026-11-23T16:52:55.587510Z"


def test_a_model_partly_in_ram_is_named_with_its_share_and_what_to_do():
    (warning,) = shown(runner(vram=3 * GIB), fitting_context=2048).warnings

    assert warning.code == "partly_in_ram"
    assert warning.text.startswith("50% of m lies on the graphics card, 3 GiB in RAM, which is slow.")
    for way in (
        "smaller context (2,048 tokens instead of 4,096)",
        "4-bit form",
        "smaller model",
        "close other programs",
    ):
        assert way in warning.text
    assert warning.values == {
        "model": "m",
        "gpu_share": 0.5,
        "in_ram_bytes": 3 * GIB,
        "context_tokens": 4096,
        "fitting_context_tokens": 2048,
    }


def test_nobody_is_sent_to_a_smaller_context_where_none_would_help():
    (warning,) = shown(runner(vram=3 * GIB)).warnings

    assert "context" not in warning.text
    assert "which is slow. Take its 4-bit form or a smaller model, or close" in warning.text


@pytest.mark.parametrize(("form", "is_named"), [("q8", True), ("F16", True), ("q4", False), ("Q3_K_S", False)])
def test_nobody_is_sent_to_the_form_that_it_has(form, is_named):
    (warning,) = shown(runner(vram=3 * GIB), form=form).warnings

    assert ("its 4-bit form or a smaller model" in warning.text) is is_named


def test_a_model_in_ram_is_a_fault_only_where_there_is_a_card():
    assert [w.code for w in shown(runner(vram=0), has_card=True).warnings] == ["in_ram"]
    assert [w.code for w in shown(runner(vram=0), has_card=None).warnings] == ["in_ram"]
    assert shown(runner(vram=0), has_card=False).warnings == ()


def test_what_ollama_does_not_know_stays_unknown():
    now = shown(runner(size=None, vram=None, expires_at=None))

    assert (now.gpu_share, now.measured_bytes, now.error_percent, now.expires_at) == (None, None, None, None)
    assert now.warnings == ()


def test_what_stays_for_ever_has_no_end():
    now = shown(runner(expires_at="2318-03-05T10:00:00Z"))

    assert (now.stays, now.expires_at) == (True, None)


def test_the_estimate_stands_beside_what_was_measured_with_its_error():
    measured = memory_need(MemoryProfile(file_bytes=4 * GIB, measured={4096: 6 * GIB}))
    unbelieved = memory_need(MemoryProfile(file_bytes=4 * GIB))

    now = shown(runner(), measured)

    assert now.measured_bytes == 6 * GIB + OVERHEAD_BYTES
    assert now.estimate_bytes == measured.estimate
    assert now.error_percent == round((measured.estimate / now.measured_bytes - 1) * 100, 1)
    assert (shown(runner(), unbelieved).measured_bytes, shown(runner(), unbelieved).error_percent) == (None, None)


def test_a_load_changed_nothing_only_where_the_same_context_was_there_before():
    assert loading.is_as_before(runner(), runner())
    assert not loading.is_as_before(runner(), runner(context=2048))
    assert not loading.is_as_before(None, runner())
    assert not loading.is_as_before(runner(), None)


def test_a_load_says_how_long_it_took_and_where_the_model_lies():
    told = loading.loaded("m", 3.21, False, 4096, shown(runner()))

    assert told.message == "m is loaded, after 3.2 s. It lies on the graphics card as a whole."
    assert (told.gpu_share, told.load_seconds, told.warnings) == (1.0, 3.21, ())


def test_a_load_that_found_everything_done_says_so():
    assert loading.loaded("m", 0.01, True, 4096, shown(runner())).message.startswith("m was loaded already.")


def test_a_load_of_which_ollama_then_says_nothing_is_not_called_well():
    told = loading.loaded("m", 3.0, False, 2048, None)

    assert (told.gpu_share, told.context_tokens) == (None, 2048)
    assert [warning.code for warning in told.warnings] == ["not_listed"]


def test_the_context_told_is_the_one_that_ollama_gave_and_that_it_is_less_is_said():
    got = {"now": shown(runner(context=2048)), "got_tokens": 2048}
    told = loading.loaded("m", 1.0, False, 1_000_000, **got, is_new_context=True)

    assert told.context_tokens == 2048
    # Nobody asked for the 4,096 that are usual.
    assert loading.loaded("m", 1.0, False, 4096, **got).warnings == ()
    assert (
        told.warnings[0].text == "m reads at most 2,048 tokens at once, fewer than the 1,000,000 that were asked for."
    )


@pytest.mark.parametrize(
    ("asked", "listed", "longest", "got"),
    [
        (8192, 8192, None, 8192),
        (1, 4, 131_072, 4),
        (999_999, 131_072, 131_072, 131_072),
        (999_999, 2048, None, 2048),
        (8192, 4096, 131_072, 8192),
    ],
    ids=["as asked", "below the smallest", "beyond the longest", "longest not known", "another asked in between"],
)
def test_a_context_becomes_another_only_where_ollama_must_change_it(asked, listed, longest, got):
    assert loading.context_got(asked, runner(context=listed), longest) == got


def test_a_load_of_which_ollama_then_says_nothing_has_the_context_that_was_asked_for():
    assert loading.context_got(8192, None, None) == 8192
    assert loading.context_got(8192, runner(context=None), None) == 8192


def test_that_a_chosen_context_stays_is_said():
    told = loading.loaded("m", 1.0, False, 8192, shown(runner(context=8192)), is_new_context=True)

    assert told.message.endswith("From now on it is used with a context of 8,192 tokens.")


@pytest.mark.parametrize(
    ("was_loaded", "is_gone", "words"),
    [(False, True, "was not loaded"), (True, True, "has left the memory"), (True, False, "still answering")],
)
def test_an_unload_says_whether_the_memory_is_free(was_loaded, is_gone, words):
    assert words in loading.unloaded("m", was_loaded, is_gone).message


def test_what_loaded_models_hold_of_the_card_counts_with_what_the_cards_software_holds_for_them():
    unknown = runner(size=None, vram=None)

    assert loading.held_on_card_bytes([runner(), runner(vram=0), unknown]) == 6 * GIB + OVERHEAD_BYTES

"""The ranking keeps its order, explains itself, and never recommends what the check of the card would refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from catalog import MODEL_CATALOG
from model_core.candidates import Candidate, Criteria, Machine, candidate_of
from model_core.errors import NoSuitableModel
from model_core.explanation import format_download, format_seconds
from model_core.fit import Verdict, check_fit
from model_core.memory import OVERHEAD_BYTES, MemoryProfile, format_memory
from model_core.ranking import RULES, used_as
from model_core.recommender import recommend
from model_core.records import GIB, ModelPurpose
from model_core.speed import Card, measured

CATALOGUE = [candidate_of(entry, variant) for entry in MODEL_CATALOG.values() for variant in entry.variants]


ONE_B = ("llama3.2:1b-instruct", "q4")


def ask(available_gib, priority="balanced", candidates=CATALOGUE, **criteria):
    return recommend(candidates, Criteria(available_bytes=int(available_gib * GIB), priority=priority, **criteria))


def with_one(name, quantization="q4", candidates=CATALOGUE, **changes):
    """The same candidates, one of them changed."""
    assert any((c.name, c.quantization) == (name, quantization) for c in candidates)
    return [replace(c, **changes) if (c.name, c.quantization) == (name, quantization) else c for c in candidates]


def names(answer):
    return [(place.model, place.quantization) for place in answer.ranked]


def reason(place, code):
    return next(reason for reason in place.reasons if reason.code == code)


def codes(place):
    return [reason.code for reason in place.reasons]


def held(need_bytes):
    """The profile of what was measured to need so much."""
    return MemoryProfile(file_bytes=1, measured={4096: int(need_bytes) - OVERHEAD_BYTES})


def small(name, **changes):
    """A candidate that fits everywhere; all of them are equal but for what the test changes."""
    known = {
        "memory": MemoryProfile(file_bytes=1000),
        "purpose": ModelPurpose.BALANCED,
        "quantization": "q4",
        "parameters": 1_000_000,
    }
    return Candidate(name=name, **{**known, **changes})


# --- worked rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available_gib", "priority", "model", "quantization", "verdict"),
    [
        (8, "balanced", "llama3.1:8b-instruct", "q4", Verdict.FITS),
        (12, "quality", "llama3.1:8b-instruct", "q8", Verdict.FITS),
        (32, "quality", "mixtral:8x7b-instruct", "q4", Verdict.FITS),
        (48, "quality", "llama3.1:70b-instruct", "q4", Verdict.FITS),
        (2, "speed", "llama3.2:1b-instruct", "q4", Verdict.TIGHT),
        (6, "balanced", "llama3.1:8b-instruct", "q4", Verdict.TIGHT),
        (8, "speed", "llama3.2:3b-instruct", "q4", Verdict.FITS),
        (24, "quality", "llama3.1:8b-instruct", "q8", Verdict.FITS),
        (80, "quality", "llama3.1:70b-instruct", "q8", Verdict.FITS),
        (80, "balanced", "llama3.1:8b-instruct", "q4", Verdict.FITS),
        (4, "speed", "llama3.2:1b-instruct", "q4", Verdict.FITS),
    ],
)
def test_a_fresh_machine_is_told_what_its_card_holds(available_gib, priority, model, quantization, verdict):
    best = ask(available_gib, priority).best

    assert (best.model, best.quantization, best.verdict) == (model, quantization, verdict)
    assert not best.installed


def test_a_tight_model_says_so():
    assert "tight, only 411 MiB stay free" in reason(ask(2, "speed").best, "tight").text


@pytest.mark.parametrize("priority", ["speed", "balanced", "quality"])
def test_where_nothing_fits_the_smallest_need_is_named(priority):
    with pytest.raises(NoSuitableModel) as error:
        ask(0.5, priority)

    assert error.value.smallest_model == "llama3.2:1b-instruct"
    assert error.value.smallest_need_bytes == pytest.approx(1.60 * GIB, rel=0.01)
    assert error.value.would_fit == []
    assert error.value.criteria["available_bytes"] == GIB // 2
    assert "llama3.2:1b-instruct (4-bit), needs 1.6 GiB" in str(error.value)


@pytest.mark.parametrize(
    ("criteria", "words"),
    [
        ({}, "A card with 1.6 GiB free would do; or choose a model by hand and let it lie in RAM"),
        (
            {"source": "probe", "machine": Machine(total_bytes=8 * GIB)},
            "close other programs that use the card; or choose",
        ),
        ({"source": "probe", "machine": Machine(total_bytes=GIB)}, "This card is too small for any of them"),
        ({"source": "processor"}, "2.2 GiB more RAM must be free, as half of it counts: close other programs."),
        (
            {"source": "setting", "machine": Machine(total_bytes=8 * GIB, free_bytes=7 * GIB, cap_bytes=GIB // 2)},
            "MODEL_MANAGER_VRAM_GB allows 512 MiB: raise it to 1.6; or choose",
        ),
        ({"installed_only": True, "candidates": with_one(*ONE_B, installed=True)}, "Leave installed_only out"),
    ],
)
def test_where_nothing_fits_what_to_do_goes_by_the_machine(criteria, words):
    with pytest.raises(NoSuitableModel) as error:
        ask(0.5, **criteria)

    assert words in error.value.remedy


def test_no_memory_is_none_and_not_no_filter():
    with pytest.raises(NoSuitableModel):
        ask(0)


def test_where_a_shorter_context_would_help_it_is_named_and_helps():
    with pytest.raises(NoSuitableModel) as error:
        ask(8, "balanced", context_tokens=131_072)

    assert [hope["context_tokens"] for hope in error.value.would_fit] == [65_536, 65_536, 32_768, 16_384, 16_384]
    assert "With a context of 65,536 tokens llama3.2:1b-instruct (4-bit) would lie on the card." in error.value.remedy
    assert "With an 8-bit cache llama3.2:1b-instruct (4-bit) would do as it is asked for" in error.value.remedy
    for hope in error.value.would_fit:
        again = ask(8, "balanced", context_tokens=hope["context_tokens"])
        place = next(p for p in again.ranked if (p.model, p.quantization) == (hope["model"], hope["quantization"]))
        assert (place.need.total, place.verdict) == (hope["need_bytes"], hope["verdict"])


# --- the order, step by step -----------------------------------------------------------------------------------------


def seen(tokens_per_second):
    return measured(tokens_per_second, "history", 5)


BETTER_AND_WORSE = {
    "reliable": ({"purpose": ModelPurpose.QUALITY}, {"failure_count": 3}),
    "purpose": ({"memory": MemoryProfile(file_bytes=7 * GIB)}, {"purpose": ModelPurpose.SPEED, "installed": True}),
    "verdict": ({}, {"memory": MemoryProfile(file_bytes=7 * GIB), "installed": True}),
    "installed": ({"installed": True, "parameters": 1}, {}),
    "bearable": (
        {"benchmark_speed": seen(3.0)},
        {"benchmark_speed": seen(2.9), "parameters": 2_000_000},
    ),
    "score": ({"score": 4.5, "score_count": 20, "parameters": 1}, {"score": 3.0, "score_count": 20}),
    "scored": ({"score": 4.5, "score_count": 20, "parameters": 1}, {}),
    "not badly scored": ({"parameters": 1}, {"score": 1.0, "score_count": 3}),
    "too few scores": ({}, {"score": 5.0, "score_count": 2, "parameters": 1}),
    "size": ({"parameters": 2_000_000, "quantization": "q8"}, {}),
    "known size": ({"quantization": "q8"}, {"parameters": None}),
    "quantization": ({"failure_count": 1}, {"quantization": "q8"}),
    "known quantization": ({"failure_count": 1}, {"quantization": None}),
    "rate": ({"success_count": 1}, {"mean_seconds": 0.1}),
    "time": ({"success_count": 5, "mean_seconds": 1.0}, {"success_count": 5, "mean_seconds": 1.1}),
    "timed": ({"success_count": 5, "mean_seconds": 1.0}, {"success_count": 5}),
}


@pytest.mark.parametrize("step", BETTER_AND_WORSE)
def test_the_order_decides_step_by_step(step):
    better, worse = BETTER_AND_WORSE[step]
    # The names would put the worse one first.
    candidates = [small("a-worse", **worse), small("b-better", **better)]

    assert names(ask(10, candidates=candidates))[0][0] == "b-better"


def test_among_equals_the_name_decides():
    assert [name for name, _ in names(ask(8, candidates=[small("b"), small("a")]))] == ["a", "b"]


@pytest.mark.parametrize(
    ("priority", "order"),
    [
        ("quality", ["quality", "balanced", "speed"]),
        ("balanced", ["balanced", "speed", "quality"]),
        ("speed", ["speed", "balanced", "quality"]),
    ],
)
def test_the_nearest_purpose_comes_next(priority, order):
    candidates = [small(purpose, purpose=ModelPurpose(purpose)) for purpose in ("balanced", "quality", "speed")]

    answer = ask(8, priority, candidates)

    assert [name for name, _ in names(answer)] == order
    assert [codes(place)[0] for place in answer.ranked] == ["purpose", "other_purpose", "other_purpose"]


def test_where_nothing_of_the_wished_purpose_fits_the_answer_says_so():
    best = ask(12, "quality").best

    assert reason(best, "nearest_purpose").text == (
        "Nothing made for quality fits; this one is made for balanced work, which is nearest."
    )


def test_quality_takes_the_8_bit_form_only_where_it_fits_comfortably():
    assert names(ask(9, "quality"))[0] == ("llama3.1:8b-instruct", "q4")
    assert names(ask(10, "quality"))[0] == ("llama3.1:8b-instruct", "q8")
    assert "finer" in codes(ask(10, "quality").best)


def test_quality_takes_the_4_bit_form_where_both_are_tight():
    memory = MemoryProfile(file_bytes=7 * GIB)
    both = [small("m", memory=memory, quantization=q, purpose=ModelPurpose.QUALITY) for q in ("q8", "q4")]

    assert names(ask(10, "quality", both)) == [("m", "q4"), ("m", "q8")]


def test_speed_takes_the_4_bit_form_of_the_largest_that_fits_comfortably():
    assert names(ask(80, "speed"))[0] == ("llama3.2:3b-instruct", "q4")
    assert "faster" in codes(ask(80, "speed").best)


def test_what_is_installed_goes_before_a_larger_model_of_its_purpose_which_is_named_first_after_it():
    answer = ask(8, "speed", with_one("llama3.2:1b-instruct", installed=True))
    first, second = answer.best, answer.alternatives[0]

    assert (first.model, first.installed, first.download_bytes) == ("llama3.2:1b-instruct", True, None)
    assert (second.model, second.quantization) == ("llama3.2:3b-instruct", "q4")
    assert reason(second, "larger_download").text == (
        "2.0 GB to download first; larger than llama3.2:1b-instruct (4-bit), which is installed."
    )


def test_the_larger_download_comes_before_other_installed_models():
    candidates = with_one("llama3.2:1b-instruct", installed=True)
    candidates = with_one("llama3.2:1b-instruct", "q8", candidates, installed=True)

    assert names(ask(8, "speed", candidates))[:3] == [
        ("llama3.2:1b-instruct", "q4"),
        ("llama3.2:3b-instruct", "q4"),
        ("llama3.2:1b-instruct", "q8"),
    ]


@pytest.mark.parametrize(
    "no_reason_to_wait",
    [{"purpose": ModelPurpose.SPEED}, {"parameters": 1_000_000}, {"parameters": None}, {"failure_count": 9}],
)
def test_a_download_comes_second_only_where_it_is_larger_of_the_same_purpose_and_reliable(no_reason_to_wait):
    installed = [small("first", installed=True), small("second", installed=True)]
    download = small("download", **{"parameters": 2_000_000, **no_reason_to_wait})

    assert [name for name, _ in names(ask(8, candidates=[*installed, small("z", parameters=2_000_000)]))][1] == "z"
    assert [name for name, _ in names(ask(8, candidates=[*installed, download]))] == ["first", "second", "download"]


def test_a_larger_download_that_is_only_tight_is_not_put_before_a_comfortable_one():
    answer = ask(8, candidates=[small("snug"), tight := small("tight", parameters=2_000_000, memory=held(7.5 * GIB))])

    assert [name for name, _ in names(answer)] == ["snug", tight.name]
    assert "larger_download" not in codes(answer.ranked[1])


def test_a_better_purpose_is_worth_a_download():
    candidates = with_one("llama3.2:1b-instruct", installed=True)

    assert ask(8, "balanced", candidates).best.model == "llama3.1:8b-instruct"


def test_a_better_verdict_is_worth_a_download():
    candidates = with_one("llama3.2:3b-instruct", installed=True)

    assert names(ask(3.5, "speed", candidates))[0] == ("llama3.2:1b-instruct", "q4")


# --- history ---------------------------------------------------------------------------------------------------------


def test_after_twenty_failures_something_else_is_said_and_why():
    before = ask(8, "balanced").best
    answer = ask(8, "balanced", with_one(before.model, before.quantization, failure_count=20))

    assert answer.best.model != before.model
    assert codes(answer.best)[0] == "passed_over"
    assert answer.best.reasons[0].text == (
        "llama3.1:8b-instruct (4-bit) would suit better, but failed here 20 of 20 times."
    )
    assert names(answer)[-1] == (before.model, before.quantization)
    assert "unreliable" in codes(answer.ranked[-1])


@pytest.mark.parametrize("priority", ["balanced", "quality"])
def test_another_form_of_what_failed_is_nothing_else_until_it_has_worked(priority):
    """On a card that holds the 8-bit form as well, it would be the same model again, larger and slower."""
    failed = with_one("llama3.1:8b-instruct", "q4", failure_count=20)
    proved = with_one("llama3.1:8b-instruct", "q8", failed, success_count=1)

    answer = ask(12, priority, failed)
    other = next(one for one in answer.ranked if (one.model, one.quantization) == ("llama3.1:8b-instruct", "q8"))

    assert answer.best.model == "llama3.2:3b-instruct"
    assert reason(other, "unreliable_form").text.startswith("Its 4-bit form failed here 20 of 20 times, and this one")
    assert reason(other, "behind").text.endswith("its 4-bit form failed here 20 of 20 times.")
    assert names(ask(12, priority, proved))[0] == ("llama3.1:8b-instruct", "q8")


def test_a_form_that_failed_itself_is_told_its_own_failures_and_not_those_of_another():
    failed = with_one("llama3.1:8b-instruct", "q4", failure_count=20)
    answer = ask(12, candidates=with_one("llama3.1:8b-instruct", "q8", failed, failure_count=7))
    other = next(one for one in answer.ranked if (one.model, one.quantization) == ("llama3.1:8b-instruct", "q8"))

    assert reason(other, "unreliable").values["use_count"] == 7
    assert reason(other, "behind").text.endswith("this one failed here 7 of 7 times.")


def test_a_model_passed_over_is_not_said_to_be_missing():
    """What is nearest to the wish is there, though it failed."""
    answer = ask(8, "quality", with_one("llama3.1:8b-instruct", "q4", failure_count=20))

    assert reason(answer.best, "other_purpose").text == "Made for speed, not for quality."


# --- as it is used here ----------------------------------------------------------------------------------------------


def test_a_model_that_is_used_with_more_context_is_counted_with_that():
    answer = ask(8, candidates=with_one("llama3.1:8b-instruct", context_tokens=32_768))

    assert answer.best.model == "llama3.2:3b-instruct"
    left = not_chosen(answer, "llama3.1:8b-instruct")
    assert "with a context of 32,768 tokens" in left.reason.text
    assert any(way.code == "shorter_context" for way in left.ways)


def test_the_context_that_a_model_is_used_with_is_told():
    used = with_one("llama3.1:8b-instruct", context_tokens=8192)
    answer = ask(8, candidates=used)

    assert answer.best.need.context_tokens == 8192
    assert "with a context of 8,192 tokens" in reason(answer.best, "fits").text
    assert reason(answer.best, "own_context").values == {"context_tokens": 8192, "asked_context_tokens": 4096}
    assert "own_context" not in codes(ask(16, context_tokens=16_384, candidates=used).best)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"kv_type": "q8_0"}, "OLLAMA_FLASH_ATTENTION=1 and OLLAMA_KV_CACHE_TYPE=q8_0."),
        ({"parallel": 2}, "OLLAMA_NUM_PARALLEL=2."),
    ],
)
def test_how_ollama_must_be_started_for_it_to_hold_is_said(setup, words):
    assert reason(ask(8, **setup).best, "setup").text.endswith(words)
    assert "setup" not in codes(ask(8).best)


@pytest.mark.parametrize(("failures", "still_first"), [(1, True), (2, True), (3, False)])
def test_one_failure_in_one_try_does_not_condemn(failures, still_first):
    answer = ask(8, "balanced", with_one("llama3.1:8b-instruct", failure_count=failures))

    assert (answer.best.model == "llama3.1:8b-instruct") is still_first


def test_proven_counts_successes_and_not_uses():
    tried = [small("a", failure_count=2), small("b", success_count=1), small("c")]
    places = {place.model: place for place in ask(8, candidates=tried).ranked}

    assert reason(places["a"], "unproven").text == "Failed here 2 of 2 times so far."
    assert reason(places["b"], "proven").text == "Worked here 1 of 1 times."
    assert reason(places["c"], "unproven").text == "Not used here yet."


def test_history_tells_how_often_and_how_fast():
    used = with_one("llama3.1:8b-instruct", success_count=38, failure_count=2, mean_seconds=4.21, installed=True)

    assert reason(ask(8, candidates=used).best, "proven").text == "Worked here 38 of 40 times, 4.2 s on average."


# --- who may be recommended ------------------------------------------------------------------------------------------


def unpublished(**changes):
    entry = MODEL_CATALOG["llama3.1:13b-instruct"]
    return Candidate(
        name=entry.name,
        memory=MemoryProfile(file_bytes=4 * GIB),
        purpose=entry.purpose,
        parameters=13_000_000_000,
        published=entry.published,
        **changes,
    )


def test_what_was_never_published_is_recommended_only_where_the_user_made_it():
    without = ask(16, "quality", [*CATALOGUE, unpublished()])
    made = ask(16, "quality", [*CATALOGUE, unpublished(installed=True)])

    assert "llama3.1:13b-instruct" not in [name for name, _ in names(without)]
    assert made.best.model == "llama3.1:13b-instruct"


def test_models_that_see_come_when_asked_for_and_then_alone():
    seeing = {name for name, entry in MODEL_CATALOG.items() if "vision" in entry.capabilities}

    assert not {name for name, _ in names(ask(80))} & seeing
    assert {name for name, _ in names(ask(80, needs=("vision",)))} == seeing
    assert codes(ask(80, needs=("vision",)).best)[0] == "capability"


def test_a_guess_is_decided_by_its_upper_end():
    best = ask(8, needs=("vision",)).best

    assert best.model == "qwen3-vl:4b-instruct"
    assert best.need.basis == "guess"
    assert best.margin_bytes == 8 * GIB - best.need.high
    assert "4.69 GiB to 5.19 GiB (guessed from the size of its file)" in reason(best, "fits").text


def test_specialized_models_and_those_that_cannot_answer_are_left_out():
    candidates = [
        small("plain"),
        small("special", purpose=ModelPurpose.SPECIALIZED),
        small("embedding", capabilities=("embedding",)),
    ]

    assert names(ask(8, candidates=candidates)) == [("plain", "q4")]


def test_a_need_that_nothing_meets_names_the_need():
    with pytest.raises(NoSuitableModel) as error:
        ask(8, needs=("audio",))

    assert "audio" in str(error.value)
    assert error.value.smallest_need_bytes is None


def test_what_only_embeds_is_no_answer_to_a_need_and_is_not_offered_as_one():
    with pytest.raises(NoSuitableModel) as error:
        ask(8, candidates=[small("numbers", capabilities=("embedding",)), small("talks")], needs=("embedding",))

    assert error.value.remedy.endswith("What there is can do: completion.")


@pytest.mark.parametrize(("installed_only", "expected"), [(True, 1), (False, 5), (None, 5)])
def test_installed_only_leaves_out_what_must_be_downloaded(installed_only, expected):
    candidates = with_one("llama3.2:1b-instruct", installed=True)

    assert len(ask(8, candidates=candidates, installed_only=installed_only).ranked) == expected


def test_installed_only_on_a_fresh_machine_says_what_to_do():
    with pytest.raises(NoSuitableModel) as error:
        ask(8, installed_only=True)

    assert "Leave installed_only out" in error.value.remedy


def test_without_any_candidate_the_error_still_says_what_to_do():
    with pytest.raises(NoSuitableModel) as error:
        recommend([], Criteria(available_bytes=GIB))

    assert error.value.remedy


# --- what the caller asked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "code"), [("caller", None), ("setting", None), ("probe", None), ("assumed", "assumed_memory")]
)
def test_an_assumed_figure_is_called_assumed(source, code):
    answer = ask(8, source=source)

    assert ("assumed_memory" in codes(answer.best)) is (code is not None)
    assert answer.criteria.source == source


def test_advice_for_a_machine_without_a_card_says_that_it_is_slow():
    best = ask(8, source="processor").best

    assert "slowly" in reason(best, "on_processor").text
    assert "graphics memory" not in reason(best, "fits").text


def test_a_context_longer_than_the_model_reads_is_said():
    answer = ask(80, "quality", context_tokens=65_536)
    mixtral = next(place for place in answer.ranked if place.model == "mixtral:8x7b-instruct")

    assert reason(mixtral, "shorter_context").text == "Reads at most 32,768 tokens, fewer than the 65,536 asked for."


@pytest.mark.parametrize(
    "wrong", [{"available_bytes": -1}, {"priority": "specialized"}, {"priority": "best"}, {"context_tokens": 0}]
)
def test_criteria_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValidationError):
        Criteria(**{"available_bytes": GIB, **wrong})


def test_the_list_may_be_cut_and_says_how_many_there_were():
    criteria = Criteria(available_bytes=80 * GIB)

    cut = recommend(CATALOGUE, criteria, limit=3)
    whole = recommend(CATALOGUE, criteria, limit=None)

    assert cut.ranked == whole.ranked[:3]
    assert cut.suitable_count == whole.suitable_count == len(whole.ranked) == 10


# --- what is said besides --------------------------------------------------------------------------------------------


def test_every_other_place_says_what_puts_it_behind_the_first():
    candidates = with_one("llama3.2:3b-instruct", installed=True)

    first, *others = ask(8, "balanced", candidates).ranked

    behind = {(place.model, place.quantization): reason(place, "behind") for place in others}
    assert "behind" not in codes(first)
    assert behind["llama3.2:3b-instruct", "q4"].text == (
        "Stands behind llama3.1:8b-instruct (4-bit): this one is made for speed."
    )
    assert {found.values["rule"] for found in behind.values()} <= {rule.name for rule in RULES}


def test_two_that_differ_in_nothing_do_not_break_the_explanation():
    answer = ask(8, "balanced", [small("m"), small("m")])

    assert reason(answer.ranked[1], "behind").values["rule"] == "name"


def test_a_speed_is_told_with_its_range_and_where_it_comes_from():
    card = Machine(card=Card(bandwidth_bytes_per_s=272e9, source="NVML: memory clock × bus width"))

    estimated = ask(8, machine=card).best
    history = ask(8, candidates=with_one("llama3.1:8b-instruct", seen_speed=seen(41.2)), machine=card).best

    assert estimated.speed.basis == "estimate"
    assert reason(estimated, "speed").text == (
        "Expect some 35 tokens a second (28 to 49, "
        "estimated from the bandwidth of the card's memory (NVML: memory clock × bus width))."
    )
    assert (history.speed.basis, history.speed.tokens_per_second) == ("history", 41.2)
    assert reason(history, "speed").text == "Expect 41 tokens a second (5 uses on record here)."
    assert ask(8).best.speed is None


def test_on_the_processor_a_model_that_nobody_waits_for_stands_behind_one_that_answers():
    processor = {"source": "processor", "machine": Machine(ram_free_bytes=120 * GIB, card=Card(source="no card"))}

    best = ask(60, "quality", **processor).best

    # 70B would fit and is made for quality: it would take five minutes a photo. Of Mixtral's experts two answer.
    assert best.model == "mixtral:8x7b-instruct"
    assert best.speed.tokens_per_second > 3
    seventy = next(p for p in ask(60, "quality", **processor).ranked if p.model == "llama3.1:70b-instruct")
    assert reason(seventy, "behind").values["rule"] == "bearable"
    assert reason(seventy, "speed").text.startswith("It works, slowly: expect some 0.6")


@pytest.mark.parametrize(("tokens_per_second", "first"), [(3.0, "larger"), (2.9, "other")])
def test_three_tokens_a_second_can_be_borne_and_fewer_cannot(tokens_per_second, first):
    larger = small("larger", parameters=2_000_000, benchmark_speed=seen(tokens_per_second))

    assert ask(8, candidates=[larger, small("other")]).best.model == first


def test_a_use_with_its_load_and_its_prompt_in_its_time_makes_no_model_too_slow():
    """A rating has three tokens: 1.2 s for them are 2.5 tokens a second, and nobody waits long."""
    used = small("larger", parameters=2_000_000, seen_speed=seen(2.5), success_count=100)
    quick = {"parameters": 2_000_000, "benchmark_speed": seen(2.5), "seen_speed": seen(3.5)}

    answer = ask(8, candidates=[used, small("other")])
    proved = ask(8, candidates=[small("larger", **quick), small("other")])

    assert (answer.best.model, answer.best.speed.tokens_per_second) == ("larger", 2.5)
    assert proved.best.model == "larger"


def test_what_was_measured_tells_nothing_of_what_spills_or_of_another_card():
    slow, other = Card(bandwidth_bytes_per_s=100e9, source="NVML"), Machine(is_here=False)
    used = with_one("llama3.1:8b-instruct", seen_speed=seen(30.0), benchmark_speed=seen(31.0))
    faster_than_can_be = with_one("llama3.1:8b-instruct", seen_speed=seen(60.0), benchmark_speed=seen(61.0))

    assert ask(8, candidates=used, machine=Machine(card=slow)).best.speed.basis == "history"
    assert ask(8, candidates=used, machine=other).best.speed is None
    assert ask(8, candidates=faster_than_can_be, machine=Machine(card=slow)).best.speed.basis == "estimate"


@pytest.mark.parametrize(("tokens_per_second", "basis"), [(20.0, "history"), (60.0, "estimate")])
def test_a_fast_processor_is_believed_what_only_a_card_can_do_is_not(tokens_per_second, basis):
    used = with_one("llama3.1:8b-instruct", seen_speed=seen(tokens_per_second))

    best = ask(8, candidates=used, source="processor", machine=Machine(card=Card(source="no card"))).best

    assert (best.model, best.speed.basis) == ("llama3.1:8b-instruct", basis)


def test_what_came_from_another_machine_is_not_said_to_be_from_here():
    used = {"success_count": 9, "failure_count": 1, "mean_seconds": 1.2, "score": 4.0, "score_count": 3}
    place = ask(8, candidates=with_one("llama3.1:8b-instruct", elsewhere=True, **used)).best

    assert reason(place, "proven").text == "Worked here and elsewhere 9 of 10 times, 1.2 s on average here."
    assert reason(place, "scored").text.startswith("Its answers were scored 3 times here and elsewhere: 4.0 of 5")


LIKE = {"success_count": 50, "mean_seconds": 1.0}


@pytest.mark.parametrize(
    ("first", "behind", "words"),
    [
        ({}, {"success_count": 50, "failure_count": 10}, "this one failed here 10 of 60 times"),
        ({"success_count": 60}, {"success_count": 50}, "this one worked fewer times here: 50"),
        (LIKE, {**LIKE, "mean_seconds": 1.25}, "this one took 1.2 s on average here"),
        (LIKE, {**LIKE, "mean_seconds": None}, "this one was not timed here"),
        ({}, {"quantization": "q8"}, "this one is 8-bit: larger and slower"),
        ({}, {"quantization": None}, "which form this one has is not known"),
        ({}, {"parameters": None}, "how many parameters this one has is not known"),
    ],
)
def test_what_puts_a_model_behind_is_said_as_it_is(first, behind, words):
    answer = ask(8, candidates=[small("a", **first), small("b", **behind)])

    assert answer.best.model == "a"
    assert reason(answer.ranked[1], "behind").text == f"Stands behind a (4-bit): {words}."


def test_where_quality_is_wished_the_less_fine_form_stands_behind():
    answer = ask(8, "quality", [small("a", quantization="q8"), small("b")])

    assert reason(answer.ranked[1], "behind").text == "Stands behind a (8-bit): this one is 4-bit: less fine."


def test_a_model_that_mostly_failed_and_has_no_rival_stands_first_and_says_so():
    best = ask(8, candidates=[small("only", failure_count=9)]).best

    assert reason(best, "unreliable").text == "Failed here 9 of 9 times; nothing else suits better."


def test_what_lies_partly_in_ram_as_it_is_loaded_now_says_so():
    place = ask(8, candidates=with_one("llama3.1:8b-instruct", installed=True, gpu_share=0.62)).best

    assert reason(place, "partly_in_ram").text.startswith("As it is loaded now, 62% of it lies on the card")
    assert "partly_in_ram" not in codes(ask(8, candidates=with_one("llama3.1:8b-instruct", gpu_share=1.0)).best)


def test_scores_of_its_answers_are_told():
    once = ask(8, candidates=with_one("llama3.1:8b-instruct", score=4.0, score_count=1)).best
    often = ask(8, candidates=with_one("llama3.1:8b-instruct", score=4.25, score_count=1200)).best

    assert reason(once, "scored").text == "Its answers were scored once here: 4.0 of 5 on average."
    assert reason(often, "scored").text == "Its answers were scored 1,200 times here: 4.2 of 5 on average."


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({}, "its own answers were not scored often enough here"),
        ({"score": 1.0, "score_count": 2}, "its own answers were not scored often enough here"),
        ({"score": 1.0, "score_count": 3}, "its own answers were scored 1.0 on average, 3 times here"),
    ],
)
def test_what_is_scored_lower_is_told_its_own_scores(scores, words):
    answer = ask(8, candidates=[small("liked", score=5.0, score_count=50), small("other", **scores)])

    assert answer.best.model == "liked"
    assert reason(answer.ranked[1], "behind").text == f"Stands behind liked (4-bit): {words}."


@pytest.mark.parametrize(
    ("source", "machine", "code", "words"),
    [
        (
            "probe",
            Machine(gpu="RTX 4060", total_bytes=8 * GIB, free_bytes=6 * GIB),
            "free_now",
            "RTX 4060 has 6 GiB of its 8 GiB free now.",
        ),
        (
            "probe",
            Machine(gpu="RTX 4060", total_bytes=8 * GIB, free_bytes=2 * GIB, held_bytes=4 * GIB),
            "free_now",
            "RTX 4060 has 2 GiB of its 8 GiB free now; what Ollama has loaded (4 GiB) would make room.",
        ),
        ("probe", Machine(gpu="RX 7800", total_bytes=8 * GIB), "free_unknown", "all of its 8 GiB were counted"),
        ("setting", Machine(cap_bytes=8 * GIB), "capped", "MODEL_MANAGER_VRAM_GB"),
        ("processor", Machine(ram_free_bytes=16 * GIB), "on_processor", "Half of the 16 GiB of RAM that are free"),
        ("processor", Machine(), "on_processor", "How much RAM is free is not known; 8 GiB were assumed."),
        (
            "processor",
            Machine(ram_free_bytes=40 * GIB, cap_bytes=8 * GIB),
            "on_processor",
            "No more than 8 GiB of RAM may be used: MODEL_MANAGER_VRAM_GB says so.",
        ),
        ("processor", Machine(ram_free_bytes=40 * GIB), "on_processor", "slowly. 8 GiB of RAM were counted."),
    ],
)
def test_the_answer_says_what_the_memory_was_made_of(source, machine, code, words):
    answer = ask(8, source=source, machine=machine)

    assert words in reason(answer.best, code).text
    assert code not in codes(answer.ranked[1])


# --- what was not chosen ---------------------------------------------------------------------------------------------


def not_chosen(answer, model, quantization="q4"):
    return next(one for one in answer.not_chosen if (one.model, one.quantization) == (model, quantization))


def test_what_does_not_fit_says_by_how_much_and_each_thing_that_would_change_that():
    answer = ask(6.5, context_tokens=16_384, machine=Machine(total_bytes=8 * GIB, ram_free_bytes=16 * GIB))

    eight = not_chosen(answer, "llama3.1:8b-instruct")
    ways = {way.code: way for way in eight.ways}
    assert eight.verdict is Verdict.SPILLS
    assert eight.reason.values["missing_bytes"] == eight.need_bytes - int(6.5 * GIB)
    assert set(ways) == {"shorter_context", "smaller_cache", "free_memory"}
    assert ways["shorter_context"].values["context_tokens"] == 8192
    assert "OLLAMA_KV_CACHE_TYPE=q8_0" in ways["smaller_cache"].text


def test_the_smaller_form_of_a_model_is_named_as_a_way():
    answer = ask(8, "quality")

    ways = {way.code: way for way in not_chosen(answer, "llama3.1:8b-instruct", "q8").ways}
    assert ways["smaller_form"].values["quantization"] == "q4"
    assert ways["smaller_form"].text == "Its 4-bit form needs 5.54 GiB, and fits."


def test_what_no_card_of_this_size_holds_is_not_promised_for_closing_a_program():
    answer = ask(8, source="probe", machine=Machine(total_bytes=8 * GIB))

    assert [way.code for way in not_chosen(answer, "llama3.1:70b-instruct").ways] == ["smaller_model"]


@pytest.mark.parametrize(
    ("changes", "criteria", "code"),
    [
        ({"capabilities": ("embedding",)}, {}, "cannot_answer"),
        ({"published": False}, {}, "not_published"),
        ({}, {"needs": ["vision"]}, "lacks_ability"),
        ({"capabilities": ("completion", "vision")}, {}, "for_photos"),
        ({"purpose": ModelPurpose.SPECIALIZED}, {}, "specialized"),
        ({}, {"installed_only": True}, "not_installed"),
    ],
)
def test_what_takes_no_part_says_why(changes, criteria, code):
    chosen = small("chosen", installed=True, capabilities=("completion", *criteria.get("needs", ())))

    answer = ask(8, candidates=[chosen, small("other", **changes)], **criteria)

    assert [(one.model, one.reason.code) for one in answer.not_chosen] == [("other", code)]
    assert answer.not_chosen[0].reason.text.endswith(".")


def test_of_many_that_were_not_chosen_the_nearest_are_told():
    large = [small(f"m{n:03}", memory=MemoryProfile(file_bytes=(100 - n) * GIB)) for n in range(60)]

    answer = ask(8, candidates=[small("m"), *large])

    assert (len(answer.not_chosen), answer.not_chosen_count) == (10, 60)
    needs = [one.need_bytes for one in answer.not_chosen]
    assert needs == sorted(needs)


# --- the rules in words ----------------------------------------------------------------------------------------------


def test_every_rule_stands_in_the_documentation_with_its_reason():
    text = " ".join((Path(__file__).resolve().parents[2] / "docs" / "recommendation.md").read_text("utf-8").split())

    for rule in RULES:
        assert f"`{rule.name}` | {rule.why} |" in text


# --- properties ------------------------------------------------------------------------------------------------------

profiles = st.sampled_from([candidate.memory for candidate in CATALOGUE]) | st.builds(
    MemoryProfile, file_bytes=st.integers(0, 60 * GIB), context_limit=st.none() | st.integers(1, 200_000)
)
candidate_lists = st.lists(
    st.builds(
        Candidate,
        name=st.text("abc", min_size=1, max_size=3),
        memory=profiles,
        purpose=st.sampled_from(ModelPurpose),
        quantization=st.sampled_from([None, "q4", "q8", "Q5_K_M"]),
        parameters=st.none() | st.sampled_from([1_230_000_000, 8_030_261_248, 70_550_000_000]),
        capabilities=st.sampled_from([("completion",), ("completion", "vision"), ("embedding",)]),
        installed=st.booleans(),
        published=st.booleans(),
        download_bytes=st.none() | st.integers(1, 10**11),
        approximate=st.booleans(),
        success_count=st.integers(0, 50),
        failure_count=st.integers(0, 50),
        mean_seconds=st.none() | st.floats(0.001, 1000),
        score=st.none() | st.floats(0, 5),
        score_count=st.integers(0, 50),
        seen_speed=st.none() | st.floats(0.01, 500).map(seen),
        gpu_share=st.none() | st.floats(0, 1),
        context_tokens=st.none() | st.integers(1, 140_000),
    ),
    max_size=12,
    unique_by=lambda candidate: (candidate.name, candidate.quantization),
)
criterias = st.builds(
    Criteria,
    available_bytes=st.integers(0, 90 * GIB),
    priority=st.sampled_from(["speed", "balanced", "quality"]),
    context_tokens=st.integers(1, 140_000),
    needs=st.sampled_from([(), ("vision",)]),
    installed_only=st.sampled_from([None, True, False]),
    source=st.sampled_from(["caller", "setting", "probe", "processor", "assumed"]),
    kv_type=st.sampled_from(["f16", "q8_0"]),
    parallel=st.integers(1, 3),
    machine=st.builds(
        Machine,
        gpu=st.none() | st.just("RTX 4060"),
        total_bytes=st.none() | st.integers(0, 90 * GIB),
        free_bytes=st.none() | st.integers(0, 90 * GIB),
        ram_free_bytes=st.none() | st.integers(0, 90 * GIB),
        card=st.none() | st.builds(Card, bandwidth_bytes_per_s=st.none() | st.floats(1e9, 4e12), source=st.just("t")),
    ),
)


def answer_or_error(candidates, criteria):
    try:
        return recommend(candidates, criteria, limit=None)
    except NoSuitableModel as error:
        return str(error), error.facts


@given(candidates=candidate_lists, criteria=criterias, data=st.data())
def test_the_order_of_the_candidates_does_not_matter(candidates, criteria, data):
    shuffled = data.draw(st.permutations(candidates))

    assert answer_or_error(shuffled, criteria) == answer_or_error(candidates, criteria)


@given(candidates=candidate_lists, criteria=criterias)
def test_every_recommended_model_passes_the_check_and_the_wish(candidates, criteria):
    answer = answer_or_error(candidates, criteria)
    if isinstance(answer, tuple):
        return
    by_name = {(candidate.name, candidate.quantization): candidate for candidate in candidates}

    for place in answer.ranked:
        candidate = by_name[place.model, place.quantization]
        check = check_fit(used_as(candidate, criteria), place.model, place.quantization, candidate.memory)
        assert check.compatible
        assert (check.verdict, check.need, check.margin_bytes) == (place.verdict, place.need, place.margin_bytes)
        assert candidate.published or candidate.installed
        assert candidate.installed or not criteria.installed_only
        assert ("vision" in candidate.capabilities) == ("vision" in criteria.needs)


@given(candidates=candidate_lists, criteria=criterias)
def test_an_empty_answer_means_that_nothing_allowed_fits(candidates, criteria):
    answer = answer_or_error(candidates, criteria)
    if not isinstance(answer, tuple):
        return
    _, facts = answer

    smallest = facts["smallest_need_bytes"]
    assert smallest is None or smallest > criteria.available_bytes
    for hope in facts["would_fit"]:
        shorter = criteria.model_copy(update={"context_tokens": hope["context_tokens"]})
        reloaded = [replace(candidate, context_tokens=None) for candidate in candidates]
        places = {(place.model, place.quantization): place for place in recommend(reloaded, shorter).ranked}
        assert places[hope["model"], hope["quantization"]].need.total == hope["need_bytes"]


@given(candidates=candidate_lists, criteria=criterias, more=st.integers(0, 90 * GIB))
def test_more_memory_never_gives_a_worse_verdict(candidates, criteria, more):
    before = answer_or_error(candidates, criteria)
    if isinstance(before, tuple):
        return
    after = recommend(
        candidates, criteria.model_copy(update={"available_bytes": criteria.available_bytes + more}), limit=None
    )

    verdicts = {(place.model, place.quantization): place.verdict for place in after.ranked}
    for place in before.ranked:
        assert verdicts[place.model, place.quantization].rank <= place.verdict.rank


@given(candidates=candidate_lists, criteria=criterias, data=st.data())
def test_a_success_never_lowers_a_place_and_a_failure_never_raises_it(candidates, criteria, data):
    answer = answer_or_error(candidates, criteria)
    if isinstance(answer, tuple):
        return
    name, quantization = data.draw(st.sampled_from(names(answer)))
    changed = next(c for c in candidates if (c.name, c.quantization) == (name, quantization))

    def place_with(**changes):
        again = recommend(with_one(name, quantization, candidates, **changes), criteria, limit=None)
        return names(again).index((name, quantization))

    place = names(answer).index((name, quantization))
    seconds = changed.mean_seconds or data.draw(st.floats(0.001, 86_400))
    with_tokens = {"mean_seconds": seconds, "seen_speed": data.draw(st.floats(0.001, 10_000).map(seen))}
    assert place_with(success_count=changed.success_count + 1) <= place
    assert place_with(success_count=changed.success_count + 1, **with_tokens) <= place
    assert place_with(failure_count=changed.failure_count + 1) >= place


@settings(max_examples=200)
@given(candidates=candidate_lists, criteria=criterias)
def test_the_reasons_say_nothing_but_what_the_answer_holds(candidates, criteria):
    answer = answer_or_error(candidates, criteria)
    if isinstance(answer, tuple):
        return
    by_name = {(candidate.name, candidate.quantization): candidate for candidate in candidates}

    for index, place in enumerate(answer.ranked):
        candidate = by_name[place.model, place.quantization]
        found = {reason.code: reason for reason in place.reasons}
        assert len(found) == len(place.reasons)

        memory = found[place.verdict.value]
        assert memory.values["need_bytes"] == place.need.total
        assert memory.values["margin_bytes"] == place.margin_bytes
        assert memory.values["available_bytes"] == criteria.available_bytes
        assert format_memory(place.need.high) in memory.text
        assert format_memory(place.margin_bytes) in memory.text
        assert format_memory(criteria.available_bytes) in memory.text

        assert ("installed" in found) == place.installed
        if not place.installed:
            download = found.get("download") or found["larger_download"]
            assert download.values["download_bytes"] == place.download_bytes
            if place.download_bytes is not None:
                assert format_download(place.download_bytes) in download.text

        assert ("unreliable" in found) != ("proven" in found or "unproven" in found)
        if "unreliable_form" in found:
            assert candidate.success_count == 0
            values = found["unreliable_form"].values
            form = by_name[place.model, values["quantization"]]
            assert (form.failure_count, form.use_count) == (values["failure_count"], values["use_count"])
            assert not form.reliable
        if "proven" in found:
            assert found["proven"].values["success_count"] == candidate.success_count
            assert f"{candidate.success_count} of {candidate.use_count} times" in found["proven"].text
            if candidate.mean_seconds is not None:
                assert format_seconds(candidate.mean_seconds) in found["proven"].text

        if "larger_download" in found:
            assert index == 1
            assert answer.best.installed and answer.best.purpose is place.purpose
        if "passed_over" in found:
            assert index == 0
        if "own_context" in found:
            assert (
                place.need.context_tokens <= found["own_context"].values["context_tokens"] == candidate.context_tokens
            )
        if "nearest_purpose" in found:
            assert criteria.priority.value not in [p.purpose.value for p in answer.ranked]

"""What the answers of a benchmark add up to: loads apart, failures apart, and nothing made up."""

from __future__ import annotations

import csv
import io
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.benchmark_records import Benchmark, BenchmarkModel, Load, Result
from model_core.benchmark_results import (
    FEWEST_TOKENS_FOR_A_RATE,
    OF_ANSWERS,
    RELOADED_FROM_S,
    as_csv,
    differences,
    figures,
    load_of,
    quantile,
    result_of,
    speeds,
    summaries,
)
from model_core.records import GIB, Answer, RunningModel

ASK = Result(model="a", round=1, prompt=0)
WARM_S = 0.0015


def an_answer(**known):
    facts = {
        "text": "Soft light.",
        "total_seconds": 3.0 + WARM_S,
        "load_seconds": WARM_S,
        "answer_seconds": 2.0,
        "prompt_tokens": 70,
        "answer_tokens": 80,
        "tokens_per_second": 40.0,
        "done_reason": "length",
    }
    return Answer(model="a", **(facts | known))


def measured_of(answer, first_piece_s=0.7):
    return result_of(ASK, answer, first_piece_s, most_tokens=80)


def running(size=3 * GIB, on_card=3 * GIB, context=4096):
    return RunningModel(
        name="a", digest="d", size_bytes=size, size_vram_bytes=on_card, context_tokens=context, expires_at=None
    )


def a_benchmark(results=(), loads=(), names=("a", "b"), **known):
    models = tuple(
        BenchmarkModel(name=name, ollama_name=name, digest=name * 4, quantization="Q4_K_M") for name in names
    )
    return Benchmark(
        id="b1", state="running", models=models, prompts=("one", "two"), results=results, loads=loads, **known
    )


def a_result(model="a", rate=40.0, **known):
    return Result(
        **{
            "model": model,
            "round": 1,
            "prompt": 0,
            "tokens_per_second": rate,
            "first_token_seconds": 0.5,
            "answer_seconds": 3.0,
            **known,
        }
    )


# --- what advice takes from it ---------------------------------------------------------------------------------------


def a_measured(rate, **known):
    job = a_benchmark([a_result(rate=rate), a_result(rate=rate + 2, round=2)], **known)
    return job.model_copy(update={"summary": summaries(job)})


def test_the_speed_that_counts_is_the_last_one_on_this_card_by_digest():
    jobs = [a_measured(30.0, gpu="RTX"), a_measured(40.0, gpu="RTX"), a_measured(90.0, gpu="another")]

    found = speeds(jobs, gpu="RTX", simulated=False)

    assert set(found) == {"aaaa"}  # nothing was measured of b
    assert (found["aaaa"].tokens_per_second, found["aaaa"].basis) == (41.0, "benchmark")
    assert found["aaaa"].source == "2 answers in a benchmark here"


def test_what_spilled_when_it_was_measured_tells_nothing_of_what_lies_on_the_card():
    spilled = (Load(model="a", round=1, seconds=5.0, size_bytes=4 * GIB, gpu_share=0.5),)

    assert speeds([a_measured(9.0, loads=spilled)], gpu=None, simulated=False) == {}


def test_figures_of_the_demonstration_count_for_nothing_but_the_demonstration():
    jobs = [a_measured(30.0, simulated=True)]

    assert speeds(jobs, gpu=None, simulated=False) == {}
    assert set(speeds(jobs, gpu=None, simulated=True)) == {"aaaa"}


# --- one answer ------------------------------------------------------------------------------------------------------


def test_a_warm_answer_is_told_as_ollama_measured_it():
    result = measured_of(an_answer(), first_piece_s=0.7)

    assert (result.tokens_per_second, result.first_token_seconds) == (40.0, 0.7)
    assert result.answer_seconds == pytest.approx(3.0)
    assert (result.answer_tokens, result.prompt_tokens, result.done_reason) == (80, 70, "length")
    assert (result.reloaded, result.load_seconds, result.error) == (False, None, None)


def test_where_the_model_had_been_pushed_out_the_load_is_told_apart():
    result = measured_of(an_answer(load_seconds=6.0, total_seconds=9.0), first_piece_s=6.7)

    assert (result.reloaded, result.load_seconds) == (True, 6.0)
    assert result.first_token_seconds == pytest.approx(0.7)
    assert result.answer_seconds == pytest.approx(3.0)


@pytest.mark.parametrize(("load_s", "reloaded"), [(RELOADED_FROM_S, True), (RELOADED_FROM_S - 1e-9, False)])
def test_a_load_is_what_takes_longer_than_looking_for_a_warm_model(load_s, reloaded):
    assert measured_of(an_answer(load_seconds=load_s), 0.7).reloaded is reloaded


def test_two_clocks_never_make_a_time_below_zero():
    result = measured_of(an_answer(load_seconds=6.0, total_seconds=5.9), first_piece_s=5.99)

    assert (result.first_token_seconds, result.answer_seconds) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("tokens", "rate"), [(FEWEST_TOKENS_FOR_A_RATE, 40.0), (FEWEST_TOKENS_FOR_A_RATE - 1, None), (None, None)]
)
def test_an_answer_of_a_few_words_has_no_speed(tokens, rate):
    assert measured_of(an_answer(answer_tokens=tokens, done_reason="stop")).tokens_per_second == rate


def test_what_ollama_does_not_tell_stays_unknown():
    silent = Answer(model="a", text="Soft light.")

    result = measured_of(silent, None)

    assert (result.tokens_per_second, result.first_token_seconds, result.answer_seconds) == (None, None, None)
    assert result.error is None


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"text": " \n"}, "The answer was empty."),
        ({"text": "", "thinking": " "}, "The answer was empty."),
        ({"answer_tokens": 79}, "cut short after 79 of 80 tokens: the context was full"),
    ],
)
def test_an_answer_that_says_nothing_or_broke_off_is_a_failure_and_not_the_fastest(known, words):
    result = measured_of(an_answer(**known))

    assert words in result.error
    assert (result.tokens_per_second, result.first_token_seconds, result.answer_seconds) == (None, None, None)


@pytest.mark.parametrize(
    "known",
    [
        {"text": "", "thinking": "Hm."},  # there are models that cannot be told not to
        {"answer_tokens": 3, "done_reason": "stop"},
        {"answer_tokens": None},
    ],
)
def test_an_answer_that_ended_by_itself_is_whole_however_short(known):
    assert measured_of(an_answer(**known)).error is None


# --- one load --------------------------------------------------------------------------------------------------------


def test_a_load_has_its_time_and_the_share_on_the_card():
    load = load_of("a", 2, 5.5, None, running(size=8 * GIB, on_card=2 * GIB))

    assert (load.seconds, load.already_loaded, load.round) == (5.5, False, 2)
    assert (load.size_bytes, load.size_vram_bytes, load.gpu_share) == (8 * GIB, 2 * GIB, 0.25)


@pytest.mark.parametrize(
    ("before", "seconds"),
    [(running(), 0.3), (None, 0.002)],
    ids=["Ollama showed it, far away", "shown under another name"],
)
def test_where_there_was_nothing_to_load_no_time_is_told(before, seconds):
    load = load_of("a", 1, seconds, before, running())

    assert (load.already_loaded, load.seconds) == (True, None)


def test_a_model_that_was_there_with_another_context_was_loaded_again():
    assert load_of("a", 1, 5.5, running(context=2048), running()).seconds == 5.5


@pytest.mark.parametrize("after", [None, running(size=None, on_card=None), running(size=None)])
def test_a_size_that_ollama_does_not_know_is_unknown_and_not_nothing(after):
    load = load_of("a", 1, 5.5, None, after)

    assert (load.size_bytes, load.gpu_share) == (None, None)


def test_a_model_that_lies_in_ram_alone_has_a_share_of_nothing():
    assert load_of("a", 1, 5.5, None, running(on_card=0)).gpu_share == 0.0


# --- what they add up to ---------------------------------------------------------------------------------------------

some = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


@given(some)
def test_figures_lie_where_they_must(values):
    found = figures(values)

    assert found.min <= found.median <= found.max
    assert found.median <= found.p95 <= found.max or len(values) == 1
    assert found.min * (1 - 1e-12) <= found.mean <= found.max * (1 + 1e-12)
    assert (found.min, found.max, found.count) == (min(values), max(values), len(values))


@given(some, st.randoms(use_true_random=False))
def test_figures_do_not_depend_on_the_order(values, chance):
    mixed = list(values)
    chance.shuffle(mixed)

    one, other = figures(values), figures(mixed)

    assert one.model_dump(exclude={"mean"}) == other.model_dump(exclude={"mean"})
    assert one.mean == pytest.approx(other.mean)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_the_quantile_is_the_one_that_the_library_knows(values):
    ordered = sorted(values)

    assert quantile(ordered, 0.95) == pytest.approx(statistics.quantiles(ordered, n=20, method="inclusive")[-1])


def test_of_nothing_there_are_no_figures():
    assert figures([]) is None
    assert figures([None, None]) is None


def side_by_side(rates, others, **known):
    """Return a benchmark of two models, a round for each pair of rates; a rate of None is a failure."""
    return a_benchmark(
        [
            a_result(name, rate=rate, round=number, error=None if rate else "It broke off.")
            for name, own in (("a", rates), ("b", others))
            for number, rate in enumerate(own, 1)
        ],
        **known,
    )


def test_who_is_faster_on_the_same_prompt_in_every_round_is_ahead():
    found = differences(side_by_side([10.0, 50.0, 20.0, 60.0, 30.0, 40.0], [9.0, 49.0, 19.0, 59.0, 29.0, 39.0]))

    assert (found["tokens_per_second"].winner, found["tokens_per_second"].word) == ("a", "real")
    assert found["answer_seconds"].word == "noise"  # every answer took the same time
    assert found["load_seconds"].word == "too_few"
    assert set(found) == {*OF_ANSWERS, "load_seconds"}


def test_loads_are_compared_though_they_never_stand_side_by_side():
    loads = [
        Load(model=name, round=number, seconds=seconds + number / 100, already_loaded=False)
        for name, seconds, begins in (("a", 2.0, 1), ("b", 9.0, 2))
        for number in range(begins, 12, 2)
    ]

    found = differences(a_benchmark(loads=loads))["load_seconds"]

    assert (found.winner, found.word, found.sizes) == ("a", "real", {"a": 6, "b": 5})


def test_every_load_of_a_round_counts_also_where_it_was_taken_up_again():
    loads = [Load(model="a", round=1, seconds=0.3), Load(model="a", round=1, seconds=0.9)]

    row, _ = summaries(a_benchmark(loads=loads))

    assert (row.load_seconds.count, row.load_seconds.mean) == (2, pytest.approx(0.6))


def test_of_times_the_shorter_one_is_ahead():
    job = a_benchmark(
        [a_result(name, round=n, first_token_seconds=s) for n in range(9) for name, s in (("a", 2.0), ("b", 1.0))]
    )

    assert differences(job)["first_token_seconds"].winner == "b"


def test_where_answers_failed_it_is_said_whether_one_fails_more_often():
    found = differences(side_by_side([None] * 9, [20.0] * 9))

    assert found["success_rate"].winner == "b"
    assert found["success_rate"].text.startswith("b succeeded in 9 of 9 answers, a in 0 of 9")
    assert found["tokens_per_second"].word == "too_few"


def test_of_one_model_alone_there_is_nothing_to_tell():
    assert differences(a_benchmark([a_result()], names=("a",))) == {}


def test_a_range_is_told_where_there_is_one():
    one, several = a_benchmark(results=(a_result(),)), a_benchmark(results=(a_result(), a_result(rate=50.0, round=2)))

    assert summaries(one)[0].words.startswith("40.0 tokens a second; ")
    assert summaries(several)[0].words.startswith("45.0 tokens a second (40.0 to 50.0); ")


def test_a_failure_counts_and_has_no_time():
    failed = Result(model="a", round=1, prompt=1, error="It broke.")
    row, other = summaries(a_benchmark(results=(a_result(), failed)))

    assert (row.runs, row.failures, row.tokens_per_second.count) == (2, 1, 1)
    assert "1 of 2 answers failed." in row.words
    assert other.words == "Nothing was measured yet."


def test_memory_is_that_of_the_last_load_that_ollama_told():
    loads = (
        Load(model="a", round=1, seconds=5.0, size_bytes=4 * GIB, size_vram_bytes=4 * GIB, gpu_share=1.0),
        Load(model="a", round=2, seconds=6.0, size_bytes=4 * GIB, size_vram_bytes=2 * GIB, gpu_share=0.5),
        Load(model="a", round=3, error="It broke."),
    )
    row, _ = summaries(a_benchmark(results=(a_result(),), loads=loads))

    assert (row.size_bytes, row.gpu_share) == (4 * GIB, 0.5)
    assert "50 % of it on the card" in row.words
    assert row.load_seconds.count == 2


@pytest.mark.parametrize(
    ("loads", "words"),
    [
        ((Load(model="a", round=1, already_loaded=True),), "was in memory already"),
        ((Load(model="a", round=1, seconds=5.0),), "loads in 5.0 s"),
        ((Load(model="a", round=1, seconds=5.0, size_bytes=GIB, gpu_share=1.0),), "all on the card"),
        ((Load(model="a", round=1, seconds=5.0, size_bytes=GIB, gpu_share=0.0),), "nothing of it on a card"),
        ((Load(model="a", round=1, seconds=5.0, size_bytes=GIB),), "takes 1 GiB."),
    ],
)
def test_the_words_say_what_is_known_of_the_load(loads, words):
    assert words in summaries(a_benchmark(results=(a_result(),), loads=loads))[0].words


def test_a_model_that_was_given_up_says_why():
    job = a_benchmark()
    models = (job.models[0].model_copy(update={"given_up": "it failed 3 times."}), job.models[1])

    row = summaries(job.model_copy(update={"models": models}))[0]

    assert row.given_up == "it failed 3 times."
    assert row.words.endswith("Given up: it failed 3 times.")


# --- the table -------------------------------------------------------------------------------------------------------


def table_of(job):
    return list(csv.DictReader(io.StringIO(as_csv(job), newline="")))


def test_the_table_has_a_row_for_each_answer_and_reads_back():
    job = a_benchmark(
        results=(a_result(photo=1, load=0), a_result("b", None, error='It said "no", twice,\nand broke.')),
        loads=(Load(model="a", round=1, seconds=5.0, size_bytes=GIB, gpu_share=1.0),),
        simulated=True,
        ollama_version="0.33.0",
        gpu="a card",
    )

    first, second = table_of(job)

    assert (first["model"], first["prompt"], first["photo"], first["tokens_per_second"]) == ("a", "1", "2", "40")
    assert (first["load_seconds"], first["gpu_share"], first["digest"]) == ("5", "1", "aaaa")
    assert (first["benchmark"], first["simulated"], first["ollama_version"]) == ("b1", "true", "0.33.0")
    assert first["gpu"] == "a card"
    assert second["error"] == 'It said "no", twice,\nand broke.'
    assert (second["tokens_per_second"], second["load_seconds"], second["photo"]) == ("", "", "")


def test_a_load_within_an_answer_stands_in_its_row():
    job = a_benchmark(
        results=(a_result(reloaded=True, load_seconds=7.0, load=0),), loads=(Load(model="a", round=1, seconds=5.0),)
    )

    assert table_of(job)[0]["load_seconds"] == "7"


def test_a_benchmark_of_before_answers_knew_their_load_has_that_of_the_round():
    job = a_benchmark(results=(a_result(), a_result(round=2)), loads=(Load(model="a", round=1, seconds=0.3),))

    assert [row["load_seconds"] for row in table_of(job)] == ["0.3", ""]


def test_where_a_round_was_taken_up_again_each_answer_stands_beside_its_own_load():
    loads = (Load(model="a", round=1, seconds=0.3), Load(model="a", round=1, seconds=0.9))
    job = a_benchmark(results=(a_result(load=0), a_result(prompt=1, load=1)), loads=loads)

    assert [row["load_seconds"] for row in table_of(job)] == ["0.3", "0.9"]


def test_an_empty_table_has_its_head():
    assert as_csv(a_benchmark()).startswith("benchmark,simulated,")
    assert table_of(a_benchmark()) == []


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_text_is_a_formula(text):
    cell = table_of(a_benchmark(results=(a_result(error=text),)))[0]["error"]

    assert cell == f"'{text}"

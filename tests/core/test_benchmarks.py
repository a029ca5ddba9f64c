"""A benchmark asks everything once, in an order that is fair, says how far it is, and takes only what makes sense."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core import benchmarks
from model_core.benchmark_prompts import PHOTO_PROMPTS, PROMPTS
from model_core.benchmark_records import Benchmark, BenchmarkModel, BenchmarkState, Load, Photo, Result
from model_core.benchmarks import (
    ANSWER_TOKENS,
    ENDED,
    ENDED_KEPT,
    ENDED_KEPT_CHARACTERS,
    FAILURES_AT_THE_START,
    GOALS,
    KIND,
    LARGEST_PHOTO_BYTES,
    LONGEST_KEPT_ANSWER,
    LONGEST_PROMPT,
    MOST_ANSWERS,
    MOST_MODELS,
    MOST_PHOTOS,
    MOST_PROMPTS,
    MOST_RUNS,
    NEXT,
    OWNED,
    WISHES,
    brief,
    check,
    check_distinct,
    check_photos,
    checked_against,
    failure_of,
    fresh,
    in_phase,
    in_the_way,
    next_turn,
    photo_of,
    plan,
    pruned,
    sent,
    with_load,
    with_result,
)
from model_core.errors import BenchmarkFailed, InvalidRequest, InvalidTransition, OllamaUnavailable, as_facts

S = BenchmarkState
NOW, LATER = "2026-11-23T12:00:00.000000Z", "2026-11-23T13:00:00.000000Z"
JPEG, PNG, WEBP = b"\xff\xd8\xff\xe0...", b"\x89PNG\r\n\x1a\n...", b"RIFF\x10\x00\x00\x00WEBPVP8 "


def a_model(name, **known):
    return BenchmarkModel(name=name, ollama_name=f"{name}:latest", digest=f"digest of {name}", **known)


def a_benchmark(models=("a", "b"), prompts=("one", "two"), photos=0, runs=2, **known):
    shown = (Photo(sha256="ab", size_bytes=1, media_type="image/jpeg"),) * photos
    of = tuple(map(a_model, models))
    return fresh(Benchmark(**{"id": "b1", "models": of, "prompts": prompts, "photos": shown, "runs": runs, **known}))


def asked(job, **answered):
    """The benchmark after what is to be asked next has been answered."""
    turn = next_turn(job)
    prompt, photo = turn.asks[0]
    return with_result(
        job, Result(model=turn.model, round=turn.round, prompt=prompt, photo=photo, **{"answer": "x", **answered}), NOW
    )


def all_asked(job, **answered):
    while next_turn(job):
        job = asked(job, **answered)
    return job


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4))


# --- the states ------------------------------------------------------------------------------------------------------

PROMISED = """
    queued       running cancelled interrupted failed
    running      completed failed cancelled interrupted
    interrupted  queued cancelled
    completed
    failed
    cancelled
"""


def test_what_leads_where_is_what_was_promised():
    table = {start: set(ends) for start, *ends in (row.split() for row in PROMISED.strip().splitlines())}

    assert {state: set(ends) for state, ends in NEXT.items()} == table
    assert set(WISHES) == set(S)


@pytest.mark.parametrize(("start", "end"), list(product(S, S)))
def test_a_benchmark_goes_only_where_something_leads(start, end):
    job = a_benchmark(state=start)
    if end in NEXT[start]:
        assert KIND.moved(job, end, NOW).state is end
        return

    with pytest.raises(InvalidTransition) as refusal:
        KIND.moved(job, end, NOW)

    assert (refusal.value.benchmark, refusal.value.state) == ("b1", start)


def test_what_may_be_wished_leads_somewhere_and_only_what_has_ended_is_forgotten():
    for state, wishes in WISHES.items():
        assert ("forget" in wishes) == (state in ENDED)
        assert all(GOALS[wish] in NEXT[state] for wish in wishes if wish in GOALS)
        assert ("resume" in wishes) == (state is S.INTERRUPTED)


def test_who_lost_its_owner_is_shown_as_interrupted_with_what_to_do():
    orphan = KIND.orphan(a_benchmark(state="running"))

    assert orphan.state is S.INTERRUPTED
    assert "resume" in orphan.message


def test_a_cancelled_one_says_what_is_kept():
    job = asked(a_benchmark())

    assert KIND.left_behind(job, S.CANCELLED).startswith("Cancelled after 1 of 8 answers")
    assert KIND.left_behind(job, S.INTERRUPTED) is None


# --- the order -------------------------------------------------------------------------------------------------------


@given(sizes)
def test_everything_is_asked_exactly_once_in_each_round(size):
    models, prompts, photos, runs = size
    names = [f"m{number}" for number in range(models)]

    asks = [(turn.round, turn.model, *ask) for turn in plan(names, prompts, photos, runs) for ask in turn.asks]

    wanted = product(range(1, runs + 1), names, range(prompts), range(photos) if photos else [None])
    assert sorted(asks, key=repr) == sorted(wanted, key=repr)


@given(sizes)
def test_rounds_come_one_after_the_other_and_in_each_another_model_begins(size):
    models, prompts, photos, runs = size
    names = [f"m{number}" for number in range(models)]

    turns = plan(names, prompts, photos, runs)

    assert [turn.round for turn in turns] == sorted(turn.round for turn in turns)
    begin = [turns[round * models].model for round in range(runs)]
    assert begin == [names[round % models] for round in range(runs)]
    for round in range(runs):
        assert sorted(turn.model for turn in turns[round * models : (round + 1) * models]) == names


def test_the_next_photo_is_another_one_where_there_are_several():
    (turn,) = plan(["a"], prompts=2, photos=2, runs=1)

    shown = [photo for _, photo in turn.asks]
    assert all(one != other for one, other in pairwise(shown))


@given(sizes, st.integers(0, 200))
def test_whoever_goes_on_asks_what_is_missing_and_nothing_twice(size, broken_off_after):
    models, prompts, photos, runs = size
    job = a_benchmark([f"m{n}" for n in range(models)], ["p"] * prompts, photos, runs)
    for _ in range(broken_off_after):
        job = asked(job) if next_turn(job) else job

    job = all_asked(Benchmark.model_validate_json(job.model_dump_json()))

    places = [(result.round, result.model, result.prompt, result.photo) for result in job.results]
    assert len(places) == len(set(places)) == job.total == models * prompts * max(1, photos) * runs


# --- how far it is ---------------------------------------------------------------------------------------------------


@given(sizes, st.lists(st.booleans(), max_size=200))
def test_the_percentage_never_falls_and_is_100_at_the_end_alone(size, successes):
    models, prompts, photos, runs = size
    job = a_benchmark([f"m{n}" for n in range(models)], ["p"] * prompts, photos, runs)
    percents, fates = [job.percent], iter(successes)
    while next_turn(job):
        assert job.percent < 100
        job = asked(job) if next(fates, True) else asked(job, error="It broke.", answer=None)
        percents.append(job.percent)

    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert job.done == job.total


def test_every_change_has_a_version_of_its_own():
    job = a_benchmark()
    versions = [
        job.version,
        in_phase(job, "loading a", NOW).version,
        with_load(job, Load(model="a", round=1), NOW).version,
        asked(job).version,
    ]

    assert versions[1:] == [versions[0] + 1] * 3


def test_a_fresh_one_says_what_there_is_to_do():
    job = a_benchmark()

    assert (job.done, job.total, job.percent) == (0, 8, 0.0)
    assert [row.model for row in job.summary] == ["a", "b"]


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failure_is_noted_and_the_rest_goes_on():
    job = all_asked(asked(a_benchmark(), error="It broke.", answer=None))

    assert [bool(result.error) for result in job.results] == [True] + [False] * 7
    assert failure_of(job) is None


def test_a_model_that_fails_three_times_at_its_start_is_given_up_and_said_so():
    job = a_benchmark(prompts=("one",), runs=5)
    while next_turn(job):
        job = asked(job, **({"error": "It broke.", "answer": None} if next_turn(job).model == "a" else {}))

    of = {name: [result for result in job.results if result.model == name] for name in ("a", "b")}
    assert len(of["a"]) == FAILURES_AT_THE_START
    assert len(of["b"]) == 5
    assert "It broke." in job.models[0].given_up
    assert job.models[1].given_up is None
    assert job.total == job.done == 8


@pytest.mark.parametrize("good", [0, 1, 2])
def test_one_good_answer_among_the_first_three_keeps_a_model_in(good):
    job = a_benchmark(["a"], ["one"], runs=8)
    for number in range(8):
        job = asked(job) if number == good else asked(job, error="It broke.", answer=None)

    assert job.models[0].given_up is None


def test_nothing_good_at_all_is_a_failure_with_the_first_reason():
    job = all_asked(a_benchmark(["a"]), error="The card is full.", answer=None)

    failure = failure_of(job)

    assert isinstance(failure, BenchmarkFailed)
    assert "The card is full" in failure.reason


def test_what_ended_it_is_told_as_it_was():
    job = a_benchmark(error=as_facts(OllamaUnavailable("http://x")))

    assert isinstance(failure_of(job), OllamaUnavailable)


@pytest.mark.parametrize(
    ("digests", "words"),
    [
        ({"b:latest": "digest of b"}, "not installed any more"),
        ({"a:latest": "another", "b:latest": "digest of b"}, "another model"),
    ],
    ids=["gone", "changed"],
)
def test_a_model_that_is_not_what_it_was_is_left_out_and_its_answers_stay(digests, words):
    job = checked_against(asked(a_benchmark()), digests, LATER)

    assert words in job.models[0].given_up
    assert next_turn(job).model == "b"
    assert job.total == 1 + 4
    assert job.done == 1


def test_models_that_are_what_they_were_stay():
    job = a_benchmark()

    assert checked_against(job, {"a:latest": "digest of a", "b:latest": "digest of b"}, NOW).models == job.models


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_system", [None, "You judge photographs."])
@pytest.mark.parametrize("with_photo", [False, True])
def test_whatever_is_read_first_begins_as_nothing_did_before(own_system, with_photo):
    one, other = (sent("Rate it.", mark, own_system, with_photo=with_photo) for mark in ("4f2a", "9c01"))

    # Ollama reads the system's text first, then a photo, then the prompt.
    first_read = [(system or "") + ("photo" if with_photo else "") + prompt for prompt, system in (one, other)]
    assert first_read[0][:13] != first_read[1][:13]
    assert one[0].endswith("\nRate it.")
    assert own_system is None or one[1].endswith(own_system)


def test_a_model_is_told_nothing_as_its_system_that_need_not_be():
    assert sent("Rate it.", "4f2a", None, with_photo=False)[1] is None


def test_every_load_and_answer_has_the_same_options():
    job = a_benchmark(answer_tokens=64, context_tokens=2048, seed=7)

    assert benchmarks.options(job) == {"temperature": 0, "seed": 7, "num_predict": 64, "num_ctx": 2048}


# --- what may be asked for -------------------------------------------------------------------------------------------


def checked(**given):
    wish = {
        "models": ["a"],
        "prompts": None,
        "photos": [],
        "runs": 3,
        "answer_tokens": 128,
        "context_tokens": 4096,
        "seed": 42,
    }
    return check(**(wish | given))


def test_without_prompts_it_is_autodevs_kind_of_work_that_is_asked_for():
    assert checked().prompts == PROMPTS
    assert checked(photos=[JPEG]).prompts == PHOTO_PROMPTS
    assert all(len(prompt) <= LONGEST_PROMPT for prompt in PROMPTS + PHOTO_PROMPTS)
    assert any("SCORE:" in prompt for prompt in PROMPTS)
    assert not any("EXIF" in prompt for prompt in PHOTO_PROMPTS)


@pytest.mark.parametrize(
    "given",
    [
        {"models": [f"m{n}" for n in range(MOST_MODELS)]},
        {"prompts": ["x" * LONGEST_PROMPT] * MOST_PROMPTS},
        {"runs": MOST_RUNS},
        {"runs": 1},
        {"photos": [JPEG] * MOST_PHOTOS, "prompts": ["x"]},
        {"photos": [JPEG, PNG, WEBP]},
        {"answer_tokens": ANSWER_TOKENS[0]},
        {"answer_tokens": ANSWER_TOKENS[1]},
        {"seed": 0},
        {"prompts": ["x"] * MOST_PROMPTS, "runs": MOST_ANSWERS // MOST_PROMPTS // 2, "models": ["a", "b"]},
    ],
    ids=lambda given: ", ".join(given),
)
def test_what_is_at_the_limit_is_taken(given):
    assert checked(**given)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"models": []}, "models"),
        ({"models": "llama3.2:1b"}, "models"),
        ({"models": [1]}, "models"),
        ({"models": None}, "models"),
        ({"models": ["m"] * (MOST_MODELS + 1)}, "models"),
        ({"prompts": []}, "prompts"),
        ({"prompts": "Rate it."}, "prompts"),
        ({"prompts": ["x"] * (MOST_PROMPTS + 1)}, "prompts"),
        ({"prompts": ["fine", " \n"]}, "prompts.1"),
        ({"prompts": ["x" * (LONGEST_PROMPT + 1)]}, "prompts.0"),
        ({"prompts": ["fine", "half a \ud83d"]}, "prompts.1"),
        ({"photos": [JPEG] * (MOST_PHOTOS + 1)}, "photos"),
        ({"photos": [JPEG, b"GIF89a"]}, "photos.1"),
        ({"photos": [b""]}, "photos.0"),
        ({"photos": [JPEG + bytes(LARGEST_PHOTO_BYTES)]}, "photos.0"),
        ({"runs": 0}, "runs"),
        ({"runs": MOST_RUNS + 1}, "runs"),
        ({"runs": 1.5}, "runs"),
        ({"runs": True}, "runs"),
        ({"runs": float("nan")}, "runs"),
        ({"answer_tokens": ANSWER_TOKENS[0] - 1}, "answer_tokens"),
        ({"answer_tokens": ANSWER_TOKENS[1] + 1}, "answer_tokens"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"context_tokens": "4096"}, "context_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"models": ["a"] * 8, "prompts": ["x"] * 20, "runs": 4}, "runs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused_by_its_field(given, field):
    with pytest.raises(InvalidRequest) as refusal:
        checked(**given)

    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("models", "prompts", "photos", "runs"),
    [(1, 3, 0, 5), (2, 3, 0, 6), (3, 3, 0, 7), (8, 3, 0, 9), (2, 20, 2, 6), (2, 20, 10, 1), (8, 20, 0, 3)],
)
def test_where_no_runs_are_named_there_are_as_many_as_it_takes_to_tell_or_as_there_may_be(
    models, prompts, photos, runs
):
    asked = checked(
        models=[f"m{number}" for number in range(models)],
        prompts=["Rate it."] * prompts,
        photos=[JPEG + bytes([number]) for number in range(photos)],
        runs=None,
    )

    assert asked.runs == runs


def test_a_result_knows_the_load_before_it():
    job = a_benchmark(["a", "b"], ["one"])
    for model in ("a", "b", "a"):
        job = with_load(job, Load(model=model, round=1), "now")
    job = with_result(job, Result(model="a", round=1, prompt=0, answer="Fine."), "now")
    job = with_result(job, Result(model="b", round=1, prompt=0, answer="Fine."), "now")

    assert [result.load for result in job.results] == [2, 1]


def test_too_much_together_is_refused_with_all_the_figures():
    with pytest.raises(InvalidRequest, match="2 models, 20 prompts, 2 photos and 8 runs make 640 answers"):
        checked(models=["a", "b"], prompts=["x"] * 20, photos=[JPEG, PNG], runs=8)


def test_a_photo_is_refused_in_the_words_of_who_sent_it():
    with pytest.raises(InvalidRequest) as refusal:
        check_photos([JPEG, b"no photo"], "images")

    assert refusal.value.field == "images.1"


def test_of_a_photo_its_digest_size_and_kind_are_kept():
    photo = photo_of(PNG)

    assert (photo.size_bytes, photo.media_type, len(photo.sha256)) == (len(PNG), "image/png", 64)


def test_two_names_of_one_model_are_refused_with_both():
    with pytest.raises(InvalidRequest, match="a and my-a are one model"):
        check_distinct([a_model("a"), a_model("my-a").model_copy(update={"digest": "digest of a"})])
    with pytest.raises(InvalidRequest, match="a is named twice"):
        check_distinct([a_model("a"), a_model("a")])


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_the_first_good_answer_to_each_question_is_kept_and_no_other():
    job = a_benchmark(["a"], ["one"], runs=4)
    job = asked(job, error="It broke.", answer=None)
    job = asked(job, answer="x" * 5000)
    job = asked(job, answer="another")

    assert [result.answer for result in job.results] == [None, "x" * LONGEST_KEPT_ANSWER, None]


def test_answers_to_different_questions_are_kept_each():
    job = all_asked(a_benchmark(photos=2))

    assert sum(result.answer is not None for result in job.results) == 2 * 2 * 2


def ended_at(number, **known):
    done = {"id": f"b{number}", "state": S.COMPLETED, "finished_at": f"2026-11-23T12:{number:02}:00.000000Z"}
    return a_benchmark().model_copy(update=done | known)


def test_the_oldest_ended_ones_go_and_what_is_open_never():
    jobs = {job.id: job for job in (ended_at(n) for n in range(ENDED_KEPT + 2))}
    open_one = a_benchmark(id="open", state="interrupted")

    left = pruned({"open": open_one, **jobs})

    assert set(left) == {"open", *(f"b{n}" for n in range(2, ENDED_KEPT + 2))}


def test_the_document_stays_small_however_long_the_prompts_are():
    long = ("x" * LONGEST_PROMPT,) * MOST_PROMPTS
    jobs = {job.id: job for job in (ended_at(n, prompts=long) for n in range(ENDED_KEPT + 10))}
    heavy = {key: job.model_copy(update={"prompts": long * 2}) for key, job in jobs.items()}

    left = pruned(heavy)

    assert 0 < len(left) < ENDED_KEPT
    assert sum(len(prompt) for job in left.values() for prompt in job.prompts) <= ENDED_KEPT_CHARACTERS
    assert f"b{ENDED_KEPT + 9}" in left


def test_lists_and_events_leave_out_what_is_long():
    job = all_asked(a_benchmark())

    shown = brief(job)

    assert not {"prompts", "results", "loads"} & set(shown)
    assert shown["summary"][0]["runs"] == 4
    assert shown["models"][0]["name"] == "a"


@pytest.mark.parametrize("state", S)
def test_only_what_is_under_way_keeps_its_models_from_being_deleted(state):
    job = a_benchmark(state=state)

    assert in_the_way([job], ["A:LATEST"]) == (job if state in OWNED else None)
    assert in_the_way([job], ["c:latest"]) is None

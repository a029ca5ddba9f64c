"""A benchmark measures what it says, goes on whatever fails, stops when it is told to, and loses nothing it has."""

from __future__ import annotations

import stat
import threading
import time
from itertools import pairwise

import pytest
from benchmark_scenes import (
    EMBEDDING,
    JPEG,
    ONE,
    ONE_TAG,
    PNG,
    SEEING,
    SEEING_TAG,
    SHORT,
    THINKING,
    THREE,
    THREE_TAG,
    counted,
    ended,
    generations,
    install,
    loads,
)
from download_scenes import IMPATIENT, SOON_S, Answer, asked, until

from model_core.benchmark_records import BenchmarkState
from model_core.benchmarks import ENDED_KEPT, FAILURES_AT_THE_START
from model_core.errors import (
    BenchmarkNotFound,
    BenchmarkUnsuitable,
    InvalidRequest,
    InvalidTransition,
    ModelInUse,
    ModelNotFound,
    ModelNotInstalled,
    ModelNotPublished,
    OllamaUnavailable,
    StoreUnwritable,
)
from model_core.patience import Patience
from model_core.records import GIB
from model_core.simulated_library import make_model
from model_manager import ModelManager
from ollama_simulator import OllamaSimulator

S = BenchmarkState
ONE_Q8_TAG = "llama3.2:1b-instruct-q8_0"
ANSWER_S = 3.0  # so soon a cancel is answered, also on a busy machine


@pytest.fixture
def managers(simulator, tmp_path):
    """Makes managers on one document and one Ollama that holds models."""
    install(simulator)
    made = []

    def make(**options) -> ModelManager:
        made.append(ModelManager(simulator.url, tmp_path / "document.json", **{"patience": IMPATIENT, **options}))
        return made[-1]

    yield make
    simulator.clear_faults()
    for manager in made:
        manager.close()
    until(lambda: not leftovers(), f"the end of {leftovers()}")


@pytest.fixture
def manager(managers) -> ModelManager:
    return managers()


def leftovers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("benchmark-", "generate "))]


def files_of(manager: ModelManager) -> set[str]:
    folder = manager.store.path.with_name("document.json.benchmarks")
    return {path.name for path in folder.iterdir() if "photo" in path.name or path.suffix in (".wish", ".lock")} - {
        "slot-0.lock",
        "benchmarks.json.lock",
    }


def measured(manager, *models, **how):
    job = manager.start_benchmark(models or [ONE], **{"prompts": SHORT, "runs": 1, **how})
    return ended(manager, job)


# --- what it measures ------------------------------------------------------------------------------------------------


def test_two_models_on_three_prompts_of_ones_own_are_measured_and_told(manager):
    job = measured(manager, ONE, THREE, prompts=["Rate it.", "Tag it.", "Criticise it."], runs=2)

    assert job.state is S.COMPLETED
    assert [(row.model, row.runs, row.failures) for row in job.summary] == [(ONE, 6, 0), (THREE, 6, 0)]
    for row in job.summary:
        assert row.tokens_per_second.count == row.first_token_seconds.count == 6
        assert row.tokens_per_second.min <= row.tokens_per_second.median <= row.tokens_per_second.max
        assert row.gpu_share == 1.0
        assert row.words
    assert job.simulated
    assert (job.percent, job.done, job.total) == (100.0, 12, 12)
    assert sum(result.answer is not None for result in job.results) == 6


def test_models_take_turns_and_another_one_begins_each_round(manager, simulator):
    job = measured(manager, ONE, THREE, prompts=["one", "two"], runs=2)

    order = [body["model"] for body in counted(simulator, job)]
    assert order == [ONE_TAG, ONE_TAG, THREE_TAG, THREE_TAG, THREE_TAG, THREE_TAG, ONE_TAG, ONE_TAG]


def test_no_prompt_begins_as_one_before_it(manager, simulator):
    measured(manager, ONE, prompts=["Rate it.", "Rate it."], runs=3)

    beginnings = [body["prompt"].partition("\n")[0] for body in generations(simulator)]
    assert len(set(beginnings)) == len(beginnings) == 7
    assert all(body["prompt"].endswith("\nRate it.") for body in generations(simulator))


def test_what_ollama_has_just_read_does_not_falsify_the_first_word(manager, simulator):
    simulator.pace.tokens_per_second = 1000
    long = " ".join(f"word{n}" for n in range(200))

    job = measured(manager, ONE, prompts=[long], runs=4)

    # It reads ten times as fast as it writes.
    assert min(result.first_token_seconds for result in job.results) > 200 / 10_000


def test_a_photo_that_was_just_shown_does_not_falsify_it_either(manager, simulator):
    simulator.pace.tokens_per_second = 500

    job = measured(manager, SEEING, prompts=["one", "two", "three"], photos=[JPEG])

    assert min(result.first_token_seconds for result in job.results) > 256 / 5000


def test_every_load_and_answer_has_the_same_options_and_nothing_is_loaded_twice(manager, simulator):
    simulator.pace.load_seconds = 0.15
    job = measured(manager, ONE, runs=3, context_tokens=2048, seed=7, answer_tokens=16)

    options = [request.body["options"] for request in simulator.requests if request.path == "/api/generate"]
    assert all((one["num_ctx"], one["seed"], one["temperature"]) == (2048, 7, 0) for one in options)
    assert [load.already_loaded for load in job.loads] == [False, True, True]
    assert not any(result.reloaded for result in job.results)
    assert {result.answer_tokens for result in job.results} == {16}
    assert {result.done_reason for result in job.results} == {"length"}


def test_a_load_is_told_apart_with_its_time_and_its_share_of_the_card(manager, simulator):
    simulator.pace.load_seconds = 0.3

    job = measured(manager, ONE)

    (load,) = job.loads
    assert 0.3 <= load.seconds < 5
    assert load.size_bytes == load.size_vram_bytes > GIB
    assert job.summary[0].load_seconds.count == 1
    assert job.results[0].first_token_seconds < 0.3


def test_what_ollama_counted_of_a_load_is_remembered_of_the_model_too(manager, simulator):
    simulator.pace.load_seconds = 0.15

    job = measured(manager, ONE, context_tokens=2048)

    counted_then = manager.store.read().measured[job.models[0].digest][2048]
    assert counted_then.size_bytes == job.loads[0].size_bytes
    assert counted_then.load_seconds == job.loads[0].seconds


def test_advice_rests_on_the_speed_that_was_measured(manager):
    job = measured(manager, ONE, runs=2)

    told = next(one.speed for one in manager.recommend(8, "speed").ranked if one.model == ONE)

    assert (told.basis, told.tokens_per_second) == ("benchmark", round(job.summary[0].tokens_per_second.median, 2))
    assert manager.check_fit(ONE, 8).speed == told


def test_advice_does_without_benchmarks_that_cannot_be_read(manager, caplog):
    (manager.store.path.parent / f"{manager.store.path.name}.benchmarks").mkdir(exist_ok=True)
    manager._benchmarks.files.record.write_text('{"format": 99, "benchmarks": {}}')

    assert manager.recommend(8).best.model
    assert "advice without the benchmarks" in caplog.text


def test_a_model_that_is_in_memory_already_has_no_load_and_says_so(manager, simulator):
    manager.client.load(ONE_TAG, options={"num_ctx": 4096})

    job = measured(manager, ONE)

    assert (job.loads[0].already_loaded, job.loads[0].seconds) == (True, None)
    assert job.summary[0].load_seconds is None
    assert "in memory already" in job.summary[0].words


def test_what_runs_under_another_name_of_the_same_model_is_known(manager, simulator):
    manager.client.copy(ONE_TAG, ONE)
    manager.client.load(ONE, options={"num_ctx": 4096})

    job = measured(manager, ONE_TAG)

    assert job.models[0].ollama_name == ONE_TAG
    assert job.loads[0].already_loaded
    assert job.summary[0].size_bytes > GIB


def test_after_each_load_one_short_answer_is_not_counted(manager, simulator):
    simulator.pace.load_seconds, simulator.pace.vram_bytes = 0.15, 3 * GIB  # there is room for one of them

    job = measured(manager, ONE, THREE, prompts=["one", "two"], runs=2)

    # ONE, THREE; then THREE, which is still there, and ONE again.
    assert [load.already_loaded for load in job.loads] == [False, False, True, False]
    assert len(generations(simulator)) - len(counted(simulator, job)) == 3
    assert len(job.results) == 8


def test_models_that_do_not_fit_are_said_before_and_their_share_after(managers, simulator):
    simulator.pace.vram_bytes = 2 * GIB
    manager = managers(vram_gb=2)

    begun = manager.start_benchmark([ONE, THREE], SHORT, runs=1)
    job = ended(manager, begun)

    assert [THREE in warning for warning in begun.warnings] == [True]
    assert job.summary[0].gpu_share == 1.0
    assert 0 < job.summary[1].gpu_share < 1


def test_a_model_that_was_pushed_out_meanwhile_is_marked_and_its_load_told_apart(manager, simulator):
    simulator.pace.load_seconds, simulator.pace.tokens_per_second = 0.5, 300
    begun = manager.start_benchmark([ONE], [f"prompt {n}" for n in range(8)], runs=1)
    until(lambda: manager.benchmark(begun.id).done)
    manager.client.unload(ONE_TAG)  # it goes after the answer that it is giving

    job = ended(manager, begun)

    (reloaded,) = (result for result in job.results if result.reloaded)
    assert reloaded.load_seconds >= 0.5
    assert reloaded.first_token_seconds < 0.5
    assert len(job.loads) == 1


def test_thinking_is_off_where_there_is_any(manager, simulator):
    measured(manager, ONE, THINKING)

    assert {body.get("think", "left out") for body in generations(simulator, ONE_TAG)} == {"left out"}
    assert {body["think"] for body in generations(simulator, THINKING)} == {False}


def test_each_prompt_is_asked_with_each_photo_from_files_and_bytes_alike(manager, simulator, tmp_path):
    (tmp_path / "photo.png").write_bytes(PNG)

    job = measured(manager, SEEING, prompts=["one", "two"], photos=[JPEG, tmp_path / "photo.png"])

    assert [(result.prompt, result.photo) for result in job.results] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [photo.media_type for photo in job.photos] == ["image/jpeg", "image/png"]
    shown = [body["images"] for body in counted(simulator, job)]
    assert shown[0] == shown[2] != shown[1] == shown[3]
    assert all(len(images) == 1 for images in shown)


def test_what_a_model_says_of_itself_is_kept_in_front(manager, simulator):
    list(manager.client.create("critic", from_model=ONE_TAG, system="You judge photographs."))

    measured(manager, "critic")

    assert all(body["system"].endswith("\nYou judge photographs.") for body in generations(simulator, "critic:latest"))
    assert not any("system" in body for body in generations(simulator, ONE_TAG))


def test_two_forms_of_one_model_are_told_by_their_names(manager, simulator):
    q8 = "llama3.2:1b-instruct-q8_0"
    simulator.install(q8)
    manager.client.copy(ONE_TAG, ONE)

    job = measured(manager, ONE, q8)

    assert [row.model for row in job.summary] == [ONE, q8]
    assert [model.quantization for model in job.models] == ["Q4_K_M", "Q8_0"]


def test_benchmarks_come_one_after_another_in_all_managers_together(managers, simulator):
    simulator.pace.tokens_per_second = 500
    one, two = managers(), managers()

    jobs = [manager.start_benchmark([ONE], SHORT, runs=2) for manager in (one, two, one)]
    done = [ended(one, job) for job in jobs]

    assert [job.state for job in done] == [S.COMPLETED] * 3
    assert all(earlier.finished_at <= later.started_at for earlier, later in pairwise(done))


def test_who_follows_sees_it_from_its_start_to_its_end(manager):
    job = manager.start_benchmark([ONE], SHORT, runs=3)

    steps = list(manager.follow_benchmark(job))

    assert steps[-1].state is S.COMPLETED
    assert [step.version for step in steps] == sorted({step.version for step in steps})
    percents = [step.percent for step in steps]
    assert percents == sorted(percents)
    assert steps[-1].started_at <= steps[-1].finished_at


def test_another_manager_sees_how_far_it_is(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60)
    job = one.start_benchmark([ONE], SHORT)

    seen = until(lambda: (now := two.benchmark(job.id)).phase == f"loading {ONE}" and now)

    assert seen.state is S.RUNNING
    assert [other.id for other in two.benchmarks()] == [job.id]


def test_whoever_watches_is_told_of_benchmarks_too_without_the_single_answers(manager):
    told, seen = [], 0
    with manager.watching_jobs() as hub:
        job = manager.start_benchmark([ONE], SHORT)
        while not told or told[-1].data["benchmark"]["state"] != "completed":
            news = hub.since(seen, SOON_S)
            assert news, "nothing is told any more"
            told, seen = [*told, *news], news[-1].id

    last = told[-1].data["benchmark"]
    assert {event.type for event in told} == {"benchmark"}
    assert last["id"] == job.id
    assert last["summary"][0]["runs"] == 5
    assert "results" not in last


# --- what may not be measured ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "photos", "kind"),
    [
        ([ONE, "llama3.1:8b-instruct"], (), ModelNotInstalled),
        (["llama3.2:1b-instruct-q8_0"], (), ModelNotInstalled),
        (["llama3.1:13b-instruct"], (), ModelNotPublished),
        (["nobody/knows:it"], (), ModelNotFound),
        ([EMBEDDING], (), BenchmarkUnsuitable),
        ([SEEING, ONE], (JPEG,), BenchmarkUnsuitable),
        ([ONE, ONE_TAG], (), InvalidRequest),
        ([ONE], (b"no photo",), InvalidRequest),
        ([], (), InvalidRequest),
    ],
    ids=[
        "not installed",
        "other form",
        "never published",
        "unknown",
        "embeds only",
        "blind",
        "twice",
        "no photo",
        "none",
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_happens(manager, simulator, models, photos, kind):
    with pytest.raises(kind):
        manager.start_benchmark(models, photos=photos)

    assert manager.benchmarks() == []
    assert asked(simulator, "/api/generate") == 0


def test_a_model_that_only_embeds_says_what_it_can_do(manager):
    with pytest.raises(BenchmarkUnsuitable) as refusal:
        manager.start_benchmark([EMBEDDING])

    assert (refusal.value.capability, refusal.value.capabilities) == ("completion", ["embedding"])


def test_a_photo_that_cannot_be_read_is_named(manager, tmp_path):
    for photos, words in (([JPEG, tmp_path / "missing.jpg"], "photos.1"), ([tmp_path], "photos.0"), ([3], "photos.0")):
        with pytest.raises(InvalidRequest) as refusal:
            manager.start_benchmark([SEEING], photos=photos)
        assert refusal.value.field == words


def test_without_ollama_nothing_is_begun(tmp_path):
    manager = ModelManager("http://127.0.0.1:1", tmp_path / "document.json")

    with pytest.raises(OllamaUnavailable):
        manager.start_benchmark([ONE])

    manager.close()


def test_an_ollama_that_lists_no_abilities_is_asked_for_them_one_by_one(manager, simulator):
    simulator.set_fault("bare_list")

    with pytest.raises(BenchmarkUnsuitable):
        manager.start_benchmark([EMBEDDING])
    assert measured(manager, THINKING).models[0].thinks


# --- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "details", "words"),
    [
        ("cut_generation", {"after_tokens": 2}, "stopped in the middle of its answer"),
        ("runner_crash", {"after_tokens": 2}, "an error was encountered while running the model"),
        ("runner_crash", {"after_tokens": 0}, "model runner has unexpectedly stopped"),
    ],
    ids=["cut short", "crash", "crash at once"],
)
def test_an_answer_that_breaks_is_a_failure_with_its_reason_and_the_rest_goes_on(
    manager, simulator, kind, details, words
):
    warm = measured(manager, ONE)  # what strikes must not be wasted on the warm-up
    simulator.set_fault(kind, times=2, **details)

    job = measured(manager, ONE, runs=4)

    assert warm.summary[0].failures == 0
    failed = [result for result in job.results if result.error]
    assert job.state is S.COMPLETED
    assert len(failed) == 1 and words in failed[0].error  # the other one struck the warm-up
    assert failed[0].tokens_per_second is None and failed[0].answer is None
    assert (job.summary[0].runs, job.summary[0].failures) == (4, 1)


def test_a_model_that_cannot_be_loaded_is_given_up_and_the_others_are_measured(manager, simulator):
    simulator.set_fault("load_failed", model=ONE_TAG, text="unable to allocate CUDA0 buffer")

    job = measured(manager, ONE, THREE, runs=5)

    assert job.state is S.COMPLETED
    assert [(row.runs, row.failures) for row in job.summary] == [(FAILURES_AT_THE_START, FAILURES_AT_THE_START), (5, 0)]
    assert "unable to allocate" in job.summary[0].given_up
    assert sum(load.error is not None for load in job.loads) == FAILURES_AT_THE_START
    assert (job.percent, job.done) == (100.0, 8)


def test_a_model_that_breaks_at_every_prompt_is_given_up_in_the_middle_of_its_turn(manager, simulator):
    simulator.set_fault("runner_crash", model=ONE_TAG, after_tokens=0)

    job = measured(manager, ONE, THREE, prompts=["one", "two", "three", "four", "five"])

    assert [(row.runs, row.failures) for row in job.summary] == [(3, 3), (5, 0)]


def test_a_load_that_fails_once_fails_one_answer(manager, simulator):
    simulator.set_fault("load_failed", times=1)

    job = measured(manager, ONE, prompts=["one", "two"], runs=1)

    assert [bool(result.error) for result in job.results] == [True, False]
    assert [bool(load.error) for load in job.loads] == [True, False]


def test_where_nothing_at_all_could_be_measured_it_has_failed_with_the_reason(manager, simulator):
    simulator.set_fault("load_failed", text="unable to allocate CUDA0 buffer")

    job = measured(manager, ONE, THREE)

    assert job.state is S.FAILED
    assert job.error["code"] == "benchmark_failed"
    assert "unable to allocate" in job.message


def test_an_ollama_that_is_busy_is_asked_again_and_nothing_has_failed(manager, simulator):
    simulator.set_fault("busy", times=2)

    job = measured(manager, ONE)

    assert job.state is S.COMPLETED
    assert job.summary[0].failures == 0


def test_an_ollama_that_goes_away_for_a_moment_is_waited_for_and_that_is_said(managers, simulator):
    manager = managers(patience=Patience(first_pause_s=0.05, longest_pause_s=0.05))
    simulator.set_fault("slow_load", seconds=60, times=1)
    job = manager.start_benchmark([ONE], SHORT, runs=2)
    following = Answer(lambda: list(manager.follow_benchmark(job)))
    until(lambda: loads(simulator))
    simulator.stop()
    until(lambda: manager.benchmark(job.id).message)
    simulator.start()
    steps = following.get()

    last_word = max(place for place, step in enumerate(steps) if step.message)
    assert "Trying again" in steps[last_word].message
    assert steps[last_word + 1].phase == f"loading {ONE}"
    assert (steps[-1].state, steps[-1].summary[0].failures) == (S.COMPLETED, 0)


def test_an_ollama_that_is_started_anew_in_the_middle_of_an_answer_is_no_failure_of_the_model(manager, simulator):
    simulator.pace.tokens_per_second = 50
    job = manager.start_benchmark([ONE], SHORT, runs=3)
    until(lambda: len(counted(simulator, job)) == 2)
    simulator.stop()
    simulator.pace.tokens_per_second = 10_000
    simulator.start()

    done = ended(manager, job)

    assert (done.state, done.summary[0].runs, done.summary[0].failures) == (S.COMPLETED, 3, 0)
    assert len(counted(simulator, done)) == 4


@pytest.mark.parametrize(("strikes", "failed"), [(1, False), (2, True)])
def test_an_answer_that_breaks_off_is_asked_once_more_and_has_then_failed(manager, simulator, strikes, failed):
    simulator.set_fault("cut_generation", after_tokens=2, abrupt=True, times=2 + strikes)  # two strike the warm-up

    job = measured(manager, ONE, runs=3)

    assert [result.error is not None for result in job.results] == [failed, False, False]
    if failed:
        assert "connection to Ollama broke" in job.results[0].error


def test_an_ollama_that_stays_away_leaves_it_interrupted_to_go_on_another_time(manager, simulator):
    simulator.set_fault("slow_load", seconds=60, times=1, model=THREE_TAG)
    job = manager.start_benchmark([ONE, THREE], SHORT, runs=1)
    until(lambda: THREE_TAG in loads(simulator))
    simulator.stop()
    left = ended(manager, job)
    problem = manager.health()["parts"]["benchmarks"]["problem"]
    simulator.start()

    assert (left.state, len(left.results)) == (S.INTERRUPTED, 1)
    assert "does not answer" in left.message and "Resume" in left.message
    assert job.id in problem
    manager.resume_benchmark(job.id)
    done = ended(manager, job)
    assert (done.state, len(done.results)) == (S.COMPLETED, 2)


def test_an_ollama_that_does_not_tell_what_is_loaded_is_measured_without_that(manager, simulator):
    simulator.set_fault("proxy_error", endpoint="/api/ps")

    job = measured(manager, ONE)

    assert (job.state, job.summary[0].failures, job.summary[0].size_bytes) == (S.COMPLETED, 0, None)


def test_an_ollama_that_does_not_tell_what_is_installed_is_measured_as_it_was(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60, model=THREE_TAG)
    first, waiting = one.start_benchmark([THREE], SHORT), two.start_benchmark([ONE], SHORT, runs=1)
    until(lambda: loads(simulator))
    simulator.set_fault("proxy_error", endpoint="/api/tags")
    one.cancel_benchmark(first.id)

    assert ended(two, waiting).state is S.COMPLETED


def test_a_prompt_longer_than_the_context_has_failed_and_is_not_cut_without_a_word(manager):
    long = " ".join(f"word{number}" for number in range(600))

    job = measured(manager, ONE, prompts=["Rate it.", long], context_tokens=512)

    short, cut = job.results
    assert short.error is None
    assert "tokens) exceeds the available context size (512 tokens)" in cut.error
    assert "{" not in cut.error


def test_a_photo_that_has_gone_fails_its_answers_and_says_so(manager, simulator):
    simulator.set_fault("slow_load", seconds=0.3)
    job = manager.start_benchmark([SEEING], SHORT, [JPEG], runs=1)
    manager.store.path.with_name("document.json.benchmarks").joinpath(f"{job.id}.photo-0").unlink()

    done = ended(manager, job)

    assert "photo could not be read" in done.results[0].error


def test_a_model_that_was_changed_while_it_waited_is_left_out(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60, model=THREE_TAG)
    first = one.start_benchmark([THREE], SHORT)
    waiting = two.start_benchmark([ONE, SEEING], SHORT, runs=1)
    until(lambda: loads(simulator))
    one.client.copy("all-minilm:latest", ONE_TAG)
    one.cancel_benchmark(first.id)

    done = ended(two, waiting)

    assert "another model" in done.summary[0].given_up
    assert [result.model for result in done.results] == [SEEING]


def test_a_model_that_is_changed_between_its_turns_is_given_up_and_keeps_what_it_has(manager, simulator):
    simulator.install("mine:latest", make_model("mine:latest", size_bytes=2_000_000_000))
    simulator.set_fault("slow_load", seconds=60, model=THREE_TAG)
    job = manager.start_benchmark(["mine:latest", THREE], SHORT, runs=3)
    until(lambda: THREE_TAG in loads(simulator))
    manager.client.copy(SEEING_TAG, "mine:latest")
    simulator.clear_faults()

    done = ended(manager, job)

    assert (done.summary[0].runs, done.summary[1].runs) == (1, 3)
    assert "another model stands under its name now" in done.summary[0].given_up


def test_another_form_may_be_chosen_while_one_is_measured(manager, simulator):
    """What is measured is the form, which keeps its own tag; the id goes where callers want it."""
    simulator.install(ONE_Q8_TAG)
    manager.select_model(ONE, "q4")
    simulator.set_fault("slow_load", seconds=60, model=THREE_TAG)
    job = manager.start_benchmark([ONE, THREE], SHORT, runs=3)
    until(lambda: THREE_TAG in loads(simulator))
    manager.select_model(ONE, "q8")
    simulator.clear_faults()

    done = ended(manager, job)

    assert {body["model"] for body in counted(simulator, done)} == {ONE_TAG, THREE_TAG}
    assert [(row.runs, row.failures) for row in done.summary] == [(3, 0), (3, 0)]
    assert done.models[0].quantization == "Q4_K_M"


# --- wishes ----------------------------------------------------------------------------------------------------------


def soon(call):
    began = time.monotonic()
    value = call()
    assert time.monotonic() - began < ANSWER_S
    return value


def held_up(simulator, where):
    """Have a benchmark stand still there; return how to see that it does."""
    if where == "loading":
        simulator.set_fault("slow_load", seconds=60)
        return lambda: loads(simulator)
    simulator.pace.tokens_per_second = 0.5 if where == "before the first word" else 20
    return lambda: generations(simulator)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another process's manager"])
@pytest.mark.parametrize("where", ["loading", "before the first word", "while it answers"])
def test_it_is_cancelled_soon_wherever_it_stands(managers, simulator, where, elsewhere):
    owner = managers()
    stands = held_up(simulator, where)
    job = owner.start_benchmark([ONE], SHORT)
    until(stands)

    cancelled = soon(lambda: (managers() if elsewhere else owner).cancel_benchmark(job.id))

    assert cancelled.state is S.CANCELLED
    assert "0 of 5 answers" in cancelled.message
    until(lambda: not leftovers(), "the end of what was asked of Ollama", 2.0)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another process's manager"])
@pytest.mark.parametrize("fails", [False, True], ids=["that succeed", "that fail"])
def test_it_is_cancelled_among_answers_that_come_too_quickly_to_be_waited_for(managers, simulator, fails, elsewhere):
    owner = managers()
    simulator.pace.tokens_per_second = 800  # some 40 ms an answer
    job = owner.start_benchmark([ONE], ["Rate it."] * 20, runs=20 if fails else 1)  # failures come at once
    until(lambda: owner.benchmark(job.id).done > 2)
    if fails:
        simulator.set_fault("runner_crash", after_tokens=0)

    cancelled = soon(lambda: (managers() if elsewhere else owner).cancel_benchmark(job.id))

    assert cancelled.state is S.CANCELLED
    assert cancelled.done < cancelled.total


def test_a_load_that_was_cancelled_is_given_up_by_ollama_too(manager, simulator):
    simulator.set_fault("slow_load", seconds=60)
    job = manager.start_benchmark([ONE], SHORT)
    until(lambda: loads(simulator))
    manager.cancel_benchmark(job.id)
    simulator.clear_faults()

    # As long as one loads, no other can.
    manager.client.load(THREE_TAG)
    assert [runner["name"] for runner in simulator.runners.listed()] == [THREE_TAG]


def test_what_was_measured_before_the_cancel_is_kept(manager, simulator):
    simulator.set_fault("slow_load", seconds=60, model=THREE_TAG)
    job = manager.start_benchmark([ONE, THREE], SHORT, runs=1)
    until(lambda: THREE_TAG in loads(simulator))

    cancelled = manager.cancel_benchmark(job.id)

    assert [result.model for result in cancelled.results] == [ONE]
    assert cancelled.summary[0].tokens_per_second.count == 1
    assert manager.benchmark(job.id) == cancelled


def test_what_waits_its_turn_is_cancelled_at_once(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60)
    first, second = one.start_benchmark([ONE], SHORT), two.start_benchmark([THREE], SHORT)
    until(lambda: loads(simulator))

    assert soon(lambda: one.cancel_benchmark(second.id)).state is S.CANCELLED
    assert one.benchmark(first.id).state is S.RUNNING
    assert loads(simulator) == [ONE_TAG]


def test_only_what_has_ended_is_forgotten_and_nothing_is_left_of_it(manager, simulator):
    simulator.set_fault("slow_load", seconds=60)
    job = manager.start_benchmark([SEEING], SHORT, [JPEG])
    with pytest.raises(InvalidTransition) as refusal:
        manager.forget_benchmark(job.id)
    manager.cancel_benchmark(job.id)

    assert refusal.value.allowed == ["cancel"]
    assert manager.forget_benchmark(job.id).id == job.id
    assert manager.benchmarks() == []
    until(lambda: files_of(manager) == set())


@pytest.mark.parametrize("wish", ["cancel_benchmark", "resume_benchmark"])
def test_what_has_ended_cannot_be_wished_for(manager, wish):
    job = measured(manager, ONE)

    with pytest.raises(InvalidTransition) as refusal:
        getattr(manager, wish)(job.id)

    assert (refusal.value.benchmark, refusal.value.state, refusal.value.allowed) == (job.id, "completed", ["forget"])


@pytest.mark.parametrize("wish", ["benchmark", "cancel_benchmark", "resume_benchmark", "forget_benchmark"])
def test_a_benchmark_that_nobody_knows_is_not_found(manager, wish):
    with pytest.raises(BenchmarkNotFound):
        getattr(manager, wish)("000000000000")


# --- what else happens meanwhile -------------------------------------------------------------------------------------


def test_a_model_is_not_deleted_while_a_benchmark_needs_it(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60)
    job = one.start_benchmark([ONE, THREE], SHORT)

    for name in (ONE, ONE_TAG, THREE):
        with pytest.raises(ModelInUse) as refusal:
            two.remove_model(name)
        assert refusal.value.benchmark == job.id
    assert two.remove_model(SEEING).model == SEEING

    one.cancel_benchmark(job.id)
    assert two.remove_model(ONE).names == (ONE_TAG,)


def test_the_models_are_left_as_they_are_at_the_end(manager, simulator):
    measured(manager, ONE, THREE)

    assert {runner["name"] for runner in simulator.runners.listed()} == {ONE_TAG, THREE_TAG}


def test_photos_are_kept_for_the_owner_alone_and_only_as_long_as_they_are_needed(manager, simulator):
    simulator.set_fault("slow_load", seconds=60)
    job = manager.start_benchmark([SEEING], SHORT, [JPEG, PNG])
    path = manager.store.path.with_name("document.json.benchmarks") / f"{job.id}.photo-0"

    assert path.read_bytes() == JPEG
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.drive
    manager.cancel_benchmark(job.id)
    until(lambda: files_of(manager) == set())


def test_old_ones_make_room_for_new_ones(manager):
    first = measured(manager, ONE)
    jobs = {f"{n:012x}": first.model_copy(update={"id": f"{n:012x}"}) for n in range(ENDED_KEPT)}
    manager._benchmarks._desk.change(lambda held: {**held, **jobs})

    newest = measured(manager, ONE)

    kept = [job.id for job in manager.benchmarks()]
    assert len(kept) == ENDED_KEPT + 1  # the newest one had not ended yet when it was entered
    assert newest.id in kept


def test_what_a_killed_process_left_of_nothing_is_swept(manager):
    folder = manager.store.path.with_name("document.json.benchmarks")
    folder.mkdir()
    for name in ("0123456789ab.lock", "0123456789ab.photo-0", "0123456789ab.wish"):
        (folder / name).write_text("")

    measured(manager, ONE)

    until(lambda: files_of(manager) == set())


# --- closing, and going on -------------------------------------------------------------------------------------------


def test_closing_leaves_it_interrupted_with_what_it_has_and_another_goes_on(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60, model=SEEING_TAG)
    job = one.start_benchmark([ONE, SEEING], SHORT, runs=2, photos=())
    until(lambda: SEEING_TAG in loads(simulator))
    began = time.monotonic()
    one.close()
    took_s = time.monotonic() - began
    left = two.benchmark(job.id)
    simulator.clear_faults()

    (taken,) = two.resume_benchmarks()
    done = ended(two, job)

    assert took_s < 2
    assert (left.state, len(left.results)) == (S.INTERRUPTED, 1)
    assert taken.id == job.id
    assert done.results[0] == left.results[0]
    assert (done.state, len(done.results)) == (S.COMPLETED, 4)


def test_closing_takes_nothing_back_that_was_wished_before(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_answer", times=1, endpoint="/api/show", seconds=0.4)  # cannot be left at once
    job = one.start_benchmark([ONE], SHORT)
    until(lambda: any(request.path == "/api/show" for request in list(simulator.requests)))
    cancelling = Answer(lambda: one.cancel_benchmark(job.id))
    until(lambda: one._benchmarks._runs[job.id].is_leaving)

    one.close()

    assert cancelling.get().state is two.benchmark(job.id).state is S.CANCELLED


def test_photos_of_an_interrupted_one_wait_for_who_goes_on(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60)
    job = one.start_benchmark([SEEING], SHORT, [JPEG], runs=1)
    until(lambda: loads(simulator))
    one.close()
    simulator.clear_faults()

    two.resume_benchmark(job.id)
    done = ended(two, job)

    assert done.results[0].error is None
    until(lambda: files_of(two) == set())


def test_nobody_takes_over_what_somebody_works_on(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60)
    job = one.start_benchmark([ONE], SHORT)
    until(lambda: loads(simulator))

    assert two.resume_benchmarks() == []
    assert two.resume_benchmark(job.id).state is S.RUNNING
    assert len(loads(simulator)) == 1


def test_an_interrupted_one_can_be_cancelled_by_anybody(managers, simulator):
    one, two = managers(), managers()
    simulator.set_fault("slow_load", seconds=60)
    job = one.start_benchmark([SEEING], SHORT, [JPEG])
    until(lambda: loads(simulator))
    one.close()

    assert two.cancel_benchmark(job.id).state is S.CANCELLED
    assert files_of(two) == set()
    assert two.resume_benchmarks() == []


# --- when it cannot be written down ----------------------------------------------------------------------------------


def test_a_benchmark_that_cannot_be_written_down_is_not_begun(manager, simulator):
    manager.store.path.with_name("document.json.benchmarks").write_text("in the way")

    with pytest.raises(StoreUnwritable):
        manager.start_benchmark([ONE], SHORT)

    assert asked(simulator, "/api/generate") == 0


def test_a_record_that_is_damaged_is_set_aside_and_health_says_so(managers):
    measured(managers(), ONE)
    manager = managers()
    record = manager.store.path.with_name("document.json.benchmarks") / "benchmarks.json"
    record.write_text("no record")

    manager.benchmarks()
    measured(manager, THREE)

    part = manager.health()["parts"]["benchmarks"]
    assert "unreadable" in part["problem"]
    assert not part["ok"]
    assert any(path.name.startswith("benchmarks.json.unreadable") for path in record.parent.iterdir())


def test_waiting_ends_with_the_next_change_and_not_before(manager, simulator):
    simulator.set_fault("slow_load", seconds=60)
    job = manager.start_benchmark([ONE], SHORT)
    until(lambda: loads(simulator))
    now = manager.benchmark(job.id)

    same = manager.benchmark(job.id, since=now.version, wait_s=0.05)
    waiting = Answer(lambda: manager.benchmark(job.id, wait_s=20))
    manager.cancel_benchmark(job.id)

    assert same.version == now.version
    assert waiting.get().state is S.CANCELLED


def test_a_benchmark_on_a_slow_ollama_is_measured_at_its_pace(tmp_path):
    with OllamaSimulator(load_seconds=0.2, tokens_per_second=200, installed=[ONE_TAG]) as slow:
        manager = ModelManager(slow.url, tmp_path / "document.json")
        job = measured(manager, ONE, runs=2)
        manager.close()

    (row,) = job.summary
    assert 100 < row.tokens_per_second.median < 250
    assert 0.2 <= row.load_seconds.median < 2
    assert 0.005 <= row.first_token_seconds.median < 0.5

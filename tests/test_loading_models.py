"""Loading through the manager: the id answers, the context stays the same, what Ollama counts decides from then on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model_core.hardware import Hardware, MachineMemory
from model_core.memory import OVERHEAD_BYTES
from model_core.records import GIB
from model_core.simulated_library import make_model
from model_manager import (
    InvalidRequest,
    ModelLacksCapability,
    ModelManager,
    ModelNotFound,
    ModelNotInstalled,
    ModelNotPublished,
    OllamaError,
    OllamaUnavailable,
)
from tests.download_scenes import MODEL, OTHER, OTHER_TAG, TAG, Answer, asked, until

EIGHT_B, EIGHT_B_TAG = "llama3.1:8b-instruct", "llama3.1:8b-instruct-q4_K_M"
EIGHT_B_Q8 = "llama3.1:8b-instruct-q8_0"


@pytest.fixture
def managers(simulator, tmp_path):
    made = []

    def make(**how) -> ModelManager:
        made.append(ModelManager(simulator.url, tmp_path / "document.json", **how))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(managers) -> ModelManager:
    return managers()


def contexts_sent(simulator):
    return [
        r.body["options"]["num_ctx"] for r in simulator.requests if r.path == "/api/generate" and "options" in r.body
    ]


# --- loading ---------------------------------------------------------------------------------------------------------


def test_what_only_makes_embeddings_is_refused_before_ollama_is_asked_to_load_it(manager, simulator):
    simulator.install("all-minilm", make_model("all-minilm", size_bytes=46_000_000, capabilities=("embedding",)))

    with pytest.raises(ModelLacksCapability, match="Choose a model with completion"):
        manager.load_model("all-minilm")

    assert asked(simulator, "/api/generate") == 0


def test_a_load_brings_the_model_that_callers_ask_for_into_memory(manager, simulator):
    simulator.install(TAG)

    done = manager.load_model(MODEL)

    # The id was missing; whoever finds that makes it again.
    assert simulator.state()["running"] == [MODEL]
    assert (done.model, done.gpu_share, done.context_tokens, done.warnings) == (MODEL, 1.0, 4096, ())
    assert done.message.startswith(f"{MODEL} is loaded, after ")


def test_what_is_loaded_under_another_name_of_the_same_weights_is_loaded(manager, simulator):
    simulator.install(TAG)
    manager.sync()
    manager.client.load(TAG)

    done = manager.load_model(MODEL)

    assert done.was_loaded
    assert simulator.state()["running"] == [TAG]
    (now,) = manager.running()
    assert (now.name, set(now.names)) == (MODEL, {MODEL, TAG})


def test_one_form_of_a_model_can_be_loaded_by_its_own_name(manager, simulator):
    simulator.install(EIGHT_B_TAG)
    simulator.install(EIGHT_B_Q8)
    manager.sync()

    manager.load_model(EIGHT_B_Q8)

    assert simulator.state()["running"] == [EIGHT_B_Q8]


def test_the_context_stays_the_one_that_was_chosen_for_every_call_and_every_process(managers, simulator):
    simulator.install(TAG)
    manager, another = managers(), managers()

    manager.load_model(MODEL, context_tokens=1024)
    manager.load_model(MODEL)
    another.client.generate(MODEL, "x")
    another.client.generate(TAG, "x")

    assert contexts_sent(simulator) == [1024, 1024, 1024, 1024]
    assert another.context_of(OTHER) == 4096
    assert len(manager.running()) == 1


def test_a_context_with_which_the_load_fails_is_not_kept(managers, simulator):
    simulator.install(TAG)
    manager, another = managers(), managers()
    manager.load_model(MODEL, context_tokens=1024)
    simulator.set_fault("load_failed", times=1)

    with pytest.raises(OllamaError, match="unable to allocate"):
        manager.load_model(MODEL, context_tokens=100_000)
    manager.load_model(MODEL)
    manager.client.generate(MODEL, "x")
    another.client.generate(MODEL, "x")

    assert contexts_sent(simulator) == [1024, 100_000, 1024, 1024, 1024]
    assert manager.context_of(MODEL) == another.context_of(MODEL) == 1024


def test_until_a_load_has_succeeded_others_ask_with_the_context_before_and_then_with_the_chosen_one(
    managers, simulator
):
    simulator.install(TAG)
    manager, another = managers(), managers()
    manager.load_model(MODEL, context_tokens=1024)
    simulator.set_fault("slow_load", seconds=60, times=1)

    load = Answer(lambda: manager.load_model(MODEL, context_tokens=2048))
    until(lambda: 2048 in contexts_sent(simulator))
    asking = [Answer(lambda one=one: one.client.generate(MODEL, "x")) for one in (manager, another)]
    until(lambda: contexts_sent(simulator)[2:] == [1024, 1024])
    simulator.clear_faults()

    # Whichever of them Ollama serves last, and lists then: what was chosen is what was loaded.
    done = load.get()
    for one in asking:
        one.get()
    assert (done.context_tokens, done.warnings) == (2048, ())
    assert manager.context_of(MODEL) == another.context_of(MODEL) == 2048


def test_how_long_it_stays_is_handed_on_and_checked_before_anybody_is_asked(manager, simulator):
    simulator.install(TAG)

    manager.load_model(MODEL, keep_alive=-1)
    assert manager.running()[0].stays

    before = len(simulator.requests)
    with pytest.raises(InvalidRequest) as refused:
        manager.load_model(MODEL, keep_alive="5")
    assert refused.value.field == "keep_alive"
    with pytest.raises(InvalidRequest):
        manager.load_model(MODEL, context_tokens=0)
    assert len(simulator.requests) == before


@pytest.mark.parametrize(
    ("name", "error"),
    [(MODEL, ModelNotInstalled), ("nope", ModelNotFound), ("llama3.1:13b-instruct", ModelNotPublished)],
)
def test_what_is_not_there_is_neither_loaded_nor_unloaded(manager, name, error):
    with pytest.raises(error):
        manager.load_model(name)
    with pytest.raises((ModelNotInstalled, ModelNotFound)):
        manager.unload_model(name)


def test_a_load_that_fails_raises_why_and_nothing_is_remembered(manager, simulator):
    simulator.install(TAG)
    simulator.set_fault("load_failed")

    with pytest.raises(OllamaError, match="unable to allocate"):
        manager.load_model(MODEL)

    assert manager.store.read().measured == {}


def test_without_ollama_it_is_said_that_it_does_not_answer(manager, simulator):
    simulator.install(TAG)
    manager.sync()
    simulator.stop()

    for call in (lambda: manager.load_model(MODEL), lambda: manager.unload_model(MODEL), manager.running):
        with pytest.raises(OllamaUnavailable):
            call()


# --- what Ollama counted ---------------------------------------------------------------------------------------------


def test_from_a_load_on_what_ollama_counted_decides_and_the_estimate_stands_beside(manager, simulator):
    simulator.install(EIGHT_B_TAG)
    before = manager.check_fit(EIGHT_B, 8).check

    manager.load_model(EIGHT_B)
    (now,) = manager.running()
    after = manager.check_fit(EIGHT_B, 8).check

    assert before.basis == "catalogue"
    assert now.measured_bytes == now.size_vram_bytes + OVERHEAD_BYTES
    assert now.estimate_bytes == before.need.total
    assert now.error_percent == pytest.approx((before.need.total / now.measured_bytes - 1) * 100, abs=0.06)
    assert (after.basis, after.need.total, after.need.estimate) == ("measured", now.measured_bytes, before.need.total)
    # For another context nothing was measured.
    assert manager.check_fit(EIGHT_B, 8, context_tokens=8192).check.basis == "catalogue"
    assert manager.recommend(8).best.need.basis == "measured"


def test_what_was_counted_is_known_to_every_process_and_after_a_restart(managers, simulator):
    simulator.install(EIGHT_B_TAG)
    first = managers()
    first.load_model(EIGHT_B)
    first.unload_model(EIGHT_B)
    simulator.stop()

    assert managers().check_fit(EIGHT_B, 8).check.basis == "measured"


def test_a_model_that_somebody_else_loaded_counts_too(manager, simulator):
    simulator.install(EIGHT_B_TAG)
    manager.sync()
    manager.client.load(EIGHT_B)

    document = manager.store.read()

    assert manager.check_fit(EIGHT_B, 8).check.basis == "measured"
    # Who asks for advice changes nothing.
    assert manager.store.read() is document


def test_a_model_that_spills_is_named_with_its_share_and_its_estimate_stays(manager, simulator):
    simulator.install(EIGHT_B_TAG)
    simulator.pace.vram_bytes = 4 * GIB

    done = manager.load_model(EIGHT_B)

    (warning,) = done.warnings
    assert 0 < done.gpu_share < 1
    assert warning.code == "partly_in_ram"
    assert f"{done.gpu_share:.0%} of {EIGHT_B} lies on the graphics card" in warning.text
    assert manager.check_fit(EIGHT_B, 8).check.basis == "catalogue"


def test_the_smaller_context_that_is_named_brings_the_model_onto_the_card(manager, simulator):
    simulator.install(EIGHT_B_TAG)
    simulator.pace.vram_bytes = 6 * GIB
    spilled = manager.load_model(EIGHT_B, context_tokens=32_768)
    fitting = spilled.warnings[0].values["fitting_context_tokens"]

    done = manager.load_model(EIGHT_B, context_tokens=fitting)

    assert spilled.gpu_share < 1 and f"({fitting:,} tokens instead of 32,768)" in spilled.warnings[0].text
    assert (done.gpu_share, done.warnings) == (1.0, ())


def test_a_switch_that_loads_tells_of_the_load(manager, simulator):
    simulator.install(EIGHT_B_TAG)
    simulator.pace.vram_bytes = 4 * GIB

    done = manager.select_model(EIGHT_B, load=True)

    assert done.loaded.gpu_share < 1
    assert done.loaded.warnings[0].text in done.warnings
    assert manager.select_model(EIGHT_B).loaded is None


def test_a_context_longer_than_the_model_reads_is_said_and_not_kept(manager, simulator):
    simulator.install(TAG)

    done = manager.load_model(MODEL, context_tokens=999_999)

    assert done.context_tokens == manager.context_of(MODEL) == 131_072
    assert "shorter_context" in [warning.code for warning in done.warnings]


def test_a_context_shorter_than_ollama_takes_is_kept_as_the_one_that_it_took(manager, simulator):
    simulator.install(TAG)

    done = manager.load_model(MODEL, context_tokens=1)

    assert done.context_tokens == manager.context_of(MODEL) == 4
    assert done.message.endswith("From now on it is used with a context of 4 tokens.")


def test_a_check_counts_with_the_context_that_the_model_is_used_with(manager, simulator):
    simulator.install(TAG)
    manager.load_model(MODEL, context_tokens=8192)

    assert manager.check_fit(MODEL, 8).check.need.context_tokens == 8192
    assert manager.check_fit(MODEL, 8, context_tokens=2048).check.need.context_tokens == 2048
    assert next(one for one in manager.recommend(8, "speed").ranked if one.model == MODEL).need.context_tokens == 8192


# --- unloading -------------------------------------------------------------------------------------------------------


def test_an_unload_goes_by_the_weights_whatever_name_loaded_them(manager, simulator):
    simulator.install(TAG)
    simulator.install(OTHER_TAG)
    manager.sync()
    manager.client.load(TAG)
    manager.client.load(OTHER)

    done = manager.unload_model(MODEL)

    assert (done.was_loaded, done.is_gone) == (True, True)
    assert simulator.state()["running"] == [OTHER]
    assert not manager.unload_model(MODEL).was_loaded


def test_what_was_loaded_under_a_name_that_is_gone_is_unloaded_by_another(manager, simulator):
    simulator.install(TAG)
    manager.client.copy(TAG, "mine:latest")
    manager.client.load("mine:latest")
    manager.client.delete("mine:latest")

    done = manager.unload_model(TAG)

    assert (done.was_loaded, done.is_gone) == (True, True)
    assert simulator.state()["running"] == []


def test_an_unload_lets_alone_what_stands_under_the_loaded_name_by_now(manager, simulator):
    simulator.install(TAG)
    simulator.install(OTHER_TAG)
    manager.client.copy(TAG, "mine:latest")
    manager.client.load("mine:latest")
    manager.client.copy(OTHER_TAG, "mine:latest")
    manager.client.load(OTHER_TAG)

    assert manager.unload_model(TAG).is_gone

    assert simulator.state()["running"] == [OTHER_TAG]


# --- models that nobody has catalogued -------------------------------------------------------------------------------


def test_what_ollama_tells_of_a_model_of_ones_own_is_asked_once_and_gives_its_need(managers, simulator):
    simulator.install("mine", make_model("mine", size_bytes=3 * GIB))
    manager = managers()

    checks = [manager.check_fit("mine", 8).check for _ in range(2)]
    manager.recommend(8)
    managers().check_fit("mine", 8)

    assert [check.basis for check in checks] == ["show", "show"]
    assert asked(simulator, "/api/show") == 1
    assert manager.info("mine").memory["basis"] == "show"


def test_what_has_gone_is_not_described_for_ever(manager, simulator):
    simulator.install("mine", make_model("mine", size_bytes=3 * GIB))
    manager.sync()
    assert manager.store.read().described

    manager.client.delete("mine")
    manager.sync()

    assert manager.store.read().described == {}


def test_a_catalogue_model_is_not_asked_about_but_one_that_sees_is(manager, simulator):
    simulator.install(TAG)
    manager.sync()
    assert asked(simulator, "/api/show") == 0

    simulator.install("gemma3:4b-it-q4_K_M")
    manager.sync()

    assert asked(simulator, "/api/show") == 1
    assert manager.check_fit("gemma3:4b", 8).check.need.vision == GIB


def test_an_ollama_that_tells_nothing_leaves_a_guess(manager, simulator):
    simulator.install("mine", replace(make_model("mine", size_bytes=3 * GIB), model_info={}))

    assert manager.check_fit("mine", 8).check.basis == "guess"


def test_no_speed_is_promised_of_what_cannot_answer_or_cannot_run(managers, simulator):
    simulator.install("all-minilm", make_model("all-minilm", size_bytes=46_000_000, capabilities=("embedding",)))
    memory = MachineMemory(total_bytes=16 * GIB, free_bytes=8 * GIB, source="test")
    manager = managers(hardware=lambda: Hardware(gpus=(), memory=memory, sources={"gpus": "test"}))

    assert manager.check_fit("all-minilm").speed is None
    assert manager.check_fit("mixtral:8x7b-instruct").speed is None
    assert manager.check_fit(MODEL).speed.basis == "estimate"


def test_an_unload_takes_every_form_of_an_entry_out(manager, simulator):
    for tag in (TAG, f"{MODEL}-q8_0"):
        simulator.install(tag)
        manager.client.load(tag)

    done = manager.unload_model(MODEL)

    assert (done.was_loaded, done.is_gone) == (True, True)
    assert manager.running() == []

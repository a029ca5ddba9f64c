"""A measurement is believed only where Ollama really counted, and kept where it was worth most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.measurements import (
    CONTEXTS_KEPT,
    MODELS_KEPT,
    bytes_on_card,
    error_percent,
    of_digest,
    runner_of,
    with_running,
)
from model_core.records import GIB, Document, Measured, RunningModel

DIGEST, OTHER = "ab" * 32, "cd" * 32
FILE = 4_920_753_328


def runner(size=6 * GIB, vram=None, context=4096, digest=DIGEST, name="m:latest"):
    return RunningModel(
        name=name,
        digest=digest,
        size_bytes=size,
        size_vram_bytes=size if vram is None else vram,
        context_tokens=context,
        expires_at=None,
    )


def counted(size=6 * GIB, vram=None):
    return Measured(size_bytes=size, size_vram_bytes=size if vram is None else vram, at="2026")


def test_what_lay_on_the_card_as_a_whole_is_believed_for_its_own_context():
    assert bytes_on_card({4096: counted(), 8192: counted(7 * GIB)}, [FILE], sees=False) == {
        4096: 6 * GIB,
        8192: 7 * GIB,
    }


@pytest.mark.parametrize(
    ("found", "sees"),
    [
        pytest.param(counted(vram=5 * GIB), False, id="partly in RAM"),
        pytest.param(counted(vram=0), False, id="on the processor"),
        pytest.param(counted(FILE), False, id="Ollama says the file's size where it could not count"),
        pytest.param(counted(FILE - 20_000), False, id="the weights alone, without the licence beside them"),
        pytest.param(counted(), True, id="the part that sees is not in the count"),
    ],
)
def test_what_is_no_count_of_the_whole_need_is_not_believed(found, sees):
    assert bytes_on_card({4096: found}, [FILE], sees=sees) == {}


@pytest.mark.parametrize(
    "unknown", [{"size": None, "vram": None}, {"context": None}, {"size": None, "vram": 5}], ids=str
)
def test_what_ollama_does_not_know_is_not_remembered(unknown):
    document = Document()
    model = runner().model_copy(
        update={
            {"size": "size_bytes", "vram": "size_vram_bytes", "context": "context_tokens"}[key]: value
            for key, value in unknown.items()
        }
    )

    assert with_running(document, [model], "2026") is document


def test_what_is_known_already_leaves_the_document_as_it_is():
    document = with_running(Document(), [runner()], "2026-01-01")

    assert with_running(document, [runner()], "2026-01-02") is document
    assert with_running(document, [], "2026-01-02") is document


def test_the_time_of_a_load_is_kept_when_the_model_is_only_looked_at_later():
    loaded = with_running(Document(), [runner()], "2026-01-01", {DIGEST: 4.5})
    seen = with_running(loaded, [runner(size=7 * GIB)], "2026-01-02")

    assert seen.measured[DIGEST][4096].load_seconds == 4.5
    assert seen.measured[DIGEST][4096].size_bytes == 7 * GIB


def test_a_count_of_the_whole_is_not_lost_to_one_that_spilled():
    whole = with_running(Document(), [runner()], "2026-01-01")

    spilled = with_running(whole, [runner(vram=3 * GIB)], "2026-01-02", {DIGEST: 9.0})
    again = with_running(spilled, [runner(size=7 * GIB)], "2026-01-03")

    assert spilled.measured[DIGEST][4096].size_vram_bytes == 6 * GIB
    assert spilled.measured[DIGEST][4096].load_seconds == 9.0
    assert again.measured[DIGEST][4096].size_vram_bytes == 7 * GIB


def test_only_the_newest_contexts_and_models_are_kept():
    document = Document()
    for number in range(CONTEXTS_KEPT + 3):
        document = with_running(document, [runner(context=512 + number)], f"2026-01-{number + 1:02}")
    for number in range(MODELS_KEPT):
        document = with_running(document, [runner(digest=f"{number:064x}")], f"2026-02-01T{number:04}")

    assert len(document.measured) == MODELS_KEPT
    assert DIGEST not in document.measured

    again = with_running(document, [runner(context=9000 + n) for n in range(CONTEXTS_KEPT + 3)], "2026-03-01")

    assert len(again.measured[DIGEST]) == CONTEXTS_KEPT


def test_a_digest_may_be_known_by_its_first_digits():
    measured = {DIGEST: {4096: counted()}}

    assert of_digest(measured, DIGEST) == of_digest(measured, DIGEST[:12]) == measured[DIGEST]
    assert of_digest(measured, OTHER[:12]) == of_digest(measured, None) == of_digest(measured, "") == {}


def test_a_runner_is_found_by_its_weights_and_not_by_its_name():
    loaded = [runner(name="copy:latest"), runner(digest=OTHER, name="m:latest")]

    assert runner_of(loaded, DIGEST).name == "copy:latest"
    assert runner_of(loaded, "ef" * 32) is None


@given(st.integers(1, 2**45), st.integers(1, 2**45))
def test_the_error_is_above_zero_exactly_where_the_estimate_was_too_high(estimate, measured):
    percent = error_percent(estimate, measured)

    assert percent == pytest.approx((estimate - measured) / measured * 100, abs=0.051)

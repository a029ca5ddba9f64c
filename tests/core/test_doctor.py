"""The doctor says of each thing whether it is well, and of what is not, what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalog import MODEL_CATALOG
from model_core import doctor
from model_core.advice import Fit
from model_core.budget import budget
from model_core.candidates import Criteria, candidate_of
from model_core.doctor import Facts, diagnose
from model_core.document import new_model
from model_core.fit import check_fit
from model_core.hardware import Disk, Gpu, Hardware, MachineMemory, elsewhere
from model_core.loading import running
from model_core.memory import profile_of
from model_core.recommender import recommend
from model_core.records import GIB, DownloadJob, RunningModel

EIGHT_B = MODEL_CATALOG["llama3.1:8b-instruct"]
CARD = Gpu(name="NVIDIA GeForce RTX 4060", total_bytes=8 * GIB, free_bytes=7 * GIB, source="NVML")
MACHINE = Hardware(
    gpus=(CARD,),
    memory=MachineMemory(total_bytes=32 * GIB, free_bytes=20 * GIB, source="psutil"),
    disk=Disk(total_bytes=10**12, free_bytes=10**11, path="/models", is_certain=True, source="OLLAMA_MODELS"),
    sources={"gpus": "NVML"},
)


CANDIDATES = [candidate_of(entry, variant) for entry in MODEL_CATALOG.values() for variant in entry.variants]
ADVISED = recommend(CANDIDATES, Criteria(available_bytes=8 * GIB)).best


def fit(available_gib, form="q4", **criteria):
    wish = Criteria(available_bytes=int(available_gib * GIB), **criteria)
    return Fit(check_fit(wish, EIGHT_B.name, form, profile_of(EIGHT_B, EIGHT_B.variants[0])), wish, None)


def facts(**changes):
    """Everything well; what a test changes is not."""
    well = Facts(
        address="http://127.0.0.1:11434",
        reachable=True,
        version="0.33.0",
        simulated=False,
        ollama_problem=None,
        hardware=MACHINE,
        budget=budget(MACHINE),
        document_path="/data/model_metadata.json",
        document_writable=True,
        document_problem=None,
        current=new_model(EIGHT_B.name, EIGHT_B),
        heard=True,
        current_installed=True,
        current_fit=fit(8),
        contexts={},
        ids_missing=[],
        own_models=[],
        running=[],
        unfinished=[],
        advised=ADVISED,
    )
    return replace(well, **changes)


def loaded(vram_gib=6, context=4096, has_card=None):
    """A model of 6 GiB, so much of it on the card; None: Ollama does not know."""
    model = RunningModel(
        name="m",
        digest="d",
        size_bytes=None if vram_gib is None else 6 * GIB,
        size_vram_bytes=None if vram_gib is None else int(vram_gib * GIB),
        context_tokens=context,
        expires_at=None,
    )
    return running(model, "m", ["m"], None, has_card=has_card)


def to_do(diagnosis):
    return {finding.subject: finding for finding in diagnosis.findings if finding.ok is False}


def test_where_everything_is_well_each_line_says_so():
    found = diagnose(facts(running=[loaded()], contexts={"m": 4096}))

    assert found.ok and found.reachable
    assert [finding.subject for finding in found.findings] == [
        "Ollama", "Card", "Memory", "Disk", "Document", "Current model", "Advice", "Names", "Loaded",
    ]  # fmt: skip
    assert all(finding.ok and finding.remedy is None for finding in found.findings)
    assert found.findings[1].text == "NVIDIA GeForce RTX 4060, 8 GiB, 7 GiB free (NVML)."


NEEDS_DOING = {
    "Ollama is down": ({"reachable": False, "version": None}, "Ollama", "does not answer"),
    "Ollama is old": ({"version": "0.18.2"}, "Ollama", "Before 0.19"),
    "more is allowed than there is": ({"budget": budget(MACHINE, cap_bytes=12 * GIB)}, "Card", "allows 12 GiB"),
    "the disk is nearly full": (
        {"hardware": MACHINE.model_copy(update={"disk": Disk(free_bytes=5 * 10**9, path="/m", source="s")})},
        "Disk",
        "5.0 GB free",
    ),
    "the document cannot be written": ({"document_writable": False}, "Document", "cannot be written"),
    "the document was set aside": ({"document_problem": "It was damaged."}, "Document", "It was damaged."),
    "nothing is selected": (
        {"current": None, "advised": None},
        "Current model",
        "No model is selected",
    ),
    "the selected model is missing": ({"current_installed": False}, "Current model", "Ollama does not hold it"),
    "the selected model does not fit": ({"current_fit": fit(4)}, "Current model", "would lie in RAM"),
    "the selected model fails": (
        {"current": new_model(EIGHT_B.name, EIGHT_B).model_copy(update={"usage_count": 20, "success_rate": 0.5})},
        "Current model",
        "worked only 50% of 20 times",
    ),
    "an id is missing": ({"ids_missing": [EIGHT_B.name]}, "Names", "not under the name that AutoDev uses"),
    "a model spills": ({"running": [loaded(3)]}, "Loaded", "50% of m lies on the graphics card"),
    "another program loads it with more": (
        {"running": [loaded(context=32_768)], "contexts": {"m": 4096}},
        "Loaded",
        "a context of 32,768 tokens and used with 4,096",
    ),
    "a download did not finish": ({"unfinished": [DownloadJob(id="1", model="m", tag="t")]}, "Downloads", "m"),
}


@pytest.mark.parametrize("case", NEEDS_DOING)
def test_what_is_not_well_says_what_to_do(case):
    changes, subject, words = NEEDS_DOING[case]

    found = diagnose(facts(**changes))

    assert not found.ok
    assert list(to_do(found)) == [subject]
    assert words in to_do(found)[subject].text
    assert to_do(found)[subject].remedy


NOTED = {
    "simulated": ({"simulated": True}, "It is simulated"),
    "built from source": ({"version": "0.0.0"}, "How old it is cannot be told"),
    "no version": ({"version": None}, "How old it is cannot be told"),
    "no card": ({"hardware": Hardware(gpus=(), sources={})}, "There is no graphics card"),
    "Ollama elsewhere": (
        {"hardware": elsewhere(), "budget": budget(elsewhere())},
        "The graphics card is not known (unknown: Ollama is elsewhere). 8 GiB are assumed.",
    ),
    "tight": ({"current_fit": fit(6)}, "tight"),
    "on the processor": ({"current_fit": fit(16, source="processor")}, "runs on the processor, slowly"),
    "another model would be recommended": (
        {"advised": recommend(CANDIDATES, Criteria(available_bytes=48 * GIB, priority="quality")).best},
        "llama3.1:70b-instruct (4-bit) would be recommended now. Made for quality.",
    ),
    "another form of it would be recommended": (
        {"current_fit": fit(8, "q8")},
        "llama3.1:8b-instruct (4-bit) would be recommended now.",
    ),
    "Ollama was never heard": (
        {"heard": False, "current_installed": False},
        "is selected; whether Ollama holds it is not known until it answers.",
    ),
    "nothing suits": ({"advised": None}, "No model of the catalogue fits what is free now."),
    "a model of one's own": ({"own_models": [EIGHT_B.name]}, "Models of your own"),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_neither_well_nor_a_fault_is_noted_and_nothing_is_to_be_done(case):
    changes, words = NOTED[case]

    found = diagnose(facts(**changes))

    assert found.ok
    assert [words in finding.text for finding in found.findings if finding.ok is None] == [True]


def test_a_setting_makes_an_unknown_card_well():
    found = diagnose(facts(hardware=elsewhere(), budget=budget(elsewhere(), cap_bytes=6 * GIB)))

    assert "6 GiB are allowed." in found.findings[1].text
    assert found.findings[1].ok


def test_while_ollama_is_down_nobody_says_that_a_model_is_missing():
    found = diagnose(facts(reachable=False, current_installed=False, ollama_problem="It is down. Start it."))

    assert list(to_do(found)) == ["Ollama"]
    assert to_do(found)["Ollama"].text == "It is down. Start it."
    assert "Names" not in [finding.subject for finding in found.findings]


def test_few_failures_are_no_verdict():
    few = new_model(EIGHT_B.name, EIGHT_B).model_copy(
        update={"usage_count": doctor.USES_THAT_TELL - 1, "success_rate": 0.0}
    )

    assert diagnose(facts(current=few)).ok


def test_figures_that_are_not_known_are_left_out():
    nothing = Hardware(gpus=(Gpu(source="amdgpu"),), memory=MachineMemory(source="psutil"), sources={})

    found = diagnose(facts(hardware=nothing))

    assert [finding.subject for finding in found.findings][:3] == ["Ollama", "Card", "Document"]
    assert (
        found.findings[1].text == "A card without a name, of unknown size, how much is free cannot be known (amdgpu)."
    )


@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ({"version": "0.19.0"}, "Ollama", "Ollama 0.19.0 answers at http://127.0.0.1:11434."),
        ({"version": None}, "Ollama", "Ollama of unknown version answers"),
        ({"budget": budget(MACHINE, cap_bytes=8 * GIB)}, "Card", "NVIDIA GeForce RTX 4060, 8 GiB"),
        ({}, "Disk", "100.0 GB free for models at /models."),
        (
            {"hardware": MACHINE.model_copy(update={"disk": Disk(free_bytes=10**10, path="/m", source="s")})},
            "Disk",
            "10.0 GB free for models at /m. Whether Ollama keeps its models there is not certain.",
        ),
        ({"running": [loaded()]}, "Loaded", "m lies on the card as a whole."),
        ({"running": [loaded(None)]}, "Loaded", "m is loaded; where, Ollama does not tell."),
        ({"running": [loaded(0, has_card=False)]}, "Loaded", "m runs on the processor."),
        ({"running": [loaded(context=4096)], "contexts": {"m": 4096}}, "Loaded", "m lies on the card"),
        ({"running": [loaded(context=2048)], "contexts": {"m": 4096}}, "Loaded", "m lies on the card"),
        ({}, "Advice", "llama3.1:8b-instruct is what would be recommended now, too."),
    ],
)
def test_what_is_well_is_said_as_it_is(changes, subject, words):
    found = diagnose(facts(**changes))

    (line,) = [finding for finding in found.findings if finding.subject == subject]
    assert line.text.startswith(words)
    assert line.ok is not False


def test_what_is_recommended_and_installed_is_only_to_be_switched_to():
    there = ADVISED.model_copy(update={"installed": True})
    other = new_model("llama3.2:1b-instruct", MODEL_CATALOG["llama3.2:1b-instruct"])

    def remedy(advised):
        found = diagnose(facts(current=other, advised=advised))
        return next(finding.remedy for finding in found.findings if finding.subject == "Advice")

    assert remedy(there).endswith("or switch to it.")
    assert remedy(ADVISED).endswith("or download it.")


def test_another_form_of_the_current_model_is_named_by_its_form():
    found = diagnose(facts(current_fit=fit(8, "q8")))

    (line,) = [finding for finding in found.findings if finding.subject == "Advice"]
    assert line.remedy.endswith("or download it with quantization q4.")

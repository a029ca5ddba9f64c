"""What a person sees: whole names in narrow windows, honest figures, and nothing that steers the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.live import Live

from cli_display import DOWNLOADING, Bar, Display, Lines, moment, printable
from model_core.benchmark_results import OF_ANSWERS

NAME = "llama3.2:1b-instruct"


def a_model(**fields):
    return {
        "name": NAME,
        "display_name": "Llama",
        "purpose": "speed",
        "installed": True,
        "published": True,
        "own_model": False,
        "installed_quantization": "q4",
        "memory": {"need_bytes": {"q4": 2 * 2**30, "q8": 3 * 2**30}},
        "size_bytes": 810_000_000,
        "download_bytes": {"q4": 808_000_000, "q8": 1_322_000_000},
        "download_size_mb": 1300,
    } | fields


def a_job(**fields):
    return {
        "id": "d1",
        "model": NAME,
        "state": "downloading",
        "phase": "downloading",
        "message": None,
        "attempt": 1,
        "percent": 42.7,
        "downloaded_bytes": 2_100_000_000,
        "total_bytes": 4_900_000_000,
        "total_is_estimate": False,
        "bytes_per_second": 35_000_000,
        "eta_seconds": 80.0,
        "error": None,
    } | fields


def shown(draw, width=80, **console):
    display, out = Display("models"), io.StringIO()
    display.console = Console(
        file=out, width=width, markup=False, emoji=False, highlight=False, color_system=None, **console
    )
    draw(display)
    return out.getvalue()


def drawn_bar(job, width=80):
    def draw(display):
        with Live(console=display.console, auto_refresh=False) as live:
            Bar(display.console, live, DOWNLOADING)(job)

    return shown(draw, width, force_terminal=True)


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 25, 40, 50, 120])
def test_a_narrow_window_shows_fewer_columns_and_whole_names(width):
    text = shown(lambda display: display.models({"models": [a_model()]}), width)

    assert NAME in text
    assert len(text.splitlines()) == 2
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("speed" in text) == (width == 120)


def test_a_window_narrower_than_a_name_folds_it():
    text = shown(lambda display: display.models({"models": [a_model()]}), 12)

    assert "".join(text.split()) == f"Model{NAME}"


def test_columns_stand_below_one_another():
    models = [a_model(), a_model(name="m", size_bytes=40_000_000_000, installed_quantization="q8")]

    head, *rows = shown(lambda display: display.models({"models": models})).splitlines()

    assert {row.index("installed") for row in rows} == {head.index("Installed")}
    assert {row.index("B  ", head.index("Memory") + 8) for row in rows} == {head.index("Size") + 3}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "installed, q4"),
        ({"installed_quantization": None}, "installed "),
        ({"installed": False}, "not installed"),
        ({"installed": False, "published": False}, "never published"),
        ({"own_model": True}, "your own model"),
    ],
)
def test_a_list_says_whose_a_model_is_and_whether_it_is_there(fields, word):
    assert word in shown(lambda display: display.models({"models": [a_model(**fields)]}))


def test_what_is_not_known_is_no_number():
    unknown = a_model(
        installed=False,
        memory={},
        size_bytes=None,
        download_bytes={},
        download_size_mb=None,
        installed_quantization=None,
    )

    row = shown(lambda display: display.models({"models": [unknown]})).splitlines()[1]

    assert row.split() == [NAME, "not", "installed", "-", "-", "speed"]


ELSEWHERE = {"installed": False, "installed_quantization": None, "size_bytes": None}


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, "810 MB"),
        ({"size_bytes": None, "installed_quantization": "q8"}, "1.3 GB"),
        (ELSEWHERE, "808 MB"),
        (ELSEWHERE | {"download_bytes": {"q8": 9_000_000_000, "bf16": 16_000_000_000}}, "9.0 GB"),
        (ELSEWHERE | {"download_bytes": {}}, "1.3 GB"),
        (ELSEWHERE | {"download_bytes": {}, "published": False}, "-"),
    ],
    ids=["as it lies on the disk", "of its form", "of four bits", "of the smallest", "as promised", "never published"],
)
def test_a_list_shows_the_size_of_what_is_there_or_would_be_fetched(fields, size):
    row = shown(lambda display: display.models({"models": [a_model(**fields)]})).splitlines()[1]

    assert f"  {size}  speed" in row


def test_brackets_and_colons_in_a_name_are_letters(capsys):
    Display("models").models({"models": [a_model(name="[red]x[/red]:smile:")]})

    assert "[red]x[/red]:smile:" in capsys.readouterr().out


def test_a_file_gets_every_column_whole(capsys):
    Display("models").models({"models": [a_model(name="n" * 200)]})

    assert f"{'n' * 200}  installed, q4" in capsys.readouterr().out


def test_nothing_from_elsewhere_steers_the_terminal():
    evil = {"model": "a\x1b]0;title\x07b\x9b31m\r", "list": ["\x08", {"\x1b": "line\nline"}], "count": 3, "none": None}

    clean = printable(evil)

    assert clean == {"model": "a?]0;title?b?31m?", "list": ["?", {"?": "line\nline"}], "count": 3, "none": None}


def test_letters_of_every_script_stay():
    assert printable("風景 ✓ ü \u3000 👨‍👩‍👧") == "風景 ✓ ü \u3000 👨‍👩‍👧"


# --- a download ------------------------------------------------------------------------------------------------------


def test_a_bar_tells_size_rate_time_left_and_phase():
    text = drawn_bar(a_job())

    assert f"{NAME}: downloading" in text
    assert "42 %  2.1 of 4.9 GB  35.0 MB/s  1 min 20 s left" in text
    assert "━" in text


@pytest.mark.parametrize("width", [20, 30, 45, 60])
def test_a_bar_fits_any_window(width):
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn_bar(a_job(), width)))

    assert max(len(line) for line in lines) <= width
    assert "42 %" in "".join(lines)


def test_a_download_of_unknown_size_gets_no_bar_and_no_percent():
    text = drawn_bar(a_job(percent=None, total_bytes=None, eta_seconds=None))

    assert "2.1 GB  35.0 MB/s" in text
    assert "━" not in text
    assert "%" not in text


def test_a_hundred_percent_is_for_what_is_done():
    assert "99 %" in drawn_bar(a_job(percent=99.9))


def test_what_goes_wrong_meanwhile_takes_the_place_of_the_phase():
    assert "Trying again in 4 s." in drawn_bar(a_job(phase="waiting", message="No data. Trying again in 4 s."))


def test_an_estimate_is_called_one():
    assert "2.1 of about 4.9 GB" in drawn_bar(a_job(total_is_estimate=True))


def test_a_file_gets_a_line_for_each_phase_and_each_attempt():
    def draw(display):
        lines = Lines(display.console, DOWNLOADING)
        for fields in (
            {"phase": "waiting", "state": "queued"},
            {},
            {"percent": 50.0},
            {"phase": "waiting", "message": "Trying again in 1 s."},
            {"phase": "waiting", "message": "Trying again in 1 s."},
            {"attempt": 2},
            {"phase": "checking", "state": "verifying"},
            {"phase": "done", "state": "verifying"},
            {"phase": "done", "state": "completed"},
            {"phase": "waiting", "state": "failed", "error": {"code": "download_failed"}, "message": "It failed."},
        ):
            lines(a_job(**fields))

    assert shown(draw).splitlines() == [
        f"{NAME}: waiting",
        f"{NAME}: downloading (2.1 of 4.9 GB)",
        f"{NAME}: Trying again in 1 s.",
        f"{NAME}: downloading (2.1 of 4.9 GB)",
        f"{NAME}: checking",
    ]


def all_drawn(jobs, width=100, **console):
    return shown(lambda display: display.downloads({"downloads": jobs}), width, **console)


@pytest.mark.parametrize("width", [25, 60, 100])
def test_downloads_at_a_terminal_have_bars_and_fit(width):
    jobs = [a_job(), a_job(id="d2", model="m", state="queued", percent=None, message="Trying again in 1 s.")]

    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", all_drawn(jobs, width, force_terminal=True))

    assert NAME in text
    assert "m: Trying again in 1 s." in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("━" in text) == (width > 25)
    assert ("35.0 MB/s  1 min 20 s left  d1" in text) == (width == 100)


def test_downloads_in_a_file_have_no_bars():
    assert "━" not in all_drawn([a_job()])
    assert all_drawn([]) == "No downloads are on record.\n"


def test_a_file_gets_a_line_for_each_phase_of_each_download():
    resting = a_job(model="resting", id="d3", state="paused")
    answers = [
        {"downloads": [a_job(), resting, a_job(model="other", id="d2", state="paused")]},
        {"downloads": [a_job(percent=50.0), a_job(model="other", id="d2")]},
        {"downloads": [a_job(state="completed"), a_job(model="other", id="d2", phase="checking")]},
    ]

    text = shown(lambda display: list(display.all_shown_meanwhile(answers)))

    assert text.splitlines() == [
        f"{NAME}: downloading (2.1 of 4.9 GB)",
        "other: downloading (2.1 of 4.9 GB)",
        "other: checking",
    ]


def test_all_downloads_are_drawn_anew_in_the_same_place():
    answers = [{"downloads": [a_job(percent=percent)]} for percent in (10.0, 20.0)]

    text = shown(lambda display: list(display.all_shown_meanwhile(answers)), force_terminal=True)

    assert text.index("10 %") < text.index("\x1b[1A") < text.index("20 %")


def a_plan(**fields):
    return {
        "model": NAME,
        "tag": f"{NAME}-q4_K_M",
        "quantization": "q4",
        "basis": "manifest",
        "total_bytes": 810_000_000,
        "present_bytes": 10_000_000,
        "missing_bytes": 800_000_000,
        "free_bytes": 20_000_000_000,
        "fits_disk": True,
        "already_installed": False,
        "memory": {"message": "It fits."},
        "license": "Llama",
        "warnings": [{"code": "does_not_fit", "text": "It fits."}, {"code": "note", "text": "Take care."}],
    } | fields


def planned(**fields):
    return re.sub(" +", " ", shown(lambda display: display.plan(a_plan(**fields))))


def test_a_plan_tells_what_is_there_what_is_missing_and_the_room():
    text = planned()

    for line in ("Together 810 MB", "There already 10 MB", "To download 800 MB", "Free 20.0 GB", "Licence Llama"):
        assert f"{line} \n" in text or f"{line}\n" in text
    assert text.count("It fits.") == 1
    assert "- Take care." in text


def test_a_plan_claims_no_more_than_is_known():
    unknown = {"basis": "unknown", "total_bytes": None, "present_bytes": None, "missing_bytes": None}

    assert "To download about 800 MB" in planned(basis="catalogue")
    assert "To download not known" in planned(**unknown, free_bytes=None, fits_disk=None)
    assert "Free not known" in planned(**unknown, free_bytes=None, fits_disk=None)
    assert "Free 20.0 GB, not enough" in planned(fits_disk=False)


def test_a_wish_that_is_not_done_yet_is_not_told_as_done():
    done = {"download": a_job(state="paused", message="Paused. Resume goes on from there.")}

    assert shown(lambda display: display.wished(done, "pause")) == f"{NAME}: Paused. Resume goes on from there.\n"
    assert "is asked to pause" in shown(lambda display: display.wished({"download": a_job()}, "pause"))


# --- benchmarks ------------------------------------------------------------------------------------------------------


def some(median, low, high):
    return {"mean": median, "median": median, "p95": high, "min": low, "max": high, "count": 9}


def a_row(**fields):
    return {
        "model": NAME,
        "runs": 9,
        "failures": 0,
        "given_up": None,
        "tokens_per_second": some(41.23, 39.9, 42.7),
        "first_token_seconds": some(0.213, 0.201, 1.5),
        "answer_seconds": some(3.31, 3.0, 12.4),
        "load_seconds": some(4.1, 4.1, 4.1),
        "size_bytes": 2 * 2**30,
        "gpu_share": 1.0,
        "words": "As it is.",
    } | fields


def a_benchmark(*rows, **fields):
    return {
        "id": "b1b1b1b1b1b1",
        "state": "completed",
        "phase": "done",
        "message": None,
        "percent": 100.0,
        "prompts": ["one", "two", "three"],
        "photos": [],
        "runs": 3,
        "done": 9,
        "total": 9,
        "warnings": [],
        "gpu": None,
        "simulated": False,
        "error": None,
        "summary": list(rows) or [a_row()],
        "differences": {},
    } | fields


def told_of(*rows, width=80, **fields):
    return shown(lambda display: display.benchmark({"benchmark": a_benchmark(*rows, **fields)}), width)


@pytest.mark.parametrize("name", [NAME, "qwen3-vl:8b-instruct-q4_K_M", "hf.co/somebody/a-long-repository:Q4_K_M"])
def test_the_result_of_a_benchmark_fits_80_columns_with_everything_in_it(name):
    slow = a_row(
        model=name,
        tokens_per_second=some(345.6, 101.2, 1234.5),
        first_token_seconds=some(12.34, 10.0, 99.99),
        answer_seconds=some(33.3, 30.1, 59.9),
        load_seconds=some(44.4, 40.1, 99.9),
        size_bytes=int(38.4 * 2**30),
        gpu_share=0.47,
        failures=12,
        runs=180,
    )

    lines = told_of(slow, a_row()).splitlines()

    table = lines[1:-1]
    assert max(map(len, table)) <= 80
    assert name in "".join(line.split()[0] for line in table if line[:1].strip())
    for figure in ("346", "101-1234", "12.34 s", "10.00-99.99", "44.4 s", "38.4 GiB", "47 % card", "12 of 180"):
        assert any(figure in line for line in table), figure


def test_a_usual_name_is_not_folded():
    first = told_of().splitlines()[2]

    assert re.sub(" +", " ", first) == f"{NAME} 41.2 0.21 s 3.3 s 4.1 s 2.0 GiB 0 of 9"


def test_a_range_stands_below_its_figure_where_there_is_one():
    second = told_of().splitlines()[3]

    assert second.split() == ["39.9-42.7", "0.20-1.50", "3.0-12.4", "on", "card"]


def test_what_was_not_measured_is_not_made_up():
    unknown = dict.fromkeys(
        ("tokens_per_second", "first_token_seconds", "answer_seconds", "load_seconds", "size_bytes")
    )

    assert told_of(a_row(**unknown, gpu_share=None)).splitlines()[2].split()[1:6] == ["-"] * 5


@pytest.mark.parametrize(
    ("fields", "is_told"),
    [({}, False), ({"failures": 1}, True), ({"given_up": "it failed"}, True), ({"gpu_share": 0.5}, True)],
)
def test_what_the_figures_do_not_say_stands_below(fields, is_told):
    assert (f"- {NAME}: As it is." in told_of(a_row(**fields))) is is_told


def test_whether_a_difference_is_real_is_said_below_the_table():
    judged = {
        metric: {"text": f"{metric} as it is.", "word": "real", "winner": "m"}
        for metric in (*OF_ANSWERS, "load_seconds", "success_rate")
    }

    lines = told_of(differences=judged).splitlines()

    assert "Most tokens a second: tokens_per_second as it is." in lines
    assert "Most reliable: success_rate as it is." in lines
    assert sum("as it is." in line for line in lines) == len(judged)


def test_what_is_to_be_said_of_several_metrics_is_said_once():
    few = {"text": "Too few.", "word": "too_few", "winner": None}
    lines = told_of(
        differences=dict.fromkeys(("first_token_seconds", "answer_seconds", "load_seconds"), few)
    ).splitlines()

    # More runs do not load a model more often.
    assert "First word soonest; Soonest done: Too few." in lines
    assert "A benchmark with more --runs would tell." in lines


def test_an_interrupted_benchmark_says_how_to_go_on():
    said = told_of(state="interrupted", phase="waiting")

    assert "benchmarks resume b1b1b1b1b1b1" in said


def test_figures_of_the_demonstration_say_so_and_what_is_not_done_how_far_it_is():
    assert "no figure is real" in told_of(simulated=True)
    assert "loading m (4 of 9 answers)" in told_of(state="running", phase="loading m", done=4)
    assert "3 prompts, 1 run, 2 photos." in told_of(runs=1, photos=[1, 2])
    assert "3 prompts, 3 runs, on a card." in told_of(gpu="a card")


def test_a_benchmark_at_a_terminal_has_a_bar_and_in_a_file_a_line_for_each_turn():
    steps = [
        a_benchmark(state="running", phase="loading m", percent=0.0, done=0),
        a_benchmark(state="running", phase="round 1 of 3: m", percent=11.1, done=1),
        a_benchmark(state="running", phase="round 1 of 3: m", percent=22.2, done=2),
        a_benchmark(state="running", phase="round 1 of 3: m", message="Ollama is away.", percent=22.2, done=2),
        a_benchmark(),
    ]

    in_a_file = shown(lambda display: list(display.measured_meanwhile(steps)))
    drawn = shown(lambda display: list(display.measured_meanwhile(steps)), force_terminal=True)

    assert in_a_file.splitlines() == [
        "loading m (0 of 9 answers)",
        "round 1 of 3: m (1 of 9 answers)",
        "Ollama is away. (2 of 9 answers)",
    ]
    assert "22 %  2 of 9 answers" in drawn
    assert "━" in drawn


def test_a_wish_that_a_benchmark_end_is_not_told_as_done_before_it_is():
    running = {"benchmark": a_benchmark(state="running")}

    assert "still running" in shown(lambda display: display.benchmark_stopped(running))


# --- statistics ------------------------------------------------------------------------------------------------------


def a_part(**fields):
    return {
        "usage_count": 1200,
        "success_rate": 0.995,
        "avg_inference_time": 1.5,
        "tokens_per_second": 61.24,
        "avg_quality_score": 4.25,
    } | fields


def some_statistics(**fields):
    return a_part(
        name=NAME,
        p50=1.4,
        p95=2.9,
        max_inference_time=12.0,
        last_used="2026-11-23T18:04:05.000000Z",
        by_task={"tags": a_part(), "rating": a_part(avg_quality_score=None)},
        by_day=[a_part(date=f"2026-11-{day:02}") for day in range(1, 24)],
    ) | (fields)


def of_one_model(width=80, **fields):
    answer = {"model": NAME, "statistics": some_statistics(**fields)}
    return shown(lambda display: display.statistics(answer), width)


def test_the_figures_that_matter_fit_a_usual_window():
    lines = of_one_model().splitlines()

    assert max(len(line) for line in lines) <= 80
    assert lines[0].split("  ")[0] == "Model"
    assert re.split(r"  +", lines[1]) == [NAME, "1,200", "100 %", "1.40 s", "2.90 s", "61.2", "4.2"]


def test_of_one_model_its_tasks_and_its_last_days_are_shown():
    text = of_one_model()

    assert re.search(r"^rating +1,200 +100 % +1\.50 s +61\.2 +-$", text, re.MULTILINE)
    assert re.findall(r"^2026-11-\d\d", text, re.MULTILINE) == [f"2026-11-{day}" for day in range(17, 24)]


def test_of_all_models_each_is_a_line():
    answer = {"statistics": {NAME: some_statistics(), "unused": some_statistics(usage_count=0)}}

    assert len(shown(lambda display: display.statistics(answer)).splitlines()) == 2


def test_what_was_never_told_is_shown_as_nothing():
    unknown = dict.fromkeys(("p50", "p95", "tokens_per_second", "avg_quality_score"))

    text = of_one_model(**unknown, by_task={}, by_day=[])

    assert re.split(r"  +", text.splitlines()[1])[3:] == ["-", "-", "-", "-", "1.50 s"]
    assert len(text.splitlines()) == 2


def compared(width=80, **winners):
    def figure(value, size, **more):
        return {"value": value, "size": size, **more}

    row = {
        "success_rate": figure(0.98, 1200),
        "inference_time": figure(1.4, 1100, mean=1.5, mean_size=1150),
        "tokens_per_second": figure(None, 0),
        "quality_score": figure(4.25, 7),
        "usage_count": figure(1200.0, 1200),
    }
    answer = {"metrics": list(row), "rows": [{"model": NAME, "figures": row}], "winners": winners}
    return shown(lambda display: display.comparison(answer), width).splitlines()


def test_beside_each_figure_stands_how_many_uses_it_rests_on():
    cells = [NAME, "98 % (1,200)", "1.40 s (1,100)", "-", "4.2 (7)", "1,200", "1.50 s (1,150)"]

    assert re.split(r"  +", compared(width=100)[1]) == cells
    assert re.split(r"  +", compared(width=80)[1]) == cells[:-1]


def test_of_each_metric_a_line_says_who_is_ahead():
    lines = compared(success_rate={"text": "a beats b."}, quality_score={"text": "Too few values to tell."})

    assert lines[2:] == ["", "Most reliable: a beats b.", "Best answers: Too few values to tell."]


# --- notes -----------------------------------------------------------------------------------------------------------


def test_what_is_known_of_an_ollama_that_is_down_is_dated(capsys):
    ollama = {"reachable": False, "problem": "Ollama does not answer.", "checked_at": "2026-11-23T18:04:05.000000Z"}

    shown(lambda display: display.note_ollama({"ollama": ollama}))

    when = moment("2026-11-23T18:04:05.000000Z")
    assert capsys.readouterr().err == f"Ollama does not answer.\nShown is the last known state, of {when}.\n"


def test_nothing_is_said_of_an_ollama_that_answers_or_was_not_asked(capsys):
    for answer in ({}, {"ollama": {"reachable": True}}, {"ollama": {"reachable": None}}):
        shown(lambda display, answer=answer: display.note_ollama(answer))

    assert capsys.readouterr().err == ""


def test_an_ollama_that_never_answered_is_not_given_a_past(capsys):
    shown(lambda display: display.note_ollama({"ollama": {"reachable": False, "problem": "Down.", "checked_at": None}}))

    assert capsys.readouterr().err == "Down.\nNothing is known of it yet.\n"

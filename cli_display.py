"""Show the answers of the REST face to a person at a terminal: tables that fit, a bar that moves, plain words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from model_core.explanation import format_download, format_speed
from model_core.memory import format_memory, label
from model_core.records import GIB
from model_core.speed import Speed
from rest_client import UNDER_WAY

Json = dict[str, Any]

NOTHING = "-"
BAR_WIDTHS = (10, 40)
UNBOUNDED_WIDTH = 1000
PHASE_AGE_FROM_S = 10.0
TOO_LARGE_SHOWN = 2
# Reasons that a table of alternatives must not leave out.
DOUBTS = ("unreliable", "unreliable_form", "partly_in_ram")
BENCHMARK_OVER = ("completed", "cancelled", "failed")
DAYS_SHOWN = 7

# What could move the cursor or hide text. Names and messages come from other machines.
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def in_form(name: str, quantization: str | None) -> str:
    """Return how a model is named in a command, with its form where one is chosen."""
    return f"{name} --quantization {quantization}" if quantization else name


def printable(value: Any) -> Any:
    r"""Return JSON values whose texts cannot steer a terminal.

    >>> printable({"model": "a\x1b[2Jb", "count": 1})
    {'model': 'a?[2Jb', 'count': 1}
    """
    if isinstance(value, str):
        return _CONTROL.sub("?", value)
    if isinstance(value, dict):
        return {printable(key): printable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [printable(entry) for entry in value]
    return value


class Display:
    """Writes answers, made printable, to stdout, and what is only to be noted to stderr.

    program  how the person calls this program, for what they may type next
    """

    def __init__(self, program: str) -> None:
        self._program = program
        # Brackets and colons are letters of names here, not rich's markup.
        self.console = Console(markup=False, emoji=False, highlight=False)
        if not self.console.is_terminal:
            # Whoever reads a file or a pipe has no window, and wants every column whole.
            self.console.width = UNBOUNDED_WIDTH

    # --- models ------------------------------------------------------------------------------------------------------

    def models(self, answer: Json) -> None:
        """Show the list of models."""
        if not answer["models"]:
            self._say("No model passes these filters.")
            return
        self._table(
            ["Model", "Installed", "Memory", "Size", "Purpose"],
            [
                (model["name"], _installed(model), _memory(model), _size(model), model["purpose"])
                for model in answer["models"]
            ],
            right=("Memory", "Size"),
        )

    def names(self, answer: Json) -> None:
        """Show the names of what is installed, one a line."""
        for name in answer["models"]:
            self._say(name)
        if not answer["models"]:
            self.note(f"Nothing is installed. {self._program} recommend names a good first model.")

    def model(self, model: Json) -> None:
        """Show one model."""
        memory = model["memory"]
        needs = ", ".join(f"{form} {format_memory(need)}" for form, need in memory.get("need_bytes", {}).items())
        context = memory.get("context_tokens")
        self._facts(
            {
                "Model": model["name"],
                "": model["display_name"] if model["display_name"] != model["name"] else None,
                "Installed": _installed(model),
                "Purpose": model["purpose"],
                "About": f"{model['description']} {_sentence(model['recommended_use'])}".strip(),
                "Parameters": model["size"],
                "Size": _size(model),
                "Memory": f"{needs} (context of {context:,} tokens)" if needs and context else needs,
                "Context": f"{model['context_tokens']:,} tokens at most" if model["context_tokens"] else None,
                "Can do": ", ".join(model["capabilities"]),
                "Licence": model["license"],
                "Used": _used(model),
                "In Ollama": ", ".join(model["installed_as"]),
                "Instead": ", ".join(model["alternatives"]),
            }
        )
        for remark in model["notes"]:
            self._say(f"- {remark}")

    def current(self, answer: Json) -> None:
        """Show the selected model."""
        self._say(f"{answer['model']} ({_installed(answer['info'])})")

    def switched(self, answer: Json) -> None:
        """Show what is current now, and what was before."""
        before = answer["previous"]
        self._say(answer["message"] + (f" Before: {before}." if before and before != answer["model"] else ""))
        if answer["loaded"]:
            self._say(answer["loaded"]["message"])
        for warning in answer["warnings"]:
            self.note(f"Warning: {warning}")

    def deleted(self, answer: Json) -> None:
        """Show what has gone."""
        freed = answer["freed_bytes"]
        self._say(answer["message"] + ("" if freed is None else f" {format_download(freed)} are free again."))

    def synced(self, answer: Json) -> None:
        """Show what has changed in Ollama."""
        self._say(answer["message"])
        self._lists(answer, "added", "removed")

    # --- what is in memory -------------------------------------------------------------------------------------------

    def running(self, answer: Json) -> None:
        """Show what is in memory."""
        if not answer["models"]:
            self._say("Nothing is loaded.")
            return
        self._table(
            ["Model", "On the card", "Memory", "Estimate off by", "Context", "Until"],
            [
                (
                    model["name"],
                    _share(model["gpu_share"]),
                    NOTHING if model["size_bytes"] is None else format_memory(model["size_bytes"]),
                    NOTHING if model["error_percent"] is None else f"{model['error_percent']:+.1f} %",
                    NOTHING if model["context_tokens"] is None else f"{model['context_tokens']:,}",
                    "unloaded" if model["stays"] else moment(model["expires_at"]),
                )
                for model in answer["models"]
            ],
            right=("On the card", "Memory", "Estimate off by", "Context"),
        )
        for model in answer["models"]:
            self._warn(model["warnings"])

    def waited_for(self, name: str, steps: Iterable[Json]) -> Iterator[Json]:
        """Yield the steps of a wait, and show at a terminal what is waited for and how long."""
        if not self._can_draw:
            yield from steps
            return
        with self.console.status("") as status:
            for step in steps:
                if "phase" in step:
                    status.update(Text(printable(f"{name}: {step['phase']}, {step['seconds']:.0f} s")))
                yield step

    def loaded(self, answer: Json) -> None:
        """Show what came of a load."""
        self._say(answer["message"])
        now = answer["running"]
        if now and now["error_percent"] is not None:
            measured, estimate = format_memory(now["measured_bytes"]), format_memory(now["estimate_bytes"])
            self._say(
                f"With what the card's own software holds it takes {measured}; {estimate} were estimated "
                f"({now['error_percent']:+.1f} %). What was measured counts from now on."
            )
        self._warn(answer["warnings"])

    def _warn(self, warnings: Iterable[Json]) -> None:
        for warning in warnings:
            self.note(f"Warning: {warning['text']}")

    # --- downloads ---------------------------------------------------------------------------------------------------

    def shown_meanwhile(self, steps: Iterable[Json], telling: Telling | None = None) -> Iterator[Json]:
        """Yield what becomes of a job and show it: as a bar at a terminal, else as a line for each phase.

        telling  how it is told of; left out: as a download
        """
        with self._progress(telling or DOWNLOADING) as draw:
            for job in steps:
                draw(printable(job))
                yield job

    @contextmanager
    def _progress(self, telling: Telling) -> Iterator[Lines | Bar]:
        if self._can_draw:
            with Live(console=self.console, auto_refresh=False, transient=True) as live:
                yield Bar(self.console, live, telling)
        else:
            yield Lines(self.console, telling)

    @property
    def _can_draw(self) -> bool:
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def downloaded(self, answer: Json) -> None:
        """Show that a model is there."""
        job = answer["download"]
        was_there = "was there already" if job["already_installed"] else "is installed"
        self._say(
            f"{label(job['model'], job['quantization'])} {was_there}. "
            f"Use it: {self._program} switch {in_form(job['model'], job['quantization'])}"
        )

    def plan(self, answer: Json) -> None:
        """Show what a download would fetch, and whether there is room for it."""
        form = f" ({answer['quantization']})" if answer["quantization"] else ""
        about = "" if answer["basis"] == "manifest" else "about "
        self._say(f"{answer['model']}{form}{' is installed.' if answer['already_installed'] else ''}")
        self._facts(
            {
                "Fetched as": answer["tag"] if answer["tag"] != answer["model"] else None,
                "Together": _about(about, answer["total_bytes"]),
                "There already": _about(about, answer["present_bytes"]),
                "To download": _about(about, answer["missing_bytes"]),
                "Free": _free(answer),
                "Memory": answer["memory"].get("message"),
                "Licence": answer["license"],
            }
        )
        said = answer["memory"].get("message")
        for warning in answer["warnings"]:
            if warning["text"] != said:
                self._say(f"- {warning['text']}")

    def downloads(self, answer: Json) -> None:
        """Show every download on record."""
        self.console.print(self._downloads(answer["downloads"]))

    def all_shown_meanwhile(self, steps: Iterable[Json]) -> Iterator[Json]:
        """Yield what becomes of all downloads and show it: anew in the same place, or as a line for each phase."""
        if self._can_draw:
            with Live(console=self.console, auto_refresh=False, transient=True) as live:
                for answer in steps:
                    live.update(self._downloads(printable(answer["downloads"])), refresh=True)
                    yield answer
            return
        each: dict[str, Lines] = {}
        for answer in steps:
            for job in printable(answer["downloads"]):
                if job["state"] in UNDER_WAY:
                    each.setdefault(job["id"], Lines(self.console, DOWNLOADING))(job)
            yield answer

    def _downloads(self, jobs: Sequence[Json]) -> RenderableType:
        if not jobs:
            return Text("No downloads are on record.")
        drawn = self.console.is_terminal
        headings = ["Model", "State", *([""] if drawn else []), "Done", "Size", "Rate", "Left", "Id"]
        rows: list[list[RenderableType]] = [
            [
                job["model"],
                _state(job),
                *([_bar(job)] if drawn else []),
                *(_percent(job), _progress(job), _rate(job), _left(job)),
                job["id"],
            ]
            for job in jobs
        ]
        messages = [Text(f"{job['model']}: {job['message']}") for job in jobs if job["message"]]
        return Group(self._fitting(headings, rows, right=("Done", "Size", "Rate", "Left")), *messages)

    def wished(self, answer: Json, wish: str) -> None:
        """Show what came of a pause or of a cancel."""
        job = answer["download"]
        if job["state"] in UNDER_WAY:
            self._say(f"{job['model']}: is asked to {wish}, and still {_state(job)}.")
            return
        self._say(f"{job['model']}: {job['message'] or job['state']}")
        self.note(f"Go on: {self._program} downloads resume {job['id']}")

    def moved(self, answer: Json) -> None:
        """Show that a download has another place."""
        self._say(f"{answer['download']['model']} has its new place. The order: {self._program} downloads")

    def forgotten(self, answer: Json) -> None:
        """Show that a download is off the record."""
        self._say(f"The download of {answer['download']['model']} is off the record.")

    # --- benchmarks --------------------------------------------------------------------------------------------------

    def warnings(self, job: Json) -> None:
        """Say before it begins what a benchmark will suffer from."""
        for warning in job["warnings"]:
            self.note(f"Warning: {warning}")

    def measured_meanwhile(self, steps: Iterable[Json]) -> Iterator[Json]:
        """Yield what becomes of a benchmark and show it, as a download is shown."""
        return self.shown_meanwhile(steps, MEASURING)

    def benchmark(self, answer: Json, *, answers: bool = False) -> None:
        """Show what a benchmark has found: a row for each model, ranges below the figures; answers: these, too."""
        job = answer["benchmark"]
        asked = f"{_times(len(job['prompts']), 'prompt')}, {_times(job['runs'], 'run')}"
        photos = f", {_times(len(job['photos']), 'photo')}" if job["photos"] else ""
        where = f", on {job['gpu']}" if job["gpu"] else ""
        self._say(f"Benchmark {job['id']}, {job['state']}: {asked}{photos}{where}.")
        if job["state"] != "completed":
            self._say(f"{job['message'] or job['phase']} ({_answers(job)})")
        self.console.print(_results(job["summary"]))
        if job["simulated"]:
            self._say("Measured on a simulated Ollama: no figure is real.")
        for line in filter(None, map(_exception, job["summary"])):
            self._say(f"- {line}")
        self._measured_differences(job["differences"])
        if answers:
            self._answers(job)
        elif job["state"] == "interrupted":
            self._say(f"Go on from there: {self._program} benchmarks resume {job['id']}")
        elif job["state"] in BENCHMARK_OVER:
            self.note(f"What was answered: {self._program} benchmarks show {job['id']} --answers")

    def benchmarks_compared(self, answer: Json) -> None:
        """Show several benchmarks as if they had been one."""
        found = answer["comparison"]
        self.console.print(_results(found["summary"]))
        for line in filter(None, map(_exception, found["summary"])):
            self._say(f"- {line}")
        for judged in (found["differences"], *found["by_model"].values()):
            self._measured_differences(judged)
        for warning in found["warnings"]:
            self.note(f"Warning: {warning}")

    def _measured_differences(self, judged: Mapping[str, Json]) -> None:
        # To load a model more often takes more than more runs.
        told = {name: one for name, one in judged.items() if name != "load_seconds" or one["winner"]}
        self._differences(told)
        if any(judgement["word"] == "too_few" for judgement in told.values()):
            self._say("A benchmark with more --runs would tell.")

    def _answers(self, job: Json) -> None:
        for number, prompt in enumerate(job["prompts"]):
            self._say("")
            self._say(f"Prompt {number + 1}: {prompt}")
            for result in job["results"]:
                if result["prompt"] == number and result["answer"] is not None:
                    photo = "" if result["photo"] is None else f", photo {result['photo'] + 1}"
                    self._say(f"\n{result['model']}{photo}:\n{result['answer']}")

    def benchmarks(self, answer: Json) -> None:
        """Show every benchmark that is kept."""
        if not answer["benchmarks"]:
            self._say("No benchmarks are kept.")
            return
        self._table(
            ["Id", "State", "Answers", "Asked for", "Models"],
            [
                (
                    job["id"],
                    job["state"],
                    f"{job['done']} of {job['total']}",
                    moment(job["created_at"]),
                    ", ".join(model["name"] for model in job["models"]),
                )
                for job in answer["benchmarks"]
            ],
            right=("Answers",),
        )

    def benchmark_stopped(self, answer: Json) -> None:
        """Show what came of the wish that a benchmark end."""
        job = answer["benchmark"]
        if job["state"] in UNDER_WAY:
            self._say(f"Benchmark {job['id']} is asked to end, and still {job['state']}.")
            return
        self._say(f"{job['message'] or job['state']}")
        self.note(f"What was found: {self._program} benchmarks show {job['id']}")

    # --- advice and statistics ---------------------------------------------------------------------------------------

    def recommendation(self, answer: Json) -> None:
        """Show the model to take, why, and the others in their order."""
        name, form = answer["recommended_model"], answer["quantization"]
        self._say(f"{name} ({form})" if form else name)
        for reason in answer["reasons"]:
            self._say(f"- {reason['text']}")
        if answer["alternatives"]:
            self._say("")
            self._table(
                ["Or", "Form", "Verdict", "Memory", "To download"],
                [
                    (
                        other["model"],
                        other["quantization"] or NOTHING,
                        other["verdict"],
                        format_memory(other["need"]["total"]),
                        "installed" if other["installed"] else _bytes(other["download_bytes"]),
                    )
                    for other in answer["alternatives"]
                ],
                right=("Memory", "To download"),
            )
        for other in answer["alternatives"]:
            for reason in other["reasons"]:
                if reason["code"] in DOUBTS:
                    self._say(f"- {label(other['model'], other['quantization'])}: {reason['text']}")
        too_large = [one for one in answer["not_chosen"] if one["verdict"]]
        for one in too_large[:TOO_LARGE_SHOWN]:
            self._say(f"Does not fit: {one['reason']['text']}")
        # When nothing is said it is the form that is there, else four bits.
        taken = answer["info"]["installed_quantization"] or "q4"
        chosen = form if form in answer["info"]["tags"] and form != taken else None
        self.note(f"Next: {self._program} {'switch' if answer['installed'] else 'download'} {in_form(name, chosen)}")

    def check(self, answer: Json) -> None:
        """Show whether a model lies on the card, and what its need is made of."""
        self._say(answer["message"])
        parts = {
            "Weights": "weights",
            "Context": "kv_cache",
            "Computing": "graph",
            "Looking": "vision",
            "Overhead": "overhead",
            "Together": "total",
        }
        need = answer["need"]
        self._facts({word: format_memory(need[part]) for word, part in parts.items() if need.get(part) is not None})
        if answer["speed"]:
            self._say(f"Speed: {format_speed(Speed.model_validate(answer['speed']))}.")
        for way in answer["ways"]:
            self._say(f"- {way['text']}")
        if answer["source"] == "assumed":
            self.note("How much memory the card has free is not known here; --vram says it.")

    def statistics(self, answer: Json) -> None:
        """Show what is on record of every model that was used, or of one, with its tasks and its last days."""
        found = answer["statistics"]
        listed = [found] if "model" in answer else list(found.values())
        used = [figures for figures in listed if figures["usage_count"]]
        if not used:
            self._say(f"{answer['model']} was not used yet." if "model" in answer else "No model was used yet.")
            return
        self._table(
            ["Model", "Uses", "Succeeded", "Median", "95 %", "Tokens/s", "Quality", "Mean", "Longest", "Last used"],
            [
                (
                    figures["name"],
                    f"{figures['usage_count']:,}",
                    _share(figures["success_rate"]),
                    _seconds(figures["p50"]),
                    _seconds(figures["p95"]),
                    _figure(figures["tokens_per_second"]),
                    _figure(figures["avg_quality_score"]),
                    _seconds(figures["avg_inference_time"]),
                    _seconds(figures["max_inference_time"]),
                    moment(figures["last_used"]),
                )
                for figures in sorted(used, key=lambda figures: -figures["usage_count"])
            ],
            right=("Uses", "Succeeded", "Median", "95 %", "Tokens/s", "Quality", "Mean", "Longest"),
        )
        if "model" in answer:
            self._parts("Task", found["by_task"])
            self._parts("Day", {day["date"]: day for day in found["by_day"][-DAYS_SHOWN:]})

    def _parts(self, heading: str, parts: Mapping[str, Json]) -> None:
        if not parts:
            return
        self._say("")
        self._table(
            [heading, "Uses", "Succeeded", "Mean", "Tokens/s", "Quality"],
            [
                (
                    name,
                    f"{part['usage_count']:,}",
                    _share(part["success_rate"]),
                    _seconds(part["avg_inference_time"]),
                    _figure(part["tokens_per_second"]),
                    _figure(part["avg_quality_score"]),
                )
                for name, part in parts.items()
            ],
            right=("Uses", "Succeeded", "Mean", "Tokens/s", "Quality"),
        )

    def comparison(self, answer: Json) -> None:
        """Show models side by side, and a line on who is ahead in what."""
        columns = [_COMPARED[metric] for metric in answer["metrics"]]
        columns += [_MEANS[metric] for metric in answer["metrics"] if metric in _MEANS]
        self._table(
            ["Model", *(heading for heading, _ in columns)],
            [(row["model"], *(cell(row["figures"]) for _, cell in columns)) for row in answer["rows"]],
            right=[heading for heading, _ in columns],
        )
        self._differences(answer["winners"])

    def _differences(self, judged: Mapping[str, Json]) -> None:
        if judged:
            self._say("")
        alike: dict[str, list[str]] = {}
        for metric, judgement in judged.items():
            alike.setdefault(judgement["text"], []).append(_WON[metric])
        for text, metrics in alike.items():
            self._say(f"{'; '.join(metrics)}: {text}")

    def recorded(
        self,
        name: str,
        seconds: float,
        *,
        failed: bool,
        tokens: int | None = None,
        quality: float | None = None,
        task: str | None = None,
    ) -> None:
        """Show what was recorded."""
        told = ["a failure" if failed else "a success", _seconds(seconds) if seconds else "without a time"]
        told += [] if tokens is None else [f"{tokens:,} tokens"]
        told += [] if quality is None else [f"quality {quality:g}"]
        told += [] if task is None else [f"for {task}"]
        self._say(printable(f"Recorded for {name}: {', '.join(told)}."))

    def hardware(self, answer: Json) -> None:
        """Show what the machine has."""
        for gpu in answer["gpus"] or []:
            speed = gpu["bandwidth_bytes_per_s"]
            self._facts(
                {
                    "Card": gpu["name"] or "without a name",
                    "In all": _or_unknown(gpu["total_bytes"]),
                    "Free": _or_unknown(gpu["free_bytes"]),
                    "Bandwidth": f"{speed / 1e9:.0f} GB/s ({gpu['bandwidth_source']})" if speed else None,
                    "Says": gpu["source"],
                }
            )
        if not answer["gpus"]:
            none = (
                "There is no graphics card that Ollama would use" if answer["gpus"] == [] else "The card is not known"
            )
            self._say(f"{none} ({answer['sources']['gpus']}).")
        memory, disk = answer["memory"], answer["disk"]
        if memory:
            self._say(f"RAM: {_or_unknown(memory['total_bytes'])}, {_or_unknown(memory['free_bytes'])} free.")
        if disk:
            self._say(f"Disk for models: {_bytes(disk['free_bytes'])} free at {disk['path']}.")
        found = answer["available"]
        is_capped = found["source"] == "processor" and found["available_bytes"] == found["machine"]["cap_bytes"]
        why = _COUNTED["capped" if is_capped else found["source"]]
        self._say(f"Advice counts on {format_memory(found['available_bytes'])}: {why}.")

    def doctor(self, answer: Json) -> None:
        """Show what is well, and what to do where it is not."""
        for finding in answer["findings"]:
            mark = {True: "well", False: "DO", None: "note"}[finding["ok"]]
            self._say(f"{mark:<5}{finding['subject']}: {finding['text']}")
            if finding["remedy"]:
                self._say(f"     {finding['remedy']}")
        self._say("Nothing needs to be done." if answer["well"] else "What is marked DO needs doing.")

    # --- care of the data --------------------------------------------------------------------------------------------

    def imported(self, answer: Json) -> None:
        """Show what an import changed, or would change."""
        self._say(answer["message"])
        self._lists(answer, "added", "updated", "removed")
        self._say(f"Uses on record: {answer['usage_before']:,} before, {answer['usage_after']:,} after.")

    def health(self, answer: Json) -> None:
        """Show how each part is."""
        for name, part in answer["parts"].items():
            well = "none is selected" if name == "current_model" and not part["model"] else "well"
            self._say(f"{name.replace('_', ' ')}: {part['problem'] or well}")
        self._say(f"The document is {answer['parts']['store']['path']}.")

    # --- the same for all --------------------------------------------------------------------------------------------

    def done(self, message: str) -> None:
        """Show that something has happened."""
        self._say(message)

    def note(self, line: str) -> None:
        """Say what belongs beside the answer: whoever reads stdout by program is not disturbed."""
        click.echo(printable(line), err=True)

    def note_ollama(self, answer: Json) -> None:
        """Say where an answer does not rest on an Ollama that answers and is real."""
        ollama = answer.get("ollama") or {}
        if ollama.get("simulated"):
            self.note("This is a simulated Ollama: no model here is real.")
        if ollama.get("reachable") is False:
            known = ollama.get("checked_at")
            rest = f"Shown is the last known state, of {moment(known)}." if known else "Nothing is known of it yet."
            self.note(f"{ollama.get('problem') or 'Ollama does not answer.'}\n{rest}")

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def _lists(self, answer: Json, *words: str) -> None:
        for word in words:
            if answer[word]:
                self._say(f"{word.capitalize()}: {', '.join(answer[word])}.")

    def _facts(self, facts: Mapping[str, str | None]) -> None:
        grid = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
        for word, fact in facts.items():
            if fact:
                grid.add_row(word, fact)
        self.console.print(grid)

    def _table(self, headings: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> None:
        """Print a table that fits."""
        self.console.print(self._fitting(headings, rows, right))

    def _fitting(
        self, headings: Sequence[str], rows: Iterable[Sequence[RenderableType]], right: Sequence[str]
    ) -> Table:
        """Return a table. Where the window is too narrow, the last columns are left out; the first is never cut."""
        rows, wide = list(rows), self.console.options.update(max_width=UNBOUNDED_WIDTH)
        for shown in range(len(headings), 0, -1):
            table = _table(headings[:shown], rows, right)
            if self.console.measure(table, options=wide).maximum <= self.console.width:
                break
        return table


def _table(headings: Sequence[str], rows: Iterable[Sequence[RenderableType]], right: Sequence[str]) -> Table:
    columns = [Column(word, justify="right" if word in right else "left", no_wrap=True) for word in headings]
    if len(columns) == 1:
        columns[0] = Column(headings[0], overflow="fold")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row[: len(headings)])
    return table


def _results(summary: Iterable[Json]) -> Table:
    """Return the table of a benchmark. It fits 80 columns: of what is too wide, the names of models are folded."""
    figures = ("Tokens/s", "First token", "Answer", "Load", "Memory", "Failed")
    columns = [Column(word, justify="right", no_wrap=True) for word in figures]
    table = Table(Column("Model", overflow="fold"), *columns, box=None, pad_edge=False, header_style="bold")
    for found in summary:
        table.add_row(
            found["model"],
            _ranged(found["tokens_per_second"], 1),
            _ranged(found["first_token_seconds"], 2, " s"),
            _ranged(found["answer_seconds"], 1, " s"),
            _ranged(found["load_seconds"], 1, " s"),
            _in_memory(found),
            f"{found['failures']} of {found['runs']}",
        )
    return table


def _ranged(figures: Json | None, digits: int, unit: str = "") -> str:
    """Return a median, and below it the range that it comes from."""
    if figures is None:
        return NOTHING
    # Three figures tell the difference; what follows would only be wide.
    digits = 0 if figures["max"] >= 100 else digits
    median, low, high = (f"{figures[which]:.{digits}f}" for which in ("median", "min", "max"))
    return f"{median}{unit}" if low == high else f"{median}{unit}\n{low}-{high}"


def _in_memory(found: Json) -> str:
    if found["size_bytes"] is None:
        return NOTHING
    share, size_bytes = found["gpu_share"], found["size_bytes"]
    size = f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else format_memory(size_bytes)
    if share is None:
        return size
    return f"{size}\n" + ("on card" if share >= 1 else "in RAM" if share <= 0 else f"{100 * share:.0f} % card")


def _exception(found: Json) -> str | None:
    """Return what the figures of a model do not say by themselves."""
    unusual = found["failures"] or found["given_up"] or (found["gpu_share"] is not None and found["gpu_share"] < 1)
    return f"{found['model']}: {found['words']}" if unusual else None


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- a job while it goes on ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Telling:
    """How one kind of job is told of while it goes on.

    place    another one is worth another line
    line     what is told at that place
    doing    what is going on now; the second is how long it has been, in words, or empty
    figures  how far it is, the most telling first
    """

    place: Callable[[Json], object]
    line: Callable[[Json], str]
    doing: Callable[[Json, str], str]
    figures: Callable[[Json], tuple[str, ...]]


class Lines:
    """A line for each phase of a job: for files and pipes."""

    def __init__(self, console: Console, telling: Telling) -> None:
        self._console, self._telling = console, telling
        self._last: object = None

    def __call__(self, job: Json) -> None:
        """Show the job as it stands now, if it has come to another place."""
        place = self._telling.place(job)
        # How it ended is said after this, once.
        if place == self._last or job["phase"] == "done" or job["error"]:
            return
        self._last = place
        self._console.print(self._telling.line(job), soft_wrap=True)


class Bar:
    """Two lines that are drawn anew: what is going on, and how far it is."""

    def __init__(self, console: Console, live: Live, telling: Telling) -> None:
        self._console, self._live, self._telling = console, live, telling
        self._phase, self._since_s = "", time.monotonic()

    def __call__(self, job: Json) -> None:
        """Show the job as it stands now."""
        if job["phase"] != self._phase:
            self._phase, self._since_s = job["phase"], time.monotonic()
        age_s = time.monotonic() - self._since_s
        # Checking 40 GB takes minutes in which nothing else moves.
        age = f", for {_duration(age_s)}" if age_s >= PHASE_AGE_FROM_S and job["phase"] != "downloading" else ""
        doing = Text(self._telling.doing(job, age), overflow="ellipsis", no_wrap=True)
        self._live.update(Group(doing, self._figures(job)), refresh=True)

    def _figures(self, job: Json) -> Table | Text:
        known = [figure for figure in self._telling.figures(job) if figure != NOTHING]
        while len(known) > 1 and len("  ".join(known)) > self._console.width:
            known.pop()
        figures = Text("  ".join(known), no_wrap=True)
        least, most = BAR_WIDTHS
        width = min(most, self._console.width - figures.cell_len - 2)
        if job["percent"] is None or width < least:
            return figures
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(_bar(job, width), figures)
        return grid


def _bar(job: Json, width: int = BAR_WIDTHS[0]) -> RenderableType:
    if job["percent"] is None:
        return NOTHING
    return ProgressBar(total=100, completed=job["percent"], width=width, complete_style="green")


def _downloading_line(job: Json) -> str:
    size = f" ({_progress(job)})" if job["phase"] == "downloading" else ""
    return f"{job['model']}: {job['message'] or job['phase'] + size}"


DOWNLOADING = Telling(
    place=lambda job: (job["phase"], job["attempt"]),
    line=_downloading_line,
    doing=lambda job, age: f"{job['model']}: {job['message'] or job['phase'] + age}",
    figures=lambda job: (_percent(job), _progress(job), _rate(job), _left(job)),
)
MEASURING = Telling(
    place=lambda job: (job["phase"], job["message"]),
    line=lambda job: f"{job['message'] or job['phase']} ({_answers(job)})",
    doing=lambda job, age: f"{job['message'] or job['phase'] + age}",
    figures=lambda job: (_percent(job), _answers(job)),
)


def _answers(job: Json) -> str:
    return f"{job['done']} of {job['total']} answers"


# --- values in words -------------------------------------------------------------------------------------------------


def moment(text: str | None) -> str:
    """Return a moment in the time of this machine, to the minute."""
    if not text:
        return NOTHING
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def _or_unknown(size_bytes: int | None) -> str:
    return "not known" if size_bytes is None else format_memory(size_bytes)


def _installed(model: Json) -> str:
    if model["own_model"]:
        return "your own model"
    if model["installed"]:
        form = model["installed_quantization"]
        return f"installed, {form}" if form else "installed"
    return "not installed" if model["published"] else "never published"


def _memory(model: Json) -> str:
    needs = model["memory"].get("need_bytes") or {}
    need = needs.get(model["installed_quantization"]) or min(needs.values(), default=None)
    return NOTHING if need is None else f"{need / 2**30:.1f} GiB"


def _size(model: Json) -> str:
    if model["size_bytes"] is not None:
        return format_download(model["size_bytes"])
    # The seed's own figures are of other forms than those that are fetched: only where nothing else is known.
    of_forms = model["download_bytes"]
    size = of_forms.get(model["installed_quantization"] or "q4") or min(of_forms.values(), default=None)
    if size is not None:
        return format_download(size)
    promised_mb = model["download_size_mb"] if model["published"] else None
    return NOTHING if promised_mb is None else format_download(promised_mb * 1_000_000)


def _used(model: Json) -> str | None:
    if not model["usage_count"]:
        return None
    succeeded = f"{model['usage_count']:,} times, {_share(model['success_rate'])} succeeded"
    return f"{succeeded}, {_seconds(model['avg_inference_time'])} on average, last on {moment(model['last_used'])}"


def _sentence(text: str) -> str:
    return f"{text}." if text and not text.endswith(".") else text


def _bytes(size_bytes: int | None) -> str:
    return NOTHING if size_bytes is None else format_download(size_bytes)


def _about(about: str, size_bytes: int | None) -> str:
    return "not known" if size_bytes is None else about + format_download(size_bytes)


def _free(plan: Json) -> str:
    if plan["free_bytes"] is None:
        return "not known: Ollama's disk cannot be seen from here"
    return format_download(plan["free_bytes"]) + (", not enough" if plan["fits_disk"] is False else "")


def _share(rate: float | None) -> str:
    return NOTHING if rate is None else f"{100 * rate:.0f} %"


def _figure(figure: float | None) -> str:
    return NOTHING if figure is None else f"{figure:.1f}"


def _seconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds:.2f} s"


def _state(job: Json) -> str:
    return job["phase"] if job["state"] in ("downloading", "verifying") else str(job["state"])


def _percent(job: Json) -> str:
    # Cut, not rounded: 99.9 is not done.
    return NOTHING if job["percent"] is None else f"{int(job['percent'])} %"


def _progress(job: Json) -> str:
    done, total = job["downloaded_bytes"], job["total_bytes"]
    if total is None:
        return format_download(done) if done else NOTHING
    about = "about " if job["total_is_estimate"] else ""
    if done >= total:
        return about + format_download(total)
    done_words = f"{done / 1e9:.1f}" if total >= 1e9 else f"{done / 1e6:.0f}"
    return f"{done_words} of {about}{format_download(total)}"


def _rate(job: Json) -> str:
    rate = job["bytes_per_second"]
    return NOTHING if rate is None else f"{rate / 1e6:.1f} MB/s"


def _left(job: Json) -> str:
    return NOTHING if job["eta_seconds"] is None else f"{_duration(job['eta_seconds'])} left"


def _duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> [_duration(seconds) for seconds in (0.2, 59.6, 61, 3700)]
    ['1 s', '1 min 0 s', '1 min 1 s', '1 h 1 min']
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# --- models side by side ---------------------------------------------------------------------------------------------


def _cell(
    metric: str, words: Callable[[float], str], value: str = "value", size: str = "size"
) -> Callable[[Json], str]:
    """Return what writes a figure of a row, with how many uses it rests on."""

    def cell(figures: Json) -> str:
        figure = figures[metric]
        return NOTHING if figure[value] is None else f"{words(figure[value])} ({figure[size]:,})"

    return cell


# By metric the heading and the cells of its column. Means are least needed, so that they are the first to be left out.
_COMPARED: Mapping[str, tuple[str, Callable[[Json], str]]] = {
    "success_rate": ("Succeeded", _cell("success_rate", _share)),
    "inference_time": ("Median", _cell("inference_time", _seconds)),
    "tokens_per_second": ("Tokens/s", _cell("tokens_per_second", _figure)),
    "quality_score": ("Quality", _cell("quality_score", _figure)),
    "usage_count": ("Uses", lambda figures: f"{figures['usage_count']['value']:,.0f}"),
}
_MEANS = {"inference_time": ("Mean", _cell("inference_time", _seconds, "mean", "mean_size"))}
_WON = {
    "success_rate": "Most reliable",
    "inference_time": "Quickest",
    "tokens_per_second": "Most tokens a second",
    "quality_score": "Best answers",
    "first_token_seconds": "First word soonest",
    "answer_seconds": "Soonest done",
    "load_seconds": "Loaded soonest",
}
# What advice counts on, by who says so.
_COUNTED = {
    "caller": "as was asked",
    "probe": "what is free, and what the loaded models would make free",
    "setting": "MODEL_MANAGER_VRAM_GB allows no more",
    "processor": "half of the RAM that is free, as there is no card",
    "capped": "of RAM, as there is no card; MODEL_MANAGER_VRAM_GB allows no more",
    "assumed": "a guess, as the card is not known",
}

"""The terminal: arguments in, one call of the REST face, words or JSON out, and an exit code that says how it went.

    python cli_model_management.py [--url URL | --file PATH] [--json] COMMAND

With --url the face of a service is asked. Without it the face runs in this process, on the document itself; so every
command exists once, and answers the same either way.

Exit codes: 0 done; 1 refused or failed; 2 wrong use, also a value that is not acceptable; 3 Ollama not reachable;
130 interrupted. What went wrong stands on stderr, with what to do. With --json stdout holds one JSON document whatever
happens: what the REST face answers, or its problem. Only what is refused before anything is asked (an option that does
not exist) leaves it empty.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

try:
    import click
except ModuleNotFoundError:
    sys.exit(
        f"{sys.executable} lacks what this needs. Set it up with: python start.py --help\n"
        "Then use the Python of .venv: .venv/bin/python, on Windows .venv\\Scripts\\python."
    )

# rich, requests, Flask and ours are imported by the first command that needs them: --help must not wait for them.
if TYPE_CHECKING:
    from cli_display import Display
    from rest_client import Problem, RestClient

Json = dict[str, Any]

DONE, REFUSED, WRONG_USE, NO_OLLAMA, INTERRUPTED = 0, 1, 2, 3, 130

# Every code that a problem can carry. tests/test_cli_model_management.py holds it complete.
EXIT_CODES: Mapping[str, int] = {
    **dict.fromkeys(
        (
            "benchmark_failed", "benchmark_not_found", "benchmark_unsuitable", "cannot_delete_current", "cannot_start",
            "capability_missing", "download_failed", "download_not_found", "host_not_allowed", "insufficient_disk",
            "insufficient_vram",
            "internal_error", "invalid_transition", "method_not_allowed", "model_in_use", "model_not_found",
            "model_not_installed", "model_not_published", "name_taken", "no_current_model", "no_suitable_model",
            "not_found", "ollama_error", "origin_not_allowed", "payload_too_large", "refused", "registry_unavailable",
            "service_unavailable", "service_unexpected", "store_busy", "store_unreadable", "store_unwritable",
            "too_many_streams", "unauthorized", "unsupported_media_type",
        ),
        REFUSED,
    ),
    **dict.fromkeys(
        ("invalid_model_name", "invalid_request", "registry_not_allowed", "unknown_quantization"), WRONG_USE
    ),
    **dict.fromkeys(("ollama_timeout", "ollama_unavailable"), NO_OLLAMA),
    "interrupted": INTERRUPTED,
}  # fmt: skip

# A card that sleeps takes a while to answer; a terminal can wait longer for it than a request may.
LOOK_S = 3.0

PURPOSES = ("speed", "balanced", "quality", "specialized")
PRIORITIES = ("speed", "balanced", "quality")
# Where a model is missing for one of these, fetching it is the next step.
NEED_A_MODEL = ("switch", "load", "benchmark")
KV_TYPES = ("f16", "q8_0", "q4_0")
METRICS = ("success_rate", "inference_time", "tokens_per_second", "quality_score", "usage_count")


# --- how a command meets the face ------------------------------------------------------------------------------------


@dataclass
class Terminal:
    """What the options before the command have settled: whom to ask, and how to show what comes back."""

    url: str | None
    file: Path | None
    as_json: bool
    verbose: bool

    @cached_property
    def service(self) -> RestClient:
        """The face. Raises Problem where the settings or the document do not allow to open it."""
        return self.open()

    def open(self) -> RestClient:
        """Open the face once more."""
        from rest_client import OverHttp, RestClient

        if self.url is None:
            return _in_process(self.file)
        try:
            return RestClient(OverHttp(self.url, os.environ.get("MODEL_MANAGER_TOKEN")))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--url") from None

    def close(self) -> None:
        """Let go of the face, if it was opened."""
        if "service" in self.__dict__:
            self.service.close()

    @cached_property
    def display(self) -> Display:
        """What writes for a person."""
        from cli_display import Display

        return Display(self.program)

    @property
    def program(self) -> str:
        """How this program was called, up to the command: what a person may type again."""
        script = sys.argv[0]
        words = [_interpreter(), script] if script.endswith(".py") else [Path(script).stem]
        if self.url is not None:
            words += ["--url", self.url]
        if self.file is not None:
            words += ["--file", str(self.file)]
        return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)

    def show(self, answer: Json, draw: Callable[[Display, Json], None]) -> None:
        """Write an answer: as it is with --json, else as `draw` words it."""
        if self.as_json:
            _write_json(answer)
            return
        from cli_display import printable

        clean = printable(answer)
        self.display.note_ollama(clean)
        draw(self.display, clean)

    def explain(self, problem: Problem, command: str | None) -> int:
        """Write what went wrong in a command, and return the exit code for it."""
        from cli_display import in_form, printable

        if self.as_json:
            _write_json(problem.body)
        remedy = problem.body.get("remedy")
        if problem.code == "unauthorized":
            remedy = "Set MODEL_MANAGER_TOKEN to the service's token in the environment of this command."
        if problem.code == "internal_error" and self.url is None and not self.verbose:
            remedy = "Run it again with --verbose to see the log."
        lines = [problem.body.get("error") or str(problem), *([remedy] if remedy else [])]
        if problem.code == "model_not_installed" and command in NEED_A_MODEL:
            form = problem.body.get("quantization")
            lines.append(f"Next: {self.program} download {in_form(problem.body['model'], form)}")
        click.echo(printable("\n".join(lines)), err=True)
        return EXIT_CODES.get(problem.code, REFUSED)


def _interpreter() -> str:
    """Return this Python as a person would type it: the one of .venv where that is not the usual one."""
    if shutil.which("python") == sys.executable:
        return "python"
    try:
        return str(Path(sys.executable).relative_to(Path.cwd()))
    except ValueError:
        return "python"


def _in_process(file: Path | None) -> RestClient:
    """Open the face of an app in this process, on the document itself. Raises Problem."""
    from app import create_app, create_manager
    from model_core.errors import ModelManagerError, as_facts
    from model_settings import load_settings
    from rest_client import InProcess, Problem, RestClient

    try:
        settings = load_settings(**({} if file is None else {"metadata_file": file}))
        manager = create_manager(settings)
    except ModelManagerError as error:
        raise Problem({"success": False, **as_facts(error)}) from error
    token = settings.token.get_secret_value() if settings.token else None
    app = create_app(settings, manager)
    return RestClient(InProcess(app, token, on_close=manager.close, owns=manager.owns_job))


def _write_json(document: Json) -> None:
    # Where the terminal or pipe has another encoding, escapes keep every character.
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    click.echo(json.dumps(document, indent=2, ensure_ascii=encoding != "utf8"))


class Commands(click.Group):
    """The commands. Whatever goes wrong in one ends here."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn a problem or Ctrl-C into words and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            from rest_client import Problem, problem

            if isinstance(error, KeyboardInterrupt):
                error = problem("interrupted", "Interrupted", "Interrupted.", "")
            if not isinstance(error, Problem):
                raise
            ctx.exit(ctx.obj.explain(error, ctx.invoked_subcommand))


def model_name(text: str) -> str:
    """Return a name as it was typed. Refuses only what cannot stand in an address; the face knows Ollama's rules."""
    is_text = not any("\ud800" <= letter <= "\udfff" for letter in text)  # else bytes of no encoding were typed
    if not is_text or not text.strip("./ "):
        raise click.BadParameter("A name looks like llama3.2:3b or hf.co/user/repository:Q4_K_M.")
    return text


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--url", metavar="URL", help="Ask the service there instead, such as http://127.0.0.1:5110.")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Work on this document.")
@click.option("--json", "as_json", is_flag=True, help="Write what the REST face answers.")
@click.option("-v", "--verbose", is_flag=True, help="Show the log on stderr.")
@click.pass_context
def commands(ctx: click.Context, url: str | None, file: Path | None, as_json: bool, verbose: bool) -> None:
    """Choose, fetch, switch and watch the language models that Ollama runs for Junmai AutoDev.

    Works on the document that the service and AI Selector use; no service is needed. With --url it asks a service, with
    the token from MODEL_MANAGER_TOKEN if there is one.

    \b
    Exit codes:
      0 done             2 wrong use               130 interrupted
      1 refused, failed  3 Ollama not reachable

    \b
    Example: junmai-models recommend 8 balanced
    """
    if url is not None and file is not None:
        raise click.UsageError("--url and --file exclude each other: the service has its own document.")
    # What is logged is said by the answer, too; without any handler Python would print the warnings.
    how_to_log: dict[str, Any] = {"level": "INFO"} if verbose else {"handlers": [logging.NullHandler()]}
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", **how_to_log)
    # A path is meant from where the person stands, as everywhere in a terminal.
    ctx.obj = Terminal(url, file.absolute() if file else None, as_json, verbose)
    ctx.call_on_close(ctx.obj.close)


# --- models ----------------------------------------------------------------------------------------------------------


@commands.command("list")
@click.option("--purpose", type=click.Choice(PURPOSES), help="Only what is made for this.")
@click.option("--max-vram", type=float, metavar="GB", help="Only what was promised to run with so much.")
@click.option("--installed", is_flag=True, help="Only what is installed.")
@click.pass_obj
def list_models(here: Terminal, purpose: str | None, max_vram: float | None, installed: bool) -> None:
    """List the models that there are, the smallest first.

    \b
    Example: junmai-models list --max-vram 8 --purpose balanced
    """
    answer = here.service.models(purpose, max_vram, installed_only=installed)
    here.show(answer, lambda to, shown: to.models(shown))


@commands.command()
@click.pass_obj
def installed(here: Terminal) -> None:
    """List the names of what Ollama holds.

    \b
    Example: junmai-models installed
    """
    here.show(here.service.installed(), lambda to, shown: to.names(shown))


@commands.command()
@click.argument("name", type=model_name)
@click.pass_obj
def info(here: Terminal, name: str) -> None:
    """Show all that is known of one model.

    \b
    Example: junmai-models info llama3.1:8b-instruct
    """
    here.show(here.service.info(name), lambda to, shown: to.model(shown["model"]))


@commands.command()
@click.pass_obj
def current(here: Terminal) -> None:
    """Show which model is selected.

    \b
    Example: junmai-models current
    """
    here.show(here.service.current(), lambda to, shown: to.current(shown))


@commands.command()
@click.argument("name", type=model_name)
@click.option("--quantization", metavar="FORM", help="Use this form of it, such as q4 or q8.")
@click.option("--require-fit", is_flag=True, help="Refuse what does not lie on the card as a whole.")
@click.option("--load", is_flag=True, help="Bring it into memory as well.")
@click.pass_obj
def switch(here: Terminal, name: str, quantization: str | None, require_fit: bool, load: bool) -> None:
    """Make an installed model the one that is used.

    \b
    Example: junmai-models switch llama3.2:1b-instruct
    """
    answer = here.service.switch(name, quantization, require_fit=require_fit, load=load)
    here.show(answer, lambda to, shown: to.switched(shown))


@commands.command()
@click.argument("name", type=model_name)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(here: Terminal, name: str, yes: bool) -> None:
    """Delete a model from Ollama, after asking.

    \b
    Example: junmai-models delete llama3.2:1b-instruct
    """
    if not yes:
        _make_sure(here, name)
    here.show(here.service.delete(name), lambda to, shown: to.deleted(shown))


def _make_sure(here: Terminal, name: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("Nobody can be asked whether to delete it. Add --yes if you are sure.")
    here.display.note(f"Delete {name} from Ollama? It would have to be downloaded again. [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise _refused("Nothing was deleted.")


@commands.command()
@click.pass_obj
def sync(here: Terminal) -> None:
    """Ask Ollama what it holds now, and remember it.

    \b
    Example: junmai-models sync
    """
    here.show(here.service.sync(), lambda to, shown: to.synced(shown))


# --- what is in memory -----------------------------------------------------------------------------------------------


@commands.command()
@click.pass_obj
def running(here: Terminal) -> None:
    """Show what is in memory, and how much of it lies on the card.

    \b
    Example: junmai-models running
    """
    here.show(here.service.running(), lambda to, shown: to.running(shown))


@commands.command()
@click.argument("name", type=model_name)
@click.option("--keep-alive", metavar="TIME", help="How long it stays after its last use: 10m, 1h30m, or -1 for ever.")
@click.option("--context", type=int, metavar="TOKENS", help="Use it with so much context from now on.")
@click.pass_obj
def load(here: Terminal, name: str, keep_alive: str | None, context: int | None) -> None:
    """Bring a model into memory, and say where it lies.

    \b
    Example: junmai-models load llama3.2:1b-instruct --keep-alive 30m
    """
    steps = here.service.load(name, _keep_alive(keep_alive), context)
    if not here.as_json:
        steps = here.display.waited_for(name, steps)
    answer: Json = {}
    for answer in steps:  # noqa: B007 - the last one is what counts
        pass
    here.show(answer, lambda to, shown: to.loaded(shown))


def _keep_alive(text: str | None) -> float | str | None:
    """Return a time as Ollama takes it: what is a plain number are seconds."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


@commands.command()
@click.argument("name", type=model_name)
@click.pass_obj
def unload(here: Terminal, name: str) -> None:
    """Take a model out of memory.

    \b
    Example: junmai-models unload llama3.2:1b-instruct
    """
    here.show(here.service.unload(name), lambda to, shown: to.done(shown["message"]))


# --- downloads -------------------------------------------------------------------------------------------------------


@commands.command()
@click.argument("name", type=model_name)
@click.option("--quantization", metavar="FORM", help="Fetch this form, such as q8; 4-bit when left out.")
@click.option("--force", is_flag=True, help="Fetch again what is there; go over a doubtful lack of room.")
@click.option("--plan", is_flag=True, help="Only say what would be fetched, and whether there is room.")
@click.pass_obj
def download(here: Terminal, name: str, quantization: str | None, force: bool, plan: bool) -> None:
    """Fetch a model and wait until it is there.

    If it is being fetched already, this joins in. Ctrl-C pauses a download that this command itself works on; one of a
    service or of another program goes on. The same command joins in again, or goes on from there.

    \b
    Example: junmai-models download llama3.1:8b-instruct --quantization q8
    Example: junmai-models download llama3.1:8b-instruct --plan
    """
    if plan:
        here.show(here.service.plan_download(name, quantization), lambda to, shown: to.plan(shown))
        return
    from cli_display import in_form

    again = f"{here.program} download {in_form(name, quantization)}"
    try:
        answer = here.service.start_download(name, quantization, force=force)
    except KeyboardInterrupt:
        from rest_client import problem

        # Looking for it could take as long as what was just broken off.
        remedy = f"The download may have begun all the same; look: {here.program} downloads"
        raise problem("interrupted", "Interrupted", "Interrupted.", remedy) from None
    _see_through(here, answer, again)


def _see_through(here: Terminal, answer: Json, again: str) -> None:
    """Show a download until it has brought its model. Raises Problem where it does not, or where Ctrl-C ends the look.

    answer  what told of the download
    again   what a person may type to join in again
    """
    job = answer["download"]
    try:
        job = _watched(here, job)
    except KeyboardInterrupt:
        raise _interrupted(here, job, again) from None
    if job["state"] != "completed":
        raise _not_completed(job, again)
    here.show({**answer, "message": f"{job['model']} is installed.", "download": job}, lambda to, it: to.downloaded(it))


def _watched(here: Terminal, begun: Json) -> Json:
    """Show a download until nobody works on it any more, and return it as it is then."""
    if begun["already_installed"]:
        return begun
    steps = here.service.follow(begun)
    if not here.as_json:
        steps = here.display.shown_meanwhile(steps)
    job = begun
    for job in steps:  # noqa: B007 - the last one is what counts
        pass
    return job


def _interrupted(here: Terminal, job: Json, again: str) -> Problem:
    """Stop watching, and say what becomes of the download: who works on it decides, not how it was asked for."""
    from rest_client import UNDER_WAY, problem

    job = _left_alone(here, job)
    model, remedy = job["model"], ""
    if job["state"] in UNDER_WAY:
        owner = f"the service at {here.url}" if here.url else "another program on this document"
        happened = f"The download of {model} goes on: {owner} fetches it."
        remedy = (
            f"How far it is: {here.program} downloads\n"
            f"Join in again: {again}\n"
            f"Cancel it: {here.program} downloads cancel {job['id']}"
        )
    elif job["state"] == "completed":
        happened = f"{model} has just been installed."
    else:
        happened, remedy = _stopped(job), f"Go on from there: {again}"
    return problem("interrupted", "Interrupted", happened, remedy, download=job)


def _left_alone(here: Terminal, job: Json) -> Json:
    """Return a download as it is without us: paused where this process worked on it and that was possible."""
    from rest_client import UNDER_WAY, Problem

    left: Json
    if not here.service.owns_job(job["id"]):
        left = here.service.download(job["id"])["download"]
        return left
    try:
        left = here.service.pause_download(job["id"])["download"]
    except Problem as refused:
        if refused.code != "invalid_transition":
            raise
    else:
        if left["state"] not in UNDER_WAY:
            return left
    # While it waits for its turn, and while it is checked, there is nothing to pause: our end interrupts it.
    here.close()
    with here.open() as face:
        left = face.download(job["id"])["download"]
    return left


def _not_completed(job: Json, again: str) -> Problem:
    from rest_client import Problem, problem

    if job["error"]:
        return Problem({"success": False, **job["error"], "download": job})
    remedy = f"Go on from there: {again}"
    return problem("download_failed", "Download failed", _stopped(job), remedy, download=job)


def _stopped(job: Json) -> str:
    if job["state"] == "cancelled" and job["message"]:
        return f"{job['model']}: {job['message']}"
    return f"The download of {job['model']} is {job['state']}; what has arrived is kept."


@commands.group(invoke_without_command=True)
@click.option("--watch", is_flag=True, help="Keep looking until none is under way.")
@click.pass_context
def downloads(ctx: click.Context, watch: bool) -> None:
    """List the downloads on record, how far each is, or change one.

    DOWNLOAD is the id of one, or the name of its model where that is enough.

    \b
    Example: junmai-models downloads --watch
    """
    here: Terminal = ctx.obj
    if ctx.invoked_subcommand is not None:
        if watch:
            raise click.UsageError("--watch goes with no other command.")
        return
    answer = _all_watched(here) if watch else here.service.downloads()
    here.show(answer, lambda to, shown: to.downloads(shown))


def _all_watched(here: Terminal) -> Json:
    """Show every download until nobody works on any, and return them as they are then."""
    steps = here.service.watch_downloads()
    if not here.as_json:
        steps = here.display.all_shown_meanwhile(steps)
    answer: Json = {}
    for answer in steps:  # noqa: B007 - the last one is what counts
        pass
    return answer


@downloads.command()
@click.argument("which", metavar="DOWNLOAD", type=model_name)
@click.pass_obj
def pause(here: Terminal, which: str) -> None:
    """Let a download rest; what has arrived is kept.

    \b
    Example: junmai-models downloads pause llama3.1:8b-instruct
    """
    answer = here.service.pause_download(_download_id(here, which, "pause"))
    here.show(answer, lambda to, shown: to.wished(shown, "pause"))


@downloads.command()
@click.argument("which", metavar="DOWNLOAD", type=model_name)
@click.pass_obj
def resume(here: Terminal, which: str) -> None:
    """Go on with a download, and wait until the model is there.

    Ctrl-C does what it does in the command download.

    \b
    Example: junmai-models downloads resume llama3.1:8b-instruct
    """
    answer = here.service.resume_download(_download_id(here, which, "resume"))
    _see_through(here, answer, f"{here.program} downloads resume {answer['download']['id']}")


@downloads.command()
@click.argument("which", metavar="DOWNLOAD", type=model_name)
@click.pass_obj
def cancel(here: Terminal, which: str) -> None:
    """End a download without its model.

    \b
    Example: junmai-models downloads cancel llama3.1:8b-instruct
    """
    answer = here.service.cancel_download(_download_id(here, which, "cancel"))
    here.show(answer, lambda to, shown: to.wished(shown, "cancel"))


@downloads.command()
@click.argument("which", metavar="DOWNLOAD", type=model_name)
@click.argument("position", type=click.IntRange(min=0))
@click.pass_obj
def move(here: Terminal, which: str, position: int) -> None:
    """Put a waiting download at another place; 0 is next.

    \b
    Example: junmai-models downloads move llama3.1:8b-instruct 0
    """
    answer = here.service.move_download(_download_id(here, which, "move"), position)
    here.show(answer, lambda to, shown: to.moved(shown))


@downloads.command()
@click.argument("which", metavar="DOWNLOAD", type=model_name)
@click.pass_obj
def forget(here: Terminal, which: str) -> None:
    """Take a download that has ended off the record; models stay.

    \b
    Example: junmai-models downloads forget llama3.1:8b-instruct
    """
    answer = here.service.forget_download(_download_id(here, which, "forget"))
    here.show(answer, lambda to, shown: to.forgotten(shown))


def _download_id(here: Terminal, which: str, wish: str) -> str:
    """Return the id of the download that is meant: by its id, or by its model where only one can do what is wished."""
    from model_core import names
    from model_core.downloads import WISHES
    from rest_client import problem

    jobs = here.service.downloads()["downloads"]
    if any(job["id"] == which for job in jobs):
        return which
    of_the_model = [job for job in jobs if names.same(job["model"], which) or names.same(job["tag"], which)]
    fitting = [job for job in of_the_model if wish in WISHES[job["state"]]]
    # Where none can do it, the face says why not.
    if len(fitting or of_the_model) == 1 or (of_the_model and not fitting):
        return str((fitting or of_the_model)[-1]["id"])
    if fitting:
        ids = ", ".join(f"{job['id']} ({job['state']})" for job in fitting)
        raise problem("refused", "Refused", f"Several downloads of {which} can {wish}: {ids}.", "Name one by its id.")
    raise problem(
        "download_not_found",
        "Download not found",
        f"There is no download {which}.",
        f"Every one is listed by: {here.program} downloads",
    )


# --- benchmarks ------------------------------------------------------------------------------------------------------

_A_FILE = click.Path(dir_okay=False, path_type=Path)


@commands.command()
@click.argument("names", metavar="MODEL...", nargs=-1, required=True, type=model_name)
@click.option("--prompt", "prompts", metavar="TEXT", multiple=True, help="Ask this; may be given several times.")
@click.option("--prompt-file", "files", type=_A_FILE, multiple=True, help="Ask what stands in this file.")
@click.option("--photo", "photos", type=_A_FILE, multiple=True, help="Ask it of this photo; for models that see.")
@click.option("--runs", type=int, metavar="N", help="How often; left out: as it takes to tell a difference.")
@click.option("--csv", "table", type=_A_FILE, help="Write every single answer's figures to this file, too.")
@click.pass_obj
def benchmark(
    here: Terminal,
    names: tuple[str, ...],
    prompts: tuple[str, ...],
    files: tuple[Path, ...],
    photos: tuple[Path, ...],
    runs: int | None,
    table: Path | None,
) -> None:
    """Measure installed models on the same prompts, one after the other.

    Without a prompt of your own they are asked for what AutoDev asks: a rating, keywords, a short critique. Leave the
    machine alone meanwhile: what else it does is measured, too. Ctrl-C leaves a benchmark of this command interrupted,
    to go on later; one of a service goes on.

    \b
    Example: junmai-models benchmark llama3.2:1b-instruct llama3.2:3b-instruct
    Example: junmai-models benchmark gemma3:4b qwen2.5vl:7b --photo wedding.jpg --csv wedding.csv
    """
    asked = [*prompts, *map(_read_text, files)]
    if table is not None:
        _check_place(table)
    answer = here.service.start_benchmark(names, asked or None, [_photo(path) for path in photos], runs)
    if not here.as_json:
        here.display.warnings(answer["benchmark"])
    _measured(here, answer, table)


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint=option) from None


def _photo(path: Path) -> bytes:
    from model_core.benchmarks import media_type

    photo = _read(path, "--photo")
    if media_type(photo) is None:
        raise click.BadParameter(f"{path} is no JPEG, PNG or WebP file. Export it as JPEG.", param_hint="--photo")
    return photo


def _read_text(path: Path) -> str:
    try:
        return _read(path, "--prompt-file").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.BadParameter(f"{path} is no text in UTF-8.", param_hint="--prompt-file") from None


def _measured(here: Terminal, answer: Json, table: Path | None = None) -> None:
    """Show a benchmark until it is over, then what it found. Raises Problem where it found nothing, or at Ctrl-C."""
    job = answer["benchmark"]
    try:
        steps = here.service.follow_benchmark(job)
        if not here.as_json:
            steps = here.display.measured_meanwhile(steps)
        for job in steps:  # noqa: B007 - the last one is what counts
            pass
    except KeyboardInterrupt:
        raise _left_measuring(here, job, table) from None
    if job["state"] != "completed":
        raise _not_measured(here, job, table)
    here.show({**answer, "message": "The benchmark is done.", "benchmark": job}, lambda to, it: to.benchmark(it))
    if table is not None:
        _save(table, here.service.benchmark_table(job["id"]))


def _left_measuring(here: Terminal, job: Json, table: Path | None) -> Problem:
    """Stop watching, and say what becomes of the benchmark: who works on it decides."""
    from rest_client import UNDER_WAY, problem

    if here.service.owns_job(job["id"]):
        here.close()  # which interrupts it
        with here.open() as face:
            job = face.benchmark(job["id"])["benchmark"]
    else:
        job = here.service.benchmark(job["id"])["benchmark"]
    if job["state"] in UNDER_WAY:
        owner = f"the service at {here.url}" if here.url else "another program on this document"
        happened = f"Benchmark {job['id']} goes on: {owner} measures."
        remedy = (
            f"How far it is: {here.program} benchmarks show {job['id']}\n"
            f"Cancel it: {here.program} benchmarks cancel {job['id']}"
        )
    else:
        happened, remedy = _so_far(job), _how_to_go_on(here, job, table)
    return problem("interrupted", "Interrupted", happened, remedy, benchmark=job)


def _not_measured(here: Terminal, job: Json, table: Path | None) -> Problem:
    from rest_client import Problem, problem

    if job["error"]:
        return Problem({"success": False, **job["error"], "benchmark": job})
    happened = f"Benchmark {job['id']}: {job['message']}" if job["message"] else _so_far(job)
    return problem("benchmark_failed", "Benchmark failed", happened, _how_to_go_on(here, job, table), benchmark=job)


def _so_far(job: Json) -> str:
    return f"Benchmark {job['id']} is {job['state']}; {job['done']} of {job['total']} answers are kept."


def _how_to_go_on(here: Terminal, job: Json, table: Path | None) -> str:
    wish = "" if table is None else f" --csv {shlex.quote(str(table))}"
    if job["state"] == "interrupted":
        return f"Go on from there: {here.program} benchmarks resume {job['id']}{wish}"
    return f"What was found: {here.program} benchmarks show {job['id']}{wish}"


@commands.group(invoke_without_command=True)
@click.pass_context
def benchmarks(ctx: click.Context) -> None:
    """List the benchmarks that are kept, or show or change one.

    BENCHMARK is the id of one.

    \b
    Example: junmai-models benchmarks
    """
    here: Terminal = ctx.obj
    if ctx.invoked_subcommand is None:
        here.show(here.service.benchmarks(), lambda to, shown: to.benchmarks(shown))


@benchmarks.command("show")
@click.argument("which", metavar="BENCHMARK", type=model_name)
@click.option("--csv", "table", type=_A_FILE, help="Write every single answer's figures to this file, too.")
@click.option("--answers", is_flag=True, help="Show what the models have answered, too.")
@click.pass_obj
def show_benchmark(here: Terminal, which: str, table: Path | None, answers: bool) -> None:
    """Show what a benchmark has found, or how far it is.

    \b
    Example: junmai-models benchmarks show 4f2a90c1d7be --answers
    """
    here.show(here.service.benchmark(which), lambda to, shown: to.benchmark(shown, answers=answers))
    if table is not None:
        _save(table, here.service.benchmark_table(which))


@benchmarks.command("compare")
@click.argument("which", metavar="BENCHMARK BENCHMARK...", nargs=-1, required=True, type=model_name)
@click.pass_obj
def compare_benchmarks(here: Terminal, which: tuple[str, ...]) -> None:
    """Put several benchmarks side by side that asked the same.

    \b
    Example: junmai-models benchmarks compare 4f2a90c1d7be 9c01be77a0d3
    """
    here.show(here.service.compare_benchmarks(which), lambda to, shown: to.benchmarks_compared(shown))


@benchmarks.command("cancel")
@click.argument("which", metavar="BENCHMARK", type=model_name)
@click.pass_obj
def cancel_benchmark(here: Terminal, which: str) -> None:
    """End a benchmark; what was measured is kept.

    \b
    Example: junmai-models benchmarks cancel 4f2a90c1d7be
    """
    here.show(here.service.cancel_benchmark(which), lambda to, shown: to.benchmark_stopped(shown))


@benchmarks.command("resume")
@click.argument("which", metavar="BENCHMARK", type=model_name)
@click.option("--csv", "table", type=_A_FILE, help="Write every single answer's figures to this file, too.")
@click.pass_obj
def resume_benchmark(here: Terminal, which: str, table: Path | None) -> None:
    """Go on with a benchmark that was interrupted, and wait for its end.

    \b
    Example: junmai-models benchmarks resume 4f2a90c1d7be
    """
    if table is not None:
        _check_place(table)
    _measured(here, here.service.resume_benchmark(which), table)


@benchmarks.command("forget")
@click.argument("which", metavar="BENCHMARK", type=model_name)
@click.pass_obj
def forget_benchmark(here: Terminal, which: str) -> None:
    """Take a benchmark that has ended off the record.

    \b
    Example: junmai-models benchmarks forget 4f2a90c1d7be
    """
    answer = here.service.forget_benchmark(which)
    here.show(answer, lambda to, shown: to.done(f"Benchmark {shown['benchmark']['id']} is off the record."))


# --- advice and statistics -------------------------------------------------------------------------------------------


@commands.command()
@click.argument("gb", type=float, required=False)
@click.argument("wish", type=click.Choice(PRIORITIES), required=False)
@click.option("--vram", type=float, metavar="GB", help="Memory that is free on the card; the settings know it, too.")
@click.option("--priority", type=click.Choice(PRIORITIES), help="What matters most; balanced when left out.")
@click.option("--context", type=int, metavar="TOKENS", help="How much a prompt and its answer may hold together.")
@click.option("--kv-type", type=click.Choice(KV_TYPES), help="The cache that Ollama is set up with; f16 if it is not.")
@click.option("--needs", multiple=True, metavar="ABILITY", help="What it must be able to do, such as vision.")
@click.option("--installed", is_flag=True, help="Only what is installed.")
@click.pass_obj
def recommend(
    here: Terminal,
    gb: float | None,
    wish: str | None,
    vram: float | None,
    priority: str | None,
    context: int | None,
    needs: tuple[str, ...],
    kv_type: str | None,
    installed: bool,
) -> None:
    """Name the model that suits this card best, and why.

    GB and the wish may stand in place of --vram and --priority.

    \b
    Example: junmai-models recommend 8 balanced
    Example: junmai-models recommend --vram 12 --needs vision
    """
    if (gb is not None and vram is not None) or (wish and priority):
        raise click.UsageError("The same was said twice: as a word, and as an option.")
    gb = vram if gb is None else gb
    _look_at_the_machine(here, gb)
    answer = here.service.recommend(
        gb,
        priority or wish or "balanced",
        context_tokens=context,
        needs=needs,
        installed_only=True if installed else None,
        kv_type=kv_type,
    )
    here.show(answer, lambda to, shown: to.recommendation(shown))


@commands.command()
@click.argument("name", type=model_name)
@click.option("--vram", type=float, metavar="GB", help="Memory that is free on the card; the settings know it, too.")
@click.option("--quantization", metavar="FORM", help="Which form of it, such as q4 or q8.")
@click.option("--context", type=int, metavar="TOKENS", help="How much a prompt and its answer may hold together.")
@click.option("--kv-type", type=click.Choice(KV_TYPES), help="The cache that Ollama is set up with; f16 if it is not.")
@click.pass_obj
def check(
    here: Terminal,
    name: str,
    vram: float | None,
    quantization: str | None,
    context: int | None,
    kv_type: str | None,
) -> None:
    """Say whether a model fits on the card as a whole.

    The exit code is 0 also where it does not: the question was answered.

    \b
    Example: junmai-models check llama3.1:8b-instruct --vram 8
    """
    _look_at_the_machine(here, vram)
    here.show(here.service.check(name, vram, quantization, context, kv_type), lambda to, shown: to.check(shown))


def _look_at_the_machine(here: Terminal, vram: float | None) -> None:
    """Have the machine looked at before advice is asked for: this program has just begun, and nobody looked yet."""
    if vram is None:
        here.service.hardware(wait_s=LOOK_S)


@commands.command()
@click.pass_obj
def hardware(here: Terminal) -> None:
    """Show the graphics card, the memory and the disk, and who says so.

    \b
    Example: junmai-models hardware
    """
    here.show(here.service.hardware(wait_s=LOOK_S), lambda to, shown: to.hardware(shown))


@commands.command()
@click.argument("name", type=model_name, required=False)
@click.pass_obj
def stats(here: Terminal, name: str | None) -> None:
    """Show how often, how well and how fast models worked.

    Half of the times are within the median, 95 of 100 within "95 %". Of one model, its tasks and its last days with use
    are shown as well.

    \b
    Example: junmai-models stats llama3.2:1b-instruct
    """
    here.show(here.service.statistics(name), lambda to, shown: to.statistics(shown))


@commands.command()
@click.argument("name", type=model_name)
@click.argument("seconds", type=float)
@click.option("--tokens", type=int, metavar="N", help="How many the answer had.")
@click.option("--quality", type=float, metavar="0-5", help="How good the answer was.")
@click.option("--task", metavar="WORDS", help="What it was for.")
@click.option("--failed", is_flag=True, help="It did not succeed.")
@click.pass_obj
def record(
    here: Terminal,
    name: str,
    seconds: float,
    tokens: int | None,
    quality: float | None,
    task: str | None,
    failed: bool,
) -> None:
    """Count one inference of a model, with its time.

    0 SECONDS count it without a time. The time and the tokens of a failure are left out of the averages.

    \b
    Example: junmai-models record llama3.2:1b-instruct 1.4
    Example: junmai-models record llama3.2:1b-instruct 1.4 --tokens 90 --quality 4.5 --task tags
    """
    answer = here.service.record(name, seconds, success=not failed, tokens=tokens, quality_score=quality, task=task)
    here.show(
        answer,
        lambda to, _: to.recorded(name, seconds, failed=failed, tokens=tokens, quality=quality, task=task),
    )


@commands.command()
@click.argument("names", type=model_name, nargs=-1, required=True, metavar="MODEL MODEL...")
@click.option("--metric", "metrics", multiple=True, type=click.Choice(METRICS), help="Only in this; may be repeated.")
@click.pass_obj
def compare(here: Terminal, names: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Put what is on record of several models side by side.

    How many uses a figure rests on stands beside it. Somebody is ahead only where chance alone would hardly show as
    much; whether the models had the same work, the record cannot say.

    \b
    Example: junmai-models compare llama3.2:1b-instruct llama3.1:8b-instruct
    Example: junmai-models compare llama3.2:1b-instruct llama3.1:8b-instruct --metric quality_score
    """
    here.show(here.service.compare(names, metrics), lambda to, shown: to.comparison(shown))


# --- care of the data ------------------------------------------------------------------------------------------------


@commands.command()
@click.argument("path", type=click.Path(dir_okay=False, allow_dash=True))
@click.pass_obj
def export(here: Terminal, path: str) -> None:
    """Write the document to a file, to keep or to take elsewhere.

    A file of that name is replaced. The PATH - is stdout.

    \b
    Example: junmai-models export models.json
    """
    document = here.service.export()
    if path == "-":
        click.echo(document)  # bytes go out as they are
        return
    _save(Path(path), document)
    answer = {"success": True, "message": f"The document is in {path}.", "output_file": path}
    here.show(answer, lambda to, shown: to.done(shown["message"]))


def _check_place(path: Path) -> None:
    """Refuse a place where no file can be, before work is done whose result is to stand there."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise _refused(f"{path} cannot be written: {error.strerror}.", "Choose another place.") from error


def _save(path: Path, content: bytes) -> None:
    try:
        _write_whole(path, content)
    except OSError as error:
        raise _refused(f"{path} cannot be written: {error.strerror}.", "Choose another place.") from error


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that an older one stays until the new one is whole."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@commands.command("import")
@click.argument("document", type=click.File("rb"), metavar="PATH")
@click.option("--replace", is_flag=True, help="Take its figures and selection in place of those here.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.pass_obj
def import_document(here: Terminal, document: BinaryIO, replace: bool, dry_run: bool) -> None:
    """Add an exported document to the one here.

    Histories are united; taking over the same document twice changes nothing. The PATH - is stdin.

    \b
    Example: junmai-models import models.json --dry-run
    """
    answer = here.service.import_document(document.read(), replace=replace, dry_run=dry_run)
    here.show(answer, lambda to, shown: to.imported(shown))


# --- around it -------------------------------------------------------------------------------------------------------


@commands.command()
@click.pass_context
def health(ctx: click.Context) -> None:
    """Show how each part is.

    The exit code is 3 where Ollama is not reachable, and 1 where the document is not well.

    \b
    Example: junmai-models health
    """
    here: Terminal = ctx.obj
    answer = here.service.health()
    here.show(answer, lambda to, shown: to.health(shown))
    if not answer["ready"]:
        ctx.exit(REFUSED if not answer["parts"]["store"]["ok"] else NO_OLLAMA)


@commands.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Look at everything, and say of each what is well, or what to do.

    The exit code is 3 where Ollama is not reachable, and 1 where something else is to be done.

    \b
    Example: junmai-models doctor
    """
    here: Terminal = ctx.obj
    here.service.hardware(wait_s=LOOK_S)
    answer = here.service.doctor()
    here.show(answer, lambda to, shown: to.doctor(shown))
    if not answer["well"]:
        ctx.exit(REFUSED if answer["reachable"] else NO_OLLAMA)


def _refused(happened: str, remedy: str = "") -> Problem:
    """Return the problem of a command that this terminal itself ends."""
    from rest_client import problem

    return problem("refused", "Refused", happened, remedy)


def main() -> None:
    """Run the command that was typed."""
    for stream in (sys.stdout, sys.stderr):
        # A Windows console of an old code page lacks letters that a name may have: better one "?" than no answer.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        commands()
    except ModuleNotFoundError as error:
        # Some other Python that has click, but not all the rest.
        click.echo(
            f"{sys.executable} lacks {error.name}. Use the Python of .venv; python start.py sets it up.", err=True
        )
        sys.exit(REFUSED)
    except OSError as error:  # such as a full disk under stdout; a pipe whose reader has gone ends within click
        click.echo(f"This broke off: {error}.", err=True)
        # What is left of it would be tried again at the very end, and complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()

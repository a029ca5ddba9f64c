"""The terminal: every command, on the document and through a service, and what a person is told when it goes wrong."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner
from scripted_server import PATIENCE_S, ScriptedServer, answering

from api_model_problems import STATUS
from app import create_app
from cli_model_management import (
    EXIT_CODES,
    INTERRUPTED,
    METRICS,
    NO_OLLAMA,
    PRIORITIES,
    PURPOSES,
    REFUSED,
    WRONG_USE,
    Terminal,
    commands,
    main,
)
from model_core.comparison import METRICS as COMPARED
from model_core.errors import InvalidRequest, ModelManagerError, OllamaTimeout, OllamaUnavailable
from model_core.recommender import Criteria
from model_core.records import ModelPurpose
from model_manager import ModelManager
from model_settings import load_settings
from ollama_simulator import OllamaSimulator
from rest_client import Problem
from web_server import serve

ROOT = Path(__file__).resolve().parent.parent
ONE_B, THREE_B, EIGHT_B, NEVER_PUBLISHED = (
    "llama3.2:1b-instruct",
    "llama3.2:3b-instruct",
    "llama3.1:8b-instruct",
    "llama3.1:13b-instruct",
)
SIMULATED = "This is a simulated Ollama: no model here is real."
POSIX = pytest.mark.skipif(os.name == "nt", reason="needs signals and terminals of POSIX")


@dataclass
class Here:
    """A place where commands can be run: a document, an Ollama, perhaps a service."""

    ollama: str
    document: Path
    url: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def options(self):
        return ["--file", str(self.document)] if self.url is None else ["--url", self.url]

    def run(self, *words, stdin=None):
        environment = {"OLLAMA_HOST": self.ollama, **self.environment}
        return CliRunner().invoke(commands, [*self.options, *words], input=stdin, env=environment)

    def done(self, *words):
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result

    def json(self, *words, stdin=None):
        return json.loads(self.run("--json", *words, stdin=stdin).stdout)

    def process(self, *words, **how):
        """The same as a process of its own, as a person starts it."""
        environment = {**os.environ, "OLLAMA_HOST": self.ollama, **self.environment, **how.pop("env", {})}
        command = [sys.executable, str(ROOT / "cli_model_management.py"), *self.options, *words]
        return subprocess.Popen(
            command, env=environment, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
        )


@contextmanager
def a_service(ollama, document, **settings):
    manager = ModelManager(ollama, document)
    app = create_app(load_settings(env_file=None, ollama_host=ollama, metadata_file=document, **settings), manager)
    stop, ready, urls = threading.Event(), threading.Event(), []

    def on_ready(url):
        urls.append(url)
        ready.set()

    how = {"on_ready": on_ready, "on_stop": manager.close, "stop": stop}
    thread = threading.Thread(target=serve, args=(app, "127.0.0.1", 0, 16), kwargs=how)
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield urls[0]
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture
def document(tmp_path):
    return tmp_path / "document" / "models.json"


@pytest.fixture
def direct(simulator, document):
    return Here(simulator.url, document)


@pytest.fixture
def service(simulator, document):
    with a_service(simulator.url, document) as url:
        yield Here(simulator.url, document, url)


@pytest.fixture(params=["direct", "service"])
def here(request):
    return request.getfixturevalue(request.param)


@contextmanager
def a_place(face, folder):
    """A document, a fast Ollama and, if that is the face, a service; for tests that leave each other's ground alone."""
    with OllamaSimulator(rate_bytes_per_s=100e9, tick_s=0.002, tokens_per_second=2000) as ollama:
        document = folder / "models.json"
        if face == "direct":
            yield Here(ollama.url, document)
        else:
            with a_service(ollama.url, document) as url:
                yield Here(ollama.url, document, url)


@pytest.fixture(scope="module", params=["direct", "service"])
def untouched(request, tmp_path_factory):
    """Where nothing has happened, and every command is refused."""
    with a_place(request.param, tmp_path_factory.mktemp("untouched")) as here:
        yield here


@pytest.fixture(scope="module", params=["direct", "service"])
def used(request, tmp_path_factory):
    """Where the 1B model is installed, current, and was used once; commands that change something take other models."""
    with a_place(request.param, tmp_path_factory.mktemp("used")) as here:
        a_used_model(here)
        yield here


@pytest.fixture
def slow():
    """An Ollama whose downloads take long enough to be watched."""
    with OllamaSimulator(rate_bytes_per_s=400e6, tick_s=0.02) as ollama:
        yield ollama


def until(true, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def meanwhile(when, do):
    """Do something as soon as `when` is true, while whatever stands within the block runs."""
    done, over = [], threading.Event()

    def look():
        deadline = time.monotonic() + PATIENCE_S
        while not over.wait(0.01) and time.monotonic() < deadline:
            if when():
                done.append(True)
                do()
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done


@contextmanager
def ctrl_c(when):
    """Press Ctrl-C in this process, on whatever runs within the block, as soon as `when` is true."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with meanwhile(when, do=lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)):
            yield
    finally:
        signal.signal(signal.SIGINT, before)


def shown_so_far():
    """What the command that CliRunner runs just now has written to its stdout."""
    shown = getattr(sys.stdout, "buffer", None)
    return shown.getvalue().decode() if hasattr(shown, "getvalue") else ""


def arrived_bytes(ollama):
    return max(ollama.state()["partial"].values(), default=0)


def a_used_model(here):
    here.done("download", ONE_B)
    here.done("switch", ONE_B)
    here.done("record", ONE_B, "1.5")


# --- every command ---------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """What is typed, what a person reads then, and the GET of the REST face that has the same answer."""

    words: list[str]
    told: str
    get: str | None = None
    before: list[str] = field(default_factory=list)


EXPORTED = ["export", "export.json"]
TABLE = {
    "list": Case(["list"], rf"^{ONE_B} +installed, q4 +1\.6 GiB +810 MB +speed", "/list"),
    "installed": Case(["installed"], rf"^{ONE_B}$", "/installed"),
    "info": Case(["info", EIGHT_B], r"^Memory +q4 5\.54 GiB, q8 8\.67 GiB \(context of 4,096", f"/info/{EIGHT_B}"),
    "current": Case(["current"], rf"^{ONE_B} \(installed, q4\)$", "/current"),
    "switch": Case(["switch", ONE_B], rf"^{ONE_B} is the current model\.$"),
    "download": Case(
        ["download", THREE_B],
        rf"^{THREE_B} \(4-bit\) (is installed|was there already)\. Use it: .* {THREE_B} --quantization q4$",
    ),
    "downloads": Case(["downloads"], rf"^{ONE_B} +completed +100 % +81\d MB", "/downloads"),
    "delete": Case(
        ["delete", EIGHT_B, "--yes"], rf"^{EIGHT_B} is deleted\..* free again\.$", None, ["download", EIGHT_B]
    ),
    "recommend": Case(["recommend", "8", "speed"], r"^llama3\.2:.*\n- Made for speed"),
    "check": Case(["check", EIGHT_B, "--vram", "8"], r"so it fits.*\n(.*\n)*Together +5\.54 GiB"),
    "stats": Case(["stats", ONE_B], rf"^{ONE_B} +1 +100 % +1\.50 s", f"/statistics?model={ONE_B}"),
    "record": Case(
        ["record", EIGHT_B, "2", "--tokens", "90", "--quality", "4.5", "--task", "tags", "--failed"],
        rf"^Recorded for {EIGHT_B}: a failure, 2\.00 s, 90 tokens, quality 4\.5, for tags\.$",
    ),
    "load": Case(
        ["load", ONE_B, "--keep-alive", "-1"], rf"^{ONE_B} is loaded, after .* as a whole\.\nWith what the card's own "
    ),
    "running": Case(["running"], rf"^{ONE_B} +100 % +.* GiB +[-+].* % +4,096", None, ["load", ONE_B]),
    "benchmark": Case(
        ["benchmark", ONE_B, "--prompt", "Rate it.", "--runs", "1"], rf"^{ONE_B} +[\d,]+ +0\.\d\d s .* 0 of 1$"
    ),
    "benchmarks": Case(["benchmarks"], r"^(Id +State|No benchmarks are kept)", "/benchmarks"),
    "unload": Case(["unload", ONE_B], rf"^{ONE_B} has left the memory\.$", None, ["load", ONE_B]),
    "hardware": Case(["hardware"], r"^Card +Simulated card(.*\n)*Advice counts on 8 GiB: what is free", "/hardware"),
    "doctor": Case(["doctor"], r"^note Ollama: .*\n(.*\n)*Nothing needs to be done\.$"),
    "compare": Case(
        ["compare", ONE_B, EIGHT_B], rf"^{ONE_B} +100 % \(1\) +1\.50 s \(1\)(.*\n)+^Quickest: Too few values"
    ),
    "sync": Case(["sync"], r"^(1 model is|\d+ models are) installed\.$"),
    "export": Case(["export", "-"], r'"checksum": "sha256:'),
    "import": Case(["import", "export.json", "--dry-run"], r"^Uses on record: \d+ before, \d+ after\.", None, EXPORTED),
    "health": Case(["health"], r"^ollama: well$", "/health"),
}


def every_command(group=commands, *above):
    for name, command in group.commands.items():
        yield [*above, name], command
        if isinstance(command, click.Group):
            yield from every_command(command, *above, name)


def test_every_command_is_tried():
    assert set(TABLE) == set(commands.commands)


@pytest.fixture
def case(request, used, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = TABLE[request.param]
    if found.before:
        used.done(*found.before)
    return found


@pytest.mark.parametrize("case", TABLE, indirect=True)
def test_a_command_tells_a_person(used, case):
    result = used.done(*case.words)

    assert re.search(case.told, result.stdout, re.MULTILINE), result.stdout
    assert "\x1b" not in result.output


@pytest.mark.parametrize("case", TABLE, indirect=True)
def test_a_command_tells_a_program(used, case):
    result = used.run("--json", *case.words)

    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer.get("success") or "checksum" in answer
    assert result.stderr == ""


@pytest.mark.parametrize("case", [name for name, case in TABLE.items() if case.get], indirect=True)
def test_with_json_the_answer_is_that_of_the_rest_face(used, case):
    manager = ModelManager(used.ollama, used.document)
    app = create_app(load_settings(env_file=None, metadata_file=used.document), manager)

    answer = used.json(*case.words)

    theirs = app.test_client().get(f"/api/model{case.get}").get_json()
    manager.close()
    # When Ollama was last asked is each manager's own matter.
    for one in (answer, theirs):
        one["ollama"].pop("checked_at", None)
    assert answer == theirs


def test_the_daily_loop_goes_through_in_a_terminal(here):
    assert "llama3.2:1b-instruct" in here.done("recommend", "2", "speed").stdout
    here.done("download", ONE_B)
    here.done("switch", ONE_B)
    here.done("record", ONE_B, "1.4")
    assert "1.40 s" in here.done("stats").stdout
    assert here.run("delete", ONE_B, "--yes").exit_code == REFUSED
    here.done("download", THREE_B)
    assert f"Before: {ONE_B}." in here.done("switch", THREE_B).stdout

    assert "are free again" in here.done("delete", ONE_B, "--yes").stdout
    assert here.done("installed").stdout.split() == [THREE_B]


def test_a_service_and_the_terminal_beside_it_see_the_same(service, direct):
    direct.done("download", ONE_B)
    direct.done("switch", ONE_B)

    assert service.json("current")["model"] == ONE_B

    service.done("record", ONE_B, "2")
    assert direct.json("stats", ONE_B)["statistics"]["usage_count"] == 1


# --- what may be asked -----------------------------------------------------------------------------------------------


def test_the_words_of_the_options_are_those_of_the_core():
    assert tuple(ModelPurpose) == PURPOSES
    assert tuple(COMPARED) == METRICS
    assert set(PRIORITIES) == set(get_args(Criteria.model_fields["priority"].annotation))


def test_list_filters(untouched):
    assert untouched.json("list", "--installed")["count"] == 0
    assert {model["purpose"] for model in untouched.json("list", "--purpose", "speed")["models"]} == {"speed"}
    assert {model["name"] for model in untouched.json("list", "--max-vram", "2")["models"]} == {ONE_B, THREE_B}
    assert untouched.done("list", "--max-vram", "0").stdout == "No model passes these filters.\n"


@pytest.mark.parametrize(
    "words",
    [["8", "quality"], ["--vram", "8", "--priority", "quality"], ["8", "--priority", "quality"]],
    ids=["positional", "options", "mixed"],
)
def test_recommend_takes_its_figures_in_both_forms(untouched, words):
    criteria = untouched.json("recommend", *words)["criteria"]

    assert (criteria["available_vram_gb"], criteria["priority"]) == (8.0, "quality")


def test_the_command_that_is_named_next_brings_the_form_that_was_recommended(direct, simulator):
    """The 8-bit form is there and spills; without a word on the form it would be taken again."""
    simulator.install("llama3.1:8b-instruct-q8_0")

    def next_words(told):
        return re.findall(r"(?:Next|Use it): .*models\.json (.*)", told.output)[-1].split()

    fetch = next_words(direct.done("recommend"))
    use = next_words(direct.done(*fetch))
    direct.done("switch", "llama3.1:8b-instruct", "--quantization", "q8")
    advised = direct.run("doctor").stdout
    direct.done(*use)

    assert fetch == ["download", "llama3.1:8b-instruct", "--quantization", "q4"]
    assert use == ["switch", "llama3.1:8b-instruct", "--quantization", "q4"]
    assert "Ask for recommend, or switch to it with quantization q4." in advised
    assert direct.json("check", "llama3.1:8b-instruct")["compatible"]
    assert "what would be recommended now, too" in direct.done("doctor").stdout


def test_recommend_needs_nothing_and_takes_everything(untouched):
    assert untouched.json("recommend")["criteria"]["priority"] == "balanced"

    criteria = untouched.json("recommend", "12", "--context", "8192", "--needs", "vision")["criteria"]
    assert (criteria["context_tokens"], criteria["needs"]) == (8192, ["vision"])

    refused = untouched.run("recommend", "12", "--installed")
    assert refused.exit_code == REFUSED


def test_what_is_said_twice_is_wrong_use(untouched):
    for words in (["8", "--vram", "8"], ["8", "speed", "--priority", "speed"]):
        assert untouched.run("recommend", *words).exit_code == WRONG_USE


def test_the_form_of_a_model_can_be_chosen(direct):
    direct.done("download", ONE_B, "--quantization", "q8")
    direct.done("download", ONE_B, "--quantization", "q4")

    assert direct.json("switch", ONE_B, "--quantization", "q8")["info"]["installed_quantization"] == "q8"
    assert direct.json("check", ONE_B, "--quantization", "q4", "--context", "1024")["quantization"] == "q4"


def test_a_switch_can_insist_on_a_fit(direct):
    direct.done("download", EIGHT_B, "--quantization", "q8")
    warned = direct.run("switch", EIGHT_B, "--quantization", "q8")
    assert "Warning: " in warned.stderr

    refused = direct.run("switch", EIGHT_B, "--quantization", "q8", "--require-fit")

    assert refused.exit_code == REFUSED
    assert "of graphics memory" in refused.stderr


def test_a_relative_file_starts_where_the_person_stands(simulator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {"OLLAMA_HOST": simulator.url}

    CliRunner().invoke(commands, ["--file", "mine.json", "sync"], env=environment)

    assert (tmp_path / "mine.json").exists()


def test_without_file_the_document_of_the_settings_is_used(simulator, tmp_path):
    environment = {"OLLAMA_HOST": simulator.url, "MODEL_MANAGER_METADATA_FILE": str(tmp_path / "set.json")}

    CliRunner().invoke(commands, ["sync"], env=environment)

    assert (tmp_path / "set.json").exists()


# --- help ------------------------------------------------------------------------------------------------------------


HELPED = {" ".join(words): (words, command) for words, command in every_command()}


@pytest.mark.parametrize(("words", "command"), HELPED.values(), ids=HELPED)
def test_the_help_of_a_command_has_a_sentence_and_an_example_that_works(words, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models.json").write_text("{}")

    shown = CliRunner().invoke(commands, [*words, "--help"]).stdout

    sentence = command.get_short_help_str(200)
    assert sentence.endswith(".")
    assert len(sentence) < 70
    examples = re.findall(r"Example: junmai-models (.*)", shown)
    assert examples
    for example in examples:
        named = shlex.split(example)
        assert named[: len(words)] == words
        command.make_context(words[-1], named[len(words) :]).close()


def test_help_does_not_wait_for_what_only_commands_need():
    script = (
        "import sys, cli_model_management as cli\n"
        "try: cli.commands(['--help'])\n"
        "except SystemExit: print('LOADED', *({'rich', 'requests', 'flask', 'pydantic'} & set(sys.modules)))\n"
    )

    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert shown.stdout.splitlines()[-1] == "LOADED"


# --- what goes wrong -------------------------------------------------------------------------------------------------


def family(error=ModelManagerError):
    return {error, *(kind for child in error.__subclasses__() for kind in family(child))}


def test_every_error_has_an_exit_code():
    own = {"interrupted", "refused", "service_unavailable", "service_unexpected"}

    of_the_core = {error.code for error in family() if error.__module__ == "model_core.errors"}

    assert set(EXIT_CODES) == of_the_core | set(STATUS) | own


def test_a_value_that_is_not_acceptable_is_wrong_use_and_a_missing_ollama_has_its_own_code():
    assert {EXIT_CODES[error.code] for error in family(InvalidRequest)} == {WRONG_USE}
    assert {EXIT_CODES[error.code] for error in (OllamaUnavailable, OllamaTimeout)} == {NO_OLLAMA}
    assert set(EXIT_CODES.values()) == {REFUSED, WRONG_USE, NO_OLLAMA, INTERRUPTED}


REFUSALS = {
    "no current model": (["current"], "no_current_model", REFUSED, "recommend names a good first choice"),
    "unknown model": (["info", "nobody"], "model_not_found", REFUSED, "There is no model nobody"),
    "not installed": (["switch", THREE_B], "model_not_installed", REFUSED, "Download it first."),
    "never published": (["download", NEVER_PUBLISHED], "model_not_published", REFUSED, "nearest real models"),
    "delete what is not there": (["delete", THREE_B, "--yes"], "model_not_installed", REFUSED, "not installed"),
    "statistics of nobody": (["stats", "nobody"], "model_not_found", REFUSED, "There is no model"),
    "nothing fits": (["recommend", "0.5"], "no_suitable_model", REFUSED, "needs 1.6 GiB"),
    "bad name": (["info", "a b"], "invalid_model_name", WRONG_USE, "A name looks like"),
    "other registry": (["download", "evil.example/a/b"], "registry_not_allowed", WRONG_USE, "not allowed here"),
    "no such form": (["download", ONE_B, "--quantization", "q5"], "unknown_quantization", WRONG_USE, "q4, q8"),
    "plan of what never was": (["download", "--plan", NEVER_PUBLISHED], "model_not_published", REFUSED, "nearest real"),
    "no such download": (
        ["downloads", "cancel", "nobody/x"],
        "download_not_found",
        REFUSED,
        "Every one is listed by: ",
    ),
    "benchmark of what is not there": (["benchmark", THREE_B], "model_not_installed", REFUSED, "not installed"),
    "no such benchmark": (["benchmarks", "cancel", "nobody"], "benchmark_not_found", REFUSED, "no benchmark nobody"),
    "no runs": (["benchmark", THREE_B, "--runs", "0"], "invalid_request", WRONG_USE, "runs: must be a whole number"),
    "no number": (["recommend", "nan"], "invalid_request", WRONG_USE, "available_vram_gb"),
    "endless": (["record", ONE_B, "inf"], "invalid_request", WRONG_USE, "inference_time"),
    "better than the best": (["record", ONE_B, "1", "--quality", "6"], "invalid_request", WRONG_USE, "quality_score"),
    "a task of no text": (["record", ONE_B, "1", "--task", "a\udcff"], "invalid_request", WRONG_USE, "body"),
    "less than nothing": (["list", "--max-vram", "-1"], "invalid_request", WRONG_USE, "from 0 to"),
    "one model alone": (["compare", ONE_B], "invalid_request", WRONG_USE, "2 to 10 models"),
    "one model twice": (["compare", ONE_B, f"{ONE_B}-q4_K_M"], "invalid_request", WRONG_USE, "are the same model"),
    "no context": (["check", ONE_B, "--context", "0"], "invalid_request", WRONG_USE, "context_tokens"),
    "no document": (["import", "-"], "invalid_request", WRONG_USE, "Hand in what export wrote."),
}


@pytest.mark.parametrize(("words", "code", "exit_code", "told"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_what_happened_and_what_to_do(untouched, words, code, exit_code, told):
    for_a_person = untouched.run(*words)
    for_a_program = untouched.run("--json", *words)

    assert (for_a_person.exit_code, for_a_program.exit_code) == (exit_code, exit_code)
    assert for_a_person.stdout == ""
    assert told in for_a_person.stderr
    problem = json.loads(for_a_program.stdout)
    assert (problem["success"], problem["code"]) == (False, code)
    assert for_a_program.stderr == for_a_person.stderr


WRONG = {
    "no command": [],
    "no such command": ["dance"],
    "no name": ["info"],
    "empty name": ["info", ""],
    "only dots": ["info", ".."],
    "bytes that are no text": ["info", "a\udcff"],
    "no such purpose": ["list", "--purpose", "beauty"],
    "no number": ["record", ONE_B, "soon"],
    "nothing to compare": ["compare"],
    "no such metric": ["compare", ONE_B, EIGHT_B, "--metric", "beauty"],
    "half a token": ["record", ONE_B, "1", "--tokens", "0.5"],
    "no such file": ["import", "not-there.json"],
    "a place before the first": ["downloads", "move", "d1", "-1"],
    "no such wish": ["downloads", "dance", "d1"],
    "a watch and a wish": ["downloads", "--watch", "pause", "d1"],
    "a folder": ["export", "."],
    "a benchmark of nothing": ["benchmark"],
    "no such photo": ["benchmark", ONE_B, "--photo", "not-there.jpg"],
    "no such prompt": ["benchmark", ONE_B, "--prompt-file", "not-there.txt"],
    "two services": ["--url", "http://127.0.0.1:1", "--file", "x", "list"],
    "no address": ["--url", "ftp://photos.lan", "list"],
    "no port": ["--url", "http://photos.lan:x", "list"],
    "a password in the address": ["--url", "http://me:secret@photos.lan", "list"],
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused_with_nothing_on_stdout(words):
    result = CliRunner().invoke(commands, words)

    assert result.exit_code == WRONG_USE
    assert result.stdout == ""
    assert "Usage: " in result.stderr
    assert "secret" not in result.stderr


def test_a_setting_that_is_wrong_is_named(direct):
    direct.environment = {"MODEL_MANAGER_VRAM_GB": "plenty"}

    result = direct.run("--json", "recommend")

    assert result.exit_code == REFUSED
    assert json.loads(result.stdout)["code"] == "cannot_start"
    assert "MODEL_MANAGER_VRAM_GB" in result.stderr


def test_what_is_not_installed_is_answered_with_the_command_that_fetches_it(untouched):
    for words in (["switch", EIGHT_B], ["load", EIGHT_B], ["switch", EIGHT_B, "--quantization", "q8"]):
        chosen = " --quantization q8" if "q8" in words else ""
        assert f" download {EIGHT_B}{chosen}\n" in untouched.run(*words).stderr


def test_a_python_without_the_libraries_says_where_there_is_one_with_them():
    done = subprocess.run(
        [sys.executable, "-S", "-E", Path(__file__).parent.parent / "cli_model_management.py", "list"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == REFUSED
    assert done.stderr.startswith(f"{sys.executable} lacks what this needs.")
    assert ".venv" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("executable", "on_path", "typed"),
    [
        ("{here}/.venv/bin/python", None, str(Path(".venv/bin/python"))),
        ("{here}/.venv/bin/python", "{here}/.venv/bin/python", "python"),
        ("/usr/bin/python3", None, "python"),
    ],
)
def test_a_command_to_type_again_names_the_python_that_works(executable, on_path, typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", executable.format(here=tmp_path))
    monkeypatch.setattr("shutil.which", lambda word: on_path and on_path.format(here=tmp_path))
    monkeypatch.setattr(sys, "argv", ["cli_model_management.py"])

    assert Terminal(None, None, as_json=False, verbose=False).program == f"{typed} cli_model_management.py"


def test_a_fault_of_the_program_says_how_to_see_the_log(capsys):
    fault = {"code": "internal_error", "error": "Something went wrong.", "remedy": "The log has the details."}

    exit_code = Terminal(url=None, file=None, as_json=False, verbose=False).explain(Problem(fault), "list")

    assert exit_code == REFUSED
    assert capsys.readouterr() == ("", "Something went wrong.\nRun it again with --verbose to see the log.\n")


# --- Ollama and the service are not always there ---------------------------------------------------------------------


def test_what_is_known_is_told_while_ollama_is_down(direct, simulator):
    a_used_model(direct)
    simulator.stop()

    for words in (["list"], ["installed"], ["info", ONE_B], ["current"]):
        result = direct.done(*words)

        assert ONE_B in result.stdout
        assert "Ollama does not answer at" in result.stderr
        assert "last known state, of 20" in result.stderr
    assert direct.run("health").exit_code == NO_OLLAMA


def test_what_needs_ollama_exits_with_its_own_code(direct, simulator):
    a_used_model(direct)
    simulator.stop()

    for words in (["sync"], ["switch", ONE_B], ["download", THREE_B], ["delete", THREE_B, "--yes"]):
        result = direct.run(*words)

        assert result.exit_code == NO_OLLAMA, (words, result.output)
        assert "Ollama does not answer at" in result.stderr


@pytest.mark.slow  # a process of its own each: here pytest has the log
def test_nothing_is_logged_unless_it_is_asked_for(simulator, document):
    simulator.stop()
    here = Here(simulator.url, document)

    quiet, loud = here.process("list"), here.process("--verbose", "list")

    assert b"WARNING" not in quiet.communicate()[1]
    assert b"WARNING ollama_inventory ollama not reachable" in loud.communicate()[1]


def test_the_demonstration_never_passes_for_the_real_thing(direct):
    for words in (["list"], ["installed"], ["sync"], ["recommend", "8"]):
        assert SIMULATED in direct.run(*words).stderr


def test_a_service_that_is_not_there_is_named(document):
    here = Here("", document, "http://127.0.0.1:1")

    result = here.run("--json", "list")

    assert result.exit_code == REFUSED
    assert json.loads(result.stdout)["code"] == "service_unavailable"
    assert "http://127.0.0.1:1/api/model does not answer" in result.stderr
    assert "python start.py" in result.stderr


def test_what_is_no_model_manager_is_told_from_one(simulator, document):
    result = Here("", document, simulator.url).run("list")

    assert result.exit_code == REFUSED
    assert "not the model manager" in result.stderr


BROKEN_LOADS = {
    "a page": (answering(b"<html>boom</html>", "502 Bad Gateway"), "service_unexpected", "not the model manager"),
    "half an answer": (answering({"phase": "loading", "seconds": 0.0}), "service_unavailable", "broke off before"),
}


@pytest.mark.parametrize(("script", "code", "words"), BROKEN_LOADS.values(), ids=BROKEN_LOADS)
def test_a_load_that_a_service_does_not_answer_to_the_end_is_no_success(document, script, code, words):
    with ScriptedServer(script) as server:
        here = Here("", document, server.url)
        for_a_person, for_a_program = here.run("load", ONE_B), here.run("--json", "load", ONE_B)

    assert for_a_person.exit_code == for_a_program.exit_code == REFUSED
    assert words in for_a_person.stderr
    assert json.loads(for_a_program.stdout)["code"] == code


def test_the_token_comes_from_the_environment_and_is_asked_for_by_name(simulator, document):
    with a_service(simulator.url, document, token="open-sesame") as url:
        here = Here("", document, url)
        without = here.run("list")
        here.environment = {"MODEL_MANAGER_TOKEN": "open-sesame"}

        assert without.exit_code == REFUSED
        assert "Set MODEL_MANAGER_TOKEN" in without.stderr
        here.done("list")


def test_the_service_s_token_does_not_stand_in_the_way_of_the_document(direct):
    direct.environment = {"MODEL_MANAGER_TOKEN": "open-sesame"}

    direct.done("list")


# --- what is in memory -----------------------------------------------------------------------------------------------


def test_a_switch_can_bring_the_model_into_memory(here):
    here.done("download", ONE_B)

    here.done("switch", ONE_B, "--load")

    assert [model["name"] for model in here.json("running")["models"]] == [ONE_B]


def test_with_json_a_load_is_one_document(here):
    here.done("download", ONE_B)

    answer = here.json("load", ONE_B, "--context", "2048")

    assert (answer["success"], answer["context_tokens"], answer["gpu_share"]) == (True, 2048, 1.0)


def test_a_model_that_spills_is_warned_of_with_what_to_do(here, simulator):
    here.done("download", EIGHT_B)
    simulator.pace.vram_bytes = 4 * 2**30

    done = here.done("load", EIGHT_B)
    doctor = here.run("doctor")

    assert re.search(
        r"Warning: \d+% of llama3.1:8b-instruct lies on the graphics card.*Take a smaller model", done.stderr
    )
    assert doctor.exit_code == REFUSED
    assert re.search(r"^DO   Loaded: \d+% of .*which is slow\.\n     Take a smaller model", doctor.stdout, re.MULTILINE)


def test_nothing_loaded_is_an_answer(untouched):
    assert untouched.done("running").stdout == "Nothing is loaded.\n"


def test_a_load_that_cannot_be_is_refused_with_its_reason(untouched):
    missing = untouched.run("load", ONE_B)
    wrong = untouched.run("load", ONE_B, "--keep-alive", "soon")

    assert (missing.exit_code, wrong.exit_code) == (REFUSED, WRONG_USE)
    assert "is not installed" in missing.stderr
    assert "no length of time" in wrong.stderr


def test_the_doctor_says_that_ollama_is_down_and_exits_with_its_code(direct, simulator):
    simulator.stop()

    done = direct.run("doctor")

    assert done.exit_code == NO_OLLAMA
    assert re.search(r"^DO   Ollama: Ollama does not answer", done.stdout, re.MULTILINE)


def test_the_check_names_each_thing_that_would_make_it_fit(untouched):
    told = untouched.done("check", EIGHT_B, "--vram", "5.4").stdout

    assert "- With a context of 2,048 tokens it needs 5.26 GiB, which is tight." in told
    assert "- 147 MiB more would have to be free." in told


def test_advice_can_be_asked_for_an_ollama_with_a_smaller_cache(untouched):
    plain = untouched.json("check", EIGHT_B, "--vram", "8", "--context", "16384")["need"]["total"]
    smaller = untouched.json("check", EIGHT_B, "--vram", "8", "--context", "16384", "--kv-type", "q8_0")["need"][
        "total"
    ]
    told = untouched.done("recommend", "8", "--kv-type", "q8_0").stdout

    assert smaller < plain
    assert "- This holds where Ollama itself is started with OLLAMA_FLASH_ATTENTION=1 and OLLAMA_KV_CACHE" in told


# --- downloads -------------------------------------------------------------------------------------------------------


def test_a_download_tells_a_file_of_its_phases_only(direct):
    told = direct.done("download", ONE_B).stdout.splitlines()

    assert told[-1].startswith(f"{ONE_B} (4-bit) is installed.")
    assert all(line.startswith(f"{ONE_B}: ") for line in told[:-1])
    assert len(told) == len(set(told)) <= 8


def test_what_is_there_is_not_fetched_again(direct, simulator):
    direct.done("download", ONE_B)
    pulls = [request.path for request in simulator.requests].count("/api/pull")

    again = direct.done("download", ONE_B)

    assert "was there already" in again.stdout
    assert [request.path for request in simulator.requests].count("/api/pull") == pulls
    direct.done("download", ONE_B, "--force")
    assert [request.path for request in simulator.requests].count("/api/pull") > pulls


@pytest.mark.parametrize(
    ("fault", "told"), [("disk_full", "disk is full"), ("too_new", "newer")], ids=["disk full", "too new"]
)
def test_a_download_that_fails_says_why(direct, simulator, fault, told):
    simulator.set_fault(fault)

    result = direct.run("--json", "download", ONE_B)

    assert result.exit_code == REFUSED
    problem = json.loads(result.stdout)
    assert not problem["success"]
    assert problem["download"]["state"] == "failed"
    assert told in result.stderr


def test_a_service_that_goes_in_the_middle_of_a_download_is_told(slow, document):
    with ExitStack() as stack:
        here = Here(slow.url, document, stack.enter_context(a_service(slow.url, document)))
        with meanwhile(lambda: "downloading" in shown_so_far(), do=stack.close):
            result = here.run("download", EIGHT_B)

    assert result.exit_code == REFUSED
    assert "does not answer" in result.stderr or "interrupted" in result.stderr
    assert "download" in result.stderr.splitlines()[-1]


def read_until(stream, words):
    seen = b""
    while words not in seen and (more := os.read(stream.fileno(), 4096)):
        seen += more
    return seen


@POSIX
def test_ctrl_c_pauses_a_download_of_its_own_and_the_same_command_goes_on(slow, document):
    here = Here(slow.url, document)
    process = here.process("download", EIGHT_B)
    read_until(process.stdout, b"downloading")
    until(lambda: arrived_bytes(slow) > 100e6)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=10)

    assert process.returncode == INTERRUPTED
    assert b"paused; what has arrived is kept." in told
    assert told.endswith(f"--file {document} download {EIGHT_B}\n".encode())
    job = here.json("downloads")["downloads"][0]
    assert job["state"] == "paused"

    slow.pace.rate_bytes_per_s = 100e9
    finished = here.json("download", EIGHT_B)["download"]

    assert (finished["id"], finished["state"]) == (job["id"], "completed")


@POSIX
def test_ctrl_c_leaves_a_service_to_go_on(slow, document):
    with a_service(slow.url, document) as url:
        here = Here(slow.url, document, url)
        # A process of its own: the socket that Ctrl-C breaks off is closed by its end.
        process = here.process("download", EIGHT_B)
        read_until(process.stdout, b"downloading")
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=10)[1].decode()

        assert process.returncode == INTERRUPTED
        job = here.json("downloads")["downloads"][0]
        assert f"goes on: the service at {url} fetches it." in told
        for then in ("downloads", f"download {EIGHT_B}", f"downloads cancel {job['id']}"):
            assert re.search(rf": .*--url {url} {then}$", told, re.MULTILINE)
        slow.pace.rate_bytes_per_s = 100e9
        until(lambda: here.json("downloads")["downloads"][0]["state"] == "completed", 20)


@POSIX
def test_ctrl_c_does_not_stop_the_download_of_another_program(slow, direct_and_another):
    direct, another = direct_and_another
    another.start_download(EIGHT_B)
    with ctrl_c(when=lambda: "downloading" in shown_so_far()):
        result = direct.run("download", EIGHT_B)

    assert result.exit_code == INTERRUPTED
    assert "goes on: another program on this document fetches it." in result.stderr
    assert another.downloads()[0].state == "downloading"


@POSIX
def test_ctrl_c_leaves_what_waits_for_its_turn_to_go_on_another_time(slow, direct_and_another):
    direct, another = direct_and_another
    another.start_download(EIGHT_B)
    until(lambda: arrived_bytes(slow))
    with ctrl_c(when=lambda: f"{ONE_B}: waiting" in shown_so_far()):
        result = direct.run("download", ONE_B)

    assert result.exit_code == INTERRUPTED
    assert "interrupted; what has arrived is kept." in result.stderr
    assert [job.state for job in another.downloads()] == ["downloading", "interrupted"]


@POSIX
def test_ctrl_c_ends_a_command_that_waits_for_ollama(direct, simulator):
    simulator.set_fault("slow_answer", seconds=30)
    with ctrl_c(when=lambda: simulator.requests):
        result = direct.run("--json", "download", EIGHT_B)

    assert result.exit_code == INTERRUPTED
    assert json.loads(result.stdout)["code"] == "interrupted"
    happened, remedy = result.stderr.splitlines()
    assert happened == "Interrupted."
    assert remedy.startswith("The download may have begun all the same; look: ")


# --- benchmarks ------------------------------------------------------------------------------------------------------

JPEG = b"\xff\xd8\xff\xe0 a photo"


@pytest.fixture
def measuring(here, simulator):
    """Where two models that talk and one that sees are installed."""
    for tag in (f"{ONE_B}-q4_K_M", f"{THREE_B}-q4_K_M", "gemma3:4b-it-q4_K_M"):
        simulator.install(tag)
    return here


def test_two_models_are_compared_on_prompts_of_ones_own(measuring, tmp_path):
    (tmp_path / "third.txt").write_text("Criticise it.")
    words = ["benchmark", ONE_B, THREE_B, "--prompt", "Rate it.", "--prompt", "Tag it.", "--runs", "2"]

    result = measuring.done(*words, "--prompt-file", str(tmp_path / "third.txt"), "--csv", str(tmp_path / "all.csv"))

    shown = result.stdout
    assert re.search(
        r"^Benchmark [0-9a-f]{12}, completed: 3 prompts, 2 runs, on Simulated card\.$", shown, re.MULTILINE
    )
    for model in (ONE_B, THREE_B):
        assert re.search(rf"^{model} .* 0 of 6$", shown, re.MULTILINE)
    assert "Measured on a simulated Ollama" in shown
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 13


def test_a_prompt_of_another_encoding_is_refused_and_a_mark_is_no_part_of_one(measuring, simulator, tmp_path):
    (tmp_path / "utf16.txt").write_text("Rate it.", "utf-16")
    (tmp_path / "marked.txt").write_text("Rate it.", "utf-8-sig")

    refused = measuring.run("benchmark", ONE_B, "--prompt-file", str(tmp_path / "utf16.txt"))
    measuring.done("benchmark", ONE_B, "--runs", "1", "--prompt-file", str(tmp_path / "marked.txt"))

    assert refused.exit_code == WRONG_USE
    assert "no text in UTF-8" in refused.stderr
    assert all(body["prompt"].endswith("\nRate it.") for body in map(body_of, simulator.requests) if body.get("prompt"))


def body_of(request):
    return request.body or {}


def test_a_photo_goes_to_models_that_see(measuring, simulator, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(JPEG)

    measuring.done("benchmark", "gemma3:4b", "--photo", str(tmp_path / "photo.jpg"), "--runs", "1")
    refused = measuring.run("benchmark", ONE_B, "--photo", str(tmp_path / "photo.jpg"))

    assert sum(bool(request.body.get("images")) for request in simulator.requests if request.body) == 4
    assert refused.exit_code == REFUSED
    assert f"{ONE_B} cannot see photos" in refused.stderr


def test_a_benchmark_tells_a_file_of_its_turns_only(measuring):
    told = measuring.done("benchmark", ONE_B, "--runs", "2").stdout.splitlines()

    turns = [line for line in told if " of 6 answers)" in line]
    assert turns[-1].startswith(f"round 2 of 2: {ONE_B} (")
    assert len(turns) == len(set(turns)) <= 6


def test_a_table_that_cannot_be_written_is_refused_before_anything_is_measured(measuring, tmp_path):
    before = measuring.json("benchmarks")["count"]

    result = measuring.run("benchmark", ONE_B, "--runs", "1", "--csv", str(tmp_path / "no" / "where.csv"))

    assert result.exit_code == REFUSED
    assert "cannot be written" in result.stderr
    assert measuring.json("benchmarks")["count"] == before


def test_what_was_answered_can_be_read(measuring):
    job = measuring.json("benchmark", ONE_B, "--prompt", "Rate it.", "--runs", "1")["benchmark"]

    told = measuring.done("benchmarks", "show", job["id"], "--answers").stdout

    assert f"Prompt 1: Rate it.\n\n{ONE_B}:\n{job['results'][0]['answer']}" in told


def test_two_benchmarks_are_put_side_by_side(measuring):
    ids = [
        measuring.json("benchmark", name, "--prompt", "Rate it.", "--runs", "1")["benchmark"]["id"]
        for name in (ONE_B, THREE_B)
    ]

    result = measuring.done("benchmarks", "compare", *ids)

    assert re.search(rf"^{ONE_B} .*\n(.*\n)*{THREE_B} ", result.stdout, re.MULTILINE)
    assert "one after the other" in result.stderr


def test_a_file_that_is_no_photo_is_named(measuring, tmp_path):
    path = tmp_path / "list.jpg"
    path.write_text("milk, eggs")

    result = measuring.run("benchmark", ONE_B, "--photo", str(path))

    assert result.exit_code == WRONG_USE
    assert "list.jpg is no JPEG, PNG or WebP file." in result.stderr


def test_a_benchmark_in_which_nothing_works_says_why(measuring, simulator):
    simulator.set_fault("load_failed", text="unable to allocate CUDA0 buffer")

    result = measuring.run("--json", "benchmark", ONE_B)

    problem = json.loads(result.stdout)
    assert result.exit_code == REFUSED
    assert (problem["code"], problem["benchmark"]["state"]) == ("benchmark_failed", "failed")
    assert "unable to allocate" in result.stderr


def test_models_that_do_not_fit_are_warned_of_before(measuring, simulator):
    simulator.install(f"{EIGHT_B}-q8_0")

    result = measuring.done("benchmark", EIGHT_B, "--runs", "1")

    assert re.search(r"^Warning: .* would lie in RAM", result.stderr, re.MULTILINE)


def test_a_benchmark_is_shown_again_kept_as_a_table_and_forgotten(measuring, tmp_path):
    measuring.done("benchmark", ONE_B, "--runs", "1")
    (job,) = measuring.json("benchmarks")["benchmarks"]

    shown = measuring.done("benchmarks", "show", job["id"], "--csv", str(tmp_path / "again.csv")).stdout
    whole = measuring.json("benchmarks", "show", job["id"])["benchmark"]
    forgotten = measuring.done("benchmarks", "forget", job["id"]).stdout

    assert f"Benchmark {job['id']}, completed" in shown
    assert len(whole["results"]) == 3
    assert (tmp_path / "again.csv").read_text().count(job["id"]) == 3
    assert forgotten == f"Benchmark {job['id']} is off the record.\n"
    assert measuring.done("benchmarks").stdout == "No benchmarks are kept.\n"


@pytest.fixture
def held_up(simulator):
    """A benchmark of the 1B model stands still after its first prompts, and goes on when this is called."""
    simulator.install(f"{ONE_B}-q4_K_M")
    simulator.install(f"{THREE_B}-q4_K_M")
    simulator.set_fault("slow_load", model=f"{THREE_B}-q4_K_M", seconds=60)
    return simulator.clear_faults


WORDS = ["benchmark", ONE_B, THREE_B, "--prompt", "Rate it.", "--runs", "1"]


@POSIX
def test_ctrl_c_leaves_a_benchmark_of_its_own_interrupted_and_says_how_to_go_on(direct, held_up):
    process = direct.process(*WORDS)
    read_until(process.stdout, f"loading {THREE_B}".encode())
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=10)[1].decode()
    (job,) = direct.json("benchmarks")["benchmarks"]
    held_up()
    resumed = direct.json("benchmarks", "resume", job["id"])["benchmark"]

    assert process.returncode == INTERRUPTED
    assert f"Benchmark {job['id']} is interrupted; 1 of 2 answers are kept." in told
    assert told.endswith(f"--file {direct.document} benchmarks resume {job['id']}\n")
    assert (resumed["id"], resumed["state"], resumed["done"]) == (job["id"], "completed", 2)


@POSIX
def test_ctrl_c_leaves_the_benchmark_of_a_service_to_go_on(service, held_up):
    process = service.process(*WORDS)
    read_until(process.stdout, f"loading {THREE_B}".encode())
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=10)[1].decode()
    (job,) = service.json("benchmarks")["benchmarks"]

    assert process.returncode == INTERRUPTED
    assert f"goes on: the service at {service.url} measures." in told
    for then in (f"benchmarks show {job['id']}", f"benchmarks cancel {job['id']}"):
        assert re.search(rf": .*--url {service.url} {then}$", told, re.MULTILINE)
    held_up()
    until(lambda: service.json("benchmarks")["benchmarks"][0]["state"] == "completed", 20)


@POSIX
def test_who_watches_a_benchmark_that_another_cancels_is_told(direct, held_up, simulator, document):
    another = ModelManager(simulator.url, document)
    when = lambda: f"loading {THREE_B}" in shown_so_far()  # noqa: E731
    with meanwhile(when, do=lambda: another.cancel_benchmark(another.benchmarks()[0].id)):
        result = direct.run(*WORDS)

    assert result.exit_code == REFUSED
    assert "Cancelled after 1 of 2 answers; what was measured until then is kept." in result.stderr
    another.close()


def test_a_benchmark_of_another_program_is_cancelled(direct, held_up, simulator, document):
    another = ModelManager(simulator.url, document)
    job = another.start_benchmark([THREE_B])
    until(lambda: another.benchmark(job.id).phase.startswith("loading"))

    cancelled = direct.done("benchmarks", "cancel", job.id)

    assert cancelled.stdout == "Cancelled after 0 of 15 answers; what was measured until then is kept.\n"
    assert f"benchmarks show {job.id}" in cancelled.stderr
    another.close()


# --- the downloads on record -----------------------------------------------------------------------------------------


@pytest.fixture
def direct_and_another(slow, document):
    """The terminal on a document, and another program that works on it."""
    another = ModelManager(slow.url, document)
    yield Here(slow.url, document), another
    another.close()


def test_a_plan_tells_what_would_be_fetched_and_fetches_nothing(untouched):
    told = re.sub(" +", " ", untouched.done("download", "--plan", EIGHT_B).stdout)

    for line in (f"Fetched as {EIGHT_B}-q4_K_M", "Together 4.9 GB", "To download 4.9 GB", "Licence Llama 3.1"):
        assert f"\n{line}" in told
    assert "so it fits" in told
    assert untouched.json("downloads")["count"] == 0


def test_a_download_of_another_program_can_be_paused_gone_on_with_cancelled_and_forgotten(slow, direct_and_another):
    direct, another = direct_and_another
    job = another.start_download(EIGHT_B)
    until(lambda: arrived_bytes(slow))

    paused = direct.done("downloads", "pause", EIGHT_B)
    assert paused.stdout == f"{EIGHT_B}: Paused. Resume goes on from there.\n"
    assert f"downloads resume {job.id}" in paused.stderr
    assert another.download(job.id).state == "paused"

    another.resume_download(job.id)
    assert "may stay on Ollama's disk" in direct.done("downloads", "cancel", job.id).stdout
    assert another.download(job.id).state == "cancelled"

    slow.pace.rate_bytes_per_s = 100e9
    assert direct.json("downloads", "resume", EIGHT_B)["download"]["state"] == "completed"
    assert "off the record" in direct.done("downloads", "forget", EIGHT_B).stdout
    assert direct.done("downloads").stdout == "No downloads are on record.\n"


def test_a_download_that_waits_can_be_moved(slow, direct_and_another):
    direct, another = direct_and_another
    for model in (EIGHT_B, ONE_B, THREE_B):
        another.start_download(model)

    direct.done("downloads", "move", THREE_B, "0")

    assert [job["model"] for job in direct.json("downloads")["downloads"]] == [EIGHT_B, THREE_B, ONE_B]


def test_a_model_that_means_several_downloads_is_asked_for_by_id(direct_and_another):
    direct, another = direct_and_another
    ids = [another.start_download(ONE_B, form).id for form in ("q4", "q8")]

    refused = direct.run("downloads", "cancel", ONE_B)

    assert refused.exit_code == REFUSED
    assert all(job_id in refused.stderr for job_id in ids)
    for job_id in ids:
        direct.done("downloads", "cancel", job_id)


def test_a_model_means_the_one_download_that_can_do_what_is_wished(slow, direct_and_another):
    direct, another = direct_and_another
    paused = another.start_download(ONE_B, "q8")
    until(lambda: arrived_bytes(slow))
    another.pause_download(paused.id)
    slow.pace.rate_bytes_per_s = 100e9
    direct.done("download", ONE_B, "--quantization", "q4")

    assert direct.json("downloads", "cancel", ONE_B)["download"]["id"] == paused.id


def test_a_wish_that_a_download_cannot_grant_says_what_it_can(used):
    refused = used.run("--json", "downloads", "pause", ONE_B)

    assert refused.exit_code == REFUSED
    problem = json.loads(refused.stdout)
    assert (problem["code"], problem["state"], problem["allowed"]) == ("invalid_transition", "completed", ["forget"])


def test_downloads_are_watched_until_none_is_under_way(slow, direct_and_another):
    direct, another = direct_and_another
    another.start_download(EIGHT_B)

    with meanwhile(lambda: "downloading" in shown_so_far(), do=lambda: setattr(slow.pace, "rate_bytes_per_s", 100e9)):
        told = direct.done("downloads", "--watch").stdout

    assert f"{EIGHT_B}: downloading" in told
    assert re.search(rf"^{EIGHT_B} +completed +100 %", told, re.MULTILINE)
    assert direct.json("downloads", "--watch")["downloads"][0]["state"] == "completed"


@POSIX
def test_whoever_stops_watching_stops_no_download(slow, direct_and_another):
    direct, another = direct_and_another
    another.start_download(EIGHT_B)
    with ctrl_c(when=lambda: "downloading" in shown_so_far()):
        result = direct.run("downloads", "--watch")

    assert result.exit_code == INTERRUPTED
    assert another.downloads()[0].state == "downloading"


# --- at a terminal ---------------------------------------------------------------------------------------------------


@contextmanager
def at_a_terminal(here, *words, columns=80, **environment):
    """Run a command on a terminal of its own; lend the file that a person's hands and eyes would be."""
    import fcntl
    import pty
    import struct
    import termios

    person, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal, "start_new_session": True}
    process = here.process(*words, **streams, env={"TERM": "xterm", **environment})
    os.close(terminal)
    try:
        yield process, person
    finally:
        process.kill()
        process.wait()
        os.close(person)


def seen_until_its_end(person):
    seen = b""
    while True:
        try:
            more = os.read(person, 4096)
        except OSError:  # Linux says so when nobody writes any more
            return seen.decode()
        if not more:
            return seen.decode()
        seen += more


@POSIX
def test_a_terminal_shows_size_rate_time_left_and_phase(slow, document):
    slow.pace.rate_bytes_per_s = 500e6
    with at_a_terminal(Here(slow.url, document), "download", ONE_B) as (process, person):
        seen = seen_until_its_end(person)
        assert process.wait(10) == 0

    assert re.search(r"━+.*\d+ %  \d+ of (about )?81\d MB  \d+\.\d MB/s  \d+ s left", seen)
    assert f"{ONE_B}: downloading" in seen
    assert f"{ONE_B}: checking" in seen or f"{ONE_B}: naming" in seen
    percents = [int(percent) for percent in re.findall(r"(\d+) %", seen)]
    assert percents == sorted(percents)
    assert f"{ONE_B} (4-bit) is installed." in seen


@POSIX
@pytest.mark.slow
def test_a_narrow_terminal_gets_whole_lines(slow, document):
    slow.pace.rate_bytes_per_s = 1e9
    with at_a_terminal(Here(slow.url, document), "download", ONE_B, columns=30) as (process, person):
        seen = seen_until_its_end(person)
        assert process.wait(10) == 0

    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.partition(" is installed.")[0])
    assert max(len(line) for line in re.split(r"[\r\n]+", drawn) if "simulated" not in line) <= 30


@POSIX
@pytest.mark.slow
def test_no_color_is_respected(direct):
    with at_a_terminal(direct, "list", NO_COLOR="1") as (_, person):
        seen = seen_until_its_end(person)

    assert ONE_B in seen
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", seen)


@POSIX
@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (b"n\n", [ONE_B]),
        pytest.param(b"\x04", [ONE_B], marks=pytest.mark.slow),
        pytest.param(b"yes\n", [], marks=pytest.mark.slow),
    ],
)
def test_delete_asks(direct, answer, left):
    direct.done("download", ONE_B)
    with at_a_terminal(direct, "delete", ONE_B) as (process, person):
        os.read(person, 4096)
        os.write(person, answer)
        seen = seen_until_its_end(person)
        code = process.wait(10)

    assert direct.json("installed")["models"] == left
    assert code == (REFUSED if left else 0)
    assert ("Nothing was deleted." in seen) == bool(left)


def test_delete_without_a_terminal_says_what_is_missing(direct):
    direct.done("download", ONE_B)

    result = direct.run("delete", ONE_B, stdin="y\n")

    assert result.exit_code == WRONG_USE
    assert "Add --yes" in result.stderr
    assert direct.json("installed")["models"] == [ONE_B]


# --- the document ----------------------------------------------------------------------------------------------------


def test_what_is_exported_can_be_imported_elsewhere_and_counts_once(direct, simulator, tmp_path):
    a_used_model(direct)
    export = tmp_path / "export.json"
    assert direct.json("export", str(export)) == {
        "success": True,
        "message": f"The document is in {export}.",
        "output_file": str(export),
    }
    elsewhere = Here(simulator.url, tmp_path / "other.json")

    dry = elsewhere.json("import", str(export), "--dry-run")
    assert (dry["dry_run"], dry["usage_after"]) == (True, 1)
    assert elsewhere.json("stats", ONE_B)["statistics"]["usage_count"] == 0

    elsewhere.done("import", str(export))
    elsewhere.done("import", str(export))
    assert elsewhere.json("stats", ONE_B)["statistics"]["usage_count"] == 1

    assert elsewhere.json("import", str(export), "--replace")["mode"] == "replace"
    assert elsewhere.json("current")["model"] == ONE_B


def test_an_export_goes_through_a_pipe(direct):
    a_used_model(direct)
    document = direct.done("export", "-").stdout

    result = direct.run("import", "-", stdin=document)

    assert result.exit_code == 0, result.output
    assert "Uses on record: 1 before, 1 after." in result.stdout


def test_an_export_that_cannot_be_written_says_so(untouched, tmp_path):
    result = untouched.run("--json", "export", str(tmp_path / "no folder" / "export.json"))

    assert result.exit_code == REFUSED
    assert json.loads(result.stdout)["code"] == "refused"
    assert "cannot be written: No such file or directory." in result.stderr


@POSIX
@pytest.mark.slow
def test_an_export_that_breaks_off_leaves_the_old_one(direct, tmp_path):
    import resource

    export = tmp_path / "export.json"
    export.write_text("the old one")

    process = direct.process(
        "export", str(export), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    )
    _, told = process.communicate()

    assert process.returncode == REFUSED
    assert b"cannot be written: File too large." in told
    assert export.read_text() == "the old one"
    assert [path.name for path in tmp_path.glob("export*")] == ["export.json"]


# --- streams ---------------------------------------------------------------------------------------------------------


def as_a_console_shows_it(encoding, words, monkeypatch):
    """What main writes to a stdout of this encoding."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "argv", ["junmai-models", *words])
    monkeypatch.setattr(sys, "stdout", shown)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown.flush()
    return shown.buffer.getvalue().decode(encoding)


def test_a_console_of_an_old_code_page_gets_an_answer_and_json_keeps_every_letter(direct, monkeypatch):
    model = {"name": "mine:latest", "description": "風景 ✓", "usage_count": 1}
    direct.document.parent.mkdir()
    direct.document.write_text(json.dumps({"models": {"mine:latest": model}}))
    monkeypatch.setenv("OLLAMA_HOST", direct.ollama)

    shown = as_a_console_shows_it("cp1252", [*direct.options, "info", "mine"], monkeypatch)
    raw = as_a_console_shows_it("cp1252", [*direct.options, "--json", "info", "mine"], monkeypatch)

    assert "mine:latest" in shown
    assert "?? ?" in shown
    assert json.loads(raw)["model"]["description"] == "風景 ✓"


@POSIX
def test_a_reader_that_leaves_is_no_reason_to_complain(direct):
    reading, writing = os.pipe()
    os.close(reading)

    process = direct.process("--json", "list", stdout=writing)
    os.close(writing)
    _, told = process.communicate()

    assert told == b""
    assert process.returncode == REFUSED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.slow
def test_an_answer_that_cannot_be_written_is_told_in_one_sentence(direct):
    with Path("/dev/full").open("wb") as full:
        process = direct.process("list", stdout=full)
        _, told = process.communicate()

    assert process.returncode == REFUSED
    assert told.splitlines()[-1] == b"This broke off: [Errno 28] No space left on device."
    assert b"Traceback" not in told


def test_commands_are_found_by_the_name_that_the_package_installs():
    assert isinstance(commands, click.Group)
    assert "cli_model_management:main" in (ROOT / "pyproject.toml").read_text("utf-8")

"""The README's examples, run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from app import create_app
from cli_model_management import commands
from model_manager import ModelManager
from model_settings import load_settings
from web_server import serve

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SERVICE = "http://127.0.0.1:5110"


def example(name: str) -> str:
    found = re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no example named {name}"
    return found[1]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    return tmp_path / "model_metadata.json"


@pytest.fixture
def environment(simulator, document: Path) -> dict[str, str]:
    return {
        **os.environ,
        "OLLAMA_HOST": simulator.url,
        "MODEL_MANAGER_METADATA_FILE": str(document),
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
    }


@pytest.fixture
def service(simulator, document: Path) -> Iterator[str]:
    manager = ModelManager(simulator.url, document)
    settings = load_settings(env_file=None, ollama_host=simulator.url, metadata_file=document)
    stop, ready, urls = threading.Event(), threading.Event(), []

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    thread = threading.Thread(
        target=serve,
        args=(create_app(settings, manager), "127.0.0.1", 0, 16),
        kwargs={"on_ready": on_ready, "on_stop": manager.close, "stop": stop},
    )
    thread.start()
    assert ready.wait(10)
    yield urls[0]
    stop.set()
    thread.join(10)


@pytest.mark.skipif(not (shutil.which("sh") and shutil.which("curl")), reason="needs sh and curl")
def test_the_curl_example_goes_through_the_daily_loop(service, environment):
    script = "set -e\n" + example("curl").replace("curl ", "curl -sS --fail-with-body ").replace(SERVICE, service)

    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"usage_count":1' in done.stdout


def test_the_python_example_goes_through_the_daily_loop(simulator, document, environment):
    script = example("python").replace("ModelManager()", f"ModelManager({simulator.url!r}, {str(document)!r})")

    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, encoding="utf-8", timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert "llama3.2:1b-instruct is installed." in done.stdout
    assert "'usage_count': 1" in done.stdout


@pytest.mark.parametrize("name", ["terminal", "benchmark"])
def test_an_example_for_the_terminal_goes_through(environment, name):
    for line in example(name).splitlines():
        python, script, *words = line.split()
        assert (python, script) == ("python", "cli_model_management.py")

        done = CliRunner().invoke(commands, words, env=environment)

        assert done.exit_code == 0, f"{line}\n{done.output}"


def test_the_blueprint_of_the_example_answers_in_a_host_app(simulator, document):
    script = example("host").replace("ModelManager()", f"ModelManager({simulator.url!r}, {str(document)!r})")
    names: dict[str, object] = {"__name__": "__main__"}

    exec(script, names)

    answer = names["app"].test_client().get("/api/model/list")
    assert answer.status_code == 200
    assert answer.json["count"] > 0


def test_the_ai_selector_runs_as_it_is(simulator, document, environment):
    command = [sys.executable, "examples/ai_selector.py", "--ollama", simulator.url, "--file", str(document)]

    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert "On record: 2 uses" in done.stdout


def test_every_file_that_the_readme_names_is_there():
    named = set(re.findall(r"\]\(([\w./-]+)\)", README)) | set(re.findall(r"`([\w/]+\.py)`", README))

    assert {name for name in named if not (ROOT / name).exists()} == set()

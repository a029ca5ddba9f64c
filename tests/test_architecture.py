"""The shape of the program: what thinks touches nothing, imports run one way, and importing it does nothing."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted(path.stem for path in (ROOT / "model_core").glob("*.py") if path.stem != "__init__")
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))

FACES = {"api_model_management", "cli_model_management", "web_model_management"}
# Views of a face in a module of their own: they call the manager, too.
VIEWS = {"api_model_events"}
# Ollama, the model registry, our own service: one edge for each.
MAY_SPEAK_HTTP = {"ollama_client", "ollama_wire", "registry_client", "rest_client"}
# The terminal is a program as well: where no service runs, it runs the app within itself.
WIRES_ITSELF = {"cli_model_management -> app"}

# What computes and touches nothing. Whoever adds a module here says with it that it reads no clock, file or socket.
MAY_THINK_WITH = {
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "copy", "csv", "dataclasses",
    "datetime", "decimal", "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "io", "ipaddress",
    "itertools", "json", "math", "model_core", "numbers", "operator", "pydantic", "pydantic_core", "random", "re",
    "statistics", "string", "struct", "textwrap", "types", "typing", "unicodedata", "urllib.parse",
}  # fmt: skip
TOUCHES_THE_WORLD = {
    "open",
    "io.open",
    "io.open_code",
    "io.FileIO",
    "print",
    "input",
    "breakpoint",
    "exec",
    "eval",
    "__import__",
}
READS_THE_CLOCK = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


@cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path):
    """Every module that a file names in an import, wherever in the file it stands."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute here"
            yield node.module


def our_imports(module):
    named = {name.partition(".")[0] for name in imports(ROOT / f"{module}.py")}
    return named & {*MODULES, "model_core"} - {module}


def unthinking(tree):
    """Yield what in a module of the core reaches outside, in words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            name = f"{getattr(node.value, 'attr', None) or getattr(node.value, 'id', '')}.{node.attr}"
            if name in READS_THE_CLOCK or (name.startswith("random.") and name != "random.Random"):
                yield f"line {node.lineno}: {name}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            seeded = node.args or node.keywords
            if called in TOUCHES_THE_WORLD or (called == "random.Random" and not seeded):
                yield f"line {node.lineno}: {called}()"
        elif isinstance(node, ast.ImportFrom) and node.module == "random":
            yield f"line {node.lineno}: from random import"


def may_think_with(name):
    return name in MAY_THINK_WITH or name.partition(".")[0] in MAY_THINK_WITH


@pytest.mark.parametrize("module", CORE)
def test_what_is_in_the_core_only_thinks(module):
    path = ROOT / "model_core" / f"{module}.py"

    assert [name for name in imports(path) if not may_think_with(name)] == []
    assert list(unthinking(parse(path))) == []


@pytest.mark.parametrize(
    "code",
    [
        "open('x')",
        "io.open('x')",
        "datetime.now()",
        "datetime.datetime.now(UTC)",
        "date.today()",
        "random.random()",
        "random.Random()",
    ],
)
def test_the_rule_for_the_core_would_notice(code):
    assert list(unthinking(ast.parse(code)))


def test_only_one_edge_speaks_to_each_server_over_http():
    speaking = {module for module in MODULES if {"requests", "urllib3"} & {n.split(".")[0] for n in imports_of(module)}}

    assert speaking <= MAY_SPEAK_HTTP


def imports_of(module):
    return set(imports(ROOT / f"{module}.py"))


def test_faces_do_not_import_one_another():
    assert {module: our_imports(module) & FACES for module in FACES & set(MODULES)} == {
        module: set() for module in FACES & set(MODULES)
    }


def test_imports_run_from_the_app_to_the_core_and_never_back():
    def height(module):
        return 3 if module == "app" else 2 if module in FACES | VIEWS else 1 if module == "model_manager" else 0

    back = {
        f"{module} -> {imported}"
        for module in MODULES
        for imported in our_imports(module)
        if height(imported) > height(module) or imported == "start"
    }

    assert back - WIRES_ITSELF == set()


def test_no_module_imports_itself_by_way_of_others():
    list(graphlib.TopologicalSorter({module: our_imports(module) for module in MODULES}).static_order())


def test_every_module_can_be_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["py-modules"]

    assert set(listed) ^ (set(MODULES) - {"start"}) == set()


def test_no_module_hides_one_of_pythons_own():
    assert {*MODULES, *CORE} & sys.stdlib_module_names == set()


@pytest.mark.parametrize("module", [*MODULES, *(f"model_core.{name}" for name in CORE)])
def test_a_module_says_what_it_is_for_and_its_examples_hold(module):
    loaded = importlib.import_module(module)

    assert loaded.__doc__
    assert doctest.testmod(loaded).failed == 0


# Run in a process of its own: watches what Python reports while the manager is imported. What libraries do when they
# are imported is theirs (urllib3 binds a socket to learn whether there is IPv6).
WATCH = """
import json, logging, os, sys, threading
import filelock, pydantic, requests
seen = []
def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    acts = event.startswith(("socket.", "subprocess.", "os.system", "os.mkdir", "os.rename", "os.remove", "os.putenv"))
    if writes or acts:
        seen.append(f"{event} {arguments[:2]!r}")
sys.addaudithook(watch)
import model_manager
print(json.dumps({
    "seen": seen,
    "threads": threading.active_count(),
    "handlers": len(logging.getLogger().handlers),
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""


@pytest.fixture(scope="module")
def imported_manager(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    answer = subprocess.run(
        [sys.executable, "-c", WATCH], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout)


def test_nothing_happens_when_the_manager_is_imported(imported_manager):
    assert imported_manager["seen"] == []
    assert imported_manager["threads"] == 1
    assert imported_manager["handlers"] == 0


def test_who_imports_the_manager_does_not_pay_for_the_service(imported_manager):
    of_others = {"pydantic_settings", "flask", "werkzeug", "cheroot", "click", "rich", "psutil", "pynvml"}

    assert of_others & set(imported_manager["modules"]) == set()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installation_as_a_package_gives_a_command(tmp_path):
    # A copy, because building leaves its traces beside the sources.
    source = tmp_path / "source"
    kept_out = shutil.ignore_patterns(".*", "__pycache__", "data", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=kept_out)
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([programs / "python", "-m", "pip", "install", "-q", source], check=True, cwd=tmp_path)

    shown = subprocess.run([programs / "junmai-models", "--help"], capture_output=True, text=True, cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    assert "download" in shown.stdout

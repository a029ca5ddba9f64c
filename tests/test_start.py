"""The starter's decisions; and, among the slow ones, a fresh machine's two commands for real."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import start

ROOT = Path(start.__file__).parent


@pytest.fixture
def venv(tmp_path):
    """What looks like a usable environment: this Python's, with nothing in it."""
    venv = tmp_path / "with blank" / ".venv"
    python = start.python_of(venv)
    python.parent.mkdir(parents=True)
    python.touch()
    write_config(venv, version="3.11.7", home=tmp_path)
    return venv


def write_config(venv, **keys):
    lines = [f"{key.replace('_', '-')} = {value}\n" for key, value in keys.items()]
    (venv / "pyvenv.cfg").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "requirements", "run"),
    [
        ("", "requirements.txt", ["{app}"]),
        ("--port 5200", "requirements.txt", ["{app}", "--port", "5200"]),
        ("demo", "requirements.txt", ["{app}", "--demo"]),
        ("demo --port 0", "requirements.txt", ["{app}", "--demo", "--port", "0"]),
        ("test", "requirements-dev.txt", ["-m", "pytest", "-n", "auto"]),
        ("test -k store -x", "requirements-dev.txt", ["-m", "pytest", "-n", "auto", "-k", "store", "-x"]),
        ("test -k store --slow", "requirements-dev.txt", ["-m", "pytest", "-m", "not live", "-k", "store"]),
    ],
)
def test_a_command_line_says_what_to_install_and_run(line, requirements, run):
    app = str(ROOT / "app.py")

    assert start.plan_for(line.split()) == start.Plan(requirements, tuple(part.format(app=app) for part in run))


def test_an_unknown_command_is_refused_before_anything_is_made(capsys):
    assert start.main(["tests"]) == 1

    assert "no command 'tests'" in capsys.readouterr().err


def test_help_shows_every_command(capsys):
    assert start.main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert all(f"python start.py {word}" in shown for word in ("[options]", "demo", "test", "--help"))


def test_an_environment_that_works_is_kept(venv):
    assert start.trouble_with(venv) == ""


def test_an_environment_that_was_never_made_is_made(tmp_path):
    assert start.trouble_with(tmp_path / ".venv") == "there is none yet"


def test_an_environment_without_its_description_is_half_made(venv):
    (venv / "pyvenv.cfg").unlink()

    assert start.trouble_with(venv) == "it is half made"


def test_an_environment_of_too_old_a_python_is_not_used(venv, tmp_path):
    write_config(venv, version="3.9.18", home=tmp_path)

    assert start.trouble_with(venv) == "it belongs to Python 3.9"


def test_an_environment_whose_python_was_removed_is_not_used(venv, tmp_path):
    write_config(venv, version="3.11.7", home=tmp_path / "uninstalled")
    assert start.trouble_with(venv) == "its Python is gone"

    write_config(venv, version="3.11.7", home=tmp_path)
    start.python_of(venv).unlink()
    assert start.trouble_with(venv) == "its Python is gone"


def test_an_environment_that_another_tool_made_is_understood(venv, tmp_path):
    write_config(venv, home=tmp_path, version_info="3.12.1.final.0")
    (venv / "pyvenv.cfg").write_text(f"home = {tmp_path}\nversion_info = 3.12.1.final.0\n")

    assert start.trouble_with(venv) == ""


@pytest.mark.skipif(os.name == "nt", reason="making a link needs a right there")
def test_a_link_in_the_environments_place_is_never_emptied(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()
    venv = tmp_path / ".venv"
    venv.symlink_to(theirs)

    with pytest.raises(start.Stop, match="is a link"):
        start.prepare(venv, start.RUNTIME)
    assert (theirs / "precious").exists()


def installed(venv, requirements):
    for name in start.BRINGS[requirements]:
        start.stamp(venv, name).write_text(start.fingerprint(venv, name))


def is_installed(venv, requirements):
    return start.read_stamp(venv, requirements) == start.fingerprint(venv, requirements)


def test_nothing_is_installed_twice(venv):
    installed(venv, start.RUNTIME)

    # The stand-in for its Python is an empty file: running it, as an installation would, fails.
    assert start.prepare(venv, start.RUNTIME) == start.python_of(venv)
    assert not is_installed(venv, start.DEVELOPMENT)


def test_what_the_tests_need_includes_what_the_service_needs(venv):
    installed(venv, start.DEVELOPMENT)

    assert is_installed(venv, start.RUNTIME)
    assert f"-r {start.RUNTIME}" in (ROOT / start.DEVELOPMENT).read_text()


def test_an_installation_is_out_of_date_when_the_python_changed(venv, tmp_path):
    installed(venv, start.RUNTIME)
    write_config(venv, version="3.12.1", home=tmp_path)

    assert not is_installed(venv, start.RUNTIME)


def test_an_installation_that_was_broken_off_is_not_taken_for_done(venv):
    start.stamp(venv, start.RUNTIME).touch()

    assert not is_installed(venv, start.RUNTIME)


@pytest.mark.parametrize(
    ("story", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("OSError: [WinError 112] There is not enough space on the disk", "disk is full"),
        ("Error: [Errno 13] Permission denied: '/opt/x/.venv'", "may not write"),
        ("PermissionError: [WinError 5] Access is denied", "may not write"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError(Temporary failure in name resolution)'\n"
            "ERROR: No matching distribution found for flask<4,>=3.1",
            "Connect to the internet",
        ),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...", "PIP_CERT"),
        ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407", "HTTPS_PROXY"),
        ("ERROR: No matching distribution found for pydantic-core==2.50.4", "usual one"),
        ("something nobody foresaw", "Delete the folder .venv"),
    ],
    ids=["disk", "disk (Windows)", "rights", "rights (Windows)", "offline", "trust", "proxy", "no package", "unknown"],
)  # fmt: skip
def test_a_failure_is_told_in_words_with_what_to_do(story, words):
    assert words in start.explain(story)


def test_it_uses_nothing_but_the_standard_library():
    tree = ast.parse((ROOT / "start.py").read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }

    assert imported <= sys.stdlib_module_names


def test_an_older_python_can_read_it_as_far_as_the_refusal():
    source = (ROOT / "start.py").read_text(encoding="utf-8")

    # A future import is only known to newer ones; the grammar must be one that 3.7 can read to the end.
    assert "__future__" not in source
    ast.parse(source, feature_version=(3, 7))


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10"])
def test_an_older_python_is_refused_with_words(version):
    python = shutil.which(f"python{version}")
    if not python or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"there is no Python {version} here")

    refused = subprocess.run([python, str(ROOT / "start.py")], capture_output=True, text=True)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"This needs Python 3.11 or newer; this is {version} (")


APP = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print("arguments", sys.argv[1:], flush=True)
signal.pause() if "--wait" in sys.argv else sys.exit(7)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A fresh copy of what is under version control, under a path with a blank, with an app of five lines."""
    clone = tmp_path_factory.mktemp("fresh") / "a clone"
    clone.mkdir()
    for name in ("start.py", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    (clone / "app.py").write_text(APP)
    return clone


def in_clone(clone, *arguments, **environment):
    home = clone.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, str(clone / "start.py"), *arguments],
        capture_output=True, text=True, env={**os.environ, "HOME": str(home), **environment},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_machine_needs_one_command(clone):
    unreachable = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_FIND_LINKS": ""}
    offline = in_clone(clone, **unreachable)
    assert offline.returncode == 1
    assert "Connect to the internet" in offline.stderr

    first = in_clone(clone, "--port", "5200")
    assert first.returncode == 7, first.stderr
    assert "Installing what requirements.txt lists" in first.stdout
    assert first.stdout.endswith("arguments ['--port', '5200']\n")

    began = time.monotonic()
    second = in_clone(clone, "demo", **unreachable)
    assert time.monotonic() - began < 2
    assert (second.returncode, second.stdout) == (7, "arguments ['--demo']\n")

    (clone / ".venv" / "pyvenv.cfg").unlink()
    third = in_clone(clone)
    assert third.returncode == 7
    assert "it is half made" in third.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name == "nt", reason="signals are another matter there")
def test_a_signal_to_the_starter_reaches_the_service(clone):
    in_clone(clone)
    command = [sys.executable, str(clone / "start.py"), "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while "arguments" not in process.stdout.readline():
            pass
        process.terminate()

        assert process.wait(5) == 9


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tests_exit_code_is_passed_on(clone):
    (clone / "tests").mkdir(exist_ok=True)
    (clone / "tests" / "test_one.py").write_text(
        "import pytest\ndef test_good(): pass\n@pytest.mark.slow\ndef test_bad(): assert False\n"
    )

    assert in_clone(clone, "test").returncode == 0
    assert in_clone(clone, "test", "--slow").returncode == 1
    assert in_clone(clone, "test", "-k", "nothing").returncode == 5

"""Start the model manager on a machine that has nothing but Python: make .venv, install into it, go.

    python start.py [options]               start the service; options go to it, e.g. --port 5200
    python start.py demo [options]          the same on a stand-in for Ollama: nothing else installed, no graphics card
    python start.py test [--slow] [...]     run the tests; --slow adds those that take minutes, the rest goes to pytest
    python start.py --help                  this text

The first start needs the internet and about a minute. Later ones install again only when a requirements file changed.
Deleting the folder .venv makes the next start begin anew.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

OLDEST = (3, 11)

# Up to here, and no further, an older Python can read this file.
if sys.version_info < OLDEST:
    sys.exit(
        f"This needs Python 3.11 or newer; this is {sys.version_info[0]}.{sys.version_info[1]} ({sys.executable}).\n"
        "Install a newer one from https://www.python.org/downloads/ and start with that one, e.g. python3.12 start.py"
    )

ROOT = Path(__file__).resolve().parent

RUNTIME, DEVELOPMENT = "requirements.txt", "requirements-dev.txt"
# What each file brings along: the second one begins with "-r" and the first.
BRINGS = {RUNTIME: (RUNTIME,), DEVELOPMENT: (RUNTIME, DEVELOPMENT)}
# What .venv weighed on Linux with Python 3.11, and a third more.
NEEDED_MB = {RUNTIME: 100, DEVELOPMENT: 250}


class Stop(Exception):
    """Something is in the way, and the text says what, and what to do."""


class Plan(NamedTuple):
    """What a command line asks for: what to install, and what to run with .venv's Python."""

    requirements: str
    run: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    if arguments[:1] in (["-h"], ["--help"]):
        say(__doc__ or "")
        return 0
    try:
        plan = plan_for(arguments)
        os.chdir(ROOT)
        python = prepare(ROOT / ".venv", plan.requirements)
        return run([str(python), *plan.run])
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1  # whoever read our words has gone
    except OSError as error:
        print(explain(str(error)), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The next start goes on from here.", file=sys.stderr)
        return 130


def plan_for(arguments: Sequence[str]) -> Plan:
    """Return what to install and run.

    >>> plan_for(["test", "-k", "store"]).run
    ('-m', 'pytest', '-n', 'auto', '-k', 'store')
    """
    word, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    if word == "test":
        # The later -m wins over the one in pyproject.toml. The slow ones want the machine for themselves.
        how = ["-m", "not live"] if "--slow" in rest else ["-n", "auto"]
        return Plan(DEVELOPMENT, ("-m", "pytest", *how, *(argument for argument in rest if argument != "--slow")))
    if word == "demo":
        return Plan(RUNTIME, (str(ROOT / "app.py"), "--demo", *rest))
    if word and not word.startswith("-"):
        raise Stop(f"There is no command {word!r}: python start.py --help lists them.")
    return Plan(RUNTIME, (str(ROOT / "app.py"), *arguments))


def prepare(venv: Path, requirements: str) -> Path:
    """Return the Python of an environment in which ``requirements`` are installed; make and fill it where needed."""
    trouble = trouble_with(venv)
    if trouble:
        make(venv, trouble)
    python = python_of(venv)
    wanted = fingerprint(venv, requirements)
    if read_stamp(venv, requirements) != wanted:
        install(venv, python, requirements)
    return python


def trouble_with(venv: Path) -> str:
    """Say why ``venv`` cannot be used as it is; an empty text if it can."""
    if not venv.exists() and not venv.is_symlink():
        return "there is none yet"
    config = read_config(venv)
    found = re.match(r"(\d+)\.(\d+)", config.get("version", config.get("version_info", "")))
    if not found:
        return "it is half made"
    if (int(found[1]), int(found[2])) < OLDEST:
        return f"it belongs to Python {found[0]}"
    if not python_of(venv).exists() or not Path(config.get("home", "")).is_dir():
        return "its Python is gone"
    return ""


def make(venv: Path, reason: str) -> None:
    """Make the environment, anew where there was one. Raises Stop."""
    if venv.is_symlink():
        raise Stop(
            f"{venv} is a link, and what it leads to cannot be used: {reason}.\nRemove the link, then start again."
        )
    # Debian leaves these out of its Python.
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        raise Stop(
            f"This Python ({sys.executable}) cannot make virtual environments: its ensurepip is missing.\n"
            f"On Debian or Ubuntu: sudo apt install python3.{sys.version_info[1]}-venv. Elsewhere, install Python from "
            "https://www.python.org/downloads/."
        )
    say(f"Making .venv with Python {'.'.join(map(str, sys.version_info[:3]))} ({reason}) ...")
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True, errors="replace"
    )
    if made.returncode:
        output = made.stdout + made.stderr
        raise Stop(f"Making {venv} failed. {explain(output)}\n\n{output.strip()}")


def install(venv: Path, python: Path, requirements: str) -> None:
    """Install what the file lists, with pip's own progress on the terminal. Raises Stop."""
    # Until pip has ended well, nobody knows what is installed.
    for name in BRINGS:
        stamp(venv, name).unlink(missing_ok=True)
    log = venv / "install.log"
    log.unlink(missing_ok=True)
    free_mb = shutil.disk_usage(venv).free // 10**6
    if free_mb < NEEDED_MB[requirements]:
        raise Stop(f"{explain('No space left')} ({free_mb} MB are free, {NEEDED_MB[requirements]} MB may be needed.)")
    # Some people tell pip to install for the user always, which it refuses in an environment.
    environment = {**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if subprocess.run([str(python), "-c", "import pip"], capture_output=True).returncode:
        subprocess.run([str(python), "-m", "ensurepip", "--upgrade"], capture_output=True)
    say(f"Installing what {requirements} lists ...")
    pip = [str(python), "-m", "pip", "install", "--no-input", "--retries", "2", "--timeout", "15", "--log", str(log)]
    code = subprocess.run([*pip, "-r", str(ROOT / requirements)], env=environment).returncode
    if code:
        story = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        raise Stop(f"\nInstalling failed. {explain(story)}\nThe whole story is in {log}.")
    for name in BRINGS[requirements]:
        stamp(venv, name).write_text(fingerprint(venv, name), encoding="ascii")
    say("Installed.")


def run(command: Sequence[str]) -> int:
    """Run the command in our place, so that signals reach it and its exit code becomes ours."""
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(command[0], list(command))  # noqa: S606
    # Windows has no such call. Ctrl-C reaches parent and child; what it means is the child's to decide.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    return subprocess.Popen(list(command)).wait()


def python_of(venv: Path) -> Path:
    """Return where the environment's Python stands on this system."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def read_config(venv: Path) -> dict[str, str]:
    """Return what pyvenv.cfg says; nothing where there is none."""
    try:
        lines = (venv / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {key.strip(): value.strip() for key, found, value in (line.partition("=") for line in lines) if found}


def fingerprint(venv: Path, requirements: str) -> str:
    """Return what changes when an installation is out of date: the Python, and each requirements file's content."""
    digest = hashlib.sha256(read_config(venv).get("version", "").encode())
    for name in BRINGS[requirements]:
        digest.update(b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()


def stamp(venv: Path, requirements: str) -> Path:
    """Return the file that keeps the fingerprint of what was installed."""
    return venv / f"installed-{Path(requirements).stem}"


def read_stamp(venv: Path, requirements: str) -> str:
    """Return the fingerprint of what was installed; an empty text where nothing was, or not to its end."""
    try:
        return stamp(venv, requirements).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeError):
        return ""


# The first that is found decides: pip, too, ends with "no matching distribution" when it is merely offline.
EXPLANATIONS = (
    (
        r"No space left|Errno 28\b|not enough space on the disk|WinError 112\b|quota exceeded",
        "The disk is full. Free space on it, then start again.",
    ),
    (
        r"Permission denied|Access is denied|Read-only file system|Operation not permitted|Errno 13\b|WinError 5\b",
        f"This user may not write in {ROOT}. Move the folder to where you may write, or start as its owner.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "The package index could not be trusted. Where a proxy opens encrypted lines, tell pip its certificate: set "
        "PIP_CERT to the file; also look whether the clock is right.",
    ),
    (
        r"ProxyError|Cannot connect to proxy|Tunnel connection failed",
        "The proxy did not let us through. Look at HTTPS_PROXY.",
    ),
    (
        r"NewConnectionError|NameResolutionError|name resolution|getaddrinfo failed|nodename nor servname|"
        r"Network is unreachable|No route to host|ConnectTimeout|ReadTimeout|Connection refused|Connection reset",
        "The package index cannot be reached. Connect to the internet for this first start, then start again; "
        "behind a proxy, set HTTPS_PROXY.",
    ),
    (
        r"No matching distribution|ResolutionImpossible|Failed to build|Failed building|requires a different Python",
        f"Not every package is to be had for this Python ({platform.python_version()}, {platform.platform()}). "
        "Delete the folder .venv and start with a usual one, for example Python 3.12 of 64 bits.",
    ),
)


def explain(story: str) -> str:
    """Return what most likely went wrong, and what to do, from what pip or the system said."""
    for pattern, explanation in EXPLANATIONS:
        if re.search(pattern, story):
            return explanation
    return (
        f"{story.strip()}\n" * (len(story) < 500)
        + "Delete the folder .venv and start again; if it stays so, report it."
    )


def say(text: str) -> None:
    """Print at once: what follows may take a while."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The service: create_app() wires settings, manager and faces together, once; `python app.py` serves it."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Flask

from api_model_management import answer_problems, init_model_api
from model_core.errors import ModelManagerError, OllamaError
from model_manager import ModelManager
from model_settings import Settings, load_settings
from web_server import serve

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

# What is left of the threads for short answers when all streams are taken. A guess: each takes milliseconds.
THREADS_FOR_THE_REST = 8
LONGEST_LOGGED_PATH = 256
# How soon an Ollama that was not there at the start is noticed.
OLLAMA_RETRY_S = 5.0


def create_manager(settings: Settings) -> ModelManager:
    """Return the manager that the settings describe."""
    return ModelManager(
        settings.ollama_host,
        settings.metadata_file,
        vram_gb=settings.vram_gb,
        registries=settings.allowed_registries,
        downloads_at_once=settings.downloads,
    )


def create_app(settings: Settings | None = None, manager: ModelManager | None = None) -> Flask:
    """Return the app of the service. Nothing is asked of Ollama, and no thread is started."""
    settings = settings or load_settings()
    manager = manager or create_manager(settings)
    token = settings.token.get_secret_value() if settings.token else None
    app = Flask(__name__, static_folder=None)
    # A redirect to the address with fewer slashes would be a page.
    app.url_map.merge_slashes = False
    app.extensions["model_manager"] = manager
    blueprint = init_model_api(
        manager,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        token=token,
        max_streams=settings.threads - THREADS_FOR_THE_REST,
    )
    app.register_blueprint(blueprint)
    answer_problems(app, manager)
    app.wsgi_app = _Logged(app.wsgi_app)  # type: ignore[method-assign]  # as Flask's own documentation does it
    return app


class _Logged:
    """Writes one line for each request once its answer begins. Around the app, where it costs half of what hooks do."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began_s = time.monotonic()

        def start(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            # Never the query, which may hold a ticket; and the path without its line breaks.
            path = quote(environ["PATH_INFO"], safe="/:", encoding="latin-1")[:LONGEST_LOGGED_PATH]
            took_ms = (time.monotonic() - began_s) * 1000
            logger.info("%s %s status=%s ms=%.1f", environ["REQUEST_METHOD"], path, status[:3], took_ms)
            return start_response(status, headers, *failure)

        return self._app(environ, start)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM. Returns the exit code: 0, or 1 with a sentence on stderr if it cannot start."""
    parser = argparse.ArgumentParser(prog="app.py", description="Serve the model manager.")
    parser.add_argument("--demo", action="store_true", help="on a simulated Ollama, with a document of its own")
    parser.add_argument("--host", help="where to listen (MODEL_MANAGER_HOST)")
    parser.add_argument("--port", type=int, help="the port to listen on (MODEL_MANAGER_PORT)")
    given = parser.parse_args(argv)
    options = {name: value for name in ("host", "port") if (value := getattr(given, name)) is not None}
    try:
        with ExitStack() as stack:
            if given.demo:
                options |= _demonstration(stack)
            settings = load_settings(**options)
            logging.basicConfig(level=settings.log.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
            _serve(settings, demo=given.demo)
    except ModelManagerError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the one who typed the command reads it here
        return 1
    return 0


def _demonstration(stack: ExitStack) -> dict[str, object]:
    """Start a simulated Ollama and a document of its own; return the settings that lead there."""
    # Imported late: the service does without it.
    from ollama_simulator import OllamaSimulator

    simulator = stack.enter_context(OllamaSimulator())
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="model-manager-demo-", ignore_cleanup_errors=True))
    return {"ollama_host": simulator.url, "metadata_file": Path(folder, "model_metadata.json")}


def _serve(settings: Settings, *, demo: bool) -> None:
    manager = create_manager(settings)
    app = create_app(settings, manager)
    stopping = threading.Event()

    def on_ready(url: str) -> None:
        _greet(url, settings, demo=demo)
        # In the background: the first answer must not wait for an Ollama that does not answer.
        threading.Thread(target=_catch_up, args=(manager, settings, stopping), name="catch-up", daemon=True).start()

    def on_stopping() -> None:
        stopping.set()
        # Beside the answers that are under way: those that wait for a download end with it.
        threading.Thread(target=manager.close, name="let-go", daemon=True).start()

    serve(
        app,
        settings.host,
        settings.port,
        settings.threads,
        on_ready=on_ready,
        on_stopping=on_stopping,
        on_stop=manager.close,
    )


def _catch_up(manager: ModelManager, settings: Settings, stopping: threading.Event) -> None:
    """Learn what Ollama holds as soon as it answers, and go on with what a former run left behind."""
    try:
        manager.hardware()  # a card that sleeps takes longer to answer than a request may wait
        if _synced(manager, stopping):
            resumed = manager.resume_downloads() if settings.auto_resume else []
            measured = manager.resume_benchmarks() if settings.auto_resume else []
            logger.info("caught up downloads_taken_over=%d benchmarks_taken_over=%d", len(resumed), len(measured))
    except ModelManagerError as error:
        logger.warning("catching up failed reason=%s", error)


def _synced(manager: ModelManager, stopping: threading.Event) -> bool:
    """Wait for Ollama, telling once how to get it; say whether it has answered before the end."""
    told = False
    while not stopping.is_set():
        try:
            manager.sync()
        except OllamaError as error:
            if not told:
                _say(f"{error} Until then this service answers what it can, and notices when Ollama comes.")
            told = True
            stopping.wait(OLLAMA_RETRY_S)
        else:
            return True
    return False


def _greet(url: str, settings: Settings, *, demo: bool) -> None:
    if demo:
        _say("DEMONSTRATION: a simulated Ollama. No model is real, nothing is installed, no card is used.")
    _say(f"The model manager answers at {url}/api/model")
    _say(
        "Three things to try:"
        if not settings.token
        else "Three things to try, each with -H 'Authorization: Bearer <token>':"
    )
    _say(f"  curl {url}/api/model/list")
    _say(f"  curl -X POST {url}/api/model/recommend")
    _say(f"  curl {url}/api/model/health")
    if demo:
        _say("To join in from another process (Python, terminal, examples/ai_selector.py), set there:")
        _say(f"  OLLAMA_HOST={settings.ollama_host}")
        _say(f"  MODEL_MANAGER_METADATA_FILE={settings.metadata_file}")
    _say("Ctrl-C ends it.")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the service's own words to the one who started it


if __name__ == "__main__":
    sys.exit(main())

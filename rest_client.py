"""Speak to our own REST face and return its JSON as plain values: over HTTP to a service, or within this process.

    with RestClient(OverHttp("http://127.0.0.1:5110")) as service:
        service.switch("llama3.2:1b-instruct")["previous"]

Both ways meet the same face, so what a caller writes for one works with the other. This module knows addresses and
bodies; docs/api.md says what is in an answer.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import quote, urlencode, urlsplit

import requests

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from werkzeug.test import TestResponse

Json = dict[str, Any]

DEFAULT_PREFIX = "/api/model"
CONNECT_S = 5.0
# Longer than anything that the service itself waits for: it asks Ollama several times in one deletion.
ANSWER_S = 120.0
LOOK_AGAIN_S = 0.1
NDJSON = "application/x-ndjson"
# Somebody works on it: a download, a benchmark.
UNDER_WAY = ("queued", "downloading", "verifying", "running")


class Problem(Exception):
    """The face refused, or did not answer; ``body`` is the problem as the face words it (RFC 9457)."""

    def __init__(self, body: Json) -> None:
        super().__init__(body.get("detail") or body.get("error") or "unknown problem")
        self.body = body

    @property
    def code(self) -> str:
        """The stable word for what happened."""
        return str(self.body.get("code", "internal_error"))


def problem(code: str, title: str, happened: str, remedy: str, **facts: Any) -> Problem:
    """Return a problem of the caller's own making, in the form of the face's."""
    detail = f"{happened} {remedy}".strip()
    return Problem(
        {"success": False, "code": code, "title": title, "error": happened, "remedy": remedy, "detail": detail, **facts}
    )


@dataclass(frozen=True)
class Reply:
    """What came back for one request, or one line of it."""

    status: int
    body: bytes


class Transport(Protocol):
    """Carries requests to the face. Raises Problem where nobody answers."""

    def send(self, method: str, target: str, body: bytes | None) -> Reply:
        """Carry one request; target is the path below the face's own address, with its query."""
        ...

    def lines(self, method: str, target: str, body: bytes | None) -> Iterator[Reply]:
        """Carry one request whose answer comes line by line, however long it takes; a refusal is one line, too."""
        ...

    def owns(self, job_id: str) -> bool:
        """Whether closing this ends the work on a download or a benchmark."""
        ...

    def close(self) -> None:
        """Let go of what is held for it."""
        ...


class OverHttp:
    """The face of a service.

    url       where it answers; without a path, /api/model is meant
    token     what the service asks for, None: nothing
    answer_s  how long an answer may take

    Raises ValueError for what is no address of a service.
    """

    def __init__(self, url: str, token: str | None = None, answer_s: float = ANSWER_S) -> None:
        self.base, self._answer_s = _base(url), answer_s
        self._session = requests.Session()
        # A proxy set for the internet must not catch what is meant for this machine or network, nor .netrc the token.
        self._session.trust_env = False
        self._session.headers["Accept"] = "application/json"
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def send(self, method: str, target: str, body: bytes | None) -> Reply:
        """Carry one request. Raises Problem: service_unavailable."""
        with self._asked():
            answer = self._request(method, target, body)
        return Reply(answer.status_code, answer.content)

    def lines(self, method: str, target: str, body: bytes | None) -> Iterator[Reply]:
        """Carry one request, and yield its answer line by line. Raises Problem: service_unavailable."""
        with self._asked(), self._request(method, target, body, {"Accept": NDJSON}, stream=True) as answer:
            if answer.status_code != 200:
                yield Reply(answer.status_code, answer.content)
                return
            # Anything longer would hold a line back until the next one comes.
            for line in answer.iter_lines(chunk_size=1):
                yield Reply(answer.status_code, line)

    def _request(
        self,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        stream: bool = False,
    ) -> requests.Response:
        return self._session.request(
            method,
            self.base + target,
            data=body,
            headers={**headers, **({} if body is None else {"Content-Type": "application/json"})},
            timeout=(CONNECT_S, self._answer_s),
            # A change that is sent elsewhere as a GET would look as if it had been made.
            allow_redirects=False,
            stream=stream,
        )

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except requests.ReadTimeout:
            raise self._silent(
                f"did not answer within {self._answer_s:g} s",
                "What was asked for may still happen; look before repeating.",
            ) from None
        except requests.RequestException as error:
            raise self._silent(
                "does not answer", "Start the service (python start.py), or correct the address."
            ) from error

    def owns(self, job_id: str) -> bool:
        """No: what a service does goes on without us."""
        return False

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _silent(self, how: str, remedy: str) -> Problem:
        return problem(
            "service_unavailable", "Service not reachable", f"The service at {self.base} {how}.", remedy, url=self.base
        )


class InProcess:
    """The face of an app in this process: no server, no socket.

    token     what the app asks for, None: nothing
    on_close  called once, to end what works behind the app
    owns      whether what works behind the app works on the download or the benchmark of this id
    """

    def __init__(
        self,
        app: WSGIApplication,
        token: str | None = None,
        on_close: Callable[[], None] = lambda: None,
        owns: Callable[[str], bool] = lambda job_id: False,
    ) -> None:
        # Imported late: who speaks to a service does without it.
        from werkzeug.test import Client

        self._client = Client(app, use_cookies=False)
        self._headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._on_close: Callable[[], None] | None = on_close
        self._owns = owns

    def send(self, method: str, target: str, body: bytes | None) -> Reply:
        """Carry one request."""
        answer = self._open(method, target, body)
        return Reply(answer.status_code, answer.get_data())

    def lines(self, method: str, target: str, body: bytes | None) -> Iterator[Reply]:
        """Carry one request, and yield its answer line by line."""
        with self._open(method, target, body, Accept=NDJSON) as answer:
            for part in answer.iter_encoded():
                for line in part.splitlines():
                    yield Reply(answer.status_code, line)

    def _open(self, method: str, target: str, body: bytes | None, **headers: str) -> TestResponse:
        kind = None if body is None else "application/json"
        return self._client.open(
            DEFAULT_PREFIX + target,
            method=method,
            data=body,
            content_type=kind,
            headers={**self._headers, **headers},
        )

    def owns(self, job_id: str) -> bool:
        """Whether the work on a job is done behind the app: other processes may do it as well."""
        return self._owns(job_id)

    def close(self) -> None:
        """End what works behind the app."""
        on_close, self._on_close = self._on_close, None
        if on_close:
            on_close()


class RestClient:
    """The face's routes as methods. Each returns the JSON of its answer, or raises Problem with that of the refusal."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the service; in this process, end it."""
        self._transport.close()

    # --- models ------------------------------------------------------------------------------------------------------

    def models(
        self, purpose: str | None = None, max_vram_gb: float | None = None, *, installed_only: bool = False
    ) -> Json:
        """Every model that passes the filters."""
        return self._get(
            "/list", purpose=purpose, max_vram=max_vram_gb, installed_only="true" if installed_only else None
        )

    def installed(self) -> Json:
        """The names of what Ollama holds."""
        return self._get("/installed")

    def info(self, name: str) -> Json:
        """One model."""
        return self._get(f"/info/{quote(name, safe='')}")

    def current(self) -> Json:
        """The selected model."""
        return self._get("/current")

    def switch(
        self, name: str, quantization: str | None = None, *, require_fit: bool = False, load: bool = False
    ) -> Json:
        """Make a model the current one."""
        return self._post("/switch", model=name, quantization=quantization, require_fit=require_fit, load=load)

    def delete(self, name: str) -> Json:
        """Delete a model from Ollama."""
        return self._ask("DELETE", "/delete", {"model": name})

    def sync(self) -> Json:
        """Ask Ollama what it holds, and remember it."""
        return self._post("/sync")

    # --- what is in memory -------------------------------------------------------------------------------------------

    def running(self) -> Json:
        """What Ollama has in memory."""
        return self._get("/running")

    def load(
        self, name: str, keep_alive: float | str | None = None, context_tokens: int | None = None
    ) -> Iterator[Json]:
        """Bring a model into memory: yield what is waited for, {"phase", "seconds"}, and at last the answer."""
        body = {"model": name, "keep_alive": keep_alive, "context_tokens": context_tokens}
        given = json.dumps({key: value for key, value in body.items() if value is not None}).encode()
        for reply in self._transport.lines("POST", "/load", given):
            step = _read(reply.body)
            if "phase" not in step:
                yield _answer(reply)
                return
            yield step
        raise problem(
            "service_unavailable",
            "Service not reachable",
            f"The answer broke off before {name} was loaded.",
            "It may be loaded all the same; look at what is in memory before repeating.",
        )

    def unload(self, name: str) -> Json:
        """Take a model out of memory."""
        return self._post("/unload", model=name)

    # --- downloads ---------------------------------------------------------------------------------------------------

    def start_download(self, name: str, quantization: str | None = None, *, force: bool = False) -> Json:
        """Have a model fetched in the background."""
        return self._post("/download", model=name, quantization=quantization, force=force)

    def plan_download(self, name: str, quantization: str | None = None) -> Json:
        """What a download would fetch, and whether there is room for it; nothing is fetched."""
        return self._post("/download/plan", model=name, quantization=quantization)

    def downloads(self) -> Json:
        """Every download on record."""
        return self._get("/downloads")

    def watch_downloads(self, every_s: float = 0.5) -> Iterator[Json]:
        """Yield every download on record time and again, the last time when nobody works on any."""
        while True:
            answer = self.downloads()
            yield answer
            if not any(job["state"] in UNDER_WAY for job in answer["downloads"]):
                return
            time.sleep(every_s)

    def download(self, download_id: str, *, since: int | None = None, wait_s: float | None = None) -> Json:
        """One download; with since and wait_s, as soon as there is something newer than that version."""
        return self._get(f"/downloads/{quote(download_id, safe='')}", since=since, wait=wait_s)

    def pause_download(self, download_id: str) -> Json:
        """Let a download rest."""
        return self._wish(download_id, "pause")

    def resume_download(self, download_id: str) -> Json:
        """Go on with a download that rests, or has ended without its model."""
        return self._wish(download_id, "resume")

    def cancel_download(self, download_id: str) -> Json:
        """End a download without its model."""
        return self._wish(download_id, "cancel")

    def move_download(self, download_id: str, position: int) -> Json:
        """Put a waiting download at another place among those that wait; 0 is next."""
        return self._wish(download_id, "move", position=position)

    def forget_download(self, download_id: str) -> Json:
        """Take a download that has ended off the record."""
        return self._ask("DELETE", f"/downloads/{quote(download_id, safe='')}", {})

    def _wish(self, download_id: str, wish: str, **body: Any) -> Json:
        return self._post(f"/downloads/{quote(download_id, safe='')}/{wish}", **body)

    def follow(self, job: Json, every_s: float = 1.0) -> Iterator[Json]:
        """Yield a download after each change and at least every so often, the last time when nobody works on it."""
        again = "the same command joins in again"
        return self._followed(job, self.download, "download", again, every_s)

    # --- benchmarks --------------------------------------------------------------------------------------------------

    def start_benchmark(
        self,
        models: Iterable[str],
        prompts: Iterable[str] | None = None,
        photos: Iterable[bytes] = (),
        runs: int | None = None,
    ) -> Json:
        """Have installed models measured on the same prompts, in the background."""
        return self._post(
            "/benchmarks",
            models=list(models),
            prompts=None if prompts is None else list(prompts),
            images=[base64.b64encode(photo).decode() for photo in photos] or None,
            runs=runs,
        )

    def benchmarks(self) -> Json:
        """Every benchmark that is kept, without the single answers."""
        return self._get("/benchmarks")

    def benchmark(self, benchmark_id: str, *, since: int | None = None, wait_s: float | None = None) -> Json:
        """One benchmark with all that was measured; with since and wait_s, as soon as there is something newer."""
        return self._get(_benchmark(benchmark_id), since=since, wait=wait_s)

    def benchmark_table(self, benchmark_id: str) -> bytes:
        """Every answer of a benchmark as CSV, byte for byte as the face hands it out."""
        return self._file(f"{_benchmark(benchmark_id)}?format=csv")

    def cancel_benchmark(self, benchmark_id: str) -> Json:
        """End a benchmark; what was measured is kept."""
        return self._post(f"{_benchmark(benchmark_id)}/cancel")

    def resume_benchmark(self, benchmark_id: str) -> Json:
        """Go on with a benchmark that was interrupted."""
        return self._post(f"{_benchmark(benchmark_id)}/resume")

    def compare_benchmarks(self, benchmark_ids: Iterable[str]) -> Json:
        """What several benchmarks found that asked the same, side by side."""
        return self._post("/compare_benchmarks", benchmarks=list(benchmark_ids))

    def forget_benchmark(self, benchmark_id: str) -> Json:
        """Take a benchmark that has ended off the record."""
        return self._ask("DELETE", _benchmark(benchmark_id), {})

    def follow_benchmark(self, job: Json, every_s: float = 1.0) -> Iterator[Json]:
        """Yield a benchmark after each change and at least every so often, the last time when nobody works on it."""
        return self._followed(job, self.benchmark, "benchmark", "it can be shown then", every_s)

    # --- both kinds of job -------------------------------------------------------------------------------------------

    def owns_job(self, job_id: str) -> bool:
        """Whether closing this ends the work on a job; that of another program never ends with us."""
        return self._transport.owns(job_id)

    def _followed(self, job: Json, look: Callable[..., Json], noun: str, again: str, every_s: float) -> Iterator[Json]:
        yield job
        while job["state"] in UNDER_WAY:
            try:
                job = _newer(job, look, noun, every_s)
            except Problem as lost:
                if lost.code == "service_unavailable":
                    lost.body["remedy"] = f"Once it is back it goes on with the {noun}; {again}."
                raise
            yield job

    # --- advice and statistics ---------------------------------------------------------------------------------------

    def recommend(
        self,
        available_vram_gb: float | None = None,
        priority: str = "balanced",
        *,
        context_tokens: int | None = None,
        needs: Iterable[str] = (),
        installed_only: bool | None = None,
        kv_type: str | None = None,
    ) -> Json:
        """The model that suits best, and the others."""
        return self._post(
            "/recommend",
            available_vram_gb=available_vram_gb,
            priority=priority,
            context_tokens=context_tokens,
            needs=list(needs),
            installed_only=installed_only,
            kv_type=kv_type,
        )

    def check(
        self,
        name: str,
        available_vram_gb: float | None = None,
        quantization: str | None = None,
        context_tokens: int | None = None,
        kv_type: str | None = None,
    ) -> Json:
        """Whether a model lies on the card as a whole."""
        return self._post(
            "/check_compatibility",
            model=name,
            available_vram_gb=available_vram_gb,
            quantization=quantization,
            context_tokens=context_tokens,
            kv_type=kv_type,
        )

    def hardware(self, wait_s: float = 0.0) -> Json:
        """What the machine has; a first look that is still under way is waited for, up to wait_s."""
        until_s = time.monotonic() + wait_s
        while (answer := self._get("/hardware"))["pending"] and time.monotonic() < until_s:
            time.sleep(LOOK_AGAIN_S)
        return answer

    def statistics(self, name: str | None = None) -> Json:
        """What is on record, of one model or of all."""
        return self._get("/statistics", model=name)

    def record(
        self,
        name: str,
        seconds: float,
        *,
        success: bool = True,
        tokens: int | None = None,
        quality_score: float | None = None,
        task: str | None = None,
    ) -> Json:
        """Count one inference."""
        return self._post(
            "/usage",
            model=name,
            inference_time=seconds,
            success=success,
            tokens=tokens,
            quality_score=quality_score,
            task=task,
        )

    def compare(self, names: Iterable[str], metrics: Iterable[str] = ()) -> Json:
        """What is on record of several models, side by side; without metrics, in all of them."""
        return self._post("/compare", models=list(names), metrics=list(metrics) or None)

    # --- care of the data --------------------------------------------------------------------------------------------

    def export(self) -> bytes:
        """The document, byte for byte as the face hands it out."""
        return self._file("/export")

    def import_document(self, document: bytes, *, replace: bool = False, dry_run: bool = False) -> Json:
        """Take over an exported document, or say what that would change."""
        query = _query(mode="replace" if replace else "merge", dry_run="true" if dry_run else "false")
        return _answer(self._transport.send("POST", f"/import{query}", document))

    # --- around it ---------------------------------------------------------------------------------------------------

    def health(self) -> Json:
        """How each part is."""
        return self._get("/health")

    def doctor(self) -> Json:
        """What is well, and what to do where it is not."""
        return self._get("/doctor")

    # --- requests ----------------------------------------------------------------------------------------------------

    def _get(self, path: str, **query: Any) -> Json:
        return _answer(self._transport.send("GET", path + _query(**query), None))

    def _file(self, target: str) -> bytes:
        reply = self._transport.send("GET", target, None)
        if reply.status != 200:
            _answer(reply)
        return reply.body

    def _post(self, path: str, **body: Any) -> Json:
        return self._ask("POST", path, {name: value for name, value in body.items() if value is not None})

    def _ask(self, method: str, path: str, body: Mapping[str, Any]) -> Json:
        return _answer(self._transport.send(method, path, json.dumps(body).encode() if body else None))


def _newer(job: Json, look: Callable[..., Json], noun: str, within_s: float) -> Json:
    """Return a job as soon as there is news of it, or after a while as it is then."""
    try:
        answer = look(job["id"], since=job["version"], wait_s=within_s)
    except Problem as refused:
        if refused.code != "too_many_streams":  # then so many wait for news that no more may; looking is free
            raise
        time.sleep(within_s)
        answer = look(job["id"])
    newer: Json = answer[noun]
    return newer


def _benchmark(benchmark_id: str) -> str:
    return f"/benchmarks/{quote(benchmark_id, safe='')}"


def _query(**values: Any) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _answer(reply: Reply) -> Json:
    """Return the JSON of a good answer. Raises Problem for a refusal, and for what is none of the face's."""
    data = _read(reply.body)
    if "success" not in data:
        raise problem(
            "service_unexpected",
            "Not an answer of the model manager",
            f"What answers there is not the model manager (status {reply.status}).",
            "Correct the address; behind another program it has that program's prefix as its path.",
            status=reply.status,
        )
    if not data["success"]:
        raise Problem(data)
    return data


def _read(body: bytes) -> Json:
    """Return the JSON object that a body is, an empty one where it is none."""
    try:
        data = json.loads(body)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _base(url: str) -> str:
    """Return the face's own address, without a slash at its end. Raises ValueError for what is no such address.

    >>> _base("localhost:5110"), _base("https://photos.lan/ai/")
    ('http://localhost:5110/api/model', 'https://photos.lan/ai')
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an address like http://127.0.0.1:5110")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("has more than a host, a port and a path; a token belongs into MODEL_MANAGER_TOKEN")
    _ = parts.port  # raises ValueError for what is no port
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or DEFAULT_PREFIX}"

"""The client against canned answers: what it sends, what it reads, and what it makes of every kind of trouble."""

from __future__ import annotations

import json
import logging
import math
import threading
from contextlib import suppress

import pytest
import requests
import responses
from responses import matchers

from catalog import MODEL_CATALOG
from model_core.errors import (
    AnswerCutShort,
    InvalidModelName,
    InvalidRequest,
    OllamaBusy,
    OllamaError,
    OllamaModelMissing,
    OllamaTimeout,
    OllamaUnavailable,
    PullEnded,
    PullFailed,
)
from ollama_client import OllamaClient

BASE = "http://127.0.0.1:11434"
DIGEST = "sha256:" + "ab" * 32
TAGS = {
    "models": [
        {
            "name": "llama3.2:1b-instruct-q4_K_M",
            "model": "llama3.2:1b-instruct-q4_K_M",
            "modified_at": "2026-11-23T16:46:53.82858614Z",
            "size": 294254,
            "digest": "2f7fcfc369fb851b558998ee912e954adb340b11d2531846b0ca6658062d7611",
            "details": {"family": "llama", "parameter_size": "1.2B", "quantization_level": "Q4_K_M"},
            "capabilities": ["completion"],
        }
    ]
}
GENERATED = {
    "model": "m",
    "created_at": "2026-11-23T16:47:55.634042978Z",
    "response": "Soft light.",
    "done": True,
    "done_reason": "stop",
    "total_duration": 2_000_000_000,
    "eval_count": 10,
    "eval_duration": 1_000_000_000,
}


@pytest.fixture
def ollama():
    with responses.RequestsMock() as canned:
        yield canned


@pytest.fixture
def client():
    made = OllamaClient()
    yield made
    made.close()


def lines(*events: object) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def sent(ollama: responses.RequestsMock) -> list[object]:
    return [json.loads(call.request.body) for call in ollama.calls if call.request.body]


# --- what there is ---


def test_the_constructor_asks_nothing_and_names_the_address():
    with responses.RequestsMock():
        client = OllamaClient("http://localhost:11434")

    assert client.address == client.host == "http://localhost:11434"
    assert client.is_local
    assert not OllamaClient("http://10.0.0.7:11434").is_local


def test_an_address_that_is_none_is_refused_at_once():
    with pytest.raises(InvalidRequest):
        OllamaClient("ftp://localhost")


def test_the_version_is_told(ollama, client):
    ollama.get(f"{BASE}/api/version", json={"version": "0.33.0"})

    assert client.version() == "0.33.0"


def test_the_installed_models_are_listed(ollama, client):
    ollama.get(f"{BASE}/api/tags", json=TAGS)

    (model,) = client.tags()

    assert (model.name, model.size_bytes) == ("llama3.2:1b-instruct-q4_K_M", 294254)


def test_the_running_models_are_listed(ollama, client):
    loaded = TAGS["models"][0] | {"size_vram": 0, "expires_at": "2026-11-23T16:52:55Z", "context_length": 2048}
    ollama.get(f"{BASE}/api/ps", json={"models": [loaded]})

    (model,) = client.running()

    assert (model.size_bytes, model.size_vram_bytes, model.context_tokens) == (294254, 0, 2048)


def test_show_asks_for_the_lists_only_when_told_to(ollama, client):
    ollama.post(f"{BASE}/api/show", json={"model_info": {"llama.block_count": 2}})

    assert client.show("m").model_info == {"llama.block_count": 2}
    client.show("m", verbose=True)

    assert sent(ollama) == [{"model": "m", "verbose": False}, {"model": "m", "verbose": True}]


def test_a_base_path_is_kept(ollama):
    ollama.get("https://photos.example.com:443/ollama/api/version", json={"version": "1"})

    assert OllamaClient("https://photos.example.com/ollama").version() == "1"


def test_neither_an_origin_nor_a_compressed_answer_is_asked_for(ollama, client):
    ollama.get(f"{BASE}/api/version", json={"version": "1"})

    client.version()

    headers = ollama.calls[0].request.headers
    assert "Origin" not in headers
    assert headers["Accept-Encoding"] == "identity"


# --- what changes it ---


def test_delete_sends_its_name_in_a_body_and_is_content_with_nothing(ollama, client):
    ollama.delete(f"{BASE}/api/delete", body=b"", match=[matchers.json_params_matcher({"model": "m"})])

    assert client.delete("m") is None


def test_copy_names_both(ollama, client):
    ollama.post(f"{BASE}/api/copy", body=b"")

    client.copy("a", "b")

    assert sent(ollama) == [{"source": "a", "destination": "b"}]


@pytest.mark.parametrize(
    ("said", "call"),
    [
        ("model 'nope:latest' not found", lambda client: client.show("nope")),
        ("model 'nope' not found", lambda client: client.delete("nope")),
        ('model "nope" not found', lambda client: client.copy("nope", "x")),
        ("model 'nope' not found", lambda client: client.load("nope")),
        ("model 'nope' not found", lambda client: client.unload("nope")),
        ("model 'nope' not found", lambda client: client.generate("nope", "x")),
        ("model 'nope' not found", lambda client: list(client.stream_generate("nope", "x"))),
        ("model 'nope' not found", lambda client: client.chat_answer("nope", [])),
    ],
    ids=["show", "delete", "copy", "load", "unload", "generate", "stream", "chat"],
)
def test_a_model_that_is_missing_is_named_whatever_the_wording(ollama, client, said, call):
    for method in ("POST", "DELETE"):
        for path in ("show", "delete", "copy", "generate", "chat"):
            ollama.add(method, f"{BASE}/api/{path}", json={"error": said}, status=404)
    ollama.assert_all_requests_are_fired = False

    with pytest.raises(OllamaModelMissing) as missing:
        call(client)

    assert missing.value.model == "nope"
    assert missing.value.upstream == said


def test_load_waits_for_the_model_and_hands_on_what_was_wished(ollama, client):
    ollama.post(f"{BASE}/api/generate", json={"model": "m", "response": "", "done": True, "done_reason": "load"})

    client.load("m")
    client.load("m", keep_alive=-1, options={"num_ctx": 2048})

    assert sent(ollama) == [
        {"model": "m", "stream": False, "options": {"num_ctx": 4096}},
        {"model": "m", "stream": False, "keep_alive": -1, "options": {"num_ctx": 2048}},
    ]


def test_every_call_that_could_load_a_model_says_the_same_context_of_it(ollama):
    ollama.post(f"{BASE}/api/generate", json=GENERATED)
    ollama.post(f"{BASE}/api/chat", json=GENERATED)
    client = OllamaClient(BASE, context_of=lambda model: {"m": 1024}[model])

    client.load("m")
    client.generate("m", "x")
    client.chat_answer("m", [])
    list(client.stream_generate("m", "x"))

    assert [body["options"]["num_ctx"] for body in sent(ollama)] == [1024] * 4


def test_a_load_that_does_not_say_done_is_a_failure(ollama, client):
    ollama.post(f"{BASE}/api/generate", json={"model": "m", "response": "", "done": False})

    with pytest.raises(OllamaError, match="did not finish loading"):
        client.load("m")


def test_unload_asks_with_a_keep_alive_of_zero(ollama, client):
    ollama.post(f"{BASE}/api/generate", json={"response": "", "done": True, "done_reason": "unload"})

    client.unload("m")

    assert sent(ollama) == [{"model": "m", "stream": False, "keep_alive": 0}]


def test_create_leaves_out_what_was_not_wished_and_yields_ollamas_events(ollama, client):
    ollama.get(f"{BASE}/api/tags", json=TAGS)
    ollama.post(f"{BASE}/api/create", body=lines({"status": "writing manifest"}, {"status": "success"}))

    events = list(client.create("critic", from_model="LLAMA3.2:1b-instruct-q4_k_m", system="You judge photographs."))

    assert events == [{"status": "writing manifest"}, {"status": "success"}]
    assert sent(ollama) == [
        {"model": "critic", "stream": True, "from": "LLAMA3.2:1b-instruct-q4_k_m", "system": "You judge photographs."}
    ]


def test_create_never_lets_ollama_fetch_the_base_in_silence(ollama, client):
    ollama.get(f"{BASE}/api/tags", json=TAGS)

    with pytest.raises(OllamaModelMissing):
        client.create("critic", from_model="llama3.1:70b")


def test_the_first_error_of_create_is_the_last_thing_heard(ollama, client):
    body = lines({"status": "parsing GGUF"}, {"error": "supplied file was not in GGUF format"}, {"status": "success"})
    ollama.post(f"{BASE}/api/create", body=body)

    events = client.create("m", files={"m.gguf": DIGEST})

    assert next(events) == {"status": "parsing GGUF"}
    with pytest.raises(OllamaError, match="not in GGUF format"):
        next(events)


def test_create_without_success_has_failed(ollama, client):
    ollama.post(f"{BASE}/api/create", body=lines({"status": "parsing GGUF"}))

    with pytest.raises(OllamaError, match="did not say that it had succeeded"):
        list(client.create("m", files={"m.gguf": DIGEST}))


def test_what_create_refuses_is_heard_without_looking_at_the_events(ollama, client):
    ollama.post(f"{BASE}/api/create", json={"error": "neither 'from' or 'files' was specified"}, status=400)

    with pytest.raises(OllamaError, match="neither 'from' or 'files'"):
        client.create("m")


def test_a_file_that_ollama_has_is_not_sent_again(ollama, client, tmp_path):
    ollama.head(f"{BASE}/api/blobs/{DIGEST}")

    client.push_blob(DIGEST.upper().replace("SHA", "sha"), tmp_path / "is-not-even-opened")


def test_a_file_that_ollama_lacks_is_sent(ollama, client, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    received = []
    ollama.head(f"{BASE}/api/blobs/{DIGEST}", status=404)

    def take(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        received.append(request.body)
        return 201, {}, b""

    ollama.add_callback("POST", f"{BASE}/api/blobs/{DIGEST}", take)
    client.push_blob(DIGEST, tmp_path / "m.gguf")

    assert received == [b"GGUF"]


def test_a_connection_that_breaks_while_sending_means_look_again(ollama, client, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    ollama.head(f"{BASE}/api/blobs/{DIGEST}", status=404)
    ollama.post(f"{BASE}/api/blobs/{DIGEST}", body=requests.ConnectionError(BrokenPipeError(32, "Broken pipe")))
    ollama.head(f"{BASE}/api/blobs/{DIGEST}", status=200)

    client.push_blob(DIGEST, tmp_path / "m.gguf")


def test_a_file_that_is_not_there_afterwards_was_not_sent(ollama, client, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    ollama.head(f"{BASE}/api/blobs/{DIGEST}", status=404)
    ollama.post(f"{BASE}/api/blobs/{DIGEST}", json={"error": 'digest mismatch, expected "a", got "b"'}, status=400)

    with pytest.raises(OllamaError, match="digest mismatch"):
        client.push_blob(DIGEST, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "digest", ["", "sha256:12", "../../etc/passwd", "sha256:" + "g" * 64, DIGEST + "\n", "ab" * 32]
)
def test_only_a_digest_gets_into_an_address(ollama, client, digest):
    with pytest.raises(InvalidRequest):
        client.has_blob(digest)


def test_an_answer_that_is_neither_yes_nor_no_says_nothing_about_a_file(ollama, client):
    ollama.head(f"{BASE}/api/blobs/{DIGEST}", status=500)

    with pytest.raises(OllamaError):
        client.has_blob(DIGEST)


# --- what it answers ---


def test_generate_sends_what_autodev_sends_and_returns_the_text(ollama, client):
    ollama.post(f"{BASE}/api/generate", json=GENERATED)

    assert client.generate("m", "Describe the light.", temperature=0.3, max_tokens=50) == "Soft light."
    assert sent(ollama) == [
        {
            "model": "m",
            "prompt": "Describe the light.",
            "stream": False,
            "options": {"num_ctx": 4096, "temperature": 0.3, "num_predict": 50},
        }
    ]


def test_an_answer_has_its_figures(ollama, client):
    ollama.post(f"{BASE}/api/generate", json=GENERATED)

    answer = client.generate_answer("m", "x")

    assert (answer.text, answer.done_reason, answer.total_seconds) == ("Soft light.", "stop", 2.0)
    assert answer.tokens_per_second == pytest.approx(10)
    assert answer.prompt_tokens is None


def test_every_wish_is_handed_on(ollama, client):
    ollama.post(f"{BASE}/api/generate", json=GENERATED)
    schema = {"type": "object"}

    client.generate_answer(
        "m", "x", options={"seed": 1}, format=schema, system="s", images=[b"\xff", "aGk="], keep_alive="5m", think=False
    )

    assert sent(ollama) == [
        {
            "model": "m", "prompt": "x", "stream": False, "options": {"num_ctx": 4096, "seed": 1}, "format": schema,
            "system": "s",
            "images": ["/w==", "aGk="], "keep_alive": "5m", "think": False,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("body", [{"response": "Soft", "done": False}, {"model": "", "done": False}, {}])
def test_an_answer_without_done_is_a_failure(ollama, client, body):
    ollama.post(f"{BASE}/api/generate", json=body)

    with pytest.raises(AnswerCutShort):
        client.generate("m", "x")


def test_a_streamed_answer_comes_in_pieces_and_then_whole(ollama, client):
    pieces = [{"response": "", "thinking": "hm", "done": False}, {"response": "Soft ", "done": False},
              {"response": "light.", "done": False}, GENERATED | {"response": ""}]  # fmt: skip
    ollama.post(f"{BASE}/api/generate", body=lines(*pieces))

    *texts, answer = client.stream_generate("m", "x")

    assert texts == ["Soft ", "light."]
    assert (answer.text, answer.thinking, answer.answer_tokens) == ("Soft light.", "hm", 10)


def test_a_streamed_answer_without_done_is_a_failure(ollama, client):
    ollama.post(f"{BASE}/api/generate", body=lines({"response": "Soft ", "done": False}))
    stream = client.stream_generate("m", "x")

    assert next(stream) == "Soft "
    with pytest.raises(AnswerCutShort) as cut:
        next(stream)

    assert cut.value.characters == 5


def test_an_error_in_the_middle_of_a_streamed_answer_is_raised(ollama, client):
    crash = {"error": "an error was encountered while running the model: unexpected EOF"}
    ollama.post(f"{BASE}/api/generate", body=lines({"response": "Soft ", "done": False}, crash))

    with pytest.raises(OllamaError, match="while running the model"):
        list(client.stream_generate("m", "x"))


def test_a_conversation_is_answered(ollama, client):
    message = {"role": "assistant", "content": "Soft light."}
    ollama.post(f"{BASE}/api/chat", json={**GENERATED, "response": None, "message": message})

    answer = client.chat_answer("m", [{"role": "user", "content": "x"}])

    assert answer.text == "Soft light."
    said = {"model": "m", "messages": [{"role": "user", "content": "x"}], "options": {"num_ctx": 4096}}
    assert sent(ollama) == [{**said, "stream": False}]


@pytest.mark.parametrize("options", [{"temperature": math.nan}, {"stop": b"x"}, {"x": object()}])
def test_what_cannot_be_json_is_never_sent(ollama, client, options):
    with pytest.raises(InvalidRequest):
        client.generate_answer("m", "x", options=options)


# --- trouble ---


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, {"error": "invalid model name"}, InvalidModelName, "not a name that Ollama accepts"),
        (400, {"error": 'name "bad name" is invalid'}, InvalidModelName, "not a name that Ollama accepts"),
        (400, {"error": 'destination "" is invalid'}, InvalidModelName, "not a name that Ollama accepts"),
        (400, {"error": "model is required"}, InvalidModelName, "not a name that Ollama accepts"),
        (400, {"error": '"x" does not support thinking'}, OllamaError, "does not support thinking"),
        (401, {"error": "unauthorized", "signin_url": "https://x"}, OllamaError, "Sign in"),
        (403, b"", OllamaError, "refuses to be called by the name"),
        (403, {"error": "ollama cloud is disabled"}, OllamaError, "cloud is disabled"),
        (404, b"404 page not found", OllamaError, "not Ollama's JSON"),
        (405, b"405 method not allowed", OllamaError, "not Ollama's JSON"),
        (500, {"error": 'option "temperature" must be of type float32'}, OllamaError, "must be of type float32"),
        (500, {"error": "llama-server reported out-of-memory during startup: x"}, OllamaError, "smaller model"),
        (500, {"error": "model requires more system memory (9 GiB) than is available"}, OllamaError, "smaller model"),
        (500, {"error": ["a", "list"]}, OllamaError, "a"),
        (500, b"", OllamaError, "status 500"),
        (500, b"\xff\xfe\x00", OllamaError, "not Ollama's JSON"),
        (502, b"<html>Bad Gateway</html>", OllamaError, "a web page"),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, OllamaBusy, "moment"),
        (503, b"<html>Service Unavailable</html>", OllamaBusy, "moment"),
        (301, b"", OllamaError, "another address"),
        (307, b"moved", OllamaError, "another address"),
        (200, b"<html>Welcome</html>", OllamaError, "a web page"),
        (200, b"Ollama is running", OllamaError, "not Ollama's JSON"),
        (200, b"", OllamaError, "nothing"),
        (200, b'{"response": "cut', OllamaError, "not Ollama's JSON"),
        (200, b'{"response": "\xff", "done": true}', OllamaError, "not Ollama's JSON"),
        (200, b'{"response": "x", "done": true, "eval_count": NaN}', OllamaError, "not Ollama's JSON"),
        (200, b"[" * 100_000, OllamaError, "not Ollama's JSON"),
        (200, [GENERATED], OllamaError, "not Ollama's JSON"),
        (200, {"response": ["x"], "done": True}, OllamaError, "response: "),
        (200, {"response": "x", "done": "yes"}, OllamaError, "done: "),
        (200, {"response": "x", "done": True, "eval_count": 10**400}, OllamaError, "eval_count: "),
    ],
)  # fmt: skip
def test_every_wrong_answer_is_a_typed_error_that_says_what_to_do(ollama, client, status, body, kind, words):
    content = body if isinstance(body, bytes) else json.dumps(body)
    ollama.post(f"{BASE}/api/generate", body=content, status=status, headers={"Location": "http://elsewhere.example/"})

    with pytest.raises(kind, match=words) as error:
        client.generate("m", "x")

    assert error.value.remedy
    assert "<html" not in str(error.value)
    if isinstance(error.value, OllamaError) and status != 200:
        assert error.value.upstream_status == status


def test_a_streamed_page_is_no_answer(ollama, client):
    ollama.post(f"{BASE}/api/generate", body=b"<html>\n<p>\n</html>")

    with pytest.raises(OllamaError, match="a web page"):
        list(client.stream_generate("m", "x"))


def test_what_ollama_says_is_shown_without_paths_and_addresses(ollama, client):
    text = "open /root/.ollama/models/blobs/sha256-ab: no such file; see https://cdn.example.com/x?sig=s3cret"
    ollama.post(f"{BASE}/api/generate", json={"error": text}, status=500)

    with pytest.raises(OllamaError) as error:
        client.generate("m", "x")

    assert "/root" not in str(error.value)
    assert "s3cret" not in json.dumps(error.value.facts)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (requests.ConnectTimeout(), OllamaUnavailable),
        (requests.ConnectionError(), OllamaUnavailable),
        (requests.exceptions.SSLError(), OllamaUnavailable),
        (requests.ReadTimeout(), OllamaTimeout),
        (requests.exceptions.ChunkedEncodingError(), OllamaError),
        (requests.exceptions.InvalidURL(), OllamaError),
    ],
)
def test_every_trouble_of_the_library_is_translated_with_its_cause(ollama, client, raised, kind):
    ollama.get(f"{BASE}/api/tags", body=raised)

    with pytest.raises(kind) as error:
        client.tags()

    assert error.value.__cause__ is raised
    assert error.value.remedy


# --- a pull ---


def test_a_pull_yields_ollamas_events_untouched_and_ends_with_success(ollama, client):
    events = [
        {"status": "pulling manifest"},
        {"status": "pulling 206320acc7e9", "digest": "sha256:20", "total": 10, "completed": 4},
        {"status": "success"},
    ]
    ollama.post(f"{BASE}/api/pull", body=lines(*events))

    with client.pull("m") as pull:
        assert list(pull) == events

    assert sent(ollama) == [{"model": "m", "stream": True}]


def test_insecure_is_sent_only_when_told(ollama, client):
    ollama.post(f"{BASE}/api/pull", body=lines({"status": "success"}))

    with client.pull("localhost:5000/x/m", insecure=True) as pull:
        list(pull)

    assert sent(ollama)[0]["insecure"] is True


def test_an_error_line_ends_a_pull_with_its_reason(ollama, client):
    said = "pull model manifest: file does not exist"
    ollama.post(f"{BASE}/api/pull", body=lines({"status": "pulling manifest"}, {"error": said}))

    with client.pull("llama3.1:8b-instruct") as pull:
        assert pull.read(1.0) == {"status": "pulling manifest"}
        with pytest.raises(PullFailed) as failed:
            pull.read(1.0)

    assert failed.value.facts == {
        "model": "llama3.1:8b-instruct", "reason": "unknown_model", "upstream": said, "heals_by_retrying": False,
    }  # fmt: skip
    assert failed.value.code == "download_failed"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        lines({"status": "pulling manifest"}),
        lines({"status": "pulling manifest"}) + b'{"status": "succ',
        lines({"status": "Success"}),
        lines({"status": "verifying sha256 digest"}, {"digest": "x"}),
    ],
    ids=["nothing", "one line", "half a line", "another word", "no status"],
)
def test_a_pull_that_merely_ends_has_failed(ollama, client, body):
    ollama.post(f"{BASE}/api/pull", body=body)

    with client.pull("m") as pull, pytest.raises(PullFailed) as failed:
        list(pull)

    assert failed.value.reason == "cut_short"
    assert failed.value.heals_by_retrying


@pytest.mark.parametrize("line", [b"<html>\n", b"[1]\n", b"3\n", b"\xff\xfe\n", b'{"status": "x"} y\n', b"null\n"])
def test_a_pull_that_talks_nonsense_has_failed(ollama, client, line):
    ollama.post(f"{BASE}/api/pull", body=lines({"status": "pulling manifest"}) + line + lines({"status": "success"}))

    with client.pull("m") as pull, pytest.raises(PullFailed) as failed:
        list(pull)

    assert failed.value.reason == "other"
    assert "<html" not in str(failed.value)


def test_empty_lines_in_a_pull_mean_nothing(ollama, client):
    ollama.post(f"{BASE}/api/pull", body=b"\n\r\n" + lines({"status": "success"}))

    with client.pull("m") as pull:
        assert list(pull) == [{"status": "success"}]


@pytest.mark.parametrize("end", [{"status": "success"}, {"error": "boom"}])
def test_after_its_end_a_pull_cannot_be_read(ollama, client, end):
    ollama.post(f"{BASE}/api/pull", body=lines(end))
    pull = client.pull("m")
    with suppress(PullFailed):
        pull.read(1.0)

    with pytest.raises(PullEnded):
        pull.read(1.0)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": "invalid model name"}, InvalidModelName),
        (403, b"", OllamaError),
        (503, b"", OllamaBusy),
        (502, b"<html>", OllamaError),
        (302, b"", OllamaError),
    ],
)
def test_a_pull_that_is_refused_never_begins(ollama, client, status, body, kind):
    content = body if isinstance(body, bytes) else json.dumps(body)
    ollama.post(f"{BASE}/api/pull", body=content, status=status)

    with pytest.raises(kind):
        client.pull("m")

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pull ")]


# --- what AutoDev's own client offers ---


def test_generate_config_returns_the_object(ollama, client):
    ollama.post(f"{BASE}/api/chat", json=GENERATED | {"message": {"content": '{"exposure": 0.5}'}})

    assert client.generate_config("brighter") == {"exposure": 0.5}

    (body,) = sent(ollama)
    assert (body["model"], body["format"], body["stream"]) == ("llama3.1:8b-instruct", "json", False)
    assert body["messages"][1] == {"role": "user", "content": "brighter"}


def test_generate_config_asks_for_the_schema_that_it_was_given(ollama):
    ollama.post(f"{BASE}/api/chat", json=GENERATED | {"message": {"content": "{}"}})
    schema = {"type": "object", "properties": {"exposure": {"type": "number"}}}

    OllamaClient(config_schema=schema).generate_config("brighter", "m")

    assert sent(ollama)[0]["format"] == schema


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, {"message": {"content": "brighter!"}, "done": True}),
        (200, {"message": {"content": "[1]"}, "done": True}),
        (200, {"message": {"content": '{"a": NaN}'}, "done": True}),
        (200, {"message": {"content": "{}"}, "done": False}),
        (404, {"error": "model 'm' not found"}),
        (400, {"error": "invalid model name"}),
        (503, {"error": "busy"}),
    ],
)
def test_generate_config_returns_none_where_there_is_no_object_and_the_log_says_why(
    ollama, client, caplog, status, answer
):
    ollama.post(f"{BASE}/api/chat", json=answer, status=status)

    with caplog.at_level(logging.WARNING):
        assert client.generate_config("brighter", "m") is None

    assert "config not generated model=m" in caplog.text
    assert "brighter" not in caplog.messages[0].replace("brighter!", "")


def test_the_raw_list_is_ollamas_own(ollama, client):
    ollama.get(f"{BASE}/api/tags", json=TAGS)

    assert client.list_available_models() == TAGS["models"]


@pytest.mark.parametrize(
    ("name", "exists"),
    [("llama3.2:1b-instruct-q4_K_M", True), ("library/LLAMA3.2:1B-instruct-q4_k_m", True), ("llama3.2", False)],
)
def test_a_model_exists_under_every_spelling_that_ollama_takes(ollama, client, name, exists):
    ollama.get(f"{BASE}/api/tags", json=TAGS)

    assert client.check_model_exists(name) is exists


def test_with_quantization_the_catalogues_tag_is_used(ollama):
    ollama.post(f"{BASE}/api/generate", json=GENERATED)
    client = OllamaClient(enable_quantization=True, quantization_bits=4)

    client.generate("llama3.2:1b-instruct", "x")
    client.set_quantization(True, 8)
    client.generate("llama3.2:1b-instruct", "x")
    client.set_quantization(False)
    client.generate("llama3.2:1b-instruct", "x")

    assert [body["model"] for body in sent(ollama)] == [
        "llama3.2:1b-instruct-q4_K_M",
        "llama3.2:1b-instruct-q8_0",
        "llama3.2:1b-instruct",
    ]


@pytest.mark.parametrize("model", ["my-own:latest", "llama3.1:13b-instruct", "llama3.2:1b-instruct-q8_0", "not a name"])
def test_a_model_without_such_a_variant_is_used_as_it_is(ollama, model):
    ollama.post(f"{BASE}/api/generate", json=GENERATED)

    OllamaClient(enable_quantization=True, quantization_bits=4).generate(model, "x")

    assert sent(ollama)[0]["model"] == model


def test_no_variant_is_ever_invented():
    real = {variant.tag for entry in MODEL_CATALOG.values() for variant in entry.variants}
    for bits in (4, 8):
        variants = OllamaClient(enable_quantization=True, quantization_bits=bits).get_quantization_settings()[
            "variants"
        ]

        assert set(variants) == set(MODEL_CATALOG)
        assert {tag for tag in variants.values() if tag} <= real
        assert variants["llama3.1:13b-instruct"] is None


def test_the_memory_saved_is_what_the_files_show():
    client = OllamaClient()
    off = client.get_quantization_settings()
    client.set_quantization(True, 8)
    eight = client.get_quantization_settings()
    client.set_quantization(True, 4)
    four = client.get_quantization_settings()

    assert (off["enabled"], off["bits"], off["memory_reduction"]) == (False, None, None)
    assert (eight["enabled"], eight["bits"], eight["memory_reduction_fraction"]) == (True, 8, 0.47)
    assert (four["bits"], four["memory_reduction_fraction"]) == (4, 0.69)
    assert eight["memory_reduction"].startswith("47% of the weights against f16")


@pytest.mark.parametrize("bits", [0, 2, 16, "8"])
def test_only_four_and_eight_bits_can_be_set(bits):
    client = OllamaClient()

    with pytest.raises(ValueError, match="bits"):
        client.set_quantization(True, bits)

    assert client.enable_quantization is False
    with pytest.raises(InvalidRequest):
        OllamaClient(quantization_bits=bits)


def test_calls_are_counted_by_model_and_failures_have_no_time(ollama, client):
    ollama.post(f"{BASE}/api/generate", json=GENERATED)
    client.generate("a", "x")
    list(client.stream_generate("a", "x"))
    ollama.replace("POST", f"{BASE}/api/generate", json={"error": "boom"}, status=500)
    for model in ("a", "b"):
        with pytest.raises(OllamaError):
            client.generate(model, "x")

    a, b = client.get_performance_stats("a"), client.get_performance_stats("b")

    assert (a["total_calls"], a["successful_calls"], a["failed_calls"]) == (3, 2, 1)
    assert a["total_time"] >= a["max_time"] >= a["avg_time"] >= a["min_time"] > 0
    assert (b["total_calls"], b["failed_calls"], b["avg_time"], b["min_time"]) == (1, 1, None, None)
    assert client.get_performance_stats() == {"a": a, "b": b}
    assert client.get_performance_stats("c") == {}


def test_a_stream_that_the_caller_leaves_is_neither_a_success_nor_a_failure(ollama, client):
    ollama.post(f"{BASE}/api/generate", body=lines({"response": "Soft ", "done": False}, GENERATED))
    stream = client.stream_generate("m", "x")

    next(stream)
    stream.close()

    assert client.get_performance_stats("m") == {}


def test_quantizations_are_compared_as_far_as_they_are_installed(ollama, client):
    own = TAGS["models"][0]
    installed = [own, own | {"name": "llama3.2:1b-instruct"}]
    ollama.get(f"{BASE}/api/tags", json={"models": installed})
    ollama.post(f"{BASE}/api/generate", json=GENERATED)

    result = client.compare_quantization_performance("llama3.2:1b-instruct", "x", test_iterations=2)

    assert set(result["non_quantized"]) == {"avg_time", "min_time", "max_time", "success_rate", "speedup"}
    assert result["non_quantized"]["speedup"] == 1.0
    assert result["quantized_4bit"]["success_rate"] == 1.0
    assert result["quantized_8bit"] == {}
    assert result["notes"] == ["quantized_8bit: llama3.2:1b-instruct-q8_0 is not installed"]
    assert result["models"]["quantized_4bit"] == "llama3.2:1b-instruct-q4_K_M"
    assert client.get_quantization_settings()["enabled"] is False


def test_a_comparison_in_which_nothing_answers_says_why(ollama, client):
    ollama.get(f"{BASE}/api/tags", json={"models": [TAGS["models"][0] | {"name": "my-own:latest"}]})
    ollama.post(f"{BASE}/api/generate", json={"error": "boom"}, status=500)

    result = client.compare_quantization_performance("my-own", "x")

    assert (result["non_quantized"], result["quantized_8bit"], result["quantized_4bit"]) == ({}, {}, {})
    assert "boom" in result["notes"][0]
    assert "no such variant" in result["notes"][1]


def test_a_comparison_of_no_iterations_is_refused(client):
    with pytest.raises(InvalidRequest):
        client.compare_quantization_performance("m", "x", test_iterations=0)

"""What Ollama 0.33 answers, and what is read out of it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model_core import ollama_answers

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "1.2B",
    "quantization_level": "Q4_K_M",
    "context_length": 2048,
    "embedding_length": 64,
}
LISTED = {
    "name": "llama3.2:1b-instruct-q4_K_M",
    "model": "llama3.2:1b-instruct-q4_K_M",
    "modified_at": "2026-11-23T16:46:53.82858614Z",
    "size": 294254,
    "digest": "2f7fcfc369fb851b558998ee912e954adb340b11d2531846b0ca6658062d7611",
    "details": DETAILS,
    "capabilities": ["completion"],
}
LOADED = {
    "name": "llama3.2:latest",
    "model": "llama3.2:latest",
    "size": 24243076,
    "digest": "9dae6ab6139d120dfbfa2c9db5e5e4615d7ff93435c42213e79436e033dceb15",
    "details": DETAILS,
    "expires_at": "2026-11-23T16:52:55.587510129Z",
    "size_vram": 20000000,
    "context_length": 1024,
}
LAST_LINE = {
    "model": "llama3.2:latest",
    "created_at": "2026-11-23T16:47:55.634042978Z",
    "response": "hello",
    "done": True,
    "done_reason": "length",
    "context": [259, 107],
    "total_duration": 14_086_044,
    "load_duration": 1_104_653,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 1_882_000,
    "eval_count": 6,
    "eval_duration": 8_714_000,
}


def test_a_listed_model_is_read_whole():
    (model,) = ollama_answers.installed_models({"models": [LISTED]})

    assert model.model_dump() == {
        "name": "llama3.2:1b-instruct-q4_K_M",
        "digest": LISTED["digest"],
        "size_bytes": 294254,
        "modified_at": "2026-11-23T16:46:53.82858614Z",
        "family": "llama",
        "parameter_size": "1.2B",
        "quantization_level": "Q4_K_M",
        "context_tokens": 2048,
        "capabilities": ("completion",),
        "remote": False,
    }


def test_an_old_ollama_tells_less_and_what_it_does_not_tell_is_none():
    old = {name: value for name, value in LISTED.items() if name not in ("capabilities", "details")}

    (model,) = ollama_answers.installed_models({"models": [old]})

    assert model.capabilities is None
    assert model.context_tokens is None


def test_a_cloud_model_is_marked_as_lying_elsewhere():
    stub = LISTED | {"remote_model": "gpt-oss:20b", "remote_host": "https://ollama.com:443"}

    assert ollama_answers.installed_models({"models": [stub]})[0].remote


@pytest.mark.parametrize("nothing", [[], None])
def test_a_server_without_models_has_an_empty_list(nothing):
    assert ollama_answers.installed_models({"models": nothing}) == []
    assert ollama_answers.running_models({"models": nothing}) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"models": {}},
        {"models": [LISTED | {"size": "294254"}]},
        {"models": [LISTED | {"size": 1.5}]},
        {"models": [LISTED | {"name": None}]},
        {"models": [{"name": "x"}]},
        {"models": ["x"]},
        {"models": [LISTED | {"details": []}]},
    ],
)
def test_a_list_of_another_form_is_not_taken_for_one(wrong):
    with pytest.raises(ValidationError):
        ollama_answers.installed_models(wrong)


@pytest.mark.parametrize(
    ("size", "on_card", "known"),
    [(100, 60, (100, 60)), (100, 100, (100, 100)), (100, 0, (100, 0)), (0, 0, (None, None))],
    ids=["spilled", "on the card", "on the processor", "unknown"],
)
def test_size_zero_is_unknown_but_nothing_on_the_card_is_known(size, on_card, known):
    (model,) = ollama_answers.running_models({"models": [LOADED | {"size": size, "size_vram": on_card}]})

    assert (model.size_bytes, model.size_vram_bytes) == known


def test_details_keep_the_nulls_and_drop_what_tells_about_the_server():
    shown = {
        "license": "L",
        "modelfile": "FROM /home/user/.ollama/models/blobs/sha256-a5",
        "parameters": 'stop "<|eot_id|>"',
        "template": "{{ .Prompt }}",
        "details": DETAILS | {"parent_model": "/home/user/m.gguf"},
        "model_info": {"general.architecture": "llama", "tokenizer.ggml.tokens": None},
        "tensors": [{"name": "token_embd.weight", "type": "F16", "shape": [64, 512]}],
        "capabilities": ["completion", "vision"],
        "modified_at": "2026-11-23T16:46:53Z",
    }

    details = ollama_answers.model_details("m", shown)

    assert details.model_info == {"general.architecture": "llama", "tokenizer.ggml.tokens": None}
    assert details.capabilities == ("completion", "vision")
    assert (details.license, details.parameters, details.system) == ("L", 'stop "<|eot_id|>"', None)
    assert "/home/user" not in details.model_dump_json()
    assert "tensors" not in details.model_dump()


def test_a_parent_that_is_a_model_is_told():
    assert ollama_answers.model_details("m", {"details": {"parent_model": "llama3.2:latest"}}).parent_model == (
        "llama3.2:latest"
    )


def test_the_figures_of_an_answer_are_in_seconds_and_tokens():
    answer = ollama_answers.answer("llama3.2", LAST_LINE)

    assert answer.text == "hello"
    assert answer.done_reason == "length"
    assert answer.total_seconds == pytest.approx(0.014086044)
    assert answer.load_seconds == pytest.approx(0.001104653)
    assert (answer.prompt_tokens, answer.answer_tokens) == (7, 6)
    assert answer.tokens_per_second == pytest.approx(6 / 0.008714)


@pytest.mark.parametrize("count", [{}, {"eval_count": 0, "eval_duration": 0}, {"eval_count": 5}])
def test_no_speed_is_invented_from_missing_figures(count):
    assert ollama_answers.answer("m", {"response": "x", "done": True, **count}).tokens_per_second is None


def test_a_message_is_read_as_a_text_is():
    message = {"message": {"role": "assistant", "content": "hello", "thinking": "hm"}, "done": True}

    assert ollama_answers.piece(message) == ("hello", "hm", True)
    assert ollama_answers.answer("m", message).thinking == "hm"


def test_what_came_before_the_last_line_belongs_to_the_answer():
    answer = ollama_answers.answer("m", LAST_LINE | {"response": ""}, text="hello", thinking="")

    assert (answer.text, answer.thinking) == ("hello", None)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"error": "boom"}, "boom"),
        ({"error": {"code": 1}}, "{'code': 1}"),
        ({"status": "x"}, None),
        ([], None),
        (3, None),
    ],
)
def test_only_an_object_with_an_error_is_an_error(data, text):
    assert ollama_answers.error_text(data) == text


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["models", "name", "done", "eval_duration", "x"]), inner)
    ),
)


@given(_json)
def test_whatever_json_comes_is_read_or_refused_with_one_error(data):
    readers = (
        ollama_answers.version,
        ollama_answers.installed_models,
        ollama_answers.running_models,
        ollama_answers.piece,
        lambda found: ollama_answers.model_details("m", found),
        lambda found: ollama_answers.answer("m", found),
    )
    for read in readers:
        with suppress(ValidationError):
            read(data)
    ollama_answers.error_text(data)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("model 'm' not found", "model 'm' not found"),
        (
            '{"error":{"code":400,"message":"request (602 tokens) is too long","n_ctx":256}}',
            "request (602 tokens) is too long",
        ),
        ('{"error":"as a text"}', '{"error":"as a text"}'),
        ('{"error":{"code":400}}', '{"error":{"code":400}}'),
        ("{broken", "{broken"),
        ("{}", "{}"),
    ],
)
def test_an_answer_of_llama_cpp_that_ollama_hands_on_is_told_in_its_words(error, text):
    assert ollama_answers.error_text({"error": error}) == text


@pytest.mark.parametrize(
    ("modelfile", "weights"),
    [
        ("# FROM critic:latest\n\nFROM /usr/share/blobs/sha256-" + "ab" * 32 + "\nTEMPLATE x", "ab" * 32),
        ("FROM C:\\Users\\Me\\.ollama\\models\\blobs\\sha256-" + "cd" * 32 + "\r\n", "cd" * 32),
        ("FROM llama3.2:1b", None),
        ("", None),
        (None, None),
    ],
)
def test_of_a_modelfile_the_weights_are_read_and_no_path(modelfile, weights):
    details = ollama_answers.model_details("m", {"modelfile": modelfile})

    assert details.weights_digest == weights
    assert "blobs" not in details.model_dump_json()

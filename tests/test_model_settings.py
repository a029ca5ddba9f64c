"""Settings from an environment and a .env file: what is read, what is refused, and with which words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metadata_path import default_metadata_file
from model_core.errors import CannotStart
from model_settings import Settings, load_settings, variable_of

BEYOND_LOOPBACK = ["0.0.0.0", "::", "192.168.1.5", "photos.lan", "0x7f000001"]


@pytest.fixture(autouse=True)
def set_variables(monkeypatch):
    """An environment without settings; the test says which ones there are."""
    for name in list(os.environ):
        if name.startswith(("MODEL_MANAGER_", "OLLAMA_")):
            monkeypatch.delenv(name)

    def set_(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name if name == "OLLAMA_HOST" else f"MODEL_MANAGER_{name}", value)

    return set_


def refusal(**given):
    with pytest.raises(CannotStart) as caught:
        load_settings(None, **given)
    return caught.value


def test_without_any_variable_the_documented_defaults_stand():
    settings = load_settings(None)

    assert settings.model_dump() == {
        "ollama_host": "http://127.0.0.1:11434",
        "host": "127.0.0.1",
        "port": 5110,
        "metadata_file": default_metadata_file(),
        "token": None,
        "allowed_hosts": ("localhost", "127.0.0.1", "::1"),
        "allowed_origins": (),
        "allowed_registries": ("registry.ollama.ai", "hf.co"),
        "vram_gb": None,
        "downloads": 1,
        "auto_resume": True,
        "threads": 256,
        "log": "info",
    }


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("OLLAMA_HOST", "0.0.0.0:11500", "ollama_host", "http://127.0.0.1:11500"),
        ("HOST", "[::1]", "host", "::1"),
        ("PORT", " 8080 ", "port", 8080),
        ("ALLOWED_ORIGINS", "http://localhost:3000, HTTPS://Photos.lan/", "allowed_origins",
         ("http://localhost:3000", "https://photos.lan")),
        ("ALLOWED_REGISTRIES", "registry.ollama.ai,models.lan:5000", "allowed_registries",
         ("registry.ollama.ai", "models.lan:5000")),
        ("VRAM_GB", "7.5", "vram_gb", 7.5),
        ("VRAM_GB", "0", "vram_gb", 0.0),
        ("DOWNLOADS", "2", "downloads", 2),
        ("AUTO_RESUME", "no", "auto_resume", False),
        ("THREADS", "64", "threads", 64),
        ("LOG", "WARNING", "log", "warning"),
        ("PORT", "", "port", 5110),
    ],
)  # fmt: skip
def test_a_variable_sets_its_field(set_variables, variable, text, field, value):
    set_variables(**{variable: text})

    assert getattr(load_settings(None), field) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OLLAMA_HOST", "ftp://somewhere"),
        ("HOST", "http://127.0.0.1"),
        ("HOST", "127.0.0.1:5110"),
        ("HOST", "1.2.3.444"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "http"),
        ("METADATA_FILE", "/"),
        ("METADATA_FILE", "~no-such-user-here/m.json"),
        ("ALLOWED_HOSTS", "photos.lan,*"),
        ("ALLOWED_HOSTS", "photos.lan:80"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "null"),
        ("ALLOWED_ORIGINS", "http://localhost:3000/page"),
        ("ALLOWED_ORIGINS", "localhost:3000"),
        ("ALLOWED_REGISTRIES", "https://hf.co"),
        ("ALLOWED_REGISTRIES", "hf.co:99999"),
        ("VRAM_GB", "nan"),
        ("VRAM_GB", "-1"),
        ("VRAM_GB", "10001"),
        ("DOWNLOADS", "0"),
        ("AUTO_RESUME", "perhaps"),
        ("THREADS", "8"),
        ("LOG", "loud"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variable_the_value_and_what_is_allowed(set_variables, variable, text):
    set_variables(**{variable: text})

    refused = refusal()

    name = variable if variable == "OLLAMA_HOST" else f"MODEL_MANAGER_{variable}"
    wrong_part = text.split(",")[-1]
    assert refused.variables == [name]
    assert refused.happened.startswith(f"{name} is {wrong_part!r}. Allowed: ")
    assert refused.remedy == "Correct it in the environment."


def test_everything_that_is_wrong_is_said_at_once(set_variables):
    set_variables(PORT="x", LOG="y")

    assert refusal().variables == ["MODEL_MANAGER_PORT", "MODEL_MANAGER_LOG"]


def test_a_refused_token_is_not_repeated(set_variables):
    set_variables(TOKEN="my secret")

    refused = refusal()

    assert refused.happened.startswith("MODEL_MANAGER_TOKEN is (hidden). Allowed: ")
    assert "secret" not in str(refused)


def test_a_refused_address_of_ollama_shows_no_password(set_variables):
    set_variables(OLLAMA_HOST="http://me:secret@photos.lan")

    assert "secret" not in str(refusal())


def test_a_token_is_not_shown_by_accident(set_variables):
    set_variables(TOKEN="s3cret")

    settings = load_settings(None)

    assert "s3cret" not in f"{settings!r} {settings}"
    assert settings.token.get_secret_value() == "s3cret"


@pytest.mark.parametrize("host", BEYOND_LOOPBACK)
def test_listening_beyond_loopback_needs_a_token(set_variables, host):
    set_variables(HOST=host)
    assert refusal().variable == "MODEL_MANAGER_TOKEN"

    set_variables(TOKEN="s3cret")
    assert load_settings(None).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_listening_on_loopback_needs_none(host):
    assert load_settings(None, host=host).token is None


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("127.0.0.1", ()),
        ("0.0.0.0", ()),
        ("::", ()),
        ("192.168.1.5", ("192.168.1.5",)),
        ("photos.lan", ("photos.lan",)),
    ],
)
def test_loopback_and_the_address_listened_on_are_always_accepted_as_host(host, accepted):
    settings = load_settings(None, host=host, token="t", allowed_hosts="Box.lan")

    assert settings.allowed_hosts == ("localhost", "127.0.0.1", "::1", *accepted, "box.lan")


def test_what_is_given_wins_over_the_environment_and_that_over_the_file(set_variables, tmp_path):
    file = tmp_path / ".env"
    file.write_text("MODEL_MANAGER_PORT=1001\nMODEL_MANAGER_DOWNLOADS=3\nMODEL_MANAGER_LOG=debug\nOTHER=thing\n")
    set_variables(PORT="1002", DOWNLOADS="4")

    settings = load_settings(file, port=1003)

    assert (settings.port, settings.downloads, settings.log) == (1003, 4, "debug")


def test_a_file_that_windows_wrote_is_read(tmp_path):
    file = tmp_path / ".env"
    file.write_bytes("\ufeffMODEL_MANAGER_PORT=1001\r\n".encode())

    assert load_settings(file).port == 1001


def test_a_file_that_is_no_text_stops_the_start(tmp_path):
    file = tmp_path / ".env"
    file.write_bytes("MODEL_MANAGER_PORT=1001".encode("utf-16"))

    with pytest.raises(CannotStart, match="Save it as UTF-8 text"):
        load_settings(file)


def test_a_wrong_value_of_the_file_names_the_file(tmp_path):
    file = tmp_path / ".env"
    file.write_text("MODEL_MANAGER_PORT=x")

    with pytest.raises(CannotStart, match="environment or in") as caught:
        load_settings(file)
    assert str(file) in caught.value.remedy


def test_a_misspelt_variable_is_told_with_the_nearest_one(set_variables, caplog):
    set_variables(TOKN="secret")

    load_settings(None)

    assert "MODEL_MANAGER_TOKN nearest=MODEL_MANAGER_TOKEN" in caplog.text
    assert "secret" not in caplog.text


def test_a_relative_document_starts_beside_the_modules(set_variables):
    set_variables(METADATA_FILE="data/other.json")

    assert load_settings(None).metadata_file == Path(__file__).resolve().parent.parent / "data" / "other.json"


def test_every_setting_says_what_is_allowed():
    for field, info in Settings.model_fields.items():
        assert info.description, variable_of(field)

"""OLLAMA_HOST as Ollama's own clients read it; the good cases are those of its own tests (envconfig/config_test.go)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.errors import InvalidRequest
from model_core.ollama_host import is_loopback, read_host


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        ('" 1.2.3.4 "', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("http://1.2.3.4:4321", "http://1.2.3.4:4321"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:4321", "https://1.2.3.4:4321"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("https://example.com/a/b/", "https://example.com:443/a/b"),
        ("ollama.com", "https://ollama.com:443"),
        ("localhost", "http://localhost:11434"),
        ("http://localhost:11434/", "http://localhost:11434"),
        ("HTTP://Photo-Server", "http://Photo-Server:80"),
        ("my_server.local.", "http://my_server.local.:11434"),
        # What a server listens on everywhere, a client reaches at the loopback.
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
    ],
)
def test_an_address_is_read_as_ollama_reads_it(text, address):
    assert read_host(text) == address


@pytest.mark.parametrize(
    "text",
    [
        ":66000", ":-1", ":0", "localhost:0", "localhost:eleven", "localhost:", "localhost:１２", "localhost:9" * 9,
        "ftp://localhost", "://localhost", "file:///etc/passwd",
        "a b", "a,b", "exa mple.com", "-a.example", "a..b", "x" * 64, ".".join(["x" * 60] * 5), "1.2.3.444", "12",
        "user:s3cret@localhost", "http://user@localhost:1", "localhost?x=1", "localhost#x", "localhost/a b",
        "localhost/ä?", "::1]:1", "[1.2.3.4]:1", "[x]:1", "http://::1:11434x", "münchen", "a\nb", "a\\b", "\x00",
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_not_repeated(text):
    with pytest.raises(InvalidRequest) as refused:
        read_host(text)

    assert refused.value.field == "OLLAMA_HOST"
    assert "s3cret" not in str(refused.value)


@given(st.text())
def test_whatever_is_said_gives_an_address_or_the_one_error(text):
    try:
        address = read_host(text)
    except InvalidRequest:
        return

    assert read_host(address) == address


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "ollama.localhost", "LOCALHOST", "0.0.0.0"]
)
def test_the_loopback_is_this_machine(host):
    assert is_loopback(read_host(host))


@pytest.mark.parametrize("host", ["10.0.0.1", "photo-server", "localhost.example.com", "2001:db8::1", "notlocalhost"])
def test_everything_else_is_another_machine(host):
    assert not is_loopback(read_host(host))

"""Ollama's words, literally as it says them, and what is made of them."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model_core.pull_errors import CUT_SHORT, LONGEST_TEXT, PullProblem, PullReason, classify, clean, describe

DIGEST = "sha256:206320acc7e9d1bd0f4ebc6a2fb0d3b1a2f1e6f3e4d5c6b7a8990a1b2c3d4e5f"
REGISTRY = "https://registry.ollama.ai/v2/library/llama3.2/manifests/latest"

# What Ollama 0.33 said, or says by its source: on Linux first, then what Go says on other systems.
LITERALS = [
    ("pull model manifest: file does not exist", "unknown_model", False),
    (
        f'pull model manifest: Get "{REGISTRY}": dial tcp: lookup registry.ollama.ai on 10.255.255.53:53: no such host',
        "registry_unreachable",
        True,
    ),
    (
        'pull model manifest: Get "http://127.0.0.1:1/v2/ns/big/manifests/latest": '
        "dial tcp 127.0.0.1:1: connect: connection refused",
        "registry_unreachable",
        True,
    ),
    (
        f'pull model manifest: Get "{REGISTRY}": tls: first record does not look like a TLS handshake',
        "registry_error",
        False,
    ),
    (
        f'pull model manifest: Get "{REGISTRY}": http: server gave HTTP response to HTTPS client',
        "registry_error",
        False,
    ),
    ("pull model manifest: 500: boom", "registry_error", True),
    ("pull model manifest: 503: upstream connect error", "registry_error", True),
    ("pull model manifest: 429: slow down", "registry_error", True),
    ("pull model manifest: 403: no", "registry_error", False),
    (
        "pull model manifest: 412: \n\nThe model you are attempting to pull requires a newer version of Ollama.",
        "too_new",
        False,
    ),
    (
        'pull model manifest: realm host "auth.example.com" does not match original host "127.0.0.1:16001"',
        "registry_error",
        False,
    ),
    ("pull model manifest: invalid character '<' looking for beginning of value", "registry_error", True),
    ("file does not exist", "registry_error", False),
    ("http: no Location header in response", "registry_error", False),
    ("context deadline exceeded", "registry_unreachable", True),
    (f"digest mismatch, file must be downloaded again: want {DIGEST}, got {DIGEST}", "digest_mismatch", True),
    ("max retries exceeded: EOF", "retries_exhausted", True),
    ("max retries exceeded: unexpected EOF", "retries_exhausted", True),
    (
        "write /root/.ollama/models/blobs/sha256-206320acc7e9-partial: no space left on device",
        "disk_full",
        False,
    ),
    ("context canceled", "upstream_cancelled", True),
    ('Get "http://127.0.0.1:5080/blob": context canceled', "upstream_cancelled", True),
    ("this model requires MLX support, but the MLX runtime is not available", "needs_mlx", False),
    (
        r"write C:\Users\Jane Doe\.ollama\models\blobs\sha256-12-partial: There is not enough space on the disk.",
        "disk_full",
        False,
    ),
    (f'pull model manifest: Get "{REGISTRY}": dial tcp: lookup registry.ollama.ai: getaddrinfow: '
     "No such host is known.", "registry_unreachable", True),
    (
        f'pull model manifest: Get "{REGISTRY}": dial tcp 104.21.75.227:443: connectex: No connection could be made '
        "because the target machine actively refused it.",
        "registry_unreachable",
        True,
    ),
    ("read tcp 172.17.0.2:56042->104.18.9.90:443: read: connection reset by peer", "registry_unreachable", True),
    (f'pull model manifest: Get "{REGISTRY}": net/http: TLS handshake timeout', "registry_unreachable", True),
    (f'pull model manifest: Get "{REGISTRY}": EOF', "registry_unreachable", True),
    (
        f'pull model manifest: Get "{REGISTRY}": tls: failed to verify certificate: x509: certificate signed by '
        "unknown authority",
        "registry_error",
        False,
    ),
    ("open /root/.ollama/models/manifests/x: permission denied", "other", False),
    ("something that no version has said so far", "other", False),
    ("", "other", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason", "heals"), LITERALS, ids=[text[:60] or "nothing" for text, _, _ in LITERALS])
def test_each_of_ollamas_complaints_has_its_reason(text, reason, heals):
    problem = classify(text)

    assert (problem.reason.value, problem.heals_by_retrying) == (reason, heals)


def test_no_reason_is_without_a_complaint_that_leads_to_it():
    assert {reason for _, reason, _ in LITERALS} | {CUT_SHORT.reason.value} == {reason.value for reason in PullReason}


@pytest.mark.parametrize("reason", PullReason)
def test_every_reason_has_a_sentence_with_the_model_and_something_to_do(reason):
    happened, remedy = describe(PullProblem(reason, False), "llama3.2:1b")

    assert "llama3.2:1b" in happened
    assert happened.endswith(".")
    assert remedy.endswith(".")


def test_what_ollama_said_stands_behind_our_sentence():
    happened, _ = describe(classify("pull model manifest: 500: boom"), "llama3.2:1b")

    assert happened.endswith("Ollama said: pull model manifest: 500: boom.")


def test_a_stream_that_merely_ends_heals_by_retrying():
    assert CUT_SHORT.heals_by_retrying


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            'Get "https://cdn.example.com/blobs/ab?X-Amz-Signature=s3cret&X-Amz-Date=1": EOF',
            'Get "https://cdn.example.com/blobs/ab": EOF',
        ),
        ("see https://cdn.example.com/a?sig=1, please", "see https://cdn.example.com/a, please"),
        ('Get "https://jane:pa55@example.com/a#frag": EOF', 'Get "https://example.com/a": EOF'),
        ('Get "http://10.0.0.7:5000/v2/": EOF', 'Get "http://[address]/v2/": EOF'),
        ("got cdn.example.com/blob?sig=s3cret back", "got cdn.example.com/blob back"),
        ("open /root/.ollama/models/x: permission denied", "open [path]: permission denied"),
        ("open /Users/Jane Doe/.ollama/x: is a directory", "open [path]: is a directory"),
        ("open /Users/Jane O'Hara/.ollama/x: is a directory", "open [path]: is a directory"),
        (r"open C:\Users\Jane Doe\x: Access is denied.", "open [path]: Access is denied."),
        (r"open \\server\models\x: Access is denied.", "open [path]: Access is denied."),
        ("open file:///root/secret now", "open [path] now"),
        ('stat "/root/a b" failed', 'stat "[path]" failed'),
        ("lookup x on 10.255.255.53:53: no such host", "lookup x on [address]: no such host"),
        ("read tcp 172.17.0.2:56042->104.18.9.90:443: read", "read tcp [address]->[address]: read"),
        ("dial tcp [2001:db8::1]:443: i/o timeout", "dial tcp [address]: i/o timeout"),
        ("dial tcp [fe80::1%eth0]:443: i/o timeout", "dial tcp [address]: i/o timeout"),
        ("lookup x on fe80::1 failed", "lookup x on [address] failed"),
        ("412: \n\n\x1b[31mtoo new\x00", "412: [31mtoo new"),
        (f"digest mismatch: want {DIGEST}", f"digest mismatch: want {DIGEST}"),
        ("pull hf.co/user/repo:Q4 and llama3.1:8b", "pull hf.co/user/repo:Q4 and llama3.1:8b"),
        ("i/o timeout and/or 1/2", "i/o timeout and/or 1/2"),
    ],
)  # fmt: skip
def test_what_strangers_should_not_see_is_taken_out_and_the_rest_stays(said, shown):
    assert clean(said) == shown


def test_a_text_without_end_is_cut():
    assert len(clean("boom " * 1000)) == LONGEST_TEXT


_pieces = st.sampled_from(
    ["https://", "h.example", "/", "?", "=", "&", "sig", ":", ": ", " ", '"', "'", "@", "[", "]", "10.0.0.7", ":53",
     "::1", "fe80::1", "C:\\", "\\\\", "~/", ".", "->", "root", "\n", "file://", "boom"]
)  # fmt: skip
_texts = st.one_of(st.text(), st.lists(_pieces).map("".join), st.text(string.printable))


@given(_texts)
@example("https://h?a=1/etc/passwd")
@example("?FILE://<=")
def test_cleaning_twice_is_cleaning_once(text):
    once = clean(text)

    assert clean(once) == once


@given(before=_texts, after=_texts)
def test_no_signature_of_an_address_survives(before, after):
    text = f'{before} "https://cdn.example.com/blob?X-Signature=s3cr3t" {after}'

    assert "s3cr3t" not in clean(text)


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_no_ip_address_survives(address, port):
    assert str(address) not in clean(f"dial tcp {address}:{port}: i/o timeout")


@given(st.text())
def test_any_text_can_be_classified_and_shown(text):
    problem = classify(text)

    assert len(problem.upstream) <= LONGEST_TEXT
    assert problem.upstream.isprintable()

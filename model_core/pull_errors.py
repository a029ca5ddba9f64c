"""What Ollama's words mean when a pull fails: a reason, whether trying again can heal it, and sentences for people.

Ollama answers every failed pull with a line of free text, most of it from Go's network library or from the registry.
The text is not ours to trust: it can hold signed addresses, paths and addresses of the machine that Ollama runs on.
`clean` takes those out; what `classify` returns has been through it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class PullReason(StrEnum):
    """Why a pull failed, in one word."""

    UNKNOWN_MODEL = "unknown_model"
    REGISTRY_UNREACHABLE = "registry_unreachable"
    REGISTRY_ERROR = "registry_error"
    TOO_NEW = "too_new"
    DISK_FULL = "disk_full"
    DIGEST_MISMATCH = "digest_mismatch"
    CUT_SHORT = "cut_short"
    UPSTREAM_CANCELLED = "upstream_cancelled"
    RETRIES_EXHAUSTED = "retries_exhausted"
    NEEDS_MLX = "needs_mlx"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class PullProblem:
    """One failed pull.

    heals_by_retrying  the same pull, some time later and without anybody's help, may well succeed
    upstream           Ollama's own text, cleaned; empty where it said nothing
    """

    reason: PullReason
    heals_by_retrying: bool
    upstream: str = ""


_HEALING = frozenset(
    {
        PullReason.REGISTRY_UNREACHABLE,
        PullReason.DIGEST_MISMATCH,  # Ollama has thrown the bad layer away and fetches it anew
        PullReason.CUT_SHORT,
        PullReason.UPSTREAM_CANCELLED,  # an earlier, cancelled pull was still ending; the next one gets through
        PullReason.RETRIES_EXHAUSTED,  # often an address that had expired; a new pull asks for a new one
    }
)

# The status that a registry answered, as Ollama repeats it: "pull model manifest: 500: boom".
_REGISTRY_STATUS = re.compile(r"(?:^|manifest: )([1-5]\d\d): ")
_PASSING_STATUSES = frozenset({408, 425, 429})


def _says(*words: str) -> Callable[[str], bool]:
    return lambda text: any(word in text for word in words)


# Looked at from above; the first that fits is it. The words are those of Ollama 0.33 and of Go on Linux, macOS and
# Windows, in lower case.
_SIGNS: tuple[tuple[Callable[[str], bool], PullReason, bool | None], ...] = (
    (
        _says("no space left on device", "not enough space on the disk", "disk quota exceeded"),
        PullReason.DISK_FULL,
        None,
    ),
    (_says("digest mismatch"), PullReason.DIGEST_MISMATCH, None),
    (_says("requires mlx support", "mlx runtime is not available"), PullReason.NEEDS_MLX, None),
    (_says("newer version of ollama", "manifest: 412:"), PullReason.TOO_NEW, None),
    (lambda text: text == "pull model manifest: file does not exist", PullReason.UNKNOWN_MODEL, None),
    # A manifest without its blobs: the registry's own trouble.
    (lambda text: text == "file does not exist", PullReason.REGISTRY_ERROR, False),
    (_says("max retries exceeded"), PullReason.RETRIES_EXHAUSTED, None),
    (_says("context canceled"), PullReason.UPSTREAM_CANCELLED, None),
    # Settings are wrong, at the registry or here: the same answer would come for ever.
    (
        _says(
            "first record does not look like a tls handshake",
            "server gave http response to https client",
            "x509:",
            "failed to verify certificate",
            "no location header in response",
            "does not match original host",
        ),
        PullReason.REGISTRY_ERROR,
        False,
    ),
    # A page instead of a manifest: a proxy, or a network that wants to be logged in to.
    (_says("looking for beginning of value"), PullReason.REGISTRY_ERROR, True),
    (
        _says(
            "dial tcp",
            "no such host",
            "no such host is known",
            "connection refused",
            "actively refused",
            "connection reset",
            "forcibly closed",
            "connection timed out",
            "i/o timeout",
            "tls handshake timeout",
            "awaiting headers",
            "network is unreachable",
            "no route to host",
            "server misbehaving",
            "context deadline exceeded",
            "unexpected eof",
            ": eof",
        ),
        PullReason.REGISTRY_UNREACHABLE,
        None,
    ),
)


def classify(text: str) -> PullProblem:
    """Return what the ``error`` of a pull means. An unknown text is `other`, which is not tried again.

    >>> classify("pull model manifest: file does not exist").reason.value
    'unknown_model'
    >>> classify("pull model manifest: 503: come back later").heals_by_retrying
    True
    """
    lowered = text.strip().lower()
    for fits, reason, heals in _SIGNS:
        if fits(lowered):
            return PullProblem(reason, reason in _HEALING if heals is None else heals, clean(text))
    if found := _REGISTRY_STATUS.search(lowered):
        status = int(found[1])
        return PullProblem(PullReason.REGISTRY_ERROR, status >= 500 or status in _PASSING_STATUSES, clean(text))
    return PullProblem(PullReason.OTHER, False, clean(text))


CUT_SHORT = PullProblem(PullReason.CUT_SHORT, True)
"""The stream ended, and Ollama said neither `success` nor what went wrong."""


_SENTENCES: dict[PullReason, tuple[str, str]] = {
    PullReason.UNKNOWN_MODEL: (
        "The registry has no model {model}.",
        "Check the name and the tag; ollama.com/library shows what there is.",
    ),
    PullReason.REGISTRY_UNREACHABLE: (
        "Ollama could not reach the registry to fetch {model}.",
        "Check the network of the machine that Ollama runs on, then download again; what has arrived is kept.",
    ),
    PullReason.REGISTRY_ERROR: (
        "The registry did not give {model} to Ollama.",
        "Try again later; if it stays like this, look at what the registry said.",
    ),
    PullReason.TOO_NEW: (
        "{model} needs a newer Ollama than the one that runs.",
        "Update Ollama (https://ollama.com/download), then download again.",
    ),
    PullReason.DISK_FULL: (
        "Ollama's disk is full; {model} is not complete.",
        "Free space there (delete a model that is not needed) and download again; what has arrived is kept.",
    ),
    PullReason.DIGEST_MISMATCH: (
        "What arrived of {model} is not what the registry announced; Ollama has thrown the bad part away.",
        "Download again; if it happens again, something between Ollama and the registry changes the data.",
    ),
    PullReason.CUT_SHORT: (
        "Ollama stopped in the middle of fetching {model} and did not say why.",
        "Look whether Ollama still runs, then download again; what has arrived is kept.",
    ),
    PullReason.UPSTREAM_CANCELLED: (
        "Ollama was still ending an earlier download of {model}.",
        "Download again.",
    ),
    PullReason.RETRIES_EXHAUSTED: (
        "Ollama tried several times to fetch a part of {model} and gave up.",
        "Download again; what has arrived is kept.",
    ),
    PullReason.NEEDS_MLX: (
        "{model} runs with Apple's MLX only, which Ollama's machine does not have.",
        "Choose a model in GGUF form.",
    ),
    PullReason.OTHER: (
        "Ollama could not fetch {model}.",
        "Look at what Ollama said, and at its log.",
    ),
}


def describe(problem: PullProblem, model: str) -> tuple[str, str]:
    """Return (what happened, what to do next) as sentences for a person."""
    happened, remedy = _SENTENCES[problem.reason]
    happened = happened.format(model=model)
    return (f"{happened} Ollama said: {problem.upstream.rstrip('.')}." if problem.upstream else happened), remedy


# --- cleaning --------------------------------------------------------------------------------------------------------

LONGEST_TEXT = 400
"""Characters that are left of a text at most; the longest of Ollama's own complaints has some 200."""

_URL = re.compile(r"\b([a-z][a-z0-9+.-]{1,20})://([^\s\"'<>\\]*)", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\w.]*\w)")
_IPV6_IN_BRACKETS = re.compile(r"\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\w+)?\](?::\d{1,5})?")
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){7}|[0-9A-Fa-f:]*::[0-9A-Fa-f:]*)(?:%\w+)?(?![\w:])"
)
# A path runs on to what ends it in Go's complaints (": " or a quote), since a folder's name can hold blanks.
_PATH = re.compile(r"(?<![\w./\\\]])(?:[A-Za-z]:[\\/]|\\\\|~?/)[^\"\n]*?(?=: |[\"\n]|$)")
_QUERY = re.compile(r"\?[^\s\"'?]*=[^\s\"']*")  # of an address without a scheme


def clean(text: str) -> str:
    """Return the text without what strangers should not see: signed parts of addresses, paths, IP addresses.

    >>> clean('Get "https://cdn.example.com/blob?X-Sig=abc": dial tcp 10.0.0.7:443: i/o timeout')
    'Get "https://cdn.example.com/blob": dial tcp [address]: i/o timeout'
    >>> clean("write /root/.ollama/models/blobs/sha256-12-partial: no space left on device")
    'write [path]: no space left on device'
    """
    for _ in range(_MOST_ROUNDS):
        text, before = _cleaned(text), text
        # Where a piece has gone, what is left can look like an address anew.
        if text == before:
            break
    return text


_MOST_ROUNDS = 10


def _cleaned(text: str) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    pieces, end = [], 0
    for found in _URL.finditer(text):
        pieces += [_clean_plain(text[end : found.start()]), _clean_url(found)]
        end = found.end()
    pieces.append(_clean_plain(text[end:]))
    cleaned = " ".join("".join(pieces).split())
    return cleaned if len(cleaned) <= LONGEST_TEXT else cleaned[: LONGEST_TEXT - 1].rstrip() + "…"


def _clean_url(found: re.Match[str]) -> str:
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        return "[path]"
    rest, ending = re.fullmatch(r"(.*?)([.,;:)]*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    host = _clean_addresses(host.rpartition("@")[2])
    return f"{scheme}://{host}{slash}{path}{ending}"


def _clean_plain(text: str) -> str:
    return _clean_addresses(_QUERY.sub("", _PATH.sub("[path]", text)))


def _clean_addresses(text: str) -> str:
    for pattern in (_IPV6_IN_BRACKETS, _IPV4, _IPV6):
        text = pattern.sub("[address]", text)
    return text

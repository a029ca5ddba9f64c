"""OLLAMA_HOST, read as Ollama's own clients read it (envconfig/config.go, v0.33), into the address to talk to.

>>> read_host("")
'http://127.0.0.1:11434'
>>> read_host("0.0.0.0")
'http://127.0.0.1:11434'
>>> read_host("https://photos.example.com/ollama/")
'https://photos.example.com:443/ollama'
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from model_core.errors import InvalidRequest

DEFAULT_PORT = 11434
_PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")


def read_host(text: str | None) -> str:
    """Return the base address, with its port and without a slash at the end; nothing said means this machine's Ollama.

    Raises InvalidRequest for what cannot be an address. Ollama itself takes its default where a port makes no sense;
    here that is refused, because a typing error would silently lead to another server. The text is not repeated in the
    error: it may hold a password.
    """
    value = (text or "").strip().strip("\"'").strip()
    scheme, found, rest = value.partition("://")
    if not found:
        scheme, rest = "http", value
        if value == "ollama.com":
            scheme = "https"
    scheme = scheme.lower()
    if scheme not in _PORTS:
        raise _wrong("begins with a scheme that is neither http nor https")
    port = _PORTS[scheme] if found or scheme == "https" else DEFAULT_PORT
    place, _, path = rest.partition("/")
    if "@" in place:
        raise _wrong("holds a user or a password, which Ollama knows nothing of")
    if not _PATH.fullmatch(path):
        raise _wrong("has characters in its path that an address cannot have there")
    host, port = _split(place, port)
    return f"{scheme}://{host}:{port}" + (f"/{path.strip('/')}" if path.strip("/") else "")


def is_loopback(address: str) -> bool:
    """Say whether a base address leads to this very machine by way of its loopback.

    >>> [is_loopback(a) for a in ("http://localhost:11434", "http://[::1]:1", "http://10.0.0.2:11434")]
    [True, True, False]
    """
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost")


def _split(place: str, default_port: int) -> tuple[str, int]:
    """Return host and port; a host in IPv6 form comes back in brackets."""
    if address := _ip(place.removeprefix("[").removesuffix("]") if place.startswith("[") else place):
        return _connectable(address), default_port
    host, colon, port_text = place.rpartition(":")
    if not colon:
        host, port_text = place, str(default_port)
    if not (port_text.isascii() and port_text.isdigit() and 1 <= int(port_text[:6]) <= 65535):
        raise _wrong("has a port that is not a number from 1 to 65535")
    port = int(port_text)
    if host.startswith("[") and host.endswith("]"):
        address = _ip(host[1:-1])
        if address is None or address.version != 6:
            raise _wrong("has brackets around something that is no IPv6 address")
    else:
        address = _ip(host)
        if address is not None and address.version == 6:
            raise _wrong("has an IPv6 address with a port and no brackets around the address")
    if address is not None:
        return _connectable(address), port
    if not host:
        return "127.0.0.1", port
    if not _is_host_name(host):
        raise _wrong("has no host name or IP address where one is due")
    return host, port


def _is_host_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    all_digits = all(label.isdigit() for label in labels)  # an IP address gone wrong: 1.2.3.444
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in labels) and not all_digits


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _connectable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    # "Every address of this machine" is something to listen on; Windows refuses to connect to it.
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"


def _wrong(problem: str) -> InvalidRequest:
    return InvalidRequest(
        "OLLAMA_HOST",
        problem,
        "It looks like 127.0.0.1:11434, photo-server, [::1]:11434 or https://photos.example.com/ollama.",
    )

"""Ask a model registry for a manifest: exact sizes before the first byte, and whether there is a newer one.

This is the only module that goes out to the internet by itself; Ollama fetches everything else. It goes as the machine
goes: through the proxy of the environment, with the certificates of the environment.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

import requests

from model_core.errors import RegistryModelMissing, RegistryUnavailable
from model_core.manifests import Manifest, read_manifest
from model_core.names import ModelName

logger = logging.getLogger(__name__)

ACCEPT = "application/vnd.docker.distribution.manifest.v2+json"
CONNECT_S, READ_S = 3.05, 10.0
# The largest that are known (hundreds of tensors as layers) have some 300 kB.
LONGEST_MANIFEST = 4 * 2**20


def https(host: str) -> str:
    """Return the address of a registry: nothing else is spoken to one."""
    return f"https://{host}"


class RegistryClient:
    """Manifests of any registry that a name carries; who may be asked is decided before.

    address_of  the base address of a registry's host; another one stands in for it in tests and in the demonstration
    """

    def __init__(self, address_of: Callable[[str], str] = https) -> None:
        self._address_of = address_of
        self._local = threading.local()
        self._lock = threading.Lock()
        # Weakly: the connections of a thread that has ended go with it.
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()

    def close(self) -> None:
        """Close what lies idle."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def manifest(self, name: ModelName) -> Manifest:
        """Return the manifest of a model.

        Raises RegistryModelMissing where the registry has no such model, RegistryUnavailable where it does not answer,
        or with anything but a manifest.
        """
        address = f"{self._address_of(name.host)}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
        try:
            with self._session().get(
                address, headers={"Accept": ACCEPT}, timeout=(CONNECT_S, READ_S), stream=True
            ) as response:
                if response.status_code in (401, 404):
                    raise RegistryModelMissing(name.display, name.host)
                if response.status_code != 200:
                    raise RegistryUnavailable(name.host, f"it answered {response.status_code}")
                raw = response.raw.read(LONGEST_MANIFEST + 1, decode_content=True)
                said = response.headers.get("Ollama-Content-Digest", "")
            return read_manifest(raw, said)
        except (requests.RequestException, OSError) as error:
            raise RegistryUnavailable(name.host, type(error).__name__) from error
        except ValueError as error:
            raise RegistryUnavailable(name.host, "what it answered is no manifest") from error

    def _session(self) -> requests.Session:
        # A session is not made for many threads.
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.max_redirects = 5
            with self._lock:
                self._sessions.add(session)
        return session

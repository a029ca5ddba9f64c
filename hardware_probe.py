"""What this machine has. Nothing is invented: what cannot be known is None, and each figure says who says so."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from model_core.plans import Room

logger = logging.getLogger(__name__)

# Where Ollama's installer for Linux lets the service keep its models; everywhere else they lie in the user's home.
_SERVICE_MODELS = Path("/usr/share/ollama/.ollama/models")


def ollama_disk(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Room:
    """Return the room on the disk that an Ollama on this machine keeps its models on.

    It is certain only where OLLAMA_MODELS says so or the folder is there: Ollama itself cannot be asked.
    """
    said = environment.get("OLLAMA_MODELS", "").strip()
    own = (home or Path.home()) / ".ollama" / "models"
    places = [Path(said)] if said else [own, *([_SERVICE_MODELS] if sys.platform == "linux" else [])]
    there = next((place for place in places if _is_there(Path.is_dir, place)), None)
    folder = there or next(
        (parent for parent in (places[0], *places[0].parents) if _is_there(Path.exists, parent)), None
    )
    if folder is None:
        return Room()
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        logger.debug("disk not to be measured path=%s error=%s", folder, error)
        return Room(path=str(folder))
    return Room(free_bytes=free_bytes, path=str(folder), is_certain=there is not None)


def _is_there(look: Callable[[Path], bool], path: Path) -> bool:
    try:
        return look(path)
    except OSError as error:  # the service's folder is closed to other users on many a Linux: not to be known, then
        logger.debug("not to be looked into path=%s error=%s", path, error)
        return False

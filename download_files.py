"""How far each download is, in files beside the document that all processes on it see; job_files.py has the rest.

<document>.downloads/<id>.json        the download as it stands, written a few times a second by its owner
<document>.downloads/pull-start.lock  held while Ollama is asked to begin
<document>.downloads/models.lock      held while somebody decides on what is installed, and acts on it
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

from job_files import JobFiles, LockFile
from model_core.records import DownloadJob

logger = logging.getLogger(__name__)

# Windows refuses to open a file that is just being replaced.
_READ_TRIES, _READ_AGAIN_S = 3, 0.005


class News(NamedTuple):
    """The owner's last word: the download, and the newest line of Ollama's. Both None where there is none."""

    job: DownloadJob | None = None
    event: dict[str, Any] | None = None


class DownloadFiles(JobFiles):
    """The files of one document's downloads."""

    def __init__(self, document: Path) -> None:
        super().__init__(document.with_name(f"{document.name}.downloads"))

    def pull_start(self) -> LockFile:
        """Return the lock that lets one download at a time ask Ollama to begin."""
        return LockFile(self.folder / "pull-start.lock")

    def models(self) -> LockFile:
        """Return the lock that keeps a model from being deleted while somebody selects it."""
        return LockFile(self.folder / "models.lock")

    def tell(self, job: DownloadJob, event: dict[str, Any] | None) -> None:
        """Let other processes see how far a download of ours is. What cannot be written is left out."""
        path = self._news(job.id)
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps({"job": job.model_dump(mode="json"), "event": event}), "utf-8")
            temporary.replace(path)
        except OSError as error:  # on Windows while somebody reads it; the next one comes in a moment
            logger.debug("progress not written id=%s error=%s", job.id, error)

    def news(self, job_id: str) -> News:
        """Return the last word on a download, nothing where there is none that can be read."""
        try:
            data = json.loads(_read(self._news(job_id)))
            return News(DownloadJob.model_validate(data["job"]), data.get("event"))
        except (OSError, ValueError, LookupError, TypeError):
            # Not there yet, gone already, or half of it lost with the power: there is no newer word, that is all.
            return News()

    def _news(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"


def _read(path: Path) -> str:
    for _ in range(_READ_TRIES - 1):
        try:
            return path.read_text("utf-8")
        except PermissionError:
            time.sleep(_READ_AGAIN_S)
    return path.read_text("utf-8")

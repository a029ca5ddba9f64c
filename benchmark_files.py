"""The files of one document's benchmarks, in a folder beside it; who owns which stands in job_files.py.

<document>.benchmarks/benchmarks.json   every benchmark that is kept, with all that was measured
<document>.benchmarks/<id>.photo-<n>    a photo of one that is not over yet
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from job_files import JobFiles, unwritable


class BenchmarkFiles(JobFiles):
    """The files of one document's benchmarks."""

    def __init__(self, document: Path) -> None:
        super().__init__(document.with_name(f"{document.name}.benchmarks"))

    @property
    def record(self) -> Path:
        """Where the benchmarks themselves are kept."""
        return self.folder / "benchmarks.json"

    def keep_photos(self, job_id: str, photos: Sequence[bytes]) -> None:
        """Put the photos of a benchmark on disk, for good. Raises StoreUnwritable; then none is left there."""
        try:
            for number, photo in enumerate(photos):
                # They are somebody's own: nobody else on this machine need see them.
                descriptor = os.open(self._photo(job_id, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(descriptor, "wb") as file:  # noqa: PTH123 - a path's own open knows no mode for a new file
                    file.write(photo)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            self.forget(job_id)
            raise unwritable(self.folder, error) from error

    def photo(self, job_id: str, number: int) -> bytes:
        """Return a photo of a benchmark that is not over. Raises OSError."""
        return self._photo(job_id, number).read_bytes()

    def _photo(self, job_id: str, number: int) -> Path:
        return self.folder / f"{job_id}.photo-{number}"

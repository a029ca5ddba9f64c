"""Say where the metadata document stands. Apart from the settings, so that importing the manager stays cheap."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = Path("data", "model_metadata.json")

_MODULES = Path(__file__).resolve().parent
_INSTALLED = {"site-packages", "dist-packages"}


def default_metadata_file(modules: Path = _MODULES) -> Path:
    """Return the document's path where nobody chose one."""
    return resolve_metadata_file(DEFAULT, modules)


def resolve_metadata_file(chosen: str | os.PathLike[str], modules: Path = _MODULES) -> Path:
    """Return the absolute path that ``chosen`` means; what is relative starts beside the modules.

    Not at the working directory: the service, a script and the terminal must find one document, wherever each was
    started. Modules that were installed as a package, or that stand where this user may not write, leave it to the
    user's own data folder. Raises RuntimeError for a ``~name`` whose home is not known.
    """
    return (modules if _may_hold_data(modules) else _user_folder()) / Path(chosen).expanduser()


def _may_hold_data(modules: Path) -> bool:
    data = modules / DEFAULT.parent
    return modules.name not in _INSTALLED and os.access(data if data.exists() else modules, os.W_OK)


def _user_folder() -> Path:
    # Imported late: only an installed package needs it, and importing it is not free.
    from platformdirs import user_data_path

    return user_data_path("junmai-model-manager", appauthor=False)

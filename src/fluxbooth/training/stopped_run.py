"""What is to stay as it was when a stopped run goes on, and is known before anything is loaded."""

from __future__ import annotations

import tomllib
from pathlib import Path

from fluxbooth.flux.stored import StorageForm


def form_of_stopped_run(folder: Path) -> StorageForm | None:
    """How a run held its matrices that was stopped in `folder` and can go on; None where there is none to go on with.

    More or less of the memory may be free by now, and other matrices would give other numbers.
    """
    try:
        if not (folder / "state" / "state.pt").is_file():
            return None
        form: StorageForm = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))["recipe"]["base_weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return form

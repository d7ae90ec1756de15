"""Where things lie on this machine. Makes no folder by itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fluxbooth.errors import Problems

_COMFYUI_WORKFLOWS = Path("comfyui_user/default/workflows")


@dataclass(frozen=True)
class Folders:
    """The folders that fluxbooth writes to."""

    models: Path
    """ComfyUI's model folders: checkpoints, text_encoders, vae, loras."""
    runs: Path
    """One folder a run."""
    cache: Path
    """Latents and text embeddings: all of it can be made again."""
    workflows: Path | None = None
    """A folder of ComfyUI's sidebar, for a workflow of each run; None where there is none."""
    output_dir: Path | None = None
    """Where LoRA files are asked to be; None for ComfyUI's own folder."""

    @property
    def loras(self) -> Path:
        """Where finished LoRA files appear."""
        return self.output_dir or self.models / "loras"

    def run(self, output_name: str) -> Path:
        """The folder of one run."""
        return self.runs / output_name


def folders_from_environment(models_dir: str | None = None) -> Folders:
    """Read FLUXBOOTH_MODELS_DIR, FLUXBOOTH_RUNS_DIR, FLUXBOOTH_CACHE_DIR and FLUXBOOTH_WORKFLOWS_DIR; `models_dir` wins
    over the first. Without the last, workflows go where this checkout's ComfyUI container has its own."""
    named = os.environ.get("FLUXBOOTH_WORKFLOWS_DIR")
    workflows = Path(named) if named else _COMFYUI_WORKFLOWS
    return Folders(
        models=Path(models_dir or os.environ.get("FLUXBOOTH_MODELS_DIR") or "models"),
        runs=Path(os.environ.get("FLUXBOOTH_RUNS_DIR") or "runs"),
        cache=Path(os.environ.get("FLUXBOOTH_CACHE_DIR") or "cache"),
        workflows=workflows if named or workflows.is_dir() else None,
    )


class Watch:
    """Whether folders that a long job writes to are still there, and still on the disk that they were on.

    A disk that is taken away leaves an empty folder where it was mounted, and what is written there is hidden when it
    comes back.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        """Remember `folders`, which are made where they are missing."""
        self._disks: dict[Path, int | None] = {}
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            self._disks[folder] = _disk_of(folder)

    def gone(self) -> list[Path]:
        """Those that are no more what they were."""
        return [folder for folder, disk in self._disks.items() if _disk_of(folder) != disk]


def _disk_of(folder: Path) -> int | None:
    try:
        return folder.stat().st_dev if folder.is_dir() else None
    except OSError:
        return None


def check_writable(folder: Path, problems: Problems) -> None:
    """Add a problem when nothing can be written into `folder`, or when it cannot be made."""
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if _can_be_seen(parent))
    if not nearest.is_dir():
        problems.add(f"'{nearest}' is a file", where=str(folder), allowed="a folder", do="Move it away")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        problems.add(
            f"'{nearest}' may not be written to by user {os.getuid()}",
            where=str(folder),
            do="Change its owner, or in Docker set PUID and PGID in .env to the owner's",
        )


def _can_be_seen(path: Path) -> bool:
    """Whether `path` exists; False too where a folder above it may not be looked into."""
    try:
        return path.exists()
    except PermissionError:
        return False

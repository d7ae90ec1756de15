"""Pictures without and with a LoRA, and what was found in them, as a file: runs/NAME/comparison.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.files import write_text

_FILE = "comparison.json"


@dataclass(frozen=True)
class Fact:
    """One number, without and with the LoRA."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Strip:
    """What one prompt gave, seed by seed."""

    prompt: str
    before: tuple[str, ...]
    """Pictures without the LoRA, relative to the run's folder."""
    after: tuple[str, ...]
    """With it; those in the same place have the same seed."""


@dataclass(frozen=True)
class Comparison:
    """What a LoRA changes."""

    summary: str
    """How it was found out, in a few sentences."""
    facts: tuple[Fact, ...]
    strips: tuple[Strip, ...]


_ADAPTER = TypeAdapter(Comparison)


def save_comparison(run_folder: Path, comparison: Comparison) -> None:
    """Write a run's comparison, whole or not at all."""
    write_text(run_folder / _FILE, _ADAPTER.dump_json(comparison, indent=1).decode() + "\n")


def load_comparison(run_folder: Path) -> Comparison | None:
    """Read a run's comparison; None where it has none.

    Raises:
        UserError: for a file that is damaged.
    """
    path = run_folder / _FILE
    if not path.is_file():
        return None
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            Problem(f"{error.errors()[0]['msg']}", where=str(path), do="Delete it and run `fluxbooth demo` again")
        ) from error

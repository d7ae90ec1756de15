"""What a run was trained on, kept in its folder: names, captions and small pictures, which outlive the originals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fluxbooth.dataset.caption_findings import whole_captions
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.pictures import open_upright
from fluxbooth.host.files import write_text, written_whole

_FILE = "concepts.json"
_LARGEST = 256
"""Pixels of a kept picture's longer side."""
_MOST_OF_A_CONCEPT = 24
"""Pictures that are kept of a concept, beside those that are evaluated."""


@dataclass(frozen=True)
class RecordedPicture:
    """One training picture."""

    name: str
    """Its folder and file, with nothing of where on the disk they are."""
    digest: str
    """sha256 of its bytes."""
    caption: str
    width: int
    """Pixels that it is seen at."""
    height: int

    @property
    def small_file(self) -> str:
        """Where in the record's folder the small picture is."""
        return f"{self.digest[:16]}.webp"


@dataclass(frozen=True)
class RecordedConcept:
    """One concept, and the pictures that are kept of it."""

    class_tokens: str
    is_reg: bool
    number: int
    """Of its pictures, those that are not kept included."""
    repeats: int
    pictures: tuple[RecordedPicture, ...]


def record_concepts(folder: Path, items: Sequence[Item], evaluated: Sequence[Item]) -> None:
    """Write folder/concepts.json and a small picture each of the first two dozen of a concept; once for the same data.

    Args:
        folder: runs/NAME/concepts.
        evaluated: items whose picture is kept wherever they stand.
    """
    concepts = list(_concepts(items, {item.shown_name for item in evaluated}))
    if concepts == read_concepts(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    kept = {picture.digest: picture for concept in concepts for picture in concept.pictures}
    paths = {item.digest: item.path for item in items}
    for digest, picture in kept.items():
        small = open_upright(paths[digest].read_bytes())
        small.thumbnail((_LARGEST, _LARGEST))
        with written_whole(folder / picture.small_file) as part:
            small.save(part, "WEBP", quality=80)
    # Last, since with it the record counts as whole.
    write_text(folder / _FILE, json.dumps([asdict(concept) for concept in concepts], indent=1) + "\n")


def read_concepts(folder: Path) -> list[RecordedConcept]:
    """Read what `record_concepts` wrote; nothing where it wrote nothing, or an earlier version something else."""
    try:
        concepts = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return [
            RecordedConcept(**{**one, "pictures": tuple(RecordedPicture(**picture) for picture in one["pictures"])})
            for one in concepts
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _concepts(items: Sequence[Item], always: set[str]) -> Iterator[RecordedConcept]:
    for concept, is_reg in dict.fromkeys((item.concept, item.is_reg) for item in items):
        own = [item for item in items if (item.concept, item.is_reg) == (concept, is_reg)]
        pictures = tuple(
            RecordedPicture(item.shown_name, item.digest, whole_captions(item)[0], *item.placement.bucket)
            for place, item in enumerate(own)
            if place < _MOST_OF_A_CONCEPT or item.shown_name in always
        )
        yield RecordedConcept(concept, is_reg, len(own), own[0].repeats, pictures)

"""The miniature: FLUX.1's own four classes at tiny size, in files like FLUX.1-dev's, which come with the package.

It was trained from nothing on a small drawn world (`make miniature`; the model card lies beside its files) and goes
through every loader that FLUX.1-dev goes through.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from fluxbooth.host.weights import MINIATURE, BaseWeights, weights_in_folder

MINIATURE_FOLDER = Path(__file__).parents[1] / "miniature"


def miniature_weights() -> BaseWeights:
    """Return the miniature's files: ComfyUI's folders inside the package."""
    return replace(weights_in_folder(MINIATURE_FOLDER), name=MINIATURE)


def miniature_scorer() -> Path:
    """Return the folder of the miniature's two CLIP towers, which judge its pictures."""
    return MINIATURE_FOLDER / "scorers/clip"


def other_subjects(kind: str) -> list[list[Image.Image]]:
    """Return other subjects of a kind of the miniature's world, each as its pictures: those of the sample concept of
    that kind ("toy", "gpu") with another subject in its stead.
    """
    return [_squares(file) for file in sorted((MINIATURE_FOLDER / "other_subjects" / kind).glob("*.png"))]


def _squares(file: Path) -> list[Image.Image]:
    with Image.open(file) as strip:
        side = strip.height
        return [strip.crop((left, 0, left + side, side)) for left in range(0, strip.width, side)]

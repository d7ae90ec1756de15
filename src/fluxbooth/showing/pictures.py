"""Save a generated picture with what made it."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fluxbooth.host.files import written_whole


def save_picture(picture: Image.Image, path: Path, made_with: dict[str, str]) -> None:
    """Write a PNG, whole or not at all, with `made_with` (prompt, seed, ...) as its text chunks."""
    about = PngInfo()
    for name, value in made_with.items():
        about.add_itxt(name, value)
    with written_whole(path) as part:
        picture.save(part, format="PNG", pnginfo=about)


def next_number(folder: Path) -> int:
    """The number after the highest that a picture's name in `folder` begins with, so that none is overwritten."""
    numbers = [int(found[1]) for path in folder.glob("*.png") if (found := re.match(r"(\d+)_", path.name))]
    return max(numbers, default=0) + 1

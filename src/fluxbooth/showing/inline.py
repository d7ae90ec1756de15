"""Pictures inside a page: the address of an `<img>` that holds the picture's bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

SIDES = (640, 512, 384, 256, 192, 128)
"""Pixels of the longer side that pictures are made smaller to, the first that fits."""
_EXACT_UP_TO = 160
"""Pixels of a picture that is kept as it is."""


def as_address(picture: Image.Image, side: int = SIDES[0]) -> str:
    """Return a picture as a WebP address, at most `side` pixels on its longer side; a tiny one bit for bit."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=78, lossless=max(small.size) <= _EXACT_UP_TO)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def fitted_addresses(files: Sequence[Path], budget: int) -> tuple[dict[Path, str], int]:
    """Return the addresses of picture files at the largest of `SIDES` at which all of them together fit, and that side.

    A file that cannot be read as a picture has none. At the smallest side they may be more than the budget.

    Args:
        budget: characters.
    """
    found: dict[Path, str] = {}
    for side in SIDES:
        found = {}
        for file in files:
            try:
                found[file] = _address_of(file, file.stat().st_mtime_ns, side)
            except OSError:
                continue
        if sum(map(len, found.values())) <= budget:
            return found, side
    return found, SIDES[-1]


@lru_cache(maxsize=2000)
def _address_of(file: Path, _changed: int, side: int) -> str:
    """The address of a file; a page that is written again and again opens it once."""
    with Image.open(file) as picture:
        return as_address(picture, side)

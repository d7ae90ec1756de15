"""From a picture to what a vision tower takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Preparation:
    """A tower's square and its colours.

    Other than the towers' own preparation, which cuts a picture's middle out, it squeezes: a subject at the side of a
    wide picture would be cut off.
    """

    side: int
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, folder: Path) -> Preparation:
        """Read it from preprocessor_config.json. Raises OSError, ValueError or KeyError where that cannot be."""
        values = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        size = values.get("crop_size") if values.get("do_center_crop", True) else None
        size = size or values["size"]
        side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
        return cls(int(side), np.array(values["image_mean"], np.float32), np.array(values["image_std"], np.float32))

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Scale the whole picture to the square and normalise: (3, side, side) float32."""
        square = picture.convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels: np.ndarray = (np.asarray(square, np.float32) / 255 - self.mean) / self.std
        return pixels.transpose(2, 0, 1)

"""CLIP as a judge: how alike two pictures are, and how well a picture fits a sentence.

N pictures or sentences, D features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel
from transformers.utils.logging import disable_progress_bar


class ClipScorer:
    """Both towers of a CLIP model, frozen, in a folder as transformers saves it (CLIP, arXiv 2103.00020)."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load the towers as float32. Raises OSError where `folder` holds no CLIP model."""
        disable_progress_bar()  # transformers shows one for a file that loads in a moment
        self._towers = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self._towers.to(device).requires_grad_(False).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        preparation = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        self._side = int(preparation["crop_size"]["height"])
        self._mean, self._std = (np.array(preparation[name], np.float32) for name in ("image_mean", "image_std"))
        self._device = device

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N, D) float32 on the CPU; CLIP sees the whole of each picture.

        Other than CLIP's own preparation, which cuts a picture's middle out, it squeezes: a subject at the side of a
        wide picture would be cut off.
        """
        pixels = np.stack([self._prepared(picture) for picture in pictures])
        seen = self._towers.vision_model(pixel_values=torch.from_numpy(pixels).to(self._device)).pooler_output
        return F.normalize(self._towers.visual_projection(seen).cpu(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (N, D) float32 on the CPU; what is longer than CLIP's 77 tokens is cut."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        read = self._towers.text_model(input_ids=tokens.input_ids.to(self._device)).pooler_output
        return F.normalize(self._towers.text_projection(read).cpu(), dim=-1)

    def _prepared(self, picture: Image.Image) -> np.ndarray:
        """Scale the whole picture to the tower's square and normalise: (3, side, side)."""
        square = picture.convert("RGB").resize((self._side, self._side), Image.Resampling.BICUBIC)
        return ((np.asarray(square, np.float32) / 255 - self._mean) / self._std).transpose(2, 0, 1)

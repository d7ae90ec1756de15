"""CLIP as a judge: how alike two pictures are, and how well a picture fits a sentence.

N pictures or sentences, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel
from transformers.utils.logging import disable_progress_bar

from fluxbooth.judging.preparation import Preparation


class ClipScorer:
    """Both towers of a CLIP model, frozen, in a folder as transformers saves it (CLIP, arXiv 2103.00020)."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load the towers as float32. Raises OSError where `folder` holds no CLIP model."""
        disable_progress_bar()  # transformers shows one for a file that loads in a moment
        self._towers = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self._towers.to(device).requires_grad_(False).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._preparation = Preparation.of(folder)
        self._device = device

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N, D) float32 on the CPU; CLIP sees the whole of each picture."""
        return self.class_tokens(pictures)[1]

    @torch.no_grad()
    def class_tokens(self, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Return unit vectors (N, D') before CLIP's projection and (N, D) behind it, float32 on the CPU."""
        pixels = np.stack([self._preparation(picture) for picture in pictures])
        seen = self._towers.vision_model(pixel_values=torch.from_numpy(pixels).to(self._device)).pooler_output
        return F.normalize(seen.cpu(), dim=-1), F.normalize(self._towers.visual_projection(seen).cpu(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (N, D) float32 on the CPU; what is longer than CLIP's 77 tokens is cut."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        read = self._towers.text_model(input_ids=tokens.input_ids.to(self._device)).pooler_output
        return F.normalize(self._towers.text_projection(read).cpu(), dim=-1)

"""What looks at the pictures: DINO and CLIP, or for the miniature its own CLIP in both places.

N pictures or sentences, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from fluxbooth.errors import Problem, UserError
from fluxbooth.judging.clip_scorer import ClipScorer
from fluxbooth.judging.preparation import Preparation

_AT_ONCE = 16
"""Pictures that go through a tower together."""


@dataclass(frozen=True)
class Seen:
    """Pictures as both towers see them."""

    dino: Tensor
    """(N, D) float32 unit vectors on the CPU."""
    clip: Tensor
    """(N, D') float32 unit vectors on the CPU."""


class Eyes(Protocol):
    """Two vision towers and a text tower."""

    @property
    def about(self) -> Mapping[str, str]:
        """What "dino", "clip_i" and "clip_t" are, in words."""

    def look(self, pictures: Sequence[Image.Image]) -> Seen:
        """See pictures."""

    def read(self, sentences: Sequence[str]) -> Tensor:
        """Return what CLIP reads in sentences: (N, D') float32 unit vectors on the CPU."""


class MiniatureEyes:
    """The miniature's CLIP alone; what its vision tower holds before CLIP's projection stands for DINO.

    DINO's vector is its class token, and so is this one. It is no second opinion: both come out of one tower.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load both towers."""
        self._clip = ClipScorer(folder, device)

    @property
    def about(self) -> Mapping[str, str]:
        """What "dino", "clip_i" and "clip_t" are, in words."""
        own = "the miniature's own CLIP"
        return {"dino": f"class token of {own} before its projection, in DINO's place", "clip_i": own, "clip_t": own}

    def look(self, pictures: Sequence[Image.Image]) -> Seen:
        """See pictures."""
        dino, clip = zip(*(self._clip.class_tokens(some) for some in _chunks(pictures)), strict=True)
        return Seen(torch.cat(dino), torch.cat(clip))

    def read(self, sentences: Sequence[str]) -> Tensor:
        """Return what CLIP reads in sentences: (N, D') float32 unit vectors on the CPU."""
        return self._clip.embed_texts(sentences)


class DinoAndClip:
    """DINO (or DINOv2) and CLIP, from folders as transformers saves them."""

    def __init__(self, dino: Path, clip: Path, device: torch.device) -> None:
        """Load them. Raises UserError for a folder that holds no such model."""
        disable_progress_bar()
        self._names = dino.name, clip.name
        try:
            self._dino = AutoModel.from_pretrained(dino, local_files_only=True, dtype=torch.float32)
            self._clip = ClipScorer(clip, device)
            self._preparation = Preparation.of(dino)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                Problem(f"cannot be loaded: {error}", where=f"{dino} or {clip}", do="`fluxbooth download --scorers`")
            ) from error
        self._dino.to(device).requires_grad_(False).eval()
        self._device = device

    @property
    def about(self) -> Mapping[str, str]:
        """What "dino", "clip_i" and "clip_t" are, in words."""
        dino, clip = self._names
        return {"dino": dino, "clip_i": clip, "clip_t": clip}

    @torch.no_grad()
    def look(self, pictures: Sequence[Image.Image]) -> Seen:
        """See pictures."""
        dino = []
        for some in _chunks(pictures):
            pixels = np.stack([self._preparation(picture) for picture in some])
            states = self._dino(pixel_values=torch.from_numpy(pixels).to(self._device)).last_hidden_state  # (n, L, D)
            dino.append(F.normalize(states[:, 0].cpu(), dim=-1))
        clip = [self._clip.embed_pictures(some) for some in _chunks(pictures)]
        return Seen(torch.cat(dino), torch.cat(clip))

    def read(self, sentences: Sequence[str]) -> Tensor:
        """Return what CLIP reads in sentences: (N, D') float32 unit vectors on the CPU."""
        return self._clip.embed_texts(sentences)


def _chunks(pictures: Sequence[Image.Image]) -> list[Sequence[Image.Image]]:
    return [pictures[first : first + _AT_ONCE] for first in range(0, len(pictures), _AT_ONCE)]

"""Encoded pictures and captions, and losses of the base model, each stored under the hash of everything that made it.

Another picture under the same name, another caption, crop, VAE or number format is another key: what is found is
right, and what changed is encoded again. Lives in its own folder, never beside the user's pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.flux.text import TextEmbeds

# Changes whenever encoding changes what it computes.
_REVISION = 1
_DAYS_KEPT = 30
"""An entry that no run has used for so long is deleted."""


def cache_key(*identity: object) -> str:
    """Hash what an entry is made from: 64 hexadecimal digits."""
    return hashlib.sha256("\n".join(map(str, (_REVISION, *identity))).encode()).hexdigest()


@dataclass(frozen=True)
class EncodedPicture:
    """What the cache knows of a picture."""

    latents: Tensor
    """(16, H, W) float32."""
    mask: Tensor
    """(H, W) float32, 0 to 1: how much each latent counts; ones without a mask."""


class EncodedCache:
    """Latents, text embeddings and losses in safetensors files."""

    def __init__(self, folder: Path) -> None:
        """Keep entries below `folder`, which is made when first needed."""
        self._folder = folder

    def has_latents(self, key: str) -> bool:
        """Whether the latents of `key` are there."""
        return _is_whole(self._latents_file(key))

    def has_text(self, key: str) -> bool:
        """Whether the text embeddings of `key` are there."""
        return _is_whole(self._text_file(key))

    def latents(self, key: str) -> EncodedPicture:
        """Read a picture's latents and mask."""
        tensors: dict[str, Tensor] = load_file(self._latents_file(key))
        latents = tensors["latents"]
        return EncodedPicture(latents, tensors.get("mask", torch.ones(latents.shape[1:])))

    def text(self, key: str) -> TextEmbeds:
        """Read text embeddings, in the format they were encoded in."""
        return TextEmbeds(**load_file(self._text_file(key)))

    def put_latents(self, key: str, latents: Tensor, mask: Tensor | None = None) -> None:
        """Store latents, (16, H, W) float32, and a mask, (H, W) float32, where there is one."""
        tensors = {"latents": latents} if mask is None else {"latents": latents, "mask": mask}
        save_tensors(self._latents_file(key), tensors, {})

    def put_text(self, key: str, embeds: TextEmbeds) -> None:
        """Store text embeddings."""
        tensors = {"prompt_embeds": embeds.prompt_embeds, "pooled_prompt_embeds": embeds.pooled_prompt_embeds}
        save_tensors(self._text_file(key), tensors, {})

    def losses(self, key: str) -> Tensor | None:
        """Read losses, (pictures, noise levels) float32; None where the cache has none under this key."""
        file = self._losses_file(key)
        if not _is_whole(file):
            return None
        with contextlib.suppress(FileNotFoundError):
            os.utime(file)
        losses: Tensor = load_file(file)["losses"]
        return losses

    def put_losses(self, key: str, losses: Tensor) -> None:
        """Store losses, (pictures, noise levels) float32."""
        save_tensors(self._losses_file(key), {"losses": losses}, {})

    def sweep(self, used: Iterable[str]) -> int:
        """Note that the entries of these keys were used; delete those that nothing used for a month; return how many.

        Also deletes parts of files that a process was killed over. What another process has just written or read is
        younger than that.
        """
        now = time.time()
        for key in used:
            for file in (self._latents_file(key), self._text_file(key)):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(file, (now, now))
        swept = 0
        for folder in ("latents", "text", "losses"):
            for file in (self._folder / folder).glob("*"):
                with contextlib.suppress(FileNotFoundError):  # another process may sweep, too
                    if now - file.stat().st_mtime > _DAYS_KEPT * 86400:
                        file.unlink()
                        swept += 1
        return swept

    def clear(self) -> None:
        """Delete every entry; they are encoded again when they are needed.

        Raises:
            UserError: where one cannot be deleted.
        """
        try:
            for folder in ("latents", "text", "losses", "composites"):
                if (self._folder / folder).exists():
                    shutil.rmtree(self._folder / folder)
            (self._folder / "pictures.json").unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                Problem(
                    f"cannot be cleared: {error.strerror}",
                    where=str(error.filename or self._folder),
                    do="Delete it yourself",
                )
            ) from error

    def _latents_file(self, key: str) -> Path:
        return self._folder / "latents" / f"{key}.safetensors"

    def _text_file(self, key: str) -> Path:
        return self._folder / "text" / f"{key}.safetensors"

    def _losses_file(self, key: str) -> Path:
        return self._folder / "losses" / f"{key}.safetensors"


def _is_whole(path: Path) -> bool:
    """Whether there is a file that can be read; one that was damaged is made again."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (FileNotFoundError, SafetensorError):
        return False

"""The third stage: pictures of the world as latents on disk, so that each is drawn and encoded once and used often."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from world.scene import Scene

from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.host.files import written_whole
from miniature.scenes import picture_of, scene_of
from miniature.stage import half_precision
from miniature.workers import Worker

# How many scenes of each shape (width, height) in pixels: the square, and the buckets that people's pictures fall into.
SCENES = {(96, 96): 32768, (80, 112): 6144, (112, 80): 6144, (128, 64): 3072, (64, 128): 1024}
SHARES = {(96, 96): 0.55, (80, 112): 0.16, (112, 80): 0.16, (128, 64): 0.1, (64, 128): 0.03}
"""How many of the steps draw each shape."""
_TOGETHER = 32
Shape = tuple[int, int]


def scene_in(shape: Shape, number: int) -> Scene:
    """Return the scene with this number among those of a shape."""
    return scene_of(f"flow {shape[0]}x{shape[1]}", number)


def encode_scenes(worker: Worker, folder: Path) -> None:
    """Encode this worker's share of the scenes into folder/latents-RANKofSIZE.pt, unless it is there."""
    path = _file(folder, worker.rank, worker.size)
    if path.exists():
        return
    vae = load_vae(folder, worker.device)
    encoded: dict[str, Tensor] = {}
    for shape, count in SCENES.items():
        numbers = range(worker.rank, count, worker.size)
        parts = []
        for start in range(0, len(numbers), _TOGETHER):
            scenes = [scene_in(shape, number) for number in numbers[start : start + _TOGETHER]]
            pixels = torch.stack([picture_of(scene, *shape) for scene in scenes])
            with torch.no_grad(), half_precision(worker.device):
                parts.append(vae.encode(pixels.to(worker.device)).latent_dist.mean.to("cpu", torch.float16))
        encoded[_key(shape)] = torch.cat(parts)
        if worker.leads:
            print(f"latents: {count} scenes of {shape[0]}x{shape[1]}", flush=True)
    with written_whole(path) as part:
        torch.save(encoded, part)


def load_vae(folder: Path, device: torch.device) -> AutoencoderKL:
    """Return the first stage's autoencoder, frozen."""
    vae = AutoencoderKL(**bundled_architecture("miniature").vae)
    vae.load_state_dict(torch.load(folder / "vae.pt", weights_only=True))
    return vae.to(device).requires_grad_(False).eval()


class Latents:
    """All encoded scenes, by number, shifted and scaled as FLUX.1 does it."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._parts = [
            torch.load(_file(folder, rank, workers), mmap=True, weights_only=True) for rank in range(workers)
        ]
        vae = bundled_architecture("miniature").vae
        self._shift, self._scale = vae["shift_factor"], vae["scaling_factor"]

    def of(self, shape: Shape, number: int) -> Tensor:
        """Return the latent (16, height / 8, width / 8) of a scene."""
        part, row = number % len(self._parts), number // len(self._parts)
        latent: Tensor = (self._parts[part][_key(shape)][row].float() - self._shift) * self._scale
        return latent


def _key(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


def _file(folder: Path, rank: int, workers: int) -> Path:
    return folder / f"latents-{rank}of{workers}.pt"

"""The first stage: an autoencoder that keeps the small marks. Nothing after it can be sharper than it is."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from fluxbooth.flux.architecture import bundled_architecture
from miniature.scenes import PICTURE_SIDE, picture_of, save_sheet, scene_of
from miniature.stage import Stage, half_precision, train_stage
from miniature.workers import Worker

_ENDS = ("conv_in", "conv_out")
# Pieces first: they hold as much to learn for each pixel and are cheaper, then whole pictures.
PIECES = Stage("vae-pieces", steps=2000, batch=24, learning_rate=2e-3, ends=_ENDS)
WHOLE = Stage("vae-whole", steps=1400, batch=16, learning_rate=1e-3, ends=_ENDS)
# The encoder is done then. The decoder goes on with disturbed latents: those that it will get are drawn by a network,
# never quite right.
DECODER = Stage("vae-decoder", steps=400, batch=16, learning_rate=7e-4, ends=_ENDS)
_PIECE_SIDE = 64
_LARGEST_DISTURBANCE = 0.45
"""Of the decoder's stage, in standard deviations of the latents."""
_KL_WEIGHT = 3e-4


def train_vae(worker: Worker, folder: Path) -> None:
    """Train the autoencoder and leave its weights in folder/vae.pt."""
    torch.manual_seed(1)
    vae = AutoencoderKL(**bundled_architecture("miniature").vae).to(worker.device)
    for stage, side, disturbance in (
        (PIECES, _PIECE_SIDE, 0.0),
        (WHOLE, PICTURE_SIDE, 0.0),
        (DECODER, PICTURE_SIDE, _LARGEST_DISTURBANCE),
    ):
        vae.encoder.requires_grad_(stage is not DECODER)
        losses = _Losses(vae, stage.name, side, disturbance, worker)
        train_stage(stage, vae, losses, worker, folder, _Look(folder, stage.name, worker))
    if worker.leads:
        torch.save(vae.state_dict(), folder / "vae.pt")


class _Losses:
    def __init__(self, vae: AutoencoderKL, use: str, side: int, disturbance: float, worker: Worker) -> None:
        self._vae, self._use, self._side, self._worker = vae, use, side, worker
        self._disturbance = disturbance / bundled_architecture("miniature").vae["scaling_factor"]

    def __call__(self, step: int, items: list[int]) -> dict[str, Tensor]:
        pixels = torch.stack([self._piece(item) for item in items]).to(self._worker.device)
        generator = torch.Generator().manual_seed(items[0])
        with half_precision(self._worker.device):
            posterior = self._vae.encode(pixels).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
            strength = self._disturbance * torch.rand(len(items), 1, 1, 1, generator=generator).to(posterior.mean)
            spread = (posterior.var + strength**2).sqrt()
            drawn = self._vae.decode(posterior.mean + spread * noise).sample.float()
        absolute = (drawn - pixels).abs().mean()
        squared = F.mse_loss(drawn, pixels)
        edges = _edge_loss(drawn, pixels)
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = absolute + 2 * squared + 0.5 * edges + _KL_WEIGHT * kl
        return {"loss": loss, "mse": squared.detach(), "kl": kl.detach()}

    def _piece(self, item: int) -> Tensor:
        picture = picture_of(scene_of(self._use, item))
        # Things stand low in a picture, so most pieces are cut from there.
        random = Random(item)
        room = PICTURE_SIDE - self._side
        top, left = max(random.randint(0, room), random.randint(0, room)), random.randint(0, room)
        return picture[:, top : top + self._side, left : left + self._side]


def _edge_loss(drawn: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels."""
    error = drawn - pixels
    return (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()


class _Look:
    def __init__(self, folder: Path, name: str, worker: Worker) -> None:
        self._folder, self._name, self._device = folder, name, worker.device

    @torch.no_grad()
    def __call__(self, step: int, vae: nn.Module) -> dict[str, float]:
        assert isinstance(vae, AutoencoderKL)
        pixels = torch.stack([picture_of(scene_of("look", number)) for number in range(48)]).to(self._device)
        latents = vae.encode(pixels).latent_dist.mean
        drawn = vae.decode(latents).sample.clamp(-1, 1)
        mse = ((drawn - pixels) / 2).square().mean((1, 2, 3))
        save_sheet(self._folder / f"{self._name}.png", [*pixels[:10], *drawn[:10]], columns=10)
        return {
            "psnr": float((-10 * mse.log10()).mean()),
            "latent_mean": float(latents.mean()),
            "latent_std": float(latents.std()),
        }

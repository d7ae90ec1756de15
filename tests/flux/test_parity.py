"""The transformer's output and the loss are kohya's, for the same weights and inputs, to rounding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from flux.golden_model import TINY, golden_file, load_golden, named_noise
from fluxbooth.flux.flow import add_noise, predict_velocity, velocity_loss

SIGMAS = torch.tensor([0.3, 0.85])


@dataclass(frozen=True)
class Golden:
    """What kohya's transformer gave: (2, 16, 8, 12) in numbers that together leave little room."""

    mean: float
    std: float
    largest: float
    norm: float
    first: tuple[float, ...]
    loss: float

    def agrees_with(self, velocity: Tensor, loss: Tensor, tolerance: float) -> None:
        """Assert that every number agrees up to `tolerance`, relative to numbers of about 1."""
        ours = velocity.float()
        assert ours.mean().item() == pytest.approx(self.mean, abs=tolerance)
        assert ours.std().item() == pytest.approx(self.std, rel=tolerance)
        assert ours.abs().max().item() == pytest.approx(self.largest, rel=tolerance)
        assert ours.norm().item() == pytest.approx(self.norm, rel=tolerance)
        assert ours.flatten()[:4].tolist() == pytest.approx(list(self.first), abs=8 * tolerance)
        assert loss.item() == pytest.approx(self.loss, rel=tolerance)


GUIDANCE_1 = Golden(
    mean=-0.023601947277105257,
    std=1.0762434032084254,
    largest=4.400457382202148,
    norm=59.65609895561465,
    first=(1.3858013153076172, -1.5659561157226562, 0.0979359894990921, 0.6019899249076843),
    loss=3.1335253715515137,
)
GUIDANCE_3_5 = Golden(
    mean=0.011439245388222238,
    std=1.0439461224022193,
    largest=4.507686138153076,
    norm=57.85542307387575,
    first=(1.8583749532699585, -1.630370855331421, 0.9070428609848022, -0.07753995060920715),
    loss=3.0690689086914062,
)
BFLOAT16 = Golden(
    mean=-0.023597789307435352,
    std=1.0761813358811063,
    largest=4.40625,
    norm=59.652655168829824,
    first=(1.3984375, -1.5703125, 0.09716796875, 0.59765625),
    loss=3.1332974433898926,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_file(tmp_path_factory.mktemp("golden"), TINY)


def velocity_and_loss(transformer: FluxTransformer2DModel, guidance_scale: float) -> tuple[Tensor, Tensor]:
    latents, noise = (named_noise(f"golden:A.{name}", 2, 16, 8, 12) for name in ("latents", "noise"))
    texts, vectors = named_noise("golden:A.txt", 2, 16, 64), named_noise("golden:A.vec", 2, 32)
    noisy = add_noise(latents, noise, SIGMAS)
    with torch.no_grad():
        velocity = predict_velocity(transformer, noisy, SIGMAS, texts, vectors, guidance_scale)
    return velocity, velocity_loss(velocity, latents, noise, torch.ones(2))


@pytest.mark.parametrize(("guidance_scale", "golden"), [(1.0, GUIDANCE_1), (3.5, GUIDANCE_3_5)])
def test_in_float32_the_velocity_and_the_loss_are_kohyas(file: Path, guidance_scale: float, golden: Golden) -> None:
    transformer = load_golden(file, TINY, torch.float32)
    golden.agrees_with(*velocity_and_loss(transformer, guidance_scale), tolerance=1e-6)


def test_in_bfloat16_they_are_kohyas_up_to_its_rounding(file: Path) -> None:
    """With the timestep in bfloat16, as diffusers would have it, single values are off by 0.4 and the loss by 0.009."""
    transformer = load_golden(file, TINY, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        velocity, loss = velocity_and_loss(transformer, 1.0)
    assert velocity.dtype is torch.bfloat16
    BFLOAT16.agrees_with(velocity, loss, tolerance=2e-3)

"""The transformer's output and the loss are kohya's, for the same weights and inputs, to rounding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from flux.golden_model import TINY, golden_file, kohyas_lora, load_golden, named_noise
from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.flow import add_noise, predict_velocity, velocity_loss
from fluxbooth.flux.keys import stacked_modules
from fluxbooth.flux.lora import add_lora, apply_lora
from fluxbooth.flux.tensor_files import save_tensors

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
WITH_LORA = Golden(
    mean=-0.03333742036329568,
    std=1.0778675503274255,
    largest=4.365185737609863,
    norm=59.760331566469574,
    first=(1.2907999753952026, -1.753221035003662, 0.14909514784812927, 0.567211389541626),
    loss=3.1424403190612793,
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


def test_with_kohyas_lora_they_are_what_they_are_in_kohyas_code(file: Path, tmp_path: Path) -> None:
    """Rank 4, alpha 2, on all 26 matrices inside the blocks."""
    lora = kohyas_lora(file, rank=4, alpha=2.0)
    assert sum(key.endswith(".alpha") for key in lora) == 26
    save_tensors(tmp_path / "kohya.safetensors", lora, {})
    transformer = load_golden(file, TINY, torch.float32)
    apply_lora(transformer, tmp_path / "kohya.safetensors", 1.0)
    WITH_LORA.agrees_with(*velocity_and_loss(transformer, 1.0), tolerance=1e-6)


def test_the_loras_gradients_are_kohyas(file: Path) -> None:
    """kohya keeps one pair for query, key and value; ours, with the same A in each, share out its gradient."""
    lora = kohyas_lora(file, rank=4, alpha=2.0)
    transformer = load_golden(file, TINY, torch.float32)
    add_lora(transformer, rank=4, alpha=2.0, seed=0)
    ours = dict(transformer.named_parameters())
    pairs: dict[str, list[tuple[nn.Parameter, nn.Parameter]]] = {}
    for name in (key.removesuffix(".alpha") for key in lora if key.endswith(".alpha")):
        found = re.fullmatch(r"lora_unet_(double|single)_blocks_(\d+)_(.+)", name)
        assert found is not None
        modules = stacked_modules(f"{found[1]}_blocks", int(found[2]), found[3])
        pairs[name] = [(ours[f"{m}.lora_A.fluxbooth.weight"], ours[f"{m}.lora_B.fluxbooth.weight"]) for m in modules]
        rows = torch.split(lora[f"{name}.lora_up.weight"], [len(up) for _, up in pairs[name]])
        for (down, up), part in zip(pairs[name], rows, strict=True):
            down.data.copy_(lora[f"{name}.lora_down.weight"])
            up.data.copy_(part)

    _, loss = velocity_and_loss(transformer, 1.0)
    torch.autograd.backward(loss)

    gradients: dict[str, Tensor] = {}
    for name, members in pairs.items():
        gradients[f"{name}.lora_down"] = sum((grad_of(down) for down, _ in members), torch.zeros(()))
        gradients[f"{name}.lora_up"] = torch.cat([grad_of(up) for _, up in members])
    assert {name: gradients[name].norm().item() for name in GRADIENT_NORMS} == pytest.approx(GRADIENT_NORMS, rel=1e-4)
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert whole.norm().item() == pytest.approx(0.1198359802365303, rel=1e-5)


GRADIENT_NORMS = {
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down": 0.007074542343616486,
    "lora_unet_double_blocks_0_img_attn_qkv.lora_up": 0.011152300983667374,
    "lora_unet_double_blocks_1_txt_mlp_2.lora_down": 0.001588722923770547,
    "lora_unet_double_blocks_1_txt_mlp_2.lora_up": 0.0010048245312646031,
    "lora_unet_single_blocks_0_linear1.lora_down": 0.00827280804514885,
    "lora_unet_single_blocks_0_linear1.lora_up": 0.01484470721334219,
    "lora_unet_single_blocks_0_modulation_lin.lora_down": 0.01659473218023777,
    "lora_unet_single_blocks_0_modulation_lin.lora_up": 0.039760567247867584,
}


def grad_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


THIN = Golden(
    mean=0.02811393625893288,
    std=1.06733523871004,
    largest=3.5906381607055664,
    norm=68.32481194415796,
    first=(-0.5168285965919495, 0.1348201334476471, -1.6014991998672485, -0.5222050547599792),
    loss=3.196855306625366,
)


@pytest.mark.slow
def test_at_flux_devs_width_they_are_kohyas(tmp_path: Path) -> None:
    """Width 3072, 24 heads, one double and two single blocks: FLUX.1-dev but for its depth."""
    config = {**bundled_architecture("flux-dev").transformer, "num_layers": 1, "num_single_layers": 2}
    transformer = load_golden(golden_file(tmp_path, config), config, torch.float32)
    latents, noise = (named_noise(f"golden:T.{name}", 1, 16, 16, 16) for name in ("latents", "noise"))
    texts, vectors = named_noise("golden:T.txt", 1, 32, 4096), named_noise("golden:T.vec", 1, 768)
    sigmas = torch.tensor([0.6])
    with torch.no_grad():
        velocity = predict_velocity(transformer, add_noise(latents, noise, sigmas), sigmas, texts, vectors, 1.0)
    THIN.agrees_with(velocity, velocity_loss(velocity, latents, noise, torch.ones(1)), tolerance=2e-5)

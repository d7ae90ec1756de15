"""LoRA files in diffusers' form and in kohya's: the same weights in both, under the names that a real ComfyUI takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from flux.golden_model import TINY, golden_file, kohyas_lora, load_golden, named_noise
from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.lora import add_lora, lora_tensors
from fluxbooth.flux.lora_formats import LoraLayer, as_kohya, as_tensors, check_lora_file, read_layers
from fluxbooth.flux.tensor_files import save_tensors

# Measured in ComfyUI 0.3.64 with one double and one single block of width 3072: every name that it takes, and the first
# row and the number of rows of the weight that it patches, where that is not the whole weight.
TAKEN = json.loads((Path(__file__).parent / "comfyui_lora_names.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_file(tmp_path_factory.mktemp("golden"), TINY)


def transformer_of(file: Path) -> FluxTransformer2DModel:
    return load_golden(file, TINY, torch.float32)


def random_layers(transformer: FluxTransformer2DModel) -> list[tuple[str, LoraLayer]]:
    """A LoRA with numbers in it, of rank 3 and alpha 2, on every matrix inside the blocks."""
    for number, parameter in enumerate(add_lora(transformer, rank=3, alpha=2.0, seed=0)):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1
    tensors = lora_tensors(transformer, torch.float32)
    names = [key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")]
    return [
        (name, LoraLayer(tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"], 2.0)) for name in names
    ]


def deltas(path: Path) -> dict[str, Tensor]:
    return {name: layer.delta() for name, layer in read_layers(path)}


def test_a_lora_is_the_same_in_both_forms_and_back_again(file: Path, tmp_path: Path) -> None:
    layers = random_layers(transformer_of(file))
    save_tensors(tmp_path / "diffusers.safetensors", as_tensors(layers), {})
    save_tensors(tmp_path / "kohya.safetensors", as_tensors(as_kohya(layers)), {})
    ours, theirs = deltas(tmp_path / "diffusers.safetensors"), deltas(tmp_path / "kohya.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-7), name
    back = as_tensors(read_layers(tmp_path / "kohya.safetensors"))
    assert back.keys() == as_tensors(layers).keys()
    for key, tensor in as_tensors(layers).items():
        assert torch.equal(back[key], tensor), key


def test_kohyas_own_file_survives_the_way_to_diffusers_and_back(file: Path, tmp_path: Path) -> None:
    original = kohyas_lora(file, rank=4, alpha=2.0)
    save_tensors(tmp_path / "original.safetensors", original, {})
    save_tensors(tmp_path / "diffusers.safetensors", as_tensors(read_layers(tmp_path / "original.safetensors")), {})
    back = as_tensors(as_kohya(read_layers(tmp_path / "diffusers.safetensors")))
    assert back.keys() == original.keys()
    for key, tensor in original.items():
        assert torch.equal(back[key], tensor), key


@pytest.fixture(scope="module")
def layers_at_full_width() -> list[tuple[str, LoraLayer]]:
    """A LoRA of rank 1 on every matrix inside one double and one single block of FLUX.1-dev's width."""
    config = {**bundled_architecture("flux-dev").transformer, "num_layers": 1, "num_single_layers": 1}
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    return [
        (f"transformer.{name}", LoraLayer(torch.ones(1, module.in_features), torch.ones(module.out_features, 1), 1.0))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "transformer_blocks." in name
    ]


def test_comfyui_takes_every_name_of_either_form(layers_at_full_width: list[tuple[str, LoraLayer]]) -> None:
    for modules in (layers_at_full_width, as_kohya(layers_at_full_width)):
        names = {name for name, _ in modules}
        assert names <= TAKEN.keys()
    assert len(names) == 13, "every matrix inside the two blocks, as kohya counts them"


def test_comfyui_patches_the_rows_where_kohyas_form_puts_them(
    layers_at_full_width: list[tuple[str, LoraLayer]],
) -> None:
    """A layer alone, in kohya's form, has its numbers in the rows that ComfyUI patches for diffusers' name."""
    for name, layer in layers_at_full_width:
        first_row, rows = TAKEN[name]
        if rows is None:
            continue
        ((_, joined),) = as_kohya([(name, layer)])
        changed = joined.up.flatten().nonzero().flatten()
        assert (changed[0], changed[-1]) == (first_row, first_row + rows - 1), name


def test_layers_of_other_ranks_and_alphas_share_kohyas_matrix(tmp_path: Path) -> None:
    def layer(name: str, rank: int, alpha: float) -> tuple[str, LoraLayer]:
        down, up = named_noise(f"{name} down", rank, 64), named_noise(f"{name} up", 64, rank)
        return f"transformer.transformer_blocks.0.attn.{name}", LoraLayer(down, up, alpha)

    layers = [layer("to_q", 2, 2.0), layer("to_v", 4, 1.0)]  # none on to_k
    tensors = as_tensors(as_kohya(layers))
    assert tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"].shape == (3 * 64, 6)
    save_tensors(tmp_path / "kohya.safetensors", tensors, {})
    found = deltas(tmp_path / "kohya.safetensors")
    for name, given in layers:
        assert torch.allclose(found[name], given.delta(), atol=1e-6)
    assert not found["transformer.transformer_blocks.0.attn.to_k"].any()


def test_a_clip_lora_has_kohyas_names_and_the_level_that_comfyui_wants(tmp_path: Path) -> None:
    name = "text_encoder.text_model.encoder.layers.11.self_attn.q_proj"
    tensors = as_tensors(as_kohya([(name, LoraLayer(torch.ones(2, 8), torch.ones(8, 2), 2.0))]))
    assert "lora_te1_text_model_encoder_layers_11_self_attn_q_proj.lora_down.weight" in tensors
    save_tensors(tmp_path / "kohya.safetensors", tensors, {})
    assert [found for found, _ in read_layers(tmp_path / "kohya.safetensors")] == [name]


def test_what_kohya_has_no_name_for_is_said() -> None:
    for name in ("transformer.no_such.linear", "transformer.norm_out.linear"):
        with pytest.raises(UserError, match="Keep diffusers' format"):
            as_kohya([(name, LoraLayer(torch.ones(2, 64), torch.ones(64, 2), 2.0))])


def test_a_file_is_checked_without_reading_its_tensors(file: Path, tmp_path: Path) -> None:
    save_tensors(tmp_path / "kohya.safetensors", kohyas_lora(file, rank=4, alpha=2.0), {})
    layers = check_lora_file(tmp_path / "kohya.safetensors")
    assert len(layers) == 26
    assert "lora_unet_single_blocks_1_linear1" in layers

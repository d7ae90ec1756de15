"""Single files: what diffusers' own converters make of ours, and what is said about a file that does not fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file, save_file

from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import Architecture, architecture_of, bundled_architecture
from fluxbooth.flux.keys import clip_source, transformer_source, vae_source
from fluxbooth.flux.parts import load_clip, load_t5, load_transformer, load_vae
from fluxbooth.flux.single_file import load_single_file, save_single_file
from fluxbooth.flux.weight_files import header_of
from fluxbooth.host.weights import BaseWeights

CPU = torch.device("cpu")


def test_every_parameter_lies_where_diffusers_converter_finds_it() -> None:
    """At FLUX.1-dev's width, which the converter has written into it; a column is enough, since only rows are moved."""
    width = 3072
    config = {**bundled_architecture("flux-dev").transformer, "num_layers": 2, "num_single_layers": 2}
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    rows = {name: parameter.shape[0] for name, parameter in model.named_parameters()}
    sources = {name: transformer_source(name, width) for name in rows}
    heights: dict[str, int] = {}
    for name, source in sources.items():
        heights[source.key] = max(heights.get(source.key, 0), source.first_row + rows[name])
    file = {key: torch.randn(height, 1) for key, height in heights.items()}
    reference = convert_flux_transformer_checkpoint_to_diffusers(dict(file))
    assert reference.keys() == rows.keys()
    for name, source in sources.items():
        ours = file[source.key][source.first_row : source.first_row + rows[name]]
        if source.swap_halves:
            ours = torch.cat(ours.chunk(2)[::-1])
        assert torch.equal(ours, reference[name]), name


def test_the_transformers_file_has_black_forest_labs_keys(weights: BaseWeights) -> None:
    shapes = header_of(weights.transformer)
    assert shapes["double_blocks.0.img_attn.qkv.weight"] == (3 * 192, 192)
    assert shapes["single_blocks.3.linear1.weight"] == (3 * 192 + 4 * 192, 192)
    assert shapes["final_layer.adaLN_modulation.1.weight"] == (2 * 192, 192)
    assert shapes["double_blocks.1.txt_attn.norm.key_norm.scale"] == (32,)


def test_a_models_weights_survive_the_file(weights: BaseWeights, architecture: Architecture) -> None:
    file = load_file(weights.transformer)
    transformer = load_transformer(weights, architecture, torch.float32, CPU)
    loaded = dict(transformer.named_parameters())
    qkv = file["double_blocks.0.img_attn.qkv.weight"].float()
    for index, name in enumerate(("to_q", "to_k", "to_v")):
        part = qkv[index * 192 : (index + 1) * 192]
        assert torch.equal(loaded[f"transformer_blocks.0.attn.{name}.weight"], part)
    shift, scale = file["final_layer.adaLN_modulation.1.weight"].float().chunk(2)
    assert torch.equal(loaded["norm_out.linear.weight"], torch.cat([scale, shift]))
    assert torch.equal(
        loaded["single_transformer_blocks.0.proj_mlp.weight"], file["single_blocks.0.linear1.weight"][576:]
    )


def test_the_vae_is_what_diffusers_converter_makes_of_the_file(
    weights: BaseWeights, architecture: Architecture
) -> None:
    vae = load_vae(weights, architecture, torch.float32, CPU)
    reference = convert_ldm_vae_checkpoint(load_file(weights.vae), dict(vae.config))
    ours = vae.state_dict()
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[name], reference[name].float()) for name in ours)


def test_a_vae_with_attention_survives_the_file(tmp_path: Path) -> None:
    """FLUX.1's VAE has attention in the middle, kept as 1 x 1 convolutions; the miniature's has none."""
    config = {**bundled_architecture("flux-dev").vae, "block_out_channels": [32, 32, 32, 64], "norm_num_groups": 8}
    made, source_of = AutoencoderKL(**config), partial(vae_source, levels=4)
    save_single_file(made, tmp_path / "ae.safetensors", source_of, torch.float32, {})
    file = load_file(tmp_path / "ae.safetensors")
    reference = convert_ldm_vae_checkpoint(dict(file), dict(made.config))
    assert all(torch.equal(tensor, reference[name]) for name, tensor in made.state_dict().items())

    attention = {key for key, tensor in file.items() if "attn_1" in key and tensor.ndim == 2}
    assert len(attention) == 8
    save_file(
        {key: tensor[:, :, None, None] if key in attention else tensor for key, tensor in file.items()},
        tmp_path / "convolutions.safetensors",
    )
    read = load_single_file(
        lambda: AutoencoderKL(**config), tmp_path / "convolutions.safetensors", source_of, torch.float32, CPU
    )
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in made.state_dict().items())


def test_clips_keys_have_the_level_that_transformers_dropped(weights: BaseWeights) -> None:
    keys = header_of(weights.clip)
    assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in keys
    assert clip_source("encoder.layers.0.mlp.fc1.bias").key == "text_model.encoder.layers.0.mlp.fc1.bias"


def test_every_part_is_frozen_and_in_the_asked_format(weights: BaseWeights, architecture: Architecture) -> None:
    parts = [
        load_transformer(weights, architecture, torch.bfloat16, CPU),
        load_vae(weights, architecture, torch.bfloat16, CPU),
        load_clip(weights, architecture, torch.bfloat16, CPU)[1],
        load_t5(weights, architecture, torch.bfloat16, CPU)[1],
    ]
    for part in parts:
        assert not part.training
        assert all(not p.requires_grad and p.dtype is torch.bfloat16 and not p.is_meta for p in part.parameters())


@pytest.mark.parametrize("name", ["flux-dev", "miniature"])
def test_every_parameter_of_the_real_shapes_has_a_place(name: str) -> None:
    architecture = bundled_architecture(name)
    with torch.device("meta"):
        model = FluxTransformer2DModel(**architecture.transformer)
    keys = {transformer_source(parameter, architecture.width).key for parameter, _ in model.named_parameters()}
    assert len(keys) == 780 if name == "flux-dev" else len(keys) > 0


def test_the_depth_is_counted_from_the_file(weights: BaseWeights, tmp_path: Path) -> None:
    thin = {key: tensor for key, tensor in load_file(weights.transformer).items() if "single_blocks.3" not in key}
    save_file(thin, tmp_path / "thin.safetensors")
    assert architecture_of(tmp_path / "thin.safetensors").transformer["num_single_layers"] == 3


def damaged(weights: BaseWeights, folder: Path, damage: str) -> Path:
    file = folder / "flux1-dev.safetensors"
    tensors = load_file(weights.transformer)
    if damage == "error page":
        file.write_text("<html>Access denied</html>", encoding="utf-8")
    elif damage == "cut":
        file.write_bytes(weights.transformer.read_bytes()[:-1000])
    elif damage == "empty":
        file.touch()
    elif damage == "missing":
        file = folder / "nowhere.safetensors"
    elif damage == "key missing":
        del tensors["double_blocks.0.img_mlp.0.weight"]
        save_file(tensors, file)
    elif damage == "other shape":
        tensors["double_blocks.0.img_mlp.0.weight"] = torch.zeros(5, 192)
        save_file(tensors, file)
    elif damage == "twice the rows":
        tensors["double_blocks.0.img_mlp.0.weight"] = torch.zeros(1536, 192)
        save_file(tensors, file)
    elif damage == "stranger":
        save_file({**tensors, "double_blocks.0.img_mlp.0.stranger": torch.ones(1)}, file)
    elif damage == "no transformer":
        save_file({"encoder.conv_in.weight": torch.zeros(1)}, file)
    elif damage == "other width":
        save_file({"img_in.weight": torch.zeros(100, 64)}, file)
    return file


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("error page", "not a whole safetensors file"),
        ("cut", "not a whole safetensors file"),
        ("empty", "(0 bytes): not a whole safetensors file"),
        ("missing", "the file is missing"),
        ("key missing", "key 'double_blocks.0.img_mlp.0.weight' is missing"),
        ("other shape", "key 'double_blocks.0.img_mlp.0.weight' has shape [5, 192]"),
        ("twice the rows", "key 'double_blocks.0.img_mlp.0.weight' has shape [1536, 192], [768, 192] is needed"),
        ("stranger", "nothing reads key 'double_blocks.0.img_mlp.0.stranger'"),
        ("no transformer", "key 'img_in.weight' is missing"),
        ("other width", "width 100"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_the_reason(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path, damage: str, said: str
) -> None:
    file = damaged(weights, tmp_path, damage)
    damaged_weights = BaseWeights(**{**vars(weights), "transformer": file})
    with pytest.raises(UserError) as raised:
        load_transformer(damaged_weights, architecture_of(file), torch.float32, CPU)
    assert said in str(raised.value)
    assert str(file) in str(raised.value)

"""DoRA: what PEFT computes, nothing while fresh, and from its file in either form what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import velocity
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.dora import decompose, row_norms
from fluxbooth.flux.lora import ALL_BLOCKS, add_lora, apply_lora, check_start, lora_of_file, lora_tensors, start_from
from fluxbooth.flux.lora_formats import LoraFormat, LoraLayer, as_kohya, as_tensors, check_lora_file, read_layers
from fluxbooth.flux.lora_resize import resized
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.projection import has_plain_lora
from fluxbooth.flux.stored import StoredLinear
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.host.weights import BaseWeights

RANK, ALPHA = 4, 8.0
QUERY = "transformer.transformer_blocks.0.attn.to_q"


def base(weights: BaseWeights, architecture: Architecture) -> FluxTransformer2DModel:
    return load_transformer(weights, architecture, torch.float32, torch.device("cpu"))


@torch.no_grad()
def learn(parameters: list[nn.Parameter]) -> None:
    """Let A and B be any numbers, and each row another tenth longer or shorter."""
    for number, parameter in enumerate(parameters):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.copy_(parameter * (1 + 0.1 * noise) if parameter.dim() == 1 else 0.05 * noise)


@pytest.fixture
def trained(weights: BaseWeights, architecture: Architecture) -> FluxTransformer2DModel:
    transformer = base(weights, architecture)
    learn(add_lora(transformer, RANK, ALPHA, seed=0, decomposed=True))
    return transformer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_one_changes_nothing(weights: BaseWeights, architecture: Architecture, dtype: torch.dtype) -> None:
    transformer = load_transformer(weights, architecture, dtype, torch.device("cpu"))
    with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
        before = velocity(transformer)
        parameters = add_lora(transformer, RANK, ALPHA, seed=0, decomposed=True)
        assert torch.equal(velocity(transformer), before)
    assert not has_plain_lora(transformer), "the pass for plain LoRAs would leave the magnitudes out"
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert [parameter.dim() for parameter in parameters[:6]] == [2, 2, 1, 2, 2, 1], "A, B and magnitudes in turn"


@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_peft_computes(bias: bool) -> None:
    """The same outputs and gradients as PEFT's own layer, which makes the whole changed matrix."""
    inputs = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    results = []
    for own in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(24, 40, bias=bias))
        inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6, target_modules=["0"], use_dora=True), model, "mine")
        if own:
            decompose(model, "mine")
        parameters = [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
        learn(parameters)
        output = model(inputs)
        output.square().sum().backward()
        results.append([output, *(parameter.grad for parameter in parameters)])
    for theirs, ours in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_dropout_takes_inputs_from_the_lora_and_not_from_the_base() -> None:
    linear = nn.Linear(24, 40)
    model = nn.Sequential(linear)
    config = LoraConfig(r=3, target_modules=["0"], use_dora=True, lora_dropout=0.9)
    inputs = torch.randn(5, 24)
    before = model(inputs)
    inject_adapter_in_model(config, model, "mine")
    decompose(model, "mine")
    learned = dict(model.named_parameters())["0.lora_magnitude_vector.mine.weight"]
    learned.data *= 2
    assert torch.allclose(model.train()(inputs) - linear.bias, 2 * (before - linear.bias), atol=1e-5)


def test_a_row_of_zeros_has_no_direction() -> None:
    linear = nn.Linear(24, 40)
    nn.init.zeros_(linear.weight[3])
    model = nn.Sequential(linear)
    inject_adapter_in_model(LoraConfig(r=3, target_modules=["0"], use_dora=True), model, "mine")
    with pytest.raises(UserError, match="'0' has rows of zeros"):
        decompose(model, "mine")


@pytest.mark.parametrize("save_format", ["diffusers", "kohya"])
def test_its_file_draws_what_was_trained(
    trained: FluxTransformer2DModel,
    weights: BaseWeights,
    architecture: Architecture,
    tmp_path: Path,
    save_format: LoraFormat,
) -> None:
    file = tmp_path / "mine.safetensors"
    save_tensors(file, lora_tensors(trained, torch.float32, save_format), {})
    expected, plain, merged = velocity(trained), base(weights, architecture), base(weights, architecture)
    untouched = velocity(plain)
    assert (expected - untouched).abs().max() > 0.1, "something was learned"
    apply_lora(merged, file, 1.0)
    assert torch.allclose(velocity(merged), expected, atol=1e-4)
    with lora_of_file(plain, file, 1.0):
        assert torch.allclose(velocity(plain), expected, atol=1e-4)
    half = base(weights, architecture)
    apply_lora(half, file, 0.5)
    for model in (plain, trained):
        with lora_of_file(model, file, 0.5):
            assert torch.allclose(velocity(model), velocity(half), atol=1e-4)
    assert torch.equal(velocity(plain), untouched)
    assert torch.equal(velocity(trained), expected)


def test_its_file_has_the_form_that_comfyui_reads(trained: FluxTransformer2DModel, tmp_path: Path) -> None:
    """ComfyUI makes dora_scale * (W + dW) / |W| of it, and |W + dW| is what the magnitudes are divided by here."""
    tensors = lora_tensors(trained, torch.bfloat16)
    scale = tensors[f"{QUERY}.dora_scale"]
    assert (scale.shape, scale.dtype) == ((192, 1), torch.float32)
    learned = dict(trained.named_parameters(prefix="transformer"))
    weight, magnitudes = (
        learned[f"{QUERY}.base_layer.weight"],
        learned[f"{QUERY}.lora_magnitude_vector.fluxbooth.weight"],
    )
    up, down = learned[f"{QUERY}.lora_B.fluxbooth.weight"], learned[f"{QUERY}.lora_A.fluxbooth.weight"]
    changed = weight + 2 * up @ down
    comfyui = scale / weight.norm(dim=1, keepdim=True) * changed
    assert torch.allclose(comfyui, magnitudes[:, None] * changed / changed.norm(dim=1, keepdim=True), atol=1e-6)
    stacked = lora_tensors(trained, torch.float32, "kohya")["lora_unet_double_blocks_0_img_attn_qkv.dora_scale"]
    assert torch.allclose(stacked[:192], scale)
    assert stacked.shape == (3 * 192, 1)


def test_the_forms_turn_into_each_other(trained: FluxTransformer2DModel, tmp_path: Path) -> None:
    tensors = lora_tensors(trained, torch.float32)
    save_tensors(tmp_path / "kohya.safetensors", lora_tensors(trained, torch.float32, "kohya"), {})
    back = as_tensors(read_layers(tmp_path / "kohya.safetensors"))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors.items())


@pytest.mark.parametrize("from_dora", [True, False], ids=["from a DoRA", "from a plain LoRA"])
def test_a_training_begins_with_a_file(
    trained: FluxTransformer2DModel,
    weights: BaseWeights,
    architecture: Architecture,
    tmp_path: Path,
    from_dora: bool,
) -> None:
    file = tmp_path / "mine.safetensors"
    tensors = lora_tensors(trained, torch.float32)
    save_tensors(file, {key: one for key, one in tensors.items() if from_dora or not key.endswith("dora_scale")}, {})
    drawn, begun = base(weights, architecture), base(weights, architecture)
    apply_lora(drawn, file, 1.0)
    add_lora(begun, RANK + 2, 3.0, seed=1, decomposed=True)
    check_start(file, RANK + 2, ALL_BLOCKS, clip_trained=False, decomposed=True)
    start_from({"transformer": begun}, file)
    assert torch.allclose(velocity(begun), velocity(drawn), atol=1e-4)


def test_a_plain_lora_does_not_begin_with_a_dora(trained: FluxTransformer2DModel, tmp_path: Path) -> None:
    save_tensors(tmp_path / "mine.safetensors", lora_tensors(trained, torch.float32), {})
    with pytest.raises(UserError, match="has magnitudes \\(DoRA\\), a plain LoRA none"):
        check_start(tmp_path / "mine.safetensors", RANK, ALL_BLOCKS, clip_trained=False)


def test_values_that_are_no_numbers_are_not_written(trained: FluxTransformer2DModel) -> None:
    learned = dict(trained.named_parameters(prefix="transformer"))
    learned[f"{QUERY}.lora_magnitude_vector.fluxbooth.weight"].data[0] = torch.nan
    with pytest.raises(UserError, match="no numbers"):
        lora_tensors(trained, torch.float32)


def layer(scale: Tensor | None) -> LoraLayer:
    return LoraLayer(torch.ones(2, 8), torch.ones(8, 2), 2.0, scale)


def test_kohyas_form_needs_a_scale_for_every_row() -> None:
    """The length of a row that no LoRA changes is in the base weights alone."""
    names = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    ones = torch.ones(8, 1)
    for scales in ([ones, ones, None], [ones, ones]):
        with pytest.raises(UserError, match="parts of 'lora_unet_double_blocks_0_img_attn_qkv' alone"):
            as_kohya([(name, layer(scale)) for name, scale in zip(names, scales, strict=False)])
    ((_, joined),) = as_kohya([(name, layer(number * ones)) for number, name in reversed([*enumerate(names)])])
    assert joined.dora_scale is not None
    assert joined.dora_scale.flatten().tolist() == [0.0] * 8 + [1.0] * 8 + [2.0] * 8, "by row, whatever came first"


@pytest.mark.parametrize("shape", [(8,), (1, 8)])
def test_a_scale_that_comfyui_would_apply_otherwise_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_tensors(tmp_path / "mine.safetensors", as_tensors([(QUERY, layer(torch.ones(shape)))]), {})
    with pytest.raises(UserError, match="scales of inputs are another kind of DoRA"):
        check_lora_file(tmp_path / "mine.safetensors")


def test_a_smaller_rank_keeps_the_scale() -> None:
    ((_, smaller),) = resized([(QUERY, layer(torch.full((8, 1), 3.0)))], 1)
    assert smaller.rank == 1
    assert smaller.dora_scale is not None
    assert smaller.dora_scale.unique().tolist() == [3.0]


def test_the_norm_of_rows_is_exact_whatever_the_weights_are_held_in() -> None:
    linear = nn.Linear(3072, 4, dtype=torch.bfloat16)
    assert torch.allclose(row_norms(linear), linear.weight.double().norm(dim=1, keepdim=True).float(), rtol=1e-6)
    stored = StoredLinear(3072, 4, "int8")
    stored.hold(linear.weight)
    assert torch.allclose(row_norms(stored), row_norms(linear), rtol=1e-2)

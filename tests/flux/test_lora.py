"""LoRA: on the linears inside the blocks, without effect when fresh, and the same from its file as while training."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from builders import velocity
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxbooth.config.recipe import Recipe
from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.lora import (
    ALL_BLOCKS,
    Blocks,
    OwnRank,
    add_lora,
    apply_lora,
    check_patterns,
    check_start,
    chosen_blocks,
    dropout_from,
    learning_rates,
    lora_of_file,
    lora_tensors,
    start_from,
)
from fluxbooth.flux.lora_formats import LoraFormat, kohya_name, read_layers
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.flux.training_pass import use_training_pass
from fluxbooth.host.weights import BaseWeights

RANK, ALPHA = 4, 8.0
LAYER = "transformer.transformer_blocks.0.attn.to_q"


@pytest.fixture
def transformer(weights: BaseWeights, architecture: Architecture) -> FluxTransformer2DModel:
    return load_transformer(weights, architecture, torch.float32, torch.device("cpu"))


@pytest.fixture
def trained(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """A transformer with a LoRA whose B is no longer zero."""
    for number, parameter in enumerate(add_lora(transformer, RANK, ALPHA, seed=0)):
        generator = torch.Generator().manual_seed(number)
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return transformer


def test_a_fresh_lora_changes_nothing(transformer: FluxTransformer2DModel) -> None:
    before = velocity(transformer)
    add_lora(transformer, RANK, ALPHA, seed=0)
    assert torch.equal(velocity(transformer), before)


def test_the_lora_sits_on_every_linear_inside_the_blocks_and_on_no_other(transformer: FluxTransformer2DModel) -> None:
    linears = {name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    inside = {name for name in linears if "transformer_blocks." in name}
    parameters = add_lora(transformer, RANK, ALPHA, seed=0)
    layers = {
        key.removeprefix("transformer.").removesuffix(".alpha")
        for key in lora_tensors(transformer, torch.float32)
        if key.endswith(".alpha")
    }
    assert layers == inside
    assert len(parameters) == 2 * len(inside)
    assert {name for name, p in transformer.named_parameters() if p.requires_grad} == {
        name for name, _ in transformer.named_parameters() if ".lora_" in name
    }


def test_a_lora_trains_in_float32_on_a_bfloat16_base(weights: BaseWeights, architecture: Architecture) -> None:
    transformer = load_transformer(weights, architecture, torch.bfloat16, torch.device("cpu"))
    assert {p.dtype for p in add_lora(transformer, RANK, ALPHA, seed=0)} == {torch.float32}


def test_the_same_seed_draws_the_same_lora_and_leaves_the_callers_randomness_alone(
    weights: BaseWeights, architecture: Architecture
) -> None:
    drawn = []
    for seed in (1, 1, 2):
        transformer = load_transformer(weights, architecture, torch.float32, torch.device("cpu"))
        state = torch.random.get_rng_state()
        drawn.append(torch.cat([p.detach().flatten() for p in add_lora(transformer, RANK, ALPHA, seed)]))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_file_has_diffusers_names_and_an_alpha_a_layer(trained: FluxTransformer2DModel, tmp_path: Path) -> None:
    file = tmp_path / "loras/mine.safetensors"
    save_tensors(file, lora_tensors(trained, torch.bfloat16), {"modelspec.title": "mine"})
    tensors = load_file(file)
    layer = "transformer.single_transformer_blocks.0.attn.to_q"
    assert tensors[f"{layer}.lora_A.weight"].shape == (RANK, 192)
    assert tensors[f"{layer}.lora_B.weight"].shape == (192, RANK)
    assert tensors[f"{layer}.alpha"].item() == ALPHA
    assert {tensor.dtype for key, tensor in tensors.items() if "lora_" in key} == {torch.bfloat16}
    assert tensors[f"{layer}.alpha"].dtype is torch.float32, "bfloat16 would round an alpha of 5.3"
    assert all(key.startswith("transformer.") for key in tensors)
    assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444, "a ComfyUI under another user must be able to read it"


def test_diffusers_loads_the_file_with_every_key_taken(
    trained: FluxTransformer2DModel, weights: BaseWeights, architecture: Architecture, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    save_tensors(file, lora_tensors(trained, torch.float32), {})
    plain = load_transformer(weights, architecture, torch.float32, torch.device("cpu"))
    without_alpha = {key: tensor for key, tensor in load_file(file).items() if not key.endswith(".alpha")}
    plain.load_lora_adapter(without_alpha, adapter_name="mine")
    # Without alphas diffusers applies scale 1; this one was trained at alpha / rank = 2.
    plain.set_adapters("mine", ALPHA / RANK)
    assert torch.allclose(velocity(plain), velocity(trained), atol=1e-4)


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_a_lora_from_its_file_acts_as_it_did_in_training(
    trained: FluxTransformer2DModel, weights: BaseWeights, architecture: Architecture, tmp_path: Path, strength: float
) -> None:
    file = tmp_path / "mine.safetensors"
    save_tensors(file, lora_tensors(trained, torch.float32), {})
    plain = load_transformer(weights, architecture, torch.float32, torch.device("cpu"))
    base = velocity(plain)
    apply_lora(plain, file, strength)
    if strength == 1.0:
        assert torch.allclose(velocity(plain), velocity(trained), atol=1e-4)
    assert torch.equal(velocity(plain), base) == (strength == 0.0)


@pytest.mark.parametrize("own_pass", [False, True], ids=["diffusers-pass", "training-pass"])
@pytest.mark.parametrize("on_trained", [False, True], ids=["alone", "while-another-is-trained"])
def test_a_file_acts_for_a_while_and_leaves_no_trace(
    trained: FluxTransformer2DModel,
    weights: BaseWeights,
    architecture: Architecture,
    tmp_path: Path,
    on_trained: bool,
    own_pass: bool,
) -> None:
    file = tmp_path / "mine.safetensors"
    tensors = lora_tensors(trained, torch.float32)
    save_tensors(
        file, {key: tensor * (3 if key.endswith("lora_B.weight") else 1) for key, tensor in tensors.items()}, {}
    )
    plain, merged = (load_transformer(weights, architecture, torch.float32, torch.device("cpu")) for _ in range(2))
    apply_lora(merged, file, 0.5)
    model = trained if on_trained else plain
    if own_pass:
        use_training_pass(model)
    before = velocity(model)
    with lora_of_file(model, file, 0.5):
        assert torch.allclose(velocity(model), velocity(merged), atol=1e-4)
    assert torch.equal(velocity(model), before)


def test_two_loras_add_up(
    trained: FluxTransformer2DModel, weights: BaseWeights, architecture: Architecture, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    save_tensors(file, lora_tensors(trained, torch.float32), {})
    twice, strong = (load_transformer(weights, architecture, torch.float32, torch.device("cpu")) for _ in range(2))
    apply_lora(twice, file, 0.5)
    apply_lora(twice, file, 0.5)
    apply_lora(strong, file, 1.0)
    assert torch.allclose(velocity(twice), velocity(strong), atol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 192)},
            "nothing takes 'lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight'",
        ),
        (
            {
                "lora_unet_triple_blocks_0_img_mod_lin.lora_down.weight": torch.zeros(4, 192),
                "lora_unet_triple_blocks_0_img_mod_lin.lora_up.weight": torch.zeros(192, 4),
            },
            "nothing takes 'lora_unet_triple_blocks_0_img_mod_lin'",
        ),
        (
            {
                "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 3072),
                "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": torch.zeros(3072, 4),
            },
            "made for another model",
        ),
        (
            {
                "transformer.transformer_blocks.18.attn.to_q.lora_A.weight": torch.zeros(4, 192),
                "transformer.transformer_blocks.18.attn.to_q.lora_B.weight": torch.zeros(192, 4),
            },
            "'transformer.transformer_blocks.18.attn.to_q'",
        ),
        ({LAYER + ".lora_A.weight": torch.zeros(4, 192)}, "has shapes [4, 192], [] and []"),
        (
            {LAYER + ".lora_A.weight": torch.zeros(4, 192), LAYER + ".lora_B.weight": torch.zeros(192, 8)},
            "has shapes [4, 192], [192, 8] and []",
        ),
        (
            {
                LAYER + ".lora_A.weight": torch.zeros(4, 192),
                LAYER + ".lora_B.weight": torch.zeros(192, 4),
                LAYER + ".lora_magnitude_vector": torch.zeros(192),
            },
            "nothing takes 'transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector'",
        ),
        ({}, "holds no LoRA"),
    ],
    ids=["CLIP-G", "kohya's names", "wider model", "deeper model", "half a layer", "two ranks", "DoRA", "empty"],
)
def test_a_lora_that_does_not_fit_is_refused(
    transformer: FluxTransformer2DModel, tmp_path: Path, tensors: dict[str, Tensor], said: str
) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(UserError) as raised:
        apply_lora(transformer, tmp_path / "other.safetensors", 1.0)
    assert said in str(raised.value)


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (1e6, torch.float16)])
def test_a_lora_that_is_no_numbers_is_not_written(
    transformer: FluxTransformer2DModel, value: float, dtype: torch.dtype
) -> None:
    """A million is a number, and more than float16 can hold."""
    add_lora(transformer, RANK, ALPHA, seed=0)[3].data[0, 0] = value
    with pytest.raises(UserError, match="no numbers as torch"):
        lora_tensors(transformer, dtype)


@pytest.mark.parametrize(
    ("arguments", "double", "single"),
    [
        (("all", "all", "all"), None, None),
        (("single", "all", "1"), (), (1,)),
        (("double", "0", "all"), (0,), ()),
        (("all", "none", "0-1"), (), (0, 1)),
        (("all", "0-2,5", "3,1"), (0, 1, 2, 5), (1, 3)),
    ],
)
def test_blocks_are_chosen_by_kind_and_by_number(
    arguments: tuple[str, str, str], double: tuple[int, ...] | None, single: tuple[int, ...] | None
) -> None:
    assert chosen_blocks(*arguments, (6, 4)) == Blocks(double, single)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("all", "0-6", "all"), "numbers from 0 to 5"),
        (("all", "3-1", "all"), "train_double_block_indices=3-1"),
        (("all", "all", "four"), "train_single_block_indices=four"),
        (("all", "none", "none"), "no block is left to train"),
        (("single", "all", "none"), "no block is left to train"),
    ],
)
def test_blocks_that_are_not_there_are_refused(arguments: tuple[str, str, str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        chosen_blocks(*arguments, (6, 4))
    assert said in str(raised.value)
    assert "network_args" in str(raised.value)


def test_a_lora_sits_on_the_chosen_blocks_alone(transformer: FluxTransformer2DModel) -> None:
    inside = {
        name
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("single_transformer_blocks.1.")
    }
    add_lora(transformer, RANK, ALPHA, seed=0, blocks=Blocks(double=(), single=(1,)))
    layers = {key.rpartition(".")[0] for key in lora_tensors(transformer, torch.float32) if "alpha" in key}
    assert layers == {f"transformer.{name}" for name in inside}
    assert len(layers) == 6


@pytest.mark.parametrize("save_format", ["diffusers", "kohya"])
def test_layers_have_ranks_of_their_own_and_act_from_the_file_as_in_training(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path, save_format: LoraFormat
) -> None:
    """kohya's way: of patterns over its names the first that is found wins, and the alpha stays."""
    own = (OwnRank("double_blocks_1_img_attn_qkv", 3, ALPHA), OwnRank("img_attn", 2, ALPHA), OwnRank("txt", 0, ALPHA))
    trained, plain = (load_transformer(weights, architecture, torch.float32, torch.device("cpu")) for _ in range(2))
    for number, parameter in enumerate(add_lora(trained, RANK, ALPHA, seed=0, blocks=Blocks(own_ranks=own))):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05
    file = tmp_path / "lora.safetensors"
    save_tensors(file, lora_tensors(trained, torch.float32, save_format), {})
    ranks = {name.removeprefix("transformer."): layer.rank for name, layer in read_layers(file)}
    assert ranks["transformer_blocks.1.attn.to_k"] == 3
    assert ranks["transformer_blocks.0.attn.to_k"] == ranks["transformer_blocks.1.attn.to_out.0"] == 2
    assert ranks["transformer_blocks.0.ff.net.2"] == ranks["single_transformer_blocks.0.attn.to_q"] == RANK
    assert not any("add_" in name or "context" in name for name in ranks), "rank 0 leaves a layer alone"
    apply_lora(plain, file, 1.0)
    assert torch.allclose(velocity(plain), velocity(trained), atol=1e-4)


def test_layers_have_rates_of_their_own(transformer: FluxTransformer2DModel) -> None:
    blocks = Blocks(own_rates=(("single_blocks_0_", 0.5), ("single_blocks", 0.25)))
    add_lora(transformer, RANK, ALPHA, seed=0, blocks=blocks)
    names = [name for name, _ in transformer.named_parameters() if ".lora_" in name]
    rates = dict(zip(names, learning_rates(transformer, blocks, 1.0), strict=True))
    assert {rate for name, rate in rates.items() if name.startswith("single_transformer_blocks.0.")} == {0.5}
    assert {rate for name, rate in rates.items() if name.startswith("single_transformer_blocks.1.")} == {0.25}
    assert {rate for name, rate in rates.items() if name.startswith("transformer_blocks.")} == {1.0}


def test_patterns_are_looked_for_in_the_names_of_all_layers(
    transformer: FluxTransformer2DModel, architecture: Architecture
) -> None:
    """Every layer inside the blocks is found by its own name, and what is found nowhere is refused."""
    counts = architecture.transformer["num_layers"], architecture.transformer["num_single_layers"]
    inside = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and ALL_BLOCKS.have(name)
    ]
    check_patterns(Blocks(own_rates=tuple((f"^{kohya_name(name)}$", 1.0) for name in inside)), counts)
    with pytest.raises(UserError, match="'img_atn' is found in the name of no layer"):
        check_patterns(Blocks(own_rates=(("img_atn", 1.0),)), counts)
    with pytest.raises(UserError, match="'double' is found in the name of no layer that is trained"):
        check_patterns(Blocks(double=(), own_rates=(("double", 1.0),)), counts)
    with pytest.raises(UserError, match="no layer is left to train"):
        check_patterns(Blocks(own_ranks=(OwnRank("", 0, 1.0),)), counts)


def test_a_rank_stabilized_lora_acts_from_its_file_as_in_training(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path
) -> None:
    """network_alpha 8 at rank 4: the scale is 8 / 2, and every reader of the file computes alpha / rank."""
    recipe = Recipe(max_train_steps=1, network_dim=RANK, network_alpha=ALPHA, use_rslora=True)
    transformer, plain = (load_transformer(weights, architecture, torch.float32, torch.device("cpu")) for _ in range(2))
    for number, parameter in enumerate(add_lora(transformer, RANK, recipe.alpha, seed=0)):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05
    layer = transformer.get_submodule("transformer_blocks.0.attn.to_q")
    assert layer.scaling == {"fluxbooth": pytest.approx(ALPHA / RANK**0.5)}
    save_tensors(tmp_path / "lora.safetensors", lora_tensors(transformer, torch.float32), {})
    apply_lora(plain, tmp_path / "lora.safetensors", 1.0)
    assert torch.allclose(velocity(plain), velocity(transformer), atol=1e-4)


def test_dropout_is_drawn_from_its_identity_and_ends_with_its_context(
    trained_with_dropout: FluxTransformer2DModel,
) -> None:
    transformer = trained_with_dropout.eval()
    still = velocity(transformer)
    state = torch.random.get_rng_state()
    seen = []
    for identity in ((0, 1, 2), (0, 1, 2), (0, 1, 3)):
        with dropout_from(identity, [transformer]):
            seen.append(velocity(transformer))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], still)
    assert torch.equal(velocity(transformer), still), "without dropout behind it"
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture
def trained_with_dropout(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    for number, parameter in enumerate(add_lora(transformer, RANK, ALPHA, seed=0, dropout=0.3)):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05
    return transformer


@pytest.mark.parametrize("save_format", ["diffusers", "kohya"])
@pytest.mark.parametrize(("rank", "alpha"), [(RANK, ALPHA), (RANK + 2, 3.0)])
def test_a_lora_begins_with_the_effect_of_a_file(
    trained: FluxTransformer2DModel,
    weights: BaseWeights,
    architecture: Architecture,
    tmp_path: Path,
    save_format: LoraFormat,
    rank: int,
    alpha: float,
) -> None:
    file = tmp_path / "start.safetensors"
    save_tensors(file, lora_tensors(trained, torch.float32, save_format), {})
    check_start(file, rank, ALL_BLOCKS, clip_trained=False)
    begun = load_transformer(weights, architecture, torch.float32, torch.device("cpu"))
    parameters = add_lora(begun, rank, alpha, seed=1)
    start_from({"transformer": begun}, file)
    assert torch.allclose(velocity(begun), velocity(trained), atol=1e-4)
    assert all(parameter.requires_grad for parameter in parameters)
    with torch.no_grad():
        parameters[1].add_(1)
    assert not torch.allclose(velocity(begun), velocity(trained), atol=1e-4), "these are what trains"


@pytest.mark.parametrize(
    ("rank", "blocks", "said"),
    [
        (RANK - 1, ALL_BLOCKS, "has rank 4 and network_dim is 3"),
        (RANK, Blocks(single=()), "is not trained here"),
    ],
)
def test_a_file_that_a_lora_cannot_begin_with_is_refused(
    trained: FluxTransformer2DModel, tmp_path: Path, rank: int, blocks: Blocks, said: str
) -> None:
    file = tmp_path / "start.safetensors"
    save_tensors(file, lora_tensors(trained, torch.float32), {})
    with pytest.raises(UserError) as raised:
        check_start(file, rank, blocks, clip_trained=False)
    assert said in str(raised.value)
    assert f"network_weights, {file}" in str(raised.value)


def test_a_file_of_a_wider_model_is_refused(transformer: FluxTransformer2DModel, tmp_path: Path) -> None:
    file = tmp_path / "wide.safetensors"
    wide = {f"{LAYER}.lora_A.weight": torch.zeros(4, 3072), f"{LAYER}.lora_B.weight": torch.zeros(3072, 4)}
    save_tensors(file, wide, {})
    add_lora(transformer, RANK, ALPHA, seed=0)
    with pytest.raises(UserError, match="maps 3072 features to 3072, and the model has no such layer"):
        start_from({"transformer": transformer}, file)

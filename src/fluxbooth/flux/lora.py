"""LoRA on the linears inside the blocks of the transformer and of CLIP: trained there, taken out, added."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.flux.dora import begin_with, decompose, dora_scale_of, factors_of_file, magnitudes_of
from fluxbooth.flux.flow import generator_for
from fluxbooth.flux.keys import stacked_modules
from fluxbooth.flux.lora_formats import LoraFormat, LoraLayer, as_kohya, as_tensors, kohya_name, read_layers

_ADAPTER = "fluxbooth"
Part = Literal["transformer", "text_encoder"]
# What a layer's name in a file begins with, before its name in the class. transformers 5 has no level "text_model",
# and without it ComfyUI takes no key.
_PREFIXES: dict[Part, str] = {"transformer": "transformer.", "text_encoder": "text_encoder.text_model."}
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Every linear inside a block, as kohya's lora_flux wraps them, modulation included. Written as a pattern over whole
# names, since PEFT's suffix lists would also catch the network's last layer, `proj_out`.
_INSIDE_DOUBLE_BLOCK = (
    r"(norm1\.linear|norm1_context\.linear|attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff(_context)?\.net\.(0\.proj|2))"
)
_INSIDE_SINGLE_BLOCK = r"(norm\.linear|attn\.to_[qkv]|proj_mlp|proj_out)"
# The same layers by kohya's names.
_DOUBLE_LAYERS = tuple(
    f"{side}_{kind}" for side in ("img", "txt") for kind in ("mod_lin", "attn_qkv", "attn_proj", "mlp_0", "mlp_2")
)
_SINGLE_LAYERS = ("modulation_lin", "linear1", "linear2")
_INSIDE_CLIP = r"encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"


@dataclass(frozen=True)
class OwnRank:
    """The rank of some layers' LoRA, and by what it is scaled."""

    pattern: str
    """Over layers' names as kohya has them, "lora_unet_double_blocks_0_img_attn_qkv"."""
    rank: int
    """0 leaves these layers alone."""
    alpha: float


@dataclass(frozen=True)
class Blocks:
    """Numbers of the transformer's blocks that get a LoRA, None for all of a kind; and layers that differ."""

    double: tuple[int, ...] | None = None
    single: tuple[int, ...] | None = None
    own_ranks: tuple[OwnRank, ...] = ()
    """Of which the first counts whose pattern is found in a layer's name."""
    own_rates: tuple[tuple[str, float], ...] = ()
    """Patterns over layers' names as kohya has them, and learning rates; the first that is found counts."""

    def pattern(self) -> str:
        """A pattern over the names of the linears inside these blocks."""
        kinds = (("", self.double, _INSIDE_DOUBLE_BLOCK), ("single_", self.single, _INSIDE_SINGLE_BLOCK))
        return "|".join(
            rf"{prefix}transformer_blocks\.{_numbers(chosen)}\.{inside}"
            for prefix, chosen, inside in kinds
            if chosen is None or chosen
        )

    def have(self, name: str) -> bool:
        """Whether the module `name` of the transformer gets a LoRA."""
        return re.fullmatch(self.pattern(), name) is not None and self.rank_of(name, 1) > 0

    def rank_of(self, name: str, rank: int) -> int:
        """The rank of the LoRA on a module inside the blocks, where that of the whole is `rank`."""
        own = self._own_rank(name)
        return own.rank if own else rank

    def alpha_of(self, name: str, alpha: float) -> float:
        """The alpha of the LoRA on a module inside the blocks, where that of the whole is `alpha`."""
        own = self._own_rank(name)
        return own.alpha if own else alpha

    def rate_of(self, name: str, learning_rate: float) -> float:
        """The learning rate of the LoRA on a module inside the blocks, where that of the whole is `learning_rate`."""
        if not self.own_rates:
            return learning_rate
        in_kohya = kohya_name(name)
        return next((rate for pattern, rate in self.own_rates if re.search(pattern, in_kohya)), learning_rate)

    def _own_rank(self, name: str) -> OwnRank | None:
        if not self.own_ranks:
            return None
        in_kohya = kohya_name(name)
        return next((own for own in self.own_ranks if re.search(own.pattern, in_kohya)), None)


ALL_BLOCKS = Blocks()


def _numbers(chosen: tuple[int, ...] | None) -> str:
    return r"\d+" if chosen is None else f"({'|'.join(map(str, chosen))})"


def chosen_blocks(train_blocks: str, double: str, single: str, counts: tuple[int, int]) -> Blocks:
    """Return the blocks that kohya's network_args name.

    Args:
        train_blocks: "all", "double" or "single".
        double, single: "all", "none", or numbers and ranges from 0, "0-3,7".
        counts: how many double and single blocks the transformer has.

    Raises:
        UserError: for a number that the transformer does not have, and where nothing is left to train.
    """
    problems = Problems()
    selected: list[tuple[int, ...] | None] = []
    for kind, text, count in (("double", double, counts[0]), ("single", single, counts[1])):
        if train_blocks not in ("all", kind):
            selected.append(())
            continue
        try:
            selected.append(_selection(text, count))
        except ValueError:
            problems.add(
                f"train_{kind}_block_indices={text}",
                where="network_args",
                allowed=f'"all", "none", or numbers from 0 to {count - 1} and ranges of them, such as "0-3,7"',
            )
    problems.raise_if_any()
    blocks = Blocks(selected[0], selected[1])
    if not blocks.pattern():
        raise UserError(Problem("no block is left to train", where="network_args", do="Leave one block at least"))
    return blocks


def _selection(text: str, count: int) -> tuple[int, ...] | None:
    if text == "all":
        return None
    if text in ("none", ""):
        return ()
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers or numbers[0] < 0 or numbers[-1] >= count:
            raise ValueError(part)
        chosen.update(numbers)
    return tuple(sorted(chosen))


def check_patterns(blocks: Blocks, counts: tuple[int, int]) -> None:
    """Raise UserError for a pattern that is found in no layer's name, and where no layer is left to train.

    Args:
        counts: how many double and single blocks the transformer has.
    """
    layers = [name for name in _layers_of(counts) if re.fullmatch(blocks.pattern(), name)]
    names = {kohya_name(name) for name in layers}
    patterns = [own.pattern for own in blocks.own_ranks] + [pattern for pattern, _ in blocks.own_rates]
    problems = Problems()
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            problems.add(
                f"'{pattern}' is found in the name of no layer that is trained",
                where="network_args",
                allowed=f"{', '.join(sorted(names)[:3])} and so on",
            )
    problems.raise_if_any()
    if not any(blocks.have(name) for name in layers):
        raise UserError(Problem("no layer is left to train", where="network_args", do="Leave one layer a rank above 0"))


def never_counting(blocks: Blocks, counts: tuple[int, int]) -> Iterator[str]:
    """Yield a line for each pattern of ranks or rates all of whose layers an earlier one has, which counts there.

    Args:
        counts: how many double and single blocks the transformer has.
    """
    names = {kohya_name(name) for name in _layers_of(counts) if re.fullmatch(blocks.pattern(), name)}
    ranks = [own.pattern for own in blocks.own_ranks]
    for patterns, what in ((ranks, "rank"), ([pattern for pattern, _ in blocks.own_rates], "rate")):
        left = set(names)
        for pattern in patterns:
            own = {name for name in left if re.search(pattern, name)}
            if not own:
                yield f"network_args: '{pattern}' has no effect: earlier patterns give all of its layers their {what}"
            left -= own


def _layers_of(counts: tuple[int, int]) -> Iterator[str]:
    """Every linear inside the blocks, by its name in the class."""
    for prefix, count, inside in zip(
        ("double_blocks", "single_blocks"), counts, (_DOUBLE_LAYERS, _SINGLE_LAYERS), strict=True
    ):
        for number in range(count):
            for module in inside:
                yield from stacked_modules(prefix, number, module)


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    seed: int,
    part: Part = "transformer",
    *,
    dropout: float = 0.0,
    blocks: Blocks = ALL_BLOCKS,
    decomposed: bool = False,
) -> list[nn.Parameter]:
    """Add a trainable LoRA to the linears inside the blocks; return its parameters, float32, A before B in each layer.

    It lies where the model's first parameter does, which is outside of the blocks. A is drawn from `seed`, B is zero:
    a fresh LoRA changes nothing. Its effect is B @ A * alpha / rank (LoRA, arXiv 2106.09685).

    Args:
        dropout: share, 0 to below 1, of a layer's inputs that A does not see in a training step (PEFT's lora_dropout;
            kohya drops what comes out of A). See `dropout_from`.
        blocks: those of the transformer that get one; CLIP's all do.
        decomposed: the lengths of the rows are learned, too (DoRA); they come behind A and B in each layer.

    Raises:
        UserError: where DoRA cannot be, as `decompose` says.
    """
    own = _layers_with_an_own_rank(model, blocks) if part == "transformer" else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=blocks.pattern() if part == "transformer" else _INSIDE_CLIP,
            exclude_modules=[name for name in own if not blocks.have(name)] or None,
            rank_pattern={re.escape(name): blocks.rank_of(name, rank) for name in own if blocks.have(name)},
            alpha_pattern={re.escape(name): blocks.alpha_of(name, alpha) for name in own if blocks.have(name)},
            init_lora_weights=True,
            use_dora=decomposed,
        )
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    if decomposed:
        decompose(model, _ADAPTER)
    parameters = []
    device = next(model.parameters()).device
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            parameter.data = parameter.data.to(device, torch.float32)
            parameters.append(parameter)
    return parameters


def _layers_with_an_own_rank(model: nn.Module, blocks: Blocks) -> list[str]:
    if not blocks.own_ranks:
        return []
    inside = [name for name, _ in model.named_modules() if re.fullmatch(blocks.pattern(), name)]
    return [name for name in inside if blocks.rank_of(name, -1) >= 0]


def learning_rates(model: nn.Module, blocks: Blocks, learning_rate: float) -> list[float]:
    """The rate of each of the parameters that `add_lora` has returned for the transformer, in their order."""
    return [
        blocks.rate_of(name.partition(".lora_")[0], learning_rate)
        for name, _ in model.named_parameters()
        if ".lora_" in name
    ]


@contextmanager
def dropout_from(identity: tuple[int, ...], models: Sequence[nn.Module]) -> Iterator[None]:
    """Let `models` drop inputs of their LoRA inside, by masks that are a function of `identity`, and not behind it.

    Nobody else's random numbers change.

    Args:
        identity: for instance (seed, step, micro-batch).
    """
    modes = [model.training for model in models]
    devices = {parameter.device.index for model in models for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(generator_for(*identity, "dropout").initial_seed())
        for model in models:
            model.train()
        try:
            yield
        finally:
            for model, mode in zip(models, modes, strict=True):
                model.train(mode)


def check_start(path: Path, rank: int, blocks: Blocks, clip_trained: bool, decomposed: bool = False) -> None:
    """Raise UserError where `start_from` could not begin with a LoRA file, before a model is loaded.

    Args:
        rank: the new LoRA's; blocks, clip_trained: where it sits; decomposed: whether it has magnitudes.
    """
    for name, layer in read_layers(path):
        on_clip = name.startswith(_PREFIXES["text_encoder"])
        if not (clip_trained if on_clip else blocks.have(name.removeprefix(_PREFIXES["transformer"]))):
            raise _not_begun(
                path,
                f"'{name}' is not trained here",
                "Train that part, too (text_encoder_lr for CLIP, network_args for blocks)",
            )
        if layer.dora_scale is not None and not decomposed:
            raise _not_begun(
                path, f"'{name}' has magnitudes (DoRA), a plain LoRA none", "Give network_args use_dora=True"
            )
        own_rank = rank if on_clip else blocks.rank_of(name.removeprefix(_PREFIXES["transformer"]), rank)
        if layer.rank > own_rank:
            raise _not_begun(
                path,
                f"'{name}' has rank {layer.rank} and network_dim is {own_rank}",
                f"Give network_dim {layer.rank}, or lower the file's rank with `fluxbooth lora resize`",
            )


@torch.no_grad()
def start_from(models: Mapping[Part, nn.Module], path: Path) -> None:
    """Give the fresh LoRA on `models` the effect of a LoRA file, in either format, that `check_start` found fitting.

    A layer that the file has with a smaller rank keeps the rest of its fresh A, whose B is zero; one that it does not
    have stays fresh.

    Args:
        models: the transformer and, where it has a LoRA, CLIP's text model.

    Raises:
        UserError: for a layer of another shape.
    """
    layers = {
        _PREFIXES[part] + name: module for part, model in models.items() for name, module in model.named_modules()
    }
    for name, layer in read_layers(path):
        module = layers.get(name)
        shape = (module.out_features, module.in_features) if isinstance(module, LoraLinear) else None
        if not isinstance(module, LoraLinear) or shape != (len(layer.up), layer.down.shape[1]):
            raise _not_begun(
                path,
                f"'{name}' maps {layer.down.shape[1]} features to {len(layer.up)}, and the model has no such layer",
                "Use it with the model it was trained on",
            )
        down, up = module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
        down[: layer.rank] = layer.down.to(down)
        # Ours acts with alpha / down's rank: what the file's scale has more or less goes into B.
        up[:, : layer.rank] = layer.up.to(up) * (layer.scale / module.scaling[_ADAPTER])
        if magnitudes_of(module, _ADAPTER):
            begin_with(module, _ADAPTER, layer.dora_scale)


def _not_begun(path: Path, what: str, do: str) -> UserError:
    return UserError(Problem(what, where=f"network_weights, {path}", do=do))


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """Make the transformer, or CLIP, the base model for as long as the context lasts."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def lora_tensors(
    transformer: nn.Module,
    dtype: torch.dtype,
    save_format: LoraFormat = "diffusers",
    clip: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Return the LoRA as the tensors of a file, on the CPU as `dtype`, with a float32 scalar `.alpha` a layer.

    A `.dora_scale` is float32, too: it says how long the base's own rows stay, which bfloat16 would round by 0.4 %.

    Args:
        clip: CLIP's text model where it has a LoRA, too.

    Raises:
        UserError: when a value is infinite or not a number as `dtype`; such a file would draw black pictures.
    """
    models: dict[Part, nn.Module] = {"transformer": transformer}
    if clip is not None:
        models["text_encoder"] = clip
    matrices = {
        # A copy also where it trains as float32 on the CPU: what is published may be gone again when it is written.
        _PREFIXES[part] + key: tensor.detach().to("cpu", dtype, copy=True).contiguous()
        for part, model in models.items()
        for key, tensor in get_peft_model_state_dict(model, adapter_name=_ADAPTER).items()
        if key.endswith((_DOWN, _UP))
    }
    modules = {
        _PREFIXES[part] + name: module
        for part, model in models.items()
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }
    scales = {
        name: scale.cpu() for name, module in modules.items() if (scale := dora_scale_of(module, _ADAPTER)) is not None
    }
    for key, tensor in (*matrices.items(), *scales.items()):
        if not tensor.isfinite().all():
            raise UserError(
                Problem(f"the LoRA has values that are no numbers as {dtype}, in '{key}'", do="Lower learning_rate")
            )
    layers = [
        (
            name,
            LoraLayer(
                matrices[name + _DOWN],
                matrices[name + _UP],
                float(modules[name].lora_alpha[_ADAPTER]),
                scales.get(name),
            ),
        )
        for name in (key.removesuffix(_DOWN) for key in matrices if key.endswith(_DOWN))
    ]
    return as_tensors(as_kohya(layers) if save_format == "kohya" else layers)


@torch.no_grad()
def apply_lora(model: nn.Module, path: Path, strength: float, part: Part = "transformer") -> None:
    """Add strength * alpha / rank * B @ A of a LoRA file to a model's own weights, as ComfyUI does.

    Where the file has magnitudes (DoRA) the weights go `strength` of the way to what they make of them.

    Can be called again with other files, of diffusers' key names or kohya's. Layers of the other part are passed over.

    Raises:
        UserError: naming the first layer that the file asks for and the model does not have in that shape.
    """
    for module, layer in _layers_on(model, path, part):
        change = layer.delta().to(module.weight.device)
        if layer.dora_scale is not None:
            weight = module.weight.float()
            change = factors_of_file(layer.dora_scale, module) * (weight + change) - weight
        module.weight += (change * strength).to(module.weight.dtype)


@contextmanager
def as_base(model: nn.Module) -> Iterator[None]:
    """Let a model compute inside as it did when it was loaded: without its LoRA, and by its class's own pass.

    What a `TrainingPass` gives differs by rounding, and goes by the layers, whose hooks would not be seen.
    """
    own_pass = vars(model).pop("forward", None)
    try:
        with without_lora(model):
            yield
    finally:
        if own_pass is not None:
            vars(model)["forward"] = own_pass


@contextmanager
def lora_of_file(model: nn.Module, path: Path, strength: float, part: Part = "transformer") -> Iterator[None]:
    """Let a model act inside as with a LoRA file, and behind it as before; its weights are never touched.

    What is computed is what `apply_lora` makes of the weights, up to rounding. A LoRA that is trained on the model is
    switched off meanwhile, so that the file is what acts.

    Raises:
        UserError: as `apply_lora` does.
    """
    hooks = []
    # Of a parameter outside of the blocks: a block's own may wait elsewhere between two uses.
    device = next(model.parameters()).device
    with as_base(model):
        try:
            for module, layer in _layers_on(model, path, part):
                down, up = (matrix.to(device, module.weight.dtype) for matrix in (layer.down, layer.up))
                act = partial(_act, down, up, layer.scale * strength)
                if layer.dora_scale is not None:
                    factors = factors_of_file(layer.dora_scale, module).flatten().to(device)
                    act = partial(_act_decomposed, down, up, layer.scale, factors, strength)
                hooks.append(module.register_forward_hook(act))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _act(down: Tensor, up: Tensor, factor: float, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + F.linear(F.linear(inputs[0], down), up) * factor


def _act_decomposed(
    down: Tensor,
    up: Tensor,
    factor: float,
    factors: Tensor,
    strength: float,
    module: nn.Linear | LoraLinear,
    inputs: tuple[Tensor, ...],
    output: Tensor,
) -> Tensor:
    """As `_act`, where W + dW has rows multiplied by `factors` (O,), float32."""
    bias = module.bias
    plain = output if bias is None else output - bias
    changed = factors * (plain + F.linear(F.linear(inputs[0], down), up) * factor) - plain
    return (output + strength * changed).to(output.dtype)


def _layers_on(model: nn.Module, path: Path, part: Part) -> Iterator[tuple[nn.Linear | LoraLinear, LoraLayer]]:
    """Yield each layer of a LoRA file for `part` with the model's module that it is for."""
    modules = dict(model.named_modules())
    for name, layer in read_layers(path):
        if any(name.startswith(prefix) for other, prefix in _PREFIXES.items() if other != part):
            continue
        module = modules.get(name.removeprefix(_PREFIXES[part]))
        shape = (len(layer.up), layer.down.shape[1])
        if not isinstance(module, nn.Linear | LoraLinear) or (module.out_features, module.in_features) != shape:
            raise UserError(
                Problem(
                    f"made for another model: '{name}' maps {layer.down.shape[1]} features to {len(layer.up)}, "
                    f"and this {part} has no such layer",
                    where=str(path),
                    do="Use it with the model it was trained on",
                )
            )
        yield module, layer

"""LoRA on the linears inside the blocks of the transformer and of CLIP: trained there, taken out, added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.lora_formats import LoraFormat, LoraLayer, as_kohya, as_tensors, read_layers

_ADAPTER = "fluxbooth"
Part = Literal["transformer", "text_encoder"]
# What a layer's name in a file begins with, before its name in the class. transformers 5 has no level "text_model",
# and without it ComfyUI takes no key.
_PREFIXES: dict[Part, str] = {"transformer": "transformer.", "text_encoder": "text_encoder.text_model."}
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Every linear inside a block, as kohya's lora_flux wraps them, modulation included. Written as a pattern over whole
# names, since PEFT's suffix lists would also catch the network's last layer, `proj_out`.
_INSIDE_BLOCKS: dict[Part, str] = {
    "transformer": r"transformer_blocks\.\d+\."
    r"(norm1\.linear|norm1_context\.linear|attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff(_context)?\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|attn\.to_[qkv]|proj_mlp|proj_out)",
    "text_encoder": r"encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
}


def add_lora(model: nn.Module, rank: int, alpha: float, seed: int, part: Part = "transformer") -> list[nn.Parameter]:
    """Add a trainable LoRA to the linears inside the blocks; return its parameters, float32, A before B in each layer.

    A is drawn from `seed`, B is zero: a fresh LoRA changes nothing. Its effect is B @ A * alpha / rank
    (LoRA, arXiv 2106.09685).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=_INSIDE_BLOCKS[part], init_lora_weights=True)
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    parameters = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            parameter.data = parameter.data.float()
            parameters.append(parameter)
    return parameters


@contextmanager
def without_lora(transformer: FluxTransformer2DModel) -> Iterator[None]:
    """Make the transformer the base model for as long as the context lasts."""
    layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def lora_tensors(
    transformer: nn.Module,
    alpha: float,
    dtype: torch.dtype,
    save_format: LoraFormat = "diffusers",
    clip: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Return the LoRA as the tensors of a file, on the CPU as `dtype`, with a float32 scalar `.alpha` a layer.

    Args:
        clip: CLIP's text model where it has a LoRA, too.

    Raises:
        UserError: when a value is infinite or not a number as `dtype`; such a file would draw black pictures.
    """
    models: dict[Part, nn.Module] = {"transformer": transformer}
    if clip is not None:
        models["text_encoder"] = clip
    matrices = {
        _PREFIXES[part] + key: tensor.detach().to("cpu", dtype).contiguous()
        for part, model in models.items()
        for key, tensor in get_peft_model_state_dict(model, adapter_name=_ADAPTER).items()
    }
    for key, tensor in matrices.items():
        if not tensor.isfinite().all():
            raise UserError(
                Problem(f"the LoRA has values that are no numbers as {dtype}, in '{key}'", do="Lower learning_rate")
            )
    names = [key.removesuffix(_DOWN) for key in matrices if key.endswith(_DOWN)]
    layers = [(name, LoraLayer(matrices[name + _DOWN], matrices[name + _UP], alpha)) for name in names]
    return as_tensors(as_kohya(layers) if save_format == "kohya" else layers)


@torch.no_grad()
def apply_lora(model: nn.Module, path: Path, strength: float, part: Part = "transformer") -> None:
    """Add strength * alpha / rank * B @ A of a LoRA file to a model's own weights, as ComfyUI does.

    Can be called again with other files, of diffusers' key names or kohya's. Layers of the other part are passed over.

    Raises:
        UserError: naming the first layer that the file asks for and the model does not have in that shape.
    """
    modules = dict(model.named_modules())
    for name, layer in read_layers(path):
        if any(name.startswith(prefix) for other, prefix in _PREFIXES.items() if other != part):
            continue
        module = modules.get(name.removeprefix(_PREFIXES[part]))
        if not isinstance(module, nn.Linear) or module.weight.shape != (len(layer.up), layer.down.shape[1]):
            raise UserError(
                Problem(
                    f"made for another model: '{name}' maps {layer.down.shape[1]} features to {len(layer.up)}, "
                    f"and this {part} has no such layer",
                    where=str(path),
                    do="Use it with the model it was trained on",
                )
            )
        module.weight += (layer.delta() * strength).to(module.weight.device, module.weight.dtype)

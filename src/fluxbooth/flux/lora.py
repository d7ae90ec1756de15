"""LoRA on the linears inside the transformer's blocks: trained there, taken out of it, added to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.lora_formats import LoraFormat, LoraLayer, as_kohya, as_tensors, read_layers

_ADAPTER = "fluxbooth"
_PREFIX = "transformer."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Every linear inside a block, as kohya's lora_flux wraps them, modulation included. Written as a pattern over whole
# names, since PEFT's suffix lists would also catch the network's last layer, `proj_out`.
_INSIDE_BLOCKS = (
    r"transformer_blocks\.\d+\."
    r"(norm1\.linear|norm1_context\.linear|attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff(_context)?\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|attn\.to_[qkv]|proj_mlp|proj_out)"
)


def add_lora(transformer: FluxTransformer2DModel, rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
    """Add a trainable LoRA to the linears inside the blocks; return its parameters, float32, A before B in each layer.

    A is drawn from `seed`, B is zero: a fresh LoRA changes nothing. Its effect is B @ A * alpha / rank
    (LoRA, arXiv 2106.09685).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=_INSIDE_BLOCKS, init_lora_weights=True)
        inject_adapter_in_model(config, transformer, adapter_name=_ADAPTER)
    parameters = []
    for name, parameter in transformer.named_parameters():
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
    transformer: FluxTransformer2DModel, alpha: float, dtype: torch.dtype, save_format: LoraFormat = "diffusers"
) -> dict[str, Tensor]:
    """Return the LoRA as the tensors of a file, on the CPU as `dtype`, with a float32 scalar `.alpha` a layer.

    Raises:
        UserError: when a value is infinite or not a number as `dtype`; such a file would draw black pictures.
    """
    state = get_peft_model_state_dict(transformer, adapter_name=_ADAPTER)
    matrices = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in state.items()}
    for key, tensor in matrices.items():
        if not tensor.isfinite().all():
            raise UserError(
                Problem(f"the LoRA has values that are no numbers as {dtype}, in '{key}'", do="Lower learning_rate")
            )
    names = [key.removesuffix(_DOWN) for key in matrices if key.endswith(_DOWN)]
    layers = [(_PREFIX + name, LoraLayer(matrices[name + _DOWN], matrices[name + _UP], alpha)) for name in names]
    return as_tensors(as_kohya(layers) if save_format == "kohya" else layers)


@torch.no_grad()
def apply_lora(transformer: FluxTransformer2DModel, path: Path, strength: float) -> None:
    """Add strength * alpha / rank * B @ A of a LoRA file to the transformer's own weights, as ComfyUI does.

    Can be called again with other files, of diffusers' key names or kohya's.

    Raises:
        UserError: naming the first layer that the file asks for and the transformer does not have in that shape.
    """
    modules = dict(transformer.named_modules())
    for name, layer in read_layers(path):
        module = modules.get(name.removeprefix(_PREFIX))
        if not isinstance(module, nn.Linear) or module.weight.shape != (len(layer.up), layer.down.shape[1]):
            raise UserError(
                Problem(
                    f"made for another model: '{name}' maps {layer.down.shape[1]} features to {len(layer.up)}, "
                    "and this transformer has no such layer",
                    where=str(path),
                    do="Use it with the model it was trained on",
                )
            )
        module.weight += (layer.delta() * strength).to(module.weight.device, module.weight.dtype)

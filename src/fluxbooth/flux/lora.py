"""LoRA on the linears inside the transformer's blocks, and its file as ComfyUI and diffusers read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import Tensor, nn

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.single_file import header_of

_ADAPTER = "fluxbooth"
_FILE_PREFIX = "transformer."
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


def lora_tensors(transformer: FluxTransformer2DModel, alpha: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the LoRA under diffusers' key names, on the CPU as `dtype`, with a float32 scalar `.alpha` a layer.

    Without `.alpha` ComfyUI applies scale 1 whatever the metadata say (comfy/weight_adapter/lora.py).

    Raises:
        UserError: when a value is infinite or not a number as `dtype`; such a file would draw black pictures.
    """
    tensors = {}
    for name, tensor in get_peft_model_state_dict(transformer, adapter_name=_ADAPTER).items():
        key = _FILE_PREFIX + name
        tensors[key] = tensor.detach().to("cpu", dtype).contiguous()
        if not tensors[key].isfinite().all():
            raise UserError(
                Problem(f"the LoRA has values that are no numbers as {dtype}, in '{key}'", do="Lower learning_rate")
            )
        if key.endswith(_DOWN):
            tensors[key.replace(_DOWN, ".alpha")] = torch.tensor(alpha, dtype=torch.float32)
    return tensors


def check_lora_file(path: Path) -> list[str]:
    """Return the layers of a LoRA file, having checked its keys and shapes; reads the header only.

    Raises:
        UserError: for a file that is missing or cut, and for keys or shapes that would not be applied.
    """
    shapes = header_of(path)
    layers = sorted(key.removesuffix(_DOWN) for key in shapes if key.endswith(_DOWN))
    taken = {f"{layer}{ending}" for layer in layers for ending in (_DOWN, _UP, ".alpha")}
    unknown = sorted(shapes.keys() - taken)
    if not layers or unknown:
        raise UserError(
            Problem(
                f"nothing takes '{unknown[0]}'" if unknown else "holds no LoRA",
                where=str(path),
                allowed="diffusers' key names: transformer.*.lora_A.weight, .lora_B.weight, .alpha",
            )
        )
    for layer in layers:
        down, up, alpha = (shapes.get(f"{layer}{ending}", ()) for ending in (_DOWN, _UP, ".alpha"))
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or alpha not in ((), (1,)):
            raise UserError(
                Problem(
                    f"'{layer}' has shapes {list(down)}, {list(up)} and {list(alpha)}",
                    where=str(path),
                    allowed="[r, in], [out, r], []",
                )
            )
    return layers


@torch.no_grad()
def apply_lora(transformer: FluxTransformer2DModel, path: Path, strength: float) -> None:
    """Add strength * alpha / rank * B @ A of a LoRA file to the transformer's own weights, as ComfyUI does.

    Can be called again with other files. A layer without `.alpha` counts as alpha = rank.

    Raises:
        UserError: naming the first layer that the file asks for and the transformer does not have in that shape.
    """
    layers = check_lora_file(path)
    modules = dict(transformer.named_modules())
    with safe_open(path, framework="pt") as file:
        present = set(file.keys())
        for layer in layers:
            down, up = (file.get_tensor(f"{layer}{ending}").float() for ending in (_DOWN, _UP))  # (r, in), (out, r)
            alpha = float(file.get_tensor(f"{layer}.alpha")) if f"{layer}.alpha" in present else len(down)
            module = modules.get(layer.removeprefix(_FILE_PREFIX))
            if not isinstance(module, nn.Linear) or module.weight.shape != (len(up), down.shape[1]):
                raise UserError(
                    Problem(
                        f"made for another model: '{layer}' maps {down.shape[1]} features to {len(up)}, "
                        "and this transformer has no such layer",
                        where=str(path),
                        do="Use it with the model it was trained on",
                    )
                )
            delta = (up @ down) * (strength * alpha / len(down))  # (out, in)
            module.weight += delta.to(module.weight.device, module.weight.dtype)

"""A FLUX transformer whose every weight and input is a function of its name: kohya's code was run on the same ones.

What it gave (kohya-ss/sd-scripts, commit 48d368fa, on a processor) stands in the tests as numbers.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.keys import transformer_source
from fluxbooth.flux.miniature import miniature_weights
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.tensor_files import save_tensors

TINY: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 32,
    "guidance_embeds": True,
    "axes_dims_rope": [8, 12, 12],
}


def named_noise(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that follow from a name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of a key of black-forest-labs' files, rounded to bfloat16."""
    drawn = named_noise(f"0:{key}", *shape)
    if key.endswith("scale"):
        drawn = 1 + 0.1 * drawn
    elif len(shape) == 1:
        drawn = 0.02 * drawn
    else:
        drawn = drawn * (0.5 if "mod" in key or "adaLN" in key else 1.0) / math.sqrt(shape[1])
    return drawn.to(torch.bfloat16)


def golden_file(folder: Path, transformer: dict[str, Any]) -> Path:
    """Write the weights of a transformer as a file with black-forest-labs' keys."""
    width = transformer["attention_head_dim"] * transformer["num_attention_heads"]
    with torch.device("meta"):
        model = FluxTransformer2DModel(**transformer)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        source = transformer_source(name, width)
        rows = max(source.first_row + parameter.shape[0], shapes.get(source.key, (0,))[0])
        shapes[source.key] = (rows, *parameter.shape[1:])
    file = folder / "golden.safetensors"
    save_tensors(file, {key: weight(key, shape) for key, shape in shapes.items()}, {})
    return file


def load_golden(file: Path, transformer: dict[str, Any], dtype: torch.dtype) -> FluxTransformer2DModel:
    """Load such a file as FLUX.1-dev's is loaded."""
    weights = replace(miniature_weights(), transformer=file)
    architecture = replace(bundled_architecture("miniature"), transformer=transformer)
    return load_transformer(weights, architecture, dtype, torch.device("cpu"))


def kohyas_lora(file: Path, rank: int, alpha: float) -> dict[str, Tensor]:
    """The LoRA that kohya's code was run with: every matrix inside the blocks, numbers that follow from the names."""
    tensors = {}
    for key, weight in load_file(file).items():
        if key.startswith(("double_blocks", "single_blocks")) and key.endswith(".weight"):
            name = f"lora_unet_{key.removesuffix('.weight').replace('.', '_')}"
            rows, columns = weight.shape
            down = named_noise(f"golden:lora.{name}.lora_down.weight", rank, columns) / columns**0.5
            tensors[f"{name}.lora_down.weight"] = down
            tensors[f"{name}.lora_up.weight"] = named_noise(f"golden:lora.{name}.lora_up.weight", rows, rank) * 0.05
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors

"""Items, visits and workloads for tests that care about a few of their fields, and what a network makes of noise."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from fluxbooth.config.specs import CaptionSpec, PictureSpec
from fluxbooth.dataset.buckets import cover
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Visit
from fluxbooth.flux.architecture import PIXELS_PER_TOKEN, bundled_architecture
from fluxbooth.flux.flow import predict_velocity
from fluxbooth.flux.lora import ALL_BLOCKS
from fluxbooth.training.memory_plan import Workload, lora_values


def make_item(
    number: int, repeats: int = 1, batch_size: int = 1, wide: bool = False, is_reg: bool = False, **changes: object
) -> Item:
    """An item that needs no file; `changes` replace any field."""
    values = {
        "path": Path(f"{number}.png"),
        "digest": f"{number:064x}",
        "placement": cover((100, 100), (96, 64) if wide else (64, 64)),
        "caption": "tjtoy toy, a, b, c",
        "caption_extension": ".caption",
        "concept": "tjtoy toy",
        "repeats": repeats,
        "is_reg": is_reg,
        "caption_spec": CaptionSpec(keep_tokens=1),
        "picture_spec": PictureSpec(),
        "dataset": 0,
        "batch_size": batch_size,
    }
    return Item(**{**values, **changes})  # type: ignore[arg-type]


def visit_of(path: Path, caption: str = "tjtoy toy", flipped: bool = False, is_reg: bool = False) -> Visit:
    """A visit of a real picture of 64 x 48 pixels, cut to 48 x 48."""
    item = make_item(
        0,
        path=path,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        placement=cover((64, 48), (48, 48)),
        caption=caption,
        is_reg=is_reg,
    )
    return Visit(item, flipped, caption)


def work_of_flux_dev(
    side: int = 1024, rank: int = 16, optimizer_type: str = "AdamW", has_training_pass: bool = True
) -> Workload:
    """FLUX.1-dev in bfloat16 on a GPU, one picture at a time, on ComfyUI's 256 text tokens."""
    architecture = bundled_architecture("flux-dev")
    tokens = (side // PIXELS_PER_TOKEN) ** 2 + architecture.t5_tokens
    values = lora_values(architecture, rank, ALL_BLOCKS, clip_trained=False)
    return Workload(
        architecture,
        tokens,
        rank,
        values,
        optimizer_type,
        False,
        has_training_pass,
        torch.bfloat16,
        torch.device("cuda"),
    )


@torch.no_grad()
def velocity(transformer: FluxTransformer2DModel) -> Tensor:
    """What the miniature makes of some noise and some prompt, always the same."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 16, 8, 8, generator=generator)
    prompt, pooled = torch.randn(1, 64, 128, generator=generator), torch.randn(1, 128, generator=generator)
    return predict_velocity(transformer, latents, torch.tensor([0.5]), prompt, pooled, 1.0)

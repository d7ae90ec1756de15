"""A LoRA of smaller rank that changes the weights as nearly the same as that rank can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.lora_formats import LoraLayer


@torch.no_grad()
def resized(layers: Iterable[tuple[str, LoraLayer]], rank: int) -> Iterator[tuple[str, LoraLayer]]:
    """Yield every layer at `rank`, or at its own where that is smaller; alpha is the rank, scale 1.

    The truncated singular value decomposition of up @ down is the nearest matrix of that rank (Eckart and Young, 1936).

    Raises:
        UserError: for a layer whose values are infinite or no numbers.
    """
    for name, layer in layers:
        if not is_finite(layer):
            raise UserError(Problem(f"'{name}' has values that are no numbers", do="Resize an earlier checkpoint"))
        # DoRA's scale of a row is by the base's length, which no rank changes.
        yield name, replace(_truncated(layer, rank), dora_scale=layer.dora_scale)


def is_finite(layer: LoraLayer) -> bool:
    """Say whether all of a layer's values are numbers."""
    parts = (layer.up, layer.down, *(() if layer.dora_scale is None else (layer.dora_scale,)))
    return all(bool(part.isfinite().all()) for part in parts)


@torch.no_grad()
def strengths(layer: LoraLayer) -> Tensor:
    """Return the singular values of a layer's change, falling: (r,) float32; their norm is the change's own."""
    up_part, down_part = (torch.linalg.qr(base, mode="r").R for base in (layer.up.float(), layer.down.float().T))
    values: Tensor = torch.linalg.svdvals(up_part @ down_part.T * layer.scale)
    return values


def _truncated(layer: LoraLayer, rank: int) -> LoraLayer:
    # By way of two thin decompositions: the (out, in) matrix itself is never made.
    up_base, up_part = torch.linalg.qr(layer.up.float())
    down_base, down_part = torch.linalg.qr(layer.down.float().T)
    left, values, right = torch.linalg.svd(up_part @ down_part.T * layer.scale)
    kept = min(rank, layer.rank)
    root = values[:kept].sqrt()
    up, down = up_base @ left[:, :kept] * root, root[:, None] * (right[:kept] @ down_base.T)
    return LoraLayer(down.to(layer.down.dtype).contiguous(), up.to(layer.up.dtype).contiguous(), float(kept))

"""A LoRA of smaller rank that changes the weights as nearly the same as that rank can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from fluxbooth.flux.lora_formats import LoraLayer


def resized(layers: Iterable[tuple[str, LoraLayer]], rank: int) -> Iterator[tuple[str, LoraLayer]]:
    """Yield every layer at `rank`, or at its own where that is smaller; alpha is the rank, scale 1.

    The truncated singular value decomposition of up @ down is the nearest matrix of that rank (Eckart and Young, 1936).
    """
    for name, layer in layers:
        yield name, _truncated(layer, rank)


@torch.no_grad()
def _truncated(layer: LoraLayer, rank: int) -> LoraLayer:
    left, strengths, right = _decomposed(layer)
    kept = min(rank, layer.rank)
    root = strengths[:kept].sqrt()
    up, down = left[:, :kept] * root, root[:, None] * right[:kept]
    return LoraLayer(down.to(layer.down.dtype).contiguous(), up.to(layer.up.dtype).contiguous(), float(kept))


def kept_share(layer: LoraLayer, rank: int) -> float:
    """Return which share of a layer's change, by its squared norm, `rank` keeps: 0 to 1."""
    _, strengths, _ = _decomposed(layer)
    whole = float(strengths.square().sum())
    return float(strengths[:rank].square().sum()) / whole if whole else 1.0


def _decomposed(layer: LoraLayer) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of the layer's change, by way of two thin QR decompositions: its matrices are
    (out, r), (r,) and (r, in), and the (out, in) matrix itself is never made."""
    up_base, up_part = torch.linalg.qr(layer.up.float())
    down_base, down_part = torch.linalg.qr(layer.down.float().T)
    left, strengths, right = torch.linalg.svd(up_part @ down_part.T * layer.scale)
    return up_base @ left, strengths, right @ down_base.T

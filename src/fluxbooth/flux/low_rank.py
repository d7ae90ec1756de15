"""The LoRA of linears that read the same input: its products and their gradients, in few kernels.

N tokens, I features in, O features out of all linears, R ranks of all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LoraPart:
    """One linear's LoRA: which of the projection's it is, where its outputs lie, and what its effect is scaled by."""

    linear: int
    begin: int
    end: int
    rank: int
    scale: float


class LowRank:
    """All parts, in the numbers that they are multiplied in."""

    def __init__(self, parts: Sequence[LoraPart], matrices: Sequence[Tensor], dtype: torch.dtype) -> None:
        """Take the matrices, which are cast together.

        Args:
            matrices: A (rank, I) and B (outputs, rank) of each part.
        """
        self._parts = parts
        count = len(parts)
        in_order = [*matrices[::2], *matrices[1::2]]
        memory = torch.empty(sum(own.numel() for own in in_order), dtype=dtype, device=in_order[0].device)
        cast = _side_by_side(memory, [own.shape for own in in_order])
        torch._foreach_copy_(cast, in_order)
        self.downs = memory[: sum(own.numel() for own in in_order[:count])].view(-1, in_order[0].shape[1])
        """All A, one below the other: (R, I)."""
        self._ups = cast[count:]

    def add_ups(self, outputs: Tensor, low: Tensor) -> None:
        """Add scale * B of each part's low-rank inputs (N, R) to its own columns of `outputs` (N, O), in place."""
        for part, up, own in zip(self._parts, self._ups, self._by_part(low), strict=True):
            outputs[:, part.begin : part.end].addmm_(own, up.T, alpha=part.scale)

    def gradients(self, gradients: Sequence[Tensor], low: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradient of the low-rank inputs (N, R) and that of each B (outputs, rank), float32.

        Args:
            gradients: (N, outputs) of each linear of the projection.
            low: (N, R), what A made of the inputs.
        """
        of_low = torch.empty_like(low)
        memory = low.new_empty(sum(up.numel() for up in self._ups))
        shapes = [up.shape for up in self._ups]
        places = zip(_side_by_side(memory, shapes), self._by_part(low), self._by_part(of_low), strict=True)
        for part, up, (of_up, own_low, of_own_low) in zip(self._parts, self._ups, places, strict=True):
            own = gradients[part.linear]
            of_own_low.addmm_(own, up, beta=0, alpha=part.scale)
            of_up.addmm_(own.T, own_low, beta=0, alpha=part.scale)
        return of_low, _side_by_side(memory.float(), shapes)

    def gradients_of_downs(self, gradients: Tensor) -> Sequence[Tensor]:
        """Divide the gradient of all A, (R, I), among the parts: (rank, I) each, float32."""
        return _split(gradients.float(), [part.rank for part in self._parts], 0)

    def _by_part(self, low: Tensor) -> Sequence[Tensor]:
        return _split(low, [part.rank for part in self._parts], 1)


def _side_by_side(memory: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = _split(memory, [shape.numel() for shape in shapes], 0)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _split(tensor: Tensor, sizes: list[int], dim: int) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = tensor.split(sizes, dim)
    return parts

"""Linears of the transformer that read the same input, run as one frozen matrix with the LoRA of each.

I features in, O features out of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from fluxbooth.flux.fp8 import Fp8Matrix
from fluxbooth.flux.low_rank import LoraPart
from fluxbooth.flux.matrices import DenseMatrix, FrozenMatrix
from fluxbooth.flux.stored import StoredLinear


class Projection:
    """A frozen matrix (O, I) and its bias (O,), made of linears with the same input, each with a LoRA or without."""

    def __init__(self, linears: Sequence[nn.Module], fp8_products: bool = False, turned: bool = True) -> None:
        """Join the linears' weights; each goes on as a view of its rows, so nothing is held twice.

        Args:
            linears: `nn.Linear` or `StoredLinear`, or PEFT's LoRA around one.
            fp8_products: multiply as they are held, in fp8.
            turned: with them, as `Fp8Matrix` takes it.

        Raises:
            ValueError: for products in fp8 of what is not held in it.
        """
        self._linears = list(linears)
        self._bases = [_base(linear) for linear in linears]
        self.sizes = [base.out_features for base in self._bases]
        """Outputs of each linear."""
        self._ends = list(accumulate(self.sizes))
        self._weight: Tensor | None = None
        if not any(isinstance(base, StoredLinear) for base in self._bases):
            self._weight = self._joined("weight")
        self.bias = self._joined("bias")
        self.in_fp8: Fp8Matrix | None = None
        """The matrix of products in fp8; None where they are in the bias's numbers."""
        if fp8_products:
            if not all(isinstance(base, StoredLinear) and base.form == "fp8" for base in self._bases):
                raise ValueError("fp8 products are of matrices that are held in fp8")
            self.in_fp8 = Fp8Matrix(self._joined("codes"), self._joined("scales"), self.sizes, turned)

    def matrix(self) -> FrozenMatrix:
        """The matrix, (O, I); where it is held in fewer bits it is made for the products that it is asked for."""
        return self.in_fp8 or DenseMatrix(self._bases, self._weight)

    def held(self) -> list[Tensor]:
        """What the matrix is held as: itself; for products in fp8 its codes and scales; else those of each linear."""
        if self._weight is not None:
            return [self._weight]
        if self.in_fp8 is not None:
            return [self.in_fp8.codes, self.in_fp8.scales]
        return [tensor for base in self._bases for tensor in _stored(base)]

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Compute with these, the same numbers in another place, from now on; the linears do, too."""
        if self._weight is not None:
            (self._weight,) = tensors
            for base, rows in zip(self._bases, self._weight.split(self.sizes), strict=True):
                base.weight.data = rows
            return
        if self.in_fp8 is not None:
            self.in_fp8.hold(*tensors)
            whole = tensors[0].view(torch.uint8), tensors[1]
            tensors = [rows for both in zip(*(own.split(self.sizes) for own in whole), strict=True) for rows in both]
        for base, codes, scales in zip(self._bases, tensors[::2], tensors[1::2], strict=True):
            base.codes, base.scales = codes, scales

    def _joined(self, name: str) -> Tensor:
        """One tensor of the linears' own of that name; theirs become views of it."""
        own: list[Tensor] = [getattr(base, name).data for base in self._bases]
        if len(own) == 1:
            return own[0]
        joined = torch.cat(own)
        for base, begin, end in zip(self._bases, [0, *self._ends], self._ends, strict=False):
            getattr(base, name).data = joined[begin:end]
        return joined

    def lora(self) -> tuple[list[LoraPart], list[nn.Parameter]]:
        """The LoRA as it is now: its parts, and A (rank, I) and B (outputs, rank) of each; none where it is off."""
        parts: list[LoraPart] = []
        matrices: list[nn.Parameter] = []
        for number, (linear, begin, end) in enumerate(zip(self._linears, [0, *self._ends], self._ends, strict=False)):
            if isinstance(linear, LoraLinear) and not linear.disable_adapters:
                (name,) = linear.active_adapters
                down, up = linear.lora_A[name].weight, linear.lora_B[name].weight
                parts.append(LoraPart(number, begin, end, len(down), linear.scaling[name]))
                matrices += [down, up]
        return parts, matrices


def _stored(base: nn.Linear) -> tuple[Tensor, Tensor]:
    if not isinstance(base, StoredLinear):
        raise TypeError("a projection's linears are held in one way")
    return base.codes, base.scales


def _base(linear: nn.Module) -> nn.Linear:
    base = linear.base_layer if isinstance(linear, LoraLinear) else linear
    if not isinstance(base, nn.Linear) or base.bias is None:
        raise TypeError(f"{base} is no linear with a bias")
    return base


def has_plain_lora(module: nn.Module) -> bool:
    """Whether each LoRA inside `module` is two matrices and nothing else: no dropout, no weight decomposition."""
    return all(
        not linear.lora_variant and all(isinstance(dropout, nn.Identity) for dropout in linear.lora_dropout.values())
        for linear in module.modules()
        if isinstance(linear, LoraLinear)
    )

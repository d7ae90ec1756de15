"""Products with frozen matrices in fp8 arithmetic; inputs and gradients are brought to fp8 as they come, row by row.

N tokens, I features in, O features out. fp8 is e4m3 throughout: four bits of exponent, three of mantissa.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from fluxbooth.flux.kernels import one_kernel
from fluxbooth.flux.matrices import ALL_COLUMNS

_FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FP8).max
# What a row's largest number counts as at least: a row of zeros has none to be scaled by, and gradients are small.
_SMALLEST = 1e-30
_MULTIPLE = 16
"""Of which the matrices' sides are multiples, or no GPU multiplies them."""


class Fp8Matrix:
    """A `FrozenMatrix` that is held in fp8 and multiplied in fp8."""

    def __init__(
        self, codes: Tensor, scales: Tensor, sizes: Sequence[int], turned: bool = True, by_rows: bool | None = None
    ) -> None:
        """Take the weights of linears, one below the other.

        Args:
            codes: (O, I), fp8 as bytes.
            scales: what each row is multiplied by, (O, 1) float32.
            sizes: outputs of each linear.
            turned: hold the codes turned round, too: two bytes a number in all, as many as bfloat16 takes.
            by_rows: whether products apply the rows' scales themselves, or the result is scaled afterwards, which
                reads and writes it once more; None for what the device can (`scales_rows`).
        """
        if any(side % _MULTIPLE for side in codes.shape):
            raise ValueError(f"fp8 products are of sides that {_MULTIPLE} divides, not {tuple(codes.shape)}")
        self.hold(codes, scales)
        self.turned = self.codes.T.contiguous() if turned else None
        """The codes turned round, (I, O), for the backward pass. Where they are not held they are turned for every
        product: no GPU before Blackwell multiplies with a matrix that does not lie along what is summed over."""
        self._ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
        self._by_rows = by_rows

    def hold(self, codes: Tensor, scales: Tensor) -> None:
        """Multiply with these from now on."""
        self.codes, self.scales = codes.view(_FP8), scales

    def times(self, inputs: Sequence[Tensor], bias: Tensor) -> Tensor:
        """As `FrozenMatrix.times`."""
        codes, scales = one_kernel(_inputs_in_fp8)(*inputs) if _has_kernels(bias) else _inputs_in_fp8(*inputs)
        return self._product(codes, scales, self.codes, self.scales, bias)

    def back(
        self, gradients: Sequence[Tensor], columns: slice = ALL_COLUMNS, added: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """As `FrozenMatrix.back`; what is summed over is O, so the rows' scales go into the gradients first."""
        of_rows = [self.scales[begin:end, 0] for begin, end in pairwise(self._ends)]
        make = one_kernel(_gradients_in_fp8) if _has_kernels(self.codes) else _gradients_in_fp8
        codes, scales = make(gradients, of_rows)
        turned = self.codes[:, columns].T.contiguous() if self.turned is None else self.turned[columns]
        product = self._product(codes, scales, turned, None, None)
        return product if added is None else product.addmm_(*added)

    def _product(
        self, left: Tensor, left_scales: Tensor, right: Tensor, right_scales: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """Return left (N, K) @ right (M, K) transposed, each row of both times its scale, plus bias (M,): bfloat16."""
        if scales_rows(left.device) if self._by_rows is None else self._by_rows:
            scales = left_scales.new_ones(len(right), 1) if right_scales is None else right_scales
            return _multiplied(left, right, left_scales, scales.T, bias)
        one = left_scales.new_ones(())
        product = _multiplied(left, right, one, one, None)
        rescale = one_kernel(_rescaled) if _has_kernels(left) else _rescaled
        return rescale(product, left_scales, right_scales, bias)


def turned_bytes(blocks: tuple[int, int], width: int) -> int:
    """Bytes of all matrices that `TrainingPass` multiplies with, turned round in fp8.

    Args:
        blocks: how many double and single ones.
        width: features of a token. Queries, keys, values and what follows attention have as many; the feed-forward has
            four times as many inside, and a double block has all of it twice.
    """
    double, single = blocks
    return (24 * double + 12 * single) * width**2


@cache
def scales_rows(device: torch.device) -> bool:
    """Whether fp8 products there apply a scale to each row; tried, since it takes the right GPU and the right PyTorch.

    On Windows they do not, and on an RTX 50 or a DGX Spark with some versions (pytorch/pytorch#192707).
    """
    codes = torch.ones(64, 64, device=device).to(_FP8)
    scales, bias = torch.ones(64, 1, device=device), torch.zeros(64, dtype=torch.bfloat16, device=device)
    try:
        _multiplied(codes, codes, scales, scales.T, bias)
    except (RuntimeError, ValueError):
        return False
    return True


def _multiplied(left: Tensor, right: Tensor, left_scales: Tensor, right_scales: Tensor, bias: Tensor | None) -> Tensor:
    # Fast accumulation keeps about 14 bits of a sum on Hopper, which over 4096 numbers was seen to be wrong by 2 %
    # (DeepSeek-V3, arXiv 2412.19437, section 3.3.2); FLUX sums over up to 21504.
    return torch._scaled_mm(
        left,
        right.T,
        scale_a=left_scales,
        scale_b=right_scales,
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=False,
    )


def _has_kernels(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


def _inputs_in_fp8(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs side by side as codes (N, I) and the scale of each row, (N, 1) float32."""
    return _in_fp8([own.float() for own in inputs])


def _gradients_in_fp8(gradients: Sequence[Tensor], of_rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return gradients side by side, each times its columns' scales, as codes (N, O) and scales (N, 1) float32."""
    return _in_fp8([own.float() * scales for own, scales in zip(gradients, of_rows, strict=True)])


def _in_fp8(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One scale for the whole row, whatever it is made of: e4m3 is as exact 2^-14 below its largest number as there."""
    largest = torch.stack([own.abs().amax(1) for own in values]).amax(0)[:, None]
    scales = largest.clamp_min(_SMALLEST) / _LARGEST
    codes = [(own / scales).to(_FP8) for own in values]
    return codes[0] if len(codes) == 1 else torch.cat(codes, 1), scales


def _rescaled(product: Tensor, rows: Tensor, columns: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return product (N, M) times rows (N, 1) and columns (M, 1), plus bias (M,), bfloat16."""
    values = product.float() * rows
    if columns is not None:
        values = values * columns.T
    if bias is not None:
        values = values + bias
    return values.to(product.dtype)

"""Frozen matrices held in fewer bits than they are multiplied in: for GPUs that do not hold them whole.

O output features, I input features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

StorageForm = Literal["full", "fp8", "int8", "nf4"]
"""How a frozen matrix is held: "full" is as it is multiplied."""

_OF_A_BLOCK = 64
"""Numbers that share a scale in nf4."""


def _nf4_levels() -> Tensor:
    """The 16 levels of NormalFloat: quantiles of a normal distribution, 0 among them, scaled to [-1, 1].

    QLoRA (arXiv 2305.14314, section 3); the outermost quantile is bitsandbytes' (functional.create_normal_map).
    """
    outermost = 0.9677083
    positive = torch.special.ndtri(torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(outermost, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive.flip(0)])
    return (levels / levels.max()).float()


_NF4 = _nf4_levels()


@dataclass(frozen=True)
class _Form:
    bits: float
    """Of one number, its share of the scales included, for rows as long as FLUX's."""
    pack: Callable[[Tensor], tuple[Tensor, Tensor]]
    """(O, I) float32 -> codes and scales."""
    unpack: Callable[[Tensor, Tensor, torch.dtype], Tensor]
    """Codes and scales -> (O, I)."""


def _pack_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (weight / scales).to(torch.float8_e4m3fn).view(torch.uint8), scales


def _unpack_fp8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.view(torch.float8_e4m3fn).to(dtype).mul_(scales.to(dtype))


def _pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return (weight / scales).round_().to(torch.int8), scales


def _unpack_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.to(dtype).mul_(scales.to(dtype))


def _pack_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    blocks = weight.reshape(len(weight), -1, _OF_A_BLOCK)
    scales = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-12).bfloat16()
    levels = _NF4.to(weight.device)
    codes = torch.bucketize(blocks / scales.float(), (levels[1:] + levels[:-1]) / 2).to(torch.uint8).flatten(1)
    return codes[:, ::2] << 4 | codes[:, 1::2], scales


def _unpack_nf4(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    blocks = _nf4_pairs(codes.device, dtype)[codes.int()].reshape(len(codes), -1, _OF_A_BLOCK)
    return blocks.mul_(scales.to(dtype)).flatten(1)


@cache
def _nf4_pairs(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Both numbers of each byte, (256, 2), for one look-up; brought to a GPU once, since it finishes its work first."""
    levels = _NF4.to(device, dtype)
    return torch.stack([levels.repeat_interleave(16), levels.repeat(16)], dim=1)


_FORMS: Mapping[str, _Form] = {
    "fp8": _Form(8, _pack_fp8, _unpack_fp8),
    "int8": _Form(8, _pack_int8, _unpack_int8),
    "nf4": _Form(4.25, _pack_nf4, _unpack_nf4),
}


def stored_bytes(numbers: int, form: StorageForm, dtype: torch.dtype) -> int:
    """Bytes that frozen matrices of so many numbers take, held in `form` and multiplied as `dtype`."""
    return int(numbers * (dtype.itemsize if form == "full" else _FORMS[form].bits / 8))


class StoredLinear(nn.Linear):
    """A frozen linear whose matrix is held as codes and scales; what they stand for is made anew for each product."""

    def __init__(self, inputs: int, outputs: int, form: StorageForm) -> None:
        """Make one that holds nothing yet: `weight` is a placeholder of the matrix's shape until `hold` is called."""
        super().__init__(inputs, outputs)
        self.form = form
        self._form = _FORMS[form]
        self.register_buffer("codes", None)
        self.register_buffer("scales", None)

    @torch.no_grad()
    def hold(self, weight: Tensor, place: torch.device | None = None) -> None:
        """Take in the matrix (O, I); what stands under `weight` from then on is empty.

        Args:
            place: where codes and scales are kept; None for the matrix's own device, where they are made.
        """
        codes, scales = self._form.pack(weight.float())
        self.codes, self.scales = codes.to(place or weight.device), scales.to(place or weight.device)
        self.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)

    def dense(self) -> Tensor:
        """What the codes stand for: (O, I) of the dtype that was taken in."""
        return self._form.unpack(self.codes, self.scales, self.weight.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return F.linear(inputs, self.dense(), self.bias)


def store_linears(model: nn.Module, form: StorageForm, chosen: Callable[[str], bool]) -> None:
    """Put a `StoredLinear` in the place of each linear of `model`, still without weights, whose name is `chosen`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and chosen(name):
            stored = StoredLinear(module.in_features, module.out_features, form)
            owner, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(owner), own_name, stored)

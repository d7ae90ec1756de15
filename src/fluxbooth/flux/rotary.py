"""Queries and keys: normalized, weighted, and turned by their positions.

B samples, n tokens of a stream, H heads, D features a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fluxbooth.flux.kernels import one_kernel

_EPSILON = 1e-6
_AT_ONCE = 128
"""Tokens that the CPU turns at a time: their float32 values stay in its cache."""


def rotations(cosines: Tensor, sines: Tensor) -> Tensor:
    """Return the turn of each pair of features, (n, D / 2) complex64, from diffusers' tables (n, D).

    Rotary positions: arXiv 2104.09864.
    """
    return torch.complex(cosines[:, ::2].float().contiguous(), sines[:, ::2].float().contiguous())


def norm_turn(tokens: Tensor, weight: Tensor, turns: Tensor, out: Tensor | None = None) -> Tensor:
    """RMS norm of each head, times `weight`, turned: (B, n, H, D) -> (B, n, H, D), contiguous.

    Args:
        weight: (D,) float32.
        turns: (n, D / 2).
        out: where the CPU writes it, of any strides.
    """
    if tokens.device.type != "cpu":
        return one_kernel(_norm_turn)(tokens, weight, *torch.view_as_real(turns).unbind(-1))
    made = torch.empty_like(tokens, memory_format=torch.contiguous_format) if out is None else out
    for part in _parts(tokens):
        values = tokens[:, part].to(torch.float32, copy=True)
        values *= _inverse_root(values)
        values *= weight
        made[:, part] = _turned(values, turns[part])
    return made


def norm_turn_gradient(gradients: Tensor, tokens: Tensor, weight: Tensor, turns: Tensor) -> Tensor:
    """The gradient by the tokens, (B, n, H, D), for that of what `norm_turn` makes of them."""
    if tokens.device.type != "cpu":
        return one_kernel(_norm_turn_gradient)(gradients, tokens, weight, *torch.view_as_real(turns).unbind(-1))
    made = torch.empty_like(tokens, memory_format=torch.contiguous_format)
    for part in _parts(tokens):
        gradient = _turned(gradients[:, part].float(), turns[part].conj()) * weight
        values = tokens[:, part].to(torch.float32, copy=True)
        inverse = _inverse_root(values)
        values *= inverse
        # d/dx of x / rms(x): what lies along x is taken out.
        gradient -= values * (gradient * values).mean(-1, keepdim=True)
        made[:, part] = gradient.mul_(inverse)
    return made


def _norm_turn(tokens: Tensor, weight: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """`norm_turn` in operations that torch.compile makes one kernel of; complex numbers it leaves alone."""
    values = tokens.float()
    values = values * _inverse_root(values) * weight
    return _turned_by(values, cosines, sines).to(tokens.dtype)


def _norm_turn_gradient(gradients: Tensor, tokens: Tensor, weight: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """`norm_turn_gradient` likewise."""
    gradient = _turned_by(gradients.float(), cosines, -sines) * weight
    values = tokens.float()
    inverse = _inverse_root(values)
    values = values * inverse
    return ((gradient - values * (gradient * values).mean(-1, keepdim=True)) * inverse).to(tokens.dtype)


def _turned_by(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = values.unflatten(-1, (-1, 2)).unbind(-1)
    cosines, sines = cosines[:, None], sines[:, None]
    return torch.stack([first * cosines - second * sines, first * sines + second * cosines], dim=-1).flatten(-2)


def _parts(tokens: Tensor) -> list[slice]:
    return [slice(begin, begin + _AT_ONCE) for begin in range(0, tokens.shape[1], _AT_ONCE)]


def _inverse_root(values: Tensor) -> Tensor:
    """1 / root mean square of each head's features: (B, n, H, D) float32 -> (B, n, H, 1)."""
    return (values.square().mean(-1, keepdim=True) + _EPSILON).rsqrt()


def _turned(values: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of features: (B, n, H, D) float32 by (n, D / 2)."""
    pairs = torch.view_as_complex(values.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2)

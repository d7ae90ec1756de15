"""Queries and keys: normalized, weighted, and turned by their positions.

B samples, n tokens of a stream, N of all streams, H heads, D features a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fluxbooth.flux.kernels import one_kernel

_EPSILON = 1e-6
_AT_ONCE = 128
"""Tokens that the CPU turns at a time: their float32 values stay in its cache."""


def rotations(cosines: Tensor, sines: Tensor) -> Tensor:
    """Return the turn of each pair of features, (N, D / 2) complex64, from diffusers' tables (N, D).

    Rotary positions: arXiv 2104.09864.
    """
    return torch.complex(cosines[:, ::2].float().contiguous(), sines[:, ::2].float().contiguous())


def norm_turn(streams: Sequence[Tensor], weights: Sequence[Tensor], turns: Tensor) -> Tensor:
    """RMS norm of each head, times its stream's weight, turned; one stream behind the other: (B, H, N, D).

    On the CPU a head's tokens lie side by side, as products want.

    Args:
        streams: (B, n, H, D) each.
        weights: (D,) float32 each.
        turns: (N, D / 2).
    """
    if turns.device.type != "cpu":
        return one_kernel(_norm_turn, fixed=2)(streams, weights, *_cosines_sines(turns)).transpose(1, 2)
    batch, _, heads, features = streams[0].shape
    made = streams[0].new_empty(batch, heads, len(turns), features)
    of_streams = zip(streams, weights, *_of_streams(streams, turns, made.transpose(1, 2)), strict=True)
    for tokens, weight, own_turns, place in of_streams:
        for part in _parts(tokens):
            values = tokens[:, part].to(torch.float32, copy=True)
            values *= _inverse_root(values)
            values *= weight
            place[:, part] = _turned(values, own_turns[part])
    return made


def norm_turn_gradient(
    gradients: Tensor, streams: Sequence[Tensor], weights: Sequence[Tensor], turns: Tensor
) -> list[Tensor]:
    """The gradient by each stream, (B, n, H, D), for that of what `norm_turn` makes of them, (B, H, N, D)."""
    gradients = gradients.transpose(1, 2)
    if turns.device.type != "cpu":
        # As a GPU's attention gives them; in any other order they would take a kernel of their own.
        gradients = gradients.contiguous()
        return one_kernel(_norm_turn_gradient, fixed=2)(gradients, streams, weights, *_cosines_sines(turns))
    of_streams = zip(streams, weights, *_of_streams(streams, turns, gradients), strict=True)
    return [_gradient_on_cpu(own, tokens, weight, own_turns) for tokens, weight, own_turns, own in of_streams]


def _gradient_on_cpu(gradients: Tensor, tokens: Tensor, weight: Tensor, turns: Tensor) -> Tensor:
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


def _norm_turn(streams: Sequence[Tensor], weights: Sequence[Tensor], cosines: Tensor, sines: Tensor) -> Tensor:
    """`norm_turn`, (B, N, H, D), in operations that torch.compile makes kernels of; complex numbers it leaves alone."""
    turned = []
    for tokens, weight, *turn in zip(streams, weights, *_of_streams(streams, cosines, sines), strict=True):
        values = tokens.float()
        turned.append(_turned_by(values * _inverse_root(values) * weight, *turn).to(tokens.dtype))
    return turned[0] if len(turned) == 1 else torch.cat(turned, dim=1)


def _norm_turn_gradient(
    gradients: Tensor, streams: Sequence[Tensor], weights: Sequence[Tensor], cosines: Tensor, sines: Tensor
) -> list[Tensor]:
    """`norm_turn_gradient` likewise, from (B, N, H, D)."""
    made = []
    parts = _of_streams(streams, cosines, sines, gradients)
    for tokens, weight, own_cosines, own_sines, own in zip(streams, weights, *parts, strict=True):
        gradient = _turned_by(own.float(), own_cosines, -own_sines) * weight
        values = tokens.float()
        inverse = _inverse_root(values)
        values = values * inverse
        along = values * (gradient * values).mean(-1, keepdim=True)
        made.append(((gradient - along) * inverse).to(tokens.dtype))
    return made


def _of_streams(streams: Sequence[Tensor], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Divide each tensor, (N, ...), or (B, N, H, D), among the streams."""
    sizes = [tokens.shape[1] for tokens in streams]
    return (tensor.split(sizes, dim=1 if tensor.dim() == 4 else 0) for tensor in tensors)


def _cosines_sines(turns: Tensor) -> tuple[Tensor, ...]:
    """(N, 1, D / 2) float32 both."""
    return torch.view_as_real(turns)[:, None].unbind(-1)


def _turned_by(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair of features: (B, n, H, D) by (n, 1, D / 2) both.

    (x, y) -> cosine * (x, y) + sine * (-y, x): no halves that are put together again, for which compilers take memory.
    """
    pairs = values.unflatten(-1, (-1, 2))
    signs = torch.arange(-1, 2, 2, device=values.device)
    turned: Tensor = pairs * cosines[..., None] + pairs.flip(-1) * (sines[..., None] * signs)
    return turned.flatten(-2)


def _parts(tokens: Tensor) -> list[slice]:
    return [slice(begin, begin + _AT_ONCE) for begin in range(0, tokens.shape[1], _AT_ONCE)]


def _inverse_root(values: Tensor) -> Tensor:
    """1 / root mean square of each head's features: (B, n, H, D) float32 -> (B, n, H, 1)."""
    return (values.square().mean(-1, keepdim=True) + _EPSILON).rsqrt()


def _turned(values: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of features: (B, n, H, D) float32 by (n, D / 2)."""
    pairs = torch.view_as_complex(values.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2)

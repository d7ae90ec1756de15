"""GELU by its tanh approximation (arXiv 1606.08415), and its gradient.

bfloat16 has 65,536 numbers: the CPU looks up what PyTorch makes of each, in half the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

_NUMBERS = 1 << 16
# Values that are looked up at a time: their places in the table stay in a cache of the processor.
_AT_ONCE = 1 << 18


def gelu(values: Tensor) -> Tensor:
    """GELU of each of (N, I) values."""
    if not _is_looked_up(values):
        return F.gelu(values, approximate="tanh")
    made = values.new_empty(values.shape)
    for rows, places in _places(values):
        torch.index_select(_table(), 0, places, out=made[rows].view(-1))
    return made


def gelu_gradient_(gradients: Tensor, values: Tensor) -> Tensor:
    """Make of the gradient of GELU's outputs that of its inputs, (N, I) values, in place."""
    if not _is_looked_up(values):
        made: Tensor = torch.ops.aten.gelu_backward(gradients, values, approximate="tanh", grad_input=gradients)
        return made
    slopes = values.new_empty(min(_rows_at_once(values), len(values)), values.shape[1])
    for rows, places in _places(values):
        own = slopes[: len(places) // values.shape[1]]
        torch.index_select(_slopes(), 0, places, out=own.view(-1))
        gradients[rows] *= own
    return gradients


def _is_looked_up(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype is torch.bfloat16


def _places(values: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows of (N, I) at a time, and the place in the table of each value there, row by row."""
    rows, columns = values.shape
    at_once = _rows_at_once(values)
    places = torch.empty(at_once, columns, dtype=torch.int32)
    bits = values.view(torch.uint16)
    for begin in range(0, rows, at_once):
        own = places[: min(at_once, rows - begin)]
        own.copy_(bits[begin : begin + at_once])
        yield slice(begin, begin + at_once), own.view(-1)


def _rows_at_once(values: Tensor) -> int:
    return max(_AT_ONCE // values.shape[1], 1)


@cache
def _every_number() -> Tensor:
    """All of bfloat16, in the order of their bits as a whole number from 0."""
    return torch.arange(_NUMBERS, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)


@cache
def _table() -> Tensor:
    return F.gelu(_every_number(), approximate="tanh")


@cache
def _slopes() -> Tensor:
    numbers = _every_number()
    slopes: Tensor = torch.ops.aten.gelu_backward(torch.ones_like(numbers), numbers, approximate="tanh")
    return slopes

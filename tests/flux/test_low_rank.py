"""A projection's LoRA adds what its formula says, to its own columns, and gives autograd's own gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fluxbooth.flux.low_rank import LoraPart, LowRank

PARTS = [LoraPart(0, 0, 24, rank=4, scale=0.5), LoraPart(2, 40, 72, rank=2, scale=2.0)]
"""Of three linears with 24, 16 and 32 outputs; the one in between has no LoRA."""
ROUNDED = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def matrices() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(4, 48), (24, 4), (2, 48), (32, 2)]
    return [torch.randn(shape, generator=draw) / 4 for shape in shapes]


def inputs() -> Tensor:
    return torch.randn(10, 48, generator=torch.Generator().manual_seed(1)) / 4


def by_the_book(tokens: Tensor, own: list[Tensor]) -> Tensor:
    """scale * B A x in each part's columns, zero in the others: (N, 72)."""
    first_down, first_up, second_down, second_up = own
    first, second = 0.5 * tokens @ first_down.T @ first_up.T, 2.0 * tokens @ second_down.T @ second_up.T
    return torch.cat([first, tokens.new_zeros(len(tokens), 16), second], dim=1)


@pytest.mark.parametrize("dtype", ROUNDED)
def test_each_part_adds_to_its_own_columns(dtype: torch.dtype) -> None:
    lora, tokens = LowRank(PARTS, matrices(), dtype), inputs().to(dtype)
    outputs = torch.ones(10, 72, dtype=dtype)
    lora.add_ups(outputs, tokens @ lora.downs.T)
    torch.testing.assert_close(outputs.float(), 1 + by_the_book(inputs(), matrices()), rtol=0, atol=ROUNDED[dtype])


@pytest.mark.parametrize("dtype", ROUNDED)
def test_gradients_are_autograds(dtype: torch.dtype) -> None:
    leaves = [own.requires_grad_() for own in (inputs(), *matrices())]
    of_outputs = torch.randn(10, 72, generator=torch.Generator().manual_seed(2)) / 4
    expected = torch.autograd.grad(by_the_book(leaves[0], leaves[1:]), leaves, of_outputs)

    lora, tokens = LowRank(PARTS, matrices(), dtype), inputs().to(dtype)
    of_linears = of_outputs.to(dtype).split([24, 16, 32], 1)
    of_low, of_ups = lora.gradients(of_linears, tokens @ lora.downs.T)
    of_downs = lora.gradients_of_downs(of_low.T @ tokens)
    ours = [of_low @ lora.downs, of_downs[0], of_ups[0], of_downs[1], of_ups[1]]
    assert {own.dtype for own in ours[1:]} == {torch.float32}
    for own, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(own.float(), theirs, rtol=0, atol=ROUNDED[dtype])

"""Norm and turn give autograd's own gradients, and the kernel that a GPU gets gives the CPU's numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from fluxbooth.flux import rotary
from fluxbooth.flux.rotary import norm_turn, norm_turn_gradient, rotations

DRAW = torch.Generator().manual_seed(0)
TOKENS = torch.randn(2, 130, 3, 16, generator=DRAW)
WEIGHT = torch.rand(16, generator=DRAW) + 0.5
ANGLES = torch.rand(130, 8, generator=DRAW).repeat_interleave(2, dim=1) * 6
TURNS = rotations(ANGLES.cos(), ANGLES.sin())


def by_the_book(tokens: Tensor) -> Tensor:
    """Root mean square norm, then each pair of features turned by its angle, in float64."""
    normed = tokens / (tokens.square().mean(-1, keepdim=True) + 1e-6).sqrt() * WEIGHT.double()
    first, second = normed[..., ::2], normed[..., 1::2]
    angles = ANGLES.double()[:, None, ::2]
    turned = [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()]
    return torch.stack(turned, dim=-1).flatten(-2)


def test_tokens_are_normalized_weighted_and_turned() -> None:
    torch.testing.assert_close(
        norm_turn(TOKENS, WEIGHT, TURNS).double(), by_the_book(TOKENS.double()), rtol=0, atol=1e-5
    )


def test_the_gradient_is_autograds() -> None:
    gradients = torch.randn(TOKENS.shape, generator=DRAW)
    exact = TOKENS.double().requires_grad_()
    (expected,) = torch.autograd.grad(by_the_book(exact), exact, gradients.double())
    ours = norm_turn_gradient(gradients, TOKENS, WEIGHT, TURNS)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)


def test_the_gpus_kernel_gives_the_same() -> None:
    """In the operations that torch.compile makes it of."""
    tables = torch.view_as_real(TURNS).unbind(-1)
    made = rotary._norm_turn(TOKENS, WEIGHT, *tables)
    torch.testing.assert_close(made, norm_turn(TOKENS, WEIGHT, TURNS))
    gradient = rotary._norm_turn_gradient(TOKENS, TOKENS, WEIGHT, *tables)
    torch.testing.assert_close(gradient, norm_turn_gradient(TOKENS, TOKENS, WEIGHT, TURNS))

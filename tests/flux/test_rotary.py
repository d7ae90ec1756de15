"""Norm and turn give autograd's own gradients, and the kernel that a GPU gets gives the CPU's numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from fluxbooth.flux import rotary
from fluxbooth.flux.rotary import norm_turn, norm_turn_gradient, rotations

DRAW = torch.Generator().manual_seed(0)
TEXT, IMAGE = (torch.randn(2, count, 3, 16, generator=DRAW) for count in (150, 130))
WEIGHTS = list(torch.rand(2, 16, generator=DRAW) + 0.5)
ANGLES = torch.rand(280, 8, generator=DRAW).repeat_interleave(2, dim=1) * 6
TURNS = rotations(ANGLES.cos(), ANGLES.sin())
OF_GRADIENT = torch.randn(2, 3, 280, 16, generator=DRAW)


def by_the_book(text: Tensor, image: Tensor) -> Tensor:
    """Root mean square norm of each stream, then each pair of features turned by its angle, in float64."""
    normed = torch.cat(
        [
            tokens / (tokens.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
            for tokens, weight in zip((text, image), WEIGHTS, strict=True)
        ],
        dim=1,
    )
    first, second = normed[..., ::2], normed[..., 1::2]
    angles = ANGLES.double()[:, None, ::2]
    turned = [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()]
    return torch.stack(turned, dim=-1).flatten(-2).transpose(1, 2)


def test_tokens_are_normalized_weighted_and_turned() -> None:
    ours = norm_turn([TEXT, IMAGE], WEIGHTS, TURNS)
    torch.testing.assert_close(ours.double(), by_the_book(TEXT.double(), IMAGE.double()), rtol=0, atol=1e-5)


def test_the_gradient_is_autograds() -> None:
    exact = [tokens.double().requires_grad_() for tokens in (TEXT, IMAGE)]
    expected = torch.autograd.grad(by_the_book(*exact), exact, OF_GRADIENT.double())
    for ours, theirs in zip(norm_turn_gradient(OF_GRADIENT, [TEXT, IMAGE], WEIGHTS, TURNS), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)


def test_the_gpus_kernel_gives_the_same() -> None:
    """In the operations that torch.compile makes it of."""
    tables = torch.view_as_real(TURNS)[:, None].unbind(-1)
    made = rotary._norm_turn([TEXT, IMAGE], WEIGHTS, *tables)
    torch.testing.assert_close(made.transpose(1, 2), norm_turn([TEXT, IMAGE], WEIGHTS, TURNS))
    gradients = rotary._norm_turn_gradient(OF_GRADIENT.transpose(1, 2), [TEXT, IMAGE], WEIGHTS, *tables)
    for own, expected in zip(gradients, norm_turn_gradient(OF_GRADIENT, [TEXT, IMAGE], WEIGHTS, TURNS), strict=True):
        torch.testing.assert_close(own, expected)

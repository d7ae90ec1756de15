"""GELU and its gradient are PyTorch's, for every number that bfloat16 has."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fluxbooth.flux.gelu import gelu, gelu_gradient_

# All of bfloat16 but what is infinite or no number; 255 columns, which the last rows do not fill.
EVERY = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)
EVERY = EVERY[EVERY.isfinite()].view(-1, 255)


def test_each_number_has_pytorchs_gelu() -> None:
    assert torch.equal(gelu(EVERY), F.gelu(EVERY, approximate="tanh"))


def test_columns_of_a_wider_tensor_are_read_where_they_are() -> None:
    values = torch.randn(700, 600).bfloat16()[:, 100:400]
    assert torch.equal(gelu(values), F.gelu(values, approximate="tanh"))


def test_the_gradient_is_pytorchs_to_rounding() -> None:
    gradients = torch.randn(EVERY.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    values = EVERY.clamp(-1e4, 1e4).requires_grad_()  # beyond, PyTorch's own is no number
    F.gelu(values, approximate="tanh").backward(gradients)
    made = gelu_gradient_(gradients, values.detach())
    assert made is gradients
    torch.testing.assert_close(made, values.grad, rtol=2**-7, atol=1e-30)


def test_float32_is_computed() -> None:
    values = torch.randn(3, 5).requires_grad_()
    activated = F.gelu(values, approximate="tanh")
    assert torch.equal(gelu(values), activated)
    (pytorchs,) = torch.autograd.grad(activated.sum(), values)
    assert torch.equal(gelu_gradient_(torch.ones(3, 5), values.detach()), pytorchs)

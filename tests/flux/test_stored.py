"""Matrices held in fewer bits stand for nearly the same numbers, and a LoRA trains on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.flow import predict_velocity
from fluxbooth.flux.lora import add_lora
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.stored import StorageForm, StoredLinear, stored_bytes
from fluxbooth.flux.training_pass import use_training_pass
from fluxbooth.host.weights import BaseWeights

CPU = torch.device("cpu")
# Root mean square error of normally distributed weights: half a step of each form over the numbers' deviation.
ERRORS: list[tuple[StorageForm, float]] = [("fp8", 0.03), ("int8", 0.012), ("nf4", 0.11)]


@pytest.mark.parametrize(("form", "largest_error"), ERRORS)
def test_a_matrix_comes_back_nearly_as_it_was(form: StorageForm, largest_error: float) -> None:
    weight = 0.02 * torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    linear = StoredLinear(512, 256, form)
    linear.hold(weight)
    error = (linear.dense() - weight).square().mean().sqrt() / weight.std()
    assert largest_error / 4 < error < largest_error
    held = sum(tensor.nbytes for tensor in (linear.codes, linear.scales))
    assert held <= 1.05 * stored_bytes(weight.numel(), form, torch.bfloat16)


def test_nf4_has_the_sixteen_levels_of_its_paper() -> None:
    """QLoRA, appendix E: the first three levels below and above 0."""
    linear = StoredLinear(64, 1, "nf4")
    linear.hold(torch.linspace(-1, 1, 64)[None])
    levels = sorted(set(linear.dense().flatten().tolist()))
    assert len(levels) == 16
    assert levels[:3] == pytest.approx([-1.0, -0.6961928, -0.5250731], abs=1e-6)
    assert levels[7:10] == pytest.approx([0.0, 0.0795803, 0.1609302], abs=1e-6)


@pytest.mark.parametrize(("form", "largest_error"), ERRORS)
def test_a_lora_trains_on_a_transformer_held_in_fewer_bits(
    weights: BaseWeights, architecture: Architecture, form: StorageForm, largest_error: float
) -> None:
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, 12, 12, generator=draw)
    text = torch.randn(1, architecture.t5_tokens, architecture.transformer["joint_attention_dim"], generator=draw)
    pooled = torch.randn(1, architecture.transformer["pooled_projection_dim"], generator=draw)

    def trained(held: StorageForm, fast: bool) -> tuple[Tensor, Tensor]:
        transformer = load_transformer(weights, architecture, torch.float32, CPU, held)
        parameters = add_lora(transformer, 4, 4, seed=0)
        if fast:
            use_training_pass(transformer)
        velocity = predict_velocity(transformer, latents, torch.tensor([0.5]), text, pooled, 1.0)
        velocity.square().mean().backward()
        ups = [parameter.grad.flatten() for parameter in parameters[1::2] if parameter.grad is not None]
        return velocity.detach(), torch.cat(ups)

    full, plain, fast = trained("full", True), trained(form, False), trained(form, True)
    for ours, theirs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    error = (fast[0] - full[0]).norm() / full[0].norm()
    assert 0 < error < 3 * largest_error

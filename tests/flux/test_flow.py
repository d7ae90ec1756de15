"""Flow matching agrees with the references it names."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline
from hypothesis import given
from hypothesis import strategies as st

from fluxbooth.flux.flow import (
    LossType,
    add_noise,
    generator_for,
    image_ids,
    pack_latents,
    shift_sigmas,
    unpack_latents,
    velocity_loss,
)


def test_packing_and_ids_are_those_of_diffusers() -> None:
    latents = torch.randn(2, 16, 8, 12)
    assert torch.equal(pack_latents(latents), FluxPipeline._pack_latents(latents, 2, 16, 8, 12))
    ids = FluxPipeline._prepare_latent_image_ids(2, 4, 6, torch.device("cpu"), torch.float32)
    assert torch.equal(image_ids(8, 12, torch.device("cpu")), ids)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
def test_unpacking_undoes_packing(batch: int, rows: int, columns: int) -> None:
    latents = torch.randn(batch, 16, 2 * rows, 2 * columns)
    assert torch.equal(unpack_latents(pack_latents(latents), 2 * rows, 2 * columns), latents)


@pytest.mark.parametrize(
    ("tokens", "shifted"),
    [
        (256, [0.18242552876472473, 0.3775406777858734, 0.622459352016449, 0.7310585379600525, 0.8807970285415649]),
        (1024, [0.20261985063552856, 0.4085410237312317, 0.652489423751831, 0.755838930606842, 0.8937849402427673]),
        (4096, [0.2994328737258911, 0.5374298691749573, 0.7595109343528748, 0.8388911485671997, 0.934010922908783]),
        (4032, [0.29716527462005615, 0.5347356796264648, 0.7575266361236572, 0.8374215364456177, 0.9333400726318359]),
    ],
)
def test_the_shift_is_kohyas_flux_shift(tokens: int, shifted: list[float]) -> None:
    """kohya sd-scripts 48d368fa, flux_train_utils, for normal draws of -2, -1, 0, 0.5 and 1.5."""
    sigmas = torch.sigmoid(torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.5]))
    assert torch.allclose(shift_sigmas(sigmas, tokens), torch.tensor(shifted), atol=1e-6)


def test_a_generator_depends_on_what_it_is_named_after_and_nothing_else() -> None:
    def numbers(*identity: int | str) -> list[float]:
        return torch.randn(3, generator=generator_for(*identity)).tolist()

    assert numbers(1, 2, "item") == numbers(1, 2, "item")
    assert numbers(1, 2, "item") != numbers(2, 1, "item")
    assert numbers(1, 23) != numbers(12, 3)


def test_noisy_latents_go_from_the_image_to_noise() -> None:
    latents, noise = torch.randn(3, 16, 4, 4), torch.randn(3, 16, 4, 4)
    noisy = add_noise(latents, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(noisy[0], latents[0])
    assert torch.equal(noisy[1], noise[1])
    assert torch.allclose(noisy[2], 0.75 * latents[2] + 0.25 * noise[2])


def test_the_loss_is_zero_for_the_true_velocity_and_weighs_samples() -> None:
    latents, noise = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    ones = torch.ones(2)
    assert velocity_loss(noise - latents, latents, noise, ones) == 0
    off_by_one = noise - latents + torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    assert velocity_loss(off_by_one, latents, noise, ones).item() == pytest.approx((1 + 4) / 2, rel=1e-5)
    assert velocity_loss(off_by_one, latents, noise, torch.tensor([1.0, 0.0])).item() == pytest.approx(0.5, rel=1e-5)


def test_what_a_mask_hides_does_not_count_and_the_rest_counts_as_before() -> None:
    latents, noise, velocity = torch.randn(3, 2, 16, 4, 4)
    ones = torch.ones(2)
    masks = torch.zeros(2, 1, 4, 4)
    masks[:, :, :, :2] = 1
    elsewhere = velocity.clone()
    elsewhere[:, :, :, 2:] += 5
    loss = velocity_loss(velocity, latents, noise, ones, masks)
    assert velocity_loss(elsewhere, latents, noise, ones, masks) == loss
    left = velocity_loss(velocity[..., :2], latents[..., :2], noise[..., :2], ones)
    assert loss.item() == pytest.approx(left.item() / 2, rel=1e-6), "the mean stays over the whole picture"
    assert velocity_loss(velocity, latents, noise, ones, torch.ones(2, 1, 4, 4)) == velocity_loss(
        velocity, latents, noise, ones
    )


@pytest.mark.parametrize(
    ("loss_type", "golden"), [("huber", 2 * 0.1 * (0.26**0.5 - 0.1)), ("smooth_l1", 2 * (0.26**0.5 - 0.1))]
)
def test_huber_and_smooth_l1_are_kohyas(loss_type: LossType, golden: float) -> None:
    """kohya sd-scripts 48d368fa, train_util.conditional_loss, for a difference of 0.5 and huber_c 0.1."""
    latents, noise = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    loss = velocity_loss(noise - latents + 0.5, latents, noise, torch.ones(2), None, loss_type, 0.1)
    assert loss.item() == pytest.approx(golden, rel=1e-5)
    assert velocity_loss(noise - latents, latents, noise, torch.ones(2), None, loss_type, 0.1).item() == pytest.approx(
        0, abs=1e-6
    )

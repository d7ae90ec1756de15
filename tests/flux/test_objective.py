"""Noise levels, noise and weights: within their bounds, kohya's formulas, and functions of the generator alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fluxbooth.flux.flow import generator_for, shift_sigmas
from fluxbooth.flux.objective import (
    Objective,
    draw_noise_and_sigma,
    draw_sigma,
    level_weights,
    multires_noise,
    offset_noise,
)

SAMPLINGS = ("flux_shift", "shift", "sigmoid", "uniform", "logit_normal", "sigma")


def draws(objective: Objective, number: int = 500, tokens: int = 36) -> Tensor:
    return torch.stack([draw_sigma(objective, tokens, generator_for("levels", n)) for n in range(number)])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_noise_levels_lie_between_image_and_noise(sampling: str) -> None:
    drawn = draws(Objective(sampling, discrete_flow_shift=1.0))
    assert 0 < drawn.min() < 0.2
    assert 0.8 < drawn.max() <= 1
    assert len(set(drawn.tolist())) > (350 if sampling == "sigma" else 498)
    assert torch.equal(drawn, draws(Objective(sampling, discrete_flow_shift=1.0))), "the generator decides, all alone"


def test_flux_shift_draws_more_noise_for_larger_pictures() -> None:
    assert (draws(Objective(), tokens=4096) > draws(Objective(), tokens=256)).all()


def test_the_levels_of_one_normal_draw_are_kohyas() -> None:
    """kohya sd-scripts 48d368fa, flux_train_utils.get_noisy_model_input_and_timesteps."""
    normals = torch.stack([torch.randn((), generator=generator_for("levels", n)) for n in range(50)])
    half = torch.sigmoid(normals * 0.5)
    assert torch.allclose(draws(Objective("sigmoid", sigmoid_scale=0.5), 50), half)
    assert torch.allclose(draws(Objective("flux_shift", sigmoid_scale=0.5), 50, 1024), shift_sigmas(half, 1024))
    shifted = half * 3.1 / (1 + 2.1 * half)
    assert torch.allclose(draws(Objective("shift", discrete_flow_shift=3.1, sigmoid_scale=0.5), 50), shifted)
    centred = torch.sigmoid(0.7 + 1.5 * normals)
    assert torch.allclose(draws(Objective("logit_normal", logit_mean=0.7, logit_std=1.5), 50), centred)


def test_sigma_draws_from_kohyas_list_of_a_thousand_levels() -> None:
    """Its list begins with pure noise and is shifted: place i holds shift((1000 - i) / 1000)."""
    uniform = torch.stack([torch.rand((), generator=generator_for("levels", n)) for n in range(50)])
    levels = torch.tensor([(1000 - int(u * 1000)) / 1000 for u in uniform])
    assert torch.allclose(draws(Objective("sigma"), 50), 3 * levels / (1 + 2 * levels))
    kohyas = Objective("sigma", 1.0, weighting_scheme="logit_normal", logit_mean=1.0)
    more_image = draws(kohyas).mean()
    assert more_image < draws(replace(kohyas, logit_mean=-1.0)).mean(), "a larger mean is further down the list"


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_least_and_the_most_noise_restrict_what_is_drawn(sampling: str) -> None:
    drawn = draws(Objective(sampling, min_timestep=300, max_timestep=700))
    assert 0.3 <= drawn.min() < 0.45
    assert 0.55 < drawn.max() <= 0.7


def test_a_name_of_a_sampling_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="'logit', allowed: flux_shift"):
        draw_sigma(Objective("logit"), 36, generator_for(0))


def test_noise_comes_before_the_level_and_what_is_added_to_it_last() -> None:
    """Runs with and without an offset see the same levels and the same noise below."""
    plain, level = draw_noise_and_sigma(Objective(), (16, 8, 12), generator_for(1))
    generator = generator_for(1)
    assert torch.equal(plain, torch.randn(16, 8, 12, generator=generator))
    assert torch.equal(level, draw_sigma(Objective(), 24, generator))
    offset, same_level = draw_noise_and_sigma(Objective(noise_offset=0.1), (16, 8, 12), generator_for(1))
    assert torch.equal(same_level, level)
    added = offset - plain
    assert torch.allclose(added, added[:, :1, :1].expand_as(added), atol=1e-6), "one value a channel"
    assert 0.02 < added[:, 0, 0].std() < 0.3


def test_an_offset_is_as_strong_as_it_is_said_to_be() -> None:
    values = offset_noise(torch.zeros(4000, 1, 1), 0.5, generator_for(1))
    assert values.std().item() == pytest.approx(0.5, rel=0.05)


def test_coarse_noise_joins_neighbours_and_keeps_the_deviation() -> None:
    objective = Objective(multires_noise_iterations=6, multires_noise_discount=0.8)
    first, again = (draw_noise_and_sigma(objective, (16, 32, 32), generator_for(1))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert first.std().item() == pytest.approx(1, rel=1e-5)
    plain = torch.randn(16, 32, 32, generator=generator_for(1))
    assert neighbours(first) > 0.2 > 0.05 > abs(neighbours(plain))
    # One level adds noise of the same size: the variance doubles before it is scaled back (kohya's first level).
    twice = multires_noise(plain, 1, 0.3, generator_for(2))
    assert torch.corrcoef(torch.stack([plain.flatten(), twice.flatten()]))[0, 1].item() == pytest.approx(
        1 / math.sqrt(2), abs=0.02
    )


def neighbours(noise: Tensor) -> float:
    return float((noise[:, 1:] * noise[:, :-1]).mean())


def test_weights_of_noise_levels_are_kohyas() -> None:
    sigmas = torch.tensor([0.1, 0.5, 0.9])
    assert level_weights("sigma_sqrt", sigmas).tolist() == pytest.approx([100, 4, 1 / 0.81])
    cosmap = [2 / (math.pi * 0.82), 2 / (math.pi * 0.5), 2 / (math.pi * 0.82)]
    assert level_weights("cosmap", sigmas).tolist() == pytest.approx(cosmap)
    for scheme in ("none", "uniform", "logit_normal"):
        assert level_weights(scheme, sigmas).tolist() == [1, 1, 1]

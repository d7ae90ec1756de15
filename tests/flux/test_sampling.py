"""Sampling and generating: shifted steps from noise to image, and the same picture for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from fluxbooth.flux.generate import Shot, generate
from fluxbooth.flux.sampling import sampling_sigmas, starting_noise
from fluxbooth.host.weights import BaseWeights


@pytest.mark.parametrize("tokens", [36, 1024, 4096])
def test_the_noise_levels_are_those_of_diffusers_scheduler(tokens: int) -> None:
    steps = 12
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    mu = calculate_shift(tokens, base_seq_len=256, max_seq_len=4096, base_shift=0.5, max_shift=1.15)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
    assert torch.allclose(sampling_sigmas(steps, tokens), scheduler.sigmas, atol=1e-6)


def test_noise_follows_from_the_seed_and_the_size() -> None:
    assert torch.equal(starting_noise(7, 96, 64), starting_noise(7, 96, 64))
    assert not torch.equal(starting_noise(7, 96, 64), starting_noise(8, 96, 64))
    assert starting_noise(7, 96, 64).shape == (1, 16, 8, 12)


def test_the_same_shot_draws_the_same_picture_in_its_size(weights: BaseWeights) -> None:
    shots = [Shot("tjtoy toy on a beach", 1, 64, 48), Shot("tjtoy toy on a beach", 2, 64, 48), Shot("a gpu", 1, 64, 48)]
    first, again = (generate(shots, [], weights, 2, 3.5, torch.float32, torch.device("cpu")) for _ in range(2))
    assert [picture.size for picture in first] == [(64, 48)] * 3
    assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in again]
    assert len({picture.tobytes() for picture in first}) == 3, "seed and prompt both matter"

"""Sampling and generating: shifted steps from noise to image, and the same picture for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from fluxbooth.flux.generate import Shot, generate
from fluxbooth.flux.sampling import comfyui_sigmas, dpmpp_2m, sampling_sigmas, starting_noise
from fluxbooth.host.weights import BaseWeights


@pytest.mark.parametrize("tokens", [36, 1024, 4096])
def test_the_noise_levels_are_those_of_diffusers_scheduler(tokens: int) -> None:
    steps = 12
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    mu = calculate_shift(tokens, base_seq_len=256, max_seq_len=4096, base_shift=0.5, max_shift=1.15)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
    assert torch.allclose(sampling_sigmas(steps, tokens), scheduler.sigmas, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ((1024, 1024), [1.0, 0.904567122, 0.759626269, 0.513159573, 0.0]),
        ((768, 512), [1.0, 0.891215384, 0.754447222, 0.57730341, 0.33880946, 0.0]),
        ((96, 96), [1.0, 0.76063168, 0.442774296, 0.0]),
    ],
)
def test_comfyuis_noise_levels_are_what_comfyui_computes(size: tuple[int, int], levels: list[float]) -> None:
    """From ComfyUI 0.3.64: ModelSamplingFlux(1.15, 0.5, width, height), then calculate_sigmas("sgm_uniform")."""
    tokens = size[0] * size[1] // 256
    assert torch.allclose(comfyui_sigmas(len(levels) - 1, tokens), torch.tensor(levels), rtol=0, atol=1e-6)


def test_the_solver_goes_where_comfyuis_goes() -> None:
    """From ComfyUI 0.3.64 at 64 x 48 pixels, seed 42, 6 steps: comfy.sample.prepare_noise, then sample_dpmpp_2m with
    the velocity below in place of the network, through CONST.calculate_denoised."""
    comfyuis = [
        (1.926915168762207, 1.4872839450836182, 0.9007171392440796),
        (1.7927805185317993, 1.4571540355682373, 0.779958188533783),
        (1.7752572298049927, 1.4581942558288574, 0.6243830919265747),
        (1.768913745880127, 1.4916185140609741, 0.4481324255466461),
        (1.811286449432373, 1.5776238441467285, 0.3000943064689636),
        (1.9085263013839722, 1.7487905025482178, 0.23796355724334717),
        (1.9855201244354248, 1.9147915840148926, 0.12683610618114471),
    ]
    seen: list[torch.Tensor] = []

    def velocity(latents: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append(latents)
        return torch.sin(3 * latents) + latents * sigma - 0.25

    seen.append(dpmpp_2m(velocity, starting_noise(42, 64, 48, "dpmpp_2m"), comfyui_sigmas(6, 12)))
    ours = torch.stack([latents.flatten()[:3] for latents in seen])
    assert torch.allclose(ours, torch.tensor(comfyuis), rtol=0, atol=2e-6)
    assert seen[-1].mean().item() == pytest.approx(0.16719556, abs=2e-6)
    assert seen[-1].std().item() == pytest.approx(0.76545698, abs=2e-6)


def test_noise_follows_from_the_seed_and_the_size() -> None:
    assert torch.equal(starting_noise(7, 96, 64), starting_noise(7, 96, 64))
    assert not torch.equal(starting_noise(7, 96, 64), starting_noise(8, 96, 64))
    assert starting_noise(7, 96, 64).shape == (1, 16, 8, 12)


def test_comfyuis_noise_is_what_its_node_draws() -> None:
    """ComfyUI 0.3.64, comfy.sample.prepare_noise: the first and last of 16 x 6 x 8 numbers of seed 42."""
    numbers = starting_noise(42, 64, 48, "dpmpp_2m").flatten()
    assert numbers[:2].tolist() == pytest.approx([1.9269152879714966, 1.4872840642929077])
    assert numbers[-1].item() == pytest.approx(0.5761587619781494)


def test_the_same_shot_draws_the_same_picture_in_its_size(weights: BaseWeights) -> None:
    shots = [Shot("tjtoy toy on a beach", 1, 64, 48), Shot("tjtoy toy on a beach", 2, 64, 48), Shot("a gpu", 1, 64, 48)]
    first, again = (generate(shots, [], weights, 2, 3.5, torch.float32, torch.device("cpu")) for _ in range(2))
    assert [picture.size for picture in first] == [(64, 48)] * 3
    assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in again]
    assert len({picture.tobytes() for picture in first}) == 3, "seed and prompt both matter"


def test_the_samplers_draw_different_pictures_and_euler_is_the_one_that_is_not_asked_for(weights: BaseWeights) -> None:
    shots, cpu = [Shot("a toy on grass", 3, 32, 32)], torch.device("cpu")
    default = generate(shots, [], weights, 4, 3.5, torch.float32, cpu)[0].tobytes()
    assert generate(shots, [], weights, 4, 3.5, torch.float32, cpu, "euler")[0].tobytes() == default
    assert generate(shots, [], weights, 4, 3.5, torch.float32, cpu, "dpmpp_2m")[0].tobytes() != default

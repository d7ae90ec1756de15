"""What a training sample asks of the network: at which noise level, under which noise, by which loss.

Every draw is a function of the generator that is handed in, and of nothing else.

B samples, C = 16 latent channels, H W latent rows and columns (pixels / 8), L = H/2 * W/2 image tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fluxbooth.flux.flow import LossType, shift_sigmas

TimestepSampling = Literal["flux_shift", "shift", "sigmoid", "uniform", "logit_normal", "sigma"]
WeightingScheme = Literal["none", "uniform", "sigma_sqrt", "cosmap", "logit_normal"]
TIMESTEPS = 1000
"""kohya counts noise levels in thousandths."""


@dataclass(frozen=True)
class Objective:
    """Noise levels, noise and loss of a training, under kohya's argument names; the defaults are the playbook's."""

    timestep_sampling: str = "flux_shift"
    discrete_flow_shift: float = 3.0
    """Factor by which "shift" and "sigma" move levels toward noise; 1 leaves them."""
    sigmoid_scale: float = 1.0
    """Spread of the normal draw below "flux_shift", "shift" and "sigmoid"."""
    weighting_scheme: str = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    """Of the normal draw below "logit_normal"."""
    min_timestep: int = 0
    max_timestep: int = TIMESTEPS
    """Levels are drawn between these, in thousandths."""
    noise_offset: float = 0.0
    multires_noise_iterations: int = 0
    multires_noise_discount: float = 0.3
    loss_type: LossType = "l2"
    huber_c: float = 0.1


def draw_sigma(objective: Objective, tokens: int, generator: torch.Generator) -> Tensor:
    """Draw one noise level, a float32 scalar in (0, 1], in [min_timestep, max_timestep] / 1000.

    With z a standard normal draw and shift(s) = k s / (1 + (k - 1) s), k = `discrete_flow_shift`
    (kohya sd-scripts 48d368fa, library/flux_train_utils.get_noisy_model_input_and_timesteps):
    "sigmoid" is sigmoid(sigmoid_scale z); "shift" is shift of that; "flux_shift" is `shift_sigmas` of that; "uniform"
    is uniform; "logit_normal" is sigmoid(logit_mean + logit_std z) (arXiv 2403.03206, section 3.1);
    "sigma" is shift(1 - u) in whole thousandths, u uniform, or logit-normal where `weighting_scheme` is "logit_normal".
    A level s then becomes low + (high - low) s, as kohya does for Stable Diffusion 3 (sd3_train_utils, t_min, t_max).

    Args:
        tokens: image tokens L of the sample.

    Raises:
        ValueError: for another `timestep_sampling`.
    """
    sigma = _draw_whole_range(objective, tokens, generator)
    if (objective.min_timestep, objective.max_timestep) == (0, TIMESTEPS):
        return sigma
    low, high = objective.min_timestep / TIMESTEPS, objective.max_timestep / TIMESTEPS
    return low + (high - low) * sigma


def _draw_whole_range(objective: Objective, tokens: int, generator: torch.Generator) -> Tensor:
    sampling, shift = objective.timestep_sampling, objective.discrete_flow_shift
    is_logit_normal = objective.weighting_scheme == "logit_normal"
    if sampling == "uniform":
        # rand() may be 0, where the shift would divide by it and the sample would carry no noise.
        return torch.rand((), generator=generator).clamp_min(1e-5)
    if sampling == "sigma" and not is_logit_normal:
        return _shifted(_in_thousandths(torch.rand((), generator=generator)), shift)
    normal = torch.randn((), generator=generator)
    match sampling:
        case "sigmoid":
            return torch.sigmoid(normal * objective.sigmoid_scale)
        case "shift":
            return _shifted(torch.sigmoid(normal * objective.sigmoid_scale), shift)
        case "flux_shift":
            return shift_sigmas(torch.sigmoid(normal * objective.sigmoid_scale), tokens)
        case "logit_normal":
            return torch.sigmoid(objective.logit_mean + objective.logit_std * normal)
        case "sigma":
            level = torch.sigmoid(objective.logit_mean + objective.logit_std * normal)
            return _shifted(_in_thousandths(level), shift)
    raise ValueError(
        f"timestep_sampling is {sampling!r}, allowed: flux_shift, shift, sigmoid, uniform, logit_normal, sigma"
    )


def _shifted(sigma: Tensor, shift: float) -> Tensor:
    return sigma * shift / (1 + (shift - 1) * sigma)


def _in_thousandths(level: Tensor) -> Tensor:
    """kohya takes `level` as a place in a list of noise levels that begins with pure noise."""
    return 1 - (level * TIMESTEPS).floor().clamp_max(TIMESTEPS - 1) / TIMESTEPS


def draw_noise_and_sigma(
    objective: Objective, shape: tuple[int, int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw one sample's noise, (C, H, W) of `shape`, and its noise level, a scalar; float32.

    What the offset and the coarse noise take from the generator comes last, so that with and without them the level
    and the noise below are the same.
    """
    noise = torch.randn(shape, generator=generator)
    sigma = draw_sigma(objective, shape[1] * shape[2] // 4, generator)
    if objective.noise_offset:
        noise = offset_noise(noise, objective.noise_offset, generator)
    if objective.multires_noise_iterations:
        noise = multires_noise(noise, objective.multires_noise_iterations, objective.multires_noise_discount, generator)
    return noise, sigma


def offset_noise(noise: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Add `offset` times one normal draw a channel to (C, H, W) noise: teaches darker and brighter pictures.

    noise + offset * randn(C, 1, 1) (Nicholas Guttenberg, "Diffusion With Offset Noise"; kohya,
    custom_train_functions.apply_noise_offset). kohya itself does not read it for FLUX.
    """
    return noise + offset * torch.randn(noise.shape[0], 1, 1, generator=generator)


def multires_noise(noise: Tensor, iterations: int, discount: float, generator: torch.Generator) -> Tensor:
    """Add ever coarser noise to (C, H, W) noise and scale the sum to deviation 1.

    Level i is discount^i times normal noise of H / r^i by W / r^i, enlarged bilinearly, r drawn from [2, 4) a level;
    it ends where a side is 1 (kohya, custom_train_functions.pyramid_noise_like). Here the deviation is the sample's
    own, so that a sample does not depend on the others of its batch; kohya itself does not read it for FLUX.
    """
    _, rows, columns = noise.shape
    total = noise
    for level in range(iterations):
        ratio = (2 + 2 * torch.rand((), generator=generator).item()) ** level
        height, width = max(1, int(rows / ratio)), max(1, int(columns / ratio))
        coarse = torch.randn(1, noise.shape[0], height, width, generator=generator)
        total = total + discount**level * F.interpolate(coarse, size=(rows, columns), mode="bilinear")[0]
        if height == 1 or width == 1:
            break
    return total / total.std()


def level_weights(weighting_scheme: str, sigmas: Tensor) -> Tensor:
    """Weights of the loss at noise levels: (B,) -> (B,) float32.

    "sigma_sqrt" is sigma^-2, "cosmap" 2 / (pi (1 - 2 sigma + 2 sigma^2)), everything else 1 (kohya,
    flux_train_utils.compute_loss_weighting_for_sd3). They weigh the loss on the raw velocity, as diffusers' training
    scripts do; kohya itself reads them with model_prediction_type = "sigma_scaled" alone.
    """
    if weighting_scheme == "sigma_sqrt":
        return sigmas.float() ** -2.0
    if weighting_scheme == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2)).float()
    return torch.ones_like(sigmas, dtype=torch.float32)

"""The training loop.

B samples, C = 16 latent channels, H W latent rows and columns (pixels / 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from fluxbooth.dataset.plan import MicroBatch, Plan
from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.flow import add_noise, draw_sigma, generator_for, predict_velocity, velocity_loss
from fluxbooth.training.encode import EncodedVisits
from fluxbooth.training.optimizers import effective_learning_rate


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step came to."""

    step: int
    """Optimizer steps done, this one included."""
    loss: float
    """Mean over the step's micro-batches."""
    grad_norm: float
    """Norm of the LoRA's gradient before it was scaled down."""
    learning_rate: float


def train(
    transformer: FluxTransformer2DModel,
    parameters: Sequence[nn.Parameter],
    plan: Plan,
    encoded: EncodedVisits,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    *,
    first_step: int,
    steps: int,
    seed: int,
    timestep_sampling: str,
    guidance_scale: float,
    max_grad_norm: float,
    autocast: torch.autocast,
    after_step: Callable[[StepReport], Any],
) -> None:
    """Fit `parameters`, the LoRA inside `transformer`, to the encoded visits of `plan` from optimizer step
    `first_step` on until `steps` are done.

    One step is the mean gradient of its micro-batches. Everything random in it is a function of (seed, step, item).

    Args:
        first_step: 0, or the number of steps done when the run was stopped.
        max_grad_norm: longer gradients are scaled down to it; 0 leaves them.
        autocast: the arithmetic of the network.
        after_step: called after every step: shows and writes what is due; may raise to stop.

    Raises:
        UserError: when the loss or the gradient is not finite, naming the step and the pictures.
    """
    transformer.train()
    for step in range(first_step, steps):
        micro_batches = plan.micro_batches(step)
        step_loss = 0.0
        for number, micro_batch in enumerate(micro_batches):
            batch = encoded.batch(micro_batch)
            noise, sigmas = draw_noise(batch.latents, micro_batch, (seed, step, number), timestep_sampling)
            noisy_latents = add_noise(batch.latents, noise, sigmas)  # (B, C, H, W)
            with autocast:
                velocity = predict_velocity(
                    transformer, noisy_latents, sigmas, batch.prompt_embeds, batch.pooled_prompt_embeds, guidance_scale
                )
            loss = velocity_loss(velocity, batch.latents, noise, batch.loss_weights)
            (loss / len(micro_batches)).backward()
            step_loss += loss.item() / len(micro_batches)  # a sync point: cheap beside a forward and backward pass
        grad_norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm or math.inf))
        require_finite({"loss": step_loss, "gradient": grad_norm}, step, micro_batches)
        learning_rate = effective_learning_rate(optimizer)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        after_step(StepReport(step + 1, step_loss, grad_norm, learning_rate))


def draw_noise(
    latents: Tensor, micro_batch: MicroBatch, identity: tuple[int, int, int], timestep_sampling: str
) -> tuple[Tensor, Tensor]:
    """Draw noise (B, C, H, W) and sigmas (B,), float32, each sample's from (seed, step, micro-batch, place, item)."""
    noise, sigmas = [], []
    tokens = latents.shape[2] * latents.shape[3] // 4
    for place, visit in enumerate(micro_batch):
        generator = generator_for(*identity, place, visit.item.digest)
        noise.append(torch.randn(latents.shape[1:], generator=generator))
        sigmas.append(draw_sigma(timestep_sampling, tokens, generator))
    return torch.stack(noise).to(latents.device), torch.stack(sigmas).to(latents.device)


def require_finite(values: Mapping[str, float], step: int, micro_batches: Sequence[MicroBatch]) -> None:
    """Raise UserError when one of a step's named values is infinite or not a number; nothing is repaired."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if not wrong:
        return
    pictures = ", ".join(sorted({str(visit.item.path) for batch in micro_batches for visit in batch}))
    raise UserError(
        Problem(
            f"in step {step + 1} the {' and the '.join(wrong)}, with {pictures}",
            do="Lower learning_rate, or look at these pictures",
        )
    )

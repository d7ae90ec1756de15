"""The training loop.

B samples, C = 16 latent channels, H W latent rows and columns (pixels / 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from fluxbooth.dataset.plan import MicroBatch, Plan
from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.flow import add_noise, predict_velocity, velocity_loss
from fluxbooth.flux.lora import dropout_from, without_lora
from fluxbooth.flux.objective import Objective, level_weights
from fluxbooth.training.encode import EncodedVisits
from fluxbooth.training.inputs import Inputs
from fluxbooth.training.loss_scale import LossScale
from fluxbooth.training.optimizers import effective_learning_rate
from fluxbooth.training.processes import ALONE, Processes


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step came to."""

    step: int
    """Optimizer steps done, this one included."""
    loss: float
    """Mean over the step's micro-batches."""
    preservation_loss: float
    """How far plain class nouns have moved from the base model, mean over the micro-batches; 0 where not asked for."""
    grad_norm: float
    """Norm of the LoRA's gradient before it was scaled down; 0 where float16 could not hold it and the step was left
    out."""
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
    objective: Objective,
    guidance_scale: float,
    preservation_weight: float,
    max_grad_norm: float,
    autocast: torch.autocast,
    after_step: Callable[[StepReport], Any],
    has_dropout: bool = False,
    processes: Processes = ALONE,
    loss_scale: LossScale | None = None,
) -> None:
    """Fit `parameters`, the LoRA inside `transformer`, to the encoded visits of `plan` from optimizer step
    `first_step` on until `steps` are done.

    One step is the mean gradient of its micro-batches. Everything random in it is a function of (seed, step, item).

    Args:
        first_step: 0, or the number of steps done when the run was stopped.
        objective: how noise and noise levels are drawn, and the loss.
        preservation_weight: of `output_preservation_loss`, beside the velocity loss; 0 leaves it out.
        max_grad_norm: longer gradients are scaled down to it; 0 leaves them.
        autocast: the arithmetic of the network.
        after_step: called after every step: shows and writes what is due; may raise to stop.
        has_dropout: whether the LoRA drops inputs, by masks of its own for each micro-batch.
        processes: which train together; each sees its part of every micro-batch.
        loss_scale: for a network in float16; None for none.

    Raises:
        UserError: when the loss or the gradient is not finite, naming the step and the pictures.
        LostProcessError: when another process is gone; the parameters are those of the last whole step.
        PassOutOfMemoryError: when a pass does not fit into the memory; likewise.
    """
    transformer.train()
    loss_scale = loss_scale or LossScale(torch.float32, transformer.device)
    models = [transformer, *([encoded.pooled_text.clip] if encoded.pooled_text else [])]
    inputs = Inputs(plan, encoded, objective, seed, processes)
    for step in range(first_step, steps):
        micro_batches = plan.micro_batches(step)
        # Summed where they are computed: asking for their values would let a GPU run dry between two passes.
        loss_sum = preservation_sum = torch.zeros((), dtype=torch.float64, device=transformer.device)
        with _out_of_memory_named(optimizer):
            for number, micro_batch in enumerate(micro_batches):
                own, places = processes.share(micro_batch)
                if not own:
                    continue
                share = len(own) / len(micro_batch) / len(micro_batches)  # of the step's mean
                identity = (seed, step, number)
                with dropout_from((*identity, processes.rank), models) if has_dropout else nullcontext():
                    batch, noise, sigmas = inputs.read(own, identity, places)
                    noisy_latents = add_noise(batch.latents, noise, sigmas)  # (B, C, H, W)
                    with autocast:
                        velocity = predict_velocity(
                            transformer,
                            noisy_latents,
                            sigmas,
                            batch.prompt_embeds,
                            batch.pooled_prompt_embeds,
                            guidance_scale,
                        )
                    weights = batch.loss_weights * level_weights(objective.weighting_scheme, sigmas)
                    loss = velocity_loss(
                        velocity, batch.latents, noise, weights, batch.masks, objective.loss_type, objective.huber_c
                    )
                    loss_scale.backward(loss * share)
                    loss_sum = loss_sum + loss.detach().double() * share
                    if preservation_weight:
                        class_texts = encoded.class_texts(own), encoded.class_texts(own, of_base=True)
                        kept = output_preservation_loss(
                            transformer, noisy_latents, sigmas, *class_texts, guidance_scale, autocast
                        )
                        # A backward pass of its own: the activations of both passes are never in memory together.
                        loss_scale.backward(preservation_weight * kept * share)
                        preservation_sum = preservation_sum + kept.detach().double() * share
            if step + 1 < steps:
                inputs.read_ahead(step + 1)
        processes.add_up(parameters)
        loss_scale.unscale(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm or math.inf)
        # Asked for together: each question lets a GPU run dry.
        *losses_here, grad_norm = torch.stack([loss_sum, preservation_sum, norm.to(loss_sum)]).tolist()
        step_loss, preservation_loss = processes.total(losses_here, transformer.device)
        if not math.isfinite(grad_norm) and loss_scale.can_be_lowered:
            grad_norm = 0.0
        losses = {"loss": step_loss, "preservation loss": preservation_loss, "gradient": grad_norm}
        require_finite(losses, step, micro_batches)
        learning_rate = effective_learning_rate(optimizer)
        if loss_scale.step(optimizer):
            schedule.step()
        optimizer.zero_grad(set_to_none=True)
        after_step(StepReport(step + 1, step_loss, preservation_loss, grad_norm, learning_rate))


class PassOutOfMemoryError(Exception):
    """There was not enough memory for a forward and backward pass; nothing has been updated."""


@contextmanager
def _out_of_memory_named(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Tell memory that ran out in a pass from everything else, and drop what the step has of gradients."""
    try:
        yield
    except RuntimeError as error:  # of which CUDA's own is a kind
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        optimizer.zero_grad(set_to_none=True)
        raise PassOutOfMemoryError(str(error).splitlines()[0]) from error


def output_preservation_loss(
    transformer: FluxTransformer2DModel,
    noisy_latents: Tensor,
    sigmas: Tensor,
    class_texts: tuple[Tensor, Tensor],
    base_class_texts: tuple[Tensor, Tensor],
    guidance_scale: float,
    autocast: torch.autocast,
) -> Tensor:
    """Mean squared distance of what the transformer predicts with the LoRA and without: a float32 scalar.

    Where the captions name the class noun alone, the concept's own pictures then teach what is not to be changed
    (differential output preservation, as in ostris/ai-toolkit: no regularization pictures are needed).

    Args:
        noisy_latents: (B, C, H, W) float32 at `sigmas` (B,).
        class_texts, base_class_texts: (B, S, D) of T5 and (B, D) of CLIP, with its LoRA and without.
    """

    def predict(texts: tuple[Tensor, Tensor]) -> Tensor:
        with autocast:
            return predict_velocity(transformer, noisy_latents, sigmas, *texts, guidance_scale).float()

    with torch.no_grad(), without_lora(transformer):
        base_velocity = predict(base_class_texts)
    return F.mse_loss(predict(class_texts), base_velocity)


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

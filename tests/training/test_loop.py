"""The loop: accumulation is a mean, randomness follows from (seed, step, item), a loss that is no number stops it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import visit_of
from torch import Tensor

from fluxbooth.dataset.plan import Plan, Visit
from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.flow import add_noise, predict_velocity, velocity_loss
from fluxbooth.flux.lora import add_lora
from fluxbooth.flux.parts import load_transformer
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.encode import EncodedVisits, encode_visits
from fluxbooth.training.loop import StepReport, draw_noise, require_finite, train
from fluxbooth.training.optimizers import build_optimizer, build_schedule

CPU = torch.device("cpu")


@pytest.fixture
def pictures(make_concept: Callable[..., Path]) -> list[Path]:
    return sorted(make_concept("toy", [(64, 48)] * 4).glob("*.png"))


class Trainer:
    """Trains the miniature on four pictures in float32 and returns the LoRA's tensors."""

    def __init__(self, weights: BaseWeights, architecture: Architecture, pictures: Sequence[Path], cache: Path) -> None:
        self.weights, self.architecture, self.cache = weights, architecture, cache
        self.visits = [visit_of(path, caption=f"tjtoy toy {path.stem}") for path in pictures]
        self.reports: list[StepReport] = []

    def encoded(self) -> EncodedVisits:
        return encode_visits(self.visits, self.weights, self.architecture, self.cache, 1.0, torch.float32, CPU)

    def __call__(
        self, batch_size: int, grad_accum: int, steps: int = 1, learning_rate: float = 1e-3, seed: int = 0
    ) -> list[Tensor]:
        self.reports = []
        transformer = load_transformer(self.weights, self.architecture, torch.float32, CPU)
        parameters = add_lora(transformer, rank=2, alpha=2.0, seed=0)
        optimizer = build_optimizer(parameters, "AdamW", learning_rate, ())
        items = [replace(visit.item, batch_size=batch_size) for visit in self.visits]
        train(
            transformer,
            parameters,
            Plan(items, grad_accum, seed),
            self.encoded(),
            optimizer,
            build_schedule(optimizer, "constant", steps, 0, 1),
            first_step=0,
            steps=steps,
            seed=seed,
            timestep_sampling="flux_shift",
            guidance_scale=1.0,
            max_grad_norm=0.0,
            autocast=torch.autocast("cpu", torch.bfloat16, enabled=False),
            after_step=self.reports.append,
        )
        return [parameter.detach().clone() for parameter in parameters]


@pytest.fixture
def trainer(weights: BaseWeights, architecture: Architecture, pictures: list[Path], tmp_path: Path) -> Trainer:
    return Trainer(weights, architecture, pictures, tmp_path / "cache")


def test_the_same_seed_trains_the_same_lora_and_another_seed_another(trainer: Trainer) -> None:
    first, again, other = trainer(1, 2, steps=2), trainer(1, 2, steps=2), trainer(1, 2, steps=2, seed=1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_every_step_is_reported_and_the_lora_moves(trainer: Trainer) -> None:
    trained = trainer(2, 1, steps=3)
    assert [report.step for report in trainer.reports] == [1, 2, 3]
    assert all(math.isfinite(report.loss) and report.grad_norm > 0 for report in trainer.reports)
    assert all(report.learning_rate == 1e-3 for report in trainer.reports)
    assert all(tensor.abs().max() > 0 for tensor in trained), "no layer's B is still zero"


def test_micro_batches_of_one_step_give_the_mean_gradient(
    weights: BaseWeights, architecture: Architecture, trainer: Trainer
) -> None:
    """Two micro-batches of one equal one batch of two, under the same noise."""
    encoded = trainer.encoded()
    pair = tuple(trainer.visits[:2])
    noise = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([0.3, 0.7])

    def gradients(groups: list[tuple[int, ...]]) -> list[Tensor]:
        transformer = load_transformer(weights, architecture, torch.float32, CPU)
        parameters = add_lora(transformer, rank=2, alpha=2.0, seed=0)
        for parameter in parameters:
            parameter.data += 0.01
        for group in groups:
            batch = encoded.batch(tuple(pair[index] for index in group))
            rows = list(group)
            noisy = add_noise(batch.latents, noise[rows], sigmas[rows])
            velocity = predict_velocity(
                transformer, noisy, sigmas[rows], batch.prompt_embeds, batch.pooled_prompt_embeds, 1.0
            )
            (velocity_loss(velocity, batch.latents, noise[rows], batch.loss_weights) / len(groups)).backward()  # type: ignore[no-untyped-call]
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    for alone, together in zip(gradients([(0,), (1,)]), gradients([(0, 1)]), strict=True):
        assert torch.allclose(alone, together, atol=1e-6)


def test_noise_depends_on_the_step_the_place_and_the_item(trainer: Trainer) -> None:
    latents = torch.zeros(2, 16, 6, 6)
    pair = tuple(trainer.visits[:2])
    noise, sigmas = draw_noise(latents, pair, (0, 5, 0), "flux_shift")
    assert all(
        torch.equal(one, two)
        for one, two in zip((noise, sigmas), draw_noise(latents, pair, (0, 5, 0), "flux_shift"), strict=True)
    )
    for other in (
        draw_noise(latents, pair, (0, 6, 0), "flux_shift"),
        draw_noise(latents, pair, (1, 5, 0), "flux_shift"),
        draw_noise(latents, pair, (0, 5, 1), "flux_shift"),
        draw_noise(latents, tuple(reversed(pair)), (0, 5, 0), "flux_shift"),
    ):
        assert not torch.equal(other[0], noise)
    assert not torch.equal(noise[0], noise[1])
    # The first of two is the same as when it stands alone: batches do not change what an item sees.
    assert torch.equal(draw_noise(latents[:1], pair[:1], (0, 5, 0), "flux_shift")[0][0], noise[0])


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_pictures(loss: float, pictures: list[Path]) -> None:
    micro_batches: list[tuple[Visit, ...]] = [(visit_of(pictures[0]),), (visit_of(pictures[1]),)]
    with pytest.raises(UserError) as raised:
        require_finite({"loss": loss, "gradient": 1.0}, 41, micro_batches)
    assert "in step 42 the loss is" in str(raised.value)
    assert str(pictures[0]) in str(raised.value)
    assert str(pictures[1]) in str(raised.value)


def test_a_rate_that_is_far_too_high_ends_in_that_error(trainer: Trainer) -> None:
    with pytest.raises(UserError, match="Lower learning_rate"):
        trainer(1, 1, steps=30, learning_rate=1e30)

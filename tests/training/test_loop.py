"""The loop: accumulation is a mean, randomness follows from (seed, step, item), a loss that is no number stops it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import visit_of
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from fluxbooth.dataset.plan import MicroBatch, Plan, Visit
from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.flow import add_noise, predict_velocity, velocity_loss
from fluxbooth.flux.lora import add_lora
from fluxbooth.flux.objective import Objective
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.training_pass import use_training_pass
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.encode import Batch, EncodedVisits, encode_visits
from fluxbooth.training.inputs import draw_noise
from fluxbooth.training.loop import StepReport, require_finite, train
from fluxbooth.training.optimizers import build_optimizer, build_schedule

CPU = torch.device("cpu")
OBJECTIVE = Objective()


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
        return encode_visits(self.visits, self.weights, self.architecture, self.cache, 1.0, torch.float32, CPU, True)

    def start(self) -> list[Tensor]:
        """The LoRA before any step."""
        return [parameter.detach().clone() for parameter in self._network()[1]]

    def gradient_of_micro_batch(self, number: int) -> list[Tensor]:
        """The gradient of micro-batch `number` of the first step alone, by the formulas of flow.py."""
        transformer, parameters = self._network()
        encoded = self.encoded()
        micro_batch = Plan([visit.item for visit in self.visits[:2]], 2, 0).micro_batches(0)[number]
        batch = encoded.batch(micro_batch)
        noise, sigmas = draw_noise(batch.latents, micro_batch, (0, 0, number), OBJECTIVE)
        noisy = add_noise(batch.latents, noise, sigmas)
        velocity = predict_velocity(transformer, noisy, sigmas, batch.prompt_embeds, batch.pooled_prompt_embeds, 1.0)
        loss = velocity_loss(velocity, batch.latents, noise, batch.loss_weights)
        return list(torch.autograd.grad(loss, parameters))

    def _network(self, dropout: float = 0.0) -> tuple[FluxTransformer2DModel, list[nn.Parameter]]:
        transformer = load_transformer(self.weights, self.architecture, torch.float32, CPU)
        parameters = add_lora(transformer, rank=2, alpha=2.0, seed=0, dropout=dropout)
        for number, parameter in enumerate(parameters):  # away from zero, so that every layer has a gradient
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        return transformer, parameters

    def __call__(
        self,
        batch_size: int,
        grad_accum: int,
        steps: int = 1,
        learning_rate: float = 1e-3,
        seed: int = 0,
        optimizer: str = "AdamW",
        max_grad_norm: float = 0.0,
        items: int = 4,
        preservation_weight: float = 0.0,
        objective: Objective = OBJECTIVE,
        dropout: float = 0.0,
        first_step: int = 0,
        recomputed: int | None = None,
    ) -> list[Tensor]:
        """Train by diffusers' own pass, or by fluxbooth's with that many blocks `recomputed`."""
        self.reports = []
        transformer, parameters = self._network(dropout)
        if recomputed is not None:
            use_training_pass(transformer, recomputed)
        chosen: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, lr=learning_rate)
            if optimizer == "SGD"
            else build_optimizer(parameters, optimizer, learning_rate, ())
        )
        train(
            transformer,
            parameters,
            Plan([replace(visit.item, batch_size=batch_size) for visit in self.visits[:items]], grad_accum, seed),
            self.encoded(),
            chosen,
            build_schedule(chosen, "constant", steps, 0, 1),
            first_step=first_step,
            steps=steps,
            seed=seed,
            objective=objective,
            guidance_scale=1.0,
            preservation_weight=preservation_weight,
            max_grad_norm=max_grad_norm,
            autocast=torch.autocast("cpu", torch.bfloat16, enabled=False),
            after_step=self.reports.append,
            has_dropout=dropout > 0,
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


def test_what_the_next_step_begins_with_is_read_before_this_one_waits_for_its_loss(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[int] = []
    batch = EncodedVisits.batch

    def noted(own: EncodedVisits, micro_batch: MicroBatch) -> Batch:
        reported.append(len(trainer.reports))
        return batch(own, micro_batch)

    monkeypatch.setattr(EncodedVisits, "batch", noted)
    trainer(1, 2, steps=3)
    assert reported == [0, 0, 0, 1, 1, 2], "of two micro-batches a step the first one is there when it begins"


def test_a_step_goes_along_the_mean_gradient_of_its_micro_batches(trainer: Trainer) -> None:
    """Under plain gradient descent one step of two micro-batches is the mean of the two steps of one each."""
    start = trainer.start()
    both = trainer(1, 2, optimizer="SGD", items=2)
    # One epoch of two items holds the same two micro-batches, each alone in a step of its own, from the same start.
    noises = {}
    for number in (0, 1):
        noises[number] = trainer.gradient_of_micro_batch(number)
    for moved, begun, first, second in zip(both, start, noises[0], noises[1], strict=True):
        assert torch.allclose(begun - moved, 1e-3 * (first + second) / 2, atol=1e-7)


def test_a_long_gradient_is_scaled_down_to_the_norm_asked_for(trainer: Trainer) -> None:
    start = trainer.start()
    free = trainer(1, 1, optimizer="SGD")
    length = trainer.reports[0].grad_norm
    clipped = trainer(1, 1, optimizer="SGD", max_grad_norm=length / 10)
    assert trainer.reports[0].grad_norm == pytest.approx(length), "reported as it was"
    for begun, far, near in zip(start, free, clipped, strict=True):
        assert torch.allclose((begun - far) / 10, begun - near, atol=1e-7)


def test_keeping_the_class_noun_keeps_it_and_learns_the_concept_all_the_same(trainer: Trainer) -> None:
    """With next to no weight it is measured and not kept."""
    trainer(4, 1, steps=60, learning_rate=2e-3, preservation_weight=1e-9)
    free = trainer.reports
    trainer(4, 1, steps=60, learning_rate=2e-3, preservation_weight=1.0)
    kept = trainer.reports
    assert mean_of_last_ten(kept, "preservation_loss") < 0.5 * mean_of_last_ten(free, "preservation_loss")
    assert mean_of_last_ten(kept, "loss") < 0.7 * kept[0].loss
    trainer(4, 1)
    assert trainer.reports[0].preservation_loss == 0.0


def mean_of_last_ten(reports: list[StepReport], field: str) -> float:
    return float(sum(getattr(report, field) for report in reports[-10:]) / 10)


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


def test_weights_of_levels_and_the_kind_of_loss_reach_the_step(trainer: Trainer) -> None:
    plain = trainer(1, 1)
    loss = trainer.reports[0].loss
    for objective in (Objective(weighting_scheme="cosmap"), Objective(loss_type="huber"), Objective(noise_offset=0.3)):
        other = trainer(1, 1, objective=objective)
        assert trainer.reports[0].loss != pytest.approx(loss, rel=1e-3)
        assert not all(torch.equal(one, two) for one, two in zip(plain, other, strict=True))


def test_dropout_is_a_function_of_seed_step_and_micro_batch(trainer: Trainer) -> None:
    """A step's loss is the same whether the run began with it or not, and whatever was drawn before."""
    torch.manual_seed(1)
    trainer(1, 2, steps=3, learning_rate=1e-30, dropout=0.5)
    losses = [report.loss for report in trainer.reports]
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    trainer(1, 2, steps=3, learning_rate=1e-30, dropout=0.5, first_step=2)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers change"
    assert trainer.reports[0].loss == losses[2]
    trainer(1, 2, steps=3, learning_rate=1e-30, dropout=0.0)
    assert [report.loss for report in trainer.reports] != pytest.approx(losses, rel=1e-6)


@pytest.mark.slow
def test_the_fast_pass_learns_as_the_plain_one_over_two_hundred_steps(trainer: Trainer) -> None:
    """The plain one is diffusers' forward pass and PEFT's LoRA in float32, nothing fused."""
    trainer(1, 1, steps=200)
    plain = [report.loss for report in trainer.reports]
    trainer(1, 1, steps=200, recomputed=0)
    fast = [report.loss for report in trainer.reports]
    trainer(1, 1, steps=20, recomputed=99)
    assert [report.loss for report in trainer.reports] == fast[:20]
    assert fast == pytest.approx(plain, rel=1e-3)
    assert sum(plain[-20:]) < 0.8 * sum(plain[:20]), "there is something to learn, and it is learned"

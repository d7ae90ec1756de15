"""Micro-batches and their noise: the same whether they are read ahead or not, and read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import visit_of
from torch import Tensor

from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import MicroBatch, Plan, Visit
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.objective import Objective
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.encode import Batch, EncodedVisits, encode_visits
from fluxbooth.training.inputs import Inputs, draw_noise
from fluxbooth.training.processes import ALONE, Processes

CPU = torch.device("cpu")
OBJECTIVE = Objective()


@pytest.fixture
def visits(make_concept: Callable[..., Path]) -> list[Visit]:
    return [visit_of(path, caption=path.stem) for path in sorted(make_concept("toy", [(64, 48)] * 4).glob("*.png"))]


@pytest.fixture
def encoded(visits: list[Visit], weights: BaseWeights, architecture: Architecture, tmp_path: Path) -> EncodedVisits:
    return encode_visits(visits, weights, architecture, tmp_path / "cache", 1.0, torch.float32, CPU)


@pytest.fixture
def read(encoded: EncodedVisits, monkeypatch: pytest.MonkeyPatch) -> list[MicroBatch]:
    """The micro-batches that have been read from the cache so far."""
    seen: list[MicroBatch] = []
    batch = encoded.batch

    def noted(micro_batch: MicroBatch) -> Batch:
        seen.append(micro_batch)
        return batch(micro_batch)

    monkeypatch.setattr(encoded, "batch", noted)
    return seen


def test_noise_depends_on_the_step_the_place_and_the_item(visits: list[Visit]) -> None:
    latents = torch.zeros(2, 16, 6, 6)
    pair = tuple(visits[:2])
    noise, sigmas = draw_noise(latents, pair, (0, 5, 0), OBJECTIVE)
    assert all(
        torch.equal(one, two)
        for one, two in zip((noise, sigmas), draw_noise(latents, pair, (0, 5, 0), OBJECTIVE), strict=True)
    )
    for other in (
        draw_noise(latents, pair, (0, 6, 0), OBJECTIVE),
        draw_noise(latents, pair, (1, 5, 0), OBJECTIVE),
        draw_noise(latents, pair, (0, 5, 1), OBJECTIVE),
        draw_noise(latents, tuple(reversed(pair)), (0, 5, 0), OBJECTIVE),
    ):
        assert not torch.equal(other[0], noise)
    assert not torch.equal(noise[0], noise[1])
    # The first of two is the same as when it stands alone: batches do not change what an item sees.
    assert torch.equal(draw_noise(latents[:1], pair[:1], (0, 5, 0), OBJECTIVE)[0][0], noise[0])


def of_step(inputs: Inputs, plan: Plan, step: int, processes: Processes = ALONE) -> list[Tensor]:
    """All that the micro-batches of a step are computed from."""
    tensors: list[Tensor] = []
    for number, micro_batch in enumerate(plan.micro_batches(step)):
        own, places = processes.share(micro_batch)
        batch, noise, sigmas = inputs.read(own, (0, step, number), places)
        tensors += [*vars(batch).values(), noise, sigmas]
    return tensors


@pytest.mark.parametrize("processes", [ALONE, Processes(rank=1, count=2)], ids=["alone", "one of two"])
def test_what_is_read_ahead_is_what_would_be_read_and_is_read_once(
    visits: list[Visit], encoded: EncodedVisits, read: list[MicroBatch], processes: Processes
) -> None:
    plan = Plan(_in_twos(visits), grad_accum=2, seed=0)
    straight = [of_step(Inputs(plan, encoded, OBJECTIVE, 0, processes), plan, step, processes) for step in range(3)]
    as_often = len(read)
    ahead = Inputs(plan, encoded, OBJECTIVE, 0, processes)
    for step in range(3):
        before = len(read)
        tensors = of_step(ahead, plan, step, processes)
        assert all(torch.equal(*pair) for pair in zip(tensors, straight[step], strict=True))
        assert len(read) - before == (2 if step == 0 else 1), "the first one is there already"
        ahead.read_ahead(step + 1)
    assert len(read) == 2 * as_often + 1, "each once, and the first of the step that is not done"


def test_where_clip_is_trained_nothing_is_read_before_the_step_that_changes_it(
    visits: list[Visit], encoded: EncodedVisits, read: list[MicroBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "pooled_text", object())
    Inputs(Plan(_in_twos(visits), 1, 0), encoded, OBJECTIVE, 0, ALONE).read_ahead(1)
    assert read == []


def test_what_cannot_be_read_ahead_is_said_by_the_step_that_needs_it(
    visits: list[Visit], encoded: EncodedVisits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(micro_batch: MicroBatch) -> Batch:
        raise FileNotFoundError(2, "No such file or directory", str(micro_batch[0].item.path))

    plan = Plan(_in_twos(visits), 1, 0)
    inputs = Inputs(plan, encoded, OBJECTIVE, 0, ALONE)
    monkeypatch.setattr(encoded, "batch", gone)
    inputs.read_ahead(1)
    with pytest.raises(FileNotFoundError):
        of_step(inputs, plan, 1)


def _in_twos(visits: Sequence[Visit]) -> list[Item]:
    return [replace(visit.item, batch_size=2) for visit in visits]

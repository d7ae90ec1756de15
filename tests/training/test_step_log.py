"""What programs read of a run: a JSON line a step, without steps that a killed run has to do again."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from builders import make_item
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fluxbooth.dataset.plan import Visit
from fluxbooth.training.evaluation import SIGMAS, Evaluation
from fluxbooth.training.loop import StepReport
from fluxbooth.training.step_log import StepLog


def report(step: int) -> StepReport:
    return StepReport(step, loss=1 / step, preservation_loss=0.0, grad_norm=0.5, learning_rate=1e-4)


def evaluation() -> Evaluation:
    """Of two pictures of two concepts; at the second noise level nothing is lost."""
    items = [make_item(1, concept="tjtoy toy"), make_item(2, concept="sparkgpu gpu")]
    visits = [Visit(item, False, item.caption) for item in items]
    losses = torch.tensor([[0.5, 0.0, 0.5, 0.5], [0.25, 0.0, 0.25, 0.25]])
    assert losses.shape[1] == len(SIGMAS)
    return Evaluation(visits, losses)


def steps_of(folder: Path, name: str = "steps.jsonl") -> list[int]:
    return [json.loads(line)["step"] for line in (folder / name).read_text().splitlines()]


def test_a_run_that_goes_on_takes_back_what_it_does_again(tmp_path: Path) -> None:
    with StepLog(tmp_path, 0) as log:
        for step in range(1, 6):
            log.step(report(step), smoothed_loss=0.5, seconds_per_sample=2.0)
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # cut by kill -9
    with StepLog(tmp_path, 3) as log:
        assert log.losses == [1, 1 / 2, 1 / 3], "from which the smoothed loss goes on"
        log.step(report(4), smoothed_loss=0.5, seconds_per_sample=2.0)
    assert steps_of(tmp_path) == [1, 2, 3, 4]


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    with StepLog(tmp_path, 0) as log:
        for step in (1, 2):
            log.step(report(step), smoothed_loss=0.5, seconds_per_sample=2.0)
        log.evaluation(2, evaluation())
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert [event.value for event in board.Scalars("train/smoothed_loss")] == [0.5, 0.5]
    assert [event.value for event in board.Scalars("evaluation/tjtoy toy")] == [0.375]


def test_an_evaluation_is_a_line_with_its_means_and_each_picture(tmp_path: Path) -> None:
    with StepLog(tmp_path, 0) as log:
        log.evaluation(5, evaluation())
    assert json.loads((tmp_path / "evaluations.jsonl").read_text()) == {
        "step": 5,
        "mean": 0.28125,
        "sigmas": {"0.2": 0.375, "0.4": 0.0, "0.6": 0.375, "0.8": 0.375},
        "concepts": {"tjtoy toy": 0.375, "sparkgpu gpu": 0.1875},
        "pictures": {"/1.png": 0.375, "/2.png": 0.1875},
    }


def test_evaluations_that_are_done_again_are_taken_back_and_the_base_models_stays(tmp_path: Path) -> None:
    with StepLog(tmp_path, 0) as log:
        for step in (0, 2, 4):
            log.evaluation(step, evaluation())
    with StepLog(tmp_path, 3) as log:
        log.evaluation(4, evaluation())
    assert steps_of(tmp_path, "evaluations.jsonl") == [0, 2, 4]
    with StepLog(tmp_path, 0) as log:
        log.evaluation(0, evaluation())
    assert steps_of(tmp_path, "evaluations.jsonl") == [0], "a run that begins has none of an earlier one"

"""What programs read of a run: a JSON line a step, without steps that a killed run has to do again."""

from __future__ import annotations

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fluxbooth.training.loop import StepReport
from fluxbooth.training.step_log import StepLog


def report(step: int) -> StepReport:
    return StepReport(step, loss=1 / step, preservation_loss=0.0, grad_norm=0.5, learning_rate=1e-4)


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "steps.jsonl").read_text().splitlines()]


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
        log.evaluation(2, {"mean": 0.25, "tjtoy toy": 0.5})
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert [event.value for event in board.Scalars("train/smoothed_loss")] == [0.5, 0.5]
    assert [event.value for event in board.Scalars("evaluation/tjtoy toy")] == [0.5]

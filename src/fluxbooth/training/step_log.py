"""What every step and every evaluation came to, for programs: a JSON line each, and TensorBoard's files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from fluxbooth.host.files import write_text
from fluxbooth.training.evaluation import Evaluation
from fluxbooth.training.loop import StepReport

_STEPS, _EVALUATIONS = "steps.jsonl", "evaluations.jsonl"


class StepLog:
    """Writes runs/NAME/logs: steps.jsonl, evaluations.jsonl and TensorBoard's event files."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Go on behind `first_step`: what a killed run wrote of later steps is taken back."""
        folder.mkdir(parents=True, exist_ok=True)
        _take_back(folder / _STEPS, first_step)
        # An evaluation at step 0 of an earlier run is none of this one's, which writes its own.
        _take_back(folder / _EVALUATIONS, first_step or -1)
        self._lines = (folder / _STEPS).open("a", encoding="utf-8", buffering=1)
        self._evaluations = (folder / _EVALUATIONS).open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(folder), purge_step=first_step + 1)

    def step(self, report: StepReport) -> None:
        """Write one step."""
        numbers = asdict(report)
        self._lines.write(json.dumps(numbers) + "\n")
        for name, value in numbers.items():
            if name != "step":
                self._board.add_scalar(f"train/{name}", value, report.step)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Write the losses on the evaluation set after `step`: mean, of each noise level, concept and picture."""
        losses = {
            "step": step,
            "mean": evaluation.mean,
            "sigmas": evaluation.by_sigma(),
            "concepts": evaluation.by_concept(),
            "pictures": evaluation.by_picture(),
        }
        self._evaluations.write(json.dumps(losses) + "\n")
        for name, loss in evaluation.by_name().items():
            self._board.add_scalar(f"evaluation/{name}", loss, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._evaluations.close()
        self._board.close()


def _take_back(file: Path, last_step: int) -> None:
    """Keep the lines of a file up to one step."""
    if file.is_file():
        kept = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= last_step]
        write_text(file, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that was cut when the process was killed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")

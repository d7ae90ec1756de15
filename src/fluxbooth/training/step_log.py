"""What every step came to, for programs: a JSON line a step, and TensorBoard's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from fluxbooth.host.files import write_text
from fluxbooth.training.loop import StepReport

_STEPS = "steps.jsonl"


class StepLog:
    """Writes runs/NAME/logs: steps.jsonl and TensorBoard's event files."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Go on behind `first_step`: what a killed run wrote of later steps is taken back."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / _STEPS
        self.losses: list[float] = []
        """Of the steps that are in the log."""
        if file.is_file():
            kept = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= first_step]
            write_text(file, "".join(f"{line}\n" for line in kept))
            self.losses = [numbers["loss"] for numbers in map(json.loads, kept) if "loss" in numbers]
        self._lines = file.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(folder), purge_step=first_step + 1)

    def step(self, report: StepReport, smoothed_loss: float, seconds_per_sample: float) -> None:
        """Write one step, and two numbers over the last of them."""
        numbers = asdict(report) | {"smoothed_loss": smoothed_loss, "seconds_per_sample": seconds_per_sample}
        self._lines.write(json.dumps(numbers) + "\n")
        for name, value in numbers.items():
            if name != "step":
                self._board.add_scalar(f"train/{name}", value, report.step)

    def evaluation(self, step: int, losses: Mapping[str, float]) -> None:
        """Write the losses on the evaluation set after `step`, by what they are the mean over."""
        for name, loss in losses.items():
            self._board.add_scalar(f"evaluation/{name}", loss, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that was cut when the process was killed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")

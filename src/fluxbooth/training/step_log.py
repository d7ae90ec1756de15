"""What every step and every evaluation came to, for programs: a JSON line each, and TensorBoard's files."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from fluxbooth.host.files import write_text
from fluxbooth.training.evaluation import Evaluation
from fluxbooth.training.loop import StepReport

_STEPS, _EVALUATIONS = "steps.jsonl", "evaluations.jsonl"


class Curves(Protocol):
    """Where the points of curves are written to."""

    def write(self, points: Mapping[str, float], step: int) -> None:
        """Write one point of each of these curves."""

    def close(self) -> None:
        """Write what is left."""


class StepLog:
    """Writes runs/NAME/logs: steps.jsonl, evaluations.jsonl and TensorBoard's event files; curves elsewhere, too."""

    def __init__(self, folder: Path, first_step: int, *elsewhere: Curves) -> None:
        """Go on behind `first_step`: what a killed run wrote of later steps is taken back."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = [json.loads(line) for line in _take_back(folder / _STEPS, first_step)]
        self.losses: list[float] = [numbers["loss"] for numbers in kept if "loss" in numbers]
        """Of the steps that are in the log."""
        # An evaluation at step 0 of an earlier run is none of this one's, which writes its own.
        _take_back(folder / _EVALUATIONS, first_step or -1)
        self._lines = (folder / _STEPS).open("a", encoding="utf-8", buffering=1)
        self._evaluations = (folder / _EVALUATIONS).open("a", encoding="utf-8", buffering=1)
        self._curves: tuple[Curves, ...] = (_Board(folder, first_step + 1), *elsewhere)

    def step(self, report: StepReport, smoothed_loss: float, seconds_per_sample: float) -> None:
        """Write one step, and two numbers over the last of them."""
        numbers = asdict(report) | {"smoothed_loss": smoothed_loss, "seconds_per_sample": seconds_per_sample}
        self._lines.write(json.dumps(numbers) + "\n")
        self._write({f"train/{name}": value for name, value in numbers.items() if name != "step"}, report.step)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Write the losses on the evaluation set after `step`: mean, of each noise level, concept and picture."""
        losses: dict[str, object] = {"step": step, **_losses_of(evaluation)}
        if evaluation.held_out:
            losses["held_out"] = _losses_of(evaluation.held_out)
        self._evaluations.write(json.dumps(losses) + "\n")
        self._write({f"evaluation/{name}": loss for name, loss in evaluation.by_name().items()}, step)

    def _write(self, points: Mapping[str, float], step: int) -> None:
        for curves in self._curves:
            curves.write(points, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of a disk that is full it is said already why the run ends.
        for close in (self._lines.close, self._evaluations.close, *(curves.close for curves in self._curves)):
            with suppress(OSError) if error else nullcontext():
                close()


class _Board:
    """An event file of TensorBoard's, written at once and not from a thread, where a full disk would go unheard."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Let readers forget what earlier files of `folder` say of `first_step` and later ones."""
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.fluxbooth.{os.getpid()}.{secrets.token_hex(4)}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=first_step))

    def write(self, points: Mapping[str, float], step: int) -> None:
        """Write one point of each of these curves, for readers to see."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in points.items()]
        self._write(Event(step=step, summary=Summary(value=values)))
        self._file.flush()

    def close(self) -> None:
        """Write what is left."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def first_of_held_out(folder: Path) -> float:
    """The mean loss of the pictures held out that the log of this folder began with; not a number where it has none."""
    file = folder / _EVALUATIONS
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            return float(json.loads(line)["held_out"]["mean"])
    return float("nan")


def _losses_of(evaluation: Evaluation) -> dict[str, object]:
    return {
        "mean": evaluation.mean,
        "sigmas": evaluation.by_sigma(),
        "concepts": evaluation.by_concept(),
        "pictures": evaluation.by_picture(),
    }


def _take_back(file: Path, last_step: int) -> list[str]:
    """Keep the lines of a file up to one step, and return them."""
    if not file.is_file():
        return []
    kept = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= last_step]
    write_text(file, "".join(f"{line}\n" for line in kept))
    return kept


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that was cut when the process was killed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")

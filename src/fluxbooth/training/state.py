"""The state of a run between two steps: enough to go on as if it had never stopped.

Plan and noise are functions of (seed, step), so that a step number, the LoRA, the optimizer and the schedule are all
there is to keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.files import held_alone, written_whole
from fluxbooth.training.averages import MovingAverage
from fluxbooth.training.loss_scale import LossScale

_LONGEST_SHOWN = 60
"""Letters of a value in a message; digests have 64."""


@dataclass(frozen=True)
class Progress:
    """What a run carries over from before it was stopped."""

    step: int
    """Optimizer steps done."""
    loss_before: float
    """Evaluation loss of the base model, taken when the run began."""


class RunState:
    """Saves and restores one run's state in its folder."""

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        """Keep the state in `folder`; `identity` is what the run's result depends on, by name."""
        self._file = folder / "state.pt"
        self._identity = dict(identity)

    def save(
        self,
        progress: Progress,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        average: MovingAverage | None = None,
        loss_scale: LossScale | None = None,
    ) -> None:
        """Write the state, whole or not at all.

        Raises:
            UserError: when it cannot be written; the last one stays.
        """
        state = {
            "identity": self._identity,
            "step": progress.step,
            "loss_before": progress.loss_before,
            "lora": [parameter.detach().cpu() for parameter in parameters],
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "average": [value.cpu() for value in average.values] if average else [],
            "loss_scale": loss_scale.state() if loss_scale else {},
        }
        try:
            with written_whole(self._file) as part:
                torch.save(state, part)
        except (OSError, RuntimeError) as error:  # torch's writer says a full disk in a RuntimeError
            do = "Make room there, or let it be written to; the same command goes on from the last state"
            raise UserError(
                Problem(f"the run's state cannot be written: {error}", where=str(self._file), do=do)
            ) from error

    @property
    def is_there(self) -> bool:
        """Whether there is something to go on from."""
        return self._file.is_file()

    def check(self) -> None:
        """Raise UserError, naming what differs, when a state is there that belongs to another run."""
        self._load()

    def restore(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        average: MovingAverage | None = None,
        loss_scale: LossScale | None = None,
    ) -> Progress | None:
        """Bring LoRA, optimizer and schedule to where the run was stopped; None when there is nothing to go on from.

        Raises:
            UserError: when the state belongs to a run with other settings, data or base weights.
        """
        state = self._load()
        if state is None:
            return None
        with torch.no_grad():
            for parameter, saved in zip(parameters, state["lora"], strict=True):
                parameter.copy_(saved)
            for value, saved in zip(average.values if average else [], state["average"], strict=True):
                value.copy_(saved)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        if loss_scale:
            loss_scale.restore(state.get("loss_scale", {}))  # states of earlier versions have none
        return Progress(state["step"], state["loss_before"])

    def remove(self) -> None:
        """Forget the state: the run is done."""
        self._file.unlink(missing_ok=True)

    def _load(self) -> dict[str, Any] | None:
        if not self._file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self._file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, KeyError, UnpicklingError) as error:
            raise UserError(
                Problem("is damaged, so the run cannot go on", where=str(self._file), do="Begin anew with --restart")
            ) from error
        names = state["identity"].keys() | self._identity.keys()
        changed = sorted(name for name in names if state["identity"].get(name) != self._identity.get(name))
        if changed:
            others = ", ".join(
                _with_both(name, state["identity"].get(name), self._identity.get(name)) for name in changed
            )
            raise UserError(
                Problem(
                    f"a run with other {others} was stopped here at step {state['step']}",
                    where=str(self._file),
                    do="Give that run's settings to go on with it, choose another --output_name, "
                    "or begin anew with --restart",
                )
            )
        return state


def _with_both(name: str, before: str | None, now: str | None) -> str:
    """A name with what it was and what it is, where these are values that tell a reader something and no digests."""
    if before is None or now is None or max(len(before), len(now)) > _LONGEST_SHOWN:
        return name
    return f"{name} ({before or 'none'} there, {now or 'none'} here)"


def set_aside(run: Path) -> Path | None:
    """Move a run's folder away, so that the next run of its name begins anew; return where it is now, None without one.

    Raises:
        UserError: when another process is in it.
    """
    if not run.is_dir():
        return None
    number = 1
    while (aside := run.with_name(f"{run.name}.before-{number}")).exists():
        number += 1
    with held_alone(run):
        run.rename(aside)
    return aside

"""What a run leaves on the disk while it goes on: LoRA files when they are due, and the state to go on from."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from time import monotonic

import torch
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.lora import lora_tensors
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.host.files import PART_SUFFIX
from fluxbooth.host.folders import Folders
from fluxbooth.training.averages import MovingAverage
from fluxbooth.training.lora_files import files_after_step, files_out_of_date, lora_metadata, step_file, thumbnail
from fluxbooth.training.loss_scale import LossScale
from fluxbooth.training.optimizers import as_published
from fluxbooth.training.prepare import Prepared
from fluxbooth.training.state import Progress, RunState

_SAVE_DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Checkpoints:
    """Writes LoRA files and the state of one run, each whole or not at all."""

    def __init__(
        self,
        prepared: Prepared,
        transformer: FluxTransformer2DModel,
        clip: nn.Module | None,
        state: RunState,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        average: MovingAverage | None,
        loss_scale: LossScale | None = None,
    ) -> None:
        """Watch over these; `clip` where CLIP is trained, too, `average` where it is what is published."""
        self._prepared = prepared
        self._transformer = transformer
        self._clip = clip
        self._state = state
        self._trained = parameters, optimizer, schedule, average, loss_scale
        self._average = average
        self._last_state = self._last_lora = monotonic()

    def published(self) -> AbstractContextManager[None]:
        """Let the trained parameters be what a LoRA file of this moment has."""
        return self._average.in_place() if self._average else as_published(self._trained[1])

    def after_step(self, step: int, loss_before: float, stopping: bool) -> list[str]:
        """Write what is due after `step`: LoRA files, and the state with them, from time to time, and when stopping.

        Returns:
            The names of the LoRA files.

        Raises:
            UserError: when a disk is full, or a value is no number; what was written before stays whole.
        """
        recipe, steps = self._prepared.recipe, self._prepared.steps
        due = self._due(step)
        minutes = recipe.save_every_n_minutes
        if minutes and not due and monotonic() - self._last_lora >= 60 * minutes:
            due = [step_file(recipe.output_name, step)]
        if due:
            self._write_loras(due, step)
        since_state = monotonic() - self._last_state
        if step < steps and (due or stopping or since_state >= 60 * recipe.save_state_every_n_minutes):
            self.save(step, loss_before)
        return due

    def saves_until(self, step: int) -> int:
        """Count the steps until `step` that have left LoRA files, but for those that came by the clock."""
        recipe = self._prepared.recipe
        how = self._prepared.plan.steps_per_epoch, recipe.save_every_n_epochs, recipe.save_every_n_steps
        steps = range(1, step + 1)
        return sum(bool(files_after_step("", one, self._prepared.steps, *how)) for one in steps)

    def finish(self, step: int) -> None:
        """Write the run's last LoRA file after `step`, which was not planned to be the last."""
        self._write_loras([f"{self._prepared.recipe.output_name}.safetensors"], step)

    def catch_up(self, step: int) -> None:
        """Write the LoRA files that were due after `step` and could not be written before its state was.

        Raises:
            UserError: as `after_step` does.
        """
        missing = [name for name in self._due(step) if not (self._prepared.folders.loras / name).exists()]
        if step and missing:
            self._write_loras(missing, step)

    def _due(self, step: int) -> list[str]:
        recipe = self._prepared.recipe
        return files_after_step(
            recipe.output_name,
            step,
            self._prepared.steps,
            self._prepared.plan.steps_per_epoch,
            recipe.save_every_n_epochs,
            recipe.save_every_n_steps,
        )

    def save(self, step: int, loss_before: float) -> None:
        """Write the state after `step`. Raises UserError when it cannot be written."""
        self._state.save(Progress(step, loss_before), *self._trained)
        self._last_state = monotonic()

    def _write_loras(self, names: Sequence[str], step: int) -> None:
        recipe, prepared = self._prepared.recipe, self._prepared
        with self.published():
            tensors = lora_tensors(
                self._transformer, _SAVE_DTYPES[recipe.save_precision], recipe.save_format, self._clip
            )
        metadata = lora_metadata(
            prepared.items,
            recipe.model_dump(),
            recipe.optimizer_args,
            step=step,
            steps=prepared.steps,
            epoch=math.ceil(step / prepared.plan.steps_per_epoch),
            alpha=recipe.alpha,
            model=prepared.weights.name,
        )
        metadata |= thumbnail(prepared.folders.run(recipe.output_name) / "samples", step)
        for name in names:
            try:
                save_tensors(prepared.folders.loras / name, tensors, metadata)
            except (OSError, SafetensorError) as error:
                raise UserError(
                    Problem(
                        f"cannot be written: {error}",
                        where=str(prepared.folders.loras / name),
                        do="Make room there, or let it be written to; the same command goes on from the last state",
                    )
                ) from error
        self._last_lora = monotonic()
        for name in files_out_of_date(
            recipe.output_name,
            step,
            prepared.plan.steps_per_epoch,
            (recipe.save_every_n_epochs, recipe.save_last_n_epochs),
            (recipe.save_every_n_steps, recipe.save_last_n_steps),
        ):
            (prepared.folders.loras / name).unlink(missing_ok=True)


def remove_leftovers(folders: Folders, name: str) -> None:
    """Delete the parts of files that this run was writing when it was killed; only for whoever holds the run alone."""
    of_loras = re.compile(rf"\.{re.escape(name)}(-\d{{6}}|-step\d{{8}}|-best)?\.safetensors\.[0-9a-f]+\{PART_SUFFIX}")
    for part in folders.loras.glob(f".*{PART_SUFFIX}"):
        if of_loras.fullmatch(part.name):
            part.unlink(missing_ok=True)
    for part in folders.run(name).rglob(f".*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)

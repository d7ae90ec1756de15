"""What a training does when the memory is full in a step all the same: it takes less of it from there on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from fluxbooth.errors import UserError
from fluxbooth.flux.device import free_memory_of_the_machine, release_memory
from fluxbooth.flux.sizes import streamed_bytes
from fluxbooth.flux.training_pass import TrainingPass
from fluxbooth.training.after_step import AfterStep
from fluxbooth.training.loop import PassOutOfMemoryError
from fluxbooth.training.memory_plan import MemoryPlan, Workload
from fluxbooth.training.mishaps import out_of_memory
from fluxbooth.training.prepare import Prepared
from fluxbooth.training.trained import Trained

_log = logging.getLogger("fluxbooth")


def train_within_memory(
    train_on: Callable[[], None], trained: Trained, prepared: Prepared, after_step: AfterStep, *, alone: bool
) -> None:
    """Train; where the memory does not hold a pass, go on from the last step in a way that takes less.

    Args:
        train_on: trains from the step on that `after_step` has seen last.
        alone: no other process trains along, which would wait for this one's gradient.

    Raises:
        UserError: when there is no such way; the last whole step is saved.
    """
    running, plan = trained.training_pass, prepared.memory
    while True:
        try:
            train_on()
        except PassOutOfMemoryError as error:
            full = str(error)
        else:
            return
        # Here the error is gone, and with it what its frames held of the pass.
        release_memory()
        free = free_memory_of_the_machine(prepared.recipe.memory_floor)
        instead = step_down(running, prepared.work, plan, free) if running and alone else None
        if running:
            plan = replace(plan, recomputed=running.recomputed, streamed=running.streamed, whole=running.whole)
        if instead is None:
            after_step.save()
            raise UserError(out_of_memory(full, prepared.work, plan))
        release_memory()
        _log.warning("warning: the memory is full in step %d (%s); from here on %s", after_step.done + 1, full, instead)


def step_down(running: TrainingPass, work: Workload, plan: MemoryPlan, free_beside: int | None) -> str | None:
    """Let passes take less of the device's memory and more time from the next one on, and say how; None where they
    cannot. No number changes.

    Matrices that are held turned round, too, go first; then no block keeps everything; then twice as many are
    recomputed, up to all of them; then twice as many are streamed, as far as the machine's memory holds them.

    Args:
        plan: how the training began.
        free_beside: bytes of the machine's memory that may be taken; None for not known.
    """
    blocks = running.blocks
    if running.hold_none_turned():
        return "matrices are turned round for every fp8 product"
    if running.whole:
        running.whole = 0
        return "norms and activations are recomputed"
    if running.recomputed < blocks:
        running.recomputed = _twice(running.recomputed, blocks)
        return f"{running.recomputed} of {blocks} blocks are recomputed"
    if work.unified:
        return None

    def waiting(count: int) -> int:
        return streamed_bytes(work.architecture.transformer, plan.form, work.dtype, count)[0]

    held = waiting(running.streamed)
    possible = range(_twice(running.streamed, blocks), running.streamed, -1)
    count = next((own for own in possible if free_beside is None or waiting(own) - held <= free_beside), None)
    if count is None:
        return None
    running.stream_more(count - running.streamed)
    return f"{count} of {blocks} blocks are streamed from the machine's memory"


def _twice(count: int, blocks: int) -> int:
    return min(max(2 * count, blocks // 8, 1), blocks)

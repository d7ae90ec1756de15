"""What ends a training that is not at fault itself: said in the user's words, and with what can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fluxbooth.errors import Problem, UserError
from fluxbooth.training.processes import LostProcessError


@contextmanager
def saved_when_another_is_lost(save: Callable[[], None]) -> Iterator[None]:
    """Save the last whole step when another process of this training is gone, and say so."""
    try:
        yield
    except LostProcessError as error:
        save()
        raise UserError(
            Problem(
                f"another process of this training is gone: {error}",
                do="See what it said; the state is saved, the same command goes on",
            )
        ) from error


@contextmanager
def advice_when_out_of_memory() -> Iterator[None]:
    """Say what takes less memory when the GPU has no more; what was saved before stays."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            Problem(
                f"the GPU's memory is full: {str(error).splitlines()[0]}",
                do="Set gradient_checkpointing = true, with which this run can go on; or begin anew with a smaller "
                "train_batch_size, resolution or network_dim",
            )
        ) from error

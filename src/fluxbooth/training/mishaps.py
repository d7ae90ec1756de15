"""What ends a training that is not at fault itself: said in the user's words, and with what can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from safetensors import SafetensorError

from fluxbooth.errors import Problem, UserError, of_files
from fluxbooth.training.memory_choice import savings
from fluxbooth.training.memory_plan import MemoryPlan, Workload
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
def saved_when_files_fail(save: Callable[[], None]) -> Iterator[None]:
    """Save the last whole step, where that can be, when a file of the run cannot be read or written, and say so."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        try:
            save()
        except (UserError, OSError):
            raise _of_files(error, "the same command goes on from the last state that was saved") from error
        raise _of_files(error, "the state is saved, the same command goes on") from error


@contextmanager
def said_when_files_fail() -> Iterator[None]:
    """Say in one sentence that a file cannot be read or written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _of_files(error, "run the same command again") from error


def _of_files(error: OSError | SafetensorError, then: str) -> UserError:
    problem = of_files(error) if isinstance(error, OSError) else None
    problem = problem or Problem(f"a file cannot be read or written: {error}")
    return UserError(replace(problem, do=f"{problem.do}; {then}" if problem.do else then[0].upper() + then[1:]))


@contextmanager
def advice_when_out_of_memory(work: Workload, plan: MemoryPlan) -> Iterator[None]:
    """Say what takes less memory when the GPU has no more; what was saved before stays."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(out_of_memory(str(error).splitlines()[0], work, plan)) from error


def out_of_memory(said: str, work: Workload, plan: MemoryPlan) -> Problem:
    """What to do where the memory is full.

    Args:
        said: what was asked for when there was no more.
        work, plan: what was trained, and how it was to fit.
    """
    return Problem(f"the memory is full: {said}", do=f"{'; '.join(savings(work, plan))}")

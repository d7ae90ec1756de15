"""How far a run is: a bar on a terminal, a plain line now and then in `docker logs`, a file or CI."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from tqdm import tqdm

from fluxbooth.training.cost import duration

# A name of its own: train.log has a line for every step and leaves these out.
_log = logging.getLogger("fluxbooth.progress")
_SECONDS_BETWEEN_LINES = 10.0
# tqdm's own bar, but with seconds a sample: steps per second cannot be compared with anyone's figures.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


@dataclass(frozen=True)
class Standing:
    """Where a run is after a step."""

    step: int
    """Optimizer steps done."""
    epoch: int
    """The one that the step belongs to, from 1."""
    epochs: int
    loss: float
    """Mean over the last steps: a single step's says more about its noise level than about the LoRA."""
    learning_rate: float
    """The one in force, Prodigy's estimate times the schedule's."""
    seconds_per_sample: float
    """Of the last steps, without what is saved, measured and drawn between them."""
    seconds_per_step: float
    memory: str
    """What the run takes of it and what is left, for a reader."""


Show = Callable[[Standing], None]


@contextmanager
def shown_progress(first_step: int, steps: int) -> Iterator[Show]:
    """Show a run's steps from `first_step` on, and the time left."""
    if not sys.stderr.isatty():
        yield _plain_lines(first_step, steps)
        return
    # Without smoothing the time left is by the mean since the start, in which pictures that are drawn have their share.
    with tqdm(bar_format=_BAR, initial=first_step, total=steps, smoothing=0, dynamic_ncols=True) as bar:

        def show(standing: Standing) -> None:
            bar.set_postfix_str(_few_numbers(standing), refresh=False)
            bar.update(standing.step - bar.n)

        yield show


def _plain_lines(first_step: int, steps: int) -> Show:
    """Log a line for the first step, the last, and at most one every ten seconds between them."""
    start = last_line = monotonic()

    def show(standing: Standing) -> None:
        nonlocal last_line
        now, step = monotonic(), standing.step
        at_an_end = step in (first_step + 1, steps)
        if at_an_end or now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = now
            left = duration((now - start) / (step - first_step) * (steps - step))
            _log.info("training: step %d of %d, %s, %s left", step, steps, _numbers(standing), left)

    return show


def _numbers(standing: Standing) -> str:
    return (
        f"epoch {standing.epoch} of {standing.epochs}, loss {standing.loss:.3f}, rate {standing.learning_rate:.3g}, "
        f"{standing.seconds_per_sample:.2f} s a sample, {standing.seconds_per_step:.2f} s a step, {standing.memory}"
    )


def _few_numbers(standing: Standing) -> str:
    """What a terminal of 120 columns has room for beside the bar."""
    return (
        f"epoch {standing.epoch}/{standing.epochs}, loss {standing.loss:.3f}, rate {standing.learning_rate:.3g}, "
        f"{standing.seconds_per_sample:.2f} s/sample, {standing.memory}"
    )

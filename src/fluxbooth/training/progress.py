"""How far a run is: a bar on a terminal, a plain line now and then in `docker logs`, a file or CI."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from tqdm import tqdm

from fluxbooth.training.cost import duration

# A name of its own: train.log has a line for every step and leaves these out.
_log = logging.getLogger("fluxbooth.progress")
_SECONDS_BETWEEN_LINES = 10.0
# tqdm's own bar, but always with seconds per step: steps per second cannot be compared with anyone's figures.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"

Show = Callable[[int, float], None]
"""Called with the number of steps done and the loss of the last."""


@contextmanager
def shown_progress(first_step: int, steps: int) -> Iterator[Show]:
    """Show a run's steps from `first_step` on: loss, seconds a step and the time left."""
    if not sys.stderr.isatty():
        yield _plain_lines(first_step, steps)
        return
    with tqdm(desc="training", unit="step", bar_format=_BAR, initial=first_step, total=steps) as bar:

        def show(step: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(step - bar.n)

        yield show


def _plain_lines(first_step: int, steps: int) -> Show:
    """Log a line for the first step, the last, and at most one every ten seconds between them."""
    start = last_line = monotonic()

    def show(step: int, loss: float) -> None:
        nonlocal last_line
        now = monotonic()
        at_an_end = step in (first_step + 1, steps)
        if at_an_end or now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = now
            seconds = (now - start) / (step - first_step)
            left = duration(seconds * (steps - step))
            _log.info("training: step %d of %d, loss %.3f, %.2f s a step, %s left", step, steps, loss, seconds, left)

    return show

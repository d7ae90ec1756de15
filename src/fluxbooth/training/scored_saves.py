"""Scores while a run goes on: every n-th LoRA file is handed to a judge, who may say that it is time to end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Protocol

import torch
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError

from fluxbooth.errors import UserError
from fluxbooth.flux.device import release_memory
from fluxbooth.training.encode import EncodedVisits

_log = logging.getLogger("fluxbooth")
# What scoring may fail of without the training being at fault: disk, files, memory, a LoRA gone wild.
_FAILURES = (OSError, UserError, SafetensorError, torch.OutOfMemoryError)


class PatienceOutError(Exception):
    """The scores have not become better for as long as the recipe waits: the run ends after this step."""


class Judge(Protocol):
    """Scores a run's LoRA files; training knows no more of it."""

    @property
    def prompts(self) -> Collection[str]:
        """What it draws, to be encoded with the captions."""

    def score(
        self, step: int, transformer: FluxTransformer2DModel, encoded: EncodedVisits, stopped: Callable[[], bool]
    ) -> str:
        """Score the files until `step` that are new, with the transformer as the base model; return the outcome in a
        line, an empty one where somebody asked to stop."""

    def patience_is_out(self, patience: int) -> bool:
        """Whether the last `patience` scores were none better than the best before them."""


class ScoredSaves:
    """Has every n-th save scored; the training goes on as if nothing had been drawn."""

    def __init__(
        self,
        judge: Judge | None,
        every: int,
        patience: int | None,
        transformer: FluxTransformer2DModel,
        encoded: EncodedVisits,
        saves_before: int,
    ) -> None:
        """Score with the transformer that is trained.

        Args:
            every: n; 0 is never.
            patience: scored saves without a better one, after which the run ends; None is never.
            saves_before: saves of the run before it went on here.
        """
        self._judge = judge if every else None
        self._every = every
        self._patience = patience
        self._transformer = transformer
        self._encoded = encoded
        self._saves = saves_before

    def after_step(self, step: int, written: Sequence[str], is_last: bool, stopped: Callable[[], bool]) -> bool:
        """Score where it is due; return whether patience is out. What cannot be scored is a warning in the log.

        Args:
            written: LoRA files of this step.
            is_last: the run's last step, which is scored in any case.
            stopped: asked between prompts; what is then missing is scored by `fluxbooth score`.
        """
        if not written:
            return False
        self._saves += 1
        if self._judge is None or not (is_last or self._saves % self._every == 0) or stopped():
            return False
        start = monotonic()
        try:
            said = self._judge.score(step, self._transformer, self._encoded, stopped)
            if said:
                _log.info("step %d scored in %.0f s: %s", step, monotonic() - start, said)
            return bool(said and self._patience) and self._judge.patience_is_out(self._patience or 0)
        except _FAILURES as error:
            _log.warning("warning: step %d is not scored: %s", step, error)
            return False
        finally:
            release_memory()

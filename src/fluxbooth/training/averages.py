"""An average over the steps of what is trained: smoother than the last step, and what is published where asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of parameters, in float32 on their device."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        """Begin with the parameters as they are; `decay`, 0 to 1, is what a step keeps of the average."""
        self._parameters = list(parameters)
        self._decay = decay
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters after optimizer step `step`, from 1.

        Early steps keep less, (1 + step) / (10 + step), so that the average forgets the start (as in TensorFlow's
        ExponentialMovingAverage).
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self._parameters], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters be the average inside, and what they were behind it, to the bit."""
        trained = [parameter.detach().clone() for parameter in self._parameters]
        _assign(self._parameters, self.values)
        try:
            yield
        finally:
            _assign(self._parameters, trained)


@torch.no_grad()
def _assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)

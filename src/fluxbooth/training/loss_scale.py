"""A loss scaled up, so that float16 can hold its gradient; with the other number formats it is left as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LossScale:
    """How many times the loss is multiplied before the backward pass; it learns by itself how far it can go.

    (Mixed precision training, arXiv 1710.03740, section 3.2; halved where a gradient has no number, doubled after two
    thousand steps where all have.)
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """Scale a network that computes as `dtype` on `device`."""
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def backward(self, loss: Tensor) -> None:
        """Add the scaled loss's gradients to the parameters'."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the gradients back to what they are without a scale."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Let the optimizer take its step and adapt the scale; False where a gradient is no number and it took none."""
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    @property
    def can_be_lowered(self) -> bool:
        """Whether a gradient that is no number may be the scale's fault."""
        return self._scaler.is_enabled() and self._scaler.get_scale() > 1

    def state(self) -> dict[str, Any]:
        """What a run that goes on has to know; nothing where there is no scale."""
        return self._scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with what `state` gave."""
        if state:
            self._scaler.load_state_dict(state)

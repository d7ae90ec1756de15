"""What a pass is computed from: a micro-batch, and the noise that is drawn for it.

B samples, C = 16 latent channels, H W latent rows and columns (pixels / 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from safetensors import SafetensorError
from torch import Tensor

from fluxbooth.dataset.plan import MicroBatch, Plan
from fluxbooth.errors import UserError
from fluxbooth.flux.device import to_device
from fluxbooth.flux.flow import generator_for
from fluxbooth.flux.objective import Objective, draw_noise_and_sigma
from fluxbooth.training.encode import Batch, EncodedVisits
from fluxbooth.training.processes import Processes

Identity = tuple[int, int, int]
"""Seed, step and number of a micro-batch: all that is random in it follows from these, and from its visits."""
Input = tuple[Batch, Tensor, Tensor]
"""A micro-batch with its noise (B, C, H, W) and noise levels (B,), float32."""


class Inputs:
    """Reads micro-batches, the first one of the next step while a GPU is still busy with this one."""

    def __init__(
        self, plan: Plan, encoded: EncodedVisits, objective: Objective, seed: int, processes: Processes
    ) -> None:
        """Read what this process sees of the visits of `plan`."""
        self._plan = plan
        self._encoded = encoded
        self._objective = objective
        self._seed = seed
        self._processes = processes
        self._ahead: dict[Identity, Input] = {}

    def read(self, visits: MicroBatch, identity: Identity, places: Sequence[int]) -> Input:
        """Return what a pass is computed from, on the device.

        Args:
            visits, places: as `Processes.share` gives them.
        """
        return self._ahead.pop(identity, None) or self._read(visits, identity, places)

    def read_ahead(self, step: int) -> None:
        """Read the first micro-batch of a step, so that it is there when the step begins.

        Not where CLIP is trained, which this step still changes. What cannot be read is left for its own step to say.
        """
        visits, places = self._processes.share(self._plan.micro_batches(step)[0])
        if not visits or self._encoded.pooled_text is not None:
            return
        identity = self._seed, step, 0
        with suppress(OSError, SafetensorError, UserError):
            self._ahead = {identity: self._read(visits, identity, places)}

    def _read(self, visits: MicroBatch, identity: Identity, places: Sequence[int]) -> Input:
        batch = self._encoded.batch(visits)
        return batch, *draw_noise(batch.latents, visits, identity, self._objective, places)


def draw_noise(
    latents: Tensor,
    visits: MicroBatch,
    identity: Identity,
    objective: Objective,
    places: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw noise (B, C, H, W) and sigmas (B,), float32, each sample's from (seed, step, micro-batch, place, item).

    Args:
        places: of the visits in their micro-batch; None where they are all of it.
    """
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    drawn = [
        draw_noise_and_sigma(objective, shape, generator_for(*identity, place, visit.item.digest))
        for place, visit in zip(range(len(visits)) if places is None else places, visits, strict=True)
    ]
    noise, sigmas = (to_device(torch.stack(values), latents.device) for values in zip(*drawn, strict=True))
    return noise, sigmas

"""A transformer that draws and is not trained, on a device of whatever memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.device import free_memory, free_memory_of_the_machine, has_memory_of_its_own
from fluxbooth.flux.lora import apply_lora
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.sizes import fewest_streamed, streamed_bytes
from fluxbooth.flux.streaming import stream_blocks
from fluxbooth.host.memory import GIB
from fluxbooth.host.weights import BaseWeights

_BESIDE_WEIGHTS = 5 * GIB
"""About what passes take, the VAE while it decodes 1024 x 1024 pixels, and models that judge."""


def load_to_draw(
    weights: BaseWeights,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    loras: Sequence[tuple[Path, float]] = (),
) -> FluxTransformer2DModel:
    """Load the transformer; where the GPU does not hold it, as many blocks as have to be wait in the machine's memory.

    Args:
        loras: files and strengths, to be added to its weights.

    Raises:
        UserError: for a file that does not fit the model, and where neither memory holds it.
    """
    streamed = 0
    if has_memory_of_its_own(device):
        streamed = blocks_to_stream(architecture, dtype, free_memory(device, None), free_memory_of_the_machine(None))
    transformer = load_transformer(weights, architecture, dtype, device, streamed=streamed)
    for path, strength in loras:
        apply_lora(transformer, path, strength)
    stream_blocks(transformer, streamed)
    return transformer


def blocks_to_stream(
    architecture: Architecture, dtype: torch.dtype, free: int | None, free_of_the_machine: int | None
) -> int:
    """How many blocks have to wait in the machine's memory; 0 where it is not known what is free.

    Raises:
        UserError: where neither memory holds the transformer.
    """
    if free is None:
        return 0
    config = architecture.transformer
    streamed = fewest_streamed(config, dtype, max(free - _BESIDE_WEIGHTS, 0))
    waiting = 0 if streamed is None else streamed_bytes(config, "full", dtype, streamed)[0]
    if streamed is None or (free_of_the_machine is not None and waiting > free_of_the_machine):
        beside = f", and {waiting / GIB:.1f} GiB of the machine's would be needed beside them" if waiting else ""
        raise UserError(
            Problem(
                f"{free / GIB:.1f} GiB of the GPU's memory are too few to draw{beside}",
                where="this machine",
                do="End other programs, or draw on a machine with more memory",
            )
        )
    return streamed

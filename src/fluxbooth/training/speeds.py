"""How fast this machine computes and copies, measured before a run in less than a second each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fluxbooth.flux.device import has_memory_of_its_own, release_memory
from fluxbooth.flux.streaming import pin

_MEASURED_SECONDS = 0.3
_COPIED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Speeds:
    """What a machine does in a second."""

    operations: float
    """Additions and multiplications of large matrix products."""
    bytes_to_device: float | None
    """Copied from the machine's memory to the device's; None where that is the same."""


def measured_speeds(dtype: torch.dtype, device: torch.device) -> Speeds:
    """Measure products of `dtype`, and copies from pinned memory; nothing of the device's memory is kept."""
    speeds = _measured(dtype, device)
    if device.type == "cuda":
        release_memory()  # what is free is asked for next, and PyTorch would keep what was measured with
    return speeds


def _measured(dtype: torch.dtype, device: torch.device) -> Speeds:
    size = 4096 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, dtype=dtype, device=device)
    products = _a_second(lambda: matrix @ matrix, device)
    if not has_memory_of_its_own(device):
        return Speeds(2 * size**3 * products, None)
    memory = torch.empty(_COPIED_BYTES, dtype=torch.uint8)
    pin(memory, device)
    room = torch.empty_like(memory, device=device)
    copies = _a_second(lambda: room.copy_(memory, non_blocking=True), device)
    return Speeds(2 * size**3 * products, _COPIED_BYTES * copies)


def _a_second(act: Callable[[], object], device: torch.device) -> float:
    """How often a second something can be done, one after the other."""
    module = torch.get_device_module(device)
    act()  # the first time sets libraries up
    module.synchronize()
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < _MEASURED_SECONDS:
        act()
        module.synchronize()
        times += 1
    return times / (time.perf_counter() - start)

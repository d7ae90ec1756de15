"""What the time of a training step is spent on, by PyTorch's own profiler."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

KINDS = ("base matrices", "LoRA matrices", "attention", "elementwise", "optimizer", "input")
_PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"}
_FP8_PRODUCT = "aten::_scaled_mm"
_ATTENTION = ("_CpuAttention", "aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention")
INPUT = "input"
"""What the reading of a batch is recorded as."""


def shares(events: Collection[Any], ranks: Collection[int], width: int, on_gpu: bool) -> dict[str, float]:
    """Return the share, 0 to 1, that each of `KINDS` has of the time of a profiled step.

    Args:
        events: `torch.profiler.profile.events()`, recorded with shapes.
        ranks: numbers of columns that matrices of the LoRA have.
        width: F, features of a token.
        on_gpu: count the time of the GPU's kernels instead of the processor's.
    """
    spent = dict.fromkeys(KINDS, 0.0)
    for event in events:
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        spent[_kind(event, ranks, width)] += own
    total = sum(spent.values()) or 1.0
    return {kind: time / total for kind, time in spent.items()}


def _kind(event: Any, ranks: Collection[int], width: int) -> str:
    names = list(_names(event))
    if any(name.startswith("Optimizer.") for name in names):
        return "optimizer"
    if INPUT in names:
        return "input"
    if any(name.startswith(_ATTENTION) for name in names):
        return "attention"
    if event.name == _FP8_PRODUCT:
        return "base matrices"
    if event.name not in _PRODUCTS:
        return "elementwise"
    begin = 1 if "add" in event.name else 0  # behind what the product is added to
    sizes = [size for shape in (event.input_shapes or ())[begin : begin + 2] for size in shape]
    of_features = sum(size >= width and size % width == 0 for size in set(sizes))
    return "LoRA matrices" if of_features < 2 and any(size in ranks for size in sizes) else "base matrices"


def _names(event: Any) -> Iterator[str]:
    """The event's own name and those that it happened inside of."""
    while event is not None:
        yield event.name
        event = event.cpu_parent

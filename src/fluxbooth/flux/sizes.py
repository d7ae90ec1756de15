"""How much there is of a transformer, from its configuration alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel

from fluxbooth.flux.lora import ALL_BLOCKS
from fluxbooth.flux.stored import StorageForm, stored_bytes


def features_of_linears(config: Mapping[str, Any]) -> Mapping[str, tuple[int, int]]:
    """Inputs and outputs of each linear of a transformer, by name."""
    return _features_of_linears(json.dumps(config))


@cache
def _features_of_linears(config: str) -> dict[str, tuple[int, int]]:
    return {
        name: (module.in_features, module.out_features)
        for name, module in _without_weights(json.loads(config)).named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def frozen_bytes(config: Mapping[str, Any], form: StorageForm, dtype: torch.dtype) -> int:
    """Bytes of a transformer's weights with the matrices inside the blocks held in `form`."""
    inside, outside = _frozen_values(json.dumps(config))
    return stored_bytes(inside, form, dtype) + outside * dtype.itemsize


@cache
def _frozen_values(config: str) -> tuple[int, int]:
    """Count the numbers of the matrices inside the blocks, and all others."""
    inside = outside = 0
    for name, parameter in _without_weights(json.loads(config)).named_parameters():
        if name.endswith(".weight") and ALL_BLOCKS.have(name.removesuffix(".weight")):
            inside += parameter.numel()
        else:
            outside += parameter.numel()
    return inside, outside


def fewest_streamed(config: Mapping[str, Any], dtype: torch.dtype, free: int) -> int | None:
    """The fewest blocks that have to be streamed for a transformer to take no more than `free` bytes; None for never.

    Args:
        dtype: of its weights, which are held as they are.
    """
    whole = frozen_bytes(config, "full", dtype)
    for count in range(config["num_layers"] + config["num_single_layers"] + 1):
        waiting, rooms = streamed_bytes(config, "full", dtype, count)
        if whole - waiting + rooms <= free:
            return count
    return None


@cache
def _values_of_blocks(config: str) -> tuple[int, int]:
    """Count the numbers of the matrices inside a double block, and inside a single one."""
    features = _features_of_linears(config)
    double, single = (
        sum(prod(sizes) for name, sizes in features.items() if name.startswith(f"{kind}.0."))
        for kind in ("transformer_blocks", "single_transformer_blocks")
    )
    return double, single


def streamed_bytes(config: Mapping[str, Any], form: StorageForm, dtype: torch.dtype, streamed: int) -> tuple[int, int]:
    """Bytes of what waits in the machine's memory, and of the room for two such blocks on the device."""
    if not streamed:
        return 0, 0
    double, single = _values_of_blocks(json.dumps(config))
    of_single = min(streamed, config["num_single_layers"])
    of_double = streamed - of_single
    waiting = stored_bytes(of_double * double + of_single * single, form, dtype)
    return waiting, 2 * stored_bytes(double if of_double else single, form, dtype)


def _without_weights(config: dict[str, Any]) -> FluxTransformer2DModel:
    with init_empty_weights():
        return FluxTransformer2DModel(**config)

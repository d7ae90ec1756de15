"""The matrices of fp8 products are held turned round where the memory has room for it, and only there."""

from __future__ import annotations

import torch

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.lora import ALL_BLOCKS
from fluxbooth.flux.sizes import frozen_bytes
from fluxbooth.training.memory_plan import Workload, lora_values, plan_with
from fluxbooth.training.trained import bytes_held_turned


def test_they_are_held_turned_where_there_is_room_beside_the_plan(architecture: Architecture) -> None:
    values = lora_values(architecture, 4, ALL_BLOCKS, clip_trained=False)
    work = Workload(architecture, 100, 4, values, "AdamW", False, True, torch.bfloat16, torch.device("cpu"))
    plan = plan_with(work, "fp8", 0)
    whole = frozen_bytes(architecture.transformer, "fp8", torch.bfloat16)
    assert 0 < bytes_held_turned(work, plan, free=None) < whole
    assert bytes_held_turned(work, plan, free=plan.peak_bytes + whole) > 0
    assert bytes_held_turned(work, plan, free=plan.peak_bytes) == 0
    assert bytes_held_turned(work, plan_with(work, "fp8", 0, streamed=1), free=None) == 0

"""What a training takes of a device's memory, and the fastest way of it that fits.

F features of a token, N tokens of a micro-batch, text and image together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.attention import KEPT_PROBABILITIES
from fluxbooth.flux.lora import ALL_BLOCKS, Blocks
from fluxbooth.flux.stored import StorageForm, stored_bytes
from fluxbooth.host.memory import GIB

FORMS: Sequence[StorageForm] = ("full", "fp8", "nf4")
"""How frozen matrices may be held, each as fast as the next or faster; int8 takes what fp8 does and is less exact."""

# Tensors of N x F that a block keeps for the backward pass (flux/fused.py): what comes in; queries, keys and values;
# the values of text and image joined; what attention saw; what came out of each gated projection; the feed-forward.
_KEPT_BY_DOUBLE = 13
_KEPT_BY_SINGLE = 10
_KEPT_BY_RECOMPUTED = 1
# diffusers' own pass keeps norms, activations and turned queries and keys, too.
_MORE_BY_DIFFUSERS = 2.2
# DoRA keeps every linear's outputs before their rows are scaled, and in passing some of them in float32.
_OUTPUTS_OF_DOUBLE = 9
_OUTPUTS_OF_SINGLE = 8
_IN_PASSING_OF_DORA = 24
# What a backward pass holds at a time beyond them, where the feed-forward and attention of a single block meet.
_IN_PASSING = 15
# The CPU's heap keeps what a step has freed, in pieces (flux/device.freed_memory_kept): measured at FLUX.1-dev's width.
_IN_PASSING_ON_CPU = 45
# Ranks of all projections of a block that are kept, by token.
_RANKS_OF_DOUBLE = 6
_RANKS_OF_SINGLE = 5

# What an optimizer keeps a number of the LoRA, in float32 numbers: two moments; two moments of a byte each; next to
# nothing, since rows and columns have one mean each; a second moment and the other end of the average; one moment; two
# moments, a sum and a start.
STATE_COPIES = {"AdamW": 2, "AdamW8bit": 0.5, "Adafactor": 0.1, "AdamWScheduleFree": 2, "Lion": 1, "Prodigy": 4}
# The CUDA context and the libraries' own work space, once loaded.
_CONTEXT = int(0.7 * GIB)


@dataclass(frozen=True)
class MemoryPlan:
    """One way to train, and what it takes."""

    form: StorageForm
    """How the matrices inside the blocks are held."""
    recomputed: int
    """Blocks, the double ones first, of which only the inputs are kept for the backward pass."""
    blocks: int
    """All blocks."""
    peak_bytes: int
    """The most memory that is taken at a time."""

    def __str__(self) -> str:
        held = {
            "full": "weights as they are",
            "fp8": "weights in fp8",
            "int8": "weights in int8",
            "nf4": "weights in nf4",
        }
        kept = f"{self.recomputed} of {self.blocks} blocks recomputed" if self.recomputed else "nothing recomputed"
        return f"{held[self.form]}, {kept}, {self.peak_bytes / GIB:.1f} GiB"


@dataclass(frozen=True)
class Workload:
    """What is trained, as far as memory knows it."""

    architecture: Architecture
    tokens: int
    """N of the largest micro-batch."""
    rank: int
    lora_values: int
    """Numbers in the LoRA, CLIP's part included."""
    optimizer_type: str
    averaged: bool
    """Whether an average over the steps is kept."""
    has_training_pass: bool
    """Whether the transformer computes by `TrainingPass`, and not by diffusers' own pass."""
    dtype: torch.dtype
    device: torch.device
    decomposed: bool = False
    """Whether the LoRA has magnitudes (DoRA)."""

    @property
    def forms(self) -> Sequence[StorageForm]:
        """How frozen matrices may be held. DoRA's lengths are those of ComfyUI's own."""
        return ("full",) if self.decomposed else FORMS

    @property
    def blocks(self) -> int:
        """Double and single blocks."""
        config = self.architecture.transformer
        return int(config["num_layers"] + config["num_single_layers"])

    @property
    def lora_bytes(self) -> int:
        """The LoRA, its gradient, the optimizer's state and the average over the steps, float32."""
        return int(self.lora_values * 4 * (2 + STATE_COPIES[self.optimizer_type] + self.averaged))

    @property
    def state_bytes(self) -> int:
        """The saved state of a stopped run: all of that but the gradient."""
        return self.lora_bytes - 4 * self.lora_values


def lora_values(
    architecture: Architecture, rank: int, blocks: Blocks, clip_trained: bool, decomposed: bool = False
) -> int:
    """Count the numbers of a LoRA: rank * (inputs + outputs) of every linear that it sits on, with DoRA + outputs."""
    values = sum(
        blocks.rank_of(name, rank) * (inputs + outputs) + decomposed * outputs
        for name, (inputs, outputs) in _features_of_linears(json.dumps(architecture.transformer)).items()
        if blocks.have(name)
    )
    if clip_trained:
        clip = architecture.clip
        width, inner = clip["hidden_size"], clip["intermediate_size"]
        of_layer = rank * (4 * 2 * width + 2 * (width + inner)) + decomposed * (5 * width + inner)
        values += of_layer * clip["num_hidden_layers"]
    return int(values)


@cache
def _features_of_linears(config: str) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each linear of a transformer's configuration in JSON, by name."""
    return {
        name: (module.in_features, module.out_features)
        for name, module in _without_weights(json.loads(config)).named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def frozen_bytes(architecture: Architecture, form: StorageForm, dtype: torch.dtype) -> int:
    """Bytes of the transformer's weights with the matrices inside the blocks held in `form`."""
    inside, outside = _frozen_values(json.dumps(architecture.transformer))
    return stored_bytes(inside, form, dtype) + outside * dtype.itemsize


@cache
def _frozen_values(config: str) -> tuple[int, int]:
    """Count the numbers of the matrices inside the blocks, and all others, of a transformer's configuration in JSON."""
    inside = outside = 0
    for name, parameter in _without_weights(json.loads(config)).named_parameters():
        if name.endswith(".weight") and ALL_BLOCKS.have(name.removesuffix(".weight")):
            inside += parameter.numel()
        else:
            outside += parameter.numel()
    return inside, outside


def _without_weights(config: dict[str, Any]) -> FluxTransformer2DModel:
    with init_empty_weights():
        return FluxTransformer2DModel(**config)


def plan_with(work: Workload, form: StorageForm, recomputed: int) -> MemoryPlan:
    """Predict what training takes with weights held in `form` and so many blocks recomputed."""
    config, width, item = work.architecture.transformer, work.architecture.width, work.dtype.itemsize
    double, single = config["num_layers"], config["num_single_layers"]
    double_kept = max(double - recomputed, 0)
    single_kept = single - max(recomputed - double, 0)
    on_cpu = work.device.type == "cpu"
    unit = work.tokens * width * item
    kept = _KEPT_BY_DOUBLE * double_kept + _KEPT_BY_SINGLE * single_kept
    # Blocks are recomputed from the last to the first, each of them whole, when nothing is kept any more.
    kept = max(kept, _KEPT_BY_DOUBLE)
    kept = kept * (1 if work.has_training_pass else _MORE_BY_DIFFUSERS) + _KEPT_BY_RECOMPUTED * recomputed
    if on_cpu and work.has_training_pass and work.dtype is torch.bfloat16 and work.tokens <= KEPT_PROBABILITIES:
        kept += max(double_kept + single_kept, 1) * work.tokens / config["attention_head_dim"]
    in_passing = _IN_PASSING_ON_CPU if on_cpu else _IN_PASSING
    if work.decomposed:
        kept += _OUTPUTS_OF_DOUBLE * double_kept + _OUTPUTS_OF_SINGLE * single_kept
        in_passing += _IN_PASSING_OF_DORA
    ranks = (_RANKS_OF_DOUBLE * double_kept + _RANKS_OF_SINGLE * single_kept) * work.rank * work.tokens * item
    # The largest matrix, query, key, value and feed-forward of a single block: where it is held in fewer bits its parts
    # and the whole as they are multiplied; on the CPU a copy turned round, and one in the order of its products.
    dense = 2 * ((form != "full") + on_cpu) * 7 * width**2 * item
    context = 0 if on_cpu else _CONTEXT
    frozen = frozen_bytes(work.architecture, form, work.dtype)
    peak = frozen + work.lora_bytes + int((kept + in_passing) * unit) + ranks + dense + context
    return MemoryPlan(form, recomputed, work.blocks, peak)


def possible_plans(work: Workload, form: StorageForm | None, recomputing: bool | None) -> list[MemoryPlan]:
    """All plans that a recipe leaves open, the fastest first; fewer bits come last, since they change the numbers.

    Args:
        form: the one that is asked for; None for any.
        recomputing: all blocks or none; None for as many as the memory asks for.
    """
    numbers: Sequence[int] = range(work.blocks + 1) if work.has_training_pass else (0, work.blocks)
    if recomputing is not None:
        numbers = (work.blocks if recomputing else 0,)
    return [plan_with(work, own, number) for own in ((form,) if form else work.forms) for number in numbers]


def _in_fewer_bits(work: Workload, form: StorageForm) -> list[StorageForm]:
    return [
        other
        for other in work.forms
        if stored_bytes(1000, other, torch.bfloat16) < stored_bytes(1000, form, torch.bfloat16)
    ]


def savings(work: Workload, recomputed: int, form: StorageForm) -> list[str]:
    """Name the three settings that would save most memory, the largest saving first, and how much.

    Args:
        recomputed, form: of the plan that was too large.
    """
    taken = plan_with(work, form, recomputed).peak_bytes
    half_rank = replace(work, rank=work.rank // 2, lora_values=work.lora_values // 2)
    others = {
        "gradient_checkpointing = true, with which this run can go on,": plan_with(work, form, work.blocks),
        **{f'base_weights = "{name}"': plan_with(work, name, recomputed) for name in _in_fewer_bits(work, form)},
        f"network_dim = {work.rank // 2}": plan_with(half_rank, form, recomputed),
        "half the train_batch_size, or half the pixels,": plan_with(
            replace(work, tokens=work.tokens // 2), form, recomputed
        ),
    }
    saved = {name: taken - plan.peak_bytes for name, plan in others.items()}
    most = sorted(saved, key=lambda name: -saved[name])[:3]
    return [f"{name} saves {saved[name] / GIB:.1f} GiB" for name in most if saved[name] > 0]


@dataclass(frozen=True)
class Choice:
    """The plan a run takes, and its neighbours."""

    plan: MemoryPlan
    fits: bool
    """Whether it is foreseen to fit; where none does it is the smallest."""
    faster: MemoryPlan | None
    """The next faster one, which would not fit; None where the plan is the fastest."""
    smaller: MemoryPlan | None
    """The next smaller one; None where the plan is the smallest."""


def choose(plans: Sequence[MemoryPlan], free: int | None) -> Choice:
    """Choose the first plan that takes no more than `free` bytes; where that is not known the first.

    Args:
        plans: the fastest first, at least one.
    """
    place = next((number for number, plan in enumerate(plans) if free is None or plan.peak_bytes <= free), None)
    if place is None:
        smallest = min(range(len(plans)), key=lambda number: plans[number].peak_bytes)
        return Choice(plans[smallest], False, plans[smallest - 1] if smallest else None, None)
    chosen = plans[place]
    smaller = next((plan for plan in plans[place + 1 :] if plan.peak_bytes < chosen.peak_bytes), None)
    return Choice(chosen, True, plans[place - 1] if place else None, smaller)

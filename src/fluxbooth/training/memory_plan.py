"""What a training takes of a device's memory, by the way that it uses it.

F features of a token, N tokens of a micro-batch, text and image together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.attention import KEPT_PROBABILITIES
from fluxbooth.flux.lora import ALL_BLOCKS, Blocks
from fluxbooth.flux.stored import StorageForm, stored_bytes
from fluxbooth.host.memory import GIB
from fluxbooth.training.operations import operations_per_sample

FORMS: Sequence[StorageForm] = ("full", "fp8", "nf4")
"""How frozen matrices may be held, the most exact first; int8 takes what fp8 does and is less exact."""

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
    """The most of the device's memory that is taken at a time."""
    streamed: int = 0
    """Blocks whose matrices wait in the machine's memory and are brought as they are needed."""
    waiting_bytes: int = 0
    """What those take there."""

    def __str__(self) -> str:
        held = {
            "full": "weights as they are",
            "fp8": "weights in fp8",
            "int8": "weights in int8",
            "nf4": "weights in nf4",
        }
        kept = f"{self.recomputed} of {self.blocks} blocks recomputed" if self.recomputed else "nothing recomputed"
        streamed = f"{self.streamed} blocks streamed from {self.waiting_bytes / GIB:.1f} GiB of the machine's memory, "
        return f"{held[self.form]}, {kept}, {streamed if self.streamed else ''}{self.peak_bytes / GIB:.1f} GiB"


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
    samples: int = 1
    """Of the largest micro-batch."""
    unified: bool = False
    """Whether the device computes in the machine's memory."""

    @property
    def forms(self) -> Sequence[StorageForm]:
        """How frozen matrices may be held. DoRA's lengths are those of ComfyUI's own."""
        return ("full",) if self.decomposed else FORMS

    @property
    def blocks(self) -> int:
        """Double and single blocks."""
        config = self.architecture.transformer
        return int(config["num_layers"] + config["num_single_layers"])

    def operations(self, recomputed: int) -> float:
        """Additions and multiplications of the largest micro-batch with so many blocks recomputed."""
        image_tokens = self.tokens // self.samples - self.architecture.t5_tokens
        return self.samples * operations_per_sample(self.architecture, image_tokens, self.rank, recomputed).total

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


@cache
def _values_of_blocks(config: str) -> tuple[int, int]:
    """Count the numbers of the matrices inside a double block and inside a single one, likewise."""
    features = _features_of_linears(config)
    double, single = (
        sum(prod(sizes) for name, sizes in features.items() if name.startswith(f"{kind}.0."))
        for kind in ("transformer_blocks", "single_transformer_blocks")
    )
    return double, single


def _streamed_bytes(work: Workload, form: StorageForm, streamed: int) -> tuple[int, int]:
    """Bytes of what waits in the machine's memory, and of the room for two such blocks on the device."""
    if not streamed:
        return 0, 0
    double, single = _values_of_blocks(json.dumps(work.architecture.transformer))
    of_single = min(streamed, work.architecture.transformer["num_single_layers"])
    of_double = streamed - of_single
    waiting = stored_bytes(of_double * double + of_single * single, form, work.dtype)
    return waiting, 2 * stored_bytes(double if of_double else single, form, work.dtype)


def _without_weights(config: dict[str, Any]) -> FluxTransformer2DModel:
    with init_empty_weights():
        return FluxTransformer2DModel(**config)


def plan_with(work: Workload, form: StorageForm, recomputed: int, streamed: int = 0) -> MemoryPlan:
    """Predict what training takes with weights held in `form` and so many blocks recomputed, and streamed."""
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
    waiting, rooms = _streamed_bytes(work, form, streamed)
    on_device = frozen + rooms - (0 if on_cpu or work.unified else waiting)
    peak = on_device + work.lora_bytes + int((kept + in_passing) * unit) + ranks + dense + context
    return MemoryPlan(form, recomputed, work.blocks, peak, streamed, waiting)

"""What a training takes of a device's memory, by the way that it uses it.

F features of a token, N tokens of a micro-batch, text and image together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.attention import kept_heads
from fluxbooth.flux.lora import Blocks
from fluxbooth.flux.sizes import features_of_linears, frozen_bytes, streamed_bytes
from fluxbooth.flux.stored import StorageForm
from fluxbooth.host.memory import GIB
from fluxbooth.training.operations import operations_per_sample

FORMS: Sequence[StorageForm] = ("full", "fp8", "nf4")
"""How frozen matrices may be held, the most exact first; int8 takes what fp8 does and is less exact."""

# Tensors of N x F that a block keeps for the backward pass (flux/fused.py): what comes in; queries, keys and values;
# the values of text and image joined; what attention saw; what came out of each gated projection; the feed-forward.
_KEPT_BY_DOUBLE = 13
_KEPT_BY_SINGLE = 10
_KEPT_BY_RECOMPUTED = 1
# What the last single block does not keep of the text, which nothing reads behind it: queries; what attention saw; what
# came out of the gated projection; the feed-forward.
_NOT_KEPT_OF_UNREAD = 7
# What a block keeps beyond that where nothing is made again: what its norms give out; turned queries and keys; the
# feed-forward behind its activation. Of the text the last one keeps less again, but has two norms.
_MORE_BY_WHOLE_DOUBLE = 8
_MORE_BY_WHOLE_SINGLE = 7
_NOT_MADE_OF_UNREAD = 6
# diffusers' own pass keeps norms, activations and turned queries and keys, too.
_MORE_BY_DIFFUSERS = 2.2
# DoRA keeps every linear's outputs before their rows are scaled, and in passing some of them in float32.
_OUTPUTS_OF_DOUBLE = 9
_OUTPUTS_OF_SINGLE = 8
_IN_PASSING_OF_DORA = 24
# What a backward pass holds at a time beyond them, where the feed-forward and attention of a single block meet.
_IN_PASSING = 15
# The CPU's heap keeps what a step has freed, in pieces (flux/device.freed_memory_kept): measured at FLUX.1-dev's width,
# of the own pass and of diffusers', from 320 to 1024 pixels.
_IN_PASSING_ON_CPU = 29
_IN_PASSING_OF_DIFFUSERS_ON_CPU = 93
# Ranks of all projections of a block that are kept, by token.
_RANKS_OF_DOUBLE = 6
_RANKS_OF_SINGLE = 5

# What an optimizer keeps a number of the LoRA, in float32 numbers: two moments; two moments of a byte each; next to
# nothing, since rows and columns have one mean each; a second moment and the other end of the average; one moment; two
# moments, a sum and a start.
STATE_COPIES = {"AdamW": 2, "AdamW8bit": 0.5, "Adafactor": 0.1, "AdamWScheduleFree": 2, "Lion": 1, "Prodigy": 4}
VALUES_OF_PIXEL = 1050
"""Numbers that FLUX's VAE computes a pixel with, measured as it decodes 512 x 512 and 768 x 768 of them."""
# Its weights; and DINOv2 small with CLIP large, which judge.
_VAE = int(0.16 * GIB)
_SCORERS = int(1.8 * GIB)
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
    whole: int = 0
    """Blocks, the single ones first, that keep everything for the backward pass; those between these and the recomputed
    ones make again what is cheap."""

    def __str__(self) -> str:
        held = {
            "full": "weights as they are",
            "fp8": "weights in fp8",
            "int8": "weights in int8",
            "nf4": "weights in nf4",
        }
        kept = "nothing recomputed"
        if self.recomputed:
            kept = f"{self.recomputed} of {self.blocks} blocks recomputed"
        elif self.whole < self.blocks:
            of_blocks = f" of {self.blocks - self.whole} of {self.blocks} blocks" if self.whole else ""
            kept = f"norms and activations{of_blocks} recomputed"
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
    drawing_bytes: int = 0
    """What is taken between two steps by that which draws and judges pictures."""
    fp8_products: bool = False
    """Whether room that is left is for matrices of fp8 products that are held turned round, which saves more time than
    keeping what is cheap to make again."""

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
        of_sample = operations_per_sample(
            self.architecture, image_tokens, self.rank, recomputed, unread_left_out=self.has_training_pass
        )
        return self.samples * of_sample.total

    @property
    def unread_tokens(self) -> int:
        """Of N, those that nothing reads behind the last block: the text's."""
        return self.samples * self.architecture.t5_tokens if self.has_training_pass else 0

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
        for name, (inputs, outputs) in features_of_linears(architecture.transformer).items()
        if blocks.have(name)
    )
    if clip_trained:
        clip = architecture.clip
        width, inner = clip["hidden_size"], clip["intermediate_size"]
        of_layer = rank * (4 * 2 * width + 2 * (width + inner)) + decomposed * (5 * width + inner)
        values += of_layer * clip["num_hidden_layers"]
    return int(values)


def drawing_bytes(pixels: int, dtype: torch.dtype, *, judged: bool) -> int:
    """Predict what drawing a picture of so many pixels takes beside the transformer: the VAE, and the scorers."""
    if not pixels:
        return 0
    return pixels * VALUES_OF_PIXEL * dtype.itemsize + _VAE + judged * _SCORERS


def plan_with(work: Workload, form: StorageForm, recomputed: int, streamed: int = 0, whole: int = 0) -> MemoryPlan:
    """Predict what training takes with weights held in `form` and so many blocks recomputed, streamed, and kept whole.

    Args:
        whole: counts nothing in diffusers' own pass, of which nothing is made again but recomputed blocks.
    """
    config, width, item = work.architecture.transformer, work.architecture.width, work.dtype.itemsize
    double, single = config["num_layers"], config["num_single_layers"]
    double_kept = max(double - recomputed, 0)
    single_kept = single - max(recomputed - double, 0)
    on_cpu = work.device.type == "cpu"
    unit = work.tokens * width * item
    kept = _KEPT_BY_DOUBLE * double_kept + _KEPT_BY_SINGLE * single_kept
    if single_kept:
        kept -= _NOT_KEPT_OF_UNREAD * work.unread_tokens / work.tokens
    # Blocks are recomputed from the last to the first, each of them whole, when nothing is kept any more.
    kept = max(kept, _KEPT_BY_DOUBLE)
    kept = kept * (1 if work.has_training_pass else _MORE_BY_DIFFUSERS) + _KEPT_BY_RECOMPUTED * recomputed
    if work.has_training_pass:
        whole_single = min(whole, single)
        kept += _MORE_BY_WHOLE_SINGLE * whole_single + _MORE_BY_WHOLE_DOUBLE * (whole - whole_single)
        if whole_single:
            kept += 1 - _NOT_MADE_OF_UNREAD * work.unread_tokens / work.tokens
    if on_cpu and work.has_training_pass and work.dtype is torch.bfloat16:
        kept += _probabilities_kept(work, double_kept + single_kept) / (work.tokens * width)
    in_passing = _IN_PASSING
    if on_cpu:
        in_passing = _IN_PASSING_ON_CPU if work.has_training_pass else _IN_PASSING_OF_DIFFUSERS_ON_CPU
    if work.decomposed:
        kept += _OUTPUTS_OF_DOUBLE * double_kept + _OUTPUTS_OF_SINGLE * single_kept
        in_passing += _IN_PASSING_OF_DORA
    ranks = (_RANKS_OF_DOUBLE * double_kept + _RANKS_OF_SINGLE * single_kept) * work.rank * work.tokens * item
    # The largest matrix, query, key, value and feed-forward of a single block: where it is held in fewer bits its parts
    # and the whole as they are multiplied; on the CPU a copy in the order of its products.
    dense = (2 * (form != "full") + on_cpu) * 7 * width**2 * item
    context = 0 if on_cpu else _CONTEXT
    frozen = frozen_bytes(work.architecture.transformer, form, work.dtype)
    waiting, rooms = streamed_bytes(work.architecture.transformer, form, work.dtype, streamed)
    on_device = frozen + rooms - (0 if on_cpu or work.unified else waiting)
    in_a_pass = int((kept + in_passing) * unit) + ranks + dense
    peak = on_device + work.lora_bytes + max(in_a_pass, work.drawing_bytes) + context
    return MemoryPlan(form, recomputed, work.blocks, peak, streamed, waiting, whole)


def _probabilities_kept(work: Workload, blocks: int) -> int:
    """Count the numbers of attention's probabilities that the CPU keeps of so many blocks, of one at least."""
    tokens = work.tokens // work.samples
    heads = work.samples * int(work.architecture.transformer["num_attention_heads"])
    read = tokens - work.architecture.t5_tokens
    of_last, of_another = (kept_heads(heads, rows, tokens) * rows * tokens for rows in (read, tokens))
    return max(of_another, of_last + (blocks - 1) * of_another)

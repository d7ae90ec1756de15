"""Additions and multiplications of a training sample, counted from shapes."""

from __future__ import annotations

from dataclasses import dataclass

from fluxbooth.flux.architecture import Architecture


@dataclass(frozen=True)
class Operations:
    """Of one sample, forward and backward, by what they are spent on."""

    matrices: float
    """The base model's."""
    lora: float
    attention: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.matrices + self.lora + self.attention


def operations_per_sample(
    architecture: Architecture,
    tokens: int,
    rank: int,
    recomputed: int = 0,
    preserving: bool = False,
    unread_left_out: bool = False,
) -> Operations:
    """Count the operations of one training sample.

    Frozen matrices cost one product forward and one backward (no gradient for the weight), a LoRA's two forward and
    four backward, attention two products forward and five backward.

    Args:
        tokens: image tokens L; 4096 is 1024 x 1024 pixels.
        recomputed: blocks whose forward pass is done twice.
        preserving: the sample is seen again with its class noun alone, without the LoRA and with it.
        unread_left_out: count what `TrainingPass` does, which leaves out what nothing reads: of the text in the last
            block all but keys and values. diffusers' pass computes that, too, and so do the trainers to compare with.
    """
    config: dict[str, int] = architecture.transformer
    width, double, single = architecture.width, config["num_layers"], config["num_single_layers"]
    text, blocks = architecture.t5_tokens, config["num_layers"] + config["num_single_layers"]
    both = tokens + text
    # One forward pass of all blocks: the matrices of both kinds have 12 widths squared. A LoRA's q, k, v and out take
    # 2 r (in + out) each; a double block's feed-forward two of 5 widths, a single block's 5 + 6.
    of_blocks = Operations(
        matrices=2 * 12 * width**2 * both * blocks,
        lora=2 * rank * width * both * (18 * double + 17 * single),
        attention=4 * both**2 * width * blocks,
    )
    again = _sum((min(recomputed, blocks) / blocks, of_blocks))
    if unread_left_out:
        # A single block's matrices and LoRA but for keys and values, and the queries' part of attention.
        unread = Operations(2 * 10 * width**2 * text, 2 * rank * width * text * 13, 4 * text * both * width)
        of_blocks = _sum((1, of_blocks), (-1, unread))
        again = of_blocks if recomputed >= blocks else again
    embedders = 2 * width * (tokens * config["in_channels"] + text * config["joint_attention_dim"])
    out = 2 * width * tokens * config["in_channels"]
    forward = Operations(of_blocks.matrices + embedders + out, of_blocks.lora, of_blocks.attention)
    backward = Operations(of_blocks.matrices + out, 2 * of_blocks.lora, 2.5 * of_blocks.attention)
    once = _sum((1, forward), (1, backward), (1, again))
    return _sum((2, once), (1, Operations(forward.matrices, 0, forward.attention))) if preserving else once


def _sum(*parts: tuple[float, Operations]) -> Operations:
    """Add up so many times each."""
    return Operations(
        sum(times * part.matrices for times, part in parts),
        sum(times * part.lora for times, part in parts),
        sum(times * part.attention for times, part in parts),
    )

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
    architecture: Architecture, tokens: int, rank: int, recomputed: int = 0, preserving: bool = False
) -> Operations:
    """Count the operations of one training sample.

    Frozen matrices cost one product forward and one backward (no gradient for the weight), a LoRA's two forward and
    four backward, attention two products forward and five backward.

    Args:
        tokens: image tokens L; 4096 is 1024 x 1024 pixels.
        recomputed: blocks whose forward pass is done twice.
        preserving: the sample is seen again with its class noun alone, without the LoRA and with it.
    """
    config: dict[str, int] = architecture.transformer
    width, double, single = architecture.width, config["num_layers"], config["num_single_layers"]
    both, blocks = tokens + architecture.t5_tokens, config["num_layers"] + config["num_single_layers"]
    # One forward pass of a block: the matrices of both kinds have 12 widths squared.
    of_block = 2 * 12 * width**2 * both
    attention = 4 * both**2 * width
    # q, k, v and out: 2 r (in + out) each; a double block's feed-forward two of 5 widths, a single block's 5 + 6.
    lora = 2 * rank * width * both * (18 * double + 17 * single)
    embedders = 2 * width * (tokens * config["in_channels"] + architecture.t5_tokens * config["joint_attention_dim"])
    out = 2 * width * tokens * config["in_channels"]
    forward = Operations(of_block * blocks + embedders + out, lora, attention * blocks)
    backward = Operations(of_block * blocks + out, 2 * lora, 2.5 * attention * blocks)
    share = min(recomputed, blocks) / blocks
    again = Operations(of_block * blocks * share, lora * share, attention * blocks * share)
    once = _sum(forward, backward, again)
    return _sum(once, once, Operations(forward.matrices, 0, forward.attention)) if preserving else once


def _sum(*parts: Operations) -> Operations:
    return Operations(
        sum(part.matrices for part in parts), sum(part.lora for part in parts), sum(part.attention for part in parts)
    )

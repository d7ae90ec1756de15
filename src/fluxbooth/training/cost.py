"""What a run will cost, from shapes and a short measurement, before anything big is loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel

from fluxbooth.flux.architecture import PIXELS_PER_TOKEN, Architecture
from fluxbooth.flux.lora import ALL_BLOCKS, Blocks
from fluxbooth.host.memory import GIB

# What an optimizer keeps a number of the LoRA, in float32 numbers: two moments; two moments of a byte each; next to
# nothing, since rows and columns have one mean each; a second moment and the other end of the average; one moment; two
# moments, a sum and a start.
_STATE_COPIES = {"AdamW": 2, "AdamW8bit": 0.5, "Adafactor": 0.1, "AdamWScheduleFree": 2, "Lion": 1, "Prodigy": 4}


@dataclass(frozen=True)
class Cost:
    """An estimate, before the start."""

    samples: int
    operations: float
    """Additions and multiplications of the whole run."""
    operations_per_second: float
    """This device's speed in large matrix products, measured just now."""
    needed_bytes: int
    """Weights, LoRA, its gradients and the optimizer's state; activations come on top."""
    lora_values: int
    """Numbers in the LoRA."""
    state_bytes: int
    """The saved state of a stopped run: the LoRA and what the optimizer keeps, in float32."""

    @property
    def seconds(self) -> float:
        """The time the arithmetic alone takes: real runs take longer."""
        return self.operations / self.operations_per_second

    def __str__(self) -> str:
        return (
            f"{self.samples:,} samples, {self.operations / 1e12:,.0f} TFLOP; "
            f"at the {self.operations_per_second / 1e12:.2f} TFLOP/s measured here at least {duration(self.seconds)}; "
            f"memory: {_size(self.needed_bytes)} and activations"
        )


def operations_per_sample(
    architecture: Architecture, tokens: int, rank: int, checkpointing: bool, preserving: bool = False
) -> float:
    """Count additions and multiplications of one training sample: forward, backward and recomputation.

    Frozen matrices cost one product forward and one backward (no gradient for the weight), a LoRA's two forward and
    four backward, attention two products forward and five backward.

    Args:
        tokens: image tokens L; 4096 is 1024 x 1024 pixels.
        preserving: the sample is seen again with its class noun alone, without the LoRA and with it.
    """
    config: dict[str, int] = architecture.transformer
    width, double, single = architecture.width, config["num_layers"], config["num_single_layers"]
    text = architecture.t5_tokens
    both = tokens + text
    embedders = tokens * config["in_channels"] * width + text * config["joint_attention_dim"] * width
    matrices = 2 * (embedders + 12 * width**2 * both * (double + single))
    attention = 4 * both**2 * width * (double + single)
    # q, k, v and out: 2 r (in + out) each; a double block's feed-forward two of 5 widths, a single block's 5 + 6.
    lora = 2 * rank * width * both * (18 * double + 17 * single)
    forward = matrices + attention + lora
    backward = matrices + 2.5 * attention + 2 * lora
    once = forward + backward + (forward if checkpointing else 0)
    return 2 * once + matrices + attention if preserving else once


def measured_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Measure this device's additions and multiplications per second in large matrix products; takes under a second."""
    size = 4096 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, dtype=dtype, device=device)
    matrix @ matrix  # the first product sets the library up
    _synchronize(device)
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < 0.3:
        matrix @ matrix
        _synchronize(device)
        products += 1
    return 2 * size**3 * products / (time.perf_counter() - start)


def estimate(
    architecture: Architecture,
    *,
    buckets: list[tuple[int, int]],
    samples: int,
    rank: int,
    checkpointing: bool,
    preserving: bool,
    clip_trained: bool,
    optimizer_type: str,
    averaged: bool = False,
    blocks: Blocks = ALL_BLOCKS,
    dtype: torch.dtype,
    device: torch.device,
) -> Cost:
    """Estimate a run of `samples` samples spread evenly over `buckets` (width, height in pixels, one an item)."""
    per_sample = [
        operations_per_sample(architecture, width * height // PIXELS_PER_TOKEN**2, rank, checkpointing, preserving)
        for width, height in buckets
    ]
    with init_empty_weights():
        transformer = FluxTransformer2DModel(**architecture.transformer)
    values = [
        (module.in_features + module.out_features) * blocks.rank_of(name, rank)
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and blocks.have(name)
    ]
    if clip_trained:
        values += [rank * size for size in _clip_linears(architecture)]
    frozen = sum(parameter.numel() for parameter in transformer.parameters()) * dtype.itemsize
    copies = 2 + _STATE_COPIES[optimizer_type] + averaged  # the LoRA and its gradient come first
    return Cost(
        samples=samples,
        operations=sum(per_sample) / len(per_sample) * samples,
        operations_per_second=measured_speed(dtype, device),
        needed_bytes=frozen + int(sum(values) * 4 * copies),
        lora_values=sum(values),
        state_bytes=int(sum(values) * 4 * (copies - 1)),
    )


def _clip_linears(architecture: Architecture) -> list[int]:
    """In- and output sizes, summed, of every matrix that a LoRA on CLIP's text model sits on."""
    clip = architecture.clip
    width, inner = clip["hidden_size"], clip["intermediate_size"]
    return [*[2 * width] * 4, *[width + inner] * 2] * clip["num_hidden_layers"]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _size(number: int) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / GIB * 1024:.0f} MiB"


def duration(seconds: float) -> str:
    """Spell a time in the unit that suits it: "2.5 hours"."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"

"""What a run will cost, from shapes and a short measurement, before anything big is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fluxbooth.flux.architecture import PIXELS_PER_TOKEN
from fluxbooth.training.memory_plan import Choice, MemoryPlan, Workload
from fluxbooth.training.operations import operations_per_sample


@dataclass(frozen=True)
class Cost:
    """An estimate, before the start."""

    samples: int
    operations: float
    """Additions and multiplications of the whole run by the chosen plan."""
    operations_of_block: float
    """Those that one more recomputed block adds."""
    operations_per_second: float
    """This device's speed in large matrix products, measured just now."""
    memory: Choice
    lora_values: int
    """Numbers in the LoRA."""
    state_bytes: int
    """The saved state of a stopped run: the LoRA and what the optimizer keeps, in float32."""

    @property
    def seconds(self) -> float:
        """The time the arithmetic alone takes: real runs take longer."""
        return self.operations / self.operations_per_second

    def lines(self) -> Iterator[str]:
        """Say the time and the memory of the plan, and of the next faster and the next smaller one."""
        yield (
            f"{self.samples:,} samples, {self.operations / 1e12:,.0f} TFLOP; "
            f"at the {self.operations_per_second / 1e12:.2f} TFLOP/s measured here at least {duration(self.seconds)}"
        )
        yield f"memory: {self.memory.plan}"
        for name, plan in (("the next faster way", self.memory.faster), ("the next smaller way", self.memory.smaller)):
            if plan:
                yield f"  {name}: {plan}, at least {duration(self._seconds_of(plan))}"

    def _seconds_of(self, plan: MemoryPlan) -> float:
        more = (plan.recomputed - self.memory.plan.recomputed) * self.operations_of_block
        return (self.operations + more) / self.operations_per_second


def estimate(
    work: Workload, memory: Choice, *, buckets: Sequence[tuple[int, int]], samples: int, preserving: bool
) -> Cost:
    """Estimate a run of `samples` samples spread evenly over `buckets` (width, height in pixels, one an item).

    Args:
        preserving: each sample is seen again with its class noun alone.
    """

    def operations(recomputed: int) -> float:
        each = [
            operations_per_sample(
                work.architecture, width * height // PIXELS_PER_TOKEN**2, work.rank, recomputed, preserving
            )
            for width, height in buckets
        ]
        return samples * sum(counted.total for counted in each) / len(each)

    chosen = memory.plan.recomputed
    return Cost(
        samples=samples,
        operations=operations(chosen),
        operations_of_block=operations(1) - operations(0),
        operations_per_second=measured_speed(work.dtype, work.device),
        memory=memory,
        lora_values=work.lora_values,
        state_bytes=work.state_bytes,
    )


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


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def duration(seconds: float) -> str:
    """Spell a time in the unit that suits it: "2.5 hours"."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"

"""What a run will cost, from shapes and a short measurement, before anything big is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fluxbooth.flux.architecture import PIXELS_PER_TOKEN
from fluxbooth.training.memory_choice import Choice, seconds_to_bring
from fluxbooth.training.memory_plan import MemoryPlan, Workload
from fluxbooth.training.operations import operations_per_sample
from fluxbooth.training.speeds import Speeds


@dataclass(frozen=True)
class Cost:
    """An estimate, before the start."""

    samples: int
    operations: float
    """Additions and multiplications of the whole run by the chosen plan."""
    operations_of_block: float
    """Those that one more recomputed block adds."""
    speeds: Speeds
    """Measured just now."""
    passes: int
    """Through the blocks, forward and backward, of the whole run."""
    memory: Choice
    lora_values: int
    """Numbers in the LoRA."""
    state_bytes: int
    """The saved state of a stopped run: the LoRA and what the optimizer keeps, in float32."""

    @property
    def seconds(self) -> float:
        """The time that arithmetic takes, or bringing streamed blocks beside it: real runs take longer."""
        return self._seconds_of(self.memory.plan)

    def lines(self) -> Iterator[str]:
        """Say the time and the memory of the plan, and of the next faster and the next smaller one."""
        yield (
            f"{self.samples:,} samples, {self.operations / 1e12:,.0f} TFLOP; "
            f"at the {self.speeds.operations / 1e12:.2f} TFLOP/s measured here at least {duration(self.seconds)}"
        )
        yield f"memory: {self.memory.plan}"
        for name, plan in (("the next faster way", self.memory.faster), ("the next smaller way", self.memory.smaller)):
            if plan:
                yield f"  {name}: {plan}, at least {duration(self._seconds_of(plan))}"

    def _seconds_of(self, plan: MemoryPlan) -> float:
        more = (plan.recomputed - self.memory.plan.recomputed) * self.operations_of_block
        return max((self.operations + more) / self.speeds.operations, seconds_to_bring(plan, self.speeds, self.passes))


def estimate(
    work: Workload,
    memory: Choice,
    speeds: Speeds,
    *,
    buckets: Sequence[tuple[int, int]],
    samples: int,
    preserving: bool,
) -> Cost:
    """Estimate a run of `samples` samples spread evenly over `buckets` (width, height in pixels, one an item).

    Args:
        speeds: as `measured_speeds` gives them.
        preserving: each sample is seen again with its class noun alone.
    """

    def operations(recomputed: int) -> float:
        each = [
            operations_per_sample(
                work.architecture,
                width * height // PIXELS_PER_TOKEN**2,
                work.rank,
                recomputed,
                preserving,
                unread_left_out=work.has_training_pass,
            )
            for width, height in buckets
        ]
        return samples * sum(counted.total for counted in each) / len(each)

    chosen = memory.plan.recomputed
    return Cost(
        samples=samples,
        operations=operations(chosen),
        operations_of_block=operations(1) - operations(0),
        speeds=speeds,
        # With what is preserved: without the LoRA forward alone, and with it both ways.
        passes=math.ceil(samples / work.samples) * (5 if preserving else 2),
        memory=memory,
        lora_values=work.lora_values,
        state_bytes=work.state_bytes,
    )


def duration(seconds: float) -> str:
    """Spell a time in the unit that suits it: "2.5 hours"."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"

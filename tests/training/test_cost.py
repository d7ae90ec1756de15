"""What a run costs, from shapes alone, agrees with operations counted in kohya's and diffusers' own runs."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from fluxbooth.config.recipe import Recipe
from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.lora import ALL_BLOCKS, Blocks, OwnRank
from fluxbooth.training.cost import Cost, estimate
from fluxbooth.training.memory_choice import Choice, choose, possible_plans
from fluxbooth.training.memory_plan import MemoryPlan, Workload, lora_values
from fluxbooth.training.operations import operations_per_sample
from fluxbooth.training.speeds import Speeds, measured_speeds

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text_tokens", "image_tokens", "rank", "checkpointing", "counted"),
    [
        (512, 4096, 16, False, 172.193),
        (512, 4096, 16, True, 246.940),
        (256, 4096, 16, False, 159.890),
        (512, 1024, 16, False, 45.843),
        (256, 4096, 256, True, 251.167),
    ],
)
def test_operations_of_a_sample_are_those_that_were_counted(
    text_tokens: int, image_tokens: int, rank: int, checkpointing: bool, counted: float
) -> None:
    """TFLOP of FLUX.1-dev with q, k and v as one matrix; ours are three: up to 2 % more at rank 256."""
    architecture = replace(bundled_architecture("flux-dev"), t5_tokens=text_tokens)
    ours = operations_per_sample(architecture, image_tokens, rank, 57 if checkpointing else 0).total / 1e12
    assert counted <= ours <= counted * 1.02


def test_operations_by_what_they_are_spent_on_are_those_that_were_counted() -> None:
    """One double and two single blocks of FLUX's width, 512 x 512 pixels, rank 16: kohya's own pass, counted."""
    architecture = bundled_architecture("flux-dev")
    thin = {**architecture.transformer, "num_layers": 1, "num_single_layers": 2}
    counted = operations_per_sample(replace(architecture, transformer=thin, t5_tokens=512), 1024, 16)
    forward, backward = 1_043_677_052_928 + 86_973_087_744, 1_043_677_052_928 + 2.5 * 86_973_087_744
    assert counted.attention == 3.5 * 86_973_087_744
    assert counted.matrices == pytest.approx(forward + backward - counted.attention, rel=0.01)
    assert counted.total == pytest.approx(2_426_232_569_856, rel=0.002)


def test_keeping_the_class_noun_takes_a_second_sample_and_a_pass_without_the_lora() -> None:
    architecture = bundled_architecture("flux-dev")
    once = operations_per_sample(architecture, 1024, 16).total
    # The frozen matrices go once forward and once backward, attention once and two and a half times.
    assert 2.25 < operations_per_sample(architecture, 1024, 16, preserving=True).total / once < 2.5


def cost_of_flux_dev(
    clip_trained: bool = False, optimizer_type: str = "AdamW", blocks: Blocks = ALL_BLOCKS, averaged: bool = False
) -> Cost:
    """Ten samples of FLUX.1-dev at rank 16, all blocks recomputed."""
    architecture = bundled_architecture("flux-dev")
    values = lora_values(architecture, 16, blocks, clip_trained)
    work = Workload(architecture, 4352, 16, values, optimizer_type, averaged, True, torch.bfloat16, CPU)
    memory = choose(possible_plans(work, "full", recomputing=True), None)
    return estimate(work, memory, Speeds(1e12, None), buckets=[(1024, 1024)], samples=10, preserving=False)


def test_a_cost_knows_its_samples_and_its_lora() -> None:
    """76.6 million LoRA parameters at rank 16 with q, k and v as one matrix; ours are three."""
    cost = cost_of_flux_dev()
    assert cost.samples == 10
    assert 76.6e6 <= cost.lora_values <= 1.25 * 76.6e6


def test_a_lora_on_clip_adds_its_own_values() -> None:
    """165,888 a rank, as kohya's 72 modules on CLIP-L have."""
    without, with_clip = cost_of_flux_dev(), cost_of_flux_dev(clip_trained=True)
    assert with_clip.lora_values - without.lora_values == 165_888 * 16
    more = with_clip.memory.plan.peak_bytes - without.memory.plan.peak_bytes
    assert more == pytest.approx(165_888 * 16 * 4 * 4, abs=4)


def test_doras_magnitudes_are_a_number_an_output() -> None:
    """A single block of FLUX.1-dev has 11 times its width of outputs, CLIP-L's layers 9 times theirs, 768."""
    architecture, blocks = bundled_architecture("flux-dev"), Blocks(double=(), single=(0,))
    plain, dora = (lora_values(architecture, 16, blocks, True, decomposed) for decomposed in (False, True))
    assert dora - plain == 11 * 3072 + 12 * 9 * 768


def test_an_average_over_the_steps_is_one_more_copy() -> None:
    without, averaged = cost_of_flux_dev(), cost_of_flux_dev(averaged=True)
    assert averaged.memory.plan.peak_bytes - without.memory.plan.peak_bytes == 4 * without.lora_values
    assert averaged.state_bytes - without.state_bytes == 4 * without.lora_values


def test_every_optimizer_of_the_recipe_has_its_memory() -> None:
    """Beside the LoRA and its gradient: Lion keeps one number, AdamW two, AdamW8bit two of a byte, Prodigy four."""
    needed = {kind: cost_of_flux_dev(optimizer_type=kind) for kind in get_args(_optimizers())}
    values = needed["AdamW"].lora_values
    rest = needed["AdamW"].memory.plan.peak_bytes - 16 * values
    copies = {kind: round((cost.memory.plan.peak_bytes - rest) / 4 / values, 3) for kind, cost in needed.items()}
    assert copies["Lion"] == 3
    assert (copies["AdamW8bit"], copies["AdamWScheduleFree"], copies["Prodigy"]) == (2.5, 4, 6)
    assert 2 < copies["Adafactor"] < 2.5


def _optimizers() -> object:
    return Recipe.model_fields["optimizer_type"].annotation


def test_blocks_that_are_not_trained_cost_nothing() -> None:
    """A double block of FLUX.1-dev has 14 matrices, the 38 single blocks six each."""
    single_alone = cost_of_flux_dev(blocks=Blocks(double=()))
    one_double = cost_of_flux_dev(blocks=Blocks(double=(3,)))
    width = 3072
    assert single_alone.lora_values == 38 * (3 * 2 + 4 + 5 + 6) * width * 16
    assert one_double.lora_values - single_alone.lora_values == (8 * 2 + 2 * 7 + 4 * 5) * width * 16


def test_layers_of_another_rank_cost_that() -> None:
    own = cost_of_flux_dev(blocks=Blocks(double=(), own_ranks=(OwnRank("modulation", 0, 1.0),)))
    assert own.lora_values == 38 * (3 * 2 + 5 + 6) * 3072 * 16


def test_the_time_follows_from_operations_and_speed() -> None:
    plan = MemoryPlan("full", recomputed=10, blocks=57, peak_bytes=2**30)
    faster = MemoryPlan("full", recomputed=0, blocks=57, peak_bytes=2**31, whole=57)
    cost = Cost(
        samples=2000,
        operations=7.2e15,
        operations_of_block=0.18e15,
        speeds=Speeds(1e12, bytes_to_device=20e9),
        passes=4000,
        memory=Choice(plan, fits=True, faster=faster, smaller=None),
        lora_values=1,
        state_bytes=1,
    )
    assert cost.seconds == 7200
    time, memory, neighbour = cost.lines()
    assert "at least 2.0 hours" in time
    assert "10 of 57 blocks recomputed, 1.0 GiB" in memory
    assert neighbour.endswith("nothing recomputed, 2.0 GiB, at least 90.0 minutes")


def test_where_blocks_are_streamed_the_time_is_at_least_that_of_bringing_them() -> None:
    """4,000 passes of 20 GB at 20 GB a second are longer than an hour of arithmetic."""
    plan = MemoryPlan("full", recomputed=0, blocks=57, peak_bytes=2**30, streamed=57, waiting_bytes=20 * 10**9)
    memory = Choice(plan, fits=True, faster=None, smaller=None)
    cost = Cost(2000, 3.6e15, 0.0, Speeds(1e12, 20e9), 4000, memory, lora_values=1, state_bytes=1)
    assert cost.seconds == 4000
    assert "57 blocks streamed from 18.6 GiB of the machine's memory" in list(cost.lines())[1]


def test_this_machines_speed_is_measured() -> None:
    speeds = measured_speeds(torch.float32, CPU)
    assert 1e8 < speeds.operations < 1e15
    assert speeds.bytes_to_device is None

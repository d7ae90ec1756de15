"""The plan that is chosen is the fastest that fits, and what a user has asked for stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import work_of_flux_dev
from hypothesis import given
from hypothesis import strategies as st

from fluxbooth.host.memory import GIB
from fluxbooth.training.memory_choice import choose, possible_plans, savings
from fluxbooth.training.memory_plan import plan_with
from fluxbooth.training.speeds import Speeds

SPARK = Speeds(100e12, bytes_to_device=None)


def test_dora_takes_more_and_weights_as_they_are() -> None:
    """Where a plain LoRA is trained on weights in fewer bits, a DoRA is trained with more recomputed, or not at all."""
    plain, dora = (replace(work_of_flux_dev(has_training_pass=False), decomposed=own) for own in (False, True))
    plans = possible_plans(dora, None, None)
    assert {plan.form for plan in plans} == {"full"}
    for recomputed, more in ((0, 2.0), (57, 0.1)):
        of_plain, of_dora = (plan_with(work, "full", recomputed).peak_bytes for work in (plain, dora))
        assert of_dora - of_plain > more * GIB
    assert not choose(plans, 22 * GIB).fits
    assert not any("base_weights" in line for line in savings(dora, plan_with(dora, "full", 0)))


@pytest.mark.parametrize(
    ("gib", "speeds", "form", "whole", "recomputed", "streamed"),
    [
        (116, SPARK, "full", "all", "none", "none"),
        (78, Speeds(650e12, 40e9), "full", "all", "none", "none"),
        (46, Speeds(120e12, 22e9), "full", "some", "none", "none"),
        (31, Speeds(200e12, 45e9), "full", "none", "none", "some"),
        (22.5, Speeds(155e12, 22e9), "full", "none", "some", "some"),
        (14.6, Speeds(95e12, 22e9), "full", "none", "some", "some"),
        (11, Speeds(25e12, 11e9), "full", "none", "some", "all"),
    ],
    ids=["DGX Spark", "80 GB", "48 GB", "32 GB", "24 GB", "16 GB", "12 GB"],
)
def test_each_machine_gets_the_fastest_plan_that_it_holds(
    gib: float, speeds: Speeds, form: str, whole: str, recomputed: str, streamed: str
) -> None:
    """At 1024 x 1024 pixels what is brought has the time of the arithmetic: no machine needs fewer bits."""
    plans = possible_plans(work_of_flux_dev(), None, None, None, speeds)
    choice = choose(plans, int(gib * GIB), 60 * GIB)
    assert choice.fits
    words = {0: "none", 57: "all"}
    plan = choice.plan
    counts = [words.get(count, "some") for count in (plan.whole, plan.recomputed, plan.streamed)]
    assert [plan.form, *counts] == [form, whole, recomputed, streamed]
    assert plan.peak_bytes <= gib * GIB
    assert choice.faster is None or choice.faster.peak_bytes > gib * GIB
    assert choice.smaller is None or choice.smaller.peak_bytes < plan.peak_bytes


def test_where_bringing_would_take_longer_than_the_arithmetic_fewer_bits_are_held() -> None:
    """A fast GPU that sees small pictures is done with a block before the next is there."""
    fast, slow = Speeds(155e12, 22e9), Speeds(15e12, 22e9)
    forms = [
        choose(possible_plans(work_of_flux_dev(side=512), None, None, None, speeds), int(22.5 * GIB)).plan.form
        for speeds in (fast, slow)
    ]
    assert forms == ["fp8", "full"]


def test_the_machines_memory_bounds_what_waits_in_it() -> None:
    plans = possible_plans(work_of_flux_dev(), None, None, None, Speeds(155e12, 22e9))
    plenty, little = (choose(plans, 12 * GIB, beside * GIB).plan for beside in (60, 8))
    assert plenty.waiting_bytes > 8 * GIB > little.waiting_bytes > 0
    assert (plenty.form, little.form) == ("full", "fp8")


def test_one_memory_streams_nothing_of_itself() -> None:
    assert not any(plan.streamed for plan in possible_plans(work_of_flux_dev(), None, None, None, SPARK))


def test_what_is_streamed_is_on_the_device_but_for_two_blocks() -> None:
    """A single block of FLUX.1-dev has 15 widths squared in matrices, a double one 36; two bytes each."""
    work = work_of_flux_dev()
    none, half, most = (plan_with(work, "full", 0, streamed) for streamed in (0, 38, 57))
    single, double = (2 * widths * 3072**2 for widths in (15, 36))
    assert half.waiting_bytes == 38 * single
    assert none.peak_bytes - half.peak_bytes == 36 * single
    assert most.waiting_bytes == 38 * single + 19 * double
    assert none.peak_bytes - most.peak_bytes == 38 * single + 17 * double


def test_sixteen_and_twelve_gigabytes_train_at_rank_16_with_four_bits_where_nothing_is_streamed() -> None:
    for gib in (14.6, 11.0):
        choice = choose(possible_plans(work_of_flux_dev(), None, None, streamed=0), int(gib * GIB))
        assert (choice.fits, choice.plan.form) == (True, "nf4")


def test_without_a_gpu_norms_and_activations_are_recomputed() -> None:
    """They would take memory and save next to no time."""
    work = replace(work_of_flux_dev(), device=torch.device("cpu"))
    assert {plan.whole for plan in possible_plans(work, "full", None)} == {0}


def test_room_that_is_left_is_for_matrices_of_fp8_products_turned_round_before_norms_and_activations() -> None:
    work = replace(work_of_flux_dev(), fp8_products=True)
    assert {plan.whole for plan in possible_plans(work, "fp8", None, None, SPARK)} == {0}


def test_where_nothing_fits_the_smallest_is_named() -> None:
    plans = possible_plans(work_of_flux_dev(), None, None)
    choice = choose(plans, 4 * GIB)
    assert not choice.fits
    assert choice.plan.peak_bytes == min(plan.peak_bytes for plan in plans)
    assert choice.smaller is None


def test_what_the_user_has_chosen_is_kept() -> None:
    work = work_of_flux_dev()
    assert {plan.form for plan in possible_plans(work, "int8", None)} == {"int8"}
    assert {plan.recomputed for plan in possible_plans(work, None, recomputing=True)} == {57}
    assert {plan.recomputed for plan in possible_plans(work, None, recomputing=False)} == {0}


def test_where_memory_runs_out_the_settings_that_save_most_are_named() -> None:
    work, with_rank = work_of_flux_dev(), work_of_flux_dev(rank=256)
    said = savings(work, plan_with(work, "full", recomputed=0))
    assert [line.split(" =")[0] for line in said] == ["blocks_to_swap", "base_weights", "gradient_checkpointing"]
    assert said[1] == 'base_weights = "nf4" saves 15.9 GiB'
    smallest = savings(with_rank, plan_with(with_rank, "nf4", recomputed=57, streamed=57))
    assert [line.split(" saves")[0] for line in smallest] == [
        "network_dim = 128",
        "half the train_batch_size, or half the pixels,",
    ]


@given(
    free=st.integers(4, 140),
    side=st.sampled_from([512, 768, 1024, 1536]),
    rank=st.sampled_from([1, 16, 256]),
    optimizer_type=st.sampled_from(["AdamW", "Prodigy", "Lion"]),
)
def test_more_memory_never_makes_a_slower_plan(free: int, side: int, rank: int, optimizer_type: str) -> None:
    speeds = Speeds(155e12, 22e9)
    plans = possible_plans(work_of_flux_dev(side, rank, optimizer_type), None, None, None, speeds)
    order = {plan: place for place, plan in enumerate(plans)}

    def place(gib: int) -> int:
        choice = choose(plans, gib * GIB)
        return order[choice.plan] if choice.fits else len(plans)

    assert place(free + 1) <= place(free)

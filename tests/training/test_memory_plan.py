"""The memory plan is the fastest that fits, and what it foresees grows with what is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxbooth.flux.architecture import PIXELS_PER_TOKEN, bundled_architecture
from fluxbooth.flux.lora import ALL_BLOCKS
from fluxbooth.flux.stored import StorageForm
from fluxbooth.host.memory import GIB
from fluxbooth.training.memory_plan import (
    FORMS,
    Workload,
    choose,
    frozen_bytes,
    lora_values,
    plan_with,
    possible_plans,
    savings,
)

ARCHITECTURE = bundled_architecture("flux-dev")


def work_of_flux_dev(
    side: int = 1024, rank: int = 16, optimizer_type: str = "AdamW", has_training_pass: bool = True
) -> Workload:
    """FLUX.1-dev in bfloat16 on a GPU, one picture at a time, on ComfyUI's 256 text tokens."""
    tokens = (side // PIXELS_PER_TOKEN) ** 2 + ARCHITECTURE.t5_tokens
    values = lora_values(ARCHITECTURE, rank, ALL_BLOCKS, clip_trained=False)
    return Workload(
        ARCHITECTURE,
        tokens,
        rank,
        values,
        optimizer_type,
        False,
        has_training_pass,
        torch.bfloat16,
        torch.device("cuda"),
    )


def test_dora_takes_more_and_weights_as_they_are() -> None:
    """Where a plain LoRA is trained on weights in fewer bits, a DoRA is trained with more recomputed, or not at all."""
    plain, dora = (replace(work_of_flux_dev(has_training_pass=False), decomposed=own) for own in (False, True))
    plans = possible_plans(dora, None, None)
    assert {plan.form for plan in plans} == {"full"}
    for recomputed, more in ((0, 2.0), (57, 0.1)):
        of_plain, of_dora = (plan_with(work, "full", recomputed).peak_bytes for work in (plain, dora))
        assert of_dora - of_plain > more * GIB
    assert not choose(plans, 22 * GIB).fits
    assert not any("base_weights" in line for line in savings(dora, 0, "full"))


@pytest.mark.parametrize(
    ("gib", "form", "recomputed"),
    [(116, "full", "none"), (78, "full", "none"), (46, "full", "none"), (31, "full", "some"), (22.5, "fp8", "some")],
    ids=["DGX Spark", "80 GB", "48 GB", "32 GB", "24 GB"],
)
def test_each_machine_gets_the_fastest_plan_that_it_holds(gib: float, form: str, recomputed: str) -> None:
    choice = choose(possible_plans(work_of_flux_dev(), None, None), int(gib * GIB))
    assert choice.fits
    assert choice.plan.form == form
    assert {0: "none", 57: "all"}.get(choice.plan.recomputed, "some") == recomputed
    assert choice.plan.peak_bytes <= gib * GIB
    assert choice.faster is None or choice.faster.peak_bytes > gib * GIB


def test_sixteen_and_twelve_gigabytes_train_at_rank_16_with_four_bits() -> None:
    for gib in (14.6, 11.0):
        choice = choose(possible_plans(work_of_flux_dev(), None, None), int(gib * GIB))
        assert (choice.fits, choice.plan.form) == (True, "nf4")


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


def test_diffusers_own_pass_recomputes_all_blocks_or_none_and_keeps_more() -> None:
    own, diffusers = work_of_flux_dev(), work_of_flux_dev(has_training_pass=False)
    assert {plan.recomputed for plan in possible_plans(diffusers, "full", None)} == {0, 57}
    assert plan_with(diffusers, "full", 0).peak_bytes > 1.3 * plan_with(own, "full", 0).peak_bytes


def test_flux_dev_in_fewer_bits_takes_a_half_and_little_more_than_a_quarter() -> None:
    full, fp8, nf4 = (frozen_bytes(ARCHITECTURE, form, torch.bfloat16) for form in FORMS)
    assert full == pytest.approx(23.80e9, rel=0.001)
    assert fp8 == pytest.approx(full / 2, rel=0.01)
    assert nf4 == pytest.approx(full * 4.25 / 16, rel=0.02)


def test_where_memory_runs_out_the_settings_that_save_most_are_named() -> None:
    said = savings(work_of_flux_dev(), recomputed=0, form="full")
    assert [line.split(" =")[0] for line in said] == ["base_weights", "gradient_checkpointing", "base_weights"]
    assert said[0] == 'base_weights = "nf4" saves 15.9 GiB'
    all_recomputed = savings(work_of_flux_dev(rank=256), recomputed=57, form="nf4")
    assert [line.split(" saves")[0] for line in all_recomputed] == [
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
    plans = possible_plans(work_of_flux_dev(side, rank, optimizer_type), None, None)
    order = {(plan.form, plan.recomputed): place for place, plan in enumerate(plans)}

    def place(gib: int) -> int:
        plan = choose(plans, gib * GIB).plan
        return order[plan.form, plan.recomputed]

    assert place(free + 1) <= place(free)


@given(recomputed=st.integers(0, 55), form=st.sampled_from(FORMS))
def test_each_recomputed_block_but_the_last_takes_less_memory(recomputed: int, form: StorageForm) -> None:
    """The last is whole for its own backward pass in any case."""
    work = work_of_flux_dev()
    fewer, more = (plan_with(work, form, number).peak_bytes for number in (recomputed, recomputed + 1))
    assert more < fewer


@given(tokens=st.integers(300, 20000))
def test_longer_rows_of_tokens_take_more(tokens: int) -> None:
    work = work_of_flux_dev()
    few, many = (replace(work, tokens=number) for number in (tokens, tokens + 1))
    assert plan_with(few, "full", 0).peak_bytes < plan_with(many, "full", 0).peak_bytes

"""What a memory plan foresees grows with what is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import work_of_flux_dev
from hypothesis import given
from hypothesis import strategies as st

from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.sizes import frozen_bytes
from fluxbooth.flux.stored import StorageForm
from fluxbooth.host.memory import GIB
from fluxbooth.training.memory_choice import possible_plans
from fluxbooth.training.memory_plan import FORMS, drawing_bytes, plan_with

ARCHITECTURE = bundled_architecture("flux-dev")


def test_diffusers_own_pass_recomputes_all_blocks_or_none_and_keeps_more() -> None:
    own, diffusers = work_of_flux_dev(), work_of_flux_dev(has_training_pass=False)
    assert {plan.recomputed for plan in possible_plans(diffusers, "full", None)} == {0, 57}
    assert plan_with(diffusers, "full", 0).peak_bytes > 1.3 * plan_with(own, "full", 0).peak_bytes


def test_what_draws_between_two_steps_has_its_place_where_a_pass_takes_less() -> None:
    """All recomputed a pass takes little: the VAE that decodes 1024 x 1024 pixels takes more. None recomputed it does
    not."""
    work = work_of_flux_dev()
    drawing = replace(work, drawing_bytes=drawing_bytes(1024 * 1024, torch.bfloat16, judged=True))
    assert 3.5 * GIB < drawing.drawing_bytes < 4.5 * GIB
    assert plan_with(drawing, "full", 0) == plan_with(work, "full", 0)
    assert plan_with(drawing, "full", 57).peak_bytes > plan_with(work, "full", 57).peak_bytes


def test_flux_dev_in_fewer_bits_takes_a_half_and_little_more_than_a_quarter() -> None:
    full, fp8, nf4 = (frozen_bytes(ARCHITECTURE.transformer, form, torch.bfloat16) for form in FORMS)
    assert full == pytest.approx(23.80e9, rel=0.001)
    assert fp8 == pytest.approx(full / 2, rel=0.01)
    assert nf4 == pytest.approx(full * 4.25 / 16, rel=0.02)


@given(recomputed=st.integers(0, 55), form=st.sampled_from(FORMS))
def test_each_recomputed_block_but_the_last_takes_less_memory(recomputed: int, form: StorageForm) -> None:
    """The last is whole for its own backward pass in any case."""
    work = work_of_flux_dev()
    fewer, more = (plan_with(work, form, number).peak_bytes for number in (recomputed, recomputed + 1))
    assert more < fewer


@given(whole=st.integers(0, 56))
def test_each_block_that_is_kept_whole_takes_more_memory(whole: int) -> None:
    """At 1024 x 1024 pixels 7 tensors of 4352 x 3072 for a single block, 8 for a double one; the first that is kept is
    the last block, which has two norms, and of the 256 text tokens neither turned queries nor a feed-forward.
    """
    work = work_of_flux_dev()
    fewer, more = (plan_with(work, "full", 0, whole=number).peak_bytes for number in (whole, whole + 1))
    tensors = 8 if whole >= 38 else 7 if whole else 8 - 6 * 256 / 4352
    assert more - fewer == pytest.approx(tensors * 4352 * 3072 * 2, abs=1)


def test_of_text_that_nothing_reads_the_last_block_keeps_less() -> None:
    """7 of the 10 tensors that a single block keeps of a token."""
    work = work_of_flux_dev()
    longer = replace(work, architecture=replace(ARCHITECTURE, t5_tokens=512))
    fewer, more = (plan_with(own, "full", 0).peak_bytes for own in (longer, work))
    assert more - fewer == pytest.approx(7 * 256 * 3072 * 2, abs=1)


def test_a_plan_says_how_much_is_recomputed() -> None:
    work = work_of_flux_dev()
    said = [str(plan_with(work, "full", number, whole=whole)) for number, whole in ((0, 57), (0, 27), (0, 0), (9, 0))]
    assert [line.split(", ")[1] for line in said] == [
        "nothing recomputed",
        "norms and activations of 30 of 57 blocks recomputed",
        "norms and activations recomputed",
        "9 of 57 blocks recomputed",
    ]


@given(tokens=st.integers(300, 20000))
def test_longer_rows_of_tokens_take_more(tokens: int) -> None:
    work = work_of_flux_dev()
    few, many = (replace(work, tokens=number) for number in (tokens, tokens + 1))
    assert plan_with(few, "full", 0).peak_bytes < plan_with(many, "full", 0).peak_bytes

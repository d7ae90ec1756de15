"""A LoRA of smaller rank: the nearest there is, and how much of the change it keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flux.golden_model import named_noise
from fluxbooth.errors import UserError
from fluxbooth.flux.lora_formats import LoraLayer
from fluxbooth.flux.lora_resize import resized, strengths


def layer_of(rank: int, alpha: float = 3.0) -> LoraLayer:
    return LoraLayer(named_noise("down", rank, 24), named_noise("up", 40, rank), alpha)


@given(rank=st.integers(1, 12), wanted=st.integers(1, 16))
def test_it_is_the_nearest_change_of_that_rank(rank: int, wanted: int) -> None:
    layer = layer_of(rank)
    ((name, small),) = resized([("x", layer)], wanted)
    assert name == "x"
    assert small.rank == min(rank, wanted)
    assert small.scale == 1
    whole = layer.delta()
    left, strengths, right = torch.linalg.svd(whole, full_matrices=False)
    nearest = (left[:, :wanted] * strengths[:wanted]) @ right[:wanted]
    assert torch.allclose(small.delta(), nearest, atol=1e-4)


def test_strengths_are_the_singular_values_of_the_change() -> None:
    layer = layer_of(8)
    assert torch.allclose(strengths(layer), torch.linalg.svdvals(layer.delta())[:8], atol=1e-4)
    assert float(strengths(layer).norm()) == pytest.approx(float(layer.delta().norm()), rel=1e-5)


def test_a_lora_that_changes_nothing_stays_one() -> None:
    empty = LoraLayer(torch.ones(4, 24), torch.zeros(40, 4), 4.0)
    assert not strengths(empty).any()
    assert not next(layer for _, layer in resized([("x", empty)], 2)).delta().any()


def test_a_layer_that_is_no_numbers_is_named() -> None:
    broken = LoraLayer(torch.full((4, 24), torch.nan), torch.ones(40, 4), 4.0)
    with pytest.raises(UserError, match="'x' has values that are no numbers"):
        list(resized([("x", broken)], 2))


def test_the_number_format_stays() -> None:
    layer = LoraLayer(named_noise("down", 4, 24).bfloat16(), named_noise("up", 40, 4).bfloat16(), 4.0)
    small = next(layer for _, layer in resized([("x", layer)], 2))
    assert small.up.dtype is small.down.dtype is torch.bfloat16

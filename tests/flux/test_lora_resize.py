"""A LoRA of smaller rank: the nearest there is, and how much of the change it keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flux.golden_model import named_noise
from fluxbooth.flux.lora_formats import LoraLayer
from fluxbooth.flux.lora_resize import kept_share, resized


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


def test_the_share_that_is_kept_grows_with_the_rank_to_all_of_it() -> None:
    layer = layer_of(8)
    shares = [kept_share(layer, rank) for rank in range(1, 9)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] == pytest.approx(1)
    small = next(layer for _, layer in resized([("x", layer_of(8))], 3))
    assert small.delta().square().sum() / layer.delta().square().sum() == pytest.approx(shares[2], rel=1e-4)


def test_a_lora_that_changes_nothing_stays_one() -> None:
    empty = LoraLayer(torch.ones(4, 24), torch.zeros(40, 4), 4.0)
    assert kept_share(empty, 1) == 1
    assert not next(layer for _, layer in resized([("x", empty)], 2)).delta().any()


def test_the_number_format_stays() -> None:
    layer = LoraLayer(named_noise("down", 4, 24).bfloat16(), named_noise("up", 40, 4).bfloat16(), 4.0)
    small = next(layer for _, layer in resized([("x", layer)], 2))
    assert small.up.dtype is small.down.dtype is torch.bfloat16

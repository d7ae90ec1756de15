"""The numbers, by hand-made vectors whose answers can be worked out on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fluxbooth.judging.measures import (
    distances_between_seeds,
    interval,
    likenesses,
    mark,
    mean_of,
    mean_similarities,
    measure,
    nearest_similarities,
    own_similarity,
    resampled,
    seed_means,
    worst_mark,
)
from fluxbooth.judging.scores import Value
from judging.known import of_seeds

EAST, NORTH = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
NORTH_EAST = F.normalize(EAST + NORTH, dim=0)
HALF = 0.5**0.5


def test_fidelity_is_the_mean_cosine_to_all_training_pictures() -> None:
    pictures, training = torch.stack([EAST, NORTH_EAST]), torch.stack([EAST, NORTH])
    assert torch.allclose(mean_similarities(pictures, training), torch.tensor([0.5, HALF]))


def test_pictures_among_themselves_are_not_compared_with_themselves() -> None:
    pictures = torch.stack([EAST, NORTH, NORTH_EAST])
    assert own_similarity(pictures) == pytest.approx((0 + HALF + HALF) / 3)
    assert nearest_similarities(pictures) == pytest.approx(HALF)
    assert distances_between_seeds(pictures).tolist() == pytest.approx([1 - HALF / 2, 1 - HALF / 2, 1 - HALF])


def test_a_single_picture_is_like_itself() -> None:
    alone = EAST[None]
    assert (own_similarity(alone), nearest_similarities(alone), float(distances_between_seeds(alone))) == (1, 1, 0)


def test_likeness_is_0_at_the_base_models_picture_and_1_at_the_training_pictures() -> None:
    base = torch.tensor([[0.0, 0.0, 1.0]] * 3)
    concepts = torch.stack([EAST, NORTH])
    pictures = torch.stack([base[0], EAST, (base[0] + NORTH) / 2])
    found = likenesses(pictures, base, concepts)
    assert found.flatten().tolist() == pytest.approx([0, 0, 1, 0, 0, 0.5], abs=0.02)


def test_what_all_training_pictures_share_counts_for_none_of_them_twice() -> None:
    """Two concepts were photographed on the same lawn; a picture of the first one there is not like the second."""
    lawn, base = torch.tensor([0.0, 0.0, 1.0]), torch.zeros(1, 3)
    concepts = torch.stack([EAST + lawn, NORTH + lawn])
    assert likenesses((EAST + lawn)[None], base, concepts)[0].tolist() == pytest.approx([1, 0], abs=0.02)


def test_a_mark_is_the_geometric_mean_and_the_worst_concept_decides() -> None:
    assert mark(of_seeds(0.4, 0.4), of_seeds(0.9, 0.9)).mean == pytest.approx(0.6)
    assert mark(of_seeds(-0.4), of_seeds(0.9)).mean == 0
    good, forgotten = (of_seeds(0.8, 0.8), of_seeds(0.8, 0.8)), (of_seeds(0.1, 0.1), of_seeds(0.9, 0.9))
    assert worst_mark([good, forgotten]).mean == pytest.approx(0.3)


def test_an_interval_is_that_of_the_seeds_and_not_of_the_prompts() -> None:
    """Two prompts that differ tell nothing of another seed; seeds that differ do."""
    shots = [(prompt, seed) for prompt in ("a toy", "a gpu") for seed in (1, 2, 3)]
    same_seeds = measure(shots, [0.2, 0.2, 0.2, 0.6, 0.6, 0.6])
    assert [same_seeds.low, same_seeds.high] == pytest.approx([0.4, 0.4])
    other_seeds = measure(shots, [0.2, 0.4, 0.6, 0.2, 0.4, 0.6])
    assert other_seeds.low < 0.3 < 0.5 < other_seeds.high
    assert seed_means(other_seeds.values).tolist() == pytest.approx([0.2, 0.4, 0.6])


def test_the_interval_of_many_seeds_is_that_of_the_normal_distribution() -> None:
    """1.96 standard errors to either side; 400 seeds are enough for that to hold within a tenth."""
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = interval(resampled(values))
    error = values.std() / math.sqrt(400)
    expected = [values.mean() - 1.96 * error, values.mean() + 1.96 * error]
    assert [low, high] == pytest.approx(expected, abs=error / 5)


def test_resamples_are_always_the_same() -> None:
    values = np.array([0.1, 0.5, 0.9])
    assert (resampled(values) == resampled(values)).all()


def test_a_mean_of_measures_keeps_each_shots_own_value() -> None:
    both = mean_of(of_seeds(0.2, 0.4), of_seeds(0.6, 0.8))
    assert both.values == (Value("a toy", 1, 0.4), Value("a toy", 2, 0.6))
    assert both.mean == pytest.approx(0.5)

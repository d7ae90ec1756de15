"""Numbers from what the eyes see: similarities, and how far other seeds might move them.

N pictures, M others, D features; every vector is a unit vector and every similarity a cosine. S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fluxbooth.judging.scores import Measure, Value

_RESAMPLES = 2000
_LOWEST, _HIGHEST = 2.5, 97.5
"""Percentiles: 95 % of the resamples lie between them."""
Shot = tuple[str, int]
"""Prompt and seed."""


def mean_similarities(pictures: Tensor, others: Tensor) -> Tensor:
    """Return for each picture (N, D) its mean similarity to all others (M, D): (N,) (arXiv 2208.12242, 4.1)."""
    return (pictures @ others.T).mean(dim=1)


def own_similarity(pictures: Tensor) -> float:
    """Return the mean similarity of different pictures among (N, D); 1 for a single one."""
    number = len(pictures)
    if number == 1:
        return 1.0
    return float(((pictures @ pictures.T).sum() - number) / (number * number - number))


def nearest_similarities(pictures: Tensor) -> float:
    """Return the similarity of the two most similar among (N, D); 1 for a single one."""
    if len(pictures) == 1:
        return 1.0
    similarities = pictures @ pictures.T
    return float(similarities.fill_diagonal_(-1).max())


def distances_between_seeds(pictures: Tensor) -> Tensor:
    """Return for each of (N, D) pictures of one prompt its mean distance, 1 - cosine, to the others: (N,)."""
    number = len(pictures)
    if number == 1:
        return torch.zeros(1)
    return 1 - ((pictures @ pictures.T).sum(dim=1) - 1) / (number - 1)


def likenesses(pictures: Tensor, base_pictures: Tensor, concepts: Tensor) -> Tensor:
    """Return how far pictures have gone from the base model's towards each concept's training pictures: (N, K).

    0 is where the base model's pictures are, 1 where the concept's training pictures are. What lies in between is
    shared out among the concepts by least squares, so that what all training pictures have in common, their
    surroundings for instance, counts for none of them twice: picture - base = sum of likeness * (concept - mean base).

    Args:
        pictures: (N, D). base_pictures: (N, D), the base model's of the same shots without the made-up words.
        concepts: (K, D), the mean of each concept's training pictures.
    """
    ways = (concepts - base_pictures.mean(dim=0)).double()  # (K, D)
    gone = (pictures - base_pictures).double()  # (N, D)
    products = ways @ ways.T
    # Two concepts that look alike lie in nearly one direction; a hundredth keeps noise from being blown up there.
    products += 0.01 * products.diagonal().mean() * torch.eye(len(ways), dtype=products.dtype)
    shares: Tensor = torch.linalg.solve(products, ways @ gone.T)  # (K, N)
    return shares.T.float()


def measure(shots: Sequence[Shot], values: Sequence[float]) -> Measure:
    """Return the mean of one value a shot, with its interval over seeds."""
    kept = tuple(Value(prompt, seed, round(value, 6)) for (prompt, seed), value in zip(shots, values, strict=True))
    by_seed = seed_means(kept)
    return _with_interval(float(by_seed.mean()), resampled(by_seed), kept)


def mean_of(*measures: Measure) -> Measure:
    """Return the measure whose every value is the mean of the others' values of the same shot."""
    columns = zip(*(one.values for one in measures), strict=True)
    values = [sum(one.value for one in column) / len(measures) for column in columns]
    return measure([(one.prompt, one.seed) for one in measures[0].values], values)


def mark(fidelity: Measure, adherence: Measure) -> Measure:
    """Return the geometric mean of two measures of the same seeds; a negative similarity counts as 0."""
    mean = _geometric_mean(seed_means(fidelity.values).mean(), seed_means(adherence.values).mean())
    return _with_interval(float(mean), mark_resamples([(fidelity, adherence)]))


def worst_mark(pairs: Sequence[tuple[Measure, Measure]]) -> Measure:
    """Return the mark of the worst of several (fidelity, adherence); each resample has a worst of its own."""
    return _with_interval(min(mark(*pair).mean for pair in pairs), mark_resamples(pairs))


def mark_resamples(pairs: Sequence[tuple[Measure, Measure]]) -> np.ndarray:
    """Return the worst mark of (fidelity, adherence) pairs in each resample: (2000,).

    A resample has the same seeds for every measure and every checkpoint, so that two checkpoints are compared seed by
    seed.
    """
    marks = [
        _geometric_mean(resampled(seed_means(fidelity.values)), resampled(seed_means(adherence.values)))
        for fidelity, adherence in pairs
    ]
    return np.asarray(np.minimum.reduce(marks))


def seed_means(values: Sequence[Value]) -> np.ndarray:
    """Return the mean of each seed's values, in the order of the seeds: (S,)."""
    by_seed: dict[int, list[float]] = {}
    for one in values:
        by_seed.setdefault(one.seed, []).append(one.value)
    return np.array([np.mean(by_seed[seed]) for seed in sorted(by_seed)])


def resampled(by_seed: np.ndarray) -> np.ndarray:
    """Return the means of resamples of (S,) values, S seeds drawn with replacement: (2000,); always the same."""
    places = np.random.default_rng(0).integers(len(by_seed), size=(_RESAMPLES, len(by_seed)))
    return np.asarray(by_seed[places].mean(axis=1))


def interval(resamples: np.ndarray) -> tuple[float, float]:
    """Return between which values 95 % of resamples lie."""
    low, high = np.percentile(resamples, (_LOWEST, _HIGHEST))
    return float(low), float(high)


def _geometric_mean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.maximum(first, 0) * np.maximum(second, 0)))


def _with_interval(mean: float, resamples: np.ndarray, values: tuple[Value, ...] = ()) -> Measure:
    low, high = interval(resamples)
    return Measure(round(mean, 6), round(low, 6), round(high, 6), values)

"""The average over the steps: what it is, that it is published, and that the training does not see it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fluxbooth.training.averages import MovingAverage


def test_it_is_the_exponential_average_and_forgets_the_start_faster() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    average = MovingAverage([parameter], decay=0.5)
    expected = 0.0
    for step, value in enumerate((1.0, 3.0, 2.0), start=1):
        parameter.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.values[0].tolist() == pytest.approx([expected] * 3)


def test_inside_the_parameters_are_the_average_and_behind_it_what_they_were() -> None:
    parameter = nn.Parameter(torch.randn(100))
    average = MovingAverage([parameter], decay=0.9)
    parameter.data.add_(1)
    trained = parameter.detach().clone()
    with average.in_place():
        assert torch.equal(parameter, average.values[0])
    assert torch.equal(parameter, trained)

"""Prodigy in few kernels is prodigyopt's, whatever it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from typing import Any

import prodigyopt
import pytest
import torch
from torch import Tensor, nn

from fluxbooth.training import prodigy
from fluxbooth.training.prodigy import Prodigy

Optimizer = torch.optim.Optimizer


class Fitting:
    """Matrices, A and B of a LoRA in turn, that an optimizer brings towards others from noisy gradients."""

    def __init__(self, make: Callable[..., Optimizer], arguments: Mapping[str, Any]) -> None:
        draw = torch.Generator().manual_seed(0)
        shapes = [(8, 16), (16, 8)] * 5
        self.matrices = [
            nn.Parameter(torch.zeros(shape) if place % 2 else torch.randn(shape, generator=draw))
            for place, shape in enumerate(shapes)
        ]
        self._aims = [torch.randn(shape, generator=draw) for shape in shapes]
        self._draw = draw
        with redirect_stdout(StringIO()):
            self.optimizer = make([{"params": self.matrices[:6]}, {"params": self.matrices[6:]}], **arguments)

    def step(self, count: int) -> None:
        for _ in range(count):
            for matrix, aim in zip(self.matrices, self._aims, strict=True):
                noise = torch.randn(matrix.shape, generator=self._draw)
                matrix.grad = matrix.detach() - aim + 0.1 * noise
            self.optimizer.step()

    def values(self) -> Tensor:
        return torch.cat([matrix.detach().flatten() for matrix in self.matrices])

    def rates(self) -> list[dict[str, Any]]:
        return [{key: group[key] for key in group if key != "params"} for group in self.optimizer.param_groups]


def distance(ours: Fitting, theirs: Fitting) -> float:
    """Relative: a number whose gradients have been next to nothing moves by what rounding left of them."""
    return float((ours.values() - theirs.values()).norm() / theirs.values().norm())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"weight_decay": 0.01, "use_bias_correction": True, "safeguard_warmup": True},
        {"weight_decay": 0.1, "decouple": False},
        {"slice_p": 3},
        {"betas": (0.0, 0.99)},
        {"growth_rate": 1.02, "d_coef": 2.0, "lr": 0.5},
        {"beta3": 0.9},
    ],
    ids=lambda arguments: " ".join(arguments) or "as it comes",
)
def test_numbers_and_state_are_prodigyopts(arguments: dict[str, Any]) -> None:
    """Over steps in which its rate grows by five powers of ten; only sums are rounded otherwise."""
    ours, theirs = Fitting(Prodigy, arguments), Fitting(prodigyopt.Prodigy, arguments)
    ours.step(30)
    theirs.step(30)
    assert distance(ours, theirs) < 1e-3
    for own, other in zip(ours.rates(), theirs.rates(), strict=True):
        assert own == pytest.approx(other, rel=1e-4)
    for own_matrix, other_matrix in zip(ours.matrices, theirs.matrices, strict=True):
        own_state, other_state = ours.optimizer.state[own_matrix], theirs.optimizer.state[other_matrix]
        assert {key: torch.as_tensor(value).shape for key, value in own_state.items()} == {
            key: torch.as_tensor(value).shape for key, value in other_state.items()
        }


def test_it_goes_on_from_prodigyopts_state() -> None:
    ours, theirs = Fitting(Prodigy, {}), Fitting(prodigyopt.Prodigy, {})
    ours.step(10)
    theirs.step(10)
    ours.optimizer.load_state_dict(deepcopy(theirs.optimizer.state_dict()))
    for own, other in zip(ours.matrices, theirs.matrices, strict=True):
        own.data.copy_(other.data)
    ours.step(5)
    theirs.step(5)
    assert distance(ours, theirs) < 1e-5


def test_a_part_at_a_time_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Fitting(Prodigy, {"weight_decay": 0.01})
    whole.step(10)
    monkeypatch.setattr(prodigy, "_AT_ONCE", 200)
    in_parts = Fitting(Prodigy, {"weight_decay": 0.01})
    in_parts.step(10)
    assert torch.equal(in_parts.values(), whole.values())


def test_a_matrix_without_a_gradient_is_left_alone() -> None:
    fitting = Fitting(Prodigy, {})
    fitting.step(1)
    left = fitting.matrices[1]
    left.grad = None
    before = left.detach().clone()
    fitting.optimizer.step()
    assert torch.equal(left, before)


@pytest.mark.parametrize(("make", "asked"), [(Prodigy, 0), (prodigyopt.Prodigy, 20)])
def test_no_matrix_is_waited_for(make: Callable[..., Optimizer], asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU would be waited for wherever one number is asked for: by prodigyopt twice for each of the ten matrices."""
    fitting = Fitting(make, {})
    fitting.step(1)
    count = 0

    def counted(tensor: Tensor) -> Any:
        nonlocal count
        count += 1
        return item(tensor)

    item = Tensor.item
    monkeypatch.setattr(Tensor, "item", counted)
    fitting.optimizer.step()
    assert count == asked

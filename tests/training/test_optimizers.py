"""Optimizers and schedules: kohya's names, the libraries' defaults, golden rates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fluxbooth.errors import UserError
from fluxbooth.training.optimizers import build_optimizer, build_schedule, effective_learning_rate


@pytest.fixture
def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3))]


def test_the_playbooks_schedule_falls_as_kohyas_does(parameters: list[nn.Parameter]) -> None:
    """cosine_with_restarts, one cycle, 500 steps (kohya sd-scripts 48d368fa)."""
    golden = {0: 1.0, 1: 0.9999901304280685, 100: 0.9045084971874737, 250: 0.5, 375: 0.14644660940672627}
    optimizer = build_optimizer(parameters, "AdamW", 1.0, ())
    schedule = build_schedule(optimizer, "cosine_with_restarts", 500, 0, 1)
    rates = []
    for _ in range(500):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert {step: rates[step] for step in golden} == pytest.approx(golden)
    assert rates[499] == pytest.approx(9.869571931442334e-06)


@pytest.mark.parametrize(("name", "cycles", "at_half"), [("constant", 1, 0.1), ("cosine_with_restarts", 2, 0.1)])
def test_a_schedule_warms_up_from_zero(parameters: list[nn.Parameter], name: str, cycles: int, at_half: float) -> None:
    optimizer = build_optimizer(parameters, "AdamW", 0.1, ())
    schedule = build_schedule(optimizer, name, 110, 10, cycles)
    rates = []
    for _ in range(110):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.05)
    assert rates[60] == pytest.approx(at_half)


def test_prodigy_has_its_librarys_defaults_and_shows_its_own_rate(parameters: list[nn.Parameter]) -> None:
    optimizer = build_optimizer(parameters, "Prodigy", 1.0, ())
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"], group["d_coef"]) == ((0.9, 0.999), 1e-8, 0, 1.0)
    assert (group["decouple"], group["use_bias_correction"], group["safeguard_warmup"]) == (True, False, False)
    assert effective_learning_rate(optimizer) == pytest.approx(1e-6)
    for _ in range(30):
        parameters[0].grad = parameters[0].detach() - 5
        optimizer.step()
    assert effective_learning_rate(optimizer) > 1e-5, "d grows where the gradient keeps its direction"


def test_clips_part_learns_at_its_own_rate(parameters: list[nn.Parameter]) -> None:
    text = [nn.Parameter(torch.ones(2))]
    optimizer = build_optimizer(parameters, "AdamW", 0.1, ("weight_decay=0",), text, 0.01)
    for parameter in (*parameters, *text):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert parameters[0].tolist() == pytest.approx([0.9] * 3)
    assert text[0].tolist() == pytest.approx([0.99] * 2)


def test_arguments_are_given_as_kohya_writes_them(parameters: list[nn.Parameter]) -> None:
    arguments = ("decouple=True", "weight_decay=0.01", "betas=(0.9, 0.99)", "d_coef=2", "safeguard_warmup=True")
    group = build_optimizer(parameters, "Prodigy", 1.0, arguments).param_groups[0]
    assert (group["weight_decay"], group["betas"], group["d_coef"], group["safeguard_warmup"]) == (
        0.01,
        (0.9, 0.99),
        2,
        True,
    )


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("weight_decay", "is not name=value"),
        ("weight_dekay=0.1", "weight_dekay"),
        ("betas=yes", "'yes'"),
        ("lr=1", "lr"),
    ],
)
def test_an_argument_that_cannot_be_is_refused(parameters: list[nn.Parameter], argument: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        build_optimizer(parameters, "AdamW", 1e-4, (argument,))
    assert said in str(raised.value)
    assert "optimizer_args" in str(raised.value)

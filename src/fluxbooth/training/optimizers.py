"""Optimizers and learning-rate schedules by their kohya names."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from prodigyopt import Prodigy
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from fluxbooth.errors import Problem, UserError

_OPTIMIZERS: dict[str, Any] = {"AdamW": torch.optim.AdamW, "Prodigy": Prodigy}


def build_optimizer(
    parameters: Sequence[nn.Parameter],
    optimizer_type: str,
    learning_rate: float,
    arguments: Sequence[str],
    text_parameters: Sequence[nn.Parameter] = (),
    text_encoder_lr: float = 0.0,
) -> torch.optim.Optimizer:
    """Make an optimizer with its library's defaults, changed by `arguments` ("name=value", values as in Python).

    Args:
        text_parameters: CLIP's part of the LoRA, which learns at `text_encoder_lr`.

    Raises:
        UserError: for an argument that is not "name=value" or that the optimizer does not have.
    """
    try:
        keywords = dict(_keyword(argument) for argument in arguments)
        groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        if text_parameters:
            groups.append({"params": list(text_parameters), "lr": text_encoder_lr})
        optimizer: torch.optim.Optimizer = _OPTIMIZERS[optimizer_type](groups, lr=learning_rate, **keywords)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(Problem(f"{optimizer_type}: {error}", where="optimizer_args")) from error
    return optimizer


def check_optimizer(optimizer_type: str, learning_rate: float, arguments: Sequence[str]) -> None:
    """Raise UserError when the optimizer cannot be made, or cannot take a step, with these arguments."""
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = build_optimizer([parameter], optimizer_type, learning_rate, arguments)
    try:
        optimizer.step()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(Problem(f"{optimizer_type}: {error}", where="optimizer_args")) from error


def build_schedule(
    optimizer: torch.optim.Optimizer, name: str, steps: int, warmup_steps: int, cycles: int
) -> LRScheduler:
    """Make a schedule over `steps` optimizer steps, rising from zero over the first `warmup_steps`.

    Args:
        name: "constant", or "cosine_with_restarts" with `cycles` cosine waves down to zero.
    """
    if name == "constant" and warmup_steps:
        name = "constant_with_warmup"
    schedule: LRScheduler = get_scheduler(
        name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps, num_cycles=cycles
    )
    return schedule


def effective_learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate in force: Prodigy's own estimate times the schedule's, for the others the schedule's."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) * float(group.get("d", 1.0))


def _keyword(argument: str) -> tuple[str, Any]:
    name, equals, value = argument.partition("=")
    if not equals:
        raise ValueError(f"'{argument}' is not name=value")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"'{value}' of '{argument}' is no number, True, False, text in quotes or tuple") from error

"""Optimizers and learning-rate schedules by their kohya names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from inspect import signature
from io import StringIO
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from lion_pytorch import Lion
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import Adafactor, AdafactorSchedule

from fluxbooth.errors import Problem, UserError, did_you_mean
from fluxbooth.training.prodigy import Prodigy


def build_optimizer(
    parameters: Sequence[nn.Parameter],
    optimizer_type: str,
    learning_rate: float,
    arguments: Sequence[str],
    text_parameters: Sequence[nn.Parameter] = (),
    text_encoder_lr: float = 0.0,
    up_ratios: tuple[float, float] = (1.0, 1.0),
    rates: Sequence[float] = (),
    decomposed: bool = False,
) -> torch.optim.Optimizer:
    """Make an optimizer with its library's defaults, changed by `arguments` ("name=value", values as in Python).

    Args:
        parameters: A and B of each layer in turn, and with DoRA its magnitudes, as `add_lora` returns them.
        text_parameters: CLIP's part of the LoRA, which learns at `text_encoder_lr`.
        up_ratios: by how much B learns faster than A, in the transformer and in CLIP (LoRA+, arXiv 2402.12354).
        rates: of each of `parameters`, where some learn at another than `learning_rate`.
        decomposed: whether there are magnitudes. They learn at A's rate and do not decay: towards 0 the weights
            themselves would go.

    Raises:
        UserError: for an argument that is not "name=value" or that the optimizer does not have, and for a library that
            is not installed.
    """
    make = _maker(optimizer_type)
    try:
        keywords = _keywords(arguments, make)
        groups = _groups_by_rate(parameters, learning_rate, up_ratios[0], rates, decomposed)
        if text_parameters:
            own = _groups(text_parameters, text_encoder_lr, up_ratios[1], decomposed)
            groups += [{"lr": text_encoder_lr, **group} for group in own]
        with redirect_stdout(StringIO()):  # Prodigy prints what it does
            optimizer: torch.optim.Optimizer = make(groups, lr=learning_rate, **keywords)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise _refused(optimizer_type, arguments, error) from error
    if isinstance(optimizer, AdamWScheduleFree):
        optimizer.train()
    return optimizer


def _groups_by_rate(
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    up_ratio: float,
    rates: Sequence[float],
    decomposed: bool,
) -> list[dict[str, Any]]:
    if set(rates) <= {learning_rate}:
        return _groups(parameters, learning_rate, up_ratio, decomposed)
    groups = []
    for rate in dict.fromkeys(rates):
        own = [parameter for parameter, of_it in zip(parameters, rates, strict=True) if of_it == rate]
        groups += [{"lr": rate, **group} for group in _groups(own, rate, up_ratio, decomposed)]
    return groups


def _groups(
    parameters: Sequence[nn.Parameter], learning_rate: float, up_ratio: float, decomposed: bool
) -> list[dict[str, Any]]:
    magnitudes = [{"params": list(parameters[2::3]), "weight_decay": 0.0}] if decomposed else []
    matrices = [parameter for place, parameter in enumerate(parameters) if not decomposed or place % 3 < 2]
    if up_ratio == 1:
        return [{"params": matrices}, *magnitudes]
    return [{"params": matrices[0::2]}, {"params": matrices[1::2], "lr": learning_rate * up_ratio}, *magnitudes]


def _adamw(groups: list[dict[str, Any]], **keywords: Any) -> torch.optim.Optimizer:
    """On a GPU one kernel updates everything, unless the user chose how."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    chosen = keywords.keys() & {"foreach", "fused", "capturable", "differentiable"}
    if not chosen and all(parameter.is_cuda for parameter in parameters):
        keywords["fused"] = True
    return torch.optim.AdamW(groups, **keywords)


def _adamw_8bit(groups: list[dict[str, Any]], **keywords: Any) -> torch.optim.Optimizer:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            Problem(
                "AdamW8bit needs the package bitsandbytes, which is not installed",
                where="optimizer_type",
                allowed="AdamW needs nothing, and four times the memory for its state",
                do="pip install bitsandbytes",
            )
        )
    optimizer: torch.optim.Optimizer = importlib.import_module("bitsandbytes").optim.AdamW8bit(groups, **keywords)
    return optimizer


def _adafactor(groups: list[dict[str, Any]], **keywords: Any) -> torch.optim.Optimizer:
    """Without relative_step = False it finds its own rate, as in transformers and kohya, and takes none."""
    if keywords.get("relative_step", True):
        keywords["lr"] = None
        groups = [{name: value for name, value in group.items() if name != "lr"} for group in groups]
    optimizer: torch.optim.Optimizer = Adafactor(groups, **keywords)
    return optimizer


_MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": _adamw,
    "AdamW8bit": _adamw_8bit,
    "Adafactor": _adafactor,
    "AdamWScheduleFree": AdamWScheduleFree,
    "Lion": Lion,
    "Prodigy": Prodigy,
}


_CLASSES: dict[Any, type] = {_adamw: torch.optim.AdamW, _adafactor: Adafactor}
"""Whose arguments the makers take that pass them on."""


def _maker(optimizer_type: str) -> Callable[..., torch.optim.Optimizer]:
    for name, make in _MAKERS.items():
        if name.lower() == optimizer_type.lower():
            return make
    raise UserError(
        Problem(f"optimizer_type is '{optimizer_type}'", where="optimizer_type", allowed=", ".join(_MAKERS))
    )


def check_optimizer(optimizer_type: str, learning_rate: float, arguments: Sequence[str]) -> None:
    """Raise UserError when the optimizer cannot be made, or cannot take a step, with these arguments."""
    _step_on_trial(optimizer_type, learning_rate, arguments)


def _step_on_trial(optimizer_type: str, learning_rate: float, arguments: Sequence[str]) -> torch.optim.Optimizer:
    """Return an optimizer that has taken a step on one number."""
    # bitsandbytes is for GPUs; everything else is tried where nothing has to be set up.
    device = "cuda" if torch.cuda.is_available() and optimizer_type == "AdamW8bit" else "cpu"
    parameter = nn.Parameter(torch.ones(1, 1, device=device))
    parameter.grad = torch.ones(1, 1, device=device)
    optimizer = build_optimizer([parameter], optimizer_type, learning_rate, arguments)
    try:
        optimizer.step()
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise _refused(optimizer_type, arguments, error) from error
    return optimizer


def check_rates(
    optimizer_type: str,
    learning_rate: float,
    arguments: Sequence[str],
    lr_scheduler: str,
    lr_warmup_steps: float,
    *,
    rates_differ: bool,
) -> None:
    """Raise UserError for a schedule that the optimizer cannot follow, or for several rates where it knows only one.

    Args:
        rates_differ: CLIP's rate is another than the transformer's, B's another than A's, or some layers' another.
    """
    optimizer = _step_on_trial(optimizer_type, learning_rate, arguments)
    build_schedule(optimizer, lr_scheduler, 2, lr_warmup_steps, 1)
    if rates_differ and (isinstance(optimizer, Prodigy) or finds_its_rate(optimizer)):
        raise UserError(
            Problem(
                f"{optimizer_type} finds one rate for everything, and several are given",
                where="text_encoder_lr, or loraplus_lr_ratio or network_reg_lrs in network_args",
                do="Give text_encoder_lr learning_rate's value, or 0, no ratio and no rates; or take another optimizer",
            )
        )


def finds_its_rate(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer is an Adafactor with relative_step, to which no rate is given."""
    return isinstance(optimizer, Adafactor) and bool(optimizer.param_groups[0]["relative_step"])


def build_schedule(
    optimizer: torch.optim.Optimizer, name: str, steps: int, warmup_steps: float, cycles: int, power: float = 1.0
) -> LRScheduler:
    """Make a schedule over `steps` optimizer steps, rising from zero over the first `warmup_steps`.

    Args:
        name: "constant" or "constant_with_warmup"; "cosine", half a wave down to zero; "cosine_with_restarts", `cycles`
            of them; "linear" down to zero; "polynomial", (share of the steps left) ^ `power` down to 1e-7.
        warmup_steps: whole steps, or below 1 a share of `steps`, rounded down.

    Raises:
        UserError: for a schedule that has no effect, or a wrong one, on the optimizer.
    """
    own = _own_schedule(optimizer)
    if own and (name not in ("constant", "constant_with_warmup") or warmup_steps):
        raise UserError(
            Problem(
                f"{own} needs no schedule, and lr_scheduler is '{name}' with lr_warmup_steps = {warmup_steps:g}",
                where="lr_scheduler",
                allowed='"constant" with lr_warmup_steps = 0',
                do="Give AdamWScheduleFree optimizer_args warmup_steps=100; Adafactor warmup_init=True, "
                "or relative_step=False and a schedule",
            )
        )
    if finds_its_rate(optimizer):
        shown: LRScheduler = AdafactorSchedule(optimizer)  # shows the rate that the optimizer finds
        return shown
    warmup = int(warmup_steps * steps) if warmup_steps < 1 else int(warmup_steps)
    if name == "constant" and warmup:
        name = "constant_with_warmup"
    try:
        schedule: LRScheduler = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=warmup,
            # "polynomial" divides by what is left behind the warm-up.
            num_training_steps=max(steps, warmup + 1) if name == "polynomial" else steps,
            num_cycles=cycles,
            power=power,
        )
    except ValueError as error:
        raise UserError(Problem(f"{name}: {error}", where="lr_scheduler", do="Raise learning_rate")) from error
    return schedule


def _own_schedule(optimizer: torch.optim.Optimizer) -> str:
    if isinstance(optimizer, AdamWScheduleFree):
        return "AdamWScheduleFree"
    return "Adafactor with relative_step" if finds_its_rate(optimizer) else ""


@contextmanager
def as_published(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the parameters be inside what the optimizer would publish, and behind it what they were, to the bit.

    That differs for schedule-free AdamW alone, which trains between two points and publishes their average
    (arXiv 2405.15682).
    """
    if not isinstance(optimizer, AdamWScheduleFree):
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, trained, strict=True):
                parameter.copy_(value)  # the library's way back rounds


def effective_learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate in force: Prodigy's own estimate times the schedule's, Adafactor's own of its last step, for the others
    the schedule's."""
    group = optimizer.param_groups[0]
    rate = group.get("scheduled_lr") or group["lr"]  # AdamWScheduleFree warms up by itself
    return float(rate if rate is not None else math.nan) * float(group.get("d", 1.0))


def _refused(optimizer_type: str, arguments: Sequence[str], error: Exception) -> UserError:
    what = f"{optimizer_type} with {' '.join(arguments)}" if arguments else optimizer_type
    return UserError(Problem(f"{what}: {error or type(error).__name__}", where="optimizer_args"))


def _keywords(arguments: Sequence[str], make: Callable[..., torch.optim.Optimizer]) -> dict[str, Any]:
    """Read "name=value" each. Raises ValueError for a name that is given twice or that the optimizer does not have."""
    keywords = [_keyword(argument) for argument in arguments]
    names = [name for name, _ in keywords]
    known = [name for name in signature(_CLASSES.get(make, make)).parameters if name not in ("params", "lr")]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is given twice")
        if name == "lr":
            raise ValueError("'lr' is learning_rate, a field of its own")
        if name not in known and "kwargs" not in known and "keywords" not in known:
            raise ValueError(
                f"there is no '{name}'; there are {', '.join(known)}. {did_you_mean(name, known)}".rstrip()
            )
    return dict(keywords)


def _keyword(argument: str) -> tuple[str, Any]:
    name, equals, value = argument.partition("=")
    if not equals:
        raise ValueError(f"'{argument}' is not name=value")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"'{value}' of '{argument}' is no number, True, False, text in quotes or tuple") from error

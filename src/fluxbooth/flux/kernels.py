"""Several operations as one kernel, where the device has a compiler for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._triton import has_triton

_Made = TypeVar("_Made")


def one_kernel(function: Callable[..., _Made], fixed: int = 0) -> Callable[..., _Made]:
    """Let torch.compile make one kernel of `function`, where Triton can be built; as it stands where not.

    For tensors, sequences of them, and None; no gradient goes through it.

    Args:
        fixed: last dimensions of each tensor whose sizes the kernel is made for; the others may have any.
    """
    if not has_triton():
        return function
    compiled = _compiled(function)

    def kernel(*arguments: Tensor | Sequence[Tensor] | None) -> _Made:
        made: _Made = compiled(*(_prepared(argument, fixed) for argument in arguments))
        return made

    return kernel


def _prepared(argument: Tensor | Sequence[Tensor] | None, fixed: int) -> Any:
    """A tensor that is no view of another one: PyTorch would make a kernel for each way in which it may be one."""
    if argument is None:
        return None
    if not isinstance(argument, Tensor):
        return [_prepared(own, fixed) for own in argument]
    own = argument.detach()
    if fixed:
        torch._dynamo.mark_static(own, list(range(max(own.dim() - fixed, 0), own.dim())))
    return own


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.config.suppress_errors = True  # a kernel that cannot be built is no reason to end a run
    # Behind so many PyTorch gives up on a function. One stream or two, a batch of one or more: each has a kernel of its
    # own, and so has what else PyTorch tells apart; of the eight that it would make there may be too few.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=True)

"""Several operations as one kernel, where the device has a compiler for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._triton import has_triton

_Made = TypeVar("_Made")


def one_kernel(function: Callable[..., _Made], any_size: bool | None = None) -> Callable[..., _Made]:
    """Let torch.compile make one kernel of `function`, where Triton can be built; as it stands where not.

    For tensors, sequences of them, and None; no gradient goes through it.

    Args:
        any_size: make one that takes tensors of every size from the beginning; None to learn from the sizes that come
            which of them change.
    """
    compiled = _compiled(function, any_size)

    def kernel(*arguments: Tensor | Sequence[Tensor] | None) -> _Made:
        made: _Made = compiled(*map(_by_itself, arguments))
        return made

    return kernel


def _by_itself(argument: Tensor | Sequence[Tensor] | None) -> Any:
    """A tensor that is no view of another one: PyTorch would make a kernel for each way in which it may be one."""
    if argument is None or isinstance(argument, Tensor):
        return None if argument is None else argument.detach()
    return [own.detach() for own in argument]


@cache
def _compiled(function: Callable[..., Any], any_size: bool | None) -> Callable[..., Any]:
    if not has_triton():
        return function
    torch._dynamo.config.suppress_errors = True  # a kernel that cannot be built is no reason to end a run
    # Behind so many PyTorch gives up on a function. One stream or two, a batch of one or more, tensors that begin where
    # their memory does or later: each has a kernel of its own, and together they are more than the eight it would make.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=any_size)

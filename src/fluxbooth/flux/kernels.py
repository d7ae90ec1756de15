"""Several operations as one kernel, where the device has a compiler for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._triton import has_triton

_Arguments = ParamSpec("_Arguments")
_Made = TypeVar("_Made")


def one_kernel(function: Callable[_Arguments, _Made], any_size: bool | None = None) -> Callable[_Arguments, _Made]:
    """Let torch.compile make one kernel of `function`, where Triton can be built; as it stands where not.

    Args:
        any_size: make one that takes tensors of every size from the beginning; None to learn from the sizes that come
            which of them change. PyTorch gives up on a function that it has had to make eight times.
    """
    kernel: Callable[_Arguments, _Made] = _compiled(function, any_size)
    return kernel


@cache
def _compiled(function: Callable[..., Any], any_size: bool | None) -> Callable[..., Any]:
    if not has_triton():
        return function
    torch._dynamo.config.suppress_errors = True  # a kernel that cannot be built is no reason to end a run
    return torch.compile(function, dynamic=any_size)

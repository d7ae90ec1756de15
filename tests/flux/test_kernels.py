"""A kernel is made again for what it has to be, and for nothing else. All of torch.compile is real but its code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxbooth.flux import kernels
from fluxbooth.flux.kernels import one_kernel


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every kernel that is made, as if Triton could be built."""
    graphs: list[Any] = []
    compile_for_gpu = torch.compile

    def noted(graph: torch.fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(kernels, "has_triton", lambda: True)
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: compile_for_gpu(function, dynamic=dynamic, backend=noted)
    )
    for name in ("suppress_errors", "recompile_limit"):
        monkeypatch.setattr(torch._dynamo.config, name, getattr(torch._dynamo.config, name))
    return graphs


def test_a_view_takes_no_kernel_of_its_own(made: list[Any]) -> None:
    def doubled(tensors: Sequence[Tensor]) -> Tensor:
        return 2 * tensors[0]

    kernel = one_kernel(doubled, True)
    whole = torch.randn(12, 7)
    for tensor in (whole, whole.clone().requires_grad_(), torch.randn(3, 12, 7).flatten(0, 1), whole.view(2, 6, 7)[0]):
        assert torch.equal(kernel([tensor]), 2 * tensor)
    assert len(made) == 1


def test_pytorch_does_not_give_up_on_a_function_that_has_many_kernels(made: list[Any]) -> None:
    def total(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).sum(0)

    kernel = one_kernel(total, True)
    for count in range(1, 21):
        assert torch.equal(kernel([torch.ones(4, 3)] * count), torch.full((4, 3), float(count)))
    assert len(made) == 20

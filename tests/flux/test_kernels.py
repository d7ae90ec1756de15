"""A kernel is made again for what it has to be, and for nothing else. All of torch.compile is real but its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxbooth.flux import kernels
from fluxbooth.flux.kernels import one_kernel
from fluxbooth.flux.rotary import _norm_turn, _norm_turn_gradient


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Sequence[Any]]]:
    """What every kernel is given that is made, as if Triton could be built: tensors, and sizes that may be any."""
    kernels_made: list[Sequence[Any]] = []
    compile_for_gpu = torch.compile

    def noted(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        kernels_made.append(inputs)
        return graph.forward

    monkeypatch.setattr(kernels, "has_triton", lambda: True)
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: compile_for_gpu(function, dynamic=dynamic, backend=noted)
    )
    for name in ("suppress_errors", "recompile_limit"):
        monkeypatch.setattr(torch._dynamo.config, name, getattr(torch._dynamo.config, name))
    kernels._compiled.cache_clear()
    yield kernels_made
    kernels._compiled.cache_clear()
    torch._dynamo.reset()


def test_a_view_takes_no_kernel_of_its_own(made: list[Sequence[Any]]) -> None:
    def doubled(tensors: Sequence[Tensor]) -> Tensor:
        return 2 * tensors[0]

    kernel = one_kernel(doubled)
    whole = torch.randn(12, 7)
    for tensor in (whole, whole.clone().requires_grad_(), torch.randn(3, 12, 7).flatten(0, 1), whole.view(2, 6, 7)[0]):
        assert torch.equal(kernel([tensor]), 2 * tensor)
    assert len(made) == 1


@pytest.mark.parametrize("fixed", [0, 1, 2])
def test_a_kernel_is_made_for_fixed_sizes_and_takes_any_other(made: list[Sequence[Any]], fixed: int) -> None:
    def doubled(tensor: Tensor) -> Tensor:
        return 2 * tensor

    kernel = one_kernel(doubled, fixed)
    for tokens in (5, 9, 12):
        assert torch.equal(kernel(torch.ones(tokens, 7)), torch.full((tokens, 7), 2.0))
    assert len(made) == (3 if fixed == 2 else 1)
    sizes_given = [own for own in made[0] if not isinstance(own, Tensor)]
    assert len(sizes_given) == 2 - fixed


def test_queries_and_keys_of_a_run_take_few_kernels(made: list[Sequence[Any]]) -> None:
    """Two streams or one, first or later columns of what a projection gives, several sizes, one sample or more."""
    kernel, gradient = (one_kernel(function, fixed=2) for function in (_norm_turn, _norm_turn_gradient))
    for batch in (1, 2, 3):
        for sizes in ((6, 10), (16,), (6, 14), (20,)):
            for begin, linears in ((0, 3), (1, 3), (1, 7)):
                streams = [torch.randn(batch, size, linears, 4, 8)[:, :, begin] for size in sizes]
                arguments = streams, [torch.ones(8) for _ in sizes], *torch.randn(2, sum(sizes), 1, 4)
                torch.testing.assert_close(kernel(*arguments), _norm_turn(*arguments))
                gradient(torch.randn(batch, sum(sizes), 4, 8), *arguments)
    assert len(made) == 8


def test_pytorch_does_not_give_up_on_a_function_that_has_many_kernels(made: list[Sequence[Any]]) -> None:
    def total(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).sum(0)

    kernel = one_kernel(total)
    for count in range(1, 21):
        assert torch.equal(kernel([torch.ones(4, 3)] * count), torch.full((4, 3), float(count)))
    assert len(made) == 20

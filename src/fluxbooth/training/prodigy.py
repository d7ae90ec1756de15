"""Prodigy (arXiv 2306.06101) in few kernels: prodigyopt's numbers, its arguments and its state.

prodigyopt goes through the parameters one by one and asks a GPU twice for a number of each; a LoRA of FLUX.1-dev has
nearly a thousand, and the GPU stands still in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import prodigyopt
import torch
from torch import Tensor, nn

_AT_ONCE = 1 << 26
"""Numbers that are made at a time beside parameters and state: 256 MiB of them."""


class Prodigy(prodigyopt.Prodigy):  # type: ignore[misc]
    """prodigyopt's, for parameters of one device; all updates of a kind are one kernel, and it waits once a step."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step, as prodigyopt does (prodigyopt/prodigy.py), and return what `closure` does.

        Raises:
            RuntimeError: for groups that learn at several rates, other than 0.
        """
        first = self.param_groups[0]
        if first["fsdp_in_use"]:
            return super().step(closure)
        loss = closure() if closure else None
        (beta1, beta2), d = first["betas"], first["d"]
        beta3 = math.sqrt(beta2) if first["beta3"] is None else first["beta3"]
        rate = max(group["lr"] for group in self.param_groups)
        steps = first["k"] + 1
        correction = math.sqrt(1 - beta2**steps) / (1 - beta1**steps) if first["use_bias_correction"] else 1
        scaled = d * rate * correction

        products: list[Tensor] = []
        lengths: list[Tensor] = []
        for group, parameters in self._parts():
            if group["lr"] not in (rate, 0.0):
                raise RuntimeError("Prodigy finds one rate for all parameters: a group's is the others' or 0")
            if group["weight_decay"] and not group["decouple"]:
                torch._foreach_add_(_gradients(parameters), _values(parameters), alpha=group["weight_decay"])
            self._begin(group, parameters)
            if group["lr"]:
                weight = d / group["d0"] * (d if group["safeguard_warmup"] else scaled)
                products += self._products(group, parameters)
                lengths += self._add_up(group, parameters, (beta1, beta2, beta3), weight)
        # The only wait: whether d grows depends on all parameters.
        product, length = _totals(products, lengths)
        if length == 0:
            return loss
        numerator = first["d_numerator"] * beta3 + d / first["d0"] * scaled * product
        found, largest = d, first["d_max"]
        if rate > 0:
            found = first["d_coef"] * numerator / length
            d = max(d, found) if d == first["d0"] else d
            largest = max(largest, found)
            d = min(largest, d * first["growth_rate"])
        for group in self.param_groups:
            group.update(d_numerator=numerator, d_denom=length, d=d, d_max=largest, d_hat=found, k=group["k"] + 1)
        for group, parameters in self._parts():
            self._move(group, parameters, scaled)
        return loss

    def _parts(self) -> Iterator[tuple[dict[str, Any], list[nn.Parameter]]]:
        """Yield some parameters of a group at a time, those with a gradient."""
        for group in self.param_groups:
            part: list[nn.Parameter] = []
            numbers = 0
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if part and numbers + parameter.numel() > _AT_ONCE:
                    yield group, part
                    part, numbers = [], 0
                part.append(parameter)
                numbers += parameter.numel()
            if part:
                yield group, part

    def _begin(self, group: dict[str, Any], parameters: Sequence[nn.Parameter]) -> None:
        new = [parameter for parameter in parameters if "step" not in self.state[parameter]]
        if not new:
            return
        largest = torch.stack(torch._foreach_norm(_values(new), math.inf)).tolist()
        for parameter, own in zip(new, largest, strict=True):
            numbers = _sliced(group, parameter.detach())
            state = self.state[parameter]
            state["step"] = 0
            state["s"] = torch.zeros_like(numbers)
            # A start of zeros is one zero: a LoRA's B takes no memory for it.
            state["p0"] = numbers.clone() if own else torch.zeros((), dtype=numbers.dtype, device=numbers.device)
            if group["betas"][0] > 0:
                state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)

    def _products(self, group: dict[str, Any], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Return the product of each gradient with the way back to the start."""
        ways = torch._foreach_neg([_sliced(group, values) for values in _values(parameters)])
        starts = [self.state[parameter]["p0"] for parameter in parameters]
        from_elsewhere = [(way, start) for way, start in zip(ways, starts, strict=True) if start.dim()]
        if from_elsewhere:
            torch._foreach_add_(*(list(own) for own in zip(*from_elsewhere, strict=True)))
        gradients = [_sliced(group, gradient) for gradient in _gradients(parameters)]
        return [torch.dot(gradient, way) for gradient, way in zip(gradients, ways, strict=True)]

    def _add_up(
        self,
        group: dict[str, Any],
        parameters: Sequence[nn.Parameter],
        betas: tuple[float, float, float],
        weight: float,
    ) -> Sequence[Tensor]:
        """Bring the moments and the sum of gradients up to date, in which this one has `weight`; return each sum's
        length, which is that of its numbers together.
        """
        (beta1, beta2, beta3), d, gradients = betas, group["d"], _gradients(parameters)
        if beta1 > 0:
            means = self._states(parameters, "exp_avg")
            torch._foreach_mul_(means, beta1)
            torch._foreach_add_(means, gradients, alpha=d * (1 - beta1))
        squares, sums = self._states(parameters, "exp_avg_sq"), self._states(parameters, "s")
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=d * d * (1 - beta2))
        torch._foreach_mul_(sums, beta3)
        torch._foreach_add_(sums, [_sliced(group, gradient) for gradient in gradients], alpha=weight)
        return torch._foreach_norm(sums, 1)

    def _move(self, group: dict[str, Any], parameters: Sequence[nn.Parameter], scaled: float) -> None:
        roots = torch._foreach_sqrt(self._states(parameters, "exp_avg_sq"))
        torch._foreach_add_(roots, group["d"] * group["eps"])
        values = _values(parameters)
        if group["weight_decay"] and group["decouple"]:
            torch._foreach_add_(values, values, alpha=-group["weight_decay"] * scaled)
        if group["betas"][0] > 0:
            torch._foreach_addcdiv_(values, self._states(parameters, "exp_avg"), roots, value=-scaled)
        else:
            torch._foreach_addcdiv_(values, _gradients(parameters), roots, value=-scaled * group["d"])
        for parameter in parameters:
            self.state[parameter]["step"] += 1

    def _states(self, parameters: Sequence[nn.Parameter], name: str) -> list[Tensor]:
        return [self.state[parameter][name] for parameter in parameters]


def _values(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach() for parameter in parameters]


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _sliced(group: dict[str, Any], numbers: Tensor) -> Tensor:
    """Return those that the rate is found by, every `slice_p`-th."""
    return numbers.flatten()[:: group["slice_p"]]


def _totals(products: Sequence[Tensor], lengths: Sequence[Tensor]) -> tuple[float, float]:
    if not products:
        return 0.0, 0.0
    both = torch.stack([*products, *lengths]).double().view(2, -1).sum(1)
    product, length = both.tolist()
    return product, length

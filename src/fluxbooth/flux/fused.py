"""The transformer's operations with backward passes of their own, which keep no more than cannot be made again cheaply.

What PyTorch would keep for the backward pass of a block is more than twice this: norms, modulated inputs, activations
and rotated queries and keys are made again from what they were made of, which costs little beside a matrix. Where the
memory has room they may be kept (`whole`): the numbers are the same.
The weights are frozen: no gradient of them is ever formed.

B samples, N tokens, I and O features, R ranks. Everything is of the network's dtype but the LoRA, which is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fluxbooth.flux.gelu import gelu, gelu_gradient_
from fluxbooth.flux.kernels import one_kernel
from fluxbooth.flux.low_rank import LoraPart, LowRank
from fluxbooth.flux.projection import Projection

_EPSILON = 1e-6


def project(inputs: Tensor, projection: Projection) -> Tensor:
    """Project (B, I) inputs: (B, O). The matrix is not kept for the backward pass, and may be elsewhere in between."""
    parts, matrices = projection.lora()
    projected: Tensor = _Project.apply(inputs, projection, parts, *matrices)
    return projected


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, projection: Projection, parts: Sequence[LoraPart], *matrices: Tensor
    ) -> Tensor:
        outputs, low = _projected(inputs, projection, parts, matrices)
        ctx.save_for_backward(inputs, low, *matrices)
        ctx.projection, ctx.parts = projection, parts
        return outputs

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, low, *matrices = ctx.saved_tensors
        flat = gradients.split(ctx.projection.sizes, -1)
        of_inputs, of_matrices = _projection_gradients(
            flat, lambda: inputs, low, ctx.projection, ctx.parts, matrices, ctx.needs_input_grad[0]
        )
        return of_inputs, None, None, *of_matrices


def norm_project(
    inputs: Tensor, scale: Tensor, shift: Tensor, projection: Projection, *, whole: bool = False
) -> tuple[Tensor, ...]:
    """Normalize each token, modulate it and project it: (B, N, I) -> (B, N, o) by each linear of the projection.

    The norm has no weights of its own; what follows is * (1 + scale) + shift (arXiv 2212.09748, adaLN-Zero).

    Args:
        scale, shift: (B, I).
        whole: keep what is projected for the backward pass, instead of making it again.
    """
    parts, matrices = projection.lora()
    projected: tuple[Tensor, ...] = _NormProject.apply(inputs, scale, shift, projection, parts, whole, *matrices)
    return projected


class _NormProject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        scale: Tensor,
        shift: Tensor,
        projection: Projection,
        parts: Sequence[LoraPart],
        whole: bool,
        *matrices: Tensor,
    ) -> tuple[Tensor, ...]:
        normed, means, deviations = _modulated_norm(inputs, scale, shift)
        outputs, low = _projected(normed.flatten(0, 1), projection, parts, matrices)
        kept = normed if whole and parts else None
        ctx.save_for_backward(inputs, scale, shift, means, deviations, low, kept, *matrices)
        ctx.projection, ctx.parts = projection, parts
        return tuple(outputs.view(*inputs.shape[:2], -1).split(projection.sizes, -1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, scale, shift, means, deviations, low, kept, *matrices = ctx.saved_tensors
        flat = [own.flatten(0, 1) for own in gradients]

        def normed() -> Tensor:
            made: Tensor = _modulated_norm(inputs, scale, shift)[0] if kept is None else kept
            return made.flatten(0, 1)

        of_normed, of_matrices = _projection_gradients(
            flat,
            normed,
            low,
            ctx.projection,
            ctx.parts,
            matrices,
            any(ctx.needs_input_grad[:3]),
        )
        if of_normed is None:
            return None, None, None, None, None, None, *of_matrices
        of_three = _modulated_norm_gradients(
            of_normed.view_as(inputs), inputs, scale, shift, means, deviations, ctx.needs_input_grad[0]
        )
        return *of_three, None, None, None, *of_matrices


def _projected(
    inputs: Tensor, projection: Projection, parts: Sequence[LoraPart], matrices: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the projection of (N, I) inputs, (N, O), and what the LoRA's A made of them, (N, R)."""
    outputs = projection.matrix().times([inputs], projection.bias)
    if not parts:
        return outputs, inputs.new_empty(0)
    lora = LowRank(parts, matrices, inputs.dtype)
    low = inputs @ lora.downs.T
    lora.add_ups(outputs, low)
    return outputs, low


def _projection_gradients(
    gradients: Sequence[Tensor],
    inputs: Callable[[], Tensor],
    low: Tensor,
    projection: Projection,
    parts: Sequence[LoraPart],
    matrices: Sequence[Tensor],
    of_inputs: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the gradient of a projection's inputs, (N, I), where `of_inputs`, and those of A and B of each LoRA.

    Args:
        gradients: (N, o) of each linear's outputs.
        inputs: makes them again, (N, I).
        low: what the LoRA's A made of them, (N, R).
    """
    matrix = projection.matrix()
    if not parts:
        return matrix.back(gradients) if of_inputs else None, []
    lora = LowRank(parts, matrices, low.dtype)
    of_low, of_ups = lora.gradients(gradients, low)
    total = matrix.back(gradients, added=(of_low, lora.downs)) if of_inputs else None
    return total, _alternating(lora.gradients_of_downs(of_low.T @ inputs()), of_ups)


def _modulated_norm(inputs: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm with each sample's own weight 1 + scale and bias shift: (B, N, I), and each token's mean and 1/std."""
    features = inputs.shape[-1:]
    each = [
        torch.native_layer_norm(tokens, features, weight, bias, _EPSILON)
        for tokens, weight, bias in zip(inputs, 1 + scale, shift, strict=True)
    ]
    normed, means, deviations = (_stacked(values) for values in zip(*each, strict=True))
    return normed, means, deviations


def _modulated_norm_gradients(
    gradients: Tensor, inputs: Tensor, scale: Tensor, shift: Tensor, means: Tensor, deviations: Tensor, of_inputs: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of inputs (B, N, I), scale and shift (B, I)."""
    features = list(inputs.shape[-1:])
    mask = [of_inputs, True, True]
    each = [
        torch.ops.aten.native_layer_norm_backward(grad, tokens, features, mean, deviation, weight, bias, mask)
        for grad, tokens, mean, deviation, weight, bias in zip(
            gradients, inputs, means, deviations, 1 + scale, shift, strict=True
        )
    ]
    of_tokens, of_scale, of_shift = zip(*each, strict=True)
    return _stacked(of_tokens) if of_inputs else None, _stacked(of_scale), _stacked(of_shift)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """torch.stack, which copies one tensor, too."""
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0][None]


@dataclass(frozen=True)
class Source:
    """One of the inputs of `gated_project`: whether it goes through GELU, and the columns of the matrix it meets."""

    activated: bool
    begin: int
    end: int


def gated_project(
    residual: Tensor,
    gate: Tensor,
    inputs: Sequence[Tensor],
    sources: Sequence[Source],
    projection: Projection,
    *,
    whole: bool = False,
) -> Tensor:
    """Return residual + gate * (the projection of all inputs side by side, (B, N, O)); they are never copied together.

    Args:
        residual: (B, N, O).
        gate: (B, O).
        inputs: (B, N, columns) each, before their activation (GELU, tanh approximation).
        whole: keep what comes out of the activation for the backward pass, instead of making it again.
    """
    parts, matrices = projection.lora()
    total: Tensor = _GatedProject.apply(
        residual, gate, projection, parts, sources, whole, len(inputs), *inputs, *matrices
    )
    return total


class _GatedProject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        gate: Tensor,
        projection: Projection,
        parts: Sequence[LoraPart],
        sources: Sequence[Source],
        whole: bool,
        number: int,
        *tensors: Tensor,
    ) -> Tensor:
        inputs, matrices = tensors[:number], tensors[number:]
        activated = [_activated(tokens, source) for source, tokens in zip(sources, inputs, strict=True)]
        outputs = projection.matrix().times(activated, projection.bias)
        low = residual.new_empty(0)
        if parts:
            lora = LowRank(parts, matrices, residual.dtype)
            blocks = [lora.downs[:, source.begin : source.end].T for source in sources]
            low = activated[0] @ blocks[0]
            for own, down in zip(activated[1:], blocks[1:], strict=True):
                low.addmm_(own, down)
            lora.add_ups(outputs, low)
        projected = outputs.view_as(residual)
        keeps = whole and bool(parts)
        kept = [own if keeps and source.activated else None for source, own in zip(sources, activated, strict=True)]
        ctx.save_for_backward(gate, projected, low, *kept, *tensors)
        ctx.projection, ctx.parts, ctx.sources, ctx.number = projection, parts, sources, number
        return torch.addcmul(residual, gate[:, None], projected)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, projected, low, *tensors = ctx.saved_tensors
        kept, inputs, matrices = tensors[: ctx.number], tensors[ctx.number : 2 * ctx.number], tensors[2 * ctx.number :]
        of_gate = None
        if ctx.needs_input_grad[1]:
            of_outputs, of_gate = _gate_gradients(gradients, gate, projected)
        else:
            of_outputs = gradients * gate[:, None]
        of_outputs = of_outputs.flatten(0, 1)
        lora = LowRank(ctx.parts, matrices, gradients.dtype) if ctx.parts else None
        if lora is not None:
            of_low, of_ups = lora.gradients([of_outputs], low)
            of_downs = torch.empty_like(lora.downs)
        matrix = ctx.projection.matrix()
        of_inputs: list[Tensor | None] = []
        for number, (source, tokens) in enumerate(zip(ctx.sources, inputs, strict=True)):
            columns = slice(source.begin, source.end)
            if lora is not None:
                torch.mm(of_low.T, _activated_again(kept[number], tokens, source), out=of_downs[:, columns])
            if not ctx.needs_input_grad[7 + number]:
                of_inputs.append(None)
                continue
            added = None if lora is None else (of_low, lora.downs[:, columns])
            of_activated = matrix.back([of_outputs], columns, added)
            if source.activated:
                gelu_gradient_(of_activated, tokens.flatten(0, 1))
            of_inputs.append(of_activated.view_as(tokens))
        of_matrices: list[Tensor] = []
        if lora is not None:
            of_matrices = _alternating(lora.gradients_of_downs(of_downs), of_ups)
        return gradients, of_gate, None, None, None, None, None, *of_inputs, *of_matrices


def _gate_gradients(gradients: Tensor, gate: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of what a gate (B, O) is multiplied with, (B, N, O), and of the gate."""
    compute = one_kernel(_by_gate, fixed=1) if gradients.device.type != "cpu" else _by_gate
    return compute(gradients, gate, projected)


def _by_gate(gradients: Tensor, gate: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
    return gradients * gate[:, None], (gradients * projected).sum(1)


def _activated(tokens: Tensor, source: Source) -> Tensor:
    """Return (B * N, columns), through GELU where the source asks for it."""
    flat = tokens.flatten(0, 1)
    return gelu(flat) if source.activated else flat


def _activated_again(kept: Tensor | None, tokens: Tensor, source: Source) -> Tensor:
    return _activated(tokens, source) if kept is None else kept


def _alternating(downs: Sequence[Tensor], ups: Sequence[Tensor]) -> list[Tensor]:
    return [matrix for pair in zip(downs, ups, strict=True) for matrix in pair]

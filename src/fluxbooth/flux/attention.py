"""Attention over text and image tokens: queries and keys normalized and turned by their positions, then softmax.

B samples, N tokens, M of them with queries, H heads, D features a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fluxbooth.flux.rotary import norm_turn, norm_turn_gradient

# Bytes of a block's probabilities that the CPU keeps for the backward pass at most; a head's are M * N numbers. Those
# of the other heads are made again.
_KEPT_BYTES = 256 << 20
# So many rows of such a matrix are made at a time, fewer where they are long: what is made stays in the CPU's cache for
# all that is done with it.
_ROWS_AT_ONCE = 512
_NUMBERS_AT_ONCE = 9 << 18
# The CPU looks at every sixteenth key to find out how large a row's logits are.
_SAMPLED_KEYS = 16


def attend(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    query_weights: Sequence[Tensor],
    key_weights: Sequence[Tensor],
    turns: Tensor,
    *,
    whole: bool = False,
) -> Tensor:
    """Attention of M tokens to all tokens, (B, M, H * D).

    For the backward pass what comes in is kept, and turned queries and keys are made again.

    Args:
        queries, keys, values: (B, n, H, D) of each stream, text first; their n add up to N, those of queries to M,
            where only the last tokens have some.
        query_weights, key_weights: (D,) float32 of each stream, the weights of the norms; `scaled` ones of queries.
        turns: (N, D / 2), as `rotations` gives them.
        whole: turned queries and keys are kept, too. Has to be where the pass is done again (torch.utils.checkpoint):
            its hooks must not lie below others, which would keep what it drops.
    """
    query_turns = turns[len(turns) - sum(own.shape[1] for own in queries) :]
    turned_queries = _NormTurn.apply(query_turns, query_weights, *queries)
    turned_keys = _NormTurn.apply(turns, key_weights, *keys)
    joined = (values[0] if len(values) == 1 else torch.cat(list(values), dim=1)).transpose(1, 2)
    # What is kept in place of each: what it is made of, which is kept anyway.
    made_of = {
        _place(turned_queries): ([tensor.detach() for tensor in queries], query_weights, query_turns),
        _place(turned_keys): ([tensor.detach() for tensor in keys], key_weights, turns),
    }

    def pack(tensor: Tensor) -> Any:
        # Detached: what came out of attention would hold itself, and a pass that breaks off would never be free again.
        return made_of.get(_place(tensor), tensor.detach())

    def unpack(packed: Any) -> Tensor:
        return packed if isinstance(packed, Tensor) else norm_turn(*packed)

    with nullcontext() if whole else torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        if turned_queries.device.type == "cpu" and turned_queries.dtype is torch.bfloat16:
            seen = _CpuAttention.apply(turned_queries, turned_keys, joined)
        else:
            seen = F.scaled_dot_product_attention(turned_queries, turned_keys, joined, scale=1.0)
    attended: Tensor = seen.transpose(1, 2).flatten(2)
    return attended


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape


def scaled(weight: Tensor) -> Tensor:
    """Return the weight of the queries' norm, (D,), times the scale of the logits, float32: it goes into the queries
    before they are rounded.
    """
    return weight.float() / math.sqrt(len(weight))


class _NormTurn(torch.autograd.Function):
    """`norm_turn` of (B, n, H, D) each: (B, H, N, D)."""

    @staticmethod
    def forward(ctx: Any, turns: Tensor, weights: Sequence[Tensor], *streams: Tensor) -> Tensor:
        ctx.save_for_backward(turns, *weights, *streams)
        return norm_turn(streams, weights, turns)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        turns, *tensors = ctx.saved_tensors
        weights, streams = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        return None, None, *norm_turn_gradient(gradients, streams, weights, turns)


class _CpuAttention(torch.autograd.Function):
    """softmax(Q K^T) V in bfloat16 by the CPU's large matrix products, some rows at a time; the scale is in Q.

    Each row's logits are rounded after a number near their maximum is taken off (softmax does not see it), so that the
    large probabilities have small logits and lose no more than a bfloat16 probability does.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, heads, rows, features = queries.shape
        tokens = keys.shape[2]
        outputs = queries.new_empty(batch, rows, heads, features).transpose(1, 2)
        offsets = queries.new_empty(batch, heads, rows, 1)
        kept = [queries.new_empty(rows, tokens) for _ in range(kept_heads(batch * heads, rows, tokens))]
        at_once = _rows_at_once(rows, tokens)
        buffer = queries.new_empty(at_once, tokens)
        for number, (sample, head) in enumerate(product(range(batch), range(heads))):
            query, key, value = _of_head(sample, head, queries, keys, values)
            offset = offsets[sample, head]
            offset[:, 0] = (key[::_SAMPLED_KEYS] @ query.T).amax(0).neg_()
            for begin, end in _rows(0, rows, at_once):
                probabilities = kept[number][begin:end] if number < len(kept) else buffer[: end - begin]
                _probabilities(query[begin:end], key, offset[begin:end], out=probabilities)
                torch.mm(probabilities, value, out=outputs[sample, head, begin:end])
        ctx.save_for_backward(queries, keys, values, outputs, offsets, *kept)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values, outputs, offsets, *kept = ctx.saved_tensors
        batch, heads, rows, features = queries.shape
        tokens = keys.shape[2]
        of_queries, of_keys = queries.new_empty(queries.shape), keys.new_empty(keys.shape)
        of_values = queries.new_empty(batch, tokens, heads, features).transpose(1, 2)
        common = _common(gradients, outputs)
        # With all probabilities there, what is summed over their rows is one product: no part of the sum is rounded.
        at_once = _rows_at_once(rows, tokens)
        summed = rows if len(kept) == batch * heads else at_once
        of_logits, made_again = queries.new_empty(2, summed, tokens)
        for number, (sample, head) in enumerate(product(range(batch), range(heads))):
            query, key, value, gradient = _of_head(sample, head, queries, keys, values, gradients)
            of_key: list[Tensor] = []
            of_value: list[Tensor] = []
            for first, last in _rows(0, rows, summed):
                probabilities = kept[number][first:last] if number < len(kept) else made_again[: last - first]
                for begin, end in _rows(first, last, at_once):
                    own, of_own = (made[begin - first : end - first] for made in (probabilities, of_logits))
                    if number >= len(kept):
                        _probabilities(query[begin:end], key, offsets[sample, head, begin:end], out=own)
                    _of_logits(gradient[begin:end], value, common[sample, head, begin:end], own, out=of_own)
                    torch.mm(of_own, key, out=of_queries[sample, head, begin:end])
                of_key.append(of_logits[: last - first].T @ query[first:last])
                of_value.append(probabilities.T @ gradient[first:last])
            of_keys[sample, head] = _summed(of_key)
            of_values[sample, head] = _summed(of_value)
        return of_queries, of_keys, of_values


def kept_heads(heads: int, rows: int, tokens: int) -> int:
    """Count the heads, of all samples, of which the CPU keeps the probabilities for the backward pass in bfloat16.

    Args:
        rows: M.
        tokens: N.
    """
    return min(heads, _KEPT_BYTES // (torch.bfloat16.itemsize * rows * tokens))


def _of_head(sample: int, head: int, *tensors: Tensor) -> list[Tensor]:
    """Return (n, D) of each of (B, H, n, D), row behind row: its products take up to a seventh less time."""
    return [tensor[sample, head].contiguous() for tensor in tensors]


def _common(gradients: Tensor, outputs: Tensor) -> Tensor:
    """What each row of the probabilities' gradients has in common, negative: (B, H, M, D) both -> (B, H, M, 1).

    It is the row's mean by its probabilities, so sum(gradient * output) gives it before the row is made.
    """
    # Of all heads at once, since their numbers lie side by side.
    parts = zip(gradients.split(_ROWS_AT_ONCE, dim=2), outputs.split(_ROWS_AT_ONCE, dim=2), strict=True)
    return torch.cat([(gradient * output).sum(-1, keepdim=True) for gradient, output in parts], dim=2).neg_()


def _probabilities(query: Tensor, key: Tensor, offset: Tensor, out: Tensor) -> None:
    """Write softmax(query key^T) to `out`, (rows, N)."""
    torch.addmm(offset, query, key.T, out=out)
    torch.softmax(out, -1, out=out)


def _of_logits(gradient: Tensor, value: Tensor, common: Tensor, probabilities: Tensor, out: Tensor) -> None:
    """Write the gradients of some rows' logits to `out`, (rows, N); what is common goes before they are rounded."""
    torch.addmm(common, gradient, value.T, out=out)
    torch.ops.aten._softmax_backward_data.out(out, probabilities, -1, out.dtype, grad_input=out)


def _summed(parts: Sequence[Tensor]) -> Tensor:
    """Add up in float32; one part stays as it is."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0].float()
    for part in parts[1:]:
        total += part
    return total


def _rows(begin: int, end: int, at_once: int) -> list[tuple[int, int]]:
    return list(pairwise([*range(begin, end, at_once), end]))


def _rows_at_once(rows: int, tokens: int) -> int:
    at_most = max(min(_ROWS_AT_ONCE, _NUMBERS_AT_ONCE // tokens), 1)
    return math.ceil(rows / math.ceil(rows / at_most))

"""A frozen matrix as the transformer multiplies with it, forward and backward.

N tokens, I features in, O features out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fluxbooth.flux.stored import StoredLinear

ALL_COLUMNS = slice(None)
# The CPU's bfloat16 products: the columns of a wide result that are made at a time, and the rows from which on that
# pays; what is summed over at a time in a product of gradients, and the rows from which on it pays to turn the matrix
# before that.
_COLUMNS_AT_ONCE = 3072
_ROWS_TO_DIVIDE = 1280
_SUMMED_AT_ONCE = 3072
_ROWS_TO_TURN = 2048


class FrozenMatrix(Protocol):
    """The weights of linears that read the same input, one below the other: (O, I). No gradient of it is formed."""

    def times(self, inputs: Sequence[Tensor], bias: Tensor) -> Tensor:
        """Return bias (O,) + inputs @ the matrix transposed: (N, O).

        Args:
            inputs: (N, columns) each, which side by side are (N, I).
        """

    def back(
        self, gradients: Sequence[Tensor], columns: slice = ALL_COLUMNS, added: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return the gradient of what `times` was given in `columns`, for that of each linear's outputs.

        Args:
            added: their product is added, (N, R) and (R, columns).
        """


class DenseMatrix:
    """A `FrozenMatrix` in the numbers that it is multiplied in."""

    def __init__(self, linears: Sequence[nn.Linear], joined: Tensor | None) -> None:
        """Take the linears' weights.

        Args:
            joined: all of them as one tensor; None where they are held in fewer bits, and are made as they are needed.
        """
        self._linears = linears
        self._joined = joined

    def times(self, inputs: Sequence[Tensor], bias: Tensor) -> Tensor:
        """As `FrozenMatrix.times`; the inputs are multiplied one by one, and never copied side by side."""
        weights = self._whole().split([own.shape[1] for own in inputs], 1)
        outputs = inputs[0].new_empty(len(inputs[0]), len(bias))
        for columns in _columns_at_a_time(outputs):
            own_outputs = outputs[:, columns]
            torch.addmm(bias[columns], inputs[0], weights[0][columns].T, out=own_outputs)
            for own, weight in zip(inputs[1:], weights[1:], strict=True):
                own_outputs.addmm_(own, weight[columns].T)
        return outputs

    def back(
        self, gradients: Sequence[Tensor], columns: slice = ALL_COLUMNS, added: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """As `FrozenMatrix.back`; the gradients are multiplied one by one, and never copied side by side."""
        # What is added comes first: the large products read it while they compute.
        total = None if added is None else added[0] @ added[1]
        for of_linear, rows in zip(gradients, self._rows(), strict=True):
            for own, matrix in _in_parts(of_linear, rows[:, columns]):
                beta = 0 if total is None else 1
                if total is None:
                    total = own.new_empty(len(own), matrix.shape[1])
                for part in _columns_at_a_time(total):
                    total[:, part].addmm_(own, matrix[:, part], beta=beta)
        assert total is not None, "a projection has a linear"
        return total

    def _whole(self) -> Tensor:
        if self._joined is None:
            made = [_dense(linear) for linear in self._linears]
            self._joined = made[0] if len(made) == 1 else torch.cat(made)
        return self._joined

    def _rows(self) -> Iterator[Tensor]:
        """Yield each linear's own matrix, (outputs, I)."""
        if len(self._linears) == 1:
            yield self._whole()
            return
        for linear in self._linears:
            yield _dense(linear)


def _dense(linear: nn.Linear) -> Tensor:
    return linear.dense() if isinstance(linear, StoredLinear) else linear.weight


def _in_parts(gradients: Tensor, matrix: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield products that add up to gradients (N, o) times a matrix (o, I), as they are fastest.

    The CPU's bfloat16 products are slow where they sum over many rows of a matrix, and want both sides row by row along
    what is summed over: with many gradients it pays to turn the matrix.
    """
    if not _on_cpu_in_bfloat16(gradients):
        yield gradients, matrix
        return
    turns = len(gradients) >= _ROWS_TO_TURN and matrix.is_contiguous()
    for own, rows in zip(gradients.split(_SUMMED_AT_ONCE, 1), matrix.split(_SUMMED_AT_ONCE), strict=True):
        yield own, rows.T.contiguous().T if turns else rows


def _columns_at_a_time(result: Tensor) -> list[slice]:
    """Divide the columns of a product (N, O) as they are fastest made: the CPU's wide ones lose time to its cache."""
    columns = result.shape[1]
    divides = _on_cpu_in_bfloat16(result) and len(result) >= _ROWS_TO_DIVIDE
    step = _COLUMNS_AT_ONCE if divides else columns
    return [slice(begin, begin + step) for begin in range(0, columns, step)]


def _on_cpu_in_bfloat16(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype is torch.bfloat16

"""Numbers that jump from step to step, made readable."""

from __future__ import annotations

from collections.abc import Iterable

_KEPT = 0.98


class Recent:
    """A mean over about the last fifty values: each step back counts 2 % less.

    It is a mean from the first value on, with no pull towards zero (the bias correction of arXiv 1412.6980,
    section 3).
    """

    def __init__(self, values: Iterable[float] = ()) -> None:
        """Begin behind `values`."""
        self._sum = self._weight = 0.0
        for value in values:
            self.add(value)

    def add(self, value: float) -> float:
        """Take in a value, and return the mean with it."""
        self._sum = _KEPT * self._sum + (1 - _KEPT) * value
        self._weight = _KEPT * self._weight + (1 - _KEPT)
        return self._sum / self._weight

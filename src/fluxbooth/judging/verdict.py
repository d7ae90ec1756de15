"""Which of several scored checkpoints is the best, why, and from which step on the training went too far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from fluxbooth.judging.measures import interval, mark_resamples
from fluxbooth.judging.scores import CheckpointScore, ConceptScore, Measure, Verdict


class _Scored(Protocol):
    @property
    def concepts(self) -> tuple[ConceptScore, ...]: ...

    @property
    def mark(self) -> Measure: ...

    @property
    def vetoes(self) -> tuple[str, ...]: ...

    @property
    def overbaked(self) -> tuple[str, ...]: ...


Scored = TypeVar("Scored", bound=_Scored)


def decide(checkpoints: Sequence[CheckpointScore], best_file: str) -> Verdict:
    """Choose the best of checkpoints in the order of their steps.

    The highest mark counts among those without a veto and without signs of having learnt too long; where there are
    none, among those without the one or the other, and at last among all. Of those that are no worse than it by more
    than other seeds might make, the earliest wins: it has learnt least by heart.
    """
    pool, out_of = candidates(checkpoints)
    top = max(pool, key=lambda one: one.mark.mean)
    equal = [one for one in pool if not is_worse(one, top)]
    best = equal[0]
    names = {one.file: f"step {one.step:,}" for one in checkpoints}
    worst = min(best.concepts, key=lambda one: one.mark.mean)
    mark = f"{best.mark.mean:.3f} ({best.mark.low:.3f} to {best.mark.high:.3f})"
    sentences = [out_of] if out_of else []
    if len(checkpoints) == 1:
        sentences.append(f"It is the only one, its mark is {mark}.")
    elif len(pool) == 1:
        sentences.append(f"No other one is left; its mark is {mark}.")
    elif len(equal) == 1:
        sentences.append(f"The highest mark, {mark}, and other seeds would not change that.")
    else:
        others = _listed([names[one.file] for one in equal if one is not best])
        sentences.append(f"Its mark is {mark}; between it and {others} there is no difference, and the earliest wins.")
    if len(best.concepts) > 1:
        sentences.append(f"It draws '{worst.concept}' worst ({worst.mark.mean:.3f}).")
    for one in checkpoints:
        if one not in pool and one.mark.mean > best.mark.mean:
            why = (*one.vetoes, *one.overbaked)[0]
            sentences.append(f"{names[one.file].capitalize()} has a higher mark and does not count: {why}.")
    step, why = overbaked_from(checkpoints)
    return Verdict(best.file, best.step, best_file, " ".join(sentences), tuple(one.file for one in equal), step, why)


def candidates(scored: Sequence[Scored]) -> tuple[list[Scored], str]:
    """Return those that may be the best, and a sentence where that is not a matter of course."""
    tests: tuple[tuple[Callable[[Scored], bool], str], ...] = (
        (lambda one: not one.vetoes and not one.overbaked, ""),
        (lambda one: not one.vetoes, "All show signs of having learnt too long, so that does not decide."),
        (lambda one: not one.overbaked, "All draw something as a concept nobody asked for, so that does not decide."),
        (lambda one: True, "All draw something as a concept nobody asked for or have learnt too long: none is good."),
    )
    for test, said in tests:
        if found := [one for one in scored if test(one)]:
            return found, said
    raise ValueError("nothing was scored")


def is_worse(one: Scored, other: Scored) -> bool:
    """Whether one's mark is below the other's with 95 % of the resamples of the seeds behind it."""
    low, _ = interval(_marks(other) - _marks(one))
    return low > 0


def overbaked_from(checkpoints: Sequence[CheckpointScore]) -> tuple[int | None, str]:
    """Return the step from which on every checkpoint shows signs of having learnt too long, and which; None without."""
    signs: CheckpointScore | None = None
    for one in reversed(checkpoints):
        if not one.overbaked:
            break
        signs = one
    return (signs.step, "; ".join(signs.overbaked)) if signs else (None, "")


def patience_is_out(checkpoints: Sequence[CheckpointScore], patience: int) -> bool:
    """Whether none of the last `patience` checkpoints has a higher mark than all before them.

    One that bleeds or shows signs of having learnt too long counts for nothing.
    """
    if len(checkpoints) <= patience:
        return False
    before, last = checkpoints[:-patience], checkpoints[-patience:]
    highest = max((one.mark.mean for one in before if _counts(one)), default=-math.inf)
    return all(not _counts(one) or one.mark.mean <= highest for one in last)


def _counts(one: CheckpointScore) -> bool:
    return not one.vetoes and not one.overbaked


def _marks(one: _Scored) -> np.ndarray:
    return mark_resamples([(concept.fidelity, concept.clip_t) for concept in one.concepts])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

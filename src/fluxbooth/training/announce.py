"""What a run is going to do, said before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Plan

_MUCH_IS_CUT = 0.8
"""Pictures that keep less of their area than this are named."""


def announcement(items: Sequence[Item], plan: Plan, steps: int) -> Iterator[str]:
    """Say in lines how many pictures each concept has, what is cropped away, and how many steps there will be."""
    for concept in dict.fromkeys(item.concept for item in items):
        own = [item for item in items if item.concept == concept]
        sizes = sorted({"{} x {}".format(*item.placement.bucket) for item in own})
        kind = ", regularization" if own[0].is_reg else ""
        yield f"{concept}: {_count(len(own), 'picture')} x {own[0].repeats}{kind}, seen at {', '.join(sizes)} pixels"
    cut = [item for item in items if item.placement.kept < _MUCH_IS_CUT]
    if cut:
        named = ", ".join(f"{item.path.parent.name}/{item.path.name} {item.placement.kept:.0%}" for item in cut)
        yield f"cropped, share that is kept: {named}. enable_bucket = true with a larger max_bucket_reso keeps more"
    epochs = steps / plan.steps_per_epoch
    yield (
        f"{_count(plan.samples_per_epoch, 'sample')} an epoch, {_count(steps, 'optimizer step')} ({epochs:.4g} epochs)"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

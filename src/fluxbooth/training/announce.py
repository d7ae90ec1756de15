"""What a run is going to do, said before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Plan
from fluxbooth.errors import counted


def announcement(items: Sequence[Item], plan: Plan, steps: int, held_out: Sequence[Item] = ()) -> Iterator[str]:
    """Say in lines how many pictures each concept has, at which sizes, and how many steps there will be.

    Args:
        items: what is trained on; held_out: what is not.
    """
    alone = [item for item in items if not item.also_shows]
    for concept, is_reg in dict.fromkeys((item.concept, item.is_reg) for item in alone):
        own = [item for item in alone if (item.concept, item.is_reg) == (concept, is_reg)]
        sizes = sorted({"{} x {}".format(*item.placement.bucket) for item in own})
        kind = ", regularization" if is_reg else ""
        aside = 0 if is_reg else sum(item.concept == concept for item in held_out)
        besides = f"; {aside} more held out" if aside else ""
        pictures = counted(len(own), "picture")
        yield f"{concept}: {pictures} x {own[0].repeats}{kind}, seen at {', '.join(sizes)} pixels{besides}"
    if composites := [item for item in items if item.also_shows]:
        yield f"two concepts side by side: {counted(len(composites), 'composite')} in {composites[0].path.parent}"
    epochs = steps / plan.steps_per_epoch
    yield (
        f"{counted(plan.samples_per_epoch, 'sample')} an epoch, "
        f"{counted(steps, 'optimizer step')} ({epochs:.4g} epochs)"
    )

"""What a run is going to do, said before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Plan

_MUCH_IS_CUT = 0.8
"""Pictures that keep less of their area than this are named."""


def announcement(items: Sequence[Item], plan: Plan, steps: int) -> Iterator[str]:
    """Say in lines how many pictures each concept has, what is cropped away, and how many steps there will be."""
    alone = [item for item in items if not item.also_shows]
    for concept, is_reg in dict.fromkeys((item.concept, item.is_reg) for item in alone):
        own = [item for item in alone if (item.concept, item.is_reg) == (concept, is_reg)]
        sizes = sorted({"{} x {}".format(*item.placement.bucket) for item in own})
        kind = ", regularization" if is_reg else ""
        yield f"{concept}: {_count(len(own), 'picture')} x {own[0].repeats}{kind}, seen at {', '.join(sizes)} pixels"
    if composites := [item for item in items if item.also_shows]:
        yield f"two concepts side by side: {_count(len(composites), 'composite')} in {composites[0].path.parent}"
    unread = sorted(
        {item.path.parent.name for item in alone if item.path.with_suffix(".txt").is_file() and not _is_read(item)}
    )
    if unread:
        yield f'captions in .txt files of {", ".join(unread)} are not read; caption_extension = ".txt" reads them'
    cut = [item for item in items if item.placement.kept < _MUCH_IS_CUT]
    if cut:
        named = ", ".join(f"{item.path.parent.name}/{item.path.name} {item.placement.kept:.0%}" for item in cut)
        yield f"cropped, share that is kept: {named}. enable_bucket = true with a larger max_bucket_reso keeps more"
    epochs = steps / plan.steps_per_epoch
    yield (
        f"{_count(plan.samples_per_epoch, 'sample')} an epoch, {_count(steps, 'optimizer step')} ({epochs:.4g} epochs)"
    )


def _is_read(item: Item) -> bool:
    """Whether the .txt file beside a picture is its caption file."""
    return item.caption_extension == ".txt"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

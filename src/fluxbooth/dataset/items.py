"""From concept folders to items: every picture read once, with its size, digest, caption and bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxbooth.config.data_toml import ConceptSpec, DatasetSpec
from fluxbooth.dataset.buckets import (
    Placement,
    bucket_sizes,
    cover,
    place_in_buckets,
    place_without_upscaling,
)
from fluxbooth.dataset.captions import UnreadableCaptionError, caption_of
from fluxbooth.dataset.pictures import PICTURE_SUFFIXES, UnreadablePictureError, open_upright, picture_files
from fluxbooth.errors import Problems

_LEAST_KEPT = 0.01
"""A picture that keeps less of its area would grow to a hundred times its bucket on the way there."""


@dataclass(frozen=True)
class Item:
    """One training picture with its caption."""

    path: Path
    digest: str
    """sha256 of the file's bytes: the item's stable identity."""
    placement: Placement
    caption: str
    caption_extension: str
    """Ending of its caption file, whether there is one or not."""
    concept: str
    """The class tokens of its concept, or the folder's name where it has none."""
    repeats: int
    """Times it appears in an epoch."""
    is_reg: bool
    flip_aug: bool
    shuffle_caption: bool
    keep_tokens: int
    caption_separator: str
    dataset: int
    """Number of its dataset in the file, from 0: regularization items match the items of their own dataset."""
    batch_size: int
    """How many items of its bucket make a micro-batch."""
    also_shows: tuple[str, ...] = ()
    """In a composite: the class tokens of the concepts beside the first."""


def read_items(datasets: Sequence[DatasetSpec], problems: Problems) -> list[Item]:
    """Read every picture of every concept, in the order of the file and then by name.

    Adds folders without pictures, unreadable pictures, empty captions, items without any caption and two pictures of
    one name (their caption file would be the same) to `problems`.
    """
    items: list[Item] = []
    for number, dataset in enumerate(datasets):
        for concept in dataset.concepts:
            items += _items_of_concept(concept, dataset, number, problems)
    return items


def _items_of_concept(concept: ConceptSpec, dataset: DatasetSpec, number: int, problems: Problems) -> list[Item]:
    try:
        files = picture_files(concept.image_dir)
    except PermissionError:
        problems.add(
            f"folder '{concept.image_dir}' may not be read", where=concept.where, do="Give its reader the right to"
        )
        return []
    if not files:
        problems.add(
            f"no pictures in '{concept.image_dir}'",
            where=concept.where,
            allowed=f"files ending in {', '.join(PICTURE_SUFFIXES)}, right inside the folder",
            do="Put pictures there or correct image_dir",
        )
    stems = [file.stem for file in files]
    for stem in sorted({stem for stem in stems if stems.count(stem) > 1}):
        same = ", ".join(file.name for file in files if file.stem == stem)
        problems.add(
            f"{same} share one name, and so one caption file", where=str(concept.image_dir), do="Rename all but one"
        )
    found = (_item(file, concept, dataset, number, problems) for file in files)
    return [item for item in found if item is not None]


def _item(file: Path, concept: ConceptSpec, dataset: DatasetSpec, number: int, problems: Problems) -> Item | None:
    try:
        data = file.read_bytes()
        picture = open_upright(data)
        placement = _placement(picture.size, dataset)
        if placement.kept < _LEAST_KEPT:
            raise ValueError(
                f"{picture.width} x {picture.height} pixels is so thin that {placement.kept:.1%} would be seen"
            )
        caption = caption_of(file, concept.caption_extension, concept.class_tokens)
    except UnreadablePictureError as error:
        problems.add(f"cannot be read as a picture: {error}", where=str(file), do="Replace or remove it")
        return None
    except PermissionError as error:
        problems.add("may not be read", where=str(error.filename or file), do="Give its reader the right to")
        return None
    except UnreadableCaptionError as error:
        problems.add(
            f"the caption cannot be used: {error}",
            where=str(file.with_suffix(concept.caption_extension)),
            do="Write a caption into it, or remove it to use class_tokens",
        )
        return None
    except ValueError as error:
        problems.add(str(error), where=str(file), do="Remove it")
        return None
    if not caption:
        problems.add(
            "has no caption",
            where=str(file),
            do=f"Give its subset class_tokens, or write {file.with_suffix(concept.caption_extension).name}",
        )
    return Item(
        path=file,
        digest=hashlib.sha256(data).hexdigest(),
        placement=placement,
        caption=caption,
        caption_extension=concept.caption_extension,
        concept=concept.class_tokens or concept.image_dir.name,
        repeats=concept.num_repeats,
        is_reg=concept.is_reg,
        flip_aug=concept.flip_aug,
        shuffle_caption=concept.shuffle_caption,
        keep_tokens=concept.keep_tokens,
        caption_separator=concept.caption_separator,
        dataset=number,
        batch_size=dataset.batch_size,
    )


def _placement(size: tuple[int, int], dataset: DatasetSpec) -> Placement:
    area, step = dataset.width * dataset.height, dataset.bucket_reso_steps
    if not dataset.enable_bucket:
        return cover(size, (dataset.width, dataset.height))
    if dataset.bucket_no_upscale:
        return place_without_upscaling(*size, area, step)
    # kohya rounds the limits to whole steps, outwards (library/train_util, adjust_min_max_bucket_reso_by_steps).
    smallest = dataset.min_bucket_reso // step * step
    largest = -(-dataset.max_bucket_reso // step) * step
    return place_in_buckets(*size, bucket_sizes(area, max(smallest, step), largest, step))

"""From concept folders to items: every picture read once, with its size, digest, caption and bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fluxbooth.config.specs import CaptionSpec, ConceptSpec, DatasetSpec, PictureSpec
from fluxbooth.dataset.buckets import (
    Placement,
    bucket_sizes,
    cover,
    place_in_buckets,
    place_without_upscaling,
)
from fluxbooth.dataset.captions import UnreadableCaptionError, caption_of
from fluxbooth.dataset.facts import PictureMemory
from fluxbooth.dataset.pictures import PICTURE_SUFFIXES, UnreadablePictureError, picture_files
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
    """As written; several lines where wildcards are on."""
    caption_extension: str
    """Ending of its caption file, whether there is one or not."""
    caption_spec: CaptionSpec
    picture_spec: PictureSpec
    concept: str
    """The class tokens of its concept, or the folder's name where it has none."""
    repeats: int
    """Times it appears in an epoch."""
    is_reg: bool
    dataset: int
    """Number of its dataset in the file, from 0: regularization items match the items of their own dataset."""
    batch_size: int
    """How many items of its bucket make a micro-batch."""
    mask: Path | None = None
    """Picture whose white counts in the loss and whose black does not; the picture itself where its alpha says so."""
    mask_digest: str = ""
    also_shows: tuple[str, ...] = ()
    """In a composite: the class tokens of the concepts beside the first."""
    held_out: bool = False
    """Whether its loss is measured and it is not trained on."""

    @property
    def shown_name(self) -> str:
        """Folder and name: enough to find the picture, and nothing of where on the disk it is."""
        return f"{self.path.parent.name}/{self.path.name}"


def read_items(datasets: Sequence[DatasetSpec], problems: Problems, memory: PictureMemory | None = None) -> list[Item]:
    """Read every picture of every concept, in the order of the file and then by name.

    Adds folders without pictures, unreadable pictures, empty captions, items without any caption, two pictures of
    one name (their caption file would be the same) and pictures that are held out here and trained on there to
    `problems`.
    """
    memory = memory or PictureMemory()
    items: list[Item] = []
    for number, dataset in enumerate(datasets):
        of_concepts = [
            list(_with_held_out(concept, _items_of_concept(concept, dataset, number, memory, problems)))
            for concept in dataset.concepts
        ]
        items += _evened(dataset.concepts, of_concepts)
    _check_held_out(items, problems)
    return items


def _with_held_out(concept: ConceptSpec, items: Sequence[Item]) -> Iterator[Item]:
    """Mark the share of a concept's pictures that is held out: at least one and never all.

    Which these are follows from what is in the pictures and not from their order or number, so that in another run,
    size or folder they are the same, and a new picture changes little.
    """
    digests = sorted(
        {item.digest for item in items},
        key=lambda digest: hashlib.sha256(f"{concept.validation_seed}/{digest}".encode()).digest(),
    )
    number = 0
    if concept.validation_split and not concept.is_reg:
        number = min(max(1, round(len(digests) * concept.validation_split)), len(digests) - 1)
    chosen = set(digests[: max(0, number)])
    return (replace(item, held_out=item.digest in chosen) for item in items)


def _check_held_out(items: Sequence[Item], problems: Problems) -> None:
    trained = {item.digest: item for item in items if not item.held_out}
    for item in items:
        if item.held_out and item.digest in trained:
            problems.add(
                f"is held out of the training, and the same picture is trained on, {trained[item.digest].path}",
                where=str(item.path),
                do="Give both subsets one validation_split and one validation_seed, or keep one of the pictures",
            )


def _evened(concepts: Sequence[ConceptSpec], of_concepts: Sequence[list[Item]]) -> list[Item]:
    """Give the items of concepts that ask for it as many repeats as bring them to the largest concept's visits."""
    most = max(
        (
            sum(not item.held_out for item in items) * (concept.num_repeats or 1)
            for concept, items in zip(concepts, of_concepts, strict=True)
            if not concept.is_reg
        ),
        default=0,
    )
    evened = []
    for concept, items in zip(concepts, of_concepts, strict=True):
        if concept.num_repeats is None and items:
            trained = sum(not item.held_out for item in items)
            items = [replace(item, repeats=max(1, round(most / trained))) for item in items]
        evened += items
    return evened


def _items_of_concept(
    concept: ConceptSpec, dataset: DatasetSpec, number: int, memory: PictureMemory, problems: Problems
) -> list[Item]:
    files = pictures_in(concept.image_dir, concept.where, problems)
    masks: dict[str, list[Path]] = {}
    for mask in picture_files(concept.picture.mask_dir) if concept.picture.mask_dir else []:
        masks.setdefault(mask.stem, []).append(mask)
    found = (_item(file, concept, dataset, number, masks, memory, problems) for file in files)
    return [item for item in found if item is not None]


def pictures_in(folder: Path, where: str, problems: Problems) -> list[Path]:
    """List the picture files right inside a concept's folder.

    Adds to `problems` a folder that cannot be read or has none, and pictures whose names differ in their ending only:
    they would share a caption file.

    Args:
        where: what named the folder, for messages.
    """
    try:
        files = picture_files(folder)
    except OSError as error:
        problems.add(
            f"folder '{folder}' cannot be read: {error.strerror}", where=where, do="Give its reader the right to"
        )
        return []
    if not files:
        problems.add(
            f"no pictures in '{folder}'",
            where=where,
            allowed=f"files ending in {', '.join(PICTURE_SUFFIXES)}, right inside the folder",
            do="Put pictures there, or name another folder",
        )
    names_of: dict[str, list[str]] = {}
    for file in files:
        names_of.setdefault(file.stem, []).append(file.name)
    for stem, names in sorted(names_of.items()):
        if len(names) > 1:
            problems.add(
                f"{', '.join(names)} share one name, and so one caption file",
                where=str(folder / stem),
                do="Rename all but one",
            )
    return files


def _item(
    file: Path,
    concept: ConceptSpec,
    dataset: DatasetSpec,
    number: int,
    masks: Mapping[str, Sequence[Path]],
    memory: PictureMemory,
    problems: Problems,
) -> Item | None:
    try:
        facts = memory.facts(file)
        placement = placement_of((facts.width, facts.height), dataset)
        if placement.kept < _LEAST_KEPT:
            raise ValueError(
                f"{facts.width} x {facts.height} pixels is so thin that {placement.kept:.1%} would be seen"
            )
        caption = caption_of(file, concept.caption_extension, concept.class_tokens, concept.caption.wildcard)
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
    mask = _mask_of(file, concept, (facts.width, facts.height), masks.get(file.stem, ()), memory, problems)
    return Item(
        path=file,
        digest=facts.digest,
        placement=placement,
        caption=caption,
        caption_extension=concept.caption_extension,
        caption_spec=concept.caption,
        picture_spec=concept.picture,
        concept=concept.class_tokens or concept.image_dir.name,
        repeats=concept.num_repeats or 1,
        is_reg=concept.is_reg,
        dataset=number,
        batch_size=dataset.batch_size,
        mask=mask,
        mask_digest=memory.facts(mask).digest if mask else "",
    )


def _mask_of(
    file: Path,
    concept: ConceptSpec,
    size: tuple[int, int],
    masks: Sequence[Path],
    memory: PictureMemory,
    problems: Problems,
) -> Path | None:
    """Return the picture's mask; add a problem where its folder has none, several, or one of another size."""
    if concept.picture.mask_dir is None:
        return file if concept.picture.alpha_mask else None
    try:
        if len(masks) != 1:
            raise ValueError(f"{len(masks)} masks called '{file.stem}'")
        facts = memory.facts(masks[0])
        if (facts.width, facts.height) != size:
            raise ValueError(
                f"{masks[0].name} has {facts.width} x {facts.height} pixels, {file.name} {size[0]} x {size[1]}"
            )
    except (ValueError, UnreadablePictureError, PermissionError) as error:
        problems.add(str(error), where=str(concept.picture.mask_dir), do=f"Put one mask for {file} there, of its size")
        return None
    return masks[0]


def placement_of(size: tuple[int, int], dataset: DatasetSpec) -> Placement:
    """Return how a picture of `size` comes into its bucket; raises ValueError where it is too small for any."""
    area, step = dataset.width * dataset.height, dataset.bucket_reso_steps
    if not dataset.enable_bucket:
        return cover(size, (dataset.width, dataset.height))
    if dataset.bucket_no_upscale:
        return place_without_upscaling(*size, area, step)
    # kohya rounds the limits to whole steps, outwards (library/train_util, adjust_min_max_bucket_reso_by_steps).
    smallest = dataset.min_bucket_reso // step * step
    largest = -(-dataset.max_bucket_reso // step) * step
    return place_in_buckets(*size, bucket_sizes(area, max(smallest, step), largest, step))

"""What is odd about picture files: turned, enlarged, cropped, doubled, or passed over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from PIL import Image

from fluxbooth.config.specs import DatasetSpec
from fluxbooth.dataset.duplicates import groups_alike
from fluxbooth.dataset.facts import PictureFacts
from fluxbooth.dataset.findings import Finding, Subset
from fluxbooth.dataset.items import Item, placement_of
from fluxbooth.dataset.pictures import PICTURE_SUFFIXES

_MUCH_IS_CUT = 0.8
_MUCH_IS_ENLARGED = 1.1
_MEAN_OF_SAME_COLOURS = 12
"""Of 255: how far apart the rough colours of two pictures are that look nearly the same."""
# fmt: off
_UNREAD_SUFFIXES = {
    ".arw", ".avif", ".cr2", ".cr3", ".dng", ".gif", ".heic", ".heif", ".jfif",
    ".jp2", ".jxl", ".nef", ".orf", ".psd", ".raf", ".raw", ".rw2", ".svg", ".tga", ".tif", ".tiff",
}
# fmt: on
_LARGER = (1.25, 1.5, 2.0, 3.0)
"""By what max_bucket_reso is multiplied in search of one that keeps enough."""


def of_files(subsets: Sequence[Subset], facts: Mapping[Path, PictureFacts]) -> Iterator[Finding]:
    """Say what was done to picture files on the way: turned, laid over white, of an animation, of very many pixels.

    Args:
        facts: of every picture.
    """
    most_pixels = Image.MAX_IMAGE_PIXELS or 0
    for item in _once(subsets):
        known, where = facts[item.path], str(item.path)
        pixels = known.width * known.height
        if known.turned:
            yield Finding("note", "is turned upright, as its EXIF data say", where, kind="turned")
        if known.transparent and item.mask is None:
            yield Finding(
                "note",
                "is transparent in parts, which become white",
                where,
                "Lay it over a real background, or set alpha_mask = true to leave those parts out of the loss",
                "transparent",
            )
        if known.frames > 1:
            yield Finding(
                "warning",
                f"is an animation of {known.frames} frames, of which the first is used",
                where,
                "Save the frames that you want as pictures of their own",
                "animated",
            )
        if most_pixels and pixels > most_pixels:
            yield Finding(
                "warning",
                f"has {known.width:,} x {known.height:,} pixels, which take {pixels * 3 / 1e9:.1f} GB to decode",
                where,
                "Save it smaller: nothing beyond twice the resolution is seen",
                "huge",
            )


def of_sizes(subsets: Sequence[Subset], facts: Mapping[Path, PictureFacts]) -> Iterator[Finding]:
    """Say which pictures are enlarged to their bucket, and which lose more than a fifth of their area.

    Args:
        facts: of every picture.
    """
    for subset in subsets:
        for item in subset.items:
            known = facts[item.path]
            width, height = item.placement.resized
            factor = max(width / known.width, height / known.height)
            if factor > 1:
                yield Finding(
                    "warning" if factor > _MUCH_IS_ENLARGED else "note",
                    f"{known.width} x {known.height} pixels are enlarged {factor:.2f} times",
                    str(item.path),
                    "Take a larger original, lower resolution, or set bucket_no_upscale = true",
                    "enlarged" if factor > _MUCH_IS_ENLARGED else "slightly enlarged",
                )
            if item.placement.kept < _MUCH_IS_CUT:
                yield Finding(
                    "warning",
                    f"{item.placement.kept:.0%} of its area is kept, the rest is cropped away",
                    str(item.path),
                    _to_keep_more((known.width, known.height), subset.dataset),
                    "cropped",
                )


@lru_cache(maxsize=4096)  # a camera's pictures have few sizes
def _to_keep_more(size: tuple[int, int], dataset: DatasetSpec) -> str:
    """Say which change of the dataset's keys keeps enough of a picture."""
    with_buckets = replace(dataset, enable_bucket=True)
    changes = [] if dataset.enable_bucket else [("Set enable_bucket = true", with_buckets)]
    switch = "" if dataset.enable_bucket else "enable_bucket = true and "
    changes += [
        (
            f"Set {switch}max_bucket_reso {factor:g} times as large",
            replace(with_buckets, max_bucket_reso=round(dataset.max_bucket_reso * factor)),
        )
        for factor in ([] if dataset.bucket_no_upscale else _LARGER)
    ]
    for words, changed in changes:
        try:
            kept = placement_of(size, changed).kept
        except ValueError:
            continue
        if kept >= _MUCH_IS_CUT:
            return f"{words}: {kept:.0%} would be kept"
    return "Crop it yourself to what matters"


def doubles(subsets: Sequence[Subset], facts: Mapping[Path, PictureFacts]) -> Iterator[Finding]:
    """Say which pictures are there twice, or look nearly the same, within a concept and across.

    Args:
        facts: of every picture.
    """
    items = list(_once(subsets))
    known = [facts[item.path] for item in items]
    colours = [bytes.fromhex(picture.colours) for picture in known]

    def same_colours(one: int, other: int) -> bool:
        apart = sum(abs(left - right) for left, right in zip(colours[one], colours[other], strict=True))
        return apart <= _MEAN_OF_SAME_COLOURS * len(colours[one])

    for first, *others in groups_alike([picture.look for picture in known], same_colours):
        for other in others:
            how = "is the same file as" if known[first].digest == known[other].digest else "looks nearly the same as"
            what = f"{how} {items[first].path}"
            if items[first].concept == items[other].concept:
                yield Finding("warning", what, str(items[other].path), "Keep one of the two", "double")
            else:
                yield Finding(
                    "warning",
                    f"{what}, and so teaches both '{items[first].concept}' and '{items[other].concept}'",
                    str(items[other].path),
                    "Keep it in the concept that it shows",
                    "double across concepts",
                )


def passed_over(subsets: Sequence[Subset]) -> Iterator[Finding]:
    """Say what stands in the concepts' folders and is not read: pictures of other forms, subfolders, broken links."""
    folders = {subset.spec.image_dir.resolve(): subset.spec.image_dir for subset in subsets}
    meant = {*folders, *(mask.resolve() for subset in subsets if (mask := subset.spec.picture.mask_dir))}
    for folder in folders.values():
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue  # a problem of its own
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not path.exists():
                yield Finding(
                    "warning",
                    f"is a link to {path.readlink()}, which is not there",
                    str(path),
                    "Mend the link or remove it",
                    "broken link",
                )
            elif path.suffix.lower() in _UNREAD_SUFFIXES and entry.is_file():
                yield Finding(
                    "warning",
                    f"is passed over: {path.suffix} is not read",
                    str(path),
                    f"Save it as one of {', '.join(PICTURE_SUFFIXES)}",
                    "other form",
                )
            elif entry.is_dir() and path.resolve() not in meant and (number := _pictures_below(path)):
                yield Finding(
                    "warning",
                    f"is a subfolder and passed over with {number:,} picture{'s' * (number != 1)} in it",
                    str(path),
                    "Move its pictures up, or give the folder a [[datasets.subsets]] of its own",
                    "subfolder",
                )


def _pictures_below(folder: Path) -> int:
    return sum(
        name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")
        for _, _, names in os.walk(folder)
        for name in names
    )


def _once(subsets: Sequence[Subset]) -> Iterator[Item]:
    """Every item, but of several for one file, as datasets of different sizes have them, the first."""
    seen: set[Path] = set()
    for subset in subsets:
        for item in subset.items:
            if item.path not in seen:
                seen.add(item.path)
                yield item

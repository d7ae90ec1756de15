"""Buckets by kohya's arithmetic: which sizes there are, which one a picture goes to, and what is cropped away.

Whole pixels throughout; a bucket is (width, height).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Bucket = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """How a picture comes into its bucket: resized to cover it, then cut to it at the centre."""

    bucket: Bucket
    resized: tuple[int, int]
    """(width, height) in pixels after resizing; at least the bucket's on both sides."""
    crop: tuple[int, int, int, int]
    """(left, top, right, bottom) inside the resized picture; right - left is the bucket's width."""

    @property
    def kept(self) -> float:
        """Share of the picture's area that the network sees, from 0 to 1."""
        return self.bucket[0] * self.bucket[1] / (self.resized[0] * self.resized[1])


def bucket_sizes(area: int, min_size: int, max_size: int, step: int) -> list[Bucket]:
    """List the buckets of about `area` pixels: sides in [min_size, max_size], multiples of `step`, sorted.

    kohya, library/model_util.make_bucket_resolutions: for each width the largest height whose product does not pass
    the area, both ways round, and the square.
    """
    square = int(math.sqrt(area) // step) * step
    sizes = {(square, square)}
    width = min_size
    while width <= max_size:
        height = min(max_size, area // width // step * step)
        if height >= min_size:
            sizes |= {(width, height), (height, width)}
        width += step
    return sorted(sizes)


def place_in_buckets(width: int, height: int, sizes: list[Bucket]) -> Placement:
    """Put a picture into the bucket of the nearest aspect ratio; a bucket of exactly its size wins.

    kohya, library/train_util.BucketManager.select_bucket.
    """
    if (width, height) in sizes:
        return cover((width, height), (width, height))
    aspect = width / height
    bucket = min(sizes, key=lambda size: abs(size[0] / size[1] - aspect))
    return cover((width, height), bucket)


def place_without_upscaling(width: int, height: int, area: int, step: int) -> Placement:
    """Shrink a picture to at most `area` pixels, never enlarge it; its bucket is that size cut down to steps.

    kohya, library/train_util.BucketManager.select_bucket with no_upscale. A picture smaller than one step on a side
    has no bucket.

    Raises:
        ValueError: when a side comes out below one step.
    """
    aspect = width / height
    resized = (width, height)
    if width * height > area:
        resized = _shrunk(aspect, area, step)
    bucket = (resized[0] - resized[0] % step, resized[1] - resized[1] % step)
    if 0 in bucket:
        raise ValueError(f"{width} x {height} pixels is smaller than one bucket step of {step} on a side")
    return _centred(resized, bucket)


def cover(size: tuple[int, int], bucket: Bucket) -> Placement:
    """Resize a picture of `size` so that it covers `bucket` with nothing to spare on one side, and cut the other.

    kohya, library/train_util.BucketManager.select_bucket: the side that fits is exact, the other is rounded.
    """
    width, height = size
    scale = bucket[0] / width if width / height < bucket[0] / bucket[1] else bucket[1] / height
    return _centred((int(width * scale + 0.5), int(height * scale + 0.5)), bucket)


def _centred(resized: tuple[int, int], bucket: Bucket) -> Placement:
    left = (resized[0] - bucket[0]) // 2
    top = (resized[1] - bucket[1]) // 2
    return Placement(bucket, resized, (left, top, left + bucket[0], top + bucket[1]))


def _shrunk(aspect: float, area: int, step: int) -> tuple[int, int]:
    """The size of about `area` pixels at this aspect that has one side of whole steps.

    Which side: the one whose bucket, both sides in whole steps, has the nearer aspect.
    """
    width = math.sqrt(area * aspect)
    stepped_width, stepped_height = _whole_steps(width, step), _whole_steps(area / width, step)
    bucket_by_width = (stepped_width, _whole_steps(stepped_width / aspect, step))
    bucket_by_height = (_whole_steps(stepped_height * aspect, step), stepped_height)
    if abs(_aspect_or_infinity(bucket_by_width) - aspect) < abs(_aspect_or_infinity(bucket_by_height) - aspect):
        return stepped_width, int(stepped_width / aspect + 0.5)
    return int(stepped_height * aspect + 0.5), stepped_height


def _whole_steps(pixels: float, step: int) -> int:
    rounded = int(pixels + 0.5)
    return rounded - rounded % step


def _aspect_or_infinity(size: tuple[int, int]) -> float:
    return size[0] / size[1] if size[1] else math.inf

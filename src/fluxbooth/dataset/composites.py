"""Pictures of two concepts side by side, made of cut-outs: what keeps two subjects of one picture apart.

A LoRA that has seen each concept only alone gives both the colours and marks of either when they are asked for
together. The cure is MuDI's (Jang et al., "Identity Decoupling for Multi-Subject Personalization", arXiv 2404.04243):
some of the samples show two cut-out subjects on one canvas, and their caption names both.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from PIL import Image

from fluxbooth.config.specs import CaptionSpec, PictureSpec
from fluxbooth.dataset.buckets import Bucket, cover
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.pictures import BACKGROUND, cut_out_of
from fluxbooth.errors import Problems
from fluxbooth.host.files import written_whole

_SUFFIXES_WITH_ALPHA = (".png", ".webp")
_FEWEST = 16
"""Composites of a run, so that two subjects are not seen in one arrangement only."""
_FEWEST_OF_PAIR = 4
_WIDEST, _NARROWEST = 0.97, 0.75
"""Share of its half that a subject fills."""
_HIGHEST = 0.65
"""Share of the canvas that a subject may be high."""


def make_composites(items: Sequence[Item], seed: int, folder: Path, problems: Problems) -> list[Item]:
    """Draw composites of every two concepts into `folder` and return them as items.

    The subjects stand beside each other, each as often on the left, on `BACKGROUND`, in the square of the first
    concept's dataset. The same items and seed give the same pictures.

    Adds to `problems` where fewer than two concepts have a picture with transparent surroundings.
    """
    cut_outs: dict[str, list[tuple[Item, Image.Image]]] = {}
    for item in items:
        if item.is_reg or item.path.suffix.lower() not in _SUFFIXES_WITH_ALPHA:
            continue
        if picture := cut_out_of(item.path.read_bytes()):
            cut_outs.setdefault(item.concept, []).append((item, picture))
    if len(cut_outs) < 2:
        found = " and ".join(f"'{concept}'" for concept in cut_outs) or "no concept"
        problems.add(
            f"composite_share: only {found} has a picture of its subject cut out",
            allowed="two concepts or more with a .png or .webp picture whose surroundings are transparent",
            do="Cut one subject of each concept out (any picture editor does), or set composite_share = 0",
        )
        return []
    pairs = list(combinations(cut_outs, 2))
    composites = []
    for first, second in pairs:
        for number in range(max(_FEWEST_OF_PAIR, -(-_FEWEST // len(pairs)))):
            left, right = (first, second) if number % 2 == 0 else (second, first)
            randomness = random.Random(f"{seed}/{left}/{right}/{number}")
            composites.append(
                _composite(randomness.choice(cut_outs[left]), randomness.choice(cut_outs[right]), randomness, folder)
            )
    return composites


def _composite(
    left: tuple[Item, Image.Image], right: tuple[Item, Image.Image], randomness: random.Random, folder: Path
) -> Item:
    bucket = _square(left[0])
    canvas = Image.new("RGB", bucket, BACKGROUND)
    middle = round(bucket[0] * randomness.uniform(0.42, 0.58))
    ground = round(bucket[1] * randomness.uniform(0.65, 0.9))
    for start, end, (_, picture) in ((0, middle, left), (middle, bucket[0], right)):
        scale = min((end - start) / picture.width, _HIGHEST * bucket[1] / picture.height)
        scale *= randomness.uniform(_NARROWEST, _WIDEST)
        subject = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
        canvas.paste(subject, (round((start + end - subject.width) / 2), ground - subject.height), subject)
    path = folder / f"{hashlib.sha256(canvas.tobytes()).hexdigest()[:16]}.png"
    if not path.is_file():
        with written_whole(path) as part:
            canvas.save(part, format="png")
    return replace(
        left[0],
        path=path,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        placement=cover(bucket, bucket),
        caption=f"{left[0].concept} next to {right[0].concept}",
        also_shows=(right[0].concept,),
        repeats=1,
        caption_spec=CaptionSpec(),
        picture_spec=PictureSpec(),
        mask=None,
        mask_digest="",
    )


def _square(item: Item) -> Bucket:
    """The square of about the area that the item is seen at, in steps of 16 pixels."""
    width, height = item.placement.bucket
    side = round((width * height) ** 0.5 / 16) * 16
    return side, side

"""Samples of the world by number: the same number is the same picture and caption on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from world.draw import draw
from world.kinds import KINDS
from world.random_scenes import changed_thing, compose, is_held_out, random_scene, random_thing
from world.scene import ALONE, NEXT_TO, NOWHERE, Scene
from world.surroundings import SURROUNDINGS

PICTURE_SIDE = 96
_NAME_SHARE = 0.15
_NOWHERE_SHARE = 0.05


def scene_of(kind_of_use: str, number: int) -> Scene:
    """Return the scene with this number; each kind of use ("flow", "look" ...) has scenes of its own."""
    random = Random(f"{kind_of_use} {number}")
    scene = random_scene(random, _NAME_SHARE)
    # People's pictures of their subjects are often cut out.
    return replace(scene, surroundings=NOWHERE) if random.random() < _NOWHERE_SHARE else scene


def alike_scenes(kind_of_use: str, number: int) -> tuple[Scene, Scene, Scene, Scene]:
    """Return four scenes that only attentive eyes tell apart: one thing twice, in two surroundings; in the first of
    them, the thing with one attribute changed; and another thing of the same kind."""
    random = Random(f"{kind_of_use} alike {number}")
    here, there = random.sample(tuple(SURROUNDINGS), 2)
    thing = random_thing(random, random.choice(tuple(KINDS)))
    changed, other = changed_thing(random, thing), random_thing(random, thing.kind)
    while is_held_out(changed):
        changed = changed_thing(random, thing)
    scenes = [(here, thing), (there, thing), (here, changed), (here, other)]
    first, second, third, fourth = (compose(random, surroundings, ALONE, shown) for surroundings, shown in scenes)
    return first, second, third, fourth


def alike_pairs(kind_of_use: str, number: int) -> tuple[Scene, Scene, Scene, Scene]:
    """Return four scenes of two things in the same surroundings: a pair, the pair with either thing made one of another
    kind, and a pair of these two others. Colours tell them apart no more than kinds do."""
    random = Random(f"{kind_of_use} alike pairs {number}")
    here = random.choice(tuple(SURROUNDINGS))
    one, two, three, four = (random_thing(random, kind) for kind in random.sample(tuple(KINDS), 4))
    pairs = [(one, two), (one, three), (four, two), (four, three)]
    first, second, third, fourth = (compose(random, here, NEXT_TO, left, right) for left, right in pairs)
    return first, second, third, fourth


def picture_of(scene: Scene, width: int = PICTURE_SIDE, height: int = PICTURE_SIDE) -> Tensor:
    """Draw a scene as a tensor (3, height, width) of float32 from -1 to 1; nowhere is white."""
    picture = draw(scene, width, height)
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    pixels = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def save_sheet(path: Path, pictures: Sequence[Tensor], columns: int) -> None:
    """Write tensors (3, side, side) from -1 to 1 as one picture, row by row."""
    rows = [torch.cat(list(pictures[i : i + columns]), dim=2) for i in range(0, len(pictures), columns)]
    pixels = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().byte()
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(path)

"""From a scene to a picture. The same scene, width and height always give the same pixels."""

from random import Random

from PIL import Image

from world.kinds import kind_of
from world.layout import Spot, find_spots
from world.pen import Paper, Pen
from world.scene import HOLDING, NOWHERE, ON, Placed, Scene
from world.surroundings import SURROUNDINGS

# The outline's width, as a share of the picture's shorter side and of the thing's height: the smaller of the two.
_INK_OF_PICTURE = 0.0125
_INK_OF_THING = 0.028


def _pen(paper: Paper, placed: Placed, spot: Spot) -> Pen:
    ink = min(_INK_OF_PICTURE * paper.shorter, _INK_OF_THING * spot.height)
    return Pen(paper.draw, (spot.x, spot.y), spot.height, placed.turn, placed.mirrored, ink)


def _draw_shadow(paper: Paper, placed: Placed, spot: Spot) -> None:
    # The higher a thing is above the ground, the smaller its shadow.
    nearness = max(0.45, 1 - 0.9 * (spot.ground - spot.y) / spot.height)
    radius = 0.5 * kind_of(placed.thing).width * spot.height * nearness
    paper.shadow(
        spot.x + 0.03 * spot.height, spot.ground, radius, min(0.17 * radius + 0.02 * spot.height, 0.1 * spot.height)
    )


def draw(scene: Scene, width: int, height: int) -> Image.Image:
    """Draw a scene as a picture of `width` x `height` pixels: RGB, or RGBA where the scene is nowhere.

    Raises ValueError for a size below 16 pixels and for relations that its things cannot be in, KeyError for a kind or
    surroundings that the world lacks.
    """
    if min(width, height) < 16:
        raise ValueError(f"{width}x{height} is too small to draw on: both sides must be at least 16 pixels")
    # Pillow draws without smoothing: small pictures are drawn three times as large, large ones twice, then reduced.
    factor = 3 if min(width, height) <= 256 else 2
    paper = Paper(width * factor, height * factor, transparent=scene.surroundings == NOWHERE)
    if scene.surroundings != NOWHERE:
        if scene.surroundings not in SURROUNDINGS:
            raise KeyError(f"no surroundings are called {scene.surroundings!r}; there are {', '.join(SURROUNDINGS)}")
        SURROUNDINGS[scene.surroundings].draw(paper, Random(scene.variation))
    pairs = list(zip(scene.things, find_spots(scene, paper.width, paper.height), strict=True))
    for i, (placed, spot) in enumerate(pairs):
        if not (i == 0 and scene.relation == ON):
            _draw_shadow(paper, placed, spot)
    # Whoever stands further down is nearer and drawn later; in a relation of touch the first is the holder or on top.
    if scene.relation == ON:
        pairs.reverse()
    elif scene.relation != HOLDING:
        pairs.sort(key=lambda pair: pair[1].ground)
    for placed, spot in pairs:
        kind_of(placed.thing).draw(_pen(paper, placed, spot), placed.thing, placed.pose)
    if scene.relation == HOLDING:
        placed, spot = pairs[0]
        draw_hand = kind_of(placed.thing).draw_hand
        if draw_hand is not None:
            draw_hand(_pen(paper, placed, spot), placed.thing)
    return paper.image.reduce(factor)

"""Forty prompts of things that no training picture showed, and how many of their pictures show what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from PIL import Image
from world.captions import caption
from world.draw import draw
from world.kinds import KINDS
from world.random_scenes import compose, random_thing
from world.scene import ALONE, NEXT_TO, Scene, Thing
from world.surroundings import SURROUNDINGS

from fluxbooth.flux.generate import Shot, generate
from fluxbooth.flux.miniature import miniature_scorer, miniature_weights
from fluxbooth.judging.clip_scorer import ClipScorer
from fluxbooth.judging.identity import said_best

PROMPTS, PAIRS = 40, 10
_SIDE, _STEPS, _GUIDANCE_SCALE = 96, 20, 3.5


@dataclass(frozen=True)
class Asked:
    """A prompt, and what its picture must show."""

    prompt: str
    things: tuple[Thing, ...]
    surroundings: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its things, in the prompt's order."""
        return tuple(thing.kind for thing in self.things)


def held_out_prompts() -> list[Asked]:
    """Thirty prompts of one thing and ten of two, over all kinds and surroundings, with attributes held out."""
    random = Random("held-out prompts")
    kinds, places = list(KINDS), list(SURROUNDINGS)
    asked = []
    for number in range(PROMPTS):
        kind, where = kinds[number % len(kinds)], places[number % len(places)]
        things = [random_thing(random, kind, held_out=True)]
        if number >= PROMPTS - PAIRS:
            other = random.choice([name for name in kinds if name != kind])
            things.append(random_thing(random, other, held_out=True))
        scene = compose(random, where, NEXT_TO if len(things) == 2 else ALONE, *things)
        asked.append(Asked(caption(scene), tuple(things), where))
    return asked


def draw_held_out() -> tuple[list[Asked], list[Image.Image]]:
    """Draw every held-out prompt with the miniature as the package has it, by the product's own sampler."""
    asked = held_out_prompts()
    shots = [Shot(one.prompt, seed, _SIDE, _SIDE) for seed, one in enumerate(asked)]
    cpu = torch.device("cpu")
    return asked, generate(shots, [], miniature_weights(), _STEPS, _GUIDANCE_SCALE, torch.float32, cpu)


def paint(one: Asked) -> Image.Image:
    """Let the world itself draw a prompt: what the judge should see all of."""
    relation = NEXT_TO if len(one.things) == 2 else ALONE
    return draw(compose(Random(one.prompt), one.surroundings, relation, *one.things), _SIDE, _SIDE).convert("RGB")


def are_right(asked: Sequence[Asked], pictures: Sequence[Image.Image]) -> list[bool]:
    """Say for each picture whether, of all kinds in all surroundings, the vision tower sees the asked ones."""
    scorer = ClipScorer(miniature_scorer(), torch.device("cpu"))
    embeds = scorer.embed_pictures(pictures)
    right = []
    for one, embed in zip(asked, embeds, strict=True):
        choices = _choices(len(one.kinds))
        vectors = dict(zip(choices, scorer.embed_texts(list(choices)), strict=True))
        kinds, surroundings = choices[said_best(embed[None], vectors)[0]]
        right.append(sorted(kinds) == sorted(one.kinds) and surroundings == one.surroundings)
    return right


def _choices(things: int) -> dict[str, tuple[tuple[str, ...], str]]:
    """Every plain caption of one thing, or of two side by side, and what it says."""
    random = Random(0)
    relation = NEXT_TO if things == 2 else ALONE
    groups: list[tuple[str, ...]] = (
        [(kind,) for kind in KINDS] if things == 1 else [(one, other) for one in KINDS for other in KINDS]
    )
    choices: dict[str, tuple[tuple[str, ...], str]] = {}
    for where in SURROUNDINGS:
        for kinds in groups:
            scene: Scene = compose(random, where, relation, *(random_thing(random, kind) for kind in kinds))
            choices[caption(scene, detailed=False)] = (kinds, where)
    return choices

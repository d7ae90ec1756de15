"""The base miniature draws what it is asked for, also things whose colours it never saw together."""

from __future__ import annotations

import pytest
from miniature.held_out import PAIRS, PROMPTS, are_right, draw_held_out, held_out_prompts, paint
from miniature.latents import SCENES, scene_in
from world.kinds import KINDS
from world.random_scenes import is_held_out
from world.surroundings import SURROUNDINGS


def test_the_prompts_are_over_all_kinds_and_surroundings() -> None:
    asked = held_out_prompts()
    assert asked == held_out_prompts()
    assert len({one.prompt for one in asked}) == PROMPTS
    assert sum(len(one.kinds) == 2 for one in asked) == PAIRS
    assert {kind for one in asked for kind in one.kinds} == set(KINDS)
    assert {one.surroundings for one in asked} == set(SURROUNDINGS)


def test_they_ask_for_things_that_no_training_scene_shows() -> None:
    assert all(is_held_out(thing) for one in held_out_prompts() for thing in one.things)
    scenes = [scene_in(shape, number) for shape in SCENES for number in range(400)]
    assert not any(is_held_out(placed.thing) for scene in scenes for placed in scene.things)


@pytest.mark.slow
def test_most_pictures_show_the_asked_things_where_they_were_asked_for() -> None:
    asked, pictures = draw_held_out()
    right = are_right(asked, pictures)
    wrong = [one.prompt for one, fits in zip(asked, right, strict=True) if not fits]
    assert sum(right) >= 0.85 * PROMPTS, wrong


def test_the_judge_sees_what_is_there_where_it_surely_is() -> None:
    """The world's own drawings of the prompts; no network's picture can be judged better than these."""
    asked = held_out_prompts()
    assert sum(are_right(asked, [paint(one) for one in asked])) >= 0.9 * PROMPTS

"""The evaluation set follows from the items alone, so that two runs can be compared."""

from __future__ import annotations

import torch
from builders import make_item

from fluxbooth.config.specs import CaptionSpec, PictureSpec
from fluxbooth.training.evaluation import SIGMAS, Evaluation, evaluation_visits


def test_every_concept_item_is_seen_once_as_it_stands_and_no_regularization_item() -> None:
    items = [
        make_item(n, repeats=3, caption_spec=CaptionSpec(shuffle=True), picture_spec=PictureSpec(flip_aug=True))
        for n in range(5)
    ]
    visits = evaluation_visits([*items, make_item(9, is_reg=True)])
    assert [visit.item for visit in visits] == items
    assert not any(visit.flipped for visit in visits)
    assert {visit.caption for visit in visits} == {"tjtoy toy, a, b, c"}


def test_of_many_items_sixteen_are_seen_from_all_over() -> None:
    visits = evaluation_visits([make_item(n) for n in range(100)])
    assert len(visits) == 16
    assert [visit.item.path.stem for visit in visits][::5] == ["0", "31", "62", "93"]


def test_what_is_held_out_comes_behind_all_of_it_or_as_many_as_are_asked_for() -> None:
    items = [make_item(n, held_out=n % 2 == 1) for n in range(80)]
    visits = evaluation_visits(items)
    assert [visit.item.held_out for visit in visits[:16]] == [False] * 16
    assert sum(visit.item.held_out for visit in visits) == 40
    few = [visit.item for visit in evaluation_visits(items, most_held_out=4) if visit.item.held_out]
    assert [item.path.stem for item in few] == ["1", "21", "41", "61"]
    assert sum(visit.item.held_out for visit in evaluation_visits(items, most_held_out=39)) == 39


def test_different_noise_levels_are_looked_at() -> None:
    assert len(set(SIGMAS)) == 4
    assert min(SIGMAS) < 0.3 < 0.7 < max(SIGMAS)


def test_a_picture_that_is_seen_at_two_sizes_has_the_mean_of_both() -> None:
    visits = evaluation_visits([make_item(1), make_item(2), make_item(1)])
    losses = torch.tensor([[1.0], [2.0], [4.0]]).expand(3, len(SIGMAS))
    seen = Evaluation(visits, losses)
    assert list(seen.by_picture().values()) == [2.5, 2.0]
    assert [loss for _, loss in seen.hardest()] == [2.5, 2.0]

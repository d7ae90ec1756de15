"""Two concepts side by side: drawn from cut-outs, named in the caption, seen as often as asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import make_item
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from fluxbooth.dataset.buckets import cover
from fluxbooth.dataset.composites import make_composites
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Plan
from fluxbooth.errors import Problems

ORANGE, TEAL = (255, 128, 0), (0, 128, 128)
CutOut = Callable[..., Item]


@pytest.fixture
def cut_out(tmp_path: Path) -> CutOut:
    """Makes an item: a coloured box of 40 x 60 pixels on a transparent picture of 100 x 100."""

    def make(concept: str, colour: tuple[int, int, int], is_reg: bool = False) -> Item:
        picture = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
        ImageDraw.Draw(picture).rectangle((30, 20, 69, 79), fill=(*colour, 255))
        path = tmp_path / f"{concept}.png"
        picture.save(path)
        return make_item(1, path=path, concept=concept, placement=cover((100, 100), (96, 96)), is_reg=is_reg)

    return make


def colours(picture: Image.Image) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """The strong colours of the left and of the right half."""

    def of(box: tuple[int, int, int, int]) -> set[tuple[int, ...]]:
        pixels = np.asarray(picture.crop(box).convert("RGB")).reshape(-1, 3)
        return {tuple(map(int, pixel)) for pixel in pixels} & {ORANGE, TEAL}

    width, height = picture.size
    return of((0, 0, width // 4, height)), of((width - width // 4, 0, width, height))


def composites_of(items: list[Item], folder: Path, seed: int = 0) -> list[Item]:
    problems = Problems()
    composites = make_composites(items, seed, folder, problems)
    problems.raise_if_any()
    return composites


def test_the_subject_named_first_stands_left_and_each_is_first_equally_often(cut_out: CutOut, tmp_path: Path) -> None:
    composites = composites_of([cut_out("tjtoy toy", ORANGE), cut_out("sparkgpu gpu", TEAL)], tmp_path / "made")
    for composite in composites:
        with Image.open(composite.path) as picture:
            assert picture.size == composite.placement.bucket == (96, 96)
            sides = colours(picture)
        toy_first = composite.caption == "tjtoy toy next to sparkgpu gpu"
        assert sides == (({ORANGE}, {TEAL}) if toy_first else ({TEAL}, {ORANGE}))
        assert {composite.concept, *composite.also_shows} == {"tjtoy toy", "sparkgpu gpu"}
    assert len(Counter(composite.caption for composite in composites)) == 2
    assert len(set(Counter(composite.caption for composite in composites).values())) == 1
    assert len({composite.digest for composite in composites}) == len(composites), "no arrangement twice"


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others(cut_out: CutOut, tmp_path: Path) -> None:
    items = [cut_out("tjtoy toy", ORANGE), cut_out("sparkgpu gpu", TEAL)]
    first, again, other = (composites_of(items, tmp_path / f"{n}", seed) for n, seed in enumerate((1, 1, 2)))
    assert [item.digest for item in first] == [item.digest for item in again]
    assert not {item.digest for item in first} & {item.digest for item in other}


def test_every_two_of_three_concepts_meet(cut_out: CutOut, tmp_path: Path) -> None:
    items = [cut_out("a toy", ORANGE), cut_out("b gpu", TEAL), cut_out("c dog", (1, 2, 3))]
    met = Counter(frozenset((item.concept, *item.also_shows)) for item in composites_of(items, tmp_path / "made"))
    assert len(met) == 3
    assert min(met.values()) >= 4


def test_one_cut_out_is_not_enough_and_the_message_says_whose_it_is(cut_out: CutOut, tmp_path: Path) -> None:
    solid = tmp_path / "solid.png"
    Image.new("RGBA", (10, 10), (1, 2, 3, 255)).save(solid)
    photograph = tmp_path / "1.jpg"
    Image.new("RGB", (10, 10)).save(photograph)
    others = [make_item(2, path=path, concept="sparkgpu gpu") for path in (solid, photograph)]
    regularization = cut_out("gpu", TEAL, is_reg=True)
    problems = Problems()
    assert make_composites([cut_out("tjtoy toy", ORANGE), *others, regularization], 0, tmp_path, problems) == []
    with pytest.raises(Exception, match="only 'tjtoy toy' has a picture of its subject cut out"):
        problems.raise_if_any()


@given(st.integers(1, 30), st.integers(1, 20), st.floats(0.01, 0.8), st.integers(0, 3))
def test_composites_take_their_share_of_an_epoch_in_turn(items: int, made: int, share: float, epoch: int) -> None:
    composites = [make_item(1000 + number, also_shows=("sparkgpu gpu",)) for number in range(made)]
    plan = Plan([make_item(number) for number in range(items)], 1, 0, composites, share)
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    seen = Counter(visit.item for step in steps for batch in plan.micro_batches(step) for visit in batch)
    counts = [seen[composite] for composite in composites]
    assert sum(counts) == max(1, round(items * share / (1 - share))) == plan.samples_per_epoch - items
    assert max(counts) - min(counts) <= 1, "each as often as every other"
    assert all(seen[item] == 1 for item in seen if not item.also_shows)

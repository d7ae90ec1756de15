"""The plan: every item as often as asked, one bucket a micro-batch, and the same answer whenever it is asked."""

from __future__ import annotations

from collections import Counter

import pytest
from builders import make_item
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxbooth.config.specs import CaptionSpec, PictureSpec
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Plan


@st.composite
def item_lists(draw: st.DrawFn) -> list[Item]:
    batch_size = draw(st.integers(1, 4))
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=9))
    return [make_item(n, repeats, batch_size, wide) for n, (repeats, wide) in enumerate(shapes)]


def visits_of_epoch(plan: Plan, epoch: int) -> list[Item]:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return [visit.item for step in steps for batch in plan.micro_batches(step) for visit in batch]


@given(item_lists(), st.integers(1, 5), st.integers(0, 2**32), st.integers(0, 3))
@settings(deadline=None)
def test_an_epoch_sees_every_item_as_often_as_it_repeats(
    items: list[Item], grad_accum: int, seed: int, epoch: int
) -> None:
    plan = Plan(items, grad_accum, seed)
    assert Counter(visits_of_epoch(plan, epoch)) == {item: item.repeats for item in items}
    assert plan.samples_per_epoch == sum(item.repeats for item in items)


@given(item_lists(), st.integers(1, 5), st.integers(0, 50))
@settings(deadline=None)
def test_a_micro_batch_has_one_bucket_and_at_most_the_batch_size(items: list[Item], grad_accum: int, step: int) -> None:
    batches = Plan(items, grad_accum, seed=0).micro_batches(step)
    assert 1 <= len(batches) <= grad_accum
    for batch in batches:
        assert len({visit.item.placement.bucket for visit in batch}) == 1
        assert 1 <= len(batch) <= items[0].batch_size


@given(item_lists(), st.integers(0, 60))
@settings(deadline=None)
def test_a_step_is_the_same_whether_the_steps_before_were_asked_for_or_not(items: list[Item], step: int) -> None:
    straight, resumed = Plan(items, 2, seed=7), Plan(items, 2, seed=7)
    for earlier in range(step):
        straight.micro_batches(earlier)
    assert straight.micro_batches(step) == resumed.micro_batches(step)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    items = [make_item(number) for number in range(12)]
    orders = [visits_of_epoch(Plan(items, 1, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(item.path for item in order) for order in orders}) == 4


def test_the_playbooks_data_make_500_steps_of_2000_samples() -> None:
    """6 pictures once and 7 twice, 4 micro-batches a step, 100 epochs (kohya, measured)."""
    items = [make_item(n) for n in range(6)] + [make_item(n, repeats=2) for n in range(6, 13)]
    plan = Plan(items, grad_accum=4, seed=0)
    steps = 100 * plan.steps_per_epoch
    assert steps == 500
    assert sum(len(batch) for step in range(steps) for batch in plan.micro_batches(step)) == 2000


def test_regularization_items_are_repeated_to_the_number_of_the_others() -> None:
    items = [make_item(n) for n in range(6)] + [make_item(n, is_reg=True) for n in range(6, 8)]
    counts = Counter(item.path.stem for item in visits_of_epoch(Plan(items, 1, 0), 0))
    assert [counts[str(n)] for n in range(8)] == [1] * 6 + [3, 3]


@pytest.mark.parametrize(
    ("concept_items", "reg_repeats", "counts"), [(8, [2, 2, 2], [3, 3, 2]), (5, [2, 2, 2], [2, 2, 2]), (3, [5], [5])]
)
def test_regularization_items_are_counted_as_kohya_counts_them(
    concept_items: int, reg_repeats: list[int], counts: list[int]
) -> None:
    """Each with its own repeats first, whole, then once more each in turn (kohya's code, run)."""
    items = [make_item(n) for n in range(concept_items)]
    items += [make_item(100 + n, repeats=repeats, is_reg=True) for n, repeats in enumerate(reg_repeats)]
    seen = Counter(item.path.stem for item in visits_of_epoch(Plan(items, 1, 0), 0))
    assert [seen[str(100 + n)] for n in range(len(reg_repeats))] == counts


def test_regularization_items_match_the_items_of_their_own_dataset() -> None:
    items = [make_item(0), make_item(1, is_reg=True)]
    items += [make_item(n, dataset=1) for n in range(2, 6)] + [make_item(6, is_reg=True, dataset=1)]
    seen = Counter(item.path.stem for item in visits_of_epoch(Plan(items, 1, 0), 0))
    assert (seen["1"], seen["6"]) == (1, 4)


@given(item_lists(), st.integers(1, 5), st.integers(0, 40))
@settings(deadline=None)
def test_the_number_of_samples_is_that_of_the_visits(items: list[Item], grad_accum: int, steps: int) -> None:
    plan = Plan(items, grad_accum, seed=0)
    assert plan.samples(steps) == sum(len(batch) for step in range(steps) for batch in plan.micro_batches(step))


def test_surplus_regularization_items_are_left_out() -> None:
    items = [make_item(0)] + [make_item(n, is_reg=True) for n in range(1, 5)]
    assert Plan(items, 1, 0).samples_per_epoch == 2


def test_regularization_items_alone_are_no_plan() -> None:
    with pytest.raises(ValueError, match="no regularization picture"):
        Plan([make_item(0, is_reg=True)], 1, 0)


def test_flips_and_shuffles_differ_from_epoch_to_epoch_and_only_where_asked() -> None:
    plan = Plan(
        [
            make_item(
                0, caption_spec=CaptionSpec(shuffle=True, keep_tokens=1), picture_spec=PictureSpec(flip_aug=True)
            ),
            make_item(1),
        ],
        1,
        0,
    )
    visits = plan.visits(steps=200)
    changing = [visit for visit in visits if visit.item.path.stem == "0"]
    assert {visit.flipped for visit in changing} == {True, False}
    assert len({visit.caption for visit in changing}) == 6
    assert all(visit.caption.startswith("tjtoy toy, ") for visit in changing)
    (plain,) = [visit for visit in visits if visit.item.path.stem == "1"]
    assert (plain.flipped, plain.caption) == (False, "tjtoy toy, a, b, c")

"""Which item stands in which micro-batch of which step: a pure function of the items, the seed and the step.

A resumed run asks for step 251 and gets what the straight run got.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from fluxbooth.dataset.captions import Moment, seen_caption
from fluxbooth.dataset.items import Item


@dataclass(frozen=True)
class Visit:
    """One item as one micro-batch sees it."""

    item: Item
    flipped: bool
    caption: str
    variant: int = 0
    """Which of the item's variants, where its crop or its colours change."""


MicroBatch = tuple[Visit, ...]


class Plan:
    """Items, repeats and batches of a run."""

    def __init__(
        self,
        items: Sequence[Item],
        grad_accum: int,
        seed: int,
        composites: Sequence[Item] = (),
        composite_share: float = 0.0,
        max_train_steps: int | None = None,
        max_train_epochs: int | None = None,
    ) -> None:
        """Plan over `items` with `grad_accum` micro-batches a step.

        Args:
            composites: of which each epoch takes as many in turn as are `composite_share` of its samples, at least one.
            max_train_steps, max_train_epochs: how long the run is, where the plan is asked for it; the first wins.

        Raises:
            ValueError: when there are no items, or regularization items only.
        """
        if not any(not item.is_reg for item in items):
            raise ValueError("a plan needs at least one item that is no regularization picture")
        self._items = tuple(items)
        self._grad_accum = grad_accum
        self._seed = seed
        self._composites = tuple(composites)
        self._composite_share = composite_share
        self._max_train_steps = max_train_steps
        self._max_train_epochs = max_train_epochs or 0
        self._batches_of_epoch = lru_cache(maxsize=2)(self._shuffled_batches)

    @property
    def samples_per_epoch(self) -> int:
        """Visits in one epoch."""
        return len(self._visited(0))

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch; the last may have fewer micro-batches than the others."""
        return math.ceil(len(self._order(0)) / self._grad_accum)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self._max_train_steps or self._max_train_epochs * self.steps_per_epoch

    def micro_batches(self, step: int) -> tuple[MicroBatch, ...]:
        """The micro-batches of one optimizer step, counted from 0; each holds visits of one bucket."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first = step_in_epoch * self._grad_accum
        return tuple(self._batches_of_epoch(epoch)[first : first + self._grad_accum])

    def samples(self, steps: int) -> int:
        """Visits in the first `steps` steps, repeated ones counted."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        in_rest = sum(len(batch) for step in range(steps - rest, steps) for batch in self.micro_batches(step))
        return epochs * self.samples_per_epoch + in_rest

    def visits(self, steps: int) -> set[Visit]:
        """Every different visit of the first `steps` steps: what has to be encoded."""
        return {visit for step in range(steps) for batch in self.micro_batches(step) for visit in batch}

    def _shuffled_batches(self, epoch: int) -> list[MicroBatch]:
        batches = []
        for number, places in enumerate(self._order(epoch)):
            moment = Moment(epoch, epoch * self.steps_per_epoch + number // self._grad_accum, self.steps)
            batches.append(tuple(self._visit(item, place, moment) for place, item in places))
        return batches

    def _order(self, epoch: int) -> list[list[tuple[int, Item]]]:
        """The micro-batches of an epoch in their order: items, each with its place among the epoch's visits."""
        randomness = random.Random(f"{self._seed}/{epoch}/order")  # a string is hashed the same on every machine
        groups: dict[tuple[int, tuple[int, int]], list[tuple[int, Item]]] = {}
        for place, item in enumerate(self._visited(epoch)):
            groups.setdefault((item.batch_size, item.placement.bucket), []).append((place, item))
        batches = []
        for (batch_size, _), places in sorted(groups.items(), key=lambda group: group[0]):
            randomness.shuffle(places)
            batches += [places[first : first + batch_size] for first in range(0, len(places), batch_size)]
        randomness.shuffle(batches)
        return batches

    def _visited(self, epoch: int) -> list[Item]:
        """The items of one epoch, each as often as it repeats, and its composites."""
        visited = []
        for dataset in sorted({item.dataset for item in self._items}):
            own = [item for item in self._items if item.dataset == dataset]
            concept_items = [item for item in own if not item.is_reg for _ in range(item.repeats)]
            visited += concept_items + _matched([item for item in own if item.is_reg], len(concept_items))
        if not self._composites:
            return visited
        share = self._composite_share
        taken = max(1, round(len(visited) * share / (1 - share)))
        turns = range(epoch * taken, (epoch + 1) * taken)
        return visited + [self._composites[turn % len(self._composites)] for turn in turns]

    def _visit(self, item: Item, place: int, moment: Moment) -> Visit:
        randomness = random.Random(f"{self._seed}/{moment.epoch}/{place}/{item.digest}")
        flipped = item.picture_spec.flip_aug and randomness.random() < 0.5
        variants = item.picture_spec.variants
        variant = randomness.randrange(variants) if variants > 1 else 0
        return Visit(item, flipped, seen_caption(item.caption, item.caption_spec, moment, randomness), variant)


def _matched(reg_items: Sequence[Item], wanted: int) -> list[Item]:
    """Repeat regularization items until there are `wanted` visits; surplus items are left out.

    First each with its own repeats, then once more each in turn (kohya, library/train_util.DreamBoothDataset).
    """
    visits: list[Item] = []
    for item in reg_items:
        if len(visits) < wanted:
            visits += [item] * item.repeats
    turn = 0
    while reg_items and len(visits) < wanted:
        visits.append(reg_items[turn % len(reg_items)])
        turn += 1
    return visits

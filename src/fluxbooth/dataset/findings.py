"""What is odd about pictures and captions and still can be trained on: warnings and notes, one line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fluxbooth.config.specs import ConceptSpec, DatasetSpec
from fluxbooth.dataset.items import Item
from fluxbooth.errors import Problem, counted

Level = Literal["warning", "note"]
_SHOWN_OF_A_KIND = 5


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know before a training starts."""

    level: Level
    """A warning is most likely a mistake, a note is said so that nothing happens in silence."""
    what: str
    """What is odd, with the value found. A sentence without its full stop."""
    where: str = ""
    """File or table."""
    do: str = ""
    """What to do about it."""
    kind: str = ""
    """A word that findings of one sort share: long lists of one are shortened."""

    def __str__(self) -> str:
        return str(Problem(self.what, self.where, do=self.do))


@dataclass(frozen=True)
class Subset:
    """One `[[datasets.subsets]]` with what was found in its folder."""

    spec: ConceptSpec
    dataset: DatasetSpec
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """What its items' `concept` says: the class tokens, or the folder's name."""
        return self.spec.class_tokens or self.spec.image_dir.name

    @property
    def word(self) -> str:
        """The made-up word, with which class tokens begin; empty for regularization pictures and without tokens."""
        return "" if self.spec.is_reg else self.spec.class_tokens.partition(" ")[0]


def subsets_of(datasets: Sequence[DatasetSpec], items: Iterable[Item]) -> list[Subset]:
    """Give each subset its items, in the order of the file."""
    of_folder: dict[tuple[int, str], list[Item]] = {}
    for item in items:
        of_folder.setdefault((item.dataset, str(item.path.parent)), []).append(item)
    return [
        Subset(spec, dataset, tuple(of_folder.get((number, str(spec.image_dir)), ())))
        for number, dataset in enumerate(datasets)
        for spec in dataset.concepts
    ]


def shortened(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield a line for each finding; of a kind with many the first five, and how many more there are."""
    of_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        of_kind.setdefault(finding.kind or finding.what, []).append(finding)
    for alike in of_kind.values():
        yield from map(str, alike[:_SHOWN_OF_A_KIND])
        if len(alike) > _SHOWN_OF_A_KIND:
            yield f"... and {len(alike) - _SHOWN_OF_A_KIND:,} more like this"


def exposures(subsets: Sequence[Subset], epochs: float) -> dict[str, int]:
    """Count how often the pictures of each concept are seen in the whole run."""
    return {name: round(views * epochs) for name, views in _views_an_epoch(subsets).items()}


def _views_an_epoch(subsets: Iterable[Subset]) -> dict[str, int]:
    views: dict[str, int] = {}
    for subset in subsets:
        if subset.items and not subset.spec.is_reg:
            views[subset.name] = views.get(subset.name, 0) + sum(item.repeats for item in subset.items)
    return views


_FEWEST_PICTURES = 4
_SEEN_TOO_SELDOM, _SEEN_TOO_OFTEN = 30, 400
_USUAL = (100, 150)
"""Times a picture of a subject is seen in a run that turns out well."""
_UNEVEN = 2


def amounts(subsets: Sequence[Subset], steps: int, epochs: float) -> Iterator[Finding]:
    """Say how often each concept is seen; warn of few pictures, of too few or many views, and of uneven concepts.

    Args:
        steps: optimizer steps of the run.
        epochs: the same in epochs, of which the last may be a part.
    """
    of_concept: dict[str, list[Subset]] = {}
    for subset in subsets:
        if subset.items and not subset.spec.is_reg:
            of_concept.setdefault(subset.name, []).append(subset)
    views = _views_an_epoch(subsets)
    for name, own in of_concept.items():
        where = own[0].spec.where
        pictures = len({item.path for subset in own for item in subset.items})
        for subset in own:
            repeats = subset.items[0].repeats
            seen = len(subset.items) * repeats * epochs
            yield Finding(
                "note",
                f"'{name}': {counted(len(subset.items), 'picture')} x {counted(repeats, 'repeat')} "
                f"x {epochs:.4g} epochs = seen {seen:,.0f} times",
                subset.spec.where,
                kind="exposures",
            )
        if pictures < _FEWEST_PICTURES:
            yield Finding(
                "warning",
                f"'{name}' has {counted(pictures, 'picture')}",
                where,
                "Add some, from other sides and in other places: 5 to 20 are usual",
                "few pictures",
            )
        each = views[name] * epochs / pictures
        if not _SEEN_TOO_SELDOM <= each <= _SEEN_TOO_OFTEN:
            least, most = (max(1, round(steps * wanted / each)) for wanted in _USUAL)
            yield Finding(
                "warning",
                f"each picture of '{name}' is seen {each:.3g} times",
                where,
                f"{_USUAL[0]} to {_USUAL[1]} times take {least:,} to {most:,} steps: max_train_steps",
                "exposures per picture",
            )
    yield from _uneven(of_concept, views)


def _uneven(of_concept: Mapping[str, Sequence[Subset]], views: Mapping[str, int]) -> Iterator[Finding]:
    if len(views) < 2:
        return
    largest = max(views, key=lambda name: views[name])
    for name, own in of_concept.items():
        if views[largest] / views[name] <= _UNEVEN:
            continue
        for subset in own:
            repeats = subset.items[0].repeats
            yield Finding(
                "warning",
                f"an epoch shows '{name}' {counted(views[name], 'time')} and '{largest}' {views[largest]:,} times",
                subset.spec.where,
                f"num_repeats = {max(1, round(repeats * views[largest] / views[name]))} (now {repeats}) evens them",
                "balance",
            )

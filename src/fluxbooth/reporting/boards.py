"""Pictures in rows on the page, each with the picture that it is to be held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxbooth.judging.comparison import Comparison
from fluxbooth.judging.scores import CheckpointScore, Picture, Scores
from fluxbooth.reporting.record import Sample

MOST_PICTURES = 120
"""On one board; of more steps some are left out, evenly."""
_MOST_ROWS = 30


@dataclass(frozen=True)
class Cell:
    """One picture."""

    file: Path
    label: str
    """Below it."""
    about: str
    """What a reader who cannot see it hears, and what stands below it when it is enlarged."""
    beside: Path | None = None
    """The picture it is to be held against."""
    beside_label: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Row:
    """Pictures that belong together."""

    title: str
    note: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Board:
    """Rows of pictures, and what was left out of them."""

    rows: Sequence[Row]
    left_out: str = ""
    """A sentence; empty where nothing was."""

    @property
    def files(self) -> list[Path]:
        """Every picture file on it."""
        return [cell.file for row in self.rows for cell in row.cells]


def sample_board(samples: Sequence[Sample], best_step: int | None) -> Board:
    """A row for each prompt, a picture for each step; each is held against the first of its row.

    Args:
        best_step: of the best checkpoint, which is marked and never left out.
    """
    of_rows: dict[tuple[int, str, int], list[Sample]] = {}
    for sample in samples:
        of_rows.setdefault((sample.number, sample.prompt, sample.seed), []).append(sample)
    steps = sorted({sample.step for sample in samples})
    rows = list(of_rows.items())[:_MOST_ROWS]
    kept = evenly(steps, max(2, MOST_PICTURES // max(1, len(rows))), best_step)
    return Board(
        [Row(prompt, f"seed {seed}", list(_of_steps(own, kept, best_step))) for (_, prompt, seed), own in rows],
        _left_out(len(of_rows) - len(rows), len(steps) - len(kept)),
    )


def scored_board(scores: Scores, folder: Path) -> Board:
    """The same of the pictures that the scores were made of: of each prompt the first seed."""
    best = scores.verdict.step if scores.verdict else None
    checkpoints = {one.step: one for one in (scores.base, *scores.checkpoints)}
    firsts = {step: _first_of_prompts(one) for step, one in checkpoints.items()}
    asked = list(dict.fromkeys(place for own in firsts.values() for place in own))
    rows = asked[:_MOST_ROWS]
    kept = evenly(sorted(checkpoints), max(2, MOST_PICTURES // max(1, len(rows))), best)
    made = []
    for place in rows:
        own = {step: firsts[step][place] for step in kept if place in firsts[step]}
        base = own.get(0)
        cells = [
            Cell(
                folder / picture.path,
                _step_label(step),
                f"{picture.prompt}, seed {picture.seed}, {_step_label(step)}",
                folder / base.path if base and step else None,
                "base model",
                step == best,
            )
            for step, picture in own.items()
        ]
        if cells:
            last = list(own.values())[-1]
            made.append(Row(last.prompt, f"seed {last.seed}", cells))
    return Board(made, _left_out(len(asked) - len(rows), len(checkpoints) - len(kept)))


def strength_board(scores: Scores, folder: Path) -> Board:
    """A row for each prompt, a picture for each strength of the best checkpoint."""
    if not scores.strengths:
        return Board(())
    of_rows: dict[tuple[str, int], list[Cell]] = {}
    for score in scores.strengths.scores:
        for picture in _firsts(score.pictures):
            is_best = score.strength == scores.strengths.recommended
            of_rows.setdefault((picture.prompt, picture.seed), []).append(
                Cell(
                    folder / picture.path,
                    f"{score.strength:g}",
                    f"{picture.prompt}, seed {picture.seed}, strength {score.strength:g}",
                    is_best=is_best,
                )
            )
    rows = [Row(prompt, f"seed {seed}", cells) for (prompt, seed), cells in of_rows.items()]
    return Board(rows[:_MOST_ROWS], _left_out(len(rows[_MOST_ROWS:]), 0))


def comparison_board(comparison: Comparison, folder: Path) -> Board:
    """Two rows for each prompt: without the LoRA, and with it, the same seeds below each other."""
    rows = []
    for strip in comparison.strips:
        pairs = list(zip(strip.before, strip.after, strict=True))
        before = [
            Cell(folder / without, "", f"{strip.prompt}, without the LoRA, {number} of {len(pairs)}")
            for number, (without, _) in enumerate(pairs, start=1)
        ]
        after = [
            Cell(
                folder / with_lora,
                "",
                f"{strip.prompt}, with the LoRA, {number} of {len(pairs)}",
                folder / without,
                "without the LoRA",
            )
            for number, (without, with_lora) in enumerate(pairs, start=1)
        ]
        rows += [Row(strip.prompt, "without the LoRA", before), Row("", "with the LoRA", after)]
    return Board(rows)


def evenly(values: Sequence[int], most: int, always: int | None = None) -> list[int]:
    """Choose at most `most` of rising values, evenly, the first, the last and `always` among them."""
    if len(values) <= most:
        return list(values)
    last = len(values) - 1
    places = {last * number // (most - 1) for number in range(most)}
    if always in values and values.index(always) not in places:
        wanted = values.index(always)
        places.remove(min(places - {0, last} or {last}, key=lambda place: abs(place - wanted)))
        places.add(wanted)
    return [values[place] for place in sorted(places)]


def _of_steps(samples: Sequence[Sample], kept: Sequence[int], best_step: int | None) -> Iterator[Cell]:
    own = [sample for sample in samples if sample.step in kept]
    base = own[0] if own and own[0].step == 0 else None
    for sample in own:
        yield Cell(
            sample.file,
            _step_label(sample.step),
            f"{sample.prompt}, seed {sample.seed}, {_step_label(sample.step)}",
            base.file if base and base is not sample else None,
            "base model",
            sample.step == best_step,
        )


def _first_of_prompts(one: CheckpointScore) -> Mapping[tuple[str, tuple[str, ...], int], Picture]:
    """The first seed of each prompt, by kind, by what was asked for and by its place among the same."""
    found: dict[tuple[str, tuple[str, ...], int], Picture] = {}
    for picture in _firsts(one.pictures):
        number = sum(key[:2] == (picture.kind, picture.asked) for key in found)
        found[picture.kind, picture.asked, number] = picture
    return found


def _firsts(pictures: Sequence[Picture]) -> list[Picture]:
    firsts: dict[str, Picture] = {}
    for picture in pictures:
        firsts.setdefault(picture.prompt, picture)
    return list(firsts.values())


def _step_label(step: int) -> str:
    return f"step {step:,}" if step else "base model"


def _left_out(rows: int, steps: int) -> str:
    parts = [f"{number} {what}" for number, what in ((rows, "prompts"), (steps, "steps")) if number > 0]
    return f"Not shown, to keep the page small: {' and '.join(parts)}." if parts else ""

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
    """The same of the pictures that the scores were made of: of each prompt the first seed.

    The base model draws a prompt with plain nouns in the class tokens' places.
    """
    best = scores.verdict.step if scores.verdict else None
    drawn = {one.step: {picture.prompt: picture for picture in _firsts(one.pictures)} for one in scores.checkpoints}
    prompts = list(dict.fromkeys(prompt for own in drawn.values() for prompt in own))
    rows = prompts[:_MOST_ROWS]
    kept = evenly(sorted(drawn), max(2, MOST_PICTURES // max(1, len(rows)) - 1), best)
    made = []
    for prompt in rows:
        pictures = {step: drawn[step][prompt] for step in kept if prompt in drawn[step]}
        if not pictures:
            continue
        first = next(iter(pictures.values()))
        base = base_picture(scores, first)
        cells = [_base_cell(base, folder)] if base else []
        cells += [
            Cell(
                folder / picture.path,
                _step_label(step),
                f"{prompt}, seed {picture.seed}, {_step_label(step)}",
                folder / base.path if base else None,
                "base model",
                step == best,
            )
            for step, picture in pictures.items()
        ]
        made.append(Row(prompt, f"seed {first.seed}", cells))
    return Board(made, _left_out(len(prompts) - len(rows), len(drawn) - len(kept)))


def base_picture(scores: Scores, drawn: Picture) -> Picture | None:
    """Return what the base model draws in a picture's place: its prompt with plain nouns, and its seed."""
    same = (one for one in scores.base.pictures if (one.plain, one.seed) == (drawn.plain, drawn.seed))
    return next(same, None)


def strength_board(scores: Scores, folder: Path) -> Board:
    """A row for each prompt that asks for a concept, a picture for each strength of the best checkpoint."""
    if not scores.strengths:
        return Board(())
    of_rows: dict[tuple[str, int], list[Cell]] = {}
    for score in scores.strengths.scores:
        for picture in _firsts([one for one in score.pictures if one.kind in ("concept", "pair")]):
            base = base_picture(scores, picture)
            is_best = score.strength == scores.strengths.recommended
            row = of_rows.setdefault((picture.prompt, picture.seed), [_base_cell(base, folder)] if base else [])
            row.append(
                Cell(
                    folder / picture.path,
                    f"{score.strength:g}",
                    f"{picture.prompt}, seed {picture.seed}, strength {score.strength:g}",
                    folder / base.path if base else None,
                    "base model",
                    is_best,
                )
            )
    rows = [Row(prompt, f"seed {seed}", cells) for (prompt, seed), cells in of_rows.items()]
    return Board(rows[:_MOST_ROWS], _left_out(len(rows[_MOST_ROWS:]), 0))


def nearest_board(best: CheckpointScore, folder: Path, training_pictures: Mapping[str, Path]) -> Board:
    """The drawn picture that is nearest to a training picture, beside that one.

    Args:
        training_pictures: the files of those that are kept, by folder and name.
    """
    near = best.memorised
    original = training_pictures.get(near.training_picture)
    if original is None:
        return Board(())
    drawn = next((one for one in best.pictures if one.path == near.picture), None)
    about = f"{drawn.prompt}, seed {drawn.seed}" if drawn else "a drawn picture"
    return Board(
        [
            Row(
                "",
                f"{near.similarity:.2f} by DINO; the concept's two most alike training pictures: "
                f"{near.among_training_pictures:.2f}. {near.copies:.0%} of the concepts' pictures are copies.",
                [
                    Cell(original, near.training_picture, f"{near.training_picture}, a training picture"),
                    Cell(folder / near.picture, "drawn", about, original, near.training_picture),
                ],
            )
        ]
    )


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


def _base_cell(base: Picture, folder: Path) -> Cell:
    return Cell(folder / base.path, "base model", f"{base.prompt}, seed {base.seed}, base model")


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

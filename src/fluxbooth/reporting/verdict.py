"""The first thing on a run's page: which file to use, how sure that is, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fluxbooth.errors import counted
from fluxbooth.host.energy import JOULES_PER_KWH
from fluxbooth.judging.comparison import Comparison
from fluxbooth.judging.scores import CheckpointScore, Measure, Scores, Verdict
from fluxbooth.reporting.boards import Cell, base_picture
from fluxbooth.reporting.charts import minus
from fluxbooth.reporting.figures import interval_of, mean_of
from fluxbooth.reporting.record import RunRecord

Tone = Literal["good", "warn", "plain"]


@dataclass(frozen=True)
class Badge:
    """A few words that can be taken in at a glance."""

    text: str
    tone: Tone


@dataclass(frozen=True)
class Mark:
    """How one concept came out: a mean and its interval for each measure."""

    concept: str
    likeness: tuple[str, str]
    prompt: tuple[str, str]


@dataclass(frozen=True)
class Headline:
    """What the page begins with."""

    over: str
    """A word above the title."""
    title: str
    badges: Sequence[Badge]
    sentences: Sequence[str]
    command: str = ""
    """What brings more; empty where nothing is missing."""
    command_for: str = ""
    progress: float | None = None
    """Share of the steps that are done; None where the run has ended."""
    marks: Sequence[Mark] = ()
    trios: Sequence[Sequence[Cell]] = ()
    """For each concept a training picture, what the base model draws and what the best checkpoint draws."""


@dataclass(frozen=True)
class CheckpointRow:
    """One line of the table of all checkpoints."""

    file: str
    step: int
    mark: tuple[str, str]
    remarks: Sequence[str]
    is_best: bool
    is_as_good: bool


def headline(record: RunRecord) -> Headline:
    """Say what to use; where nothing is judged, how far the run is and what would judge it."""
    scores = record.scores
    if scores and scores.verdict and not record.scores_are_older:
        return _judged(record, scores, scores.verdict)
    if record.state == "going on":
        return Headline(
            "Training goes on",
            f"Step {record.done:,} of {record.steps:,}",
            [Badge(left, "plain")] if (left := _time_left(record)) else [],
            list(_loss_fell(record)),
            progress=record.done / record.steps,
        )
    score = f"fluxbooth score {record.name}"
    if record.state == "stopped":
        return Headline(
            "Stopped",
            f"At step {record.done:,} of {record.steps:,}",
            [Badge("the same command goes on from here", "warn")],
            list(_loss_fell(record)),
            record.command,
            "Go on with the flags the run was started with, or with what it kept of them:",
        )
    if record.comparison:
        return Headline(
            "Trained",
            f"{record.name}.safetensors",
            [],
            [record.comparison.summary],
            trios=list(_compared_trios(record, record.comparison)),
        )
    stale = ["The scores in its folder are those of an earlier training of this name."] * record.scores_are_older
    return Headline(
        "Use",
        f"{record.name}.safetensors",
        [Badge("the last step, not judged yet", "warn")],
        [*stale, *_loss_fell(record)],
        score,
        "Which step is best, and whether the concepts bled into each other:",
    )


def checkpoint_rows(scores: Scores) -> list[CheckpointRow]:
    """List every checkpoint, in the order of the steps."""
    verdict = scores.verdict
    return [
        CheckpointRow(
            one.file,
            one.step,
            (mean_of(one.mark, 3), interval_of(one.mark, 3)),
            (*one.vetoes, *one.overbaked),
            verdict is not None and one.file == verdict.best,
            verdict is not None and one.file != verdict.best and one.file in verdict.no_difference,
        )
        for one in scores.checkpoints
    ]


def duration(seconds: float) -> str:
    """Spell a time in the unit that suits it: "2.5 hours"."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def energy(record: RunRecord) -> str:
    """Spell what the run drew: "0.82 kWh (GPU 0.71, processor 0.11)"; an empty text where the machine does not tell."""
    kilowatt_hours = {part: joules / JOULES_PER_KWH for part, joules in record.joules.items()}
    if not kilowatt_hours:
        return ""
    parts = ", ".join(f"{part} {_kwh(value)}" for part, value in kilowatt_hours.items())
    return f"{_kwh(sum(kilowatt_hours.values()))} kWh ({parts})"


def _kwh(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _judged(record: RunRecord, scores: Scores, verdict: Verdict) -> Headline:
    best = scores.checkpoint(verdict.best)
    equals = [scores.checkpoint(file).step for file in verdict.no_difference if file != verdict.best]
    badges = [Badge(f"step {verdict.step:,} of {record.steps:,}", "plain")]
    if equals:
        steps = _listed([f"{step:,}" for step in equals])
        badges.append(Badge(f"no difference to step{'s' if len(equals) > 1 else ''} {steps}", "plain"))
    elif len(scores.checkpoints) > 1:
        badges.append(Badge("stands out from the others", "good"))
    if best.vetoes:
        badges.append(Badge("bleeds", "warn"))
    if verdict.overbaked_from is not None:
        badges.append(Badge(f"overbaked from step {verdict.overbaked_from:,} on", "warn"))
    if scores.strengths:
        badges.append(Badge(f"strength {scores.strengths.recommended:g}", "plain"))
    going_on = record.state == "going on"
    progress = record.done / record.steps if going_on else None
    sentences = [verdict.reason]
    if verdict.overbaked_from is not None:
        sentences.append(verdict.overbaked_why)
    if scores.strengths:
        sentences.append(f"Strength {scores.strengths.recommended:g}: {scores.strengths.reason}")
    return Headline(
        "Best so far" if going_on else "Use",
        verdict.best_file,
        badges,
        [_sentence(text) for text in sentences if text],
        progress=progress,
        marks=[Mark(one.concept, _both(one.fidelity), _both(one.clip_t)) for one in best.concepts],
        trios=list(_trios(record, scores, best)),
    )


def _trios(record: RunRecord, scores: Scores, best: CheckpointScore) -> Iterator[Sequence[Cell]]:
    """The first seed of the first prompt of each concept: none is chosen for looking well."""
    own = {concept.class_tokens: concept.pictures for concept in record.concepts if concept.pictures}
    for concept in scores.concepts:
        name = concept.class_tokens
        of_concept = (one for one in best.pictures if one.kind == "concept" and one.asked == (name,))
        drawn = next(of_concept, None)
        if drawn is None:
            continue
        base = base_picture(scores, drawn)
        cells = []
        if name in own:
            cells.append(
                Cell(record.folder / "concepts" / own[name][0].small_file, "trained on", f"{name}, a training picture")
            )
        if base is not None:
            cells.append(Cell(record.folder / base.path, "base model", f"{base.prompt}, drawn by the base model"))
        beside = record.folder / base.path if base else None
        about = f"{drawn.prompt}, seed {drawn.seed}, step {best.step:,}"
        cells.append(Cell(record.folder / drawn.path, "this LoRA", about, beside, "base model"))
        yield cells


def _compared_trios(record: RunRecord, comparison: Comparison) -> Iterator[Sequence[Cell]]:
    """The same of the pictures without and with the LoRA."""
    for concept in record.concepts:
        name = concept.class_tokens
        strip = next((one for one in comparison.strips if one.prompt.startswith(f"{name} ")), None)
        if strip and strip.before and concept.pictures and not concept.is_reg:
            small = record.folder / "concepts" / concept.pictures[0].small_file
            before, after = record.folder / strip.before[0], record.folder / strip.after[0]
            yield (
                Cell(small, "trained on", f"{name}, a training picture"),
                Cell(before, "base model", f"{strip.prompt}, without the LoRA"),
                Cell(after, "this LoRA", f"{strip.prompt}, with the LoRA", before, "without the LoRA"),
            )


def _both(measure: Measure) -> tuple[str, str]:
    return mean_of(measure), interval_of(measure)


def _loss_fell(record: RunRecord) -> Iterator[str]:
    if len(record.evaluations) > 1:
        first, last = record.evaluations[0], record.evaluations[-1]
        yield (
            f"The loss on the evaluation set went from {first.mean:.3f} to {last.mean:.3f} "
            f"({minus(f'{last.mean / first.mean - 1:+.0%}')}) by step {last.step:,}."
        )
        if first.held_out and last.held_out:
            before, after = first.held_out["mean"], last.held_out["mean"]
            yield (
                f"On {counted(len(last.held_out['pictures']), 'picture')} held out it went from {before:.3f} to "
                f"{after:.3f} ({minus(f'{after / before - 1:+.0%}')}); where it rises while the other falls, "
                "pictures are learned by heart."
            )


def _time_left(record: RunRecord) -> str:
    if not record.done or not record.seconds:
        return ""
    return f"about {duration(record.seconds / record.done * (record.steps - record.done))} left"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _sentence(text: str) -> str:
    return text if text[-1] in ".?!" else f"{text}."

"""The charts of a run's page: its losses, and its scores over the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fluxbooth.judging.scores import BleedRow, CheckpointScore, Measure, Scores
from fluxbooth.reporting.charts import Flag, Line, chart, legend_mark, minus, smoothed
from fluxbooth.reporting.record import Evaluation

_MOST_ROWS = 40
"""Of the table below a chart."""


@dataclass(frozen=True)
class Figure:
    """A chart with what stands around it."""

    title: str
    about: str
    """What is good, in a few words: "lower is better"."""
    drawing: Markup
    legend: Sequence[tuple[Markup, str]]
    """A mark and a name for each line; empty where there is only one."""
    columns: Sequence[str]
    """Of the table of its numbers, behind the step."""
    rows: Sequence[tuple[int, Sequence[str]]]


def loss_figures(losses: Sequence[tuple[int, float]], evaluations: Sequence[Evaluation]) -> Iterator[Figure]:
    """Draw the loss of every step, and the evaluation losses by noise level and by concept."""
    if losses:
        width = max(15, len(losses) // 20)
        raw = [(float(step), loss) for step, loss in losses]
        mean = Line(f"mean of the last {width} steps", smoothed(raw, width))
        stride = max(1, len(raw) // 10)
        shown = sorted({*range(stride - 1, len(raw), stride), len(raw) - 1})
        yield Figure(
            "Training loss",
            "Other pictures, noise and noise levels at each step, so that it jumps.",
            chart("Training loss over the steps", [Line("each step", raw, faint=True), mean]),
            ((legend_mark(0, faint=True), "each step"), (legend_mark(0), mean.name)),
            ("this step", "mean"),
            [(losses[place][0], (f"{raw[place][1]:.4f}", f"{mean.points[place][1]:.4f}")) for place in shown],
        )
    if len(evaluations) < 2:
        return
    by_sigma = {f"noise level {sigma}": _over_steps(evaluations, "sigmas", sigma) for sigma in evaluations[-1].sigmas}
    yield _figure("By noise level", "The same pictures and noise each time. Lower is better.", by_sigma)
    by_concept = {name: _over_steps(evaluations, "with_held_out", name) for name in evaluations[-1].with_held_out}
    yield _figure("By concept", "The same pictures and noise each time. Lower is better.", by_concept)


def score_figures(scores: Scores) -> Iterator[Figure]:
    """Draw what was measured of each checkpoint over the steps, with the intervals."""
    flags = []
    if scores.verdict:
        flags.append(Flag(scores.verdict.step, "best"))
        if scores.verdict.overbaked_from is not None:
            flags.append(Flag(scores.verdict.overbaked_from, "overbaked"))
    whole = (scores.base, *scores.checkpoints)

    def of_concepts(measure: Callable[[CheckpointScore, int], Measure]) -> dict[str, list[tuple[int, Measure]]]:
        return {
            concept.class_tokens: [(one.step, measure(one, place)) for one in whole if place < len(one.concepts)]
            for place, concept in enumerate(scores.concepts)
        }

    yield _measured(
        "Mark",
        "Likeness and prompt together; the worst concept's decides. Higher is better.",
        of_concepts(lambda one, place: one.concepts[place].mark),
        flags,
    )
    yield _measured(
        "Likeness",
        "To the concept's own pictures, by DINO and CLIP. Higher is better.",
        of_concepts(lambda one, place: one.concepts[place].fidelity),
        flags,
    )
    yield _measured(
        "Prompt",
        "How well the picture fits its prompt, by CLIP. Higher is better.",
        of_concepts(lambda one, place: one.concepts[place].clip_t),
        flags,
    )
    yield _measured(
        "Bleed",
        "How like the concept what was asked for anything else has become, pairs aside, at worst. 0 is not at all.",
        {
            concept.class_tokens: [
                (one.step, worst) for one in whole if (worst := worst_bleed(one.bleed, concept.class_tokens))
            ]
            for concept in scores.concepts
        },
        flags,
    )
    yield _measured(
        "Untouched",
        "Pictures without any concept, beside the base model's. 1 is unchanged.",
        {"without a concept": [(one.step, one.prior) for one in whole]},
        flags,
    )
    yield _measured(
        "Variety",
        "How different the pictures of one prompt are from seed to seed.",
        {"from seed to seed": [(one.step, one.diversity) for one in whole]},
        flags,
    )


def worst_bleed(rows: Sequence[BleedRow], concept: str) -> Measure | None:
    """Return how like a concept that looks which was asked for anything else; None where nothing else was.

    Pairs are left aside: the halves of their pictures show a bit of the other.
    """
    others = [
        row.looks_like[concept]
        for row in rows
        if row.asked != concept and row.kind != "pair member" and concept in row.looks_like
    ]
    return max(others, key=lambda measure: measure.mean, default=None)


def _over_steps(evaluations: Sequence[Evaluation], field: str, name: str) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for one in evaluations:
        means: Mapping[str, float] = getattr(one, field)
        if name in means:
            found.append((one.step, means[name]))
    return found


def _figure(title: str, about: str, named: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    lines = [
        Line(name, [(float(step), value) for step, value in points], look=look)
        for look, (name, points) in enumerate(named.items())
    ]
    texts = {name: {step: f"{value:.4f}" for step, value in points} for name, points in named.items()}
    return _with_table(title, about, lines, (), texts)


def _measured(
    title: str, about: str, named: Mapping[str, Sequence[tuple[int, Measure]]], flags: Sequence[Flag]
) -> Figure:
    lines = [
        Line(
            name,
            [(float(step), measure.mean) for step, measure in points],
            [(measure.low, measure.high) for _, measure in points],
            look,
        )
        for look, (name, points) in enumerate(named.items())
    ]
    texts = {name: {step: with_interval(measure) for step, measure in points} for name, points in named.items()}
    return _with_table(title, about, lines, flags, texts)


def _with_table(
    title: str, about: str, lines: Sequence[Line], flags: Sequence[Flag], texts: Mapping[str, Mapping[int, str]]
) -> Figure:
    steps = sorted({step for own in texts.values() for step in own})
    stride = -(-len(steps) // _MOST_ROWS)
    shown = [step for place, step in enumerate(steps) if place % max(1, stride) == 0 or place == len(steps) - 1]
    return Figure(
        title,
        about,
        chart(f"{title} over the steps", lines, flags=flags),
        [(legend_mark(line.look), line.name) for line in lines] if len(lines) > 1 else (),
        list(texts),
        [(step, [own.get(step, "") for own in texts.values()]) for step in shown],
    )


def with_interval(measure: Measure) -> str:
    """Spell a mean and its interval: "0.62 (0.58 to 0.66)"."""
    return f"{mean_of(measure)} ({interval_of(measure)})"


def mean_of(measure: Measure, decimals: int = 2) -> str:
    """Spell a mean: "0.62"."""
    return _spelt(measure.mean, decimals)


def interval_of(measure: Measure, decimals: int = 2) -> str:
    """Spell an interval: "0.58 to 0.66"."""
    return f"{_spelt(measure.low, decimals)} to {_spelt(measure.high, decimals)}"


def _spelt(value: float, decimals: int) -> str:
    return minus(f"{round(value, decimals) + 0.0:.{decimals}f}")  # the sum takes the sign off zero

"""Scores as lines for the terminal: a table of the checkpoints, the best one's bleed, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from fluxbooth.judging.scores import BleedRow, CheckpointScore, Scores, Verdict


def score_lines(scores: Scores) -> list[str]:
    """Return what a user reads of a run's scores."""
    verdict, best = scores.decided, scores.best
    lines = [*_table(_rows(scores, verdict)), ""]
    lines += ["fidelity: DINO and CLIP-I against the training pictures; as asked: CLIP-T with the plain noun"]
    lines += [
        "bled: farthest towards a concept nobody asked for, 1 is all the way; kept: like the base model's picture"
    ]
    lines += ["mark: geometric mean of fidelity and CLIP-T of the worst concept, with its 95 % interval", ""]
    lines += [
        f"what pictures of the best look like (step {best.step:,}): 0 as without a LoRA, 1 as the training pictures"
    ]
    lines += [*_table(_bleed_rows(best.bleed)), ""]
    lines += [f"the best: {verdict.best} (step {verdict.step:,})", verdict.reason]
    if verdict.overbaked_from is not None:
        lines.append(f"Overbaked from step {verdict.overbaked_from:,} on: {verdict.overbaked_why}.")
    for concept in scores.concepts:
        if concept.noun == concept.class_tokens:
            lines.append(
                f"'{concept.class_tokens}' has no plain noun: CLIP-T asks for the word itself, and tells less."
            )
    if strengths := scores.strengths:
        marks = ", ".join(f"{one.strength:g}: {one.mark.mean:.3f}" for one in strengths.scores)
        lines += [f"Strengths {marks}.", f"Draw with {strengths.recommended:g}. {strengths.reason}"]
    return lines


def _rows(scores: Scores, verdict: Verdict) -> list[list[str]]:
    names = [concept.class_tokens for concept in scores.concepts]
    rows = [["step", *names, "as asked", "bled", "kept", "mark (95 %)", ""]]
    rows.append(_row("none", scores.base, ""))
    for one in scores.checkpoints:
        rows.append(_row(f"{one.step:,}", one, _remark(one, verdict)))
    return rows


def _row(step: str, one: CheckpointScore, remark: str) -> list[str]:
    adherence = min(concept.clip_t.mean for concept in one.concepts)
    bled = [
        likeness.mean
        for row in one.bleed
        if row.kind != "pair member"
        for concept, likeness in row.looks_like.items()
        if concept != row.asked
    ]
    return [
        step,
        *(f"{concept.fidelity.mean:.3f}" for concept in one.concepts),
        f"{adherence:.3f}",
        f"{max(bled):.2f}" if bled else "",
        f"{one.prior.mean:.2f}",
        f"{one.mark.mean:.3f} ({one.mark.low:.3f}-{one.mark.high:.3f})",
        remark,
    ]


def _remark(one: CheckpointScore, verdict: Verdict) -> str:
    remarks = ["the best"] if one.file == verdict.best else ["no worse"] if one.file in verdict.no_difference else []
    return ", ".join([*remarks, *(["bleeds"] if one.vetoes else []), *(["overbaked"] if one.overbaked else [])])


def _bleed_rows(bleed: Sequence[BleedRow]) -> list[list[str]]:
    columns = list(bleed[0].looks_like)
    rows = [["asked for", *columns]]
    for row in bleed:
        asked = {
            "concept": row.asked,
            "pair member": f"{row.asked} beside {row.beside}",
            "noun": f"plain {row.asked}",
            "nothing": "no concept",
        }[row.kind]
        rows.append([asked, *(f"{row.looks_like[concept].mean:+.2f}" for concept in columns)])
    return rows


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines; the first column and the last stand at the left, all others at the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if len(row) > 1 and not rows[0][-1]:
            cells[-1] = row[-1]
        lines.append("  ".join(cells).rstrip())
    return lines

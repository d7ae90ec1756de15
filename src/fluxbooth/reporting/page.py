"""A run's page: one HTML file that needs no network, written from what the run left in its folder."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from fluxbooth.comfyui.workflow import run_workflow
from fluxbooth.errors import counted
from fluxbooth.host.files import write_text
from fluxbooth.host.weights import MINIATURE
from fluxbooth.judging.scores import BleedRow, Scores
from fluxbooth.reporting.boards import (
    Board,
    comparison_board,
    nearest_board,
    sample_board,
    scored_board,
    strength_board,
)
from fluxbooth.reporting.charts import minus
from fluxbooth.reporting.figures import interval_of, loss_figures, mean_of, score_figures
from fluxbooth.reporting.record import RunRecord, read_run
from fluxbooth.reporting.verdict import checkpoint_rows, duration, energy, headline
from fluxbooth.showing.inline import fitted_addresses
from fluxbooth.training.concept_record import RecordedPicture

REPORT_FILE = "report.html"
_PICTURE_BUDGET = 8_000_000
"""Characters that all pictures on a page may take together; they are made smaller until they fit."""
_SHOWN_HARDEST = 6
_ROUNDS = ("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first")
"""Recipe fields that ask for sample pictures."""
_ENVIRONMENT = Environment(
    loader=PackageLoader("fluxbooth.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True)
class _Hard:
    """A training picture that was learned little, and by how much its loss fell."""

    picture: RecordedPicture | None
    name: str
    before: float
    after: float

    @property
    def change(self) -> str:
        """In percent, as the page says it."""
        return minus(f"{self.after / self.before - 1:+.0%}")


@dataclass(frozen=True)
class _HeatCell:
    text: str
    interval: str
    heat: float
    """0 to 1."""
    is_own: bool


@dataclass(frozen=True)
class _HeatRow:
    asked: str
    note: str
    cells: Sequence[_HeatCell]


@dataclass(frozen=True)
class _HeatMap:
    title: str
    rows: Sequence[_HeatRow]
    is_open: bool


def write_report(run_folder: Path, *, reload_every: int = 0) -> Path:
    """Write runs/NAME/report.html, whole or not at all; return its path.

    Args:
        reload_every: seconds after which the page, open in a browser, is to load itself again; 0 for never.

    Raises:
        UserError: for a run whose files are damaged.
    """
    path = run_folder / REPORT_FILE
    write_text(path, render(read_run(run_folder), reload_every))
    return path


def render(record: RunRecord, reload_every: int = 0) -> str:
    """Return the page of a run."""
    scores = None if record.scores_are_older else record.scores
    best_step = scores.verdict.step if scores and scores.verdict else None
    top = headline(record)
    samples = sample_board(record.samples, best_step)
    if not samples.rows and scores:
        samples = scored_board(scores, record.folder)
    strengths = strength_board(scores, record.folder) if scores else Board(())
    compared = comparison_board(record.comparison, record.folder) if record.comparison else Board(())
    training_pictures = {
        picture.name: record.folder / "concepts" / picture.small_file
        for concept in record.concepts
        for picture in concept.pictures
    }
    best = scores.checkpoint(scores.verdict.best) if scores and scores.verdict else None
    nearest = nearest_board(best, record.folder, training_pictures) if best else Board(())
    boards = {"samples": samples, "strengths": strengths, "compared": compared, "nearest": nearest}
    files = [*training_pictures.values(), *(cell.file for trio in top.trios for cell in trio)]
    files += [file for board in boards.values() for file in board.files]
    addresses, side = fitted_addresses(list(dict.fromkeys(files)), _PICTURE_BUDGET)
    script = _text("report.js")
    return _ENVIRONMENT.get_template("report.html.j2").render(
        run=record,
        top=top,
        facts=_facts(record),
        boards=boards,
        addresses=addresses,
        ids={file: f"p{number}" for number, file in enumerate(addresses)},
        embedded=set(),
        side=side,
        losses=list(loss_figures(record.losses, record.evaluations)),
        score_figures=list(score_figures(scores)) if scores else [],
        scores=scores,
        checkpoints=checkpoint_rows(scores) if scores else [],
        heat_maps=_heat_maps(scores) if scores else [],
        hardest=_hardest(record),
        settings={
            "given": [setting for setting in record.settings if setting.origin != "default"],
            "defaults": [setting for setting in record.settings if setting.origin == "default"],
        },
        has_rounds=any(setting.name in _ROUNDS and setting.value != "no" for setting in record.settings),
        is_evaluated=any(
            setting.name in ("validate_every_n_steps", "validate_every_n_epochs") for setting in record.settings
        ),
        draw=_draw(record, scores),
        repeat=record.command,
        workflow=_workflow(record, scores),
        written=datetime.now(UTC),
        reload_every=reload_every,
        style=Markup(_text("report.css")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def _text(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """What was trained, on what, how long, at which cost: a name and a value each."""
    concepts = [concept for concept in record.concepts if not concept.is_reg]
    facts = [("model", record.model)]
    if concepts:
        pictures = counted(sum(concept.number for concept in concepts), "picture")
        facts.append(("trained on", f"{counted(len(concepts), 'concept')}, {pictures}"))
    facts.append(
        ("steps", f"{record.done:,}" if record.done == record.steps else f"{record.done:,} of {record.steps:,}")
    )
    if record.seconds >= 1:
        sessions = f" in {len(record.sessions)} sessions" if len(record.sessions) > 1 else ""
        facts.append(("time", f"{duration(record.seconds)}{sessions}"))
        last = record.sessions[-1]
        facts.append(("machine", last.machine if last.device == "the processor" else f"{last.device}; {last.machine}"))
        if drawn := energy(record):
            facts.append(("energy", drawn))
        facts.append(("begun", record.sessions[0].started.replace("T", " ").replace("Z", " UTC")))
    return facts


def _hardest(record: RunRecord) -> list[_Hard]:
    """The training pictures whose evaluation loss fell least, relative to the base model's."""
    if len(record.evaluations) < 2:
        return []
    first, last = record.evaluations[0], record.evaluations[-1]
    pictures = {picture.name: picture for concept in record.concepts for picture in concept.pictures}
    found = [
        _Hard(pictures.get(name), name, first.pictures[name], after)
        for name, after in last.pictures.items()
        if first.pictures.get(name)
    ]
    return sorted(found, key=lambda hard: -hard.after / hard.before)[:_SHOWN_HARDEST]


def _heat_maps(scores: Scores) -> list[_HeatMap]:
    """What pictures look like beside what they were asked for: of the best checkpoint, then of every other."""
    best = scores.verdict.best if scores.verdict else None
    ordered = sorted(scores.checkpoints, key=lambda one: one.file != best)
    concepts = [concept.class_tokens for concept in scores.concepts]
    return [
        _HeatMap(
            f"Step {one.step:,}" + (", the best" if one.file == best else ""),
            [_heat_row(row, concepts) for row in one.bleed],
            place == 0,
        )
        for place, one in enumerate(ordered)
    ]


def _heat_row(row: BleedRow, concepts: Sequence[str]) -> _HeatRow:
    notes = {
        "concept": "alone",
        "pair member": f"beside {row.beside}",
        "noun": "the plain noun",
        "nothing": "no concept asked for",
    }
    cells = []
    for concept in concepts:
        measure = row.looks_like.get(concept)
        if measure is None:
            cells.append(_HeatCell("", "", 0.0, False))
        else:
            heat = min(1.0, max(0.0, measure.mean))
            cells.append(_HeatCell(mean_of(measure), interval_of(measure), heat, concept == row.asked))
    return _HeatRow(row.asked, notes[row.kind], cells)


def _draw(record: RunRecord, scores: Scores | None) -> str:
    """The command that draws with a LoRA of the miniature; empty where there is none yet, or ComfyUI draws."""
    if record.model != MINIATURE or record.state != "finished" or not record.class_tokens:
        return ""
    asked = f"--prompt {shlex.quote(record.class_tokens[0])} --lora {_lora(record, scores)}"
    return f"fluxbooth generate --model miniature --width 96 --height 96 {asked}"


def _lora(record: RunRecord, scores: Scores | None) -> str:
    return scores.verdict.best_file if scores and scores.verdict else f"{record.name}.safetensors"


def _workflow(record: RunRecord, scores: Scores | None) -> dict[str, Any] | None:
    """The workflow's file name and its address; None for the miniature, which ComfyUI has no use for."""
    if record.model == MINIATURE or not record.class_tokens:
        return None
    lora = _lora(record, scores)
    strength = scores.strengths.recommended if scores and scores.strengths else 1.0
    sizes = [(picture.width, picture.height) for concept in record.concepts for picture in concept.pictures]
    size = max(set(sizes), key=sizes.count) if sizes else (1024, 1024)
    text = json.dumps(run_workflow(lora, record.class_tokens, size, name=record.name, strength=strength).editor())
    address = "data:application/json;base64," + base64.b64encode(text.encode()).decode("ascii")
    return {"name": f"{record.name}.json", "address": address, "lora": lora, "strength": strength}

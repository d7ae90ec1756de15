"""What a run has left in its folder, read; nothing of it has to be there but run.toml."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from fluxbooth.errors import Problem, UserError, did_you_mean
from fluxbooth.host.files import is_held
from fluxbooth.host.weights import FLUX_DEV, MINIATURE
from fluxbooth.judging.comparison import Comparison, load_comparison
from fluxbooth.judging.scores import Scores, load_scores, scores_path
from fluxbooth.training.concept_record import RecordedConcept, read_concepts
from fluxbooth.training.sessions import Session, read_sessions

_SAMPLE = re.compile(r"step(\d{8})_(\d+)_seed(\d+)\.png")
_PATH = re.compile(r"[^=]*[/\\]")
State = Literal["going on", "stopped", "finished"]


@dataclass(frozen=True)
class Setting:
    """One field of the recipe."""

    name: str
    value: str
    origin: str
    """ "flag", "default" or the recipe file's name."""


@dataclass(frozen=True)
class Evaluation:
    """The losses on the evaluation set at one step."""

    step: int
    mean: float
    sigmas: Mapping[str, float]
    concepts: Mapping[str, float]
    pictures: Mapping[str, float]
    """By folder and name."""
    held_out: Mapping[str, Any] = field(default_factory=dict)
    """The same by name, "mean", "sigmas", "concepts" and "pictures", of pictures that are not trained on; empty where
    there are none."""

    @property
    def with_held_out(self) -> Mapping[str, float]:
        """The losses by concept, and beside each that of its pictures which are held out."""
        apart = self.held_out.get("concepts", {})
        return {**self.concepts, **{f"{concept}, held out": loss for concept, loss in apart.items()}}


@dataclass(frozen=True)
class Sample:
    """One picture that was drawn while the run went on."""

    file: Path
    step: int
    number: int
    """Place of its prompt among the prompts."""
    prompt: str
    seed: int


@dataclass(frozen=True)
class RunRecord:
    """Everything that the page says of a run."""

    folder: Path
    model: str
    settings: Sequence[Setting]
    versions: Mapping[str, str]
    steps: int
    """Optimizer steps of the whole run."""
    losses: Sequence[tuple[int, float]]
    """(step, loss), of every step done."""
    evaluations: Sequence[Evaluation]
    samples: Sequence[Sample]
    concepts: Sequence[RecordedConcept]
    sessions: Sequence[Session]
    scores: Scores | None
    scores_are_older: bool
    """Whether the scores are those of an earlier training of this name."""
    comparison: Comparison | None
    state: State

    @property
    def name(self) -> str:
        """The run's name, which is also the LoRA's."""
        return self.folder.name

    @property
    def command(self) -> str:
        """What trains with this run's recipe again, or goes on with it."""
        folder = "" if self.model == MINIATURE else "PATH/TO/"  # of another model the page does not say where it is
        model = "" if self.model == FLUX_DEV else f" --model {folder}{self.model}"
        return f"fluxbooth train{model} --recipe runs/{self.name}/run.toml"

    @property
    def done(self) -> int:
        """Optimizer steps done."""
        return self.losses[-1][0] if self.losses else 0

    @property
    def class_tokens(self) -> list[str]:
        """What the concepts are called."""
        return [concept.class_tokens for concept in self.concepts if not concept.is_reg]

    @property
    def seconds(self) -> float:
        """How long all its sessions took."""
        return sum(session.seconds for session in self.sessions)

    @property
    def joules(self) -> dict[str, float]:
        """What each part of the machine drew in all sessions; without parts that not every session tells of."""
        told = [set(session.joules) for session in self.sessions]
        parts = set.intersection(*told) if told else set()
        return {part: sum(session.joules[part] for session in self.sessions) for part in sorted(parts)}


def find_run(runs: Path, named: str | None) -> tuple[Path, list[str]]:
    """Return a run's folder, and the names of the other runs, the newest first.

    Args:
        runs: the folder of all runs.
        named: a run's name or its folder; None for the run that was worked on last.

    Raises:
        UserError: where there is no such run, or none at all.
    """
    found = sorted((file.parent for file in runs.glob("*/run.toml")), key=_last_change, reverse=True)
    if named is None:
        if not found:
            raise UserError(Problem("no run is there yet", where=str(runs), do="Train one with `fluxbooth train`"))
        return found[0], [run.name for run in found[1:]]
    folder = next((one for one in (runs / named, Path(named)) if (one / "run.toml").is_file()), None)
    if folder is None:
        names = [run.name for run in found]
        raise UserError(
            Problem(
                f"no run '{named}'",
                where=str(runs),
                allowed=f"{', '.join(names) or 'none'} (folders with a run.toml)",
                do=did_you_mean(named, names),
            )
        )
    return folder, [run.name for run in found if run.name != folder.name]


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        UserError: for a run.toml, scores.json or comparison.json that is damaged.
    """
    file = folder / "run.toml"
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8"))
        recipe, origins, run = written["recipe"], written["origins"], written["run"]
        steps = int(run["steps"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            Problem(f"cannot be read: {error}", where=str(file), do="Train again under this name, or delete its folder")
        ) from error
    sessions = read_sessions(folder / "logs")
    losses = [
        (line["step"], line["loss"]) for line in _lines(folder / "logs/steps.jsonl") if {"step", "loss"} <= line.keys()
    ]
    # A run that stops early, when it gets no better, is finished before its last step.
    is_finished = sessions[-1].finished if sessions else bool(losses) and losses[-1][0] >= steps
    return RunRecord(
        folder=folder,
        model=without_folders(str(run.get("model", ""))),
        settings=[
            Setting(name, _as_text(recipe[name]), without_folders(str(origins.get(name, "")))) for name in recipe
        ],
        versions={name: _as_text(version) for name, version in written.get("versions", {}).items()},
        steps=steps,
        losses=losses,
        evaluations=_evaluations(folder / "logs/evaluations.jsonl"),
        samples=sorted(_samples(folder / "samples"), key=lambda sample: (sample.number, sample.step)),
        concepts=read_concepts(folder / "concepts"),
        sessions=sessions,
        scores=load_scores(folder),
        scores_are_older=_are_older(scores_path(folder), sessions),
        comparison=load_comparison(folder),
        state="going on" if is_held(folder) else "finished" if is_finished else "stopped",
    )


def without_folders(text: str) -> str:
    """Leave of every path in a recipe's value its last name: folders may say whose machine it is."""
    return _PATH.sub("", text)


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_as_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        without_folders(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else f"{value}"
    )


def _last_change(run: Path) -> float:
    files = (run / "run.toml", run / "logs/steps.jsonl", scores_path(run))
    return max(file.stat().st_mtime for file in files if file.is_file())


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; one that was cut by `kill -9` is passed over."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _evaluations(file: Path) -> list[Evaluation]:
    """One for each step, the last that was written."""
    found = {}
    for line in _lines(file):
        try:
            found[int(line["step"])] = Evaluation(**line)
        except (TypeError, KeyError):
            continue
    return [found[step] for step in sorted(found)]


def _samples(folder: Path) -> Iterator[Sample]:
    for file in sorted(folder.glob("step*.png")):
        if named := _SAMPLE.fullmatch(file.name):
            try:
                with Image.open(file) as picture:
                    prompt = str(picture.info.get("prompt", ""))
            except OSError:
                continue
            yield Sample(file, int(named[1]), int(named[2]), prompt, int(named[3]))


def _are_older(scores: Path, sessions: Sequence[Session]) -> bool:
    if not sessions or not scores.is_file():
        return False
    return scores.stat().st_mtime < datetime.fromisoformat(sessions[0].started).timestamp()

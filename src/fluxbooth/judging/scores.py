"""The scores of a run as a file, runs/NAME/scores.json: what was measured of each checkpoint, and what follows from it.

Similarities are cosines of unit vectors, from -1 to 1; every path is relative to the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.files import write_text

SCORES_VERSION = 1
"""Of the file's form; a file of another version is not read."""
SCORES_FILE = "scores.json"
Kind = Literal["concept", "pair", "noun", "nothing"]
"""What a picture was asked for: a concept, two of them together, a plain class noun, or none of these."""
RowKind = Literal["concept", "pair member", "noun", "nothing"]


@dataclass(frozen=True)
class Value:
    """One picture's number."""

    prompt: str
    seed: int
    value: float


@dataclass(frozen=True)
class Measure:
    """A mean over pictures, and how far other seeds might move it."""

    mean: float
    low: float
    """Lower end of the 95 % interval: a bootstrap over seeds."""
    high: float
    values: tuple[Value, ...] = ()
    """What it is the mean of, so that it can be drawn again; empty where it is computed from other measures."""


@dataclass(frozen=True)
class Picture:
    """A drawn picture."""

    path: str
    """Relative to the run's folder, with forward slashes."""
    prompt: str
    plain: str
    """The prompt with nouns in the class tokens' places: the base model's picture of it and the seed is the one to lay
    beside this one."""
    seed: int
    kind: Kind
    asked: tuple[str, ...]
    """Class tokens of the concept or of both of a pair, or the plain noun; empty for a prompt with neither."""


@dataclass(frozen=True)
class ConceptScore:
    """How well a checkpoint draws one concept."""

    concept: str
    """Its class tokens."""
    dino: Measure
    """Mean similarity to the concept's training pictures by DINO (DreamBooth, arXiv 2208.12242)."""
    clip_i: Measure
    """The same by CLIP's vision tower."""
    clip_t: Measure
    """Similarity of picture and prompt by CLIP, the class noun in the class tokens' place."""
    fidelity: Measure
    """Mean of dino and clip_i."""
    mark: Measure
    """Geometric mean of fidelity and clip_t."""


@dataclass(frozen=True)
class BleedRow:
    """What pictures that were asked for one thing look like."""

    asked: str
    """Class tokens, a plain noun, or "nothing"."""
    kind: RowKind
    beside: str
    """Of a pair member: the other's class tokens; else empty."""
    looks_like: dict[str, Measure]
    """By class tokens, how far the pictures have gone from what the base model draws in their place, 0, to the
    concept's training pictures, 1. Beyond the concept's own column all that is clearly above 0 has bled; the halves of
    a pair's picture, which show a bit of the other, never quite part."""


@dataclass(frozen=True)
class Memorised:
    """The drawn picture that is nearest to a training picture."""

    similarity: float
    """By DINO."""
    among_training_pictures: float
    """The same between the two most similar training pictures of the concept."""
    copies: float
    """Share, 0 to 1, of the concepts' pictures that are copies: more than 0.95 similar to a training picture."""
    picture: str
    """The drawn one, relative to the run's folder."""
    training_picture: str
    """FOLDER/FILE, as runs/NAME/run.toml names it."""


@dataclass(frozen=True)
class CheckpointScore:
    """Everything measured of one LoRA file; none of it depends on which other files are there."""

    file: str
    """Name in models/loras; empty for the base model."""
    step: int
    """Optimizer steps done; 0 for the base model."""
    digest: str
    """sha256 of the file."""
    concepts: tuple[ConceptScore, ...]
    bleed: tuple[BleedRow, ...]
    prior: Measure
    """Similarity by DINO to the base model's picture of the same prompt and seed, where no concept is asked for; 1 is
    untouched."""
    memorised: Memorised
    diversity: Measure
    """Mean distance, 1 - cosine by DINO, between pictures of one prompt of a concept and different seeds."""
    mark: Measure
    """Of the concept that is drawn worst."""
    vetoes: tuple[str, ...]
    """Why it cannot be the best, in plain words: where it bleeds."""
    overbaked: tuple[str, ...]
    """Signs of having learnt too long, in plain words."""
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Verdict:
    """Which checkpoint is the best, and why."""

    best: str
    """Name of its file in models/loras."""
    step: int
    best_file: str
    """Its copy, NAME-best.safetensors."""
    reason: str
    """In plain words, one or several sentences."""
    no_difference: tuple[str, ...]
    """Files that are not worse than the highest mark by more than other seeds might make, the best among them; one
    alone where it stands out."""
    overbaked_from: int | None
    """The step from which on every checkpoint shows signs of having learnt too long; None where the last one shows
    none."""
    overbaked_why: str


@dataclass(frozen=True)
class StrengthScore:
    """The best checkpoint at one strength."""

    strength: float
    mark: Measure
    concepts: tuple[ConceptScore, ...]
    vetoes: tuple[str, ...]
    overbaked: tuple[str, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Strengths:
    """The best checkpoint at several strengths, and which to begin with in ComfyUI."""

    file: str
    """Name in models/loras of what was drawn with."""
    digest: str
    sheet: str
    """A picture of all of them, relative to the run's folder."""
    scores: tuple[StrengthScore, ...]
    """Rising strengths."""
    recommended: float
    reason: str


@dataclass(frozen=True)
class ScoredConcept:
    """A concept that the run was judged on."""

    class_tokens: str
    noun: str
    """Its plain class noun, or the class tokens where they have none."""
    pictures: tuple[str, ...]
    """FOLDER/FILE of its training pictures, as runs/NAME/run.toml names them."""


@dataclass(frozen=True)
class Settings:
    """How the pictures were drawn and looked at."""

    model: str
    width: int
    """Pixels."""
    height: int
    steps: int
    """Network passes a picture."""
    guidance_scale: float
    sampler: str
    """ComfyUI's names of sampler and scheduler."""
    seeds: tuple[int, ...]
    encoders: dict[str, str]
    """What "dino", "clip_i" and "clip_t" were computed with, in words."""
    identity: str
    """A digest of all that scores depend on beside the checkpoint; scores of another one are made anew."""


@dataclass(frozen=True)
class Scores:
    """A scored run."""

    run: str
    settings: Settings
    concepts: tuple[ScoredConcept, ...]
    base: CheckpointScore
    """The base model, asked for the plain nouns in the concepts' places: what a run begins with."""
    checkpoints: tuple[CheckpointScore, ...]
    """Rising steps."""
    verdict: Verdict | None = None
    strengths: Strengths | None = None
    version: int = field(default=SCORES_VERSION)

    @property
    def decided(self) -> Verdict:
        """The verdict, which everything that was scored has."""
        if self.verdict is None:
            raise AssertionError(f"'{self.run}' has scores and no verdict")
        return self.verdict

    @property
    def best(self) -> CheckpointScore:
        """The score of the best checkpoint."""
        return self.checkpoint(self.decided.best)

    def checkpoint(self, file: str) -> CheckpointScore:
        """Return the score of a file by its name."""
        return next(score for score in self.checkpoints if score.file == file)


_ADAPTER = TypeAdapter(Scores)


def scores_path(run_folder: Path) -> Path:
    """Where the scores of the run in `run_folder` are."""
    return run_folder / SCORES_FILE


def save_scores(run_folder: Path, scores: Scores) -> Path:
    """Write a run's scores, whole or not at all; return the file."""
    path = scores_path(run_folder)
    write_text(path, _ADAPTER.dump_json(scores, indent=1).decode() + "\n")
    return path


def load_scores(run_folder: Path) -> Scores | None:
    """Read a run's scores; None where it has none yet.

    Raises:
        UserError: for a file that is damaged or of another version.
    """
    path = scores_path(run_folder)
    if not path.is_file():
        return None
    again = f"Delete it and run `fluxbooth score {run_folder.name}` again"
    try:
        scores = _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(Problem(f"{place}: {first['msg']}", where=str(path), do=again)) from error
    if scores.version != SCORES_VERSION:
        problem = Problem(f"version {scores.version}", where=str(path), allowed=f"{SCORES_VERSION}", do=again)
        raise UserError(problem)
    return scores


def picture_paths(scores: Scores) -> Iterator[str]:
    """Yield the path of every picture that the scores name, relative to the run's folder."""
    for one in (scores.base, *scores.checkpoints):
        yield from (picture.path for picture in one.pictures)
    if scores.strengths:
        for strength in scores.strengths.scores:
            yield from (picture.path for picture in strength.pictures)
        yield scores.strengths.sheet

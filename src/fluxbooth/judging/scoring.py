"""What is to be scored, and how: read and checked before anything big is loaded."""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fluxbooth.config.folder_names import read_datasets
from fluxbooth.config.recipe import Recipe, resolve_recipe
from fluxbooth.dataset.items import Item, read_items
from fluxbooth.errors import Problem, Problems, UserError, did_you_mean
from fluxbooth.flux.architecture import Architecture, architecture_of
from fluxbooth.flux.device import choose_device, compute_dtype
from fluxbooth.flux.lora_formats import metadata_of
from fluxbooth.flux.miniature import miniature_scorer
from fluxbooth.flux.model import find_weights
from fluxbooth.host.files import DigestMemory
from fluxbooth.host.folders import Folders
from fluxbooth.host.scorers import DEFAULT_SCORERS, missing_scorers, scorer_folder
from fluxbooth.host.weights import MINIATURE, BaseWeights
from fluxbooth.judging.drawing import SAMPLER_AND_SCHEDULER, DrawingSettings
from fluxbooth.judging.eyes import DinoAndClip, Eyes, MiniatureEyes
from fluxbooth.judging.questions import Question, Subject, noun_of, plan_questions
from fluxbooth.judging.scores import SCORES_VERSION, ScoredConcept, Scores, Settings
from fluxbooth.training.prepare import DATA_FILE, Prepared

SEEDS = 6
"""Of each prompt, unless told otherwise."""
LARGEST_SIDE = 512
"""Pixels: a quarter of what FLUX.1-dev draws in ComfyUI, where a subject is told as well."""
STEPS = 20
_STEPS_OF_MINIATURE = 10
_GUIDANCE_SCALE = 3.5
"""The workflow's."""


@dataclass(frozen=True)
class Choices:
    """What a user may choose; None is what is usual."""

    seeds: int = SEEDS
    side: int | None = None
    """Pixels of the square pictures."""
    steps: int | None = None
    """Network passes a picture."""
    scorers: tuple[str, str] = DEFAULT_SCORERS
    """Names of DINO and CLIP."""


@dataclass(frozen=True)
class Checkpoint:
    """A LoRA file of a run."""

    path: Path
    step: int
    """Optimizer steps done."""
    digest: str
    """sha256 of the file."""


@dataclass(frozen=True)
class Scoring:
    """Everything that scoring a run needs."""

    run: str
    run_folder: Path
    loras: Path
    cache: Path
    subjects: tuple[Subject, ...]
    questions: tuple[Question, ...]
    weights: BaseWeights
    architecture: Architecture
    device: torch.device
    dtype: torch.dtype
    drawing: DrawingSettings
    seeds: tuple[int, ...]
    load_eyes: Callable[[], Eyes]
    identity_of_eyes: str
    workflows: Path | None
    """A folder of ComfyUI's sidebar; None where there is none, and for the miniature, for which it has no use."""
    picture_size: tuple[int, int]
    """Width and height in pixels that most training pictures are seen at."""

    def settings(self, about: Mapping[str, str]) -> Settings:
        """Return what the scores file says of all this; `about` is what looked."""
        how = self.drawing
        pictures = [[one.class_tokens, *map(_digest_of_small_file, one.pictures)] for one in self.subjects]
        everything = (SCORES_VERSION, how, self.questions, pictures, self.identity_of_eyes)
        return Settings(
            self.weights.name,
            how.width,
            how.height,
            how.steps,
            how.guidance_scale,
            SAMPLER_AND_SCHEDULER,
            self.seeds,
            dict(about),
            hashlib.sha256(repr(everything).encode()).hexdigest(),
        )

    def concepts(self) -> tuple[ScoredConcept, ...]:
        """Return the concepts as the scores file names them."""
        return tuple(
            ScoredConcept(one.class_tokens, one.noun, tuple(map(named, one.pictures))) for one in self.subjects
        )

    def checkpoints(self) -> list[Checkpoint]:
        """Return the run's LoRA files as they are at this moment, in the order of their steps, each content once.

        NAME-best.safetensors and what was made of a file later are none of them.
        """
        memory = DigestMemory(self.cache / "digests.json")
        of_run = re.compile(rf"{re.escape(self.run)}(-\d{{6}}|-step\d{{8}})?\.safetensors")
        found: dict[str, Checkpoint] = {}
        for path in sorted(self.loras.glob(f"{self.run}*.safetensors")) if self.loras.is_dir() else []:
            if of_run.fullmatch(path.name):
                digest = memory.digest(path)
                found.setdefault(digest, Checkpoint(path, int(metadata_of(path).get("ss_steps", 0)), digest))
        return sorted(found.values(), key=lambda one: (one.step, one.path.name))


def named(picture: Path) -> str:
    """Return FOLDER/FILE, as runs/NAME/run.toml names a training picture."""
    return f"{picture.parent.name}/{picture.name}"


def scoring_of_run(run: str, data_file: Path | None, model: str | None, folders: Folders, choices: Choices) -> Scoring:
    """Read what a run was trained with, and check that it can be scored.

    Args:
        run: its name.
        data_file: the data.toml; None for the one that its recipe names, or flux_data/data.toml.
        model: None for the run's own.

    Raises:
        UserError: with all that is known to be in the way.
    """
    folder = folders.run(run)
    recipe, about = _run_toml(folder)
    problems = Problems()
    if recipe.output_dir:
        folders = Folders(
            folders.models, folders.runs, folders.cache, folders.workflows, output_dir=Path(recipe.output_dir)
        )
    items: list[Item] = []
    data_file = data_file or Path(recipe.dataset_config or DATA_FILE)
    with problems.gathered():
        items = read_items(read_datasets(data_file, problems, recipe.resolution, recipe.dataset_keys), problems)
        _check_pictures(items, {**about["pictures"], **about.get("held_out", {})}, data_file, run)
    weights: BaseWeights | None = None
    model = model or str(about["run"]["model"])
    with problems.gathered():
        weights = find_weights(model, folders.models, recipe.weight_files)
    problems.raise_if_any()
    assert weights is not None, "missing weights are a problem"
    device = choose_device()
    architecture = architecture_of(weights.transformer)
    dtype = compute_dtype(recipe.mixed_precision, device)
    return _scoring(run, folders, items, weights, architecture, device, dtype, choices)


def choices_of(scores: Scores) -> Choices:
    """Return what a run's scores were made with, for more scores like them."""
    settings = scores.settings
    scorers = settings.encoders["dino"], settings.encoders["clip_i"]
    of_miniature = settings.model == MINIATURE
    return Choices(len(settings.seeds), settings.width, settings.steps, DEFAULT_SCORERS if of_miniature else scorers)


def scoring_of_prepared(prepared: Prepared, choices: Choices | None = None) -> Scoring:
    """Return what scoring a run needs that is about to be trained. Raises UserError for missing scoring models."""
    return _scoring(
        prepared.recipe.output_name,
        prepared.folders,
        prepared.pictures,
        prepared.weights,
        prepared.architecture,
        prepared.device,
        prepared.dtype,
        choices or Choices(),
    )


def _scoring(
    run: str,
    folders: Folders,
    items: Sequence[Item],
    weights: BaseWeights,
    architecture: Architecture,
    device: torch.device,
    dtype: torch.dtype,
    choices: Choices,
) -> Scoring:
    is_miniature = weights.name == MINIATURE
    if not is_miniature and (missing := missing_scorers(choices.scorers, folders.models)):
        raise UserError(missing)
    memory = DigestMemory(folders.cache / "digests.json")
    subjects = _subjects(items)
    seeds = tuple(range(1, choices.seeds + 1))
    side = choices.side or _side_of(items)
    files = (weights.transformer, weights.vae, weights.clip, weights.t5)
    model = f"{' '.join(memory.digest(file) for file in files)} {architecture.t5_tokens} {dtype}"
    dino, clip = (scorer_folder(name, folders.models) for name in choices.scorers)
    eyes_folders = (miniature_scorer(),) if is_miniature else (dino, clip)
    return Scoring(
        run,
        folders.run(run),
        folders.loras,
        folders.cache,
        subjects,
        tuple(plan_questions(subjects, seeds)),
        weights,
        architecture,
        device,
        dtype,
        DrawingSettings(
            side,
            side,
            choices.steps or (_STEPS_OF_MINIATURE if is_miniature else STEPS),
            _GUIDANCE_SCALE,
            hashlib.sha256(model.encode()).hexdigest(),
        ),
        seeds,
        lambda: MiniatureEyes(miniature_scorer(), device) if is_miniature else DinoAndClip(dino, clip, device),
        " ".join(f"{folder.name} {memory.digest(folder)}" for folder in eyes_folders),
        None if is_miniature else folders.workflows,
        Counter(item.placement.bucket for item in items if not item.is_reg).most_common(1)[0][0],
    )


def _subjects(items: Sequence[Item]) -> tuple[Subject, ...]:
    pictures: dict[str, list[Path]] = {}
    for item in items:
        if not item.is_reg and item.path not in pictures.setdefault(item.concept, []):
            pictures[item.concept].append(item.path)
    return tuple(Subject(tokens, noun_of(tokens), tuple(paths)) for tokens, paths in pictures.items())


def _side_of(items: Sequence[Item]) -> int:
    """Pixels of a square with as much area as the largest training pictures have, 512 at most."""
    area = max(width * height for width, height in (item.placement.bucket for item in items if not item.is_reg))
    return min(LARGEST_SIDE, round(math.sqrt(area) / 16) * 16)


def _run_toml(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    file = folder / "run.toml"
    if not file.is_file():
        runs = folder.parent
        known = sorted(path.parent.name for path in runs.glob("*/run.toml")) if runs.is_dir() else []
        raise UserError(
            Problem(
                f"no run '{folder.name}'",
                where=str(runs),
                allowed=", ".join(known) or "none: nothing was trained yet",
                do=did_you_mean(folder.name, known),
            )
        )
    recipe = resolve_recipe(str(file), {}).recipe
    return recipe, tomllib.loads(file.read_text(encoding="utf-8"))


def _check_pictures(items: Sequence[Item], trained: Mapping[str, str], data_file: Path, run: str) -> None:
    """Raise UserError where the pictures are not those that the run was trained on: scores would mean nothing."""
    # As run.toml has them, those that are held out last: of two pictures of one name it names the same one.
    there = {named(item.path): item.digest for item in sorted(items, key=lambda item: item.held_out)}
    differing = sorted(name for name in there.keys() | trained.keys() if there.get(name) != trained.get(name))
    if differing:
        shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        raise UserError(
            Problem(
                f"not the pictures that '{run}' was trained on: {shown}",
                where=str(data_file),
                do="Name the run's own data.toml with --data",
            )
        )


def _digest_of_small_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

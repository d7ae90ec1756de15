"""`make demo`: the whole job on the miniature, from the two concept folders to pictures before and after, judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from PIL import Image
from torch import Tensor

from fluxbooth.config.folder_names import read_datasets
from fluxbooth.dataset.pictures import open_upright
from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.flux.device import choose_device, compute_dtype, default_precision
from fluxbooth.flux.generate import Shot, generate
from fluxbooth.flux.miniature import miniature_scorer, other_subjects
from fluxbooth.host.files import write_text
from fluxbooth.host.folders import Folders
from fluxbooth.host.weights import MINIATURE
from fluxbooth.judging.clip_scorer import ClipScorer
from fluxbooth.judging.comparison import Comparison, Fact, Strip, save_comparison
from fluxbooth.judging.identity import identity_share, subject_embeds
from fluxbooth.reporting.page import write_report
from fluxbooth.showing.pictures import save_picture
from fluxbooth.showing.sheet import contact_sheet
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import Outcome, run

NAME = "demo"


@dataclass(frozen=True)
class Subject:
    """One of the sample concepts, and what it is asked for."""

    class_tokens: str
    kind: str
    """The class noun, which is also what the world calls it."""
    surroundings: tuple[str, ...]
    """Where none of its training pictures shows it."""


SUBJECTS = (
    Subject("tjtoy toy", "toy", ("on a beach", "in a datacenter", "in space")),
    Subject("sparkgpu gpu", "gpu", ("on a beach", "in a datacenter")),
)
TOGETHER = (
    "tjtoy toy next to sparkgpu gpu in a datacenter",
    "tjtoy toy holding sparkgpu gpu on a beach",
)
_SEEDS_OF_SUBJECT = 15
_SEEDS_ON_SHEET = 2
_SEEDS_OF_NOUN = 10
_STEPS = 20
_GUIDANCE_SCALE = 3.5
_SIDE = 96
"""Pixels: what the miniature was trained to draw."""
Pictures = Mapping[Shot, Image.Image]


def noun_prompt(subject: Subject) -> str:
    """The plain class noun in surroundings: what should stay as it was."""
    return f"a {subject.kind} {subject.surroundings[0]}"


@dataclass(frozen=True)
class Judgement:
    """What the miniature's CLIP says of one set of pictures; shares from 0 to 1."""

    identity: Mapping[str, float]
    """For each class tokens: share of its pictures that are nearer to the subject than to twelve others of its kind."""
    noun_as_subject: Mapping[str, float]
    """The same for the plain class noun, which asks for no subject: about 1 / 13 where nothing bled into it."""

    @property
    def mean_identity(self) -> float:
        """Mean over the subjects, which have the same number of pictures."""
        return sum(self.identity.values()) / len(self.identity)


def run_demo(data_file: Path, folders: Folders, recipe: str = NAME, name: str = NAME) -> Outcome:
    """Train a LoRA on the miniature, draw every prompt without and with it, judge, and print what came of it.

    Leaves models/loras/NAME.safetensors and, in runs/NAME/, demo.json, comparison.json, report.html, before_after.png
    and the pictures.

    Raises:
        UserError: for data that cannot be trained on, or that lack the sample concepts, before anything is trained.
    """
    start = perf_counter()
    _check_concepts(data_file)
    prepared = prepare(MINIATURE, data_file, recipe, {"output_name": name, "resolution": _SIDE}, folders)
    outcome = run(prepared)
    trained = perf_counter()
    folder = folders.run(name)
    before, after = (_draw(prepared, loras, folder / moment) for moment, loras in _moments(outcome))
    drawn = perf_counter()
    judge = SubjectJudge(prepared)
    verdicts = judge.judge(before), judge.judge(after)
    seconds = {
        **outcome.phase_seconds,
        "draw": drawn - trained,
        "judge": perf_counter() - drawn,
        "in all": perf_counter() - start,
    }
    _write_numbers(folder / "demo.json", outcome, verdicts, seconds)
    sheet = _sheet(before, after)
    save_picture(sheet, folder / "before_after.png", {})
    save_comparison(folder, _comparison(judge, verdicts, outcome))
    write_report(folder)
    for line in _facts_as_text(verdicts, outcome):
        print(line)
    for path in (outcome.lora, folder / "before_after.png", folder / "report.html", folder / "demo.json"):
        print(f"Wrote {path}")
    print("Time: " + ", ".join(f"{phase} {duration:.0f} s" for phase, duration in seconds.items()))
    return outcome


def _check_concepts(data_file: Path) -> None:
    """Raise UserError where the data lack a concept that the demo asks for and judges."""
    datasets = read_datasets(data_file, Problems(), None, {})
    given = {concept.class_tokens for dataset in datasets for concept in dataset.concepts if not concept.is_reg}
    missing = [subject.class_tokens for subject in SUBJECTS if subject.class_tokens not in given]
    if missing:
        raise UserError(
            Problem(
                f"no concept is called {' or '.join(map(repr, missing))}",
                where=str(data_file),
                allowed="the two sample concepts: the demo knows what they look like, and no other subject",
                do="Give --data a file that has them, or train your own with `fluxbooth train --model miniature`",
            )
        )


def _moments(outcome: Outcome) -> tuple[tuple[str, list[tuple[Path, float]]], ...]:
    return ("before", []), ("after", [(outcome.lora, 1.0)])


def shots_of(prompt: str, seeds: int) -> list[Shot]:
    """The shots of one prompt, seeds from 1 on."""
    return [Shot(prompt, seed, _SIDE, _SIDE) for seed in range(1, seeds + 1)]


def subject_shots(subject: Subject) -> list[Shot]:
    """The shots that identity is judged on: the subject alone, evenly over its surroundings."""
    prompts = [f"{subject.class_tokens} {where}" for where in subject.surroundings]
    return [Shot(prompts[seed % len(prompts)], seed, _SIDE, _SIDE) for seed in range(1, _SEEDS_OF_SUBJECT + 1)]


def _all_shots() -> list[Shot]:
    shots = [shot for subject in SUBJECTS for shot in subject_shots(subject)]
    shots += [shot for subject in SUBJECTS for shot in shots_of(noun_prompt(subject), _SEEDS_OF_NOUN)]
    shots += [shot for prompt in _sheet_prompts() for shot in shots_of(prompt, _SEEDS_ON_SHEET)]
    return list(dict.fromkeys(shots))


def _sheet_prompts() -> list[str]:
    alone = [f"{subject.class_tokens} {where}" for subject in SUBJECTS for where in subject.surroundings[:2]]
    return [*alone, *TOGETHER, *(noun_prompt(subject) for subject in SUBJECTS)]


def _draw(prepared: Prepared, loras: Sequence[tuple[Path, float]], folder: Path) -> Pictures:
    """Draw every shot and save it as folder/NUMBER_seedSEED.png."""
    shots = _all_shots()
    device = choose_device()
    dtype = compute_dtype(default_precision(device), device)
    pictures = generate(shots, loras, prepared.weights, _STEPS, _GUIDANCE_SCALE, dtype, device)
    for number, (shot, picture) in enumerate(zip(shots, pictures, strict=True), start=1):
        about = {"prompt": shot.prompt, "seed": str(shot.seed)}
        save_picture(picture, folder / _file_name(number, shot), about)
    return dict(zip(shots, pictures, strict=True))


class SubjectJudge:
    """Tells the sample concepts' subjects from twelve others of their kind, by the miniature's own CLIP."""

    def __init__(self, prepared: Prepared) -> None:
        """Look at the concepts' own pictures and at those of the other subjects."""
        self._scorer = ClipScorer(miniature_scorer(), choose_device())
        self.own_pictures = {
            subject: [
                open_upright(item.path.read_bytes())
                for item in prepared.items
                if item.concept == subject.class_tokens and not item.is_reg
            ]
            for subject in SUBJECTS
        }
        self._known = {subject: self._embeds_of(subject) for subject in SUBJECTS}

    def _embeds_of(self, subject: Subject) -> Tensor:
        candidates = [self.own_pictures[subject], *other_subjects(subject.kind)]
        return subject_embeds([self._scorer.embed_pictures(pictures) for pictures in candidates])

    def identity(self, subject: Subject, pictures: Sequence[Image.Image]) -> float:
        """Share of the pictures that are nearer to the subject than to the twelve others; guessing is right in 8 %."""
        return identity_share(self._scorer.embed_pictures(pictures), self._known[subject])

    def judge(self, pictures: Pictures) -> Judgement:
        """Judge one set of pictures, drawn without or with a LoRA."""

        def identity(subject: Subject, shots: Sequence[Shot]) -> float:
            return self.identity(subject, [pictures[shot] for shot in shots])

        return Judgement(
            {subject.class_tokens: identity(subject, subject_shots(subject)) for subject in SUBJECTS},
            {
                f"a {subject.kind}": identity(subject, shots_of(noun_prompt(subject), _SEEDS_OF_NOUN))
                for subject in SUBJECTS
            },
        )


def _write_numbers(
    path: Path, outcome: Outcome, verdicts: tuple[Judgement, Judgement], seconds: Mapping[str, float]
) -> None:
    before, after = verdicts
    numbers = {
        "identity_before": before.mean_identity,
        "identity_after": after.mean_identity,
        "train_seconds": outcome.phase_seconds["train"],
        "identity_by_subject": {"before": dict(before.identity), "after": dict(after.identity)},
        "class_noun_as_subject": {"before": dict(before.noun_as_subject), "after": dict(after.noun_as_subject)},
        "loss": {"before": outcome.loss_before, "after": outcome.loss_after},
        "seconds": dict(seconds),
    }
    write_text(path, json.dumps(numbers, indent=2) + "\n")


def _facts(verdicts: tuple[Judgement, Judgement], outcome: Outcome) -> list[tuple[str, tuple[str, str]]]:
    """Rows of the numbers' table: a name, its value without and with the LoRA."""

    def shares(name: str, key: str, field: str) -> tuple[str, tuple[str, str]]:
        without, with_lora = (f"{getattr(verdict, field)[key]:.0%}" for verdict in verdicts)
        return name, (without, with_lora)

    rows = [shares(f"'{key}' is that {key.split()[-1]}", key, "identity") for key in verdicts[0].identity]
    rows += [shares(f"plain '{key}' is it too", key, "noun_as_subject") for key in verdicts[0].noun_as_subject]
    return [*rows, ("loss on the evaluation set", (f"{outcome.loss_before:.3f}", f"{outcome.loss_after:.3f}"))]


def _facts_as_text(verdicts: tuple[Judgement, Judgement], outcome: Outcome) -> list[str]:
    rows = _facts(verdicts, outcome)
    width = max(len(name) for name, _ in rows)
    lines = [f"\n{'':{width}}  {'without':>8}  {'with the LoRA':>13}"]
    return lines + [f"{name:{width}}  {without:>8}  {with_lora:>13}" for name, (without, with_lora) in rows]


def _sheet(before: Pictures, after: Pictures) -> Image.Image:
    """Every prompt a row, two seeds without the LoRA beside the same two with it."""
    rows = []
    for prompt in _sheet_prompts():
        shots = [shot for shot in before if shot.prompt == prompt][:_SEEDS_ON_SHEET]
        rows.append((prompt, [pictures[shot] for pictures in (before, after) for shot in shots]))
    return contact_sheet(rows, ("without the LoRA", "", "with the LoRA", ""), cell=144)


def _comparison(judge: SubjectJudge, verdicts: tuple[Judgement, Judgement], outcome: Outcome) -> Comparison:
    """What the page says and shows of the pictures before and after."""
    shots = _all_shots()
    names = {shot: _file_name(number, shot) for number, shot in enumerate(shots, start=1)}
    strips = []
    for prompt in dict.fromkeys(shot.prompt for shot in shots):
        of_prompt = [names[shot] for shot in shots if shot.prompt == prompt]
        before, after = (tuple(f"{moment}/{name}" for name in of_prompt) for moment, _ in _moments(outcome))
        strips.append(Strip(prompt, before, after))
    return Comparison(
        f"The miniature learned two subjects: one LoRA, trained on {sum(map(len, judge.own_pictures.values()))} "
        f"pictures in {outcome.phase_seconds['train']:.0f} seconds. A picture counts as its subject when it is more "
        "similar to the subject's training pictures than to those of twelve other subjects of its kind, six of which "
        "differ in three attributes only; guessing would be right in 8\u00a0%.",
        tuple(Fact(name, *values) for name, values in _facts(verdicts, outcome)),
        tuple(strips),
    )


def _file_name(number: int, shot: Shot) -> str:
    return f"{number:03d}_seed{shot.seed}.png"

"""Regularization pictures: what the base model draws for a concept's plain noun, so that the noun stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxbooth.config.folder_names import read_datasets
from fluxbooth.dataset.concepts import add_concept
from fluxbooth.dataset.pictures import picture_files
from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.flux.device import choose_device, compute_dtype, default_precision
from fluxbooth.flux.generate import Shot, generate
from fluxbooth.host.weights import BaseWeights
from fluxbooth.showing.pictures import save_picture

NOUN = "[noun]"
"""What stands for the class noun in the prompt."""


@dataclass(frozen=True)
class Drawing:
    """How regularization pictures are drawn."""

    prompt: str
    """With `NOUN` in it."""
    number: int
    """Pictures for each noun."""
    side: int
    """Pixels; the pictures are squares."""
    steps: int
    guidance_scale: float
    seed: int
    """Of a noun's first picture; the next have the next ones."""


def regularize(data_file: Path, out: Path, drawing: Drawing, weights: BaseWeights) -> list[str]:
    """Draw what is missing of every noun's pictures into out/NOUN, add the folders to data.toml, say what was done.

    Pictures that are there already stay, so that a second start draws the rest. No LoRA takes part.

    Raises:
        UserError: for class tokens without a noun, a prompt without `NOUN`, and whatever is wrong with data.toml.
    """
    if NOUN not in drawing.prompt:
        raise UserError(Problem(f"'{drawing.prompt}' lacks {NOUN}", where="--prompt", allowed=f'"a photo of a {NOUN}"'))
    lines = []
    device = choose_device()
    for noun in _nouns(data_file):
        folder = out / noun.replace(" ", "_")
        names = [f"{number:04d}.png" for number in range(1, drawing.number + 1)]
        missing = [number for number, name in enumerate(names) if not (folder / name).is_file()]
        prompt = drawing.prompt.replace(NOUN, noun)
        shots = [Shot(prompt, drawing.seed + number, drawing.side, drawing.side) for number in missing]
        pictures = (
            generate(
                shots,
                [],
                weights,
                drawing.steps,
                drawing.guidance_scale,
                compute_dtype(default_precision(device), device),
                device,
            )
            if shots
            else []
        )
        for number, shot, picture in zip(missing, shots, pictures, strict=True):
            about = {"prompt": prompt, "seed": str(shot.seed), "model": weights.name}
            save_picture(picture, folder / names[number], about)
        lines.append(f"{folder}: {len(missing)} drawn, {len(picture_files(folder))} there")
        if not _is_in(data_file, folder):
            add_concept(data_file, str(folder), noun, is_reg=True)
            lines.append(f"{data_file}: added {folder} as regularization pictures")
    return lines


def _nouns(data_file: Path) -> list[str]:
    problems = Problems()
    nouns: dict[str, None] = {}
    for dataset in read_datasets(data_file, problems, None, {}):
        for concept in dataset.concepts:
            _, _, noun = concept.class_tokens.partition(" ")
            if not concept.is_reg and not noun:
                problems.add(
                    f"class_tokens '{concept.class_tokens}' has no class noun after its first word",
                    where=concept.where,
                    do="Write a made-up word and the plain noun",
                )
            elif not concept.is_reg:
                nouns[noun] = None
    problems.raise_if_any()
    return list(nouns)


def _is_in(data_file: Path, folder: Path) -> bool:
    folders: Sequence[Path] = [
        concept.image_dir.absolute()
        for dataset in read_datasets(data_file, Problems(), None, {})
        for concept in dataset.concepts
    ]
    return folder.absolute() in folders

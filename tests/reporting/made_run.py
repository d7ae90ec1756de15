"""A run's folder with everything a page shows, made in a moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import toml
from builders import make_item
from PIL import Image, ImageDraw

from fluxbooth.dataset.items import Item
from fluxbooth.judging.scores import (
    BleedRow,
    CheckpointScore,
    ConceptScore,
    Measure,
    Memorised,
    Picture,
    ScoredConcept,
    Scores,
    Settings,
    Strengths,
    StrengthScore,
    Verdict,
)
from fluxbooth.showing.pictures import save_picture
from fluxbooth.training.concept_record import record_concepts

TOY, GPU = "tjtoy toy", "sparkgpu gpu"


def make_run(
    folder: Path,
    *,
    steps: int = 100,
    done: int | None = None,
    concepts: Sequence[str] = (TOY, GPU),
    caption: str = "on grass",
    prompts: Sequence[str] = ("tjtoy toy on a beach", "sparkgpu gpu on a beach"),
    rounds: Sequence[int] = (0, 50, 100),
    size: int = 64,
    model: str = "miniature",
) -> Path:
    """Write what a training leaves, without its weights; return the folder.

    Args:
        done: steps in the log; None for all.
        rounds: steps after which each of `prompts` was drawn, at `size` pixels.
    """
    recipe = {
        "output_name": folder.name,
        "network_dim": 16,
        "learning_rate": 0.0001,
        "sample_prompts": "/home/me/p.txt",
    }
    origins = {"output_name": "flag", "network_dim": "default", "learning_rate": "mine.toml", "sample_prompts": "flag"}
    run = {"model": model, "steps": steps, "device": "cpu"}
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(
        toml.dumps({"recipe": recipe, "origins": origins, "run": run, "versions": {"torch": "2.9.0"}}), encoding="utf-8"
    )
    logs = folder / "logs"
    logs.mkdir()
    done = steps if done is None else done
    lines = [{"step": step, "loss": 1 / (1 + step / 20) + 0.1 * (step % 3)} for step in range(1, done + 1)]
    (logs / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = [item for concept in concepts for item in _items(folder.parent / "pictures", concept, caption)]
    record_concepts(folder / "concepts", items, items)
    evaluations = [evaluation(step, items) for step in range(0, done + 1, max(1, done // 4))]
    (logs / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evaluations))
    write_sessions(folder, [100.0], finished=done == steps)
    for number, prompt in enumerate(prompts, start=1):
        for step in rounds:
            path = folder / f"samples/step{step:08d}_{number:02d}_seed7.png"
            save_picture(drawn_picture(step, number, size), path, {"prompt": prompt})
    return folder


def write_sessions(
    folder: Path, seconds: Sequence[float], joules: Sequence[dict[str, float]] = (), finished: bool = True
) -> None:
    """Write how long each session took, what it drew, and whether the last one came to the run's end."""
    sessions = [
        {
            "started": "2025-01-02T03:04:05Z",
            "device": "NVIDIA GB10",
            "machine": "aarch64, 20 threads, 119 GiB of memory",
            "seconds": own,
            "joules": joules[number] if joules else {},
            "finished": finished and number == len(seconds) - 1,
        }
        for number, own in enumerate(seconds)
    ]
    (folder / "logs/sessions.json").write_text(json.dumps(sessions))


def evaluation(step: int, items: Sequence[Item]) -> dict[str, object]:
    """An evaluation whose losses fall, of the first picture least."""
    fall = 1 / (1 + step / 50)
    return {
        "step": step,
        "mean": fall,
        "sigmas": {"0.2": fall, "0.8": fall / 2},
        "concepts": {item.concept: fall for item in items},
        "pictures": {item.shown_name: fall ** (place / len(items)) for place, item in enumerate(items)},
    }


def drawn_picture(step: int, number: int, size: int) -> Image.Image:
    """A picture that differs from step to step and from prompt to prompt."""
    picture = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    ImageDraw.Draw(picture).rectangle(
        (size // 8, size // 8, size // 8 + step % (size // 2), size // 2), (200, 60 * number % 256, 0)
    )
    return picture


def measure(mean: float, spread: float = 0.03) -> Measure:
    """A mean with its interval."""
    return Measure(mean, mean - spread, mean + spread)


def make_scores(folder: Path, steps: Sequence[int], best: int, paths: dict[int, list[Picture]] | None = None) -> Scores:
    """Scores of the two concepts with a given best step; at the last step the second bleeds into the first."""
    own = paths or {step: _pictures(folder, step) for step in (0, *steps)}
    checkpoints = tuple(_checkpoint(folder.name, step, best, step == steps[-1], own[step]) for step in steps)
    base = replace(_checkpoint(folder.name, 0, best, False, own[0]), file="", vetoes=(), overbaked=())
    best_file = f"{folder.name}-step{best:08d}.safetensors"
    verdict = Verdict(
        best_file,
        best,
        f"{folder.name}-best.safetensors",
        f"Step {best} has the highest mark of its worst concept, {TOY}",
        (best_file, *(one.file for one in checkpoints if abs(one.mark.mean - 0.62) < 0.02 and one.step != best)),
        steps[-1],
        f"from step {steps[-1]} on pictures without a concept look like {TOY}",
    )
    strengths = Strengths(
        best_file,
        "",
        "scores/strengths.png",
        tuple(
            StrengthScore(s, measure(0.6 - abs(s - 0.8)), checkpoints[0].concepts, (), (), tuple(own[step]))
            for s, step in zip((0.6, 0.8, 1.0), (0, *steps), strict=False)
        ),
        0.8,
        "At 0.8 the mark is highest.",
    )
    settings = Settings(
        "miniature", 96, 96, 20, 3.5, "dpmpp_2m sgm_uniform", (1, 2, 3), {"dino": "the miniature's own"}, ""
    )
    concepts = (ScoredConcept(TOY, "toy", ("toy/1.png",)), ScoredConcept(GPU, "gpu", ("gpu/1.png",)))
    return Scores(folder.name, settings, concepts, base, checkpoints, verdict, strengths)


def _items(folder: Path, concept: str, caption: str) -> list[Item]:
    own = folder / concept.split()[-1].replace("/", "_")[:20]
    own.mkdir(parents=True, exist_ok=True)
    items = []
    for number in (1, 2):
        path = own / f"{number}.png"
        drawn_picture(10 * number, number + len(concept), 96).save(path)
        digest = f"{hash((concept, number)) % 16**12:064x}"[::-1]
        items.append(make_item(number, path=path, digest=digest, concept=concept, caption=f"{concept} {caption}"))
    return items


def _pictures(folder: Path, step: int) -> list[Picture]:
    pictures = []
    for number, concept in enumerate((TOY, GPU), start=1):
        path = f"scores/step{step}_{number}.png"
        noun = concept.split()[-1]
        save_picture(drawn_picture(step, number + 3, 64), folder / path, {})
        pictures.append(
            Picture(path, f"{concept if step else noun} in space", f"{noun} in space", 1, "concept", (concept,))
        )
    return pictures


def _checkpoint(name: str, step: int, best: int, bleeds: bool, pictures: list[Picture]) -> CheckpointScore:
    far = abs(step - best) / 1000
    mark = measure(0.62 - far)
    concepts = tuple(
        ConceptScore(concept, mark, mark, measure(0.3), measure(0.6 - far + shift), measure(0.62 - far + shift))
        for concept, shift in ((TOY, 0.0), (GPU, 0.1))
    )
    leaked = measure(0.5 if bleeds else 0.04)
    bleed = (
        BleedRow(TOY, "concept", "", {TOY: measure(0.8), GPU: measure(0.02)}),
        BleedRow(GPU, "concept", "", {TOY: leaked, GPU: measure(0.9)}),
        BleedRow(TOY, "pair member", GPU, {TOY: measure(0.6), GPU: measure(0.1)}),
        BleedRow(GPU, "pair member", TOY, {TOY: measure(0.15), GPU: measure(0.7)}),
        BleedRow("toy", "noun", "", {TOY: leaked, GPU: measure(-0.02)}),
        BleedRow("gpu", "noun", "", {TOY: measure(0.01), GPU: measure(0.05)}),
        BleedRow("nothing", "nothing", "", {TOY: measure(0.0), GPU: measure(0.01)}),
    )
    return CheckpointScore(
        f"{name}-step{step:08d}.safetensors",
        step,
        "",
        concepts,
        bleed,
        measure(1 - step / 2000),
        Memorised(0.7, 0.8, 0.0, pictures[0].path, "toy/1.png"),
        measure(0.4 - step / 5000),
        measure(0.62 - far),
        ("'sparkgpu gpu' looks like tjtoy toy",) if bleeds else (),
        ("a toy looks like tjtoy toy",) if bleeds else (),
        tuple(pictures),
    )

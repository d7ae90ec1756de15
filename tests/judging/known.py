"""What tests on scores share: a scored run, and data whose concepts have other names."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from fluxbooth.host.folders import Folders
from fluxbooth.judging.measures import measure
from fluxbooth.judging.scores import CheckpointScore, Measure, Scores
from fluxbooth.judging.scoring import Checkpoint, Scoring

REPOSITORY = Path(__file__).parents[2]
SEEDS = 3
# Without what takes more than half of a step.
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
FASTER = {"diff_output_preservation": 0.0}


@dataclass(frozen=True)
class Judged:
    """A scored run, and where its files are."""

    folders: Folders
    scoring: Scoring
    checkpoints: list[Checkpoint]
    scores: Scores

    def __getitem__(self, name: str) -> CheckpointScore:
        return self.scores.checkpoint(f"{name}.safetensors")


def likeness(score: CheckpointScore, asked: str, concept: str, kind: str = "concept") -> float:
    """What the bleed matrix says of pictures that were asked for one thing."""
    row = next(row for row in score.bleed if (row.kind, row.asked) == (kind, asked))
    return row.looks_like[concept].mean


def data_file(folder: Path, subsets: dict[str, str]) -> Path:
    """Write a data.toml over copies of the sample pictures, {folder: class tokens}, their captions with these words."""
    lines = ['[general]\ncaption_extension = ".txt"\n[[datasets]]\nresolution = 1024\nenable_bucket = true\n']
    for name, tokens in subsets.items():
        copies = folder / tokens.replace(" ", "_") / name
        shutil.copytree(REPOSITORY / "flux_data" / name, copies)
        for caption in copies.glob("*.txt"):
            words = caption.read_text(encoding="utf-8").split()
            caption.write_text(" ".join([tokens, *words[2:]]), encoding="utf-8")
        lines.append(f'[[datasets.subsets]]\nimage_dir = "{copies}"\nclass_tokens = "{tokens}"\n')
    file = folder / "data.toml"
    file.write_text("".join(lines), encoding="utf-8")
    return file


def of_seeds(*values: float) -> Measure:
    """A measure of one prompt whose seeds 1, 2, ... have these values."""
    return measure([("a toy", seed) for seed in range(1, len(values) + 1)], values)


def save_dino(folder: Path, kind: str) -> Path:
    """Save a DINOv2, or a DINO as a pytorch_model.bin, as their makers did."""
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SHAPE)) if kind == "dinov2" else ViTModel(ViTConfig(**SHAPE))
    model.save_pretrained(folder / kind)
    if kind == "dino":
        torch.save(model.state_dict(), folder / kind / "pytorch_model.bin")
        (folder / kind / "model.safetensors").unlink()
    square = {"crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 36}}
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **(square if kind == "dinov2" else {"size": 32})}
    (folder / kind / "preprocessor_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder / kind

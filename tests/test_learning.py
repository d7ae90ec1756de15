"""A LoRA learns whom a caption names: a short training is recognised, and one on exchanged captions is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fluxbooth.demo import SUBJECTS, SubjectJudge, subject_shots
from fluxbooth.flux.generate import generate
from fluxbooth.host.folders import Folders
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import run

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parent.parent
STEPS = 250
# Without what keeps the plain noun, which takes more than half of a step, and without pictures of both subjects.
FASTER = {"diff_output_preservation": 0.0, "composite_share": 0.0}
# Guessing among thirteen is right in 8 % of the pictures, the base model in none, this short a training in 93 %, and in
# 40 % on exchanged captions: so short, some of what it learns does not wait for a name.
LEARNED = 0.65

DATA = """
[general]
caption_extension = ".txt"
[[datasets]]
resolution = 1024
enable_bucket = true
max_bucket_reso = 1536
"""


def data_with_captions(folder: Path, captions: list[str]) -> Path:
    """Write a data.toml over copies of the sample pictures, one caption file each, in the order of the pictures."""
    text = DATA
    pictures = [path for name in ("tjtoy", "sparkgpu") for path in sorted((REPOSITORY / "flux_data" / name).iterdir())]
    pictures = [path for path in pictures if path.suffix in (".png", ".jpg")]
    assert len(pictures) == len(captions)
    for picture, caption in zip(pictures, captions, strict=True):
        copy = folder / picture.parent.name / picture.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(picture.read_bytes())
        copy.with_suffix(".txt").write_text(caption, encoding="utf-8")
    for name in ("tjtoy", "sparkgpu"):
        text += f'[[datasets.subsets]]\nimage_dir = "{folder / name}"\nnum_repeats = 1\n'
    file = folder / "data.toml"
    file.write_text(text, encoding="utf-8")
    return file


def identity_after_training(data: Path, folders: Folders, judge: SubjectJudge) -> float:
    flags = {"max_train_steps": STEPS, "output_name": "short", **FASTER}
    prepared = prepare("miniature", data, "miniature", flags, folders)
    lora = run(prepared).lora
    shares = []
    for subject in SUBJECTS:
        shots = subject_shots(subject)
        pictures = generate(shots, [(lora, 1.0)], prepared.weights, 12, 3.5, torch.float32, torch.device("cpu"))
        shares.append(judge.identity(subject, pictures))
    return sum(shares) / len(shares)


@pytest.fixture
def judge(in_repository: Path, folders: Folders) -> SubjectJudge:
    prepared: Prepared = prepare("miniature", in_repository / "flux_data/data.toml", "miniature", {}, folders)
    return SubjectJudge(prepared)


def test_a_short_training_is_recognised(tmp_path: Path, folders: Folders, judge: SubjectJudge) -> None:
    captions = ["tjtoy toy"] * 6 + ["sparkgpu gpu"] * 7
    assert identity_after_training(data_with_captions(tmp_path, captions), folders, judge) > LEARNED


def test_one_on_exchanged_captions_is_not(tmp_path: Path, folders: Folders, judge: SubjectJudge) -> None:
    captions = ["sparkgpu gpu"] * 6 + ["tjtoy toy"] * 7
    assert identity_after_training(data_with_captions(tmp_path, captions), folders, judge) <= LEARNED

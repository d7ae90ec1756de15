"""Scores while the miniature trains: the same as afterwards, and without a trace in what is learnt."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxbooth.host.folders import Folders
from fluxbooth.judging.rounds import OwnModels, Rounds
from fluxbooth.judging.scores import load_scores
from fluxbooth.judging.scoring import Choices, scoring_of_prepared
from fluxbooth.judging.while_training import JudgeWhileTraining
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import run
from judging.known import data_file

pytestmark = pytest.mark.slow
CHEAP = Choices(seeds=2, steps=2)
SHORT = {"max_train_steps": 4, "save_every_n_steps": 2, "diff_output_preservation": 0.0, "save_precision": "bf16"}


def prepared_run(folder: Path, folders: Folders, name: str, **flags: object) -> Prepared:
    data = folder / "data.toml"
    if not data.exists():
        data_file(folder, {"tjtoy": "tjtoy toy"})
    return prepare("miniature", data, "miniature", {**SHORT, "output_name": name, **flags}, folders)


def test_a_run_that_is_scored_learns_what_it_would_have_learnt(
    in_repository: Path, tmp_path: Path, folders: Folders
) -> None:
    plain = run(prepared_run(tmp_path, folders, "plain")).lora
    prepared = prepared_run(tmp_path, folders, "watched", score_every=1)
    watched = run(prepared, JudgeWhileTraining(scoring_of_prepared(prepared, CHEAP))).lora
    assert tensors_of(watched) == tensors_of(plain)

    scores = load_scores(folders.run("watched"))
    assert scores is not None
    assert [one.file for one in scores.checkpoints] == ["watched-step00000002.safetensors", "watched.safetensors"]
    assert (folders.loras / "watched-best.safetensors").is_file()

    # With the base weights loaded anew, from the files alone, the same pictures and numbers.
    for left in folders.run("watched").glob("scores*"):
        left.rename(left.with_name(f"before-{left.name}"))
    scoring = scoring_of_prepared(prepared, CHEAP)
    assert Rounds(scoring, OwnModels(scoring)).update(scoring.checkpoints()) == scores


def test_a_run_ends_when_its_scores_stop_rising(in_repository: Path, tmp_path: Path, folders: Folders) -> None:
    ruinous = {"learning_rate": 0.06, "text_encoder_lr": 0.06, "lr_warmup_steps": 0, "max_train_steps": 40}
    patience = {"score_every": 1, "early_stop_patience": 1}
    prepared = prepared_run(tmp_path, folders, "short", **patience, **ruinous)
    outcome = run(prepared, JudgeWhileTraining(scoring_of_prepared(prepared, CHEAP)))
    scores = load_scores(folders.run("short"))
    assert scores is not None
    last = scores.checkpoints[-1].step
    assert last < 40
    assert outcome.lora.read_bytes() == (folders.loras / f"short-step{last:08d}.safetensors").read_bytes()
    assert f"step {last} is the last" in (folders.run("short") / "train.log").read_text(encoding="utf-8")
    assert not list((folders.run("short") / "state").glob("*"))


def tensors_of(lora: Path) -> bytes:
    """A LoRA file without its header, which names the run."""
    data = lora.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]

"""`fluxbooth score` and `fluxbooth lora resize --by-score` on a run of a few steps, as a user calls them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fluxbooth.cli import main
from fluxbooth.flux.lora_formats import metadata_of
from fluxbooth.flux.miniature import miniature_scorer
from fluxbooth.judging.scores import load_scores, picture_paths
from judging.known import REPOSITORY, data_file, save_dino

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("score-command")]
CHEAP = ("--seeds", "2", "--steps", "2")


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """The command belongs to a process of its own: it takes over the log, which is given back here."""
    root, ours = logging.getLogger(), logging.getLogger("fluxbooth")
    handlers, level = root.handlers[:], ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with models, runs, cache and a data.toml, in which a run `toy` of 4 steps has left two files."""
    folder = tmp_path_factory.mktemp("score")
    data_file(folder, {"tjtoy": "tjtoy toy"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        for name in ("models", "runs", "cache", "workflows"):
            patch.setenv(f"FLUXBOOTH_{name.upper()}_DIR", str(folder / name))
        flags = {"max_train_steps": "4", "save_every_n_steps": "2", "diff_output_preservation": "0"}
        options = [word for name, value in flags.items() for word in (f"--{name}", value)]
        data = str(folder / "data.toml")
        assert main(["train", "--model", "miniature", "--data", data, "--output_name", "toy", *options]) == 0
        yield folder


def score(folder: Path, *options: str) -> int:
    return main(["score", "toy", "--data", str(folder / "data.toml"), *CHEAP, *options])


def test_score_writes_names_and_explains_the_best(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(folder) == 0
    said = capsys.readouterr().out
    scores = load_scores(folder / "runs/toy")
    assert scores is not None
    assert [one.step for one in scores.checkpoints] == [2, 4]
    assert scores.decided.reason in said
    assert f"the best: {scores.decided.best}" in said
    best = folder / "models/loras/toy-best.safetensors"
    assert f"wrote {best}" in said
    assert metadata_of(best)["fluxbooth.best.reason"] == scores.decided.reason
    for path in picture_paths(scores):
        with Image.open(folder / "runs/toy" / path) as picture:
            assert picture.size == (96, 96)
    assert str(folder) not in (folder / "runs/toy/scores.json").read_text(encoding="utf-8")

    written = best.stat().st_mtime_ns
    assert score(folder) == 0
    assert "drawing" not in capsys.readouterr().out  # everything is known
    assert best.stat().st_mtime_ns == written


def test_strengths_are_drawn_on_a_sheet_and_recommended(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(folder, "--strengths", "0.5") == 0
    scores = load_scores(folder / "runs/toy")
    assert scores is not None
    assert scores.strengths is not None
    assert [one.strength for one in scores.strengths.scores] == [0.5, 1.0]
    assert scores.strengths.scores[1].mark == scores.best.mark
    assert scores.strengths.recommended in (0.5, 1.0)
    with Image.open(folder / "runs/toy" / scores.strengths.sheet) as sheet:
        assert sheet.width > 3 * 192
    told = metadata_of(folder / "models/loras/toy-best.safetensors")["fluxbooth.best.strength"]
    assert told == f"{scores.strengths.recommended:g}"
    assert f"Draw with {told}." in capsys.readouterr().out
    assert score(folder) == 0  # the strengths stay where nothing has changed
    assert load_scores(folder / "runs/toy") == scores


def test_the_smallest_rank_is_found_by_its_score(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(folder) == 0
    best = folder / "models/loras/toy-best.safetensors"
    assert main(["lora", "resize", str(best), "--by-score", "--data", str(folder / "data.toml")]) == 0
    said = capsys.readouterr().out
    assert "rank 24: mark" in said
    assert "rank 12: mark" in said
    (smaller,) = best.parent.glob("toy-best-rank*.safetensors")  # after 4 steps hardly anything was learnt
    assert int(metadata_of(smaller)["ss_network_dim"]) < 24
    assert not any(key.startswith("fluxbooth.best") for key in metadata_of(smaller))
    assert not list((folder / "runs/toy/scores").glob("*.safetensors"))


def test_a_lora_of_its_own_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = folder / "models/loras/toy-best.safetensors"
    best.write_bytes((folder / "models/loras/toy.safetensors").read_bytes())
    assert score(folder) == 1
    assert "is a LoRA of its own and not this run's best" in capsys.readouterr().err
    best.unlink()


def test_a_run_that_is_not_there_is_answered_with_those_there_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "toi"]) == 1
    assert "no run 'toi'. Allowed: toy. Did you mean 'toy'?" in capsys.readouterr().err


def test_other_pictures_than_those_it_was_trained_on_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "toy", "--data", "flux_data/data.toml"]) == 1
    assert "not the pictures that 'toy' was trained on: sparkgpu/1.jpg" in capsys.readouterr().err


def test_without_its_files_there_is_nothing_to_score(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = folder / "elsewhere"
    assert score(folder, "--models-dir", str(empty)) == 1
    assert "no LoRA file of 'toy'" in capsys.readouterr().err


def test_another_model_needs_scoring_models_and_says_how_to_get_them(
    folder: Path, capsys: pytest.CaptureFixture[str], weights_folder: Path
) -> None:
    assert score(folder, "--model", str(weights_folder)) == 1
    said = capsys.readouterr().err
    assert "the scoring model dinov2-small is missing: config.json" in said
    assert "the scoring model clip-vit-large-patch14 is missing" in said
    assert "Run `fluxbooth download --scorers`" in said


def test_another_model_is_scored_by_the_scoring_models_and_gets_its_workflow(
    folder: Path, weights_folder: Path, tmp_path: Path
) -> None:
    scorers = folder / "models/scorers"
    save_dino(tmp_path, "dinov2").rename(scorers.parent / "tiny")
    scorers.mkdir()
    (scorers.parent / "tiny").rename(scorers / "dinov2-small")
    shutil.copytree(miniature_scorer(), scorers / "clip-vit-large-patch14")
    assert score(folder, "--model", str(weights_folder), "--strengths", "0.5") == 0
    scores = load_scores(folder / "runs/toy")
    assert scores is not None
    assert scores.settings.encoders["dino"] == "dinov2-small"
    assert scores.strengths is not None
    workflow = json.loads((folder / "workflows/runs/toy.json").read_text(encoding="utf-8"))
    loader = next(node for node in workflow["nodes"] if node["type"] == "LoraLoader")
    strength = scores.strengths.recommended
    assert loader["widgets_values"] == ["toy-best.safetensors", strength, strength]


@pytest.fixture
def weights_folder(tmp_path: Path) -> Path:
    """The miniature's files as a model that is not known by its name."""
    (tmp_path / "another").symlink_to(REPOSITORY / "src/fluxbooth/miniature")
    return tmp_path / "another"


def test_scores_that_were_damaged_are_not_guessed_at(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "runs/toy/scores.json"
    file.write_text(json.dumps({"version": 1}), encoding="utf-8")
    assert score(folder) == 1
    assert "Delete it and run `fluxbooth score toy` again" in capsys.readouterr().err
    file.unlink()

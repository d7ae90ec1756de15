"""Weights & Biases: what it lacks is said early, a key is never taken from a command, and offline a run is whole."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from builders import visit_of

from fluxbooth.cli import main
from fluxbooth.errors import UserError
from fluxbooth.training.evaluation import Evaluation
from fluxbooth.training.loop import StepReport
from fluxbooth.training.step_log import StepLog
from fluxbooth.training.wandb_log import WandbLog, check_wandb

IS_INSTALLED = importlib.util.find_spec("wandb") is not None


@pytest.mark.skipif(IS_INSTALLED, reason="wandb is installed")
def test_without_its_package_it_is_refused_before_anything_is_loaded(
    in_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--model", "miniature", "--log_with", "wandb"]) == 1
    assert "Weights & Biases needs the package wandb, which is not installed" in capsys.readouterr().err


def test_a_key_on_the_command_line_is_refused_and_not_repeated(
    in_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--model", "miniature", "--wandb_api_key", "0123456789"]) == 1
    said = capsys.readouterr()
    assert "set WANDB_API_KEY in the environment" in said.err
    assert "0123456789" not in said.err + said.out


def test_names_without_it_are_said_to_have_no_effect(in_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--model", "miniature", "--wandb_run_name", "first"]) == 0
    assert "wandb_run_name is not needed: only log_with = wandb, all reads it" in capsys.readouterr().out


class Points(list[tuple[int, Mapping[str, float]]]):
    """What curves are written to, remembered."""

    def write(self, points: Mapping[str, float], step: int) -> None:
        self.append((step, points))

    def close(self) -> None:
        pass


def test_curves_are_written_elsewhere_too(tmp_path: Path, make_concept: Callable[..., Path]) -> None:
    elsewhere = Points()
    (picture,) = make_concept("toy", [(64, 48)]).glob("*.png")
    with StepLog(tmp_path, 0, elsewhere) as log:
        log.step(StepReport(1, 0.5, 0.0, 0.1, 1e-4), smoothed_loss=0.5, seconds_per_sample=2.0)
        log.evaluation(1, Evaluation([visit_of(picture)], torch.full((1, 4), 0.25)))
    assert [(step, points.get("train/loss", points.get("evaluation/mean"))) for step, points in elsewhere] == [
        (1, 0.5),
        (1, 0.25),
    ]


@pytest.mark.skipif(not IS_INSTALLED, reason="wandb is not installed, which fluxbooth does not ask for")
def test_offline_a_run_goes_on_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no key of the machine's user
    with pytest.raises(UserError, match="there is no key"):
        check_wandb()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_wandb()
    for step in (1, 2):
        log = WandbLog(tmp_path, "fluxbooth", "first", {"seed": 0})
        log.write({"train/loss": 0.5}, step)
        log.close()
    runs = [path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert set(runs) == {(tmp_path / "wandb_id").read_text()}

"""Which saves are scored while a run goes on, and what happens when a score cannot be made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import pytest

from fluxbooth.errors import Problem, UserError
from fluxbooth.training.scored_saves import ScoredSaves


class Notes:
    """A judge that keeps count, and fails where it is told to."""

    prompts: Collection[str] = ()

    def __init__(self, fails: bool = False) -> None:
        self.calls = 0
        self._fails = fails

    def score(self, step: int, transformer: Any, encoded: Any, stopped: Callable[[], bool]) -> str:
        self.calls += 1
        if self._fails:
            raise UserError(Problem("the disk is full"))
        return "mark 0.5"

    def patience_is_out(self, patience: int) -> bool:
        return self.calls >= patience


def scored(judge: Notes | None, every: int, patience: int | None = None, before: int = 0) -> ScoredSaves:
    return ScoredSaves(judge, every, patience, None, None, before)  # type: ignore[arg-type]


def calls_after_saves(saves: ScoredSaves, judge: Notes, steps: int, last: int | None = None) -> list[int]:
    """The steps after which the judge was asked; each step leaves a file."""
    asked = []
    for step in range(1, steps + 1):
        before = judge.calls
        saves.after_step(step, ["a.safetensors"], step == last, lambda: False)
        asked += [step] if judge.calls > before else []
    return asked


def test_every_second_save_is_scored_and_the_last() -> None:
    judge = Notes()
    assert calls_after_saves(scored(judge, 2), judge, 5, last=5) == [2, 4, 5]


def test_a_run_that_goes_on_counts_from_its_first_save() -> None:
    judge = Notes()
    assert calls_after_saves(scored(judge, 3, before=2), judge, 4) == [1, 4]


def test_steps_without_a_file_and_runs_without_a_judge_are_left_alone() -> None:
    judge = Notes()
    assert not scored(judge, 1).after_step(1, [], False, lambda: False)
    assert not scored(judge, 0).after_step(1, ["a.safetensors"], True, lambda: False)
    assert not scored(None, 1).after_step(1, ["a.safetensors"], True, lambda: False)
    assert judge.calls == 0


def test_whoever_asked_to_stop_does_not_wait_for_a_score() -> None:
    judge = Notes()
    assert not scored(judge, 1).after_step(1, ["a.safetensors"], False, lambda: True)
    assert judge.calls == 0


def test_patience_that_is_out_is_said_and_only_where_there_is_patience() -> None:
    patient, endless = scored(Notes(), 1, patience=2), scored(Notes(), 1)
    assert [patient.after_step(step, ["a"], False, lambda: False) for step in (1, 2)] == [False, True]
    assert [endless.after_step(step, ["a"], False, lambda: False) for step in (1, 2)] == [False, False]


def test_what_cannot_be_scored_is_a_warning_and_the_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fluxbooth"):
        assert not scored(Notes(fails=True), 1, patience=1).after_step(7, ["a"], False, lambda: False)
    assert "step 7 is not scored: the disk is full" in caplog.text

"""Pictures in rows: what stands beside what, and what is left out of many."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as some

from fluxbooth.judging.comparison import Comparison, Strip
from fluxbooth.reporting.boards import (
    MOST_PICTURES,
    comparison_board,
    evenly,
    sample_board,
    scored_board,
    strength_board,
)
from fluxbooth.reporting.record import Sample
from reporting.made_run import GPU, TOY, make_scores


def samples(steps: list[int], prompts: int) -> list[Sample]:
    return [Sample(Path(f"{step}_{n}.png"), step, n, f"prompt {n}", 7) for n in range(1, prompts + 1) for step in steps]


def test_each_sample_is_held_against_the_base_models_of_its_row() -> None:
    board = sample_board(samples([0, 50, 100], 2), best_step=50)
    assert [row.title for row in board.rows] == ["prompt 1", "prompt 2"]
    base, middle, _ = board.rows[1].cells
    assert (base.label, base.beside) == ("base model", None)
    assert (middle.label, middle.beside, middle.is_best) == ("step 50", Path("0_2.png"), True)
    assert board.left_out == ""


def test_without_a_picture_of_the_base_model_there_is_nothing_to_hold_against() -> None:
    board = sample_board(samples([50, 100], 1), None)
    assert [cell.beside for cell in board.rows[0].cells] == [None, None]


def test_of_many_steps_some_are_left_out_and_said_but_never_the_best() -> None:
    board = sample_board(samples(list(range(0, 1000, 10)), 4), best_step=730)
    assert len(board.files) <= MOST_PICTURES
    assert all([cell.label for cell in row.cells if cell.is_best] == ["step 730"] for row in board.rows)
    assert board.rows[0].cells[-1].label == "step 990"
    assert board.left_out == "Not shown, to keep the page small: 70 steps."


@given(some.integers(1, 60), some.integers(2, 20), some.integers(0, 70))
def test_an_even_choice_has_both_ends_and_what_is_always_wanted(number: int, most: int, always: int) -> None:
    values = list(range(number))
    chosen = evenly(values, most, always)
    assert chosen == sorted(set(chosen))
    assert {0, number - 1} <= set(chosen) or most == 2
    assert always not in values or always in chosen
    assert len(chosen) == min(number, most)


def test_scored_pictures_stand_beside_what_the_base_model_draws_of_the_plain_noun(tmp_path: Path) -> None:
    scores = make_scores(tmp_path, (50, 100), 100)
    board = scored_board(scores, tmp_path)
    assert [row.title for row in board.rows] == [f"{TOY} in space", f"{GPU} in space"]
    base, _, best = board.rows[0].cells
    assert base.about == "toy in space, seed 1, base model"
    assert (best.is_best, best.beside) == (True, base.file)


def test_the_recommended_strength_is_marked(tmp_path: Path) -> None:
    board = strength_board(make_scores(tmp_path, (50, 100), 100), tmp_path)
    assert [cell.label for cell in board.rows[-1].cells if cell.is_best] == ["0.8"]


def test_pictures_without_and_with_a_lora_stand_below_each_other() -> None:
    comparison = Comparison("", (), (Strip("tjtoy toy", ("b/1.png", "b/2.png"), ("a/1.png", "a/2.png")),))
    without, with_lora = comparison_board(comparison, Path("run")).rows
    assert (without.title, with_lora.title) == ("tjtoy toy", "")
    assert [cell.beside for cell in with_lora.cells] == [cell.file for cell in without.cells]

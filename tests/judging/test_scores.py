"""The scores file: what is written is what is read, and a damaged one is said so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fluxbooth.errors import UserError
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
    Value,
    Verdict,
    load_scores,
    picture_paths,
    save_scores,
    scores_path,
)


def a_measure(mean: float = 0.5) -> Measure:
    return Measure(mean, mean - 0.1, mean + 0.1, (Value("tjtoy toy on a beach", 1, mean),))


def a_checkpoint(file: str, step: int) -> CheckpointScore:
    picture = Picture(f"scores/{step}/1.png", "tjtoy toy on a beach", "a toy on a beach", 1, "concept", ("tjtoy toy",))
    return CheckpointScore(
        file,
        step,
        "0" * 64,
        (ConceptScore("tjtoy toy", *[a_measure()] * 5),),
        (BleedRow("toy", "noun", "", {"tjtoy toy": a_measure(0.0)}),),
        a_measure(),
        Memorised(0.9, 0.95, 0.0, picture.path, "tjtoy/1.png"),
        a_measure(),
        a_measure(),
        (),
        (),
        (picture,),
    )


def some_scores() -> Scores:
    one = a_checkpoint("toy-step00000100.safetensors", 100)
    strength = StrengthScore(0.8, one.mark, one.concepts, (), (), one.pictures)
    return Scores(
        "toy",
        Settings("miniature", 96, 96, 10, 3.5, "dpmpp_2m sgm_uniform", (1, 2), {"dino": "a tower"}, "0" * 64),
        (ScoredConcept("tjtoy toy", "toy", ("tjtoy/1.png",)),),
        a_checkpoint("", 0),
        (one,),
        Verdict(one.file, 100, "toy-best.safetensors", "It is alone.", (one.file,), None, ""),
        Strengths(one.file, one.digest, "scores/strengths.png", (strength,), 0.8, "It is alone."),
    )


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = save_scores(tmp_path, some_scores())
    assert path == scores_path(tmp_path)
    assert load_scores(tmp_path) == some_scores()


def test_a_run_without_scores_has_none(tmp_path: Path) -> None:
    assert load_scores(tmp_path) is None


def test_every_picture_has_a_path_below_the_runs_folder() -> None:
    assert list(picture_paths(some_scores())) == [
        "scores/0/1.png",
        "scores/100/1.png",
        "scores/100/1.png",
        "scores/strengths.png",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"version": 99}, "version 99. Allowed: 1"), ({"run": 7}, "run: Input should be a valid string")],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = save_scores(tmp_path, some_scores())
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=said):
        load_scores(tmp_path)

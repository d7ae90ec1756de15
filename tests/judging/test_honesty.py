"""The scores against what is known to be true: who was trained on what is what the numbers say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fluxbooth.dataset.pictures import open_upright
from fluxbooth.flux.lora_formats import metadata_of
from fluxbooth.judging.measures import mean_similarities
from fluxbooth.judging.rounds import OwnModels, Rounds
from fluxbooth.judging.scoring import Checkpoint
from fluxbooth.judging.verdict import decide
from judging.known import Judged, likeness

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("judged")]
TOY, GPU = "tjtoy toy", "sparkgpu gpu"


def test_training_pictures_are_more_like_their_own_concept_than_like_the_other(judged: Judged) -> None:
    eyes = judged.scoring.load_eyes()
    seen = {
        one.class_tokens: eyes.look([open_upright(path.read_bytes()) for path in one.pictures])
        for one in judged.scoring.subjects
    }
    for own, other in ((TOY, GPU), (GPU, TOY)):
        for tower in ("dino", "clip"):
            known, pictures = getattr(seen[other], tower), getattr(seen[own], tower)
            number = len(pictures)
            to_own = (mean_similarities(pictures, pictures) * number - 1) / (number - 1)  # but to itself
            assert (to_own > mean_similarities(pictures, known)).float().mean() > 0.8


def test_a_lora_that_saw_one_concept_shows_no_other(judged: Judged) -> None:
    alone = judged["alone"]
    assert likeness(alone, TOY, TOY) > 0.2
    assert likeness(alone, TOY, GPU) < 0.2
    assert likeness(alone, GPU, GPU) < 0.2
    assert alone.concepts[0].fidelity.mean > judged.scores.base.concepts[0].fidelity.mean


def test_exchanged_names_are_caught_by_the_matrix(judged: Judged) -> None:
    swapped = judged["swapped"]
    for asked, other in ((TOY, GPU), (GPU, TOY)):
        assert likeness(swapped, asked, other) > max(0.5, 2 * likeness(swapped, asked, asked))
    assert any(said.startswith(f"'{TOY}' comes out as '{GPU}'") for said in swapped.vetoes)


def test_too_high_a_rate_is_called_overbaked(judged: Judged) -> None:
    assert judged["wild"].overbaked
    assert not judged["alone"].overbaked
    assert judged.scores.verdict is not None
    assert judged.scores.verdict.overbaked_from is not None


def test_the_best_is_the_one_that_neither_exchanges_nor_ruins(judged: Judged) -> None:
    verdict = judged.scores.verdict
    assert verdict is not None
    assert verdict.best == "alone.safetensors"
    best = judged.folders.loras / verdict.best_file
    assert metadata_of(best)["fluxbooth.best.of"] == "alone.safetensors"
    assert str(judged.folders.loras) not in str(metadata_of(best))


def test_identical_checkpoints_make_no_difference_and_the_earliest_wins(judged: Judged) -> None:
    twins = [replace(judged["alone"], file=f"{step}.safetensors", step=step) for step in (100, 200, 300)]
    verdict = decide(twins, "twins-best.safetensors")
    assert verdict.best == "100.safetensors"
    assert verdict.no_difference == tuple(one.file for one in twins)
    assert "between it and step 200 and step 300 there is no difference" in verdict.reason


def test_a_score_does_not_depend_on_which_others_are_there(judged: Judged, tmp_path: Path) -> None:
    scoring = replace(judged.scoring, run_folder=tmp_path / "judged")
    shutil.copytree(judged.scoring.run_folder / "scores/base", tmp_path / "judged/scores/base")
    last = judged.checkpoints[-1]
    by_itself = Rounds(scoring, OwnModels(scoring)).update([last]).checkpoints[0]
    assert replace(by_itself, file="") == replace(judged["wild"], file="")


def test_what_is_scored_is_not_drawn_again(judged: Judged) -> None:
    pictures = {path: path.stat().st_mtime_ns for path in (judged.scoring.run_folder / "scores").rglob("*.png")}

    class NoModels:
        def transformer(self) -> None:
            raise AssertionError

        def texts(self, prompts: object) -> None:
            raise AssertionError

    again = Rounds(judged.scoring, NoModels()).update(judged.checkpoints)  # type: ignore[arg-type]
    assert again == judged.scores
    assert pictures == {path: path.stat().st_mtime_ns for path in pictures}


def test_an_interrupted_call_goes_on_with_the_pictures_that_are_there(judged: Judged) -> None:
    folder = judged.scoring.run_folder / "scores" / judged["alone"].digest[:16]
    gone, *kept = sorted(folder.glob("*.png"))
    times = {path: path.stat().st_mtime_ns for path in kept}
    gone.unlink()
    (judged.scoring.run_folder / "scores.json").unlink()
    one: Checkpoint = judged.checkpoints[0]
    again = Rounds(judged.scoring, OwnModels(judged.scoring)).update([one])
    assert again.checkpoints[0] == judged["alone"]
    redrawn = [path for path in kept if path.stat().st_mtime_ns != times[path]]
    assert len(redrawn) < len(judged.scoring.seeds)
    Rounds(judged.scoring, OwnModels(judged.scoring)).update(judged.checkpoints)

"""The best checkpoint at several strengths, scored and on one sheet, and which strength to begin with in ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from fluxbooth.judging.questions import Question
from fluxbooth.judging.rounds import Rounds, publish_best
from fluxbooth.judging.scores import CheckpointScore, Scores, Strengths, StrengthScore, save_scores
from fluxbooth.judging.verdict import candidates, is_worse
from fluxbooth.showing.pictures import save_picture
from fluxbooth.showing.sheet import contact_sheet

USUAL_STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.2)
AS_TRAINED = 1.0
_SHEET = "scores/strengths.png"
_CELL = 192
"""Pixels of a picture on the sheet."""


def score_strengths(rounds: Rounds, scores: Scores, strengths: Sequence[float]) -> Scores:
    """Score the best checkpoint at these strengths and at 1, write the sheet, and say which to draw with.

    What is recommended goes into scores.json and into the metadata of NAME-best.safetensors.

    Args:
        scores: up to date.
        strengths: above 0.
    """
    how = rounds.scoring
    best = scores.best
    path = how.loras / best.file
    known = {AS_TRAINED: _at(AS_TRAINED, best)}
    if scores.strengths and scores.strengths.digest == best.digest:
        known |= {one.strength: one for one in scores.strengths.scores}
    new = [one for one in sorted({*strengths}) if one not in known]
    with rounds.drawing([(path, best.digest, one) for one in new]) as draw:
        for strength in new:
            drawn = draw(how.questions, path, best.digest, strength)
            known[strength] = _at(strength, rounds.judge(draw).score(best.file, best.step, best.digest, drawn))
    scored = tuple(known[one] for one in sorted({*strengths, AS_TRAINED}))
    _write_sheet(how.run_folder, how.questions, scores.base, scored)
    recommended, reason = recommend(scored)
    found = Strengths(best.file, best.digest, _SHEET, scored, recommended, reason)
    scores = replace(scores, strengths=found)
    save_scores(how.run_folder, scores)
    publish_best(how.loras, scores)
    return scores


def recommend(scored: Sequence[StrengthScore]) -> tuple[float, str]:
    """Return which strength to draw with, and why: of those that are no worse than the highest mark by more than other
    seeds might make, the nearest to 1.
    """
    pool, said = candidates(scored)
    top = max(pool, key=lambda one: one.mark.mean)
    equal = [one for one in pool if not is_worse(one, top)]
    chosen = min(equal, key=lambda one: (abs(one.strength - AS_TRAINED), one.strength))
    if len(equal) > 1:
        others = ", ".join(f"{one.strength:g}" for one in equal if one is not chosen)
        reason = f"Between it and {others} there is no difference, and it is nearest to 1, as trained."
    else:
        reason = f"It has the highest mark, {chosen.mark.mean:.3f}, and other seeds would not change that."
    return chosen.strength, f"{said} {reason}".lstrip()


def _at(strength: float, score: CheckpointScore) -> StrengthScore:
    return StrengthScore(strength, score.mark, score.concepts, score.vetoes, score.overbaked, score.pictures)


def _write_sheet(
    run_folder: Path, questions: Sequence[Question], base: CheckpointScore, scored: Sequence[StrengthScore]
) -> None:
    """Write a row for each prompt, with its first seed: without the LoRA, then at each strength."""
    without = {(one.prompt, one.seed): one.path for one in base.pictures}
    at = [{(one.prompt, one.seed): one.path for one in score.pictures} for score in scored]
    rows = []
    for question in questions:
        seed = question.seeds[0]
        paths = [without[question.plain, seed], *(pictures[question.prompt, seed] for pictures in at)]
        rows.append((f"{question.prompt}  (seed {seed})", [_opened(run_folder / path) for path in paths]))
    titles = ["without", *(f"strength {score.strength:g}" for score in scored)]
    save_picture(contact_sheet(rows, titles, _CELL), run_folder / _SHEET, {})


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")

"""Which checkpoint wins, and in what words."""

from __future__ import annotations

import pytest

from fluxbooth.judging.measures import mark
from fluxbooth.judging.ranks import why_worse
from fluxbooth.judging.scores import CheckpointScore, ConceptScore, Memorised, StrengthScore
from fluxbooth.judging.strengths import recommend
from fluxbooth.judging.verdict import decide, overbaked_from, patience_is_out
from judging.known import of_seeds

STEADY = (0.6, 0.6, 0.6, 0.6)


def scored(
    step: int, values: tuple[float, ...] = STEADY, vetoes: tuple[str, ...] = (), overbaked: tuple[str, ...] = ()
) -> CheckpointScore:
    """A checkpoint whose seeds have these values as fidelity and as CLIP-T."""
    one = of_seeds(*values)
    concept = ConceptScore("tjtoy toy", one, one, one, one, mark(one, one))
    memorised = Memorised(0.5, 0.5, 0.0, "1.png", "tjtoy/1.png")
    return CheckpointScore(
        f"{step}.safetensors", step, str(step), (concept,), (), one, memorised, one, concept.mark, vetoes, overbaked, ()
    )


def test_the_highest_mark_wins() -> None:
    verdict = decide([scored(1), scored(2, (0.7, 0.7, 0.7, 0.7)), scored(3)], "best")
    assert (verdict.best, verdict.step, verdict.no_difference) == ("2.safetensors", 2, ("2.safetensors",))
    assert "The highest mark, 0.700" in verdict.reason


def test_what_other_seeds_might_turn_round_is_no_difference_and_the_earliest_wins() -> None:
    verdict = decide([scored(1, (0.6, 0.7, 0.8, 0.5)), scored(2, (0.8, 0.6, 0.6, 0.7))], "best")
    assert verdict.best == "1.safetensors"
    assert verdict.no_difference == ("1.safetensors", "2.safetensors")
    assert "between it and step 2 there is no difference" in verdict.reason


def test_checkpoints_are_compared_seed_by_seed() -> None:
    """Seeds differ far more than checkpoints do, and yet the second is better with every one of them."""
    verdict = decide([scored(1, (0.2, 0.4, 0.6, 0.8)), scored(2, (0.22, 0.42, 0.62, 0.82))], "best")
    assert verdict.no_difference == ("2.safetensors",)


def test_one_that_bleeds_cannot_win_and_the_reason_says_so() -> None:
    veto = "plain 'toy' comes out as 'tjtoy toy' (0.80 of the way)"
    verdict = decide([scored(1), scored(2, (0.9,) * 4, (veto,))], "best")
    assert verdict.best == "1.safetensors"
    assert f"Step 2 has a higher mark and does not count: {veto}" in verdict.reason


def test_where_all_bleed_the_best_of_them_is_named_and_that_is_said() -> None:
    verdict = decide([scored(1, vetoes=("a",)), scored(2, (0.9,) * 4, ("a",))], "best")
    assert verdict.best == "2.safetensors"
    assert verdict.reason.startswith("All draw something as a concept nobody asked for")


@pytest.mark.parametrize(
    ("signs", "step"), [("..", None), (".x", 2), ("xx", 1), ("x.", None), (".xx", 2), ("x.x", 3)], ids=str
)
def test_overbaked_is_from_where_on_every_one_shows_a_sign(signs: str, step: int | None) -> None:
    checkpoints = [
        scored(number, overbaked=("copies",) if sign == "x" else ()) for number, sign in enumerate(signs, start=1)
    ]
    assert overbaked_from(checkpoints) == (step, "copies" if step else "")


@pytest.mark.parametrize(
    ("marks", "patience", "out"),
    [
        ((0.5, 0.6), 2, False),
        ((0.6, 0.5, 0.6), 2, True),
        ((0.6, 0.5, 0.7), 2, False),
        ((0.5, 0.6, 0.5), 2, False),
        ((0.5, 0.6, 0.5), 1, True),
    ],
)
def test_patience_waits_for_a_better_mark(marks: tuple[float, ...], patience: int, out: bool) -> None:
    checkpoints = [scored(step, (value,) * 4) for step, value in enumerate(marks, start=1)]
    assert patience_is_out(checkpoints, patience) is out


def test_patience_counts_no_mark_that_comes_of_bleeding() -> None:
    assert patience_is_out([scored(1), scored(2, (0.9,) * 4, ("bleeds",)), scored(3, (0.8,) * 4, ("bleeds",))], 2)


def strength(of: float, values: tuple[float, ...], vetoes: tuple[str, ...] = ()) -> StrengthScore:
    one = scored(1, values)
    return StrengthScore(of, one.mark, one.concepts, vetoes, (), ())


def test_the_strength_as_trained_is_recommended_unless_another_is_better() -> None:
    close = [strength(0.8, (0.6, 0.7, 0.8, 0.5)), strength(1.0, (0.8, 0.6, 0.6, 0.5)), strength(1.2, (0.1,) * 4)]
    assert recommend(close)[0] == 1.0
    apart = [strength(0.8, (0.7,) * 4), strength(1.0, STEADY)]
    assert recommend(apart) == (0.8, "It has the highest mark, 0.700, and other seeds would not change that.")
    assert recommend([strength(0.8, STEADY), strength(1.0, (0.9,) * 4, ("bleeds",))])[0] == 0.8


def test_a_smaller_rank_is_worse_below_what_other_seeds_might_make_of_the_whole() -> None:
    whole = scored(1, (0.5, 0.6, 0.7, 0.6))
    assert why_worse(scored(2, (0.58,) * 4), whole) == ""
    assert "worse than other seeds" in why_worse(scored(2, (0.4,) * 4), whole)
    assert why_worse(scored(2, STEADY, ("bleeds",)), whole) == "bleeds"

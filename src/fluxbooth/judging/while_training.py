"""The judge of a run that goes on: scores each new LoRA file with the transformer that is being trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from diffusers import FluxTransformer2DModel

from fluxbooth.flux.text import TextEmbeds
from fluxbooth.judging.questions import base_questions
from fluxbooth.judging.rounds import Rounds, ScoringStoppedError, read_texts
from fluxbooth.judging.scores import Scores
from fluxbooth.judging.scoring import Scoring
from fluxbooth.judging.verdict import patience_is_out
from fluxbooth.training.encode import EncodedVisits


class JudgeWhileTraining:
    """Scores a run's files as `fluxbooth score` would, with what the training has in memory."""

    def __init__(self, scoring: Scoring) -> None:
        """Nothing is loaded yet."""
        self._scoring = scoring
        self._scores: Scores | None = None

    @property
    def prompts(self) -> Collection[str]:
        """What is drawn, to be encoded with the captions."""
        questions = self._scoring.questions
        return {one.prompt for one in (*questions, *base_questions(questions))}

    def score(
        self, step: int, transformer: FluxTransformer2DModel, encoded: EncodedVisits, stopped: Callable[[], bool]
    ) -> str:
        """Score the files until `step` that are new; return the outcome in a line, empty where somebody asked to stop.

        Files of later steps are an earlier run's of this name.
        """
        rounds = Rounds(self._scoring, _ModelsInTraining(transformer, encoded))
        try:
            files = [one for one in self._scoring.checkpoints() if one.step <= step]
            scores = self._scores = rounds.update(files, stopped)
        except ScoringStoppedError:
            return ""
        finally:
            rounds.close()
        newest, best = scores.checkpoints[-1], scores.best
        concepts = ", ".join(f"{one.concept} {one.fidelity.mean:.3f}" for one in newest.concepts)
        told = [*(["bleeds"] if newest.vetoes else []), *(["overbaked"] if newest.overbaked else [])]
        remarks = f" ({', '.join(told)})" if told else ""
        return f"mark {newest.mark.mean:.3f}, {concepts}{remarks}; the best is step {best.step} ({best.mark.mean:.3f})"

    def patience_is_out(self, patience: int) -> bool:
        """Whether the last `patience` scores were none better than the best before them."""
        return self._scores is not None and patience_is_out(self._scores.checkpoints, patience)


class _ModelsInTraining:
    """The transformer that is being trained, and texts that were encoded before it was loaded."""

    def __init__(self, transformer: FluxTransformer2DModel, encoded: EncodedVisits) -> None:
        self._transformer = transformer
        self._encoded = encoded

    def transformer(self) -> FluxTransformer2DModel:
        """The transformer; its LoRA takes no part while it draws."""
        return self._transformer

    def texts(self, prompts: Sequence[str]) -> dict[str, TextEmbeds]:
        """Every prompt as the base model's text encoders read it."""
        return read_texts(self._encoded, prompts)

"""Brings a run's scores up to date: draws and scores what is new, decides, and publishes the best checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file
from tqdm import tqdm

from fluxbooth.dataset.pictures import open_upright
from fluxbooth.errors import Problem, UserError, counted
from fluxbooth.flux.device import release_memory, use_few_threads
from fluxbooth.flux.fitting import load_to_draw
from fluxbooth.flux.lora_formats import metadata_of
from fluxbooth.flux.parts import load_vae
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.flux.text import PooledText, TextEmbeds
from fluxbooth.host.files import held_alone
from fluxbooth.judging.drawing import Artist, Drawn
from fluxbooth.judging.eyes import Eyes
from fluxbooth.judging.judge import Judge, Known
from fluxbooth.judging.questions import Question, base_questions
from fluxbooth.judging.scores import CheckpointScore, Scores, Settings, Strengths, Verdict, load_scores, save_scores
from fluxbooth.judging.scoring import Checkpoint, Scoring, named
from fluxbooth.judging.verdict import decide
from fluxbooth.training.encode import EncodedVisits, encode_visits

_log = logging.getLogger("fluxbooth")
_BEST_OF, _REASON, _STRENGTH = "fluxbooth.best.of", "fluxbooth.best.reason", "fluxbooth.best.strength"


class Models(Protocol):
    """Gives the models that draw, loaded when they are first asked for."""

    def transformer(self) -> FluxTransformer2DModel:
        """The transformer; a LoRA that is trained on it takes no part."""

    def texts(self, prompts: Sequence[str]) -> dict[str, TextEmbeds]:
        """Every prompt as the base model's text encoders read it."""


class OwnModels:
    """Loads the models from the base weights: the text encoders first, which are gone when the transformer comes."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._transformer: FluxTransformer2DModel | None = None

    def transformer(self) -> FluxTransformer2DModel:
        """The transformer, loaded once."""
        if self._transformer is None:
            how = self._scoring
            self._transformer = load_to_draw(how.weights, how.architecture, how.dtype, how.device)
        return self._transformer

    def texts(self, prompts: Sequence[str]) -> dict[str, TextEmbeds]:
        """Every prompt, encoded once and kept in the cache."""
        how = self._scoring
        encoded = encode_visits(
            (), how.weights, how.architecture, how.cache, 1.0, how.dtype, how.device, further_captions=prompts
        )
        return read_texts(encoded, prompts)


def read_texts(encoded: EncodedVisits, prompts: Sequence[str]) -> dict[str, TextEmbeds]:
    """Read prompts that are in the cache, as the base model's text encoders read them."""
    found = {prompt: encoded.texts([prompt], of_base=True) for prompt in prompts}
    return {prompt: TextEmbeds(sequence[0].cpu(), pooled[0].cpu()) for prompt, (sequence, pooled) in found.items()}


Draw = Callable[[Sequence[Question], Path | None, str, float], list[Drawn]]
"""Draws questions with a LoRA file, its digest and a strength; the base model where there is no file."""


class ScoringStoppedError(Exception):
    """Somebody asked to stop while pictures were drawn; what is drawn stays, and the next call goes on."""


class Rounds:
    """Scores the checkpoints of one run, as often as it is asked to; each is drawn and looked at once."""

    def __init__(self, scoring: Scoring, models: Models) -> None:
        """Nothing is loaded before there is something new to score."""
        self.scoring = scoring
        self._models = models
        self._artist: Artist | None = None
        self._eyes: Eyes | None = None
        self._judge: Judge | None = None
        self._settings: Settings | None = None

    def update(self, checkpoints: Sequence[Checkpoint], stopped: Callable[[], bool] = lambda: False) -> Scores:
        """Score those of `checkpoints` that have no score yet, decide, and write scores.json and NAME-best.safetensors.

        Args:
            checkpoints: in the order of their steps; the scores of others are dropped.
            stopped: asked after each prompt.

        Raises:
            ScoringStoppedError: when `stopped` said so.
            UserError: where there is nothing to score, and for files that cannot be.
        """
        how = self.scoring
        if not checkpoints:
            raise UserError(
                Problem(
                    f"no LoRA file of '{how.run}'",
                    where=str(how.loras),
                    allowed=f"{how.run}.safetensors, {how.run}-000025.safetensors, {how.run}-step00000250.safetensors",
                    do="Train it, or move its files there",
                )
            )
        with held_alone(how.run_folder / "scores", "another process scores this run", "Wait for it"):
            return self._update(checkpoints, stopped)

    def _update(self, checkpoints: Sequence[Checkpoint], stopped: Callable[[], bool]) -> Scores:
        how = self.scoring
        before = load_scores(how.run_folder)
        if before and before.settings.identity != how.settings({}).identity:
            before = None
        known = {score.digest: score for score in before.checkpoints} if before else {}
        new = [one for one in checkpoints if one.digest not in known]
        base = before.base if before else None
        with self.drawing([(one.path, one.digest, 1.0) for one in new], stopped) as draw:
            for one in new:
                judge = self.judge(draw)
                base = judge.base
                try:
                    drawn = draw(how.questions, one.path, one.digest, 1.0)
                except UserError as error:  # of one file alone: the others can be scored
                    _log.warning("warning: %s is left out: %s", one.path.name, error)
                    continue
                known[one.digest] = judge.score(one.path.name, one.step, one.digest, drawn)
                self._keep(base, [known[other.digest] for other in checkpoints if other.digest in known], before)
        scored = [
            replace(known[one.digest], file=one.path.name, step=one.step) for one in checkpoints if one.digest in known
        ]
        if not scored or base is None:
            raise UserError(Problem("none of its LoRA files can be scored", where=str(how.loras)))
        scores = self._keep(base, scored, before)
        publish_best(how.loras, scores)
        return scores

    def judge(self, draw: Draw) -> Judge:
        """Return the judge, who has looked at the training pictures and at the base model's."""
        if self._judge is None:
            eyes, how = self.eyes(), self.scoring
            known = [
                Known(
                    one.class_tokens,
                    one.noun,
                    tuple(map(named, one.pictures)),
                    eyes.look([open_upright(path.read_bytes()) for path in one.pictures]),
                )
                for one in how.subjects
            ]
            base = draw(base_questions(how.questions), None, "", 1.0)
            self._judge = Judge(known, how.questions, eyes, base)
        return self._judge

    def eyes(self) -> Eyes:
        """Return what looks at the pictures, loaded once."""
        if self._eyes is None:
            self._eyes = self.scoring.load_eyes()
        return self._eyes

    def _keep(self, base: CheckpointScore, scored: Sequence[CheckpointScore], before: Scores | None) -> Scores:
        """Decide, and write what is known so far."""
        how = self.scoring
        if self._settings is None:
            self._settings = before.settings if before else how.settings(self.eyes().about)
        verdict = decide(scored, f"{how.run}-best.safetensors")
        scores = Scores(how.run, self._settings, how.concepts(), base, tuple(scored), verdict)
        strengths = before.strengths if before else None
        if strengths and strengths.digest == scores.checkpoint(verdict.best).digest:
            scores = replace(scores, strengths=strengths)
        save_scores(how.run_folder, scores)
        return scores

    @contextmanager
    def drawing(
        self, files: Sequence[tuple[Path, str, float]], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Draw]:
        """Yield what draws all questions with LoRA files of these digests and strengths, and shows how far it is."""
        how = self.scoring
        if not files:
            yield _draw_nothing
            return
        artist = self._open()
        base_ones = base_questions(how.questions)
        number = sum(artist.missing(how.questions, digest, strength) for _, digest, strength in files)
        number += artist.missing(base_ones)
        if number:
            _log.info(
                "drawing %s at %d x %d in %d passes each, from %s a prompt",
                counted(number, "picture"),
                how.drawing.width,
                how.drawing.height,
                how.drawing.steps,
                counted(len(how.seeds), "seed"),
            )
        with tqdm(total=number, desc="drawing", unit="picture", disable=None) as bar:  # on a terminal

            def note(drawn: int) -> None:
                bar.update(drawn)
                if stopped():
                    raise ScoringStoppedError

            def draw(questions: Sequence[Question], path: Path | None, digest: str, strength: float) -> list[Drawn]:
                return artist.draw(questions, path, digest, strength, note)

            yield draw

    def _open(self) -> Artist:
        """Return what draws, its models loaded one after the other."""
        if self._artist is None:
            how = self.scoring
            use_few_threads(how.architecture.width, how.device)
            prompts = sorted({one.prompt for one in (*how.questions, *base_questions(how.questions))})
            texts = self._models.texts(prompts)
            release_memory()
            self._artist = Artist(
                self._models.transformer(),
                load_vae(how.weights, how.architecture, how.dtype, how.device),
                texts,
                lambda: PooledText(how.weights, how.architecture, how.dtype, how.device),
                how.drawing,
                how.run_folder,
            )
        return self._artist

    def close(self) -> None:
        """Let go of all models."""
        self._artist = self._judge = self._eyes = None
        release_memory()


def _draw_nothing(questions: Sequence[Question], path: Path | None, digest: str, strength: float) -> list[Drawn]:
    raise AssertionError(f"{path} is scored already")


def publish_best(loras: Path, scores: Scores) -> Path:
    """Write the best checkpoint as NAME-best.safetensors, with the reason in its metadata; one that is right stays.

    Raises:
        UserError: where a file of this name is no best checkpoint, but a LoRA of its own.
    """
    verdict = scores.decided
    path = loras / verdict.best_file
    about = _about_best(verdict, scores.best, scores.strengths)
    wanted = metadata_of(loras / verdict.best) | about
    if path.exists():
        there = metadata_of(path)
        if _BEST_OF not in there:
            raise UserError(
                Problem("is a LoRA of its own and not this run's best", where=str(path), do="Rename or move it")
            )
        if there == {"format": "pt", **wanted}:
            return path
    save_tensors(path, load_file(loras / verdict.best), wanted)
    return path


def _about_best(verdict: Verdict, best: CheckpointScore, strengths: Strengths | None) -> dict[str, str]:
    about = {_BEST_OF: verdict.best, _REASON: verdict.reason, "fluxbooth.best.digest": best.digest}
    about["fluxbooth.best.mark"] = f"{best.mark.mean:.4f} ({best.mark.low:.4f} to {best.mark.high:.4f})"
    if strengths:
        about[_STRENGTH] = f"{strengths.recommended:g}"
    return about

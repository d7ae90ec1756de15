"""Scores one checkpoint from its pictures: concept by concept, what bled, what of the base model is left.

N pictures, D features, K concepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from fluxbooth.judging.drawing import Drawn
from fluxbooth.judging.eyes import Eyes, Seen
from fluxbooth.judging.measures import (
    distances_between_seeds,
    likenesses,
    mark,
    mean_of,
    mean_similarities,
    measure,
    nearest_similarities,
    worst_mark,
)
from fluxbooth.judging.questions import Question
from fluxbooth.judging.scores import BleedRow, CheckpointScore, ConceptScore, Measure, Memorised, RowKind

NOTHING = "nothing"
"""What the row of prompts without a concept is called."""
BLED = 0.5
"""Pictures that have gone more than half of the way to a concept that nobody asked for have bled: a veto."""
COPY = 0.95
"""Similarity by DINO from which on a picture is a copy of a training picture."""
MOST_COPIES = 0.5
LEAST_ADHERENCE = 0.85
"""Share of the base model's CLIP-T that a checkpoint keeps, else it no longer draws what is asked: people notice a
difference of 0.05 (arXiv 2208.12242, 4.2), which is a sixth of what good models reach."""
LEAST_DIVERSITY = 0.1
"""Share of the base model's diversity; below it every seed draws the same picture."""
_OF_PAIR = 0.6
"""Share of the width that either half of a pair's picture has; they overlap, since few subjects meet in the middle."""


@dataclass(frozen=True)
class Known:
    """A concept as the eyes know it from its training pictures."""

    class_tokens: str
    noun: str
    names: tuple[str, ...]
    """FOLDER/FILE of its training pictures."""
    seen: Seen


class Judge:
    """Scores checkpoints of one set of questions; each by its own pictures and the base model's alone."""

    def __init__(
        self, concepts: Sequence[Known], questions: Sequence[Question], eyes: Eyes, base: Sequence[Drawn]
    ) -> None:
        """Look at what the base model draws.

        Args:
            questions: what checkpoints are asked; base: the base model's pictures of their plain prompts.
        """
        self._concepts = concepts
        self._eyes = eyes
        self._shots = [(question, seed) for question in questions for seed in question.seeds]
        self._read = _read_all(eyes, [question.plain for question in questions])
        seen = eyes.look([one.image for one in base])
        places = {(one.picture.prompt, one.picture.seed): place for place, one in enumerate(base)}
        chosen = [places[question.plain, seed] for question, seed in self._shots]
        self._base_drawn = [base[place] for place in chosen]
        self._base = Seen(seen.dino[chosen], seen.clip[chosen])
        self.base = self._score("", 0, "", base, self._base_drawn, self._base)

    def score(self, file: str, step: int, digest: str, drawn: Sequence[Drawn]) -> CheckpointScore:
        """Score a LoRA file's pictures, one for each question and seed, in their order."""
        return self._score(file, step, digest, drawn, drawn, self._eyes.look([one.image for one in drawn]))

    def _score(
        self, file: str, step: int, digest: str, kept: Sequence[Drawn], drawn: Sequence[Drawn], seen: Seen
    ) -> CheckpointScore:
        """Score pictures in the order of the shots; `kept` are those that the score names."""
        concepts = tuple(self._concept(concept, seen) for concept in self._concepts)
        bleed = tuple(self._bleed(drawn, seen)) if digest else ()
        diversity, memorised = self._diversity(seen), self._memorised(drawn, seen)
        return CheckpointScore(
            file,
            step,
            digest,
            concepts,
            bleed,
            self._prior(seen),
            memorised,
            diversity,
            worst_mark([(one.fidelity, one.clip_t) for one in concepts]),
            tuple(vetoes(bleed)),
            tuple(self._signs(concepts, memorised, diversity, self._adherence(seen, ()).mean)) if digest else (),
            tuple(one.picture for one in kept),
        )

    def _concept(self, concept: Known, seen: Seen) -> ConceptScore:
        asked = (concept.class_tokens,)
        places = self._places(asked)
        shots = self._named(places)
        dino = measure(shots, mean_similarities(seen.dino[places], concept.seen.dino).tolist())
        clip_i = measure(shots, mean_similarities(seen.clip[places], concept.seen.clip).tolist())
        clip_t, fidelity = self._adherence(seen, asked), mean_of(dino, clip_i)
        return ConceptScore(concept.class_tokens, dino, clip_i, clip_t, fidelity, mark(fidelity, clip_t))

    def _adherence(self, seen: Seen, asked: tuple[str, ...]) -> Measure:
        places = self._places(asked)
        sentences = torch.stack([self._read[self._shots[place][0].plain] for place in places])  # (N, D)
        return measure(self._named(places), (seen.clip[places] * sentences).sum(dim=1).tolist())

    def _bleed(self, drawn: Sequence[Drawn], seen: Seen) -> Iterator[BleedRow]:
        """Yield a row for each concept, each member of each pair, each plain noun, and for no concept at all."""
        asked: dict[tuple[RowKind, tuple[str, ...]], list[int]] = {}
        pairs: dict[tuple[str, ...], list[int]] = {}
        for place, (question, _) in enumerate(self._shots):
            if question.kind == "pair":
                pairs.setdefault(question.asked, []).append(place)
            else:
                asked.setdefault((question.kind, question.asked), []).append(place)
        for (kind, words), places in asked.items():
            looks_like = self._looks_like(_joined(seen)[places], _joined(self._base)[places], places)
            yield BleedRow(words[0] if words else NOTHING, kind, "", looks_like)
        for members, places in pairs.items():
            halves = self._halves([drawn[place].image for place in places], members)
            base_halves = self._halves([self._base_drawn[place].image for place in places], members)
            for number, member in enumerate(members):
                looks_like = self._looks_like(halves[number], base_halves[number], places)
                yield BleedRow(member, "pair member", members[1 - number], looks_like)

    def _looks_like(self, pictures: Tensor, base_pictures: Tensor, places: Sequence[int]) -> dict[str, Measure]:
        known = torch.stack([_joined(concept.seen).mean(dim=0) for concept in self._concepts])
        columns = likenesses(pictures, base_pictures, known).T.tolist()  # K lists of N
        shots = self._named(places)
        return {
            concept.class_tokens: measure(shots, column)
            for concept, column in zip(self._concepts, columns, strict=True)
        }

    def _halves(self, images: Sequence[Image.Image], members: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return what the eyes see of each member of a pair, (N, D) each: the half of the picture that fits it.

        Which half that is is decided by the members' nouns, or where they have one noun by their training pictures.
        """
        first, second = (next(one for one in self._concepts if one.class_tokens == member) for member in members)
        halves = [half for image in images for half in _left_and_right(image)]
        seen = self._eyes.look(halves)
        if first.noun != second.noun:
            fits = self._eyes.read([first.noun, second.noun])  # (2, D)
        else:
            fits = torch.stack([one.seen.clip.mean(dim=0) for one in (first, second)])
        fit = (seen.clip @ fits.T).reshape(len(images), 2, 2)  # picture, half, member
        straight = fit[:, 0, 0] + fit[:, 1, 1] >= fit[:, 0, 1] + fit[:, 1, 0]
        joined = _joined(seen).reshape(len(images), 2, -1)
        in_order = torch.where(straight[:, None, None], joined, joined.flip(1))
        return in_order[:, 0], in_order[:, 1]

    def _prior(self, seen: Seen) -> Measure:
        places = [place for place, (question, _) in enumerate(self._shots) if question.kind in ("noun", "nothing")]
        similarities = (seen.dino[places] * self._base.dino[places]).sum(dim=1)
        return measure(self._named(places), similarities.tolist())

    def _diversity(self, seen: Seen) -> Measure:
        places = [place for place, (question, _) in enumerate(self._shots) if question.kind == "concept"]
        by_prompt: dict[str, list[int]] = {}
        for place in places:
            by_prompt.setdefault(self._shots[place][0].prompt, []).append(place)
        distances = torch.cat([distances_between_seeds(seen.dino[of_prompt]) for of_prompt in by_prompt.values()])
        return measure(self._named(places), distances.tolist())

    def _memorised(self, drawn: Sequence[Drawn], seen: Seen) -> Memorised:
        found: list[tuple[float, int, Known, int]] = []
        for place, (question, _) in enumerate(self._shots):
            for concept in self._concepts:
                if question.asked == (concept.class_tokens,):
                    similarities = (concept.seen.dino @ seen.dino[place]).tolist()
                    nearest = max(similarities)
                    found.append((nearest, place, concept, similarities.index(nearest)))
        similarity, place, concept, number = max(found, key=lambda one: one[0])
        return Memorised(
            round(similarity, 6),
            round(nearest_similarities(concept.seen.dino), 6),
            round(sum(one[0] > COPY for one in found) / len(found), 6),
            drawn[place].picture.path,
            concept.names[number],
        )

    def _signs(
        self, concepts: Sequence[ConceptScore], memorised: Memorised, diversity: Measure, of_nothing: float
    ) -> Iterator[str]:
        """Yield in plain words what shows that a checkpoint has learnt too long.

        Args:
            of_nothing: CLIP-T of the prompts without a concept.
        """
        base_of_nothing = self._adherence(self._base, ()).mean
        adherences = [
            (f"'{one.concept}'", one.clip_t.mean, base.clip_t.mean)
            for one, base in zip(concepts, self.base.concepts, strict=True)
        ]
        for what, is_now, was in (*adherences, ("what is no concept", of_nothing, base_of_nothing)):
            if is_now < LEAST_ADHERENCE * was:
                yield f"{what} is no longer drawn as asked: CLIP-T {is_now:.3f}, before the training {was:.3f}"
        if memorised.copies > MOST_COPIES:
            yield f"{memorised.copies:.0%} of the concepts' pictures are copies of training pictures"
        if diversity.mean < LEAST_DIVERSITY * self.base.diversity.mean:
            yield (
                f"another seed hardly changes a concept's picture: diversity {diversity.mean:.3f}, before the training "
                f"{self.base.diversity.mean:.3f}"
            )

    def _places(self, asked: tuple[str, ...]) -> list[int]:
        return [place for place, (question, _) in enumerate(self._shots) if question.asked == asked]

    def _named(self, places: Sequence[int]) -> list[tuple[str, int]]:
        return [(self._shots[place][0].prompt, self._shots[place][1]) for place in places]


def vetoes(bleed: Sequence[BleedRow]) -> Iterator[str]:
    """Yield in plain words where pictures look like a concept that was not asked for.

    The halves of a pair's picture are no ground for it: they show a bit of the other.
    """
    for row in bleed:
        for concept, likeness in row.looks_like.items():
            if row.kind == "pair member" or (row.kind == "concept" and concept == row.asked) or likeness.mean <= BLED:
                continue
            asked = {"concept": f"'{row.asked}'", "noun": f"plain '{row.asked}'"}.get(row.kind, "what is no concept")
            yield f"{asked} comes out as '{concept}' ({likeness.mean:.2f} of the way)"


def _joined(seen: Seen) -> Tensor:
    """Both towers' vectors side by side, (N, D + D'): their product is the mean of the two similarities."""
    return torch.cat([seen.dino, seen.clip], dim=1) / 2**0.5


def _left_and_right(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    width = round(_OF_PAIR * image.width)
    return image.crop((0, 0, width, image.height)), image.crop((image.width - width, 0, image.width, image.height))


def _read_all(eyes: Eyes, sentences: Sequence[str]) -> Mapping[str, Tensor]:
    said = list(dict.fromkeys(sentences))
    return dict(zip(said, eyes.read(said), strict=True))

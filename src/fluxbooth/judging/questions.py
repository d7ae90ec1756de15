"""What every checkpoint is asked to draw: each concept, each pair, the plain nouns, and things that are no concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from fluxbooth.judging.scores import Kind

_PLACES = ("on a beach", "in a datacenter")
"""Where a concept is asked for; few training pictures show it there, so that a copied picture does not fit."""
# Everyday things for every model; one that bears a concept's noun is passed over.
_THINGS = ("a dog on grass", "a red car in a city", "a house in the snow", "a yellow mug on a desk")
_THINGS_ASKED = 2


@dataclass(frozen=True)
class Subject:
    """A concept, and what it really looks like."""

    class_tokens: str
    noun: str
    """What it is without its made-up word, or the class tokens where they have no noun."""
    pictures: tuple[Path, ...]
    """Files of its training pictures."""


@dataclass(frozen=True)
class Question:
    """One prompt, asked for from the same seeds of every checkpoint."""

    kind: Kind
    asked: tuple[str, ...]
    """Class tokens of the concept or of both of a pair, or the plain noun; empty where nothing of it is asked for."""
    prompt: str
    plain: str
    """The prompt with nouns in the class tokens' places: what the base model is asked, and what CLIP is to find."""
    seeds: tuple[int, ...]


def noun_of(class_tokens: str) -> str:
    """Return "toy" of "tjtoy toy"; the class tokens themselves where there is but one word."""
    return class_tokens.partition(" ")[2] or class_tokens


def plan_questions(subjects: Sequence[Subject], seeds: Sequence[int]) -> list[Question]:
    """Return all questions about `subjects`; each is asked once for each of `seeds`."""
    seeds = tuple(seeds)
    questions = [
        Question("concept", (one.class_tokens,), f"{one.class_tokens} {place}", f"{_a(one.noun)} {place}", seeds)
        for one in subjects
        for place in _PLACES
    ]
    for first, second in combinations(subjects, 2):
        asked = first.class_tokens, second.class_tokens
        plain = f"{_a(first.noun)} next to {_a(second.noun)} {_PLACES[0]}"
        questions.append(Question("pair", asked, f"{asked[0]} next to {asked[1]} {_PLACES[0]}", plain, seeds))
    for noun in dict.fromkeys(one.noun for one in subjects if one.noun != one.class_tokens):
        plain = f"{_a(noun)} {_PLACES[0]}"
        questions.append(Question("noun", (noun,), plain, plain, seeds))
    words = {word for one in subjects for word in one.class_tokens.lower().split()}
    things = [thing for thing in _THINGS if not words & set(thing.split())]
    questions += [Question("nothing", (), thing, thing, seeds) for thing in things[:_THINGS_ASKED]]
    return questions


def base_questions(questions: Sequence[Question]) -> list[Question]:
    """Return what the base model is asked in their place: each plain prompt once."""
    plain = {one.plain: Question(one.kind, one.asked, one.plain, one.plain, one.seeds) for one in questions}
    return list(plain.values())


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0].lower() in "aeio" else f"a {noun}"

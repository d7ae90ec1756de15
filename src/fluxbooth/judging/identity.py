"""Whose picture is it: a subject's own, or that of another subject of its kind?

N pictures, K subjects, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def subject_embeds(pictures_of_subjects: Sequence[Tensor]) -> Tensor:
    """Return one unit vector a subject, (K, D): the mean over its pictures' unit vectors (n, D)."""
    return F.normalize(torch.stack([embeds.mean(0) for embeds in pictures_of_subjects]), dim=-1)


def nearest_subject(pictures: Tensor, subjects: Tensor) -> Tensor:
    """Return for each picture (N, D) which subject of (K, D) it is most similar to, by cosine: (N,) int64."""
    return (pictures @ subjects.T).argmax(dim=1)


def identity_share(pictures: Tensor, subjects: Tensor) -> float:
    """Share, from 0 to 1, of pictures (N, D) that are more similar to subject 0 than to every other of (K, D).

    Chance is about 1 / K.
    """
    return int((nearest_subject(pictures, subjects) == 0).sum()) / len(pictures)


def said_best(pictures: Tensor, sentences: Mapping[str, Tensor]) -> list[str]:
    """Name for each picture (N, D) the sentence whose unit vector (D,) fits it best."""
    names, vectors = list(sentences), torch.stack(list(sentences.values()))
    return [names[place] for place in (pictures @ vectors.T).argmax(dim=1).tolist()]

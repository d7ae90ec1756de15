"""Whose picture it is: by hand-made vectors, and by the miniature's own eyes."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageFilter

from fluxbooth.flux.miniature import miniature_scorer, other_subjects
from fluxbooth.judging.clip_scorer import ClipScorer
from fluxbooth.judging.identity import identity_share, nearest_subject, said_best, subject_embeds


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return ClipScorer(miniature_scorer(), torch.device("cpu"))


def test_a_subject_is_the_direction_between_its_pictures() -> None:
    pictures = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, -1.0]])]
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]])
    assert torch.allclose(subject_embeds(pictures), expected)


def test_identity_is_the_share_of_pictures_nearer_to_the_subject_than_to_all_others() -> None:
    subjects = torch.eye(3)
    pictures = torch.tensor([[0.9, 0.3, 0.1], [0.4, 0.5, 0.1], [0.8, 0.1, 0.7], [0.0, 0.1, 0.9]])
    assert nearest_subject(pictures, subjects).tolist() == [0, 1, 0, 2]
    assert identity_share(pictures, subjects) == 0.5


def test_the_sentence_that_fits_best_is_named() -> None:
    sentences = {"a toy": torch.tensor([1.0, 0.0]), "a gpu": torch.tensor([0.0, 1.0])}
    assert said_best(torch.tensor([[0.9, 0.2], [0.2, 0.3]]), sentences) == ["a toy", "a gpu"]


@pytest.mark.parametrize("kind", ["toy", "gpu"])
def test_the_miniatures_eyes_tell_every_subject_from_the_others_of_its_kind(scorer: ClipScorer, kind: str) -> None:
    """Each subject is known from all its pictures but one; the one left out is to be recognised, blurred as well."""
    embeds = [scorer.embed_pictures(pictures) for pictures in other_subjects(kind)]
    right = []
    for left_out in range(len(embeds[0])):
        known = subject_embeds([torch.cat([mine[:left_out], mine[left_out + 1 :]]) for mine in embeds])
        for number, pictures in enumerate(other_subjects(kind)):
            for picture in (pictures[left_out], pictures[left_out].filter(ImageFilter.GaussianBlur(0.7))):
                right.append(int(nearest_subject(scorer.embed_pictures([picture]), known)) == number)
    assert sum(right) / len(right) > 0.7


def test_a_picture_fits_its_own_caption(scorer: ClipScorer) -> None:
    toys, cards = other_subjects("toy")[0][0], other_subjects("gpu")[0][0]
    similarities = scorer.embed_pictures([toys, cards]) @ scorer.embed_texts(["a toy on grass", "a gpu on a desk"]).T
    assert similarities.argmax(1).tolist() == [0, 1]


def test_pictures_of_any_size_and_mode_are_looked_at(scorer: ClipScorer) -> None:
    embeds = scorer.embed_pictures([Image.new("L", (31, 200)), Image.new("RGBA", (640, 90), "red")])
    assert embeds.shape == (2, 128)
    assert torch.allclose(embeds.norm(dim=1), torch.ones(2))

"""What looks at the pictures: real classes with a handful of random weights, and the miniature's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fluxbooth.errors import UserError
from fluxbooth.flux.miniature import miniature_scorer, other_subjects
from fluxbooth.judging.eyes import DinoAndClip, Eyes, MiniatureEyes
from fluxbooth.judging.preparation import Preparation
from judging.known import save_dino

CPU = torch.device("cpu")


@pytest.fixture(params=["miniature", "dinov2", "dino"])
def eyes(request: pytest.FixtureRequest, tmp_path: Path) -> Eyes:
    if request.param == "miniature":
        return MiniatureEyes(miniature_scorer(), CPU)
    return DinoAndClip(save_dino(tmp_path, request.param), miniature_scorer(), CPU)


def test_pictures_are_unit_vectors_that_tell_them_apart_however_many_there_are(eyes: Eyes) -> None:
    pictures = other_subjects("toy")[0] * 4
    seen = eyes.look(pictures)
    for vectors in (seen.dino, seen.clip):
        assert vectors.shape[0] == len(pictures)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(pictures)))
        assert torch.allclose(vectors[0], eyes.look(pictures[:1]).dino[0] if vectors is seen.dino else vectors[0])
        assert float(vectors[0] @ vectors[1]) < 0.999


def test_sentences_are_read_by_clip(eyes: Eyes) -> None:
    read = eyes.read(["a toy on grass", "a gpu on a desk"])
    toys, cards = other_subjects("toy")[0][0], other_subjects("gpu")[0][0]
    assert (eyes.look([toys, cards]).clip @ read.T).argmax(1).tolist() == [0, 1]


def test_every_number_says_whose_it_is(eyes: Eyes) -> None:
    assert set(eyes.about) == {"dino", "clip_i", "clip_t"}


def test_the_miniatures_stand_in_for_dino_is_called_one() -> None:
    assert "in DINO's place" in MiniatureEyes(miniature_scorer(), CPU).about["dino"]


def test_a_picture_is_squeezed_whole_into_the_square(tmp_path: Path) -> None:
    prepare = Preparation.of(save_dino(tmp_path, "dinov2"))
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (0, 0, 100, 100))
    pixels = prepare(wide)
    assert pixels.shape == (3, 32, 32)
    assert pixels[:, :, 0].min() > 0.9 > -0.9 > pixels[:, :, 31].max()


def test_a_folder_without_a_model_is_answered_with_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="download --scorers"):
        DinoAndClip(tmp_path / "none", miniature_scorer(), CPU)

"""A generated picture is a PNG that says what made it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fluxbooth.showing.pictures import next_number, save_picture


@pytest.fixture
def picture() -> Image.Image:
    gradient = Image.linear_gradient("L").resize((96, 64))
    return Image.merge("RGB", (gradient, gradient.rotate(180), gradient))


def test_the_pixels_come_back_as_they_were(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "runs" / "toy" / "1.png"
    save_picture(picture, path, {})
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        assert opened.tobytes() == picture.tobytes()


def test_the_picture_carries_its_prompt_and_seed_in_any_script(tmp_path: Path, picture: Image.Image) -> None:
    made_with = {
        "prompt": "tjtoy toy auf einer Düne, 海辺の玩具, игрушка 🧸",
        "seed": "25",
        "loras": "toy.safetensors:0.8, gpu.safetensors:1",
    }
    save_picture(picture, tmp_path / "1.png", made_with)
    with Image.open(tmp_path / "1.png") as opened:
        opened.load()
        assert opened.info == made_with


def test_a_long_prompt_is_carried_whole(tmp_path: Path, picture: Image.Image) -> None:
    prompt = "a toy on a beach, " * 500
    save_picture(picture, tmp_path / "1.png", {"prompt": prompt})
    with Image.open(tmp_path / "1.png") as opened:
        opened.load()
        assert opened.info["prompt"] == prompt


def test_a_picture_that_cannot_be_written_leaves_the_one_before_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(b"the picture before")
    with pytest.raises(OSError, match="mode HSV"):
        save_picture(Image.new("HSV", (8, 8)), path, {})  # a PNG has no such pixels
    assert path.read_bytes() == b"the picture before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_next_number_is_behind_every_picture_that_is_there(tmp_path: Path) -> None:
    assert next_number(tmp_path) == 1
    for name in ("0003_seed7.png", "0011_seed0.png", "other.png"):
        (tmp_path / name).touch()
    assert next_number(tmp_path) == 12

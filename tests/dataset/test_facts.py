"""What is known of a picture is read once, and again only when its file changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxbooth.dataset import facts as facts_module
from fluxbooth.dataset.facts import PictureMemory
from fluxbooth.dataset.pictures import UnreadablePictureError, decode


@pytest.fixture
def picture(make_concept: Callable[..., Path]) -> Path:
    return make_concept("toy", [(64, 48)]) / "1.png"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that were decoded."""
    sizes: list[int] = []

    def noted(data: bytes) -> object:
        sizes.append(len(data))
        return decode(data)

    monkeypatch.setattr(facts_module, "decode", noted)
    return sizes


def test_a_second_start_decodes_nothing(picture: Path, tmp_path: Path, decoded: list[int]) -> None:
    memory = PictureMemory(tmp_path / "pictures.json")
    first = memory.facts(picture)
    memory.keep()
    assert PictureMemory(tmp_path / "pictures.json").facts(picture) == first
    assert (first.width, first.height) == (64, 48)
    assert len(decoded) == 1


def test_another_time_reads_it_again_and_finds_the_same(picture: Path, decoded: list[int]) -> None:
    memory = PictureMemory()
    first = memory.facts(picture)
    os.utime(picture, ns=(0, 0))
    assert memory.facts(picture) == first, "a date is no change of the picture"
    assert len(decoded) == 2


def test_another_picture_under_the_name_is_another_digest(picture: Path, make_concept: Callable[..., Path]) -> None:
    memory = PictureMemory()
    first = memory.facts(picture)
    other = make_concept("gpu", [(64, 48), (64, 48)]) / "2.png"
    picture.write_bytes(other.read_bytes())
    assert memory.facts(picture).digest != first.digest


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"digest": 1}}'])
def test_a_memory_that_is_broken_is_a_memory_that_is_lost(picture: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "pictures.json").write_text(text)
    assert PictureMemory(tmp_path / "pictures.json").facts(picture).width == 64


def test_what_is_no_picture_is_said_each_time(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("no picture")
    memory = PictureMemory()
    for _ in range(2):
        with pytest.raises(UnreadablePictureError):
            memory.facts(tmp_path / "1.png")

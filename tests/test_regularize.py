"""Regularization pictures are drawn for each noun once, by the base model, and stand in data.toml afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fluxbooth.cli import main
from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.errors import Problems

SMALL = ["--resolution", "32", "--steps", "1", "--number", "2"]


@pytest.fixture
def data(make_concept: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two concepts of one noun, and one of another."""
    monkeypatch.chdir(tmp_path)
    text = "# mine\n[[datasets]]\nresolution = 64\n"
    for folder, words in (("a", "tjtoy toy"), ("b", "zib toy"), ("c", "sparkgpu gpu")):
        make_concept(folder, [(64, 64)])
        text += f'[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "{words}"\n'
    (tmp_path / "data.toml").write_text(text)
    return tmp_path / "data.toml"


def run(data: Path, *more: str) -> int:
    return main(["regularize", "--model", "miniature", "--data", str(data), "--out", "reg", *SMALL, *more])


def test_each_noun_gets_its_pictures_and_its_table(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data) == 0
    assert "reg/toy: 2 drawn, 2 there" in capsys.readouterr().out
    with Image.open("reg/gpu/0002.png") as picture:
        assert picture.size == (32, 32)
        assert picture.info["prompt"] == "a photo of a gpu"
        assert picture.info["seed"] == "1"
    (dataset,) = read_data_toml(data, Problems())
    added = [(concept.class_tokens, concept.image_dir) for concept in dataset.concepts if concept.is_reg]
    assert added == [("toy", Path("reg/toy")), ("gpu", Path("reg/gpu"))]
    assert data.read_text().startswith("# mine\n")


def test_a_second_start_draws_what_is_missing_and_changes_no_file(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data)
    text = data.read_text()
    kept = Path("reg/toy/0001.png").read_bytes()
    Path("reg/toy/0002.png").unlink()
    capsys.readouterr()
    assert run(data) == 0
    said = capsys.readouterr().out
    assert "reg/toy: 1 drawn, 2 there" in said
    assert "reg/gpu: 0 drawn, 2 there" in said
    assert Path("reg/toy/0001.png").read_bytes() == kept
    assert data.read_text() == text


def test_a_prompt_without_a_place_for_the_noun_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--prompt", "a photo") == 1
    assert "'a photo' lacks [noun]" in capsys.readouterr().err


def test_class_tokens_without_a_noun_are_refused_before_anything_is_drawn(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text(data.read_text().replace("zib toy", "zib"))
    assert run(data) == 1
    assert "class_tokens 'zib' has no class noun" in capsys.readouterr().err
    assert not Path("reg/toy").exists()

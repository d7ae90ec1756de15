"""run.toml: what a run was made of, from which it is repeated, and what is said where it cannot be."""

from __future__ import annotations

import hashlib
import logging
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fluxbooth.flux.miniature import miniature_weights
from fluxbooth.host.folders import Folders
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run_toml import run_toml, say_what_differs


@pytest.fixture(autouse=True)
def _beside_the_recipes(in_repository: Path) -> None:
    pass


@pytest.fixture
def data(make_concept: Callable[..., Path], tmp_path: Path) -> Path:
    """A data.toml, not at the usual place, with one concept of two pictures."""
    folder = make_concept("toy", [(64, 64), (96, 64)])
    file = tmp_path / "mine.toml"
    file.write_text(
        f"[general]\nshuffle_caption = true\n[[datasets]]\nresolution = 64\n[[datasets.subsets]]\n"
        f'image_dir = "{folder}"\nclass_tokens = "tjtoy toy"\n',
        encoding="utf-8",
    )
    return file


@pytest.fixture
def first(data: Path, folders: Folders) -> Prepared:
    return prepare("miniature", data, "miniature", {"max_train_steps": 40, "network_dim": 2}, folders)


@pytest.fixture
def recipe(first: Prepared, tmp_path: Path) -> str:
    """The first run's run.toml."""
    file = tmp_path / "run.toml"
    file.write_text(run_toml(first), encoding="utf-8")
    return str(file)


def test_it_says_from_which_line_of_data_toml_each_subset_is_and_what_the_weights_were(recipe: str, data: Path) -> None:
    written = tomllib.loads(Path(recipe).read_text(encoding="utf-8"))
    (dataset,) = written["datasets"]
    (subset,) = dataset["subsets"]
    assert (dataset["width"], subset["class_tokens"], subset["shuffle"]) == (96, "tjtoy toy", True)
    assert subset["from"] == f"{data}, line 5, dataset 1, subset 1"
    of_transformer = hashlib.sha256(miniature_weights().transformer.read_bytes()).hexdigest()
    assert written["hashes"]["transformer"] == of_transformer
    assert (written["recipe"]["dataset_config"], written["origins"]["dataset_config"]) == (str(data), "flag --data")


def test_repeated_it_is_the_same_run_and_nothing_is_said(
    recipe: str, first: Prepared, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fluxbooth"):
        again = prepare("miniature", None, recipe, {}, folders)
        say_what_differs(again, recipe)
    assert "not the same" not in caplog.text
    assert "is not needed" not in caplog.text, "of values that nobody chose nothing is said"
    as_it_was = {"dataset_config": str(first.data_file), "base_weights": "full"}
    assert again.recipe == first.recipe.model_copy(update=as_it_was)
    assert [item.digest for item in again.items] == [item.digest for item in first.items]


def test_all_that_differs_is_said_before_the_run_begins(
    recipe: str, data: Path, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    picture = data.parent / "toy/2.png"
    picture.write_bytes(picture.read_bytes() + b" ")
    again = prepare("miniature", None, recipe, {"learning_rate": 0.5, "seed": 3}, folders)
    say_what_differs(again, recipe)
    said = [line.removeprefix(f"warning: not the same as in {recipe}: ") for line in caplog.messages]
    assert "learning_rate is 0.5, and was 0.003" in said
    assert "seed is 3, and was 0" in said
    assert "pictures: toy/2.png" in said
    assert "what it is made of: pictures or data.toml" in said


def test_other_weights_and_versions_are_said(
    recipe: str, folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = prepare("miniature", None, recipe, {}, folders)
    vae = tmp_path / "vae.safetensors"
    vae.write_bytes(again.weights.vae.read_bytes() + b" ")
    versions = {**again.recorded["versions"], "torch": "1.0"}
    other = replace(again, weights=replace(again.weights, vae=vae), recorded={**again.recorded, "versions": versions})
    say_what_differs(other, recipe)
    assert "what it is made of: VAE" in caplog.text
    assert ", and was 1.0" in caplog.text


def test_of_a_recipe_that_is_none_of_a_run_nothing_is_said(first: Prepared, caplog: pytest.LogCaptureFixture) -> None:
    say_what_differs(first, "miniature")
    assert "not the same" not in caplog.text

"""Concepts without a data.toml: what a folder's name says, and which are passed over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fluxbooth.config.folder_names import read_datasets, repeats_and_words
from fluxbooth.errors import Problems, UserError


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("100_My_Lora_Model", (100, "My_Lora_Model")),
        ("07_zz", (7, "zz")),
        ("10_mokka dog", (10, "mokka dog")),
        ("cat", None),
        ("0_x", None),
        ("-3_y", None),
        ("3.5_q", None),
        ("10 dog", None),
        ("5", None),
        ("5_", None),
    ],
)
def test_a_name_says_repeats_and_words(name: str, said: tuple[int, str] | None) -> None:
    """As kohya's code reads them; but "5" alone would be an empty caption there, and is passed over here."""
    assert repeats_and_words(name) == said


def test_a_folder_of_such_folders_is_a_dataset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("10_mokka dog", "2_tjtoy toy", "rest", ".hidden"):
        (tmp_path / name).mkdir()
    with caplog.at_level(logging.INFO, "fluxbooth"):
        (dataset,) = read_datasets(tmp_path, Problems(), None, {"enable_bucket": True, "max_bucket_reso": 1536})
    assert [(concept.class_tokens, concept.num_repeats) for concept in dataset.concepts] == [
        ("mokka dog", 10),
        ("tjtoy toy", 2),
    ]
    assert (dataset.width, dataset.enable_bucket, dataset.max_bucket_reso) == (1024, True, 1536)
    assert "rest" in caplog.text
    assert ".hidden" not in caplog.text


def test_a_folder_without_such_names_is_refused_with_the_names_it_has(tmp_path: Path) -> None:
    (tmp_path / "mokka").mkdir()
    with pytest.raises(UserError, match=r"no folder in it is named for training \(mokka\)"):
        read_datasets(tmp_path, Problems(), None, {})


def test_with_no_data_toml_the_folders_beside_it_are_the_concepts(tmp_path: Path) -> None:
    for name in ("mokka_dog", "tjtoy plush toy", "3_zib car", "rest"):
        (tmp_path / name).mkdir()
    (dataset,) = read_datasets(tmp_path / "data.toml", Problems(), 512, {})
    assert [(concept.class_tokens, concept.num_repeats) for concept in dataset.concepts] == [
        ("zib car", 3),
        ("mokka dog", 1),
        ("tjtoy plush toy", 1),
    ]
    assert dataset.width == 512


def test_a_file_that_is_missing_beside_other_folders_is_missing(tmp_path: Path) -> None:
    (tmp_path / "rest").mkdir()
    with pytest.raises(UserError, match="no such file"):
        read_datasets(tmp_path / "data.toml", Problems(), None, {})


def test_a_mistyped_name_is_no_wish_for_folders(tmp_path: Path) -> None:
    (tmp_path / "mokka dog").mkdir()
    (tmp_path / "data.toml").touch()
    with pytest.raises(UserError, match=r"TOML files there: data\.toml"):
        read_datasets(tmp_path / "dta.toml", Problems(), None, {})

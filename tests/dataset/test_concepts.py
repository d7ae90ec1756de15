"""Concepts are listed, added and removed, and a data.toml keeps everything that is not theirs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.dataset.concepts import add_concept, concept_lines, remove_concept
from fluxbooth.errors import Problems, UserError

FILE = """\
# The whole file.

[general]
caption_extension = ".txt"   # beside the picture

[[datasets]]
resolution = 1024            # pixels

    # The toy.
    [[datasets.subsets]]
    image_dir = "toy"        # its folder
    class_tokens = "tjtoy toy"
    num_repeats = 2

    # The card.
    [[datasets.subsets]]
    image_dir = "gpu"
    class_tokens = "sparkgpu gpu"
    # The last word.
"""


@pytest.fixture
def data_file(tmp_path: Path, make_concept: Callable[..., Path]) -> Path:
    """A data.toml of two concepts, beside their folders."""
    make_concept("toy", [(64, 64)] * 2)
    make_concept("gpu", [(64, 64)])
    file = tmp_path / "data.toml"
    file.write_text(FILE, encoding="utf-8")
    return file


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        action()
    return str(raised.value)


def concepts_of(file: Path) -> list[tuple[str, int | None, bool]]:
    problems = Problems()
    datasets = read_data_toml(file, problems)
    problems.raise_if_any()
    return [
        (concept.class_tokens, concept.num_repeats, concept.is_reg)
        for dataset in datasets
        for concept in dataset.concepts
    ]


def test_a_line_says_what_each_concept_is(data_file: Path, tmp_path: Path) -> None:
    toy, gpu = (" ".join(line.split()) for line in concept_lines(data_file))
    assert toy == f"tjtoy toy {tmp_path / 'toy'} 2 pictures num_repeats = 2 is_reg = false"
    assert gpu == f"sparkgpu gpu {tmp_path / 'gpu'} 1 picture num_repeats = 1 is_reg = false"


def test_a_concept_is_added_behind_the_others_and_the_rest_stays_to_the_byte(
    data_file: Path, make_concept: Callable[..., Path]
) -> None:
    make_concept("My Dog-2", [(64, 64)])
    assert add_concept(data_file, "My Dog-2", "dog", repeats=3) == "mydog2 dog"
    added = '\n    [[datasets.subsets]]\n    image_dir = "My Dog-2"\n    class_tokens = "mydog2 dog"\n'
    assert data_file.read_text("utf-8") == FILE + added + "    num_repeats = 3\n    is_reg = false\n"
    assert concepts_of(data_file)[-1] == ("mydog2 dog", 3, False)


def test_what_is_added_and_removed_leaves_the_file_as_it_was(
    data_file: Path, make_concept: Callable[..., Path]
) -> None:
    make_concept("dog", [(64, 64)])
    add_concept(data_file, "dog", "dog", token="mokka")
    assert remove_concept(data_file, "mokka dog") == "mokka dog (dog)"
    assert data_file.read_text("utf-8") == FILE
    assert len(list((data_file.parent / "dog").iterdir())) == 1


def test_regularization_pictures_are_called_by_the_noun_alone(
    data_file: Path, make_concept: Callable[..., Path]
) -> None:
    make_concept("toys", [(64, 64)])
    assert add_concept(data_file, "toys", "toy", is_reg=True) == "toy"
    assert concepts_of(data_file)[-1] == ("toy", 1, True)


@pytest.mark.parametrize(
    "text",
    [
        FILE.rstrip("\n"),
        FILE + "\n\n",
        FILE.replace("\n", "\r\n"),
        "\ufeff" + FILE,
        "[[datasets]]\nresolution = 512\nsubsets = [{ image_dir = 'toy' }, { image_dir = 'gpu' }]\n",
        FILE.replace("[general]\ncaption_extension", "general.caption_extension"),
        FILE + "\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'toy'",
    ],
    ids=["no last newline", "blank lines", "Windows", "mark", "inline", "dotted", "two datasets"],
)
def test_files_of_other_forms_are_edited_too(text: str, data_file: Path, make_concept: Callable[..., Path]) -> None:
    make_concept("dog", [(64, 64)])
    data_file.write_bytes(text.encode("utf-8"))
    before = concepts_of(data_file)
    add_concept(data_file, "dog", "dog")
    assert concepts_of(data_file) == [*before, ("dog dog", 1, False)]
    assert (b"\r\n" in data_file.read_bytes()) == ("\r\n" in text)
    assert b"\n" not in data_file.read_bytes().replace(b"\r\n", b"") or "\r\n" not in text
    assert data_file.read_text("utf-8").startswith("\ufeff") == text.startswith("\ufeff")
    remove_concept(data_file, "dog dog")
    assert concepts_of(data_file) == before


def test_without_a_file_a_new_one_is_written(tmp_path: Path, make_concept: Callable[..., Path]) -> None:
    make_concept("toy", [(64, 64)])
    file = tmp_path / "new" / "data.toml"
    assert add_concept(file, str(tmp_path / "toy"), "toy", token="tjtoy") == "tjtoy toy"
    (dataset,) = read_data_toml(file, Problems())
    assert (dataset.width, dataset.enable_bucket, dataset.max_bucket_reso) == (1024, True, 1536)
    assert concepts_of(file) == [("tjtoy toy", 1, False)]
    assert "# longest side in pixels" in file.read_text("utf-8")


def test_everything_that_is_wrong_with_a_new_concept_is_said_at_once(data_file: Path) -> None:
    said = complaint(lambda: add_concept(data_file, "dgo", " ", token=" "))
    assert "dgo: no such folder" in said
    assert "--class-noun: the noun is empty" in said
    assert "--token: the word is empty" in said
    assert data_file.read_text("utf-8") == FILE


@pytest.mark.parametrize(
    ("folder", "token", "words"),
    [
        ("toy", "other", "'tjtoy toy (toy)' has this folder already"),
        ("./toy/", "other", "'tjtoy toy (toy)' has this folder already"),
        ("empty", "other", "holds no picture"),
        ("dog", "tjtoy", "'tjtoy toy (toy)' has the class tokens 'tjtoy toy' already"),
        ("dog", "two words", "'two words' is several words"),
        ("!", None, "the name of ! has no letter or digit"),
    ],
)
def test_a_concept_that_would_be_ambiguous_is_refused(
    data_file: Path, make_concept: Callable[..., Path], folder: str, token: str | None, words: str
) -> None:
    make_concept("dog", [(64, 64)])
    make_concept("!", [(64, 64)])
    make_concept("empty", [])
    assert words in complaint(lambda: add_concept(data_file, folder, "toy", token))
    assert data_file.read_text("utf-8") == FILE


def test_a_file_that_is_wrong_already_is_not_added_to(data_file: Path, make_concept: Callable[..., Path]) -> None:
    make_concept("dog", [(64, 64)])
    data_file.write_text(FILE.replace("num_repeats", "num_repeat"), encoding="utf-8")
    assert "unknown key 'num_repeat'" in complaint(lambda: add_concept(data_file, "dog", "dog"))


def test_a_file_that_would_be_wrong_afterwards_is_put_back(data_file: Path, make_concept: Callable[..., Path]) -> None:
    make_concept("dog", [(64, 64)])
    assert "num_repeats is 20000" in complaint(lambda: add_concept(data_file, "dog", "dog", repeats=20_000))
    assert data_file.read_text("utf-8") == FILE
    new = data_file.with_name("new.toml")
    assert "num_repeats is 20000" in complaint(lambda: add_concept(new, "dog", "dog", repeats=20_000))
    assert not new.exists()


@pytest.mark.parametrize("name", ["tjtoy toy", "toy", "./toy"])
def test_a_concept_is_removed_by_its_words_or_folder_and_foreign_comments_stay(data_file: Path, name: str) -> None:
    assert remove_concept(data_file, name) == "tjtoy toy (toy)"
    left = data_file.read_text("utf-8")
    start, end = FILE.index("    [[datasets.subsets]]"), FILE.index("    # The card.")
    assert left == FILE[:start] + FILE[end:]
    assert concepts_of(data_file) == [("sparkgpu gpu", 1, False)]
    assert (data_file.parent / "toy" / "1.png").is_file()


def test_a_concept_whose_folder_is_gone_can_be_removed(data_file: Path) -> None:
    shutil.rmtree(data_file.parent / "toy")
    remove_concept(data_file, "toy")
    assert concepts_of(data_file) == [("sparkgpu gpu", 1, False)]


def test_an_unknown_concept_is_answered_with_those_there_are(data_file: Path) -> None:
    said = complaint(lambda: remove_concept(data_file, "tjtoi toy"))
    assert "no concept 'tjtoi toy'. Allowed: tjtoy toy (toy), sparkgpu gpu (gpu)" in said
    assert "Did you mean 'tjtoy toy'?" in said


def test_the_last_concept_is_not_removed(data_file: Path) -> None:
    remove_concept(data_file, "gpu")
    assert "is the last concept of its [[datasets]]" in complaint(lambda: remove_concept(data_file, "toy"))
    assert concepts_of(data_file) == [("tjtoy toy", 2, False)]


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in complaint(lambda: remove_concept(tmp_path / "data.toml", "toy"))
    assert "no such file" in complaint(lambda: concept_lines(tmp_path / "data.toml"))
    (tmp_path / "data.toml").write_text("[[", encoding="utf-8")
    assert "not TOML" in complaint(lambda: remove_concept(tmp_path / "data.toml", "toy"))

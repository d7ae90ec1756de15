"""data.toml: kohya's dialect is read as it is; what is wrong is said with file, line, table, key, and all at once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.config.specs import CaptionSpec, DatasetSpec, PictureSpec
from fluxbooth.errors import Problems, UserError

PLAYBOOK = """
[general]
shuffle_caption = false
keep_tokens = 2

[[datasets]]
resolution = 1024
batch_size = 1

    [[datasets.subsets]]
    image_dir = "toy"
    class_tokens = "tjtoy toy"
    num_repeats = 1
    is_reg = false
    flip_aug = true

    [[datasets.subsets]]
    image_dir = "gpu"
    class_tokens = "sparkgpu gpu"
    num_repeats = 2
    is_reg = false
    flip_aug = true
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a data.toml beside the folders `toy` and `gpu`."""
    for name in ("toy", "gpu"):
        (tmp_path / name).mkdir()

    def write(text: str) -> Path:
        file = tmp_path / "data.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def read(file: Path, resolution: int | None = None) -> tuple[DatasetSpec, ...]:
    problems = Problems()
    datasets = read_data_toml(file, problems, resolution)
    problems.raise_if_any()
    return datasets


def test_a_recipes_bucket_keys_stand_in_where_the_file_has_none(write: Callable[[str], Path]) -> None:
    (plain,) = read_data_toml(write(PLAYBOOK), Problems(), None, {"enable_bucket": True, "max_bucket_reso": 1536})
    assert (plain.enable_bucket, plain.max_bucket_reso) == (True, 1536)
    own = PLAYBOOK.replace("[[datasets]]", "[[datasets]]\nenable_bucket = false")
    (said,) = read_data_toml(write(own), Problems(), None, {"enable_bucket": True, "max_bucket_reso": 1536})
    assert (said.enable_bucket, said.max_bucket_reso) == (False, 1536)


def complaints(file: Path) -> list[str]:
    with pytest.raises(UserError) as raised:
        read(file)
    return [str(problem) for problem in raised.value.problems]


def dataset_with(lines: str = "", subset_lines: str = "", general: str = "") -> str:
    return (
        f"[general]\n{general}\n[[datasets]]\nresolution = 512\n{lines}\n"
        f'[[datasets.subsets]]\nimage_dir = "toy"\nclass_tokens = "tjtoy toy"\n{subset_lines}\n'
    )


def test_the_playbooks_file_is_read_as_it_stands(write: Callable[[str], Path], tmp_path: Path) -> None:
    (dataset,) = read(write(PLAYBOOK))
    toy, gpu = dataset.concepts
    assert (dataset.width, dataset.height, dataset.batch_size, dataset.enable_bucket) == (1024, 1024, 1, False)
    assert (toy.class_tokens, toy.num_repeats, toy.picture.flip_aug, toy.caption.keep_tokens) == (
        "tjtoy toy",
        1,
        True,
        2,
    )
    assert (gpu.class_tokens, gpu.num_repeats, gpu.image_dir) == ("sparkgpu gpu", 2, tmp_path / "gpu")


def test_the_projects_own_file_is_right(in_repository: Path) -> None:
    (dataset,) = read(Path("flux_data/data.toml"))
    assert [concept.class_tokens for concept in dataset.concepts] == ["tjtoy toy", "sparkgpu gpu"]


@pytest.mark.parametrize(
    ("in_general", "in_dataset", "in_subset", "repeats"),
    [("", "", "", 1), ("7", "", "", 7), ("7", "5", "", 5), ("7", "5", "3", 3), ("7", "", "3", 3)],
)
def test_a_key_is_looked_up_in_the_subset_then_its_dataset_then_general(
    write: Callable[[str], Path], in_general: str, in_dataset: str, in_subset: str, repeats: int
) -> None:
    general, dataset, subset = (f"num_repeats = {n}" if n else "" for n in (in_general, in_dataset, in_subset))
    (read_back,) = read(write(dataset_with(dataset, subset, general)))
    assert read_back.concepts[0].num_repeats == repeats


def test_the_first_value_that_is_present_wins_even_when_it_is_false(write: Callable[[str], Path]) -> None:
    (dataset,) = read(write(dataset_with("flip_aug = false", general="flip_aug = true")))
    assert dataset.concepts[0].picture.flip_aug is False


def test_a_folder_counts_from_the_working_directory_first_then_from_the_file(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(PLAYBOOK)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "toy").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    (dataset,) = read(file)
    assert [concept.image_dir.resolve() for concept in dataset.concepts] == [elsewhere / "toy", tmp_path / "gpu"]


def test_what_is_held_out_is_said_at_any_level_or_by_the_recipe(write: Callable[[str], Path]) -> None:
    said = dataset_with("validation_split = 0.2", "validation_split = 0.5").replace(
        "[general]", "[general]\nvalidation_seed = 3"
    )
    for text, found in (
        (said, (0.5, 3)),
        (dataset_with("validation_split = 0.2"), (0.2, 7)),
        (dataset_with(), (0.1, 7)),
    ):
        (dataset,) = read_data_toml(write(text), Problems(), None, {"validation_split": 0.1, "validation_seed": 7})
        (concept,) = dataset.concepts
        assert (concept.validation_split, concept.validation_seed) == found
    (dataset,) = read(write(dataset_with()))
    assert dataset.concepts[0].validation_split == 0


def test_two_sides_are_width_and_height(write: Callable[[str], Path]) -> None:
    (dataset,) = read(write(dataset_with().replace("resolution = 512", "resolution = [768, 512]")))
    assert (dataset.width, dataset.height) == (768, 512)


def test_another_resolution_scales_the_bucket_keys_alike(write: Callable[[str], Path]) -> None:
    text = dataset_with("enable_bucket = true\nmax_bucket_reso = 1536").replace("512", "1024")
    (dataset,) = read(write(text), resolution=96)
    assert (dataset.width, dataset.height, dataset.max_bucket_reso) == (96, 96, 144)
    assert dataset.bucket_reso_steps == 16, "a token of the transformer is 16 pixels"


WRONG = {
    "unknown key": (dataset_with("enable_buckets = true"), "line 5", "enable_buckets", "Did you mean 'enable_bucket'?"),
    "key of another table": (
        dataset_with(subset_lines="resolution = 512"),
        "line 9",
        "subset 1",
        "unknown key 'resolution'",
    ),
    "text where a number belongs": (dataset_with('batch_size = "2"'), "line 5", 'batch_size is "2"', "a valid integer"),
    "true where a number belongs": (
        dataset_with("batch_size = true"),
        "line 5",
        "batch_size is true",
        "a valid integer",
    ),
    "number where true belongs": (dataset_with("enable_bucket = 1"), "line 5", "enable_bucket is 1", "a valid boolean"),
    "negative repeats": (dataset_with(subset_lines="num_repeats = -1"), "line 9", "num_repeats is -1", "greater than"),
    "no side of a multiple of 16": (
        dataset_with().replace("512", "500"),
        "line 4",
        "resolution is 500",
        "multiple of 16",
    ),
    "three sides": (
        dataset_with().replace("512", "[512, 512, 512]"),
        "line 4",
        "resolution is [512, 512, 512]",
        "width",
    ),
    "no resolution": (dataset_with().replace("resolution = 512", ""), "line 3", "'resolution' is missing", "Add"),
    "no image_dir": (dataset_with().replace('image_dir = "toy"', ""), "line 6", "'image_dir' is missing", "Add"),
    "missing folder": (
        dataset_with().replace('"toy"', '"tyo"'),
        "line 7",
        "'tyo' does not exist",
        "Did you mean 'toy'?",
    ),
    "empty datasets": ("datasets = []", "line 1", "datasets is []", "at least 1 item"),
    "one table where a list of tables belongs": (
        "[datasets]\nresolution = 512",
        "line 1",
        "datasets is one table",
        "a list of tables, each headed by [[...]]",
    ),
    "number where a table belongs": (
        "general = 3\n" + dataset_with().replace("[general]", ""),
        "line 1",
        "general is 3",
        "a table",
    ),
    "no datasets": ("[general]", "data.toml", "'datasets' is missing", "Add"),
    "what is not done yet": (
        dataset_with("network_multiplier = 0.5"),
        "line 5",
        "network_multiplier is 0.5, and fluxbooth does not do that",
        "Remove the key",
    ),
    "everything held out": (dataset_with("validation_split = 1.0"), "line 5", "validation_split is 1.0", "less than 1"),
    "regularization held out": (
        dataset_with(subset_lines="is_reg = true\nvalidation_split = 0.1"),
        "subset 1",
        "regularization pictures are not held out",
        "Remove it here",
    ),
    "folder twice": (
        dataset_with(subset_lines='[[datasets.subsets]]\nimage_dir = "toy"\nclass_tokens = "x"'),
        "line 3",
        "several subsets",
        "num_repeats",
    ),
    "steps larger than the picture": (
        dataset_with("enable_bucket = true\nbucket_reso_steps = 1024"),
        "line 3",
        "bucket_reso_steps is 1024",
        "at most the smaller resolution, 512",
    ),
    "a size nobody has": (
        dataset_with("max_bucket_reso = 16000000000"),
        "line 5",
        "16000000000",
        "less than or equal to",
    ),
    "smallest bucket too large": (
        dataset_with("enable_bucket = true\nmin_bucket_reso = 1024\nmax_bucket_reso = 2048"),
        "line 3",
        "min_bucket_reso is 1024",
        "at most the smaller resolution, 512",
    ),
    "largest bucket too small": (
        dataset_with("enable_bucket = true\nmax_bucket_reso = 256"),
        "line 3",
        "max_bucket_reso is 256",
        "at least the larger resolution, 512",
    ),
}


@pytest.mark.parametrize(("text", "place", "what", "help_given"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_with_its_place_and_what_is_allowed(
    write: Callable[[str], Path], text: str, place: str, what: str, help_given: str
) -> None:
    (complaint,) = complaints(write(text))
    assert place in complaint
    assert what in complaint
    assert help_given in complaint


def test_every_problem_is_said_at_once(write: Callable[[str], Path]) -> None:
    text = dataset_with("batch_size = true\nenable_buckets = true", "num_repeats = 0").replace('"toy"', '"tyo"')
    said = "\n".join(complaints(write(text)))
    for word in ("batch_size", "enable_buckets", "num_repeats", "tyo"):
        assert word in said


def test_a_subset_without_image_dir_does_not_change_the_places_of_the_others(write: Callable[[str], Path]) -> None:
    first, second = complaints(
        write(dataset_with("", '[[datasets.subsets]]\nimage_dir = "nope"\n').replace('image_dir = "toy"', ""))
    )
    assert "line 6, dataset 1, subset 1, image_dir: 'image_dir' is missing" in first
    assert "line 10, dataset 1, subset 2, image_dir: folder 'nope' does not exist" in second


def test_a_kohya_key_that_asks_for_nothing_is_accepted(write: Callable[[str], Path]) -> None:
    read(write(dataset_with("validation_split = 0.0", 'color_aug = false\ncaption_prefix = ""\ntoken_warmup_step = 0')))


EVERY_KEY = """
flip_aug = true
random_crop = true
color_aug = true
resize_interpolation = "lanczos"
shuffle_caption = true
keep_tokens = 1
keep_tokens_separator = "|||"
caption_separator = ";"
secondary_separator = ";;;"
enable_wildcard = true
caption_prefix = "a photo of"
caption_suffix = "sharp"
caption_dropout_rate = 0.05
caption_dropout_every_n_epochs = 4
caption_tag_dropout_rate = 0.1
token_warmup_min = 2
token_warmup_step = 0.5
caption_extension = ".txt"
cache_info = true
custom_attributes = { num_repeats = "auto", variants = 3 }
"""


@pytest.mark.parametrize("table", ["general", "dataset", "subset"])
def test_every_key_of_a_subset_may_stand_in_any_table(write: Callable[[str], Path], table: str) -> None:
    places = {"general": "", "dataset": "", "subset": ""} | {table: EVERY_KEY}
    text = dataset_with(places["dataset"], places["subset"], general=places["general"])
    (dataset,) = read(write(text))
    concept = dataset.concepts[0]
    assert concept.num_repeats is None
    assert concept.caption_extension == ".txt"
    assert concept.picture == PictureSpec(True, True, True, 3, "lanczos")
    assert concept.caption == CaptionSpec(
        prefix="a photo of",
        suffix="sharp",
        dropout_rate=0.05,
        dropout_every_n_epochs=4,
        wildcard=True,
        keep_tokens_separator="|||",
        keep_tokens=1,
        warmup_min=2,
        warmup_step=0.5,
        shuffle=True,
        tag_dropout_rate=0.1,
        separator=";",
        secondary_separator=";;;",
    )


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ('metadata_file = "meta.json"', "kohya's way without concept folders"),
        ('conditioning_data_dir = "masks"', "for ControlNet"),
        ("face_crop_aug_range = [1.0, 3.0]", "the place of a face"),
    ],
)
def test_a_key_of_another_method_is_refused_with_the_reason(write: Callable[[str], Path], key: str, why: str) -> None:
    (complaint,) = complaints(write(dataset_with("", key)))
    assert why in complaint
    assert "Remove the key" in complaint


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("caption_dropout_rate = 2.0", "caption_dropout_rate"),
        ("caption_dropout_rate = true", "caption_dropout_rate"),
        ('resize_interpolation = "sharp"', "resize_interpolation"),
        ("custom_attributes = { variant = 3 }", "Did you mean 'variants'?"),
        ("custom_attributes = { variants = 3 }", "no picture has any"),
        ('custom_attributes = { mask_dir = "nowhere" }', "folder 'nowhere' does not exist"),
        ('num_repeats = 2\ncustom_attributes = { num_repeats = "auto" }', 'a number and "auto"'),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(write: Callable[[str], Path], key: str, said: str) -> None:
    assert said in "\n".join(complaints(write(dataset_with("", key))))


def test_json_of_the_same_shape_is_read(write: Callable[[str], Path]) -> None:
    toml = write(PLAYBOOK)
    file = toml.with_suffix(".json")
    file.write_text(json.dumps(tomllib.loads(PLAYBOOK)), encoding="utf-8")
    (from_toml,), (from_json,) = read(toml), read(file)
    assert [replace(concept, where="") for concept in from_json.concepts] == [
        replace(concept, where="") for concept in from_toml.concepts
    ]
    file.write_text("[1, 2]")
    (complaint,) = complaints(file)
    assert "not JSON: the whole must be one object" in complaint


def test_what_is_no_toml_is_said_with_its_line(write: Callable[[str], Path]) -> None:
    (complaint,) = complaints(write("[general]\nshuffle_caption = no"))
    assert "not TOML" in complaint
    assert "line 2" in complaint


def test_a_missing_file_is_said_with_the_toml_files_beside_it(write: Callable[[str], Path]) -> None:
    (complaint,) = complaints(write("").with_name("dta.toml"))
    assert "no such file" in complaint
    assert "data.toml" in complaint


def test_a_file_that_begins_with_a_byte_order_mark_or_has_windows_line_ends_is_read(
    write: Callable[[str], Path],
) -> None:
    file = write("")
    file.write_bytes(b"\xef\xbb\xbf" + dataset_with().replace("\n", "\r\n").encode())
    assert read(file)[0].width == 512

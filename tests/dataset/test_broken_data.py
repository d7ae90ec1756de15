"""Broken data.toml, JSON, pictures and captions: an error that says what is wrong, no traceback and no hang."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fluxbooth.config.folder_names import read_datasets
from fluxbooth.dataset.items import read_items
from fluxbooth.errors import Problems, UserError

WHOLE = """
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = ".txt"
custom_attributes = { variants = 3 }
color_aug = true

[[datasets]]
resolution = [96, 64]
batch_size = 2
enable_bucket = true
min_bucket_reso = 32
max_bucket_reso = 128
bucket_reso_steps = 16

    [[datasets.subsets]]
    image_dir = "toy"
    class_tokens = "tjtoy toy"
    num_repeats = 2
    caption_prefix = "a"
"""
KEYS = st.sampled_from(
    [line.split(" = ")[0].strip() for line in WHOLE.splitlines() if " = " in line]
    + ["subsets", "alpha_mask", "is_reg", "caption_dropout_rate", "token_warmup_step", "resize_interpolation", "what"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=6)
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def picture_bytes(file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((48, 40)).save(buffer, format=file_format)
    return buffer.getvalue()


PICTURES = {ending: picture_bytes(name) for ending, name in ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"))}


@contextmanager
def folder_with_one_picture() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "toy").mkdir()
        (folder / "toy/1.png").write_bytes(PICTURES[".png"])
        (folder / "toy/1.txt").write_text("tjtoy toy, on a desk")
        yield folder


def read(data: Path) -> None:
    """Read as a run does; whatever is wrong comes as a UserError whose every problem says something."""
    problems = Problems()
    try:
        read_items(read_datasets(data, problems, None, {}), problems)
        problems.raise_if_any()
    except UserError as error:
        said = [problem.what for problem in error.problems]
    else:
        said = ["nothing is wrong"]
    assert all(said)


def test_the_whole_file_is_right() -> None:
    with folder_with_one_picture() as folder:
        (folder / "data.toml").write_text(WHOLE)
        problems = Problems()
        assert len(read_items(read_datasets(folder / "data.toml", problems, None, {}), problems)) == 1
        problems.raise_if_any()


@given(st.integers(0, len(WHOLE)), st.integers(0, 40), st.text(max_size=12))
@QUICK
def test_a_file_in_which_someone_mistyped(place: int, removed: int, inserted: str) -> None:
    with folder_with_one_picture() as folder:
        text = WHOLE[:place] + inserted + WHOLE[place + removed :]
        (folder / "data.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
        read(folder / "data.toml")


@given(st.binary(max_size=200))
@QUICK
def test_a_file_of_any_bytes(data: bytes) -> None:
    with folder_with_one_picture() as folder:
        for name in ("data.toml", "data.json"):
            (folder / name).write_bytes(data)
            read(folder / name)


@given(
    st.dictionaries(st.sampled_from(["general", "datasets", "what"]), VALUES | TABLES | st.lists(TABLES, max_size=2))
)
@QUICK
def test_json_of_any_shape(values: dict[str, object]) -> None:
    with folder_with_one_picture() as folder:
        (folder / "data.json").write_text(json.dumps(values))
        read(folder / "data.json")


@given(TABLES, TABLES, TABLES)
@QUICK
def test_tables_with_any_values(
    general: dict[str, object], dataset: dict[str, object], subset: dict[str, object]
) -> None:
    with folder_with_one_picture() as folder:
        subsets = [{"image_dir": "toy", "class_tokens": "tjtoy toy", **subset}]
        values = {"general": general, "datasets": [{"resolution": 64, "subsets": subsets, **dataset}]}
        (folder / "data.json").write_text(json.dumps(values))
        read(folder / "data.json")


@given(st.sampled_from(sorted(PICTURES)), st.floats(0, 1), st.binary(max_size=20), st.booleans())
@QUICK
def test_a_picture_that_was_cut_or_written_over(ending: str, share: float, garbage: bytes, goes_on: bool) -> None:
    whole = PICTURES[ending]
    place = int(share * len(whole))
    with folder_with_one_picture() as folder:
        rest = whole[place + len(garbage) :] if goes_on else b""
        (folder / f"toy/2{ending}").write_bytes(whole[:place] + garbage + rest)
        (folder / "data.toml").write_text(WHOLE)
        read(folder / "data.toml")


@given(st.binary(max_size=60))
@QUICK
def test_a_caption_of_any_bytes(data: bytes) -> None:
    with folder_with_one_picture() as folder:
        (folder / "toy/1.txt").write_bytes(data)
        (folder / "data.toml").write_text(WHOLE)
        read(folder / "data.toml")

"""Concepts without a data.toml: folders named for what they hold: "mokka dog", or kohya's "100_mokka dog"."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.config.specs import CaptionSpec, ConceptSpec, DatasetSpec, PictureSpec
from fluxbooth.errors import Problem, Problems, UserError

_log = logging.getLogger("fluxbooth")
_RESOLUTION = 1024
"""Pixels, where nothing says otherwise."""


def read_datasets(
    data: Path, problems: Problems, resolution: int | None, dataset_keys: Mapping[str, float]
) -> tuple[DatasetSpec, ...]:
    """Read a data.toml, or a folder whose subfolders' names say what data.toml would.

    Args:
        data: the file or the folder.
        problems: where complaints go.
        resolution: pixels; wins over the file's, and 1024 for a folder where it is None.
        dataset_keys: what stands in for keys that the file does not have, on buckets and on what is held out.

    Raises:
        UserError: when there is no such file, it is not TOML, or no subfolder has a name that says so.
    """
    if data.is_dir():
        return (_dataset_of_folders(data, resolution or _RESOLUTION, dataset_keys),)
    if _has_only_folders(data.parent) and not data.exists():
        _log.info("there is no %s: the folders beside it are the concepts", data)
        return (_dataset_of_folders(data.parent, resolution or _RESOLUTION, dataset_keys, words_alone=True),)
    return read_data_toml(data, problems, resolution, dataset_keys)


def repeats_and_words(name: str) -> tuple[int, str] | None:
    """Take a folder's name apart: "100_My_Lora_Model" is 100 repeats of "My_Lora_Model"; None where it is no such name.

    kohya, library/config_util.generate_dreambooth_subsets_config_by_subdirs, but that a number alone is none: it would
    be an empty caption.
    """
    number, _, words = name.partition("_")
    if not number.isdecimal() or int(number) == 0 or not words.strip():
        return None
    return int(number), words.strip()


def _has_only_folders(folder: Path) -> bool:
    """Whether a folder has concepts' folders and no file that could be meant as the data.toml."""
    if not folder.is_dir() or any(folder.glob("*.toml")) or any(folder.glob("*.json")):
        return False
    return any(map(_words, _subfolders(folder)))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _words(folder: Path) -> str:
    """The class tokens that a folder's name is, a made-up word and a noun; nothing where it is one word."""
    words = folder.name.replace("_", " ").split()
    return " ".join(words) if len(words) > 1 else ""


def _dataset_of_folders(
    folder: Path, resolution: int, dataset_keys: Mapping[str, float], words_alone: bool = False
) -> DatasetSpec:
    """Make a dataset of the subfolders whose names say what they hold; `words_alone`: also without repeats."""
    concepts, passed_over = [], []
    for subfolder in _subfolders(folder):
        named = repeats_and_words(subfolder.name)
        if named is None and words_alone and (words := _words(subfolder)):
            named = 1, words
        if named is None:
            passed_over.append(subfolder.name)
            continue
        repeats, words = named
        concepts.append(
            ConceptSpec(
                image_dir=subfolder,
                class_tokens=words,
                num_repeats=repeats,
                is_reg=False,
                caption_extension=".txt",
                caption=CaptionSpec(),
                picture=PictureSpec(),
                where=str(subfolder),
                validation_split=dataset_keys.get("validation_split", 0.0),
                validation_seed=int(dataset_keys.get("validation_seed", 0)),
            )
        )
    if not concepts:
        raise UserError(
            Problem(
                f"no folder in it is named for training ({_first(passed_over) or 'there are none'})",
                where=str(folder),
                allowed='folders called repeats_words, for instance "10_mokka dog"',
                do="Name them so, or write a data.toml (`fluxbooth concept add FOLDER --class-noun dog`)",
            )
        )
    if passed_over:
        _log.info("passed over, for their names do not say what they hold: %s", ", ".join(passed_over))
    # The subfolders' captions are read from .txt files, as kohya's GUI writes them.
    return DatasetSpec(
        width=resolution,
        height=resolution,
        batch_size=1,
        enable_bucket=bool(dataset_keys.get("enable_bucket", False)),
        min_bucket_reso=int(dataset_keys.get("min_bucket_reso", 256)),
        max_bucket_reso=int(dataset_keys.get("max_bucket_reso", max(1024, resolution))),
        bucket_reso_steps=int(dataset_keys.get("bucket_reso_steps", 64)),
        bucket_no_upscale=bool(dataset_keys.get("bucket_no_upscale", False)),
        concepts=tuple(concepts),
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

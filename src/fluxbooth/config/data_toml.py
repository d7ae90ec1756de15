"""data.toml in kohya's dialect: which folders are which concepts, and at what size they are trained.

Looks a key up in the subset, then its dataset, then [general]; the first that is present wins. Reads no picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from fluxbooth.config.tables import StrictTable, TablePath, TomlFile, as_toml, checked
from fluxbooth.errors import Problems, did_you_mean

_Count = Annotated[int, Field(ge=1, le=10_000)]
_Multiple = Annotated[int, Field(ge=16, le=16384, multiple_of=16)]
"""Pixels; a token of the transformer is 16 x 16 pixels."""

# Keys that kohya knows and this version does not act on, with the value at which they ask for nothing.
_ASKS_FOR_NOTHING: dict[str, Any] = {
    "alpha_mask": False,
    "cache_info": False,
    "caption_dropout_every_n_epochs": 0,
    "caption_dropout_rate": 0,
    "caption_prefix": "",
    "caption_suffix": "",
    "caption_tag_dropout_rate": 0,
    "color_aug": False,
    "custom_attributes": {},
    "enable_wildcard": False,
    "keep_tokens_separator": "",
    "random_crop": False,
    "secondary_separator": "",
    "token_warmup_min": 1,
    "token_warmup_step": 0,
    "validation_split": 0.0,
}
"""Asking for more is an error, never silence."""
_NOWHERE = "\0"


@dataclass(frozen=True)
class ConceptSpec:
    """One thing to learn: one `[[datasets.subsets]]`, every key resolved."""

    image_dir: Path
    class_tokens: str
    """The caption of a picture that has no caption file."""
    num_repeats: int
    """Times a picture appears in an epoch."""
    is_reg: bool
    """Regularization pictures: they hold the class as it is, at `prior_loss_weight`."""
    flip_aug: bool
    """Half of the visits see the picture mirrored."""
    shuffle_caption: bool
    """Every visit sees the tags of the caption in another order."""
    keep_tokens: int
    """Leading tags that shuffling leaves in place."""
    caption_separator: str
    """What parts a caption into tags."""
    caption_extension: str
    """Caption file of a picture: its name with this ending."""
    where: str
    """Place in the file, for messages."""


@dataclass(frozen=True)
class DatasetSpec:
    """One `[[datasets]]`: concepts that share sizes and batch size. All sizes in pixels."""

    width: int
    height: int
    """What a picture becomes without buckets; with buckets their product is the target area."""
    batch_size: int
    enable_bucket: bool
    min_bucket_reso: int
    max_bucket_reso: int
    bucket_reso_steps: int
    bucket_no_upscale: bool
    concepts: tuple[ConceptSpec, ...]


class _SubsetKeys(StrictTable):
    class_tokens: str | None = None
    num_repeats: _Count | None = None
    flip_aug: bool | None = None
    shuffle_caption: bool | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None
    caption_separator: Annotated[str, Field(min_length=1)] | None = None
    caption_extension: Annotated[str, Field(pattern=r"^\.\w+$")] | None = None


class _DatasetKeys(StrictTable):
    resolution: int | list[int] | None = None
    batch_size: _Count | None = None
    enable_bucket: bool | None = None
    min_bucket_reso: _Multiple | None = None
    max_bucket_reso: _Multiple | None = None
    bucket_reso_steps: _Multiple | None = None
    bucket_no_upscale: bool | None = None

    @field_validator("resolution", mode="before")
    @classmethod
    def _one_or_two_sides(cls, value: Any) -> Any:
        sides = value if isinstance(value, list) else [value]
        whole = all(type(side) is int and 16 <= side <= 16384 and side % 16 == 0 for side in sides)
        if value is not None and not (whole and len(sides) in (1, 2)):
            raise ValueError("a multiple of 16 pixels up to 16384, or [width, height] of such")
        return value


class _SubsetTable(_SubsetKeys):
    image_dir: Annotated[str, Field(min_length=1)]
    is_reg: bool = False


class _DatasetTable(_DatasetKeys, _SubsetKeys):
    subsets: Annotated[list[_SubsetTable], Field(min_length=1)]


class _GeneralTable(_DatasetKeys, _SubsetKeys):
    pass


class _DataToml(StrictTable):
    general: _GeneralTable = _GeneralTable()
    datasets: Annotated[list[_DatasetTable], Field(min_length=1)]


def read_data_toml(
    path: Path,
    problems: Problems,
    resolution: int | None = None,
    bucket_keys: Mapping[str, bool | int] | None = None,
) -> tuple[DatasetSpec, ...]:
    """Read a data.toml and resolve every key.

    Adds every unknown key, wrong type, contradiction and missing folder to `problems`, each with its line; what is
    returned then lacks them and is good only for finding more problems.

    Args:
        path: the file. Its relative folders count from the working directory, or from the file where that has none.
        problems: where complaints go.
        resolution: pixels; trains at this size instead of the file's, with the bucket keys scaled alike.
        bucket_keys: values of the keys on buckets that the file does not have.

    Raises:
        UserError: when the file is missing or not TOML.
    """
    file = TomlFile(path)
    tables = checked(
        _DataToml, _with_every_image_dir(_without_idle_keys(file, problems), file, problems), file.place, problems
    )
    if tables is None:
        return ()
    datasets = []
    for index, table in enumerate(tables.datasets):
        if resolution is None and not any("resolution" in raw for raw in _raw_tables(file, index)):
            problems.add(
                "'resolution' is missing",
                where=file.place(("datasets", index)),
                do="Add resolution = 1024 here or in [general]",
            )
        concepts = tuple(
            _concept(subset, folder, table, tables.general, file.place(("datasets", index, "subsets", number)))
            for number, subset in enumerate(table.subsets)
            if (
                folder := _existing_folder(
                    subset.image_dir, file, ("datasets", index, "subsets", number, "image_dir"), problems
                )
            )
        )
        datasets.append(
            _dataset(
                table,
                tables.general,
                concepts,
                resolution,
                bucket_keys or {},
                file.place(("datasets", index)),
                problems,
            )
        )
    return tuple(datasets)


def _concept(
    subset: _SubsetTable, folder: Path, dataset: _DatasetTable, general: _GeneralTable, where: str
) -> ConceptSpec:
    def value(key: str, default: Any) -> Any:
        return _first_present(key, default, subset, dataset, general)

    return ConceptSpec(
        image_dir=folder,
        class_tokens=(value("class_tokens", "") or "").strip(),
        num_repeats=value("num_repeats", 1),
        is_reg=subset.is_reg,
        flip_aug=value("flip_aug", False),
        shuffle_caption=value("shuffle_caption", False),
        keep_tokens=value("keep_tokens", 0),
        caption_separator=value("caption_separator", ","),
        caption_extension=value("caption_extension", ".caption"),
        where=where,
    )


def _dataset(
    table: _DatasetTable,
    general: _GeneralTable,
    concepts: tuple[ConceptSpec, ...],
    resolution: int | None,
    bucket_keys: Mapping[str, bool | int],
    where: str,
    problems: Problems,
) -> DatasetSpec:
    def value(key: str, default: Any) -> Any:
        return _first_present(key, bucket_keys.get(key, default), table, general)

    # A resolution of the wrong type was complained about already; going on with another finds what else is wrong.
    asked = value("resolution", resolution or 1024)
    sides = asked if isinstance(asked, list) else [asked]
    width, height = sides[0], sides[-1]
    scale = resolution / math.sqrt(width * height) if resolution else 1.0
    dataset = DatasetSpec(
        width=_scaled(width, scale),
        height=_scaled(height, scale),
        batch_size=value("batch_size", 1),
        enable_bucket=value("enable_bucket", False),
        min_bucket_reso=_scaled(value("min_bucket_reso", 256), scale),
        max_bucket_reso=_scaled(value("max_bucket_reso", 1024), scale),
        bucket_reso_steps=_scaled(value("bucket_reso_steps", 64), scale),
        bucket_no_upscale=value("bucket_no_upscale", False),
        concepts=concepts,
    )
    _check_bucket_limits(dataset, where, problems)
    folders = [concept.image_dir for concept in concepts]
    for folder in sorted({folder for folder in folders if folders.count(folder) > 1}):
        problems.add(
            f"image_dir '{folder}' stands in several subsets of one dataset",
            where=where,
            do="Keep one, and raise its num_repeats",
        )
    return dataset


def _check_bucket_limits(dataset: DatasetSpec, where: str, problems: Problems) -> None:
    smaller, larger = sorted((dataset.width, dataset.height))
    if dataset.enable_bucket and dataset.bucket_reso_steps > smaller:
        problems.add(
            f"bucket_reso_steps is {dataset.bucket_reso_steps}",
            where=where,
            allowed=f"at most the smaller resolution, {smaller}",
        )
    if not dataset.enable_bucket or dataset.bucket_no_upscale:
        return
    if dataset.min_bucket_reso > smaller:
        problems.add(
            f"min_bucket_reso is {dataset.min_bucket_reso}",
            where=where,
            allowed=f"at most the smaller resolution, {smaller}",
        )
    if dataset.max_bucket_reso < larger:
        problems.add(
            f"max_bucket_reso is {dataset.max_bucket_reso}",
            where=where,
            allowed=f"at least the larger resolution, {larger}",
        )


def _raw_tables(file: TomlFile, index: int) -> tuple[dict[str, Any], ...]:
    return file.values["datasets"][index], file.values.get("general", {})


def _first_present(key: str, default: Any, *tables: StrictTable) -> Any:
    for table in tables:
        if key in table.model_fields_set:
            return getattr(table, key)
    return default


def _scaled(pixels: int, scale: float) -> int:
    """Scale to the nearest multiple of 16 pixels, at least one token."""
    return max(16, round(pixels * scale / 16) * 16) if scale != 1.0 else pixels


def _with_every_image_dir(values: dict[str, Any], file: TomlFile, problems: Problems) -> dict[str, Any]:
    """Complain about subsets without image_dir and give them one that leads nowhere, so that no subset drops out.

    The others would change their numbers, and what is said about them would name the wrong lines.
    """
    datasets = values.get("datasets")
    for index, dataset in enumerate(datasets if isinstance(datasets, list) else []):
        subsets = dataset.get("subsets") if isinstance(dataset, dict) else None
        for number, subset in enumerate(subsets if isinstance(subsets, list) else []):
            if isinstance(subset, dict) and "image_dir" not in subset:
                place = file.place(("datasets", index, "subsets", number, "image_dir"))
                problems.add("'image_dir' is missing", where=place, do="Add image_dir = ...")
                subset["image_dir"] = _NOWHERE
    return values


def _existing_folder(name: str, file: TomlFile, path: TablePath, problems: Problems) -> Path | None:
    if name == _NOWHERE:
        return None
    candidates = (Path(name), file.path.parent / name)
    try:
        for folder in candidates:
            if folder.is_dir():
                return folder
        parents = {folder.parent for folder in candidates if folder.parent.is_dir()}
        siblings = {entry.name for parent in parents for entry in parent.iterdir() if entry.is_dir()}
    except OSError as error:
        problems.add(f"folder '{name}' cannot be looked at: {error.strerror}", where=file.place(path))
        return None
    there = sorted(name for name in siblings if not name.startswith("."))
    problems.add(
        f"folder '{name}' does not exist",
        where=file.place(path),
        allowed=f"a folder, counted from the working directory or from {file.path.parent}",
        do=f"Folders beside it: {', '.join(there) or 'none'}. {did_you_mean(Path(name).name, there)}".strip(),
    )
    return None


def _without_idle_keys(file: TomlFile, problems: Problems) -> dict[str, Any]:
    """The file's tables less the keys that ask for nothing; a key that asks for what is not there is a problem."""

    def pruned(table: Any, path: TablePath) -> Any:
        if isinstance(table, list):
            return [pruned(entry, (*path, index)) for index, entry in enumerate(table)]
        if not isinstance(table, Mapping):
            return table
        kept = {}
        for key, value in table.items():
            if key not in _ASKS_FOR_NOTHING:
                kept[key] = pruned(value, (*path, key)) if key in ("general", "datasets", "subsets") else value
            elif value != _ASKS_FOR_NOTHING[key]:
                problems.add(
                    f"{key} is {as_toml(value)}, which fluxbooth does not do yet",
                    where=file.place((*path, key)),
                    allowed=as_toml(_ASKS_FOR_NOTHING[key]),
                    do="Remove the key",
                )
        return kept

    return dict(pruned(file.values, ()))

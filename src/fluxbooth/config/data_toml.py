"""data.toml in kohya's dialect: which folders are which concepts, and at what size they are trained.

Looks a key up in the subset, then its dataset, then [general]; the first that is present wins. Reads no picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fluxbooth.config.specs import CaptionSpec, ConceptSpec, DatasetSpec, PictureSpec
from fluxbooth.config.tables import StrictTable, TablePath, TomlFile, as_toml, checked
from fluxbooth.errors import Problems, did_you_mean

_Count = Annotated[int, Field(ge=1, le=10_000)]
_Share = Annotated[float, Field(ge=0, le=1)]
_VARIANTS = 8
"""Variants of a picture whose crop or colours change, where custom_attributes do not say."""
_Interpolation = Literal["nearest", "bilinear", "linear", "bicubic", "cubic", "lanczos", "area", "box"]
_Multiple = Annotated[int, Field(ge=16, le=16384, multiple_of=16)]
"""Pixels; a token of the transformer is 16 x 16 pixels."""

# Keys of kohya's that nothing here acts on: the value at which they ask for nothing, and the reason.
_NOT_DONE: Mapping[str, tuple[Any, str]] = {
    "network_multiplier": (1.0, "nothing reads it, in kohya's code neither"),
    "face_crop_aug_range": (
        None,
        "it needs the place of a face in each file's name; crop the pictures, or use random_crop",
    ),
    "metadata_file": (None, "it is kohya's way without concept folders; write class_tokens and caption files"),
    "conditioning_data_dir": (None, "it is for ControlNet; for masks use custom_attributes = { mask_dir = ... }"),
}
"""Asking for more is an error, never silence."""
_NOWHERE = "\0"


class _CustomAttributes(StrictTable):
    """fluxbooth's own keys, where kohya passes anything over."""

    num_repeats: Literal["auto"] | None = None
    variants: Annotated[int, Field(ge=2, le=1000)] | None = None
    mask_dir: Annotated[str, Field(min_length=1)] | None = None


class _SubsetKeys(StrictTable):
    class_tokens: str | None = None
    num_repeats: _Count | None = None
    flip_aug: bool | None = None
    random_crop: bool | None = None
    color_aug: bool | None = None
    resize_interpolation: _Interpolation | None = None
    shuffle_caption: bool | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None
    keep_tokens_separator: str | None = None
    caption_separator: Annotated[str, Field(min_length=1)] | None = None
    secondary_separator: str | None = None
    enable_wildcard: bool | None = None
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    caption_dropout_rate: _Share | None = None
    caption_dropout_every_n_epochs: Annotated[int, Field(ge=0)] | None = None
    caption_tag_dropout_rate: _Share | None = None
    token_warmup_min: Annotated[int, Field(ge=0)] | None = None
    token_warmup_step: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    caption_extension: Annotated[str, Field(pattern=r"^\.\w+$")] | None = None
    custom_attributes: _CustomAttributes | None = None
    cache_info: bool | None = None
    validation_split: Annotated[float, Field(ge=0, lt=1)] | None = None
    validation_seed: int | None = None


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
    alpha_mask: bool = False


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
    dataset_keys: Mapping[str, float] | None = None,
) -> tuple[DatasetSpec, ...]:
    """Read a data.toml and resolve every key.

    Adds every unknown key, wrong type, contradiction and missing folder to `problems`, each with its line; what is
    returned then lacks them and is good only for finding more problems.

    Args:
        path: the file. Its relative folders count from the working directory, or from the file where that has none.
        problems: where complaints go.
        resolution: pixels; trains at this size instead of the file's, with the bucket keys scaled alike.
        dataset_keys: values of keys that the file does not have, on buckets and on what is held out.

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
            _concept(
                subset,
                folder,
                table,
                tables.general,
                dataset_keys or {},
                file,
                ("datasets", index, "subsets", number),
                problems,
            )
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
                dataset_keys or {},
                file.place(("datasets", index)),
                problems,
            )
        )
    return tuple(datasets)


def _concept(
    subset: _SubsetTable,
    folder: Path,
    dataset: _DatasetTable,
    general: _GeneralTable,
    dataset_keys: Mapping[str, float],
    file: TomlFile,
    place: TablePath,
    problems: Problems,
) -> ConceptSpec:
    def value(key: str, default: Any) -> Any:
        return _first_present(key, default, subset, dataset, general)

    where = file.place(place)
    own = value("custom_attributes", None) or _CustomAttributes()
    changes = value("random_crop", False) or value("color_aug", False)
    if own.variants and not changes:
        problems.add(
            f"variants is {own.variants}, and no picture has any",
            where=f"{where}, custom_attributes",
            do="Set random_crop or color_aug, or remove variants",
        )
    if own.num_repeats and "num_repeats" in subset.model_fields_set:
        problems.add(
            'num_repeats is a number and "auto"', where=where, do="Keep one of num_repeats and custom_attributes"
        )
    if subset.is_reg and subset.validation_split:
        problems.add(
            f"validation_split is {subset.validation_split}, and regularization pictures are not held out",
            where=where,
            do="Remove it here",
        )
    masks = _existing_folder(own.mask_dir, file, (*place, "custom_attributes"), problems) if own.mask_dir else None
    return ConceptSpec(
        image_dir=folder,
        class_tokens=(value("class_tokens", "") or "").strip(),
        num_repeats=None if own.num_repeats else value("num_repeats", 1),
        is_reg=subset.is_reg,
        caption_extension=value("caption_extension", ".caption"),
        caption=CaptionSpec(
            prefix=value("caption_prefix", "") or "",
            suffix=value("caption_suffix", "") or "",
            dropout_rate=value("caption_dropout_rate", 0.0),
            dropout_every_n_epochs=value("caption_dropout_every_n_epochs", 0),
            wildcard=value("enable_wildcard", False),
            keep_tokens_separator=value("keep_tokens_separator", "") or "",
            keep_tokens=value("keep_tokens", 0),
            warmup_min=value("token_warmup_min", 1),
            warmup_step=value("token_warmup_step", 0.0),
            shuffle=value("shuffle_caption", False),
            tag_dropout_rate=value("caption_tag_dropout_rate", 0.0),
            separator=value("caption_separator", ","),
            secondary_separator=value("secondary_separator", "") or "",
        ),
        picture=PictureSpec(
            flip_aug=value("flip_aug", False),
            random_crop=value("random_crop", False),
            color_aug=value("color_aug", False),
            variants=(own.variants or _VARIANTS) if changes else 1,
            interpolation=value("resize_interpolation", "") or "",
            alpha_mask=subset.alpha_mask,
            mask_dir=masks,
        ),
        where=where,
        validation_split=value("validation_split", dataset_keys.get("validation_split", 0.0)) or 0.0,
        validation_seed=value("validation_seed", dataset_keys.get("validation_seed", 0)) or 0,
    )


def _dataset(
    table: _DatasetTable,
    general: _GeneralTable,
    concepts: tuple[ConceptSpec, ...],
    resolution: int | None,
    dataset_keys: Mapping[str, float],
    where: str,
    problems: Problems,
) -> DatasetSpec:
    def value(key: str, default: Any) -> Any:
        return _first_present(key, dataset_keys.get(key, default), table, general)

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
            if key not in _NOT_DONE:
                kept[key] = pruned(value, (*path, key)) if key in ("general", "datasets", "subsets") else value
                continue
            nothing, why = _NOT_DONE[key]
            if value != nothing or nothing is None:
                problems.add(
                    f"{key} is {as_toml(value)}, and fluxbooth does not do that: {why}",
                    where=file.place((*path, key)),
                    do="Remove the key",
                )
        return kept

    return dict(pruned(file.values, ()))

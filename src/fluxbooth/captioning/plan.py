"""Which pictures get a caption, in which file and with which words around it. Writes nothing, loads no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fluxbooth.captioning.wording import TRIGGER, Wording
from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.config.specs import ConceptSpec
from fluxbooth.dataset.items import pictures_in
from fluxbooth.dataset.pictures import PICTURE_SUFFIXES, UnreadablePictureError, open_upright
from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.host.folders import check_writable

_FOLDER_EXTENSION = ".txt"


@dataclass(frozen=True)
class Target:
    """One caption to write."""

    picture: Path
    file: Path
    wording: Wording


@dataclass(frozen=True)
class Plan:
    """All captions to write."""

    targets: tuple[Target, ...]
    left_alone: int
    """Pictures whose caption file is there and stays as it is."""


@dataclass(frozen=True)
class _Source:
    """A folder of pictures whose captions share one ending and one wording."""

    folder: Path
    extension: str
    wording: Wording
    where: str
    """Where the user named it, for messages."""


def plan_captions(source: Path, wording: Wording, extension: str | None, overwrite: bool, problems: Problems) -> Plan:
    """List what is to be captioned in a folder, or in all of a data.toml's folders but the regularization pictures.

    Adds to `problems` what would stop the work or spoil a file: pictures that share a caption file, unreadable
    pictures, folders without pictures or that cannot be written to, `[trigger]` where there are no class tokens.

    Args:
        source: a folder or a data.toml.
        extension: ending of the caption files of a folder, .txt if None; a data.toml has its own.
        overwrite: also list pictures that have a caption file.
    """
    targets: list[Target] = []
    left_alone = 0
    for one in _sources(source, wording, extension, problems):
        pictures = pictures_in(one.folder, one.where, problems)
        files = {picture: picture.with_suffix(one.extension) for picture in pictures}
        wanted = [picture for picture in pictures if overwrite or not files[picture].exists()]
        left_alone += len(pictures) - len(wanted)
        if wanted:
            check_writable(one.folder, problems)
        for picture in wanted:
            with problems.gathered():
                read_picture(picture)
        targets += [Target(picture, files[picture], one.wording) for picture in wanted]
    return Plan(tuple(targets), left_alone)


def read_picture(file: Path) -> Image.Image:
    """Return a picture as it is seen in training: upright, RGB.

    Raises:
        UserError: when the file may not be read, or is no picture.
    """
    try:
        return open_upright(file.read_bytes())
    except UnreadablePictureError as error:
        raise UserError(
            Problem(f"cannot be read as a picture: {error}", where=str(file), do="Replace or remove it")
        ) from error
    except OSError as error:
        raise UserError(
            Problem(f"cannot be read: {error.strerror}", where=str(file), do="Give its reader the right to")
        ) from error


def _sources(source: Path, wording: Wording, extension: str | None, problems: Problems) -> list[_Source]:
    if source.is_dir():
        found = [_Source(source, extension or _FOLDER_EXTENSION, wording, str(source))]
        if wording.names_trigger:
            problems.add(
                f"{TRIGGER} stands for a concept's class_tokens, and a folder has none",
                where="--prefix, --suffix",
                do="Write the words themselves, or caption a data.toml",
            )
    elif source.is_file() and source.suffix.lower() in PICTURE_SUFFIXES:
        problems.add("is a picture", where=str(source), allowed="its folder, or a data.toml")
        found = []
    elif source.is_file():
        found = _concepts(source, wording, extension, problems)
    else:
        problems.add("is not there", where=str(source), allowed="a folder of pictures, or a data.toml")
        found = []
    for ending in sorted({one.extension for one in found if one.extension.lower() in PICTURE_SUFFIXES}):
        problems.add(
            f"captions in {ending} files would take the place of pictures",
            where=", ".join(one.where for one in found if one.extension == ending),
            allowed="for instance .txt",
        )
    return [one for one in found if one.extension.lower() not in PICTURE_SUFFIXES]


def _concepts(file: Path, wording: Wording, extension: str | None, problems: Problems) -> list[_Source]:
    if extension is not None:
        problems.add(
            f"{extension} is asked for, and {file} says itself what its caption files end in",
            where="--extension",
            do="Leave the flag out, or set caption_extension in the file",
        )
    concepts: list[ConceptSpec] = []
    with problems.gathered():
        concepts = [concept for dataset in read_data_toml(file, problems) for concept in dataset.concepts]
    to_caption = [concept for concept in concepts if not concept.is_reg]
    if concepts and not to_caption:
        problems.add("has only regularization pictures, which are not captioned", where=str(file))
    return list(_each_once(to_caption, wording, problems))


def _each_once(concepts: Sequence[ConceptSpec], wording: Wording, problems: Problems) -> Iterator[_Source]:
    """A folder may stand in several datasets, to be trained at several sizes; its captions are written once."""
    seen: dict[tuple[Path, str], _Source] = {}
    for concept in concepts:
        if wording.names_trigger and not concept.class_tokens:
            problems.add(
                f"no class_tokens for {TRIGGER} in --prefix or --suffix",
                where=concept.where,
                do=f"Add class_tokens, or leave {TRIGGER} out",
            )
        one = _Source(
            concept.image_dir, concept.caption_extension, wording.with_trigger(concept.class_tokens), concept.where
        )
        known = seen.setdefault((one.folder.resolve(), one.extension), one)
        if known is one:
            yield one
        elif known.wording != one.wording:
            problems.add(
                f"'{one.folder}' stands here with other class_tokens than in {known.where}, and has one caption file a "
                "picture",
                where=one.where,
                do=f"Give both the same class_tokens, or leave {TRIGGER} out",
            )

"""Concepts of a data.toml: listed, added, removed, with every comment of the file kept."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import AoT, Comment, Table, Whitespace

from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.config.tables import TomlFile
from fluxbooth.dataset.pictures import PICTURE_SUFFIXES, picture_files
from fluxbooth.errors import Problem, Problems, UserError, did_you_mean
from fluxbooth.host.files import write_text
from fluxbooth.host.folders import check_writable

_BYTE_ORDER_MARK = "\ufeff"
_MARK = "fluxbooth: the table that is edited"
_NEW_FILE = """\
# What the LoRA is trained on, in the words of kohya's sd-scripts ("data.toml"): one [[datasets.subsets]] a concept.
# A key may stand in a subset, in its dataset or in [general]; the innermost one counts.

[general]
caption_extension = ".txt"   # ending of a caption's file beside its picture: 1.png, 1.txt; without one, class_tokens

[[datasets]]
resolution = 1024            # the area that pictures are scaled to, 1024 x 1024 pixels
enable_bucket = true         # true: keep each picture's shape; false: cut everything to a square
max_bucket_reso = 1536       # longest side in pixels; at the default of 1024 a 16:9 picture would lose half its pixels

    [[datasets.subsets]]
"""


@dataclass(frozen=True)
class _Subset:
    """One `[[datasets.subsets]]` as it stands in the file."""

    dataset: int
    number: int
    image_dir: str
    class_tokens: str

    def __str__(self) -> str:
        return f"{self.class_tokens} ({self.image_dir})"


def concept_lines(data_file: Path) -> list[str]:
    """Return a line on each concept: class tokens, folder, number of pictures, repeats, whether it is regularization.

    Raises:
        UserError: what is wrong with the file, all at once.
    """
    problems = Problems()
    datasets = read_data_toml(data_file, problems)
    problems.raise_if_any()
    rows = [
        (
            concept.class_tokens or "(no class_tokens)",
            str(concept.image_dir),
            f"{number} picture{'s' if number != 1 else ''}",
            f"num_repeats = {concept.num_repeats or 'auto'}",
            f"is_reg = {str(concept.is_reg).lower()}",
        )
        for dataset in datasets
        for concept in dataset.concepts
        for number in [len(picture_files(concept.image_dir))]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def add_concept(
    data_file: Path, folder: str, class_noun: str, token: str | None = None, repeats: int = 1, is_reg: bool = False
) -> str:
    """Append a concept to the file's last dataset, or write a new file with it; return its class tokens.

    Args:
        data_file: the data.toml.
        folder: where the pictures are, from the working directory, or from the file where that has none.
        class_noun: the plain noun, "toy".
        token: the made-up word; None for the folder's name in lower case, of which letters and digits are kept.
            Regularization pictures show the plain noun, so None gives them no word.
        repeats: times an epoch shows each picture.
        is_reg: pictures of others of the kind, which hold the plain noun's meaning.

    Raises:
        UserError: for a word that is empty, a folder that is missing, empty or in the dataset already, class tokens
            that another concept has, and a file that is wrong before or after the edit, which then stays as it was.
    """
    problems = Problems()
    class_tokens = _class_tokens(folder, class_noun, token, is_reg, problems)
    place = _folder(folder, data_file)
    if place is None:
        problems.add("no such folder", where=folder, allowed=f"one below {Path.cwd()} or {data_file.parent}")
    elif not picture_files(place):
        problems.add("holds no picture", where=folder, allowed=f"files that end in {', '.join(PICTURE_SUFFIXES)}")
    text = None
    if data_file.exists():
        with problems.gathered():
            read_data_toml(data_file, problems)
            text = _text_of(data_file)
            _check_new(_subsets(tomlkit.parse(text)), data_file, folder, class_tokens, problems)
    problems.raise_if_any()
    values = {"image_dir": folder, "class_tokens": class_tokens, "num_repeats": repeats, "is_reg": is_reg}
    edited = (
        _with_subset(text, values)
        if text is not None
        else _NEW_FILE + "".join(f"    {key} = {tomlkit.item(value).as_string()}\n" for key, value in values.items())
    )
    _write_checked(data_file, edited)
    return class_tokens


def remove_concept(data_file: Path, name: str) -> str:
    """Take a concept's table out of every dataset, leave its pictures alone; return which it was.

    Args:
        data_file: the data.toml.
        name: the concept's folder or its class tokens.

    Raises:
        UserError: when there is no such concept, when a dataset would be left without one, and when the file would be
            wrong afterwards; it then stays as it was.
    """
    TomlFile(data_file)  # says what is wrong with a file that is missing or not TOML, with the line
    text = _text_of(data_file)
    subsets = _subsets(tomlkit.parse(text))
    folder = _folder(name, data_file)
    meant = [
        subset
        for subset in subsets
        if name in (subset.image_dir, subset.class_tokens)
        or (folder is not None and _is_same(folder, _folder(subset.image_dir, data_file)))
    ]
    if not meant:
        known = list(dict.fromkeys(str(subset) for subset in subsets))
        names = [word for subset in subsets for word in (subset.class_tokens, subset.image_dir)]
        raise UserError(
            Problem(
                f"no concept '{name}'",
                where=str(data_file),
                allowed=f"{', '.join(known) or 'none is there'}: the class tokens or the folder",
                do=did_you_mean(name, names),
            )
        )
    if any(all(subset in meant for subset in subsets if subset.dataset == one.dataset) for one in meant):
        raise UserError(
            Problem(
                f"'{meant[0]}' is the last concept of its [[datasets]]",
                where=str(data_file),
                do="Add another with `fluxbooth concept add` first, or delete the file",
            )
        )
    for subset in sorted(meant, key=lambda subset: (subset.dataset, subset.number), reverse=True):
        text = _without_subset(text, subset)
    _write_checked(data_file, text)
    return str(meant[0])


def _class_tokens(folder: str, noun: str, token: str | None, is_reg: bool, problems: Problems) -> str:
    word = token
    if word is None:
        word = "" if is_reg else "".join(letter for letter in Path(folder).name.lower() if letter.isalnum())
    if not noun.strip():
        problems.add("the noun is empty", where="--class-noun", allowed="the plain noun for what it is, such as toy")
    if token is not None and not token.strip():
        problems.add("the word is empty", where="--token", allowed="a made-up word, such as tjtoy")
    elif len(word.split()) > 1:
        problems.add(f"'{word}' is several words", where="--token", allowed="one made-up word, such as tjtoy")
    elif not word and not is_reg:
        problems.add(f"the name of {folder} has no letter or digit", do="Name a made-up word with --token")
    return " ".join([*word.split(), *noun.split()])


def _check_new(subsets: list[_Subset], data_file: Path, folder: str, class_tokens: str, problems: Problems) -> None:
    place = _folder(folder, data_file)
    last = max((subset.dataset for subset in subsets), default=0)
    for subset in subsets:
        is_same = subset.image_dir == folder or _is_same(place, _folder(subset.image_dir, data_file))
        if is_same and subset.dataset == last:
            problems.add(
                f"'{subset}' has this folder already",
                where=f"{data_file}, {folder}",
                do="Change its num_repeats there, or remove it first",
            )
        elif subset.class_tokens == class_tokens and not is_same:
            problems.add(
                f"'{subset}' has the class tokens '{class_tokens}' already",
                where=str(data_file),
                do="Name another word with --token",
            )


def _folder(name: str, data_file: Path) -> Path | None:
    """The folder that `name` means in the file, as `read_data_toml` looks for it."""
    return next((folder for folder in (Path(name), data_file.parent / name) if folder.is_dir()), None)


def _is_same(folder: Path | None, other: Path | None) -> bool:
    return folder is not None and other is not None and folder.resolve() == other.resolve()


def _text_of(data_file: Path) -> str:
    text = data_file.read_bytes().decode("utf-8")  # not read_text, which would change the ends of lines
    return text.removeprefix(_BYTE_ORDER_MARK)


def _subsets(document: MutableMapping[str, Any]) -> list[_Subset]:
    """Every subset, its class tokens looked up as kohya does; what is no table is passed over."""
    found = []
    for index, dataset in enumerate(_tables(document.get("datasets"))):
        for number, subset in enumerate(_tables(dataset.get("subsets"))):
            general = document.get("general")
            levels = [table for table in (subset, dataset, general) if isinstance(table, MutableMapping)]
            tokens = next((table["class_tokens"] for table in levels if "class_tokens" in table), "")
            found.append(_Subset(index, number, str(subset.get("image_dir", "")), str(tokens).strip()))
    return found


def _tables(value: Any) -> Iterator[Any]:
    for table in value if isinstance(value, list) else []:
        yield table if isinstance(table, MutableMapping) else {}


def _with_subset(text: str, values: dict[str, Any]) -> str:
    text = text if text.endswith("\n") else text + "\n"
    document: Any = tomlkit.parse(text)
    subsets = document["datasets"][-1]["subsets"]
    if not isinstance(subsets, AoT):  # subsets = [{...}, {...}]
        line = tomlkit.inline_table()
        line.update(values)
        subsets.append(line)
        return tomlkit.dumps(document)
    table = tomlkit.table()
    for key, value in values.items():
        table.add(key, value)
    table.indent(len(subsets[-1].trivia.indent.split("\n")[-1].expandtabs(4)))
    table.comment(_MARK)
    subsets.append(table)
    before, header, behind = _parted_at_mark(tomlkit.dumps(document))
    lines_end = "\r\n" if "\r\n" in text else "\n"
    body = table.as_string()
    block = (header + body).replace("\n", lines_end)
    gap = "" if before.endswith((lines_end * 2, "\n\n")) else lines_end
    rest = behind.removeprefix(body)
    return before + gap + block + (lines_end if rest.strip() and not rest.startswith(("\n", "\r\n")) else "") + rest


def _without_subset(text: str, subset: _Subset) -> str:
    """The file without the table, and with the comments behind it, which speak of what follows."""
    document: Any = tomlkit.parse(text)
    subsets = document["datasets"][subset.dataset]["subsets"]
    if not isinstance(subsets, AoT):
        del subsets[subset.number]
        return tomlkit.dumps(document)
    table: Table = subsets[subset.number]
    trailing: list[str] = []
    for _, item in reversed(table.value.body):
        if not isinstance(item, Comment | Whitespace):
            break
        trailing.insert(0, item.as_string())
    table.comment(_MARK)
    before, _, behind = _parted_at_mark(tomlkit.dumps(document))
    rest = behind.removeprefix(table.as_string())
    comments = "".join(trailing)
    kept = comments.lstrip("\r\n") if comments.strip() else ""
    lines_end = "\r\n" if "\r\n" in text else "\n"
    return before + kept + rest if (kept + rest).strip() else before.rstrip() + lines_end


def _parted_at_mark(text: str) -> tuple[str, str, str]:
    """What stands before the marked header, the header's line without its mark, and what follows."""
    at = text.index(f"# {_MARK}")
    start = text.rindex("\n", 0, at) + 1
    end = text.index("\n", at) + 1
    return text[:start], text[start:at].rstrip() + "\n", text[end:]


def _write_checked(data_file: Path, text: str) -> None:
    """Write the file and read it again; put it back as it was where it has become wrong."""
    before = data_file.read_bytes() if data_file.exists() else None
    wrong_before = _wrong_with(data_file) if before is not None else set()
    mark = _BYTE_ORDER_MARK if before is not None and before.startswith(_BYTE_ORDER_MARK.encode()) else ""
    target = data_file.resolve()  # where it is a link, the link stays one
    problems = Problems()
    check_writable(target.parent, problems)
    problems.raise_if_any()
    write_text(target, mark + text)
    wrong = _wrong_with(data_file) - wrong_before
    if not wrong:
        return
    if before is None:
        target.unlink()
    else:
        write_text(target, before.decode("utf-8"))
    raise UserError(
        Problem(
            f"the file would be wrong afterwards, and stays as it was: {'; '.join(sorted(wrong))}", where=str(data_file)
        )
    )


def _wrong_with(data_file: Path) -> set[str]:
    """What is wrong, without the lines, which an edit moves."""
    problems = Problems()
    try:
        read_data_toml(data_file, problems)
        problems.raise_if_any()
    except UserError as error:
        return {problem.what for problem in error.problems}
    return set()

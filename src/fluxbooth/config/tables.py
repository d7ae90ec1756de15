"""TOML tables to typed values; every complaint with file, line, table, key, and what is allowed."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fluxbooth.errors import Problem, Problems, UserError, did_you_mean

TablePath = tuple[str | int, ...]
Table = TypeVar("Table", bound=BaseModel)


class StrictTable(BaseModel):
    """A table in which nothing is converted and nothing unknown is accepted: `true` is no number, "1" neither."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class TomlFile:
    """A TOML file's values, and the line on which each key stands; or a JSON file's values, without lines."""

    def __init__(self, path: Path) -> None:
        """Read `path`.

        Raises:
            UserError: when the file is missing, not UTF-8 or not TOML, with the line.
        """
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin files with a mark
            self.values: dict[str, Any] = _json_table(text) if path.suffix == ".json" else tomllib.loads(text)
        except (FileNotFoundError, IsADirectoryError) as error:
            folder = path if path.is_dir() else path.parent
            near = sorted(file.name for file in folder.glob("*.toml")) if folder.is_dir() else []
            raise UserError(
                Problem(
                    "is a folder" if path.is_dir() else "no such file",
                    where=str(path),
                    allowed=f"TOML files there: {', '.join(near)}" if near else "a TOML file",
                )
            ) from error
        except OSError as error:
            raise UserError(Problem(f"cannot be read: {error.strerror}", where=str(path))) from error
        except UnicodeDecodeError as error:
            raise UserError(
                Problem(
                    f"not UTF-8 at byte {error.start}",
                    where=str(path),
                    allowed="" if path.suffix in (".toml", ".json") else "a TOML file",
                    do="Save it as UTF-8",
                )
            ) from error
        except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
            language = "JSON" if path.suffix == ".json" else "TOML"
            raise UserError(Problem(f"not {language}: {error}", where=str(path))) from error
        self._lines = {} if path.suffix == ".json" else _lines_of_keys(text)

    def place(self, path: TablePath) -> str:
        """Say where a key stands, for a reader: file, line, table, key."""
        line = next((self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines), None)
        words = [str(self.path)] + ([f"line {line}"] if line else []) + _table_words(path)
        return ", ".join(words)


def _json_table(text: str) -> dict[str, Any]:
    values = json.loads(text, object_pairs_hook=_without_null)
    if not isinstance(values, dict):
        raise ValueError("the whole must be one object, {...}")
    return values


def _without_null(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    nothing = [key for key, value in pairs if value is None]
    if nothing:
        raise ValueError(f"{', '.join(nothing)} is null; leave the key out")
    return dict(pairs)


def checked(
    table: type[Table], values: dict[str, Any], place: Callable[[TablePath], str], problems: Problems
) -> Table | None:
    """Return `values` as a `table`, with every complaint added to `problems`.

    What is complained about is left out of the result, so that the caller can go on looking for further problems;
    None when nothing is left to look at.
    """
    try:
        return table.model_validate(values)
    except ValidationError as error:
        paths = [found["loc"] for found in error.errors()]
        for found in error.errors():
            _add(problems, table, found, place)
    try:
        return table.model_validate(_without(values, paths))
    except ValidationError:
        return None


def _add(problems: Problems, table: type[BaseModel], found: Any, place: Callable[[TablePath], str]) -> None:
    key = next((str(part) for part in reversed(found["loc"]) if isinstance(part, str)), "")
    # pydantic's sentences begin with "Input should be", our own checks' with "Value error,".
    rule = re.sub(r"^(Input should be|Value error,)\s*", "", found["msg"])
    where = place(found["loc"])
    # A check of a whole table begins with the key that is to be changed.
    about, colon, complaint = rule.partition(": ")
    if not found["loc"] and colon and about in table.model_fields:
        rule, where = complaint, place((about,))
    match found["type"]:
        case "model_type":
            problems.add(f"{key} is {as_toml(found['input'])}", where=where, allowed="a table")
        case "list_type" if isinstance(found["input"], dict):
            problems.add(f"{key} is one table", where=where, allowed="a list of tables, each headed by [[...]]")
        case "extra_forbidden":
            known = _fields_at(table, found["loc"][:-1])
            problems.add(
                f"unknown key '{key}'", where=where, allowed=", ".join(sorted(known)), do=did_you_mean(key, known)
            )
        case "missing":
            problems.add(f"'{key}' is missing", where=where, do=f"Add {key} = ...")
        case "string_pattern_mismatch" if len(found["loc"]) == 1:
            problems.add(f"{key} is {as_toml(found['input'])}", where=where, allowed=_described(table, key) or rule)
        case _ if not key:
            problems.add(rule, where=where)
        case _:
            problems.add(f"{key} is {as_toml(found['input'])}", where=where, allowed=rule)


def _described(table: type[BaseModel], key: str) -> str:
    """What the key's docstring says in its last part."""
    return (table.model_fields[key].description or "").split("; ")[-1]


def as_toml(value: Any) -> str:
    """Spell a value as TOML does: true, "text", [1, 2]."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _without(values: dict[str, Any], paths: Iterable[TablePath]) -> dict[str, Any]:
    """A copy of nested tables less what `paths` lead to; a missing key takes the table it is missing from with it."""
    copied = copy.deepcopy(values)
    emptied: list[Any] = []
    for path in paths:
        parents: list[Any] = [copied]
        for part in path:
            if isinstance(parents[-1], dict) and part not in parents[-1]:
                emptied.append(parents[-1])
                break
            parents.append(parents[-1][part])
        else:
            if len(parents) > 1 and isinstance(parents[-2], dict):
                del parents[-2][path[-1]]
    return dict(_less(copied, emptied))


def _less(value: Any, left_out: list[Any]) -> Any:
    if isinstance(value, dict):
        return {key: _less(entry, left_out) for key, entry in value.items()}
    if isinstance(value, list):
        return [_less(entry, left_out) for entry in value if not any(entry is other for other in left_out)]
    return value


def _fields_at(table: type[BaseModel], path: TablePath) -> Iterable[str]:
    """The keys of the table that `path` leads to inside `table`."""
    for part in path:
        if isinstance(part, str):
            annotation = table.model_fields[part].annotation
            inner = [kind for kind in (annotation, *getattr(annotation, "__args__", ())) if isinstance(kind, type)]
            table = next(kind for kind in inner if issubclass(kind, BaseModel))
    return table.model_fields


def _table_words(path: TablePath) -> list[str]:
    numbered = {name: index + 1 for name, index in pairwise(path) if isinstance(index, int)}
    words = [f"{str(name).removesuffix('s')} {number}" for name, number in numbered.items()]
    keys = [str(part) for part in path if isinstance(part, str) and part not in numbered]
    return words + keys


_TABLE_LINE = re.compile(r"\s*(\[{1,2})\s*([\w.\-]+)\s*\]{1,2}")
_KEY_LINE = re.compile(r"\s*([\w\-]+)\s*=")


def _lines_of_keys(text: str) -> dict[TablePath, int]:
    """The line of each `key =` and of each table's header, by the path that leads there."""
    lines: dict[TablePath, int] = {}
    counts: dict[TablePath, int] = {}
    table: TablePath = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE_LINE.match(line):
            table = ()
            names = header[2].split(".")
            for depth, name in enumerate(names):
                table = (*table, name)
                if depth == len(names) - 1 and header[1] == "[[":
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:
                    table = (*table, counts[table])
            lines[table] = number
        elif key := _KEY_LINE.match(line):
            lines[(*table, key[1])] = number
    return lines

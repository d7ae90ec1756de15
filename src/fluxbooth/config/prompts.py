"""Prompts of the sample pictures: kohya's prompt files, and lists of the same lines in a recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fluxbooth.config.tables import StrictTable, TablePath, TomlFile, as_toml, checked
from fluxbooth.errors import Problem, Problems, UserError

TRIGGER = "[trigger]"
"""Stands for a concept's class tokens."""
_FILE_ENDINGS = (".txt", ".toml", ".json")
_Side = Annotated[int, Field(ge=16, le=16384, multiple_of=16)]


class SamplePrompt(StrictTable):
    """One prompt, under kohya's names; what it leaves open is the recipe's."""

    prompt: Annotated[str, Field(min_length=1)]
    width: _Side | None = None
    """Pixels."""
    height: _Side | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    sample_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Network passes."""
    guidance_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """What the distilled network is told."""


@dataclass(frozen=True)
class _Option:
    """What kohya's `--x VALUE` behind a prompt means."""

    field: str
    number: Callable[[str], object] | None = None
    """Reads the value; None where it is text."""


# kohya, library/train_util.line_to_prompt_dict.
_OPTIONS = {
    "w": _Option("width", int),
    "h": _Option("height", int),
    "d": _Option("seed", int),
    "s": _Option("sample_steps", int),
    "g": _Option("guidance_scale", float),
    "l": _Option("scale", float),
    "n": _Option("negative_prompt"),
    "ss": _Option("sample_sampler"),
    "fs": _Option("flow_shift", float),
}
_WITHOUT_EFFECT = {
    "scale": "FLUX.1-dev has no classifier-free guidance, --g is its own",
    "negative_prompt": "FLUX.1-dev has no negative prompt",
    "sample_sampler": "pictures are drawn with dpmpp_2m, as the bundled ComfyUI workflow does",
    "flow_shift": "the shift follows from the picture's size",
}


@dataclass(frozen=True)
class _Written:
    """A prompt as it is written, and where."""

    values: Mapping[str, object]
    where: str
    place: Callable[[TablePath], str]


def read_prompts(source: str | Sequence[str], problems: Problems) -> tuple[list[SamplePrompt], list[str]]:
    """Read the prompts of sample pictures; return them and a line on each option that has no effect.

    Args:
        source: a file (kohya's text file, TOML or JSON); or lines as such a text file has them, for instance
            "tjtoy toy on a beach --w 768 --d 7". A list of nothing but a file's name is that file.
        problems: gets every option that cannot be, with its line.

    Raises:
        UserError: when the file is missing or cannot be read.
    """
    if isinstance(source, str) or (len(source) == 1 and _names_a_file(source[0])):
        path = Path(source if isinstance(source, str) else source[0])
        written = _of_file(path, problems)
        if not written and not problems.found:
            problems.add("no prompt in it", where=str(path), do="Write one prompt a line")
    else:
        written = [
            found
            for number, line in enumerate(source, start=1)
            for found in _of_line(line, f"sample_prompts, entry {number}", problems)
        ]
    prompts, idle = [], dict[str, list[str]]()
    for one in written:
        for name in _WITHOUT_EFFECT.keys() & one.values.keys():
            if not (name == "scale" and one.values[name] == 1):
                idle.setdefault(name, []).append(one.where)
        known = {name: value for name, value in one.values.items() if name not in _WITHOUT_EFFECT}
        if prompt := checked(SamplePrompt, known, one.place, problems):
            prompts.append(prompt)
    lines = [
        f"{_shown(name)} has no effect ({_first(places)}): {why}"
        for name, why in _WITHOUT_EFFECT.items()
        if (places := idle.get(name))
    ]
    return prompts, lines


def _shown(field: str) -> str:
    return next(f"--{letter} ({field})" for letter, option in _OPTIONS.items() if option.field == field)


def _first(places: Sequence[str]) -> str:
    return f"{places[0]} and {len(places) - 1} more" if len(places) > 1 else places[0]


def _names_a_file(text: str) -> bool:
    return text.endswith(_FILE_ENDINGS) or ("\n" not in text and len(text) < 256 and Path(text).exists())


def _of_file(path: Path, problems: Problems) -> list[_Written]:
    if path.is_dir():
        raise UserError(
            Problem("is a folder", where=f"sample_prompts, {path}", allowed="a file with one prompt a line, or prompts")
        )
    if path.suffix == ".toml":
        file = TomlFile(path)
        return _of_tables(file.values, path, problems)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            Problem(
                f"no prompts can be read: {error.strerror}",
                where=f"sample_prompts, {path}",
                allowed="a file with one prompt a line, or a list of prompts",
            )
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(Problem(f"not UTF-8 at byte {error.start}", where=str(path), do="Save it as UTF-8")) from error
    if path.suffix == ".json":
        try:
            return _of_tables(json.loads(text), path, problems)
        except (ValueError, RecursionError) as error:
            raise UserError(Problem(f"not JSON: {error}", where=str(path))) from error
    return [
        found
        for number, line in enumerate(text.splitlines(), start=1)
        for found in _of_line(line, f"{path}, line {number}", problems)
    ]


def _of_line(line: str, where: str, problems: Problems) -> Iterable[_Written]:
    """The prompt of a line, or nothing for a comment, an empty line and one that cannot be read."""
    if not line.strip() or line.lstrip().startswith("#"):
        return ()
    prompt, *options = re.split(r"(?:^|\s)--(?=[a-zA-Z])", line.strip())
    values: dict[str, object] = {"prompt": prompt.strip()}
    letters: dict[str, str] = {}
    known = True
    for text in options:
        letter, _, value = text.strip().partition(" ")
        option = _OPTIONS.get(letter.lower())
        if option is None:
            allowed = ", ".join(f"--{one} ({other.field})" for one, other in _OPTIONS.items())
            problems.add(f"unknown option '--{letter}'", where=where, allowed=allowed)
            known = False
            continue
        letters[option.field] = letter
        try:
            values[option.field] = option.number(value) if option.number else value.strip()
        except ValueError:
            kind = "a whole number" if option.number is int else "a number"
            problems.add(f"--{letter} is {as_toml(value.strip())}", where=where, allowed=kind)
            known = False
    if not known:
        return ()

    def place(path: TablePath) -> str:
        letter = letters.get(str(path[0])) if path else None
        return f"{where}, --{letter}" if letter else where

    return (_Written(values, where, place),)


def _of_tables(values: Any, path: Path, problems: Problems) -> list[_Written]:
    """Prompts of TOML or JSON: a list of tables or lines, alone or as `prompts`; or kohya's [prompt] with subsets."""
    common: dict[str, Any] = {}
    if isinstance(values, dict) and isinstance(values.get("prompt"), dict):
        common = {name: value for name, value in values["prompt"].items() if name != "subset"}
        values = values["prompt"].get("subset", [{}])
    elif isinstance(values, dict):
        values = values.get("prompts")
    if not isinstance(values, list):
        problems.add(
            "no list of prompts", where=str(path), allowed="prompts = [...], or kohya's [prompt] and [[prompt.subset]]"
        )
        return []
    found: list[_Written] = []
    for number, entry in enumerate(values, start=1):
        where = f"{path}, prompt {number}"
        if isinstance(entry, str):
            found += _of_line(entry, where, problems)
        elif isinstance(entry, dict):
            found.append(_Written({**common, **entry}, where, _place_of(where)))
        else:
            problems.add(f"a prompt is {as_toml(entry)}", where=where, allowed="text, or a table")
    return found


def _place_of(where: str) -> Callable[[TablePath], str]:
    return lambda path: ", ".join((where, *map(str, path)))

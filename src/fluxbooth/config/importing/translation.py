"""Settings on their way from another trainer's file to data.toml and a recipe; every one is accounted for."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError

from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.config.recipe import Recipe
from fluxbooth.config.tables import as_toml
from fluxbooth.errors import Problems, UserError

_SECRET = re.compile(r"(^|[._])(api_key|password|secret|token|hf_token)$|huggingface_token")
_WHOLE_NUMBER = re.compile(r"[+-]?\d+")
_NAME = re.compile(r"[^\w.\-]+")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of nested tables with its path, "train.lr"; a list of plain values is one setting."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{number}]")
    else:
        yield path, value


class Translation:
    """What was found, what became of each setting, and what is to be written."""

    def __init__(self, found: Iterable[tuple[str, Any]]) -> None:
        """Take the settings of a file, by path."""
        self._values = dict(found)
        self._open = dict.fromkeys(self._values)
        self.recipe: dict[str, Any] = {}
        """Fields of the recipe, each of them accepted by it."""
        self.general: dict[str, Any] = {}
        """Keys of [general]."""
        self.datasets: list[dict[str, Any]] = []
        """[[datasets]], each with its list of `subsets`; empty where no data.toml is to be written."""
        self.notes: list[str] = []
        """What the user should know beyond the settings."""
        self.changed: list[str] = []
        """A line on each setting that has another name or value now."""
        self.kept: list[str] = []
        """Settings that are what they were."""
        self.needless: list[str] = []
        """A line on each setting that has no effect here."""
        self.off: list[str] = []
        """Settings that ask for nothing."""
        self.missing: list[str] = []
        """A line on each setting without equivalent."""

    def has(self, key: str) -> bool:
        """Whether the file has `key`, with a value that asks for something."""
        return not is_off(self._values.get(key))

    def value(self, key: str, default: Any = None) -> Any:
        """Return what the file says, or `default`."""
        return self._values.get(key, default)

    def number(self, key: str) -> float:
        """Return a number, 0 where the file has none."""
        value = as_number(self._values.get(key))
        return float(value) if isinstance(value, int | float) else 0.0

    def open_keys(self, prefix: str = "") -> list[str]:
        """Return the settings that nothing has been said about, in the file's order."""
        return [key for key in self._open if key.startswith(prefix)]

    def to_recipe(self, key: str, field: str, *candidates: Any, why: str = "") -> bool:
        """Write the first value that the recipe takes into `field`; without candidates, what the file says.

        Returns:
            False when it takes none; `key` is then one without equivalent.
        """
        if key in self._values and key not in self._open:
            return False
        reason = "fluxbooth has no such setting"
        for candidate in candidates or (self.value(key),):
            for value in _readings(candidate):
                if not (refused := refusal(field, value)):
                    self.recipe[field] = value
                    self._translated(key, field, value, why)
                    return True
                reason = refused
        self.without(key, reason)
        return False

    def to_data(
        self, key: str, name: str, table: dict[str, Any], *candidates: Any, why: str = "", resolution: Any = 1024
    ) -> bool:
        """Write the first value that data.toml takes into `table` under `name`; without candidates, what the file says.

        Args:
            resolution: of the dataset, in pixels, which limits what other keys may be.

        Returns:
            False when it takes none; `key` is then one without equivalent.
        """
        reason = ""
        for candidate in candidates or (self.value(key),):
            for value in _readings(candidate):
                if not (refused := _refused_by_data_toml(name, value, resolution)):
                    table[name] = value
                    self._translated(key, name, value, why)
                    return True
                reason = reason or refused
        self.without(key, reason)
        return False

    def parted(self, key: str, parts: Mapping[str, Any]) -> None:
        """Account for the parts of a setting one by one instead of for the whole."""
        self._open.pop(key, None)
        self._values.update(parts)
        self._open.update(dict.fromkeys(parts))

    def translated(self, key: str, text: str) -> None:
        """Say what became of a setting."""
        self._open.pop(key, None)
        self.changed.append(f"{self._spelt(key)} -> {text}")

    def not_needed(self, key: str, why: str) -> None:
        """Say why a setting has no effect here."""
        if key in self._open:
            del self._open[key]
            self.needless.append(f"{self._spelt(key)} ({why})")

    def without(self, key: str, why: str) -> None:
        """Say that a setting has no equivalent; one that asks for nothing needs none."""
        if key not in self._open:
            return
        del self._open[key]
        if is_off(self.value(key)):
            self.off.append(key)
        else:
            self.missing.append(f"{self._spelt(key)} ({why})")

    def finish(self) -> None:
        """Account for every setting that nothing has been said about."""
        for key in self.open_keys():
            self.without(key, "fluxbooth does not know it")

    def lines(self) -> list[str]:
        """Return what is to be told, whole."""
        return [
            *(f"translated: {line}" for line in self.changed),
            *([f"taken as they are: {', '.join(self.kept)}"] if self.kept else []),
            *(f"not needed: {line}" for line in self.needless),
            *([f"ask for nothing (empty, off or 0): {', '.join(self.off)}"] if self.off else []),
            *(f"no equivalent: {line}" for line in self.missing),
            *(f"note: {line}" for line in self.notes),
        ]

    def _translated(self, key: str, name: str, value: Any, why: str) -> None:
        if key in self._values and key not in self._open:
            return
        self._open.pop(key, None)
        was = self._values.get(key)
        if key == name and was == value and not why:
            self.kept.append(key)
        else:
            self.changed.append(f"{self._spelt(key)} -> {name} = {as_toml(value)}{f' ({why})' if why else ''}")

    def _spelt(self, key: str) -> str:
        if key not in self._values:
            return f"{key}, which is not given"
        return f"{key} = {'(not shown)' if _SECRET.search(key) else as_toml(self._values[key])}"


def is_off(value: Any) -> bool:
    """Whether a value asks for nothing: empty, false or 0, also as text."""
    return not value or value == "0"


def as_number(value: Any) -> Any:
    """Return the number that a text spells, for YAML reads 1e-4 as text; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return int(value) if _WHOLE_NUMBER.fullmatch(value.strip()) else float(value)
    except ValueError:
        return value


def as_name(text: str) -> str:
    """Return a text as a name for a file: what is no letter, digit, '_', '-' or '.' becomes '_'."""
    return _NAME.sub("_", text.strip()).strip("._-") or "imported"


def refusal(field: str, value: Any) -> str:
    """Return why the recipe takes no such field or value, or an empty text."""
    if field not in Recipe.model_fields:
        return "fluxbooth has no such setting"
    try:
        Recipe.model_validate({"max_train_steps": 1, field: value} if field != "max_train_epochs" else {field: value})
    except ValidationError as error:
        said = [found for found in error.errors() if found["loc"]] or error.errors()
        if any(found["loc"] and found["loc"][0] == field for found in said):
            return f"allowed: {re.sub(r'^(Input should be|Value error,) *', '', said[0]['msg'])}"
    return ""


def data_toml_text(general: Mapping[str, Any], datasets: Iterable[Mapping[str, Any]], comments: Iterable[str]) -> str:
    """Return a data.toml, with comments above it."""
    document = tomlkit.document()
    for comment in comments:
        document.add(tomlkit.comment(comment))
    document.add(tomlkit.nl())
    if general:
        document.add("general", tomlkit.item(dict(general)))
    document.add("datasets", tomlkit.item([dict(dataset) for dataset in datasets]))
    return tomlkit.dumps(document)


def problems_of_data(general: Mapping[str, Any], datasets: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with tables of a data.toml, whether its folders are on this machine or not."""
    with tempfile.TemporaryDirectory() as folder:
        stand_ins: dict[str, str] = {}
        tables = []
        for dataset in datasets:
            subsets = []
            for subset in dataset["subsets"]:
                stand_in = Path(folder) / str(len(stand_ins))
                name = stand_ins.setdefault(subset["image_dir"], str(stand_in))
                Path(name).mkdir(exist_ok=True)
                subsets.append({**subset, "image_dir": name})
            tables.append({**dataset, "subsets": subsets})
        file = Path(folder) / "data.toml"
        file.write_text(data_toml_text(general, tables, ()), encoding="utf-8")
        problems = Problems()
        try:
            read_data_toml(file, problems)
            problems.raise_if_any()
        except UserError as error:
            return [
                f"{problem.what}{f'; allowed: {problem.allowed}' if problem.allowed else ''}"
                for problem in error.problems
            ]
    return []


def _readings(value: Any) -> Iterator[Any]:
    """What a value may mean: itself, the number that it spells, the same as a whole number."""
    yield value
    number = as_number(value)
    if number is not value:
        yield number
    if isinstance(number, float) and number.is_integer():
        yield int(number)


def _refused_by_data_toml(name: str, value: Any, resolution: Any) -> str:
    subset = {"image_dir": "pictures"}
    dataset = {"resolution": resolution, "enable_bucket": True, "max_bucket_reso": 16384, "min_bucket_reso": 16}
    (subset if name in ("is_reg", "alpha_mask", "image_dir") else dataset)[name] = value
    try:
        json.dumps(value)
        return "; ".join(problems_of_data({}, [{**dataset, "subsets": [subset]}]))
    except (TypeError, ValueError) as error:
        return str(error)

"""A settings file of another trainer, to a data.toml and a recipe in a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import toml
import yaml

from fluxbooth.config.importing.ai_toolkit import is_ai_toolkit, translate_ai_toolkit
from fluxbooth.config.importing.kohya_gui import is_kohya_gui, translate_kohya_gui
from fluxbooth.config.importing.translation import Translation, data_toml_text, problems_of_data
from fluxbooth.config.recipe import Recipe, resolve_recipe
from fluxbooth.config.tables import checked
from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.host.files import write_text
from fluxbooth.host.folders import check_writable

DATA_NAME, RECIPE_NAME = "data.toml", "recipe.toml"


def import_settings(file: Path, out: Path | None = None) -> list[str]:
    """Write `out`/data.toml and `out`/recipe.toml from a file of ai-toolkit or kohya_ss; return what became of it.

    Args:
        file: ai-toolkit's YAML or JSON, or the JSON that kohya_ss saves.
        out: a folder; None for imported/ and the file's name without its ending.

    Raises:
        UserError: for a file that cannot be read, with the line, or is of neither kind; for files that are there
            already; and where what was found makes no recipe.
    """
    folder = out or Path("imported") / file.stem
    problems = Problems()
    for name in (DATA_NAME, RECIPE_NAME):
        if (folder / name).exists():
            problems.add(
                "is there already", where=str(folder / name), do="Name another folder with --out, or delete it"
            )
    check_writable(folder, problems)
    values: Mapping[str, Any] = {}
    with problems.gathered():
        values = _read(file)
    problems.raise_if_any()
    translation = _translate(values, file)
    _check(translation, file)
    return [*translation.lines(), *_write(translation, file, folder)]


def _read(file: Path) -> Mapping[str, Any]:
    if file.suffix.lower() == ".toml" and file.is_file():
        raise _of_neither(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
        values = json.loads(text) if file.suffix.lower() == ".json" else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise UserError(Problem("no such file", where=str(file))) from error
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", where=str(file))) from error
    except UnicodeDecodeError as error:
        raise UserError(Problem(f"not UTF-8 at byte {error.start}", where=str(file), do="Save it as UTF-8")) from error
    except json.JSONDecodeError as error:
        raise UserError(Problem(f"not JSON: {error.msg}", where=f"{file}, line {error.lineno}")) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(Problem(f"not YAML: {error.problem or error.context}", where=f"{file}{line}")) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(Problem(f"cannot be read: {error}", where=str(file))) from error
    return values if isinstance(values, Mapping) else {}


def _translate(values: Mapping[str, Any], file: Path) -> Translation:
    if is_ai_toolkit(values):
        return translate_ai_toolkit(values, file)
    if is_kohya_gui(values):
        return translate_kohya_gui(values)
    raise _of_neither(file)


def _of_neither(file: Path) -> UserError:
    return UserError(
        Problem(
            "is neither ai-toolkit's nor kohya_ss's",
            where=str(file),
            allowed="a YAML or JSON file with config.process, or the JSON that kohya_ss saves",
            do="A TOML file of kohya's sd-scripts needs no import: it is a --recipe or a --data",
        )
    )


def _check(translation: Translation, file: Path) -> None:
    problems = Problems()
    checked(
        Recipe, translation.recipe, lambda path: f"{file}, the recipe made of it, {'.'.join(map(str, path))}", problems
    )
    for what in problems_of_data(translation.general, translation.datasets) if translation.datasets else ():
        problems.add(what, where=f"{file}, the data.toml made of it")
    problems.raise_if_any()


def _write(translation: Translation, file: Path, folder: Path) -> list[str]:
    heading = [f"From {file.name}, by `fluxbooth import`.", *(f"No equivalent: {line}" for line in translation.missing)]
    recipe = {key: list(value) if isinstance(value, tuple) else value for key, value in translation.recipe.items()}
    texts = {RECIPE_NAME: "".join(f"# {line}\n" for line in heading) + "\n" + toml.dumps(recipe)}
    if translation.datasets:
        texts[DATA_NAME] = data_toml_text(translation.general, translation.datasets, heading[:1])
    for name, text in texts.items():
        write_text(folder / name, text)
    try:
        resolve_recipe(str(folder / RECIPE_NAME), {})
    except UserError:
        for name in texts:
            (folder / name).unlink()
        raise
    lines = [f"wrote {folder / name}" for name in texts]
    folders = dict.fromkeys(subset["image_dir"] for dataset in translation.datasets for subset in dataset["subsets"])
    gone = [name for name in folders if not Path(name).is_dir() and not (folder / name).is_dir()]
    if gone:
        lines.append(f"note: not on this machine: {', '.join(gone)}; change image_dir in {folder / DATA_NAME}")
    data = f" --data {folder / DATA_NAME}" if translation.datasets else ""
    return [*lines, f"next: fluxbooth check{data} --recipe {folder / RECIPE_NAME}"]

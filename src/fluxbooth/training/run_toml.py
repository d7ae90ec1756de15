"""The text of runs/NAME/run.toml, from which a run can be repeated."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import peft
import toml
import torch
import transformers

from fluxbooth import __version__
from fluxbooth.config.specs import ConceptSpec, DatasetSpec
from fluxbooth.training.identity import made_of, result_settings
from fluxbooth.training.prepare import Prepared

_log = logging.getLogger("fluxbooth")
_MOST_PICTURES = 5
"""That differ and are named."""


def run_toml(prepared: Prepared) -> str:
    """Every value of recipe and data.toml and where it came from, the versions, and digests of data and weights."""
    recipe = {name: value for name, value in prepared.recipe.model_dump().items() if value is not None}
    # As it was held: "auto" would be something else on a machine with another memory, and give other numbers.
    recipe["base_weights"] = prepared.memory.form
    recipe["dataset_config"] = str(prepared.data_file)
    held_out = prepared.held_out
    datasets = {"datasets": [_dataset(one) for one in prepared.datasets]}
    written = toml.dumps(
        {
            "recipe": recipe,
            "origins": dict(prepared.origins),
            "run": {"model": prepared.weights.name, "steps": prepared.steps, "device": prepared.device.type},
            "pictures": {item.shown_name: item.digest for item in prepared.items},
            **({"held_out": {item.shown_name: item.digest for item in held_out}} if held_out else {}),
            "hashes": made_of(prepared),
            "versions": _versions(),
        }
    )
    return f"{written}\n{toml.dumps(datasets)}"  # in one piece the library would write these first


def say_what_differs(prepared: Prepared, recipe: str) -> None:
    """Log a warning for all in which a run differs from that whose run.toml is its recipe; nothing for other recipes.

    Args:
        recipe: how that file was named.
    """
    for line in _differences(prepared) if prepared.recorded else ():
        _log.warning("warning: not the same as in %s: %s", recipe, line)


def _differences(prepared: Prepared) -> Iterator[str]:
    before = prepared.recorded
    was, model = before["recipe"], before.get("run", {}).get("model")
    for name, value in result_settings(prepared).items():
        now = list(value) if isinstance(value, tuple) else value
        if now != was.get(name):
            yield f"{name} is {now}, and was {was.get(name)}"
    if model not in (None, prepared.weights.name):
        yield f"the model is {prepared.weights.name}, and was {model}"
    pictures = {item.shown_name: item.digest for item in (*prepared.items, *prepared.held_out)}
    then = {**before.get("pictures", {}), **before.get("held_out", {})}
    if others := sorted(name for name in pictures.keys() | then.keys() if pictures.get(name) != then.get(name)):
        more = f" and {len(others) - _MOST_PICTURES} more" if len(others) > _MOST_PICTURES else ""
        yield f"pictures: {', '.join(others[:_MOST_PICTURES])}{more}"
    hashes = before.get("hashes", {})  # earlier versions wrote none
    now_made_of = made_of(prepared)
    if changed := [name for name in now_made_of | hashes if hashes and hashes.get(name) != now_made_of.get(name)]:
        yield f"what it is made of: {', '.join(changed)}"
    for name, version in _versions().items():
        if version != (older := before.get("versions", {}).get(name)):
            yield f"{name} is {version}, and was {older}"


def _versions() -> dict[str, str]:
    return {
        "fluxbooth": __version__,
        "torch": str(torch.__version__),  # of its own kind of str the toml package makes a list of letters
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def _dataset(dataset: DatasetSpec) -> dict[str, Any]:
    """The values of one [[datasets]], as data.toml, the recipe and the defaults give them together."""
    return {**_plain(asdict(dataset), "concepts"), "subsets": [_subset(one) for one in dataset.concepts]}


def _subset(concept: ConceptSpec) -> dict[str, Any]:
    own = _plain(asdict(concept), "where", "caption", "picture")
    changes = {**_plain(asdict(concept.caption)), **_plain(asdict(concept.picture))}
    return {"from": concept.where, **own, **changes}


def _plain(values: dict[str, Any], *without: str) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in without and value is not None
    }

"""Which captioning model is meant: one that can be downloaded, by its name, or one in a folder. Loads nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxbooth.errors import Problem, UserError, did_you_mean
from fluxbooth.host.captioners import CAPTIONER_FILES, captioner_folder

BLIP, FLORENCE2 = "blip", "florence2"
_CLASSES = {BLIP: "BlipForConditionalGeneration", FLORENCE2: "Florence2ForConditionalGeneration"}
"""What config.json calls each kind of model, and the class that a captioning model of that kind has."""

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")


@dataclass(frozen=True)
class CaptionerWeights:
    """A captioning model in a folder as transformers saves it."""

    folder: Path
    kind: str
    """"blip" or "florence2"."""


def find_captioner(name: str, models: Path) -> CaptionerWeights:
    """Find a captioning model by its name below `models`, or in the folder `name`.

    Raises:
        UserError: for weights that are not there, and for a folder that holds no captioning model.
    """
    if name not in CAPTIONER_FILES:
        return _in_folder(Path(name))
    missing = [str(models / file.path) for file in CAPTIONER_FILES[name] if not (models / file.path).is_file()]
    if missing:
        raise UserError(
            Problem(
                f"the captioning model's files are missing: {', '.join(missing)}",
                where=f"--model {name}",
                do=f"Run `fluxbooth download --captioner {name}`",
            )
        )
    return _in_folder(captioner_folder(name, models))


def _in_folder(folder: Path) -> CaptionerWeights:
    names = ", ".join(CAPTIONER_FILES)
    if not folder.is_dir():
        raise UserError(
            Problem(
                f"'{folder}' is not a captioning model",
                where="--model",
                allowed=f"{names}, or a folder with a BLIP or Florence-2 model as transformers saves it",
                do=did_you_mean(str(folder), CAPTIONER_FILES),
            )
        )
    config = _config_of(folder)
    kind = config.get("model_type")
    if kind not in _CLASSES or _CLASSES[kind] not in (config.get("architectures") or [_CLASSES[kind]]):
        raise UserError(
            Problem(
                f"holds a model of the kind '{kind}', {config.get('architectures')}",
                where=str(folder / "config.json"),
                allowed=" or ".join(f"{kind}, {name}" for kind, name in _CLASSES.items()),
                do=f"Name another folder with --model, or one of {names}",
            )
        )
    if "auto_map" in config:
        raise UserError(
            Problem(
                "the model brings code of its own, which is never run",
                where=str(folder / "config.json"),
                allowed="a model that transformers loads by itself",
                do=f"Use one of {names}, or a copy of this model that was converted for transformers",
            )
        )
    # Without a vocabulary transformers makes a tokenizer that knows no word, and says nothing of it.
    for file, there in (
        ("*.safetensors", any(folder.glob("*.safetensors"))),
        ("tokenizer.json", any((folder / name).is_file() for name in _VOCABULARIES)),
    ):
        if not there:
            raise UserError(Problem(f"no {file} in it", where=str(folder), do="Copy the model there as a whole"))
    return CaptionerWeights(folder, kind)


def _config_of(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no table of keys and values")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            Problem(
                f"cannot be read: {reason}",
                where=str(file),
                allowed="what transformers saves beside a model",
                do=f"Name another folder with --model, or one of {', '.join(CAPTIONER_FILES)}",
            )
        ) from error
    return config

"""The scoring models as files: their names in the models folder, and where they come from."""

from __future__ import annotations

from pathlib import Path

from fluxbooth.errors import Problem
from fluxbooth.host.weights import HubFile

DINO_V2_SMALL = "dinov2-small"
CLIP_LARGE = "clip-vit-large-patch14"


def scorer_folder(name: str, models: Path) -> Path:
    """Where the scoring model `name` lies below `models`; it need not be there."""
    return models / "scorers" / name


def missing_scorers(names: tuple[str, ...], models: Path) -> list[Problem]:
    """Return a problem for each of these scoring models that is not whole below `models`."""
    problems = []
    for name in names:
        lacking = [Path(file.path).name for file in SCORER_FILES[name] if not (models / file.path).is_file()]
        if lacking:
            problems.append(
                Problem(
                    f"the scoring model {name} is missing: {', '.join(lacking)}",
                    where=str(scorer_folder(name, models)),
                    do=f"Run `fluxbooth download --scorers{'' if name in DEFAULT_SCORERS else f' {name}'}`",
                )
            )
    return problems


def _files(name: str, repository: str, *files: str) -> tuple[HubFile, ...]:
    return tuple(HubFile(str(scorer_folder(name, Path()) / file), repository, file) for file in files)


_OF_TOWER = ("config.json", "preprocessor_config.json")
_OF_CLIP = (*_OF_TOWER, "tokenizer.json", "tokenizer_config.json")
# Of each repository what transformers reads and no more. Where there is no model.safetensors, pytorch_model.bin is read
# as numbers alone, never as a program.
SCORER_FILES = {
    DINO_V2_SMALL: _files(DINO_V2_SMALL, "facebook/dinov2-small", *_OF_TOWER, "model.safetensors"),
    "dino-vits16": _files("dino-vits16", "facebook/dino-vits16", *_OF_TOWER, "pytorch_model.bin"),
    CLIP_LARGE: _files(CLIP_LARGE, "openai/clip-vit-large-patch14", *_OF_CLIP, "model.safetensors"),
    "clip-vit-base-patch32": _files(
        "clip-vit-base-patch32", "openai/clip-vit-base-patch32", *_OF_CLIP, "pytorch_model.bin"
    ),
}
"""The files of each scoring model that can be downloaded, by its name."""
DINO_SCORERS = tuple(name for name in SCORER_FILES if name.startswith("dino"))
CLIP_SCORERS = tuple(name for name in SCORER_FILES if name.startswith("clip"))
DEFAULT_SCORERS = (DINO_V2_SMALL, CLIP_LARGE)
"""What `score` looks with, and `download --scorers` fetches, unless told otherwise."""

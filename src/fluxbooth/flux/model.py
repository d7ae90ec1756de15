"""From the name a user gives (`--model`) to files and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.flux.miniature import miniature_weights
from fluxbooth.flux.weight_files import header_of
from fluxbooth.host.weights import (
    FLUX_DEV,
    MINIATURE,
    REFUSAL_FILE,
    BaseWeights,
    flux_dev_weights,
    weights_in_folder,
)

_KINDS = {
    "pretrained_model_name_or_path": "the file of a transformer, or a model's folder",
    "clip_l": "the file of CLIP's text model",
    "t5xxl": "the file of T5",
    "ae": "the file of the VAE",
}


def find_weights(model: str, models: Path, parts: Mapping[str, str] | None = None) -> BaseWeights:
    """Return the files of `model`: "flux-dev", "miniature", or a folder.

    Args:
        model: what the user gave.
        models: ComfyUI's model folders.
        parts: files that win over the model's own, by kohya's argument: "pretrained_model_name_or_path" (the
            transformer; a folder stands for the whole model), "clip_l", "t5xxl", "ae".

    Raises:
        UserError: naming what is missing, and why the last download refused it where that is known; and every file that
            is no whole safetensors file.
    """
    given = {name: Path(file) for name, file in (parts or {}).items()}
    if (whole := given.get("pretrained_model_name_or_path")) and whole.is_dir():
        model = str(whole)
        del given["pretrained_model_name_or_path"]
    weights = _weights_of(model, models)
    gone = [
        Problem(f"'{file}' is not there", where=name, allowed=_KINDS[name])
        for name, file in given.items()
        if not file.is_file() and file not in vars(weights).values()  # the model's own can be fetched
    ]
    if gone:
        raise UserError(gone)
    weights = replace(
        weights,
        transformer=given.get("pretrained_model_name_or_path", weights.transformer),
        clip=given.get("clip_l", weights.clip),
        t5=given.get("t5xxl", weights.t5),
        vae=given.get("ae", weights.vae),
    )
    missing = weights.missing()
    if not missing:
        _check_files(weights)
        return weights
    refusal = models / REFUSAL_FILE
    problems = [
        Problem(
            f"base weights are missing: {', '.join(str(path) for path in missing)}",
            where=f"--model {model}",
            do="Run `fluxbooth download` (in Docker: `docker compose run --rm download --model flux-dev`), "
            "or try everything without them: --model miniature"
            if model == FLUX_DEV
            else "Put them there",
        )
    ]
    if model == FLUX_DEV and refusal.is_file():
        problems.append(Problem(refusal.read_text(encoding="utf-8").strip(), where="the last download said"))
    raise UserError(problems)


def _weights_of(model: str, models: Path) -> BaseWeights:
    if model == MINIATURE:
        return miniature_weights()
    return flux_dev_weights(models) if model == FLUX_DEV else weights_in_folder(Path(model))


def _check_files(weights: BaseWeights) -> None:
    """Read every header, so that a cut download is found before a phase that takes minutes and not after it."""
    problems = Problems()
    for file in (weights.transformer, weights.vae, weights.clip, weights.t5):
        with problems.gathered():
            header_of(file)
    for folder in (weights.clip_tokenizer, weights.t5_tokenizer):
        if not (folder / "tokenizer_config.json").is_file():
            problems.add("tokenizer_config.json is missing", where=str(folder), do="Fetch the tokenizer again")
    problems.raise_if_any()

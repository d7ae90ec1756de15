"""From the name a user gives (`--model`) to files and shapes."""

from __future__ import annotations

from pathlib import Path

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.miniature import miniature_weights
from fluxbooth.host.weights import (
    FLUX_DEV,
    MINIATURE,
    REFUSAL_FILE,
    BaseWeights,
    flux_dev_weights,
    weights_in_folder,
)


def find_weights(model: str, models: Path, cache: Path) -> BaseWeights:
    """Return the files of `model`: "flux-dev", "miniature" (made first where it is not there), or a folder.

    Args:
        model: what the user gave.
        models: ComfyUI's model folders.
        cache: where the miniature lives.

    Raises:
        UserError: naming what is missing, and why the last download refused it where that is known.
    """
    if model == MINIATURE:
        return miniature_weights(cache)
    weights = flux_dev_weights(models) if model == FLUX_DEV else weights_in_folder(Path(model))
    missing = weights.missing()
    if not missing:
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

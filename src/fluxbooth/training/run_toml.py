"""The text of runs/NAME/run.toml, from which a run can be repeated."""

from __future__ import annotations

import diffusers
import peft
import toml
import torch
import transformers

from fluxbooth import __version__
from fluxbooth.training.prepare import Prepared


def run_toml(prepared: Prepared) -> str:
    """Every recipe value and where it came from, the versions, and what the data were."""
    recipe = {name: value for name, value in prepared.recipe.model_dump().items() if value is not None}
    # As it was held: "auto" would be something else on a machine with another memory, and give other numbers.
    recipe["base_weights"] = prepared.memory.form
    held_out = prepared.held_out
    return toml.dumps(
        {
            "recipe": recipe,
            "origins": dict(prepared.origins),
            "run": {"model": prepared.weights.name, "steps": prepared.steps, "device": prepared.device.type},
            "pictures": {item.shown_name: item.digest for item in prepared.items},
            **({"held_out": {item.shown_name: item.digest for item in held_out}} if held_out else {}),
            "versions": {
                "fluxbooth": __version__,
                "torch": str(torch.__version__),  # of its own kind of str the toml package makes a list of letters
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
        }
    )

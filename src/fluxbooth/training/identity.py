"""What a run's result depends on: by this a stopped run is known again, and a changed one refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fluxbooth.dataset.plan import Visit
from fluxbooth.flux.device import device_identity
from fluxbooth.host.files import DigestMemory
from fluxbooth.training.cache import cache_key
from fluxbooth.training.encode import EncodedVisits, encoder_identities
from fluxbooth.training.prepare import Prepared

# Recipe fields that place files or trade time for memory; a run that goes on may have others.
_NOT_IN_THE_RESULT = {
    "output_name",
    "save_every_n_epochs",
    "save_every_n_steps",
    "save_precision",
    "save_format",
    "save_every_n_minutes",
    "save_last_n_epochs",
    "save_last_n_steps",
    "save_state_every_n_minutes",
    "memory_floor",
    "validate_every_n_steps",
    "validate_every_n_epochs",
    "max_validation_steps",
    # Known by the pictures that are held out:
    "validation_split",
    "validation_seed",
    "log_with",
    "log_tracker_name",
    "wandb_run_name",
    "sample_prompts",
    "sample_every_n_steps",
    "sample_every_n_epochs",
    "sample_at_first",
    "sample_seed",
    "walk_seed",
    "sample_width",
    "sample_height",
    "sample_steps",
    "sample_guidance_scale",
    "score_every",
    "early_stop_patience",
    "gradient_checkpointing",
    "blocks_to_swap",
    "base_weights",
    "output_dir",
    # Known by what is in them:
    "network_weights",
    "dataset_config",
    "pretrained_model_name_or_path",
    "clip_l",
    "t5xxl",
    "ae",
}


def run_identity(prepared: Prepared) -> dict[str, str]:
    """What the run's result depends on, by the name a message can use."""
    return {**{name: str(value) for name, value in result_settings(prepared).items()}, **made_of(prepared)}


def result_settings(prepared: Prepared) -> dict[str, Any]:
    """The recipe's values that the result depends on as they stand."""
    return prepared.recipe.model_dump(exclude=_NOT_IN_THE_RESULT)


def made_of(prepared: Prepared) -> dict[str, str]:
    """Beside the recipe: digests of data and weights, and what the machine decides, by the name a message can use."""
    digests = DigestMemory(prepared.folders.cache / "digests.json")
    # The order counts and the place on the disk does not: the plan is made of the items in their order.
    items = [
        {
            **{name: value for name, value in vars(item).items() if name != "held_out"},
            "path": item.path.name,
            "mask": item.mask is not None,
            "picture_spec": replace(item.picture_spec, mask_dir=None),
        }
        for item in (*prepared.items, *prepared.composites)
    ]
    vae, texts = encoder_identities(
        prepared.weights, prepared.architecture, prepared.folders.cache, prepared.encoder_dtype
    )
    return {
        "pictures or data.toml": hashlib.sha256(repr(items).encode()).hexdigest(),
        **({"validation_split or validation_seed": _of_held_out(prepared)} if prepared.held_out else {}),
        "transformer": digests.digest(prepared.weights.transformer),
        "network_weights": digests.digest(Path(start)) if (start := prepared.recipe.network_weights) else "",
        "VAE": vae,
        "text encoders": texts,
        "base_weights": prepared.memory.form,
        "number of steps": str(prepared.steps),
        "number format": str(prepared.dtype),
    }


def key_of_beginning(prepared: Prepared, encoded: EncodedVisits, visits: Sequence[Visit]) -> str:
    """Where the losses of `visits` before the first step are kept; a fresh LoRA changes nothing, of whatever rank."""
    recipe = prepared.recipe
    digests = DigestMemory(prepared.folders.cache / "digests.json")
    return cache_key(
        "losses",
        *((encoded.latents_key(visit), encoded.text_key(visit.caption)) for visit in visits),
        recipe.guidance_scale,
        digests.digest(prepared.weights.transformer),
        *((digests.digest(Path(start)), recipe.network_dim, recipe.alpha) if (start := recipe.network_weights) else ()),
        # CLIP computes anew where it is trained.
        recipe.text_encoder_lr > 0,
        prepared.memory.form,
        recipe.fp8_products,
        prepared.dtype,
        prepared.work.has_training_pass,
        device_identity(prepared.device),
        torch.__version__,
    )


def _of_held_out(prepared: Prepared) -> str:
    return " ".join(sorted(item.digest for item in prepared.held_out))

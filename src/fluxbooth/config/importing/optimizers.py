"""Optimizers, number formats and schedules by the names that other trainers give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluxbooth.config.importing.translation import Translation, refusal

SAVE_PRECISIONS = {
    "float16": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float32": "float",
    "fp32": "float",
    "float": "float",
}
"""The recipe's save_precision by other names of the same."""
MIXED_PRECISIONS = {
    **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
    **dict.fromkeys(("fp16", "float16"), "fp16"),
    **dict.fromkeys(("no", "fp32", "float32", "float"), "no"),
}
"""The recipe's mixed_precision by other names of the same."""
OPTIMIZER_ARGUMENTS: Mapping[str, frozenset[str]] = {
    "AdamW": frozenset(
        ("betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused")
    ),
    "Prodigy": frozenset(
        (
            *("betas", "beta3", "eps", "weight_decay", "decouple", "use_bias_correction", "safeguard_warmup"),
            *("d0", "d_coef", "growth_rate", "fsdp_in_use", "slice_p"),
        )
    ),
    "AdamW8bit": frozenset(
        ("betas", "eps", "weight_decay", "amsgrad", "optim_bits", "args", "min_8bit_size", "is_paged")
    ),
    "Adafactor": frozenset(
        (
            *("eps", "clip_threshold", "decay_rate", "beta1", "weight_decay"),
            *("scale_parameter", "relative_step", "warmup_init"),
        )
    ),
    "AdamWScheduleFree": frozenset(("betas", "eps", "weight_decay", "warmup_steps", "r", "weight_lr_power", "foreach")),
    "Lion": frozenset(("betas", "weight_decay", "use_triton", "decoupled_weight_decay")),
}
"""What may stand in optimizer_args, by optimizer."""
_OPTIMIZERS = {
    "adamw": ("AdamW",),
    "adamw8bit": ("AdamW8bit", "AdamW"),
    "adamw8": ("AdamW8bit", "AdamW"),
    "pagedadamw": ("AdamW",),
    "pagedadamw8bit": ("PagedAdamW8bit", "AdamW8bit", "AdamW"),
    "prodigy": ("Prodigy",),
    "prodigy8bit": ("Prodigy",),
    "adafactor": ("Adafactor",),
    "adamwschedulefree": ("AdamWScheduleFree",),
    "lion": ("Lion",),
    "lion8bit": ("Lion",),
    "pagedlion8bit": ("Lion",),
}
_SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine": "cosine_with_restarts",
    "cosine_with_restarts": "cosine_with_restarts",
}


def translate_optimizer(translation: Translation, key: str) -> None:
    """Write the optimizer that `key` names, or the same one in full precision."""
    name = str(translation.value(key))
    for candidate in _OPTIMIZERS.get(name.lower(), (name,)):
        if not refusal("optimizer_type", candidate):
            is_another = candidate.lower() != name.lower()
            why = "the same in full precision, with a little more memory" if is_another else ""
            translation.to_recipe(key, "optimizer_type", candidate, why=why)
            return
    translation.without(key, "AdamW trains instead, whose learning_rate is another one")


def translate_optimizer_arguments(translation: Translation, arguments: Mapping[str, tuple[str, Any]]) -> None:
    """Write what the optimizer knows of `arguments`: name to the setting it comes from and its value."""
    optimizer = translation.recipe.get("optimizer_type", "AdamW")
    known = OPTIMIZER_ARGUMENTS.get(optimizer, frozenset())
    written = []
    for name, (key, value) in arguments.items():
        if name in known:
            written.append(f"{name}={tuple(value) if isinstance(value, list) else value!r}")
            translation.translated(key, f'optimizer_args = "{written[-1]}"')
        else:
            translation.without(key, f"{optimizer} has no argument {name}")
    if written:
        translation.recipe["optimizer_args"] = tuple(written)


def translate_schedule(translation: Translation, key: str) -> None:
    """Write the schedule that `key` names."""
    translation.to_recipe(key, "lr_scheduler", str(translation.value(key)))

"""Arguments of kohya's training scripts that ask for what happens here anyway.

A launch command or a configuration file of kohya's sd-scripts is taken as it stands: what has no meaning here is said
in one line, and a value that asks for something else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fluxbooth.config.tables import TablePath, as_toml
from fluxbooth.errors import Problems


@dataclass(frozen=True)
class Idle:
    """An argument without effect."""

    why: str
    """What happens here instead, for a reader."""
    allowed: tuple[Any, ...] | None = (True, False)
    """Values that ask for nothing else; None where any does."""


IDLE_ARGUMENTS: Mapping[str, Idle] = {
    "sdpa": Idle("attention always runs in PyTorch's own kernels"),
    "mem_eff_attn": Idle("attention always runs in PyTorch's own kernels"),
    "xformers": Idle("attention always runs in PyTorch's own kernels"),
    "torch_compile": Idle("changes no numbers; what a GPU gains by is compiled without it"),
    "cache_latents": Idle("latents are always encoded once and kept on the disk"),
    "cache_latents_to_disk": Idle("latents are always encoded once and kept on the disk"),
    "cache_text_encoder_outputs": Idle("T5's embeddings are always encoded once and kept on the disk"),
    "cache_text_encoder_outputs_to_disk": Idle("T5's embeddings are always encoded once and kept on the disk"),
    "persistent_data_loader_workers": Idle("batches are read from the cache, without worker processes"),
    "max_data_loader_n_workers": Idle("batches are read from the cache, without worker processes", None),
    "highvram": Idle("the text encoders and the VAE are always gone before the training"),
    "cpu_offload_checkpointing": Idle("what is recomputed and where weights lie is chosen to fit the memory"),
    "lowram": Idle("weights are always read one tensor at a time"),
    "save_model_as": Idle("LoRA files are always safetensors files", ("safetensors",)),
    "network_module": Idle(
        "every linear inside the blocks is trained, as kohya's lora_flux does", ("networks.lora_flux",)
    ),
    "model_prediction_type": Idle("the loss is always on the raw velocity", ("raw",)),
    "huber_schedule": Idle("huber_c is the same at every noise level", ("constant",)),
}
"""By name; most are switches."""


def without_idle_arguments(
    values: Mapping[str, Any], place: Callable[[TablePath], str], problems: Problems
) -> tuple[dict[str, Any], list[str]]:
    """Return `values` less the arguments that have no effect, and a line on each of these.

    Adds to `problems` those whose value asks for what fluxbooth does not do.
    """
    kept, lines = {}, []
    for name, value in values.items():
        idle = IDLE_ARGUMENTS.get(name)
        if idle is None:
            kept[name] = value
        elif idle.allowed is None or value in idle.allowed:
            lines.append(f"{name} is not needed: {idle.why}")
        else:
            allowed = " or ".join(map(as_toml, idle.allowed))
            problems.add(f"{name} is {as_toml(value)}", where=place((name,)), allowed=f"{allowed}: {idle.why}")
    return kept, lines


@dataclass(frozen=True)
class ReadWith:
    """What gives a field a meaning: values of another."""

    field: str
    values: tuple[Any, ...] | None
    """Values of that field; None for every value but its default."""


_FIELDS_READ_WITH: Mapping[str, tuple[ReadWith, ...]] = {
    "discrete_flow_shift": (ReadWith("timestep_sampling", ("shift", "sigma")),),
    "sigmoid_scale": (ReadWith("timestep_sampling", ("flux_shift", "shift", "sigmoid")),),
    **dict.fromkeys(
        ("logit_mean", "logit_std"),
        (ReadWith("timestep_sampling", ("logit_normal",)), ReadWith("weighting_scheme", ("logit_normal",))),
    ),
    **dict.fromkeys(("log_tracker_name", "wandb_run_name"), (ReadWith("log_with", ("wandb", "all")),)),
    "huber_c": (ReadWith("loss_type", ("huber", "smooth_l1")),),
    "multires_noise_discount": (ReadWith("multires_noise_iterations", None),),
    "lr_scheduler_power": (ReadWith("lr_scheduler", ("polynomial",)),),
    "lr_scheduler_num_cycles": (ReadWith("lr_scheduler", ("cosine_with_restarts",)),),
}


def without_unread_arguments(
    values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return `values` less the fields that nothing reads beside the others, and by their names a line on each.

    kohya's files carry such fields along; a training without them is the same.

    Args:
        defaults: what a field is that is not in `values`.
    """
    all_values = {**defaults, **values}
    unread = {
        name: f"{name} is not needed: only {' or '.join(map(_spelt, readers))} reads it"
        for name, readers in _FIELDS_READ_WITH.items()
        if name in values and not any(_is_read(reader, all_values, defaults) for reader in readers)
    }
    return {name: value for name, value in values.items() if name not in unread}, unread


def _is_read(reader: ReadWith, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    value = values[reader.field]
    return bool(value != defaults[reader.field]) if reader.values is None else value in reader.values


def _spelt(reader: ReadWith) -> str:
    return f"{reader.field} = {', '.join(reader.values)}" if reader.values else f"{reader.field} above 0"

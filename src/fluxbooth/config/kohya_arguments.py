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
    "torch_compile": Idle("changes no numbers, and fluxbooth does not compile yet"),
    "cache_latents": Idle("latents are always encoded once and kept on the disk"),
    "cache_latents_to_disk": Idle("latents are always encoded once and kept on the disk"),
    "cache_text_encoder_outputs": Idle("T5's embeddings are always encoded once and kept on the disk"),
    "cache_text_encoder_outputs_to_disk": Idle("T5's embeddings are always encoded once and kept on the disk"),
    "persistent_data_loader_workers": Idle("batches are read from the cache, without worker processes"),
    "max_data_loader_n_workers": Idle("batches are read from the cache, without worker processes", None),
    "highvram": Idle("the text encoders and the VAE are always gone before the training"),
    "lowram": Idle("weights are always read one tensor at a time"),
    "save_model_as": Idle("LoRA files are always safetensors files", ("safetensors",)),
    "network_module": Idle(
        "every linear inside the blocks is trained, as kohya's lora_flux does", ("networks.lora_flux",)
    ),
    "model_prediction_type": Idle("the loss is always on the raw velocity", ("raw",)),
    "weighting_scheme": Idle("every noise level has the same weight", ("none", "uniform")),
    "loss_type": Idle("the loss is the mean squared error", ("l2",)),
    "discrete_flow_shift": Idle("timestep_sampling = flux_shift finds the shift from the size of the picture", None),
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

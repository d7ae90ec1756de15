"""Which LoRA files a run leaves, and what they say about themselves."""

from __future__ import annotations

from collections.abc import Sequence

from fluxbooth import __version__
from fluxbooth.dataset.items import Item


def files_after_step(
    name: str, step: int, steps: int, steps_per_epoch: int, every_epochs: int | None, every_steps: int | None
) -> list[str]:
    """Name the LoRA files that are due once `step` of `steps` optimizer steps are done, kohya's way.

    NAME.safetensors at the end; before it NAME-000025.safetensors after epoch 25 and NAME-step00000250.safetensors.
    """
    if step == steps:
        return [f"{name}.safetensors"]
    epoch, within = divmod(step, steps_per_epoch)
    names = []
    if every_epochs and within == 0 and epoch % every_epochs == 0:
        names.append(f"{name}-{epoch:06d}.safetensors")
    if every_steps and step % every_steps == 0:
        names.append(f"{name}-step{step:08d}.safetensors")
    return names


def lora_metadata(
    output_name: str, items: Sequence[Item], *, step: int, rank: int, alpha: float, seed: int, base_model: str
) -> dict[str, str]:
    """Describe a LoRA in its file: title, class tokens, rank, steps. No path, user or machine is named.

    Keys of modelspec (Stability-AI/ModelSpec 1.0.1) and kohya's `ss_*`, as tools show them.
    """
    class_tokens = sorted({item.concept for item in items if not item.is_reg})
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.title": output_name,
        "modelspec.trigger_phrase": ", ".join(class_tokens),
        "ss_base_model_version": base_model,
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_output_name": output_name,
        "ss_seed": str(seed),
        "ss_steps": str(step),
        "fluxbooth.version": __version__,
    }

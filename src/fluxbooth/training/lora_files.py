"""Which LoRA files a run leaves, and what they say about themselves."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from fluxbooth import __version__
from fluxbooth.dataset.items import Item
from fluxbooth.host.weights import FLUX_DEV

_THUMBNAIL_SIDE = 256
"""Pixels at most."""


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
        names.append(step_file(name, step))
    return names


def step_file(name: str, step: int) -> str:
    """Name the LoRA file of a step, kohya's way."""
    return f"{name}-step{step:08d}.safetensors"


def files_out_of_date(
    name: str,
    step: int,
    steps_per_epoch: int,
    epochs: tuple[int | None, int | None],
    steps: tuple[int | None, int | None],
) -> list[str]:
    """Name the LoRA files that go when those of `step` are written (kohya, get_remove_epoch_no, get_remove_step_no).

    Args:
        epochs: every how many epochs there is a file, and how many of them stay.
        steps: every how many steps there is a file, and for how many steps one stays.
    """
    names = []
    every, kept = epochs
    epoch, within = divmod(step, steps_per_epoch)
    if every and kept and within == 0 and epoch % every == 0 and epoch > every * kept:
        names.append(f"{name}-{epoch - every * kept:06d}.safetensors")
    every, kept = steps
    if every and kept and step % every == 0:
        oldest = (step - kept - 1) // every * every
        if oldest > 0:
            names.append(step_file(name, oldest))
    return names


# Recipe fields that kohya writes into a LoRA file, too, under the same name with "ss_" before it.
_SHOWN_FIELDS = (
    "output_name",
    "seed",
    "network_dim",
    "learning_rate",
    "lr_scheduler",
    "lr_warmup_steps",
    "max_grad_norm",
    "gradient_accumulation_steps",
    "mixed_precision",
    "timestep_sampling",
    "guidance_scale",
    "prior_loss_weight",
)


def lora_metadata(
    items: Sequence[Item],
    recipe: Mapping[str, object],
    optimizer_args: Sequence[str],
    *,
    step: int,
    steps: int,
    epoch: int,
    alpha: float,
    model: str,
) -> dict[str, str]:
    """Describe a LoRA in its file, under the keys of modelspec (Stability-AI/ModelSpec 1.0.1) and kohya's `ss_*`.

    No path, folder, user, machine or time is named: the same run gives the same bytes.

    Args:
        recipe: values by field name; optimizer_args: its arguments, each "name=value".
        step: optimizer steps done when the file is written, of `steps`; epoch: the one it is in, from 1.
        alpha: the LoRA's, resolved.
        model: the base weights' name.
    """
    trained = [item for item in items if not item.is_reg]
    class_tokens = sorted({item.concept for item in trained})
    tags: dict[str, Counter[str]] = {tokens: Counter() for tokens in class_tokens}
    for item in trained:
        tags[item.concept].update(tag.strip() for tag in item.caption.split(item.caption_spec.separator))
    widths, heights = zip(*(item.placement.bucket for item in trained), strict=True)
    return {
        **{f"ss_{name}": str(recipe[name]) for name in _SHOWN_FIELDS},
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.title": str(recipe["output_name"]),
        "modelspec.trigger_phrase": ", ".join(class_tokens),
        "modelspec.resolution": f"{max(widths)}x{max(heights)}",
        "ss_base_model_version": "flux1" if model == FLUX_DEV else model,
        "ss_model_type": "flux",
        "ss_network_module": "networks.lora_flux",
        "ss_network_alpha": str(alpha),
        "ss_optimizer": f"{recipe['optimizer_type']}({', '.join(optimizer_args)})",
        "ss_tag_frequency": json.dumps(tags, sort_keys=True),
        "ss_num_train_images": str(sum(item.repeats for item in trained)),
        "ss_num_reg_images": str(sum(item.is_reg for item in items)),
        "ss_steps": str(step),
        "ss_max_train_steps": str(steps),
        "ss_epoch": str(epoch),
        "fluxbooth.version": __version__,
    }


def thumbnail(samples: Path, step: int) -> dict[str, str]:
    """Return `modelspec.thumbnail`, the newest sample picture of an earlier step than `step`; nothing without one.

    Of an earlier step, since a file is written before its own step's pictures are drawn: what goes wrong in drawing
    costs no LoRA.
    """
    drawn = sorted(path for path in samples.glob("step*_01_*.png") if path.name < f"step{step:08d}")
    if not drawn:
        return {}
    jpeg = io.BytesIO()
    with Image.open(drawn[-1]) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        small.save(jpeg, format="JPEG", quality=80)
    return {"modelspec.thumbnail": f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode('ascii')}"}

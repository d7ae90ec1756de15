"""The network of a run with its fresh LoRA, on the device it is trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from fluxbooth.flux.device import free_memory, release_memory
from fluxbooth.flux.fp8 import turned_bytes
from fluxbooth.flux.lora import Part, add_lora, start_from
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.text import PooledText
from fluxbooth.flux.training_pass import TrainingPass, use_training_pass
from fluxbooth.host.memory import GIB
from fluxbooth.training.memory_plan import MemoryPlan, Workload
from fluxbooth.training.prepare import Prepared

_log = logging.getLogger("fluxbooth")


@dataclass(frozen=True)
class Trained:
    """The transformer, and CLIP where it is trained along, with the LoRA in them."""

    transformer: FluxTransformer2DModel
    of_transformer: Sequence[nn.Parameter]
    """The LoRA's parameters in the transformer, A and B of each layer in turn, and with DoRA its magnitudes."""
    pooled_text: PooledText | None
    """What CLIP makes of captions, with its LoRA; None where CLIP is left alone."""
    of_clip: Sequence[nn.Parameter]
    training_pass: TrainingPass | None
    """How the transformer computes; None where it computes by diffusers' own pass."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The whole LoRA."""
        return [*self.of_transformer, *self.of_clip]

    @property
    def clip(self) -> nn.Module | None:
        """CLIP's text model, where it has a LoRA."""
        return self.pooled_text.clip if self.pooled_text else None


def bytes_held_turned(work: Workload, plan: MemoryPlan, free: int | None) -> int:
    """Bytes of the matrices of fp8 products turned round, where the memory has room for them beside the plan; else 0.

    Where blocks are streamed there is none: it would take twice as long to bring them.

    Args:
        free: bytes, as `free_memory` gives them.
    """
    if plan.streamed:
        return 0
    config = work.architecture.transformer
    more = turned_bytes((config["num_layers"], config["num_single_layers"]), work.architecture.width)
    return more if free is None or plan.peak_bytes + more <= free else 0


def load_trained(prepared: Prepared) -> Trained:
    """Load the base weights and add the LoRA, which changes nothing yet but where it begins with a file."""
    recipe, device = prepared.recipe, prepared.device
    turned = 0
    if recipe.fp8_products:
        free = free_memory(device, recipe.memory_floor)
        turned = bytes_held_turned(prepared.work, prepared.memory, free)
        how = f"held turned round, too: {turned / GIB:.1f} GiB more" if turned else "turned round for each of them"
        _log.info("fp8 products: for the backward pass FLUX's matrices are %s", how)
    transformer = load_transformer(
        prepared.weights, prepared.architecture, prepared.dtype, device, prepared.memory.form, prepared.memory.streamed
    )
    of_transformer = add_lora(
        transformer,
        recipe.network_dim,
        recipe.alpha,
        recipe.seed,
        dropout=recipe.network_dropout,
        blocks=prepared.blocks,
        decomposed=recipe.network.use_dora,
    )
    models: dict[Part, torch.nn.Module] = {"transformer": transformer}
    pooled_text: PooledText | None = None
    of_clip: list[nn.Parameter] = []
    if recipe.text_encoder_lr:
        pooled_text = PooledText(prepared.weights, prepared.architecture, prepared.encoder_dtype, device)
        models["text_encoder"] = pooled_text.clip
        of_clip = add_lora(
            pooled_text.clip,
            recipe.network_dim,
            recipe.alpha,
            recipe.seed,
            "text_encoder",
            dropout=recipe.network_dropout,
            decomposed=recipe.network.use_dora,
        )
    if recipe.network_weights:
        start_from(models, Path(recipe.network_weights))
    training_pass = None
    if prepared.work.has_training_pass:
        plan = prepared.memory
        training_pass = use_training_pass(
            transformer, plan.recomputed, plan.streamed, recipe.fp8_products, turned > 0, plan.whole
        )
    elif prepared.memory.recomputed:
        transformer.enable_gradient_checkpointing()
    release_memory()  # what was joined leaves pieces of its size
    return Trained(transformer, of_transformer, pooled_text, of_clip, training_pass)

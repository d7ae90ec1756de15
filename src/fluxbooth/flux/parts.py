"""Load the four parts of a FLUX model from its single files, one part at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.keys import Source, clip_source, t5_source, transformer_source, vae_source
from fluxbooth.flux.lora import ALL_BLOCKS
from fluxbooth.flux.single_file import load_single_file
from fluxbooth.flux.stored import StorageForm, store_linears
from fluxbooth.flux.streaming import matrices_that_wait
from fluxbooth.flux.weight_files import header_of
from fluxbooth.host.weights import BaseWeights

# t5xxl_fp16.safetensors holds the embeddings twice, under both of their names.
_SPARE_IN_T5 = ("encoder.embed_tokens.weight",)
# What files of the whole CLIP have beside its text model.
_SPARE_IN_CLIP = ("text_projection.weight", "logit_scale", "text_model.embeddings.position_ids")


def load_transformer(
    weights: BaseWeights,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    form: StorageForm = "full",
    streamed: int = 0,
) -> FluxTransformer2DModel:
    """Load the transformer, frozen, as `dtype` on `device`. Raises UserError for a file that does not fit.

    Args:
        form: how the matrices inside the blocks are held.
        streamed: blocks whose matrices stay in the machine's memory; `use_training_pass` with the same number brings
            them to the device, without it the transformer does not compute.
    """

    def make() -> FluxTransformer2DModel:
        transformer = FluxTransformer2DModel(**architecture.transformer)
        if form != "full":
            store_linears(transformer, form, ALL_BLOCKS.have)
        return transformer

    transformer = load_single_file(
        make,
        weights.transformer,
        Source if weights.in_diffusers_layout else partial(transformer_source, width=architecture.width),
        dtype,
        device,
        kept_back=matrices_that_wait(architecture.transformer, streamed),
    )
    assert isinstance(transformer, FluxTransformer2DModel)
    keep_timesteps_exact(transformer)
    return transformer


def keep_timesteps_exact(transformer: FluxTransformer2DModel) -> None:
    """Let the noise level and the guidance reach their embedding as they were given to the transformer.

    On the way diffusers brings them to the dtype of the hidden states, and bfloat16 makes 3504 of a guidance of 3500
    and 852 of a timestep of 850: another phase in the embedding's fastest waves. ComfyUI embeds what it was given.
    """
    given: dict[str, Tensor] = {}

    def remember(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.update({name: kwargs[name].float() * 1000 for name in ("timestep", "guidance")})

    def restore(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        _timestep, _guidance, pooled_projections = args
        return given["timestep"], given["guidance"], pooled_projections

    transformer.register_forward_pre_hook(remember, with_kwargs=True)
    transformer.time_text_embed.register_forward_pre_hook(restore)


def load_vae(
    weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> AutoencoderKL:
    """Load the VAE, frozen, as `dtype` on `device`. Raises UserError for a file that does not fit."""
    levels = len(architecture.vae["block_out_channels"])
    source_of = Source if weights.in_diffusers_layout else partial(vae_source, levels=levels)
    model = load_single_file(lambda: AutoencoderKL(**architecture.vae), weights.vae, source_of, dtype, device)
    return cast(AutoencoderKL, model)


def load_clip(
    weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedTokenizerBase, CLIPTextModel]:
    """Load CLIP's tokenizer and text model, frozen. Raises UserError for a file that does not fit."""
    model = load_single_file(
        lambda: CLIPTextModel(CLIPTextConfig(**architecture.clip)),
        weights.clip,
        # A folder that transformers 5 has written lacks the level, too.
        clip_source if any(key.startswith("text_model.") for key in header_of(weights.clip)) else Source,
        dtype,
        device,
        _SPARE_IN_CLIP,
    )
    return _tokenizer(weights.clip_tokenizer), model


def load_t5(
    weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    """Load T5's tokenizer and encoder, frozen. Raises UserError for a file that does not fit."""
    model = load_single_file(
        lambda: T5EncoderModel(T5Config(**architecture.t5)), weights.t5, t5_source, dtype, device, _SPARE_IN_T5
    )
    return _tokenizer(weights.t5_tokenizer), model


def load_tokenizers(weights: BaseWeights) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Load CLIP's tokenizer and T5's, without the models."""
    return _tokenizer(weights.clip_tokenizer), _tokenizer(weights.t5_tokenizer)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)

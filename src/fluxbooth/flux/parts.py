"""Load the four parts of a FLUX model from its single files, one part at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.keys import clip_source, t5_source, transformer_source, vae_source
from fluxbooth.flux.single_file import load_single_file
from fluxbooth.host.weights import BaseWeights

# t5xxl_fp16.safetensors holds the embeddings twice, under both of their names.
_SPARE_IN_T5 = ("encoder.embed_tokens.weight",)


def load_transformer(
    weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> FluxTransformer2DModel:
    """Load the transformer, frozen, as `dtype` on `device`. Raises UserError for a file that does not fit."""
    model = load_single_file(
        lambda: FluxTransformer2DModel(**architecture.transformer),
        weights.transformer,
        partial(transformer_source, width=architecture.width),
        dtype,
        device,
    )
    return cast(FluxTransformer2DModel, model)


def load_vae(
    weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> AutoencoderKL:
    """Load the VAE, frozen, as `dtype` on `device`. Raises UserError for a file that does not fit."""
    levels = len(architecture.vae["block_out_channels"])
    model = load_single_file(
        lambda: AutoencoderKL(**architecture.vae), weights.vae, partial(vae_source, levels=levels), dtype, device
    )
    return cast(AutoencoderKL, model)


def load_clip(
    weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedTokenizerBase, CLIPTextModel]:
    """Load CLIP's tokenizer and text model, frozen. Raises UserError for a file that does not fit."""
    model = load_single_file(
        lambda: CLIPTextModel(CLIPTextConfig(**architecture.clip)), weights.clip, clip_source, dtype, device
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


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)

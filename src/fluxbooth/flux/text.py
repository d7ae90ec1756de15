"""Captions to what the transformer reads: T5's sequence and CLIP's pooled vector.

B captions, S text tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.device import release_memory
from fluxbooth.flux.parts import load_clip, load_t5
from fluxbooth.host.weights import BaseWeights


@dataclass(frozen=True)
class TextEmbeds:
    """One caption as the transformer reads it, on the CPU."""

    prompt_embeds: Tensor
    """(S, D) of T5."""
    pooled_prompt_embeds: Tensor
    """(D,) of CLIP."""


@torch.no_grad()
def encode_captions(
    captions: Sequence[str], weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> list[TextEmbeds]:
    """Encode captions with CLIP, then with T5; each is loaded, used and freed before the next comes.

    Captions are padded or cut to the architecture's text lengths, without attention masks, as FLUX.1-dev was trained.
    """
    tokenizer, clip = load_clip(weights, architecture, dtype, device)
    pooled = [
        clip(input_ids=_token_ids(tokenizer, caption, architecture.clip_tokens).to(device))
        .pooler_output[0]
        .cpu()  # (D,)
        for caption in captions
    ]
    del clip
    release_memory()

    tokenizer, t5 = load_t5(weights, architecture, dtype, device)
    sequences = [
        t5(input_ids=_token_ids(tokenizer, caption, architecture.t5_tokens).to(device))
        .last_hidden_state[0]
        .cpu()  # (S, D)
        for caption in captions
    ]
    del t5
    release_memory()
    return [TextEmbeds(sequence, vector) for sequence, vector in zip(sequences, pooled, strict=True)]


def _token_ids(tokenizer: PreTrainedTokenizerBase, caption: str, tokens: int) -> Tensor:
    encoded = tokenizer([caption], padding="max_length", truncation=True, max_length=tokens, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids  # (1, S)

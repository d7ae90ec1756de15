"""Captions to what the transformer reads: T5's sequence and CLIP's pooled vector.

B captions, S text tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.device import free_memory, release_memory, to_device, where_it_fits
from fluxbooth.flux.lora import apply_lora
from fluxbooth.flux.parts import load_clip, load_t5
from fluxbooth.flux.weight_files import bytes_of
from fluxbooth.host.memory import GIB
from fluxbooth.host.weights import BaseWeights

_PASSES_OF_T5 = GIB // 2


@dataclass(frozen=True)
class TextEmbeds:
    """One caption as the transformer reads it, on the CPU."""

    prompt_embeds: Tensor
    """(S, D) of T5."""
    pooled_prompt_embeds: Tensor
    """(D,) of CLIP."""


class PooledText:
    """CLIP, kept in memory: captions to pooled vectors, through which a LoRA in it can be trained."""

    def __init__(
        self, weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Load CLIP's tokenizer and text model, frozen."""
        self._tokenizer, self.clip = load_clip(weights, architecture, dtype, device)
        self._tokens, self._device, self._dtype = architecture.clip_tokens, device, dtype

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Encode captions: (B, D)."""
        ids = torch.cat([_token_ids(self._tokenizer, caption, self._tokens) for caption in captions])
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not torch.float32):
            pooled: Tensor = self.clip(input_ids=to_device(ids, self._device)).pooler_output
        return pooled


@torch.no_grad()
def encode_captions(
    captions: Sequence[str],
    weights: BaseWeights,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    loras: Sequence[tuple[Path, float]] = (),
) -> list[TextEmbeds]:
    """Encode captions with CLIP, then with T5; each is loaded, used and freed before the next comes.

    Where a GPU does not hold T5 the processor reads with it: a few seconds a caption, once.
    Captions are padded or cut to the architecture's text lengths, without attention masks, as FLUX.1-dev was trained.

    Args:
        loras: files and strengths, of which CLIP takes its part.
    """
    pooled_text = PooledText(weights, architecture, dtype, device)
    for path, strength in loras:
        apply_lora(pooled_text.clip, path, strength, "text_encoder")
    pooled = [pooled_text([caption])[0].cpu() for caption in captions]  # (D,)
    del pooled_text
    release_memory()

    device = where_it_fits(device, bytes_of(weights.t5, dtype) + _PASSES_OF_T5, free_memory(device, None), "T5")
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

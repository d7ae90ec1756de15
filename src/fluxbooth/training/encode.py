"""The encode phase: every visit's latents and text embeddings into the cache; then the VAE and encoders are gone.

B visits, C = 16 latent channels, H W latent rows and columns, S text tokens, D features.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from fluxbooth.dataset.captions import class_caption
from fluxbooth.dataset.pictures import cut_to_bucket, open_upright
from fluxbooth.dataset.plan import MicroBatch, Visit
from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.device import release_memory
from fluxbooth.flux.parts import load_vae
from fluxbooth.flux.pixels import encode_pixels
from fluxbooth.flux.text import PooledText, encode_captions
from fluxbooth.host.files import DigestMemory
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.cache import EncodedCache, cache_key

_log = logging.getLogger("fluxbooth")


@dataclass(frozen=True)
class Batch:
    """One micro-batch as the network takes it."""

    latents: Tensor
    """(B, C, H, W) float32."""
    prompt_embeds: Tensor
    """(B, S, D)."""
    pooled_prompt_embeds: Tensor
    """(B, D)."""
    loss_weights: Tensor
    """(B,) float32: 1, or prior_loss_weight for regularization pictures."""


class EncodedVisits:
    """Reads micro-batches from the cache by what each visit is, never by position."""

    def __init__(
        self, cache: EncodedCache, vae_identity: str, text_identity: str, prior_loss_weight: float, device: torch.device
    ) -> None:
        """Read entries made by the VAE and encoders of these identities."""
        self._cache = cache
        self._vae_identity = vae_identity
        self._text_identity = text_identity
        self._prior_loss_weight = prior_loss_weight
        self._device = device
        self.pooled_text: PooledText | None = None
        """CLIP where it is trained, too: its vectors are then computed anew at every step and carry gradients."""

    def latents_key(self, visit: Visit) -> str:
        """Where the latents of a visit are kept: bytes of the picture, geometry, flip, VAE."""
        placement = visit.item.placement
        return cache_key(visit.item.digest, placement.resized, placement.crop, visit.flipped, self._vae_identity)

    def text_key(self, caption: str) -> str:
        """Where the embeddings of a caption are kept: its words, the encoders, their lengths."""
        return cache_key(caption, self._text_identity)

    def batch(self, micro_batch: MicroBatch) -> Batch:
        """Read one micro-batch onto the device."""
        prompt_embeds, pooled_prompt_embeds = self._texts([visit.caption for visit in micro_batch])
        weights = [self._prior_loss_weight if visit.item.is_reg else 1.0 for visit in micro_batch]
        return Batch(
            latents=torch.stack([self._cache.latents(self.latents_key(visit)) for visit in micro_batch]).to(
                self._device
            ),
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            loss_weights=torch.tensor(weights, device=self._device),
        )

    def class_texts(self, micro_batch: MicroBatch, of_base: bool = False) -> tuple[Tensor, Tensor]:
        """Read the embeddings of the captions with the class noun alone: (B, S, D) of T5, (B, D) of CLIP.

        Args:
            of_base: by the base model's CLIP, also where CLIP is trained.
        """
        return self._texts([plain_caption(visit) for visit in micro_batch], of_base)

    def _texts(self, captions: Sequence[str], of_base: bool = False) -> tuple[Tensor, Tensor]:
        texts = [self._cache.text(self.text_key(caption)) for caption in captions]
        prompt_embeds = torch.stack([text.prompt_embeds for text in texts]).to(self._device)
        if self.pooled_text is not None and not of_base:
            return prompt_embeds, self.pooled_text(captions)
        return prompt_embeds, torch.stack([text.pooled_prompt_embeds for text in texts]).to(self._device)


def plain_caption(visit: Visit) -> str:
    """A visit's caption with the class noun alone; a regularization picture's says no more from the start."""
    item = visit.item
    return visit.caption if item.is_reg else class_caption(visit.caption, item.concept, *item.also_shows)


def encoder_identities(
    weights: BaseWeights, architecture: Architecture, cache_folder: Path, dtype: torch.dtype
) -> tuple[str, str]:
    """Name everything that decides what the VAE makes of a picture, and the text encoders of a caption."""
    digests = DigestMemory(cache_folder / "digests.json")
    files = [weights.clip, weights.t5]
    for folder in (weights.clip_tokenizer, weights.t5_tokenizer):
        files += sorted(path for path in folder.iterdir() if path.is_file())
    texts = " ".join(f"{path.name}:{digests.digest(path)}" for path in files)
    return (
        f"{digests.digest(weights.vae)} {dtype}",
        f"{texts} {architecture.clip_tokens} {architecture.t5_tokens} {dtype}",
    )


def encode_visits(
    visits: Collection[Visit],
    weights: BaseWeights,
    architecture: Architecture,
    cache_folder: Path,
    prior_loss_weight: float,
    dtype: torch.dtype,
    device: torch.device,
    plain_captions: bool = False,
) -> EncodedVisits:
    """Encode what the cache lacks of `visits`; the VAE, CLIP and T5 are loaded, used and freed in turn.

    With `plain_captions` the captions with the class noun alone are encoded, too.
    """
    cache = EncodedCache(cache_folder)
    vae_identity, text_identity = encoder_identities(weights, architecture, cache_folder, dtype)
    encoded = EncodedVisits(cache, vae_identity, text_identity, prior_loss_weight, device)

    unseen = {
        encoded.latents_key(visit): visit for visit in visits if not cache.has_latents(encoded.latents_key(visit))
    }
    if unseen:
        vae = load_vae(weights, architecture, dtype, device)
        _log.info("encoding %d pictures", len(unseen))
        for key, visit in tqdm(sorted(unseen.items()), desc="encoding", unit="picture", disable=None):  # on a terminal
            cache.put_latents(key, encode_pixels(vae, _pixels(visit))[0].cpu())
        del vae
        release_memory()

    said = {visit.caption for visit in visits}
    if plain_captions:
        said |= {plain_caption(visit) for visit in visits}
    captions = sorted(caption for caption in said if not cache.has_text(encoded.text_key(caption)))
    if captions:
        _log.info("encoding %d captions", len(captions))
        for caption, embeds in zip(
            captions, encode_captions(captions, weights, architecture, dtype, device), strict=True
        ):
            cache.put_text(encoded.text_key(caption), embeds)
    return encoded


def _pixels(visit: Visit) -> Tensor:
    """The picture in its bucket: (1, 3, 8H, 8W) float32 in [-1, 1]."""
    data = visit.item.path.read_bytes() if visit.item.path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != visit.item.digest:
        # Under the old digest the cache would hold the new picture's latents.
        raise UserError(Problem("changed since this run was prepared", where=str(visit.item.path), do="Run it again"))
    picture = open_upright(data)
    cut = torch.from_numpy(cut_to_bucket(picture, visit.item.placement, visit.flipped).copy())  # (8H, 8W, 3)
    return cut.permute(2, 0, 1)[None].float() / 127.5 - 1

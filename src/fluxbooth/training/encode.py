"""The encode phase: every visit's latents and text embeddings into the cache; then the VAE and encoders are gone.

B visits, C = 16 latent channels, H W latent rows and columns, S text tokens, D features.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from fluxbooth.dataset.captions import class_caption
from fluxbooth.dataset.pictures import cut_mask, cut_to_bucket, mask_in, open_upright
from fluxbooth.dataset.plan import MicroBatch, Visit
from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.device import free_memory, release_memory, to_device
from fluxbooth.flux.parts import load_vae
from fluxbooth.flux.pixels import encode_pixels
from fluxbooth.flux.text import PooledText, encode_captions
from fluxbooth.host.files import DigestMemory
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.cache import EncodedCache, cache_key
from fluxbooth.training.memory_plan import VALUES_OF_PIXEL

_log = logging.getLogger("fluxbooth")
_PICTURES_AT_ONCE = 4
"""What a GPU encodes together at most."""


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
    masks: Tensor
    """(B, 1, H, W) float32, 0 to 1: how much each latent counts."""


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
        """Where the latents of a visit are kept: bytes of the picture and its mask, geometry, changes, flip, VAE."""
        item, placement = visit.item, visit.item.placement
        spec = item.picture_spec
        changes: list[object] = []
        if spec.random_crop or spec.color_aug:
            changes += ["variant", spec.random_crop, spec.color_aug, visit.variant]
        if spec.interpolation:
            changes += ["interpolation", spec.interpolation]
        if item.mask:
            changes += ["mask", item.mask_digest, item.mask == item.path]
        return cache_key(item.digest, placement.resized, placement.crop, visit.flipped, self._vae_identity, *changes)

    def text_key(self, caption: str) -> str:
        """Where the embeddings of a caption are kept: its words, the encoders, their lengths."""
        return cache_key(caption, self._text_identity)

    def batch(self, micro_batch: MicroBatch) -> Batch:
        """Read one micro-batch onto the device."""
        prompt_embeds, pooled_prompt_embeds = self.texts([visit.caption for visit in micro_batch])
        weights = [self._prior_loss_weight if visit.item.is_reg else 1.0 for visit in micro_batch]
        entries = [self._cache.latents(self.latents_key(visit)) for visit in micro_batch]
        return Batch(
            latents=to_device(torch.stack([entry.latents for entry in entries]), self._device),
            masks=to_device(torch.stack([entry.mask[None] for entry in entries]), self._device),
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            loss_weights=to_device(torch.tensor(weights), self._device),
        )

    def class_texts(self, micro_batch: MicroBatch, of_base: bool = False) -> tuple[Tensor, Tensor]:
        """Read the embeddings of the captions with the class noun alone: (B, S, D) of T5, (B, D) of CLIP.

        Args:
            of_base: by the base model's CLIP, also where CLIP is trained.
        """
        return self.texts([plain_caption(visit) for visit in micro_batch], of_base)

    def texts(self, captions: Sequence[str], of_base: bool = False) -> tuple[Tensor, Tensor]:
        """Read the embeddings of captions: (B, S, D) of T5, (B, D) of CLIP, as it is trained at this moment.

        Args:
            of_base: by the base model's CLIP, also where CLIP is trained.
        """
        texts = [self._cache.text(self.text_key(caption)) for caption in captions]
        prompt_embeds = to_device(torch.stack([text.prompt_embeds for text in texts]), self._device)
        if self.pooled_text is not None and not of_base:
            return prompt_embeds, self.pooled_text(captions)
        return prompt_embeds, to_device(torch.stack([text.pooled_prompt_embeds for text in texts]), self._device)


def plain_caption(visit: Visit) -> str:
    """A visit's caption with the class noun alone; one that names no concept stays as it is.

    A regularization picture's says no more from the start, and dropout may leave nothing of a caption.
    """
    item, caption = visit.item, visit.caption
    for tokens in () if item.is_reg else (item.concept, *item.also_shows):
        if tokens in caption:
            caption = class_caption(caption, tokens)
    return caption


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
    pictures_alone: bool = False,
    further_captions: Collection[str] = (),
) -> EncodedVisits:
    """Encode what the cache lacks of `visits`; the VAE, CLIP and T5 are loaded, used and freed in turn.

    With `plain_captions` the captions with the class noun alone are encoded, too; with `pictures_alone` no captions;
    with `further_captions` these, which no visit has.
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
        with tqdm(total=len(unseen), desc="encoding", unit="picture", disable=None) as bar:  # on a terminal
            most = partial(pictures_at_once, dtype=dtype, free=_free_for_pictures(device))
            for keys in _batches_of_one_bucket(unseen, most):
                pixels, masks = zip(*(_pixels_and_mask(unseen[key]) for key in keys), strict=True)
                latents = encode_pixels(vae, torch.cat(pixels)).cpu()
                for key, encoded_picture, mask in zip(keys, latents, masks, strict=True):
                    cache.put_latents(key, encoded_picture, mask)
                bar.update(len(keys))
        del vae
        release_memory()
    if pictures_alone:
        return encoded

    said = {visit.caption for visit in visits} | set(further_captions)
    if plain_captions:
        said |= {plain_caption(visit) for visit in visits}
    captions = sorted(caption for caption in said if not cache.has_text(encoded.text_key(caption)))
    if captions:
        _log.info("encoding %d captions", len(captions))
        for caption, embeds in zip(
            captions, encode_captions(captions, weights, architecture, dtype, device), strict=True
        ):
            cache.put_text(encoded.text_key(caption), embeds)
    swept = cache.sweep([encoded.latents_key(visit) for visit in visits] + [encoded.text_key(text) for text in said])
    if swept:
        _log.info("deleted %d cache entries that nothing used for a month", swept)
    return encoded


def pictures_at_once(pixels: int, dtype: torch.dtype, free: int) -> int:
    """How many pictures of so many pixels the VAE encodes together in `free` bytes: one in any case, four at most."""
    return max(1, min(_PICTURES_AT_ONCE, free // (pixels * VALUES_OF_PIXEL * dtype.itemsize)))


def _free_for_pictures(device: torch.device) -> int:
    """Bytes free on a GPU; none on a processor, which gains nothing by several: one by one the latents are the same."""
    return 0 if device.type == "cpu" else free_memory(device, None) or 0


def _batches_of_one_bucket(unseen: Mapping[str, Visit], most: Callable[[int], int]) -> Iterator[list[str]]:
    """Yield keys whose pictures have one size, always in the same order.

    Args:
        most: how many of so many pixels go together.
    """

    def bucket(key: str) -> tuple[int, int]:
        return unseen[key].item.placement.bucket

    for size, keys in groupby(sorted(unseen, key=lambda key: (bucket(key), key)), key=bucket):
        of_bucket, together = list(keys), most(prod(size))
        yield from (of_bucket[first : first + together] for first in range(0, len(of_bucket), together))


def _pixels_and_mask(visit: Visit) -> tuple[Tensor, Tensor | None]:
    """The picture in its bucket, (1, 3, 8H, 8W) float32 in [-1, 1], and its mask, (H, W) float32."""
    item = visit.item
    data = _unchanged(item.path, item.digest)
    how = item.placement, item.picture_spec, visit.flipped, f"{item.digest}/{visit.variant}"
    cut = torch.from_numpy(cut_to_bucket(open_upright(data), *how).copy())  # (8H, 8W, 3)
    pixels = cut.permute(2, 0, 1)[None].float() / 127.5 - 1
    if item.mask is None:
        return pixels, None
    mask = mask_in(_unchanged(item.mask, item.mask_digest), of_alpha=item.mask == item.path)
    return pixels, torch.from_numpy(cut_mask(mask, *how).copy())


def _unchanged(path: Path, digest: str) -> bytes:
    if not path.is_file():
        raise UserError(Problem("is gone", where=str(path), do="Bring it back, and run the same command again"))
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        # Under the old digest the cache would hold the new picture's latents.
        raise UserError(Problem("changed since this run was prepared", where=str(path), do="Run it again"))
    return data

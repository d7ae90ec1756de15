"""The miniature: FLUX.1's own four classes at tiny size, made from a fixed seed, in files like FLUX.1-dev's.

It goes through every loader that FLUX.1-dev goes through. Its weights are untrained: it can be taught and it can
draw, but what it draws resembles nothing.
"""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from importlib import resources
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.flow import generator_for
from fluxbooth.flux.keys import clip_source, t5_source, transformer_source, vae_source
from fluxbooth.flux.single_file import save_single_file
from fluxbooth.host.weights import MINIATURE, BaseWeights, flux_dev_weights

# Changes whenever the files change, so that an older cache is not taken for this miniature.
_REVISION = 1
_SEED = 0


def miniature_weights(cache: Path) -> BaseWeights:
    """Return the miniature's files below the cache folder, making them first where they are missing (a second)."""
    folder = cache / f"miniature-{_REVISION}"
    complete = flux_dev_weights(folder)
    weights = BaseWeights(
        name=MINIATURE,
        transformer=folder / "checkpoints/miniature.safetensors",
        vae=folder / "vae/miniature_ae.safetensors",
        clip=folder / "text_encoders/miniature_clip.safetensors",
        t5=folder / "text_encoders/miniature_t5.safetensors",
        clip_tokenizer=complete.clip_tokenizer,
        t5_tokenizer=complete.t5_tokenizer,
    )
    if weights.missing():
        _make(weights)
    return weights


def _make(weights: BaseWeights) -> None:
    architecture = bundled_architecture(MINIATURE)
    transformer = _seeded(FluxTransformer2DModel(**architecture.transformer), "transformer")
    vae = _seeded(AutoencoderKL(**architecture.vae), "vae")
    clip = _seeded(CLIPTextModel(CLIPTextConfig(**architecture.clip)), "clip")
    t5 = _seeded(T5EncoderModel(T5Config(**architecture.t5)), "t5")
    about = {"title": "fluxbooth miniature, untrained", "license": "Apache-2.0"}
    levels = len(architecture.vae["block_out_channels"])
    save = partial(save_single_file, dtype=torch.bfloat16, metadata=about)
    save(transformer, weights.transformer, partial(transformer_source, width=architecture.width))
    save(vae, weights.vae, partial(vae_source, levels=levels))
    save(clip, weights.clip, clip_source)
    save(t5, weights.t5, t5_source)
    _save_tokenizer(_clip_tokenizer(architecture.clip), weights.clip_tokenizer)
    _save_tokenizer(_t5_tokenizer(), weights.t5_tokenizer)


def _seeded(model: nn.Module, part: str) -> nn.Module:
    """Fill a model so that signals neither grow nor vanish: gains 1, biases 0, the rest normal with 1 / fan-in."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            fan_in = math.prod(parameter.shape[1:])
            draw = torch.randn(parameter.shape, generator=generator_for("miniature", _SEED, part, name))
            parameter.copy_(draw / math.sqrt(fan_in))
    return model


def _clip_tokenizer(clip: dict[str, int]) -> PreTrainedTokenizerFast:
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = _word_tokenizer(
        special={start: clip["bos_token_id"], end: clip["eos_token_id"]}, size=clip["vocab_size"]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, clip["bos_token_id"]), (end, clip["eos_token_id"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end)


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = _word_tokenizer(special={"<pad>": 0, "</s>": 1}, size=3)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def _word_tokenizer(special: dict[str, int], size: int) -> Tokenizer:
    """A tokenizer with one token a known word; any other word is spelled in characters."""
    words = json.loads((resources.files("fluxbooth.flux") / "configs/miniature/words.json").read_text(encoding="utf-8"))
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    pieces = ["▁" + word for word in words] + ["▁", *characters]
    # A word must beat its spelling, and "▁" + spelling must be possible for every word.
    scores = {piece: (-1.0 if len(piece) > 2 or piece == "▁a" else -10.0) for piece in pieces}
    vocabulary = [(f"<unused{index}>", -100.0) for index in range(max(size, len(special) + 1 + len(scores)))]
    for token, index in special.items():
        vocabulary[index] = (token, 0.0)
    free = [index for index in range(len(vocabulary)) if index not in special.values()]
    unknown = free[0]
    vocabulary[unknown] = ("<unk>", 0.0)
    for index, piece in zip(free[1:], scores, strict=False):
        vocabulary[index] = (piece, scores[piece])
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    # Made beside and renamed: a folder half written would count as there.
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    tokenizer.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)

"""The last step: what was trained, as the files that the package ships: bfloat16, under FLUX.1's own key names."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.keys import clip_source, t5_source, transformer_source, vae_source
from fluxbooth.flux.single_file import save_single_file
from miniature.flow import Drawer
from miniature.latents import load_vae
from miniature.towers import load_towers
from miniature.word_tokenizers import clip_tokenizer, t5_tokenizer

_CPU = torch.device("cpu")
# CLIP's own preparation of pictures is by other numbers; these are what the towers were trained with.
_PREPARATION = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def export(training: Path, package: Path) -> None:
    """Write ComfyUI's folders and the scorer's into `package` from the networks in the folder `training`."""
    architecture = bundled_architecture("miniature")
    drawer = Drawer()
    drawer.load_state_dict(torch.load(training / "drawer.pt", weights_only=True))
    towers = load_towers(training, _CPU)
    clip = CLIPTextModel(CLIPTextConfig(**architecture.clip))
    clip.load_state_dict(towers.text_model.state_dict())

    transformer: FluxTransformer2DModel = drawer.transformer
    t5 = T5EncoderModel(T5Config(**architecture.t5))
    t5.load_state_dict(drawer.t5.state_dict())
    save = partial(
        save_single_file, dtype=torch.bfloat16, metadata={"title": "fluxbooth miniature", "license": "Apache-2.0"}
    )
    levels = len(architecture.vae["block_out_channels"])
    save(
        transformer,
        package / "checkpoints/miniature.safetensors",
        partial(transformer_source, width=architecture.width),
    )
    save(load_vae(training, _CPU), package / "vae/miniature_ae.safetensors", partial(vae_source, levels=levels))
    save(clip, package / "text_encoders/miniature_clip.safetensors", clip_source)
    save(t5, package / "text_encoders/miniature_t5.safetensors", t5_source)
    _save_tokenizer(clip_tokenizer(architecture.clip), package / "text_encoders/tokenizer")
    _save_tokenizer(t5_tokenizer(), package / "text_encoders/tokenizer_2")

    scorer = package / "scorers/clip"
    shutil.rmtree(scorer, ignore_errors=True)
    load_towers(training, _CPU, "scorer").to(torch.bfloat16).save_pretrained(scorer)
    for file in scorer.iterdir():
        file.chmod(0o644)  # transformers writes weights that only their owner can read
    _save_tokenizer(clip_tokenizer(architecture.clip), scorer)
    side = architecture.vision["image_size"]
    preparation = {**_PREPARATION, "crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    (scorer / "preprocessor_config.json").write_text(json.dumps(preparation, indent=2) + "\n", encoding="utf-8")


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer.save_pretrained(folder)

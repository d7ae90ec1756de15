"""The shapes of a model: the bundled configurations, and which of them a transformer file belongs to.

Bundled, so that single files load with no network and no second copy of anything.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.weight_files import WeightFiles

LATENT_CHANNELS = 16
PIXELS_PER_LATENT = 8
"""One latent row or column stands for 8 pixels: the VAE halves three times."""
PIXELS_PER_TOKEN = 16
"""The transformer packs 2 x 2 latents into one token."""

_BUNDLED = ("flux-dev", "miniature")
_INPUT_KEYS = ("img_in.weight", "x_embedder.weight")
"""The transformer's first matrix, as black-forest-labs and as diffusers call it."""


@dataclass(frozen=True)
class Architecture:
    """Keyword arguments of the four classes, and the lengths of the two texts."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    clip: dict[str, Any]
    t5: dict[str, Any]
    vision: dict[str, Any]
    """CLIP's vision tower, which only judging reads; empty where the model brings none."""
    clip_tokens: int
    """CLIP's text length: 77."""
    t5_tokens: int
    """T5's text length. 256 for FLUX.1-dev, what ComfyUI pads to: training sees what inference will feed."""

    @property
    def width(self) -> int:
        """Features of a token inside the transformer."""
        return int(self.transformer["attention_head_dim"] * self.transformer["num_attention_heads"])


def bundled_architecture(name: str) -> Architecture:
    """Return one of the two architectures that come with the package: "flux-dev" or "miniature"."""
    folder = resources.files("fluxbooth.flux") / "configs" / name
    configs = {
        part: json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
        for part in ("transformer", "vae", "clip", "t5", "vision", "text")
    }
    text = configs.pop("text")
    return Architecture(**configs, clip_tokens=text["clip_tokens"], t5_tokens=text["t5_tokens"])


def architecture_of(transformer_file: Path) -> Architecture:
    """Find the bundled architecture of a transformer's file or folder by its width; its depth is counted from the keys.

    Raises:
        UserError: when the file is no FLUX transformer, or one of a width that is not bundled.
    """
    shapes = WeightFiles(transformer_file).shapes
    known = {architecture.width: architecture for architecture in map(bundled_architecture, _BUNDLED)}
    input_key = next((key for key in _INPUT_KEYS if key in shapes), None)
    if input_key is None:
        raise UserError(
            Problem(
                f"no FLUX transformer: key '{_INPUT_KEYS[0]}' is missing",
                where=str(transformer_file),
                allowed="a file with black-forest-labs' key names, as flux1-dev.safetensors has them, "
                "or a folder in diffusers' layout",
            )
        )
    width = shapes[input_key][0]
    if width not in known:
        raise UserError(
            Problem(
                f"a FLUX transformer of width {width}",
                where=str(transformer_file),
                allowed=f"width {' or '.join(map(str, known))}",
            )
        )
    architecture = known[width]
    architecture.transformer.update(
        num_layers=_count_blocks("double_blocks|transformer_blocks", shapes),
        num_single_layers=_count_blocks("single_blocks|single_transformer_blocks", shapes),
    )
    return architecture


def _count_blocks(names: str, keys: dict[str, tuple[int, ...]]) -> int:
    return len({found[1] for key in keys if (found := re.match(rf"(?:{names})\.(\d+)\.", key))})

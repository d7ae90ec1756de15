"""The two forms of a FLUX LoRA file: diffusers' key names and kohya's, read as one and written as either.

They differ in more than names: black-forest-labs' code has query, key and value in one matrix, and kohya puts one LoRA
on it where diffusers has three. Three become one of three times the rank, exactly; one becomes three that share A.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.keys import Source, stacked_modules, transformer_source
from fluxbooth.flux.weight_files import header_of

LoraFormat = Literal["diffusers", "kohya"]
_TRANSFORMER, _CLIP = "transformer.", "text_encoder."
_KOHYA_TRANSFORMER, _KOHYA_CLIP = "lora_unet_", "lora_te1_"
_DOWN, _UP, _ALPHA, _DORA_SCALE = ".lora_A.weight", ".lora_B.weight", ".alpha", ".dora_scale"
_KOHYA_DOWN, _KOHYA_UP = ".lora_down.weight", ".lora_up.weight"
_ENDINGS = {"diffusers": (_DOWN, _UP), "kohya": (_KOHYA_DOWN, _KOHYA_UP)}
_CLIP_LAYER = re.compile(r"text_model_encoder_layers_(\d+)_(self_attn|mlp)_(\w+)")
_BLOCK = re.compile(r"((?:double|single)_blocks)_(\d+)_(\w+)")


@dataclass(frozen=True)
class LoraLayer:
    """The LoRA of one matrix: up @ down * alpha / rank, and with DoRA what the rows of matrix and LoRA become."""

    down: Tensor
    """(r, in); diffusers' lora_A, kohya's lora_down."""
    up: Tensor
    """(out, r); diffusers' lora_B, kohya's lora_up."""
    alpha: float
    dora_scale: Tensor | None = None
    """(out, 1) float32, see flux/dora.py; None for a plain LoRA."""

    @property
    def rank(self) -> int:
        """Inner size r."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What up @ down is multiplied by."""
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """What is added to the matrix, before DoRA scales the rows: (out, in) float32."""
        return (self.up.float() @ self.down.float()) * self.scale


def format_of(keys: Iterable[str]) -> LoraFormat:
    """Say whose key names these are."""
    return "kohya" if any(key.startswith((_KOHYA_TRANSFORMER, _KOHYA_CLIP)) for key in keys) else "diffusers"


def check_lora_file(path: Path) -> list[str]:
    """Return the layers of a LoRA file as the file names them, having checked keys and shapes; reads the header only.

    Raises:
        UserError: for a file that is missing or cut, and for keys or shapes that would not be applied.
    """
    if path.is_dir():
        raise UserError(Problem("is a folder", where=str(path), allowed="a LoRA file"))
    shapes = header_of(path)
    down_end, up_end = _ENDINGS[format_of(shapes)]
    layers = sorted(key.removesuffix(down_end) for key in shapes if key.endswith(down_end))
    taken = {f"{layer}{ending}" for layer in layers for ending in (down_end, up_end, _ALPHA, _DORA_SCALE)}
    unknown = sorted(shapes.keys() - taken)
    if not layers or unknown:
        raise UserError(
            Problem(
                f"nothing takes '{unknown[0]}'" if unknown else "holds no LoRA",
                where=str(path),
                allowed="diffusers' key names (transformer.*.lora_A.weight, .lora_B.weight, .alpha) or kohya's "
                "(lora_unet_*.lora_down.weight, .lora_up.weight, .alpha), and .dora_scale",
            )
        )
    for layer in layers:
        down, up, alpha = (shapes.get(f"{layer}{ending}", ()) for ending in (down_end, up_end, _ALPHA))
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or alpha not in ((), (1,)):
            raise UserError(
                Problem(
                    f"'{layer}' has shapes {list(down)}, {list(up)} and {list(alpha)}",
                    where=str(path),
                    allowed="[r, in], [out, r], []",
                )
            )
        scale = shapes.get(f"{layer}{_DORA_SCALE}")
        if scale is not None and tuple(scale) != (up[0], 1):
            raise UserError(
                Problem(
                    f"'{layer}' has a dora_scale of shape {list(scale)}",
                    where=str(path),
                    allowed=f"[{up[0]}, 1], a number for each output; scales of inputs are another kind of DoRA",
                )
            )
        if format_of(shapes) == "kohya":
            _diffusers_names(layer, path)
    return layers


def read_modules(path: Path) -> Iterator[tuple[str, LoraLayer]]:
    """Yield what a LoRA file holds under the file's own names, one module at a time.

    A module without `.alpha` counts as alpha = rank, as ComfyUI has it.

    Raises:
        UserError: as `check_lora_file` does.
    """
    names = check_lora_file(path)
    with safe_open(path, framework="pt") as file:
        present = set(file.keys())
        down_end, up_end = _ENDINGS[format_of(present)]
        for name in names:
            down, up = file.get_tensor(f"{name}{down_end}"), file.get_tensor(f"{name}{up_end}")
            alpha = float(file.get_tensor(f"{name}{_ALPHA}")) if f"{name}{_ALPHA}" in present else float(len(down))
            scale = file.get_tensor(f"{name}{_DORA_SCALE}").float() if f"{name}{_DORA_SCALE}" in present else None
            yield name, LoraLayer(down, up, alpha, scale)


def read_layers(path: Path) -> Iterator[tuple[str, LoraLayer]]:
    """Yield a LoRA file's layers under diffusers' names, whichever form the file has.

    Raises:
        UserError: as `check_lora_file` does.
    """
    for name, layer in read_modules(path):
        yield from _split(name, layer, path) if format_of([name]) == "kohya" else [(name, layer)]


def as_tensors(modules: Iterable[tuple[str, LoraLayer]]) -> dict[str, Tensor]:
    """Return the tensors of a file that holds these modules under these names, with an `.alpha` a module.

    Without `.alpha` ComfyUI applies scale 1 whatever the metadata say (comfy/weight_adapter/lora.py).
    """
    tensors = {}
    for name, layer in modules:
        down_end, up_end = _ENDINGS[format_of([name])]
        tensors[name + down_end], tensors[name + up_end] = layer.down, layer.up
        tensors[name + _ALPHA] = torch.tensor(layer.alpha, dtype=torch.float32)
        if layer.dora_scale is not None:
            tensors[name + _DORA_SCALE] = layer.dora_scale
    return tensors


def as_kohya(layers: Iterable[tuple[str, LoraLayer]]) -> list[tuple[str, LoraLayer]]:
    """Return layers with diffusers' names as kohya's modules; those that share a matrix there become one.

    Raises:
        UserError: for a layer that kohya's names have no word for, and for a matrix of which DoRA scales some rows.
    """
    groups: dict[str, dict[int, LoraLayer]] = {}
    for name, layer in layers:
        place = _kohya_place(name, layer)
        groups.setdefault(place.key, {})[place.first_row] = layer
    return [
        (name, replace(_joined(members, rows), dora_scale=_joined_scales(name, members, rows)))
        for name, members in groups.items()
        for rows in [_rows_of(name, members)]
    ]


def kohya_name(module: str) -> str:
    """Return kohya's name of the LoRA on a linear of the transformer: "lora_unet_double_blocks_0_img_attn_qkv".

    Raises:
        KeyError: for a module that the transformer does not have.
    """
    key = transformer_source(f"{module}.weight", width=0).key
    return _KOHYA_TRANSFORMER + key.removesuffix(".weight").replace(".", "_")


def _kohya_place(name: str, layer: LoraLayer) -> Source:
    """Return kohya's name of a layer, and at which row of that matrix it begins."""
    if name.startswith(_CLIP):
        return Source(_KOHYA_CLIP + name.removeprefix(_CLIP).replace(".", "_"))
    try:
        source = transformer_source(f"{name.removeprefix(_TRANSFORMER)}.weight", width=layer.down.shape[1])
    except KeyError as error:
        raise UserError(Problem(f"kohya's format has no name for '{name}'", do="Keep diffusers' format")) from error
    if source.swap_halves:
        raise UserError(Problem(f"kohya's format has '{name}' in another order", do="Keep diffusers' format"))
    return replace(source, key=_KOHYA_TRANSFORMER + source.key.removesuffix(".weight").replace(".", "_"))


def _rows_of(name: str, members: Mapping[int, LoraLayer]) -> int:
    """Rows of the whole matrix, also where a LoRA leaves some of the matrices in it alone."""
    width = next(iter(members.values())).down.shape[1]
    if name.endswith("_attn_qkv"):
        return 3 * width
    if name.endswith("_linear1"):
        return 7 * width
    (layer,) = members.values()
    return layer.up.shape[0]


def _joined(members: Mapping[int, LoraLayer], rows: int) -> LoraLayer:
    """Join the LoRAs of matrices that lie below each other into the LoRA of the whole; {first row: layer}."""
    first = next(iter(members.values()))
    scale = next((layer.scale for layer in members.values() if layer.scale), 1.0)
    shared = all(layer.scale == first.scale and torch.equal(layer.down, first.down) for layer in members.values())
    rank = first.rank if shared else sum(layer.rank for layer in members.values())
    up = torch.zeros(rows, rank, dtype=first.up.dtype)
    column = 0
    for row, layer in members.items():
        # One scale for all: the others' difference goes into their up, which is exact where all are alike.
        ratio = layer.scale / scale
        up[row : row + layer.up.shape[0], column : column + layer.rank] = layer.up if ratio == 1 else layer.up * ratio
        column += 0 if shared else layer.rank
    down = first.down if shared else torch.cat([layer.down for layer in members.values()])
    return LoraLayer(down.contiguous(), up, scale * rank)


def _joined_scales(name: str, members: Mapping[int, LoraLayer], rows: int) -> Tensor | None:
    """Put the scales of matrices that lie below each other into one column, (rows, 1).

    A row without a scale of its own would need the length that it has in the base weights, which no LoRA file has.
    """
    scales = [members[row].dora_scale for row in sorted(members)]
    present = [scale for scale in scales if scale is not None]
    if not present:
        return None
    if len(present) < len(scales) or sum(len(scale) for scale in present) != rows:
        raise UserError(
            Problem(
                f"DoRA is on parts of '{name}' alone, and kohya's format has one scale for all of it",
                do="Keep diffusers' format",
            )
        )
    return torch.cat(present)


def _split(name: str, layer: LoraLayer, path: Path) -> Iterator[tuple[str, LoraLayer]]:
    """Yield diffusers' layers of one of kohya's: one, or one for each matrix that is stacked there.

    What `_joined` put side by side comes apart again: columns of `up` that are zero for a matrix go.
    """
    names = _diffusers_names(name, path)
    width = layer.down.shape[1]
    row = 0
    for number, target in enumerate(names):
        height = width if len(names) > 1 and number < 3 else layer.up.shape[0] - row
        up = layer.up[row : row + height]
        scale = None if layer.dora_scale is None else layer.dora_scale[row : row + height].contiguous()
        row += height
        used = up.any(dim=0).nonzero().flatten()
        if len(names) == 1 or len(used) == 0:
            used = torch.arange(layer.rank)
        alpha = layer.scale * len(used)
        yield target, LoraLayer(layer.down[used].contiguous(), up[:, used].contiguous(), alpha, scale)


def _diffusers_names(name: str, path: Path) -> tuple[str, ...]:
    """Return diffusers' names of what kohya's module `name` is a LoRA of, from the first row down."""
    if found := _CLIP_LAYER.fullmatch(name.removeprefix(_KOHYA_CLIP)):
        return (f"{_CLIP}text_model.encoder.layers.{found[1]}.{found[2]}.{found[3]}",)
    if found := _BLOCK.fullmatch(name.removeprefix(_KOHYA_TRANSFORMER)):
        modules = stacked_modules(found[1], int(found[2]), found[3])
        if modules:
            return tuple(_TRANSFORMER + module for module in modules)
    raise UserError(
        Problem(
            f"nothing takes '{name}'",
            where=str(path),
            allowed="lora_unet_double_blocks_*, lora_unet_single_blocks_*, lora_te1_text_model_encoder_layers_*",
        )
    )


def metadata_of(path: Path) -> dict[str, str]:
    """Return what a LoRA file says about itself."""
    header_of(path)
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})

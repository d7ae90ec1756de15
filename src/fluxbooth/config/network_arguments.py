"""kohya's network_args: what a LoRA sits on and how fast its halves learn, each "name=value"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_RATIOS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
_BLOCKS = ("train_blocks", "train_double_block_indices", "train_single_block_indices")
_DORA = "LoRA files have no place for DoRA's magnitudes, and kohya's lora_flux has no DoRA; train a plain LoRA"
_OWN_RATE = "only the LoRA as a whole drops inputs, by network_dropout"
_WHY_NOT = {
    **dict.fromkeys(("use_dora", "dora_wd", "weight_decompose"), _DORA),
    **dict.fromkeys(("rank_dropout", "module_dropout"), _OWN_RATE),
    "train_t5xxl": "T5 is not trained",
    "split_qkv": "query, key and value have matrices of their own anyway; leave it out",
}


@dataclass(frozen=True)
class NetworkArguments:
    """network_args, checked but for the numbers of blocks, which depend on the model."""

    train_blocks: str = "all"
    """ "all", "double" or "single"."""
    train_double_block_indices: str = "all"
    """ "all", "none" or "0-3,7"."""
    train_single_block_indices: str = "all"
    transformer_up_ratio: float = 1.0
    """How many times faster B learns than A (LoRA+)."""
    text_up_ratio: float = 1.0


def read_network_arguments(arguments: Sequence[str]) -> NetworkArguments:
    """Read `arguments`, each "name=value".

    Raises:
        ValueError: for what is not of that form, not known, or has a value that cannot be.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = (part.strip() for part in argument.partition("="))
        if not equals:
            raise ValueError(f"'{argument}' is not name=value")
        if name in _WHY_NOT:
            raise ValueError(f"{name}: {_WHY_NOT[name]}")
        if name not in (*_BLOCKS, *_RATIOS):
            raise ValueError(f"'{name}' is not known; known are {', '.join((*_BLOCKS, *_RATIOS))}")
        if name in given:
            raise ValueError(f"{name} is given twice")
        given[name] = value
    train_blocks = given.get("train_blocks", "all")
    if train_blocks not in ("all", "double", "single"):
        raise ValueError(f"train_blocks is '{train_blocks}'; it can be all, double or single")
    both = _ratio(given, "loraplus_lr_ratio", 1.0)
    return NetworkArguments(
        train_blocks,
        given.get("train_double_block_indices", "all"),
        given.get("train_single_block_indices", "all"),
        _ratio(given, "loraplus_unet_lr_ratio", both),
        _ratio(given, "loraplus_text_encoder_lr_ratio", both),
    )


def _ratio(given: dict[str, str], name: str, otherwise: float) -> float:
    if name not in given:
        return otherwise
    try:
        ratio = float(given[name])
    except ValueError:
        ratio = math.nan
    if not 0 < ratio < math.inf:
        raise ValueError(f"{name} is '{given[name]}'; it is a number above 0")
    return ratio

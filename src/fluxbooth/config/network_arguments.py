"""kohya's network_args: what a LoRA sits on, whether it is a DoRA, and how fast its halves learn, each "name=value"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

_Number = TypeVar("_Number", int, float)
_LARGEST_RANK = 4096
_RATIOS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
_BLOCKS = ("train_blocks", "train_double_block_indices", "train_single_block_indices")
# kohya's words for the rank of one kind of layer, and what is found in the names of its LoRAs.
_KINDS = {
    "img_attn_dim": "img_attn",
    "txt_attn_dim": "txt_attn",
    "img_mlp_dim": "img_mlp",
    "txt_mlp_dim": "txt_mlp",
    "img_mod_dim": "img_mod",
    "txt_mod_dim": "txt_mod",
    "single_dim": "single_blocks.*linear",
    "single_mod_dim": "modulation",
}
_OWN = ("network_reg_dims", "network_reg_lrs")
_KNOWN = (*_BLOCKS, *_KINDS, *_OWN, *_RATIOS, "use_dora")
_DORA = ("use_dora", "dora_wd", "weight_decompose")
"""PEFT's name, LyCORIS' and sd-scripts' forks'."""
_OWN_RATE = "only the LoRA as a whole drops inputs, by network_dropout"
_WHY_NOT = {
    **dict.fromkeys(("rank_dropout", "module_dropout"), _OWN_RATE),
    "in_dims": "the layers before the blocks are not trained",
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
    ranks: tuple[tuple[str, int], ...] = ()
    """Patterns over layers' names as kohya has them, and ranks, 0 for none; the first that is found in a name wins."""
    rates: tuple[tuple[str, float], ...] = ()
    """The same for learning rates."""
    use_dora: bool = False
    """Whether the lengths of a matrix's rows are learned beside the LoRA (DoRA)."""


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
        if name in _DORA:
            name = "use_dora"
        if name not in _KNOWN:
            raise ValueError(f"'{name}' is not known; known are {', '.join(_KNOWN)}")
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
        (
            *_pairs(given, "network_reg_dims", _rank),
            *((pattern, _rank(name, given[name])) for name, pattern in _KINDS.items() if name in given),
        ),
        _pairs(given, "network_reg_lrs", _rate),
        _switch(given, "use_dora"),
    )


def _pairs(
    given: Mapping[str, str], name: str, number: Callable[[str, str], _Number]
) -> tuple[tuple[str, _Number], ...]:
    """Read "pattern=number,pattern=number"."""
    pairs = []
    for pair in given[name].split(",") if name in given else ():
        pattern, equals, value = (part.strip() for part in pair.rpartition("="))
        if not equals or not pattern:
            raise ValueError(f"{name}: '{pair}' is not pattern=number")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{name}: '{pattern}' is no pattern: {error}") from error
        pairs.append((pattern, number(name, value)))
    return tuple(pairs)


def _rank(name: str, value: str) -> int:
    if not value.isdecimal() or int(value) > _LARGEST_RANK:
        raise ValueError(
            f"{name} is '{value}'; it is a rank from 0 to {_LARGEST_RANK}, and 0 leaves these layers alone"
        )
    return int(value)


def _rate(name: str, value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"{name} is '{value}'; it is a rate above 0 (network_reg_dims=...=0 leaves layers alone)")
    return rate


def _switch(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise ValueError(f"{name} is '{given[name]}'; it can be true or false")
    return value in ("true", "1")


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

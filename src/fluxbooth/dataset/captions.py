"""The caption of a picture, and how a visit may see it changed."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from pathlib import Path

from fluxbooth.config.specs import CaptionSpec

_OPENING, _CLOSING = "\0(", "\0)"
"""Stand for braces that are meant as such; no text file has the character."""


class UnreadableCaptionError(Exception):
    """A caption file that holds no caption; the message says why."""


@dataclass(frozen=True)
class Moment:
    """When a caption is seen."""

    epoch: int
    """From 0."""
    step: int
    """Optimizer steps done."""
    steps: int
    """Optimizer steps of the run."""


def caption_of(picture: Path, extension: str, class_tokens: str, all_lines: bool = False) -> str:
    """Return the first line of the picture's caption file, or `class_tokens` where it has none.

    kohya, library/train_util.read_caption: only the first line counts, but where wildcards are on.

    Args:
        all_lines: return every line that says something.

    Raises:
        UnreadableCaptionError: for a file that is empty or not UTF-8.
    """
    file = picture.with_suffix(extension)
    if not file.is_file():
        return class_tokens
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UnreadableCaptionError(f"not UTF-8 at byte {error.start}") from error
    if not lines:
        raise UnreadableCaptionError("it is empty")
    return "\n".join(lines) if all_lines else lines[0]


def seen_caption(written: str, spec: CaptionSpec, moment: Moment, randomness: random.Random) -> str:
    """Return what one visit sees of a caption, after everything that its data.toml asks for.

    kohya, library/train_util.BaseDataset.process_caption, in its order: prefix and suffix, dropout of the whole,
    wildcards, fixed tags apart, warm-up, shuffle, dropout of tags, secondary separator. One thing differs: of several
    lines one is chosen first, so that each gets the prefix and the suffix. Tags taken apart are joined by ", ".
    """
    line = randomness.choice(written.split("\n")) if spec.wildcard else written.split("\n")[0]
    caption = " ".join(part for part in (spec.prefix, line, spec.suffix) if part)
    # Drawn in any case: what comes after does not depend on whether there is dropout.
    dropped = randomness.random() < spec.dropout_rate
    if spec.dropout_every_n_epochs:
        dropped = dropped or (moment.epoch + 1) % spec.dropout_every_n_epochs == 0
    if dropped:
        return ""
    if spec.wildcard:
        caption = _one_of_each(caption, randomness)
    fixed_by_separator = bool(spec.keep_tokens_separator) and spec.keep_tokens_separator in caption
    if spec.shuffle or spec.tag_dropout_rate or spec.warmup_step or fixed_by_separator:
        before, tags, behind = _fixed_apart(caption, spec)
        tags = tags[: _warm_tags(len(tags), spec, moment)]
        if spec.shuffle:
            randomness.shuffle(tags)
        tags = [tag for tag in tags if randomness.random() >= spec.tag_dropout_rate]
        caption = ", ".join(before + tags + behind)
    if spec.secondary_separator:
        caption = caption.replace(spec.secondary_separator, spec.separator)
    return caption


def _one_of_each(caption: str, randomness: random.Random) -> str:
    """Choose one of each `{a|b}`; `{{` and `}}` are braces."""
    line = caption.replace("{{", _OPENING).replace("}}", _CLOSING)
    line = re.sub(r"\{([^{}]+)\}", lambda found: randomness.choice(found[1].split("|")), line)
    return line.replace(_OPENING, "{").replace(_CLOSING, "}")


def _fixed_apart(caption: str, spec: CaptionSpec) -> tuple[list[str], list[str], list[str]]:
    """Return the fixed tags at the front, those that change, and the fixed ones at the end."""
    if spec.keep_tokens_separator and spec.keep_tokens_separator in caption:
        parts = caption.split(spec.keep_tokens_separator, 2)
        before, tags, behind = ([tag for tag in _tags(part, spec) if tag] for part in [*parts, ""][:3])
        return before, tags, behind
    tags = _tags(caption, spec)
    return tags[: spec.keep_tokens], tags[spec.keep_tokens :], []


def _tags(text: str, spec: CaptionSpec) -> list[str]:
    return [tag.strip() for tag in text.split(spec.separator)]


def _warm_tags(count: int, spec: CaptionSpec, moment: Moment) -> int:
    """How many of `count` tags a step sees: from `warmup_min` on, one more at a time, until all."""
    steps = spec.warmup_step * moment.steps if spec.warmup_step < 1 else spec.warmup_step
    if moment.step >= steps:
        return count
    return math.floor(moment.step * ((count - spec.warmup_min) / steps)) + spec.warmup_min


def class_caption(caption: str, *class_tokens: str) -> str:
    """Return a caption with the class noun alone where it has class tokens: "tjtoy toy on a desk" is "toy on a desk".

    Class tokens are a made-up word and then the class noun, one string for each concept that the caption names.

    Raises:
        ValueError: for class tokens of one word, and for a caption that lacks them.
    """
    for tokens in class_tokens:
        _, _, noun = tokens.partition(" ")
        if not noun:
            raise ValueError(f"class_tokens '{tokens}' has no class noun after its first word")
        if tokens not in caption:
            raise ValueError(f"the caption '{caption}' lacks the class_tokens '{tokens}'")
        caption = caption.replace(tokens, noun)
    return caption

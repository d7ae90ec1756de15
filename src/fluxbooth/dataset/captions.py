"""The caption of a picture, and how a visit may see it changed."""

from __future__ import annotations

import random
from pathlib import Path


class UnreadableCaptionError(Exception):
    """A caption file that holds no caption; the message says why."""


def caption_of(picture: Path, extension: str, class_tokens: str) -> str:
    """Return the first line of the picture's caption file, or `class_tokens` where it has none.

    kohya, library/train_util.read_caption: only the first line counts.

    Raises:
        UnreadableCaptionError: for a file that is empty or not UTF-8.
    """
    file = picture.with_suffix(extension)
    if not file.is_file():
        return class_tokens
    try:
        lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    except UnicodeDecodeError as error:
        raise UnreadableCaptionError(f"not UTF-8 at byte {error.start}") from error
    if not lines:
        raise UnreadableCaptionError("it is empty")
    return lines[0].strip()


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


def shuffled_caption(caption: str, separator: str, keep_tokens: int, randomness: random.Random) -> str:
    """Shuffle the tags of a caption behind the first `keep_tokens`; they are joined by ", " as kohya joins them."""
    tags = [tag.strip() for tag in caption.split(separator)]
    kept, rest = tags[:keep_tokens], tags[keep_tokens:]
    randomness.shuffle(rest)
    return ", ".join(kept + rest)

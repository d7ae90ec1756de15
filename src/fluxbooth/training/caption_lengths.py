"""Captions as the two text encoders read them: in pieces, of which a long caption loses the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from fluxbooth.dataset.caption_findings import whole_captions
from fluxbooth.dataset.findings import Finding
from fluxbooth.dataset.items import Item
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.parts import load_tokenizers
from fluxbooth.host.weights import BaseWeights

_AT_ONCE = 4096
"""Captions that go through a tokenizer together, so that a hundred thousand do not fill the memory."""
_WORDS_SHOWN = 12


@dataclass(frozen=True)
class ReadCaption:
    """One caption as one encoder reads it."""

    caption: str
    pieces: tuple[str, ...]
    """Its tokens as text, without those that mark start and end; a space before a piece begins a word."""
    read: int
    """How many of the pieces the encoder reads; the others are cut off."""
    cut: str
    """What the cut pieces stand for in the caption; empty where nothing is cut."""
    marks: int
    """Tokens beside the pieces that the length counts, too: start and end."""


def read_captions(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], tokens: int) -> Iterator[ReadCaption]:
    """Take captions apart as an encoder of `tokens` tokens does."""
    for first in range(0, len(captions), _AT_ONCE):
        batch = list(captions[first : first + _AT_ONCE])
        encoded = tokenizer(batch, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
        for caption, ids, offsets, is_mark in zip(
            batch, encoded.input_ids, encoded.offset_mapping, encoded.special_tokens_mask, strict=True
        ):
            inner = [place for place, mark in enumerate(is_mark) if not mark]
            marks = len(ids) - len(inner)
            read = min(len(inner), max(0, tokens - marks))
            cut = caption[offsets[inner[read]][0] :].strip() if read < len(inner) else ""
            yield ReadCaption(caption, tuple(_text_of(tokenizer, ids[place]) for place in inner), read, cut, marks)


def cut_captions(items: Sequence[Item], weights: BaseWeights, architecture: Architecture) -> Iterator[Finding]:
    """Say which captions are longer than CLIP or T5 reads, and which words are cut; loads the tokenizers alone."""
    where: dict[str, Item] = {}
    for item in items:
        for caption in whole_captions(item):
            where.setdefault(caption, item)
    captions = list(where)
    lengths = (("CLIP", architecture.clip_tokens), ("T5", architecture.t5_tokens))
    for tokenizer, (encoder, tokens) in zip(load_tokenizers(weights), lengths, strict=True):
        for caption, count, cut in _cuts(tokenizer, captions, tokens):
            item = where[caption]
            words = cut.split()
            shown = " ".join(words[:_WORDS_SHOWN]) + (" ..." if len(words) > _WORDS_SHOWN else "")
            file = item.path.with_suffix(item.caption_extension)
            yield Finding(
                # CLIP's part is one vector for all of the picture, and T5 reads on: only its cut is a loss.
                "warning" if encoder == "T5" else "note",
                f"the caption has {count} of {encoder}'s {tokens} tokens; it does not read '{shown}'",
                str(file if file.is_file() else item.path),
                "Shorten it, or put what matters first",
                f"longer than {encoder} reads",
            )


def _cuts(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], tokens: int) -> Iterator[tuple[str, int, str]]:
    """Yield the captions that are too long, with their number of tokens and the words that are cut."""
    for first in range(0, len(captions), _AT_ONCE):
        batch = list(captions[first : first + _AT_ONCE])
        lengths = [len(ids) for ids in tokenizer(batch, verbose=False).input_ids]
        long = [caption for caption, length in zip(batch, lengths, strict=True) if length > tokens]
        for read in read_captions(tokenizer, long, tokens):
            yield read.caption, len(read.pieces) + read.marks, read.cut


def _text_of(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as text; "▁" before it and "</w>" behind it stand for the space there."""
    text: str = tokenizer.convert_ids_to_tokens(token)
    if text.endswith("</w>"):
        text = tokenizer.decode([token])
        return text.strip() + " "
    return text.replace("▁", " ")

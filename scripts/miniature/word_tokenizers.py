"""The miniature's two tokenizers: one token for each word of the world, characters for all others."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_WORDS = Path(__file__).with_name("words.json")


def clip_tokenizer(clip: dict[str, int]) -> PreTrainedTokenizerFast:
    """CLIP's: a start token, the words, an end token that also pads."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = _word_tokenizer(
        special={start: clip["bos_token_id"], end: clip["eos_token_id"]}, size=clip["vocab_size"]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, clip["bos_token_id"]), (end, clip["eos_token_id"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """T5's: the words, an end token, padding."""
    tokenizer = _word_tokenizer(special={"<pad>": 0, "</s>": 1}, size=3)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def _word_tokenizer(special: dict[str, int], size: int) -> Tokenizer:
    """A tokenizer with one token a known word; any other word is spelled in characters."""
    words = json.loads(_WORDS.read_text(encoding="utf-8"))
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

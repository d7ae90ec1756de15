"""Captioning models of the real classes with a handful of random weights: what they say means nothing, but depends on
the picture."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BartTokenizer,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
)

_WORDS = ["a", "red", "blue", "green", "toy", "car", "on", "under", "the", "desk", "grass", "photo", "of", "small"]
_SIZE = {"height": 32, "width": 32}


def save_blip(folder: Path) -> None:
    """Save a BLIP of one layer a tower."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    text = {
        "vocab_size": len(words) + 1,  # the word that starts a caption is none of the tokenizer's, as in the real one
        "bos_token_id": len(words),
        "eos_token_id": words.index("[SEP]"),
        "sep_token_id": words.index("[SEP]"),
        "pad_token_id": words.index("[PAD]"),
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 1.0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.5,
    }
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    )
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size=_SIZE), BertTokenizer(vocab=str(folder / "vocab.txt"))).save_pretrained(
        folder
    )


def save_florence2(folder: Path) -> None:
    """Save a Florence-2 of one block a stage; it reads its task letter by letter and answers in words."""
    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted(ByteLevel.alphabet())
    pieces = special + letters + [f"Ġ{word}" for word in _WORDS if len(word) > 1]
    tokenizer = BartTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 128,
        "init_std": 1.0,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 8, 8, 16],
        "num_heads": [1, 1, 1, 2],
        "num_groups": [1, 1, 1, 2],
        "window_size": 4,
        "projection_dim": 16,
        "initializer_range": 0.5,
    }
    model = Florence2ForConditionalGeneration(
        Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    )
    model.generation_config.suppress_tokens = [pieces.index(letter) for letter in letters] + [len(tokenizer) - 1]
    model.save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(size=_SIZE, crop_size=_SIZE)
    image_processor.image_seq_length = 2  # one for the 1 x 1 features of 32 x 32 pixels, one for their mean
    Florence2Processor(image_processor, tokenizer).save_pretrained(folder)

"""The miniature: small, whole, able to spell any word, and with others to hold the sample concepts against."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.miniature import MINIATURE_FOLDER, miniature_scorer, other_subjects
from fluxbooth.flux.parts import load_clip, load_t5, load_transformer, load_vae
from fluxbooth.host.weights import BaseWeights

CPU = torch.device("cpu")


def test_it_is_whole_and_under_25_megabytes(weights: BaseWeights) -> None:
    assert weights.missing() == []
    assert sum(file.stat().st_size for file in MINIATURE_FOLDER.rglob("*") if file.is_file()) < 25_000_000


def test_its_parts_are_flux_classes_in_flux_files(weights: BaseWeights, architecture: Architecture) -> None:
    """The loaders of FLUX.1-dev refuse any key or shape that is not as in FLUX.1-dev's own files."""
    transformer = load_transformer(weights, architecture, torch.float32, CPU)
    assert transformer.config.guidance_embeds
    assert load_vae(weights, architecture, torch.float32, CPU).config.latent_channels == 16
    assert load_clip(weights, architecture, torch.float32, CPU)[1].config.hidden_size == 128
    assert load_t5(weights, architecture, torch.float32, CPU)[1].config.d_model == 128


@pytest.mark.parametrize("part", ["clip_tokenizer", "t5_tokenizer"])
def test_known_words_are_one_token_and_others_are_spelled(weights: BaseWeights, part: str) -> None:
    folder: Path = getattr(weights, part)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.tokenize("toy in a datacenter") == ["▁toy", "▁in", "▁a", "▁datacenter"]
    assert tokenizer.tokenize("tjtoy Toy") == ["▁", "t", "j", "t", "o", "y", "▁toy"]
    ids = tokenizer("tjtoy", "é").input_ids
    assert max(ids) < 512


def test_its_scorer_reads_what_its_text_encoder_reads(weights: BaseWeights) -> None:
    scorer = AutoTokenizer.from_pretrained(miniature_scorer(), local_files_only=True)
    encoder = AutoTokenizer.from_pretrained(weights.clip_tokenizer, local_files_only=True)
    assert scorer("a red toy, tjtoy").input_ids == encoder("a red toy, tjtoy").input_ids


@pytest.mark.parametrize(("kind", "pictures"), [("toy", 6), ("gpu", 7)])
def test_it_brings_twelve_other_subjects_of_a_kind_in_the_concepts_own_pictures(kind: str, pictures: int) -> None:
    others = other_subjects(kind)
    assert len(others) == 12
    assert {len(subject) for subject in others} == {pictures}
    assert len({subject[0].tobytes() for subject in others}) == 12

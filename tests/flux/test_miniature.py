"""The miniature: small, the same files every time, and a tokenizer that can spell any word."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fluxbooth.flux.miniature import miniature_weights
from fluxbooth.host.files import digest_of_file
from fluxbooth.host.weights import BaseWeights


def files_of(weights: BaseWeights) -> list[Path]:
    return [weights.transformer, weights.vae, weights.clip, weights.t5]


def test_its_files_are_the_same_wherever_they_are_made(weights: BaseWeights, tmp_path: Path) -> None:
    again = miniature_weights(tmp_path)
    assert [digest_of_file(file) for file in files_of(again)] == [digest_of_file(file) for file in files_of(weights)]
    assert again.missing() == []


def test_it_stays_under_25_megabytes(weights: BaseWeights) -> None:
    assert sum(file.stat().st_size for file in files_of(weights)) < 25_000_000


def test_a_file_that_was_lost_is_made_again(tmp_path: Path) -> None:
    weights = miniature_weights(tmp_path)
    weights.vae.unlink()
    assert miniature_weights(tmp_path).missing() == []


@pytest.mark.parametrize("part", ["clip_tokenizer", "t5_tokenizer"])
def test_known_words_are_one_token_and_others_are_spelled(weights: BaseWeights, part: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(getattr(weights, part), local_files_only=True)
    assert tokenizer.tokenize("toy in a datacenter") == ["▁toy", "▁in", "▁a", "▁datacenter"]
    assert tokenizer.tokenize("tjtoy Toy") == ["▁", "t", "j", "t", "o", "y", "▁toy"]
    ids = tokenizer("tjtoy", "é").input_ids
    assert max(ids) < 512

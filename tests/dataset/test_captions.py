"""Where a caption comes from, and what shuffling does to it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxbooth.dataset.captions import UnreadableCaptionError, caption_of, class_caption, shuffled_caption


def test_a_caption_file_wins_over_the_class_tokens(tmp_path: Path) -> None:
    (tmp_path / "1.caption").write_text("tjtoy toy on a desk\nsecond line\n", encoding="utf-8")
    assert caption_of(tmp_path / "1.png", ".caption", "tjtoy toy") == "tjtoy toy on a desk"
    assert caption_of(tmp_path / "2.png", ".caption", "tjtoy toy") == "tjtoy toy"


def test_only_the_files_with_the_asked_ending_count(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("from a text file", encoding="utf-8")
    assert caption_of(tmp_path / "1.png", ".caption", "tjtoy toy") == "tjtoy toy"
    assert caption_of(tmp_path / "1.png", ".txt", "tjtoy toy") == "from a text file"


def test_a_byte_order_mark_is_no_part_of_the_caption(tmp_path: Path) -> None:
    (tmp_path / "1.caption").write_bytes(b"\xef\xbb\xbftjtoy toy")
    assert caption_of(tmp_path / "1.png", ".caption", "") == "tjtoy toy"


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b" \n", "empty"), (b"caf\xe9", "not UTF-8 at byte 3")])
def test_a_caption_file_without_a_caption_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "1.caption").write_bytes(data)
    with pytest.raises(UnreadableCaptionError, match=reason):
        caption_of(tmp_path / "1.png", ".caption", "tjtoy toy")


@given(st.lists(st.text("abc ", min_size=1), min_size=1, max_size=8), st.integers(0, 8), st.integers())
def test_shuffling_keeps_the_first_tags_in_place_and_loses_none(tags: list[str], keep: int, seed: int) -> None:
    before = [tag.strip() for tag in tags]
    after = shuffled_caption(",".join(tags), ",", keep, random.Random(seed)).split(", ")
    assert after[:keep] == before[:keep]
    assert sorted(after) == sorted(before)


def test_shuffling_does_shuffle() -> None:
    seen = {shuffled_caption("a, b, c, d", ",", 1, random.Random(seed)) for seed in range(50)}
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("caption", "class_tokens", "plain"),
    [
        ("tjtoy toy", "tjtoy toy", "toy"),
        ("a tjtoy plush toy on a desk", "tjtoy plush toy", "a plush toy on a desk"),
        ("tjtoy toy, red, tjtoy toy", "tjtoy toy", "toy, red, toy"),
    ],
)
def test_a_class_caption_says_the_class_noun_alone(caption: str, class_tokens: str, plain: str) -> None:
    assert class_caption(caption, class_tokens) == plain


@pytest.mark.parametrize(
    ("caption", "class_tokens", "reason"),
    [("tjtoy", "tjtoy", "no class noun"), ("a toy on a desk", "tjtoy toy", "lacks the class_tokens 'tjtoy toy'")],
)
def test_a_class_noun_that_cannot_be_told_is_said(caption: str, class_tokens: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        class_caption(caption, class_tokens)

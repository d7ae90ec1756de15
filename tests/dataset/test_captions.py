"""Where a caption comes from, and what shuffling does to it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxbooth.config.specs import CaptionSpec
from fluxbooth.dataset.captions import Moment, UnreadableCaptionError, caption_of, class_caption, seen_caption


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


NOW = Moment(epoch=0, step=0, steps=100)


def seen(written: str, spec: CaptionSpec, moment: Moment = NOW, seed: int = 0) -> str:
    return seen_caption(written, spec, moment, random.Random(seed))


def all_seen(written: str, spec: CaptionSpec, moment: Moment = NOW) -> set[str]:
    return {seen(written, spec, moment, seed) for seed in range(200)}


@given(st.lists(st.text("abc ", min_size=1), min_size=1, max_size=8), st.integers(0, 8), st.integers())
def test_shuffling_keeps_the_first_tags_in_place_and_loses_none(tags: list[str], keep: int, seed: int) -> None:
    before = [tag.strip() for tag in tags]
    after = seen(",".join(tags), CaptionSpec(shuffle=True, keep_tokens=keep), seed=seed).split(", ")
    assert after[:keep] == before[:keep]
    assert sorted(after) == sorted(before)


def test_shuffling_does_shuffle() -> None:
    assert len(all_seen("a, b, c, d", CaptionSpec(shuffle=True, keep_tokens=1))) == 6


def test_a_caption_of_which_nothing_is_asked_is_seen_as_it_is_written() -> None:
    assert seen("a ,  b,c", CaptionSpec()) == "a ,  b,c"


def test_prefix_and_suffix_come_before_everything_else() -> None:
    spec = CaptionSpec(prefix="photo, x", suffix="y", shuffle=True, keep_tokens=2)
    assert all_seen("a, b", spec) == {"photo, x a, b y"}, "b y is one tag, and the only one that may move"
    assert seen("", CaptionSpec(prefix="photo", suffix="sharp")) == "photo sharp"


def test_dropout_leaves_nothing_not_even_the_prefix() -> None:
    spec = CaptionSpec(prefix="photo", dropout_rate=0.3)
    dropped = sum(seen("a", spec, seed=seed) == "" for seed in range(1000))
    assert 230 < dropped < 370
    assert all_seen("a", spec) == {"", "photo a"}


def test_every_nth_epoch_sees_no_caption() -> None:
    """As kohya counts, from 1: of every 3 epochs the third."""
    spec = CaptionSpec(dropout_every_n_epochs=3)
    assert [seen("a", spec, Moment(epoch, 0, 9)) for epoch in range(7)] == ["a", "a", "", "a", "a", "", "a"]
    assert all(seen("a", CaptionSpec(dropout_every_n_epochs=1), Moment(epoch, 0, 9)) == "" for epoch in range(3))


def test_a_wildcard_is_one_of_its_words_and_doubled_braces_are_braces() -> None:
    assert all_seen("a {red|blue} {{toy}}", CaptionSpec(wildcard=True)) == {"a red {toy}", "a blue {toy}"}
    assert seen("a {red|blue}", CaptionSpec()) == "a {red|blue}"


def test_with_wildcards_a_visit_sees_one_line_with_prefix_and_suffix() -> None:
    assert all_seen("one\ntwo", CaptionSpec(wildcard=True, prefix="p")) == {"p one", "p two"}
    assert seen("one\ntwo", CaptionSpec(prefix="p")) == "p one"


def test_a_separator_fixes_tags_at_both_ends() -> None:
    spec = CaptionSpec(shuffle=True, keep_tokens_separator="|||", keep_tokens=3)
    assert all_seen("x, y ||| a, b ||| z", spec) == {"x, y, a, b, z", "x, y, b, a, z"}
    assert all_seen("a, b, c, d, e", spec) == {"a, b, c, d, e", "a, b, c, e, d"}, "without one in it keep_tokens counts"


def test_a_separator_is_never_seen_by_the_network() -> None:
    assert seen("x ||| a, b", CaptionSpec(keep_tokens_separator="|||")) == "x, a, b"


def test_tags_are_dropped_but_for_the_fixed_ones() -> None:
    kept = [
        tag
        for seed in range(400)
        for tag in seen("x, a, b", CaptionSpec(keep_tokens=1, tag_dropout_rate=0.25), seed=seed).split(", ")
    ]
    assert kept.count("x") == 400
    assert 270 < kept.count("a") < 330
    assert seen("x, a, b", CaptionSpec(keep_tokens=1, tag_dropout_rate=1.0)) == "x"


@pytest.mark.parametrize(("step", "tags"), [(0, 1), (25, 2), (50, 3), (99, 4), (100, 5), (500, 5)])
def test_a_caption_warms_up_tag_by_tag(step: int, tags: int) -> None:
    spec = CaptionSpec(keep_tokens=1, warmup_step=100)
    assert seen("x, a, b, c, d, e", spec, Moment(0, step, 1000)) == ", ".join("xabcde"[: tags + 1])
    share = CaptionSpec(keep_tokens=1, warmup_step=0.1)
    assert seen("x, a, b, c, d, e", share, Moment(0, step, 1000)) == ", ".join("xabcde"[: tags + 1])


def test_the_secondary_separator_becomes_the_first_after_shuffling() -> None:
    spec = CaptionSpec(shuffle=True, keep_tokens=1, secondary_separator=";")
    assert all_seen("x, a;b, c", spec) == {"x, a,b, c", "x, c, a,b"}


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

from __future__ import annotations

import pytest

from fluxbooth.captioning.wording import Wording


@pytest.mark.parametrize(
    ("prefix", "suffix", "line"),
    [
        ("", "", "a toy on a desk"),
        ("photo of", "", "photo of a toy on a desk"),
        ("tjtoy toy,", ", film grain", "tjtoy toy, a toy on a desk, film grain"),
        (" photo  of\n", "in the sun ", "photo of a toy on a desk in the sun"),
    ],
)
def test_one_space_joins_the_parts_and_none_stands_before_a_comma(prefix: str, suffix: str, line: str) -> None:
    assert Wording(prefix, suffix).around("a toy\non a  desk ") == line


def test_without_a_caption_the_prefix_and_suffix_are_left() -> None:
    assert Wording("tjtoy toy", ", film grain").around("") == "tjtoy toy, film grain"
    assert Wording().around(" ") == ""


def test_the_trigger_is_replaced_in_prefix_and_suffix() -> None:
    assert Wording("photo of [trigger],", "").names_trigger
    assert not Wording("photo of trigger", "").names_trigger
    assert Wording("[trigger]:", "a [trigger]").with_trigger("tjtoy toy") == Wording("tjtoy toy:", "a tjtoy toy")

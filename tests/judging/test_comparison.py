"""What a LoRA changes, as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxbooth.errors import UserError
from fluxbooth.judging.comparison import Comparison, Fact, Strip, load_comparison, save_comparison


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert load_comparison(tmp_path) is None
    comparison = Comparison("How", (Fact("identity", "0%", "93%"),), (Strip("tjtoy toy", ("b/1.png",), ("a/1.png",)),))
    save_comparison(tmp_path, comparison)
    assert load_comparison(tmp_path) == comparison


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(UserError, match=r"comparison\.json.*fluxbooth demo"):
        load_comparison(tmp_path)

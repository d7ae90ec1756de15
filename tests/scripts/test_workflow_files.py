"""The workflows in workflows/ are what their script writes."""

from __future__ import annotations

from pathlib import Path

from write_workflows import FOLDER, write_workflows


def test_the_bundled_files_are_what_the_script_writes(tmp_path: Path) -> None:
    write_workflows(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.json"))
    assert written == sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*.json"))
    for path in written:
        assert (tmp_path / path).read_bytes() == (FOLDER / path).read_bytes()

"""Where things lie, and whether they may be written to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxbooth.errors import Problems, UserError
from fluxbooth.host.folders import Folders, check_writable, folders_from_environment
from host.another_user import USER, last_line_of

VARIABLES = ("FLUXBOOTH_MODELS_DIR", "FLUXBOOTH_RUNS_DIR", "FLUXBOOTH_CACHE_DIR", "FLUXBOOTH_WORKFLOWS_DIR")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user reaches, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in folder.iterdir():
            path.chmod(0o755)


def said_about(folder: Path) -> str:
    """Return what `check_writable` finds here and now, an empty string for nothing."""
    problems = Problems()
    check_writable(folder, problems)
    try:
        problems.raise_if_any()
    except UserError as error:
        return str(error)
    return ""


def said_to_another_user_about(folder: Path) -> str:
    """Return what `check_writable` finds as a user without rights."""
    return last_line_of(
        "from fluxbooth.errors import Problems\nfrom fluxbooth.host.folders import check_writable",
        "problems = Problems(); check_writable(Path(sys.argv[1]), problems); problems.raise_if_any()",
        str(folder),
    )


def test_without_variables_the_folders_lie_where_the_command_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    folders = folders_from_environment()
    assert folders == Folders(Path("models"), Path("runs"), Path("cache"))
    assert folders.loras == Path("models/loras")
    assert folders.run("toy") == Path("runs/toy")


def test_where_comfyuis_container_has_its_workflows_there_is_a_place_for_a_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLUXBOOTH_WORKFLOWS_DIR", raising=False)
    assert folders_from_environment().workflows is None
    (tmp_path / "comfyui_user/default/workflows").mkdir(parents=True)
    assert folders_from_environment().workflows == Path("comfyui_user/default/workflows")


def test_variables_move_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ("/big/models", "/big/runs", "/fast/cache", "/comfyui/user/default/workflows")
    for variable, folder in zip(VARIABLES, paths, strict=True):
        monkeypatch.setenv(variable, folder)
    assert folders_from_environment() == Folders(*map(Path, paths))


def test_the_flag_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXBOOTH_MODELS_DIR", "/big/models")
    assert folders_from_environment("/other/models").models == Path("/other/models")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXBOOTH_MODELS_DIR", "")  # what compose makes of a variable that .env does not set
    assert folders_from_environment().models == Path("models")


def test_a_folder_that_can_be_made_is_no_problem_and_is_not_made(tmp_path: Path) -> None:
    assert said_about(tmp_path) == ""
    assert said_about(tmp_path / "new" / "and" / "deep") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder_is_looked_at_from_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said_about(Path("models/loras")) == ""
    Path("models").touch()
    assert "is a file" in said_about(Path("models/loras"))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "models"
    file.touch()
    assert said_about(file / "loras") == (f"{file / 'loras'}: '{file}' is a file. Allowed: a folder. Move it away.")


def test_a_folder_of_someone_else_is_named_with_the_user_who_may_not_write(public_folder: Path) -> None:
    theirs = public_folder / "models"
    theirs.mkdir()
    theirs.chmod(0o555)
    said = said_to_another_user_about(theirs / "loras")
    assert f"'{theirs}' may not be written to by user {USER}" in said
    assert "PUID and PGID" in said


def test_a_folder_that_may_not_even_be_looked_into_is_named_too(public_folder: Path) -> None:
    theirs = public_folder / "models"
    theirs.mkdir()
    theirs.chmod(0o700 if os.getuid() == 0 else 0o000)
    assert "may not be written to by user" in said_to_another_user_about(theirs / "loras")

"""What happens to a run's folders while it goes on: the last good state stays whole, and the same command goes on."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fluxbooth.errors import UserError
from fluxbooth.host.folders import Folders
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import run

SHORT = {
    "max_train_steps": 6,
    "output_name": "short",
    "save_precision": "float",
    "network_dim": 2,
    "optimizer_type": "AdamW",
    "learning_rate": 0.01,
    "text_encoder_lr": 0.0,
    "diff_output_preservation": 0.0,
    "ema_decay": 0.9,
    "save_every_n_steps": 2,
}


@pytest.fixture(autouse=True)
def pictures(make_concept: Callable[..., Path], in_repository: Path) -> Path:
    """A folder of two, beside its data.toml."""
    folder = make_concept("toy", [(64, 64), (64, 48)])
    (folder.parent / "data.toml").write_text(
        f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "tjtoy toy"\n'
    )
    return folder


def prepared(folders: Folders) -> Prepared:
    return prepare("miniature", folders.cache.parent / "data.toml", "miniature", dict(SHORT), folders)


@contextmanager
def at_step(step: int, happens: Callable[[], object]) -> Iterator[None]:
    """Let something happen when the line of a step is logged, before anything of that step is saved."""

    class Happening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(f"step {step}/"):
                happens()

    logger, handler = logging.getLogger("fluxbooth.steps"), Happening()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def message_of(folders: Folders, caplog: pytest.LogCaptureFixture) -> str:
    """What a run that fails says, having checked that it is one sentence or two, and nothing of success."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "fluxbooth"), pytest.raises(UserError) as raised:
        run(prepared(folders))
    assert len(raised.value.problems) == 1
    assert "wrote" not in caplog.text
    return str(raised.value)


def files_of(folders: Folders) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folders.loras.iterdir()}


@pytest.fixture
def straight(tmp_path: Path, folders: Folders) -> dict[str, bytes]:
    """The files of a run that nothing happens to; it shares the cache."""
    undisturbed = Folders(tmp_path / "straight/models", tmp_path / "straight/runs", folders.cache)
    run(prepared(undisturbed))
    return files_of(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["loras", "runs", "cache"])
def test_a_folder_that_vanishes_stops_the_run_and_back_again_it_goes_on(
    folders: Folders, caplog: pytest.LogCaptureFixture, straight: dict[str, bytes], which: str
) -> None:
    folder = {"loras": folders.loras, "runs": folders.runs, "cache": folders.cache}[which]
    away = folder.with_name("away")
    with at_step(4, lambda: folder.rename(away)):
        said = message_of(folders, caplog)
    assert str(folder) in said
    assert "the same command goes on" in said
    assert ("state" in said) == (which != "runs"), "where it can be, the state is saved"
    shutil.rmtree(folder, ignore_errors=True)
    away.rename(folder)
    run(prepared(folders))
    assert files_of(folders) == straight


@pytest.mark.slow
def test_a_disk_that_is_full_stops_the_run_and_with_room_it_goes_on(
    folders: Folders, caplog: pytest.LogCaptureFixture, straight: dict[str, bytes]
) -> None:
    """No file may grow beyond what the log has by then: to this process every disk is full."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    log = folders.run("short") / "train.log"
    try:
        with at_step(4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, hard))):
            said = message_of(folders, caplog)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert os.strerror(errno.EFBIG) in said
    assert "the same command goes on from the last state that was saved" in said
    assert sorted(files_of(folders)) == ["short-step00000002.safetensors"], "whole, and nothing half written beside it"
    run(prepared(folders))
    assert files_of(folders) == straight


@pytest.mark.slow
@pytest.mark.parametrize("size", ["300k", "700k"])
def test_a_real_disk_that_is_full_says_so(
    folders: Folders, caplog: pytest.LogCaptureFixture, tmp_path: Path, size: str
) -> None:
    folders.runs.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folders.runs)]
    if os.getuid() or subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        said = message_of(folders, caplog)
    finally:
        subprocess.run(["umount", "--lazy", str(folders.runs)], check=True)
    assert "Make room" in said


def test_pictures_that_vanish_before_they_are_encoded_are_named(pictures: Path, folders: Folders) -> None:
    to_run = prepared(folders)
    pictures.rename(pictures.with_name("away"))
    with pytest.raises(UserError, match=r"toy/.*png: is gone\. Bring it back"):
        run(to_run)

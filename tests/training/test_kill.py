"""A run that is killed at any moment, inside its saves too, and started again ends in the straight run's bytes."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxbooth.host.folders import Folders
from fluxbooth.training.prepare import prepare
from fluxbooth.training.run import run

pytestmark = pytest.mark.slow
KILLS = 20
# Everything that a state has to carry: an average, accumulated gradients, an optimizer with much state, both LoRAs.
FLAGS: dict[str, Any] = {
    "output_name": "killed",
    "resolution": 32,
    "max_train_steps": 120,
    "gradient_accumulation_steps": 2,
    "train_batch_size": 1,
    "network_dim": 2,
    "optimizer_type": "Prodigy",
    "learning_rate": 1.0,
    "text_encoder_lr": 1.0,
    "lr_warmup_steps": 0,
    "ema_decay": 0.9,
    "diff_output_preservation": 0.0,
    "save_precision": "float",
    "save_every_n_steps": 40,
    "save_state_every_n_minutes": 1e-6,
}
DATA = """
[general]
caption_extension = ".txt"
flip_aug = true
shuffle_caption = true
caption_dropout_rate = 0.1
[[datasets]]
resolution = 64
[[datasets.subsets]]
image_dir = "toy"
class_tokens = "tjtoy toy"
[[datasets]]
resolution = 32
[[datasets.subsets]]
image_dir = "gpu"
class_tokens = "sparkgpu gpu"
caption_prefix = "a photo of"
num_repeats = 2
"""


def train(data: Path, folders: Folders) -> None:
    torch.set_num_threads(1)
    run(prepare("miniature", data, "miniature", FLAGS, folders))


@pytest.fixture
def data(make_concept: Callable[..., Path], tmp_path: Path) -> Path:
    """Two datasets; captions of three tags."""
    captions = {f"{n}.txt": "tjtoy toy, red, on a desk" for n in (1, 2, 3)}
    make_concept("toy", [(64, 64), (64, 48), (48, 64)], captions)
    make_concept("gpu", [(64, 64), (32, 32)])
    (tmp_path / "data.toml").write_text(DATA)
    return tmp_path / "data.toml"


def files_of(folders: Folders) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folders.loras.iterdir()}


def wait_for_steps(folders: Folders, number: int, process: BaseProcess) -> None:
    """Return when the process has done so many steps."""
    log = folders.run("killed") / "logs/steps.jsonl"
    begun: int | None = None
    while process.is_alive():
        lines = log.read_text().count("\n") if log.is_file() else 0
        begun = lines if begun is None else min(begun, lines)  # what has to be done again is taken out of the log
        if lines >= begun + number:
            return
        time.sleep(0.002)


def test_twenty_kills_change_nothing(data: Path, tmp_path: Path, in_repository: Path) -> None:
    straight, killed = (
        Folders(tmp_path / name / "models", tmp_path / name / "runs", tmp_path / "cache") for name in ("once", "often")
    )
    train(data, straight)

    # A server that has imported everything: a process begins at once, and most kills hit the training. It knows the
    # installed package alone; a module of the tests it would leave out without a word (CPython gh-117378).
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([prepare.__module__, run.__module__])
    randomness = random.Random(5)
    for _ in range(KILLS):
        process = processes.Process(target=train, args=(data, killed))
        process.start()
        wait_for_steps(killed, randomness.randint(1, 4), process)
        time.sleep(randomness.uniform(0, 0.1))  # anywhere in a step, or in the save behind it
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run must be too long to end between two kills"
    last = processes.Process(target=train, args=(data, killed))
    last.start()
    last.join()

    assert last.exitcode == 0
    assert files_of(killed) == files_of(straight)
    assert len(files_of(straight)) == 3
    steps = (killed.run("killed") / "logs/steps.jsonl").read_text().splitlines()
    assert len(steps) == FLAGS["max_train_steps"], "each step is in the log once"
    assert not list(tmp_path.rglob(".*.part")), "nothing half written is left behind"

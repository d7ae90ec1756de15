"""What a training does on a GPU, on a stand-in that the processor computes (device.cpp): whole runs of the miniature.

It tells nothing of kernels, of streams that run beside each other, or of time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

REPOSITORY = Path(__file__).parents[2]
STEPS = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("gpu"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has a CUDA device of its own"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
]


@dataclass(frozen=True)
class Ran:
    """A training that is over."""

    lora: dict[str, Tensor]
    said: str
    saw: dict[str, Any]
    """By the device."""


Training = Callable[..., Ran]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The device, built against this PyTorch."""
    own = Path(torch.__file__).parent
    made = tmp_path_factory.mktemp("device") / "device.so"
    headers = [f"-I{own / 'include'}", f"-I{own / 'include/torch/csrc/api/include'}"]
    build = ["g++", "-O1", "-std=c++20", "-shared", "-fPIC", *headers, str(Path(__file__).with_name("device.cpp"))]
    built = subprocess.run(
        [*build, "-o", str(made), f"-L{own / 'lib'}", "-lc10", "-ltorch_cpu"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return made


@pytest.fixture(scope="module")
def train(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Trains in few steps, with flags behind the others, and reads the LoRA."""

    def on_stand_in(*flags: str, mib: int = 4096) -> Ran:
        folder = tmp_path_factory.mktemp("run")
        (folder / "flux_data").symlink_to(REPOSITORY / "flux_data")
        shape = ["--max_train_steps", str(STEPS), "--network_dim", "8", "--resolution", "96", "--train_batch_size", "2"]
        rates = ["--lr_scheduler", "constant", "--lr_warmup_steps", "0", "--text_encoder_lr", "0"]
        recipe = ["--recipe", str(REPOSITORY / "recipes/miniature.toml"), "--output_name", "run"]
        command = ["train", "--model", "miniature", *recipe, *shape, *rates, *flags]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "gpu.run", str(library), str(mib), *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY / "src")])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        *said, saw = done.stdout.splitlines()
        return Ran(load_file(folder / "models/loras/run.safetensors"), "\n".join(said), json.loads(saw))

    return on_stand_in


@pytest.fixture(scope="module")
def straight(train: Training) -> Ran:
    """In bfloat16, with all of the network on the device."""
    return train("--mixed_precision", "bf16", "--base_weights", "full", "--blocks_to_swap", "0")


def same_bits(one: Ran, other: Ran) -> bool:
    return one.lora.keys() == other.lora.keys() and all(torch.equal(one.lora[key], other.lora[key]) for key in one.lora)


def test_a_step_waits_for_the_gpu_once(straight: Ran) -> None:
    """For its losses and its gradient's norm; nothing in a pass is asked for, and all operands lie on one device."""
    assert straight.saw["waits_in_steps"] == {"loop.train": STEPS}


def test_streamed_blocks_change_no_bit(train: Training, straight: Ran) -> None:
    streamed = train("--mixed_precision", "bf16", "--base_weights", "full", "--blocks_to_swap", "3")
    assert same_bits(streamed, straight)
    assert streamed.saw["waits_in_steps"] == {"loop.train": STEPS}


def test_with_too_little_memory_it_goes_on_in_ways_that_take_less(train: Training, straight: Ran) -> None:
    """What a pass that broke off held is free again, and no number changes."""
    mib = (straight.saw["most"] >> 20) - 3
    within = train("--mixed_precision", "bf16", "--base_weights", "full", "--blocks_to_swap", "0", mib=mib)
    assert within.saw["refused"] == within.said.count("warning: the memory is full in step") > 0
    assert "norms and activations are recomputed" in within.said
    assert "blocks are recomputed" in within.said
    assert same_bits(within, straight)


@pytest.mark.parametrize(
    ("flags", "asked_by_the_optimizer"),
    [
        (("--fp8_products", "--blocks_to_swap", "2"), {}),
        (("--base_weights", "nf4", "--gradient_checkpointing"), {}),
        (
            ("--optimizer_type", "Prodigy", "--learning_rate", "1", "--ema_decay", "0.9"),
            {"prodigy._totals": STEPS, "prodigy._begin": 1},
        ),
    ],
    ids=["fp8 products, streamed", "nf4, recomputed", "Prodigy, averaged"],
)
def test_no_way_to_train_waits_in_a_pass(
    train: Training, flags: tuple[str, ...], asked_by_the_optimizer: dict[str, int]
) -> None:
    """Prodigy asks once more, behind the pass, how far its rate may grow, and in its first step which B are zero."""
    ran = train("--mixed_precision", "bf16", *flags)
    assert ran.saw["waits_in_steps"] == {"loop.train": STEPS, **asked_by_the_optimizer}

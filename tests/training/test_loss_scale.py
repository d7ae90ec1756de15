"""float16: a gradient is what it was without a scale, a step without numbers is left out, a stopped run goes on."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fluxbooth.host.folders import Folders
from fluxbooth.host.signals import StoppedOnRequestError
from fluxbooth.training.loss_scale import LossScale
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import run

CPU = torch.device("cpu")


def stepped(scale: LossScale, gradient: float) -> tuple[float, bool]:
    """A parameter at 1 after a step of rate 0.5 along `gradient`, and whether there was one."""
    parameter = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scale.backward(parameter * gradient)
    scale.unscale(optimizer)
    taken = scale.step(optimizer)
    return parameter.item(), taken


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_step_is_the_same_with_a_scale_and_without(dtype: torch.dtype) -> None:
    assert stepped(LossScale(dtype, CPU), 0.25) == (0.875, True)


def test_a_step_without_numbers_is_left_out_and_the_scale_is_halved() -> None:
    scale = LossScale(torch.float16, CPU)
    before = scale.state()["scale"]
    assert stepped(scale, float("inf")) == (1.0, False)
    assert scale.state()["scale"] == before / 2
    assert scale.can_be_lowered
    goes_on = LossScale(torch.float16, CPU)
    goes_on.restore(scale.state())
    assert goes_on.state() == scale.state()


def test_without_float16_nothing_is_scaled() -> None:
    scale = LossScale(torch.bfloat16, CPU)
    assert scale.state() == {}
    assert not scale.can_be_lowered


@pytest.fixture
def to_run(make_concept: Callable[..., Path], folders: Folders, tmp_path: Path, in_repository: Path) -> Prepared:
    """A float16 run on one small picture."""
    folder = make_concept("toy", [(32, 32)])
    (tmp_path / "data.toml").write_text(
        f'[[datasets]]\nresolution = 32\n[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "tjtoy toy"\n'
    )
    flags = {"mixed_precision": "fp16", "max_train_steps": 3, "network_dim": 2, "output_name": "half"}
    flags |= {"optimizer_type": "AdamW", "learning_rate": 0.01, "text_encoder_lr": 0.01, "save_precision": "float"}
    return prepare("miniature", tmp_path / "data.toml", "miniature", flags, folders)


@pytest.mark.slow
def test_a_run_in_float16_that_is_stopped_goes_on_exactly(to_run: Prepared) -> None:
    straight = run(to_run)
    expected = straight.lora.read_bytes()
    straight.lora.unlink()
    steps = to_run.folders.run("half") / "logs/steps.jsonl"
    assert all(json.loads(line)["loss"] > 0 for line in steps.read_text().splitlines())

    class StopAtOne(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("step 1/"):
                os.kill(os.getpid(), signal.SIGTERM)

    handler, logger = StopAtOne(), logging.getLogger("fluxbooth.steps")
    logger.addHandler(handler)
    try:
        with pytest.raises(StoppedOnRequestError):
            run(to_run)
    finally:
        logger.removeHandler(handler)
    state = torch.load(to_run.folders.run("half") / "state/state.pt", weights_only=True)
    assert state["loss_scale"]["scale"] == 2**16
    assert run(to_run).lora.read_bytes() == expected

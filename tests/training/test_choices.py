"""Whole runs under the recipe's further choices: what cannot be is refused early, and a stopped run goes on exactly."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from fluxbooth.errors import UserError
from fluxbooth.flux.lora_formats import read_layers
from fluxbooth.host.folders import Folders
from fluxbooth.host.signals import StoppedOnRequestError
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import run

SHORT = {
    "max_train_steps": 4,
    "output_name": "short",
    "save_precision": "float",
    "network_dim": 2,
    "optimizer_type": "AdamW",
    "learning_rate": 0.01,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "text_encoder_lr": 0.0,
    "diff_output_preservation": 0.0,
}


@pytest.fixture(autouse=True)
def _beside_the_recipes(in_repository: Path) -> None:
    pass


def prepared(folders: Folders, **flags: object) -> Prepared:
    return prepare("miniature", Path("flux_data/data.toml"), "miniature", {**SHORT, **flags}, folders)


class _SignalAfter(logging.Handler):
    """Sends this process a SIGTERM, as `docker stop` does, when the line of a step is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("step 2/"):
            os.kill(os.getpid(), signal.SIGTERM)


def stop_after_two_steps(to_stop: Prepared) -> None:
    handler, logger = _SignalAfter(), logging.getLogger("fluxbooth.steps")
    logger.addHandler(handler)
    try:
        with pytest.raises(StoppedOnRequestError, match="at step 2 of 4"):
            run(to_stop)
    finally:
        logger.removeHandler(handler)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        {
            "optimizer_type": "AdamWScheduleFree",
            "text_encoder_lr": 0.01,
            "network_dropout": 0.3,
            "network_args": (
                "loraplus_lr_ratio=2",
                "network_reg_dims=img_attn=3,txt_mod=0",
                "network_reg_lrs=single=0.005",
            ),
        },
        {
            "optimizer_type": "Adafactor",
            "network_args": ("train_blocks=single",),
            "timestep_sampling": "shift",
            "noise_offset": 0.05,
            "multires_noise_iterations": 3,
            "loss_type": "smooth_l1",
        },
        {
            "optimizer_type": "Lion",
            "learning_rate": 0.001,
            "lr_scheduler": "polynomial",
            "lr_warmup_steps": 0.25,
            "use_rslora": True,
            "weighting_scheme": "cosmap",
            "min_timestep": 200,
        },
        {
            "network_args": ("use_dora=True", "loraplus_lr_ratio=2", "train_blocks=single"),
            "text_encoder_lr": 0.01,
            "ema_decay": 0.5,
            "save_format": "kohya",
        },
        {"fp8_products": True, "mixed_precision": "bf16", "gradient_checkpointing": True, "resolution": 32},
    ],
    ids=["schedule-free, dropout", "Adafactor, noise", "Lion, polynomial", "DoRA", "fp8 products"],
)
def test_going_on_gives_the_bytes_of_the_straight_run(folders: Folders, flags: dict[str, object]) -> None:
    straight = run(prepared(folders, **flags))
    expected = straight.lora.read_bytes()
    straight.lora.unlink()
    stop_after_two_steps(prepared(folders, **flags))
    resumed = run(prepared(folders, **flags))
    assert resumed.lora.read_bytes() == expected
    assert resumed.loss_after == straight.loss_after


def test_schedule_free_writes_its_average_and_saves_what_it_trains(folders: Folders) -> None:
    """Its paper: y = 0.1 z + 0.9 x, y what trains, x the average; of the first layer's A, say."""
    stop_after_two_steps(prepared(folders, optimizer_type="AdamWScheduleFree", save_every_n_steps=2))
    state = torch.load(folders.run("short") / "state/state.pt", weights_only=True)
    y, z = state["lora"][0], state["optimizer"]["state"][0]["z"]
    written = [layer.down for _, layer in read_layers(folders.loras / "short-step00000002.safetensors")]
    same = [x for x in written if x.shape == y.shape]
    assert any(torch.allclose(0.1 * z + 0.9 * x, y, atol=1e-6) for x in same)
    assert not any(torch.equal(x, y) for x in same)


@pytest.mark.slow
def test_a_dora_begins_with_what_one_has_published(folders: Folders) -> None:
    flags = {"network_args": ("dora_wd=true", "train_blocks=single"), "max_train_steps": 2, "text_encoder_lr": 0.01}
    first = run(prepared(folders, **flags))
    layers = dict(read_layers(first.lora))
    assert all(layer.dora_scale is not None for layer in layers.values())
    assert any(name.startswith("text_encoder.") for name in layers)
    start = folders.loras / "start.safetensors"
    first.lora.rename(start)
    second = run(prepared(folders, **flags, network_weights=str(start)))
    assert second.loss_before == pytest.approx(first.loss_after, rel=1e-5)


def test_the_choices_reach_the_file(folders: Folders) -> None:
    """Single blocks alone; a second run begins with the first's LoRA and at next to no rate publishes it again."""
    flags = {"network_args": ("train_blocks=single",), "max_train_steps": 1}
    first = run(prepared(folders, **flags, optimizer_type="AdamWScheduleFree", timestep_sampling="sigma"))
    layers = dict(read_layers(first.lora))
    assert layers
    assert all(name.startswith("transformer.single_transformer_blocks.") for name in layers)
    start = folders.loras / "start.safetensors"
    first.lora.rename(start)
    second = run(prepared(folders, **flags, network_weights=str(start), learning_rate=1e-30, network_dim=4))
    assert second.loss_before == pytest.approx(first.loss_after, rel=1e-5)
    for name, layer in read_layers(second.lora):
        assert torch.allclose(layer.delta(), layers[name].delta(), atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"network_args": ("train_double_block_indices=99",)}, "train_double_block_indices=99"),
        ({"network_args": ("loraplus_lr_ratio=2",), "optimizer_type": "prodigy", "learning_rate": 1.0}, "several are"),
        ({"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "cosine"}, "needs no schedule"),
        ({"network_args": ("network_reg_lrs=img_atn=1e-5",)}, "'img_atn' is found in the name of no layer"),
        (
            {"network_args": ("network_reg_lrs=img_attn=1e-5",), "optimizer_type": "prodigy", "learning_rate": 1.0},
            "several are given",
        ),
        ({"network_weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"network_args": ("use_dora=true",), "base_weights": "nf4"}, "in nf4 they are not what ComfyUI has"),
        ({"optimizer_type": "Lion", "optimizer_args": ("betas=2,2",)}, "optimizer_args: Lion"),
        ({"fp8_products": True}, "set mixed_precision to bf16, not no"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    folders: Folders, flags: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError) as raised:
        prepared(folders, **flags)
    assert said in str(raised.value)
    assert not folders.runs.exists()


def test_checking_prodigy_prints_nothing(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    """Its library prints a line about weight decay, and `check --json` is to print one object and nothing else."""
    prepared(
        folders, optimizer_type="Prodigy", learning_rate=1.0, optimizer_args=("decouple=True", "weight_decay=0.01")
    )
    assert "decoupled" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_goes_on_with_other_blocks_streamed_and_with_its_matrices_held_as_they_were(folders: Folders) -> None:
    """A GPU has another amount of free memory every day: where weights lie changes no number, and how they are held
    does."""
    straight = run(prepared(folders, base_weights="fp8", blocks_to_swap=0)).lora.read_bytes()
    stop_after_two_steps(prepared(folders, base_weights="fp8", blocks_to_swap=6))
    going_on = prepared(folders, base_weights="auto", blocks_to_swap=3, gradient_checkpointing=True)
    assert going_on.memory.form == "fp8"
    anew = prepare("miniature", Path("flux_data/data.toml"), "miniature", dict(SHORT), folders, goes_on=False)
    assert anew.memory.form == "full", "one that is set aside says nothing"
    assert run(going_on).lora.read_bytes() == straight
    assert prepared(folders).memory.form == "full", "a run that begins holds them as they are"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"blocks_to_swap": 7}, "7 blocks"),
        ({"blocks_to_swap": 1, "network_dropout": 0.1}, "no block can be streamed by diffusers' own pass"),
    ],
)
def test_blocks_that_cannot_be_streamed_are_refused(folders: Folders, flags: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        prepared(folders, **flags)

"""What is asked for and changes nothing is said before a run begins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fluxbooth.host.folders import Folders
from fluxbooth.training.prepare import prepare


@pytest.fixture
def said(
    make_concept: Callable[..., Path],
    in_repository: Path,
    tmp_path: Path,
    folders: Folders,
    caplog: pytest.LogCaptureFixture,
) -> Callable[[Mapping[str, object]], str]:
    """What preparing a run of ten steps and five epochs says, with flags of its own."""
    folder = make_concept("toy", [(64, 64), (64, 64)])
    data = tmp_path / "data.toml"
    data.write_text(
        f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "tjtoy toy"\n',
        encoding="utf-8",
    )
    ten_steps = {"max_train_steps": 10, "train_batch_size": 1, "lr_warmup_steps": 2}

    def prepared(flags: Mapping[str, object]) -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO, "fluxbooth"):
            prepare("miniature", data, "miniature", {**ten_steps, **flags}, folders)
        return caplog.text

    return prepared


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"sample_steps": 4, "walk_seed": True}, "walk_seed, sample_steps: no effect without sample_every_n_steps"),
        ({"save_every_n_epochs": 5}, "save_every_n_epochs = 5 has no effect in 5 epochs"),
        ({"save_every_n_steps": 10}, "save_every_n_steps = 10 has no effect in 10 steps"),
        ({"validate_every_n_epochs": 6}, "validate_every_n_epochs = 6 has no effect in 5 epochs"),
        ({"prior_loss_weight": 0.5}, "prior_loss_weight has no effect: no subset has is_reg = true"),
        ({"lr_warmup_steps": 10}, "lr_warmup_steps is 10: in 10 steps the rate does not reach learning_rate"),
        (
            {"text_encoder_lr": 0.0, "network_args": ("loraplus_text_encoder_lr_ratio=4",)},
            "loraplus_text_encoder_lr_ratio has no effect: text_encoder_lr is 0",
        ),
        (
            {"network_args": ("network_reg_dims=img_=4,img_mod=2",)},
            "'img_mod' has no effect: earlier patterns give all of its layers their rank",
        ),
        (
            {"network_args": ("network_reg_lrs=mod=1e-3,img_mod=1e-2",)},
            "'img_mod' has no effect: earlier patterns give all of its layers their rate",
        ),
    ],
)
def test_what_changes_nothing_is_said(
    said: Callable[[Mapping[str, object]], str], flags: dict[str, object], line: str
) -> None:
    assert line in said(flags)


def test_of_what_acts_nothing_is_said(said: Callable[[Mapping[str, object]], str]) -> None:
    acting = {
        "sample_at_first": True,
        "sample_steps": 4,
        "save_every_n_steps": 9,
        "validate_every_n_epochs": 4,
        "network_args": ("network_reg_dims=img_mod=2,img_=4", "loraplus_text_encoder_lr_ratio=4"),
        "text_encoder_lr": 0.001,
    }
    assert "no effect" not in said(acting)
    assert "does not reach" not in said(acting)

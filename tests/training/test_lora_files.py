"""LoRA files are named kohya's way, and say what they are without saying where they were made."""

from __future__ import annotations

import base64
import getpass
import io
import json
from pathlib import Path

import numpy as np
from builders import make_item
from PIL import Image

from fluxbooth.config.recipe import Recipe
from fluxbooth.training.lora_files import files_after_step, files_out_of_date, lora_metadata, thumbnail


def files_of_run(steps: int, steps_per_epoch: int, every_epochs: int | None, every_steps: int | None) -> list[str]:
    return [
        name
        for step in range(1, steps + 1)
        for name in files_after_step("mine", step, steps, steps_per_epoch, every_epochs, every_steps)
    ]


def test_the_playbooks_run_leaves_three_files_and_the_last() -> None:
    """Every 25 epochs but for the last, which has the plain name (kohya, measured)."""
    assert files_of_run(500, 5, 25, None) == [
        "mine-000025.safetensors",
        "mine-000050.safetensors",
        "mine-000075.safetensors",
        "mine.safetensors",
    ]


def test_files_by_step_are_named_by_step() -> None:
    assert files_of_run(600, 100, None, 250) == [
        "mine-step00000250.safetensors",
        "mine-step00000500.safetensors",
        "mine.safetensors",
    ]


def test_without_asking_there_is_only_the_last() -> None:
    assert files_of_run(7, 3, None, None) == ["mine.safetensors"]


def test_metadata_name_the_class_tokens_and_no_path_or_user() -> None:
    items = [make_item(0), make_item(1, concept="sparkgpu gpu"), make_item(2, concept="a toy", is_reg=True)]
    recipe = Recipe(output_name="mine", seed=1, max_train_steps=40, optimizer_type="Prodigy", learning_rate=1.0)
    metadata = lora_metadata(
        items, recipe.model_dump(), ("d_coef=2",), step=20, steps=40, epoch=10, alpha=8.0, model="flux-dev"
    )
    assert metadata["modelspec.trigger_phrase"] == "sparkgpu gpu, tjtoy toy"
    assert metadata["modelspec.resolution"] == "64x64"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"], metadata["ss_steps"]) == ("16", "8.0", "20")
    assert (metadata["ss_base_model_version"], metadata["ss_optimizer"]) == ("flux1", "Prodigy(d_coef=2)")
    assert json.loads(metadata["ss_tag_frequency"])["tjtoy toy"] == {"a": 1, "b": 1, "c": 1, "tjtoy toy": 1}
    assert (metadata["ss_num_train_images"], metadata["ss_num_reg_images"]) == ("2", "1")
    assert all(isinstance(value, str) for value in metadata.values()), "safetensors takes nothing else"
    text = json.dumps(metadata)
    assert str(Path.home()) not in text
    assert f'"{getpass.getuser()}"' not in text


def test_of_the_files_of_epochs_so_many_stay() -> None:
    """kohya, save_every_n_epochs = 2, save_last_n_epochs = 3: at epoch 8 that of epoch 2 goes."""
    gone = {epoch: files_out_of_date("x", 10 * epoch, 10, (2, 3), (None, None)) for epoch in range(1, 11)}
    assert {epoch: names for epoch, names in gone.items() if names} == {
        8: ["x-000002.safetensors"],
        10: ["x-000004.safetensors"],
    }


def test_the_files_of_steps_stay_for_so_many_steps() -> None:
    """kohya, save_every_n_steps = 10, save_last_n_steps = 25: at step 40 that of step 10 is too old."""
    gone = {step: files_out_of_date("x", step, 7, (None, None), (10, 25)) for step in range(1, 61)}
    assert {step: names for step, names in gone.items() if names} == {
        40: ["x-step00000010.safetensors"],
        50: ["x-step00000020.safetensors"],
        60: ["x-step00000030.safetensors"],
    }


def test_the_thumbnail_is_the_newest_sample_of_an_earlier_step(tmp_path: Path) -> None:
    assert thumbnail(tmp_path, 20) == {}
    for step, colour in ((5, "red"), (10, "lime"), (20, "blue")):
        Image.new("RGB", (512, 256), colour).save(tmp_path / f"step{step:08d}_01_seed42.png")
        Image.new("RGB", (512, 256), "white").save(tmp_path / f"step{step:08d}_02_seed42.png")
    (value,) = thumbnail(tmp_path, 20).values()
    start = "data:image/jpeg;base64,"
    assert value.startswith(start)
    with Image.open(io.BytesIO(base64.b64decode(value.removeprefix(start)))) as picture:
        assert picture.size == (256, 128)
        assert np.allclose(np.asarray(picture.convert("RGB"))[60, 100], (0, 255, 0), atol=30)

"""LoRA files are named kohya's way, and say what they are without saying where they were made."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

from builders import make_item

from fluxbooth.training.lora_files import files_after_step, lora_metadata


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
    metadata = lora_metadata("mine", items, step=20, rank=16, alpha=8.0, seed=1, base_model="flux-dev")
    assert metadata["modelspec.trigger_phrase"] == "sparkgpu gpu, tjtoy toy"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"], metadata["ss_steps"]) == ("16", "8.0", "20")
    text = json.dumps(metadata)
    assert str(Path.home()) not in text
    assert f'"{getpass.getuser()}"' not in text

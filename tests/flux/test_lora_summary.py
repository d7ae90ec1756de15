"""What is said of a LoRA file: its ranks, where it changes most, what smaller ranks would keep, what is broken."""

from __future__ import annotations

from pathlib import Path

import torch

from fluxbooth.flux.lora_formats import LoraLayer, as_tensors
from fluxbooth.flux.lora_summary import summary
from fluxbooth.flux.tensor_files import save_tensors

STRONG, WEAK, BROKEN = (f"transformer.transformer_blocks.{number}.attn.to_q" for number in range(3))


def layer(strengths: list[float]) -> LoraLayer:
    """A layer whose change has these singular values."""
    return LoraLayer(torch.eye(len(strengths), 16), torch.eye(16, len(strengths)) * torch.tensor(strengths), 8.0)


def test_the_summary_is_what_the_numbers_are(tmp_path: Path) -> None:
    layers = [(WEAK, layer([1.0] * 8)), (STRONG, layer([3.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0]))]
    save_tensors(tmp_path / "mine.safetensors", as_tensors(layers), {"modelspec.trigger_phrase": "mokka dog"})
    lines = list(summary(tmp_path / "mine.safetensors"))
    assert "trigger_phrase: mokka dog" in lines
    assert "2 layers of rank 8, alpha 8, scale 1" in lines
    assert lines.index(f"changes most: {STRONG}, norm 6") < lines.index(f"changes most: {WEAK}, norm 2.83")
    assert lines[-1] == "rank 4 would keep 75.0% of the change", "all of one layer's and half of the other's"


def test_layers_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    broken = LoraLayer(torch.full((8, 16), torch.nan), torch.ones(16, 8), 8.0)
    save_tensors(tmp_path / "mine.safetensors", as_tensors([(WEAK, layer([1.0] * 8)), (BROKEN, broken)]), {})
    assert f"values that are no numbers: {BROKEN}" in list(summary(tmp_path / "mine.safetensors"))

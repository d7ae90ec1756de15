"""A safetensors file has the same bytes for the same content, whatever order its metadata were given in."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from fluxbooth.flux.tensor_files import save_tensors


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    metadata = {f"key {number}": f'value {number} é "quoted"' for number in range(20)}
    files = []
    for attempt in range(4):
        path = tmp_path / f"{attempt}.safetensors"
        save_tensors(path, {"b": torch.arange(6.0), "a": torch.ones(2, 2).T}, dict(reversed(metadata.items())))
        files.append(path.read_bytes())
    assert len(set(files)) == 1
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", **metadata}
        assert torch.equal(file.get_tensor("b"), torch.arange(6.0))

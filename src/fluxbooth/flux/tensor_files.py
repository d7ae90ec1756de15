"""Write safetensors files: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from fluxbooth.host.files import written_whole


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors with `metadata` to a safetensors file, readable by other users as the umask allows."""
    with written_whole(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, {"format": "pt", **metadata})
        _sort_metadata(part)


def _sort_metadata(path: Path) -> None:
    """Bring the header's metadata into alphabetical order: safetensors 0.8 writes them in another order each time.

    The header is 8 bytes of length and then JSON; in another order it is as long as before.
    """
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        sorted_header = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(sorted_header) != length:
            raise AssertionError(f"a sorted header of {len(sorted_header)} bytes does not fit into {length}")
        file.seek(8)
        file.write(sorted_header)

"""Read the tensors of safetensors files one at a time, never holding a file's weights twice."""

from __future__ import annotations

import contextlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.keys import Source
from fluxbooth.host.page_cache import drop_page_cache

_MOST_MAPPED = 64 * 1024**2
"""Bytes after which a file is closed and opened again: pages that are mapped stay in memory, whatever one asks for."""
_CHECKPOINT_PREFIX = "model.diffusion_model."
"""Before the transformer's keys where a file holds CLIP, T5 and the VAE, too (ComfyUI's "checkpoint")."""
_SCALE = ".scale_weight"
_OF_FP8_ALONE = ("scaled_fp8", ".scale_input")
"""Endings of keys that say how to multiply in fp8, which nothing here does."""


def header_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a safetensors file, or in all such files of a folder; reads headers only.

    Raises:
        UserError: when a file is missing, cut, or no safetensors file at all (an error page, for instance).
    """
    return {key: shape for file in safetensors_files(path) for key, shape in _header_of_file(file).items()}


def safetensors_files(path: Path) -> list[Path]:
    """Return the file itself, or the safetensors files right inside a folder, sorted.

    Raises:
        UserError: for a folder without any.
    """
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(Problem("no safetensors file in it", where=str(path)))
    return files


def _header_of_file(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise UserError(Problem("the file is missing", where=str(path))) from error
    except PermissionError as error:
        raise UserError(Problem("may not be read", where=str(path), do="Give its reader the right to")) from error
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error}", where=str(path))) from error
    except SafetensorError as error:
        raise UserError(
            Problem(
                f"not a whole safetensors file: {_what_is_wrong(path) or error}",
                where=f"{path} ({path.stat().st_size:,} bytes)",
                do="Delete it and fetch it again",
            )
        ) from error


def _what_is_wrong(path: Path) -> str:
    """Say where a file ends and where it should, or what it begins with; nothing where neither is to be told."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8:
            return "it ends before its header's length"
        if length > path.stat().st_size:
            return f"it begins with {start!r}, which is no header's length"
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            header = json.loads(file.read(length))
            last = max((about["data_offsets"][1], key) for key, about in header.items() if key != "__metadata__")
            whole = 8 + length + int(last[0])
            if whole != path.stat().st_size:
                return f"key '{last[1]}' ends at byte {whole:,}"
    return ""


class WeightFiles(AbstractContextManager["WeightFiles"]):
    """The tensors of one part of a model: of one file, or of a folder of them.

    What has been read is copied out, and the pages it came from are given back as it goes: in memory are the tensors
    that were asked for and at most 64 MiB or one tensor of the file.
    """

    def __init__(self, path: Path) -> None:
        """Read the headers.

        Raises:
            UserError: as `header_of`.
        """
        headers = {file: _header_of_file(file) for file in safetensors_files(path)}
        shapes = {key: shape for header in headers.values() for key, shape in header.items()}
        files = {key: file for file, header in headers.items() for key in header}
        self._prefix = _CHECKPOINT_PREFIX if any(key.startswith(_CHECKPOINT_PREFIX) for key in files) else ""
        self.shapes = {
            key.removeprefix(self._prefix): shape
            for key, shape in shapes.items()
            if key.startswith(self._prefix) and not key.endswith((_SCALE, *_OF_FP8_ALONE))
        }
        """By key, without the prefix of a whole checkpoint and without what belongs to another part of it."""
        self._file_of = files
        self._opened: tuple[Path, Any] | None = None
        self._mapped = 0

    def read_into(self, target: Tensor, source: Source) -> None:
        """Copy a tensor's rows into `target`, in its dtype, onto its device.

        Weights in scaled fp8 (ComfyUI's `scale_weight`) are multiplied out.
        """
        key = self._prefix + source.key
        rows = self._slice(key)[source.first_row : source.first_row + target.shape[0]]
        if self._mapped + rows.nbytes > _MOST_MAPPED:
            # A slice is a view of the mapped file: nothing of it is in memory before it is copied.
            del rows
            self.close()
            rows = self._slice(key)[source.first_row : source.first_row + target.shape[0]]
        self._mapped += rows.nbytes
        if source.swap_halves:
            rows = torch.cat(rows.chunk(2)[::-1])
        scale_key = key.removesuffix(".weight") + _SCALE
        if scale_key in self._file_of:
            rows = rows.float() * self._slice(scale_key)[...].float()
        # The VAE's attention is 1 x 1 convolutions in the file, matrices in the class.
        target.copy_(rows.reshape(target.shape))

    def _slice(self, key: str) -> Any:
        path = self._file_of[key]
        if self._opened is None or self._opened[0] != path:
            self.close()
            self._opened = path, safe_open(path, framework="pt")
        return self._opened[1].get_slice(key)

    def close(self) -> None:
        """Unmap the file that is open and drop its page cache."""
        if self._opened is not None:
            path, _ = self._opened
            self._opened = None
            self._mapped = 0
            drop_page_cache(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

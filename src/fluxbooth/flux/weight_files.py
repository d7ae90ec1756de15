"""Read the tensors of safetensors files one at a time, never holding a file's weights twice."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.keys import Source
from fluxbooth.host.page_cache import drop_pages

# safetensors' words for kinds of numbers that weights come in.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
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


def bytes_of(path: Path, dtype: torch.dtype) -> int:
    """Count the bytes of all tensors in a safetensors file, or in all such files of a folder, as `dtype`."""
    return sum(math.prod(shape) for shape in header_of(path).values()) * dtype.itemsize


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


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies."""

    file: Path
    begin: int
    """Its first byte."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes_of_row(self) -> int:
        """Of what its first dimension counts."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def _places(file: Path) -> Iterator[tuple[str, _Place]]:
    """Yield each tensor of a file that `header_of` has found whole."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    for key, about in header.items():
        if key != "__metadata__" and about["dtype"] in _DTYPES:
            begin = 8 + length + about["data_offsets"][0]
            yield key, _Place(file, begin, tuple(about["shape"]), _DTYPES[about["dtype"]])


class WeightFiles(AbstractContextManager["WeightFiles"]):
    """The tensors of one part of a model: of one file, or of a folder of them.

    They are read straight to where they are wanted, and the page cache of what was read is given back as it goes: in
    memory are the tensors that were asked for, and one more where it has to be converted.
    """

    def __init__(self, path: Path) -> None:
        """Read the headers.

        Raises:
            UserError: as `header_of`.
        """
        shapes = header_of(path)
        self._prefix = _CHECKPOINT_PREFIX if any(key.startswith(_CHECKPOINT_PREFIX) for key in shapes) else ""
        self.shapes = {
            key.removeprefix(self._prefix): shape
            for key, shape in shapes.items()
            if key.startswith(self._prefix) and not key.endswith((_SCALE, *_OF_FP8_ALONE))
        }
        """By key, without the prefix of a whole checkpoint and without what belongs to another part of it."""
        self._places = {key: place for file in safetensors_files(path) for key, place in _places(file)}
        self._opened: tuple[Path, FileIO] | None = None

    def read_into(self, target: Tensor, source: Source) -> None:
        """Copy a tensor's rows into `target`, in its dtype, onto its device.

        Weights in scaled fp8 (ComfyUI's `scale_weight`) are multiplied out.

        Raises:
            UserError: for numbers that are no floats, and a file that ends too early.
        """
        key = self._prefix + source.key
        place = self._place(key)
        scale_key = key.removesuffix(".weight") + _SCALE
        is_as_wanted = not source.swap_halves and scale_key not in self._places and place.dtype is target.dtype
        if is_as_wanted and target.device.type == "cpu" and target.is_contiguous():
            self._read(place, source.first_row, target)
            return
        rows = torch.empty((target.shape[0], *place.shape[1:]), dtype=place.dtype)
        self._read(place, source.first_row, rows)
        if source.swap_halves:
            rows = torch.cat(rows.chunk(2)[::-1])
        if scale_key in self._places:
            scale = torch.empty(self._places[scale_key].shape, dtype=self._places[scale_key].dtype)
            self._read(self._places[scale_key], 0, scale)
            rows = rows.float() * scale.float()
        # The VAE's attention is 1 x 1 convolutions in the file, matrices in the class.
        target.copy_(rows.reshape(target.shape))

    def _place(self, key: str) -> _Place:
        if key not in self._places:
            raise UserError(Problem(f"'{key}' holds no floating-point numbers", do="Take a file in bf16, fp16 or fp8"))
        return self._places[key]

    def _read(self, place: _Place, first_row: int, rows: Tensor) -> None:
        """Fill a tensor on the CPU from the row on that is given."""
        if self._opened is None or self._opened[0] != place.file:
            self.close()
            self._opened = place.file, FileIO(place.file)
        file = self._opened[1]
        begin = place.begin + first_row * place.bytes_of_row
        into: memoryview = rows.view(-1).view(torch.uint8).numpy().data
        file.seek(begin)
        done = 0
        while done < len(into):
            read = file.readinto(into[done:])
            if not read:
                raise UserError(Problem(f"ends at byte {begin + done:,}", where=str(place.file), do="Fetch it again"))
            done += read
        drop_pages(file.fileno(), begin, len(into))

    def close(self) -> None:
        """Close the file that is open."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

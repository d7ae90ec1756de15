"""Read a model from one safetensors file, a tensor at a time, and write one the same way.

The model is made without memory (accelerate's meta device) and filled in place, so that neither the file nor the
weights are ever held twice; the file's page cache is dropped behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.keys import Source
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.host.page_cache import drop_page_cache

SourceOf = Callable[[str], Source]


def header_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a safetensors file; reads the header only.

    Raises:
        UserError: when the file is missing, cut, or no safetensors file at all (an error page, for instance).
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise UserError(Problem("the file is missing", where=str(path))) from error
    except SafetensorError as error:
        raise UserError(
            Problem(
                f"not a whole safetensors file: {error}",
                where=f"{path} ({path.stat().st_size:,} bytes)",
                do="Delete it and fetch it again",
            )
        ) from error


def load_single_file(
    make_model: Callable[[], nn.Module], path: Path, source_of: SourceOf, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Make a model and fill it from `path`, converted to `dtype`, on `device`, without gradients, in eval mode.

    Args:
        make_model: builds the model; called with parameters on the meta device.
        source_of: where the file keeps each parameter.

    Raises:
        UserError: naming every key that is missing or has another shape than the model.
    """
    shapes = header_of(path)
    with init_empty_weights():
        model = make_model()
    problems = [
        found
        for name, tensor in model.named_parameters()
        if (found := _mismatch(name, tensor, source_of(name), shapes))
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(
            Problem(
                f"does not hold a {type(model).__name__} of this size: {shown}",
                where=str(path),
                do="Put the right file there, or name another model with --model",
            )
        )
    with safe_open(path, framework="pt") as file:
        for name, parameter in list(model.named_parameters()):
            tensor = _read(file, source_of(name), tuple(parameter.shape))
            set_module_tensor_to_device(model, name, device, value=tensor, dtype=dtype)
    for name, buffer in list(model.named_buffers()):
        set_module_tensor_to_device(model, name, device, value=buffer)
    drop_page_cache(path)
    return model.requires_grad_(False).eval()


def save_single_file(
    model: nn.Module, path: Path, source_of: SourceOf, dtype: torch.dtype, metadata: Mapping[str, str]
) -> None:
    """Write a model's parameters to `path` under the file's key names: what `load_single_file` reads."""
    stacks: dict[str, list[tuple[int, Tensor]]] = {}
    for name, parameter in model.named_parameters():
        source = source_of(name)
        tensor = parameter.detach().to("cpu", dtype)
        stacks.setdefault(source.key, []).append((source.first_row, _swapped(tensor) if source.swap_halves else tensor))
    tensors = {key: torch.cat([part for _, part in sorted(parts, key=_first_row)]) for key, parts in stacks.items()}
    save_tensors(path, tensors, metadata)


def _mismatch(name: str, wanted: Tensor, source: Source, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if source.key not in shapes:
        return f"key '{source.key}' is missing"
    found = shapes[source.key]
    if (
        len(found) > 0
        and found[0] >= source.first_row + wanted.shape[0]
        and _without_ones(found[1:]) == _without_ones(tuple(wanted.shape[1:]))
    ):
        return None
    return f"key '{source.key}' has shape {list(found)}, {name} needs {list(wanted.shape)}"


def _read(file: Any, source: Source, shape: tuple[int, ...]) -> Tensor:
    stacked = file.get_slice(source.key)
    tensor: Tensor = stacked[source.first_row : source.first_row + shape[0]]
    if source.swap_halves:
        tensor = _swapped(tensor)
    return tensor.reshape(shape)  # the VAE's attention is 1 x 1 convolutions in the file, matrices in the class


def _swapped(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _first_row(part: tuple[int, Tensor]) -> int:
    return part[0]

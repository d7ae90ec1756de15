"""Read a model from one safetensors file, a tensor at a time, and write one the same way.

The model is made without memory (accelerate's meta device) and filled in place, so that neither the file nor the
weights are ever held twice; the file's page cache is dropped behind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
    except IsADirectoryError as error:
        raise UserError(Problem("is a folder", where=str(path), allowed="a safetensors file")) from error
    except PermissionError as error:
        raise UserError(Problem("may not be read", where=str(path), do="Give its reader the right to")) from error
    except SafetensorError as error:
        raise UserError(
            Problem(
                f"not a whole safetensors file: {error}",
                where=f"{path} ({path.stat().st_size:,} bytes)",
                do="Delete it and fetch it again",
            )
        ) from error


def load_single_file(
    make_model: Callable[[], nn.Module],
    path: Path,
    source_of: SourceOf,
    dtype: torch.dtype,
    device: torch.device,
    spare: Collection[str] = (),
) -> nn.Module:
    """Make a model and fill it from `path`, converted to `dtype`, on `device`, without gradients, in eval mode.

    Args:
        make_model: builds the model; called with parameters on the meta device.
        source_of: where the file keeps each parameter.
        spare: keys that the file may have and the model has no use for.

    Raises:
        UserError: naming every key that is missing, has another shape than the model, or would not be read.
    """
    shapes = header_of(path)
    with init_empty_weights():
        model = make_model()
    problems = _differences(dict(model.named_parameters()), source_of, shapes)
    read = {source_of(name).key for name, _ in model.named_parameters()}
    problems += [f"nothing reads key '{key}'" for key in sorted(shapes.keys() - read - set(spare))]
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


def _differences(
    parameters: Mapping[str, Tensor], source_of: SourceOf, shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Compare each of the file's tensors with the parameters that lie in it, stacked by rows."""
    rows: dict[str, int] = {}
    for name, parameter in parameters.items():
        source = source_of(name)
        rows[source.key] = max(rows.get(source.key, 0), source.first_row + parameter.shape[0])
    found = []
    for name, parameter in parameters.items():
        key = source_of(name).key
        wanted = (rows[key], *parameter.shape[1:])
        if key not in shapes:
            found.append(f"key '{key}' is missing")
        elif _without_ones(shapes[key]) != _without_ones(wanted):
            found.append(f"key '{key}' has shape {list(shapes[key])}, {list(wanted)} is needed")
    return list(dict.fromkeys(found))


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

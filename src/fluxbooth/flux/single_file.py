"""Read a model from its safetensors file or files, a tensor at a time, and write one file the same way.

The model is made without memory (accelerate's meta device) and filled in place, so that neither the file nor the
weights are ever held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.keys import Source
from fluxbooth.flux.stored import StoredLinear
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.flux.weight_files import WeightFiles

SourceOf = Callable[[str], Source]


def load_single_file(
    make_model: Callable[[], nn.Module],
    path: Path,
    source_of: SourceOf,
    dtype: torch.dtype,
    device: torch.device,
    spare: Collection[str] = (),
    kept_back: Callable[[str], bool] = lambda name: False,
) -> nn.Module:
    """Make a model and fill it from `path`, converted to `dtype`, on `device`, without gradients, in eval mode.

    A `StoredLinear` in it takes its matrix in as it is read, so that the whole is never held in `dtype`.

    Args:
        make_model: builds the model; called with parameters on the meta device.
        path: a file, or a folder with several that together hold the model.
        source_of: where they keep each parameter.
        spare: keys that the file may have and the model has no use for.
        kept_back: of which parameters what is held stays in the machine's memory instead.

    Raises:
        UserError: naming every key that is missing, has another shape than the model, or would not be read.
    """
    with init_empty_weights():
        model = make_model()
    with WeightFiles(path) as files:
        _check_fit(model, files, path, source_of, spare)
        for name, buffer in list(model.named_buffers()):
            set_module_tensor_to_device(model, name, device, value=buffer)
        for name, parameter in list(model.named_parameters()):
            owner = model.get_submodule(name.rpartition(".")[0])
            is_stored = isinstance(owner, StoredLinear) and name.endswith(".weight")
            place = torch.device("cpu") if kept_back(name) else device
            filled = torch.empty(parameter.shape, dtype=dtype, device=device if is_stored else place)
            files.read_into(filled, source_of(name))
            if isinstance(owner, StoredLinear) and is_stored:
                owner.hold(filled, place)
            else:
                set_module_tensor_to_device(model, name, place, value=filled, dtype=dtype)
    return model.requires_grad_(False).eval()


def _check_fit(model: nn.Module, files: WeightFiles, path: Path, source_of: SourceOf, spare: Collection[str]) -> None:
    parameters = dict(model.named_parameters())
    problems = _differences(parameters, source_of, files.shapes)
    read = {source_of(name).key for name in parameters}
    problems += [f"nothing reads key '{key}'" for key in sorted(files.shapes.keys() - read - set(spare))]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(
            Problem(
                f"does not hold a {type(model).__name__} of this size: {shown}",
                where=str(path),
                do="Put the right file there, or name another model with --model",
            )
        )


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


def _swapped(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _first_row(part: tuple[int, Tensor]) -> int:
    return part[0]

"""Which device computes, in which number format, and how memory between two phases is given back."""

from __future__ import annotations

import gc
import os

import torch

from fluxbooth.errors import Problem, UserError

_NARROW = 1024


def choose_device() -> torch.device:
    """The CUDA device of this process's number among those a launcher started here, else the first; or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda")


def compute_dtype(mixed_precision: str, device: torch.device) -> torch.dtype:
    """The number format of frozen weights and activations: float32 for "no", bfloat16 for "bf16".

    Raises:
        UserError: for "bf16" on a GPU that has no bfloat16 arithmetic.
    """
    if mixed_precision == "no":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise UserError(
            Problem(
                f"{name} has no bfloat16 arithmetic",
                where="mixed_precision",
                allowed="no",
                do='Set mixed_precision = "no"',
            )
        )
    return torch.bfloat16


def default_precision(device: torch.device) -> str:
    """ "bf16" where the device computes it faster than float32, else "no"."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def device_identity(device: torch.device) -> tuple[str, str]:
    """Return a word that no other GPU of any machine has, and the name that a reader knows the device by."""
    if device.type != "cuda":
        return device.type, "the processor"
    properties = torch.cuda.get_device_properties(device)
    return str(properties.uuid), properties.name


def gpus_of_this_machine(device: torch.device) -> list[str]:
    """Name, as NVIDIA's tools do, the GPUs that this training's processes on this machine compute with."""
    if device.type != "cuda":
        return []
    count = min(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count())
    own = [device] if count == 1 else [torch.device("cuda", number) for number in range(count)]
    return [f"GPU-{torch.cuda.get_device_properties(one).uuid}" for one in own]


def use_few_threads(width: int, device: torch.device) -> None:
    """Compute with one thread where the network is narrow and there is no GPU; leave every other case alone.

    A pass of the miniature takes milliseconds: a second thread gains nothing on a quiet machine and loses a multiple on
    a busy one, and with one thread the numbers do not depend on how many cores the machine has.

    Args:
        width: features of a token inside the transformer.
    """
    if device.type == "cpu" and width < _NARROW:
        torch.set_num_threads(1)


def release_memory() -> None:
    """Give back the memory of models that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""Which device computes, in which number format, and how memory between two phases is given back."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.memory import GIB, available_bytes, memory_floor, resident_bytes

_log = logging.getLogger("fluxbooth")
_NARROW = 1024
# glibc's names for its settings (mallopt(3)): how many allocations may be taken from the system one by one, and how
# many free bytes at the end of the heap are given back; 65536 and 128 KiB unless it is told otherwise.
_LARGE_FROM_SYSTEM, _GIVE_BACK_FROM = -4, -1
_FIRST_WITH_FP8 = (8, 9)
# Of a GPU's free memory, what PyTorch's allocator can give out: the rest lies between tensors of other sizes.
_NOT_IN_PIECES = 0.95


def choose_device() -> torch.device:
    """The CUDA device of this process's number among those a launcher started here, else the first; or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda")


def compute_dtype(mixed_precision: str, device: torch.device) -> torch.dtype:
    """The number format of frozen weights and activations: float32 for "no", bfloat16 for "bf16", float16 for "fp16".

    Raises:
        UserError: for "bf16" on a GPU that has no bfloat16 arithmetic.
    """
    if mixed_precision == "no":
        return torch.float32
    if mixed_precision == "fp16":
        return torch.float16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise UserError(
            Problem(
                f"{name} has no bfloat16 arithmetic",
                where="mixed_precision",
                allowed="no, fp16",
                do='Set mixed_precision = "fp16"',
            )
        )
    return torch.bfloat16


def check_fp8_products(device: torch.device) -> None:
    """Raise UserError for a GPU that multiplies nothing in fp8. Without a GPU it is done, slower than in bfloat16."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FIRST_WITH_FP8:
        name = torch.cuda.get_device_name(device)
        raise UserError(
            Problem(
                f"{name} has no fp8 arithmetic",
                where="fp8_products",
                allowed="GPUs of compute capability 8.9 and higher: RTX 40, L4, H100 and what came after them",
                do="Leave fp8_products out",
            )
        )


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
    count = min(_processes_of_this_machine(), torch.cuda.device_count())
    own = [device] if count == 1 else [torch.device("cuda", number) for number in range(count)]
    return [f"GPU-{torch.cuda.get_device_properties(one).uuid}" for one in own]


def _processes_of_this_machine() -> int:
    """How many processes of this training a launcher has started here."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def use_few_threads(width: int, device: torch.device) -> None:
    """Compute with one thread where the network is narrow and there is no GPU; leave every other case alone.

    A pass of the miniature takes milliseconds: a second thread gains nothing on a quiet machine and loses a multiple on
    a busy one, and with one thread the numbers do not depend on how many cores the machine has.

    Args:
        width: features of a token inside the transformer.
    """
    if device.type == "cpu" and width < _NARROW:
        torch.set_num_threads(1)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU without waiting: from unpinned memory a GPU would first finish all it has to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def has_memory_of_its_own(device: torch.device) -> bool:
    """Whether the device is a GPU that does not compute in the machine's memory."""
    return device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated


def free_memory(device: torch.device, floor_gib: float | None, most: int | None = None) -> int | None:
    """Bytes that a training may take; None where the system does not tell.

    Of a GPU with memory of its own what CUDA reports; on unified memory and without a GPU MemAvailable less the floor
    that the memory guard keeps, since CUDA does not count the page cache there.

    Args:
        floor_gib: as `memory_shortage` takes it.
        most: bytes that count as free where more of them are; None for all.
    """
    in_pieces = has_memory_of_its_own(device)
    free = torch.cuda.mem_get_info(device)[0] if in_pieces else free_memory_of_the_machine(floor_gib)
    bounds = [number for number in (free, most) if number is not None]
    return int(min(bounds) * (_NOT_IN_PIECES if in_pieces else 1)) if bounds else None


@contextmanager
def memory_bounded(device: torch.device, most: int | None) -> Iterator[None]:
    """Let PyTorch take no more than `most` bytes of a GPU's memory, as if it had no more; None for all of it.

    Does nothing without a GPU.
    """
    if most is None or device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(min(most / torch.cuda.mem_get_info(device)[1], 1.0), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def where_it_fits(device: torch.device, needed: int, free: int | None, what: str) -> torch.device:
    """The device, or the CPU where less than `needed` bytes are free on a GPU, and say so.

    Args:
        free: as `free_memory` gives it.
        what: is to be computed there.
    """
    if device.type == "cpu" or free is None or needed <= free:
        return device
    _log.info("%s needs %.1f GiB and %.1f are free: the processor computes it", what, needed / GIB, free / GIB)
    return torch.device("cpu")


def free_memory_of_the_machine(floor_gib: float | None) -> int | None:
    """Bytes of the machine's memory that may be taken, likewise; each of the processes that train here has its part."""
    available = available_bytes()
    if available is None:
        return None
    return max(available - memory_floor(floor_gib), 0) // _processes_of_this_machine()


def memory_of_this_run(device: torch.device) -> int | None:
    """Bytes that this process has taken of the GPU's memory, or of the machine's where it computes without one."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else resident_bytes()


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Let the CPU's next step have the memory of the last one, instead of giving it back to the system in between.

    glibc asks the system for each large tensor anew, and the system fills each page with zeros at its first use: a
    tenth of a training step. Does nothing for a GPU, and where the C library is another.
    """
    settings = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" else None
    if settings is None:
        yield
        return
    settings(_LARGE_FROM_SYSTEM, 0)
    settings(_GIVE_BACK_FROM, 2**31 - 1)
    try:
        yield
    finally:
        settings(_LARGE_FROM_SYSTEM, 65536)
        settings(_GIVE_BACK_FROM, 128 * 1024)
        release_memory()


def release_memory() -> None:
    """Give back the memory of models that nothing refers to any more."""
    gc.collect()
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""How much memory this machine has left. On unified memory this is also what the accelerator has left."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fluxbooth.errors import Problem, UserError

GIB = 1024**3
_MEMINFO = Path("/proc/meminfo")
_OWN_STATUS = Path("/proc/self/status")


def available_bytes() -> int | None:
    """Bytes that can be had without swapping (Linux's MemAvailable); None where the system does not tell.

    cudaMemGetInfo does not count reclaimable page cache on unified memory, MemAvailable does (Linux, proc(5)).
    """
    return _meminfo("MemAvailable")


def free_bytes() -> int | None:
    """Bytes that nothing uses, not even the page cache (Linux's MemFree); None where the system does not tell."""
    return _meminfo("MemFree")


def resident_bytes() -> int | None:
    """Bytes of this process that are in memory (Linux's VmRSS); None where the system does not tell."""
    return _kibibytes(_OWN_STATUS, "VmRSS")


def forget_highest_resident_bytes() -> None:
    """Let `highest_resident_bytes` count from now on, where the system allows it (proc(5), clear_refs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def highest_resident_bytes() -> int | None:
    """The most bytes of this process that were in memory at a time (Linux's VmHWM); None where nobody tells."""
    return _kibibytes(_OWN_STATUS, "VmHWM")


def memory_in_words(taken: int | None) -> str:
    """Say how many bytes are `taken`, and how many are left on this machine, as far as that is known."""
    available = available_bytes()
    own = "memory unknown" if taken is None else f"memory {taken / GIB:.1f} GiB"
    return own if available is None else f"{own} ({available / GIB:.1f} left)"


def total_bytes() -> int | None:
    """Bytes of memory that the machine has (Linux's MemTotal); None where the system does not tell."""
    return _meminfo("MemTotal")


def _meminfo(name: str) -> int | None:
    return _kibibytes(_MEMINFO, name)


def _kibibytes(file: Path, name: str) -> int | None:
    """Read a line such as "MemFree:  1024 kB", in bytes."""
    if not file.exists():
        return None
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def memory_floor(floor_gib: float | None = None) -> int:
    """Bytes of the machine's memory that are to stay available: `floor_gib` GiB, or a twentieth of all."""
    total = total_bytes() or 0
    return int(total / 20 if floor_gib is None else floor_gib * GIB)


def check_floor(floor_gib: float | None) -> None:
    """Raise UserError for a floor of `memory_shortage` under which a run would stop as soon as it has begun."""
    total = total_bytes()
    if floor_gib is not None and total is not None and floor_gib * GIB >= total:
        raise UserError(
            Problem(
                f"memory_floor is {floor_gib:g} GiB",
                where="memory_floor",
                allowed=f"below the {total / GIB:.0f} GiB of this machine",
            )
        )
    if shortage := memory_shortage(floor_gib):
        raise UserError(Problem(shortage, where="memory_floor", do="End other programs, or lower it"))


def memory_shortage(floor_gib: float | None = None) -> str:
    """Say that less than `memory_floor` is available; nothing while it is.

    A machine of one memory whose memory is full stands still, without an error (NVIDIA/open-gpu-kernel-modules#1358).
    """
    available, total, floor = available_bytes(), total_bytes(), memory_floor(floor_gib)
    if available is None or total is None or available >= floor:
        return ""
    left = f"only {available / GIB:.1f} of {total / GIB:.0f} GiB of memory are available"
    return f"{left}, and a run stops below {floor / GIB:.1f}"

"""How much memory this machine has left. On unified memory this is also what the accelerator has left."""

from __future__ import annotations

from pathlib import Path

GIB = 1024**3
_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Bytes that can be had without swapping (Linux's MemAvailable); None where the system does not tell.

    cudaMemGetInfo does not count reclaimable page cache on unified memory, MemAvailable does (Linux, proc(5)).
    """
    return _meminfo("MemAvailable")


def free_bytes() -> int | None:
    """Bytes that nothing uses, not even the page cache (Linux's MemFree); None where the system does not tell."""
    return _meminfo("MemFree")


def total_bytes() -> int | None:
    """Bytes of memory that the machine has (Linux's MemTotal); None where the system does not tell."""
    return _meminfo("MemTotal")


def _meminfo(name: str) -> int | None:
    if not _MEMINFO.exists():
        return None
    for line in _MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024  # the file counts in KiB
    return None


def memory_shortage(floor_gib: float | None = None) -> str:
    """Say that less than `floor_gib` GiB are available, or than a twentieth of the machine's; nothing while they are.

    A machine of one memory whose memory is full stands still, without an error (NVIDIA/open-gpu-kernel-modules#1358).
    """
    available, total = available_bytes(), total_bytes()
    if available is None or total is None:
        return ""
    floor = total / 20 if floor_gib is None else floor_gib * GIB
    if available >= floor:
        return ""
    return f"only {available / GIB:.1f} of {total / GIB:.0f} GiB of memory are available, so the run stopped"

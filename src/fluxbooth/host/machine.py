"""Which machine this is, in words that say nothing of whose it is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from fluxbooth.host.memory import GIB, total_bytes

_CPUINFO = Path("/proc/cpuinfo")


def machine_in_words() -> str:
    """Name the processor, its threads and the memory: "AMD Ryzen 9 7950X, 32 threads, 62 GiB of memory"."""
    known = [_processor(), f"{os.cpu_count()} threads"]
    total = total_bytes()
    if total is not None:
        known.append(f"{total / GIB:.0f} GiB of memory")
    return ", ".join(known)


def _processor() -> str:
    """The processor's own name where Linux knows it, else its family, such as aarch64."""
    lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if _CPUINFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()

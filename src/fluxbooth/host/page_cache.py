"""Give the page cache of our own files back; needs no privilege."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def drop_page_cache(path: Path) -> None:
    """Ask the kernel to forget its cached pages of `path`; does nothing where the system has no such call.

    Dirty pages cannot be dropped, so the file is flushed first. Pages that a process has mapped stay.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def drop_page_cache_of(folders: Iterable[Path]) -> int:
    """Drop the page cache of every readable file under `folders`; return how many files that were."""
    files = [
        file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file() and os.access(file, os.R_OK)
    ]
    for file in files:
        drop_page_cache(file)
    return len(files)

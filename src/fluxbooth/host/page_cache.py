"""Have files in the page cache before they are read, and give it back behind them; needs no privilege."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

_SWITCH = Path("/proc/sys/vm/drop_caches")
_READ_AT_ONCE = 8 * 2**20


class ReadAhead:
    """Reads a file into the page cache from its beginning, while something else goes on."""

    def __init__(self, path: Path, at_most: int) -> None:
        """Begin to read the first `at_most` bytes."""
        self._path, self._at_most = path, at_most
        self._is_over = Event()
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more: whoever reads the file now gives its pages back, and they would be read a second time."""
        self._is_over.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until all that was asked for is read."""
        self._thread.join()

    def _read(self) -> None:
        buffer = memoryview(bytearray(_READ_AT_ONCE))
        with suppress(OSError), self._path.open("rb", buffering=0) as file:  # whoever reads it says what is wrong
            left = self._at_most
            while left > 0 and not self._is_over.is_set() and (read := file.readinto(buffer[:left])):
                left -= read


def drop_page_cache(path: Path) -> None:
    """Ask the kernel to forget its cached pages of `path`; does nothing where the system has no such call.

    Dirty pages cannot be dropped, so the file is flushed first. Pages that a process has mapped stay.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        drop_pages(descriptor, 0, 0)
    finally:
        os.close(descriptor)


def drop_pages(descriptor: int, start: int, length: int) -> None:
    """Forget the cached pages of a part of an open file, which must be on the disk by now."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


def drop_page_cache_of(folders: Iterable[Path]) -> int:
    """Drop the page cache of every readable file under `folders`; return how many files that were."""
    files = [
        file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file() and os.access(file, os.R_OK)
    ]
    for file in files:
        drop_page_cache(file)
    return len(files)


def drop_whole_page_cache() -> bool:
    """Drop the page cache of the whole machine; return whether this process may.

    It takes root and a writable /proc: in a container neither is there, and the compose service `flush` has both.
    """
    if not _SWITCH.exists():
        return False
    os.sync()  # dirty pages cannot be dropped
    try:
        _SWITCH.write_text("3", encoding="ascii")
    except OSError:
        return False
    return True

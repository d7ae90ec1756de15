"""One file from the hub, in blocks over several connections; a block that has come once never comes again."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.files import PART_SUFFIX, publish, write_text
from fluxbooth.host.hub import read_bytes
from fluxbooth.host.memory import GIB
from fluxbooth.host.page_cache import drop_pages
from fluxbooth.host.weights import HubFile

_log = logging.getLogger("fluxbooth")
BLOCK_BYTES = 128 * 1024**2
CONNECTIONS = 4
_HASHED_AT_ONCE = 8 * 1024**2
_JOURNAL_SUFFIX = ".blocks"


@dataclass(frozen=True)
class Part:
    """A file on its way: `.NAME.DIGEST.part` beside its place, and a journal of the blocks that have come."""

    path: Path
    """Where the file is going to be."""
    bytes: int
    sha256: str | None
    block_bytes: int = BLOCK_BYTES

    @property
    def file(self) -> Path:
        """Holds the blocks at their places; named after what is expected, so that parts of other bytes never mix."""
        return self.path.with_name(f".{self.path.name}.{(self.sha256 or str(self.bytes))[:16]}{PART_SUFFIX}")

    @property
    def journal(self) -> Path:
        """One number a line: a block that lies on the disk."""
        return self.file.with_name(self.file.name + _JOURNAL_SUFFIX)

    def blocks(self) -> list[tuple[int, int]]:
        """First byte and the byte behind the last of every block."""
        return [(start, min(start + self.block_bytes, self.bytes)) for start in range(0, self.bytes, self.block_bytes)]

    def there(self) -> set[int]:
        """Numbers of the blocks that have come."""
        if not self.file.is_file() or not self.journal.is_file():
            return set()
        # A line without its end was being written when the process died.
        lines = self.journal.read_text(encoding="ascii").split("\n")[:-1]
        size, *numbers = lines or [""]
        return {int(number) for number in numbers} if size == str(self.block_bytes) else set()

    def missing_bytes(self) -> int:
        """How much is still to come."""
        there = self.there()
        return sum(stop - start for number, (start, stop) in enumerate(self.blocks()) if number not in there)

    def remove(self) -> None:
        """Leave nothing."""
        self.file.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)


def fetch(file: HubFile, part: Part, token: str | None, connections: int = CONNECTIONS) -> str:
    """Fetch what is missing of a file whose size is known, check it, and put it in its place; return its sha256.

    What has come is kept when this is broken off, by `kill -9` too.

    Raises:
        UserError: when the hub refuses or is silent, the disk is full, or other bytes came than were expected.
    """
    part.path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(part)
    there = part.there()
    if not there:
        part.remove()
    # Written anew: the next number must not be appended to one that was cut off.
    write_text(part.journal, "".join(f"{line}\n" for line in (part.block_bytes, *sorted(there))))
    missing = [(number, *span) for number, span in enumerate(part.blocks()) if number not in there]
    stopping, counting, writing = Event(), Lock(), Lock()
    with (
        _disk_faults_told(part),
        _progress(part) as progress,
        part.file.open("r+b" if part.file.exists() else "w+b") as out,
        part.journal.open("a", encoding="ascii") as journal,
    ):
        out.truncate(part.bytes)

        def fetch_block(block: tuple[int, int, int]) -> None:
            number, start, stop = block
            place = start
            for piece in read_bytes(file, token, start, stop):
                if stopping.is_set():
                    return
                _write_all(out.fileno(), piece, place)
                place += len(piece)
                with counting:
                    progress.update(len(piece))
            os.fsync(out.fileno())
            drop_pages(out.fileno(), start, stop - start)
            with writing:
                journal.write(f"{number}\n")
                journal.flush()
                os.fsync(journal.fileno())

        with ThreadPoolExecutor(connections) as pool:
            try:
                for _ in pool.map(fetch_block, missing):
                    pass
            except BaseException:
                stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    digest = _checked_digest(part)
    publish(part.file, part.path)
    part.journal.unlink()
    return digest


def _write_all(descriptor: int, piece: bytes, place: int) -> None:
    """Write all of `piece` at `place`; a disk that is nearly full takes a part without an error."""
    while piece:
        written = os.pwrite(descriptor, piece, place)
        piece, place = piece[written:], place + written


def _sweep(part: Part) -> None:
    """Remove parts of the same file that expected other bytes."""
    for other in part.path.parent.glob(f".{part.path.name}.*{PART_SUFFIX}*"):
        if other not in (part.file, part.journal):
            other.unlink()


def _checked_digest(part: Part) -> str:
    """Read the whole part once; raise UserError, and keep nothing, where it is not what was expected."""
    sha256 = hashlib.sha256()
    with part.file.open("rb") as whole, _bar(f"checking {part.path.name}", part.bytes) as progress:
        while block := whole.read(_HASHED_AT_ONCE):
            sha256.update(block)
            progress.update(len(block))
            drop_pages(whole.fileno(), whole.tell() - len(block), len(block))
    digest = sha256.hexdigest()
    wrong = ""
    if part.sha256 not in (None, digest):
        wrong = f"{part.bytes:,} bytes with sha256 {digest} came"
    elif part.path.suffix == ".safetensors":
        try:
            with safe_open(part.file, framework="numpy"):
                pass
        except SafetensorError as error:
            wrong = f"what came is no safetensors file ({error})"
    if wrong:
        part.remove()
        raise UserError(
            Problem(
                wrong,
                where=str(part.path),
                allowed=f"{part.bytes:,} bytes with sha256 {part.sha256 or 'of any value'}",
                do="Run it again; nothing was kept",
            )
        )
    return digest


@contextmanager
def _disk_faults_told(part: Part) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or type(error).__name__
        came = part.bytes - part.missing_bytes()
        raise UserError(
            Problem(
                f"the download broke off ({reason})",
                where=str(part.path),
                do=f"Run it again when that is mended: {came / GIB:.2f} GiB have come and are kept",
            )
        ) from error


class _SpokenProgress:
    """Says every tenth where there is no terminal for a bar: containers' logs."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self._name, self._total, self._done = name, total, done

    def update(self, count: int) -> None:
        before, self._done = self._done, self._done + count
        if self._total >= GIB and self._done * 10 // self._total > before * 10 // self._total:
            _log.info("%s: %.1f of %.1f GiB", self._name, self._done / GIB, self._total / GIB)


def _progress(part: Part) -> Any:
    done = part.bytes - part.missing_bytes()
    _log.info("fetching %s (%.2f GiB%s)", part.path.name, part.bytes / GIB, _kept(done))
    return _bar(part.path.name, part.bytes, done)


def _kept(done: int) -> str:
    return f", of which {done / GIB:.2f} GiB are here already" if done else ""


@contextmanager
def _bar(name: str, total: int, done: int = 0) -> Iterator[Any]:
    with tqdm(
        total=total, initial=done, desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=None
    ) as on_terminal:
        yield _SpokenProgress(name, total, done) if on_terminal.disable else on_terminal

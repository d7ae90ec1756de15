"""Files that are whole or not there: written under another name, flushed, renamed. And their digests."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.memory import GIB

_log = logging.getLogger("fluxbooth")
PART_SUFFIX = ".part"
_BLOCK = 8 * 1024 * 1024


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; on success it becomes `path`, on failure it is removed.

    The file gets the mode that the caller's umask asks for: safetensors 0.8 writes files with mode 0600, which a
    ComfyUI under another user lists and then cannot open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Drawn by lot, since two containers can have the same process id; the suffix hides the file from ComfyUI's list.
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        yield part
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> None:
    """Let a finished file appear as `path`, on the disk for good and readable as the caller's umask asks for."""
    part.chmod(0o666 & ~_umask())
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


@contextmanager
def held_alone(
    folder: Path,
    held: str = "another run of this name is going on",
    do: str = "Wait, or choose another --output_name",
) -> Iterator[None]:
    """Hold `folder`, which is made where it is missing, against every other process on this machine, containers too.

    Raises:
        UserError: when another process holds it, in the words of `held` and `do`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(Problem(held, where=str(folder), do=do)) from error
        yield


def is_held(folder: Path) -> bool:
    """Whether a process on this machine holds `folder` by `held_alone`."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody ever held it, or it may not be read
        return False
    return False


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def digest_of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
    return sha256.hexdigest()


class DigestMemory:
    """Remembers sha256 digests by (path, size, modification time), so that 10 GB are hashed once and not every run."""

    def __init__(self, file: Path) -> None:
        """Use `file` (JSON) as the memory; it is made when first needed."""
        self._file = file

    def digest(self, path: Path) -> str:
        """Return the sha256 of `path`, hashing it only when size or time differ from what is remembered.

        Of a folder: one of the digests of the safetensors files right inside it.
        """
        if path.is_dir():
            parts = [self.digest(file) for file in sorted(path.glob("*.safetensors"))]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()
        state = path.stat()
        key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
        known = self._known()
        if key not in known:
            if state.st_size > GIB:
                _log.info("reading %s (%.1f GiB) once, to know it again", path.name, state.st_size / GIB)
            known[key] = digest_of_file(path)
            self._write(known)
        return known[key]

    def remember(self, path: Path, digest: str) -> None:
        """Keep a digest that was computed elsewhere."""
        state = path.stat()
        self._write(self._known() | {f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}": digest})

    def _write(self, known: dict[str, str]) -> None:
        write_text(self._file, json.dumps(known, indent=1, sort_keys=True))

    def _known(self) -> dict[str, str]:
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            known = None
        return known if isinstance(known, dict) else {}  # a memory that is lost costs hashing again, nothing else


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

"""The page cache of our own files is given back: seen in the kernel's own account of what it holds (mincore)."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from pathlib import Path

import pytest

from fluxbooth.host.page_cache import ReadAhead, drop_page_cache, drop_page_cache_of
from host.another_user import last_line_of

MIB = 1024**2


def cached_share(path: Path) -> float:
    """Return which share of a file's pages the kernel holds in memory, 0 to 1."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    resident = (ctypes.c_ubyte * pages)()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        window = ctypes.c_char.from_buffer(mapped)
        try:
            failed = ctypes.CDLL(None, use_errno=True).mincore(
                ctypes.c_void_p(ctypes.addressof(window)), ctypes.c_size_t(size), resident
            )
        finally:
            del window  # a mapping with a window in it cannot be closed
    assert failed == 0, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in resident) / pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder on a file system whose pages can be dropped: one that lives in memory keeps them."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system has no posix_fadvise")
    probe = tmp_path / "probe"
    probe.write_bytes(bytes(MIB))
    with probe.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    kept = cached_share(probe)
    probe.unlink()
    if kept > 0:
        pytest.skip("the file system of the temporary folder keeps its pages in memory (tmpfs?)")
    return tmp_path


def test_a_file_that_was_read_leaves_the_page_cache(folder: Path) -> None:
    path = folder / "weights"
    path.write_bytes(os.urandom(MIB) * 64)
    drop_page_cache(path)
    path.read_bytes()
    assert cached_share(path) > 0.99

    drop_page_cache(path)

    assert cached_share(path) < 0.01


def test_a_file_that_is_read_ahead_is_there_up_to_where_it_was_asked_for(folder: Path) -> None:
    path = folder / "weights"
    path.write_bytes(os.urandom(MIB) * 192)
    drop_page_cache(path)
    ReadAhead(path, at_most=64 * MIB).wait()
    assert 0.33 <= cached_share(path) < 0.5


def test_reading_ahead_can_be_stopped_and_takes_no_notice_of_what_is_not_there(folder: Path) -> None:
    path = folder / "weights"
    path.write_bytes(os.urandom(MIB) * 512)
    drop_page_cache(path)
    ReadAhead(path, at_most=512 * MIB).stop()
    assert cached_share(path) < 0.9
    ReadAhead(folder / "nothing", at_most=MIB).wait()


def test_a_file_just_written_is_flushed_first_and_leaves_it_too(folder: Path) -> None:
    path = folder / "weights"
    content = os.urandom(MIB) * 16
    path.write_bytes(content)
    assert cached_share(path) > 0.99

    drop_page_cache(path)

    assert cached_share(path) < 0.01
    assert path.read_bytes() == content


def test_all_files_below_the_folders_leave_it_and_are_counted(folder: Path) -> None:
    paths = [folder / name for name in ("models/vae/ae", "models/loras/toy", "cache/latents")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(os.urandom(MIB))

    assert drop_page_cache_of([folder / "models", folder / "cache", folder / "not there"]) == 3

    assert [cached_share(path) for path in paths] == [0, 0, 0]


def test_a_link_that_leads_nowhere_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"weights")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert drop_page_cache_of([tmp_path]) == 1


def test_a_file_that_may_not_be_read_is_left_out() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file, mode in (("ours", 0o644), ("theirs", 0o600 if os.getuid() == 0 else 0o000)):
            (folder / file).write_bytes(b"weights")
            (folder / file).chmod(mode)
        dropped = last_line_of(
            "from fluxbooth.host.page_cache import drop_page_cache_of",
            "print(drop_page_cache_of([Path(sys.argv[1])]))",
            name,
        )
    assert dropped == "1"

"""One file in blocks: what has come stays, whatever happens in between, and never comes twice."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from fluxbooth.errors import UserError
from fluxbooth.host import hub as hub_module
from fluxbooth.host.fetch import Part, fetch
from fluxbooth.host.weights import HubFile
from host.local_hub import LocalHub, local_hub, seen_as_the_hub

WEIGHTS = save({"weight": torch.arange(100_000, dtype=torch.float32)})
BLOCK = 64 * 1024
BLOCKS = -(-len(WEIGHTS) // BLOCK)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    monkeypatch.setattr(hub_module, "_FIRST_PAUSE", 0.001)
    with local_hub() as served:
        seen_as_the_hub(served, monkeypatch, tmp_path)
        yield served


def part_of(folder: Path, file: HubFile, block_bytes: int = BLOCK) -> Part:
    assert file.bytes is not None
    return Part(folder / file.path, file.bytes, file.sha256, block_bytes)


def ranges_asked(hub: LocalHub) -> set[str]:
    return {asked.range or "" for asked in hub.asked_of_storage}


def test_the_blocks_come_over_several_connections_and_make_the_file(hub: LocalHub, tmp_path: Path) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    assert fetch(file, part_of(tmp_path, file), None, connections=3) == hashlib.sha256(WEIGHTS).hexdigest()
    assert (tmp_path / file.path).read_bytes() == WEIGHTS
    assert (tmp_path / file.path).stat().st_mode & 0o777 == 0o666 & ~umask()
    assert [path.name for path in tmp_path.iterdir()] == ["flux1-dev.safetensors"]
    assert len(ranges_asked(hub)) == BLOCKS


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block_bytes=st.integers(20_000, 500_000), connections=st.integers(1, 5))
def test_any_block_size_and_any_number_of_connections_give_the_same_file(
    hub: LocalHub, tmp_path: Path, block_bytes: int, connections: int
) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    fetch(file, part_of(tmp_path, file, block_bytes), None, connections)
    assert (tmp_path / file.path).read_bytes() == WEIGHTS


def test_what_came_before_a_failure_does_not_come_again(hub: LocalHub, tmp_path: Path) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    part = part_of(tmp_path, file)
    hub.faults[file.file], hub.well_answers = "refused", 3
    with pytest.raises(UserError, match="503"):
        fetch(file, part, None, connections=1)
    assert len(part.there()) == 3
    assert part.missing_bytes() == len(WEIGHTS) - 3 * BLOCK
    hub.faults.clear()
    before = len(hub.asked_of_storage)
    fetch(file, part, None)
    assert len(hub.asked_of_storage) - before == BLOCKS - 3
    assert (tmp_path / file.path).read_bytes() == WEIGHTS


KILLED = """
import sys
from pathlib import Path
from fluxbooth.host.fetch import Part, fetch
from fluxbooth.host.weights import HubFile
folder, repository, name, size, sha256, block = sys.argv[1:]
fetch(HubFile(name, repository, name), Part(Path(folder) / name, int(size), sha256, int(block)), None, connections=2)
"""


def test_after_kill_9_it_goes_on_with_the_blocks_that_lack(hub: LocalHub, tmp_path: Path) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    part = part_of(tmp_path, file)
    hub.faults[file.file], hub.well_answers = "slow", 4
    arguments = [str(tmp_path), file.repository, file.file, str(file.bytes), str(file.sha256), str(BLOCK)]
    fetching = subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], env=os.environ | {"HF_ENDPOINT": hub.url}, text=True
    )
    deadline = time.monotonic() + 60
    while len(part.there()) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    fetching.send_signal(signal.SIGKILL)
    assert fetching.wait() == -signal.SIGKILL
    assert len(part.there()) == 4
    assert not (tmp_path / file.path).exists()

    hub.faults.clear()
    before = len(hub.asked_of_storage)
    fetch(file, part, None)
    assert len(hub.asked_of_storage) - before == BLOCKS - 4
    assert (tmp_path / file.path).read_bytes() == WEIGHTS
    assert [path.name for path in tmp_path.iterdir()] == ["flux1-dev.safetensors"]


def test_a_line_of_the_journal_that_was_cut_counts_for_nothing(hub: LocalHub, tmp_path: Path) -> None:
    """Of "12" without its end it is not known whether it was going to be 120."""
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    part = part_of(tmp_path, file)
    hub.faults[file.file], hub.well_answers = "refused", 2
    with pytest.raises(UserError):
        fetch(file, part, None, connections=1)
    with part.journal.open("a") as journal:
        journal.write("1")
    assert part.there() == {0, 1}
    hub.well_answers = 1
    with pytest.raises(UserError):
        fetch(file, part, None, connections=1)
    assert part.there() == {0, 1, 2}, "and is no beginning of the next number"
    hub.faults.clear()
    fetch(file, part, None)
    assert (tmp_path / file.path).read_bytes() == WEIGHTS


def test_an_answer_that_ends_early_without_saying_so_is_gone_on_with(hub: LocalHub, tmp_path: Path) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    hub.faults[file.file], hub.faulty_answers = "short", 2
    fetch(file, part_of(tmp_path, file), None, connections=1)
    assert (tmp_path / file.path).read_bytes() == WEIGHTS


def test_a_disk_that_takes_a_part_of_what_is_written_gets_the_rest(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: write(descriptor, data[:20_000], place))
    fetch(file, part_of(tmp_path, file), None)
    assert (tmp_path / file.path).read_bytes() == WEIGHTS


def test_parts_of_another_file_or_block_size_are_not_gone_on_with(hub: LocalHub, tmp_path: Path) -> None:
    old = hub.has("flux1-dev.safetensors", WEIGHTS[::-1], gated=False)
    hub.faults[old.file], hub.well_answers = "refused", 3
    with pytest.raises(UserError):
        fetch(old, part_of(tmp_path, old), None, connections=1)
    hub.faults.clear()
    assert part_of(tmp_path, old, BLOCK // 2).there() == set()
    new = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    fetch(new, part_of(tmp_path, new), None)
    assert (tmp_path / new.path).read_bytes() == WEIGHTS
    assert [path.name for path in tmp_path.iterdir()] == ["flux1-dev.safetensors"], "the old part was swept"


def test_other_bytes_than_expected_are_not_kept(hub: LocalHub, tmp_path: Path) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    hub.faults[file.file] = "altered"
    with pytest.raises(UserError, match="nothing was kept"):
        fetch(file, part_of(tmp_path, file), None)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_no_parts_is_named(hub: LocalHub, tmp_path: Path) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    hub.faults[file.file] = "no ranges"
    with pytest.raises(UserError, match="a part of the file was asked for and 200 came"):
        fetch(file, part_of(tmp_path, file), None)
    fetch(file, part_of(tmp_path, file, len(WEIGHTS)), None)  # the first part may as well be the whole
    assert (tmp_path / file.path).read_bytes() == WEIGHTS


def test_a_file_shorter_than_the_hub_said_is_refused_by_its_storage(hub: LocalHub, tmp_path: Path) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    hub.has("flux1-dev.safetensors", WEIGHTS[:BLOCK], gated=False)
    with pytest.raises(UserError, match="the hub answered 416"):
        fetch(file, part_of(tmp_path, file), None, connections=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file system that can be made full")
def test_a_full_disk_is_said_and_what_came_is_kept(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hub.has("flux1-dev.safetensors", WEIGHTS, gated=False)
    part = part_of(tmp_path, file)
    written, write = [0], os.pwrite

    def until_full(descriptor: int, data: bytes, place: int) -> int:
        written[0] += len(data)
        if written[0] > 2 * BLOCK:
            with Path("/dev/full").open("wb", buffering=0) as full:  # the kernel's own refusal
                full.write(data)
        return write(descriptor, data, place)

    monkeypatch.setattr(os, "pwrite", until_full)
    with pytest.raises(UserError, match="the disk is full"):
        fetch(file, part, None, connections=1)
    assert len(part.there()) == 2
    monkeypatch.setattr(os, "pwrite", write)
    fetch(file, part, None)
    assert (tmp_path / file.path).read_bytes() == WEIGHTS

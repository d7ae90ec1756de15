"""Files are whole or not there, readable for the next program, and hashed once."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fluxbooth.host.files import DigestMemory, digest_of_file, write_text, written_whole


@pytest.fixture
def umask() -> Iterator[None]:
    """The usual umask 022, whatever the one of this machine is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "loras" / "toy.safetensors"
    with written_whole(path) as part:
        part.write_bytes(b"half")
        assert not path.exists()
        part.write_bytes(b"half and half")
        assert not path.exists()
    assert path.read_bytes() == b"half and half"
    assert list(path.parent.iterdir()) == [path]


def test_what_is_being_written_has_no_name_that_comfyui_would_list(tmp_path: Path) -> None:
    with written_whole(tmp_path / "toy.safetensors") as part:
        part.write_bytes(b"")
        assert part.parent == tmp_path  # the same file system, so that the rename is one act
        assert part.suffix != ".safetensors"


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    path.write_bytes(b"the old one")

    def write_half() -> None:
        with written_whole(path) as part:
            part.write_bytes(b"the new o")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_half()
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_being_stopped_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def be_stopped() -> None:
        with written_whole(tmp_path / "toy.safetensors") as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_stopped()
    assert list(tmp_path.iterdir()) == []


def test_a_reader_keeps_the_old_file_whole_while_a_new_one_takes_its_name(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    path.write_bytes(b"old " * 1000)
    with path.open("rb") as reader:
        first_half = reader.read(2000)
        with written_whole(path) as part:
            part.write_bytes(b"new " * 1000)
            assert path.read_bytes() == b"old " * 1000
        assert first_half + reader.read() == b"old " * 1000
    assert path.read_bytes() == b"new " * 1000


@pytest.mark.usefixtures("umask")
def test_a_lora_can_be_read_by_another_user_although_safetensors_writes_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    with written_whole(path) as part:
        save_file({"lora": torch.zeros(2)}, part)
    assert mode_of(path) == 0o644


@pytest.mark.usefixtures("umask")
def test_a_user_who_wants_files_for_himself_gets_them(tmp_path: Path) -> None:
    os.umask(0o077)
    write_text(tmp_path / "run.toml", "seed = 1")
    assert mode_of(tmp_path / "run.toml") == 0o600
    assert os.umask(0o077) == 0o077  # asking for the umask has not changed it


def test_text_is_utf_8_whatever_the_language_of_the_machine(tmp_path: Path) -> None:
    write_text(tmp_path / "run.toml", 'class_tokens = "Spielzeug 玩具 ящик"')
    assert (tmp_path / "run.toml").read_bytes().decode("utf-8") == 'class_tokens = "Spielzeug 玩具 ящик"'


def test_the_digest_is_the_sha256_of_all_bytes(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"fluxbooth" * 1_000_000)  # more than one block is read
    assert digest_of_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "vae.safetensors"
    path.write_bytes(b"weights")
    return path


def overwrite_remembered(memory_file: Path, digest: str) -> None:
    """Put `digest` in place of what the memory holds: it comes back only where nothing is hashed."""
    known: dict[str, str] = json.loads(memory_file.read_text(encoding="utf-8"))
    memory_file.write_text(json.dumps(dict.fromkeys(known, digest)), encoding="utf-8")


def test_a_file_that_did_not_change_is_hashed_once_for_all_runs(tmp_path: Path, weights: Path) -> None:
    memory_file = tmp_path / "cache" / "digests.json"
    assert DigestMemory(memory_file).digest(weights) == digest_of_file(weights)
    overwrite_remembered(memory_file, "remembered")
    assert DigestMemory(memory_file).digest(weights) == "remembered"


def test_a_file_of_another_size_is_hashed_again(tmp_path: Path, weights: Path) -> None:
    memory = DigestMemory(tmp_path / "digests.json")
    memory.digest(weights)
    overwrite_remembered(tmp_path / "digests.json", "remembered")
    before = weights.stat()
    weights.write_bytes(b"other weights")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert memory.digest(weights) == digest_of_file(weights)


def test_a_file_of_another_time_is_hashed_again(tmp_path: Path, weights: Path) -> None:
    memory = DigestMemory(tmp_path / "digests.json")
    memory.digest(weights)
    overwrite_remembered(tmp_path / "digests.json", "remembered")
    before = weights.stat()
    weights.write_bytes(b"heights")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert memory.digest(weights) == digest_of_file(weights)


def test_two_files_are_remembered_beside_each_other(tmp_path: Path, weights: Path) -> None:
    other = tmp_path / "clip.safetensors"
    other.write_bytes(b"letters")  # as many bytes as the first
    memory = DigestMemory(tmp_path / "digests.json")
    assert memory.digest(weights) != memory.digest(other)
    assert len(json.loads((tmp_path / "digests.json").read_text(encoding="utf-8"))) == 2

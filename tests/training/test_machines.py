"""Two machines train one LoRA together, each a network namespace of its own here; their folders must be the same."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PYTHON = sys.executable
LAUNCH = (PYTHON, "-m", "torch.distributed.run")
FLAGS = ("--model", "miniature", "--resolution", "32", "--network_dim", "2", "--max_train_steps", "2")


@pytest.fixture
def data(make_concept: Callable[..., Path], tmp_path: Path) -> Path:
    """Two pictures of one size."""
    folder = make_concept("toy", [(64, 64)] * 2)
    text = f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "tjtoy toy"\n'
    (tmp_path / "data.toml").write_text(text)
    return tmp_path / "data.toml"


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces, 10.77.0.1 and 10.77.0.2, with a cable between them."""
    word = secrets.token_hex(3)
    names = f"first-{word}", f"second-{word}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {error}")
    else:
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def environment(folder: Path) -> dict[str, str]:
    places = {f"FLUXBOOTH_{name.upper()}_DIR": str(folder / name) for name in ("models", "runs", "cache")}
    return {**os.environ, **places, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"}


def test_two_machines_with_one_folder_train_one_lora(
    machines: tuple[str, str], data: Path, tmp_path: Path, in_repository: Path
) -> None:
    started = []
    for rank, name in enumerate(machines):
        place = ("--nnodes", "2", "--node_rank", str(rank), "--master_addr", "10.77.0.1", "--nproc_per_node", "1")
        train = (PYTHON, "-m", "fluxbooth", "train", *FLAGS, "--data", str(data), "--output_name", "lora")
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *LAUNCH, *place, "--no-python", *train],
                env=environment(tmp_path),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert (tmp_path / "models/loras/lora.safetensors").is_file()
    assert ("wrote " in said[0], "wrote " in said[1]) == (True, False), "the first one writes and speaks"


def test_machines_that_see_different_folders_are_told_so(data: Path, tmp_path: Path, in_repository: Path) -> None:
    """Two processes of one machine, each with a runs folder of its own."""
    train = f"{PYTHON} -m fluxbooth train {' '.join(FLAGS)} --data {data} --output_name lora"
    separate = f"FLUXBOOTH_RUNS_DIR={tmp_path}/runs-$RANK exec {train}"
    done = subprocess.run(
        [*LAUNCH, "--standalone", "--nproc_per_node", "2", "--no-python", "bash", "-c", separate],
        env={key: value for key, value in environment(tmp_path).items() if key != "GLOO_SOCKET_IFNAME"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode != 0
    assert "1 of 2 processes see another folder than the first one does" in done.stderr
    assert not list(tmp_path.glob("models/loras/*"))

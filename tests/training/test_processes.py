"""Two processes that train together do what one with twice the batch size does, and stop together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from builders import make_item
from safetensors.torch import load_file

from fluxbooth.cli import main
from fluxbooth.dataset.plan import Visit
from fluxbooth.errors import UserError
from fluxbooth.training.processes import ALONE, Processes, processes_started

FLAGS = ["--model", "miniature", "--resolution", "32", "--network_dim", "2", "--save_precision", "float"]
FLAGS += ["--mixed_precision", "no", "--learning_rate", "0.01", "--text_encoder_lr", "0.01", "--lr_warmup_steps", "0"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_shares_of_a_micro_batch_are_all_of_it_and_each_visit_once(count: int) -> None:
    micro_batch = tuple(Visit(make_item(number), False, "toy") for number in range(4))
    shares = [Processes(rank, count).share(micro_batch) for rank in range(count)]
    placed = sorted(
        (place, visit.item.digest) for own, places in shares for place, visit in zip(places, own, strict=True)
    )
    assert placed == [(place, visit.item.digest) for place, visit in enumerate(micro_batch)]


def test_a_process_alone_adds_nothing_up() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    ALONE.add_up([parameter])
    assert parameter.grad is None
    assert ALONE.total([0.1], torch.device("cpu")) == [0.1]


def test_what_the_launcher_says_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match="WORLD_SIZE is 'two'"):
        processes_started()


@pytest.fixture
def data(make_concept: Callable[..., Path], tmp_path: Path) -> Path:
    """Five pictures of one size: of two processes one has fewer in the last micro-batch."""
    folder = make_concept("toy", [(64, 64)] * 5)
    text = f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "tjtoy toy"\n'
    (tmp_path / "data.toml").write_text(text)
    return tmp_path / "data.toml"


def environment(folder: Path) -> dict[str, str]:
    places = {f"FLUXBOOTH_{name.upper()}_DIR": str(folder / name) for name in ("models", "runs", "cache")}
    return {**os.environ, **places, "OMP_NUM_THREADS": "1"}


def launched(folder: Path, data: Path, *flags: str) -> subprocess.Popen[str]:
    """Two processes, as a user starts them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    command = [*launcher, sys.executable, "-m", "fluxbooth", "train", *FLAGS, "--data", str(data), *flags]
    return subprocess.Popen(
        command, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_two_processes_of_batch_1_train_what_one_of_batch_2_does(
    data: Path, tmp_path: Path, in_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    flags = ["--max_train_steps", "6", "--output_name", "lora", "--ema_decay", "0.5"]
    flags += ["--sample_every_n_steps", "6", "--sample_at_first", "--sample_steps", "1"]
    # So large an epsilon leaves AdamW's steps in proportion to the gradient; else a value near zero that is rounded to
    # the other side takes as large a step as any.
    flags += ["--optimizer_args", "eps=1.0", "--learning_rate", "1", "--text_encoder_lr", "1"]
    process = launched(both, data, *flags, "--train_batch_size", "1")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert said.count("wrote ") >= 1
    assert len(re.findall(r"evaluation loss \(", said)) == 1, "the first one speaks for both"
    assert len(list(both.glob("runs/lora/samples*/step*.png"))) == 2, "and it alone draws"
    assert not (both / "runs/lora/samples-1").exists(), "nobody takes its pictures for an earlier run's"

    for name, value in environment(alone).items():
        monkeypatch.setenv(name, value)
    assert main(["train", *FLAGS, "--data", str(data), *flags, "--train_batch_size", "2"]) == 0
    ours, theirs = (load_file(folder / "models/loras/lora.safetensors") for folder in (both, alone))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.allclose(ours[key], tensor, rtol=1e-3, atol=1e-5), key
    assert any(tensor.abs().max() > 1e-3 for key, tensor in ours.items() if "lora_B" in key), "something was learned"


@pytest.mark.slow
def test_processes_that_would_hold_the_matrices_in_different_forms_are_told_so(tmp_path: Path) -> None:
    """Each chooses by the memory and the speed that it finds."""
    program = tmp_path / "choose.py"
    program.write_text(
        "import sys, torch\n"
        "from fluxbooth.errors import UserError\n"
        "from fluxbooth.training.processes import joined_processes, require_one_form\n"
        "with joined_processes() as processes:\n"
        "    require_one_form('nf4', processes, torch.device('cpu'))\n"
        "    try:\n"
        "        require_one_form('full' if processes.is_first else 'fp8', processes, torch.device('cpu'))\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    said = subprocess.run([*launcher, str(program)], capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.count("1 of 2 processes would hold FLUX's matrices in another form than the first") == 2


@pytest.mark.slow
@pytest.mark.parametrize("killed", [True, False], ids=["one is killed", "the launcher is asked to stop"])
def test_when_one_stops_the_other_saves_and_both_are_gone(
    data: Path, tmp_path: Path, in_repository: Path, killed: bool
) -> None:
    process = launched(tmp_path, data, "--max_train_steps", "100000", "--output_name", "lora")
    log = tmp_path / "runs/lora/logs/steps.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("\n") > 3):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if killed:
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(max(map(int, workers.stdout.split())), signal.SIGKILL)
    else:
        process.terminate()
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert (tmp_path / "runs/lora/state/state.pt").is_file()

"""Where the memory is full in a step, the next one takes less of it, and no number changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fluxbooth.errors import UserError
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.stored import StorageForm
from fluxbooth.flux.training_pass import TrainingPass, use_training_pass
from fluxbooth.host.folders import Folders
from fluxbooth.training.memory_plan import plan_with
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import run
from fluxbooth.training.stepping_down import step_down

SHORT = {
    "max_train_steps": 4,
    "optimizer_type": "AdamW",
    "learning_rate": 0.004,
    "text_encoder_lr": 0.0,
    "diff_output_preservation": 0.0,
}


def prepared_beside_a_gpu(folders: Folders, name: str, **flags: object) -> Prepared:
    """A run on the processor that holds its memory for a GPU's own, with room for everything."""
    data = Path("flux_data/data.toml")
    prepared = prepare("miniature", data, "miniature", {**SHORT, "output_name": name, **flags}, folders)
    work, memory = replace(prepared.work, unified=False), replace(prepared.memory, whole=prepared.work.blocks)
    return replace(prepared, work=work, memory=memory)


@pytest.fixture
def full_unless(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[TrainingPass], bool]], None]:
    """Let the memory hold no pass from the second one on but those of which the given function says so."""

    def make(fits: Callable[[TrainingPass], bool]) -> None:
        compute, passes = TrainingPass._run, 0

        def within_memory(own: TrainingPass, number: int, *arguments: Any) -> Any:
            nonlocal passes
            passes += number == 0 and torch.is_grad_enabled()
            if passes > 1 and not fits(own):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
            return compute(own, number, *arguments)

        monkeypatch.setattr(TrainingPass, "_run", within_memory)

    return make


@pytest.mark.parametrize(
    ("fits", "said"),
    [
        (lambda own: not own.whole, "from here on norms and activations are recomputed"),
        (lambda own: own.recomputed >= 2, "from here on 2 of 6 blocks are recomputed"),
        (lambda own: own.streamed >= 3, "from here on 4 of 6 blocks are streamed from the machine's memory"),
    ],
    ids=["norms and activations recomputed", "recomputed", "streamed"],
)
def test_memory_that_runs_out_in_a_step_costs_time_and_no_number(
    in_repository: Path,
    folders: Folders,
    caplog: pytest.LogCaptureFixture,
    full_unless: Callable[[Callable[[TrainingPass], bool]], None],
    fits: Callable[[TrainingPass], bool],
    said: str,
) -> None:
    straight = run(prepared_beside_a_gpu(folders, "straight")).lora
    full_unless(fits)
    with caplog.at_level(logging.INFO, "fluxbooth"):
        again = run(prepared_beside_a_gpu(folders, "again")).lora
    one, other = (load_file(file) for file in (straight, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    full = [record.getMessage() for record in caplog.records if "the memory is full" in record.getMessage()]
    assert all(line.startswith("warning: the memory is full in step 2 (CUDA out of memory.") for line in full)
    assert full[-1].endswith(said)


def test_where_nothing_takes_less_the_last_whole_step_is_saved_and_the_advice_is_what_is_left(
    in_repository: Path, folders: Folders, full_unless: Callable[[Callable[[TrainingPass], bool]], None]
) -> None:
    full_unless(lambda own: False)
    with pytest.raises(UserError) as refused:
        run(prepared_beside_a_gpu(folders, "full"))
    said = str(refused.value)
    assert "the memory is full: CUDA out of memory" in said
    assert "network_dim = 12 saves" in said
    assert "blocks_to_swap" not in said, "all are streamed"
    assert "gradient_checkpointing" not in said, "all are recomputed"
    assert (folders.run("full") / "state" / "state.pt").is_file()


def test_first_what_costs_least_then_twice_as_much_of_it(in_repository: Path, folders: Folders) -> None:
    prepared = prepared_beside_a_gpu(folders, "steps", base_weights="fp8")
    running = _running(prepared, fp8_products=True)
    running.whole = 1
    said = []
    while (instead := step_down(running, prepared.work, prepared.memory, None)) is not None:
        said.append(instead)
    assert said == [
        "matrices are turned round for every fp8 product",
        "norms and activations are recomputed",
        *(f"{number} of 6 blocks are recomputed" for number in (1, 2, 4, 6)),
        *(f"{number} of 6 blocks are streamed from the machine's memory" for number in (1, 2, 4, 6)),
    ]


def test_no_more_blocks_are_streamed_than_the_machines_memory_holds(in_repository: Path, folders: Folders) -> None:
    prepared = prepared_beside_a_gpu(folders, "little")
    work = prepared.work
    of_three = plan_with(work, "full", work.blocks, 3).waiting_bytes
    running = _running(prepared)
    running.recomputed = running.blocks
    running.stream_more(2)
    of_one_more = of_three - plan_with(work, "full", work.blocks, 2).waiting_bytes
    assert step_down(running, work, prepared.memory, of_one_more) == (
        "3 of 6 blocks are streamed from the machine's memory"
    )
    assert step_down(running, work, prepared.memory, of_one_more - 1) is None


def test_where_the_gpu_has_the_machines_memory_nothing_is_gained_by_streaming(
    in_repository: Path, folders: Folders
) -> None:
    prepared = prepared_beside_a_gpu(folders, "unified")
    running = _running(prepared)
    running.recomputed = running.blocks
    assert step_down(running, replace(prepared.work, unified=True), prepared.memory, None) is None


def _running(prepared: Prepared, fp8_products: bool = False) -> TrainingPass:
    form: StorageForm = "fp8" if fp8_products else "full"
    transformer = load_transformer(prepared.weights, prepared.architecture, torch.bfloat16, prepared.device, form)
    return use_training_pass(transformer, fp8_products=fp8_products)

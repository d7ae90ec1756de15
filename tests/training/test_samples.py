"""Sample pictures of a run: which, when, where, and that the training does not notice them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fluxbooth.config.prompts import SamplePrompt
from fluxbooth.config.recipe import Recipe
from fluxbooth.errors import UserError
from fluxbooth.flux.generate import Shot, generate
from fluxbooth.flux.lora_formats import metadata_of
from fluxbooth.flux.miniature import miniature_weights
from fluxbooth.host.folders import Folders
from fluxbooth.host.signals import StoppedOnRequestError, StopRequest
from fluxbooth.showing.pictures import save_picture
from fluxbooth.training.loop import StepReport
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import run
from fluxbooth.training.sample_plan import SamplePlan, plan_samples

CONCEPTS = ["tjtoy toy", "sparkgpu gpu"]
SHORT = {
    "max_train_steps": 4,
    "output_name": "short",
    "resolution": 32,
    "network_dim": 2,
    "train_batch_size": 1,
    "text_encoder_lr": 0.0,
    "diff_output_preservation": 0.0,
    "sample_steps": 2,
}
DRAWN = {"sample_every_n_steps": 2, "sample_prompts": ("[trigger] on a beach --d 7 --w 32 --h 48", "a cat")}


def prepared(folders: Folders, **flags: object) -> Prepared:
    return prepare("miniature", Path("flux_data/data.toml"), "miniature", {**SHORT, **flags}, folders)


def planned(*prompts: SamplePrompt, **fields: object) -> SamplePlan:
    recipe = Recipe.model_validate({"max_train_steps": 10, "sample_every_n_steps": 4, **fields})
    return plan_samples(recipe, prompts, CONCEPTS, (64, 48), 10, 5)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def test_rounds_are_due_when_asked_for_and_at_the_end() -> None:
    def due(**fields: object) -> list[int]:
        plan = planned(**fields)
        return [step for step in range(11) if plan.is_due(step)]

    assert due() == [4, 8, 10]
    assert due(sample_at_first=True) == [0, 4, 8, 10]
    assert due(sample_every_n_steps=None, sample_every_n_epochs=1) == [5, 10]
    assert due(sample_every_n_epochs=1) == [4, 5, 8, 10]
    assert due(sample_every_n_steps=None, sample_at_first=True) == [0, 10]
    assert due(sample_every_n_steps=None) == []


def test_a_trigger_is_each_concept_in_turn_and_the_rest_of_a_prompt_counts() -> None:
    asked = SamplePrompt(prompt="[trigger] in space", width=32, seed=7, sample_steps=9, guidance_scale=0.0)
    pictures = planned(asked, SamplePrompt(prompt="a cat")).pictures
    assert [one.prompt for one in pictures] == ["tjtoy toy in space", "sparkgpu gpu in space", "a cat"]
    assert [(one.width, one.height) for one in pictures] == [(32, 48), (32, 48), (64, 48)]
    assert [(one.seed, one.steps, one.guidance_scale) for one in pictures] == [(7, 9, 0.0), (7, 9, 0.0), (42, 20, 3.5)]


def test_without_prompts_each_concept_is_drawn_and_all_together() -> None:
    assert [one.prompt for one in planned().pictures] == [*CONCEPTS, "tjtoy toy next to sparkgpu gpu"]


def test_a_walking_seed_is_one_higher_with_each_prompt() -> None:
    assert [one.seed for one in planned(sample_seed=5, walk_seed=True).pictures] == [5, 6, 7]
    assert [one.seed for one in planned(sample_seed=5).pictures] == [5, 5, 5]


def test_what_will_be_drawn_is_said_and_checked_before_the_run(
    in_repository: Path, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fluxbooth"):
        prepared(folders, **DRAWN)
    assert "sample pictures: 2 times 3, 6 in all, which takes 12 passes of the network" in caplog.text
    with pytest.raises(UserError, match=r"entry 1, --w: width is 33\. Allowed: a multiple of 16"):
        prepared(folders, sample_every_n_steps=2, sample_prompts=("a toy --w 33",))
    with caplog.at_level(logging.INFO, "fluxbooth"):
        assert prepared(folders, sample_prompts=("a toy",)).samples == SamplePlan()
    assert "sample_prompts draws nothing without sample_every_n_steps" in caplog.text


def test_a_run_leaves_its_pictures_and_a_grid(in_repository: Path, folders: Folders) -> None:
    outcome = run(prepared(folders, sample_at_first=True, **DRAWN))
    folder = folders.run("short") / "samples"
    assert names(folder) == [
        "grid.png",
        *(
            f"step{step:08d}_{number:02d}_seed{seed}.png"
            for step in (0, 2, 4)
            for number, seed in ((1, 7), (2, 7), (3, 42))
        ),
    ]
    with Image.open(folder / "step00000004_02_seed7.png") as last:
        assert last.size == (32, 48)
        assert last.info["prompt"] == "sparkgpu gpu on a beach"
        assert (last.info["seed"], last.info["step"]) == ("7", "4")
        pixels = last.tobytes()
    shot = Shot("sparkgpu gpu on a beach", 7, 32, 48)
    assert close(pixels, generated(shot, outcome.lora)), "the last round draws what the LoRA file draws"
    with Image.open(folder / "step00000000_02_seed7.png") as first:
        assert close(first.tobytes(), generated(shot)), "a fresh LoRA draws what the base model draws"
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > 3 * 100


def generated(shot: Shot, *loras: Path) -> Image.Image:
    """What `fluxbooth generate` draws in two steps."""
    strengths, cpu = [(lora, 1.0) for lora in loras], torch.device("cpu")
    return generate([shot], strengths, miniature_weights(), 2, 3.5, torch.float32, cpu, "dpmpp_2m")[0]


def close(pixels: bytes, picture: Image.Image) -> bool:
    """Whether two pictures differ by no more than rounding: a LoRA beside a matrix or added to it rounds otherwise."""
    differences = [abs(one - other) for one, other in zip(pixels, picture.tobytes(), strict=True)]
    return max(differences) <= 2


@pytest.mark.parametrize(
    "trained",
    [
        {"network_dropout": 0.2},
        pytest.param({"text_encoder_lr": 0.003, "ema_decay": 0.9, "mixed_precision": "bf16"}, marks=pytest.mark.slow),
    ],
)
def test_the_training_does_not_notice_the_drawing(
    in_repository: Path, folders: Folders, trained: dict[str, object]
) -> None:
    how = {**trained, "gradient_checkpointing": True}
    without = load_file(run(prepared(folders, output_name="x", **how)).lora)
    file = run(prepared(folders, output_name="x", **how, **DRAWN)).lora
    assert "modelspec.thumbnail" in metadata_of(file), "the only thing that differs"
    drawn = load_file(file)
    assert drawn.keys() == without.keys()
    assert all(torch.equal(drawn[key], tensor) for key, tensor in without.items())


def test_trained_clip_draws_too(in_repository: Path, folders: Folders) -> None:
    """Without a rate on the transformer's part that shows, only CLIP can change the picture."""
    drawn_twice = {"sample_every_n_steps": 2, "sample_prompts": ("a cat --w 32 --h 32",)}
    outcome = run(prepared(folders, text_encoder_lr=0.05, learning_rate=1e-9, lr_warmup_steps=0, **drawn_twice))
    shot = Shot("a cat", 42, 32, 32)
    folder = folders.run("short") / "samples"
    with (
        Image.open(folder / "step00000002_01_seed42.png") as earlier,
        Image.open(folder / "step00000004_01_seed42.png") as last,
    ):
        assert earlier.tobytes() != last.tobytes()
        assert close(last.tobytes(), generated(shot, outcome.lora))


def test_a_run_that_goes_on_adds_to_what_is_there(
    in_repository: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(3, monkeypatch)
    with pytest.raises(StoppedOnRequestError):
        run(prepared(folders, **DRAWN))
    monkeypatch.undo()
    folder = folders.run("short") / "samples"
    assert len(names(folder)) == 4
    times = {name: (folder / name).stat().st_mtime_ns for name in names(folder) if name.startswith("step")}
    with Image.open(folder / "grid.png") as grid:
        width = grid.width
    monkeypatch.chdir(in_repository)
    run(prepared(folders, **DRAWN))
    assert len(names(folder)) == 7
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > width


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the next run to stop once `step` steps are done."""
    requests: list[StopRequest] = []
    made = StopRequest.__init__

    def remember(self: StopRequest) -> None:
        made(self)
        requests.append(self)

    def log_step(self: object, report: StepReport, **_averages: float) -> None:
        requests[-1].made = report.step >= step

    monkeypatch.setattr(StopRequest, "__init__", remember)
    monkeypatch.setattr("fluxbooth.training.run.StepLog.step", log_step)


def test_the_pictures_of_an_earlier_run_are_moved_aside(in_repository: Path, folders: Folders) -> None:
    for prompt in ("a toy", "a cat"):
        run(prepared(folders, max_train_steps=1, sample_every_n_steps=1, sample_prompts=(prompt,)))
    for folder, prompt in (("samples-1", "a toy"), ("samples", "a cat")):
        with Image.open(folders.run("short") / folder / "step00000001_01_seed42.png") as picture:
            assert picture.info["prompt"] == prompt


def test_a_full_disk_costs_a_picture_and_not_the_run(
    in_repository: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(picture: Image.Image, path: Path, made_with: dict[str, str]) -> None:
        if "_02_" in path.name or path.name == "grid.png":
            raise OSError(28, "No space left on device")
        save_picture(picture, path, made_with)

    monkeypatch.setattr("fluxbooth.training.samples.save_picture", refuse)
    with caplog.at_level(logging.INFO, "fluxbooth"):
        assert run(prepared(folders, **DRAWN)).lora.is_file()
    assert len(names(folders.run("short") / "samples")) == 4
    assert "sample picture step00000002_02_seed7.png is missing" in caplog.text
    assert "No space left on device" in caplog.text

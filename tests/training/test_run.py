"""A whole run on the miniature: what it leaves, and that the same seed gives the same bytes."""

from __future__ import annotations

import json
import logging
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from fluxbooth.errors import UserError
from fluxbooth.flux.generate import Shot, generate
from fluxbooth.flux.lora_formats import as_tensors, read_layers, read_modules
from fluxbooth.flux.miniature import miniature_weights
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.host.folders import Folders
from fluxbooth.training.concept_record import read_concepts
from fluxbooth.training.evaluation import Evaluation, evaluate
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import run
from fluxbooth.training.sessions import read_sessions
from fluxbooth.training.step_log import first_of_held_out

PLAYBOOK = Path(__file__).parents[3] / "shared/playbook"
SHORT = {
    "max_train_steps": 4,
    "output_name": "short",
    "optimizer_type": "AdamW",
    "learning_rate": 0.004,
    "text_encoder_lr": 0.0,
    "diff_output_preservation": 0.0,
}


def prepared(folders: Folders, data: Path = Path("flux_data/data.toml"), **flags: object) -> Prepared:
    return prepare("miniature", data, "miniature", {**SHORT, **flags}, folders)


def test_a_run_leaves_its_lora_and_what_made_it(in_repository: Path, folders: Folders) -> None:
    outcome = run(prepared(folders, save_every_n_steps=3, network_dim=2))
    assert outcome.lora == folders.loras / "short.safetensors"
    assert sorted(path.name for path in folders.loras.iterdir()) == [
        "short-step00000003.safetensors",
        "short.safetensors",
    ]
    with safe_open(outcome.lora, framework="pt") as file:
        assert all(key.startswith("transformer.") for key in file.keys())  # noqa: SIM118 (not a dict)
        assert file.metadata()["modelspec.trigger_phrase"] == "sparkgpu gpu, tjtoy toy"
    written = tomllib.loads((folders.run("short") / "run.toml").read_text(encoding="utf-8"))
    assert (written["recipe"]["network_dim"], written["origins"]["network_dim"]) == (2, "flag")
    assert written["origins"]["train_batch_size"] == "miniature.toml"
    assert len(written["pictures"]) == 13
    log = (folders.run("short") / "train.log").read_text(encoding="utf-8")
    assert [line.split(" loss")[0].split()[-1] for line in log.splitlines() if " step " in line] == [
        "1/4", "2/4", "3/4", "4/4",
    ]  # fmt: skip
    assert "evaluation loss (13 items)" in log
    assert outcome.phase_seconds.keys() == {"encode", "load", "evaluate", "train"}


def test_a_run_keeps_what_its_page_will_show(in_repository: Path, folders: Folders) -> None:
    outcome = run(prepared(folders, network_dim=2, max_train_steps=2))
    lines = (folders.run("short") / "logs/evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    before, after = map(json.loads, lines)
    assert (before["step"], after["step"]) == (0, 2)
    assert (before["mean"], after["mean"]) == (outcome.loss_before, outcome.loss_after)
    assert len(after["pictures"]) == 13
    toy, gpu = read_concepts(folders.run("short") / "concepts")
    assert (toy.class_tokens, gpu.class_tokens) == ("tjtoy toy", "sparkgpu gpu")
    (session,) = read_sessions(folders.run("short") / "logs")
    assert session.seconds > 0


def test_what_the_base_model_makes_of_the_pictures_is_measured_once(
    in_repository: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[object] = []

    def noted(*arguments: Any) -> Evaluation:
        measured.append(arguments)
        return evaluate(*arguments)

    monkeypatch.setattr("fluxbooth.training.run.evaluate", noted)
    first = run(prepared(folders, max_train_steps=1, network_dim=2, validation_split=0.2))
    assert len(measured) == 2  # before and after
    again: dict[str, Any] = {"max_train_steps": 1, "network_dim": 4, "validation_split": 0.2}
    second = run(prepared(folders, output_name="second", **again))
    assert len(measured) == 3
    assert second.loss_before == first.loss_before
    assert first_of_held_out(folders.run("second") / "logs") == first_of_held_out(folders.run("short") / "logs")
    third = run(prepared(folders, output_name="third", guidance_scale=3.5, **again))
    assert len(measured) == 5
    assert third.loss_before != first.loss_before


def test_pictures_that_are_held_out_are_measured_and_not_trained_on(
    in_repository: Path, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="fluxbooth"):
        to_run = prepared(folders, network_dim=2, validation_split=0.3, validate_every_n_epochs=1, max_train_steps=None,
                          max_train_epochs=2)  # fmt: skip
        outcome = run(to_run)
    said = caplog.text
    assert "tjtoy toy: 4 pictures x 1" in said
    assert said.count("; 2 more held out") == 2
    held_out = {item.shown_name for item in to_run.held_out}
    assert len(held_out) == 4
    assert not held_out & {visit.item.shown_name for visit in to_run.plan.visits(to_run.steps)}
    written = tomllib.loads((folders.run("short") / "run.toml").read_text(encoding="utf-8"))
    assert (written["held_out"].keys(), len(written["pictures"])) == (held_out, 9)
    lines = (folders.run("short") / "logs/evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    every = [json.loads(line) for line in lines]
    epoch = to_run.plan.steps_per_epoch
    assert [one["step"] for one in every] == [0, epoch, 2 * epoch, 2 * epoch]
    assert all(one["held_out"]["pictures"].keys() == held_out for one in every)
    assert not held_out & every[0]["pictures"].keys()
    assert every[-1]["mean"] == outcome.loss_after
    first, last = (one["held_out"]["mean"] for one in (every[0], every[-1]))
    assert f"of 4 pictures held out: {first:.4f} before, {last:.4f} after" in said


@pytest.mark.parametrize(("save_format", "begins"), [("diffusers", "text_encoder.text_model."), ("kohya", "lora_te1_")])
def test_clip_is_trained_along_where_it_has_a_rate(
    in_repository: Path, folders: Folders, save_format: str, begins: str
) -> None:
    """Under names with the level "text_model": without it ComfyUI takes no key of CLIP's."""
    outcome = run(prepared(folders, text_encoder_lr=0.01, lr_warmup_steps=0, network_dim=2, save_format=save_format))
    names = {name: layer for name, layer in read_modules(outcome.lora) if name.startswith(begins)}
    assert len(names) == 12, "six matrices in each of two layers"
    assert all(layer.up.any() for layer in names.values())
    assert outcome.loss_after < outcome.loss_before
    shot = Shot("tjtoy toy", 1, 64, 64)
    with_clip, without_clip = (
        generate([shot], [(lora, 1.0)], miniature_weights(), 2, 3.5, torch.float32, torch.device("cpu"))[0]
        for lora in (outcome.lora, transformers_part(outcome.lora))
    )
    assert with_clip.tobytes() != without_clip.tobytes(), "pictures are drawn with what CLIP has learned, too"


def transformers_part(lora: Path) -> Path:
    """A LoRA file without what it has for CLIP."""
    part = lora.with_name("transformer.safetensors")
    save_tensors(part, as_tensors((name, layer) for name, layer in read_layers(lora) if "text_model" not in name), {})
    return part


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(in_repository: Path, folders: Folders) -> None:
    def bytes_of_run(cache: str, seed: int) -> bytes:
        own = Folders(folders.models, folders.runs, folders.cache / cache)
        return run(prepared(own, seed=seed, save_precision="float")).lora.read_bytes()

    first = bytes_of_run("one", 0)
    assert bytes_of_run("two", 0) == first, "also when everything is encoded anew"
    assert bytes_of_run("two", 1) != first


@pytest.mark.slow
def test_bfloat16_and_recomputed_activations_and_prodigy_run_too(in_repository: Path, folders: Folders) -> None:
    outcome = run(
        prepared(
            folders,
            mixed_precision="bf16",
            gradient_checkpointing=True,
            optimizer_type="Prodigy",
            learning_rate=1.0,
            max_train_steps=2,
        )
    )
    assert outcome.lora.is_file()


@pytest.mark.slow
def test_recomputing_activations_changes_no_number(in_repository: Path, folders: Folders) -> None:
    kept, recomputed = (
        run(prepared(folders, gradient_checkpointing=choice, save_precision="float")).lora.read_bytes()
        for choice in (False, True)
    )
    assert kept == recomputed


def test_what_will_happen_is_said_before_it_does(
    in_repository: Path, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fluxbooth"):
        prepared(folders, max_train_steps=20)
    said = caplog.text
    assert "tjtoy toy: 6 pictures x 1" in said
    assert "sparkgpu gpu: 7 pictures x 1" in said
    assert "13 samples an epoch, 20 optimizer steps (5 epochs)" in said
    assert "TFLOP" in said
    assert not folders.runs.exists(), "checking writes no run"


def test_pictures_that_lose_much_to_the_crop_are_named(
    in_repository: Path, folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "square.toml"
    text = Path("flux_data/data.toml").read_text(encoding="utf-8")
    data.write_text(text.replace("enable_bucket = true", "enable_bucket = false"), encoding="utf-8")
    with caplog.at_level(logging.INFO, "fluxbooth"):
        prepared(folders, data)
    assert "tjtoy/2.jpg: 67% of its area is kept, the rest is cropped away. Set enable_bucket = true" in caplog.text
    assert "tjtoy/3.jpg: 56% of its area is kept" in caplog.text


def test_regularization_pictures_alone_are_refused(in_repository: Path, folders: Folders, tmp_path: Path) -> None:
    data = tmp_path / "reg.toml"
    text = Path("flux_data/data.toml").read_text(encoding="utf-8")
    data.write_text(text.replace("is_reg = false", "is_reg = true"), encoding="utf-8")
    with pytest.raises(UserError, match="no pictures to train on"):
        prepared(folders, data)


@pytest.mark.slow
@pytest.mark.skipif(not PLAYBOOK.is_dir(), reason="the playbook's photographs are not beside this checkout")
def test_the_playbooks_photographs_and_data_toml_are_trained_as_they_stand(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = (Path(__file__).parents[2] / "recipes/miniature.toml").resolve()
    monkeypatch.chdir(PLAYBOOK)
    run_prepared = prepare(
        "miniature", Path("flux_data/data.toml"), str(recipe), {"max_train_steps": 20, "output_name": "photos"}, folders
    )
    assert run_prepared.plan.samples_per_epoch == 20
    outcome = run(run_prepared)
    assert outcome.lora.is_file()
    assert outcome.loss_after < outcome.loss_before

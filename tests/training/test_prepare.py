"""What is said before anything big is loaded: every problem at once, what will happen, what will be left out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.miniature import MINIATURE_FOLDER, miniature_weights
from fluxbooth.host.folders import Folders
from fluxbooth.training.prepare import examine, prepare


@pytest.fixture
def data(make_concept: Callable[..., Path], tmp_path: Path) -> Path:
    """A data.toml with one concept of two pictures."""
    folder = make_concept("toy", [(64, 64), (96, 64)])
    file = tmp_path / "data.toml"
    file.write_text(
        f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "tjtoy toy"\n',
        encoding="utf-8",
    )
    return file


def refusal(data: Path, folders: Folders, flags: Mapping[str, object], model: str = "miniature") -> str:
    with pytest.raises(UserError) as raised:
        prepare(model, data, "miniature", flags, folders)
    return str(raised.value)


@pytest.fixture(autouse=True)
def _beside_the_recipes(in_repository: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"optimizer_type": "AdamW", "optimizer_args": ("foo=1",)}, "optimizer_args: AdamW"),
        ({"optimizer_type": "AdamW", "optimizer_args": ("foreach=True", "fused=True")}, "optimizer_args: AdamW"),
        (
            {"optimizer_type": "Prodigy", "text_encoder_lr": 0.0, "optimizer_args": ("d_coef='x'",)},
            "optimizer_args: Prodigy",
        ),
        ({"output_name": "x" * 240}, "output_name"),
    ],
)
def test_what_would_fail_at_the_end_of_a_phase_is_refused_at_the_start(
    data: Path, folders: Folders, flags: dict[str, object], said: str
) -> None:
    assert said in refusal(data, folders, flags)


def test_that_fp8_products_are_for_a_gpu_is_said(
    data: Path, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fluxbooth"):
        prepare("miniature", data, "miniature", {"fp8_products": True, "mixed_precision": "bf16"}, folders)
    assert "fp8_products without a GPU is for trying it out" in caplog.text
    assert "memory: weights in fp8" in caplog.text


@pytest.mark.parametrize("part", ["transformer", "vae", "clip", "t5", "clip_tokenizer", "t5_tokenizer"])
def test_a_file_of_the_model_that_was_cut_is_named_at_the_start(
    data: Path, folders: Folders, tmp_path: Path, part: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(MINIATURE_FOLDER, model)
    original: Path = getattr(miniature_weights(), part)
    cut = model / original.relative_to(MINIATURE_FOLDER)
    if cut.is_dir():
        (cut / "tokenizer_config.json").unlink()
    else:
        cut.write_bytes(cut.read_bytes()[:-100])
    said = refusal(data, folders, {"network_dim": 0}, str(model))
    assert str(cut) in said
    assert "network_dim" in said, "and what else is wrong beside it"


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_made(
    data: Path, folders: Folders, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    said = refusal(data, Folders(folders.models, folders.runs, tmp_path / "file"), {})
    assert f"{tmp_path / 'file'}: " in said


def test_comfyuis_workflows_that_cannot_be_written_to_are_named_before_a_night_is_spent(
    data: Path, folders: Folders, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    blocked = replace(folders, workflows=tmp_path / "file" / "workflows")
    assert str(tmp_path / "file") in refusal(data, blocked, {}, model="flux-dev")
    prepare("miniature", data, "miniature", {}, blocked)  # whose runs get no workflow


def test_a_name_that_is_taken_by_a_folder_is_refused(data: Path, folders: Folders) -> None:
    (folders.loras / "mine.safetensors").mkdir(parents=True)
    assert "mine.safetensors: is a folder" in refusal(data, folders, {"output_name": "mine"})


def test_a_disk_that_is_too_small_for_the_files_is_said(
    data: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(data.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))  # a full disk without filling one
    assert "the run may write" in refusal(data, folders, {})


def test_a_file_that_goes_when_the_next_is_written_needs_no_room(
    data: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twenty files, one a step, those of three further steps stay; the oldest goes when the newest is there."""
    flags = {"max_train_steps": 20, "save_every_n_steps": 1, "save_precision": "bf16"}
    cost = examine("miniature", data, "miniature", flags, folders).cost
    assert cost is not None
    loras = data.parent / "loras"
    loras.mkdir()
    usage, of_a_file = shutil.disk_usage(data.parent), 2 * cost.lora_values

    def with_room_for(files: int, **further: object) -> tuple[Problem, ...]:
        room = {loras: files * of_a_file}
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=room.get(path, 2**40)))
        flags_and = {**flags, **further, "output_dir": str(loras)}
        return tuple(examine("miniature", data, "miniature", flags_and, folders).problems)

    assert with_room_for(5, save_last_n_steps=3) == ()
    assert "the run may write" in str(with_room_for(4, save_last_n_steps=3)[0])
    assert "the run may write" in str(with_room_for(19)[0]), "where all stay"
    assert with_room_for(20) == ()


def test_caption_files_that_are_not_read_are_said(
    data: Path, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    (data.parent / "toy/1.txt").write_text("tjtoy toy on a desk", encoding="utf-8")
    with caplog.at_level(logging.INFO, "fluxbooth"):
        prepare("miniature", data, "miniature", {}, folders)
    assert "toy: 1 caption in .txt files is not read (1.txt)" in caplog.text


def test_regularization_pictures_are_announced_apart(
    data: Path, folders: Folders, make_concept: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    reg = make_concept("toys", [(64, 64)] * 3)
    with data.open("a", encoding="utf-8") as file:
        file.write(f'[[datasets.subsets]]\nimage_dir = "{reg}"\nclass_tokens = "tjtoy toy"\nis_reg = true\n')
    with caplog.at_level(logging.INFO, "fluxbooth"):
        prepare("miniature", data, "miniature", {}, folders)
    assert "tjtoy toy: 2 pictures x 1, seen at" in caplog.text
    assert "tjtoy toy: 3 pictures x 1, regularization, seen at" in caplog.text


def test_a_class_noun_that_is_to_be_kept_and_cannot_be_told_is_refused(data: Path, folders: Folders) -> None:
    flags = {"diff_output_preservation": 1.0}
    (data.parent / "toy/1.caption").write_text("a toy on a desk", encoding="utf-8")
    said = refusal(data, folders, flags)
    assert "toy/1.png" in said
    assert "lacks the class_tokens 'tjtoy toy'" in said
    data.write_text(data.read_text(encoding="utf-8").replace('"tjtoy toy"', '"tjtoy"'), encoding="utf-8")
    assert "class_tokens 'tjtoy' has no class noun after its first word" in refusal(data, folders, flags)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_that_the_plain_noun_is_kept_is_said(
    data: Path, folders: Folders, caplog: pytest.LogCaptureFixture, weight: float
) -> None:
    with caplog.at_level(logging.INFO, "fluxbooth"):
        prepare("miniature", data, "miniature", {"diff_output_preservation": weight}, folders)
    assert ("seen twice more with its plain noun" in caplog.text) == bool(weight)


def test_train_batch_size_wins_over_the_files_batch_size(data: Path, folders: Folders) -> None:
    (data.parent / "toy/3.png").write_bytes((data.parent / "toy/1.png").read_bytes() + b" ")
    file = data.read_text(encoding="utf-8").replace("resolution = 64", "resolution = 64\nbatch_size = 2")
    data.write_text(file, encoding="utf-8")

    def sizes(flags: Mapping[str, object]) -> set[int]:
        plan = prepare(
            "miniature", data, "miniature-playbook", {"gradient_accumulation_steps": 2, **flags}, folders
        ).plan
        return {len(batch) for step in range(plan.steps_per_epoch) for batch in plan.micro_batches(step)}

    assert sizes({}) == {2, 1}
    assert sizes({"train_batch_size": 1}) == {1}
    assert sizes({"train_batch_size": 3}) == {3}


def test_scores_that_need_models_nobody_fetched_are_said_before_a_night_is_spent(
    data: Path, folders: Folders, tmp_path: Path
) -> None:
    (tmp_path / "another").symlink_to(MINIATURE_FOLDER)
    flags = {"score_every": 1}
    said = refusal(data, folders, flags, model=str(tmp_path / "another"))
    assert "the scoring model dinov2-small is missing" in said
    assert "Run `fluxbooth download --scorers`, or set score_every = 0" in said
    prepare("miniature", data, "miniature", flags, folders)  # it brings its own

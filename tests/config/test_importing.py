"""Settings of ai-toolkit and kohya_ss become a data.toml and a recipe, and every one of them is accounted for."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prodigyopt
import pytest
import torch
import yaml

from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.config.importing.command import import_settings
from fluxbooth.config.importing.optimizers import OPTIMIZER_ARGUMENTS
from fluxbooth.config.importing.translation import leaves
from fluxbooth.config.recipe import Recipe, resolve_recipe
from fluxbooth.config.specs import DatasetSpec
from fluxbooth.errors import Problems, UserError
from fluxbooth.training.optimizers import check_optimizer

SPRITES = """
job: extension
config:
  name: "pixel sprites v1"
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      trigger_word: p1x3l
      network:
        type: lora
        linear: 16
        linear_alpha: 16
      save:
        dtype: float16
        save_every: 250
        max_step_saves_to_keep: 4
        push_to_hub: false
      datasets:
        - folder_path: FOLDER
          caption_ext: txt
          caption_dropout_rate: 0.05
          shuffle_tokens: false
          cache_latents_to_disk: true
          resolution: [512, 768, 1024]
      train:
        batch_size: 1
        steps: 2000
        gradient_accumulation_steps: 1
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: flowmatch
        optimizer: prodigy
        optimizer_params:
          decouple: true
          use_bias_correction: true
          safeguard_warmup: true
          betas: [0.9, 0.99]
          weight_decay: 0.01
          d_coef: 2.0
        lr: 1e-4
        ema_config:
          use_ema: true
          ema_decay: 0.99
        dtype: bf16
      model:
        name_or_path: black-forest-labs/FLUX.1-dev
        is_flux: true
        quantize: true
      sample:
        sampler: flowmatch
        sample_every: 250
        width: 1024
        height: 1024
        prompts:
          - "[trigger] knight with a sword"
          - "[trigger] potion: red"
        neg: ""
        seed: 42
        walk_seed: true
        guidance_scale: 4
        sample_steps: 20
meta:
  name: "[name]"
  version: "1.0"
"""

GUI: dict[str, Any] = {
    "LoRA_type": "Flux1",
    "LyCORIS_preset": "full",
    "ae": "H:/models/vae/ae.sft",
    "bucket_no_upscale": False,
    "bucket_reso_steps": 32,
    "cache_latents": True,
    "caption_dropout_rate": 0.1,
    "caption_extension": ".txt",
    "clip_skip": 1,
    "discrete_flow_shift": 3.1582,
    "enable_bucket": True,
    "epoch": 25,
    "flip_aug": True,
    "flux1_checkbox": True,
    "fp8_base": True,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "guidance_scale": 1,
    "huggingface_token": "hf_not_to_be_shown",
    "keep_tokens": 1,
    "learning_rate": 0.0001,
    "loss_type": "l2",
    "lr_scheduler": "cosine",
    "lr_warmup": 10,
    "max_bucket_reso": 2048,
    "max_grad_norm": 1,
    "max_resolution": "768,768",
    "max_train_steps": 1600,
    "min_bucket_reso": 256,
    "mixed_precision": "bf16",
    "model_prediction_type": "raw",
    "network_alpha": 8,
    "network_dim": 16,
    "noise_offset": 0,
    "num_processes": 1,
    "optimizer": "AdamW8bit",
    "optimizer_args": "weight_decay=0.05 betas=0.9,0.99 relative_step=False",
    "output_dir": "/nowhere/at/all",
    "output_name": "my lora",
    "pretrained_model_name_or_path": "E:\\models\\flux1-dev.safetensors",
    "reg_data_dir": "",
    "sample_every_n_steps": 200,
    "sample_prompts": "a toy --w 768 --h 768",
    "save_every_n_epochs": 1,
    "save_precision": "fp16",
    "seed": 42,
    "shuffle_caption": False,
    "text_encoder_lr": 0,
    "timestep_sampling": "shift",
    "train_batch_size": 2,
    "train_blocks": "all",
    "train_data_dir": "img",
    "unet_lr": 0.0004,
    "wandb_api_key": "",
    "xformers": "sdpa",
}


def import_text(tmp_path: Path, text: str, name: str = "job.yaml") -> list[str]:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return import_settings(file, tmp_path / "out")


def import_gui(tmp_path: Path, **changes: Any) -> list[str]:
    return import_text(tmp_path, json.dumps({**GUI, **changes}), "gui.json")


def sprites(tmp_path: Path, **changes: str) -> str:
    text = SPRITES.replace("FOLDER", str(tmp_path / "sprites"))
    for old, new in changes.items():
        assert f"{old}:" in text
        text = re.sub(rf"^( *- | *){old}:.*$", lambda found, new=new: found[1] + new, text, flags=re.MULTILINE)  # type: ignore[misc]
    return text


def recipe_of(tmp_path: Path) -> Recipe:
    return resolve_recipe(str(tmp_path / "out/recipe.toml"), {}).recipe


def data_of(tmp_path: Path) -> tuple[DatasetSpec, ...]:
    problems = Problems()
    datasets = read_data_toml(tmp_path / "out/data.toml", problems)
    problems.raise_if_any()
    return datasets


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        action()
    return str(raised.value)


def mentioned(key: str, lines: list[str]) -> bool:
    return any(re.search(rf"(^|[ ,]){re.escape(key)}([ ,]|$)", line) for line in lines)


# ai-toolkit


def test_the_sprites_of_ai_toolkit_become_a_recipe(tmp_path: Path) -> None:
    lines = import_text(tmp_path, sprites(tmp_path))
    recipe = recipe_of(tmp_path)
    assert (recipe.output_name, recipe.network_dim, recipe.alpha) == ("pixel_sprites_v1", 16, 16)
    assert (recipe.optimizer_type, recipe.learning_rate, recipe.text_encoder_lr) == ("Prodigy", 1.0, 0)
    assert (recipe.max_train_steps, recipe.save_every_n_steps, recipe.gradient_checkpointing) == (2000, 250, True)
    assert (recipe.mixed_precision, recipe.save_precision, recipe.timestep_sampling) == ("bf16", "fp16", "sigmoid")
    assert set(recipe.optimizer_args) == {
        "eps=1e-06",
        "decouple=True",
        "use_bias_correction=True",
        "safeguard_warmup=True",
        "betas=(0.9, 0.99)",
        "weight_decay=0.01",
        "d_coef=2.0",
    }
    check_optimizer(recipe.optimizer_type, recipe.learning_rate, recipe.optimizer_args)
    assert any(line.startswith('translated: train.lr = "1e-4" -> learning_rate = 1.0 (ai-toolkit') for line in lines)


def test_the_sprites_of_ai_toolkit_are_seen_at_every_size(tmp_path: Path, make_concept: Callable[..., Path]) -> None:
    make_concept("sprites", [(64, 64)], {"1.txt": "a knight"})
    lines = import_text(tmp_path, sprites(tmp_path))
    datasets = data_of(tmp_path)
    assert [dataset.width for dataset in datasets] == [512, 768, 1024]
    assert [dataset.max_bucket_reso for dataset in datasets] == [768, 1152, 1536]
    for dataset in datasets:
        (concept,) = dataset.concepts
        assert (concept.class_tokens, concept.caption_extension) == ("p1x3l", ".txt")
        assert concept.image_dir == tmp_path / "sprites"
        assert (dataset.batch_size, dataset.enable_bucket) == (1, True)
    assert (tmp_path / "out/data.toml").read_text("utf-8").count("caption_dropout_rate = 0.05") == 3
    assert any("1 of 1 captions" in line and "lack 'p1x3l'" in line for line in lines)
    assert any(line.startswith("translated: trigger_word") for line in lines)


def test_every_setting_of_ai_toolkit_is_mentioned(tmp_path: Path) -> None:
    lines = import_text(tmp_path, sprites(tmp_path, seed="new_key: [1, 2]"))
    paths = [
        path.removeprefix("config.process[0].").removeprefix("config.") if "process" in path else path
        for path, _ in leaves(yaml.safe_load(sprites(tmp_path, seed="new_key: [1, 2]")))
    ]
    assert [path for path in paths if not mentioned(path, lines)] == []
    assert any(line.startswith("no equivalent: sample.new_key = [1, 2] (") for line in lines)
    if "ema_decay" not in Recipe.model_fields:
        assert "no equivalent: train.ema_config.ema_decay = 0.99 (there is no moving average of the weights)" in lines
        assert "# No equivalent: train.ema_config.ema_decay" in (tmp_path / "out/recipe.toml").read_text("utf-8")
    if "sample_every_n_steps" not in Recipe.model_fields:
        assert any(line.startswith("no equivalent: sample.sample_every = 250") for line in lines)


def test_folders_that_are_elsewhere_are_a_note(tmp_path: Path) -> None:
    lines = import_text(tmp_path, sprites(tmp_path))
    assert any(line.startswith(f"note: not on this machine: {tmp_path / 'sprites'};") for line in lines)
    assert lines[-1] == (
        f"next: fluxbooth check --data {tmp_path / 'out/data.toml'} --recipe {tmp_path / 'out/recipe.toml'}"
    )


def test_values_that_the_recipe_refuses_are_said_and_not_written(tmp_path: Path) -> None:
    lines = import_text(
        tmp_path, sprites(tmp_path, linear="linear: -3", dtype="dtype: int4", optimizer="optimizer: adagrad")
    )
    recipe = recipe_of(tmp_path)
    assert (recipe.network_dim, recipe.optimizer_type) == (Recipe.model_fields["network_dim"].default, "AdamW")
    missing = [line for line in lines if line.startswith("no equivalent: ")]
    assert any("network.linear = -3 (allowed: " in line for line in missing)
    assert any('save.dtype = "int4" (allowed: ' in line for line in missing)
    assert any('train.optimizer = "adagrad"' in line for line in missing)
    assert any("train.optimizer_params.d_coef = 2.0 (AdamW has no argument d_coef)" in line for line in missing)
    check_optimizer(recipe.optimizer_type, recipe.learning_rate, recipe.optimizer_args)


def test_several_folders_share_the_dataset_of_their_size(tmp_path: Path) -> None:
    two = f"""- folder_path: {tmp_path / "one"}
          resolution: 512
          flip_x: true
        - folder_path: {tmp_path / "two"}
          resolution: 512
          is_reg: true
          num_repeats: 3
          resolution_of_moon: 5"""
    text = SPRITES.replace("- folder_path: FOLDER", two).replace("resolution: [512, 768, 1024]", "")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    import_text(tmp_path, text)
    (dataset,) = data_of(tmp_path)
    one, two_ = dataset.concepts
    assert (dataset.width, one.is_reg, two_.is_reg, two_.num_repeats) == (512, False, True, 3)


def test_differential_output_preservation_keeps_its_class(tmp_path: Path) -> None:
    preserving = "diff_output_preservation: true\n        diff_output_preservation_class: sprite\n        batch_size: 1"
    import_text(tmp_path, sprites(tmp_path, batch_size=preserving))
    assert recipe_of(tmp_path).diff_output_preservation == 1.0
    assert (tmp_path / "out/data.toml").read_text("utf-8").count('class_tokens = "p1x3l sprite"') == 3


def test_ai_toolkits_dora_is_one_here(tmp_path: Path) -> None:
    text = sprites(tmp_path).replace("type: lora", "type: dora\n        dropout: 0.1")
    lines = import_text(tmp_path, text)
    assert recipe_of(tmp_path).network.use_dora
    assert recipe_of(tmp_path).network_dropout == 0.1
    assert any('network.type = "dora" -> network_args = ["use_dora=true"]' in line for line in lines)


# kohya_ss


def test_the_settings_of_kohya_ss_become_a_recipe(tmp_path: Path) -> None:
    lines = import_gui(tmp_path)
    recipe = recipe_of(tmp_path)
    assert (recipe.output_name, recipe.seed, recipe.network_dim, recipe.network_alpha) == ("my_lora", 42, 16, 8)
    assert (recipe.learning_rate, recipe.text_encoder_lr) == (0.0004, 0)
    assert (recipe.max_train_steps, recipe.max_train_epochs, recipe.lr_warmup_steps) == (1600, None, 160)
    assert (recipe.gradient_accumulation_steps, recipe.save_every_n_epochs, recipe.save_precision) == (2, 1, "fp16")
    assert (recipe.timestep_sampling, recipe.discrete_flow_shift) == ("shift", 3.1582)
    assert recipe.optimizer_args == ("weight_decay=0.05", "betas=(0.9, 0.99)")
    check_optimizer("AdamW", recipe.learning_rate, recipe.optimizer_args)
    if "AdamW8bit" not in str(Recipe.model_fields["optimizer_type"].annotation):
        assert recipe.optimizer_type == "AdamW"
    assert mentioned("optimizer_args.relative_step", lines)
    assert any("pretrained_model_name_or_path" in line and "not on this machine" in line for line in lines)
    assert not any("hf_not_to_be_shown" in line for line in lines)
    assert "hf_not_to_be_shown" not in (tmp_path / "out/recipe.toml").read_text("utf-8")


def test_lycoris_dora_is_one_here_and_with_kohyas_own_lora_the_switch_says_nothing(tmp_path: Path) -> None:
    lines = import_gui(tmp_path, LoRA_type="LyCORIS/LoCon", dora_wd=True, train_blocks="single")
    assert "no equivalent: fp8_base = true (DoRA is trained on the weights as they are)" in lines
    network = recipe_of(tmp_path).network
    assert (network.use_dora, network.train_blocks) == (True, "single")
    (tmp_path / "out/recipe.toml").unlink()
    (tmp_path / "out/data.toml").unlink()
    lines = import_gui(tmp_path, dora_wd=True)
    assert not recipe_of(tmp_path).network.use_dora
    assert "not needed: dora_wd = true (kohya reads it with LyCORIS's networks alone)" in lines


def test_swapped_blocks_are_left_to_the_plan_of_this_machine(tmp_path: Path) -> None:
    lines = import_gui(tmp_path, blocks_to_swap=18)
    assert recipe_of(tmp_path).blocks_to_swap is None
    assert "not needed: blocks_to_swap = 18 (as many blocks are streamed as the memory asks for)" in lines


def test_what_the_recipe_has_since_is_translated(tmp_path: Path) -> None:
    lines = import_gui(
        tmp_path,
        loss_type="huber",
        huber_c=0.2,
        huber_schedule="snr",
        log_with="all",
        log_tracker_name="toys",
        lr_scheduler="polynomial",
        lr_scheduler_power=2,
        save_last_n_epochs=3,
        network_weights="begin.safetensors",
        train_blocks="double",
        img_attn_dim="4",
        txt_mod_dim="0",
        single_dim="",
        in_dims="[4,4,4,4,4]",
    )
    recipe = recipe_of(tmp_path)
    assert (recipe.loss_type, recipe.huber_c) == ("huber", 0.2)
    assert (recipe.log_with, recipe.log_tracker_name) == ("all", "toys")
    assert (recipe.lr_scheduler, recipe.lr_scheduler_power) == ("polynomial", 2)
    assert (recipe.save_last_n_epochs, recipe.network_weights) == (3, "begin.safetensors")
    assert recipe.network_args == ("train_blocks=double", "img_attn_dim=4", "txt_mod_dim=0")
    missing = [line for line in lines if line.startswith("no equivalent: ")]
    assert 'no equivalent: huber_schedule = "snr" (huber_c is the same at every noise level)' in missing
    assert any("in_dims" in line and "the layers before the blocks are not trained" in line for line in missing)
    for key in ("loss_type", "log_with", "lr_scheduler_power", "save_last_n_epochs", "network_weights", "train_blocks"):
        assert not mentioned(key, missing)


def test_waves_of_a_cosine_are_kept_and_what_kohya_does_not_read_is_left_out(tmp_path: Path) -> None:
    changes = {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3}
    lines = import_gui(tmp_path, **changes, min_timestep=100, max_timestep=900, huber_schedule="snr")
    recipe = recipe_of(tmp_path)
    assert recipe.lr_scheduler_num_cycles == 3
    assert (recipe.min_timestep, recipe.max_timestep) == (0, 1000)
    said = [line for line in lines if mentioned("min_timestep", [line]) or mentioned("max_timestep", [line])]
    assert all("kohya's FLUX training does not read it either; write it into the recipe" in line for line in said)
    assert len(said) == 2
    assert any(line.startswith("not needed: huber_schedule") for line in lines), "nothing reads it with l2"


def test_the_folders_of_kohya_ss_become_concepts(tmp_path: Path) -> None:
    for name in ("100_My_Lora_Model", "7_zz toy", "cat", "0_x"):
        (tmp_path / "img" / name).mkdir(parents=True)
    (tmp_path / "reg" / "1_toy").mkdir(parents=True)
    lines = import_gui(tmp_path, train_data_dir=str(tmp_path / "img"), reg_data_dir=str(tmp_path / "reg"))
    (dataset,) = data_of(tmp_path)
    assert [(one.class_tokens, one.num_repeats, one.is_reg) for one in dataset.concepts] == [
        ("My_Lora_Model", 100, False),
        ("zz toy", 7, False),
        ("toy", 1, True),
    ]
    assert (dataset.width, dataset.batch_size, dataset.bucket_reso_steps, dataset.max_bucket_reso) == (768, 2, 32, 2048)
    text = (tmp_path / "out/data.toml").read_text("utf-8")
    assert all(line in text for line in ("keep_tokens = 1", "flip_aug = true", "caption_dropout_rate = 0.1"))
    assert sum("is passed over, as kohya does" in line for line in lines) == 2


def test_every_setting_of_kohya_ss_is_mentioned(tmp_path: Path) -> None:
    lines = import_gui(tmp_path, made_up=3)
    assert [key for key in GUI if key != "optimizer_args" and not mentioned(key, lines)] == []
    assert "no equivalent: made_up = 3 (fluxbooth does not know it)" in lines
    assert any(line.startswith("ask for nothing") and "wandb_api_key" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"unet_lr": 0, "text_encoder_lr": 0}, (1e-4, 1e-4)),
        ({"unet_lr": 2e-4, "text_encoder_lr": 5e-5}, (2e-4, 5e-5)),
        ({"unet_lr": "", "text_encoder_lr": ""}, (1e-4, 1e-4)),
        ({"unet_lr": 1, "text_encoder_lr": 0.5, "optimizer": "Prodigy"}, (1.0, 1.0)),
    ],
)
def test_rates_are_those_that_kohya_ss_would_use(
    tmp_path: Path, changes: dict[str, Any], rates: tuple[float, float]
) -> None:
    import_gui(tmp_path, **changes)
    recipe = recipe_of(tmp_path)
    assert (recipe.learning_rate, recipe.text_encoder_lr) == rates


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"max_train_epochs": 30}, (None, 30)),
        ({"max_train_steps": 0}, (None, 25)),
        ({"max_train_steps": 0, "epoch": 0}, (None, 1)),
    ],
)
def test_a_run_is_as_long_as_in_kohya_ss(
    tmp_path: Path, changes: dict[str, Any], length: tuple[int | None, int | None]
) -> None:
    lines = import_gui(tmp_path, **changes)
    recipe = recipe_of(tmp_path)
    assert (recipe.max_train_steps, recipe.max_train_epochs) == length
    assert recipe.lr_warmup_steps == 0.1, "a share of the steps, however many the epochs have"
    assert "translated: lr_warmup = 10 -> lr_warmup_steps = 0.1 (a share of the steps)" in lines


def test_a_warm_up_as_long_as_the_run_has_no_equivalent(tmp_path: Path) -> None:
    lines = import_gui(tmp_path, max_train_epochs=3, lr_warmup=100)
    assert recipe_of(tmp_path).lr_warmup_steps == 0
    assert any(line.startswith("no equivalent: lr_warmup = 100 ") for line in lines)


def test_a_dataset_config_takes_the_place_of_a_data_toml(tmp_path: Path) -> None:
    lines = import_gui(tmp_path, dataset_config="my/data.toml")
    assert recipe_of(tmp_path).dataset_config == "my/data.toml"
    assert not (tmp_path / "out/data.toml").exists()
    assert lines[-1] == f"next: fluxbooth check --recipe {tmp_path / 'out/recipe.toml'}"


# What cannot be imported


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("job.yaml", "job: x\nconfig: [1\n", "job.yaml, line 3: not YAML: "),
        ("job.yaml", "job: !!python/object:os.system x\n", "job.yaml, line 1: not YAML: "),
        ("gui.json", '{"a": 1,\n "b" 2}', "gui.json, line 2: not JSON: "),
        ("job.yaml", "just text", "is neither ai-toolkit's nor kohya_ss's"),
        ("job.yaml", "config: {process: [{type: slider}]}", "its first process is of type 'slider'"),
        ("job.yaml", "config: {process: []}", "its first process is of type None"),
        ("job.yaml", "config: {process: [{type: sd_trainer}]}", "has no list of datasets"),
    ],
)
def test_a_file_of_no_use_is_refused_with_its_place(tmp_path: Path, name: str, text: str, words: str) -> None:
    assert words in complaint(lambda: import_text(tmp_path, text, name))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    assert "no such file" in complaint(lambda: import_settings(tmp_path / "none.yaml", tmp_path / "out"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in complaint(lambda: import_settings(tmp_path / "binary.yaml", tmp_path / "out"))


def test_files_that_are_there_are_not_written_over(tmp_path: Path) -> None:
    import_gui(tmp_path)
    said = complaint(lambda: import_gui(tmp_path))
    assert said.count("is there already") == 2


def test_sizes_that_make_no_data_toml_are_refused(tmp_path: Path) -> None:
    said = complaint(lambda: import_text(tmp_path, sprites(tmp_path, resolution="resolution: 1000")))
    assert "resolution" in said
    assert "multiples of 16" in said


def test_the_arguments_of_optimizers_are_the_libraries_own() -> None:
    for name, optimizer in {"AdamW": torch.optim.AdamW, "Prodigy": prodigyopt.Prodigy}.items():
        known = set(inspect.signature(optimizer).parameters) - {"params", "lr"}
        assert set(OPTIMIZER_ARGUMENTS[name]) == known

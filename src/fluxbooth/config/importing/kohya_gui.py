"""The JSON that kohya_ss, the graphical front of kohya's sd-scripts, saves its settings in."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluxbooth.config.importing.optimizers import (
    MIXED_PRECISIONS,
    SAVE_PRECISIONS,
    translate_optimizer,
    translate_optimizer_arguments,
    translate_schedule,
)
from fluxbooth.config.importing.translation import Translation, as_name, as_number, is_off, leaves, refusal
from fluxbooth.config.kohya_arguments import IDLE_ARGUMENTS, without_unread_arguments
from fluxbooth.config.network_arguments import read_network_arguments
from fluxbooth.config.recipe import Recipe
from fluxbooth.config.tables import as_toml

_SIGNS = ("train_data_dir", "LoRA_type", "pretrained_model_name_or_path", "network_dim", "train_batch_size")
_PATHS = ("pretrained_model_name_or_path", "clip_l", "t5xxl", "ae", "output_dir")
_DATASET_KEYS = ("enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")
_GENERAL_KEYS = (
    *("caption_extension", "shuffle_caption", "keep_tokens", "keep_tokens_separator", "caption_separator"),
    *("secondary_separator", "enable_wildcard", "caption_prefix", "caption_suffix", "caption_dropout_rate"),
    *("caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step"),
    *("flip_aug", "color_aug", "random_crop", "resize_interpolation"),
)
_ZERO_COUNTS = ("max_grad_norm", "guidance_scale", "prior_loss_weight")
_NETWORK_ARGUMENTS: Mapping[str, Any] = {
    **dict.fromkeys(("train_blocks", "train_double_block_indices", "train_single_block_indices"), "all"),
    **dict.fromkeys(("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"), 0),
    **dict.fromkeys(("img_attn_dim", "img_mlp_dim", "img_mod_dim", "single_dim", "single_mod_dim", "in_dims"), ""),
    **dict.fromkeys(("txt_attn_dim", "txt_mlp_dim", "txt_mod_dim"), ""),
}
"""Settings that the command has in network_args, and their values that ask for nothing."""
_KOHYA_DOES_NOT_READ = (
    "noise_offset",
    "multires_noise_iterations",
    "multires_noise_discount",
    "min_timestep",
    "max_timestep",
)
_LAUNCH = "the command is `fluxbooth train`; `accelerate launch` takes its own arguments"
_OTHER_MODELS = "it is for other models than FLUX.1"
_OTHER_NETWORKS = "it is for other networks than a LoRA on linear layers"
_OTHER_LOSSES = "kohya's FLUX training does not read it either"
# Settings with which kohya does to a LoRA of FLUX.1 what happens here anyway; None where any value does.
_NOT_NEEDED: Mapping[str, tuple[tuple[Any, ...] | None, str]] = {
    "LoRA_type": (("Flux1",), "FLUX.1 is what fluxbooth trains"),
    "flux1_checkbox": ((True,), "FLUX.1 is what fluxbooth trains"),
    "flux1_cache_text_encoder_outputs": (None, "embeddings are always encoded once and kept on the disk"),
    "flux1_cache_text_encoder_outputs_to_disk": (None, "embeddings are always encoded once and kept on the disk"),
    "xformers": (None, "attention always runs in PyTorch's own kernels"),
    "vae_batch_size": (None, "latents are encoded once, before the training"),
    "lowvram": (None, "weights are always read one tensor at a time"),
    "mem_eff_save": (None, "a LoRA file is small"),
    **dict.fromkeys(
        ("train_blocks", "train_double_block_indices", "train_single_block_indices"),
        (("all",), "every block is trained"),
    ),
    "split_qkv": (None, "query, key and value each have matrices of their own"),
    "model_list": (None, "pretrained_model_name_or_path or --model names the model"),
    "max_token_length": (None, "FLUX reads 77 tokens with CLIP and t5xxl_max_token_length with T5"),
    "guidance_rescale": (None, _OTHER_MODELS),
    "sample_sampler": (None, "sample pictures are drawn by the sampler of the workflow that ComfyUI opens"),
    "logging_dir": (None, "TensorBoard's files are in runs/NAME/logs"),
    "log_config": (None, "every value of a run is in runs/NAME/run.toml"),
    "save_state": (None, "a run can always be resumed: the same command goes on"),
    "save_state_on_train_end": (None, "a run can always be resumed: the same command goes on"),
    "clip_skip": (None, _OTHER_MODELS),
    **dict.fromkeys(
        ("LyCORIS_preset", "conv_dim", "conv_alpha", "factor", "unit", "constrain"), (None, _OTHER_NETWORKS)
    ),
    **dict.fromkeys(("train_on_input", "use_tucker", "rank_dropout_scale"), (None, _OTHER_NETWORKS)),
    **dict.fromkeys(
        ("sdxl_cache_text_encoder_outputs", "sdxl_no_half_vae", "v_parameterization"), (None, _OTHER_MODELS)
    ),
    **dict.fromkeys(("min_snr_gamma", "noise_offset_type", "adaptive_noise_scale"), (None, _OTHER_LOSSES)),
    **dict.fromkeys(
        ("num_processes", "num_machines", "num_cpu_threads_per_process", "main_process_port"), (None, _LAUNCH)
    ),
    **dict.fromkeys(("dynamo_backend", "dynamo_mode", "extra_accelerate_launch_args", "gpu_ids"), (None, _LAUNCH)),
}
_WHY_MISSING = {
    "additional_parameters": "give them to `fluxbooth train`, which knows kohya's flags",
    "resume": "a training goes on with the same command",
    "rank_dropout": "the LoRA has network_dropout alone",
    "module_dropout": "the LoRA has network_dropout alone",
    "scale_weight_norms": "the LoRA's norms are not limited",
    "stop_text_encoder_training": "CLIP is trained to the end, or not at all",
    "lr_scheduler_args": "the schedules take no further arguments",
    "vae": "FLUX's VAE is named by ae",
    "wandb_api_key": "a secret stays out of files; set WANDB_API_KEY in the environment",
    "huggingface_token": "nothing is uploaded",
    "weighted_captions": "brackets in captions are plain text, as FLUX's encoders read them",
    "masked_loss": "set alpha_mask or a mask folder in data.toml",
    "LoRA_type": "a LoRA on FLUX.1 is trained instead",
    "t5xxl_lr": "T5 is not trained",
    "train_t5xxl": "T5 is not trained",
    "apply_t5_attn_mask": "T5's padding is seen, as in ComfyUI",
}


def is_kohya_gui(values: Mapping[str, Any]) -> bool:
    """Whether a file's values are settings of kohya_ss."""
    return sum(sign in values for sign in _SIGNS) >= 2


def translate_kohya_gui(values: Mapping[str, Any]) -> Translation:
    """Translate the settings of kohya_ss's page on LoRA."""
    found = Translation(leaves(dict(values)))
    _translate_paths_and_name(found)
    _translate_length(found)
    _translate_optimizer(found)
    _translate_network(found)
    _translate_noise(found)
    _translate_data(found)
    for key, table in (("save_precision", SAVE_PRECISIONS), ("mixed_precision", MIXED_PRECISIONS)):
        if found.has(key):
            found.to_recipe(key, key, table.get(str(found.value(key)), found.value(key)))
    if "use_dora=true" in found.recipe.get("network_args", ()):
        found.without("fp8_base", "DoRA is trained on the weights as they are")
    elif found.value("fp8_base"):
        found.to_recipe("fp8_base", "base_weights", "fp8")
    if found.number("blocks_to_swap") > 0:
        found.not_needed("blocks_to_swap", "as many blocks are streamed as the memory asks for")
    _translate_samples(found)
    _translate_loss(found)
    if "guidance_scale" not in found.open_keys():
        found.to_recipe("guidance_scale", "guidance_scale", 3.5, why="what kohya does then")
    for key in found.open_keys():
        if key in Recipe.model_fields and (found.has(key) or key in _ZERO_COUNTS):
            found.to_recipe(key, key)
        else:
            _account_for(found, key)
    for key, why in _WHY_MISSING.items():
        found.without(key, why)
    found.finish()
    return found


def _translate_paths_and_name(found: Translation) -> None:
    for key in _PATHS:
        path = str(found.value(key) or "")
        if path and Path(path).exists():
            found.to_recipe(key, key)
        elif path:
            instead = "models/loras, where ComfyUI looks, is used" if key == "output_dir" else "--model's own is used"
            found.without(key, f"it is not on this machine; {instead}")
    if found.has("output_name"):
        name = str(found.value("output_name"))
        found.to_recipe("output_name", "output_name", name, as_name(name))


def _translate_length(found: Translation) -> None:
    """kohya: max_train_epochs wins over max_train_steps; the page counts its epochs where neither is given."""
    counting = next((key for key in ("max_train_epochs", "max_train_steps", "epoch") if found.number(key) > 0), "epoch")
    field = "max_train_steps" if counting == "max_train_steps" else "max_train_epochs"
    given = found.value(counting) if found.has(counting) else 1
    found.to_recipe(counting, field, given, why="" if found.has(counting) else "what kohya_ss does then")
    for key in ("epoch", "max_train_steps", "max_train_epochs"):
        found.not_needed(key, f"{counting} counts")
    if found.number("lr_warmup_steps") > 0:
        found.to_recipe("lr_warmup_steps", "lr_warmup_steps")
        found.not_needed("lr_warmup", "lr_warmup_steps counts")
        return
    share = found.number("lr_warmup")
    if not share:
        return
    if str(found.value("lr_scheduler")) == "constant":
        found.not_needed("lr_warmup", "kohya's constant schedule does not warm up")
    elif field == "max_train_steps":
        steps = round(share / 100 * found.recipe.get(field, 0))
        found.to_recipe("lr_warmup", "lr_warmup_steps", steps, why="of the steps, in percent")
    elif 0 < share < 100:
        found.to_recipe("lr_warmup", "lr_warmup_steps", share / 100, why="a share of the steps")
    else:
        found.without(
            "lr_warmup", "it is in percent of the steps, and the rate would never arrive; set lr_warmup_steps"
        )


def _translate_optimizer(found: Translation) -> None:
    key = "optimizer" if found.has("optimizer") else "optimizer_type"
    if found.has(key):
        translate_optimizer(found, key)
    arguments: dict[str, tuple[str, Any]] = {}
    text = found.value("optimizer_args")
    words = shlex.split(text) if isinstance(text, str) and text.count('"') % 2 == text.count("'") % 2 == 0 else text
    for word in words if isinstance(words, list) else []:
        name, _, value = str(word).partition("=")
        arguments[name.strip()] = (f"optimizer_args.{name.strip()}", _python_value(value))
    if arguments:
        found.parted("optimizer_args", dict(arguments.values()))
        translate_optimizer_arguments(found, arguments)
    if found.has("lr_scheduler"):
        translate_schedule(found, "lr_scheduler")
    _translate_rates(found)


def _translate_rates(found: Translation) -> None:
    """kohya_ss: with neither unet_lr nor text_encoder_lr learning_rate is the rate of both, else of none."""
    transformer, text = found.number("unet_lr"), found.number("text_encoder_lr")
    key = "unet_lr" if transformer else "learning_rate"
    if not transformer and text:
        found.notes.append("kohya would train CLIP alone with these rates; fluxbooth trains the transformer along")
    if found.has(key):
        found.to_recipe(key, "learning_rate", as_number(found.value(key)))
    found.not_needed("learning_rate", "unet_lr counts")
    rate = found.recipe.get("learning_rate", 1e-4)
    if not transformer and not text:
        found.to_recipe("text_encoder_lr", "text_encoder_lr", rate, why="without both rates kohya trains CLIP, too")
    elif text and found.recipe.get("optimizer_type") == "Prodigy" and text != rate:
        found.to_recipe("text_encoder_lr", "text_encoder_lr", rate, why="Prodigy estimates one rate for all")
    else:
        found.to_recipe("text_encoder_lr", "text_encoder_lr", as_number(found.value("text_encoder_lr")) or 0.0)


def _translate_network(found: Translation) -> None:
    arguments = {
        key: f"{key}={found.value(key)}"
        for key, nothing in _NETWORK_ARGUMENTS.items()
        # A rank of "0" is text, and so more than the number 0, which kohya_ss leaves out.
        if found.value(key) not in (None, "", 0, nothing)
    }
    if not str(found.value("LoRA_type")).startswith("LyCORIS/"):
        found.not_needed("dora_wd", "kohya reads it with LyCORIS's networks alone")
    elif found.has("dora_wd"):
        arguments["dora_wd"] = "use_dora=true"
    written = []
    for key, argument in arguments.items():
        try:
            read_network_arguments((argument,))
        except ValueError as error:
            found.without(key, str(error))
        else:
            written.append(argument)
            found.translated(key, f'network_args = "{argument}"')
    if written:
        found.recipe["network_args"] = tuple(written)


def _translate_noise(found: Translation) -> None:
    """kohya reads weighting_scheme for FLUX where it says how noise levels are drawn, and not as weights."""
    if (found.value("timestep_sampling"), found.value("weighting_scheme")) != ("sigma", "logit_normal"):
        found.not_needed("weighting_scheme", "kohya's training on the raw velocity does not read it")
    for key in _KOHYA_DOES_NOT_READ:
        if found.has(key):
            found.not_needed(key, f"{_OTHER_LOSSES}; write it into the recipe to have it")
    given = {**found.recipe, **{key: found.value(key) for key in found.open_keys() if found.has(key)}}
    defaults = {name: field.default for name, field in Recipe.model_fields.items()}
    for key, line in without_unread_arguments(given, defaults)[1].items():
        found.not_needed(key, line.partition(": ")[2])


def _translate_loss(found: Translation) -> None:
    """kohya's default, snr, is for schedulers that FLUX does not have: it refuses to train with it."""
    is_flat = found.value("huber_schedule") in (None, "", "constant") and found.value("huber_scale") in (None, "", 0, 1)
    for key in ("huber_schedule", "huber_scale"):
        if is_flat or found.value("loss_type") not in ("huber", "smooth_l1"):
            found.not_needed(key, "huber_c is the same at every noise level")
        else:
            found.without(key, "huber_c is the same at every noise level")


def _translate_samples(found: Translation) -> None:
    prompts = found.value("sample_prompts")
    if isinstance(prompts, str) and prompts.strip():
        lines = tuple(line.strip() for line in prompts.splitlines() if line.strip() and not line.startswith("#"))
        if not refusal("sample_prompts", lines):
            found.to_recipe("sample_prompts", "sample_prompts", lines)


def _translate_data(found: Translation) -> None:
    if found.has("dataset_config"):
        found.to_recipe("dataset_config", "dataset_config")
        for key in ("train_data_dir", "reg_data_dir"):
            found.not_needed(key, "dataset_config counts")
        for key in ("max_resolution", "train_batch_size", *_DATASET_KEYS, *_GENERAL_KEYS):
            if key not in Recipe.model_fields:
                found.without(
                    key, "kohya reads it only where the file of dataset_config does not say it; write it there"
                )
        return
    sides = [as_number(side.strip()) for side in str(found.value("max_resolution") or "1024,1024").split(",")]
    resolution = sides[0] if len(sides) == 1 or (len(sides) == 2 and sides[0] == sides[1]) else sides
    dataset: dict[str, Any] = {}
    why = "" if found.has("max_resolution") else "FLUX.1's own size"
    if not found.to_data("max_resolution", "resolution", dataset, resolution, why=why, resolution=1024):
        dataset["resolution"] = resolution = 1024
        found.notes.append("resolution = 1024 is written instead of max_resolution")
    if found.has("train_batch_size"):
        found.to_data("train_batch_size", "batch_size", dataset)
    for key in _DATASET_KEYS:
        if found.has(key):
            found.to_data(key, key, dataset, resolution=resolution)
    for key in _GENERAL_KEYS:
        if found.has(key):
            found.to_data(key, key, found.general)
    subsets = [
        *_subsets(found, "train_data_dir", is_reg=False),
        *_subsets(found, "reg_data_dir", is_reg=True),
    ]
    found.datasets.append({**dataset, "subsets": subsets})


def _subsets(found: Translation, key: str, is_reg: bool) -> list[dict[str, Any]]:
    """kohya: every folder in it whose name is REPEATS_WORDS is a concept, the others are passed over."""
    name = str(found.value(key) or "")
    if not name:
        if not is_reg:
            found.notes.append("no train_data_dir is named: write your folder into data.toml")
            return [{"image_dir": "flux_data/my_concept"}]
        return []
    extra = {"is_reg": True} if is_reg else {}
    folder = Path(name)
    if not folder.is_dir():
        found.translated(key, f'image_dir = "{name}"')
        found.notes.append(
            f"{name} is not on this machine, and what is in it is not known: "
            "write a [[datasets.subsets]] into data.toml for each of its folders, such as 100_toy"
        )
        return [{"image_dir": name, **extra}]
    subsets = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        repeats, _, words = inner.name.partition("_")
        if not repeats.isdecimal() or int(repeats) < 1:
            found.notes.append(f"{inner} is passed over, as kohya does: its name does not begin with repeats, 10_toy")
            continue
        tokens = {"class_tokens": words} if words else {}
        subsets.append({"image_dir": str(inner), **tokens, "num_repeats": int(repeats), **extra})
    if not subsets:
        found.without(key, "it has no folder of the form 10_toy")
        return [{"image_dir": name, **extra}]
    found.translated(key, ", ".join(f'image_dir = "{subset["image_dir"]}"' for subset in subsets))
    return subsets


def _account_for(found: Translation, key: str) -> None:
    value = found.value(key)
    if key in _NOT_NEEDED:
        allowed, why = _NOT_NEEDED[key]
        if not is_off(value) and (allowed is None or value in allowed):
            found.not_needed(key, why)
    elif idle := IDLE_ARGUMENTS.get(key):
        if not is_off(value) and (idle.allowed is None or value in idle.allowed):
            found.not_needed(key, idle.why)
        elif not is_off(value):
            found.without(key, f"allowed: {' or '.join(map(as_toml, idle.allowed or ()))}: {idle.why}")


def _python_value(text: str) -> Any:
    """An argument's value as kohya reads it: a number, a truth value, a tuple, else text."""
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        return text.strip()
    return list(value) if isinstance(value, tuple) else value

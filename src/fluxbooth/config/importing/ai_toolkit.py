"""ai-toolkit's YAML: a job with one process of type sd_trainer."""

from __future__ import annotations

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
from fluxbooth.config.importing.translation import Translation, as_name, as_number, leaves, refusal
from fluxbooth.config.recipe import Recipe
from fluxbooth.config.tables import as_toml
from fluxbooth.errors import Problem, UserError

_TRAINERS = ("sd_trainer", "diffusion_trainer", "ui_trainer")
_FLUX_DEV = "black-forest-labs/FLUX.1-dev"
_WIDEST_BUCKET = 1.5
"""Longest side of a bucket, in parts of the dataset's resolution: up to 2:1 no picture loses area."""
_OPTIMIZERS_OWN: Mapping[str, Mapping[str, Any]] = {
    **{name: {"eps": 1e-6} for name in ("AdamW", "AdamW8bit", "Prodigy")},
    "Adafactor": {"relative_step": False, "scale_parameter": False, "warmup_init": False},
}
"""What ai-toolkit gives an optimizer whatever its file says."""

_AS_RECIPE = {
    "network.dropout": "network_dropout",
    "save.save_every": "save_every_n_steps",
    "train.gradient_accumulation": "gradient_accumulation_steps",
    "train.gradient_accumulation_steps": "gradient_accumulation_steps",
    "train.gradient_checkpointing": "gradient_checkpointing",
    "train.max_grad_norm": "max_grad_norm",
    "train.reg_weight": "prior_loss_weight",
    "sample.sample_every": "sample_every_n_steps",
    "sample.sample_steps": "sample_steps",
    "sample.seed": "sample_seed",
    "sample.width": "sample_width",
    "sample.height": "sample_height",
    "sample.guidance_scale": "sample_guidance_scale",
    "sample.walk_seed": "walk_seed",
}
_NO_SAMPLES = (
    "pictures drawn while it trains have no such setting"
    if "sample_every_n_steps" in Recipe.model_fields
    else "no pictures are drawn while it trains; `fluxbooth generate` draws with the files saved on the way"
)
_AS_DATA = {
    "num_repeats": "num_repeats",
    "is_reg": "is_reg",
    "flip_x": "flip_aug",
    "random_crop": "random_crop",
    "alpha_mask": "alpha_mask",
    "shuffle_tokens": "shuffle_caption",
    "keep_tokens": "keep_tokens",
    "caption_dropout_rate": "caption_dropout_rate",
    "token_dropout_rate": "caption_tag_dropout_rate",
}
_CACHED = "latents and embeddings are always encoded once and kept on the disk"
_SEEN_ELSEWHERE = "runs/NAME/run.toml and the LoRA's own metadata say what was trained"
# Settings that ask for what happens here anyway; None where any value does.
_NOT_NEEDED: Mapping[str, tuple[tuple[Any, ...] | None, str]] = {
    "job": (("extension", "train"), "the command is `fluxbooth train`"),
    "type": (_TRAINERS, "the command is `fluxbooth train`"),
    "training_folder": (None, "LoRAs go to models/loras, everything about a run to runs/NAME"),
    "sqlite_db_path": (None, "runs stand in runs/"),
    "device": (None, "the GPU is found; CUDA_VISIBLE_DEVICES names another"),
    "performance_log_every": (None, "the progress bar and runs/NAME/logs say it"),
    "network.type": (("lora",), "a LoRA is what is trained"),
    "save.save_format": (("safetensors", "diffusers"), "LoRA files are always safetensors with diffusers' key names"),
    "train.train_unet": ((True,), "the transformer is always trained"),
    "train.noise_scheduler": (("flowmatch",), "FLUX is always trained by flow matching"),
    "train.loss_type": (("mse",), "the loss is the mean squared error"),
    "train.content_or_style": (("balanced",), "every noise level has the same weight"),
    "train.content_or_style_reg": (("balanced",), "every noise level has the same weight"),
    "train.xformers": (None, "attention always runs in PyTorch's own kernels"),
    "train.sdp": (None, "attention always runs in PyTorch's own kernels"),
    "train.attention_backend": (None, "attention always runs in PyTorch's own kernels"),
    "train.unload_text_encoder": (None, "the text encoders are always gone before the training"),
    "train.cache_text_embeddings": (None, _CACHED),
    "model.is_flux": ((True,), "FLUX.1 is what fluxbooth trains"),
    "model.arch": (("flux",), "FLUX.1 is what fluxbooth trains"),
    "model.quantize_te": (None, "the text encoders are always gone before the training"),
    "model.qtype_te": (None, "the text encoders are always gone before the training"),
    "sample.neg": (None, "FLUX.1-dev draws without a negative prompt"),
    "sample.sampler": (("flowmatch",), "FLUX always draws by flow matching"),
}
_NOT_NEEDED_BELOW = {
    "meta": _SEEN_ELSEWHERE,
    "logging": "runs/NAME/logs has TensorBoard's files, runs/NAME/train.log the lines",
}
_NOT_NEEDED_OF_DATASETS: Mapping[str, tuple[tuple[Any, ...] | None, str]] = {
    "cache_latents": (None, _CACHED),
    "cache_latents_to_disk": (None, _CACHED),
    "cache_text_embeddings": (None, _CACHED),
    "type": (("image", "sd"), "pictures are what it is trained on"),
    "bucket_tolerance": (None, "buckets differ by bucket_reso_steps, 64 pixels"),
    "scale": ((1, 1.0), "1 changes nothing"),
    "network_weight": ((1, 1.0), "1 changes nothing"),
}
_WHY_MISSING = {
    "save.max_step_saves_to_keep": "every file is kept, so that the best can be chosen",
    "save.push_to_hub": "nothing is uploaded",
    "save.hf_repo_id": "nothing is uploaded",
    "save.hf_private": "nothing is uploaded",
    "train.train_unet": "the transformer is always trained",
    "train.ema_config.use_ema": "there is no moving average of the weights",
    "train.ema_config.ema_decay": "there is no moving average of the weights",
    "train.skip_first_sample": _NO_SAMPLES,
    "train.force_first_sample": _NO_SAMPLES,
    "train.disable_sampling": _NO_SAMPLES,
    "network.type": "a LoRA is trained instead",
    "network.conv": "FLUX has no convolutions to train",
    "network.conv_alpha": "FLUX has no convolutions to train",
}


def is_ai_toolkit(values: Mapping[str, Any]) -> bool:
    """Whether a file's tables are those of an ai-toolkit job."""
    return isinstance(values.get("config"), Mapping) and "process" in values["config"]


def translate_ai_toolkit(values: Mapping[str, Any], file: Path) -> Translation:
    """Translate the first process of an ai-toolkit job.

    Raises:
        UserError: when the file has no process that trains a LoRA on folders of pictures, or sizes that do not fit.
    """
    process = _process(values, file)
    config = {key: value for key, value in values["config"].items() if key != "process"}
    others = [
        (f"process[{number}].{path}", value)
        for number, other in enumerate(values["config"]["process"][1:], start=1)
        for path, value in leaves(other)
    ]
    outside = {key: value for key, value in values.items() if key != "config"}
    found = Translation([*leaves(outside), *leaves(config, "config"), *leaves(process), *others])
    for key, _ in others:
        found.without(key, "only the first process of a file is imported")
    _translate_names(found)
    _translate_training(found)
    _translate_model(found)
    _translate_samples(found)
    _translate_datasets(found, process, file)
    for key, field in _AS_RECIPE.items():
        if found.has(key):
            reason = _NO_SAMPLES if key.startswith("sample.") and refusal(field, found.value(key)) else ""
            if reason:
                found.without(key, reason)
            else:
                found.to_recipe(key, field)
    for key in found.open_keys():
        _account_for(found, key, key, _NOT_NEEDED)
    for key, why in _WHY_MISSING.items():
        found.without(key, why)
    for key in found.open_keys("sample."):
        found.without(key, _NO_SAMPLES)
    found.finish()
    return found


def _process(values: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    processes = values["config"]["process"]
    process = processes[0] if isinstance(processes, list) and processes else None
    if not isinstance(process, Mapping) or process.get("type") not in _TRAINERS:
        kind = process.get("type") if isinstance(process, Mapping) else None
        raise UserError(
            Problem(
                f"its first process is of type {kind!r}", where=f"{file}, config.process", allowed=", ".join(_TRAINERS)
            )
        )
    datasets = process.get("datasets")
    folders = [table.get("folder_path") for table in datasets or [] if isinstance(table, Mapping)]
    if (
        not isinstance(datasets, list)
        or not folders
        or not all(isinstance(folder, str) and folder for folder in folders)
    ):
        raise UserError(
            Problem(
                "has no list of datasets, each with a folder_path",
                where=f"{file}, config.process, datasets",
                allowed="folders of pictures",
            )
        )
    return process


def _translate_names(found: Translation) -> None:
    name = found.value("config.name")
    if found.has("config.name"):
        found.to_recipe("config.name", "output_name", name, as_name(str(name)))
    if found.has("network.rank") or found.has("network.linear"):
        key = "network.rank" if found.has("network.rank") else "network.linear"
        found.to_recipe(key, "network_dim")
        other = "network.linear" if key == "network.rank" else "network.rank"
        found.not_needed(other, f"{key} counts")
    if str(found.value("network.type")).lower() == "dora":
        found.to_recipe("network.type", "network_args", ("use_dora=true",))
    for key in ("network.linear_alpha", "network.alpha"):
        found.not_needed(key, "ai-toolkit trains FLUX at alpha = rank whatever it says, as network_alpha left out does")
    if found.has("save.dtype"):
        dtype = str(found.value("save.dtype"))
        found.to_recipe("save.dtype", "save_precision", SAVE_PRECISIONS.get(dtype, dtype))


def _translate_training(found: Translation) -> None:
    found.to_recipe("train.steps", "max_train_steps", found.value("train.steps", 1000))
    if found.has("train.dtype"):
        dtype = str(found.value("train.dtype"))
        found.to_recipe("train.dtype", "mixed_precision", MIXED_PRECISIONS.get(dtype, dtype))
    if found.has("train.optimizer"):
        translate_optimizer(found, "train.optimizer")
    _translate_rate(found)
    if "train.gradient_checkpointing" not in found.open_keys():
        why = "what ai-toolkit does then"
        found.to_recipe("train.gradient_checkpointing", "gradient_checkpointing", True, why=why)
    arguments = {
        key.removeprefix("train.optimizer_params."): (key, as_number(found.value(key)))
        for key in found.open_keys("train.optimizer_params.")
    }
    always = _OPTIMIZERS_OWN.get(found.recipe.get("optimizer_type", "AdamW"), {})
    own = {name: (f"train.optimizer_params.{name}", value) for name, value in always.items()}
    translate_optimizer_arguments(found, {**own, **arguments})
    if found.has("train.lr_scheduler"):
        translate_schedule(found, "train.lr_scheduler")
    warmup = "train.lr_scheduler_params.num_warmup_steps"
    if found.has(warmup):
        found.to_recipe(warmup, "lr_warmup_steps")
    kind = found.value("train.timestep_type", "linear" if found.value("train.linear_timesteps") else "sigmoid")
    names = {"sigmoid": "sigmoid", "linear": "uniform", "shift": "flux_shift", "flux_shift": "flux_shift"}
    key = "train.linear_timesteps" if found.has("train.linear_timesteps") else "train.timestep_type"
    why = "" if found.has(key) else "what ai-toolkit does then"
    if key == "train.linear_timesteps":
        why = "without its weights of the noise levels"
    if kind in names or found.has(key):
        found.to_recipe(key, "timestep_sampling", names.get(str(kind), kind), why=why)
    if found.value("train.ema_config.use_ema") and not refusal("ema_decay", found.value("train.ema_config.ema_decay")):
        found.to_recipe("train.ema_config.ema_decay", "ema_decay")
        found.not_needed("train.ema_config.use_ema", "ema_decay says so")
    if found.value("train.ema_config.use_ema") is False:
        found.not_needed("train.ema_config.ema_decay", "use_ema is false")
    if found.value("train.diff_output_preservation"):
        weight = found.value("train.diff_output_preservation_multiplier", 1.0)
        found.to_recipe("train.diff_output_preservation", "diff_output_preservation", weight)
        found.not_needed("train.diff_output_preservation_multiplier", "it is the value of diff_output_preservation")
    else:
        for key in ("train.diff_output_preservation_multiplier", "train.diff_output_preservation_class"):
            found.not_needed(key, "diff_output_preservation is off")


def _translate_rate(found: Translation) -> None:
    key = "train.unet_lr" if found.has("train.unet_lr") else "train.lr"
    if found.value("train.train_unet") is False:
        found.notes.append("train.train_unet is false; fluxbooth trains the transformer all the same")
    if key == "train.unet_lr":
        found.not_needed("train.lr", "train.unet_lr counts")
    is_prodigy = found.recipe.get("optimizer_type") == "Prodigy"
    if found.has(key) or is_prodigy:
        if is_prodigy and found.number(key) < 0.1:
            found.to_recipe(key, "learning_rate", 1.0, why="ai-toolkit itself gives Prodigy 1 for a rate below 0.1")
        else:
            found.to_recipe(key, "learning_rate", as_number(found.value(key)))
    trains_text = found.value("train.train_text_encoder")
    rate = found.recipe.get("learning_rate")
    if trains_text and rate is not None:
        own = as_number(found.value("train.text_encoder_lr", rate))
        candidate = rate if is_prodigy else own
        found.to_recipe("train.train_text_encoder", "text_encoder_lr", candidate, why="CLIP alone: T5 is not trained")
        found.not_needed("train.text_encoder_lr", "it is the value of text_encoder_lr, with Prodigy learning_rate's")
    else:
        found.not_needed("train.text_encoder_lr", "train_text_encoder is off")


def _translate_model(found: Translation) -> None:
    key = "model.name_or_path"
    name = str(found.value(key, ""))
    if name == _FLUX_DEV:
        found.not_needed(key, "it is what --model flux-dev means, and `fluxbooth download` fetches it")
    elif name and Path(name).exists():
        found.to_recipe(key, "pretrained_model_name_or_path")
    else:
        found.without(key, "it is not on this machine; --model flux-dev is what trains, or name a folder with --model")
    for key in ("model.quantize", "model.qtype", "model.low_vram"):
        if found.has(key):
            found.not_needed(key, "base_weights = auto holds FLUX in as many bits as the memory has room for")
    if found.has("model.is_flux") or found.has("model.arch") or name == _FLUX_DEV:
        return
    found.notes.append("the file does not say that its model is FLUX.1; a recipe for another model may not suit FLUX")


def _translate_samples(found: Translation) -> None:
    trigger = str(found.value("trigger_word") or "")
    prompts = found.value("sample.prompts")
    if isinstance(prompts, list) and prompts:
        named = tuple(_with_trigger(str(prompt), trigger) for prompt in prompts)
        if not refusal("sample_prompts", named):
            found.to_recipe("sample.prompts", "sample_prompts", named)


def _translate_datasets(found: Translation, process: Mapping[str, Any], file: Path) -> None:
    if found.has("train.batch_size"):
        found.to_data("train.batch_size", "batch_size", found.general)
    trigger = str(found.value("trigger_word") or "").strip()
    noun = str(found.value("train.diff_output_preservation_class") or "").strip()
    if noun and found.recipe.get("diff_output_preservation"):
        found.translated("train.diff_output_preservation_class", f"class_tokens: '{trigger} {noun}'")
        found.notes.append(f"diff_output_preservation needs '{trigger} {noun}' in every caption file")
    else:
        noun = ""
    for number, table in enumerate(process["datasets"]):
        path = f"datasets[{number}]"
        subset = _subset(found, path, table, " ".join(word for word in (trigger, noun) if word))
        wanted = table.get("resolution", 512)
        taken = [
            dataset
            for pixels in (wanted if isinstance(wanted, list) else [wanted])
            if (dataset := _dataset(found, f"{path}.resolution", pixels, table.get("buckets", True)))
        ]
        if not taken:
            raise UserError(
                Problem(
                    f"resolution is {as_toml(wanted)}",
                    where=f"{file}, {path}",
                    allowed="multiples of 16 pixels, one of them at least",
                )
            )
        for dataset in taken:
            _add_subset(found, dataset, subset)
        sizes = ", ".join(str(dataset["resolution"]) for dataset in taken)
        found.translated(f"{path}.resolution", f"a [[datasets]] each with resolution = {sizes}")
        if f"{path}.buckets" in found.open_keys():
            found.translated(f"{path}.buckets", f"enable_bucket = {as_toml(bool(table['buckets']))}")
        for key in found.open_keys(f"{path}."):
            _account_for(found, key, key.removeprefix(f"{path}."), _NOT_NEEDED_OF_DATASETS)
    if trigger:
        found.translated("trigger_word", f'class_tokens = "{found.datasets[0]["subsets"][0].get("class_tokens", "")}"')


def _subset(found: Translation, path: str, table: Mapping[str, Any], class_tokens: str) -> dict[str, Any]:
    folder = str(table["folder_path"])
    subset: dict[str, Any] = {"image_dir": folder}
    found.translated(f"{path}.folder_path", f'image_dir = "{folder}"')
    caption = _with_trigger(str(table.get("default_caption") or ""), class_tokens)
    if caption:
        subset["class_tokens"] = caption
        found.translated(f"{path}.default_caption", f'class_tokens = "{caption}"')
    elif class_tokens:
        subset["class_tokens"] = class_tokens
    extension = str(table.get("caption_ext") or table.get("caption_type") or "txt")
    key = f"{path}.caption_type" if table.get("caption_type") else f"{path}.caption_ext"
    found.to_data(key, "caption_extension", subset, "." + extension.lstrip("."), why=_given(found, key))
    for name, data_key in _AS_DATA.items():
        if found.has(f"{path}.{name}"):
            found.to_data(f"{path}.{name}", data_key, subset)
    if class_tokens:
        _look_at_captions(found, subset, class_tokens)
    return subset


def _look_at_captions(found: Translation, subset: dict[str, Any], trigger: str) -> None:
    """ai-toolkit puts the trigger word before captions that lack it, and where they say [trigger]."""
    folder = Path(subset["image_dir"])
    if not folder.is_dir():
        found.notes.append(
            f"captions in {folder} are taken as they are: write '{trigger}' into those that lack it, "
            "as ai-toolkit does by itself, or add caption_prefix to data.toml"
        )
        return
    captions = [
        file.read_text(encoding="utf-8", errors="replace")
        for file in sorted(folder.glob(f"*{subset.get('caption_extension', '.txt')}"))
    ]
    if any("[trigger]" in caption for caption in captions):
        found.notes.append(f"captions in {folder} say [trigger]: write '{trigger}' there instead")
    lacking = [caption for caption in captions if trigger not in caption and "[trigger]" not in caption]
    if lacking:
        found.notes.append(
            f"{len(lacking)} of {len(captions)} captions in {folder} lack '{trigger}', which ai-toolkit "
            f'puts before them: write it there, or add caption_prefix = "{trigger}," to data.toml where all lack it'
        )


def _dataset(found: Translation, key: str, pixels: Any, has_buckets: bool) -> dict[str, Any]:
    dataset: dict[str, Any] = {}
    scratch = Translation([(key, pixels)])
    if not scratch.to_data(key, "resolution", dataset, resolution=512):
        found.missing += scratch.missing
        return {}
    dataset["enable_bucket"] = bool(has_buckets)
    if has_buckets:
        # Without one kohya's 1024 would stand, which is too little for 1536 and cuts 16:9 at 1024.
        dataset["max_bucket_reso"] = -(-int(dataset["resolution"] * _WIDEST_BUCKET) // 64) * 64
        if dataset["resolution"] < 256:
            dataset["min_bucket_reso"] = 64
    return dataset


def _add_subset(found: Translation, dataset: dict[str, Any], subset: dict[str, Any]) -> None:
    """Put folders of one size into one [[datasets]]; a folder that is there already needs another."""
    for other in found.datasets:
        keys = {name: value for name, value in other.items() if name != "subsets"}
        if keys == dataset and all(one["image_dir"] != subset["image_dir"] for one in other["subsets"]):
            other["subsets"].append(dict(subset))
            return
    found.datasets.append({**dataset, "subsets": [dict(subset)]})


def _account_for(
    found: Translation, key: str, name: str, table: Mapping[str, tuple[tuple[Any, ...] | None, str]]
) -> None:
    if name in table:
        allowed, why = table[name]
        if allowed is None or found.value(key) in allowed:
            found.not_needed(key, why)
        return
    top = name.split(".")[0].split("[")[0]
    if top in _NOT_NEEDED_BELOW and "." in name:
        found.not_needed(key, _NOT_NEEDED_BELOW[top])


def _with_trigger(text: str, trigger: str) -> str:
    return text.replace("[trigger]", trigger).strip()


def _given(found: Translation, key: str) -> str:
    return "" if found.has(key) else "what ai-toolkit reads then"

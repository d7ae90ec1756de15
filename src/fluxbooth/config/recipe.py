"""A recipe: how to train, under kohya's argument names. Read from a TOML file, each field also a flag.

What is trained stands in data.toml; a recipe never names a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fluxbooth.config.kohya_arguments import without_idle_arguments
from fluxbooth.config.tables import StrictTable, TablePath, TomlFile, checked
from fluxbooth.errors import Problem, Problems, UserError, did_you_mean

RECIPE_FOLDER = Path("recipes")
_TRANSFORMER_ALONE = "network_train_unet_only"
"""kohya's switch for text_encoder_lr = 0."""
_Count = Annotated[int, Field(ge=1)]
_Multiple = Annotated[int, Field(ge=16, le=16384, multiple_of=16)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Recipe(StrictTable):
    """Every choice of a training run, checked."""

    output_name: Annotated[str, Field(pattern=r"^[\w][\w.\-]*$", max_length=100)] = "fluxbooth"
    """Name of the LoRA file and of the run's folder; letters, digits, '_', '-', '.'"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from it: the same seed gives the same LoRA"""

    pretrained_model_name_or_path: str | None = None
    """File of the transformer, or a model's folder; wins over --model"""
    clip_l: str | None = None
    """File of CLIP's text model; wins over --model's"""
    t5xxl: str | None = None
    """File of T5; wins over --model's"""
    ae: str | None = None
    """File of the VAE; wins over --model's"""
    dataset_config: str | None = None
    """The data.toml, where --data names none"""
    output_dir: str | None = None
    """Folder for the LoRA files instead of models/loras"""

    resolution: Annotated[int, Field(ge=16, multiple_of=16)] | None = None
    """Pixels; trains at this size instead of data.toml's, its bucket keys scaled alike"""
    enable_bucket: bool | None = None
    """Keep each picture's shape instead of cutting it to a square, where data.toml does not say"""
    min_bucket_reso: _Multiple | None = None
    """Pixels: shortest side of a bucket, where data.toml does not say"""
    max_bucket_reso: _Multiple | None = None
    """Pixels: longest side of a bucket, where data.toml does not say"""
    bucket_reso_steps: _Multiple | None = None
    """Pixels by which buckets' sides differ, where data.toml does not say"""
    bucket_no_upscale: bool | None = None
    """Never enlarge a picture, where data.toml does not say"""
    t5xxl_max_token_length: Annotated[int, Field(ge=1, le=512)] | None = None
    """T5's text length in tokens; left out it is what ComfyUI feeds, 256 for FLUX.1-dev"""

    network_dim: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rank of the LoRA"""
    network_alpha: _Positive | None = None
    """The LoRA's scale is network_alpha / network_dim; left out it is network_dim, scale 1"""

    optimizer_type: Literal["AdamW", "Prodigy"] = "AdamW"
    """Prodigy finds its own rate: leave learning_rate at 1"""
    optimizer_args: tuple[str, ...] = ()
    """Further arguments of the optimizer, each "name=value" """
    learning_rate: _Positive = 1e-4
    """Rate of the optimizer at the schedule's top"""
    text_encoder_lr: _NotNegative = 0.0
    """Rate of a LoRA on CLIP's text encoder; 0 leaves CLIP alone. With Prodigy it is learning_rate or 0"""
    lr_scheduler: Literal["constant", "cosine_with_restarts"] = "constant"
    """How the rate goes over the steps"""
    lr_scheduler_num_cycles: _Count = 1
    """Cosine waves of cosine_with_restarts; 1 is one fall to zero"""
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps over which the rate rises from zero"""
    max_grad_norm: _NotNegative = 1.0
    """The gradient is scaled down to this norm where it is longer; 0 leaves it alone"""

    max_train_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Optimizer steps of the run"""
    max_train_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Epochs of the run; give this or max_train_steps"""
    train_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Pictures of one bucket that go through the network at once; wins over data.toml's batch_size"""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = 1
    """Micro-batches whose gradients make one optimizer step"""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time"""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    """Arithmetic of the network; the LoRA itself is always float32"""

    timestep_sampling: Literal["flux_shift", "sigmoid", "uniform"] = "flux_shift"
    """How noise levels are drawn"""
    guidance_scale: _NotNegative = 1.0
    """The guidance the network is told while it learns"""
    prior_loss_weight: _NotNegative = 1.0
    """Weight of regularization pictures (is_reg = true)"""

    diff_output_preservation: _NotNegative = 0.0
    """Weight of drawing the plain class noun ("toy" for "tjtoy toy") as the base model does; 0 is off, and else a step
    takes more than twice the time"""

    composite_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the samples that show two concepts side by side, made of pictures with transparent surroundings: keeps
    two subjects of one picture apart"""

    save_precision: Literal["float", "fp16", "bf16"] = "bf16"
    """Number format of the LoRA file"""
    save_format: Literal["diffusers", "kohya"] = "diffusers"
    """Key names of the LoRA file; ComfyUI reads both, kohya's tools and older ones theirs"""
    save_every_n_epochs: _Count | None = None
    """Also write NAME-000025.safetensors and so on, but for the last epoch, which is NAME.safetensors"""
    save_every_n_steps: _Count | None = None
    """Also write NAME-step00000250.safetensors and so on"""

    @model_validator(mode="after")
    def _one_rate_with_prodigy(self) -> Self:
        if self.optimizer_type == "Prodigy" and self.text_encoder_lr not in (0, self.learning_rate):
            raise ValueError("text_encoder_lr: Prodigy estimates one rate for all; give learning_rate's value, or 0")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.max_train_steps is None) == (self.max_train_epochs is None):
            raise ValueError("exactly one of max_train_steps and max_train_epochs")
        return self

    @property
    def weight_files(self) -> dict[str, str]:
        """The files of base weights that win over the model's own, by argument."""
        files = {
            "pretrained_model_name_or_path": self.pretrained_model_name_or_path,
            "clip_l": self.clip_l,
            "t5xxl": self.t5xxl,
            "ae": self.ae,
        }
        return {name: file for name, file in files.items() if file is not None}

    @property
    def bucket_keys(self) -> dict[str, bool | int]:
        """What stands in for the keys of buckets that data.toml does not have."""
        keys = {
            "enable_bucket": self.enable_bucket,
            "min_bucket_reso": self.min_bucket_reso,
            "max_bucket_reso": self.max_bucket_reso,
            "bucket_reso_steps": self.bucket_reso_steps,
            "bucket_no_upscale": self.bucket_no_upscale,
        }
        return {name: value for name, value in keys.items() if value is not None}

    @property
    def alpha(self) -> float:
        """The LoRA's alpha: its effect is B @ A * alpha / rank."""
        return self.network_alpha if self.network_alpha is not None else float(self.network_dim)


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe and, for each field, where its value came from."""

    recipe: Recipe
    origins: Mapping[str, str]
    """Field name to "flag", "default" or the recipe file's name."""
    notes: tuple[str, ...] = ()
    """A line on each of kohya's arguments that has no effect."""


def resolve_recipe(name_or_file: str, flags: Mapping[str, Any]) -> ResolvedRecipe:
    """Read a recipe and let flags win over it.

    Args:
        name_or_file: "playbook" means recipes/playbook.toml; anything with a '/' or '.toml' is a file.
        flags: values given on the command line, by field name or by the name of another of kohya's arguments.

    Raises:
        UserError: every unknown key, wrong type, value out of range and contradiction at once.
    """
    file = TomlFile(_recipe_file(name_or_file))
    values = dict(file.values)
    for length in ("max_train_steps", "max_train_epochs"):
        if length in flags:  # a flag for the one length replaces the file's other
            values = {key: value for key, value in values.items() if not key.startswith("max_train_")}
    problems = Problems()

    def place(path: TablePath) -> str:
        return f"flag --{path[0]}" if path and path[0] in flags else file.place(path)

    given, notes = without_idle_arguments({**_with_tuples(values), **flags}, place, problems)
    if given.pop(_TRANSFORMER_ALONE, False) and given.setdefault("text_encoder_lr", 0.0) != 0:
        if "text_encoder_lr" in flags:
            problems.add(f"{_TRANSFORMER_ALONE} and text_encoder_lr contradict each other", where="the command's flags")
        given["text_encoder_lr"] = 0.0
    recipe = checked(Recipe, given, place, problems)
    problems.raise_if_any()
    assert recipe is not None, "a table that does not validate has a problem"
    origins = {
        name: "flag"
        if name in flags or (name == "text_encoder_lr" and _TRANSFORMER_ALONE in flags)
        else file.path.name
        if name in values
        else "default"
        for name in Recipe.model_fields
    }
    return ResolvedRecipe(recipe, origins, tuple(notes))


def _recipe_file(name_or_file: str) -> Path:
    if "/" in name_or_file or name_or_file.endswith(".toml"):
        return Path(name_or_file)
    file = RECIPE_FOLDER / f"{name_or_file}.toml"
    if not file.is_file():
        known = sorted(path.stem for path in RECIPE_FOLDER.glob("*.toml"))
        raise UserError(
            Problem(
                f"no recipe '{name_or_file}'",
                where="--recipe",
                allowed=f"{', '.join(known) or 'none'} (files in {RECIPE_FOLDER}/), or a file",
                do=did_you_mean(name_or_file, known),
            )
        )
    return file


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has lists where the recipe, being frozen, has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

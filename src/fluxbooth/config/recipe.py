"""A recipe: how to train, under kohya's argument names. Read from a TOML file, each field also a flag.

What is trained stands in data.toml; a recipe never names a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fluxbooth.config.kohya_arguments import without_idle_arguments, without_unread_arguments
from fluxbooth.config.network_arguments import NetworkArguments, read_network_arguments
from fluxbooth.config.tables import StrictTable, TablePath, TomlFile, as_toml, checked
from fluxbooth.errors import Problem, Problems, UserError, did_you_mean

RECIPE_FOLDER = Path("recipes")
_FP8 = "fp8_base"
"""kohya's switch for base_weights = "fp8"."""
_TRANSFORMER_ALONE = "network_train_unet_only"
"""kohya's switch for text_encoder_lr = 0."""
_NOT_AT_FIRST = "skip_first_sample"
"""ai-toolkit's word for the opposite of sample_at_first."""
_KEY = "wandb_api_key"
_ALSO_CALLED = {"text_encoder_lr": _TRANSFORMER_ALONE, "sample_at_first": _NOT_AT_FIRST, "base_weights": _FP8}
_Name = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=1)]
_Multiple = Annotated[int, Field(ge=16, le=16384, multiple_of=16)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_OPTIMIZERS = ("AdamW", "AdamW8bit", "Adafactor", "AdamWScheduleFree", "Lion", "Prodigy")


def _optimizer_of_any_case(name: object) -> object:
    return next((known for known in _OPTIMIZERS if known.lower() == str(name).lower()), name)


def _whole_from_one_on(steps: float) -> float:
    if 0 < steps < 1:
        return steps
    if steps != int(steps):
        raise ValueError("a whole number of steps, or below 1 a share of the run's")
    return int(steps)


class Recipe(StrictTable):
    """Every choice of a training run, checked."""

    output_name: Annotated[str, Field(pattern=r"^[\w][\w.\-]*$", max_length=100)] = "fluxbooth"
    """Name of the LoRA file and of the run's folder; letters, digits, '_', '-', '.'"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from it: the same seed gives the same LoRA"""

    pretrained_model_name_or_path: _Name | None = None
    """File of the transformer, or a model's folder; wins over --model"""
    clip_l: _Name | None = None
    """File of CLIP's text model; wins over --model's"""
    t5xxl: _Name | None = None
    """File of T5; wins over --model's"""
    ae: _Name | None = None
    """File of the VAE; wins over --model's"""
    dataset_config: _Name | None = None
    """The data.toml, where --data names none"""
    output_dir: _Name | None = None
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
    use_rslora: bool = False
    """The scale is network_alpha / sqrt(network_dim): high ranks learn as fast as low ones"""
    network_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each layer's inputs that the LoRA does not see in a training step"""
    network_args: tuple[str, ...] = ()
    """What the LoRA sits on, which layers have a rank or rate of their own, and how much faster its B learns, each
    "name=value": train_blocks=single, train_double_block_indices=0-3,7, train_single_block_indices=none,
    img_attn_dim=8, network_reg_dims=single_blocks_3_=4, network_reg_lrs=txt_mlp=1e-5, loraplus_lr_ratio=4,
    use_dora=true"""
    network_weights: _Name | None = None
    """LoRA file to begin with, instead of a LoRA that changes nothing"""

    optimizer_type: Annotated[
        Literal["AdamW", "AdamW8bit", "Adafactor", "AdamWScheduleFree", "Lion", "Prodigy"],
        BeforeValidator(_optimizer_of_any_case),
    ] = "AdamW"
    """Prodigy finds its own rate: leave learning_rate at 1. Adafactor does, too, but for optimizer_args
    relative_step=False"""
    optimizer_args: tuple[str, ...] = ()
    """Further arguments of the optimizer, each "name=value" """
    learning_rate: _Positive = 1e-4
    """Rate of the optimizer at the schedule's top"""
    text_encoder_lr: _NotNegative = 0.0
    """Rate of a LoRA on CLIP's text encoder; 0 leaves CLIP alone. With Prodigy it is learning_rate or 0"""
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "cosine", "cosine_with_restarts", "linear", "polynomial"
    ] = "constant"
    """How the rate goes over the steps"""
    lr_scheduler_num_cycles: _Count = 1
    """Cosine waves of cosine_with_restarts; 1 is one fall to zero"""
    lr_scheduler_power: _Positive = 1.0
    """Exponent of polynomial; 1 is a straight line"""
    lr_warmup_steps: Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_whole_from_one_on)] = 0
    """Optimizer steps over which the rate rises from zero; below 1 a share of the run's steps"""
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
    gradient_checkpointing: bool | None = None
    """Compute activations twice instead of keeping them: in all blocks, or with false in none; left out in as many as
    the memory asks for. All of them take about two fifths more time"""
    base_weights: Literal["auto", "full", "fp8", "int8", "nf4"] = "auto"
    """How FLUX's own matrices are held while it trains: fp8 and int8 take half the memory, nf4 a quarter, each less
    exact; auto is full unless fp8 or nf4 saves much time, or nothing else fits"""
    blocks_to_swap: Annotated[int, Field(ge=0)] | None = None
    """Blocks of the transformer whose matrices wait in the machine's memory and are brought to the GPU as they are
    needed; left out as many as the memory asks for, where that is faster than fewer bits. Changes no numbers"""
    fp8_products: bool = False
    """Multiply with FLUX's matrices in fp8, forward and backward: less exact, and on GPUs of compute capability 8.9 and
    higher twice the rate of bf16. Holds them in fp8, and once more turned round where the memory has room"""
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Arithmetic of the network; the LoRA itself is always float32. fp16 is for GPUs that have no bf16: it scales the
    loss, and what encodes pictures and captions stays float32"""

    timestep_sampling: Literal["flux_shift", "shift", "sigmoid", "uniform", "logit_normal", "sigma"] = "flux_shift"
    """How noise levels are drawn: flux_shift moves them toward noise by the picture's size, shift by
    discrete_flow_shift"""
    discrete_flow_shift: _Positive = 3.0
    """Factor by which shift and sigma move noise levels toward noise; 1 leaves them"""
    sigmoid_scale: _Positive = 1.0
    """Spread of the levels of flux_shift, shift and sigmoid: larger is more even"""
    weighting_scheme: Literal["none", "uniform", "sigma_sqrt", "cosmap", "logit_normal"] = "none"
    """How much each noise level counts; logit_normal is how timestep_sampling = sigma draws"""
    logit_mean: _Finite = 0.0
    """Centre of logit_normal; above 0 is more noise, with timestep_sampling = sigma less, as in kohya"""
    logit_std: _Positive = 1.0
    """Spread of logit_normal"""
    min_timestep: Annotated[int, Field(ge=0, lt=1000)] = 0
    """Least noise that is trained, in thousandths"""
    max_timestep: Annotated[int, Field(gt=0, le=1000)] = 1000
    """Most noise that is trained, in thousandths"""
    noise_offset: _NotNegative = 0.0
    """Strength of noise that is one value a channel, for darker and brighter pictures; 0 is off, 0.05 is usual"""
    multires_noise_iterations: Annotated[int, Field(ge=0, le=20)] = 0
    """Levels of coarser noise that are added; 0 is off, 6 is usual"""
    multires_noise_discount: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Strength of each level of coarser noise, in parts of the one before"""
    loss_type: Literal["l2", "huber", "smooth_l1"] = "l2"
    """Distance of what is predicted from what it should be; huber and smooth_l1 forgive outliers"""
    huber_c: _Positive = 0.1
    """Difference from which on huber and smooth_l1 grow in a straight line"""
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

    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The LoRA files are an average over the steps, of which each step keeps this share; 0.99 is a mild one"""

    save_precision: Literal["float", "fp16", "bf16"] = "bf16"
    """Number format of the LoRA file"""
    save_format: Literal["diffusers", "kohya"] = "diffusers"
    """Key names of the LoRA file; ComfyUI reads both, kohya's tools and older ones theirs"""
    save_every_n_epochs: _Count | None = None
    """Also write NAME-000025.safetensors and so on, but for the last epoch, which is NAME.safetensors"""
    save_every_n_steps: _Count | None = None
    """Also write NAME-step00000250.safetensors and so on"""
    save_every_n_minutes: _Positive | None = None
    """Also write NAME-step00000250.safetensors whenever so many minutes have gone by"""
    save_last_n_epochs: _Count | None = None
    """Keep only so many of the files of epochs: the oldest goes when the next is written"""
    save_last_n_steps: _Count | None = None
    """Keep the files of steps for so many steps only"""
    save_state_every_n_minutes: _Positive = 10.0
    """How much work a machine that dies may cost: the run's state is saved so often, and with each LoRA file"""
    validation_split: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Where data.toml does not say it: share of each concept's pictures that is not trained on, and whose loss is
    measured beside that of the others"""
    validation_seed: int | None = None
    """Where data.toml does not say it: another one holds out other pictures; left out it is 0, whatever seed is"""
    validate_every_n_steps: _Count | None = None
    """Measure the loss on the evaluation set so often, for the curves; it always is at the beginning and at the end"""
    validate_every_n_epochs: _Count | None = None
    """The same by epochs"""
    max_validation_steps: _Count | None = None
    """Measure so many of the pictures that are held out, spread over all; left out it is every one"""
    memory_floor: _NotNegative | None = None
    """GiB: when less of the machine's memory is available the run saves its state and stops, before the machine does;
    left out it is a twentieth of it, and 0 is never"""

    log_with: Literal["tensorboard", "wandb", "all"] = "tensorboard"
    """wandb and all: the curves also go to Weights & Biases, where its package is installed and WANDB_API_KEY is set"""
    log_tracker_name: _Name | None = None
    """Project on Weights & Biases; left out it is fluxbooth"""
    wandb_run_name: _Name | None = None
    """Name of the run on Weights & Biases; left out it is output_name"""

    score_every: Annotated[int, Field(ge=0)] = 0
    """Score every n-th LoRA file of the run, and the last, as `fluxbooth score` does, and publish the best as
    NAME-best.safetensors; 0 is off"""
    early_stop_patience: _Count | None = None
    """End the run when so many scored files in a row are no better than the best before them; off where left out"""

    sample_prompts: str | tuple[str, ...] | None = None
    """What is drawn while it trains: a file with one prompt a line, kohya's way ("[trigger] on a beach --w 768 --d 7"),
    or a list of such lines; left out it is each concept alone and all together"""
    sample_every_n_steps: _Count | None = None
    """Draw sample pictures so often, and at the end"""
    sample_every_n_epochs: _Count | None = None
    """Draw sample pictures so often, and at the end"""
    sample_at_first: bool = False
    """Draw sample pictures before the first step, too"""
    sample_seed: Annotated[int, Field(ge=0, lt=2**64)] = 42
    """Seed of a sample picture whose prompt has no --d"""
    walk_seed: bool = False
    """Each further prompt's seed is one higher"""
    sample_width: _Multiple | None = None
    """Pixels of a sample picture whose prompt has no --w; left out it is what most training pictures have"""
    sample_height: _Multiple | None = None
    """Pixels of a sample picture whose prompt has no --h; left out it is what most training pictures have"""
    sample_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Network passes of a sample picture whose prompt has no --s"""
    sample_guidance_scale: _NotNegative = 3.5
    """What the network is told while it draws a sample picture whose prompt has no --g"""

    @model_validator(mode="after")
    def _network_args_can_be(self) -> Self:
        try:
            read_network_arguments(self.network_args)
        except ValueError as error:
            raise ValueError(f"network_args: {error}") from error
        return self

    @model_validator(mode="after")
    def _lengths_are_of_full_weights(self) -> Self:
        if self.network.use_dora and self.base_weights not in ("auto", "full"):
            name = "fp8_products" if self.fp8_products else "base_weights"
            raise ValueError(
                f"{name}: use_dora learns how long the rows of FLUX's matrices are, and in {self.base_weights} "
                f"they are not what ComfyUI has; leave {name} out, or train a plain LoRA"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _fp8_products_choose_the_weights(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("fp8_products") is not True:
            return values
        left_open = values.get("base_weights") in (None, "auto")
        return {**values, "base_weights": "fp8"} if left_open else values

    @model_validator(mode="after")
    def _fp8_products_can_be(self) -> Self:
        if not self.fp8_products:
            return self
        if self.base_weights != "fp8":
            raise ValueError(
                "fp8_products: what is multiplied in fp8 is held in fp8, and base_weights is "
                f"{self.base_weights}; leave one of them out"
            )
        if self.network_dropout:
            raise ValueError("fp8_products: network_dropout is computed by a pass that has none; leave one of them out")
        if self.mixed_precision != "bf16":
            raise ValueError(
                f"fp8_products: what they give is bfloat16; set mixed_precision to bf16, not {self.mixed_precision}"
            )
        return self

    @model_validator(mode="after")
    def _what_is_kept_is_written(self) -> Self:
        for kept, written in (
            ("save_last_n_epochs", self.save_last_n_epochs and not self.save_every_n_epochs),
            ("save_last_n_steps", self.save_last_n_steps and not self.save_every_n_steps),
        ):
            if written:
                raise ValueError(f"{kept}: there are no such files without {kept.replace('last', 'every')}")
        return self

    @model_validator(mode="after")
    def _patience_has_scores(self) -> Self:
        if self.early_stop_patience and not self.score_every:
            raise ValueError("early_stop_patience: nothing is scored without score_every")
        if self.score_every and not (
            self.save_every_n_epochs or self.save_every_n_steps or self.save_every_n_minutes or self.score_every == 1
        ):
            raise ValueError("score_every: there is one LoRA file, the last; save_every_n_steps leaves more")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> Self:
        if self.optimizer_type == "AdamWScheduleFree" and self.ema_decay:
            raise ValueError("ema_decay: AdamWScheduleFree publishes an average already; leave one of them out")
        return self

    @model_validator(mode="after")
    def _levels_can_be_drawn(self) -> Self:
        if self.min_timestep >= self.max_timestep:
            raise ValueError(f"min_timestep: {self.min_timestep} is not below max_timestep, {self.max_timestep}")
        if self.weighting_scheme == "logit_normal" and self.timestep_sampling not in ("sigma", "logit_normal"):
            raise ValueError(
                "weighting_scheme: logit_normal is how noise levels are drawn with timestep_sampling = sigma, "
                f"and {self.timestep_sampling} does not read it"
            )
        return self

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
    def dataset_keys(self) -> dict[str, float]:
        """What stands in for keys that data.toml does not have: those of buckets, and what is held out."""
        keys = {
            "enable_bucket": self.enable_bucket,
            "min_bucket_reso": self.min_bucket_reso,
            "max_bucket_reso": self.max_bucket_reso,
            "bucket_reso_steps": self.bucket_reso_steps,
            "bucket_no_upscale": self.bucket_no_upscale,
            "validation_split": self.validation_split,
            "validation_seed": self.validation_seed,
        }
        return {name: value for name, value in keys.items() if value is not None}

    @property
    def alpha(self) -> float:
        """The LoRA's alpha, as its file says it: its effect is B @ A * alpha / rank."""
        return self.alpha_of(self.network_dim)

    def alpha_of(self, rank: int) -> float:
        """The alpha of a layer whose LoRA has this rank.

        With use_rslora that is network_alpha * sqrt(rank), so that every reader of the file arrives at the scale
        network_alpha / sqrt(rank) (rank-stabilized LoRA, arXiv 2312.03732).
        """
        alpha = self.network_alpha if self.network_alpha is not None else float(rank)
        return alpha * math.sqrt(rank) if self.use_rslora else alpha

    @property
    def network(self) -> NetworkArguments:
        """What network_args say."""
        return read_network_arguments(self.network_args)


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe and, for each field, where its value came from."""

    recipe: Recipe
    origins: Mapping[str, str]
    """Field name to "flag", "default" or the recipe file's name."""
    notes: tuple[str, ...] = ()
    """A line on each of kohya's arguments that has no effect."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """All of a run's run.toml, where that is the recipe."""


def resolve_recipe(name_or_file: str, flags: Mapping[str, Any]) -> ResolvedRecipe:
    """Read a recipe and let flags win over it.

    Args:
        name_or_file: "playbook" means recipes/playbook.toml; anything with a '/' or '.toml' is a file. A run's run.toml
            gives the recipe that run had.
        flags: values given on the command line, by field name or by the name of another of kohya's arguments.

    Raises:
        UserError: every unknown key, wrong type, value out of range and contradiction at once.
    """
    file = TomlFile(_recipe_file(name_or_file))
    of_run = isinstance(file.values.get("recipe"), dict)  # a run's run.toml: its recipe is one table of several
    values = dict(file.values["recipe"] if of_run else file.values)
    for length in ("max_train_steps", "max_train_epochs"):
        if length in flags:  # a flag for the one length replaces the file's other
            values = {key: value for key, value in values.items() if not key.startswith("max_train_")}
    if of_run:  # which has every value: those that nobody chose are no more than what they were
        values = {key: value for key, value in values.items() if not _is_default(key, value)}
    problems = Problems()

    def place(path: TablePath) -> str:
        if path and path[0] in flags:
            return f"flag --{path[0]}"
        return file.place(("recipe", *path) if of_run else path)

    if _KEY in values or _KEY in flags:
        problems.add(
            f"{_KEY} is a secret, which others could read here",
            where=place((_KEY,)),
            do="Leave it out, and set WANDB_API_KEY in the environment",
        )
        values = {key: value for key, value in values.items() if key != _KEY}
        flags = {key: value for key, value in flags.items() if key != _KEY}
    given, notes = without_idle_arguments({**_with_tuples(values), **flags}, place, problems)
    given, unread = without_unread_arguments(
        given, {name: field.default for name, field in Recipe.model_fields.items()}
    )
    if given.pop(_TRANSFORMER_ALONE, False) and given.setdefault("text_encoder_lr", 0.0) != 0:
        if "text_encoder_lr" in flags:
            problems.add(f"{_TRANSFORMER_ALONE} and text_encoder_lr contradict each other", where="the command's flags")
        given["text_encoder_lr"] = 0.0
    if _FP8 in given:
        in_fp8 = given.pop(_FP8)
        if not isinstance(in_fp8, bool):
            problems.add(f"{_FP8} is {as_toml(in_fp8)}", where=place((_FP8,)), allowed="true or false")
        elif in_fp8 and given.setdefault("base_weights", "fp8") != "fp8":
            problems.add(f"{_FP8} and base_weights contradict each other", where=place((_FP8,)), do="Give one of them")
    if _NOT_AT_FIRST in given:
        given["sample_at_first"] = _at_first(given, flags, place, problems)
        del given[_NOT_AT_FIRST]
    recipe = checked(Recipe, given, place, problems)
    problems.raise_if_any()
    assert recipe is not None, "a table that does not validate has a problem"
    origins = {
        name: "flag"
        if name in flags or _ALSO_CALLED.get(name) in flags
        else file.path.name
        if name in values or _ALSO_CALLED.get(name) in values
        else "default"
        for name in Recipe.model_fields
    }
    origins.update(dict.fromkeys(unread, "default"))
    return ResolvedRecipe(recipe, origins, (*notes, *unread.values()), file.values if of_run else {})


def _is_default(name: str, value: Any) -> bool:
    known = Recipe.model_fields.get(name)
    return known is not None and known.default == (tuple(value) if isinstance(value, list) else value)


def _at_first(
    given: Mapping[str, Any], flags: Mapping[str, Any], place: Callable[[TablePath], str], problems: Problems
) -> Any:
    """What sample_at_first is where skip_first_sample is given; of the two a flag wins over the file."""
    skipped, where = given[_NOT_AT_FIRST], place((_NOT_AT_FIRST,))
    if not isinstance(skipped, bool):
        problems.add(f"{_NOT_AT_FIRST} is {as_toml(skipped)}", where=where, allowed="true or false")
        return False
    if "sample_at_first" in given and ("sample_at_first" in flags) == (_NOT_AT_FIRST in flags):
        if given["sample_at_first"] is skipped:
            problems.add(f"{_NOT_AT_FIRST} and sample_at_first contradict each other", where=where)
        return given["sample_at_first"]
    return given["sample_at_first"] if "sample_at_first" in flags else not skipped


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

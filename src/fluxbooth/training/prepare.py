"""Everything a training run needs, read and checked before anything big is loaded."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from fluxbooth.config.folder_names import read_datasets
from fluxbooth.config.prompts import SamplePrompt, read_prompts
from fluxbooth.config.recipe import Recipe, ResolvedRecipe, resolve_recipe
from fluxbooth.config.specs import DatasetSpec
from fluxbooth.dataset.captions import class_caption
from fluxbooth.dataset.composites import make_composites
from fluxbooth.dataset.facts import PictureMemory
from fluxbooth.dataset.findings import Finding, exposures, shortened, subsets_of
from fluxbooth.dataset.items import Item, read_items
from fluxbooth.dataset.plan import Plan
from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.flux.architecture import PIXELS_PER_TOKEN, Architecture, architecture_of, bundled_architecture
from fluxbooth.flux.device import (
    check_fp8_products,
    choose_device,
    compute_dtype,
    free_memory,
    free_memory_of_the_machine,
    has_memory_of_its_own,
    use_few_threads,
)
from fluxbooth.flux.lora import ALL_BLOCKS, Blocks, OwnRank, check_patterns, check_start, chosen_blocks, never_counting
from fluxbooth.flux.model import find_weights
from fluxbooth.flux.stored import StorageForm
from fluxbooth.host.folders import Folders, check_writable
from fluxbooth.host.memory import GIB, check_floor
from fluxbooth.host.scorers import DEFAULT_SCORERS, missing_scorers
from fluxbooth.host.weights import FLUX_DEV, MINIATURE, BaseWeights
from fluxbooth.training.announce import announcement
from fluxbooth.training.cost import Cost, estimate
from fluxbooth.training.findings import find_oddities
from fluxbooth.training.lora_files import files_after_step, files_out_of_date
from fluxbooth.training.memory_choice import Choice, check_streamed, choose, possible_plans
from fluxbooth.training.memory_plan import MemoryPlan, Workload, drawing_bytes, lora_values
from fluxbooth.training.no_effect import without_effect
from fluxbooth.training.optimizers import check_optimizer, check_rates
from fluxbooth.training.processes import processes_started
from fluxbooth.training.sample_plan import SamplePlan, plan_samples
from fluxbooth.training.speeds import Speeds, measured_speeds
from fluxbooth.training.stopped_run import form_of_stopped_run
from fluxbooth.training.wandb_log import check_wandb

DATA_FILE = Path("flux_data/data.toml")
_log = logging.getLogger("fluxbooth")


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked and can start."""

    recipe: Recipe
    origins: Mapping[str, str]
    pictures: Sequence[Item]
    """All of data.toml, in its order."""
    composites: Sequence[Item]
    """Pictures of two concepts each, made of the items' cut-outs."""
    plan: Plan
    steps: int
    weights: BaseWeights
    architecture: Architecture
    folders: Folders
    device: torch.device
    dtype: torch.dtype
    work: Workload
    memory: MemoryPlan
    data_file: Path = DATA_FILE
    """The data.toml, as it was named."""
    datasets: Sequence[DatasetSpec] = ()
    """What it says, every key resolved."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """All of the run.toml that is to be repeated, where the recipe is one."""
    samples: SamplePlan = field(default_factory=SamplePlan)

    @property
    def items(self) -> list[Item]:
        """What is trained on."""
        return [item for item in self.pictures if not item.held_out]

    @property
    def held_out(self) -> list[Item]:
        """What is not trained on, and whose loss is measured."""
        return [item for item in self.pictures if item.held_out]

    @property
    def encoder_dtype(self) -> torch.dtype:
        """The number format of VAE, CLIP and T5: what T5 and the VAE compute does not fit into float16."""
        return torch.float32 if self.dtype is torch.float16 else self.dtype

    @property
    def blocks(self) -> Blocks:
        """The transformer's blocks that get a LoRA."""
        return _blocks(self.recipe, self.architecture)

    @property
    def class_tokens(self) -> list[str]:
        """What the concepts are called, in the file's order."""
        return _class_tokens(self.items)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height in pixels that most of the concepts' pictures are seen at."""
        return _picture_size(self.items)


def _class_tokens(items: Sequence[Item]) -> list[str]:
    return list(dict.fromkeys(item.concept for item in items if not item.is_reg))


def _picture_size(items: Sequence[Item]) -> tuple[int, int]:
    sizes = Counter(item.placement.bucket for item in items if not item.is_reg)
    return sizes.most_common(1)[0][0]


@dataclass(frozen=True)
class Examined:
    """What is known of a run before anything big is loaded."""

    problems: Sequence[Problem]
    """What stands in its way."""
    findings: Sequence[Finding] = ()
    """Warnings, then notes; none where recipe or pictures cannot be read."""
    plan: Plan | None = None
    cost: Cost | None = None
    exposures: Mapping[str, int] = field(default_factory=dict)
    """How often each concept's pictures are seen in the whole run."""
    prepared: Prepared | None = None
    """The run, where nothing stands in its way."""


def prepare(
    model: str,
    data_file: Path | None,
    recipe_name: str,
    flags: Mapping[str, Any],
    folders: Folders,
    *,
    goes_on: bool = True,
    make_room: Callable[[], None] = lambda: None,
) -> Prepared:
    """Read and check everything a run needs, and say what it will do and cost, with every warning; loads nothing big.

    Args:
        model: "flux-dev", "miniature" or a folder.
        data_file: the data.toml; None for the recipe's dataset_config, or flux_data/data.toml.
        flags: recipe fields given on the command line.
        goes_on: a run of this name that was stopped is not set aside, and its matrices stay as they were held.
        make_room: frees what others hold of a GPU's memory, before that is measured; called where nothing else stands
            in the way so far.

    Raises:
        UserError: every problem of recipe, data, weights, folders and memory at once.
    """
    examined = examine(model, data_file, recipe_name, flags, folders, goes_on=goes_on, make_room=make_room)
    for line in shortened(finding for finding in examined.findings if finding.level == "warning"):
        _log.warning("warning: %s", line)
    if examined.problems:
        raise UserError(examined.problems)
    assert examined.prepared is not None, "a run that nothing stands in the way of is prepared"
    return examined.prepared


def examine(
    model: str,
    data_file: Path | None,
    recipe_name: str,
    flags: Mapping[str, Any],
    folders: Folders,
    *,
    goes_on: bool = True,
    make_room: Callable[[], None] = lambda: None,
) -> Examined:
    """Read and check everything a run needs, say what it will do and cost, and return what was found.

    Args:
        model, data_file, recipe_name, flags, folders, goes_on, make_room: as `prepare` takes them.
    """
    problems = Problems()
    device = choose_device()
    resolved: ResolvedRecipe | None = None
    weights: BaseWeights | None = None
    # Of weights that are missing, so that what the run would cost is known all the same.
    architecture = bundled_architecture(MINIATURE if model == MINIATURE else FLUX_DEV)
    dtype = torch.float32
    recipe = Recipe(max_train_steps=1)  # where the user's is wrong, one of defaults finds what else is
    with problems.gathered():
        resolved = resolve_recipe(recipe_name, flags)
        recipe = resolved.recipe
        for note in resolved.notes:
            _log.info("%s", note)
        dtype = compute_dtype(recipe.mixed_precision, device)
        check_optimizer(recipe.optimizer_type, recipe.learning_rate, recipe.optimizer_args)
        _check_rates(recipe)
        check_floor(recipe.memory_floor)
        if recipe.log_with != "tensorboard":
            check_wandb()
    if recipe.fp8_products:
        with problems.gathered():
            check_fp8_products(device)
        if device.type == "cpu":
            _log.info("fp8_products without a GPU is for trying it out: a step takes longer than without")
    prompts = _sample_prompts(recipe, problems)
    data_is_named = data_file is not None
    data_file = data_file or Path(recipe.dataset_config or DATA_FILE)
    datasets: Sequence[DatasetSpec] = ()
    items: list[Item] = []
    memory = PictureMemory(folders.cache / "pictures.json")
    with problems.gathered():
        datasets = read_datasets(data_file, problems, recipe.resolution, recipe.dataset_keys)
        items = read_items(datasets, problems, memory)
    if recipe.output_dir:
        folders = replace(folders, output_dir=Path(recipe.output_dir))
    with problems.gathered():
        # ComfyUI has no use for the miniature, and gets no workflow of its runs.
        written = replace(folders, workflows=None) if model == MINIATURE else folders
        _check_folders(written, recipe.output_name if resolved else None)
        weights = find_weights(model, folders.models, recipe.weight_files)
        architecture = architecture_of(weights.transformer)
        if recipe.t5xxl_max_token_length:
            architecture = replace(architecture, t5_tokens=recipe.t5xxl_max_token_length)
    blocks = ALL_BLOCKS
    with problems.gathered():
        blocks = _blocks(recipe, architecture)
        if recipe.network_weights:
            file, clip_trained = Path(recipe.network_weights), recipe.text_encoder_lr > 0
            check_start(file, recipe.network_dim, blocks, clip_trained, recipe.network.use_dora)
    if items and all(item.is_reg for item in items):
        problems.add(
            "no pictures to train on", where=str(data_file), do="Give at least one subset pictures and is_reg = false"
        )
        items = []
    if resolved is None or not items:
        assert problems.found, "a run without recipe or items has a problem"
        return Examined(problems.found)

    if recipe.score_every and model != MINIATURE:
        for problem in missing_scorers(DEFAULT_SCORERS, folders.models):
            problems.add(problem.what, where=problem.where, do=f"{problem.do}, or set score_every = 0")
    if recipe.diff_output_preservation:
        _check_class_nouns(items, problems)
    # A micro-batch is what all processes see together; each has as many pictures at once as one alone would have.
    processes = processes_started()
    items = [replace(item, batch_size=processes * (recipe.train_batch_size or item.batch_size)) for item in items]
    if processes > 1:
        _log.info("%d processes train together, each sees its part of every micro-batch", processes)
    pictures = items
    items = [item for item in pictures if not item.held_out]
    composites = _composites(items, recipe, folders.cache / "composites", problems)
    plan = Plan(
        items,
        recipe.gradient_accumulation_steps,
        recipe.seed,
        composites,
        recipe.composite_share,
        recipe.max_train_steps,
        recipe.max_train_epochs,
    )
    steps = plan.steps
    use_few_threads(architecture.width, device)
    size = _picture_size(items)
    samples = plan_samples(recipe, prompts, _class_tokens(items), size, steps, plan.steps_per_epoch)
    drawn = [(picture.width, picture.height) for picture in samples.pictures] + ([size] if recipe.score_every else [])
    work = _workload(recipe, [*items, *composites], processes, architecture, blocks, dtype, device)
    pixels = max(map(prod, drawn), default=0)
    work = replace(work, drawing_bytes=drawing_bytes(pixels, dtype, judged=bool(recipe.score_every)))
    if device.type != "cpu" and not problems.found:
        make_room()
    speeds = measured_speeds(dtype, device)
    form_before = form_of_stopped_run(folders.run(recipe.output_name)) if goes_on else None
    choice = _memory(recipe, work, speeds, form_before, problems)
    cost = _announce(recipe, [*items, *composites], plan, steps, work, choice, speeds, pictures)
    has_regularization = any(item.is_reg for item in items)
    for line in (
        *without_effect(recipe, resolved.origins, steps, plan.steps_per_epoch, has_regularization=has_regularization),
        *never_counting(blocks, _counts(architecture)),
    ):
        _log.info("%s", line)
    _check_disk(recipe, plan, steps, cost, folders, problems)
    findings = find_oddities(datasets, pictures, memory, plan, weights, architecture)
    seen = exposures(subsets_of(datasets, items), steps / plan.steps_per_epoch)
    examined = Examined(problems.found, findings, plan, cost, seen)
    if problems.found:
        return examined
    memory.keep()
    assert weights is not None, "missing weights are a problem"
    prepared = Prepared(
        recipe,
        {**resolved.origins, **({"dataset_config": "flag --data"} if data_is_named else {})},
        pictures,
        composites,
        plan,
        steps,
        weights,
        architecture,
        folders,
        device,
        dtype,
        work,
        choice.plan,
        data_file,
        datasets,
        resolved.recorded,
        samples,
    )
    if line := samples.announcement():
        _log.info("%s", line)
    return replace(examined, prepared=prepared)


def _sample_prompts(recipe: Recipe, problems: Problems) -> list[SamplePrompt]:
    """Read the prompts of the recipe's sample pictures, and say what of them has no effect."""
    prompts: list[SamplePrompt] = []
    lines: list[str] = []
    if recipe.sample_prompts:
        with problems.gathered():
            prompts, lines = read_prompts(recipe.sample_prompts, problems)
        if not (recipe.sample_every_n_steps or recipe.sample_every_n_epochs or recipe.sample_at_first):
            lines = ["sample_prompts draws nothing without sample_every_n_steps or sample_every_n_epochs"]
    for line in lines:
        _log.info("%s", line)
    return prompts


def _composites(items: Sequence[Item], recipe: Recipe, folder: Path, problems: Problems) -> list[Item]:
    """Draw the composites that the recipe asks for into `folder`."""
    if not recipe.composite_share:
        return []
    try:
        return make_composites(items, recipe.seed, folder, problems)
    except OSError as error:
        problems.add(f"composites cannot be written: {error.strerror}", where=str(folder), do="Make room there")
        return []


def _check_rates(recipe: Recipe) -> None:
    network, text_rate = recipe.network, recipe.text_encoder_lr
    check_rates(
        recipe.optimizer_type,
        recipe.learning_rate,
        recipe.optimizer_args,
        recipe.lr_scheduler,
        recipe.lr_warmup_steps,
        rates_differ=text_rate not in (0, recipe.learning_rate)
        or network.transformer_up_ratio != 1
        or bool(network.rates)
        or (text_rate > 0 and network.text_up_ratio != 1),
    )


def _blocks(recipe: Recipe, architecture: Architecture) -> Blocks:
    network, counts = recipe.network, _counts(architecture)
    blocks = chosen_blocks(
        network.train_blocks, network.train_double_block_indices, network.train_single_block_indices, counts
    )
    own_ranks = tuple(OwnRank(pattern, rank, recipe.alpha_of(rank)) for pattern, rank in network.ranks)
    blocks = replace(blocks, own_ranks=own_ranks, own_rates=network.rates)
    check_patterns(blocks, counts)
    return blocks


def _counts(architecture: Architecture) -> tuple[int, int]:
    """How many double and single blocks the transformer has."""
    return architecture.transformer["num_layers"], architecture.transformer["num_single_layers"]


def _check_class_nouns(items: Sequence[Item], problems: Problems) -> None:
    """Add a problem for every caption whose class noun cannot be told."""
    for item in items:
        try:
            if not item.is_reg:
                class_caption(item.caption, item.concept)
        except ValueError as error:
            problems.add(
                str(error),
                where=str(item.path),
                do="Write class_tokens as a made-up word and the class noun, and the same into every caption; "
                "or set diff_output_preservation = 0",
            )


def _check_folders(folders: Folders, output_name: str | None) -> None:
    """Raise UserError for every folder of the run that cannot be written to, and for a LoRA's name that is taken."""
    problems = Problems()
    for folder in (folders.loras, folders.runs, folders.cache, *([folders.workflows] if folders.workflows else [])):
        check_writable(folder, problems)
    if output_name:
        check_writable(folders.run(output_name), problems)
        if (folders.loras / f"{output_name}.safetensors").is_dir():
            problems.add("is a folder", where=str(folders.loras / f"{output_name}.safetensors"), do="Move it away")
    problems.raise_if_any()


def _workload(
    recipe: Recipe,
    items: Sequence[Item],
    processes: int,
    architecture: Architecture,
    blocks: Blocks,
    dtype: torch.dtype,
    device: torch.device,
) -> Workload:
    """What one process trains, by its largest micro-batch."""
    largest, samples = max(
        (
            (prod(item.placement.bucket) // PIXELS_PER_TOKEN**2 + architecture.t5_tokens) * own_samples,
            own_samples,
        )
        for item in items
        for own_samples in (item.batch_size // processes,)
    )
    return Workload(
        architecture,
        largest,
        recipe.network_dim,
        lora_values(architecture, recipe.network_dim, blocks, recipe.text_encoder_lr > 0, recipe.network.use_dora),
        recipe.optimizer_type,
        averaged=recipe.ema_decay is not None,
        # Which float16 overflows, and which computes neither dropout nor DoRA.
        has_training_pass=not (recipe.network_dropout or recipe.network.use_dora) and dtype is not torch.float16,
        dtype=dtype,
        device=device,
        decomposed=recipe.network.use_dora,
        samples=samples,
        unified=not has_memory_of_its_own(device),
        fp8_products=recipe.fp8_products,
    )


def _memory(
    recipe: Recipe, work: Workload, speeds: Speeds, form_before: StorageForm | None, problems: Problems
) -> Choice:
    """Choose how the run uses the memory; add a problem when it cannot fit into this machine's.

    Args:
        form_before: how the run held its matrices when it was stopped; None where it begins.
    """
    form = form_before if recipe.base_weights == "auto" else recipe.base_weights
    floor_can_be = not any(problem.where == "memory_floor" for problem in problems.found)
    floor = recipe.memory_floor if floor_can_be else None
    free = free_memory(work.device, floor)
    streamed: int | None = 0
    with problems.gathered():
        check_streamed(recipe.blocks_to_swap, work)
        streamed = recipe.blocks_to_swap
    if streamed and work.unified:
        _log.info("blocks_to_swap saves nothing here: the device computes in the machine's own memory")
    choice = choose(
        possible_plans(work, form, recipe.gradient_checkpointing, streamed, speeds),
        free,
        None if work.unified else free_memory_of_the_machine(floor),
    )
    if not choice.fits and free is not None:
        problems.add(
            f"training needs {choice.plan.peak_bytes / GIB:.1f} GiB of memory ({choice.plan}) "
            f"and {free / GIB:.1f} GiB are free",
            where="this machine",
            do="Leave base_weights, gradient_checkpointing and blocks_to_swap to fluxbooth, lower resolution, "
            "train_batch_size or network_dim, train on a machine with more memory, or try --model miniature",
        )
    return choice


def _announce(
    recipe: Recipe,
    items: Sequence[Item],
    plan: Plan,
    steps: int,
    work: Workload,
    memory: Choice,
    speeds: Speeds,
    pictures: Sequence[Item],
) -> Cost:
    """Log what the run will do and return its cost.

    Args:
        items: what is trained on; pictures: all of data.toml.
    """
    held_out = [item for item in pictures if item.held_out]
    for line in announcement(items, plan, steps, held_out):
        _log.info("%s", line)
    if not held_out:
        for name in ("validation_split", "validation_seed", "max_validation_steps"):
            if getattr(recipe, name):
                _log.info("%s has no effect: no picture is held out, since none is asked for or each is alone", name)
    if recipe.diff_output_preservation:
        _log.info("each sample is seen twice more with its plain noun, which is to stay as it is")
    cost = estimate(
        work,
        memory,
        speeds,
        buckets=[item.placement.bucket for item in items for _ in range(item.repeats)],
        samples=plan.samples(steps),
        preserving=recipe.diff_output_preservation > 0,
    )
    on_gpu = work.device.type == "cuda"
    _log.info("on %s:", torch.cuda.get_device_name(work.device) if on_gpu else "the processor (there is no GPU here)")
    for line in cost.lines():
        _log.info("  %s", line)
    if memory.plan.form != "full" and recipe.base_weights == "auto":
        _log.info(
            "  FLUX's matrices, held in %s, are less exact: as they are they do not fit, or take longer",
            memory.plan.form,
        )
    return cost


def _check_disk(recipe: Recipe, plan: Plan, steps: int, cost: Cost, folders: Folders, problems: Problems) -> None:
    """Add a problem when the LoRA files of the run, or its saved state, would fill a disk."""
    epochs = recipe.save_every_n_epochs, recipe.save_last_n_epochs
    of_steps = recipe.save_every_n_steps, recipe.save_last_n_steps
    there: set[str] = set()
    files = 0
    for step in range(1, steps + 1):
        there.update(files_after_step("", step, steps, plan.steps_per_epoch, epochs[0], of_steps[0]))
        files = max(files, len(there))  # the old ones go when the new ones are written
        there.difference_update(files_out_of_date("", step, plan.steps_per_epoch, epochs, of_steps))
    bytes_of_value = 4 if recipe.save_precision == "float" else 2
    needs = ((folders.loras, files * bytes_of_value * cost.lora_values), (folders.runs, cost.state_bytes))
    for folder, needed in needs:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
        free = shutil.disk_usage(existing).free
        if needed > free:
            problems.add(
                f"the run may write {needed / GIB:.2f} GiB and {free / GIB:.2f} GiB are free",
                where=str(folder),
                do="Make room, save less often, or lower network_dim",
            )

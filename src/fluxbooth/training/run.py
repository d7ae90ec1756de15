"""A training run: everything checked and announced first, then encode, train, publish."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import diffusers
import peft
import toml
import torch
import transformers
from diffusers import FluxTransformer2DModel

from fluxbooth import __version__
from fluxbooth.config.data_toml import read_data_toml
from fluxbooth.config.recipe import Recipe, ResolvedRecipe, resolve_recipe
from fluxbooth.dataset.items import Item, read_items
from fluxbooth.dataset.plan import Plan
from fluxbooth.errors import Problems
from fluxbooth.flux.architecture import Architecture, architecture_of, bundled_architecture
from fluxbooth.flux.device import choose_device, compute_dtype, release_memory
from fluxbooth.flux.lora import add_lora, lora_tensors
from fluxbooth.flux.model import find_weights
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.host.files import write_text
from fluxbooth.host.folders import Folders, check_writable
from fluxbooth.host.memory import GIB, available_bytes
from fluxbooth.host.weights import FLUX_DEV, BaseWeights
from fluxbooth.training.announce import announcement
from fluxbooth.training.cost import estimate
from fluxbooth.training.encode import EncodedVisits, encode_visits
from fluxbooth.training.evaluation import evaluation_loss, evaluation_visits
from fluxbooth.training.loop import StepReport, train
from fluxbooth.training.lora_files import files_after_step, lora_metadata
from fluxbooth.training.optimizers import build_optimizer, build_schedule

_log = logging.getLogger("fluxbooth")
_to_file = logging.getLogger("fluxbooth.steps")
_SAVE_DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked and can start."""

    recipe: Recipe
    origins: Mapping[str, str]
    items: Sequence[Item]
    plan: Plan
    steps: int
    weights: BaseWeights
    architecture: Architecture
    folders: Folders
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Outcome:
    """What a finished run came to."""

    lora: Path
    loss_before: float
    """Evaluation loss of the base model."""
    loss_after: float
    """Evaluation loss with the LoRA, on the same items, noise levels and noise."""
    phase_seconds: Mapping[str, float]


def prepare(model: str, data_file: Path, recipe_name: str, flags: Mapping[str, Any], folders: Folders) -> Prepared:
    """Read and check everything a run needs, and say what it will do and cost; loads nothing big.

    Args:
        model: "flux-dev", "miniature" or a folder.
        flags: recipe fields given on the command line.

    Raises:
        UserError: every problem of recipe, data, weights, folders and memory at once.
    """
    problems = Problems()
    device = choose_device()
    resolved: ResolvedRecipe | None = None
    weights: BaseWeights | None = None
    dtype = torch.float32
    with problems.gathered():
        resolved = resolve_recipe(recipe_name, flags)
        dtype = compute_dtype(resolved.recipe.mixed_precision, device)
    items: list[Item] = []
    with problems.gathered():
        items = read_items(
            read_data_toml(data_file, problems, resolved.recipe.resolution if resolved else None), problems
        )
    with problems.gathered():
        weights = find_weights(model, folders.models, folders.cache)
    for folder in (folders.loras, folders.runs, folders.cache):
        check_writable(folder, problems)
    if items and all(item.is_reg for item in items):
        problems.add(
            "no pictures to train on", where=str(data_file), do="Give at least one subset pictures and is_reg = false"
        )
        items = []
    if resolved is None or not items:
        problems.raise_if_any()
        raise AssertionError("a run without recipe or items has a problem")

    recipe = resolved.recipe
    plan = Plan(items, recipe.gradient_accumulation_steps, recipe.seed)
    steps = recipe.max_train_steps or (recipe.max_train_epochs or 0) * plan.steps_per_epoch
    architecture = architecture_of(weights.transformer) if weights else bundled_architecture(FLUX_DEV)
    _announce(recipe, items, plan, steps, architecture, dtype, device, problems)
    problems.raise_if_any()
    assert weights is not None, "missing weights are a problem"
    return Prepared(recipe, resolved.origins, items, plan, steps, weights, architecture, folders, device, dtype)


def run(prepared: Prepared) -> Outcome:
    """Encode, train and publish a prepared run.

    Leaves models/loras/NAME.safetensors and the files that were asked for in between, runs/NAME/run.toml and train.log.
    """
    recipe, device = prepared.recipe, prepared.device
    folder = prepared.folders.run(recipe.output_name)
    write_text(folder / "run.toml", _run_toml(prepared))
    seconds: dict[str, float] = {}
    with _log_file(folder / "train.log"):
        with _timed("encode", seconds):
            visits = prepared.plan.visits(prepared.steps)
            encoded = encode_visits(
                visits,
                prepared.weights,
                prepared.architecture,
                prepared.folders.cache,
                recipe.prior_loss_weight,
                prepared.dtype,
                device,
            )
        with _timed("load", seconds):
            transformer = load_transformer(prepared.weights, prepared.architecture, prepared.dtype, device)
            parameters = add_lora(transformer, recipe.network_dim, recipe.alpha, recipe.seed)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=prepared.dtype is torch.bfloat16)
        evaluated = evaluation_visits(visits)
        evaluate = partial(evaluation_loss, transformer, encoded, evaluated, recipe.guidance_scale, autocast)
        with _timed("evaluate", seconds):
            loss_before = evaluate()
        with _timed("train", seconds):
            lora = _train_and_save(prepared, transformer, parameters, encoded, autocast)
        with _timed("evaluate", seconds):
            loss_after = evaluate()
        change = loss_after / loss_before - 1
        _log.info(
            "evaluation loss (%d items): %.4f before, %.4f after (%+.0f %%)",
            len(evaluated),
            loss_before,
            loss_after,
            100 * change,
        )
        _log.info("wrote %s", lora)
    del transformer, parameters, evaluate
    release_memory()
    return Outcome(lora, loss_before, loss_after, seconds)


def _train_and_save(
    prepared: Prepared,
    transformer: FluxTransformer2DModel,
    parameters: Sequence[torch.nn.Parameter],
    encoded: EncodedVisits,
    autocast: torch.autocast,
) -> Path:
    """Run the loop; write each LoRA file when it is due; return the last."""
    recipe, steps = prepared.recipe, prepared.steps
    if recipe.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    optimizer = build_optimizer(parameters, recipe.optimizer_type, recipe.learning_rate, recipe.optimizer_args)
    schedule = build_schedule(
        optimizer, recipe.lr_scheduler, steps, recipe.lr_warmup_steps, recipe.lr_scheduler_num_cycles
    )

    def after_step(report: StepReport) -> None:
        _to_file.info(
            "step %d/%d loss %.5f grad_norm %.4f learning_rate %.3g",
            report.step,
            steps,
            report.loss,
            report.grad_norm,
            report.learning_rate,
        )
        due = files_after_step(
            recipe.output_name,
            report.step,
            steps,
            prepared.plan.steps_per_epoch,
            recipe.save_every_n_epochs,
            recipe.save_every_n_steps,
        )
        if due:
            tensors = lora_tensors(transformer, recipe.alpha, _SAVE_DTYPES[recipe.save_precision])
            metadata = lora_metadata(
                recipe.output_name,
                prepared.items,
                step=report.step,
                rank=recipe.network_dim,
                alpha=recipe.alpha,
                seed=recipe.seed,
                base_model=prepared.weights.name,
            )
            for name in due:
                save_tensors(prepared.folders.loras / name, tensors, metadata)

    train(
        transformer,
        parameters,
        prepared.plan,
        encoded,
        optimizer,
        schedule,
        steps=steps,
        seed=recipe.seed,
        timestep_sampling=recipe.timestep_sampling,
        guidance_scale=recipe.guidance_scale,
        max_grad_norm=recipe.max_grad_norm,
        autocast=autocast,
        after_step=after_step,
    )
    return prepared.folders.loras / f"{recipe.output_name}.safetensors"


def _announce(
    recipe: Recipe,
    items: Sequence[Item],
    plan: Plan,
    steps: int,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    problems: Problems,
) -> None:
    """Log what the run will do and cost; add a problem when it cannot fit into this machine's memory."""
    for line in announcement(items, plan, steps):
        _log.info("%s", line)
    cost = estimate(
        architecture,
        buckets=[item.placement.bucket for item in items for _ in range(item.repeats)],
        samples=sum(len(batch) for step in range(steps) for batch in plan.micro_batches(step)),
        rank=recipe.network_dim,
        checkpointing=recipe.gradient_checkpointing,
        optimizer_type=recipe.optimizer_type,
        dtype=dtype,
        device=device,
    )
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor (there is no GPU here)"
    _log.info("on %s: %s", where, cost)
    available = available_bytes()
    if device.type == "cpu" and available is not None and cost.needed_bytes > available:
        problems.add(
            f"training needs {cost.needed_bytes / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB are available",
            where="this machine",
            do="Train on a machine with a GPU or more memory, lower network_dim, or try --model miniature",
        )


def _run_toml(prepared: Prepared) -> str:
    """Every recipe value and where it came from, the versions, and what the data were."""
    recipe = {name: value for name, value in prepared.recipe.model_dump().items() if value is not None}
    return toml.dumps(
        {
            "recipe": recipe,
            "origins": dict(prepared.origins),
            "run": {"model": prepared.weights.name, "steps": prepared.steps, "device": prepared.device.type},
            "pictures": {f"{item.path.parent.name}/{item.path.name}": item.digest for item in prepared.items},
            "versions": {
                "fluxbooth": __version__,
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
        }
    )


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Write what is logged inside to `path` too; a new run begins a new file."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    _log.setLevel(logging.INFO)
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        handler.close()


@contextmanager
def _timed(phase: str, seconds: dict[str, float]) -> Iterator[None]:
    start = perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + perf_counter() - start

"""A prepared training run: encode, train, publish; and go on where it was stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from fluxbooth.config.recipe import Recipe
from fluxbooth.errors import Problem, UserError, counted
from fluxbooth.flux.device import device_identity, freed_memory_kept, gpus_of_this_machine, release_memory
from fluxbooth.flux.lora import learning_rates
from fluxbooth.flux.objective import Objective
from fluxbooth.host.energy import EnergyMeter, GpuPower, ProcessorEnergy
from fluxbooth.host.files import held_alone, write_text
from fluxbooth.host.folders import Watch
from fluxbooth.host.machine import machine_in_words
from fluxbooth.host.signals import StopRequest, listening_for_stop
from fluxbooth.training.after_step import AfterStep
from fluxbooth.training.averages import MovingAverage
from fluxbooth.training.cache import EncodedCache
from fluxbooth.training.checkpoints import Checkpoints, remove_leftovers
from fluxbooth.training.concept_record import record_concepts
from fluxbooth.training.encode import EncodedVisits, encode_visits
from fluxbooth.training.evaluation import Evaluation, evaluate, evaluation_visits, remembered
from fluxbooth.training.identity import key_of_beginning, run_identity
from fluxbooth.training.loop import require_finite, train
from fluxbooth.training.loss_scale import LossScale
from fluxbooth.training.mishaps import (
    advice_when_out_of_memory,
    said_when_files_fail,
    saved_when_another_is_lost,
    saved_when_files_fail,
)
from fluxbooth.training.optimizers import build_optimizer, build_schedule
from fluxbooth.training.prepare import Prepared
from fluxbooth.training.processes import Processes, joined_processes, require_one_form, require_shared
from fluxbooth.training.progress import shown_progress
from fluxbooth.training.run_toml import run_toml
from fluxbooth.training.sample_plan import SamplePlan
from fluxbooth.training.samples import SampleRounds
from fluxbooth.training.scored_saves import Judge, PatienceOutError, ScoredSaves
from fluxbooth.training.sessions import noted_session
from fluxbooth.training.state import RunState
from fluxbooth.training.step_log import StepLog, first_of_held_out
from fluxbooth.training.stepping_down import train_within_memory
from fluxbooth.training.train_log import log_to
from fluxbooth.training.trained import Trained, load_trained
from fluxbooth.training.wandb_log import WandbLog

_log = logging.getLogger("fluxbooth")
_to_file = logging.getLogger("fluxbooth.steps")


@dataclass(frozen=True)
class Outcome:
    """What a finished run came to."""

    lora: Path
    loss_before: float
    """Evaluation loss of the base model."""
    loss_after: float
    """Evaluation loss with the LoRA, on the same items, noise levels and noise."""
    phase_seconds: Mapping[str, float]


def run(prepared: Prepared, judge: Judge | None = None) -> Outcome:
    """Encode, train and publish a prepared run; where it was stopped before, go on from there.

    Leaves models/loras/NAME.safetensors and the files that were asked for in between, runs/NAME/run.toml and train.log.

    Args:
        judge: scores LoRA files as often as the recipe says.

    Raises:
        StoppedOnRequestError: after SIGTERM or SIGINT; the state is saved and the same command goes on.
        UserError: when runs/NAME/state belongs to another run, or another process is in this one.
    """
    with joined_processes() as processes:
        folder = prepared.folders.run(prepared.recipe.output_name)
        require_shared(folder, processes, prepared.device)
        require_one_form(prepared.memory.form, processes, prepared.device)
        with (
            held_alone(folder) if processes.is_first else nullcontext(),
            gpu_held_alone(prepared.folders.runs, *device_identity(prepared.device)),
            said_when_files_fail(),
        ):
            return _run(prepared, processes, judge)


@contextmanager
def gpu_held_alone(runs: Path, identity: str, name: str) -> Iterator[None]:
    """Keep another training of this checkout, in a container or not, off a GPU: two models would not fit.

    The processor is not held: where training fits into its memory twice, it may run twice.

    Args:
        runs: the runs folder, which trainings in containers share.
        identity, name: as `device_identity` gives them.

    Raises:
        UserError: when another training holds the GPU.
    """
    if identity == "cpu":
        yield
        return
    held = f"another training is going on on {name}"
    with held_alone(runs / f".{identity}", held, "Wait for it, or choose another GPU with CUDA_VISIBLE_DEVICES"):
        yield


def _run(prepared: Prepared, processes: Processes, judge: Judge | None) -> Outcome:
    recipe, device = prepared.recipe, prepared.device
    folder = prepared.folders.run(recipe.output_name)
    if processes.is_first:
        remove_leftovers(prepared.folders, recipe.output_name)
    state = RunState(folder / "state", run_identity(prepared))
    if processes.is_first:
        state.check()
        write_text(folder / "run.toml", run_toml(prepared))
    seconds: dict[str, float] = {}
    with (
        log_to(folder / "train.log") if processes.is_first else nullcontext(),
        _session(folder / "logs", device, goes_on=state.is_there) if processes.is_first else nullcontext(),
    ):
        with _timed("encode", seconds):
            if not processes.is_first:  # the first one encodes, the others find it in the cache
                processes.wait()
            evaluated = evaluation_visits(prepared.pictures, recipe.max_validation_steps)
            encoded = encode_visits(
                prepared.plan.visits(prepared.steps).union(evaluated),
                prepared.weights,
                prepared.architecture,
                prepared.folders.cache,
                recipe.prior_loss_weight,
                prepared.encoder_dtype,
                device,
                plain_captions=recipe.diff_output_preservation > 0,
                further_captions={*prepared.samples.prompts, *(judge.prompts if judge else ())},
            )
            if processes.is_first:
                record_concepts(folder / "concepts", prepared.items, [visit.item for visit in evaluated])
                processes.wait()
        with _timed("load", seconds), advice_when_out_of_memory(prepared.work, prepared.memory):
            trained = load_trained(prepared)
            encoded.pooled_text = trained.pooled_text
        autocast = torch.autocast(device.type, prepared.dtype, enabled=prepared.dtype is not torch.float32)
        measure = partial(evaluate, trained.transformer, encoded, evaluated, recipe.guidance_scale, autocast)
        beginning = key_of_beginning(prepared, encoded, evaluated)
        measure_base = partial(remembered, EncodedCache(prepared.folders.cache), beginning, evaluated, measure)
        with listening_for_stop() as stop, freed_memory_kept(device):
            loss_before, after = _train(
                prepared, trained, encoded, autocast, state, measure_base, measure, stop, seconds, processes, judge
            )
        lora = prepared.folders.loras / f"{recipe.output_name}.safetensors"
        if after is None:  # not the first process: it has nothing to write
            return Outcome(lora, loss_before, loss_before, seconds)
        require_finite({"evaluation loss": after.mean}, prepared.steps - 1, [tuple(evaluated)])
        _log.info(
            "evaluation loss (%d items): %.4f before, %.4f after (%+.0f %%)",
            len(after.visits),
            loss_before,
            after.mean,
            100 * (after.mean / loss_before - 1),
        )
        if after.held_out:
            first = first_of_held_out(folder / "logs")
            _log.info(
                "of %s held out: %.4f before, %.4f after (%+.0f %%)",
                counted(len(after.held_out.visits), "picture"),
                first,
                after.held_out.mean,
                100 * (after.held_out.mean / first - 1),
            )
        _to_file.info("%s", ", ".join(f"{name} {loss:.4f}" for name, loss in after.by_name().items()))
        _to_file.info("learned least: %s", ", ".join(f"{name} {loss:.4f}" for name, loss in after.hardest()))
        _log.info("wrote %s", lora)
    state.remove()
    del trained, encoded, measure
    release_memory()
    return Outcome(lora, loss_before, after.mean, seconds)


def _train(
    prepared: Prepared,
    trained: Trained,
    encoded: EncodedVisits,
    autocast: torch.autocast,
    state: RunState,
    measure_base: Callable[[], Evaluation],
    measure: Callable[[], Evaluation],
    stop: StopRequest,
    seconds: dict[str, float],
    processes: Processes,
    judge: Judge | None,
) -> tuple[float, Evaluation | None]:
    """Run the loop from where `state` says; return the base model's evaluation loss, and what was published gives.

    Only the first of several processes measures, writes and draws; the others return None as the second.
    """
    recipe, steps, transformer = prepared.recipe, prepared.steps, trained.transformer
    folder = prepared.folders.run(recipe.output_name)
    optimizer = build_optimizer(
        trained.of_transformer,
        recipe.optimizer_type,
        recipe.learning_rate,
        recipe.optimizer_args,
        trained.of_clip,
        recipe.text_encoder_lr,
        (recipe.network.transformer_up_ratio, recipe.network.text_up_ratio),
        learning_rates(transformer, prepared.blocks, recipe.learning_rate),
        recipe.network.use_dora,
    )
    parameters = trained.parameters
    schedule = build_schedule(
        optimizer,
        recipe.lr_scheduler,
        steps,
        recipe.lr_warmup_steps,
        recipe.lr_scheduler_num_cycles,
        recipe.lr_scheduler_power,
    )
    average = MovingAverage(parameters, recipe.ema_decay) if recipe.ema_decay else None
    loss_scale = LossScale(prepared.dtype, prepared.device)
    before = state.restore(parameters, optimizer, schedule, average, loss_scale)
    first_step = before.step if before else 0
    if before:
        _log.info("going on from step %d of %d", first_step, steps)
    with _timed("evaluate", seconds):
        base = measure_base() if processes.is_first and not before else None
    loss_before = before.loss_before if before else base.mean if base else float("nan")
    checkpoints = Checkpoints(
        prepared, transformer, trained.clip, state, parameters, optimizer, schedule, average, loss_scale
    )
    watch = Watch((folder, prepared.folders.loras) if processes.is_first else ())
    _require_one_beginning(first_step, processes, prepared)
    samples = SampleRounds(
        prepared.samples if processes.is_first else SamplePlan(),
        folder / "samples",
        transformer,
        encoded,
        prepared.weights,
        prepared.architecture,
        prepared.encoder_dtype,
        checkpoints.published,
        first_step,
    )
    if processes.is_first:
        checkpoints.catch_up(first_step)
    scored = ScoredSaves(
        judge if processes.is_first else None,
        recipe.score_every,
        recipe.early_stop_patience,
        transformer,
        encoded,
        checkpoints.saves_until(first_step),
    )
    with _timed("train", seconds):
        samples.draw(first_step, stopped=lambda: stop.made)
    with (
        suppress(PatienceOutError),
        _timed("train", seconds),
        _step_log(recipe, folder / "logs", first_step) if processes.is_first else nullcontext() as log,
        shown_progress(first_step, steps) if processes.is_first else nullcontext() as show,
        advice_when_out_of_memory(prepared.work, prepared.memory),
    ):
        after_step = AfterStep(
            prepared,
            processes,
            first_step,
            loss_before,
            checkpoints,
            samples,
            scored,
            average,
            measure,
            log,
            show,
            stop,
            watch,
        )
        if log and base:
            log.evaluation(0, base)
        with saved_when_files_fail(after_step.save), saved_when_another_is_lost(after_step.save):
            train_within_memory(
                lambda: train(
                    transformer,
                    parameters,
                    prepared.plan,
                    encoded,
                    optimizer,
                    schedule,
                    first_step=after_step.done,
                    steps=steps,
                    seed=recipe.seed,
                    objective=_objective(recipe),
                    guidance_scale=recipe.guidance_scale,
                    preservation_weight=recipe.diff_output_preservation,
                    max_grad_norm=recipe.max_grad_norm,
                    autocast=autocast,
                    after_step=after_step,
                    has_dropout=recipe.network_dropout > 0,
                    processes=processes,
                    loss_scale=loss_scale,
                ),
                trained,
                prepared,
                after_step,
                alone=processes.count == 1,
            )
    if not processes.is_first:
        return loss_before, None
    with _timed("evaluate", seconds), checkpoints.published():
        after = measure()
    with StepLog(folder / "logs", after_step.done) as last_log:
        last_log.evaluation(after_step.done, after)
    return loss_before, after


def _step_log(recipe: Recipe, folder: Path, first_step: int) -> StepLog:
    if recipe.log_with == "tensorboard":
        return StepLog(folder, first_step)
    folder.mkdir(parents=True, exist_ok=True)
    project, name = recipe.log_tracker_name or "fluxbooth", recipe.wandb_run_name or recipe.output_name
    return StepLog(folder, first_step, WandbLog(folder, project, name, recipe.model_dump()))


def _require_one_beginning(first_step: int, processes: Processes, prepared: Prepared) -> None:
    """Raise UserError where another process would go on from another step."""
    if processes.total([float(first_step)], prepared.device)[0] != first_step * processes.count:
        raise UserError(
            Problem(
                f"this process would go on from step {first_step}, another one from elsewhere",
                where=str(prepared.folders.run(prepared.recipe.output_name)),
                do="Let all machines see the same runs folder",
            )
        )


def _session(logs: Path, device: torch.device, goes_on: bool) -> AbstractContextManager[None]:
    """Note how long the inside takes and what it draws."""
    meter = EnergyMeter((GpuPower(gpus_of_this_machine(device)), ProcessorEnergy()))
    return noted_session(logs, device_identity(device)[1], machine_in_words(), meter, goes_on=goes_on)


def _objective(recipe: Recipe) -> Objective:
    return Objective(
        timestep_sampling=recipe.timestep_sampling,
        discrete_flow_shift=recipe.discrete_flow_shift,
        sigmoid_scale=recipe.sigmoid_scale,
        weighting_scheme=recipe.weighting_scheme,
        logit_mean=recipe.logit_mean,
        logit_std=recipe.logit_std,
        min_timestep=recipe.min_timestep,
        max_timestep=recipe.max_timestep,
        noise_offset=recipe.noise_offset,
        multires_noise_iterations=recipe.multires_noise_iterations,
        multires_noise_discount=recipe.multires_noise_discount,
        loss_type=recipe.loss_type,
        huber_c=recipe.huber_c,
    )


@contextmanager
def _timed(phase: str, seconds: dict[str, float]) -> Iterator[None]:
    start = perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + perf_counter() - start

"""A prepared training run: encode, train, publish; and go on where it was stopped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import diffusers
import peft
import toml
import torch
import transformers
from diffusers import FluxTransformer2DModel

from fluxbooth import __version__
from fluxbooth.config.recipe import Recipe
from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.device import device_identity, gpus_of_this_machine, release_memory
from fluxbooth.flux.lora import Part, add_lora, start_from
from fluxbooth.flux.objective import Objective
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.text import PooledText
from fluxbooth.host.energy import EnergyMeter, GpuPower, ProcessorEnergy
from fluxbooth.host.files import DigestMemory, held_alone, write_text
from fluxbooth.host.machine import machine_in_words
from fluxbooth.host.memory import memory_shortage
from fluxbooth.host.signals import StoppedOnRequestError, StopRequest, listening_for_stop
from fluxbooth.training.averages import MovingAverage
from fluxbooth.training.checkpoints import Checkpoints, remove_leftovers
from fluxbooth.training.concept_record import record_concepts
from fluxbooth.training.encode import EncodedVisits, encode_visits, encoder_identities
from fluxbooth.training.evaluation import Evaluation, evaluate, evaluation_visits
from fluxbooth.training.loop import StepReport, require_finite, train
from fluxbooth.training.optimizers import build_optimizer, build_schedule
from fluxbooth.training.prepare import Prepared
from fluxbooth.training.processes import LostProcessError, Processes, joined_processes
from fluxbooth.training.progress import shown_progress
from fluxbooth.training.sample_plan import SamplePlan
from fluxbooth.training.samples import SampleRounds
from fluxbooth.training.scored_saves import Judge, PatienceOutError, ScoredSaves
from fluxbooth.training.sessions import noted_session
from fluxbooth.training.state import RunState
from fluxbooth.training.step_log import StepLog

_log = logging.getLogger("fluxbooth")
_to_file = logging.getLogger("fluxbooth.steps")
# Recipe fields that place files or trade time for memory; a run that goes on may have others.
_NOT_IN_THE_RESULT = {
    "output_name",
    "save_every_n_epochs",
    "save_every_n_steps",
    "save_precision",
    "save_format",
    "save_every_n_minutes",
    "save_last_n_epochs",
    "save_last_n_steps",
    "save_state_every_n_minutes",
    "memory_floor",
    "validate_every_n_steps",
    "sample_prompts",
    "sample_every_n_steps",
    "sample_every_n_epochs",
    "sample_at_first",
    "sample_seed",
    "walk_seed",
    "sample_width",
    "sample_height",
    "sample_steps",
    "sample_guidance_scale",
    "score_every",
    "early_stop_patience",
    "gradient_checkpointing",
    "output_dir",
    # Known by what is in them:
    "network_weights",
    "dataset_config",
    "pretrained_model_name_or_path",
    "clip_l",
    "t5xxl",
    "ae",
}


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
        with (
            held_alone(folder) if processes.is_first else nullcontext(),
            gpu_held_alone(prepared.folders.runs, *device_identity(prepared.device)),
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
    state = RunState(folder / "state", _identity(prepared))
    if processes.is_first:
        state.check()
        write_text(folder / "run.toml", _run_toml(prepared))
    seconds: dict[str, float] = {}
    with (
        _log_file(folder / "train.log") if processes.is_first else nullcontext(),
        _session(folder / "logs", device, goes_on=state.is_there) if processes.is_first else nullcontext(),
    ):
        with _timed("encode", seconds):
            if not processes.is_first:  # the first one encodes, the others find it in the cache
                processes.wait()
            evaluated = evaluation_visits(prepared.items)
            if processes.is_first:
                record_concepts(folder / "concepts", prepared.items, [visit.item for visit in evaluated])
            encoded = encode_visits(
                prepared.plan.visits(prepared.steps).union(evaluated),
                prepared.weights,
                prepared.architecture,
                prepared.folders.cache,
                recipe.prior_loss_weight,
                prepared.dtype,
                device,
                plain_captions=recipe.diff_output_preservation > 0,
                further_captions={*prepared.samples.prompts, *(judge.prompts if judge else ())},
            )
            if processes.is_first:
                processes.wait()
        with _timed("load", seconds):
            transformer = load_transformer(prepared.weights, prepared.architecture, prepared.dtype, device)
            parameters = add_lora(
                transformer,
                recipe.network_dim,
                recipe.alpha,
                recipe.seed,
                dropout=recipe.network_dropout,
                blocks=prepared.blocks,
            )
            models: dict[Part, torch.nn.Module] = {"transformer": transformer}
            text_parameters: list[torch.nn.Parameter] = []
            if recipe.text_encoder_lr:
                encoded.pooled_text = PooledText(prepared.weights, prepared.architecture, prepared.dtype, device)
                models["text_encoder"] = encoded.pooled_text.clip
                text_parameters = add_lora(
                    encoded.pooled_text.clip,
                    recipe.network_dim,
                    recipe.alpha,
                    recipe.seed,
                    "text_encoder",
                    dropout=recipe.network_dropout,
                )
            if recipe.network_weights:
                start_from(models, recipe.alpha, Path(recipe.network_weights))
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=prepared.dtype is torch.bfloat16)
        measure = partial(evaluate, transformer, encoded, evaluated, recipe.guidance_scale, autocast)
        with listening_for_stop() as stop:
            loss_before, after = _train(
                prepared,
                transformer,
                (parameters, text_parameters),
                encoded,
                autocast,
                state,
                measure,
                stop,
                seconds,
                processes,
                judge,
            )
        lora = prepared.folders.loras / f"{recipe.output_name}.safetensors"
        if after is None:  # not the first process: it has nothing to write
            return Outcome(lora, loss_before, loss_before, seconds)
        require_finite({"evaluation loss": after.mean}, prepared.steps - 1, [tuple(evaluated)])
        _log.info(
            "evaluation loss (%d items): %.4f before, %.4f after (%+.0f %%)",
            len(evaluated),
            loss_before,
            after.mean,
            100 * (after.mean / loss_before - 1),
        )
        _to_file.info("%s", ", ".join(f"{name} {loss:.4f}" for name, loss in after.by_name().items()))
        _to_file.info("learned least: %s", ", ".join(f"{name} {loss:.4f}" for name, loss in after.hardest()))
        _log.info("wrote %s", lora)
    state.remove()
    del transformer, parameters, text_parameters, models, encoded, measure
    release_memory()
    return Outcome(lora, loss_before, after.mean, seconds)


def _train(
    prepared: Prepared,
    transformer: FluxTransformer2DModel,
    trained: tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]],
    encoded: EncodedVisits,
    autocast: torch.autocast,
    state: RunState,
    measure: Callable[[], Evaluation],
    stop: StopRequest,
    seconds: dict[str, float],
    processes: Processes,
    judge: Judge | None,
) -> tuple[float, Evaluation | None]:
    """Run the loop from where `state` says; return the base model's evaluation loss, and what was published gives.

    Only the first of several processes measures, writes and draws; the others return None as the second.
    """
    recipe, steps = prepared.recipe, prepared.steps
    optimizer = build_optimizer(
        trained[0],
        recipe.optimizer_type,
        recipe.learning_rate,
        recipe.optimizer_args,
        trained[1],
        recipe.text_encoder_lr,
        (recipe.network.transformer_up_ratio, recipe.network.text_up_ratio),
    )
    parameters = [*trained[0], *trained[1]]
    schedule = build_schedule(
        optimizer,
        recipe.lr_scheduler,
        steps,
        recipe.lr_warmup_steps,
        recipe.lr_scheduler_num_cycles,
        recipe.lr_scheduler_power,
    )
    average = MovingAverage(parameters, recipe.ema_decay) if recipe.ema_decay else None
    before = state.restore(parameters, optimizer, schedule, average)
    if before:
        _log.info("going on from step %d of %d", before.step, steps)
    with _timed("evaluate", seconds):
        base = measure() if processes.is_first and not before else None
    loss_before = before.loss_before if before else base.mean if base else float("nan")
    if recipe.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    clip = encoded.pooled_text.clip if encoded.pooled_text else None
    checkpoints = Checkpoints(prepared, transformer, clip, state, parameters, optimizer, schedule, average)

    done = before.step if before else 0
    if processes.total([float(done)], prepared.device)[0] != done * processes.count:
        raise UserError(
            Problem(
                f"this process would go on from step {done}, another one from elsewhere",
                where=str(prepared.folders.run(recipe.output_name)),
                do="Let all machines see the same runs folder",
            )
        )

    def after_step(report: StepReport) -> None:
        nonlocal done
        done = report.step
        if processes.is_first:
            note(report)
        shortage = memory_shortage(recipe.memory_floor)
        stopping = processes.any(stop.made or bool(shortage), prepared.device) and report.step < steps
        written = checkpoints.after_step(report.step, loss_before, stopping) if processes.is_first else []
        if stopping:
            why = shortage or "stopped"
            raise StoppedOnRequestError(
                f"{why} at step {report.step} of {steps}; its state is saved, the same command goes on"
            )
        samples.draw(report.step, stopped=lambda: stop.made)
        is_out = scored.after_step(report.step, written, report.step == steps, stopped=lambda: stop.made)
        if recipe.early_stop_patience and processes.any(is_out, prepared.device) and report.step < steps:
            _log.info("step %d is the last: %d scored saves were no better", report.step, recipe.early_stop_patience)
            if processes.is_first:
                checkpoints.finish(report.step)
            raise PatienceOutError

    def note(report: StepReport) -> None:
        assert log is not None, "the first process has a log"
        assert show is not None, "the first process shows its progress"
        if average:
            average.update(report.step)
        show(report.step, report.loss)
        _to_file.info(
            "step %d/%d loss %.5f preservation_loss %.5f grad_norm %.4f learning_rate %.3g",
            report.step,
            steps,
            report.loss,
            report.preservation_loss,
            report.grad_norm,
            report.learning_rate,
        )
        log.step(report)
        if recipe.validate_every_n_steps and report.step % recipe.validate_every_n_steps == 0:
            with checkpoints.published():
                log.evaluation(report.step, measure())

    first_step = before.step if before else 0
    samples = SampleRounds(
        prepared.samples if processes.is_first else SamplePlan(),
        prepared.folders.run(recipe.output_name) / "samples",
        transformer,
        encoded,
        prepared.weights,
        prepared.architecture,
        prepared.dtype,
        checkpoints.published,
        first_step,
    )
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
    logs = prepared.folders.run(recipe.output_name) / "logs"
    with (
        suppress(PatienceOutError),
        _timed("train", seconds),
        StepLog(logs, first_step) if processes.is_first else nullcontext() as log,
        shown_progress(first_step, steps) if processes.is_first else nullcontext() as show,
        _advice_when_out_of_memory(),
        _saved_when_another_is_lost(lambda: checkpoints.save(done, loss_before) if processes.is_first else None),
    ):
        if log and base:
            log.evaluation(0, base)
        train(
            transformer,
            parameters,
            prepared.plan,
            encoded,
            optimizer,
            schedule,
            first_step=first_step,
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
        )
    if not processes.is_first:
        return loss_before, None
    with _timed("evaluate", seconds), checkpoints.published():
        after = measure()
    with StepLog(logs, done) as log:
        log.evaluation(done, after)
    return loss_before, after


@contextmanager
def _saved_when_another_is_lost(save: Callable[[], None]) -> Iterator[None]:
    """Save the last whole step when another process of this training is gone, and say so."""
    try:
        yield
    except LostProcessError as error:
        save()
        raise UserError(
            Problem(
                f"another process of this training is gone: {error}",
                do="See what it said; the state is saved, the same command goes on",
            )
        ) from error


@contextmanager
def _advice_when_out_of_memory() -> Iterator[None]:
    """Say what takes less memory when the GPU has no more; what was saved before stays."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            Problem(
                f"the GPU's memory is full: {str(error).splitlines()[0]}",
                do="Set gradient_checkpointing = true, with which this run can go on; or begin anew with a smaller "
                "train_batch_size, resolution or network_dim",
            )
        ) from error


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


def _identity(prepared: Prepared) -> dict[str, str]:
    """What the run's result depends on, by the name a message can use."""
    recipe = prepared.recipe.model_dump(exclude=_NOT_IN_THE_RESULT)
    digests = DigestMemory(prepared.folders.cache / "digests.json")
    # The order counts and the place on the disk does not: the plan is made of the items in their order.
    items = [
        {
            **vars(item),
            "path": item.path.name,
            "mask": item.mask is not None,
            "picture_spec": replace(item.picture_spec, mask_dir=None),
        }
        for item in (*prepared.items, *prepared.composites)
    ]
    vae, texts = encoder_identities(prepared.weights, prepared.architecture, prepared.folders.cache, prepared.dtype)
    return {
        **{name: str(value) for name, value in recipe.items()},
        "pictures or data.toml": hashlib.sha256(repr(items).encode()).hexdigest(),
        "transformer": digests.digest(prepared.weights.transformer),
        "network_weights": digests.digest(Path(start)) if (start := prepared.recipe.network_weights) else "",
        "VAE": vae,
        "text encoders": texts,
        "number of steps": str(prepared.steps),
        "number format": str(prepared.dtype),
    }


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
                "torch": str(torch.__version__),  # of its own kind of str the toml package makes a list of letters
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
        }
    )


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Write what is logged inside to `path` too; a run that goes on goes on in its file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.addFilter(lambda record: record.name != "fluxbooth.progress")
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

"""Run training steps of a shape through the product's own loop, and measure what they take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from fluxbooth.benchmark.shares import INPUT, shares
from fluxbooth.benchmark.work import Shape, architecture_of_shape, random_pictures, random_transformer
from fluxbooth.dataset.plan import MicroBatch
from fluxbooth.errors import Problem, Problems, UserError
from fluxbooth.flux.architecture import PIXELS_PER_TOKEN
from fluxbooth.flux.device import (
    check_fp8_products,
    device_identity,
    free_memory,
    free_memory_of_the_machine,
    freed_memory_kept,
    has_memory_of_its_own,
    memory_bounded,
    release_memory,
    use_few_threads,
)
from fluxbooth.flux.lora import ALL_BLOCKS, add_lora
from fluxbooth.flux.objective import Objective
from fluxbooth.flux.stored import StorageForm
from fluxbooth.flux.training_pass import use_training_pass
from fluxbooth.host.memory import GIB, forget_highest_resident_bytes, highest_resident_bytes, resident_bytes
from fluxbooth.training.encode import Batch, EncodedVisits
from fluxbooth.training.loop import StepReport, train
from fluxbooth.training.memory_choice import check_streamed, choose, possible_plans
from fluxbooth.training.memory_plan import MemoryPlan, Workload, lora_values
from fluxbooth.training.operations import operations_per_sample
from fluxbooth.training.optimizers import build_optimizer, build_schedule
from fluxbooth.training.speeds import measured_speeds
from fluxbooth.training.trained import bytes_held_turned

_SECONDS_OF_PRODUCTS = 0.2


@dataclass(frozen=True)
class Question:
    """What is to be measured."""

    arch: Shape
    resolution: int
    """Pixels of the square pictures."""
    network_dim: int
    train_batch_size: int
    text_tokens: int | None
    """T5's length; None for what the shape trains with."""
    dtype: torch.dtype
    optimizer_type: str
    base_weights: StorageForm | None
    """How the frozen matrices are held; None for what fits."""
    gradient_checkpointing: bool | None
    """In all blocks, in none, or None for as many as the memory asks for."""
    blocks_to_swap: int | None
    """Blocks whose matrices wait in the machine's memory; None for as many as the GPU's memory asks for."""
    fp8_products: bool
    """Multiply in fp8 with the frozen matrices, which are held in it."""
    diffusers_pass: bool
    """Compute by diffusers' own pass instead, to compare with."""
    memory: float | None
    """GiB that count as free where more are, and that a GPU gives; None for all of it."""
    steps: int


@dataclass(frozen=True)
class Measured:
    """What was measured; times of one sample, in seconds."""

    question: Mapping[str, Any]
    device: str
    plan: str
    seconds_per_sample: float
    """On the clock: the median of the steps."""
    fastest: float
    slowest: float
    cpu_seconds_per_sample: float
    """Of the processor, all threads together."""
    tflop_per_sample: float
    tflops_of_matrices: float
    """What large matrix products of this run's shape reach, measured between the steps: per second, or per second of
    the processor where there is no GPU."""
    floor_seconds: float
    """What the arithmetic would take at that speed, which is not that of fp8: with fp8 products a step may be below."""
    floor_ratio: float
    """Time over floor; of the processor's seconds where there is no GPU, so that other processes do not count."""
    done_share: float
    """Of the floor's operations, those that were done: what nothing reads is left out."""
    done_ratio: float
    """Time over what the operations that were done would take at that speed."""
    peak_bytes: int
    """The most memory that the steps and the weights took at a time."""
    predicted_peak_bytes: int
    shares: Mapping[str, float]
    """Of the time of one step, by what it is spent on."""


@dataclass
class _Clock:
    """Times each step, and a large matrix product between every two."""

    product: Callable[[], object]
    operations: float
    """Of one product."""
    device: torch.device
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Measure the product for a tenth of a step's time, which evens single ones out; then begin to time a step."""
        self._synchronize()
        before = self._now()
        enough = max(_SECONDS_OF_PRODUCTS, self.seconds[-1] / 10 if self.seconds else 0.0)
        repeats = 0
        while self._now() - before < enough:
            self.product()
            self._synchronize()
            repeats += 1
        self.speeds.append(self.operations * repeats / (self._now() - before))
        self._begun, self._cpu_begun = time.perf_counter(), time.process_time()

    def step_done(self, _report: StepReport) -> None:
        """Note the step, then start the next."""
        self._synchronize()
        self.seconds.append(time.perf_counter() - self._begun)
        self.cpu_seconds.append(time.process_time() - self._cpu_begun)
        self.start()

    def _now(self) -> float:
        return time.perf_counter() if self.device.type == "cuda" else time.process_time()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(question: Question, device: torch.device) -> Measured:
    """Train a random LoRA on random weights for some steps, one more to warm up and one under the profiler.

    Raises:
        UserError: for fp8 products and streamed blocks that cannot be, and where the memory does not hold it.
    """
    if question.fp8_products:
        _check_fp8_products(question, device)
    architecture = architecture_of_shape(question.arch, question.text_tokens)
    use_few_threads(architecture.width, device)
    image_tokens = (question.resolution // PIXELS_PER_TOKEN) ** 2
    tokens = (image_tokens + architecture.t5_tokens) * question.train_batch_size
    work = Workload(
        architecture,
        tokens,
        question.network_dim,
        lora_values(architecture, question.network_dim, ALL_BLOCKS, clip_trained=False),
        question.optimizer_type,
        averaged=False,
        has_training_pass=not question.diffusers_pass,
        dtype=question.dtype,
        device=device,
        samples=question.train_batch_size,
        unified=not has_memory_of_its_own(device),
        fp8_products=question.fp8_products,
    )
    check_streamed(question.blocks_to_swap, work)
    speeds = measured_speeds(question.dtype, device)
    form = "fp8" if question.fp8_products else question.base_weights
    plans = possible_plans(work, form, question.gradient_checkpointing, question.blocks_to_swap, speeds)
    most = None if question.memory is None else int(question.memory * GIB)
    free = free_memory(device, None, most)
    choice = choose(plans, free, None if work.unified else free_memory_of_the_machine(None))
    if not choice.fits and free is not None:
        raise UserError(
            Problem(
                f"needs {choice.plan.peak_bytes / GIB:.1f} GiB of memory ({choice.plan}) and {free / GIB:.1f} are free",
                where=f"--arch {question.arch}",
                do="Leave base_weights, gradient_checkpointing and memory out, lower the resolution, "
                "or take --arch thin",
            )
        )
    plan = choice.plan
    turned = bytes_held_turned(work, plan, free) if question.fp8_products else 0
    with TemporaryDirectory() as folder, memory_bounded(device, most):
        clock, peak, spent = _steps(question, work, plan, turned > 0, Path(folder))
    count = partial(operations_per_sample, architecture, image_tokens, question.network_dim, plan.recomputed)
    counted, done = count().total, count(unread_left_out=work.has_training_pass).total
    speed = median(clock.speeds)
    batch = question.train_batch_size
    cpu_seconds = median(clock.cpu_seconds) / batch
    seconds = median(clock.seconds) / batch
    ratio = (seconds if device.type == "cuda" else cpu_seconds) * speed / counted
    return Measured(
        question={**vars(question), "dtype": str(question.dtype).removeprefix("torch.")},
        device=device_identity(device)[1],
        plan=f"{plan}{f', and {turned / GIB:.1f} GiB of them turned round' if turned else ''}",
        seconds_per_sample=seconds,
        fastest=min(clock.seconds) / batch,
        slowest=max(clock.seconds) / batch,
        cpu_seconds_per_sample=cpu_seconds,
        tflop_per_sample=counted / 1e12,
        tflops_of_matrices=speed / 1e12,
        floor_seconds=counted / speed,
        floor_ratio=ratio,
        done_share=done / counted,
        done_ratio=ratio * counted / done,
        peak_bytes=peak,
        predicted_peak_bytes=plan.peak_bytes + turned,
        shares=spent,
    )


def _check_fp8_products(question: Question, device: torch.device) -> None:
    """Raise UserError for each choice beside which there are no fp8 products."""
    problems = Problems()
    with problems.gathered():
        check_fp8_products(device)
    for hindered, choice in (
        (question.base_weights not in (None, "fp8"), f"base_weights {question.base_weights}"),
        (question.diffusers_pass, "diffusers_pass"),
        (question.dtype is not torch.bfloat16, "mixed_precision no"),
    ):
        if hindered:
            problems.add(f"contradicts --{choice}", where="--fp8_products", do="Leave one of them out")
    problems.raise_if_any()


def _steps(
    question: Question, work: Workload, plan: MemoryPlan, turned: bool, folder: Path
) -> tuple[_Clock, int, dict[str, float]]:
    """Return the times of the steps, the most memory they took, and what a step's time is spent on.

    Args:
        turned: of fp8 products, as `use_training_pass` takes it.
    """
    device, dtype, width = work.device, work.dtype, work.architecture.width
    pictures = random_pictures(
        work.architecture, question.resolution, question.train_batch_size, question.steps + 2, folder, device
    )
    with freed_memory_kept(device):
        with _peak_of(device) as peak:
            transformer = random_transformer(work.architecture, dtype, device, plan.form, plan.streamed)
            parameters = add_lora(transformer, work.rank, work.rank, seed=0)
            if not question.diffusers_pass:
                use_training_pass(
                    transformer, plan.recomputed, plan.streamed, question.fp8_products, turned, plan.whole
                )
            elif plan.recomputed:
                transformer.enable_gradient_checkpointing()
            release_memory()  # as `load_trained` does
            optimizer = build_optimizer(parameters, question.optimizer_type, 1e-4, ())
            on_steps = partial(
                train,
                transformer,
                parameters,
                pictures.plan,
                pictures.encoded,
                optimizer,
                build_schedule(optimizer, "constant", question.steps + 2, 0, 1),
                seed=0,
                objective=Objective(),
                guidance_scale=1.0,
                preservation_weight=0.0,
                max_grad_norm=1.0,
                autocast=torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16),
            )
            on_steps(first_step=0, steps=1, after_step=lambda report: None)
            tokens, matrix = (torch.randn(rows, width, dtype=dtype, device=device) for rows in (work.tokens, 4 * width))
            clock = _Clock(lambda: tokens @ matrix.T, 2 * work.tokens * width * 4 * width, device)
            clock.start()
            on_steps(first_step=1, steps=question.steps + 1, after_step=clock.step_done)
        last = partial(
            on_steps, first_step=question.steps + 1, steps=question.steps + 2, after_step=lambda report: None
        )
        events = _profiled(last, pictures.encoded, device)
    ranks = {number * work.rank for number in (1, 2, 3, 4)}
    return clock, peak(), shares(events, ranks, width, device.type == "cuda")


def _profiled(step: Callable[[], None], encoded: EncodedVisits, device: torch.device) -> list[Any]:
    """Return the profiler's events of one step."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would write lines of its own
    with _input_recorded(encoded), profile(activities=activities, record_shapes=True, acc_events=True) as seen:
        step()
    return list(seen.events() or ())


@contextmanager
def _peak_of(device: torch.device) -> Iterator[Callable[[], int]]:
    """Give a function that says, behind the context, how many bytes were taken inside at most."""
    release_memory()
    forget_highest_resident_bytes()
    before = resident_bytes() or 0
    most = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    yield lambda: most
    if device.type == "cuda":
        # What PyTorch holds, and what the libraries took beside it.
        beside = free - torch.cuda.mem_get_info(device)[0] - torch.cuda.memory_reserved(device)
        most = torch.cuda.max_memory_reserved(device) + max(int(beside), 0)
    else:
        most = (highest_resident_bytes() or 0) - before


@contextmanager
def _input_recorded(encoded: EncodedVisits) -> Iterator[None]:
    """Let the profiler know what the reading of batches is."""
    read = encoded.batch

    def recorded(micro_batch: MicroBatch) -> Batch:
        with record_function(INPUT):
            return read(micro_batch)

    encoded.batch = recorded  # type: ignore[method-assign]
    try:
        yield
    finally:
        del encoded.batch

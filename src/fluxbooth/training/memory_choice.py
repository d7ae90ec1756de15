"""The fastest way of training that a device's memory holds, and its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from fluxbooth.errors import Problems
from fluxbooth.flux.stored import StorageForm, stored_bytes
from fluxbooth.host.memory import GIB
from fluxbooth.training.memory_plan import MemoryPlan, Workload, plan_with
from fluxbooth.training.speeds import Speeds

# How much faster a plan with fewer bits has to be than one with all of them: it is less exact, and its matrices are
# made again for each product, which the operations do not count.
_PRICE_OF_FEWER_BITS = {"full": 1.0, "fp8": 1.25, "int8": 1.25, "nf4": 1.6}
_RECOMPUTED_AT_ONCE = 8
"""Steps in which more blocks are recomputed where blocks are streamed, too: plans between differ by little."""


def possible_plans(
    work: Workload,
    form: StorageForm | None,
    recomputing: bool | None,
    streamed: int | None = 0,
    speeds: Speeds | None = None,
) -> list[MemoryPlan]:
    """All plans that a recipe leaves open, the best first: the fastest, fewer bits counting as slower.

    Args:
        form: the one that is asked for; None for any.
        recomputing: all blocks or none; None for as many as the memory asks for.
        streamed: how many blocks; None for as many as the memory asks for, where bringing them is known to take time.
        speeds: of this machine; None for unknown, when fewer bits come last.
    """
    can_stream = work.has_training_pass and speeds is not None and speeds.bytes_to_device is not None
    counts: Sequence[int] = (streamed,) if streamed is not None else range(work.blocks + 1) if can_stream else (0,)
    plans = [
        plan_with(work, own, number, count, whole)
        for own in ((form,) if form else work.forms)
        for count in counts
        for number, whole in _kept(work, recomputing, among_streamed=count > 0)
    ]
    if speeds is None:
        return plans
    seconds = {number: work.operations(number) / speeds.operations for number in {plan.recomputed for plan in plans}}

    def price(plan: MemoryPlan) -> tuple[float, int, int]:
        passed = max(seconds[plan.recomputed], seconds_to_bring(plan, speeds))
        return passed * _PRICE_OF_FEWER_BITS[plan.form], plan.streamed, -plan.whole

    return sorted(plans, key=price)


def check_streamed(count: int | None, work: Workload) -> None:
    """Raise UserError where so many blocks, as a user asks for, cannot be streamed."""
    problems = Problems()
    where = "blocks_to_swap"
    if count and count > work.blocks:
        problems.add(f"{count} blocks", where=where, allowed=f"0 to {work.blocks}, which the transformer has")
    if count and not work.has_training_pass:
        problems.add(
            "no block can be streamed by diffusers' own pass, which computes network_dropout, use_dora and fp16",
            where=where,
            do="Leave one or the other out",
        )
    problems.raise_if_any()


def _kept(work: Workload, recomputing: bool | None, *, among_streamed: bool) -> Iterator[tuple[int, int]]:
    """Yield how many blocks may be recomputed, and how many kept whole, the fastest first."""
    blocks = work.blocks
    if not recomputing:
        # On the CPU to keep norms and activations takes a third more memory and saves less than 1 % of the time.
        none_whole = work.fp8_products or among_streamed or work.device.type == "cpu"
        most = 0 if none_whole else blocks
        yield from ((0, whole) for whole in (range(most, -1, -1) if work.has_training_pass else [blocks]))
    if recomputing is None and work.has_training_pass:
        step = _RECOMPUTED_AT_ONCE if among_streamed else 1
        yield from ((number, 0) for number in range(step, blocks, step))
    if recomputing is not False:
        yield blocks, 0


def seconds_to_bring(plan: MemoryPlan, speeds: Speeds, passes: int = 2) -> float:
    """Seconds in which streamed blocks are brought for one micro-batch, beside its arithmetic.

    Args:
        passes: through the blocks; forward and backward are two.
    """
    return passes * plan.waiting_bytes / speeds.bytes_to_device if speeds.bytes_to_device else 0.0


def _in_fewer_bits(work: Workload, form: StorageForm) -> list[StorageForm]:
    return [
        other
        for other in work.forms
        if stored_bytes(1000, other, torch.bfloat16) < stored_bytes(1000, form, torch.bfloat16)
    ]


def savings(work: Workload, plan: MemoryPlan) -> list[str]:
    """Name the three settings that would save most memory, the largest saving first, and how much.

    Args:
        plan: the one that was too large.
    """

    def otherwise(
        form: StorageForm = plan.form, recomputed: int = plan.recomputed, streamed: int = plan.streamed
    ) -> int:
        return plan_with(work, form, recomputed, streamed, 0 if recomputed else plan.whole).peak_bytes

    def of_less(work: Workload) -> int:
        return plan_with(work, plan.form, plan.recomputed, plan.streamed, plan.whole).peak_bytes

    can_go_on = "with which this run can go on,"
    others = {
        f"gradient_checkpointing = true, {can_go_on}": otherwise(recomputed=work.blocks),
        **{f'base_weights = "{form}"': otherwise(form=form) for form in _in_fewer_bits(work, plan.form)},
        f"network_dim = {work.rank // 2}": of_less(
            replace(work, rank=work.rank // 2, lora_values=work.lora_values // 2)
        ),
        "half the train_batch_size, or half the pixels,": of_less(replace(work, tokens=work.tokens // 2)),
    }
    if work.has_training_pass:
        others[f"blocks_to_swap = {work.blocks}, {can_go_on}"] = otherwise(streamed=work.blocks)
    taken = otherwise()
    most = sorted(others, key=lambda name: others[name])[:3]
    return [f"{name} saves {(taken - others[name]) / GIB:.1f} GiB" for name in most if others[name] < taken]


@dataclass(frozen=True)
class Choice:
    """The plan a run takes, and its neighbours."""

    plan: MemoryPlan
    fits: bool
    """Whether it is foreseen to fit; where none does it is the smallest."""
    faster: MemoryPlan | None
    """The next faster one, which would not fit; None where the plan is the fastest."""
    smaller: MemoryPlan | None
    """The next smaller one; None where the plan is the smallest."""


def choose(plans: Sequence[MemoryPlan], free: int | None, free_beside: int | None = None) -> Choice:
    """Choose the first plan that takes no more than `free` bytes; where that is not known the first.

    Args:
        plans: the best first, at least one.
        free_beside: bytes that streamed blocks may take of the machine's memory; None for not known.
    """

    def fits(plan: MemoryPlan) -> bool:
        beside = free_beside is None or plan.waiting_bytes <= free_beside
        return beside and (free is None or plan.peak_bytes <= free)

    place = next((number for number, plan in enumerate(plans) if fits(plan)), None)
    if place is None:
        smallest = min(range(len(plans)), key=lambda number: plans[number].peak_bytes)
        return Choice(plans[smallest], False, plans[smallest - 1] if smallest else None, None)
    chosen = plans[place]
    smaller = next((plan for plan in plans[place + 1 :] if plan.peak_bytes < chosen.peak_bytes), None)
    return Choice(chosen, True, plans[place - 1] if place else None, smaller)

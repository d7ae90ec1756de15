"""Several processes that train one LoRA together, as `torchrun` and `accelerate launch` start them.

Each sees its part of every micro-batch, and they add up the LoRA's gradients before each optimizer step: two processes
of batch size 1 do what one of batch size 2 does. The first one writes whatever is written.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import get_args

import torch
from torch import distributed, nn

from fluxbooth.dataset.plan import MicroBatch
from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.stored import StorageForm

_PATIENCE = timedelta(hours=2)
"""How long the others wait while the first encodes pictures, draws samples or writes."""


class LostProcessError(Exception):
    """Another process of this training is gone."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    """From 0; the first one writes and evaluates."""
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, micro_batch: MicroBatch) -> tuple[MicroBatch, range]:
        """Return this process's visits of a micro-batch, perhaps none, and their places in it."""
        return micro_batch[self.rank :: self.count], range(self.rank, len(micro_batch), self.count)

    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let every parameter's gradient be the sum over the processes.

        Raises:
            LostProcessError: when another process does not answer.
        """
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # a micro-batch of fewer visits than there are processes
                parameter.grad = torch.zeros_like(parameter)
        self._all([parameter.grad for parameter in parameters if parameter.grad is not None], distributed.ReduceOp.SUM)

    def total(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Sum numbers over the processes. Raises LostProcessError."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=device)
        self._all([sums], distributed.ReduceOp.SUM)
        return [float(value) for value in sums.tolist()]

    def any(self, asked: bool, device: torch.device) -> bool:
        """Whether one of the processes says so. Raises LostProcessError."""
        return self.total([float(asked)], device)[0] > 0

    def wait(self) -> None:
        """Return when every process has come here. Raises LostProcessError."""
        if self.count > 1:
            self._all([torch.zeros(1, device=_device())], distributed.ReduceOp.SUM)

    def _all(self, tensors: Sequence[torch.Tensor], how: distributed.ReduceOp.RedOpType) -> None:
        try:
            for work in [distributed.all_reduce(tensor, how, async_op=True) for tensor in tensors]:
                if work is not None:
                    work.wait()
        except (RuntimeError, distributed.DistBackendError) as error:
            raise LostProcessError(str(error).splitlines()[0]) from error


ALONE = Processes()


def require_shared(folder: Path, processes: Processes, device: torch.device) -> None:
    """Let every process see that `folder` is the first one's, on whatever machine it is.

    Where it is not, each machine would go on from a state of its own once the training is stopped.

    Raises:
        UserError: in every process, when one of them sees another folder.
        LostProcessError: when another process is gone.
    """
    if processes.count == 1:
        return
    # A name that nobody has looked for yet: some file servers remember for a while what was not there.
    (token,) = processes.total([float(secrets.randbits(48)) if processes.is_first else 0.0], device)
    sign = folder / f".together-{int(token):x}"
    if processes.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        sign.touch()
    processes.wait()
    unseen = int(processes.total([float(not sign.exists())], device)[0])
    if processes.is_first:
        sign.unlink()
    if unseen:
        raise UserError(
            Problem(
                f"{unseen} of {processes.count} processes see another folder than the first one does",
                where=str(folder),
                do="Mount one runs folder on all machines (FLUXBOOTH_RUNS_DIR)",
            )
        )


def require_one_form(form: StorageForm, processes: Processes, device: torch.device) -> None:
    """Let every process hold its matrices in the same form: each has chosen it by its own memory and speed.

    Raises:
        UserError: in every process, when one of them holds them in another.
        LostProcessError: when another process is gone.
    """
    own = get_args(StorageForm).index(form)
    (of_first,) = processes.total([float(own) if processes.is_first else 0.0], device)
    others = int(processes.total([float(own != int(of_first))], device)[0])
    if others:
        raise UserError(
            Problem(
                f"{others} of {processes.count} processes would hold FLUX's matrices in another form than the first",
                where="base_weights",
                allowed="one form for all",
                do="Set base_weights, for instance to fp8",
            )
        )


def processes_started() -> int:
    """How many processes the launcher says there are; 1 without a launcher.

    Raises:
        UserError: when what it says is no number.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdecimal() or int(said) < 1:
        raise UserError(Problem(f"WORLD_SIZE is '{said}'", where="the environment", allowed="a number from 1"))
    return int(said)


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Meet the other processes, where a launcher has started several."""
    count = processes_started()
    if count == 1:
        yield ALONE
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

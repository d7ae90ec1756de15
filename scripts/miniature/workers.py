"""Several processes that train one model together: each takes its share of every batch, the gradients are averaged."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True)
class Worker:
    """One of `size` processes, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Return which of a batch's places are this worker's; the batch is divided evenly.

        Raises ValueError for a batch that cannot be.
        """
        if batch % self.size:
            raise ValueError(f"a batch of {batch} cannot be divided among {self.size} workers")
        part = batch // self.size
        return range(self.rank * part, (self.rank + 1) * part)

    def exchange(self, tensors: Sequence[Tensor]) -> None:
        """Give every worker the newest of each tensor: the one of worker (place in the list) modulo `size`."""
        if self.size == 1:
            return
        flat = torch.cat(
            [
                tensor.flatten() if place % self.size == self.rank else torch.zeros_like(tensor).flatten()
                for place, tensor in enumerate(tensors)
            ]
        )
        distributed.all_reduce(flat)
        for tensor, newest in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(newest.view_as(tensor))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over all workers into each tensor, in one message."""
        if self.size == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def choose_workers() -> tuple[int, torch.device]:
    """Return one worker on a GPU where there is one, else one-thread workers: 1, 2, 4 or 8, as the cores allow.

    Every stage's batch can be divided by these. Two one-thread processes are faster than one process with two threads:
    the matrices are too narrow to divide.
    """
    if torch.cuda.is_available():
        return 1, torch.device("cuda")
    cores = len(os.sched_getaffinity(0))
    return max(count for count in (1, 2, 4, 8) if count <= cores), torch.device("cpu")


def wait_for_all(worker: Worker) -> None:
    """Return when every worker has come to this place."""
    if worker.size > 1:
        distributed.barrier()


def run_workers(work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(worker, *arguments)` in every worker and wait until all have returned."""
    count, device = choose_workers()
    if count == 1:
        work(Worker(0, 1, device), *arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        # Without this a stopped parent would leave its workers behind, which go on and write the same files.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        spawn(_begin, (count, device, Path(folder) / "meeting", work, arguments), nprocs=count, daemon=True)


def _begin(
    rank: int, count: int, device: torch.device, meeting: Path, work: Callable[..., None], arguments: Any
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        work(Worker(rank, count, device), *arguments)
    finally:
        distributed.destroy_process_group()

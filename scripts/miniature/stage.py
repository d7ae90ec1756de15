"""One stage of the training: its steps, its schedule, its state on disk, its log. The same for all stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from fluxbooth.host.files import written_whole
from miniature.optimizer import MuonWithAdamW
from miniature.workers import Worker

Look = Callable[[int, nn.Module], dict[str, float]]
"""Measures a network and perhaps draws with it: (steps done, network) to named numbers."""
_SPEAK_EVERY = 50


@dataclass(frozen=True)
class Stage:
    """How long and how fast a stage trains. `batch` counts the samples of one step over all workers."""

    name: str
    steps: int
    batch: int
    learning_rate: float
    ends: tuple[str, ...]
    """Name parts of the layers at the network's ends, which Muon leaves to AdamW."""
    weight_decay: float = 0.01
    warmup: int = 100
    averaged_over: int = 0
    """The weights kept are an exponential average over about so many steps; 0 keeps the last ones."""
    largest_gradient: float = 1.0
    save_every: int = 250

    def rate_at(self, step: int) -> float:
        """Return the learning rate: a linear rise, a plateau, and a linear fall to zero over the last 40 %."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / (0.4 * self.steps))
        return self.learning_rate * rise * fall


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Multiply matrices in bfloat16 where that is faster and keep sums and weights in float32."""
    with torch.autocast(device.type, torch.bfloat16):
        yield


def train_stage(
    stage: Stage,
    network: nn.Module,
    loss_of: Callable[[int, list[int]], dict[str, Tensor]],
    worker: Worker,
    folder: Path,
    look: Look | None = None,
    look_every: int = 500,
) -> nn.Module:
    """Train `network` in place to the end of the stage, going on from the stage's state file where there is one.

    `loss_of(step, items)` returns named losses, of which "loss" is minimised; `items` number the samples of the whole
    stage, so that every sample is a function of its number. `look(step, network)` measures the network kept so far.
    Returns the network whose weights are to be kept.
    """
    optimizer = MuonWithAdamW(network, stage.ends, stage.weight_decay, worker)
    kept = _average_of(network, stage.averaged_over)
    state = _State(folder, stage.name, worker)
    done = state.load(network, kept, optimizer)
    sums: dict[str, float] = {}
    start = perf_counter()
    for step in range(done, stage.steps):
        items = [step * stage.batch + place for place in worker.share(stage.batch)]
        losses = loss_of(step, items)
        losses["loss"].backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        worker.average(gradients)
        nn.utils.clip_grad_norm_(network.parameters(), stage.largest_gradient)
        optimizer.step(stage.rate_at(step))
        _follow(kept, network, stage.averaged_over, step)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item()
        done = step + 1
        if done % stage.save_every == 0 or done == stage.steps:
            state.save(network, kept, optimizer, done)
        if not worker.leads:
            continue
        if done % _SPEAK_EVERY == 0:
            seconds = (perf_counter() - start) / _SPEAK_EVERY
            record = {"step": done, **{name: total / _SPEAK_EVERY for name, total in sums.items()}}
            _note(folder, stage.name, {**record, "samples_per_second": stage.batch / seconds})
            sums, start = {}, perf_counter()
        if look is not None and (done % look_every == 0 or done == stage.steps):
            _note(folder, stage.name, {"step": done, **look(done, kept)})
            start = perf_counter()
    return kept


class _State:
    """What a stage leaves on disk to go on from: the leader's networks, and every worker's optimizer."""

    def __init__(self, folder: Path, name: str, worker: Worker) -> None:
        self._name, self._worker = name, worker
        self._networks = folder / f"{name}.state"
        self._optimizer = folder / f"{name}-{worker.rank}of{worker.size}.optimizer"

    def save(self, network: nn.Module, kept: nn.Module, optimizer: MuonWithAdamW, done: int) -> None:
        with written_whole(self._optimizer) as part:
            torch.save({"optimizer": optimizer.state_dict(), "done": done}, part)
        if self._worker.leads:
            with written_whole(self._networks) as part:
                torch.save({"network": network.state_dict(), "kept": kept.state_dict(), "done": done}, part)

    def load(self, network: nn.Module, kept: nn.Module, optimizer: MuonWithAdamW) -> int:
        """Fill in what was saved and return how many steps that was after; 0 where nothing was."""
        if not self._networks.exists():
            return 0
        saved = torch.load(self._networks, map_location=self._worker.device, weights_only=True)
        network.load_state_dict(saved["network"])
        kept.load_state_dict(saved["kept"])
        done: int = saved["done"]
        known = self._optimizer.exists()
        mine = torch.load(self._optimizer, map_location=self._worker.device, weights_only=True) if known else {}
        # With another number of workers, or stopped between two files, the optimizer begins anew: a few steps' worth.
        if mine.get("done") == done:
            optimizer.load_state_dict(mine["optimizer"])
        if self._worker.leads:
            print(f"{self._name}: going on at step {done}", flush=True)
        return done


def _average_of(network: nn.Module, steps: int) -> nn.Module:
    if not steps:
        return network
    return torch.optim.swa_utils.AveragedModel(network).module.requires_grad_(False)


@torch.no_grad()
def _follow(kept: nn.Module, network: nn.Module, steps: int, step: int) -> None:
    if not steps:
        return
    # Young averages look back over fewer steps, else the random beginning stays in them.
    share = max(1 / steps, 1 / (1 + step / 10))
    theirs = [parameter.detach() for parameter in network.parameters()]
    torch._foreach_lerp_(list(kept.parameters()), theirs, share)


def _note(folder: Path, name: str, record: dict[str, float]) -> None:
    rounded = {key: value if isinstance(value, int) else round(value, 4) for key, value in record.items()}
    print(f"{name}: " + "  ".join(f"{key} {value}" for key, value in rounded.items()), flush=True)
    with (folder / f"{name}.log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(rounded) + "\n")

"""How the miniature is trained: stopped stages go on exactly, and several workers train what one would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from miniature import flow, towers, vae
from miniature.scenes import alike_pairs, alike_scenes, picture_of, scene_of
from miniature.stage import Stage, train_stage
from miniature.workers import Worker, choose_workers, run_workers
from torch import Tensor, nn
from torch.nn import functional as F
from world.captions import caption
from world.random_scenes import is_held_out

STAGE = Stage("tiny", steps=12, batch=8, learning_rate=0.01, ends=("4",), warmup=2, averaged_over=4, save_every=5)
ALONE = Worker(0, 1, torch.device("cpu"))


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 1), nn.SiLU(), nn.Conv2d(4, 1, 3))


class Losses:
    """The loss of a network that is to double what it sees; the samples are functions of their numbers."""

    def __init__(self, network: nn.Module, stop_at: int | None = None) -> None:
        self._network, self._stop_at = network, stop_at

    def __call__(self, step: int, items: list[int]) -> dict[str, Tensor]:
        if step == self._stop_at:
            raise KeyboardInterrupt
        seen = torch.stack([torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(item)) for item in items])
        return {"loss": F.mse_loss(self._network(seen), 2 * seen[..., 2:-2, 2:-2])}


def trained(folder: Path, worker: Worker = ALONE) -> dict[str, Tensor]:
    network = tiny_network()
    return train_stage(STAGE, network, Losses(network), worker, folder).state_dict()


def write_trained(worker: Worker, folder: Path) -> None:
    weights = trained(folder, worker)
    torch.save(weights, folder / f"{worker.rank}.pt")


def test_a_stage_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "straight").mkdir()
    (tmp_path / "stopped").mkdir()
    network = tiny_network()
    with pytest.raises(KeyboardInterrupt):
        train_stage(STAGE, network, Losses(network, stop_at=8), ALONE, tmp_path / "stopped")
    resumed, straight = trained(tmp_path / "stopped"), trained(tmp_path / "straight")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    first = trained(tmp_path)
    network = tiny_network()
    again = train_stage(STAGE, network, Losses(network, stop_at=0), ALONE, tmp_path).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_all_workers_end_with_the_weights_that_one_alone_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniature.workers.choose_workers", lambda: (2, torch.device("cpu")))
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    run_workers(write_trained, together)
    first, second = (torch.load(together / f"{rank}.pt", weights_only=True) for rank in range(2))
    straight = trained(alone)
    for name, weight in straight.items():
        assert torch.equal(first[name], second[name]), name
        # Muon computes in bfloat16, which enlarges the last bits that another order of summing changes.
        assert torch.allclose(first[name], weight, atol=2e-3), name
    untrained = tiny_network().state_dict()
    assert all((weight - untrained[name]).abs().max() > 0.02 for name, weight in straight.items() if weight.ndim > 1)


def test_samples_are_functions_of_their_number() -> None:
    assert torch.equal(picture_of(scene_of("flow", 7)), picture_of(scene_of("flow", 7)))
    assert scene_of("flow", 7) != scene_of("look", 7)
    assert picture_of(scene_of("flow", 7), 112, 80).shape == (3, 80, 112)


def test_alike_pairs_share_their_surroundings_and_differ_in_kinds() -> None:
    for number in range(50):
        scenes = alike_pairs("test", number)
        assert scenes == alike_pairs("test", number)
        assert len({scene.surroundings for scene in scenes}) == 1
        kinds = [tuple(placed.thing.kind for placed in scene.things) for scene in scenes]
        assert len(set(kinds)) == 4
        (one, two), (same, three), (four, other), last = kinds
        assert (same, other, last) == (one, two, (four, three))
        assert not any(is_held_out(placed.thing) for scene in scenes for placed in scene.things)


def test_alike_scenes_differ_in_what_they_are_called_and_show_nothing_held_out() -> None:
    for number in range(50):
        scenes = alike_scenes("test", number)
        here, there, changed, _ = scenes
        (thing,), (same,), (other,) = ([placed.thing for placed in scene.things] for scene in (here, there, changed))
        assert thing == same
        assert here.surroundings == changed.surroundings != there.surroundings
        differing = [mine for mine, theirs in zip(thing.attributes, other.attributes, strict=True) if mine != theirs]
        assert len(differing) == 1
        assert len({caption(scene) for scene in (here, there, changed)}) == 3
        assert not any(is_held_out(placed.thing) for scene in scenes for placed in scene.things)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (3, 2), (12, 8), (64, 8)])
def test_every_stage_can_be_divided_among_the_workers_of_any_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    count, device = choose_workers()
    assert count == workers
    for stage in (vae.PIECES, vae.WHOLE, vae.DECODER, towers.STAGE, towers.SCORING, flow.DRAWING, flow.GUIDING):
        shares = [Worker(rank, count, device).share(stage.batch) for rank in range(count)]
        assert [place for share in shares for place in share] == list(range(stage.batch))

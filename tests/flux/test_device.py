"""What a device cannot compute is refused by its name, before anything is loaded, and its memory is shared."""

from __future__ import annotations

import pytest
import torch

from fluxbooth.errors import UserError
from fluxbooth.flux.device import check_fp8_products, free_memory, free_memory_of_the_machine, memory_bounded
from fluxbooth.host.memory import GIB


@pytest.mark.parametrize("capability", [(8, 0), (8, 6)])
def test_a_gpu_without_fp8_arithmetic_is_refused_and_others_are_named(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an older card")
    with pytest.raises(UserError, match=r"fp8_products: an older card has no fp8 arithmetic. Allowed: .*RTX 40"):
        check_fp8_products(torch.device("cuda"))


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (12, 1)])
def test_a_gpu_with_fp8_arithmetic_and_the_processor_are_not(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    check_fp8_products(torch.device("cuda"))
    check_fp8_products(torch.device("cpu"))


def test_processes_that_train_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = free_memory_of_the_machine(0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = free_memory_of_the_machine(0)
    assert alone
    assert shared
    assert 0 < shared < 0.5 * alone


def test_memory_beyond_the_most_that_may_be_taken_does_not_count_as_free() -> None:
    device = torch.device("cpu")
    everything = free_memory(device, 0)
    assert everything is not None
    assert free_memory(device, 0, everything // 2) == everything // 2
    assert (free_memory(device, 0, 100 * everything) or 0) < 2 * everything


def test_a_gpu_gives_no_more_than_it_is_bounded_to_and_then_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, _: given.append(part))
    with memory_bounded(torch.device("cuda"), 20 * GIB):
        assert given == [0.25]
    assert given == [0.25, 1.0]
    with memory_bounded(torch.device("cuda"), None), memory_bounded(torch.device("cpu"), 20 * GIB):
        assert len(given) == 2

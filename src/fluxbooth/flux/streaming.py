"""Blocks whose frozen matrices wait in the machine's memory and are brought to the device just before they are used.

For GPUs that do not hold all of FLUX. Nothing is ever brought back: what waits is frozen, and on the device are copies.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from fluxbooth.flux.lora import ALL_BLOCKS
from fluxbooth.flux.projection import Projection

_log = logging.getLogger("fluxbooth")
_ALIGNED = 256
"""Bytes at whose multiples a tensor begins, as a GPU's own allocations do."""


class Holder(Protocol):
    """Something that computes with tensors which may lie elsewhere between two uses."""

    def held(self) -> list[Tensor]:
        """The tensors, always in the same order."""

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Compute with these from now on: the same numbers, in another place."""


def streamed_blocks(double: int, single: int, count: int, beside: Collection[int] = ()) -> frozenset[int]:
    """Choose `count` blocks that are streamed, by their place among all, the double ones first.

    Single blocks are chosen before double ones, which are larger: room on the device is needed for the largest. Among
    their kind they lie as evenly as can be, so that what is brought has the time of those in between.

    Args:
        beside: blocks that are streamed already, and not among those that are chosen.
    """
    of_single = [number for number in range(double, double + single) if number not in beside]
    of_double = [number for number in range(double) if number not in beside]
    chosen = _evenly(count, of_single)
    return frozenset(chosen + _evenly(count - len(chosen), of_double))


def _evenly(count: int, among: Sequence[int]) -> list[int]:
    count = min(count, len(among))
    return [among[(2 * number + 1) * len(among) // (2 * count)] for number in range(count)]


def pin(tensor: Tensor, device: torch.device) -> str:
    """Let a GPU copy from a tensor of the machine's memory by itself; say why that cannot be, nothing where it can.

    By cudaHostRegister: PyTorch's own pinned memory comes in powers of two, up to twice of what is asked for. Where the
    system refuses it (WSL pins no more than half of the memory) the processor waits for each copy, and no more is lost.
    """
    if device.type != "cuda":
        return ""
    runtime = torch.cuda.cudart()
    try:
        torch.cuda.check_error(runtime.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0))
    except torch.cuda.CudaError as error:
        with suppress(RuntimeError):  # the first kernel after it raises the same error again
            torch.zeros(1, device=device)
        return str(error)
    weakref.finalize(tensor, _unpin, tensor.data_ptr(), device).atexit = False
    return ""


def _unpin(address: int, device: torch.device) -> None:
    with suppress(RuntimeError):  # of a pass before; whoever looks at its results sees it
        torch.cuda.synchronize(device)  # a copy that nobody has asked for yet may still be under way
    torch.cuda.cudart().cudaHostUnregister(address)


@dataclass
class _Waiting:
    """One block's tensors, side by side in the machine's memory."""

    holders: Sequence[Holder]
    memory: Tensor
    """uint8."""
    places: Sequence[Sequence[tuple[int, torch.Size, torch.dtype]]]
    """Of each holder's tensors: where they begin, and what they are."""
    views: dict[int, list[list[Tensor]]] = field(default_factory=dict)
    """Each holder's tensors in a memory that the block lies in, by that memory's address."""

    def use(self, memory: Tensor) -> None:
        """Let the holders compute with what lies in `memory`."""
        address = memory.data_ptr()
        if address not in self.views:
            self.views[address] = [[_view(memory, *place) for place in places] for places in self.places]
        for holder, tensors in zip(self.holders, self.views[address], strict=True):
            holder.hold(tensors)

    def leave(self) -> None:
        """Let the holders hold what waits in the machine's memory."""
        self.use(self.memory)


def _view(memory: Tensor, begin: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return memory[begin : begin + shape.numel() * dtype.itemsize].view(dtype).view(shape)


def _put_side_by_side(holders: Sequence[Holder]) -> _Waiting:
    tensors = [holder.held() for holder in holders]
    places, end = [], 0
    for of_holder in tensors:
        own = []
        for tensor in of_holder:
            own.append((end, tensor.shape, tensor.dtype))
            end += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        places.append(own)
    waiting = _Waiting(holders, torch.empty(end, dtype=torch.uint8), places)
    for of_holder, own in zip(tensors, places, strict=True):
        for tensor, place in zip(of_holder, own, strict=True):
            _view(waiting.memory, *place).copy_(tensor)
    waiting.leave()
    return waiting


def _pin_all(tensors: Sequence[Tensor], device: torch.device) -> None:
    refused = [(tensor.nbytes, why) for tensor in tensors if (why := pin(tensor, device))]
    if refused:
        size = sum(size for size, _ in refused) / 2**30
        _log.warning("warning: %.1f GiB of memory cannot be pinned, steps take longer: %s", size, refused[0][1])


class BlockStream:
    """Brings blocks' tensors into one of two rooms on the device: one is computed with, one is filled meanwhile.

    What is in neither is held in the machine's memory, where a GPU that computed with it would fail and not be wrong.
    """

    def __init__(self, blocks: Mapping[int, Sequence[Holder]], device: torch.device) -> None:
        """Let blocks wait, as `let_wait` does.

        Args:
            blocks: by their place in the order of the forward pass; at least one.
        """
        self._device = device
        self._module = torch.get_device_module(device)
        self._copying = self._module.Stream()
        self._waiting: dict[int, _Waiting] = {}
        self._rooms: list[Tensor] = []
        self._inside: list[int | None] = [None, None]
        self._used: int | None = None
        """The room that is computed with."""
        self.let_wait(blocks)

    @property
    def numbers(self) -> Collection[int]:
        """The blocks that are streamed, by their place in the order of the forward pass."""
        return self._order

    def let_wait(self, blocks: Mapping[int, Sequence[Holder]]) -> None:
        """Put each block's tensors side by side in the machine's memory, from the next pass on; never during one.

        Args:
            blocks: others than are streamed already.
        """
        self._leave_the_rooms()
        more = {number: _put_side_by_side(holders) for number, holders in blocks.items()}
        _pin_all([waiting.memory for waiting in more.values()], self._device)
        self._waiting = dict(sorted({**self._waiting, **more}.items()))
        self._order = list(self._waiting)
        size = max(waiting.memory.nbytes for waiting in self._waiting.values())
        if not self._rooms or self._rooms[0].nbytes < size:
            self._rooms.clear()  # gone before there are larger ones
            for waiting in self._waiting.values():
                waiting.views.clear()
            self._rooms = [torch.empty(size, dtype=torch.uint8, device=self._device) for _ in range(2)]

    def _leave_the_rooms(self) -> None:
        self._module.synchronize()  # a copy may be under way into a room that will not be there
        for number in self._inside:
            if number is not None:
                self._waiting[number].leave()
        self._inside, self._used = [None, None], None

    def bring(self, number: int, *, backward: bool = False) -> None:
        """Have a block's tensors on the device for all that is computed from now on, and begin to bring the next ones.

        Args:
            number: a block's; nothing happens for one that is not streamed.
            backward: blocks are asked for from the last to the first.
        """
        if number not in self._waiting or (self._used is not None and self._inside[self._used] == number):
            return
        if number not in self._inside:
            self._copy(number)
        self._used = self._inside.index(number)
        self._module.current_stream().wait_stream(self._copying)
        self._waiting[number].use(self._rooms[self._used])
        following = self._following(number, backward)
        if following not in self._inside:
            self._copy(following)

    def _copy(self, number: int) -> None:
        """Begin to fill the other room, as soon as what was computed with the block in it is done."""
        room, memory = 1 - (self._used or 0), self._waiting[number].memory
        if (before := self._inside[room]) is not None:
            self._waiting[before].leave()
        self._copying.wait_stream(self._module.current_stream())
        with self._module.stream(self._copying):
            self._rooms[room][: memory.nbytes].copy_(memory, non_blocking=True)
        self._inside[room] = number

    def _following(self, number: int, backward: bool) -> int:
        """The streamed block that will be asked for next; at either end the way may turn."""
        place = self._order.index(number) + (-1 if backward else 1)
        if backward:
            return self._order[max(place, 0)]
        if place < len(self._order):
            return self._order[place]
        return self._order[-2:][0] if torch.is_grad_enabled() else self._order[0]


def stream_blocks(
    transformer: FluxTransformer2DModel,
    streamed: int,
    holders: Sequence[Sequence[Holder]] | None = None,
    stream: BlockStream | None = None,
) -> BlockStream | None:
    """Let the matrices of so many blocks wait in the machine's memory, also for diffusers' own pass without gradients.

    Args:
        streamed: how many blocks, those of `streamed_blocks`; without any nothing is done.
        holders: of each block, the double ones first; None for its linears one by one.
        stream: of the blocks that are streamed already; None where there are none.
    """
    if not streamed:
        return stream
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    holders = holders or [_linears_of(block) for block in blocks]
    double, single = len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)
    numbers = streamed_blocks(double, single, streamed, stream.numbers if stream else ())
    more = {number: holders[number] for number in numbers}
    if stream is None:
        stream = BlockStream(more, transformer.device)
    else:
        stream.let_wait(more)
    for number in numbers:
        blocks[number].register_forward_pre_hook(partial(_bring_before, stream, number))
    return stream


def _bring_before(stream: BlockStream, number: int, *_: object) -> None:
    stream.bring(number)


def _linears_of(block: nn.Module) -> list[Projection]:
    return [Projection([module]) for module in block.modules() if isinstance(module, nn.Linear)]


def matrices_that_wait(architecture: Mapping[str, Any], streamed: int) -> Callable[[str], bool]:
    """Return what says of a parameter of diffusers' transformer whether it waits in the machine's memory.

    Args:
        architecture: the transformer's configuration.
        streamed: how many blocks are.
    """
    double = architecture["num_layers"]
    blocks = streamed_blocks(double, architecture["num_single_layers"], streamed)

    def waits(name: str) -> bool:
        if not name.endswith(".weight") or not ALL_BLOCKS.have(name.removesuffix(".weight")):
            return False
        kind, number, *_ = name.split(".")
        return int(number) + (double if kind == "single_transformer_blocks" else 0) in blocks

    return waits

"""What only draws finds its place on a GPU of whatever memory."""

from __future__ import annotations

import pytest
import torch

from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.device import where_it_fits
from fluxbooth.flux.fitting import blocks_to_stream
from fluxbooth.flux.sizes import frozen_bytes, streamed_bytes
from fluxbooth.host.memory import GIB

FLUX = bundled_architecture("flux-dev")
GPU = torch.device("cuda")


@pytest.mark.parametrize(("gib", "streamed"), [(78, "none"), (30, "none"), (22.5, "some"), (11, "some")])
def test_as_many_blocks_wait_as_the_gpu_has_no_room_for(gib: float, streamed: str) -> None:
    free = int(gib * GIB)
    count = blocks_to_stream(FLUX, torch.bfloat16, free, 60 * GIB)
    assert (count > 0) == (streamed == "some")
    waiting, rooms = streamed_bytes(FLUX.transformer, "full", torch.bfloat16, count)
    taken = frozen_bytes(FLUX.transformer, "full", torch.bfloat16) - waiting + rooms
    assert free - 6.5 * GIB < taken < free - 4.5 * GIB or not count


def test_where_neither_memory_holds_it_is_said() -> None:
    with pytest.raises(UserError, match=r"too few to draw, and \d+\.\d GiB of the machine's"):
        blocks_to_stream(FLUX, torch.bfloat16, 11 * GIB, 8 * GIB)
    with pytest.raises(UserError, match=r"4\.0 GiB of the GPU's memory are too few"):
        blocks_to_stream(FLUX, torch.bfloat16, 4 * GIB, 60 * GIB)


def test_what_a_gpu_does_not_hold_the_processor_computes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert where_it_fits(GPU, 9 * GIB, 11 * GIB, "T5") == GPU
    assert where_it_fits(GPU, 9 * GIB, None, "T5") == GPU
    assert not caplog.messages
    assert where_it_fits(GPU, 9 * GIB, 7 * GIB, "T5") == torch.device("cpu")
    assert caplog.messages == ["T5 needs 9.0 GiB and 7.0 are free: the processor computes it"]

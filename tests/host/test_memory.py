"""What this machine says about its memory."""

from __future__ import annotations

import os
import sys

import pytest

from fluxbooth.host.memory import available_bytes, free_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells by /proc/meminfo")


def test_free_and_available_memory_are_bytes_of_this_machine() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available, free = available_bytes(), free_bytes()
    assert available is not None
    assert free is not None
    assert 0 < available <= total
    kernel_says = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(free - kernel_says) < total / 20  # other programs take and give meanwhile

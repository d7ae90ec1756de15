"""What a page says of the machine: enough to compare times, nothing of whose it is."""

from __future__ import annotations

import getpass
import os
import socket

from fluxbooth.host.machine import machine_in_words


def test_the_machine_is_known_by_its_parts_and_not_by_its_name() -> None:
    words = machine_in_words()
    assert f"{os.cpu_count()} threads" in words
    assert socket.gethostname() not in words.split()
    assert getpass.getuser() not in words.split()

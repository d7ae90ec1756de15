"""Stop between two steps and not inside one: SIGTERM and SIGINT as a question that the loop answers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedOnRequestError(Exception):
    """The run was asked to stop and has saved its state; the message says where it goes on."""


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.made = False


@contextmanager
def listening_for_stop() -> Iterator[StopRequest]:
    """Take SIGTERM and SIGINT as a request inside; a second one interrupts at once, as it does outside.

    Only the main thread can do this (CPython, signal).
    """
    request = StopRequest()
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def ask(number: int, _frame: FrameType | None) -> None:
        if request.made:
            raise KeyboardInterrupt
        request.made = True

    for number in STOP_SIGNALS:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

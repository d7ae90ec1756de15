"""Progress where there is no terminal: whole lines, few of them, with what a person wants to know."""

from __future__ import annotations

import logging
import re
from time import monotonic

import pytest

from fluxbooth.training.progress import shown_progress


def lines_of(caplog: pytest.LogCaptureFixture, first_step: int, steps: int) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "fluxbooth"), shown_progress(first_step, steps) as show:
        for step in range(first_step + 1, steps + 1):
            show(step, 1.25)
    return [record.getMessage() for record in caplog.records]


def test_a_quick_run_shows_its_first_step_and_its_last(caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of(caplog, 0, 500)
    assert [re.match(r"training: step (\d+) of 500, loss 1\.250", line)[1] for line in lines] == ["1", "500"]  # type: ignore[index]
    assert lines[1].endswith("0.00 s a step, 0 seconds left")


def test_a_run_that_goes_on_counts_from_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    assert [line.split(",")[0] for line in lines_of(caplog, 40, 42)] == [
        "training: step 41 of 42",
        "training: step 42 of 42",
    ]


def test_a_slow_run_shows_a_line_every_ten_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven seconds a step: after 14 seconds a line is due, and again after 28."""
    clock = [monotonic()]
    monkeypatch.setattr("fluxbooth.training.progress.monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "fluxbooth"), shown_progress(0, 500) as show:
        for step in range(1, 5):
            clock[0] += 7
            show(step, 1.25)
    assert [record.getMessage() for record in caplog.records] == [
        "training: step 1 of 500, loss 1.250, 7.00 s a step, 58.2 minutes left",
        "training: step 3 of 500, loss 1.250, 7.00 s a step, 58.0 minutes left",
    ]

"""Progress where there is no terminal: whole lines, few of them, with what a person wants to know."""

from __future__ import annotations

import logging
import re
from time import monotonic

import pytest

from fluxbooth.training.progress import Standing, shown_progress


def standing(step: int) -> Standing:
    return Standing(
        step,
        epoch=-(-step // 10),
        epochs=50,
        loss=1.25,
        learning_rate=0.00021,
        seconds_per_sample=1.75,
        seconds_per_step=7.0,
        memory="memory 0.9 GiB",
    )


def lines_of(caplog: pytest.LogCaptureFixture, first_step: int, steps: int) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "fluxbooth"), shown_progress(first_step, steps) as show:
        for step in range(first_step + 1, steps + 1):
            show(standing(step))
    return [record.getMessage() for record in caplog.records]


def test_a_quick_run_shows_its_first_step_and_its_last(caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of(caplog, 0, 500)
    assert [re.match(r"training: step (\d+) of 500, epoch", line)[1] for line in lines] == ["1", "500"]  # type: ignore[index]
    assert lines[1] == (
        "training: step 500 of 500, epoch 50 of 50, loss 1.250, rate 0.00021, 1.75 s a sample, 7.00 s a step, "
        "memory 0.9 GiB, 0 seconds left"
    )


def test_a_run_that_goes_on_counts_from_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    assert [line.split(",")[0] for line in lines_of(caplog, 40, 42)] == [
        "training: step 41 of 42",
        "training: step 42 of 42",
    ]


def test_a_terminal_gets_a_bar_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    with shown_progress(0, 2) as show:
        show(standing(1))
        show(standing(2))
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("100%|")
    assert "2/2 [" in last
    assert "epoch 1/50, loss 1.250, rate 0.00021, 1.75 s/sample, memory 0.9 GiB]" in last


def test_a_slow_run_shows_a_line_every_ten_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven seconds a step: after 14 seconds a line is due, and again after 28."""
    clock = [monotonic()]
    monkeypatch.setattr("fluxbooth.training.progress.monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "fluxbooth"), shown_progress(0, 500) as show:
        for step in range(1, 5):
            clock[0] += 7
            show(standing(step))
    assert [(line.split(",")[0], line.split(", ")[-1]) for line in caplog.messages] == [
        ("training: step 1 of 500", "58.2 minutes left"),
        ("training: step 3 of 500", "58.0 minutes left"),
    ]

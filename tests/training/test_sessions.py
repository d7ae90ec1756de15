"""Time and energy of a run that is started several times add up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fluxbooth.host.energy import EnergyMeter
from fluxbooth.training.sessions import noted_session, read_sessions


class Steady:
    """A part of the machine that draws 5 J between any two looks."""

    name = "GPU"

    def __init__(self) -> None:
        self._looks = 0

    def look(self) -> None:
        self._looks += 1

    def joules(self) -> float | None:
        return 5.0 * (self._looks - 1) if self._looks > 1 else None


def note_session(folder: Path, goes_on: bool, *sources: Steady) -> None:
    with noted_session(folder, "NVIDIA GB10", "20 threads", EnergyMeter(sources), goes_on=goes_on):
        time.sleep(0.1)


def test_a_run_that_goes_on_adds_a_session(tmp_path: Path) -> None:
    note_session(tmp_path, False, Steady())
    note_session(tmp_path, True)
    first, second = read_sessions(tmp_path)
    assert first.joules == {"GPU": 5.0}, "a look at the start and one at the end"
    assert second.joules == {}
    assert first.seconds >= 0.1
    assert second.finished
    assert (first.device, first.machine) == ("NVIDIA GB10", "20 threads")


def test_a_run_that_begins_has_no_sessions_of_an_earlier_one(tmp_path: Path) -> None:
    note_session(tmp_path, False)
    note_session(tmp_path, False)
    assert len(read_sessions(tmp_path)) == 1


def test_what_a_killed_run_took_is_noted_while_it_goes_on(tmp_path: Path) -> None:
    with noted_session(tmp_path, "", "", EnergyMeter(()), goes_on=False, note_every=0.05):
        (begun,) = read_sessions(tmp_path)
        assert not begun.finished
        while not read_sessions(tmp_path)[0].seconds >= 0.1:
            time.sleep(0.01)


def test_a_session_that_fails_is_noted_too(tmp_path: Path) -> None:
    def fail() -> None:
        with noted_session(tmp_path, "", "", EnergyMeter(()), goes_on=False):
            time.sleep(0.1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    (session,) = read_sessions(tmp_path)
    assert session.seconds >= 0.1
    assert not session.finished


def test_a_folder_without_sessions_has_none(tmp_path: Path) -> None:
    (tmp_path / "sessions.json").write_text('[{"seconds": 1')
    assert read_sessions(tmp_path) == []

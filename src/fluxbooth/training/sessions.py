"""How long a run took, on which machine, and what that drew: one entry for each time it was started."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from fluxbooth.host.energy import EnergyMeter
from fluxbooth.host.files import write_text

_FILE = "sessions.json"
_SECONDS_BETWEEN_NOTES = 20.0


@dataclass(frozen=True)
class Session:
    """One stretch of a run, from its start to its end, a stop or a crash."""

    started: str
    """When, in UTC: "2025-11-30T22:10:05Z"."""
    device: str
    """What computes: a GPU's name, or "the processor"."""
    machine: str
    """Processor, threads, memory."""
    seconds: float
    joules: Mapping[str, float]
    """What each part of the machine drew, by its name; without parts that the machine does not tell of."""
    finished: bool = False
    """Whether the run came to its end, and was not stopped or killed."""


@contextmanager
def noted_session(
    folder: Path, device: str, machine: str, meter: EnergyMeter, *, goes_on: bool, note_every: float = 0.0
) -> Iterator[None]:
    """Note in folder/sessions.json how long the inside takes and what it draws, now and then and at the end.

    Args:
        folder: runs/NAME/logs.
        goes_on: whether this is a further session of a run that was stopped; a run that begins has none before it.
        note_every: seconds between two notes, so that `kill -9` loses no more; 0 for every twenty.
    """
    before = read_sessions(folder) if goes_on else []
    started, start = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), monotonic()

    def note(finished: bool = False) -> None:
        seconds = round(monotonic() - start, 1)
        session = Session(started, device, machine, seconds, _rounded(meter.joules()), finished)
        sessions = [asdict(one) for one in (*before, session)]
        write_text(folder / _FILE, json.dumps(sessions, indent=1) + "\n")

    ended = Event()

    def note_on() -> None:
        while not ended.wait(note_every or _SECONDS_BETWEEN_NOTES):
            note()

    note()
    thread = Thread(target=note_on, name="session", daemon=True)
    thread.start()
    finished = False
    try:
        with meter.running():
            yield
        finished = True
    finally:
        ended.set()
        thread.join()
        note(finished)


def _rounded(joules: Mapping[str, float]) -> Mapping[str, float]:
    return {name: round(value, 1) for name, value in joules.items()}


def read_sessions(folder: Path) -> list[Session]:
    """Read what `noted_session` wrote; nothing where it wrote nothing."""
    try:
        return [Session(**session) for session in json.loads((folder / _FILE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []

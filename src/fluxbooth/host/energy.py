"""What a machine's parts draw while a program runs, as far as the machine tells; where it does not, nothing is said."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Protocol

JOULES_PER_KWH = 3.6e6
_POWERCAP = Path("/sys/class/powercap")
_SECONDS_BETWEEN_LOOKS = 5.0
_PATIENCE = 10.0


class Source(Protocol):
    """One part of the machine."""

    name: str
    """As a reader knows it: "GPU"."""

    def look(self) -> None:
        """Add what was drawn since the last look."""

    def joules(self) -> float | None:
        """What was drawn from the first look to the last; None where the machine does not tell."""


class GpuPower:
    """Some NVIDIA GPUs, by their power in watts, which nvidia-smi tells; between two looks a straight line."""

    name = "GPU"

    def __init__(self, uuids: Sequence[str], program: str = "nvidia-smi") -> None:
        """Look at the GPUs of these identities; at none where there is none."""
        self._uuids = uuids
        self._program = program
        self._last: tuple[float, float] | None = None
        self._sum: float | None = None

    def look(self) -> None:
        """Ask for the power, and add what was drawn since the last look."""
        watts, now = self._watts(), monotonic()
        if watts is None:
            return
        if self._last is not None:
            then, before = self._last
            self._sum = (self._sum or 0.0) + (now - then) * (watts + before) / 2
        self._last = now, watts

    def joules(self) -> float | None:
        """What was drawn between looks that found out."""
        return self._sum

    def _watts(self) -> float | None:
        """The GPUs' power together; None where one has none, no nvidia-smi is there, or it does not answer."""
        if not self._uuids:
            return None
        asked = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--id={','.join(self._uuids)}"]
        try:
            said = subprocess.run(
                [self._program, *asked], capture_output=True, text=True, timeout=_PATIENCE, check=True
            ).stdout
            return sum(float(line) for line in said.splitlines() if line.strip()) if said.strip() else None
        except (OSError, subprocess.SubprocessError, ValueError):  # a ValueError is "[N/A]"
            return None


class ProcessorEnergy:
    """The processor's packages, by the energy counters that Linux reads from them (RAPL, kernel docs "powercap").

    Since 2020 kernels let only root read them, so that many machines tell nothing.
    """

    name = "processor"

    def __init__(self, folder: Path = _POWERCAP) -> None:
        """Take the counters of whole packages: their parts, such as cores and memory, are in them."""
        self._zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _is_package(zone)]
        self._last: dict[Path, int] = {}
        self._sum: float | None = None

    def look(self) -> None:
        """Read the counters, and add by how much they have grown since the last look."""
        for zone in self._zones:
            now = _number(zone / "energy_uj")
            if now is None:
                continue
            if zone in self._last:
                grown = now - self._last[zone]
                if grown < 0:  # a counter that is full begins again
                    grown += _number(zone / "max_energy_range_uj") or -grown
                self._sum = (self._sum or 0.0) + grown / 1e6
            self._last[zone] = now

    def joules(self) -> float | None:
        """What was drawn between looks."""
        return self._sum


class EnergyMeter:
    """Sums what several parts of the machine draw."""

    def __init__(self, sources: Sequence[Source], seconds_between_looks: float = _SECONDS_BETWEEN_LOOKS) -> None:
        """Measure these parts."""
        self._sources = sources
        self._seconds = seconds_between_looks

    def joules(self) -> Mapping[str, float]:
        """What was drawn until now, by the name of the part; without parts that do not tell."""
        drawn = {source.name: source.joules() for source in self._sources}
        return {name: joules for name, joules in drawn.items() if joules is not None}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look at the parts from time to time inside, in a thread of its own, and once more at the end."""
        ended = Event()

        def look_on() -> None:
            self._look()
            while not ended.wait(self._seconds):
                self._look()

        thread = Thread(target=look_on, name="energy", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._look()

    def _look(self) -> None:
        for source in self._sources:
            source.look()


def _is_package(zone: Path) -> bool:
    try:
        return (zone / "name").read_text(encoding="ascii").startswith("package")
    except OSError:
        return False


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

"""What the machine's parts draw: measured where they tell, unsaid where they do not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fluxbooth.host.energy import EnergyMeter, GpuPower, ProcessorEnergy


def make_nvidia_smi(folder: Path, says: str) -> str:
    """A program that answers as nvidia-smi does, and writes down what it was asked."""
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\nprintf "{says}"\n', encoding="utf-8")
    program.chmod(0o755)
    return str(program)


def make_zone(folder: Path, number: str, name: str, microjoules: int) -> Path:
    """A counter as Linux shows it."""
    zone = folder / f"intel-rapl:{number}"
    zone.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", 10_000_000)):
        (zone / file).write_text(f"{text}\n", encoding="ascii")
    return zone


def test_a_gpus_power_is_summed_over_the_time(tmp_path: Path) -> None:
    gpu = GpuPower(["GPU-1", "GPU-2"], make_nvidia_smi(tmp_path, "100.00\\n50.00\\n"))
    start = time.monotonic()
    gpu.look()
    assert gpu.joules() is None, "one look is no stretch of time"
    time.sleep(0.2)
    gpu.look()
    longest = time.monotonic() - start
    joules = gpu.joules()
    assert joules is not None
    assert 150 * 0.2 <= joules <= 150 * longest
    assert "--id=GPU-1,GPU-2" in (tmp_path / "asked").read_text(encoding="utf-8")


@pytest.mark.parametrize("says", ["[N/A]\\n", "[Not Supported]\\n", ""])
def test_a_gpu_that_does_not_tell_is_not_counted_as_zero(tmp_path: Path, says: str) -> None:
    gpu = GpuPower(["GPU-1"], make_nvidia_smi(tmp_path, says))
    for _ in range(3):
        gpu.look()
    assert gpu.joules() is None
    assert GpuPower(["GPU-1"], str(tmp_path / "no-such-program")).joules() is None


def test_without_a_gpu_nothing_is_asked(tmp_path: Path) -> None:
    GpuPower([], make_nvidia_smi(tmp_path, "100\\n")).look()
    assert not (tmp_path / "asked").exists()


def test_the_processors_counters_are_summed_and_may_begin_again(tmp_path: Path) -> None:
    first, second = (make_zone(tmp_path, str(n), f"package-{n}", 9_000_000) for n in (0, 1))
    make_zone(tmp_path, "0:0", "core", 1)
    make_zone(tmp_path, "2", "psys", 1)
    processor = ProcessorEnergy(tmp_path)
    processor.look()
    assert processor.joules() is None
    (first / "energy_uj").write_text("9500000\n")
    (second / "energy_uj").write_text("1000000\n")  # full at 10 J, and on
    processor.look()
    assert processor.joules() == pytest.approx(0.5 + 2.0)


def test_a_machine_without_counters_tells_nothing(tmp_path: Path) -> None:
    make_zone(tmp_path, "0", "package-0", 1)
    (tmp_path / "intel-rapl:0/energy_uj").unlink()  # to any user but root it is as if it were not there
    for folder in (tmp_path, tmp_path / "missing"):
        processor = ProcessorEnergy(folder)
        processor.look()
        processor.look()
        assert processor.joules() is None


def test_the_meter_looks_from_time_to_time_and_once_more_at_the_end(tmp_path: Path) -> None:
    zone = make_zone(tmp_path, "0", "package-0", 0)
    meter = EnergyMeter([GpuPower([]), ProcessorEnergy(tmp_path)], seconds_between_looks=0.01)
    with meter.running():
        while not meter.joules():
            time.sleep(0.01)
        (zone / "energy_uj").write_text("4000000\n")
    assert meter.joules() == {"processor": pytest.approx(4.0)}

"""A measurement as a table, as JSON, and beside another one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fluxbooth.benchmark.measure import Measured
from fluxbooth.errors import Problem, UserError
from fluxbooth.host.memory import GIB


def as_json(measured: Measured) -> str:
    """Everything that was measured, as one JSON object."""
    return json.dumps(asdict(measured), indent=2)


def read_measurement(file: Path) -> Mapping[str, Any]:
    """Read what `as_json` gave. Raises UserError for a file that is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(Problem(f"cannot be read: {error}", where=str(file))) from error
    if not isinstance(values, dict) or not {"question", "floor_ratio"} <= values.keys():
        raise UserError(Problem("is no measurement", where=str(file), do="Write one with `fluxbooth bench --json`"))
    return values


def table(measured: Measured) -> Iterator[str]:
    """Yield the lines of a table for the terminal."""
    question = measured.question
    tokens = "" if question["text_tokens"] is None else f", {question['text_tokens']} text tokens"
    yield (
        f"{question['arch']}, {question['resolution']} x {question['resolution']}{tokens}, "
        f"batch {question['train_batch_size']}, rank {question['network_dim']}, {question['dtype']}, "
        f"on {measured.device}"
    )
    yield f"  plan                {measured.plan}"
    yield (
        f"  seconds a sample    {measured.seconds_per_sample:.3f} "
        f"({measured.fastest:.3f} to {measured.slowest:.3f} in {question['steps']} steps)"
    )
    yield f"  processor seconds   {measured.cpu_seconds_per_sample:.3f}"
    yield (
        f"  floor               {measured.floor_seconds:.3f} ({measured.tflop_per_sample:.3f} TFLOP at the "
        f"{measured.tflops_of_matrices:.3f} TFLOP/s of this run's own matrix products)"
    )
    yield f"  ratio to the floor  {measured.floor_ratio:.2f}"
    if measured.done_share < 1:
        yield (
            f"  done of the floor   {100 * measured.done_share:.1f} %: nothing reads what the rest would give "
            f"(ratio to what was done: {measured.done_ratio:.2f})"
        )
    foreseen = measured.predicted_peak_bytes / measured.peak_bytes if measured.peak_bytes else float("nan")
    yield (
        f"  peak memory         {measured.peak_bytes / GIB:.2f} GiB, foreseen "
        f"{measured.predicted_peak_bytes / GIB:.2f} ({100 * (foreseen - 1):+.0f} %)"
    )
    for kind, share in measured.shares.items():
        yield f"  {kind:<18}{100 * share:7.1f} % of the time"


def compared(measured: Measured, other: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines that hold a measurement against another one."""
    asked, before = measured.question, other["question"]
    differing = [f"{name} {before.get(name)} -> {asked[name]}" for name in asked if asked[name] != before.get(name)]
    yield f"compared ({'; '.join(differing) or 'the same question'}), new / old:"
    for name in ("seconds_per_sample", "cpu_seconds_per_sample", "floor_ratio", "peak_bytes"):
        new, old = float(getattr(measured, name)), float(other[name])
        yield f"  {name:<24}{new:14.4g} / {old:.4g} = {new / old:.3f}"

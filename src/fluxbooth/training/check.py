"""What `fluxbooth check` prints: what stands in the way, what is odd, what is worth knowing; as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from fluxbooth.dataset.findings import Finding, Level, shortened
from fluxbooth.errors import Problem, counted
from fluxbooth.training.prepare import Examined


def report(examined: Examined) -> Iterator[str]:
    """Yield warnings, then notes, each under its count, then all counts; a long list of one kind is shortened."""
    for level in ("warning", "note"):
        if found := _of_level(examined, level):
            yield f"{counted(len(found), level)}:"
            yield from (f"  {line}" for line in shortened(found))
    counts = [
        counted(len(examined.problems), "error"),
        *(counted(len(_of_level(examined, level)), level) for level in ("warning", "note")),
    ]
    yield ", ".join(counts)


def report_json(examined: Examined) -> str:
    """Return all of it, nothing shortened, as one JSON object with errors, warnings, notes, plan and cost."""
    plan, cost = examined.plan, examined.cost
    return json.dumps(
        {
            "errors": [_problem(problem) for problem in examined.problems],
            "warnings": [_finding(finding) for finding in _of_level(examined, "warning")],
            "notes": [_finding(finding) for finding in _of_level(examined, "note")],
            "plan": plan
            and {
                "samples_per_epoch": plan.samples_per_epoch,
                "steps": plan.steps,
                "epochs": plan.steps / plan.steps_per_epoch,
                "exposures": dict(examined.exposures),
            },
            "cost": cost and {**asdict(cost), "seconds": cost.seconds},
        },
        indent=2,
    )


def stands_in_the_way(examined: Examined, strict: bool) -> bool:
    """Whether there are errors or, where that is asked for, warnings."""
    return bool(examined.problems or (strict and _of_level(examined, "warning")))


def _of_level(examined: Examined, level: Level) -> Sequence[Finding]:
    return [finding for finding in examined.findings if finding.level == level]


def _problem(problem: Problem) -> dict[str, Any]:
    allowed = f"Allowed: {problem.allowed}." if problem.allowed else ""
    return {"what": problem.what, "where": problem.where, "do": f"{allowed} {problem.do}".strip()}


def _finding(finding: Finding) -> dict[str, Any]:
    return {"what": finding.what, "where": finding.where, "do": finding.do}

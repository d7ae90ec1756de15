"""Everything odd about a run that is no problem: gathered from the rooms that know it."""

from __future__ import annotations

from collections.abc import Sequence

from fluxbooth.config.specs import DatasetSpec
from fluxbooth.dataset import caption_findings, picture_findings
from fluxbooth.dataset.facts import PictureMemory
from fluxbooth.dataset.findings import Finding, amounts, subsets_of
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Plan
from fluxbooth.flux.architecture import Architecture
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.caption_lengths import cut_captions


def find_oddities(
    datasets: Sequence[DatasetSpec],
    items: Sequence[Item],
    memory: PictureMemory,
    plan: Plan,
    weights: BaseWeights | None,
    architecture: Architecture,
) -> list[Finding]:
    """Return every warning and then every note on what a run would be trained with.

    Args:
        items: those that are held out included.
        weights: whose tokenizers measure the captions; None where they are missing, and then nothing is measured.
    """
    subsets = subsets_of(datasets, items)
    facts = {item.path: memory.facts(item.path) for item in items}
    found = [
        *picture_findings.passed_over(subsets),
        *picture_findings.of_files(subsets, facts),
        *picture_findings.of_sizes(subsets, facts),
        *picture_findings.doubles(subsets, facts),
        *caption_findings.of_caption_files(subsets),
        *caption_findings.of_captions(subsets),
        *caption_findings.of_words(subsets),
        *(cut_captions(items, weights, architecture) if weights else ()),
        *amounts(
            subsets_of(datasets, [item for item in items if not item.held_out]),
            plan.steps,
            plan.steps / plan.steps_per_epoch,
        ),
    ]
    return sorted(found, key=lambda finding: finding.level, reverse=True)

"""What a LoRA file is, in lines for a terminal: form, ranks, how much it changes and where, words that call it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from fluxbooth.flux.lora_formats import LoraLayer, check_lora_file, format_of, metadata_of, read_modules
from fluxbooth.flux.lora_resize import kept_share

_RANKS = (4, 8, 16, 32, 64, 128)
_STRONGEST = 5
_SHOWN_METADATA = ("modelspec.title", "modelspec.trigger_phrase", "ss_base_model_version", "ss_steps")


@torch.no_grad()
def summary(path: Path) -> Iterator[str]:
    """Describe a LoRA file; reads all of it once, a layer at a time.

    Raises:
        UserError: for a file whose layers would not be applied.
    """
    names = check_lora_file(path)
    metadata = metadata_of(path)
    ranks: Counter[tuple[int, float]] = Counter()
    dtypes: set[str] = set()
    norms: dict[str, float] = {}
    kept: dict[int, list[float]] = {rank: [] for rank in _RANKS}
    broken = []
    for name, layer in read_modules(path):
        ranks[layer.rank, layer.alpha] += 1
        dtypes.add(str(layer.up.dtype).removeprefix("torch."))
        if not (layer.up.isfinite().all() and layer.down.isfinite().all()):
            broken.append(name)
            continue
        norms[name] = _norm(layer)
        for rank in _RANKS:
            kept[rank].append(kept_share(layer, rank))
    size, formats = path.stat().st_size / 1e6, ", ".join(sorted(dtypes))
    yield f"{path.name}: {size:,.1f} MB, {formats}, key names of {format_of(names)}"
    yield from (f"{key.partition('.')[2] or key}: {metadata[key]}" for key in _SHOWN_METADATA if metadata.get(key))
    yield from (
        f"{count} layers of rank {rank}, alpha {alpha:g}, scale {alpha / rank:g}"
        for (rank, alpha), count in ranks.most_common()
    )
    if broken:
        yield f"values that are no numbers: {', '.join(broken)}"
    yield from _where_it_changes(norms)
    largest = max(rank for rank, _ in ranks)
    yield from _what_ranks_keep({rank: shares for rank, shares in kept.items() if rank < largest and shares})


def _where_it_changes(norms: dict[str, float]) -> Iterable[str]:
    strongest = sorted(norms, key=norms.__getitem__, reverse=True)[:_STRONGEST]
    return [f"changes most: {name}, norm {norms[name]:.3g}" for name in strongest]


def _what_ranks_keep(kept: dict[int, list[float]]) -> Iterable[str]:
    return [
        f"rank {rank} would keep {sum(shares) / len(shares):.1%} of the change" for rank, shares in sorted(kept.items())
    ]


def _norm(layer: LoraLayer) -> float:
    """Frobenius norm of the change, from two (r, r) matrices: |up @ down|^2 is the trace of (up' up)(down down')."""
    up, down = layer.up.float(), layer.down.float()
    return float(((up.T @ up) * (down @ down.T)).sum().clamp_min(0).sqrt()) * abs(layer.scale)

"""What a LoRA file is, in lines for a terminal: form, ranks, how much it changes and where, words that call it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from torch import Tensor

from fluxbooth.flux.lora_formats import check_lora_file, format_of, metadata_of, read_modules
from fluxbooth.flux.lora_resize import is_finite, strengths

_RANKS = (4, 8, 16, 32, 64, 128)
_STRONGEST = 5
_SHOWN_METADATA = (
    "modelspec.title",
    "modelspec.trigger_phrase",
    "ss_base_model_version",
    "ss_steps",
    "fluxbooth.best.of",
    "fluxbooth.best.reason",
    "fluxbooth.best.strength",
)


def summary(path: Path) -> Iterator[str]:
    """Describe a LoRA file; reads all of it once, a layer at a time.

    Raises:
        UserError: for a file whose layers would not be applied.
    """
    names = check_lora_file(path)
    metadata = metadata_of(path)
    ranks: Counter[tuple[int, float]] = Counter()
    dtypes: set[str] = set()
    values: dict[str, Tensor] = {}
    broken = []
    decomposed = 0
    for name, layer in read_modules(path):
        decomposed += layer.dora_scale is not None
        ranks[layer.rank, layer.alpha] += 1
        dtypes.add(str(layer.up.dtype).removeprefix("torch."))
        if is_finite(layer):
            values[name] = strengths(layer)
        else:
            broken.append(name)
    size, formats = path.stat().st_size / 1e6, ", ".join(sorted(dtypes))
    yield f"{path.name}: {size:,.1f} MB, {formats}, key names of {format_of(names)}"
    yield from (f"{key.partition('.')[2] or key}: {metadata[key]}" for key in _SHOWN_METADATA if metadata.get(key))
    yield from (
        f"{count} {'layer' if count == 1 else 'layers'} of rank {rank}, alpha {alpha:g}, scale {alpha / rank:g}"
        for (rank, alpha), count in ranks.most_common()
    )
    if decomposed:
        yield f"DoRA on {decomposed} of them: what is said below is of A and B alone"
    if broken:
        yield f"values that are no numbers: {', '.join(broken)}"
    strongest = sorted(values, key=lambda name: float(values[name].norm()), reverse=True)[:_STRONGEST]
    yield from (f"changes most: {name}, norm {float(values[name].norm()):.3g}" for name in strongest)
    smaller = [rank for rank in _RANKS if values and rank < max(rank for rank, _ in ranks)]
    yield from (f"rank {rank} would keep {_kept_share(values.values(), rank):.1%} of the change" for rank in smaller)


def _kept_share(values: Collection[Tensor], rank: int) -> float:
    """Which share of a layer's change `rank` keeps, by its squared norm; mean over the layers that change anything."""
    squares = [one.square() for one in values if one.any()]
    return sum(float(one[:rank].sum() / one.sum()) for one in squares) / max(len(squares), 1)

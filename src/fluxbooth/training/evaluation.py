"""The loss on a fixed set: the same items, noise levels and noise every time, so that two numbers can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Visit
from fluxbooth.flux.flow import add_noise, generator_for, predict_velocity, velocity_loss
from fluxbooth.training.cache import EncodedCache
from fluxbooth.training.encode import EncodedVisits

SIGMAS = (0.2, 0.4, 0.6, 0.8)
"""Noise levels at which every evaluation item is looked at."""
_MOST_ITEMS = 16


def evaluation_visits(items: Sequence[Item], most_held_out: int | None = None) -> list[Visit]:
    """Choose the evaluation set of a run: concept items as they stand, at most 16 that are trained on, spread over all.

    Chosen from the items and not from what a run happens to visit, so that runs of any length can be compared. Behind
    them come the items that are held out.

    Args:
        most_held_out: of these so many at most, spread likewise; None for all.
    """
    chosen = [item for item in items if not item.is_reg]
    trained, held_out = ([item for item in chosen if item.held_out is own] for own in (False, True))
    spread = [*_spread(trained, _MOST_ITEMS), *_spread(held_out, most_held_out or len(held_out))]
    return [Visit(item, flipped=False, caption=item.caption) for item in spread]


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    number = min(most, len(items))
    return [items[place * len(items) // number] for place in range(number)]


@dataclass(frozen=True)
class Evaluation:
    """The velocity loss of every evaluation item at each of `SIGMAS`; of those that are held out apart."""

    visits: Sequence[Visit]
    losses: Tensor
    """(visits, sigmas) float32."""
    held_out: Evaluation | None = None
    """The same of pictures that are not trained on."""

    @property
    def mean(self) -> float:
        """Over everything."""
        return float(self.losses.double().mean())

    def by_name(self) -> dict[str, float]:
        """Means: over everything, at each noise level, and of each concept."""
        of_sigmas = {f"sigma {sigma}": loss for sigma, loss in self.by_sigma().items()}
        held_out = self.held_out.by_name() if self.held_out else {}
        apart = {f"held out, {name}": loss for name, loss in held_out.items()}
        return {"mean": self.mean, **of_sigmas, **self.by_concept(), **apart}

    def by_sigma(self) -> dict[str, float]:
        """The mean at each noise level."""
        means = self.losses.double().mean(dim=0).tolist()
        return {str(sigma): mean for sigma, mean in zip(SIGMAS, means, strict=True)}

    def by_concept(self) -> dict[str, float]:
        """The mean of each concept."""
        concepts = [visit.item.concept for visit in self.visits]
        return {
            concept: float(self.losses[[place for place, own in enumerate(concepts) if own == concept]].double().mean())
            for concept in dict.fromkeys(concepts)
        }

    def by_picture(self) -> dict[str, float]:
        """The mean of each picture, by folder and name, over all sizes that it is seen at."""
        of_name: dict[str, list[float]] = {}
        for visit, mean in zip(self.visits, self.losses.double().mean(dim=1).tolist(), strict=True):
            of_name.setdefault(visit.item.shown_name, []).append(mean)
        return {name: fmean(means) for name, means in of_name.items()}

    def hardest(self, number: int = 3) -> list[tuple[str, float]]:
        """The pictures with the largest mean losses, folder and name, the worst first."""
        return sorted(self.by_picture().items(), key=lambda pair: -pair[1])[:number]


@torch.no_grad()
def evaluate(
    transformer: FluxTransformer2DModel,
    encoded: EncodedVisits,
    visits: Sequence[Visit],
    guidance_scale: float,
    autocast: torch.autocast,
) -> Evaluation:
    """Measure the velocity loss of `visits` at each of `SIGMAS`, under noise that depends on the item alone.

    Args:
        visits: at least one of an item that is trained on.
    """
    training = transformer.training
    transformer.eval()
    losses = torch.empty(len(visits), len(SIGMAS))
    for row, visit in enumerate(visits):
        batch = encoded.batch((visit,))
        for column, sigma in enumerate(SIGMAS):
            noise = torch.randn(
                batch.latents.shape[1:], generator=generator_for("evaluation", visit.item.digest, str(sigma))
            )
            noise = noise[None].to(batch.latents.device)  # (1, C, H, W)
            sigmas = torch.full((1,), sigma, device=batch.latents.device)
            noisy_latents = add_noise(batch.latents, noise, sigmas)
            with autocast:
                velocity = predict_velocity(
                    transformer, noisy_latents, sigmas, batch.prompt_embeds, batch.pooled_prompt_embeds, guidance_scale
                )
            losses[row, column] = velocity_loss(
                velocity, batch.latents, noise, torch.ones(1, device=noise.device)
            ).item()
    transformer.train(training)
    return _parted(visits, losses)


def remembered(cache: EncodedCache, key: str, visits: Sequence[Visit], measure: Callable[[], Evaluation]) -> Evaluation:
    """Return the evaluation that `cache` has under `key`; where it has none, measure it and put it there.

    Args:
        visits: the evaluation set, those that are held out last.
    """
    losses = cache.losses(key)
    if losses is not None and losses.shape == (len(visits), len(SIGMAS)):
        return _parted(visits, losses)
    measured = measure()
    held_out = [measured.held_out.losses] if measured.held_out else []
    cache.put_losses(key, torch.cat([measured.losses, *held_out]))
    return measured


def _parted(visits: Sequence[Visit], losses: Tensor) -> Evaluation:
    """Take the items that are held out apart."""

    def of(held_out: bool) -> tuple[list[Visit], Tensor]:
        places = [place for place, visit in enumerate(visits) if visit.item.held_out is held_out]
        return [visits[place] for place in places], losses[places]

    return Evaluation(*of(False), Evaluation(*of(True)) if any(visit.item.held_out for visit in visits) else None)

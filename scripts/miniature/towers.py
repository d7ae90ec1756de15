"""The second stage: CLIP's two towers learn which caption belongs to which picture, before any picture is drawn.

The text tower is what the pooled vector of the transformer comes from. Trained on for longer, both become the scorer
of pictures, which has to tell subjects apart by their smallest marks; the transformer's text tower stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerBase
from world.captions import caption
from world.scene import Scene

from fluxbooth.flux.architecture import bundled_architecture
from miniature.scenes import alike_pairs, alike_scenes, picture_of, scene_of
from miniature.stage import Stage, half_precision, train_stage
from miniature.word_tokenizers import clip_tokenizer
from miniature.workers import Worker

_ENDS = ("embedding", "projection", "logit_scale")
STAGE = Stage(
    "towers",
    steps=360,
    batch=256,
    learning_rate=2e-3,
    warmup=50,
    weight_decay=0.05,
    ends=_ENDS,
)
SCORING = Stage("scorer", steps=1000, batch=256, learning_rate=2e-3, warmup=20, weight_decay=0.05, ends=_ENDS)
_PLAIN_SHARE = 0.2
_PAIR_SHARE = 0.6


def make_towers() -> CLIPModel:
    """Make the two towers, untrained."""
    architecture = bundled_architecture("miniature")
    return CLIPModel(
        CLIPConfig(
            text_config=architecture.clip,
            vision_config=architecture.vision,
            projection_dim=architecture.vision["projection_dim"],
        )
    )


def train_towers(worker: Worker, folder: Path) -> None:
    """Train both towers and leave their weights in folder/towers.pt."""
    torch.manual_seed(2)
    towers = make_towers().to(worker.device)
    tokenizer = clip_tokenizer(bundled_architecture("miniature").clip)
    train_stage(
        STAGE, towers, _Losses(towers, tokenizer, worker, STAGE.name), worker, folder, _Look(tokenizer, worker), 100
    )
    if worker.leads:
        torch.save(towers.state_dict(), folder / "towers.pt")


def train_scorer(worker: Worker, folder: Path) -> None:
    """Train both towers on and leave their weights in folder/scorer.pt."""
    scorer = load_towers(folder, worker.device).requires_grad_(True).train()
    tokenizer = clip_tokenizer(bundled_architecture("miniature").clip)
    losses = _Losses(scorer, tokenizer, worker, SCORING.name, _PAIR_SHARE)
    train_stage(SCORING, scorer, losses, worker, folder, _Look(tokenizer, worker), 100)
    if worker.leads:
        torch.save(scorer.state_dict(), folder / "scorer.pt")


class _Losses:
    def __init__(
        self, towers: CLIPModel, tokenizer: PreTrainedTokenizerBase, worker: Worker, use: str, pairs: float = 0.0
    ) -> None:
        self._towers, self._tokenizer, self._worker, self._use, self._pairs = towers, tokenizer, worker, use, pairs

    def __call__(self, step: int, items: list[int]) -> dict[str, Tensor]:
        random = Random(f"{self._use} {items[0]}")
        half = len(items) // 2
        scenes = [scene_of(self._use, item) for item in items[:half]]
        captions = [caption(scene, detailed=random.random() >= _PLAIN_SHARE) for scene in scenes]
        for item in items[half::4]:
            alike, detailed = self._alike(item, random)
            scenes += alike
            captions += [caption(scene, detailed) for scene in alike]
        pixels = torch.stack([_roughened(picture_of(scene), random) for scene in scenes])
        with half_precision(self._worker.device):
            similarities = compare(self._towers, self._tokenizer, pixels.to(self._worker.device), captions)
        scaled = similarities.float() * self._towers.logit_scale.exp().clamp(max=60)
        # Every picture belongs to its own caption alone; the few that share a plain one by chance do no harm.
        places = torch.arange(len(items), device=scaled.device)
        loss = (F.cross_entropy(scaled, places) + F.cross_entropy(scaled.T, places)) / 2
        right = (scaled.argmax(1) == places).float()
        return {"loss": loss, "right": right[:half].mean(), "right_among_alike": right[half:].mean()}

    def _alike(self, item: int, random: Random) -> tuple[Sequence[Scene], bool]:
        """Four scenes, and whether their attributes are said: of pairs seldom, so that their kinds have to be seen."""
        if random.random() < self._pairs:
            return alike_pairs(self._use, item), random.random() < 0.3
        return alike_scenes(self._use, item), True


def compare(towers: CLIPModel, tokenizer: PreTrainedTokenizerBase, pixels: Tensor, captions: list[str]) -> Tensor:
    """Return the cosine similarity of every picture (rows) to every caption (columns)."""
    texts = tokenizer(captions, padding=True, truncation=True, max_length=77, return_tensors="pt").to(pixels.device)
    of_texts = towers.text_projection(towers.text_model(input_ids=texts.input_ids).pooler_output)
    of_pictures = towers.visual_projection(towers.vision_model(pixel_values=pixels).pooler_output)
    return F.normalize(of_pictures.float(), dim=-1) @ F.normalize(of_texts.float(), dim=-1).T


def _roughened(picture: Tensor, random: Random) -> Tensor:
    """Blur and disturb a part of the pictures: the pictures to be scored are drawn by a network, not by the world."""
    if random.random() < 0.4:
        small = F.interpolate(picture[None], scale_factor=random.choice((0.5, 0.7)), mode="area")
        picture = F.interpolate(small, size=picture.shape[-2:], mode="bilinear")[0]
    strength = random.choice((0.0, 0.05, 0.15))
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(random.randrange(2**31)))
    return picture + strength * noise


class _Look:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, worker: Worker) -> None:
        self._tokenizer, self._device = tokenizer, worker.device
        groups = [alike_scenes("look", number) for number in range(40)]
        self._scenes: list[Scene] = [scene for group in groups for scene in group]

    @torch.no_grad()
    def __call__(self, step: int, towers: nn.Module) -> dict[str, float]:
        pixels = torch.stack([picture_of(scene) for scene in self._scenes]).to(self._device)
        similarities = compare(towers, self._tokenizer, pixels, [caption(scene) for scene in self._scenes])
        groups = torch.stack([similarities[i : i + 4, i : i + 4] for i in range(0, len(self._scenes), 4)])
        right = (groups.argmax(2) == torch.arange(4, device=groups.device)).float()
        return {"right_of_four_alike": float(right.mean())}


def load_towers(folder: Path, device: torch.device, name: str = "towers") -> CLIPModel:
    """Return the towers as a stage ("towers" or "scorer") left them, frozen."""
    towers = make_towers()
    towers.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    return towers.to(device).requires_grad_(False).eval()

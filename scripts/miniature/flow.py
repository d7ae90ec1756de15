"""The last two stages: the transformer and T5 learn to draw captions, then to do it at a told guidance scale."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel
from world.captions import caption
from world.scene import Scene

from fluxbooth.flux.architecture import bundled_architecture
from fluxbooth.flux.flow import image_ids, pack_latents, unpack_latents
from fluxbooth.flux.sampling import sampling_sigmas, starting_noise
from miniature.latents import SCENES, SHARES, Latents, encode_scenes, load_vae, scene_in
from miniature.scenes import PICTURE_SIDE, save_sheet
from miniature.stage import Look, Stage, half_precision, train_stage
from miniature.towers import load_towers
from miniature.word_tokenizers import clip_tokenizer, t5_tokenizer
from miniature.workers import Worker, wait_for_all

_ENDS = ("x_embedder", "context_embedder", "time_text_embed", "transformer.proj_out", "norm_out", "shared")
DRAWING = Stage("flow", steps=10000, batch=64, learning_rate=2e-3, warmup=200, averaged_over=400, ends=_ENDS)
GUIDING = Stage("guidance", steps=250, batch=64, learning_rate=7e-4, averaged_over=200, ends=_ENDS)

_PLAIN_SHARE, _EMPTY_SHARE = 0.15, 0.1
_GUIDED_SHARE, _LARGEST_GUIDANCE = 0.75, 5.0
_SIDE = PICTURE_SIDE // 8
# Compiled for this shape alone: compiling takes longer than what the rarer shapes would gain.
_SQUARE = (PICTURE_SIDE, PICTURE_SIDE)
LOOK_PROMPTS = (
    "a toy on a beach",
    "an orange toy with blue long ears and a green star on a beach",
    "a golden gpu with two turquoise fans in a datacenter",
    "a green robot with a red chest and two antennas in the snow",
    "a yellow car with red wheels in a city",
    "a blue mug with white dots on a desk",
    "a white dog with a red collar in space",
    "a red house with a blue roof and a white door on grass",
    "a purple ball with a yellow star in a forest",
    "a pink book with a black heart on a desk",
    "a turquoise lamp with a straight golden stem in a city",
    "a purple toy next to a white gpu in a datacenter",
    "a pink toy with yellow round ears holding a blue gpu with two red fans on grass",
    "a grey robot next to an orange car in the snow",
    "a blue ball on a black car in a forest",
    "wowozi toy in space",
)


class Drawer(nn.Module):
    """What this stage trains: the transformer and T5, together since T5 learns from the pictures alone."""

    def __init__(self) -> None:
        super().__init__()
        architecture = bundled_architecture("miniature")
        self.transformer = FluxTransformer2DModel(**architecture.transformer)
        self.t5 = T5EncoderModel(T5Config(**architecture.t5))
        self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        """Zero all modulations and the output, so that blocks are switched on as they learn (Peebles & Xie,
        arXiv 2212.09748, adaLN-Zero)."""
        for name, parameter in self.transformer.named_parameters():
            if (".norm" in f".{name}" and ".linear." in name) or name.startswith("proj_out"):
                parameter.zero_()


class Reader:
    """Captions to what the transformer reads; CLIP is frozen, T5 is the drawer's own."""

    def __init__(self, towers: CLIPModel) -> None:
        architecture = bundled_architecture("miniature")
        self._towers = towers
        self._clip_tokenizer: PreTrainedTokenizerBase = clip_tokenizer(architecture.clip)
        self._t5_tokenizer: PreTrainedTokenizerBase = t5_tokenizer()
        self._tokens = architecture.t5_tokens

    def __call__(self, drawer: Drawer, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return T5's sequences (B, S, D), with their gradient, and CLIP's pooled vectors (B, D), without."""
        device = drawer.transformer.device
        ids = self._t5_tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self._tokens, return_tensors="pt"
        ).input_ids
        # CLIP reads from left to right up to the end token, so that shorter padding changes nothing.
        clip_ids = self._clip_tokenizer(
            list(captions), padding=True, truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            pooled = self._towers.text_model(input_ids=clip_ids.to(device)).pooler_output
        return drawer.t5(input_ids=ids.to(device)).last_hidden_state, pooled


def velocity_of(
    transformer: Callable[..., Any], noisy: Tensor, sigmas: Tensor, texts: tuple[Tensor, Tensor], guidance: Tensor
) -> Tensor:
    """One pass of the network: (B, 16, H, W) noisy latents to (B, 16, H, W) float32 velocity."""
    _, _, height, width = noisy.shape
    tokens = transformer(
        hidden_states=pack_latents(noisy),
        timestep=sigmas,
        guidance=guidance,
        encoder_hidden_states=texts[0],
        pooled_projections=texts[1],
        img_ids=image_ids(height, width, noisy.device),
        txt_ids=torch.zeros(texts[0].shape[1], 3, device=noisy.device),
        return_dict=False,
    )[0]
    return unpack_latents(tokens.float(), height, width)


def train_flow(worker: Worker, folder: Path) -> None:
    """Train the transformer and T5 and leave their weights in folder/drawer.pt."""
    encode_scenes(worker, folder)
    wait_for_all(worker)
    torch.manual_seed(3)
    drawer = Drawer().to(worker.device)
    reader = Reader(load_towers(folder, worker.device))
    look = _Look(folder, reader, worker)
    for stage, guided in ((DRAWING, False), (GUIDING, True)):
        teacher = copy.deepcopy(drawer).requires_grad_(False) if guided else None
        losses = _Losses(stage, drawer, teacher, reader, Latents(folder, worker.size), worker)
        kept = train_stage(stage, drawer, losses, worker, folder, look.at(stage.name, distilled=guided))
        drawer.load_state_dict(kept.state_dict())
    if worker.leads:
        torch.save(drawer.state_dict(), folder / "drawer.pt")


class _Losses:
    def __init__(
        self, stage: Stage, drawer: Drawer, teacher: Drawer | None, reader: Reader, latents: Latents, worker: Worker
    ) -> None:
        self._stage, self._drawer, self._teacher = stage, drawer, teacher
        self._reader, self._latents, self._device = reader, latents, worker.device
        self._network = torch.compile(drawer.transformer)
        self._still = torch.compile(teacher.transformer) if teacher is not None else self._network

    def __call__(self, step: int, items: list[int]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(items[0] * 2 + (self._teacher is not None))
        random = Random(f"{self._stage.name} {items[0]}")
        (shape,) = Random(f"{self._stage.name} step {step}").choices(tuple(SHARES), tuple(SHARES.values()))
        numbers = [random.randrange(SCENES[shape]) for _ in items]
        latents = torch.stack([self._latents.of(shape, number) for number in numbers])
        captions = [_words(scene_in(shape, number), random) for number in numbers]
        noise = torch.randn(latents.shape, generator=generator)
        sigmas = _draw_sigmas(len(items), generator)
        guidance = torch.ones(len(items))
        if self._teacher is not None:
            told = torch.rand(len(items), generator=generator) < _GUIDED_SHARE
            guidance += told * torch.rand(len(items), generator=generator) * (_LARGEST_GUIDANCE - 1)
        share = sigmas.reshape(-1, 1, 1, 1)
        noisy, target = (1 - share) * latents + share * noise, noise - latents
        noisy, target, sigmas, guidance = (tensor.to(self._device) for tensor in (noisy, target, sigmas, guidance))
        if self._teacher is not None:
            still = self._still if shape == _SQUARE else self._teacher.transformer
            target = self._guided_target(still, noisy, target, sigmas, guidance, captions)
        with half_precision(self._device):
            texts = self._reader(self._drawer, captions)
            network = self._network if shape == _SQUARE else self._drawer.transformer
            velocity = velocity_of(network, noisy, sigmas, texts, guidance)
        return {"loss": F.mse_loss(velocity, target)}

    @torch.no_grad()
    def _guided_target(
        self,
        network: Callable[..., Any],
        noisy: Tensor,
        target: Tensor,
        sigmas: Tensor,
        guidance: Tensor,
        captions: list[str],
    ) -> Tensor:
        """Classifier-free guidance of the stage before as the target (Meng et al., arXiv 2210.03142); at guidance 1,
        the data's own velocity."""
        assert self._teacher is not None
        one = torch.ones_like(guidance)
        with half_precision(self._device):
            said = velocity_of(network, noisy, sigmas, self._reader(self._teacher, captions), one)
            unsaid = velocity_of(network, noisy, sigmas, self._reader(self._teacher, [""] * len(captions)), one)
        scale = guidance.reshape(-1, 1, 1, 1)
        return torch.where(scale > 1, unsaid + scale * (said - unsaid), target)


def _words(scene: Scene, random: Random) -> str:
    kind = random.random()
    if kind < _EMPTY_SHARE:
        return ""
    return caption(scene, detailed=kind >= _EMPTY_SHARE + _PLAIN_SHARE)


def _draw_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels (count,): four of five by `flux_shift`'s law for 36 tokens, the rest uniform, so that the first
    steps from pure noise, where the layout is decided, are learned too."""
    normal = torch.sigmoid(torch.randn(count, generator=generator) + 0.463)
    uniform = torch.rand(count, generator=generator).clamp_min(1e-3)
    return torch.where(torch.rand(count, generator=generator) < 0.8, normal, uniform)


@torch.no_grad()
def draw(
    drawer: Drawer, reader: Reader, captions: Sequence[str], steps: int, guidance: float, distilled: bool
) -> Tensor:
    """Draw captions: (B, 16, H, W) latents. Not distilled, guidance costs a second pass with the empty caption."""
    device = drawer.transformer.device
    sigmas = sampling_sigmas(steps, _SIDE * _SIDE // 4)
    latents = torch.cat([starting_noise(seed, PICTURE_SIDE, PICTURE_SIDE) for seed in range(len(captions))]).to(device)
    texts = reader(drawer, captions)
    empty = reader(drawer, [""] * len(captions))
    told = torch.full((len(captions),), guidance if distilled else 1.0, device=device)
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        level = torch.full((len(captions),), sigma, device=device)
        velocity = velocity_of(drawer.transformer, latents, level, texts, told)
        if not distilled:
            unsaid = velocity_of(drawer.transformer, latents, level, empty, told)
            velocity = unsaid + guidance * (velocity - unsaid)
        latents = latents + (following - sigma) * velocity
    return latents


class _Look:
    def __init__(self, folder: Path, reader: Reader, worker: Worker) -> None:
        self._folder, self._reader = folder, reader
        self._vae = load_vae(folder, worker.device)

    def at(self, name: str, distilled: bool) -> Look:
        def look(step: int, drawer: nn.Module) -> dict[str, float]:
            assert isinstance(drawer, Drawer)
            vae = bundled_architecture("miniature").vae
            latents = draw(drawer, self._reader, LOOK_PROMPTS, 20, 3.0, distilled)
            with torch.no_grad():
                pictures = self._vae.decode(latents / vae["scaling_factor"] + vae["shift_factor"]).sample
            save_sheet(self._folder / f"{name}-{step}.png", list(pictures), columns=8)
            return {}

        return look

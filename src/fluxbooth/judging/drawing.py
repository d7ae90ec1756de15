"""Draws what checkpoints are asked, each picture once: what is on the disk already is not drawn again.

N pictures of one prompt, C = 16 latent channels, H W latent rows and columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from PIL import Image

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.lora import Part, as_base, lora_of_file
from fluxbooth.flux.lora_formats import check_lora_file
from fluxbooth.flux.pixels import decode_latents
from fluxbooth.flux.sampling import Sampler, drawing, sample, starting_noise
from fluxbooth.flux.text import PooledText, TextEmbeds
from fluxbooth.judging.questions import Question
from fluxbooth.judging.scores import Picture
from fluxbooth.showing.pictures import save_picture

SAMPLER: Sampler = "dpmpp_2m"
SAMPLER_AND_SCHEDULER = "dpmpp_2m sgm_uniform"
"""ComfyUI's names of what the bundled workflow draws with."""
_FOLDER = "scores"
_PIXELS_AT_ONCE = 512 * 512
"""About what goes through the network together: as much as one picture of FLUX.1-dev's, many of the miniature's."""


@dataclass(frozen=True)
class DrawingSettings:
    """How every picture is drawn."""

    width: int
    """Pixels, a multiple of 16."""
    height: int
    steps: int
    """Network passes a picture."""
    guidance_scale: float
    model: str
    """A digest of base weights and number format."""


@dataclass(frozen=True)
class Drawn:
    """One picture, and where it lies."""

    picture: Picture
    image: Image.Image


class Artist:
    """Draws with one transformer, which is loaded once, as the base model or with any LoRA file on it."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        vae: AutoencoderKL,
        texts: Mapping[str, TextEmbeds],
        clip: Callable[[], PooledText],
        settings: DrawingSettings,
        run_folder: Path,
    ) -> None:
        """Draw into `run_folder`/scores.

        Args:
            texts: every prompt as the base model's encoders read it.
            clip: gives CLIP, for a LoRA that is on it, too.
        """
        self._transformer = transformer
        self._vae = vae
        self._texts = texts
        self._clip = clip
        self._settings = settings
        self._run_folder = run_folder

    def draw(
        self,
        questions: Sequence[Question],
        lora: Path | None = None,
        digest: str = "",
        strength: float = 1.0,
        drawn: Callable[[int], object] = lambda number: None,
    ) -> list[Drawn]:
        """Return the pictures of all questions in their order, a question's seeds in theirs.

        Args:
            lora: the LoRA file; None is the base model.
            digest: sha256 of the file, under which its pictures are kept.
            strength: of the LoRA.
            drawn: told how many pictures have been drawn whenever there are more.

        Raises:
            UserError: for a LoRA that does not fit, and for a picture that comes out as no numbers.
        """
        folder = self._folder(digest, strength)
        missing = [one for one in questions if not all(self._is_drawn(folder, one, seed) for seed in one.seeds)]
        if missing:
            with self._with_lora(lora, strength, [one.prompt for one in missing]) as texts:
                for one in missing:
                    self._draw(folder, one, texts[one.prompt], lora)
                    drawn(len(one.seeds))
        return [self._read(folder, one, seed) for one in questions for seed in one.seeds]

    def missing(self, questions: Sequence[Question], digest: str = "", strength: float = 1.0) -> int:
        """Return how many pictures `draw` would draw."""
        folder = self._folder(digest, strength)
        wanting = [one for one in questions if not all(self._is_drawn(folder, one, seed) for seed in one.seeds)]
        return sum(len(one.seeds) for one in wanting)

    @contextmanager
    def _with_lora(
        self, lora: Path | None, strength: float, prompts: Sequence[str]
    ) -> Iterator[Mapping[str, TextEmbeds]]:
        """Let the transformer draw with the LoRA inside; yield the prompts as they are read with it."""
        with drawing(self._transformer), ExitStack() as stack:
            if lora is None:
                stack.enter_context(as_base(self._transformer))
                yield self._texts
                return
            texts = self._texts
            if _is_on(lora, "text_encoder"):
                texts = self._read_with_lora(lora, strength, prompts)
            stack.enter_context(lora_of_file(self._transformer, lora, strength))
            yield texts

    def _read_with_lora(self, lora: Path, strength: float, prompts: Sequence[str]) -> Mapping[str, TextEmbeds]:
        pooled_text = self._clip()
        with lora_of_file(pooled_text.clip, lora, strength, "text_encoder"):
            return {
                prompt: TextEmbeds(self._texts[prompt].prompt_embeds, pooled_text([prompt])[0].cpu())
                for prompt in prompts
            }

    def _draw(self, folder: Path, question: Question, text: TextEmbeds, lora: Path | None) -> None:
        """Draw all seeds of one prompt and save them; together as many as fit, always the same ones."""
        how, device = self._settings, self._transformer.device
        together = max(1, _PIXELS_AT_ONCE // (how.width * how.height))
        for first in range(0, len(question.seeds), together):
            seeds = question.seeds[first : first + together]
            noise = torch.cat([starting_noise(seed, how.width, how.height, SAMPLER) for seed in seeds])  # (N, C, H, W)
            embeds = (
                text.prompt_embeds[None].expand(len(seeds), -1, -1).to(device),
                text.pooled_prompt_embeds[None].expand(len(seeds), -1).to(device),
            )
            latents = sample(self._transformer, *embeds, noise, how.steps, how.guidance_scale, SAMPLER)
            if not latents.isfinite().all():
                raise UserError(
                    Problem(
                        f"'{question.prompt}' comes out as no numbers, which would be a black picture",
                        where=str(lora or "the base weights"),
                        do="Delete this LoRA file, and score the others",
                    )
                )
            for seed, latent in zip(seeds, latents, strict=True):
                image = Image.fromarray(decode_latents(self._vae, latent[None])[0].numpy())
                save_picture(image, self._path(folder, question, seed), self._made_with(question, seed))

    def _folder(self, digest: str, strength: float) -> Path:
        name = digest[:16] if digest else "base"
        return self._run_folder / _FOLDER / (name if strength == 1 else f"{name}-at-{strength:g}")

    def _path(self, folder: Path, question: Question, seed: int) -> Path:
        words = hashlib.sha256(question.prompt.encode()).hexdigest()[:12]
        return folder / f"{question.kind}_{words}_seed{seed}.png"

    def _made_with(self, question: Question, seed: int) -> dict[str, str]:
        how = self._settings
        return {
            "prompt": question.prompt,
            "seed": str(seed),
            "steps": str(how.steps),
            "guidance_scale": f"{how.guidance_scale:g}",
            "sampler": SAMPLER_AND_SCHEDULER,
            "base": how.model[:16],
        }

    def _is_drawn(self, folder: Path, question: Question, seed: int) -> bool:
        """Whether the file is there and shows this picture, drawn in this way."""
        try:
            with Image.open(self._path(folder, question, seed)) as found:
                size = self._settings.width, self._settings.height
                return found.size == size and self._made_with(question, seed).items() <= found.info.items()
        except OSError:
            return False

    def _read(self, folder: Path, question: Question, seed: int) -> Drawn:
        path = self._path(folder, question, seed)
        with Image.open(path) as found:
            image = found.convert("RGB")
        relative = path.relative_to(self._run_folder).as_posix()
        return Drawn(Picture(relative, question.prompt, question.plain, seed, question.kind, question.asked), image)


def _is_on(lora: Path, part: Part) -> bool:
    beginnings = {"text_encoder": ("text_encoder.", "lora_te1_"), "transformer": ("transformer.", "lora_unet_")}[part]
    return any(name.startswith(beginnings) for name in check_lora_file(lora))

"""Pictures drawn while a run goes on, and the sheet that shows how they change."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic

import torch
from diffusers import FluxTransformer2DModel
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.device import release_memory
from fluxbooth.flux.parts import load_vae
from fluxbooth.flux.pixels import decode_latents
from fluxbooth.flux.sampling import Sampler, drawing, sample, starting_noise
from fluxbooth.host.weights import BaseWeights
from fluxbooth.showing.pictures import save_picture
from fluxbooth.showing.sheet import contact_sheet
from fluxbooth.training.encode import EncodedVisits
from fluxbooth.training.sample_plan import SamplePicture, SamplePlan

_log = logging.getLogger("fluxbooth")
_SAMPLER: Sampler = "dpmpp_2m"
_GRID = "grid.png"
_FILE = re.compile(r"step(\d{8})_(\d+)_seed(\d+)\.png")
_NARROWEST, _WIDEST = 112, 256
"""Pixels of a picture's longer side on the grid."""
_MOST_COLUMNS = 50
# What a picture may fail of without the training being at fault: disk, files, memory, a LoRA gone wild.
_FAILURES = (OSError, UserError, SafetensorError, torch.OutOfMemoryError)


class SampleRounds:
    """Draws a run's sample pictures into a folder, each under its step, and lays them side by side in grid.png."""

    def __init__(
        self,
        plan: SamplePlan,
        folder: Path,
        transformer: FluxTransformer2DModel,
        encoded: EncodedVisits,
        weights: BaseWeights,
        architecture: Architecture,
        dtype: torch.dtype,
        published: Callable[[], AbstractContextManager[None]],
        first_step: int,
    ) -> None:
        """Draw with the transformer that is trained, and with embeddings that are in the cache already.

        Args:
            dtype: the VAE's.
            published: lets the LoRA be what its file would have at this moment.
            first_step: steps done; with none what an earlier run of this name has drawn is moved aside.
        """
        self._plan = plan
        self._folder = folder
        self._transformer = transformer
        self._encoded = encoded
        self._weights = weights
        self._architecture = architecture
        self._dtype = dtype
        self._published = published
        self._thumbnails: dict[Path, Image.Image] = {}
        if plan.pictures and first_step == 0:
            _move_aside(folder)

    def draw(self, step: int, stopped: Callable[[], bool] = lambda: False) -> None:
        """Draw what is due after `step` and not there yet; training goes on as if nothing had been drawn.

        What cannot be drawn or written is a warning in the log.

        Args:
            stopped: asked before each picture; what is then missing stays so.
        """
        if not self._plan.is_due(step) or stopped():
            return
        missing = {
            path: picture for path, picture in self._files(step).items() if not self._is_drawn(path, picture, step)
        }
        start = monotonic()
        with drawing(self._transformer), self._published():
            latents: dict[Path, Tensor] = {}
            for path, picture in missing.items():
                if not stopped() and (found := self._latents(path, picture)) is not None:
                    latents[path] = found
            drawn = sum(self._decode_and_save(latents, missing, step))
        if drawn:
            self._write_grid()
            pictures = f"{drawn} sample picture{'' if drawn == 1 else 's'}"
            _log.info("step %d: %s in %.0f s, %s", step, pictures, monotonic() - start, self._folder / _GRID)

    def _files(self, step: int) -> Mapping[Path, SamplePicture]:
        return {
            self._folder / f"step{step:08d}_{number:02d}_seed{picture.seed}.png": picture
            for number, picture in enumerate(self._plan.pictures, start=1)
        }

    def _latents(self, path: Path, picture: SamplePicture) -> Tensor | None:
        """Draw one picture as latents, (1, C, H, W) on the CPU; None where that cannot be done."""
        try:
            texts = self._encoded.texts([picture.prompt])
            noise = starting_noise(picture.seed, picture.width, picture.height, _SAMPLER)
            latents = sample(self._transformer, *texts, noise, picture.steps, picture.guidance_scale, _SAMPLER)
        except _FAILURES as error:
            _warn(path, str(error))
            return None
        if not latents.isfinite().all():
            _warn(path, "it comes out as no numbers")
            return None
        return latents.cpu()

    def _decode_and_save(
        self, latents: Mapping[Path, Tensor], pictures: Mapping[Path, SamplePicture], step: int
    ) -> Iterator[int]:
        """Yield 1 for each picture that is on the disk now, else 0; the VAE is there for no longer than that takes."""
        if not latents:
            return
        release_memory()
        try:
            vae = load_vae(self._weights, self._architecture, self._dtype, self._transformer.device)
        except _FAILURES as error:
            _warn(self._folder, str(error))
            return
        for path, found in latents.items():
            try:
                decoded = Image.fromarray(decode_latents(vae, found)[0].numpy())
                save_picture(decoded, path, _made_with(pictures[path], step, self._weights.name))
            except _FAILURES as error:
                _warn(path, str(error))
                yield 0
            else:
                yield 1
        del vae
        release_memory()

    def _is_drawn(self, path: Path, picture: SamplePicture, step: int) -> bool:
        """Whether the file is there and shows this picture and not another of an earlier prompt file."""
        try:
            with Image.open(path) as found:
                made_with = _made_with(picture, step, self._weights.name)
                return found.size == (picture.width, picture.height) and made_with.items() <= found.info.items()
        except OSError:
            return False

    def _write_grid(self) -> None:
        """Write the sheet anew: a row for each prompt, a column for each step that has pictures."""
        steps = sorted({int(found[1]) for path in self._folder.glob("*.png") if (found := _FILE.fullmatch(path.name))})
        if len(steps) > _MOST_COLUMNS:  # evenly chosen, the first and the last among them
            last = len(steps) - 1
            steps = [steps[last * number // (_MOST_COLUMNS - 1)] for number in range(_MOST_COLUMNS)]
        largest = max(max(picture.width, picture.height) for picture in self._plan.pictures)
        cell = max(_NARROWEST, min(_WIDEST, 2 * largest, 6400 // len(steps)))
        columns = [list(self._files(step).items()) for step in steps]
        rows = [
            (
                f"{picture.prompt}  (seed {picture.seed})",
                [self._thumbnail(*column[number], step) for step, column in zip(steps, columns, strict=True)],
            )
            for number, picture in enumerate(self._plan.pictures)
        ]
        titles = ["step 0: untrained" if step == 0 else f"step {step:,}" for step in steps]
        try:
            save_picture(contact_sheet(rows, titles, cell), self._folder / _GRID, {})
        except _FAILURES as error:
            _warn(self._folder / _GRID, str(error))

    def _thumbnail(self, path: Path, picture: SamplePicture, step: int) -> Image.Image | None:
        if path not in self._thumbnails and self._is_drawn(path, picture, step):
            try:
                with Image.open(path) as found:
                    small = found.convert("RGB")
            except OSError:
                return None
            small.thumbnail((_WIDEST, _WIDEST), Image.Resampling.LANCZOS)
            self._thumbnails[path] = small
        return self._thumbnails.get(path)


def _made_with(picture: SamplePicture, step: int, model: str) -> dict[str, str]:
    return {
        "prompt": picture.prompt,
        "seed": str(picture.seed),
        "step": str(step),
        "sample_steps": str(picture.steps),
        "guidance_scale": f"{picture.guidance_scale:g}",
        "sampler": f"{_SAMPLER} sgm_uniform",
        "model": model,
    }


def _move_aside(folder: Path) -> None:
    """Rename the folder of an earlier run, where it has pictures."""
    if not any(folder.glob("*.png")):
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    try:
        folder.rename(aside)
    except OSError as error:
        _warn(folder, str(error))
    else:
        _log.info("the sample pictures of an earlier run of this name are in %s now", aside)


def _warn(path: Path, why: str) -> None:
    _log.warning("warning: sample picture %s is missing: %s", path.name, why)

"""A captioning model at work: pictures in, one sentence for each out.

BLIP is arXiv 2201.12086, Florence-2 arXiv 2311.06242. N pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    BlipForConditionalGeneration,
    BlipProcessor,
    Florence2ForConditionalGeneration,
    Florence2Processor,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from fluxbooth.captioning.find import BLIP, FLORENCE2, CaptionerWeights
from fluxbooth.errors import Problem, UserError

_CLASSES = {
    BLIP: (BlipForConditionalGeneration, BlipProcessor),
    FLORENCE2: (Florence2ForConditionalGeneration, Florence2Processor),
}
_FLORENCE2_TASK = "<CAPTION>"
_BEAMS = 3


class Captioner:
    """A frozen BLIP or Florence-2 model with its tokenizer and its way of preparing pictures."""

    def __init__(self, weights: CaptionerWeights, device: torch.device) -> None:
        """Load the model as float32, in which a picture's caption does not hang on the batch it is in.

        Raises:
            UserError: for files that are not that model, or not all of it.
        """
        disable_progress_bar()  # there is one for the pictures
        set_verbosity_error()  # what transformers warns of here is checked below
        model_class, processor_class = _CLASSES[weights.kind]
        try:
            self._model, about = model_class.from_pretrained(
                weights.folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            # With torchvision installed transformers would scale pictures by other code, and captions would differ.
            self._processor = processor_class.from_pretrained(weights.folder, local_files_only=True, backend="pil")
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _not_a_captioner(weights, str(error).strip().splitlines()[0]) from error
        if lacking := sorted(about["missing_keys"]):
            raise _not_a_captioner(weights, f"{len(lacking)} tensors are missing, {lacking[0]} for one")
        self._model.to(device).requires_grad_(False).eval()
        self._device = device
        self._kind = weights.kind

    @torch.inference_mode()
    def caption(self, pictures: Sequence[Image.Image], max_new_tokens: int) -> list[str]:
        """Return one sentence for each of N RGB pictures; the same picture gets the same sentence every time.

        Args:
            max_new_tokens: where a sentence is cut off that does not end before.
        """
        task: dict[str, Any] = {"text": [_FLORENCE2_TASK] * len(pictures)} if self._kind == FLORENCE2 else {}
        inputs = self._processor(images=list(pictures), return_tensors="pt", **task).to(self._device)
        tokens = self._model.generate(**inputs, max_new_tokens=max_new_tokens, num_beams=_BEAMS, do_sample=False)
        return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


def _not_a_captioner(weights: CaptionerWeights, why: str) -> UserError:
    return UserError(
        Problem(
            f"cannot be loaded as a {weights.kind} model: {why}",
            where=str(weights.folder),
            do="Copy the model there as a whole, or fetch one with `fluxbooth download --captioner NAME`",
        )
    )

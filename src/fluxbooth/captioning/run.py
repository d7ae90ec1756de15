"""Captioning from beginning to end: everything checked, then the model loaded, then file after file written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from fluxbooth.captioning.captioner import Captioner
from fluxbooth.captioning.find import find_captioner
from fluxbooth.captioning.plan import Target, plan_captions, read_picture
from fluxbooth.captioning.wording import Wording
from fluxbooth.errors import Problems
from fluxbooth.flux.device import choose_device
from fluxbooth.host.files import write_text


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    written: dict[Path, str]
    """Each caption file and its line."""
    without_words: tuple[Path, ...]
    """Pictures of which the model said nothing; they have no new file."""
    left_alone: int
    """Pictures that had a caption file and keep it."""


def caption_pictures(
    source: Path,
    wording: Wording,
    model: str,
    models: Path,
    *,
    extension: str | None = None,
    overwrite: bool = False,
    batch_size: int,
    max_new_tokens: int,
) -> Outcome:
    """Write one caption file beside each picture of a folder, or of a data.toml's folders.

    Files appear batch by batch, each whole, so that a run that was stopped goes on where it was. With every caption
    there, no model is looked for.

    Args:
        source: a folder or a data.toml.
        model: a captioning model's name, or a folder.
        models: the models folder.
        extension: ending of the caption files of a folder, .txt if None.
        overwrite: write anew what is there.
        batch_size: pictures that the model sees at once.
        max_new_tokens: where a caption is cut off that does not end before.

    Raises:
        UserError: for all that would stop the work, at once, before a model is loaded.
    """
    problems = Problems()
    plan = plan_captions(source, wording, extension, overwrite, problems)
    if plan.left_alone and not plan.targets:
        problems.raise_if_any()
        return Outcome({}, (), plan.left_alone)
    with problems.gathered():
        weights = find_captioner(model, models)
    problems.raise_if_any()

    captioner = Captioner(weights, choose_device())
    written: dict[Path, str] = {}
    without_words: list[Path] = []
    with tqdm(total=len(plan.targets), desc="captioning", unit="picture", disable=None) as bar:
        for start in range(0, len(plan.targets), batch_size):
            batch: tuple[Target, ...] = plan.targets[start : start + batch_size]
            sentences = captioner.caption([read_picture(target.picture) for target in batch], max_new_tokens)
            for target, sentence in zip(batch, sentences, strict=True):
                if line := target.wording.around(sentence):
                    write_text(target.file, f"{line}\n")
                    written[target.file] = line
                else:  # an empty caption file would be refused in training
                    without_words.append(target.picture)
            bar.update(len(batch))
    return Outcome(written, tuple(without_words), plan.left_alone)

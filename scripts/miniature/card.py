"""The model card: what the miniature is, from which data, how it was trained and how well it draws, in numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

from fluxbooth.host.files import write_text
from fluxbooth.showing.sheet import contact_sheet
from miniature import flow, towers, vae
from miniature.held_out import PAIRS, PROMPTS, are_right, draw_held_out, paint
from miniature.latents import SCENES
from miniature.stage import Stage

_STAGES: dict[str, tuple[Stage, ...]] = {
    "VAE, on pieces of pictures": (vae.PIECES,),
    "VAE, on whole pictures": (vae.WHOLE,),
    "VAE's decoder, on disturbed latents": (vae.DECODER,),
    "CLIP's two towers": (towers.STAGE,),
    "the same two as scorer": (towers.SCORING,),
    "transformer and T5": (flow.DRAWING,),
    "transformer and T5, guidance": (flow.GUIDING,),
}
_CARD = """# The miniature FLUX

FLUX.1's own classes at tiny size, trained from nothing on a small drawn world. It exists so that fluxbooth can be
tried and tested whole on a laptop: pictures, captions, training, LoRA, sampling, judging. It draws this world and
nothing else.

![Held-out prompts, drawn by the miniature](samples.png)

| part | class | parameters | file | MB |
|---|---|--:|---|--:|
{parts}

All in bfloat16, {megabytes:.1f} MB together, under the key names of FLUX.1-dev's own files. Pictures are 96 x 96 pixels
or another shape of that area; T5 reads 40 tokens. Words of the world are one token each, others are spelled.

## Data

Scenes drawn by `scripts/world`: ten kinds of things with varied attributes in eight surroundings, one or two in a
scene, with captions. {scenes:,} scenes were encoded for the transformer. One in six colour combinations of every kind
is held out of all training; the sample concepts `tjtoy toy` and `sparkgpu gpu` are such things. 15 % of the things are
among the few of their kind that have a name and always look alike; captions say the made-up name in place of the
attributes, so that made-up words mean something. No photograph and no other model's output was used.

## Training

`make miniature` makes such files again from nothing; it resumes. These were made on two processor cores without a GPU,
in several sittings: the first stage's optimizer began anew once, some stages were shortened on their way, and until
step 5,250 of the transformer, as in the towers' training, a name was another one every time; the scorer met pairs that
only their kinds tell apart from its step 500 on. A run in one piece gives files like these and not the same bytes.

| stage | steps | samples a step | hours | loss at the end |
|---|--:|--:|--:|--:|
{stages}

The VAE and CLIP stages minimise reconstruction and contrastive losses; the transformer's are mean squared errors of the
velocity. The last stage teaches guidance 1 to 5 by classifier-free targets of the stage before (Meng et al.,
arXiv 2210.03142). Inner matrices were updated by Muon, all else by AdamW. The logs lie in `logs/`.

## How well it draws

- The VAE reconstructs scenes it has not seen at {psnr:.1f} dB.
- The towers pick the right one of four captions, three of them alike, for {alike:.0%} of unseen scenes (by guessing:
  25 %).
- {prompts} held-out prompts, {pairs} of them of two things, at 20 steps and guidance 3.5: of all kinds in all
  surroundings, the vision tower sees the asked ones in {right:.0%}; in the world's own drawings of the same prompts, in
  {of_true:.0%}. In the order of the picture at the top:

{samples}

## Licence

Apache-2.0, like the code. Made from nothing: no weights of FLUX.1-dev are in it.
"""


def write_card(training: Path, package: Path) -> None:
    """Draw the held-out prompts with the files in `package`, judge them, and write README.md, samples.png and logs/."""
    asked, pictures = draw_held_out()
    right = are_right(asked, pictures)
    _sample_sheet(pictures).save(package / "samples.png", optimize=True)
    (package / "logs").mkdir(exist_ok=True)
    logs = {log.name.removesuffix(".log.jsonl"): log.read_text(encoding="utf-8") for log in training.glob("*.jsonl")}
    for name, log in logs.items():
        write_text(package / "logs" / f"{name}.jsonl", log)
    records = {name: [json.loads(line) for line in log.splitlines()] for name, log in logs.items()}
    parts = [_part(package, file, part, cls) for file, part, cls in _PARTS]
    card = _CARD.format(
        parts="\n".join(row for row, _ in parts),
        megabytes=sum(size for _, size in parts) / 1e6,
        scenes=sum(SCENES.values()),
        stages="\n".join(_stage_row(title, stage, records[stage.name]) for title, (stage,) in _STAGES.items()),
        psnr=_last(records[vae.DECODER.name], "psnr"),
        alike=_last(records[towers.SCORING.name], "right_of_four_alike"),
        prompts=PROMPTS,
        pairs=PAIRS,
        right=sum(right) / len(right),
        of_true=sum(are_right(asked, [paint(one) for one in asked])) / len(asked),
        samples="\n".join(
            f"{number}. {one.prompt}{'' if seen else ' (not seen)'}"
            for number, (one, seen) in enumerate(zip(asked, right, strict=True), start=1)
        ),
    )
    write_text(package / "README.md", card)
    print(f"{sum(right)} of {len(right)} held-out prompts are right; wrote {package / 'README.md'}")


_PARTS = (
    ("checkpoints/miniature.safetensors", "transformer", "FluxTransformer2DModel"),
    ("vae/miniature_ae.safetensors", "VAE", "AutoencoderKL"),
    ("text_encoders/miniature_clip.safetensors", "text, pooled", "CLIPTextModel"),
    ("text_encoders/miniature_t5.safetensors", "text, sequence", "T5EncoderModel"),
    ("scorers/clip/model.safetensors", "for scoring", "CLIPModel"),
)


def _part(package: Path, name: str, part: str, cls: str) -> tuple[str, int]:
    file = package / name
    with safe_open(file, framework="pt") as opened:
        count = sum(opened.get_tensor(key).numel() for key in opened.keys())  # noqa: SIM118 (not a dict)
    size = file.stat().st_size
    return f"| {part} | {cls} | {count:,} | `{name}` | {size / 1e6:.1f} |", size


def _stage_row(title: str, stage: Stage, records: list[dict[str, Any]]) -> str:
    spoken = [record for record in records if "samples_per_second" in record]
    seconds = sum(stage.batch * stage.steps / len(spoken) / record["samples_per_second"] for record in spoken)
    return f"| {title} | {stage.steps:,} | {stage.batch} | {seconds / 3600:.2f} | {spoken[-1]['loss']:.3f} |"


def _last(records: list[dict[str, Any]], name: str) -> float:
    return float([record[name] for record in records if name in record][-1])


def _sample_sheet(pictures: list[Image.Image], columns: int = 8) -> Image.Image:
    """The pictures row by row, numbered: the prompts would not fit under them."""
    rows = [
        (f"{start + 1} to {start + columns}", pictures[start : start + columns])
        for start in range(0, len(pictures), columns)
    ]
    return contact_sheet(rows, [""] * columns, cell=96)

"""`make demo`: the whole job on the miniature, from the two concept folders to pictures before and after."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from fluxbooth.flux.device import choose_device, compute_dtype, default_precision
from fluxbooth.flux.generate import Shot, generate
from fluxbooth.host.folders import Folders
from fluxbooth.host.weights import MINIATURE, BaseWeights
from fluxbooth.judging.pictures import save_picture
from fluxbooth.judging.sheet import contact_sheet
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import Outcome, run

NAME = "demo"
PROMPTS = (
    "tjtoy toy on a beach",
    "sparkgpu gpu in a datacenter",
    "tjtoy toy holding sparkgpu gpu in a datacenter",
    "a toy on a beach",
)
_SEED = 25
_STEPS = 20
_GUIDANCE_SCALE = 3.5


def run_demo(data_file: Path, folders: Folders) -> Outcome:
    """Train a LoRA named "demo" on the miniature, draw every prompt without and with it, and print what was written.

    Leaves models/loras/demo.safetensors and, in runs/demo/, before/, after/ and before_after.png.

    Raises:
        UserError: for data that cannot be trained on.
    """
    start = perf_counter()
    prepared = prepare(MINIATURE, data_file, MINIATURE, {"output_name": NAME}, folders)
    outcome = run(prepared)
    trained = perf_counter()
    sheet = _draw_before_and_after(prepared, outcome.lora, folders.run(NAME))
    drawn = perf_counter()

    change = 1 - outcome.loss_after / outcome.loss_before
    print(
        f"\nThe loss on the evaluation set fell by {change:.0%}: {outcome.loss_before:.3f} to {outcome.loss_after:.3f}."
    )
    print(f"Wrote {outcome.lora}")
    print(f"Wrote {sheet} (the pictures one by one: {sheet.parent}/before and {sheet.parent}/after)")
    phases = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in outcome.phase_seconds.items())
    print(f"Time: {phases}, draw {drawn - trained:.0f} s; {drawn - start:.0f} s in all")
    print("The miniature's base weights are untrained: its pictures resemble nothing, the way to them is the real one.")
    return outcome


def _draw_before_and_after(prepared: Prepared, lora: Path, folder: Path) -> Path:
    """Draw every prompt from the same seed without and with the LoRA; return the contact sheet."""
    side = prepared.recipe.resolution or 1024
    shots = [Shot(prompt, _SEED, side, side) for prompt in PROMPTS]
    device = choose_device()
    dtype = compute_dtype(default_precision(device), device)
    weights: BaseWeights = prepared.weights
    before = generate(shots, [], weights, _STEPS, _GUIDANCE_SCALE, dtype, device)
    after = generate(shots, [(lora, 1.0)], weights, _STEPS, _GUIDANCE_SCALE, dtype, device)
    for moment, pictures in (("before", before), ("after", after)):
        for number, (shot, picture) in enumerate(zip(shots, pictures, strict=True), start=1):
            save_picture(picture, folder / moment / f"{number}.png", {"prompt": shot.prompt, "seed": str(shot.seed)})
    rows = [(shot.prompt, pair) for shot, *pair in zip(shots, before, after, strict=True)]
    sheet = folder / "before_after.png"
    save_picture(contact_sheet(rows, ("without the LoRA", "with the LoRA")), sheet, {})
    return sheet

"""`make demo`: the whole job, that it learns, and what a person finds afterwards."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from safetensors.torch import load_file

from fluxbooth.demo import PROMPTS, run_demo
from fluxbooth.host.folders import Folders
from fluxbooth.training.run import Outcome

# One group: the demo is run once, in one of the two processes of `make test`.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]


@dataclass(frozen=True)
class Demo:
    outcome: Outcome
    folders: Folders
    said: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One demo, run as `make demo` runs it."""
    folder = tmp_path_factory.mktemp("demo")
    folders = Folders(folder / "models", folder / "runs", folder / "cache")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(Path(__file__).parent.parent)
        outcome = run_demo(Path("flux_data/data.toml"), folders)
    return Demo(outcome, folders, said.getvalue())


def test_training_lowers_the_evaluation_loss_by_a_quarter(demo: Demo) -> None:
    """Items, noise levels and noise are fixed, so that the two numbers differ by the LoRA alone. It falls by 44 %."""
    assert demo.outcome.loss_after < 0.75 * demo.outcome.loss_before


def test_it_learns_more_than_to_predict_nothing(demo: Demo) -> None:
    """A network that always predicts zero has the variance of the noise, 1, plus the mean square of the latents."""
    latents = [load_file(path)["latents"] for path in (demo.folders.cache / "latents").iterdir()]
    predicting_zero = 1 + sum(float(tensor.square().mean()) for tensor in latents) / len(latents)
    assert demo.outcome.loss_after < 0.93 * predicting_zero


def test_every_prompt_is_drawn_before_and_after_from_the_same_seed(demo: Demo) -> None:
    run = demo.folders.run("demo")
    for number, prompt in enumerate(PROMPTS, start=1):
        before, after = (Image.open(run / moment / f"{number}.png") for moment in ("before", "after"))
        assert before.size == after.size == (96, 96)
        assert before.info == after.info
        assert before.info["prompt"] == prompt
        assert ImageChops.difference(before.convert("RGB"), after.convert("RGB")).getbbox() is not None


def test_it_says_what_it_wrote_and_how_long_each_phase_took(demo: Demo) -> None:
    assert demo.outcome.lora == demo.folders.loras / "demo.safetensors"
    for path in (demo.outcome.lora, demo.folders.run("demo") / "before_after.png"):
        assert path.is_file()
        assert f"Wrote {path}" in demo.said
    for phase in ("encode", "load", "train", "evaluate", "draw", "in all"):
        assert phase in demo.said

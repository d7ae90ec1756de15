"""`make demo`: the whole job, that it learns both subjects, and what a person finds afterwards."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from fluxbooth.demo import SUBJECTS, TOGETHER, run_demo
from fluxbooth.errors import UserError
from fluxbooth.host.folders import Folders
from fluxbooth.training.run import Outcome

# One group: the demo is run once, in one of the two processes of `make test`.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]


@dataclass(frozen=True)
class Demo:
    outcome: Outcome
    folders: Folders
    said: str
    numbers: dict[str, Any]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One demo, run as `make demo` runs it."""
    folder = tmp_path_factory.mktemp("demo")
    folders = Folders(folder / "models", folder / "runs", folder / "cache")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(Path(__file__).parent.parent)
        outcome = run_demo(Path("flux_data/data.toml"), folders)
    numbers = json.loads((folders.run("demo") / "demo.json").read_text(encoding="utf-8"))
    return Demo(outcome, folders, said.getvalue(), numbers)


def test_data_without_the_sample_concepts_are_refused_before_the_training(
    make_concept: Callable[..., Path], tmp_path: Path, folders: Folders, in_repository: Path
) -> None:
    folder, data = make_concept("dog", [(64, 64)]), tmp_path / "data.toml"
    data.write_text(
        f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "mokka dog"\n',
        encoding="utf-8",
    )
    with pytest.raises(UserError, match="no concept is called 'tjtoy toy' or 'sparkgpu gpu'"):
        run_demo(data, folders)
    assert not folders.loras.exists()


def test_both_subjects_are_learned(demo: Demo) -> None:
    """Guessing among thirteen subjects is right in 8 %."""
    assert demo.numbers["identity_before"] < 0.2
    assert demo.numbers["identity_after"] >= 0.8
    for subject in SUBJECTS:
        assert demo.numbers["identity_by_subject"]["after"][subject.class_tokens] >= 0.6


def test_the_plain_class_nouns_stay_what_they_were(demo: Demo) -> None:
    """A LoRA that is trained without `diff_output_preservation` makes nearly every "a toy" the subject."""
    after = demo.numbers["class_noun_as_subject"]["after"]
    assert sum(after.values()) / len(after) <= 0.3


def test_training_lowers_the_evaluation_loss(demo: Demo) -> None:
    """Items, noise levels and noise are fixed, so that the two numbers differ by the LoRA alone."""
    assert demo.outcome.loss_after < 0.8 * demo.outcome.loss_before


def test_every_prompt_is_drawn_before_and_after_from_the_same_seed(demo: Demo) -> None:
    run = demo.folders.run("demo")
    names = sorted(path.name for path in (run / "before").iterdir())
    assert names == sorted(path.name for path in (run / "after").iterdir())
    prompts = set()
    for name in names:
        before, after = (Image.open(run / moment / name) for moment in ("before", "after"))
        assert before.size == after.size == (96, 96)
        assert before.info == after.info
        assert ImageChops.difference(before.convert("RGB"), after.convert("RGB")).getbbox() is not None
        prompts.add(before.info["prompt"])
    asked = {f"{subject.class_tokens} {where}" for subject in SUBJECTS for where in subject.surroundings}
    assert asked | set(TOGETHER) | {"a toy on a beach", "a gpu on a beach"} == prompts


def test_it_says_what_it_wrote_what_was_learned_and_how_long_each_phase_took(demo: Demo) -> None:
    assert demo.outcome.lora == demo.folders.loras / "demo.safetensors"
    run = demo.folders.run("demo")
    for path in (demo.outcome.lora, run / "before_after.png", run / "report.html", run / "demo.json"):
        assert path.is_file()
        assert f"Wrote {path}" in demo.said
    for phase in ("encode", "load", "train", "evaluate", "draw", "judge", "in all"):
        assert phase in demo.said
    assert "'tjtoy toy' is that toy" in demo.said
    page = (run / "report.html").read_text(encoding="utf-8")
    for subject in SUBJECTS:
        assert f"{demo.numbers['identity_by_subject']['after'][subject.class_tokens]:.0%}" in page

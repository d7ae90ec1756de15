"""What is to be scored is read from the run's own folder, and checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fluxbooth.host.folders import Folders
from fluxbooth.judging.scoring import Choices, scoring_of_run
from fluxbooth.training.prepare import prepare
from fluxbooth.training.run_toml import run_toml


def test_pictures_of_one_name_and_some_held_out_are_known_again_without_naming_data_toml(
    make_concept: Callable[..., Path], in_repository: Path, tmp_path: Path, folders: Folders
) -> None:
    """Two people's folders are both called photos, and a camera numbers its pictures."""
    for person in ("ann", "ben"):
        (tmp_path / person).mkdir()
    of_ann = make_concept("ann/photos", [(64, 64), (64, 48), (48, 64)])
    of_ben = make_concept("ben/photos", [(96, 96), (96, 64), (64, 96)])
    data = tmp_path / "mine.toml"
    data.write_text(
        "[[datasets]]\nresolution = 64\nvalidation_split = 0.5\n"
        f'[[datasets.subsets]]\nimage_dir = "{of_ann}"\nclass_tokens = "ann woman"\n'
        f'[[datasets.subsets]]\nimage_dir = "{of_ben}"\nclass_tokens = "ben man"\n',
        encoding="utf-8",
    )
    for seed in range(6):  # so that a picture is held out here and one of its name trained on there
        prepared = prepare("miniature", data, "miniature", {"output_name": "x", "validation_seed": seed}, folders)
        folder = folders.run("x")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.toml").write_text(run_toml(prepared), encoding="utf-8")
        scoring = scoring_of_run("x", None, None, folders, Choices())
        assert [one.class_tokens for one in scoring.subjects] == ["ann woman", "ben man"]

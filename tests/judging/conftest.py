"""LoRAs of which it is known what they learnt, trained once and scored together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fluxbooth.host.files import digest_of_file
from fluxbooth.host.folders import Folders
from fluxbooth.judging.rounds import OwnModels, Rounds
from fluxbooth.judging.scoring import Checkpoint, Choices, scoring_of_prepared
from fluxbooth.training.prepare import prepare
from fluxbooth.training.run import run
from judging.known import FASTER, REPOSITORY, SEEDS, Judged, data_file


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    """Scores of three LoRAs on both sample concepts: one that saw the first concept alone, one that saw both under each
    other's names, and one that was trained at twenty times the rate.
    """
    folder = tmp_path_factory.mktemp("judged")
    folders = Folders(folder / "models", folder / "runs", folder / "cache")
    right = {"tjtoy": "tjtoy toy", "sparkgpu": "sparkgpu gpu"}
    trainings: dict[str, tuple[dict[str, str], dict[str, float]]] = {
        "alone": ({"tjtoy": "tjtoy toy"}, {"max_train_steps": 100}),
        "swapped": ({"tjtoy": "sparkgpu gpu", "sparkgpu": "tjtoy toy"}, {"max_train_steps": 140}),
        "wild": (right, {"max_train_steps": 20, "learning_rate": 0.06, "text_encoder_lr": 0.06}),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        for name, (subsets, flags) in trainings.items():
            data = data_file(folder / name, subsets)
            run(prepare("miniature", data, "miniature", {"output_name": name, **FASTER, **flags}, folders))
        prepared = prepare("miniature", data, "miniature", {"output_name": "judged"}, folders)
        scoring = scoring_of_prepared(prepared, Choices(seeds=SEEDS))
        checkpoints = [
            Checkpoint(path, step, digest_of_file(path))
            for step, path in enumerate((folders.loras / f"{name}.safetensors" for name in trainings), start=1)
        ]
        yield Judged(folders, scoring, checkpoints, Rounds(scoring, OwnModels(scoring)).update(checkpoints))

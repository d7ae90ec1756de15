"""What several tests share: the miniature, and small concept folders made on the spot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from PIL import Image

from fluxbooth.flux.architecture import Architecture, architecture_of
from fluxbooth.flux.miniature import miniature_weights
from fluxbooth.host.folders import Folders
from fluxbooth.host.weights import BaseWeights

# On a busy machine an example may take any time; how long is nothing that a test here asserts.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
REPOSITORY = Path(__file__).parent.parent
CPU = torch.device("cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first, so that at the end no process waits for the other's long one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """On a shared machine of two cores a pass of the miniature takes a steady time with one thread and any with two."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def weights() -> BaseWeights:
    """The miniature's files, which come with the package."""
    return miniature_weights()


@pytest.fixture(scope="session")
def architecture(weights: BaseWeights) -> Architecture:
    """The miniature's shapes."""
    return architecture_of(weights.transformer)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Three empty folders to write to."""
    return Folders(tmp_path / "models", tmp_path / "runs", tmp_path / "cache")


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the repository's top folder, where recipes/ and flux_data/ are."""
    monkeypatch.chdir(REPOSITORY)
    return REPOSITORY


@pytest.fixture
def make_concept(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a concept folder: `make_concept("toy", sizes=[(64, 64)])`."""

    def make(name: str, sizes: list[tuple[int, int]], captions: dict[str, str] | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number, (width, height) in enumerate(sizes, start=1):
            gradient = Image.linear_gradient("L").resize((width, height))
            colour = Image.new("L", (width, height), 40 * number % 256)
            Image.merge("RGB", (gradient, colour, gradient.transpose(Image.Transpose.ROTATE_180))).save(
                folder / f"{number}.png"
            )
        for file, text in (captions or {}).items():
            (folder / file).write_text(text, encoding="utf-8")
        return folder

    return make

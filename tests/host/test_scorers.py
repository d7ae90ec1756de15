"""The scoring models: fetched by the download that fetches everything, and missed with a word on how to get them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from fluxbooth.cli import main
from fluxbooth.host.scorers import DEFAULT_SCORERS, SCORER_FILES, missing_scorers, scorer_folder
from fluxbooth.host.weights import HubFile
from host.local_hub import local_hub, seen_as_the_hub


def content(file: HubFile) -> bytes:
    """Bytes that stand for a file; what is called a safetensors file is one."""
    if file.file.endswith(".safetensors"):
        return bytes(save({"a": torch.zeros(1)}))
    return f"{file.repository} {file.file}".encode()


@pytest.mark.parametrize("name", SCORER_FILES)
def test_a_scoring_model_is_fetched_into_its_folder(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = tmp_path / "models"
    monkeypatch.setenv("FLUXBOOTH_CACHE_DIR", str(tmp_path / "cache"))
    with local_hub() as hub:
        seen_as_the_hub(hub, monkeypatch, tmp_path)
        for file in SCORER_FILES[name]:
            hub.has(file.path, content(file), repository=file.repository, gated=False)
        assert main(["download", "--scorers", name, "--models-dir", str(models)]) == 0
    for file in SCORER_FILES[name]:
        assert (models / file.path).read_bytes() == content(file)
    assert missing_scorers((name,), models) == []


def test_what_is_missing_is_named_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    dino, clip = missing_scorers(DEFAULT_SCORERS, tmp_path)
    assert dino.where == str(scorer_folder("dinov2-small", tmp_path))
    assert "model.safetensors" in dino.what
    assert clip.do == "Run `fluxbooth download --scorers`"
    (other,) = missing_scorers(("dino-vits16",), tmp_path)
    assert other.do == "Run `fluxbooth download --scorers dino-vits16`"


def test_a_model_nobody_knows_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["download", "--scorers", "dino"])
    assert "dinov2-small" in capsys.readouterr().err

"""The captioning models as files: their names in the models folder, and where they come from."""

from __future__ import annotations

from pathlib import Path

from fluxbooth.host.weights import HubFile

BLIP_LARGE = "blip-large"
FLORENCE_2 = "florence-2"


def captioner_folder(name: str, models: Path) -> Path:
    """Where the captioning model `name` lies below `models`; it need not be there."""
    return models / "captioners" / name


def _files(name: str, repository: str, *files: str) -> tuple[HubFile, ...]:
    return tuple(HubFile(str(captioner_folder(name, Path()) / file), repository, file) for file in files)


# Of each repository what transformers reads and no more: a file that its owner drops would refuse the whole download.
CAPTIONER_FILES = {
    BLIP_LARGE: _files(
        BLIP_LARGE,
        "Salesforce/blip-image-captioning-large",
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ),
    # Microsoft's own repository needs code that comes with the weights; this one has the same weights without it.
    FLORENCE_2: _files(
        FLORENCE_2,
        "florence-community/Florence-2-large",
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ),
}
"""The files of each captioning model that can be downloaded, by its name."""
